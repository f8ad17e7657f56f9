//! PostgreSQL that is away, locked, out of space, or set back in time.

use serde_json::json;

use super::{Area, Scene, fault, is_full};
use crate::support::app::{Plan, TestApp, coupons, may_mount, until};

fn shop(name: &str) -> Plan {
    let plan = TestApp::plan(name).own_postgres().process("gateway").process("gateway").process("flusher,worker");
    plan.set("FLUSHER_BACKOFF_MAX_MS", 500)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_away_or_busy() {
    let mut area = Area::of(shop("faults-postgres")).await;
    area.play(fault("PostgreSQL is stopped at once and stays away"), away).await;
    let locked = fault("every connection to PostgreSQL waits for a lock").also("claims go on");
    area.play(locked, exhausted).await;
    area.close().await;
}

async fn away(scene: &mut Scene<'_>) {
    scene.app.kill_postgres();
    scene.lasts(if is_full() { 60_000 } else { 1_000 }).await;
    scene.app.start_postgres().await;
}

/// The flusher, the snapshot and a crowd of wallet reads wait for a table that somebody has locked.
async fn exhausted(scene: &mut Scene<'_>) {
    let mut sql = scene.app.sql().await;
    let lock = sql.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE user_coupons IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let app = &*scene.app;
    let wallet = |user: u32| async move { app.get(&format!("u-{user}"), "/v1/me/coupons", &[]).await.status };
    let reads = futures_util::future::join_all((0..12).map(wallet));
    let held = async {
        scene.sells(300).await;
        scene.lasts(500).await;
        lock.rollback().await.unwrap();
    };
    let (statuses, ()) = tokio::join!(reads, held);
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresqls_disk_is_full() {
    if !may_mount() {
        return println!("| PostgreSQL's disk is full | 0 | | not played: this user may not mount a disk |");
    }
    let plan = shop("faults-full").small_disk("pg", if is_full() { 400 } else { 160 });
    let mut area = Area::of(plan).await;
    area.play(fault("PostgreSQL's disk is full"), full).await;
    area.close().await;
}

async fn full(scene: &mut Scene<'_>) {
    scene.app.fill_disk("pg");
    scene.lasts(1_500).await;
    scene.app.clear_disk("pg");
    // It may have gone down over it: a supervisor would start it again.
    if !scene.app.postgres_lives() {
        scene.app.kill_postgres();
        scene.app.start_postgres().await;
    }
}

/// A PostgreSQL from a backup lacks what the queue no longer has. The flusher stores nothing behind the
/// gap and says so; level `redis` goes on, level `postgres` does not pretend.
#[tokio::test]
async fn a_postgresql_set_back_in_time_is_noticed() {
    let plan = TestApp::plan("faults-set-back").own_postgres().process("gateway").process("flusher,worker");
    let mut app = plan.set("FLUSHER_BACKOFF_MAX_MS", 200).set("CLAIM_POSTGRES_WAIT_MS", 500).start().await;
    let (plain, mut strict) = (app.publish(coupons(100)).await, coupons(100));
    strict["ack"] = json!("postgres");
    let strict = app.publish(strict).await;
    assert_eq!(app.claim(strict, "u-1", "k", &[]).await.code(), "granted");
    let (data, backup) = (app.postgres_data(), app.folder().join("backup"));
    app.kill_postgres();
    app.copy_postgres(&data, &backup);
    app.start_postgres().await;
    until("rows are stored again", async || app.claim(strict, "u-2", "k", &[]).await.status < 300).await;
    app.kill_postgres();
    std::fs::remove_dir_all(&data).unwrap();
    app.copy_postgres(&backup, &data);
    app.start_postgres().await;
    assert_eq!(app.claim(plain, "u-3", "k", &[]).await.code(), "granted");
    let gaps = async || app.gateway(1).metric("floodgate_queue_gap_total").await;
    until("the gap is told", async || gaps().await.is_some_and(|gaps| gaps > 0.0)).await;
    assert_eq!(app.claim(strict, "u-4", "k", &[]).await.code(), "outcome_unknown");
    assert_eq!((app.rows(plain).await.len(), app.rows(strict).await.len()), (0, 1), "nothing is stored out of order");
    println!(
        "| PostgreSQL is set back in time | 1 | nothing is stored out of order; `floodgate_queue_gap_total` | holds |"
    );
}
