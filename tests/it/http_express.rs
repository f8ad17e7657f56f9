//! Plain claims over HTTP/1.1 are answered without the HTTP library: nobody must be able to tell.

use std::time::Duration;

use serde_json::json;

use super::support::app::{TestApp, coupons};
use super::support::wire::{raw, raw_parts, statuses};

const PATIENCE: Duration = Duration::from_secs(10);

/// What makes a request the library's, and means nothing.
const ODD: &str = "TE: trailers\r\n";

/// One claim as bytes. `more`: further header lines.
fn claim(id: i64, token: &str, more: &str) -> String {
    format!("POST /v1/templates/{id}/claims HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\n{more}\r\n")
}

/// A request after which the server closes.
const LAST: &str = "GET /nowhere HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";

/// Answers as text, in the order of their arrival, without `Date`: the lines of each head sorted.
fn answers(bytes: &[u8]) -> Vec<(Vec<String>, String)> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let (mut rest, mut all) = (text.as_str(), Vec::new());
    while !rest.is_empty() {
        let (head, tail) = rest.split_once("\r\n\r\n").expect("a whole head");
        let mut lines: Vec<String> = head.split("\r\n").map(str::to_owned).collect();
        assert_eq!(lines.iter().filter(|line| line.starts_with("date: ")).count(), 1, "{head}");
        lines.retain(|line| !line.starts_with("date: "));
        let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        lines.sort();
        all.push((lines, tail[..length].to_owned()));
        rest = &tail[length..];
    }
    all
}

#[tokio::test]
async fn an_answer_does_not_depend_on_the_way() {
    let app = TestApp::start("express-ways").await;
    let open = app.publish(coupons(10)).await;
    let mut one = coupons(1);
    one["limits"] = json!({"per_user": 1});
    let gone = app.publish(one).await;
    assert_eq!(app.claim(gone, "first", "k", &[]).await.status, 201);
    let address = app.gateway(0).address().to_owned();
    let (ann, ben) = (app.token("ann"), app.token("ben"));
    let cases = [
        ("granted, then replayed", claim(open, &ann, "Idempotency-Key: k-\"1\\\r\nX-Request-Id: r-1\r\n"), 200),
        ("sold out", claim(gone, &ben, "X-Request-Id: r-2\r\n"), 410),
        ("limit reached", claim(gone, &app.token("first"), "X-Request-Id: r-3\r\nIdempotency-Key: k2\r\n"), 0),
        ("no token", claim(open, "x", "X-Request-Id: r-4\r\n"), 401),
        ("no template", claim(999_999, &ann, "X-Request-Id: r-5\r\n"), 404),
        ("a bad device", claim(open, &ann, "X-Request-Id: r-6\r\nX-Device-Id: a b\r\n"), 400),
        ("a bad key", claim(open, &ann, "X-Request-Id: r-7\r\nIdempotency-Key: \r\n"), 400),
    ];
    for (name, plain, status) in cases {
        // Once for the claim that is granted; from then on both ways have the same to say.
        raw(&address, format!("{plain}{LAST}").as_bytes(), PATIENCE).await.expect(name);
        let odd = plain.replace("Host: shop\r\n", &format!("Host: shop\r\n{ODD}"));
        let mut seen = Vec::new();
        for request in [&plain, &odd] {
            // Alone in its packet, as clients send it.
            let parts = [request.as_bytes(), LAST.as_bytes()];
            let answer = paced(&address, &parts).await;
            seen.push(answers(&answer)[0].clone());
        }
        assert_eq!(seen[0], seen[1], "{name}");
        assert!(status == 0 || seen[0].0[0].starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {:?}", seen[0]);
    }
    app.stop().await;
}

/// Sends each part when the answer to the one before has come.
async fn paced(address: &str, parts: &[&[u8]]) -> Vec<u8> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        stream.write_all(part).await.unwrap();
        while statuses(&answer).len() <= number || !answer.ends_with(b"}") {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("an answer in time");
            if read.unwrap() == 0 {
                break;
            }
        }
    }
    answer
}

#[tokio::test]
async fn both_ways_share_a_connection_in_any_order() {
    let app = TestApp::start("express-mixed").await;
    let id = app.publish(coupons(1000)).await;
    let address = app.gateway(0).address().to_owned();
    let token = |user: usize| app.token(&format!("u-{user}"));
    let plain = |user| claim(id, &token(user), "");
    let with_body = |user| {
        let head = claim(id, &token(user), "Content-Length: 2\r\n");
        format!("{head}{{}}")
    };
    let read =
        || format!("GET /v1/templates/{id} HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {}\r\n\r\n", token(0));
    let requests = [plain(1), read(), plain(2), with_body(3), plain(4), plain(5), read(), with_body(6), plain(7)];
    let expected = [201, 200, 201, 201, 201, 201, 200, 201, 201, 404];

    let one_by_one: Vec<&[u8]> = requests.iter().map(String::as_bytes).chain([LAST.as_bytes()]).collect();
    assert_eq!(statuses(&paced(&address, &one_by_one).await), expected);
    // Again, by others, all at once: answers come in the order of their requests.
    let all = requests.concat().replace(&token(1), &token(11)) + LAST;
    let answer = raw(&address, all.as_bytes(), PATIENCE).await.unwrap();
    assert_eq!(statuses(&answer)[..2], [201, 200]);
    assert_eq!(statuses(&answer).len(), expected.len());
    // And cut wherever a packet may end.
    let request = plain(20) + LAST;
    for cut in [1, 4, 30, request.len() - LAST.len() - 1, request.len() - LAST.len(), request.len() - 1] {
        let (head, tail) = request.as_bytes().split_at(cut);
        let answer = raw_parts(&address, &[head, tail], PATIENCE).await.unwrap();
        let status = statuses(&answer);
        assert!(matches!(status[..], [201 | 409, 404]), "cut at {cut}: {status:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_its_end_is_answered_and_the_connection_ends() {
    let app = TestApp::start("express-close").await;
    let id = app.publish(coupons(10)).await;
    let address = app.gateway(0).address().to_owned();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    stream.write_all(claim(id, &app.token("ann"), "").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends").unwrap();
    assert_eq!(statuses(&answer), [201]);
    app.stop().await;
}
