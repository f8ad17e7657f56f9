//! Malformed, oversized, slow and hostile HTTP on both listeners: each a clear error or a closed
//! connection, never a fault of the server, never a wait without an end.

mod malformed;

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use malformed::malformed;

use super::support::app::{Plan, TestApp, coupons, until};
use super::support::wire::{Answer, H2Client, raw, raw_parts, statuses};

/// Time-outs that a test can wait for.
fn short(name: &str) -> Plan {
    TestApp::plan(name)
        .set("HTTP_HEADER_TIMEOUT_MS", 1000)
        .set("HTTP_BODY_TIMEOUT_MS", 1000)
        .set("HTTP_IDLE_TIMEOUT_MS", 2000)
}

/// Longer than every time-out of [`short`], the sweep's second, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(12);

struct Hostile {
    app: TestApp,
    template: i64,
    turn: u32,
}

// === impl Hostile ===

impl Hostile {
    async fn new(plan: Plan) -> Hostile {
        let app = plan.start().await;
        let template = app.publish(coupons(1_000_000)).await;
        Hostile { app, template, turn: 0 }
    }

    fn both(&self) -> [String; 2] {
        let gateway = self.app.gateway(0);
        [gateway.address().to_owned(), gateway.internal_address().to_owned()]
    }

    /// The bytes with path and head filled in.
    fn fill(&self, bytes: &[u8]) -> Vec<u8> {
        self.fill_for("u-hostile", bytes)
    }

    fn fill_for(&self, user: &str, bytes: &[u8]) -> Vec<u8> {
        let path = format!("/v1/templates/{}/claims", self.template);
        let head = format!("host: a\r\nauthorization: Bearer {}\r\n", self.app.token(user));
        let mut filled = Vec::with_capacity(bytes.len() + 1024);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, skip): (&[u8], usize) = match rest {
                [b'{', b'T', b'}', ..] => (path.as_bytes(), 3),
                [b'{', b'A', b'}', ..] => (head.as_bytes(), 3),
                _ => (&rest[..1], 1),
            };
            filled.extend_from_slice(piece);
            rest = &rest[skip..];
        }
        filled
    }

    /// A good claim is answered at once.
    async fn serves(&mut self) {
        self.turn += 1;
        let user = format!("u-good-{}", self.turn);
        let begun = Instant::now();
        let answer = self.app.claim(self.template, &user, "k", &[]).await;
        assert_eq!(answer.code(), "granted", "{answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "a claim took {:?}", begun.elapsed());
        assert_eq!(self.app.gateway(0).readyz().await, Some(200));
    }

    async fn end(self) {
        let failed =
            self.app.gateway(0).metric("floodgate_http_requests_total{listener=\"public\",class=\"5xx\"").await;
        assert_eq!(failed, Some(0.0), "a fault of the server");
        self.app.stop().await;
    }
}

#[tokio::test]
async fn what_is_malformed_is_refused_or_cut_off() {
    let mut hostile = Hostile::new(short("hostile-malformed")).await;
    let mut tasks = JoinSet::new();
    for (name, bytes) in malformed() {
        // A row would name the case.
        let bytes = hostile.fill_for(&name.replace(' ', "-"), &bytes);
        for address in hostile.both() {
            let bytes = bytes.clone();
            tasks.spawn(async move {
                let whole = raw(&address, &bytes, PATIENCE).await;
                let cut = bytes.len() / 2;
                let parts = raw_parts(&address, &[&bytes[..cut], &bytes[cut..]], PATIENCE).await;
                for answer in [whole, parts] {
                    let answer = answer.unwrap_or_else(|| panic!("{name}: neither answered nor closed"));
                    for status in statuses(&answer) {
                        assert!((400..500).contains(&status), "{name}: {}", String::from_utf8_lossy(&answer));
                    }
                }
            });
        }
        if tasks.len() >= 16 {
            tasks.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(hostile.app.rows(hostile.template).await, [], "something was claimed");
    hostile.serves().await;
    hostile.end().await;
}

#[tokio::test]
async fn what_is_odd_but_well_formed_is_answered() {
    let mut hostile = Hostile::new(short("hostile-odd")).await;
    let cases: [(&str, &str, &[u16]); 12] = [
        ("absolute form", "GET http://elsewhere/livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", &[404]),
        ("HTTP/1.0 without Host", "GET /v1/claim-center HTTP/1.0\r\n\r\n", &[401]),
        ("HEAD", "HEAD /v1/claim-center HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", &[401]),
        ("OPTIONS of everything", "OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", &[404]),
        ("OPTIONS", "OPTIONS {T} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", &[405]),
        ("a dotted path", "GET /v1/../livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", &[404]),
        ("an unknown method", "BREW /v1/claim-center HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", &[405]),
        (
            "pipelined",
            "GET /a HTTP/1.1\r\nhost: a\r\n\r\nPOST {T} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}\
             GET /c HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            &[404, 401, 404],
        ),
        (
            "a good request, then a bare LF",
            "GET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\nhost: a\r\n\r\nGET /c HTTP/1.1\r\nhost: a\r\n\r\n",
            &[],
        ),
        // An answer does not wait for the next request, nor is it lost when the connection ends.
        ("half a request behind it", "GET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b HT", &[404]),
        ("a line behind it", "GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n\r\n", &[404]),
        (
            "a chunked body, and more behind it",
            "POST {T} HTTP/1.1\r\n{A}transfer-encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\nGET /c HTTP/1.1\r\nhost: a\r\n\r\n",
            &[400],
        ),
    ];
    let address = hostile.app.gateway(0).address().to_owned();
    for (name, text, expected) in cases {
        let bytes = hostile.fill(text.as_bytes());
        let answer = raw(&address, &bytes, PATIENCE).await.unwrap_or_else(|| panic!("{name}: no answer"));
        let text = String::from_utf8_lossy(&answer).into_owned();
        match expected {
            // What was good may be answered before the rest is refused; nothing behind it is.
            [] => assert!(matches!(statuses(&answer)[..], [] | [404] | [404, 400]), "{name}: {text}"),
            _ => assert_eq!(statuses(&answer), expected, "{name}: {text}"),
        }
        if name == "HEAD" {
            assert!(text.ends_with("\r\n\r\n"), "an answer to HEAD has no body: {text}");
        }
    }
    // Bodies of the internal listener, with a key.
    let key = format!("authorization: Bearer {}", hostile.app.admin_key());
    let huge = "9".repeat(300_000);
    let wrong: [(&str, String); 6] = [
        ("deep", "[".repeat(100_000)),
        ("deeper", "{\"a\":".repeat(40_000)),
        ("huge", format!("{{\"name\":\"{huge}\"}}")),
        ("a huge number", format!("{{\"stock\":{{\"total\":{}}}}}", &huge[..200_000])),
        ("an exponent", "{\"stock\":{\"total\":1e999999999}}".into()),
        ("lone surrogates", "{\"name\":\"\\ud800\"}".into()),
    ];
    for (name, body) in wrong {
        let length = body.len();
        let text = format!(
            "POST /v1/admin/templates HTTP/1.1\r\nhost: a\r\n{key}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let answer = raw(&hostile.both()[1], text.as_bytes(), PATIENCE).await.expect(name);
        let status = statuses(&answer);
        assert!(matches!(status[..], [400] | [413]), "{name}: {}", String::from_utf8_lossy(&answer));
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("application/problem+json"), "{name}: {text}");
    }
    let mut bytes = format!(
        "POST /v1/admin/templates HTTP/1.1\r\nhost: a\r\n{key}\r\nconnection: close\r\ncontent-length: 4\r\n\r\n"
    )
    .into_bytes();
    bytes.extend(b"\"\xff\xfe\"");
    let answer = raw(&hostile.both()[1], &bytes, PATIENCE).await.unwrap();
    assert_eq!(statuses(&answer), [400], "bad UTF-8");
    hostile.serves().await;
    hostile.end().await;
}

#[tokio::test]
async fn who_stalls_is_cut_off_in_time() {
    let mut hostile = Hostile::new(short("hostile-slow")).await;
    let head = hostile.fill(b"POST {T} HTTP/1.1\r\n{A}content-length: 10\r\n\r\n");
    let stalls: [(&str, Vec<u8>); 6] = [
        ("nothing at all", Vec::new()),
        ("one letter", b"P".to_vec()),
        ("half a request line", b"POST /v1/te".to_vec()),
        ("half a head", b"POST / HTTP/1.1\r\nhost: a\r\nx: ".to_vec()),
        ("half a body", [&head[..], b"{"].concat()),
        ("an idle connection", hostile.fill(b"GET /a HTTP/1.1\r\n{A}\r\n")),
    ];
    let mut tasks = JoinSet::new();
    for address in hostile.both() {
        for (name, bytes) in stalls.clone() {
            let address = address.clone();
            tasks.spawn(async move {
                let begun = Instant::now();
                let mut stream = TcpStream::connect(&address).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
                let mut answer = Vec::new();
                let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
                assert!(end.is_ok(), "{name} at {address}: still open");
                let (told, took) = (statuses(&answer), begun.elapsed());
                // The internal listener has no claims, and says so at once.
                assert!(took > Duration::from_millis(700) || told == [404], "{name}: cut off after {took:?}");
                let expected: &[&[u16]] = match name {
                    "half a body" => &[&[408], &[404], &[405]],
                    "an idle connection" => &[&[404], &[401]],
                    _ => &[&[], &[408]],
                };
                assert!(expected.contains(&&told[..]), "{name}: {}", String::from_utf8_lossy(&answer));
            });
        }
        // One byte now and then is no progress.
        tasks.spawn(async move {
            let begun = Instant::now();
            let mut stream = TcpStream::connect(&address).await.unwrap();
            let mut buffer = [0; 64];
            stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
            loop {
                assert!(begun.elapsed() < PATIENCE, "a dripping head is still open");
                let read = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut buffer)).await;
                if matches!(read, Ok(Ok(0) | Err(_))) || stream.write_all(b"y").await.is_err() {
                    return;
                }
            }
        });
    }
    // Who takes no answers: pipelined requests until the server stops reading, then silence.
    let (address, request) = (hostile.both()[1].clone(), b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n".repeat(50));
    tasks.spawn(async move {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let wrote = tokio::time::timeout(Duration::from_millis(200), stream.write_all(&request)).await;
            if matches!(wrote, Ok(Err(_))) {
                return;
            }
        }
        panic!("who reads nothing is still served");
    });
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    until("no connection is left", async || {
        let open = |door: &str| format!("floodgate_connections{{listener=\"{door}\"");
        let gateway = hostile.app.gateway(0);
        gateway.metric(&open("public")).await == Some(0.0) && gateway.metric(&open("internal")).await <= Some(1.0)
    })
    .await;
    hostile.serves().await;
    hostile.end().await;
}

#[tokio::test]
async fn http2_is_bounded_too() {
    let mut hostile = Hostile::new(short("hostile-h2")).await;
    let address = hostile.app.gateway(0).address().to_owned();
    // Heads beyond the bound are refused.
    for (count, length) in [(1, 100_000), (2000, 10)] {
        let h2 = H2Client::connect(&address).await.unwrap();
        let names: Vec<String> = (0..count).map(|number| format!("x-{number}")).collect();
        let value = "y".repeat(length);
        let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
        match h2.send("GET", "/v1/claim-center", &headers, "").await {
            Ok(Answer { status, .. }) => assert!((400..500).contains(&status), "{status}"),
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::TimedOut),
        }
    }
    // Streams opened and reset at once, thousands of them: the connection goes, the server stays.
    let mut reset = Vec::new();
    reset.extend(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    };
    reset.extend(frame(4, 0, 0, &[]));
    let head = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    for stream in (1..40_000).step_by(2) {
        reset.extend(frame(1, 0x5, stream, &head));
        reset.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
    }
    assert!(raw(&address, &reset, PATIENCE).await.is_some());
    hostile.serves().await;
    // CONTINUATION without an end, pings and settings without number, data without a stream.
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    let floods: [(&str, Vec<u8>); 5] = [
        ("continuations", [frame(1, 0, 1, &head), frame(9, 0, 1, &[0x40, 1, b'x', 1, b'y']).repeat(200_000)].concat()),
        ("pings", frame(6, 0, 0, &[0; 8]).repeat(100_000)),
        ("settings", frame(4, 0, 0, &[]).repeat(100_000)),
        ("data of no stream", frame(0, 0, 7, &[0; 100]).repeat(1000)),
        ("a frame too large", frame(0, 0, 1, &[0; 100_000])),
    ];
    for (name, flood) in floods {
        let bytes = [&preface[..], &flood].concat();
        assert!(raw(&address, &bytes, PATIENCE).await.is_some(), "{name}: no end");
        hostile.serves().await;
    }
    hostile.end().await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let mut hostile = Hostile::new(TestApp::plan("hostile-connections").set("HTTP_CONNECTIONS_MAX", 4)).await;
    let address = hostile.app.gateway(0).address().to_owned();
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(TcpStream::connect(&address).await.unwrap());
    }
    until("they are counted", async || {
        hostile.app.gateway(0).metric("floodgate_connections{listener=\"public\"").await == Some(4.0)
    })
    .await;
    let refused = raw(&address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", PATIENCE).await;
    assert_eq!(refused.as_deref(), Some(&b""[..]), "closed without a word");
    drop(open);
    until("there is room again", async || {
        hostile.app.gateway(0).metric("floodgate_connections{listener=\"public\"").await == Some(0.0)
    })
    .await;
    hostile.serves().await;
    hostile.end().await;
}

/// Resident memory of a process in KiB.
pub fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// FLOODGATE_HOSTILE_REQUESTS=1000000 for the whole measure.
#[tokio::test]
async fn memory_does_not_grow_under_a_million_of_them() {
    let wanted = std::env::var("FLOODGATE_HOSTILE_REQUESTS").ok().and_then(|text| text.parse().ok());
    let total: usize = wanted.unwrap_or(20_000);
    let warm = if total >= 100_000 { 10_000 } else { 2_000 };
    let mut hostile = Hostile::new(short("hostile-memory").set("HTTP_IDLE_TIMEOUT_MS", 500)).await;
    let kinds: Vec<Vec<u8>> = malformed()
        .into_iter()
        .filter(|(name, bytes)| !name.starts_with("half") && bytes.len() < 200_000)
        .map(|(_, bytes)| hostile.fill(&bytes))
        .collect();
    let (kinds, addresses) = (std::sync::Arc::new(kinds), hostile.both());
    let mut sent = 0;
    let mut base = 0;
    while sent < total {
        let until = if base == 0 { warm } else { total };
        let mut tasks = JoinSet::new();
        for worker in 0..16 {
            let (kinds, addresses) = (kinds.clone(), addresses.clone());
            let share = (sent + worker..until).step_by(16);
            tasks.spawn(async move {
                for number in share {
                    let bytes = &kinds[number % kinds.len()];
                    // What stalls is left behind: the server cuts it off by itself.
                    let _ = raw(&addresses[number / kinds.len() % 2], bytes, Duration::from_millis(20)).await;
                }
            });
        }
        tasks.join_all().await;
        sent = until;
        hostile.serves().await;
        let now = rss_kib(hostile.app.pid(0));
        if base == 0 {
            base = now;
        }
        eprintln!("{sent} hostile requests: {now} KiB resident");
        assert!(now < base + 32 * 1024, "{base} KiB after {warm}, {now} KiB after {sent}");
    }
    hostile.end().await;
}
