//! Who gets as far as a claim: trusted headers, throttles, the blacklist, the latch; and the other
//! ways in, h2c and the batch of a trusted backend.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::app::{TestApp, coupons, until};
use super::support::wire::{Answer, H2Client};

#[tokio::test]
async fn headers_name_the_shopper_only_if_a_trusted_proxy_sends_them() {
    let app = TestApp::plan("admission-headers")
        .set("AUTH_MODE", "trusted-header")
        .set("TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8")
        .process("gateway,flusher,worker")
        .process("gateway")
        .with("TRUSTED_PROXIES", "10.0.0.0/8")
        .start()
        .await;
    let mut gold = coupons(10);
    gold["audience"] = json!({"levels": ["gold"], "tags": ["vip"], "registered_until": "2026-06-01T00:00:00Z"});
    let gold = app.publish(gold).await;
    let path = format!("/v1/templates/{gold}/claims");
    let token = format!("Bearer {}", app.token("u-1"));
    let facts = [
        ("x-user-id", "u-1"),
        ("x-user-level", "gold"),
        ("x-user-tags", "early, vip"),
        ("x-user-registered-at", "2026-01-01T00:00:00+08:00"),
    ];
    let ask = |process: usize, headers: Vec<(&'static str, &'static str)>| {
        let (shop, path) = (&app.gateway(process).shop, &path);
        async move { shop.send("POST", path, &headers, "").await.unwrap() }
    };
    assert_eq!(ask(1, facts.into()).await.code(), "unauthenticated");
    assert_eq!(ask(0, vec![]).await.code(), "unauthenticated");
    let by_token = app.gateway(0).shop.send("POST", &path, &[("authorization", &token)], "").await.unwrap();
    assert_eq!(by_token.code(), "unauthenticated", "a token is no header");
    assert_eq!(ask(0, vec![("x-user-id", "a b")]).await.code(), "invalid_request");
    assert_eq!(ask(0, vec![("x-user-id", "u-1"), ("x-user-registered-at", "monday")]).await.code(), "invalid_request");
    for missing in 1..facts.len() {
        let mut some: Vec<_> = facts.into();
        some.remove(missing);
        assert_eq!(ask(0, some).await.code(), "not_eligible");
    }
    assert_eq!(ask(0, facts.into()).await.code(), "granted");
    let wallet = app.gateway(0).shop.send("GET", "/v1/me/coupons", &facts[..1], "").await.unwrap();
    assert_eq!(wallet.json["items"].as_array().unwrap().len(), 1, "{wallet:?}");
    app.stop().await;
}

#[tokio::test]
async fn throttles_name_their_scope_and_end() {
    let app = TestApp::plan("admission-throttles")
        .set("TRUSTED_PROXIES", "127.0.0.0/8")
        .process("gateway,flusher,worker")
        .process("gateway")
        .with("THROTTLE_USER_PER_S", 1)
        .with("THROTTLE_USER_BURST", 3)
        .process("gateway")
        .with("THROTTLE_IP_PER_S", 1)
        .with("THROTTLE_IP_BURST", 3)
        .process("gateway")
        .with("THROTTLE_DEVICE_PER_S", 1)
        .with("THROTTLE_DEVICE_BURST", 3)
        .process("gateway")
        .with("THROTTLE_ALL_PER_S", 1)
        .with("THROTTLE_ALL_BURST", 3)
        .start()
        .await;
    let id = app.publish(coupons(100)).await;
    for (process, scope) in [(1, "user"), (2, "ip"), (3, "device"), (4, "all")] {
        let ask = |turn: usize, other: bool| {
            // Each request differs in everything but what the scope counts by.
            let vary = |own: &str| (own != scope || other) as usize * (turn + 1);
            let user = format!("t-{}", vary("user"));
            let (ip, device) = (format!("192.0.2.{}", vary("ip")), format!("d-{}", vary("device")));
            let app = &app;
            async move {
                let headers = [("x-forwarded-for", ip.as_str()), ("x-device-id", &device)];
                if turn % 2 == 0 {
                    return app.claim_at(process, id, &user, "", &headers).await.unwrap();
                }
                // Reads count as much as claims do.
                let bearer = format!("Bearer {}", app.token(&user));
                let headers = [headers[0], headers[1], ("authorization", bearer.as_str())];
                app.gateway(process).shop.send("GET", "/v1/claim-center", &headers, "").await.unwrap()
            }
        };
        let mut throttled: Option<Answer> = None;
        for turn in 0..50 {
            let answer = ask(turn, false).await;
            if answer.status == 429 {
                assert!(turn >= 3, "{scope}: the burst was {turn}");
                throttled = Some(answer);
                break;
            }
        }
        let throttled = throttled.unwrap_or_else(|| panic!("{scope}: nobody was throttled"));
        assert_eq!((throttled.code(), &throttled.json["scope"]), ("throttled", &json!(scope)));
        assert_eq!((throttled.retry_after(), &throttled.json["retryable"]), (Some(1), &json!(true)), "{throttled:?}");
        if scope != "all" {
            assert_ne!(ask(60, true).await.code(), "throttled", "{scope}: another one");
        }
        until("the throttle ends", async || ask(0, false).await.code() != "throttled").await;
        let series = format!("floodgate_throttled_total{{scope=\"{scope}\"");
        assert!(app.gateway(process).metric(&series).await.unwrap() >= 1.0);
        assert_eq!(app.gateway(process).readyz().await, Some(200), "the internal listener is not throttled");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_blacklist_is_in_force_everywhere_within_a_second_and_lifted_again() {
    let app = TestApp::plan("admission-blacklist").process("gateway,flusher,worker").process("gateway").start().await;
    let id = app.publish(coupons(100)).await;
    let within_a_second = async |blocked: bool| {
        let begun = Instant::now();
        for process in 0..2 {
            until("the blacklist is seen", async || {
                (app.claim_at(process, id, "u-1", "", &[]).await.unwrap().code() == "blocked") == blocked
            })
            .await;
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "it took {:?}", begun.elapsed());
    };
    let entry = app.blacklist("user", "u-1").await;
    within_a_second(true).await;
    app.unblock(&entry).await;
    within_a_second(false).await;
    app.stop().await;
}

#[tokio::test]
async fn after_sold_out_redis_rests_and_a_restock_is_claimable_within_a_second() {
    let mut app = TestApp::plan("admission-latch").process("gateway,worker").process("flusher").start().await;
    let id = app.publish(coupons(1)).await;
    assert_eq!(app.claim(id, "u-0", "k-0", &[]).await.code(), "granted");
    // The flusher polls by script, too.
    app.kill9(1);
    assert_eq!(app.claim(id, "u-1", "", &[]).await.code(), "sold_out");
    let (before, begun) = (scripts_run(&app).await, Instant::now());
    for _ in 0..1000 {
        assert_eq!(app.claim(id, "u-1", "", &[]).await.code(), "sold_out");
    }
    let (ran, probes) = (scripts_run(&app).await - before, begun.elapsed().as_millis() as u64 / 60 + 2);
    assert!(ran <= probes + 20, "{ran} scripts in {:?} for 1000 claims", begun.elapsed());
    assert!(app.gateway(0).metric("floodgate_latch_refusals_total").await.unwrap() > 900.0);

    app.add_stock(id, 1).await;
    let begun = Instant::now();
    until("the restock is claimable", async || app.claim(id, "u-1", "k-1", &[]).await.code() == "granted").await;
    assert!(begun.elapsed() < Duration::from_secs(1), "it took {:?}", begun.elapsed());
    assert_eq!(app.claim(id, "u-2", "", &[]).await.code(), "sold_out");
    assert_eq!(app.claim(id, "u-0", "k-0", &[]).await.code(), "replayed");
    app.stop().await;
}

/// Calls of scripts that Redis has counted.
async fn scripts_run(app: &TestApp) -> u64 {
    let info: String = match app.redis(&["INFO", "commandstats"]).await {
        redis::Value::BulkString(bytes) => String::from_utf8(bytes).unwrap(),
        redis::Value::VerbatimString { text, .. } => text,
        other => panic!("{other:?}"),
    };
    let calls = info.lines().filter(|line| line.starts_with("cmdstat_eval"));
    calls.map(|line| line.split("calls=").nth(1).unwrap().split(',').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn h2c_answers_as_http1_does_on_both_listeners() {
    let app = TestApp::start("admission-h2c").await;
    let id = app.publish(coupons(60)).await;
    let h2 = H2Client::connect(app.gateway(0).address()).await.unwrap();
    let path = format!("/v1/templates/{id}/claims");
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let (h2, path, token) = (h2.clone(), path.clone(), format!("Bearer {}", app.token(&format!("u-{number}"))));
        tasks.spawn(async move {
            let headers = [("authorization", token.as_str()), ("idempotency-key", "k-1")];
            h2.send("POST", &path, &headers, "{}").await.unwrap()
        });
    }
    let answers = tasks.join_all().await;
    let count = |code: &str| answers.iter().filter(|answer| answer.code() == code).count();
    assert_eq!((count("granted"), count("sold_out")), (60, 40));
    let mut serials: Vec<u64> = answers.iter().filter_map(|a| a.json["coupon"]["serial"].as_u64()).collect();
    serials.sort();
    assert_eq!(serials, (1..=60).collect::<Vec<u64>>());

    let office = H2Client::connect(app.gateway(0).internal_address()).await.unwrap();
    assert_eq!(office.send("GET", "/livez", &[], "").await.unwrap().status, 200);
    assert_eq!(office.send("GET", "/v1/admin/templates", &[], "").await.unwrap().status, 401);
    assert_eq!(h2.send("GET", "/livez", &[], "").await.unwrap().status, 404);
    app.stop().await;
}

#[tokio::test]
async fn a_batch_answers_each_claim_in_order_as_a_single_one_would_be() {
    let app = TestApp::start("admission-batch").await;
    let id = app.publish(coupons(500)).await;
    let service = app.api_key("service").await;
    let path = format!("/v1/templates/{id}/claims:batch");
    // Users 0 to 799 once, then the first 200 again: half of those with the same key.
    let claim = |number: usize| match number {
        0..800 => json!({"user_id": format!("u-{number}"), "claim_key": format!("k-{number}")}),
        800..900 => json!({"user_id": format!("u-{}", number - 800), "claim_key": format!("k-{}", number - 800)}),
        _ => json!({"user_id": format!("u-{}", number - 800), "claim_key": "other", "ip": "192.0.2.1"}),
    };
    let body = json!({"claims": (0..1000).map(claim).collect::<Vec<Value>>()});
    let answer = app.call(&service, "POST", &path, &[], body.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let results = answer.json["results"].as_array().unwrap();
    assert_eq!(results.len(), 1000);
    let outcome = |at: usize| results[at]["outcome"].as_str().or(results[at]["code"].as_str()).unwrap();
    for (at, result) in results.iter().enumerate() {
        let status = match outcome(at) {
            "granted" => 201,
            "replayed" => 200,
            "user_limit_reached" => 409,
            "sold_out" => 410,
            other => panic!("{other}: {result}"),
        };
        assert_eq!(result["status"], status);
        if status < 300 {
            let asked = &body["claims"][at]["claim_key"];
            assert_eq!(&result["claim_key"], asked, "the answers are in order");
        }
    }
    let mut serials: Vec<u64> = (0..1000)
        .filter(|at| outcome(*at) == "granted")
        .map(|at| results[at]["coupon"]["serial"].as_u64().unwrap())
        .collect();
    serials.sort();
    assert_eq!(serials, (1..=500).collect::<Vec<u64>>());
    for at in 800..900 {
        if outcome(at) == "replayed" {
            assert_eq!(results[at]["coupon"], results[at - 800]["coupon"], "claim {at}");
        }
    }
    until("every row is there", async || app.rows(id).await.len() == 500).await;

    // The same batch again: all that was granted is replayed.
    let again = app.call(&service, "POST", &path, &[], body).await;
    for at in 0..800 {
        let now = again.json["results"][at]["outcome"].as_str();
        assert_eq!(now.is_some(), outcome(at) == "granted", "claim {at}");
        assert!(now.is_none_or(|now| now == "replayed"));
    }

    let bad = json!({"claims": [{"user_id": "u 1"}, {"user_id": "u-2", "ip": "x"}, {"claim_key": "k"}], "more": 1});
    let bad = app.call(&service, "POST", &path, &[], bad).await;
    assert_eq!((bad.status, bad.code()), (400, "invalid_request"));
    let fields: Vec<&str> =
        bad.json["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    for field in ["more", "claims[0].user_id", "claims[1].ip", "claims[2].user_id"] {
        assert!(fields.contains(&field), "{field} not in {fields:?}");
    }
    let many = json!({"claims": vec![json!({"user_id": "u"}); 1001]});
    assert_eq!(app.call(&service, "POST", &path, &[], many).await.code(), "invalid_request");
    let one = json!({"claims": [{"user_id": "u-1"}]});
    let unknown = app.call(&service, "POST", "/v1/templates/999999/claims:batch", &[], one.clone()).await;
    assert_eq!(unknown.json["results"][0]["code"], "template_not_found");
    for role in ["operator", "approver", "support", "auditor"] {
        let key = app.api_key(role).await;
        assert_eq!(app.call(&key, "POST", &path, &[], one.clone()).await.code(), "forbidden", "{role}");
    }
    assert_eq!(app.call("fgk_none", "POST", &path, &[], one).await.code(), "unauthenticated");
    app.stop().await;
}
