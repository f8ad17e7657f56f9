//! Reads from a real streaming standby: one that follows, one that stands still, one that is away.

use serde_json::{Value, json};

use super::items;
use crate::support::app::{TestApp, coupons, until};

async fn metric(app: &TestApp, name: &str) -> f64 {
    app.gateway(0).metric(name).await.unwrap_or(0.0)
}

async fn reads(app: &TestApp, result: &str) -> f64 {
    metric(app, &format!("floodgate_replica_reads_total{{result=\"{result}\"")).await
}

async fn in_use(app: &TestApp, expected: f64) {
    until("the replica is in use, or not", async || metric(app, "floodgate_replica_in_use").await == expected).await;
}

async fn wallet(app: &TestApp, user: &str) -> Vec<Value> {
    items(&app.get(user, "/v1/me/coupons", &[]).await)
}

/// Waits until everything granted is stored, and nothing of it left on the queue.
async fn drained(app: &TestApp, template: i64, rows: usize) {
    until("all are stored and trimmed", async || {
        app.rows(template).await.len() == rows && app.redis(&["XLEN", "fg:{c0}:q"]).await == redis::Value::Int(0)
    })
    .await;
}

#[tokio::test]
async fn a_claim_stays_visible_however_late_the_replica_is() {
    let plan = TestApp::plan("reads-replica").standby().set("POSTGRES_REPLICA_LAG_MAX_MS", 600_000);
    let mut app = plan.process("gateway,worker").process("flusher").start().await;
    let mut template = coupons(100);
    template["limits"] = json!({"per_user": 10});
    let id = app.publish(template).await;
    let support = app.api_key("support").await;
    in_use(&app, 1.0).await;

    assert_eq!(app.claim(id, "u-1", "k-1", &[]).await.code(), "granted");
    drained(&app, id, 1).await;
    let served = reads(&app, "served").await;
    until("the standby has replayed it", async || {
        assert_eq!(wallet(&app, "u-1").await.len(), 1);
        reads(&app, "served").await > served
    })
    .await;

    // It stands still. What is stored now, and gone from the queue, is not there.
    let standby = app.standby_sql().await;
    standby.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    let claimed = app.claim(id, "u-1", "k-2", &[]).await;
    let code = claimed.json["coupon"]["code"].as_str().unwrap().to_owned();
    drained(&app, id, 2).await;
    let (behind, served) = (reads(&app, "behind").await, reads(&app, "served").await);
    for _ in 0..3 {
        assert_eq!(wallet(&app, "u-1").await.len(), 2);
    }
    assert_eq!(app.get("u-1", &format!("/v1/me/coupons/{code}"), &[]).await.status, 200);
    let history = app.call(&support, "GET", &format!("/v1/coupons/{code}/history"), &[], Value::Null).await;
    assert_eq!(history.json["coupon"]["code"], code.as_str(), "{history:?}");
    let of_user = app.call(&support, "GET", "/v1/users/u-1/coupons", &[], Value::Null).await;
    assert_eq!(items(&of_user).len(), 2);
    assert_eq!((reads(&app, "behind").await - behind, reads(&app, "served").await - served), (6.0, 0.0));

    // It goes on, and misses nothing that the queue does not hold: it serves though the last is no row anywhere.
    standby.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    until("it serves again", async || {
        assert_eq!(wallet(&app, "u-1").await.len(), 2);
        reads(&app, "served").await > served
    })
    .await;
    app.kill9(1);
    assert_eq!(app.claim(id, "u-1", "k-3", &[]).await.code(), "granted");
    let served = reads(&app, "served").await;
    assert_eq!(wallet(&app, "u-1").await.len(), 3);
    assert_eq!(reads(&app, "served").await - served, 1.0);
    // And while it is being stored, and the standby comes after.
    app.restart_unready(1).await;
    while app.rows(id).await.len() < 3 {
        assert_eq!(wallet(&app, "u-1").await.len(), 3);
    }
    for _ in 0..20 {
        assert_eq!(wallet(&app, "u-1").await.len(), 3);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_replica_that_is_late_or_away_is_left_out() {
    let mut app = TestApp::plan("reads-replica-away").standby().set("POSTGRES_REPLICA_LAG_MAX_MS", 300).start().await;
    let id = app.publish(coupons(100)).await;
    in_use(&app, 1.0).await;
    assert_eq!(app.claim(id, "u-1", "k", &[]).await.code(), "granted");
    drained(&app, id, 1).await;
    let standby = app.standby_sql().await;
    standby.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    // No grant tells that it is late: its place in the log does.
    let change = format!("UPDATE user_coupons SET status = 4 WHERE template_id = {id}");
    app.sql().await.batch_execute(&change).await.unwrap();
    in_use(&app, 0.0).await;
    assert!(metric(&app, "floodgate_replica_lag_seconds").await > 0.3);
    assert_eq!(wallet(&app, "u-1").await[0]["status"], "used");
    standby.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    in_use(&app, 1.0).await;

    // Gone: nobody's read fails, before it is noticed and after.
    let served = reads(&app, "served").await;
    until("it serves", async || {
        wallet(&app, "u-1").await[0]["status"] == "used" && reads(&app, "served").await > served
    })
    .await;
    app.standby.take().unwrap().kill_immediate();
    while metric(&app, "floodgate_replica_in_use").await == 1.0 {
        assert_eq!(wallet(&app, "u-1").await[0]["status"], "used");
    }
    assert_eq!(wallet(&app, "u-1").await[0]["status"], "used");
    app.stop().await;
}

#[tokio::test]
async fn the_replica_reads_on_while_the_primary_is_away() {
    let mut app = TestApp::plan("reads-replica-alone").standby().start().await;
    let id = app.publish(coupons(100)).await;
    in_use(&app, 1.0).await;
    assert_eq!(app.claim(id, "u-1", "k", &[]).await.code(), "granted");
    drained(&app, id, 1).await;
    let served = reads(&app, "served").await;
    until("it serves", async || wallet(&app, "u-1").await.len() == 1 && reads(&app, "served").await > served).await;
    app.kill_postgres();
    assert_eq!(wallet(&app, "u-1").await.len(), 1);
    // Granted by Redis alone, and shown.
    assert_eq!(app.claim(id, "u-2", "k", &[]).await.code(), "granted");
    assert_eq!(wallet(&app, "u-2").await.len(), 1);
    app.start_postgres().await;
    drained(&app, id, 2).await;
    app.stop().await;
}
