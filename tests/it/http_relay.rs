//! Plain claims over HTTP/2 are answered without the HTTP library: nobody must be able to tell, whatever they send.

use std::time::Duration;

use floodgate::http::express::frame::{self, ErrorCode};
use floodgate::http::express::hpack;
use tokio::io::AsyncWriteExt;

use super::http_hostile::rss_kib;
use super::support::app::{TestApp, coupons, until};
use super::support::frames::{
    Frames, PREFACE, Reply, WIDE, block, head as head_frames, hello, is_express, of, request, window,
};
use super::support::wire::H2Client;

const PING: u8 = 6;

/// What makes a claim the library's, and means nothing.
const ODD: (&str, &str) = ("te", "trailers");

fn path(id: i64) -> String {
    format!("/v1/templates/{id}/claims")
}

fn bearer(app: &TestApp, user: &str) -> String {
    format!("Bearer {}", app.token(user))
}

/// A claim, whole.
fn claim(stream: u32, id: i64, bearer: &str, more: &[(&str, &str)]) -> Vec<u8> {
    request(stream, "POST", &path(id), &[&[("authorization", bearer)], more].concat())
}

#[tokio::test]
async fn an_answer_does_not_depend_on_the_way() {
    let app = TestApp::start("relay-ways").await;
    let open = app.publish(coupons(10)).await;
    let gone = app.publish(coupons(1)).await;
    assert_eq!(app.claim(gone, "first", "k", &[]).await.status, 201);
    let (ann, ben) = (bearer(&app, "ann"), bearer(&app, "ben"));
    let long = "k".repeat(200);
    type Case<'a> = (&'a str, i64, &'a str, &'a [(&'a str, &'a str)], u16);
    let cases: [Case<'_>; 9] = [
        ("granted, then replayed", open, &ann, &[("idempotency-key", "k-\"1\\")], 200),
        ("sold out", gone, &ben, &[], 410),
        ("limit reached", open, &ann, &[("idempotency-key", "k2")], 409),
        ("no token", open, "Bearer x", &[], 401),
        ("no template", 999_999, &ann, &[], 404),
        ("a bad device", open, &ann, &[("x-device-id", "a b")], 400),
        ("an empty key", open, &ann, &[("idempotency-key", "")], 400),
        ("a long key", open, &ann, &[("idempotency-key", &long)], 400),
        ("a length of nothing", open, &ann, &[("idempotency-key", "k-\"1\\"), ("content-length", "0")], 200),
    ];
    let mut frames = Frames::open(app.gateway(0).address()).await;
    let mut stream = 1;
    for (name, id, bearer, more, status) in cases {
        let mut seen: Vec<Reply> = Vec::new();
        // Once for the claim that is granted; from then on both ways have the same to say.
        for odd in [&[][..], &[], &[ODD]] {
            let more = [&[("x-request-id", "r-1")], more, odd].concat();
            frames.send(&claim(stream, id, bearer, &more)).await;
            seen.push(frames.reply(stream).await);
            stream += 2;
        }
        let [_, express, library] = &seen[..] else { unreachable!() };
        assert_eq!((express.express, library.express), (true, false), "{name}");
        assert_eq!((&express.fields, &express.body), (&library.fields, &library.body), "{name}");
        assert_eq!(express.status(), status, "{name}: {express:?}");
    }
    drop(frames);
    app.stop().await;
}

/// Whatever is not a plain claim, by one thing each, is the library's, and means what it means there.
#[tokio::test]
async fn what_is_odd_goes_to_the_library() {
    let app = TestApp::start("relay-odd").await;
    let id = app.publish(coupons(100)).await;
    let (ann, ben) = (bearer(&app, "ann"), bearer(&app, "ben"));
    let head = |method: &str, path: &str, more: &[(&str, &str)]| {
        block(method, path, &[&[("authorization", ann.as_str())], more].concat())
    };
    let (claims, large) = (path(id), "x".repeat(20_000));
    let mut twice = head("POST", &claims, &[]);
    hpack::put_field(&mut twice, b":path", claims.as_bytes());
    let cases: [(&str, Vec<u8>, u16); 11] = [
        ("a method", head("GET", &claims, &[]), 405),
        ("a query", head("POST", &format!("{claims}?a=1"), &[]), 201),
        ("another path", head("POST", &format!("{claims}/"), &[]), 404),
        ("no number", head("POST", "/v1/templates/x/claims", &[]), 404),
        ("a head too large", head("POST", &claims, &[("x-large", &large)]), 431),
        ("many small fields", head("POST", &claims, &[("x-small", ""); 800]), 431),
        ("a key twice", head("POST", &claims, &[("idempotency-key", "a"), ("idempotency-key", "b")]), 400),
        ("a length", head("POST", &claims, &[("content-length", "5")]), 0),
        ("upper case", head("POST", &claims, &[("X-Channel", "app")]), 0),
        ("of a connection", head("POST", &claims, &[("connection", "close")]), 0),
        ("a path twice", twice, 0),
    ];
    for (name, block, status) in cases {
        let mut frames = Frames::open(app.gateway(0).address()).await;
        frames.send(&head_frames(1, true, &block)).await;
        // An error of the stream, or of the whole connection: the library's choice.
        let reply = loop {
            match frames.next().await {
                Some(came) if came.kind == frame::HEADERS => break Some(came),
                Some(came) if came.kind != frame::RST_STREAM => {}
                _ => break None,
            }
        };
        let told = reply.as_ref().and_then(|came| came.fields.iter().find(|(name, _)| name == ":status"));
        assert_eq!(told.map_or(0, |(_, value)| value.parse().unwrap()), status, "{name}");
        if let Some(came) = reply {
            assert!(!is_express(&came.payload), "{name}");
            frames.send(&claim(3, id, &ben, &[("idempotency-key", "k")])).await;
            let next = frames.reply(3).await;
            assert!(next.express && matches!(next.status(), 200 | 201), "{name}: {next:?}");
        }
    }
    let users: Vec<String> = app.rows(id).await.into_iter().map(|row| row.user).collect();
    assert!(users.iter().all(|user| user == "ben" || user == "ann") && users.len() == 2, "{users:?}");
    app.stop().await;
}

#[tokio::test]
async fn both_ways_share_a_connection_and_its_compression() {
    let app = TestApp::start("relay-mixed").await;
    let id = app.publish(coupons(1000)).await;
    let (claims, read) = (path(id), format!("/v1/templates/{id}"));
    // Each head but the last puts a field into the table, and the next ones take it from there, whoever answered.
    let head = |method: &str, path: &str, more: &[(u8, &str, &str)], known: &[u8]| {
        let mut block = block(method, path, &[]);
        for (first, name, value) in more {
            let at = block.len();
            hpack::put_field(&mut block, name.as_bytes(), value.as_bytes());
            block[at] = *first;
        }
        block.extend(known.iter().map(|index| 0x80 | index));
        block
    };
    const INTO_TABLE: u8 = 0x40;
    let (ann, odd) = ((INTO_TABLE, "authorization", bearer(&app, "ann")), (INTO_TABLE, "te", "trailers"));
    let ann = (ann.0, ann.1, ann.2.as_str());
    let heads = [
        (head("POST", &claims, &[ann], &[]), 201, true),
        (head("GET", &read, &[odd], &[63]), 200, false),
        (head("POST", &claims, &[(0, "idempotency-key", "k")], &[63]), 409, true),
        (head("POST", &claims, &[(INTO_TABLE, "x-channel", "app")], &[63, 64]), 409, false),
        (head("POST", &claims, &[], &[62, 64]), 409, true),
    ];
    let mut frames = Frames::open(app.gateway(0).address()).await;
    let streams: Vec<u32> = (0..heads.len() as u32).map(|number| 2 * number + 1).collect();
    for ((head, status, express), stream) in heads.iter().zip(&streams) {
        frames.send(&of(frame::HEADERS, frame::END_STREAM | frame::END_HEADERS, *stream, head)).await;
        let reply = frames.reply(*stream).await;
        assert_eq!((reply.status(), reply.express), (*status, *express), "stream {stream}: {reply:?}");
    }

    // A client of the library's, with everything under way at once.
    let h2 = H2Client::connect(app.gateway(0).address()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..300 {
        let (h2, claims, read, bearer) =
            (h2.clone(), claims.clone(), read.clone(), bearer(&app, &format!("u-{number}")));
        tasks.spawn(async move {
            let headers = [("authorization", bearer.as_str())];
            match number % 3 {
                0 => h2.send("GET", &read, &headers, "").await,
                1 => h2.send("POST", &claims, &headers, "{}").await,
                _ => h2.send("POST", &claims, &headers, "").await,
            }
            .unwrap()
        });
    }
    let answers = tasks.join_all().await;
    let mut serials: Vec<u64> = answers.iter().filter_map(|it| it.json["coupon"]["serial"].as_u64()).collect();
    serials.sort();
    assert_eq!(serials, (2..=201).collect::<Vec<u64>>(), "the first is ann's");
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 100);
    drop((frames, h2));
    app.stop().await;
}

/// Frames may be cut anywhere, heads may come in several, with padding and priority.
#[tokio::test]
async fn a_head_may_come_in_any_parts() {
    let app = TestApp::start("relay-parts").await;
    let id = app.publish(coupons(1000)).await;
    let read = format!("/v1/templates/{id}");
    let ann = bearer(&app, "ann");
    let whole = [
        hello(&[(frame::MAX_FRAME_SIZE, 1 << 20)]),
        window(0, WIDE),
        claim(1, id, &ann, &[("idempotency-key", "k")]),
        request(3, "GET", &read, &[("authorization", &ann)]),
        claim(5, id, &ann, &[("idempotency-key", "k")]),
    ]
    .concat();
    for cut in (1..whole.len()).step_by(13) {
        let mut frames = Frames::connect(app.gateway(0).address()).await;
        let (head, tail) = whole.split_at(cut);
        frames.send(head).await;
        tokio::task::yield_now().await;
        frames.send(tail).await;
        let replies = frames.replies(&[1, 3, 5]).await;
        let serials: Vec<_> = [0, 2].map(|at| replies[at].json()["coupon"]["serial"].as_u64()).into();
        assert_eq!(serials, [Some(1), Some(1)], "cut at {cut}: {replies:?}");
        assert_eq!(replies[1].status(), 200);
    }
    let mut frames = Frames::open(app.gateway(0).address()).await;
    for (at, more) in [(1, &[][..]), (3, &[ODD])] {
        let more = [&[("authorization", ann.as_str()), ("idempotency-key", "k")], more].concat();
        let block = block("POST", &path(id), &more);
        let (first, rest) = block.split_at(20);
        let (second, third) = rest.split_at(30);
        // Five octets of padding, then a priority: of stream 0, with weight 10.
        let padded = [&[5, 0, 0, 0, 0, 9], first, &[0; 5]].concat();
        let flags = frame::END_STREAM | frame::PADDED | frame::WITH_PRIORITY;
        let sent = [
            of(frame::HEADERS, flags, at, &padded),
            of(frame::CONTINUATION, 0, at, second),
            of(frame::CONTINUATION, frame::END_HEADERS, at, third),
        ];
        frames.send(&sent.concat()).await;
        let reply = frames.reply(at).await;
        assert_eq!((reply.status(), reply.express), (200, more.len() == 2), "{reply:?}");
    }
    drop(frames);
    app.stop().await;
}

/// A client says how much it takes. Whoever takes little is answered by the library, and nobody is sent more.
#[tokio::test]
async fn nobody_is_sent_more_than_they_take() {
    let app = TestApp::start("relay-windows").await;
    let id = app.publish(coupons(10_000)).await;
    let users: Vec<String> = (0..1200).map(|user| bearer(&app, &format!("u-{user}"))).collect();
    let read = format!("/v1/templates/{id}");
    // The protocol's default, and a wide connection of narrow streams.
    let mut frames = Frames::connect(app.gateway(0).address()).await;
    frames.send(&[hello(&[]), claim(1, id, &users[0], &[])].concat()).await;
    let reply = frames.reply(1).await;
    assert_eq!((reply.status(), reply.express), (201, false));
    let mut frames = Frames::connect(app.gateway(0).address()).await;
    let narrow = hello(&[(frame::INITIAL_WINDOW_SIZE, 100)]);
    frames.send(&[narrow, window(0, WIDE), claim(1, id, &users[1], &[])].concat()).await;
    // A ping behind it is answered when all has come that may.
    let mut taken = 0;
    while taken < 100 {
        frames.next().await.expect("what it takes");
        taken += frames.taken();
    }
    frames.send(&of(PING, 0, 0, &[0; 8])).await;
    while frames.next().await.expect("a pong").kind != PING {}
    assert_eq!(taken + frames.taken(), 100);
    frames.send(&window(1, 10_000)).await;
    loop {
        let came = frames.next().await.expect("the rest");
        if came.stream == 1 && came.flags & frame::END_STREAM != 0 {
            break;
        }
    }
    assert!(frames.taken() > 100);

    // A small window that grows by what was taken, when half of it is: claims and reads get on with it.
    let allowed = 65_535 + 60_000;
    let mut frames = Frames::connect(app.gateway(0).address()).await;
    frames.send(&[hello(&[]), window(0, 60_000)].concat()).await;
    let (mut sent, mut left, mut express, mut open) = (2, users.len() - 2, 0, 0);
    let mut owed = 0;
    while left > 0 {
        while sent < users.len() && open < 60 {
            let stream = 2 * sent as u32 + 1;
            let bytes = match sent % 3 {
                0 => request(stream, "GET", &read, &[("authorization", &users[sent])]),
                _ => claim(stream, id, &users[sent], &[]),
            };
            frames.send(&bytes).await;
            (sent, open) = (sent + 1, open + 1);
        }
        let came = frames.next().await.expect("the server goes on");
        if came.kind == frame::HEADERS {
            express += usize::from(is_express(&came.payload));
        }
        if matches!(came.kind, frame::DATA | frame::HEADERS) && came.flags & frame::END_STREAM != 0 {
            (left, open) = (left - 1, open - 1);
        }
        owed += frames.taken();
        assert!(owed <= allowed, "{owed} octets were sent");
        if owed > allowed / 2 {
            frames.send(&window(0, owed)).await;
            owed = 0;
        }
    }
    assert!(express > 100, "{express} of {sent} were answered without the library");
    drop(frames);
    app.stop().await;
}

#[tokio::test]
async fn a_claim_whose_stream_is_reset_goes_on_without_an_answer() {
    let app = TestApp::start("relay-reset").await;
    let id = app.publish(coupons(100)).await;
    let mut frames = Frames::open(app.gateway(0).address()).await;
    let (ann, ben) = (bearer(&app, "ann"), bearer(&app, "ben"));
    // Redis holds the claim back until its stream is gone.
    app.redis(&["CLIENT", "PAUSE", "400", "ALL"]).await;
    frames.send(&claim(1, id, &ann, &[("idempotency-key", "k")])).await;
    frames.send(&of(frame::RST_STREAM, 0, 1, &8u32.to_be_bytes())).await;
    // What is late on a stream that has ended means nothing.
    frames.send(&[window(1, 5), of(frame::RST_STREAM, 0, 1, &8u32.to_be_bytes())].concat()).await;
    frames.send(&claim(3, id, &ben, &[])).await;
    loop {
        let came = frames.next().await.expect("the connection goes on");
        assert_ne!(came.stream, 1, "{came:?}");
        if came.stream == 3 && came.flags & frame::END_STREAM != 0 {
            break;
        }
    }
    until("the claim was granted", async || app.claim(id, "ann", "k", &[]).await.status == 200).await;
    drop(frames);
    app.stop().await;
}

/// A shop whose connection has had one answer, with a claim of ben's on stream 3 that Redis holds back for a moment.
async fn held_back(name: &str) -> (TestApp, i64, Frames) {
    let app = TestApp::start(name).await;
    let id = app.publish(coupons(100)).await;
    let mut frames = Frames::open(app.gateway(0).address()).await;
    frames.send(&claim(1, id, &bearer(&app, "ann"), &[])).await;
    assert_eq!(frames.reply(1).await.status(), 201);
    app.redis(&["CLIENT", "PAUSE", "600", "ALL"]).await;
    frames.send(&claim(3, id, &bearer(&app, "ben"), &[])).await;
    (app, id, frames)
}

/// Who is told goodbye knows by it that their claim was taken, and gets its answer.
#[tokio::test]
async fn a_drain_answers_the_claims_that_were_taken() {
    let (mut app, _, mut frames) = held_back("relay-drain").await;
    frames.send(&of(PING, 0, 0, &[7; 8])).await;
    // Once the ping is answered the claim was read.
    while frames.next().await.expect("a pong").kind != PING {}
    app.signal(0, libc::SIGTERM);
    let (mut answered, mut last) = (false, None);
    while let Some(came) = frames.next().await {
        match came.kind {
            PING if came.flags == 0 => frames.send(&of(PING, 1, 0, &came.payload)).await,
            frame::HEADERS => {
                assert!(came.stream == 3 && came.fields.contains(&(":status".into(), "201".into())), "{came:?}");
                answered = true;
            }
            frame::GOAWAY => last = Some(u32::from_be_bytes(came.payload[..4].try_into().unwrap())),
            _ => {}
        }
    }
    assert!(answered, "the claim was answered before the end");
    assert_eq!(last, Some(3), "the claim was taken, and so was told");
    app.died(0).await;
    app.restart(0).await;
    drop(frames);
    app.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_its_end_is_answered() {
    let app = TestApp::start("relay-close").await;
    let id = app.publish(coupons(100)).await;
    let mut frames = Frames::open(app.gateway(0).address()).await;
    app.redis(&["CLIENT", "PAUSE", "300", "ALL"]).await;
    frames.send(&claim(1, id, &bearer(&app, "ann"), &[])).await;
    frames.shutdown().await;
    assert_eq!(frames.reply(1).await.status(), 201);
    tokio::time::timeout(Duration::from_secs(10), async { while frames.next().await.is_some() {} }).await.unwrap();
    drop(frames);
    app.stop().await;
}

/// What is no HTTP/2 ends the connection with the word that the protocol has for it.
#[tokio::test]
async fn what_is_no_http2_is_told_so() {
    let app = TestApp::start("relay-wrong").await;
    let id = app.publish(coupons(100)).await;
    let ann = bearer(&app, "ann");
    let plain = || claim(1, id, &ann, &[("idempotency-key", "k")]);
    let open = || of(frame::HEADERS, frame::END_STREAM, 1, &block("POST", &path(id), &[]));
    let more = |count: usize, length: usize| of(frame::CONTINUATION, 0, 1, &vec![0x80; length]).repeat(count);
    let huge = [0, 0x80, 0, frame::DATA, 0, 0, 0, 0, 1].to_vec();
    let cases: [(&str, Vec<u8>, ErrorCode); 12] = [
        ("no compression", of(frame::HEADERS, 5, 1, &[0x80]), ErrorCode::Compression),
        ("another head in a head", [open(), plain()].concat(), ErrorCode::Protocol),
        ("a ping in a head", [open(), of(PING, 0, 0, &[0; 8])].concat(), ErrorCode::Protocol),
        ("the end of another head", [open(), of(frame::CONTINUATION, 4, 3, &[])].concat(), ErrorCode::Protocol),
        ("the end of no head", of(frame::CONTINUATION, 4, 1, &[]), ErrorCode::Protocol),
        ("more padding than frame", of(frame::HEADERS, 0xd, 1, &[9, 0]), ErrorCode::Protocol),
        ("a stream of the server's", claim(2, id, &ann, &[]), ErrorCode::Protocol),
        ("a claim's stream again", [plain(), plain()].concat(), ErrorCode::StreamClosed),
        ("a head without end", [open(), more(100, 1)].concat(), ErrorCode::EnhanceYourCalm),
        ("a head too long", [open(), more(3, 16_000)].concat(), ErrorCode::EnhanceYourCalm),
        ("a frame too long", huge, ErrorCode::FrameSize),
        ("a window too wide", window(0, u32::MAX >> 1), ErrorCode::FlowControl),
    ];
    for (name, bytes, code) in cases {
        let mut frames = Frames::open(app.gateway(0).address()).await;
        frames.send(&bytes).await;
        let (_, why) = frames.goodbye().await.unwrap_or_else(|| panic!("{name}: closed without a word"));
        assert_eq!(why, code as u32, "{name}");
        while frames.next().await.is_some() {}
    }
    // DATA behind a claim's end: the library's word for it.
    let mut frames = Frames::open(app.gateway(0).address()).await;
    frames.send(&[claim(1, id, &bearer(&app, "ben"), &[]), of(frame::DATA, 1, 1, b"{}")].concat()).await;
    assert!(frames.goodbye().await.is_some());
    assert_eq!(app.claim(id, "carl", "k", &[]).await.status, 201, "and others are served");
    drop(frames);
    app.stop().await;
}

/// Answers use no table of the compression, and the first of them says so: then it does not matter what a client says of
/// its table, and when.
#[tokio::test]
async fn answers_use_no_table_whatever_the_client_has() {
    let app = TestApp::start("relay-table").await;
    let id = app.publish(coupons(100)).await;
    let is_update = |reply: &Reply| reply.first == 0x20;
    let table = |size: u32| of(frame::SETTINGS, 0, 0, &[&[0, 1][..], &size.to_be_bytes()].concat());
    for size in [None, Some(0), Some(1024), Some(4096), Some(65_536)] {
        let mut frames = Frames::connect(app.gateway(0).address()).await;
        let user = bearer(&app, &format!("u-{size:?}"));
        let settings: Vec<_> = size.iter().map(|size| (frame::HEADER_TABLE_SIZE, *size)).collect();
        frames.send(&[hello(&settings), window(0, WIDE), claim(1, id, &user, &[])].concat()).await;
        let reply = frames.reply(1).await;
        assert_eq!((reply.status(), reply.express), (201, true), "a table of {size:?}: {reply:?}");
        assert!(is_update(&reply), "a table of {size:?}");
        // The library says it for itself; later changes need no word of either.
        for (stream, odd, express) in [(3, &[ODD][..], false), (5, &[], true), (7, &[ODD], false), (9, &[], true)] {
            let change = table(if stream < 7 { 0 } else { 4096 });
            frames.send(&[change, claim(stream, id, &user, odd)].concat()).await;
            let reply = frames.reply(stream).await;
            assert_eq!((reply.status(), reply.express), (409, express), "a table of {size:?}: {reply:?}");
            assert_eq!(is_update(&reply), stream == 3, "a table of {size:?}, stream {stream}");
        }
    }
    // And who does not say what a client says first is told by the library.
    let mut frames = Frames::connect(app.gateway(0).address()).await;
    let wrong = [b"PRI ", &[b'x'; PREFACE.len() - 4][..], &of(frame::SETTINGS, 0, 0, &[]), &window(0, WIDE)].concat();
    frames.send(&[wrong, claim(1, id, &bearer(&app, "ann"), &[])].concat()).await;
    while let Some(came) = frames.next().await {
        assert_ne!(came.kind, frame::HEADERS);
    }
    assert_eq!(app.rows(id).await.iter().filter(|row| row.user == "ann").count(), 0);
    app.stop().await;
}

/// Beyond what a connection may have under way of claims, the library has the same again, and refuses the rest.
#[tokio::test]
async fn a_connection_has_so_many_claims_under_way_and_no_more() {
    let app = TestApp::plan("relay-many").set("HTTP_H2_STREAMS_MAX", 4).start().await;
    let id = app.publish(coupons(100)).await;
    let mut frames = Frames::open(app.gateway(0).address()).await;
    frames.send(&claim(1, id, &bearer(&app, "ann"), &[])).await;
    assert_eq!(frames.reply(1).await.status(), 201);
    app.redis(&["CLIENT", "PAUSE", "250", "ALL"]).await;
    let streams: Vec<u32> = (1..=10).map(|number| 2 * number + 1).collect();
    let sent: Vec<u8> =
        streams.iter().flat_map(|stream| claim(*stream, id, &bearer(&app, &format!("u-{stream}")), &[])).collect();
    frames.send(&sent).await;
    let replies = frames.replies(&streams).await;
    let count = |is: &dyn Fn(&Reply) -> bool| replies.iter().filter(|reply| is(reply)).count();
    assert_eq!(count(&|reply| reply.status() == 201 && reply.express), 4, "{replies:?}");
    assert_eq!(count(&|reply| reply.status() == 201 && !reply.express), 4, "{replies:?}");
    assert_eq!(count(&|reply| reply.reset == Some(7)), 2, "REFUSED_STREAM: {replies:?}");
    drop(frames);
    app.stop().await;
}

/// Who sends and does not read makes nothing grow, and finds everything when they read.
#[tokio::test]
async fn a_client_that_reads_late_makes_nothing_grow() {
    let app = TestApp::start("relay-late").await;
    let id = app.publish(coupons(1)).await;
    assert_eq!(app.claim(id, "first", "k", &[]).await.status, 201);
    // From here on every claim is refused by memory alone, and none is under way.
    assert_eq!(app.claim(id, "second", "k", &[]).await.status, 410);
    let (ann, claims) = (bearer(&app, "ann"), 60_000);
    let frames = Frames::open(app.gateway(0).address()).await;
    let before = rss_kib(app.pid(0));
    let sent: Vec<u8> = (0..claims).flat_map(|number| claim(2 * number + 1, id, &ann, &[])).collect();
    let (mut reader, mut sender) = frames.split();
    let sending = tokio::spawn(async move { sender.write_all(&sent).await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!sending.is_finished(), "the server does not read on");
    let grown = rss_kib(app.pid(0)).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    let mut left = claims;
    while left > 0 {
        let came = reader.next().await.unwrap_or_else(|| panic!("{left} answers are missing"));
        assert_ne!(came.kind, frame::GOAWAY, "{came:?}");
        left -= u32::from(came.kind == frame::DATA);
    }
    sending.await.unwrap().unwrap();
    drop(reader);

    // A head of a few octets may stand for 16 KiB: what the table holds, named again and again.
    let mut into_table = block("GET", "/a", &[]);
    let at = into_table.len();
    hpack::put_field(&mut into_table, b"x", &[b'y'; 4000]);
    into_table[at] = 0x40;
    let again = [block("GET", "/a", &[]), vec![0x80 | 62; 3]].concat();
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut frames = Frames::open(app.gateway(0).address()).await;
        let mut sent = of(frame::HEADERS, 5, 1, &into_table);
        (1..3000).for_each(|number| sent.extend(of(frame::HEADERS, 5, 2 * number + 1, &again)));
        frames.send_some(&sent).await;
        connections.push(frames);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let grown = rss_kib(app.pid(0)).saturating_sub(before);
    assert!(grown < 48 * 1024, "{grown} KiB for {} connections", connections.len());
    drop(connections);
    // On a machine with much else to do it says 503 first: 60,000 heads are a second's work for a debug build.
    until("others are served", async || app.claim(id, "ben", "k", &[]).await.status == 410).await;
    app.stop().await;
}

/// The library's streams live beside the claims in all their forms: bodies that nobody reads, trailers.
#[tokio::test]
async fn the_librarys_streams_live_beside_claims() {
    let app = TestApp::start("relay-streams").await;
    let id = app.publish(coupons(300)).await;
    let mut frames = Frames::open(app.gateway(0).address()).await;
    let claims = path(id);
    for number in 0..100 {
        let user = bearer(&app, &format!("u-{number}"));
        let (early, with_trailers, plain) = (6 * number + 1, 6 * number + 3, 6 * number + 5);
        // Refused by its length while its body is on its way, which then never ends.
        let too_long = block("POST", &claims, &[("authorization", &user), ("content-length", "100000")]);
        let begun = [of(frame::HEADERS, frame::END_HEADERS, early, &too_long), of(frame::DATA, 0, early, &[b' '; 100])];
        frames.send(&begun.concat()).await;
        let parts = [
            of(frame::HEADERS, frame::END_HEADERS, with_trailers, &block("POST", &claims, &[("authorization", &user)])),
            of(frame::DATA, 0, with_trailers, b"{}"),
            head_frames(with_trailers, true, &{
                let mut trailers = Vec::new();
                hpack::put_field(&mut trailers, b"x-checksum", b"1");
                trailers
            }),
        ];
        frames.send(&parts.concat()).await;
        assert_eq!(frames.reply(with_trailers).await.status(), 201, "turn {number}");
        frames.send(&claim(plain, id, &user, &[("idempotency-key", "other")])).await;
        let reply = frames.reply(plain).await;
        assert_eq!((reply.status(), reply.express), (409, true), "turn {number}");
    }
    drop(frames);
    app.stop().await;
}

/// What is sent when the goodbye is half said belongs to the library, which has said where it ends.
#[tokio::test]
async fn what_comes_during_a_goodbye_is_answered_or_was_not_taken() {
    let (mut app, id, mut frames) = held_back("relay-goodbye").await;
    let ann = bearer(&app, "ann");
    app.signal(0, libc::SIGTERM);
    let ping = loop {
        let came = frames.next().await.expect("a goodbye");
        if came.kind == PING && came.flags == 0 {
            break came.payload;
        }
    };
    let late = [
        of(PING, 1, 0, &ping),
        request(5, "GET", &format!("/v1/templates/{id}"), &[("authorization", &ann)]),
        claim(7, id, &bearer(&app, "carl"), &[]),
    ];
    frames.send(&late.concat()).await;
    let (mut answered, mut last) = (Vec::new(), 0);
    while let Some(came) = frames.next().await {
        match came.kind {
            frame::HEADERS => answered.push(came.stream),
            frame::GOAWAY => last = u32::from_be_bytes(came.payload[..4].try_into().unwrap()),
            _ => {}
        }
    }
    answered.sort();
    let taken: Vec<u32> = [3, 5, 7].into_iter().filter(|stream| *stream <= last).collect();
    assert_eq!(answered, taken, "the last stream was {last}");
    app.died(0).await;
    app.restart(0).await;
    let carl = app.rows(id).await.iter().filter(|row| row.user == "carl").count();
    assert_eq!(carl == 1, last >= 7, "who was not taken has no coupon");
    app.stop().await;
}

/// Silence in the middle of anything ends the connection in time.
#[tokio::test]
async fn who_stalls_is_cut_off() {
    let plan = TestApp::plan("relay-stalls").set("HTTP_IDLE_TIMEOUT_MS", 1000).set("HTTP_HEADER_TIMEOUT_MS", 1000);
    let app = plan.start().await;
    let id = app.publish(coupons(100)).await;
    let ann = bearer(&app, "ann");
    let open = || [hello(&[]), window(0, WIDE)].concat();
    let whole = claim(1, id, &ann, &[]);
    let stalls: [(&str, Vec<u8>); 5] = [
        ("half a preface", PREFACE[..10].to_vec()),
        ("nothing behind the preface", open()),
        ("half a frame", [&open()[..], &whole[..whole.len() / 2]].concat()),
        ("a head without end", [open(), of(frame::HEADERS, 1, 1, &block("POST", &path(id), &[]))].concat()),
        ("an answer, then silence", [open(), whole.clone()].concat()),
    ];
    for (name, bytes) in stalls {
        let mut frames = Frames::connect(app.gateway(0).address()).await;
        frames.send(&bytes).await;
        let ended = async { while frames.next().await.is_some() {} };
        assert!(tokio::time::timeout(Duration::from_secs(8), ended).await.is_ok(), "{name}: still open");
    }
    app.stop().await;
}
