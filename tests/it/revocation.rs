//! Coupons taken back by operators: one, a user's, a template's, through kills and beside a queue that is not
//! flushed.

use serde_json::{Value, json};

use super::support::app::{TestApp, coupons, until};
use super::support::ledger::{balances, issue, number, sweep_now};
use super::support::wire::{Answer, Client};

const PATH: &str = "/v1/admin/revocations";

async fn revoke(app: &TestApp, scope: Value) -> Answer {
    let mut body = scope;
    body["reason"] = json!("a test");
    app.call(app.keys().0, "POST", PATH, &[], body).await
}

async fn read(app: &TestApp, id: &Value) -> Value {
    app.call(app.keys().0, "GET", &format!("{PATH}/{id}"), &[], Value::Null).await.json
}

async fn done(app: &TestApp, id: &Value) -> Value {
    until("the revocation is done", async || read(app, id).await["status"] == "done").await;
    read(app, id).await
}

/// A coupon of this user, stored; its code.
async fn stored(app: &TestApp, template: i64, user: &str) -> String {
    let answer = app.claim(template, user, "k", &[]).await;
    assert_eq!(answer.code(), "granted", "{answer:?}");
    until("it is stored", async || app.rows(template).await.iter().any(|row| row.user == user)).await;
    answer.json["coupon"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn one_coupon_is_revoked_within_the_request() {
    let app = TestApp::start("revoke-one").await;
    let id = app.publish(coupons(10)).await;
    let code = stored(&app, id, "u-1").await;
    let key = [("idempotency-key", "once")];
    let body = json!({"coupon": code, "reason": "bought with a stolen card"});
    let made = app.call(app.keys().0, "POST", PATH, &key, body.clone()).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!((&made.json["status"], &made.json["revoked"]), (&json!("done"), &json!(1)));
    assert_eq!(made.json["scope"], json!({"coupon": code}));
    assert_eq!(made.json["left"], json!({"locked": 0, "used": 0, "expired": 0, "revoked": 0}));
    let again = app.call(app.keys().0, "POST", PATH, &key, body).await;
    assert_eq!((again.status, &again.json), (201, &made.json), "a repeat answers as it did");
    assert_eq!(read(&app, &made.json["id"]).await, made.json);

    assert_eq!(app.get("u-1", &format!("/v1/me/coupons/{code}"), &[]).await.json["status"], "revoked");
    // Redis keeps the receipt: the coupon counts for the user's limit, and its serial is gone.
    assert_eq!(app.claim(id, "u-1", "another", &[]).await.code(), "user_limit_reached");
    assert_eq!(app.claim(id, "u-2", "k", &[]).await.json["coupon"]["serial"], 2);
    let twice = revoke(&app, json!({"coupon": code})).await;
    assert_eq!(
        (twice.status, twice.code(), &twice.json["coupon_status"]),
        (409, "conflict", &json!("revoked")),
        "{twice:?}"
    );
    assert!(twice.json["detail"].as_str().unwrap().contains("revoked"), "{twice:?}");

    let written = "SELECT count(*) FROM coupon_operations WHERE operation = 'revoke' AND from_status = 1
        AND to_status = 6 AND cause_kind = 'revocation' AND cause_id = '1' AND actor LIKE 'key:%' AND user_ref = 'u-1'";
    assert_eq!(number(&app, written).await, 1);
    let told = "SELECT count(*) FROM events WHERE kind = 'coupon.revoked' AND serial = 1
        AND data = '{\"revocation_id\": \"1\"}'";
    assert_eq!(number(&app, told).await, 1);
    assert_eq!(number(&app, "SELECT sum(revoked) FROM coupon_counters").await, 1);
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'coupon.revoke' AND subject = 'revocation:1'
        AND actor LIKE 'key:%' AND after ->> 'reason' LIKE '%stolen card' AND before IS NULL";
    assert_eq!(number(&app, audited).await, 1);
    let kept = format!("SELECT count(*) FROM idempotency_keys WHERE answer LIKE '%{code}%'");
    assert_eq!(number(&app, &kept).await, 0, "codes are never stored");
    balances(&app);
    app.stop().await;
}

#[tokio::test]
async fn what_names_nothing_or_too_much_is_refused() {
    let app = TestApp::start("revoke-refused").await;
    let id = app.publish(coupons(10)).await;
    let code = stored(&app, id, "u-1").await;
    for (body, field) in [
        (json!({"reason": "r"}), "coupon"),
        (json!({"coupon": code, "user_id": "u-1", "reason": "r"}), "coupon"),
        (json!({"coupon": code, "template_id": id, "reason": "r"}), "coupon"),
        (json!({"coupon": code}), "reason"),
        (json!({"coupon": code, "reason": " "}), "reason"),
        (json!({"user_id": "u 1", "reason": "r"}), "user_id"),
        (json!({"template_id": 0, "reason": "r"}), "template_id"),
        (json!({"issuance_id": 0, "reason": "r"}), "issuance_id"),
        (json!({"issuance_id": 1, "template_id": id, "reason": "r"}), "coupon"),
    ] {
        let answer = app.call(app.keys().0, "POST", PATH, &[], body.clone()).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{body}");
        let fields: Vec<_> = answer.json["errors"].as_array().unwrap().iter().map(|e| e["field"].clone()).collect();
        assert!(fields.contains(&json!(field)), "{body}: {fields:?}");
    }
    for made_up in ["x", &"0".repeat(26)] {
        assert_eq!(revoke(&app, json!({"coupon": made_up})).await.code(), "coupon_not_found");
    }
    assert_eq!(revoke(&app, json!({"template_id": 999_999})).await.code(), "template_not_found");
    assert_eq!(revoke(&app, json!({"user_id": "u-1", "template_id": 999_999})).await.code(), "template_not_found");
    let on_sale = revoke(&app, json!({"template_id": id})).await;
    assert_eq!((on_sale.status, on_sale.code()), (409, "conflict"));
    assert!(on_sale.json["detail"].as_str().unwrap().contains("stop it first"), "{on_sale:?}");
    assert_eq!(app.call(app.keys().0, "GET", &format!("{PATH}/1"), &[], Value::Null).await.code(), "not_found");
    assert_eq!(number(&app, "SELECT count(*) FROM revocations").await, 0);
    assert_eq!(app.rows(id).await[0].status, 1);
    app.stop().await;
}

#[tokio::test]
async fn a_merchants_key_reaches_its_own_templates_only() {
    let app = TestApp::start("revoke-owners").await;
    let owned = |merchant: &str| {
        let mut template = coupons(10);
        template["issuer"] = json!("merchant");
        template["issuer_id"] = json!(merchant);
        template
    };
    let mut templates = Vec::new();
    for merchant in ["m-1", "m-2"] {
        let id = app.draft(owned(merchant)).await;
        for (key, action) in [(app.admin_key(), "submit"), (app.keys().1, "approve"), (app.admin_key(), "publish")] {
            let done = app.act(key, id, action).await;
            assert_eq!(done.status, 200, "{action}: {done:?}");
        }
        templates.push(id);
    }
    until("both are known", async || {
        app.gateway(0).metric("floodgate_snapshot_templates").await.is_some_and(|known| known >= 2.0)
    })
    .await;
    let mine = stored(&app, templates[0], "u-1").await;
    let others = stored(&app, templates[1], "u-1").await;
    let body = json!({"name": "m", "role": "operator", "owner_type": "merchant", "owner_id": "m-1"});
    let key = app.call(app.admin_key(), "POST", "/v1/admin/api-keys", &[], body).await;
    let key = key.json["key"].as_str().unwrap().to_owned();
    let call = async |method: &str, path: &str, body: Value| app.call(&key, method, path, &[], body).await;

    let foreign = call("POST", PATH, json!({"coupon": others, "reason": "r"})).await;
    assert_eq!(foreign.code(), "coupon_not_found");
    let foreign = call("POST", PATH, json!({"template_id": templates[1], "reason": "r"})).await;
    assert_eq!(foreign.code(), "template_not_found");
    // The platform's revocation is not the merchant's to see.
    let platforms = revoke(&app, json!({"user_id": "nobody"})).await;
    assert_eq!(call("GET", &format!("{PATH}/{}", platforms.json["id"]), Value::Null).await.code(), "not_found");

    let made = call("POST", PATH, json!({"user_id": "u-1", "reason": "r"})).await;
    assert_eq!((made.status, &made.json["scope"]), (201, &json!({"user_id": "u-1"})), "{made:?}");
    assert_eq!(done(&app, &made.json["id"]).await["revoked"], 1, "of its own templates alone");
    let status = async |code: &str| app.get("u-1", &format!("/v1/me/coupons/{code}"), &[]).await.json["status"].clone();
    assert_eq!((status(&mine).await, status(&others).await), (json!("revoked"), json!("unused")));
    let listed = call("GET", PATH, Value::Null).await;
    assert_eq!(listed.json["items"].as_array().unwrap().len(), 1, "{listed:?}");
    balances(&app);
    app.stop().await;
}

#[tokio::test]
async fn a_users_coupons_granted_until_then_are_revoked_though_they_wait_on_the_queue() {
    let mut app = TestApp::plan("revoke-user")
        .set("CLAIM_POSTGRES_WAIT_MS", 30_000)
        .process("gateway,worker")
        .process("flusher")
        .start()
        .await;
    let mut template = coupons(100);
    template["limits"] = json!({"per_user": 5});
    let (one, two) = (app.publish(template).await, app.publish(coupons(100)).await);
    stored(&app, one, "u-1").await;
    stored(&app, one, "u-2").await;
    app.kill9(1);
    assert_eq!(app.claim(one, "u-1", "queued", &[]).await.code(), "granted");
    let code = app.claim(two, "u-1", "k", &[]).await.json["coupon"]["code"].as_str().unwrap().to_owned();
    let made = revoke(&app, json!({"user_id": "u-1", "template_id": one})).await;
    assert_eq!((made.status, &made.json["status"]), (201, &json!("pending")), "{made:?}");
    // What comes after it is not its.
    assert_eq!(app.claim(one, "u-1", "later", &[]).await.code(), "granted");
    assert_eq!(read(&app, &made.json["id"]).await["status"], "pending");

    // One that is not stored yet is waited for.
    let (key, address) = (format!("Bearer {}", app.keys().0), app.gateway(0).internal_address().to_owned());
    let waiting = tokio::spawn(async move {
        let body = json!({"coupon": code, "reason": "r"}).to_string();
        Client::new(&address).send("POST", PATH, &[("authorization", &key)], body).await.unwrap()
    });
    until("somebody waits", async || app.gateway(0).metric("floodgate_ack_waiting").await == Some(1.0)).await;
    app.restart_unready(1).await;
    let single = waiting.await.unwrap();
    assert_eq!((single.status, &single.json["status"]), (201, &json!("done")), "{single:?}");
    let finished = done(&app, &made.json["id"]).await;
    assert_eq!((&finished["revoked"], &finished["scope"]["user_id"]), (&json!(2), &json!("u-1")), "{finished}");
    until("the last one is stored", async || app.rows(one).await.len() == 4).await;
    let states: Vec<_> = app.rows(one).await.into_iter().map(|row| (row.serial, row.status)).collect();
    assert_eq!(states, [(1, 6), (2, 1), (3, 6), (4, 1)]);
    balances(&app);
    app.stop().await;
}

#[tokio::test]
async fn what_an_issuance_gave_out_is_revoked_and_nothing_else() {
    let app = TestApp::start("revoke-issuance").await;
    let mut of_merchant = coupons(100);
    of_merchant["issuer"] = "merchant".into();
    of_merchant["issuer_id"] = "m-1".into();
    let (one, two) = (app.publish(coupons(100)).await, app.publish(of_merchant).await);
    for user in ["u-1", "u-2", "u-3"] {
        stored(&app, one, user).await;
        stored(&app, two, user).await;
    }
    // As a bulk distribution writes them: the first two of each template, one of them used since.
    let given = "UPDATE user_coupons SET issuance_id = 7 WHERE serial <= 2;
        UPDATE user_coupons SET issuance_id = 8, status = 4 WHERE serial = 3";
    app.sql().await.batch_execute(given).await.unwrap();
    // A merchant's key reaches the merchant's part of it.
    let key = json!({"name": "m", "role": "operator", "owner_type": "merchant", "owner_id": "m-1"});
    let key = app.call(app.admin_key(), "POST", "/v1/admin/api-keys", &[], key).await.json["key"].clone();
    let body = json!({"issuance_id": 7, "reason": "given by mistake"});
    let theirs = app.call(key.as_str().unwrap(), "POST", PATH, &[], body).await;
    assert_eq!(theirs.status, 201, "{theirs:?}");
    assert_eq!(done(&app, &theirs.json["id"]).await["revoked"], 2);
    let made = revoke(&app, json!({"issuance_id": 7})).await;
    assert_eq!((made.status, &made.json["scope"]), (201, &json!({"issuance_id": 7})), "{made:?}");
    let finished = done(&app, &made.json["id"]).await;
    assert_eq!((&finished["revoked"], &finished["left"]["revoked"]), (&json!(2), &json!(2)), "{finished}");
    let other = revoke(&app, json!({"issuance_id": 8})).await;
    let finished = done(&app, &other.json["id"]).await;
    assert_eq!((&finished["revoked"], &finished["left"]["used"]), (&json!(0), &json!(2)), "{finished}");
    for id in [one, two] {
        let states: Vec<_> = app.rows(id).await.into_iter().map(|row| row.status).collect();
        assert_eq!(states, [6, 6, 4]);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_stopped_templates_revocation_waits_for_what_is_queued() {
    let mut app = TestApp::plan("revoke-queued").process("gateway,worker").process("flusher").start().await;
    let id = app.publish(coupons(100)).await;
    app.kill9(1);
    for user in 0..20 {
        assert_eq!(app.claim(id, &format!("u-{user}"), "k", &[]).await.code(), "granted");
    }
    app.end(id).await;
    let made = revoke(&app, json!({"template_id": id})).await;
    assert_eq!((made.status, &made.json["status"]), (201, &json!("pending")), "{made:?}");
    until("it is seen to wait", async || {
        app.gateway(0).metric("floodgate_revocations_open").await.is_some_and(|open| open == 1.0)
    })
    .await;
    assert_eq!(read(&app, &made.json["id"]).await["started_at"], Value::Null);
    app.restart_unready(1).await;
    assert_eq!(done(&app, &made.json["id"]).await["revoked"], 20);
    assert!(app.rows(id).await.iter().all(|row| row.status == 6));
    balances(&app);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_revocation_goes_on_and_revokes_each_coupon_once() {
    const COUPONS: i64 = 30_000;
    let plan = TestApp::plan("revoke-killed").process("gateway,flusher").process("worker").process("worker");
    let mut app = plan.start().await;
    let (id, other) = (app.publish(coupons(COUPONS)).await, app.publish(coupons(COUPONS)).await);
    for template in [id, other] {
        issue(&app, template, 1..=200, "now() - interval '1 day'").await;
        issue(&app, template, 201..=COUPONS, "now() + interval '1 day'").await;
        // Ten are in an order's hands.
        let locked = format!(
            "UPDATE user_coupons SET status = 2 WHERE template_id = {template} AND serial BETWEEN 211 AND 220;
             INSERT INTO coupon_operations (template_id, serial, operation, from_status, to_status, user_ref,
                 gift_generation, cause_kind, cause_id, actor)
             SELECT {template}, n, 'lock', 1, 2, 'holder-' || n, 0, 'order', 'o', 'key:1' FROM generate_series(211, 220) n;
             INSERT INTO coupon_counters (template_id, day, slot, locked)
             VALUES ({template}, (now() AT TIME ZONE 'Asia/Shanghai')::date, 99, 10);
             INSERT INTO redemptions (order_id, status, discount_total) VALUES ('o-{template}', 'locked', 50);
             INSERT INTO redemption_coupons (order_id, template_id, serial, epoch, gift_generation, position, state,
                 user_ref, kind, issuer, issuer_id, discount, shares, valid_from, expires_at)
             SELECT 'o-{template}', {template}, n, 1, 0, n - 211, 'locked', 'holder-' || n, 'cash_voucher', 'platform', '', 5,
                 '{{\"lines\": [{{\"line_id\": \"1\", \"share\": \"5.00\"}}], \"shipping\": [], \"gifts\": []}}', now(), now()
             FROM generate_series(211, 220) n"
        );
        app.sql().await.batch_execute(&locked).await.unwrap();
        app.end(template).await;
    }
    let mut made = Vec::new();
    for template in [id, other] {
        let answer = revoke(&app, json!({"template_id": template})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        made.push(answer.json["id"].clone());
    }
    let revoked = async |app: &TestApp| number(app, "SELECT sum(revoked) FROM revocations").await;
    for _ in 0..3 {
        let before = revoked(&app).await;
        until("it goes on", async || revoked(&app).await >= before + 4_000).await;
        for worker in [1, 2] {
            app.kill9(worker);
        }
        assert!(revoked(&app).await < 2 * COUPONS - 1_000, "killed in the middle");
        for worker in [1, 2] {
            app.restart_unready(worker).await;
        }
    }
    for revocation in &made {
        let finished = done(&app, revocation).await;
        let left = json!({"locked": 10, "used": 0, "expired": 200, "revoked": 0});
        assert_eq!((&finished["revoked"], &finished["left"]), (&json!(COUPONS - 210), &left), "{finished}");
    }
    let twice = "SELECT count(*) FROM (SELECT FROM coupon_operations WHERE operation = 'revoke'
        GROUP BY template_id, serial HAVING count(*) > 1) AS twice";
    assert_eq!(number(&app, twice).await, 0);
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'coupon.revoke' AND actor = 'worker:revocation'
        AND after ->> 'status' = 'done'";
    assert_eq!(number(&app, audited).await, 2, "what each came to");
    let told = "SELECT count(DISTINCT (template_id, serial)) FROM events WHERE kind = 'coupon.revoked'";
    assert_eq!(number(&app, told).await, 2 * (COUPONS - 210));
    // Once more: nothing is left to do, and that is said.
    let again = revoke(&app, json!({"template_id": id})).await;
    let finished = done(&app, &again.json["id"]).await;
    assert_eq!((&finished["revoked"], &finished["left"]["revoked"]), (&json!(0), &json!(COUPONS - 210)));
    sweep_now(&app).await;
    until("what is over is swept", async || {
        number(&app, "SELECT count(*) FROM user_coupons WHERE status = 5").await == 400
    })
    .await;
    balances(&app);
    let listed = app.call(app.keys().0, "GET", &format!("{PATH}?status=done&limit=2"), &[], Value::Null).await;
    let ids: Vec<_> = listed.json["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
    assert_eq!(ids, [again.json["id"].clone(), made[1].clone()]);
    let next = format!("{PATH}?status=done&cursor={}", listed.json["next_cursor"].as_str().unwrap());
    assert_eq!(app.call(app.keys().0, "GET", &next, &[], Value::Null).await.json["items"][0]["id"], made[0]);
    app.stop().await;
}
