//! Gateways, flushers and workers that start, stop, freeze and die in any order, while a sale runs, orders time
//! out, coupons expire and are revoked: PostgreSQL says who does what, and nothing is done twice or not at all.
//!
//! `KILLS=20` plays that many turns for each one that it plays otherwise; `SEED=n` repeats their order.

use std::sync::Arc;
use std::time::Duration;

use floodgate_loadtest::client;
use floodgate_loadtest::journal::Journal;
use floodgate_loadtest::plan::{Plan, mix, seed_of_now};
use serde_json::json;

use super::sale::{agree, settings};
use super::support::app::{TestApp, coupons, until};
use super::support::ledger::{balances, issue, number, sweep_now};
use super::support::till::{Till, order, voucher};

const STOCK: i64 = 4_000;
const CLAIMS: u64 = 16_000;
const DUE: i64 = 12_000;
const REVOKED: i64 = 12_000;
const ORDERS: usize = 30;
const TURNS: u64 = 12;

const GATEWAYS: [usize; 2] = [0, 1];
const PROCESSES: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_and_goes_everything_is_done_once() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(seed_of_now);
    let times = std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(1);
    println!("many processes: SEED={seed}");
    let plan = TestApp::plan("many").process("gateway").process("gateway").process("flusher").process("flusher,worker");
    let app = plan.process("worker").process("gateway,flusher,worker").start().await;

    // What is to be done beside the sale.
    let expiring = app.publish(coupons(DUE)).await;
    issue(&app, expiring, 1..=DUE, "now() - interval '1 day' + n * interval '1 second'").await;
    let revoked = app.publish(coupons(REVOKED)).await;
    issue(&app, revoked, 1..=REVOKED, "now() + interval '1 day'").await;
    app.end(revoked).await;
    let mut till = Till::open(app).await;
    let mut locked = Vec::new();
    let paid = till.app.publish(voucher("5.00")).await;
    for at in 0..ORDERS {
        let user = format!("buyer-{at}");
        let code = till.claim(paid, &user).await;
        let id = format!("o-{at}");
        till.locked(&order(&id, &user, &[("d-1", "c", "m-1", "50.00")]), &[&code]).await;
        locked.push(id);
    }
    let id = till.app.publish(coupons(STOCK)).await;
    let answer = till.app.call(
        till.app.admin_key(),
        "POST",
        "/v1/admin/revocations",
        &[],
        json!({
            "template_id": revoked, "reason": "a test"
        }),
    );
    let revocation = answer.await;
    assert_eq!(revocation.status, 201, "{revocation:?}");
    till.app.sql().await.batch_execute("UPDATE redemptions SET lock_expires_at = now()").await.unwrap();
    sweep_now(&till.app).await;

    let plan = Plan { seed, keys_per_user: 2, double_clicks: 50, ..Plan::new(id.try_into().unwrap(), 6_000, CLAIMS) };
    let journal = Arc::new(Journal::in_memory());
    let load = client::start(plan, settings(&till.app, &GATEWAYS, 48), journal.clone());
    for turn in 0..TURNS * times {
        shuffle(&mut till.app, mix(seed ^ turn << 16)).await;
    }
    for process in 0..till.app.processes() {
        match till.app.is_running(process) {
            true => till.app.signal(process, libc::SIGCONT),
            false => till.app.restart_unready(process).await,
        }
    }
    let summary = load.finish().await.unwrap();
    println!("{:?}, {} requests", summary.outcomes, summary.requests);
    assert_eq!(summary.given_up, 0, "{summary:?}");
    for process in 0..till.app.processes() {
        till.app.ready(process).await;
    }

    let count = async |sql: &str| number(&till.app, sql).await;
    let status = |template: i64, status: i16| {
        format!("SELECT count(*) FROM user_coupons WHERE template_id = {template} AND status = {status}")
    };
    until("what is over is swept", async || count(&status(expiring, 5)).await == DUE).await;
    until("what is revoked is taken back", async || count(&status(revoked, 6)).await == REVOKED).await;
    until("locks are released", async || count(&status(paid, 1)).await == ORDERS as i64).await;
    let twice = "SELECT count(*) FROM (SELECT FROM coupon_operations WHERE operation IN ('expire', 'revoke')
        GROUP BY template_id, serial HAVING count(*) > 1) AS twice";
    assert_eq!(count(twice).await, 0, "nothing is done twice");
    for order in &locked {
        assert_eq!(till.redemption(order).await.json["status"], "timed_out", "{order}");
    }
    let released = format!("SELECT count(*) FROM coupon_operations WHERE template_id = {paid} AND from_status = 2");
    assert_eq!(count(&released).await, ORDERS as i64, "each lock is released once");
    agree(&till.app, &journal.record()).await;
    assert_eq!(till.app.rows(id).await.len() as i64, STOCK, "sold to the last coupon");
    until("one process is the flusher", async || {
        let mut active = 0.0;
        for process in 0..till.app.processes() {
            active += till.app.gateway(process).metric("floodgate_flusher_active").await.unwrap_or(0.0);
        }
        active == 1.0
    })
    .await;
    let audit = till.app.command(&["audit", "verify"]);
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
    balances(&till.app);
    till.close().await;
}

/// One process, by chance: what is dead starts, what lives dies, stops in order, or freezes for a while.
async fn shuffle(app: &mut TestApp, chance: u64) {
    let process = (chance % PROCESSES) as usize;
    // A moment that belongs to the order of things: who was started last may not be ready yet.
    tokio::time::sleep(Duration::from_millis(mix(chance) % 250)).await;
    if !app.is_running(process) {
        return app.restart_unready(process).await;
    }
    match chance >> 32 & 3 {
        0 | 1 => app.kill9(process),
        2 => {
            app.signal(process, libc::SIGCONT);
            app.terminate(process).await;
        }
        _ => {
            app.signal(process, libc::SIGSTOP);
            tokio::time::sleep(Duration::from_millis(mix(chance ^ 1) % 700)).await;
            app.signal(process, libc::SIGCONT);
        }
    }
}
