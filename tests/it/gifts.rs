//! Coupons given from one user to another, over HTTP and with real stores.

mod races;

use serde_json::{Value, json};

use super::support::app::{TestApp, coupons, until};
use super::support::ledger::{balances, number, sweep_now};
use super::support::wire::{Answer, Client};

/// A shopper's call without a body.
async fn ask(app: &TestApp, user: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let bearer = format!("Bearer {}", app.token(user));
    let mut all = vec![("authorization", bearer.as_str())];
    all.extend_from_slice(headers);
    app.gateway(0).shop.send(method, path, &all, "").await.unwrap()
}

async fn offer(app: &TestApp, user: &str, code: &str) -> Answer {
    ask(app, user, "POST", &format!("/v1/me/coupons/{code}/gifts"), &[]).await
}

/// Offers and returns the token.
async fn offered(app: &TestApp, user: &str, code: &str) -> String {
    let answer = offer(app, user, code).await;
    assert_eq!((answer.status, answer.json["gift"]["state"].as_str()), (201, Some("offered")), "{answer:?}");
    answer.json["token"].as_str().unwrap().to_owned()
}

async fn accept(app: &TestApp, user: &str, token: &str) -> Answer {
    ask(app, user, "POST", &format!("/v1/gifts/{token}/accept"), &[]).await
}

/// Accepts and returns the new code.
async fn accepted(app: &TestApp, user: &str, token: &str) -> String {
    let answer = accept(app, user, token).await;
    assert_eq!((answer.status, answer.json["gift"]["state"].as_str()), (200, Some("accepted")), "{answer:?}");
    answer.json["coupon"]["code"].as_str().unwrap().to_owned()
}

async fn decline(app: &TestApp, user: &str, token: &str) -> Answer {
    ask(app, user, "POST", &format!("/v1/gifts/{token}/decline"), &[]).await
}

async fn withdraw(app: &TestApp, user: &str, token: &str) -> Answer {
    ask(app, user, "DELETE", &format!("/v1/gifts/{token}"), &[]).await
}

/// A granted claim's code.
async fn claimed(app: &TestApp, template: i64, user: &str, key: &str) -> String {
    let answer = app.claim(template, user, key, &[]).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json["coupon"]["code"].as_str().unwrap().to_owned()
}

async fn wallet(app: &TestApp, user: &str) -> Vec<Value> {
    app.get(user, "/v1/me/coupons", &[]).await.json["items"].as_array().unwrap().clone()
}

async fn listed(app: &TestApp, user: &str, direction: &str) -> Vec<Value> {
    let answer = app.get(user, &format!("/v1/me/gifts?direction={direction}"), &[]).await;
    answer.json["items"].as_array().unwrap_or_else(|| panic!("{answer:?}")).clone()
}

/// A template with these gift terms and per-user limit.
fn template(per_user: i64, gift: Value) -> Value {
    let mut template = coupons(100);
    template["limits"] = json!({"per_user": per_user});
    template["gift"] = gift;
    template
}

/// The trace of a coupon: operation, from, to, holder, generation.
async fn trace(app: &TestApp, template: i64, serial: i64) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', operation, from_status, to_status, user_ref, gift_generation, cause_kind)
        FROM coupon_operations WHERE template_id = $1 AND serial = $2 ORDER BY id";
    let rows = app.sql().await.query(sql, &[&(template as i32), &serial]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// An operator takes a coupon back.
async fn revoke(app: &TestApp, code: &str) -> Answer {
    let body = json!({"coupon": code, "reason": "a test"});
    app.call(app.keys().0, "POST", "/v1/admin/revocations", &[], body).await
}

fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
}

#[tokio::test]
async fn a_gift_changes_hands_and_its_old_code_dies() {
    let app = TestApp::start("gifts-hands").await;
    let id = app.publish(coupons(10)).await;
    let granted = app.claim(id, "giver", "k-1", &[]).await;
    let code = granted.json["coupon"]["code"].as_str().unwrap();
    // At once: its row need not be there.
    let answer = offer(&app, "giver", code).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let (gift, token) = (&answer.json["gift"], answer.json["token"].as_str().unwrap());
    let coupon = app.get("giver", &format!("/v1/me/coupons/{code}"), &[]).await.json;
    assert_eq!((&coupon["status"], &coupon["offer"]["gift_id"]), (&json!("offered"), &gift["id"]), "{coupon}");
    assert_eq!(coupon["offer"]["expires_at"], gift["expires_at"]);
    refused(&offer(&app, "giver", code).await, 409, "coupon_offered");
    assert_eq!(wallet(&app, "giver").await, std::slice::from_ref(&coupon));
    assert_eq!(listed(&app, "giver", "given").await, std::slice::from_ref(gift));

    let answer = accept(&app, "receiver", token).await;
    assert_eq!((answer.status, &answer.json["gift"]["state"]), (200, &json!("accepted")), "{answer:?}");
    let theirs = &answer.json["coupon"];
    assert_eq!(wallet(&app, "receiver").await, std::slice::from_ref(theirs));
    assert_eq!(theirs["received_at"], answer.json["gift"]["closed_at"]);
    assert_ne!(theirs["code"], code);
    for kept in ["template_id", "serial", "acquired_at", "valid_from", "expires_at", "value"] {
        assert_eq!(theirs[kept], coupon[kept], "{kept}");
    }
    assert_eq!((&theirs["status"], &theirs["offer"]), (&json!("unused"), &Value::Null));

    // The giver has nothing but the memory of it.
    assert_eq!(wallet(&app, "giver").await, [] as [Value; 0]);
    for user in ["giver", "receiver"] {
        refused(&app.get(user, &format!("/v1/me/coupons/{code}"), &[]).await, 404, "coupon_not_found");
        refused(&offer(&app, user, code).await, 404, "coupon_not_found");
    }
    let given = listed(&app, "giver", "given").await;
    assert_eq!((given.len(), &given[0]["state"], &given[0]["id"]), (1, &json!("accepted"), &gift["id"]));
    let received = listed(&app, "receiver", "received").await;
    assert_eq!(received, [answer.json["gift"].clone()]);
    assert!(listed(&app, "giver", "received").await.is_empty() && listed(&app, "receiver", "given").await.is_empty());
    for seen in [&given[0], &received[0], theirs] {
        assert!(!seen.to_string().contains("giver") && !seen.to_string().contains("receiver\""), "{seen}");
    }

    // A claim's answer is what was granted, byte for byte; the count is not given back.
    let again = app.claim(id, "giver", "k-1", &[]).await;
    assert_eq!((again.status, &again.json["coupon"]), (200, &granted.json["coupon"]));
    refused(&app.claim(id, "giver", "k-2", &[]).await, 409, "user_limit_reached");

    let steps = ["offer 1 3 giver 0 gift", "accept 3 1 receiver 1 gift"];
    assert_eq!(trace(&app, id, 1).await, steps);
    let recorded = format!(
        "SELECT string_agg(concat_ws(' ', actor, action, before ->> 'state', after ->> 'state', after ->> 'receiver'), ', '
         ORDER BY id) FROM audit_log WHERE subject = 'gift:{}'",
        gift["id"]
    );
    balances(&app);
    let recorded: String = app.sql().await.query_one(&recorded, &[]).await.unwrap().get(0);
    assert_eq!(recorded, "user:giver gift.offer offered, user:receiver gift.accept offered accepted receiver");
    assert_eq!(number(&app, "SELECT sum(gifted)::int8 FROM coupon_counters").await, 1);
    let told = "SELECT string_agg(kind || ' ' || user_ref, ', ' ORDER BY id) FROM events";
    let told: String = app.sql().await.query_one(told, &[]).await.unwrap().get(0);
    assert_eq!(told, "coupon.offered giver, coupon.given giver, coupon.received receiver");
    app.stop().await;
}

#[tokio::test]
async fn a_coupon_is_offered_before_it_is_a_row() {
    let mut app = TestApp::plan("gifts-unflushed").process("gateway,worker").process("flusher").start().await;
    let id = app.publish(coupons(10)).await;
    app.kill9(1);
    let code = claimed(&app, id, "giver", "k-1").await;
    assert_eq!(app.rows(id).await, []);
    refused(&offer(&app, "stranger", &code).await, 404, "coupon_not_found");
    let (bearer, client) = (format!("Bearer {}", app.token("giver")), Client::new(app.gateway(0).address()));
    let path = format!("/v1/me/coupons/{code}/gifts");
    let offering =
        tokio::spawn(async move { client.send("POST", &path, &[("authorization", &bearer)], "").await.unwrap() });
    until("the offer waits", async || app.gateway(0).metric("floodgate_ack_waiting").await == Some(1.0)).await;
    assert_eq!(app.rows(id).await, []);
    app.restart_unready(1).await;
    let answer = offering.await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    let token = answer.json["token"].as_str().unwrap().to_owned();
    accepted(&app, "receiver", &token).await;
    app.stop().await;
}

#[tokio::test]
async fn what_cannot_be_offered_says_why() {
    let app = TestApp::start("gifts-refused").await;
    let id = app.publish(template(10, json!({}))).await;
    let mut codes = Vec::new();
    for number in 0..8 {
        codes.push(claimed(&app, id, "u-1", &format!("k-{number}")).await);
    }
    until("all are stored", async || app.rows(id).await.len() == 8).await;
    let change = "UPDATE user_coupons SET status = serial WHERE serial BETWEEN 2 AND 6;
        UPDATE user_coupons SET valid_from = now() - interval '2 days', expires_at = now() WHERE serial = 7";
    app.sql().await.batch_execute(change).await.unwrap();
    let expected =
        ["", "coupon_locked", "coupon_offered", "coupon_used", "coupon_expired", "coupon_revoked", "coupon_expired"];
    for (code, expected) in codes.iter().zip(expected).skip(1) {
        refused(&offer(&app, "u-1", code).await, 409, expected);
    }
    let bearer = format!("Bearer {}", app.token("u-1"));
    let path = format!("/v1/me/coupons/{}/gifts", codes[0]);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let with_body = app.gateway(0).shop.send("POST", &path, &headers, "{\"to\":\"u-2\"}").await.unwrap();
    refused(&with_body, 400, "invalid_request");

    // Another's, a mistyped one and none: nobody can tell them apart.
    let mistyped = format!("{}{}", &codes[0][..25], if codes[0].ends_with('0') { '1' } else { '0' });
    let mut told = Vec::new();
    for (user, code) in [("u-2", codes[0].as_str()), ("u-1", &mistyped), ("u-1", "x"), ("u-1", &"Z".repeat(26))] {
        let mut answer = offer(&app, user, code).await;
        refused(&answer, 404, "coupon_not_found");
        answer.json["request_id"] = Value::Null;
        told.push(answer.json);
    }
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");

    let kept = app.publish(template(1, json!({"allowed": false}))).await;
    let answer = offer(&app, "u-1", &claimed(&app, kept, "u-1", "k").await).await;
    refused(&answer, 409, "gift_not_allowed");
    assert_eq!(answer.json["reason"], "template");

    // Offered and withdrawn without end: there is one.
    let fill =
        "INSERT INTO coupon_gifts (template_id, serial, gift_generation, giver_ref, state, expires_at, closed_at)
        SELECT 1, 8, 0, 'u-1', 'withdrawn', now(), now() FROM generate_series(1, 99)";
    app.sql().await.batch_execute(fill).await.unwrap();
    assert_eq!(withdraw(&app, "u-1", &offered(&app, "u-1", &codes[7]).await).await.status, 200);
    let answer = offer(&app, "u-1", &codes[7]).await;
    refused(&answer, 409, "gift_not_allowed");
    assert_eq!(answer.json["reason"], "offers");

    app.blacklist("user", "u-1").await;
    until("u-1 is blocked", async || offer(&app, "u-1", &codes[3]).await.code() == "blocked").await;
    refused(&offer(&app, "u-1", &codes[0]).await, 403, "blocked");
    assert_eq!(app.rows(id).await[0].status, 1, "nothing has changed");
    app.stop().await;
}

#[tokio::test]
async fn an_offer_ends_once_and_says_how() {
    let app = TestApp::start("gifts-ends").await;
    let id = app.publish(template(10, json!({"max_hops": 9}))).await;
    let code = claimed(&app, id, "giver", "k").await;
    for (end, again, state) in [("declined", "declined", "declined"), ("withdrawn", "withdrawn", "withdrawn")] {
        let token = offered(&app, "giver", &code).await;
        refused(&accept(&app, "giver", &token).await, 409, "own_gift");
        refused(&decline(&app, "giver", &token).await, 409, "own_gift");
        refused(&withdraw(&app, "other", &token).await, 404, "gift_not_found");
        let finish = async || match end {
            "declined" => decline(&app, "other", &token).await,
            _ => withdraw(&app, "giver", &token).await,
        };
        let done = finish().await;
        assert_eq!((done.status, &done.json["state"]), (200, &json!(again)), "{done:?}");
        assert_eq!(finish().await.json, done.json, "the same again is the same");
        let late = accept(&app, "other", &token).await;
        refused(&late, 409, "gift_closed");
        assert_eq!(late.json["state"], state);
        let coupon = app.get("giver", &format!("/v1/me/coupons/{code}"), &[]).await.json;
        assert_eq!((&coupon["status"], &coupon["offer"]), (&json!("unused"), &Value::Null));
    }
    let token = offered(&app, "giver", &code).await;
    let first = accept(&app, "other", &token).await;
    assert_eq!(accept(&app, "other", &token).await.json, first.json, "the receiver may ask again");
    for late in [
        accept(&app, "third", &token).await,
        decline(&app, "other", &token).await,
        withdraw(&app, "giver", &token).await,
    ] {
        refused(&late, 409, "gift_closed");
        assert_eq!(late.json["state"], "accepted");
    }
    // Given on, it is no longer theirs to be shown.
    accepted(&app, "third", &offered(&app, "other", first.json["coupon"]["code"].as_str().unwrap()).await).await;
    refused(&accept(&app, "other", &token).await, 409, "gift_closed");
    // A revoked coupon takes its offer with it.
    let code = claimed(&app, id, "giver", "k-2").await;
    let token = offered(&app, "giver", &code).await;
    assert_eq!(revoke(&app, &code).await.status, 201);
    for late in [
        accept(&app, "other", &token).await,
        decline(&app, "other", &token).await,
        withdraw(&app, "giver", &token).await,
    ] {
        refused(&late, 409, "gift_closed");
        assert_eq!(late.json["state"], "revoked");
    }
    let steps = [
        "offer 1 3 giver 0 gift",
        "decline 3 1 giver 0 gift",
        "offer 1 3 giver 0 gift",
        "withdraw 3 1 giver 0 gift",
        "offer 1 3 giver 0 gift",
        "accept 3 1 other 1 gift",
        "offer 1 3 other 1 gift",
        "accept 3 1 third 2 gift",
    ];
    assert_eq!(trace(&app, id, 1).await, steps);
    let page = app.get("giver", "/v1/me/gifts?limit=3", &[]).await.json;
    let next = format!("/v1/me/gifts?limit=3&cursor={}", page["next_cursor"].as_str().unwrap());
    let rest = app.get("giver", &next, &[]).await.json;
    let states: Vec<&Value> =
        [&page, &rest].iter().flat_map(|p| p["items"].as_array().unwrap()).map(|g| &g["state"]).collect();
    assert_eq!(states, ["revoked", "accepted", "withdrawn", "declined"]);
    assert_eq!(rest["next_cursor"], Value::Null);
    for bad in ["direction=lost", "cursor=x", "limit=0"] {
        refused(&app.get("giver", &format!("/v1/me/gifts?{bad}"), &[]).await, 400, "invalid_request");
    }
    app.stop().await;
}

#[tokio::test]
async fn made_up_tokens_cost_no_query() {
    let mut app = TestApp::plan("gifts-made-up").own_postgres().start().await;
    let id = app.publish(coupons(5)).await;
    let code = claimed(&app, id, "giver", "k").await;
    let token = offered(&app, "giver", &code).await;
    let mistyped = format!("{}{}", &token[..25], if token.ends_with('0') { '1' } else { '0' });
    app.sql().await.batch_execute("DELETE FROM coupon_gifts").await.unwrap();
    let mut told = Vec::new();
    // A token whose offer is not there is the only one that is looked for.
    for gone in [false, true] {
        if gone {
            app.kill_postgres();
        }
        for none in [token.as_str(), &mistyped, &code, "x", "%00", &"Z".repeat(26), &"4".repeat(4000)] {
            for answer in
                [accept(&app, "u", none).await, decline(&app, "u", none).await, withdraw(&app, "giver", none).await]
            {
                if gone && none == token {
                    refused(&answer, 503, "unavailable");
                    continue;
                }
                refused(&answer, 404, "gift_not_found");
                let mut json = answer.json;
                json["request_id"] = Value::Null;
                told.push(json);
            }
        }
        refused(&offer(&app, "u", &mistyped).await, 404, "coupon_not_found");
    }
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");
    let nobody = app.gateway(0).shop.send("POST", &format!("/v1/gifts/{token}/accept"), &[], "").await.unwrap();
    refused(&nobody, 401, "unauthenticated");
}

#[tokio::test]
async fn what_nobody_takes_in_time_goes_back() {
    let mut app = TestApp::plan("gifts-return").process("gateway,flusher").process("worker").start().await;
    let id = app.publish(template(10, json!({"offer_hours": 168}))).await;
    app.kill9(1);
    let mut tokens = Vec::new();
    for number in 1..=3 {
        let code = claimed(&app, id, "giver", &format!("k-{number}")).await;
        until("it is stored", async || app.rows(id).await.len() == number).await;
        if number == 2 {
            let soon =
                "UPDATE user_coupons SET valid_from = now() - interval '1 day', expires_at = now() + interval '1 hour'
                WHERE serial = 2";
            app.sql().await.batch_execute(soon).await.unwrap();
        }
        tokens.push(offered(&app, "giver", &code).await);
    }
    let hours = "SELECT string_agg(round(extract(epoch FROM expires_at - offered_at) / 360)::text, ' ' ORDER BY id) FROM coupon_gifts";
    let hours: String = app.sql().await.query_one(hours, &[]).await.unwrap().get(0);
    assert_eq!(hours, "1680 10 1680", "tenths of hours; never beyond the coupon's own end");

    app.sql().await.batch_execute("UPDATE coupon_gifts SET expires_at = now() WHERE serial < 3").await.unwrap();
    // No worker runs, and yet it is over.
    for late in [
        accept(&app, "other", &tokens[0]).await,
        decline(&app, "other", &tokens[0]).await,
        withdraw(&app, "giver", &tokens[1]).await,
    ] {
        refused(&late, 409, "gift_closed");
        assert_eq!(late.json["state"], "returned");
    }
    let states =
        |gifts: Vec<Value>| gifts.iter().map(|gift| gift["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(states(listed(&app, "giver", "given").await), ["offered", "returned", "returned"]);
    assert_eq!(app.rows(id).await.iter().map(|row| row.status).collect::<Vec<_>>(), [3, 3, 3]);
    app.restart_unready(1).await;
    until("two are back", async || app.rows(id).await.iter().map(|row| row.status).collect::<Vec<_>>() == [1, 1, 3])
        .await;
    assert_eq!(trace(&app, id, 1).await, ["offer 1 3 giver 0 gift", "return 3 1 giver 0 gift"]);
    let actor = "SELECT count(*) FROM coupon_operations WHERE operation = 'return' AND actor = 'worker:gifts'";
    assert_eq!(number(&app, actor).await, 2);
    assert_eq!(number(&app, "SELECT count(*) FROM events WHERE kind = 'coupon.gift_returned'").await, 2);
    until("the worker says so", async || {
        app.gateway(1).metric("floodgate_gifts_returned_total").await == Some(2.0)
            && app.gateway(1).metric("floodgate_gifts_overdue_seconds").await == Some(0.0)
    })
    .await;
    accepted(&app, "other", &tokens[2]).await;

    // A coupon whose own time is over ends its offer, goes back, and expires there.
    let code = claimed(&app, id, "giver", "k-4").await;
    let token = offered(&app, "giver", &code).await;
    let over = "UPDATE user_coupons SET valid_from = now() - interval '1 day', expires_at = now() WHERE serial = 4;
        UPDATE coupon_gifts SET expires_at = now() WHERE serial = 4";
    app.sql().await.batch_execute(over).await.unwrap();
    until("it is back", async || app.rows(id).await[3].status != 3).await;
    sweep_now(&app).await;
    until("it is expired", async || app.rows(id).await[3].status == 5).await;
    let late = accept(&app, "other", &token).await;
    assert_eq!((late.code(), &late.json["state"]), ("gift_closed", &json!("returned")), "{late:?}");
    assert_eq!(
        trace(&app, id, 4).await,
        ["offer 1 3 giver 0 gift", "return 3 1 giver 0 gift", "expire 1 5 giver 0 time"]
    );
    balances(&app);
    app.stop().await;
}

#[tokio::test]
async fn hops_and_the_receivers_limit_hold() {
    let mut app = TestApp::plan("gifts-limits").process("gateway,worker").process("flusher").start().await;
    let once = app.publish(template(1, json!({}))).await;
    let thrice = app.publish(template(1, json!({"max_hops": 3}))).await;
    let free = app.publish(template(1, json!({"receiver_limit": false}))).await;

    let code = accepted(&app, "b", &offered(&app, "a", &claimed(&app, once, "a", "k").await).await).await;
    let answer = offer(&app, "b", &code).await;
    refused(&answer, 409, "gift_not_allowed");
    assert_eq!(answer.json["reason"], "hops");
    // Who holds one, and who was granted one and gave it away, can be given no other.
    let token = offered(&app, "c", &claimed(&app, once, "c", "k").await).await;
    for full in ["a", "b"] {
        refused(&accept(&app, full, &token).await, 409, "gift_limit_reached");
    }
    // Nor who was granted one a moment ago, though it is no row yet.
    app.kill9(1);
    claimed(&app, once, "d", "k").await;
    refused(&accept(&app, "d", &token).await, 409, "gift_limit_reached");
    accepted(&app, "e", &token).await;
    app.restart_unready(1).await;

    // Back to whom it was granted: the same coupon counts once.
    let code = claimed(&app, thrice, "a", "k").await;
    let code = accepted(&app, "b", &offered(&app, "a", &code).await).await;
    let code = accepted(&app, "a", &offered(&app, "b", &code).await).await;
    let first =
        "SELECT count(*) FROM user_coupons WHERE user_ref = 'a' AND first_user_ref = 'a' AND gift_generation = 2";
    assert_eq!(number(&app, first).await, 1);
    let code = accepted(&app, "c", &offered(&app, "a", &code).await).await;
    refused(&offer(&app, "c", &code).await, 409, "gift_not_allowed");

    for giver in ["a", "b"] {
        accepted(&app, "c", &offered(&app, giver, &claimed(&app, free, giver, "k").await).await).await;
    }
    assert_eq!(wallet(&app, "c").await.iter().filter(|coupon| coupon["template_id"] == free).count(), 2);
    app.blacklist("user", "f").await;
    let token = offered(&app, "g", &claimed(&app, free, "g", "k").await).await;
    let center = format!("/v1/templates/{free}");
    until("f is blocked", async || app.get("f", &center, &[]).await.json["reason"] == "blocked").await;
    refused(&accept(&app, "f", &token).await, 403, "blocked");
    app.stop().await;
}

#[tokio::test]
async fn the_same_key_gets_the_same_answer() {
    let app = TestApp::start("gifts-keys").await;
    let id = app.publish(template(1, json!({}))).await;
    let code = claimed(&app, id, "a", "k").await;
    let other = claimed(&app, id, "b", "k").await;
    let by = async |user: &str, method: &str, path: String, key: &str| {
        ask(&app, user, method, &path, &[("idempotency-key", key)]).await
    };
    let offers = format!("/v1/me/coupons/{code}/gifts");
    // In parallel: one offer, one answer.
    let (first, second) = tokio::join!(by("a", "POST", offers.clone(), "one"), by("a", "POST", offers.clone(), "one"));
    assert_eq!((first.status, &first.bytes), (201, &second.bytes), "{first:?} {second:?}");
    assert_eq!(number(&app, "SELECT count(*) FROM coupon_gifts").await, 1);
    let token = first.json["token"].as_str().unwrap();
    refused(&by("a", "POST", format!("/v1/me/coupons/{other}/gifts"), "one").await, 422, "idempotency_mismatch");
    refused(&by("a", "DELETE", format!("/v1/gifts/{token}"), "one").await, 422, "idempotency_mismatch");
    let accepted = by("c", "POST", format!("/v1/gifts/{token}/accept"), "one").await;
    assert_eq!(accepted.status, 200, "another user's key is another key: {accepted:?}");
    // Whatever has become of it since.
    app.sql().await.batch_execute("UPDATE user_coupons SET status = 4 WHERE user_ref = 'c'").await.unwrap();
    for _ in 0..2 {
        let again = by("c", "POST", format!("/v1/gifts/{token}/accept"), "one").await;
        assert_eq!((again.status, &again.bytes), (200, &accepted.bytes));
        let again = by("a", "POST", offers.clone(), "one").await;
        assert_eq!((again.status, &again.bytes), (201, &first.bytes));
    }
    // A refusal is not remembered, and its key is free.
    refused(&by("a", "POST", offers.clone(), "two").await, 404, "coupon_not_found");
    let second = by("b", "POST", format!("/v1/me/coupons/{other}/gifts"), "two").await;
    let token_2 = second.json["token"].as_str().unwrap();
    assert_eq!(by("b", "DELETE", format!("/v1/gifts/{token_2}"), "three").await.json["state"], "withdrawn");
    refused(&by("b", "DELETE", format!("/v1/gifts/{token_2}"), "a b").await, 400, "invalid_request");

    // Neither codes nor tokens are in any table.
    let tables = "SELECT (SELECT string_agg(g::text, ' ') FROM coupon_gifts g) || (SELECT string_agg(e::text, ' ') FROM events e)
        || (SELECT string_agg(o::text, ' ') FROM coupon_operations o)
        || (SELECT string_agg(i::text || coalesce(encode(sealed, 'escape'), ''), ' ') FROM idempotency_keys i)";
    let text: String = app.sql().await.query_one(tables, &[]).await.unwrap().get(0);
    let new_code = accepted.json["coupon"]["code"].as_str().unwrap();
    for secret in [token, token_2, &code, &other, new_code] {
        assert!(!text.contains(secret), "{text}");
    }
    // A day later the key is new: the coupon is another's by now.
    let aged = "UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE user_ref = 'a'";
    app.sql().await.batch_execute(aged).await.unwrap();
    refused(&by("a", "POST", offers, "one").await, 404, "coupon_not_found");
    app.stop().await;
}
