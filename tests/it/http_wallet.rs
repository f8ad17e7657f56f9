//! The wallet and the claim center: what a shopper holds and may claim, flushed or not.

use floodgate::clock::now_ms;
use floodgate::domain::window::rfc3339;
use serde_json::{Value, json};

use super::support::app::{TestApp, coupons, until};
use super::support::wire::Answer;

const DAY: i64 = 86_400_000;

fn items(answer: &Answer) -> Vec<Value> {
    answer.json["items"].as_array().unwrap_or_else(|| panic!("no list: {answer:?}")).clone()
}

/// Every page of a list, by its cursors.
async fn walk(app: &TestApp, user: &str, path: &str, limit: usize) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = app.get(user, &format!("{path}&limit={limit}{cursor}"), &[]).await;
        let page = items(&answer);
        assert!(page.len() <= limit);
        all.extend(page);
        match answer.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

#[tokio::test]
async fn a_claim_shows_at_once_and_once_while_it_is_flushed() {
    let mut app = TestApp::plan("wallet-flush").process("gateway,worker").process("flusher").start().await;
    let mut templates = Vec::new();
    for _ in 0..4 {
        let mut template = coupons(10);
        template["limits"] = json!({"per_user": 2});
        templates.push(app.publish(template).await);
    }
    let mut codes = Vec::new();
    let claim = async |template: i64, key: &str| {
        let answer = app.claim(template, "u-1", key, &[]).await;
        assert_eq!(answer.code(), "granted", "{answer:?}");
        answer.json["coupon"]["code"].as_str().unwrap().to_owned()
    };
    for template in &templates[..2] {
        codes.push(claim(*template, "k-1").await);
    }
    until("two are stored", async || app.rows(templates[1]).await.len() == 1).await;
    app.kill9(1);
    let claim = async |template: i64, key: &str| {
        let answer = app.claim(template, "u-1", key, &[]).await;
        assert_eq!(answer.code(), "granted", "{answer:?}");
        // At once: no row can be there.
        let code = answer.json["coupon"]["code"].as_str().unwrap().to_owned();
        let wallet = items(&app.get("u-1", "/v1/me/coupons", &[]).await);
        assert!(wallet.iter().any(|coupon| coupon["code"] == code), "{code} is not in {wallet:?}");
        let one = app.get("u-1", &format!("/v1/me/coupons/{code}"), &[]).await;
        for (name, value) in answer.json["coupon"].as_object().unwrap() {
            assert_eq!(&one.json[name], value, "{name}");
        }
        code
    };
    for template in &templates[2..] {
        codes.push(claim(*template, "k-1").await);
    }
    codes.push(claim(templates[0], "k-2").await);
    assert_eq!(app.rows(templates[2]).await, []);
    codes.reverse();
    let newest_first = |wallet: &[Value]| {
        wallet.iter().map(|coupon| coupon["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>() == codes
    };
    let before = items(&app.get("u-1", "/v1/me/coupons", &[]).await);
    assert!(newest_first(&before), "{before:?}");
    assert_eq!(before[0]["value"], json!({"amount": "5.00"}));
    for limit in 1..=5 {
        assert_eq!(walk(&app, "u-1", "/v1/me/coupons?status=unused", limit).await, before, "pages of {limit}");
    }

    // While the rows are stored every reading is the same.
    app.restart_unready(1).await;
    until("all are stored", async || {
        assert_eq!(items(&app.get("u-1", "/v1/me/coupons", &[]).await), before);
        app.rows(templates[0]).await.len() == 2
    })
    .await;
    assert_eq!(walk(&app, "u-1", "/v1/me/coupons?status=unused", 2).await, before);
    app.stop().await;
}

#[tokio::test]
async fn a_wallet_is_filtered_paged_and_its_owners_alone() {
    let app = TestApp::start("wallet-pages").await;
    let mut template = coupons(100);
    template["limits"] = json!({"per_user": 10});
    let id = app.publish(template).await;
    let mut codes = Vec::new();
    for number in 0..7 {
        let answer = app.claim(id, "u-1", &format!("k-{number}"), &[]).await;
        codes.push(answer.json["coupon"]["code"].as_str().unwrap().to_owned());
    }
    let foreign = app.claim(id, "u-2", "k", &[]).await.json["coupon"]["code"].as_str().unwrap().to_owned();
    until("all are stored", async || app.rows(id).await.len() == 8).await;
    let change = format!(
        "UPDATE user_coupons SET status = serial WHERE template_id = {id} AND serial BETWEEN 2 AND 6;
         UPDATE user_coupons SET valid_from = now() - interval '2 days', expires_at = now() - interval '1 day'
         WHERE template_id = {id} AND serial = 7"
    );
    app.sql().await.batch_execute(&change).await.unwrap();
    let expected = [("unused", vec![1]), ("locked", vec![2]), ("offered", vec![3]), ("used", vec![4])];
    let expected = expected.into_iter().chain([("EXPIRED", vec![7, 5]), ("revoked", vec![6])]);
    for (status, serials) in expected {
        let found = walk(&app, "u-1", &format!("/v1/me/coupons?status={status}"), 1).await;
        assert_eq!(found.iter().map(|c| c["serial"].as_i64().unwrap()).collect::<Vec<_>>(), serials, "{status}");
        assert!(found.iter().all(|coupon| coupon["status"] == status.to_lowercase()), "{found:?}");
    }
    let all = walk(&app, "u-1", "/v1/me/coupons?", 3).await;
    assert_eq!(all.iter().map(|c| c["serial"].as_i64().unwrap()).collect::<Vec<_>>(), [7, 6, 5, 4, 3, 2, 1]);
    for bad in ["status=lost", "limit=0", "limit=101", "limit=x", "cursor=x", "cursor=MS4yLjMuNA"] {
        let answer = app.get("u-1", &format!("/v1/me/coupons?{bad}"), &[]).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{bad}: {answer:?}");
    }

    for (code, serial) in codes.iter().zip(1..) {
        assert_eq!(app.get("u-1", &format!("/v1/me/coupons/{code}"), &[]).await.json["serial"], serial);
    }
    // Another's, a mistyped one, and what is none: nobody can tell them apart.
    let mistyped = format!("{}{}", &codes[0][..25], if codes[0].ends_with('0') { '1' } else { '0' });
    let none = ["0".repeat(26), "Z".repeat(26), "x".into(), "%00".into(), "é".repeat(13), "4".repeat(4000)];
    let mut told: Vec<Value> = Vec::new();
    for code in [foreign, mistyped].iter().chain(&none) {
        let code: String = code.chars().map(|c| if c.is_ascii() { c.to_string() } else { "%C3%A9".into() }).collect();
        let answer = app.get("u-1", &format!("/v1/me/coupons/{code}"), &[]).await;
        assert_eq!((answer.status, answer.code()), (404, "coupon_not_found"), "{code}: {answer:?}");
        let mut body = answer.json.clone();
        body["request_id"] = Value::Null;
        told.push(body);
    }
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");
    app.stop().await;
}

#[tokio::test]
async fn the_claim_center_says_what_a_claim_would() {
    let app = TestApp::start("wallet-center").await;
    let window = |starts: i64, ends: i64| {
        let time = |at| rfc3339(chrono_tz::Tz::UTC, now_ms() + at);
        json!({"starts_at": time(starts), "ends_at": time(ends)})
    };
    let make = async |field: &str, value: Value| {
        let mut template = coupons(5);
        if !field.is_empty() {
            template[field] = value;
        }
        app.publish(template).await
    };
    let open = make("", Value::Null).await;
    let unlimited = make("stock", json!({"total": -1})).await;
    let paused = make("", Value::Null).await;
    let stopped = make("", Value::Null).await;
    let early = make("claim_window", window(DAY, 2 * DAY)).await;
    let over = make("claim_window", window(-2 * DAY, -DAY)).await;
    let gold = make("audience", json!({"levels": ["gold"]})).await;
    let in_app = make("audience", json!({"channels": ["app"]})).await;
    let held = make("", Value::Null).await;
    let sold = make("stock", json!({"total": 1})).await;
    let my_day = make("limits", json!({"per_user": 3, "per_user_daily": 1})).await;
    let the_day = make("stock", json!({"total": 5, "daily": 1})).await;
    app.pause(paused).await;
    app.end(stopped).await;
    for (template, user) in [(held, "u-1"), (sold, "u-9"), (my_day, "u-1"), (the_day, "u-9")] {
        assert_eq!(app.claim(template, user, "k", &[]).await.code(), "granted");
    }
    // Template -> the reason, what is left, how many this user holds.
    let expected = [
        (open, None, json!(5), 0),
        (unlimited, None, json!(null), 0),
        (paused, Some("template_inactive"), json!(5), 0),
        (early, Some("not_started"), json!(5), 0),
        (gold, Some("not_eligible"), json!(5), 0),
        (in_app, Some("not_eligible"), json!(5), 0),
        (held, Some("user_limit_reached"), json!(4), 1),
        (sold, Some("sold_out"), json!(0), 0),
        (my_day, Some("user_daily_limit_reached"), json!(4), 1),
        (the_day, Some("daily_limit_reached"), json!(4), 0),
    ];
    until("the gateway knows of the pause and the stop", async || {
        let reason = |answer: Answer| answer.json["reason"].clone();
        items(&app.get("u-1", "/v1/claim-center?limit=100", &[]).await).len() == expected.len()
            && reason(app.get("u-1", &format!("/v1/templates/{paused}"), &[]).await) == "template_inactive"
    })
    .await;
    let listed = items(&app.get("u-1", "/v1/claim-center?limit=100", &[]).await);
    for ((id, reason, remaining, held), seen) in expected.iter().zip(&listed) {
        assert_eq!(seen["id"], *id, "{seen}");
        assert_eq!((&seen["claimable"], &seen["reason"]), (&json!(reason.is_none()), &json!(reason)), "{seen}");
        assert_eq!((&seen["remaining"], seen["held"].as_array().unwrap().len()), (remaining, *held), "{seen}");
        let one = app.get("u-1", &format!("/v1/templates/{id}"), &[]).await;
        assert_eq!((&one.json["reason"], &one.json["held"]), (&seen["reason"], &seen["held"]));
        assert!(one.json["server_time"].is_string());
        // A claim says the same.
        let claim = app.claim(*id, "u-1", "", &[]).await;
        assert_eq!(claim.code(), reason.unwrap_or("granted"), "{seen}");
    }
    for (id, reason) in [(stopped, "template_inactive"), (over, "ended")] {
        assert_eq!(app.get("u-1", &format!("/v1/templates/{id}"), &[]).await.json["reason"], reason);
    }
    let paged = walk(&app, "u-1", "/v1/claim-center?", 3).await;
    let ids = |list: &[Value]| list.iter().map(|item| item["id"].as_i64().unwrap()).collect::<Vec<_>>();
    assert_eq!(ids(&paged), ids(&listed));

    // By channel, in the query or the header.
    let others = ids(&items(&app.get("u-2", "/v1/claim-center?limit=100&channel=web", &[]).await));
    assert!(!others.contains(&in_app) && others.len() == listed.len() - 1);
    let by_header = app.get("u-2", "/v1/claim-center?limit=100", &[("x-channel", "app")]).await;
    let seen = items(&by_header).into_iter().find(|item| item["id"] == in_app).unwrap();
    assert_eq!(seen["claimable"], true);
    assert_eq!(app.claim(in_app, "u-2", "", &[("x-channel", "app")]).await.code(), "granted");

    app.blacklist("user", "u-3").await;
    until("u-3 is told", async || {
        app.get("u-3", &format!("/v1/templates/{open}"), &[]).await.json["reason"] == "blocked"
    })
    .await;
    for path in ["/v1/templates/999999", "/v1/templates/abc", &format!("/v1/templates/{}", i64::MAX)] {
        assert_eq!(app.get("u-1", path, &[]).await.code(), "template_not_found", "{path}");
    }
    for bad in ["cursor=x", "limit=0", &format!("channel={}", "c".repeat(33))] {
        let answer = app.get("u-1", &format!("/v1/claim-center?{bad}"), &[]).await;
        assert_eq!(answer.code(), "invalid_request", "{bad}: {answer:?}");
    }
    let nobody = app.gateway(0).shop.send("GET", "/v1/claim-center", &[], "").await.unwrap();
    assert_eq!(nobody.code(), "unauthenticated");
    app.stop().await;
}
