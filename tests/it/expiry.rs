//! Coupons whose time is over become expired, each once, whoever sweeps and dies.

use super::support::app::{TestApp, coupons, until};
use super::support::ledger::{balances, check, issue, number, sweep_now};

const EXPIRED: &str = "SELECT count(*) FROM user_coupons WHERE status = 5";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_sweeps_go_on_and_expire_each_coupon_once() {
    const DUE: i64 = 20_000;
    let plan = TestApp::plan("expiry-killed").process("gateway,flusher").process("worker").process("worker");
    let mut app = plan.start().await;
    let (one, two) = (app.publish(coupons(50_000)).await, app.publish(coupons(50_000)).await);
    for template in [one, two] {
        issue(&app, template, 1..=DUE, "now() - interval '1 day' + n * interval '1 second'").await;
        issue(&app, template, DUE + 1..=DUE + 5_000, "now() + interval '1 day' + n * interval '1 second'").await;
    }
    sweep_now(&app).await;
    let expired = async |app: &TestApp| number(app, EXPIRED).await;
    for _ in 0..3 {
        let before = expired(&app).await;
        until("the sweep goes on", async || expired(&app).await >= before + 3_000).await;
        for worker in [1, 2] {
            app.kill9(worker);
        }
        assert!(expired(&app).await < 2 * DUE, "killed in the middle");
        for worker in [1, 2] {
            app.restart_unready(worker).await;
        }
    }
    until("all that is due is swept", async || expired(&app).await == 2 * DUE).await;
    let due = "SELECT count(*) FROM user_coupons WHERE expires_at <= now() AND status <> 5";
    assert_eq!(number(&app, due).await, 0);
    let operations = "SELECT count(*) FROM coupon_operations WHERE operation = 'expire' AND from_status = 1
        AND to_status = 5 AND cause_kind = 'time' AND actor = 'worker:expiry'";
    assert_eq!(number(&app, operations).await, 2 * DUE);
    let told = "SELECT count(DISTINCT (template_id, serial)) FROM events WHERE kind = 'coupon.expired'";
    assert_eq!(number(&app, told).await, 2 * DUE);
    assert_eq!(number(&app, "SELECT sum(expired) FROM coupon_counters").await, 2 * DUE);
    balances(&app);
    let swept = async |process: usize| app.gateway(process).metric("floodgate_coupons_expired_total").await;
    let lag = async || app.gateway(1).metric("floodgate_expiry_lag_seconds").await;
    until("nothing is behind", async || lag().await == Some(0.0)).await;
    assert!(swept(1).await.is_some_and(|count| count > 0.0) || swept(2).await.is_some_and(|count| count > 0.0));
    app.stop().await;
}

#[tokio::test]
async fn what_is_locked_is_left_and_what_was_extended_expires_again() {
    let app = TestApp::start("expiry-kinds").await;
    let id = app.publish(coupons(100)).await;
    until("the template is swept", async || number(&app, "SELECT count(*) FROM coupon_sweeps").await == 1).await;
    let sql = app.sql().await;
    // One of the due is locked by an order; one that is not due stands between those that are.
    issue(&app, id, 1..=10, "CASE n WHEN 5 THEN now() + interval '1 hour' ELSE now() - interval '1 minute' END").await;
    let lock = format!("UPDATE user_coupons SET status = 2 WHERE template_id = {id} AND serial = 3");
    sql.batch_execute(&lock).await.unwrap();
    sweep_now(&app).await;
    until("the others are expired", async || number(&app, EXPIRED).await == 8).await;
    let left = app.rows(id).await.into_iter().filter(|row| row.status != 5);
    assert_eq!(left.map(|row| (row.serial, row.status)).collect::<Vec<_>>(), [(3, 2), (5, 1)]);

    // As a refund that gives new days, behind the cursor.
    let extend = format!(
        "BEGIN;
         UPDATE user_coupons SET status = 1, expires_at = now() + interval '300 ms' WHERE template_id = {id} AND serial = 1;
         INSERT INTO coupon_operations (template_id, serial, operation, from_status, to_status, user_ref,
             gift_generation, cause_kind, cause_id, actor)
         VALUES ({id}, 1, 'extend', 5, 1, 'holder-1', 0, 'refund', 'r', 'key:1');
         INSERT INTO coupon_counters (template_id, day, slot, restored, expired)
         VALUES ({id}, (now() AT TIME ZONE 'Asia/Shanghai')::date, 99, 1, -1);
         COMMIT"
    );
    sql.batch_execute(&extend).await.unwrap();
    assert_eq!(number(&app, "SELECT count(*) FROM coupon_extensions").await, 1);
    until("it expires again", async || {
        number(&app, "SELECT count(*) FROM coupon_operations WHERE serial = 1 AND operation = 'expire'").await == 2
    })
    .await;
    assert_eq!(number(&app, "SELECT count(*) FROM coupon_extensions").await, 0);
    // The lock has no order: what the check finds is that, and nothing of the sweeper's.
    let (_, said) = check(&app, &[]);
    assert!(said.lines().all(|line| line.contains("coupon 3") || line.contains("differences")), "{said}");
    app.stop().await;
}
