//! An order's use of coupons over HTTP with real stores: locks, confirms, cancels, refunds.

mod beside;
mod refunds;
mod times;

use serde_json::{Value, json};

use super::support::app::{TestApp, until};
use super::support::till::{Till, of_merchant, order, reduction, template, voucher};

/// No limit on checkouts, which else allow one a minute.
async fn till(name: &str) -> Till {
    Till::open(TestApp::plan(name).set("REDEMPTION_CHECKOUTS_LIMIT", 0).start().await).await
}

fn duck(id: &str, user: &str) -> Value {
    order(id, user, &[("d-101", "cat-roast-duck", "m-1", "80.00"), ("d-202", "cat-cold", "m-2", "40.00")])
}

/// What the settlement entries of an order come to: pairs that balance, and who is owed what.
async fn settled(till: &Till, order: &str) -> (bool, String) {
    let balance = format!(
        "SELECT coalesce(bool_and(sum = 0 AND count = 2), true) FROM (SELECT sum(amount), count(*) FROM settlement_entries
         WHERE order_id = '{order}' GROUP BY entry) e"
    );
    let balanced = till.app.sql().await.query_one(&balance, &[]).await.unwrap().get(0);
    let parties = format!(
        "SELECT coalesce(string_agg(line, ' ' ORDER BY line), '') FROM (SELECT party || ':' || party_id || '=' ||
         trim_scale(sum(amount)) AS line FROM settlement_entries WHERE order_id = '{order}' GROUP BY party, party_id) p"
    );
    (balanced, till.text(&parties).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_quoted_is_locked_and_what_is_locked_is_confirmed() {
    let till = till("redeem-whole").await;
    let (id, platform) = till.coupon(reduction(), "u-1").await;
    let (_, merchant) = till.coupon(of_merchant(voucher("3.00"), "m-2"), "u-1").await;
    let (_, shipping) = till.coupon(template("shipping", json!({"amount": "5.00"}), &[]), "u-1").await;
    let mut o1 = duck("o-1", "u-1");
    o1["shipping"] = json!([{"merchant_id": "m-1", "fee": "8.00"}]);
    let codes = [platform.as_str(), &merchant, &shipping];
    let asked = json!({"order": o1, "coupons": codes, "mode": "given"});
    let quote = till.call("POST", "/v1/quotes", asked).await.json;
    let locked = till.locked(&o1, &codes).await;
    for field in ["currency", "goods_total", "shipping_total", "discount_total", "payable", "coupons", "gifts"] {
        assert_eq!(locked[field], quote[field], "{field}");
    }
    assert_eq!((&locked["discount_total"], &locked["payable"]), (&json!("28.00"), &json!("100.00")));
    let who = (&locked["status"], &locked["order_id"], &locked["checkout_id"], &locked["user_id"], &locked["used_at"]);
    assert_eq!(who, (&json!("locked"), &json!("o-1"), &json!("o-1"), &json!("u-1"), &Value::Null));
    assert_eq!(till.status("u-1", &platform).await, "locked");

    // The same again, and the read, say the same.
    let again = till.lock(&o1, &codes).await;
    assert_eq!((again.status, &again.json), (200, &locked));
    let read = till.redemption("o-1").await;
    assert_eq!((read.status, &read.json), (200, &locked));

    let confirmed = till.confirm("o-1").await;
    assert_eq!((confirmed.status, &confirmed.json["status"]), (200, &json!("used")));
    assert!(confirmed.json["used_at"].is_string());
    for field in ["discount_total", "payable", "coupons", "gifts", "lock_expires_at"] {
        assert_eq!(confirmed.json[field], locked[field], "{field}");
    }
    for (call, answer) in [
        ("confirm", till.confirm("o-1").await),
        ("read", till.redemption("o-1").await),
        ("lock", till.lock(&o1, &codes).await),
    ] {
        assert_eq!((answer.status, &answer.json), (200, &confirmed.json), "{call}");
    }
    assert_eq!(till.status("u-1", &platform).await, "used");
    let cancel = till.cancel("o-1").await;
    assert_eq!((cancel.status, cancel.code()), (409, "redemption_used"));
    let other = till.lock(&duck("o-2", "u-1"), &[&platform]).await;
    assert_eq!((other.status, other.code()), (409, "coupon_used"));
    assert_eq!(other.json["coupon"], json!(platform));

    assert_eq!(till.trace(id).await, ["lock 1>2 order o-1", "confirm 2>4 order o-1"]);
    // 20 off 120 and 3 off 37: the merchants get what they sold for less, the issuers pay. 5 off the fee of m-1.
    let (balanced, parties) = settled(&till, "o-1").await;
    assert!(balanced);
    let shares = |at: usize| locked["coupons"][at]["lines"].to_string();
    assert_eq!(parties, "merchant:m-1=18.68 merchant:m-2=6.32 platform:=-25", "{} {}", shares(0), shares(1));
    // Every call brought an Idempotency-Key: what is remembered of it says neither whose nor which coupons.
    let plain = "SELECT count(*) FROM idempotency_keys WHERE answer LIKE '%o-1%' OR sealed IS NULL AND answer IS NULL";
    assert_eq!(till.number(plain).await, 0);
    let told = "SELECT count(*) FROM events WHERE kind = 'coupon.used' AND data ->> 'order_id' = 'o-1'";
    assert_eq!(till.number(told).await, 3);
    let counted = format!(
        "SELECT concat_ws(' ', sum(locked), sum(used), sum(orders), trim_scale(sum(discount_total)),
         trim_scale(sum(revenue))) FROM coupon_counters WHERE template_id = {id}"
    );
    assert_eq!(till.text(&counted).await, "0 1 1 20 100");
    till.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_order_gives_its_coupons_back_once() {
    let till = till("redeem-cancel").await;
    let (id, code) = till.coupon(reduction(), "u-1").await;
    till.locked(&duck("o-1", "u-1"), &[&code]).await;
    let cancelled = till.cancel("o-1").await;
    assert_eq!((cancelled.status, &cancelled.json["status"]), (200, &json!("cancelled")));
    let again = till.cancel("o-1").await;
    assert_eq!((again.status, &again.json), (200, &cancelled.json));
    assert_eq!(till.status("u-1", &code).await, "unused");
    for refused in [till.confirm("o-1").await, till.lock(&duck("o-1", "u-1"), &[&code]).await] {
        assert_eq!((refused.status, refused.code()), (409, "redemption_cancelled"));
    }
    // Another order takes the coupon; its cancel is its own.
    till.locked(&duck("o-2", "u-1"), &[&code]).await;
    till.cancel("o-1").await;
    assert_eq!(till.status("u-1", &code).await, "locked");

    // A cancel that comes before its lock.
    let early = till.cancel("o-3").await;
    assert_eq!((early.status, &early.json["status"], &early.json["user_id"]), (200, &json!("cancelled"), &Value::Null));
    assert_eq!(till.cancel("o-3").await.json, early.json);
    assert_eq!(till.redemption("o-3").await.json, early.json);
    let late = till.lock(&duck("o-3", "u-1"), &[&code]).await;
    assert_eq!((late.status, late.code()), (409, "redemption_cancelled"));
    let refused = till.confirm("o-3").await;
    assert_eq!((refused.status, refused.code()), (409, "redemption_cancelled"));
    assert_eq!(till.trace(id).await, ["lock 1>2 order o-1", "cancel 2>1 order o-1", "lock 1>2 order o-2"]);
    till.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_locked_says_why_and_nothing_changes() {
    let till = till("redeem-refusals").await;
    let (_, good) = till.coupon(voucher("1.00"), "u-1").await;
    let (mine, code) = till.coupon(reduction(), "u-1").await;
    let (_, theirs) = till.coupon(voucher("1.00"), "u-2").await;
    let o = |id: &str| duck(id, "u-1");
    // Unknown codes, and another's, are told apart by nothing, on an order that is known either.
    let unknown = till.lock(&o("o-1"), &[&good, "4F7K4F7K4F7K4F7K4F7K4F7K4F"]).await;
    let others = till.lock(&o("o-1"), &[&good, &theirs]).await;
    assert_eq!((others.status, others.code()), (409, "coupon_not_yours"));
    let without = |mut answer: Value| {
        answer["request_id"].take();
        answer["coupon"].take();
        answer
    };
    assert_eq!(without(unknown.json), without(others.json));

    till.locked(&o("o-0"), &[&code]).await;
    let refused = till.lock(&o("o-1"), &[&good, &code]).await;
    assert_eq!((refused.status, refused.code()), (409, "coupon_locked"));
    till.cancel("o-0").await;
    for (set, status, expected) in [
        ("status = 6", 409, "coupon_revoked"),
        ("status = 4", 409, "coupon_used"),
        ("status = 5", 409, "coupon_expired"),
        ("status = 1, expires_at = now() - interval '1 second'", 409, "coupon_expired"),
        ("status = 3, expires_at = now() + interval '1 day'", 422, "offered"),
        ("status = 1, valid_from = now() + interval '1 hour'", 422, "not_yet_valid"),
    ] {
        till.alter(mine, set).await;
        let refused = till.lock(&o("o-1"), &[&good, &code]).await;
        let reason = refused.json["unusable"][0]["reason"].as_str().unwrap_or(refused.code());
        assert_eq!((refused.status, reason), (status, expected), "{set}: {refused:?}");
    }
    till.alter(mine, "status = 1, valid_from = now()").await;

    let small = order("o-1", "u-1", &[("d", "c", "m-1", "99.00")]);
    let refused = till.lock(&small, &[&good, &code]).await;
    assert_eq!((refused.status, refused.code()), (422, "not_applicable"));
    let unusable = &refused.json["unusable"];
    assert_eq!(
        (unusable[0]["reason"].as_str(), unusable[0]["missing"]["amount"].as_str()),
        (Some("minimum_spend"), Some("1.00"))
    );
    // Two platform coupons do not stack.
    let refused = till.lock(&o("o-1"), &[&good, &code]).await;
    assert_eq!((refused.status, refused.json["unusable"][0]["reason"].as_str()), (422, Some("not_stackable")));

    let body = json!({"order": o("o-1"), "coupons": [code], "expected_discount": "19.99"});
    let changed = till.call("POST", "/v1/redemptions", body.clone()).await;
    assert_eq!((changed.status, changed.code()), (409, "price_changed"));
    assert_eq!((&changed.json["discount_total"], &changed.json["payable"]), (&json!("20.00"), &json!("100.00")));
    for (change, field) in [
        (json!({"coupons": [code, code]}), "coupons[1]"),
        (json!({"coupons": []}), "coupons"),
        (json!({"coupons": null}), "coupons"),
        (json!({"lock_seconds": 0}), "lock_seconds"),
        (json!({"colour": 1}), "colour"),
        (json!({"order": {"currency": "CNY"}}), "order.order_id"),
    ] {
        let mut bad = body.clone();
        bad.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = till.call("POST", "/v1/redemptions", bad).await;
        assert_eq!((refused.status, refused.json["errors"][0]["field"].as_str()), (400, Some(field)), "{refused:?}");
    }
    assert_eq!(till.redemption("o-1").await.code(), "redemption_not_found");
    assert_eq!(till.confirm("o-1").await.code(), "redemption_not_found");

    // Nothing of all that changed anything; the expected discount is right at last.
    assert_eq!((till.status("u-1", &good).await, till.status("u-1", &code).await), ("unused".into(), "unused".into()));
    let mut body = body;
    body["expected_discount"] = json!(20);
    let locked = till.call("POST", "/v1/redemptions", body.clone()).await;
    assert_eq!(locked.status, 201, "{locked:?}");
    body["lock_seconds"] = 60.into();
    let mismatch = till.call("POST", "/v1/redemptions", body).await;
    assert_eq!((mismatch.status, mismatch.code()), (422, "idempotency_mismatch"));
    let stranger = till.lock(&duck("o-1", "u-2"), &[&theirs]).await;
    assert_eq!((stranger.status, stranger.code()), (422, "idempotency_mismatch"));
    assert_eq!(till.status("u-2", &theirs).await, "unused");
    till.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_locks_one_checkout_a_minute_and_uses_as_many_as_a_template_allows() {
    let till = Till::open(TestApp::start("redeem-limits").await).await;
    let mut plenty = voucher("1.00");
    plenty["limits"] = json!({"per_user": 5, "use_per_user": 2});
    let id = till.app.publish(plenty).await;
    let mut codes = Vec::new();
    for _ in 0..4 {
        codes.push(till.claim(id, "u-1").await);
    }
    let with = |order: &str, checkout: &str| {
        let mut body = duck(order, "u-1");
        body["checkout_id"] = checkout.into();
        body
    };
    let first = with("o-1", "c-1");
    till.locked(&first, &[&codes[0]]).await;
    let soon = till.lock(&with("o-2", "c-2"), &[&codes[1]]).await;
    assert_eq!((soon.status, soon.code()), (409, "use_limit_reached"));
    assert!((1..=60).contains(&soon.retry_after().unwrap()), "{soon:?}");
    // Another order of the same checkout is no other checkout; a repeat is none at all; confirming is free.
    till.locked(&with("o-3", "c-1"), &[&codes[1]]).await;
    assert_eq!(till.lock(&first, &[&codes[0]]).await.status, 200);
    assert_eq!(till.confirm("o-1").await.status, 200);
    let third = till.lock(&with("o-4", "c-1"), &[&codes[2]]).await;
    assert_eq!((third.status, third.code(), &third.json["template_id"]), (409, "use_limit_reached", &json!(id)));
    // What is given free may be used again.
    till.cancel("o-3").await;
    till.locked(&with("o-5", "c-1"), &[&codes[2]]).await;
    // Parallel checkouts of one user: one of them is the first.
    let free = till.app.publish(voucher("1.00")).await;
    let one = till.claim(free, "u-2").await;
    let two = till.claim(till.app.publish(voucher("1.00")).await, "u-2").await;
    let (a, b) = (duck("o-6", "u-2"), duck("o-7", "u-2"));
    let (one, two) = ([one.as_str()], [two.as_str()]);
    let (a, b) = tokio::join!(till.lock(&a, &one), till.lock(&b, &two));
    let mut statuses = [a.status, b.status];
    statuses.sort();
    assert_eq!(statuses, [201, 409]);
    till.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_calls_do_it_once() {
    let app = TestApp::plan("redeem-parallel").set("REDEMPTION_CHECKOUTS_LIMIT", 0);
    let app = app.process("gateway,flusher,worker").process("gateway,worker").start().await;
    let till = Till::open(app).await;
    let (id, code) = till.coupon(reduction(), "u-1").await;
    let codes = [code.as_str()];
    let sent = |gateway: usize, path: String, body: String| {
        let till = &till;
        async move {
            let bearer = format!("Bearer {}", till.service);
            let headers = [("authorization", bearer.as_str())];
            till.app.gateway(gateway).office.send("POST", &path, &headers, body).await.unwrap()
        }
    };
    // Twelve orders want one coupon.
    let orders: Vec<Value> = (0..12).map(|at| duck(&format!("o-{at}"), "u-1")).collect();
    let calls = orders.iter().enumerate().map(|(at, order)| {
        sent(at % 2, "/v1/redemptions".into(), json!({"order": order, "coupons": codes}).to_string())
    });
    let answers = futures_util::future::join_all(calls).await;
    let won: Vec<usize> = (0..12).filter(|at| answers[*at].status == 201).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    assert!(answers.iter().all(|answer| answer.status == 201 || answer.code() == "coupon_locked"), "{answers:?}");
    let order = orders[won[0]]["order_id"].as_str().unwrap().to_owned();
    // Confirms and cancels of it at once: one kind wins, whole.
    let calls = (0..12).map(|at| {
        let verb = if at % 3 == 0 { "cancel" } else { "confirm" };
        sent(at % 2, format!("/v1/redemptions/{order}/{verb}"), String::new())
    });
    let answers = futures_util::future::join_all(calls).await;
    let status = till.redemption(&order).await.json["status"].as_str().unwrap().to_owned();
    let (own, other) = match status.as_str() {
        "used" => ("confirm", "redemption_used"),
        _ => ("cancel", "redemption_cancelled"),
    };
    for (at, answer) in answers.iter().enumerate() {
        let verb = if at % 3 == 0 { "cancel" } else { "confirm" };
        assert_eq!(answer.status == 200, verb == own, "{verb}: {answer:?}");
        assert!(answer.status == 200 || answer.code() == other, "{answer:?}");
    }
    assert_eq!(till.trace(id).await.len(), 2);

    // The same order twelve times: one lock, and its replays.
    let (again, code) = till.coupon(reduction(), "u-2").await;
    let body = json!({"order": duck("o-same", "u-2"), "coupons": [code]}).to_string();
    let calls = (0..12).map(|at| sent(at % 2, "/v1/redemptions".into(), body.clone()));
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|answer| [200, 201].contains(&answer.status) && answer.json == answers[0].json));
    assert_eq!(till.trace(again).await, ["lock 1>2 order o-same"]);
    till.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_is_locked_a_moment_after_its_grant_or_a_bounded_while_later() {
    let plan = TestApp::plan("redeem-fresh").set("CLAIM_POSTGRES_WAIT_MS", 300);
    let mut till = Till::open(plan.process("gateway,worker").process("flusher").start().await).await;
    let (id, code) = till.coupon(reduction(), "u-1").await;
    till.locked(&duck("o-1", "u-1"), &[&code]).await;
    till.app.signal(1, libc::SIGSTOP);
    let late = till.claim(id, "u-2").await;
    let waits = till.lock(&duck("o-2", "u-2"), &[&late]).await;
    assert_eq!((waits.status, waits.code()), (503, "unavailable"), "{waits:?}");
    assert!(waits.retry_after().is_some());
    till.app.signal(1, libc::SIGCONT);
    until("the coupon is stored and locked", async || till.lock(&duck("o-2", "u-2"), &[&late]).await.status == 201)
        .await;
    till.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_owners() {
    let till = till("redeem-roles").await;
    let (operator, _) = till.app.keys();
    let support = till.app.api_key("support").await;
    let key = json!({"name": "shop", "role": "service", "owner_type": "merchant", "owner_id": "m-1"});
    let made = till.app.call(till.app.admin_key(), "POST", "/v1/admin/api-keys", &[], key).await;
    let merchant = made.json["key"].as_str().unwrap().to_owned();
    for (key, expected) in [(operator, 403), (support.as_str(), 404), (merchant.as_str(), 403), (&till.service, 404)] {
        let read = till.app.call(key, "GET", "/v1/redemptions/o-1", &[], Value::Null).await;
        assert_eq!(read.status, expected, "{read:?}");
    }
    for key in [operator, support.as_str(), &merchant] {
        let refused = till.app.call(key, "POST", "/v1/redemptions/o-1/cancel", &[], Value::Null).await;
        assert_eq!(refused.status, 403, "{refused:?}");
    }
    for order in ["o".repeat(65), "%00".into(), "a%0ab".into()] {
        for answer in [till.cancel(&order).await, till.confirm(&order).await, till.redemption(&order).await] {
            assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{order}");
        }
    }
    till.close().await;
}
