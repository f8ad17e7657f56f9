//! Locks and time: what is not paid in time, what is paid too late, and what expires meanwhile.

use serde_json::{Value, json};

use super::{TestApp, duck, till, until};
use crate::support::till::{Till, reduction, voucher};

async fn lock_for_a_second(till: &Till, order: &Value, code: &str) {
    let body = json!({"order": order, "coupons": [code], "lock_seconds": 1});
    let locked = till.call("POST", "/v1/redemptions", body).await;
    assert_eq!(locked.status, 201, "{locked:?}");
}

async fn timed_out(till: &Till, order: &str) {
    until("the lock times out", async || till.redemption(order).await.json["status"] == "timed_out").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_paid_times_out_and_a_late_confirm_takes_its_coupon_back() {
    let till = till("redeem-late").await;
    let (id, code) = till.coupon(reduction(), "u-1").await;
    lock_for_a_second(&till, &duck("o-1", "u-1"), &code).await;
    timed_out(&till, "o-1").await;
    assert_eq!(till.status("u-1", &code).await, "unused");
    // The coupon expires meanwhile: the first lock was in time.
    till.alter(id, "expires_at = now() - interval '1 second'").await;
    let late = till.confirm("o-1").await;
    assert_eq!((late.status, &late.json["status"], &late.json["payable"]), (200, &json!("used"), &json!("100.00")));
    assert_eq!(till.status("u-1", &code).await, "used");
    let steps = ["lock 1>2 order o-1", "time_out 2>1 order o-1", "late_lock 1>2 order o-1", "confirm 2>4 order o-1"];
    assert_eq!(till.trace(id).await, steps);
    let counted = "SELECT concat_ws(' ', sum(locked), sum(used), sum(expired)) FROM coupon_counters";
    assert_eq!(till.text(counted).await, "0 1 0");
    till.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_confirm_whose_coupon_is_gone_is_a_conflict_that_is_kept() {
    let till = till("redeem-conflict").await;
    let (id, code) = till.coupon(reduction(), "u-1").await;
    lock_for_a_second(&till, &duck("o-1", "u-1"), &code).await;
    timed_out(&till, "o-1").await;
    till.used(&duck("o-2", "u-1"), &[&code]).await;
    for _ in 0..2 {
        let conflict = till.confirm("o-1").await;
        assert_eq!((conflict.status, conflict.code()), (409, "late_confirm_conflict"));
        assert_eq!(conflict.json["coupons"], json!([code]));
    }
    let kept = "SELECT count(*) FROM redemptions WHERE conflict_at IS NOT NULL AND status = 'timed_out'";
    assert_eq!(till.number(kept).await, 1);
    let told = "SELECT count(*) FROM events WHERE kind = 'redemption.late_confirm_conflict' AND user_ref = 'u-1'";
    assert_eq!(till.number(told).await, 1);
    assert!(till.redemption("o-1").await.json["conflict_at"].is_string());
    // A refund of it has nothing to give back; a cancel ends it.
    let refund = till.refund(json!({"refund_id": "r-1", "order_id": "o-1", "reason": "paid in vain"})).await;
    assert_eq!((refund.status, refund.code()), (409, "conflict"));
    assert_eq!(till.cancel("o-1").await.json["status"], "cancelled");
    assert_eq!(till.confirm("o-1").await.code(), "redemption_cancelled");
    assert_eq!(till.redemption("o-2").await.json["status"], "used");
    assert_eq!(till.trace(id).await.len(), 4);
    // A coupon that was given away meanwhile is gone too.
    let (gift, code) = till.coupon(reduction(), "u-1").await;
    lock_for_a_second(&till, &duck("o-3", "u-1"), &code).await;
    timed_out(&till, "o-3").await;
    till.alter(gift, "first_user_ref = user_ref, user_ref = 'u-9', gift_generation = 1").await;
    assert_eq!(till.confirm("o-3").await.code(), "late_confirm_conflict");
    // It is told of whose order it was.
    assert_eq!(till.number(told).await, 2);
    // A coupon was given away by hand, which the ledger check would name.
    till.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_free_as_it_expires_is_swept() {
    let till = till("redeem-last-minute").await;
    let (id, code) = till.coupon(reduction(), "u-1").await;
    till.locked(&duck("o-1", "u-1"), &[&code]).await;
    till.alter(id, "expires_at = now() + interval '3 seconds'").await;
    // The sweeper is past it, as it is once it has looked at a locked coupon that is over.
    let past = format!("UPDATE coupon_sweeps SET serial = 1, due_at = 'infinity' WHERE template_id = {id}");
    until("the sweep has a cursor", async || till.app.sql().await.execute(&past, &[]).await.unwrap() == 1).await;
    till.cancel("o-1").await;
    assert_eq!(till.status("u-1", &code).await, "unused");
    let swept = format!("SELECT count(*) FROM user_coupons WHERE template_id = {id} AND status = 5");
    until("the coupon is swept", async || till.number(&swept).await == 1).await;
    assert_eq!(till.trace(id).await.last().unwrap(), "expire 1>5 time ");
    till.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_comes_to_nothing_is_confirmed_without_payment() {
    let plan = TestApp::plan("redeem-zero").set("REDEMPTION_CHECKOUTS_LIMIT", 0).set("PRICING_ALLOW_ZERO_TOTAL", true);
    let till = Till::open(plan.start().await).await;
    let (_, code) = till.coupon(voucher("200.00"), "u-1").await;
    // Placed an hour ago, by a clock that nobody believes: the rules go by the time of the lock.
    let mut order = duck("o-1", "u-1");
    order["placed_at"] = "2026-01-01T00:00:00Z".into();
    let locked = till.locked(&order, &[&code]).await;
    assert_eq!((&locked["payable"], &locked["status"]), (&json!("0.00"), &json!("locked")));
    assert_eq!(till.confirm("o-1").await.json["status"], "used");
    let refund = till.refund(json!({"refund_id": "r-1", "order_id": "o-1", "reason": "returned"})).await;
    assert_eq!(refund.json["reversed_total"], "120.00");
    till.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_lock_outlives_its_coupons_time() {
    let till = till("redeem-outlives").await;
    let (used, one) = till.coupon(reduction(), "u-1").await;
    let (freed, two) = till.coupon(reduction(), "u-1").await;
    till.locked(&duck("o-1", "u-1"), &[&one]).await;
    till.locked(&duck("o-2", "u-1"), &[&two]).await;
    for id in [used, freed] {
        till.alter(id, "expires_at = now() - interval '1 second'").await;
    }
    assert_eq!(till.status("u-1", &one).await, "locked");
    assert_eq!(till.confirm("o-1").await.json["status"], "used");
    // Cancelled after its time, a coupon is expired, and nobody has to sweep it.
    assert_eq!(till.cancel("o-2").await.json["status"], "cancelled");
    assert_eq!(till.status("u-1", &two).await, "expired");
    assert_eq!(till.trace(freed).await, ["lock 1>2 order o-2", "cancel 2>5 order o-2"]);
    let counted = "SELECT concat_ws(' ', sum(locked), sum(used), sum(expired)) FROM coupon_counters";
    assert_eq!(till.text(counted).await, "0 1 1");
    till.close().await;
}
