//! The doors themselves: what the document promises, who may enter, and how they open and close.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use floodgate::http::handlers;
use floodgate::http::route::{Access, Door, Role};
use serde_json::Value;
use tokio::net::TcpStream;

use super::support::app::{TestApp, coupons, until};
use super::support::wire::{Answer, Client, raw, statuses};

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// A path of the table with values for its parameters.
fn filled(path: &str) -> String {
    path.replace("{id}", "1").replace("{code}", "0").replace("{user_id}", "u-1").replace("{token}", "0")
}

#[tokio::test]
async fn the_document_is_the_router() {
    let app = TestApp::start("routes-document").await;
    let document = app.gateway(0).office.send("GET", "/openapi.json", &[], "").await.unwrap().json;
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys().filter(|key| METHODS.contains(&&*key.to_uppercase()));
            methods.map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let built: BTreeSet<(String, String)> =
        handlers::routes().iter().map(|route| (route.method.to_string(), route.path.to_owned())).collect();
    assert_eq!(documented, built);

    // Over the wire: each answers at its own door, and nothing else does.
    let routed = |answer: &Answer| !matches!(answer.code(), "not_found" | "method_not_allowed");
    let paths: BTreeSet<&'static str> = handlers::routes().iter().map(|route| route.path).collect();
    for path in paths {
        for method in METHODS {
            for (door, client) in [(Door::Public, &app.gateway(0).shop), (Door::Internal, &app.gateway(0).office)] {
                let answer = client.send(method, &filled(path), &[], "").await.unwrap();
                let routes = handlers::routes();
                let here: Vec<_> = routes.iter().filter(|route| route.path == path && route.door == door).collect();
                let expected = here.iter().any(|route| route.method == method);
                assert_eq!(routed(&answer), expected, "{method} {path} at {door:?}: {answer:?}");
                if !expected {
                    assert_eq!(answer.status, if here.is_empty() { 404 } else { 405 }, "{method} {path} at {door:?}");
                    let allow = answer.header("allow").unwrap_or_default();
                    assert!(here.iter().all(|route| allow.contains(route.method.as_str())), "{allow}");
                }
            }
        }
    }
    for odd in ["/", "//", "/v1", "/v1/", "/v1/admin", "/v1/templates/1/claims/", "/livez/", "/LIVEZ", "/..%2flivez"] {
        for client in [&app.gateway(0).shop, &app.gateway(0).office] {
            let answer = client.send("GET", odd, &[], "").await.unwrap();
            assert_eq!((answer.status, answer.code()), (404, "not_found"), "{odd}: {answer:?}");
        }
    }
    let docs = app.gateway(0).office.send("GET", "/docs", &[], "").await.unwrap();
    assert_eq!((docs.status, docs.header("content-type")), (200, Some("text/html; charset=utf-8")));
    app.stop().await;
}

#[tokio::test]
async fn each_role_enters_where_the_table_says() {
    let app = TestApp::start("routes-roles").await;
    let mut keys = Vec::new();
    for role in Role::ALL {
        keys.push((role, app.api_key(role.word()).await));
    }
    let internal: Vec<_> =
        handlers::routes().into_iter().filter(|route| matches!(route.access, Access::Roles(_))).collect();
    assert!(internal.len() > 15);
    for route in &internal {
        let path = route.path.replace("{id}", "999999").replace("{code}", "0").replace("{user_id}", "u-1");
        for (role, key) in &keys {
            // A body that no call takes: whoever may enter is refused for it, and changes nothing.
            let answer = app.call(key, route.method.as_str(), &path, &[], serde_json::json!({"none": 1})).await;
            let entered = answer.code() != "forbidden";
            assert_eq!(entered, route.access.admits(*role), "{role:?} {} {path}: {answer:?}", route.method);
            assert!(answer.status < 500 && !matches!(answer.status, 401 | 405), "{answer:?}");
        }
        for wrong in ["", "fgk_made-up", "\u{1F511}"] {
            let bearer = format!("Bearer {wrong}");
            let headers = [("authorization", bearer.as_str())];
            let answer = app.gateway(0).office.send(route.method.as_str(), &path, &headers, "").await.unwrap();
            assert_eq!(answer.code(), "unauthenticated", "{} {path}: {answer:?}", route.method);
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused() {
    let app = TestApp::start("routes-twice").await;
    let id = app.publish(coupons(1)).await;
    let (bearer, admin) = (format!("Bearer {}", app.token("u-1")), app.admin_key());
    for path in ["/v1/me/coupons?limit=1&limit=2", "/v1/claim-center?cursor=&channel=app&cursor="] {
        let answer = app.gateway(0).shop.send("GET", path, &[("authorization", bearer.as_str())], "").await.unwrap();
        assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{path}: {answer:?}");
        assert!(answer.json["detail"].as_str().unwrap().starts_with("send one "), "{answer:?}");
    }
    let twice = app.call(admin, "GET", "/v1/admin/templates?status=draft&status=paused", &[], Value::Null).await;
    assert_eq!((twice.status, &twice.json["detail"]), (400, &Value::from("send one status")));
    // What the document knows nothing of is nobody's business: a tracker's, twice.
    let extra = app.call(admin, "GET", "/v1/admin/templates?utm=1&utm=2", &[], Value::Null).await;
    assert_eq!(extra.status, 200, "{extra:?}");
    // Malformed, though the wallet does not look at it.
    let headers = [("authorization", bearer.as_str()), ("x-channel", "")];
    let channel = app.gateway(0).shop.send("GET", "/v1/me/coupons", &headers, "").await.unwrap();
    assert_eq!((channel.status, channel.code()), (400, "invalid_request"), "{channel:?}");
    // A claim of nobody is refused, not left out: results answer claims in order.
    let nobody = serde_json::json!({"claims": [{"user_id": null}, {"user_id": "u-2"}]});
    let batch = app.call(admin, "POST", &format!("/v1/templates/{id}/claims:batch"), &[], nobody).await;
    assert_eq!((batch.status, &batch.json["errors"][0]["field"]), (400, &Value::from("claims[0].user_id")));
    // The status of a problem is HTTP's; the template's has a name of its own.
    let sold = app.call(admin, "DELETE", &format!("/v1/admin/templates/{id}"), &[], Value::Null).await;
    assert_eq!((sold.status, &sold.json["status"]), (409, &Value::from(409)));
    assert_eq!(sold.json["template_status"], "published");
    app.stop().await;
}

#[tokio::test]
async fn ready_is_said_while_claims_can_be_decided() {
    let mut app = TestApp::plan("routes-ready").own_postgres().start().await;
    let is = async |app: &TestApp, status: u16| {
        until(&format!("/readyz says {status}"), async || app.gateway(0).readyz().await == Some(status)).await;
        assert_eq!(app.gateway(0).office.send("GET", "/livez", &[], "").await.unwrap().status, 200);
    };
    // Nobody claims: it must notice by itself.
    app.kill_redis();
    is(&app, 503).await;
    let body = app.gateway(0).office.send("GET", "/readyz", &[], "").await.unwrap().json;
    assert_eq!((&body["cell_open"], &body["status"]), (&Value::Bool(false), &Value::from("not_ready")));
    app.start_redis().await;
    is(&app, 200).await;

    app.kill_postgres();
    let claims = app.gateway(0).metric("floodgate_postgres_errors_total").await.unwrap_or(0.0);
    until("it has missed PostgreSQL", async || {
        app.gateway(0).metric("floodgate_postgres_errors_total").await.unwrap_or(0.0) > claims + 1.0
    })
    .await;
    is(&app, 200).await;
    // Both gone: alive all the same, asking neither.
    app.kill_redis();
    is(&app, 503).await;
    app.start_postgres().await;
    app.start_redis().await;
    is(&app, 200).await;
    app.stop().await;
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_have_what_was_promised() {
    let app = TestApp::start("routes-metrics").await;
    let id = app.publish(coupons(1)).await;
    app.claim(id, "u-1", "k", &[]).await;
    app.claim(id, "u-2", "k", &[]).await;
    until("it is stored", async || app.rows(id).await.len() == 1).await;
    let answer = app.gateway(0).office.send("GET", "/metrics", &[], "").await.unwrap();
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8(answer.bytes.to_vec()).unwrap();
    let mut typed = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram", "summary"].contains(&kind), "{line}");
            assert!(typed.insert(name.to_owned()), "{name} stands twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
        assert_eq!(series.contains('{'), series.ends_with('}'), "{line}");
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(typed.contains(name) || family.is_some_and(|family| typed.contains(family)), "{line} has no type");
    }
    for family in [
        "floodgate_claims_total",
        "floodgate_claim_seconds",
        "floodgate_batch_size",
        "floodgate_lane_waiting",
        "floodgate_throttle_keys",
        "floodgate_throttled_total",
        "floodgate_backlog_entries",
        "floodgate_backlog_age_seconds",
        "floodgate_flush_rows_total",
        "floodgate_flush_seconds",
        "floodgate_watermark_lag_seconds",
        "floodgate_latched_templates",
        "floodgate_cell_epoch",
        "floodgate_set_aside_rows_total",
        "floodgate_connections",
        "floodgate_http_requests_total",
    ] {
        assert!(typed.contains(family), "{family} is not there");
        assert!(text.contains(&format!("# HELP {family} ")), "{family} has no help");
    }
    assert!(text.contains("floodgate_claim_seconds_bucket{stage=\"total\",le=\""), "stages are histograms");
    let value = async |series: &str| app.gateway(0).metric(series).await.unwrap();
    assert_eq!(value("floodgate_claims_total{outcome=\"granted\"").await, 1.0);
    assert_eq!(value("floodgate_claims_total{outcome=\"sold_out\"").await, 1.0);
    assert_eq!(value("floodgate_flush_rows_total").await, 1.0);
    assert!(value("floodgate_cell_epoch").await >= 1.0);
    assert_eq!(value("floodgate_http_requests_total{listener=\"public\",class=\"2xx\"").await, 1.0);
    assert_eq!(value("floodgate_http_requests_total{listener=\"public\",class=\"4xx\"").await, 1.0);
    assert!(value("floodgate_http_requests_total{listener=\"internal\",class=\"2xx\"").await > 3.0);
    app.stop().await;
}

#[tokio::test]
async fn config_shows_what_is_in_force_and_no_secret() {
    let app = TestApp::plan("routes-config").set("HTTP_THREADS", 3).start().await;
    let shown = app.command(&["config"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success() && text.contains("threads = 3"), "{text}");
    for secret in ["0123456789abcdef0123456789abcdef", "000102030405060708090a0b0c0d0e0f", app.admin_key()] {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(text.contains("(hidden)"));
    app.stop().await;
}

#[tokio::test]
async fn a_drain_answers_every_request_that_was_sent() {
    let grace = TestApp::plan("routes-drain").set("HTTP_DRAIN_GRACE_MS", 700);
    let mut app = grace.process("gateway,flusher,worker").process("gateway").start().await;
    let id = app.publish(coupons(1_000_000)).await;
    // Connections that say nothing must not hold the drain up.
    let silent = TcpStream::connect(app.gateway(1).address()).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (address, path) = (app.gateway(1).address().to_owned(), format!("/v1/templates/{id}/claims"));
    let mut shoppers = tokio::task::JoinSet::new();
    for shopper in 0..16 {
        let token = format!("Bearer {}", app.token(&format!("s-{shopper}")));
        let (address, path, asked) = (address.clone(), path.clone(), asked.clone());
        shoppers.spawn(async move {
            let client = Client::new(&address);
            // Until it is told to leave, as a load balancer is that keeps its connections.
            loop {
                let headers = [("authorization", token.as_str()), ("idempotency-key", "k")];
                match client.send("POST", &path, &headers, "").await {
                    Ok(answer) => {
                        assert!(answer.status < 500, "{answer:?}");
                        asked.fetch_add(1, Ordering::Relaxed);
                        if answer.header("connection") == Some("close") {
                            return Ok(());
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        });
    }
    until("claims flow", async || asked.load(Ordering::Relaxed) > 300).await;
    let begun = Instant::now();
    app.signal(1, libc::SIGTERM);
    until("it says that it drains", async || app.gateway(1).readyz().await == Some(503)).await;
    // New connections are served until the grace is over.
    assert_eq!(app.claim_at(1, id, "u-late", "k", &[]).await.unwrap().status, 201);
    assert!(app.terminate(1).await, "it did not end in order");
    assert!(begun.elapsed() < Duration::from_secs(5), "the drain took {:?}", begun.elapsed());
    drop(silent);
    for left in shoppers.join_all().await {
        left.unwrap_or_else(|error| panic!("a request has no answer: {error}"));
    }
    app.stop().await;
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_end() {
    let mut app = TestApp::plan("routes-underway").set("HTTP_BODY_TIMEOUT_MS", 5000).start().await;
    let id = app.publish(coupons(5)).await;
    let token = app.token("u-1");
    let head = format!(
        "POST /v1/templates/{id}/claims HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-length: 2\r\n\r\n{{"
    );
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = TcpStream::connect(app.gateway(0).address()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let connections = "floodgate_connections{listener=\"public\"";
    until("it is there", async || app.gateway(0).metric(connections).await.is_some_and(|open| open >= 1.0)).await;
    app.signal(0, libc::SIGTERM);
    let address = app.gateway(0).address().to_owned();
    until("the listener is closed", async || TcpStream::connect(&address).await.is_err()).await;
    stream.write_all(b"}").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(statuses(&answer), [201], "{}", String::from_utf8_lossy(&answer));
    assert!(app.terminate(0).await);
    assert_eq!(raw(&address, b"GET / HTTP/1.1\r\n\r\n", Duration::from_secs(1)).await, None);
}
