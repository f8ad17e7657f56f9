//! Locks and time: what is not paid in time, what is paid too late, and what expires meanwhile.

use serde_json::{Value, json};

use super::{duck, till, until};
use crate::support::till::{Till, reduction};

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
    let told = "SELECT count(*) FROM events WHERE kind = 'redemption.late_confirm_conflict'";
    assert_eq!(till.number(told).await, 1);
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
    // A coupon was given away by hand, which the ledger check would name.
    till.app.stop().await;
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
