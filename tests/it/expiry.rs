//! Coupons whose time is over become expired, each once, whoever sweeps and dies.

use super::support::app::{TestApp, coupons, until};
use super::support::ledger::{balances, issue, number, sweep_now};

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
async fn what_is_locked_or_offered_is_left_and_what_was_extended_expires_again() {
    let app = TestApp::start("expiry-kinds").await;
    let id = app.publish(coupons(100)).await;
    until("the template is swept", async || number(&app, "SELECT count(*) FROM coupon_sweeps").await == 1).await;
    let sql = app.sql().await;
    // Locked and used by orders, and offered; one that is not due stands between those that are.
    issue(&app, id, 1..=10, "CASE n WHEN 5 THEN now() + interval '1 hour' ELSE now() - interval '1 minute' END").await;
    let states = format!(
        "UPDATE user_coupons SET status = CASE serial WHEN 2 THEN 4 WHEN 3 THEN 2 ELSE 3 END
         WHERE template_id = {id} AND serial IN (2, 3, 4)"
    );
    sql.batch_execute(&states).await.unwrap();
    let left = async || {
        let rows = app.rows(id).await.into_iter().filter(|row| row.status != 5);
        rows.map(|row| (row.serial, row.status)).collect::<Vec<_>>()
    };
    sweep_now(&app).await;
    until("the others are expired", async || left().await == [(2, 4), (3, 2), (4, 3), (5, 1)]).await;
    assert_eq!(number(&app, "SELECT serial FROM coupon_sweeps").await, 3, "the offered one is waited for");
    // Its offer is over, and it is given back.
    let back = format!("UPDATE user_coupons SET status = 1 WHERE template_id = {id} AND serial = 4");
    sql.batch_execute(&back).await.unwrap();
    sweep_now(&app).await;
    until("it is expired, too", async || left().await == [(2, 4), (3, 2), (5, 1)]).await;
    until("the cursor goes on", async || number(&app, "SELECT serial FROM coupon_sweeps").await == 4).await;

    // A refund gives coupon 2 new days, behind the cursor; while it is offered, its end is waited for.
    let extend = format!(
        "UPDATE user_coupons SET status = 3, expires_at = now() + interval '1 ms' WHERE template_id = {id} AND serial = 2"
    );
    sql.batch_execute(&extend).await.unwrap();
    let listed = "SELECT count(*) FROM coupon_extensions WHERE expires_at <= now() AND serial = 2";
    until("its new time is over", async || number(&app, listed).await == 1).await;
    let back = format!("UPDATE user_coupons SET status = 1 WHERE template_id = {id} AND serial = 2");
    sql.batch_execute(&back).await.unwrap();
    until("it expires", async || left().await == [(3, 2), (5, 1)]).await;
    let expired = "SELECT count(*) FROM coupon_operations WHERE serial = 2 AND operation = 'expire'";
    assert_eq!(number(&app, expired).await, 1);
    assert_eq!(number(&app, "SELECT count(*) FROM coupon_extensions").await, 0);
    app.stop().await;
}
