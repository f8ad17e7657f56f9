//! Steps of one coupon that race: exactly one wins, and every store agrees which.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{claimed, offered, revoke, template, trace};
use crate::support::app::{TestApp, until};
use crate::support::ledger::{balances, number};
use crate::support::wire::{Answer, Client};

/// Calls that begin together, each over a connection of its own.
async fn together(app: &TestApp, calls: &[(&str, &str, String)]) -> Vec<Answer> {
    let start = Arc::new(tokio::sync::Barrier::new(calls.len()));
    let mut racing = JoinSet::new();
    for (at, (user, method, path)) in calls.iter().enumerate() {
        let (bearer, start) = (format!("Bearer {}", app.token(user)), start.clone());
        let (client, method, path) = (Client::new(app.gateway(at % 2).address()), method.to_string(), path.clone());
        racing.spawn(async move {
            start.wait().await;
            (at, client.send(&method, &path, &[("authorization", &bearer)], "").await.unwrap())
        });
    }
    let mut answers = racing.join_all().await;
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

async fn two_gateways(name: &str) -> TestApp {
    TestApp::plan(name).process("gateway,flusher,worker").process("gateway,worker").start().await
}

#[tokio::test]
async fn of_many_who_accept_one_wins() {
    let app = two_gateways("gifts-race-accept").await;
    let id = app.publish(template(10, json!({}))).await;
    for round in 1..=5 {
        let token = offered(&app, "giver", &claimed(&app, id, "giver", &format!("k-{round}")).await).await;
        let users: Vec<String> = (0..24).map(|number| format!("u-{round}-{number}")).collect();
        let path = format!("/v1/gifts/{token}/accept");
        let calls: Vec<_> = users.iter().map(|user| (user.as_str(), "POST", path.clone())).collect();
        let answers = together(&app, &calls).await;
        let winners: Vec<usize> = (0..24).filter(|at| answers[*at].status == 200).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        for (at, answer) in answers.iter().enumerate().filter(|(at, _)| *at != winners[0]) {
            assert_eq!((answer.code(), &answer.json["state"]), ("gift_closed", &json!("accepted")), "{at}: {answer:?}");
        }
        assert_eq!(app.rows(id).await[round - 1].user, users[winners[0]]);
        assert_eq!(trace(&app, id, round as i64).await.len(), 2);
    }
    app.stop().await;
}

/// The receiver may have one. Gifts of several givers arrive at once.
#[tokio::test]
async fn parallel_gifts_do_not_pass_the_receivers_limit() {
    let app = two_gateways("gifts-race-limit").await;
    let id = app.publish(template(2, json!({}))).await;
    for round in 0..5 {
        let receiver = format!("r-{round}");
        let mut calls = Vec::new();
        for giver in 0..6 {
            let user = format!("g-{round}-{giver}");
            let token = offered(&app, &user, &claimed(&app, id, &user, "k").await).await;
            calls.push((receiver.as_str(), "POST", format!("/v1/gifts/{token}/accept")));
        }
        let answers = together(&app, &calls).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 2, "{answers:?}");
        assert_eq!(answers.iter().filter(|answer| answer.code() == "gift_limit_reached").count(), 4, "{answers:?}");
        let held = format!("SELECT count(*) FROM user_coupons WHERE user_ref = '{receiver}'");
        assert_eq!(number(&app, &held).await, 2);
    }
    app.stop().await;
}

/// Accept, decline, withdraw, the offer's end, a lock and a revocation, all at once.
#[tokio::test]
async fn of_all_that_can_end_an_offer_one_does() {
    let app = two_gateways("gifts-race-all").await;
    let id = app.publish(template(10, json!({}))).await;
    let (sql, service) = (app.sql().await, app.api_key("service").await);
    let mut ends: std::collections::BTreeMap<String, u32> = Default::default();
    for round in 0..40i64 {
        let (giver, taker, serial) = (format!("g-{round}"), format!("r-{round}"), round + 1);
        let code = claimed(&app, id, &giver, "k").await;
        let token = offered(&app, &giver, &code).await;
        let path = |end: &str| format!("/v1/gifts/{token}{end}");
        let calls = [
            (taker.as_str(), "POST", path("/accept")),
            ("another", "POST", path("/decline")),
            (giver.as_str(), "DELETE", path("")),
        ];
        // Time goes on, an order service locks, an operator revokes.
        let others = async {
            let offer_ends =
                format!("UPDATE coupon_gifts SET expires_at = now() WHERE serial = {serial} AND state = 'offered'");
            let order = json!({
                "order_id": format!("o-{round}"), "user_id": giver, "currency": "CNY",
                "lines": [{"line_id": "1", "item_id": "i", "merchant_id": "m", "unit_price": "40.00", "quantity": 1}],
            });
            match round % 4 {
                0 => {}
                1 => sql.batch_execute(&offer_ends).await.unwrap(),
                2 => assert!(matches!(revoke(&app, &code).await.status, 201 | 404)),
                _ => {
                    let body = json!({"coupons": [code], "order": order});
                    let locked = app.call(&service, "POST", "/v1/redemptions", &[], body).await;
                    // Free again, offered still, or another's.
                    assert!(matches!(locked.code(), "" | "not_applicable" | "coupon_not_yours"), "{locked:?}");
                }
            }
        };
        let (answers, ()) = tokio::join!(together(&app, &calls), others);
        let won: Vec<&Value> =
            answers
                .iter()
                .filter(|answer| answer.status == 200)
                .map(|answer| {
                    if answer.json["gift"].is_object() { &answer.json["gift"]["state"] } else { &answer.json["state"] }
                })
                .collect();
        assert!(won.len() <= 1, "{answers:?}");
        let gift = format!("SELECT state, coalesce(receiver_ref, '') FROM coupon_gifts WHERE serial = {serial}");
        until("the offer has ended", async || sql.query_one(&gift, &[]).await.unwrap().get::<_, &str>(0) != "offered")
            .await;
        let row = sql.query_one(&gift, &[]).await.unwrap();
        let (state, receiver): (&str, &str) = (row.get(0), row.get(1));
        if let Some(won) = won.first() {
            assert_eq!(**won, state, "{answers:?}");
        }
        for lost in answers.iter().filter(|answer| answer.status != 200) {
            assert_eq!((lost.code(), &lost.json["state"]), ("gift_closed", &json!(state)), "{answers:?}");
        }
        let coupon = &app.rows(id).await[round as usize];
        assert_eq!(coupon.user, if state == "accepted" { receiver } else { &giver });
        assert!(matches!(coupon.status, 1 | 2) && state != "revoked" || coupon.status == 6, "{coupon:?} {state}");
        let steps = trace(&app, id, serial).await;
        let of_gifts = steps.iter().filter(|step| step.ends_with("gift")).count();
        assert_eq!(of_gifts, if state == "revoked" { 1 } else { 2 }, "{steps:?}");
        *ends.entry(state.to_owned()).or_default() += 1;
    }
    println!("offers ended so: {ends:?}");
    let open = "SELECT count(*) FROM user_coupons u WHERE status = 3
        OR gift_generation <> (SELECT count(*) FROM coupon_gifts g WHERE g.serial = u.serial AND g.state = 'accepted')";
    assert_eq!(number(&app, open).await, 0);
    let gifted = "SELECT coalesce(sum(gifted), 0)::int8 - (SELECT count(*) FROM coupon_gifts WHERE state = 'accepted') FROM coupon_counters";
    assert_eq!(number(&app, gifted).await, 0);
    balances(&app);
    app.stop().await;
}
