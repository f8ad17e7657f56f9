//! Claims over HTTP: every refusal with its status and shape, their precedence, and replays.

use floodgate::clock::now_ms;
use floodgate::domain::outcome::ClaimOutcome;
use floodgate::domain::window::rfc3339;
use serde_json::{Value, json};

use super::support::app::{TestApp, coupons, until};
use super::support::wire::Answer;

const DAY: i64 = 86_400_000;

/// A template with a part of it changed.
fn with(stock: i64, change: Value) -> Value {
    let mut template = coupons(stock);
    for (name, value) in change.as_object().unwrap() {
        template[name] = value.clone();
    }
    template
}

fn window(starts: i64, ends: i64) -> Value {
    let time = |at| rfc3339(chrono_tz::Tz::UTC, now_ms() + at);
    json!({"starts_at": time(starts), "ends_at": time(ends)})
}

/// Checks a refusal whole: status, code, the shape of a problem, and `Retry-After`.
#[track_caller]
fn refused(what: &str, answer: &Answer, status: u16, code: &str, retry_after: Option<std::ops::RangeInclusive<u64>>) {
    assert_eq!((answer.status, answer.code()), (status, code), "{what}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
    let json = &answer.json;
    assert_eq!(json["type"], format!("urn:floodgate:problem:{code}"), "{what}");
    assert_eq!(json["status"], status, "{what}");
    assert!(!json["title"].as_str().unwrap().is_empty() && !json["detail"].as_str().unwrap().is_empty(), "{what}");
    assert_eq!(json["request_id"].as_str(), answer.header("x-request-id"), "{what}");
    if let Some(outcome) = ClaimOutcome::ALL.into_iter().find(|outcome| outcome.code() == code) {
        assert_eq!(json["retryable"], outcome.retryable(), "{what}");
    }
    match retry_after {
        Some(range) => {
            let seconds = answer.retry_after().unwrap_or_else(|| panic!("{what}: no Retry-After"));
            assert!(range.contains(&seconds), "{what}: Retry-After {seconds} not in {range:?}");
        }
        None => assert_eq!(answer.header("retry-after"), None, "{what}"),
    }
}

/// The bytes of a replay but for its outcome.
fn as_granted(replay: &Answer) -> String {
    String::from_utf8(replay.bytes.to_vec()).unwrap().replace("\"outcome\":\"replayed\"", "\"outcome\":\"granted\"")
}

#[tokio::test]
async fn who_and_what_come_first() {
    let app = TestApp::start("claims-heads").await;
    let id = app.publish(coupons(10)).await;
    let path = format!("/v1/templates/{id}/claims");
    let shop = &app.gateway(0).shop;
    let good = format!("Bearer {}", app.token("u-1"));
    let bearer = |token: String| format!("Bearer {token}");
    let expired = bearer(app.token_of("u-1", |claims| claims.exp -= 7200));
    let stranger = bearer(app.token_of("u-1", |claims| claims.aud = "elsewhere".into()));
    let issuer = bearer(app.token_of("u-1", |claims| claims.iss = "elsewhere".into()));
    let nobody = bearer(app.token_of("a b", |_| {}));
    let forged = format!("{good}x");
    for wrong in [&expired, &stranger, &issuer, &nobody, &forged, &good.replace("Bearer", "Basic"), "Bearer", ""] {
        // Who asks comes before what is asked: the key is wrong, too.
        let headers = [("authorization", wrong), ("idempotency-key", "a b")];
        let answer = shop.send("POST", &path, &headers, "").await.unwrap();
        refused(wrong, &answer, 401, "unauthenticated", None);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    refused("no head", &shop.send("POST", &path, &[], "").await.unwrap(), 401, "unauthenticated", None);

    let (long_key, long_device, long_channel) = ("k".repeat(65), "d".repeat(129), "c".repeat(33));
    let deep = "[".repeat(1000);
    let wrong: [(&str, &str, &str); 12] = [
        ("idempotency-key", "a b", ""),
        ("idempotency-key", "", ""),
        ("idempotency-key", &long_key, ""),
        ("x-device-id", "", ""),
        ("x-device-id", &long_device, ""),
        ("x-channel", &long_channel, ""),
        ("x-any", "", "[]"),
        ("x-any", "", "null"),
        ("x-any", "", "{\"user\":1}"),
        ("x-any", "", "{"),
        ("x-any", "", &deep),
        ("x-any", "", "\u{feff}{}"),
    ];
    for (name, value, body) in wrong {
        // On this template and, since what is malformed comes before what is not there, on none.
        for path in [path.as_str(), "/v1/templates/999999/claims", "/v1/templates/abc/claims"] {
            let headers = [("authorization", good.as_str()), (name, value)];
            let answer = shop.send("POST", path, &headers, body.to_owned()).await.unwrap();
            refused(&format!("{path} {name}: {value} {body:.20}"), &answer, 400, "invalid_request", None);
        }
    }
    let fields = shop.send("POST", &path, &[("authorization", &good)], "{\"a\":1,\"b\":2}").await.unwrap();
    assert_eq!(fields.json["errors"].as_array().unwrap().len(), 2, "{fields:?}");

    let draft = app.call(app.admin_key(), "POST", "/v1/admin/templates", &[], coupons(1)).await.json["id"].to_string();
    for unknown in ["999999", "0", "-1", "abc", "4294967296", "99999999999999999999", "1%20", "%00", &draft] {
        let path = format!("/v1/templates/{unknown}/claims");
        let answer = shop.send("POST", &path, &[("authorization", &good)], "").await.unwrap();
        refused(unknown, &answer, 404, "template_not_found", None);
    }

    // What none of these took is still there, and a key of every printable character is quoted well.
    let key: String = (b'!'..=b'~').map(char::from).filter(|c| !c.is_ascii_lowercase()).take(64).collect();
    let granted = app.claim(id, "u-1", &key, &[("x-request-id", "mine-1")]).await;
    assert_eq!((granted.status, &granted.json["claim_key"]), (201, &json!(key)), "{granted:?}");
    assert_eq!((&granted.json["coupon"]["serial"], granted.header("x-request-id")), (&json!(1), Some("mine-1")));
    assert_eq!(as_granted(&app.claim(id, "u-1", &key, &[]).await).as_bytes(), &*granted.bytes);
    app.stop().await;
}

#[tokio::test]
async fn every_refusal_by_state_and_limit() {
    let app = TestApp::plan("claims-refusals")
        .set("TRUSTED_PROXIES", "127.0.0.0/8")
        .set("QUOTA_USER_LIMIT", 2)
        .set("QUOTA_IP_LIMIT", 3)
        .set("QUOTA_DEVICE_LIMIT", 2)
        .process("gateway,flusher,worker")
        .process("gateway")
        .with("THROTTLE_DEVICE_REQUIRED", true)
        .start()
        .await;
    let paused = app.publish(coupons(10)).await;
    app.pause(paused).await;
    let stopped = app.publish(coupons(10)).await;
    app.end(stopped).await;
    let early = app.publish(with(10, json!({"claim_window": window(3_600_000, DAY)}))).await;
    let early_paused = app.publish(with(10, json!({"claim_window": window(3_600_000, DAY)}))).await;
    app.pause(early_paused).await;
    let over = app.publish(with(10, json!({"claim_window": window(-2 * DAY, -DAY)}))).await;
    let gold = app.publish(with(10, json!({"audience": {"levels": ["gold"]}}))).await;
    let open = app.publish(coupons(10)).await;
    app.blacklist("user", "u-blocked").await;
    app.blacklist("ip", "198.51.100.0/24").await;
    app.blacklist("device", "d-blocked").await;
    until("the blacklist is in force everywhere", async || {
        let here = app.claim(open, "u-blocked", "", &[]).await;
        let there = app.claim_at(1, open, "u-blocked", "", &[]).await.unwrap();
        let (ip, device) = ([("x-forwarded-for", "198.51.100.7")], [("x-device-id", "d-blocked")]);
        let (ip, device) = (app.claim(early, "u", "", &ip).await, app.claim(open, "u-probe", "", &device).await);
        assert_eq!(ip.code(), "not_started");
        [here, there, device].iter().all(|answer| answer.code() == "blocked")
    })
    .await;

    let (blocked_ip, blocked_device) =
        ([("x-forwarded-for", "203.0.113.1, 198.51.100.7")], [("x-device-id", "d-blocked")]);
    let soon = Some(3500..=3600);
    // Process, template, user, headers -> status, code, Retry-After. Where several apply, the first.
    type Case<'a> =
        (usize, i64, &'a str, &'a [(&'a str, &'a str)], u16, &'a str, Option<std::ops::RangeInclusive<u64>>);
    let cases: [Case; 15] = [
        (0, paused, "u-1", &[], 409, "template_inactive", None),
        (0, stopped, "u-1", &[], 409, "template_inactive", None),
        (0, early_paused, "u-1", &[], 409, "template_inactive", None),
        (0, paused, "u-blocked", &[], 409, "template_inactive", None),
        (0, early, "u-1", &[], 409, "not_started", soon.clone()),
        (0, early, "u-blocked", &[], 409, "not_started", soon),
        (0, over, "u-1", &[], 410, "ended", None),
        (0, over, "u-blocked", &[], 410, "ended", None),
        (0, open, "u-blocked", &[], 403, "blocked", None),
        (0, open, "u-1", &blocked_ip, 403, "blocked", None),
        (0, open, "u-1", &blocked_device, 403, "blocked", None),
        (1, gold, "u-blocked", &[], 403, "blocked", None),
        (1, gold, "u-1", &[], 400, "device_required", None),
        (1, gold, "u-1", &[("x-device-id", "d-1")], 403, "not_eligible", None),
        (0, gold, "u-1", &[], 403, "not_eligible", None),
    ];
    for (process, template, user, headers, status, code, retry_after) in cases {
        for key in ["", "k-1"] {
            let answer = app.claim_at(process, template, user, key, headers).await.unwrap();
            refused(&format!("{code} for {user} key {key:?} {headers:?}"), &answer, status, code, retry_after.clone());
        }
    }
    limits(&app).await;
    quotas(&app).await;
    app.stop().await;
}

async fn limits(app: &TestApp) {
    let until_midnight = || {
        let now = now_ms();
        let left = floodgate::domain::window::Day::of(chrono_tz::Asia::Shanghai, now).end - now;
        (left as u64 / 1000).saturating_sub(5)..=(left as u64 / 1000 + 1)
    };
    // One of one: the user's limit comes before sold out, sold out before the day's.
    let one = app.publish(with(1, json!({"stock": {"total": 1, "daily": 1}}))).await;
    let granted = app.claim(one, "u-1", "k-1", &[]).await;
    assert_eq!(granted.status, 201);
    let again = app.claim(one, "u-1", "k-2", &[]).await;
    refused("user limit", &again, 409, "user_limit_reached", None);
    let coupon = &granted.json["coupon"];
    let held = json!([{"code": coupon["code"], "serial": 1, "acquired_at": coupon["acquired_at"]}]);
    assert_eq!(again.json["coupons"], held);
    refused("sold out", &app.claim(one, "u-2", "", &[]).await, 410, "sold_out", None);
    refused("sold out, latched", &app.claim(one, "u-2", "k", &[]).await, 410, "sold_out", None);

    // The user's whole limit comes before the day's.
    let both = app.publish(with(9, json!({"limits": {"per_user": 1, "per_user_daily": 1}}))).await;
    assert_eq!(app.claim(both, "u-1", "", &[]).await.status, 201);
    refused("both", &app.claim(both, "u-1", "", &[]).await, 409, "user_limit_reached", None);

    // The user's day comes before the template's.
    let daily = json!({"stock": {"total": 9, "daily": 1}, "limits": {"per_user": 3, "per_user_daily": 1}});
    let daily = app.publish(with(9, daily)).await;
    assert_eq!(app.claim(daily, "u-1", "", &[]).await.status, 201);
    let answer = app.claim(daily, "u-1", "", &[]).await;
    refused("user's day", &answer, 409, "user_daily_limit_reached", Some(until_midnight()));
    let answer = app.claim(daily, "u-2", "", &[]).await;
    refused("the day", &answer, 409, "daily_limit_reached", Some(until_midnight()));
}

async fn quotas(app: &TestApp) {
    let quota = |answer: &Answer, scope: &str, seconds: u64| {
        refused(scope, answer, 429, "quota_exceeded", Some(seconds - 30..=seconds));
        assert_eq!(answer.json["scope"], scope);
    };
    let mut templates = Vec::new();
    for stock in [50, 50, 2] {
        templates.push(app.publish(with(stock, json!({"quotas": true, "limits": {"per_user": 5}}))).await);
    }
    let from = |ip: &'static str| [("x-forwarded-for", ip)];
    // Over all templates: two for a user.
    for (at, ip) in [(0, "192.0.2.1"), (1, "192.0.2.2")] {
        assert_eq!(app.claim(templates[at], "q-1", "", &from(ip)).await.status, 201);
    }
    quota(&app.claim(templates[2], "q-1", "", &from("192.0.2.3")).await, "user", 60);
    // Three for an address, IPv6 by its /64.
    for user in ["q-2", "q-3", "q-4"] {
        assert_eq!(app.claim(templates[0], user, "", &from("2001:db8::1")).await.status, 201);
    }
    quota(&app.claim(templates[1], "q-5", "", &from("2001:db8::ffff:1")).await, "ip", 60);
    assert_eq!(app.claim(templates[1], "q-5", "", &from("2001:db8:0:1::1")).await.status, 201);
    // Two for a device.
    for user in ["q-6", "q-7"] {
        assert_eq!(app.claim(templates[2], user, "", &[("x-device-id", "d-q")]).await.status, 201);
    }
    quota(&app.claim(templates[0], "q-8", "", &[("x-device-id", "d-q")]).await, "device", 3600);
    // A quota comes before sold out, and a template without quotas neither checks nor counts.
    quota(&app.claim(templates[2], "q-1", "", &from("192.0.2.4")).await, "user", 60);
    let free = app.publish(coupons(9)).await;
    assert_eq!(app.claim(free, "q-1", "", &from("2001:db8::1")).await.status, 201);
}

#[tokio::test]
async fn a_granted_key_is_replayed_whatever_came_after() {
    let app = TestApp::start("claims-replays").await;
    let short = with(3, json!({"claim_window": window(-60_000, 2_500)}));
    let mut templates = Vec::new();
    for template in [coupons(2), coupons(3), coupons(3), short, coupons(3)] {
        templates.push(app.publish(template).await);
    }
    let [sold, paused, stopped, short, blocked] = templates[..] else { unreachable!() };
    let mut granted = Vec::new();
    for template in &templates {
        let keyed = app.claim(*template, "u-1", "mine", &[]).await;
        let keyless = app.claim(*template, "u-2", "", &[]).await;
        assert_eq!((keyed.status, keyless.status), (201, 201), "{keyed:?} {keyless:?}");
        granted.push((keyed, keyless));
    }
    app.pause(paused).await;
    app.end(stopped).await;
    let entry = app.blacklist("user", "u-1").await;
    until("the window is over", async || app.claim(short, "u-1", "", &[]).await.code() == "ended").await;
    until("u-1 is blocked", async || app.claim(blocked, "u-1", "", &[]).await.code() == "blocked").await;
    let table = [
        (sold, "sold_out", "blocked"),
        (paused, "template_inactive", "template_inactive"),
        (stopped, "template_inactive", "template_inactive"),
        (short, "ended", "ended"),
        (blocked, "user_limit_reached", "blocked"),
    ];
    assert_eq!(app.claim(sold, "u-3", "", &[]).await.code(), "sold_out");
    for ((template, of_others, of_u1), (keyed, keyless)) in table.into_iter().zip(&granted) {
        let replay = app.claim(template, "u-1", "mine", &[]).await;
        assert_eq!((replay.status, replay.code()), (200, "replayed"), "{of_others}: {replay:?}");
        assert_eq!(as_granted(&replay).as_bytes(), &*keyed.bytes, "{of_others}");
        // The key that the gateway made is as good as one that the caller brought.
        let made = keyless.json["claim_key"].as_str().unwrap();
        let replay = app.claim(template, "u-2", made, &[]).await;
        assert_eq!(as_granted(&replay).as_bytes(), &*keyless.bytes, "{of_others}");
        // No key, another key and another's key are no replays.
        for (user, key, code) in [("u-1", "", of_u1), ("u-1", "other", of_u1), ("u-4", "mine", of_others)] {
            let answer = app.claim(template, user, key, &[]).await;
            let expected = if template == blocked && user == "u-4" { "granted" } else { code };
            assert_eq!(answer.code(), expected, "{user} {key:?} {answer:?}");
        }
    }
    app.unblock(&entry).await;
    until("u-1 is free again", async || app.claim(blocked, "u-1", "", &[]).await.code() == "user_limit_reached").await;
    // A refusal is not remembered: the same key is decided anew.
    app.resume(paused).await;
    until("claims go on", async || {
        matches!(app.claim(paused, "u-4", "mine", &[]).await.code(), "granted" | "replayed")
    })
    .await;
    app.stop().await;
}
