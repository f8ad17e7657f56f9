//! Redis with replicas and a Sentinel: its master is killed, frozen, demoted and promoted again while a sale
//! runs. What was acknowledged at level `replica` is kept, what level `redis` lost is counted.
//!
//! `KILLS=50` kills that many masters instead of two; `SEED=n` repeats a run's rounds.
//!
//! # Layout
//! - this file: kills under load
//! - [`histories`]: which Redis is opened, and which is refused

mod histories;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use floodgate_loadtest::client;
use floodgate_loadtest::journal::{Journal, Outcome, Record};
use floodgate_loadtest::plan::{Plan, mix, seed_of_now};
use serde_json::json;

use super::sale::{agree, settings};
use super::support::app::{TestApp, coupons, until};
use super::support::ledger::balances;
use super::support::replicas::Replicas;

const CLAIMS: u64 = 9_000;
const USERS: u32 = 3_000;
const GATEWAYS: [usize; 2] = [0, 1];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What the kills of a run came to.
#[derive(Default)]
struct Tally {
    kills: u64,
    failovers: u64,
    acknowledged: usize,
    lost: usize,
    redis_acknowledged: usize,
    redis_lost: usize,
    unknown: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_is_killed_and_no_claim_of_level_replica_is_lost() {
    let seed = number("SEED").unwrap_or_else(seed_of_now);
    let kills = number("KILLS").unwrap_or(2);
    let plan = TestApp::plan("kill-master").replicas(1).process("gateway").process("gateway");
    let mut app = plan.process("flusher,worker").process("flusher,worker").start().await;
    let mut tally = Tally::default();
    for round in 0..kills {
        println!("kill-master, round {round}: SEED={seed}");
        one_round(&mut app, mix(seed.wrapping_add(round)), &mut tally).await;
    }
    let Tally { kills, failovers, acknowledged, lost, redis_acknowledged, redis_lost, unknown } = tally;
    println!(
        "{kills} master kills, {failovers} failovers: level replica lost {lost} of {acknowledged} acknowledged claims, level redis \
         {redis_lost} of {redis_acknowledged}; {unknown} answers were outcome_unknown"
    );
    assert_eq!(lost, 0);
    balances(&app);
    app.stop().await;
}

/// A sale of two templates, one at each level, and a kill at a random moment of it.
async fn one_round(app: &mut TestApp, chance: u64, tally: &mut Tally) {
    let mut sure = coupons(100_000);
    sure["ack"] = json!("replica");
    let (sure, quick) = (app.publish(sure).await, app.publish(coupons(100_000)).await);
    let templates = vec![sure.try_into().unwrap(), quick.try_into().unwrap()];
    let plan = Plan { seed: chance, templates, double_clicks: 50, ..Plan::new(0, USERS, CLAIMS) };
    let journal = Arc::new(Journal::in_memory());
    let load = client::start(plan, settings(app, &GATEWAYS, 64), journal.clone());
    let moment = CLAIMS / 20 + mix(chance) % (CLAIMS / 2);
    while load.decided() < moment {
        assert!(!load.is_over(), "the load ended before the kill");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let replicas = app.replicas.as_mut().unwrap();
    let victim = replicas.master().await;
    if chance >> 40 & 1 == 0 {
        // The replica hears nothing of the master's last moments: those it lags behind.
        replicas.ask::<()>(1 - victim, &["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20 + mix(chance) % 80)).await;
    }
    replicas.kill(victim);
    let (how, failed_over) = come_back(app.replicas.as_mut().unwrap(), victim, chance >> 32).await;
    tally.failovers += u64::from(failed_over);
    let replicas = app.replicas.as_ref().unwrap();
    replicas.replicating(replicas.master().await, 1).await;
    let summary = load.finish().await.unwrap();
    println!("killed after {moment} claims, {how}: {:?}, {} requests", summary.outcomes, summary.requests);
    assert_eq!(summary.given_up, 0, "{summary:?}");
    let record = journal.record();
    tally.kills += 1;
    tally.unknown += record.exchanges.iter().filter(|one| word(one) == Some("outcome_unknown")).count() as u64;
    agree(app, &of_template(&record, sure)).await;
    let (acknowledged, lost) = lost(app, &record, sure).await;
    (tally.acknowledged, tally.lost) = (tally.acknowledged + acknowledged, tally.lost + lost.len());
    assert_eq!(lost, [] as [String; 0], "level replica");
    let (acknowledged, lost) = self::lost(app, &record, quick).await;
    println!("level redis lost {} of {acknowledged}", lost.len());
    (tally.redis_acknowledged, tally.redis_lost) =
        (tally.redis_acknowledged + acknowledged, tally.redis_lost + lost.len());
    for code in lost.iter().take(3) {
        let asked = app.get("u-1", &format!("/v1/me/coupons/{code}"), &[]).await;
        assert!(asked.status == 410 && asked.json["code"] == "claim_lost", "{asked:?}");
    }
}

/// What was killed comes back: how, and whether another one is the master now.
async fn come_back(replicas: &mut Replicas, victim: usize, chance: u64) -> (&'static str, bool) {
    match chance % 5 {
        0 => {
            replicas.revive(victim, None).await;
            let demoted = async || replicas.master().await != victim && replicas.role(victim).await == "slave";
            let stays = async || replicas.master().await == victim && replicas.role(victim).await == "master";
            until("it is demoted, or stays", async || demoted().await || stays().await).await;
            ("started again at once", replicas.master().await != victim)
        }
        1 | 2 => {
            replicas.failed_over(victim).await;
            replicas.revive(victim, None).await;
            until("the old master is demoted", async || replicas.role(victim).await == "slave").await;
            ("came back as a master", true)
        }
        _ => {
            let new = replicas.failed_over(victim).await;
            replicas.revive(victim, Some(new)).await;
            ("came back as a replica", true)
        }
    }
}

fn word(exchange: &floodgate_loadtest::journal::Exchange) -> Option<&str> {
    Some(exchange.answer.as_ref()?.outcome.word())
}

/// What the journal says of one template.
fn of_template(record: &Record, id: i64) -> Record {
    let mut record = record.clone();
    record.exchanges.retain(|exchange| i64::from(exchange.request.template) == id);
    record
}

/// How many coupons of a template were answered, and the codes of those that are no rows.
async fn lost(app: &TestApp, record: &Record, id: i64) -> (usize, Vec<String>) {
    let rows: HashSet<(u64, i32)> = app.rows(id).await.iter().map(|row| (row.serial as u64, row.epoch)).collect();
    let key = app.config().code_key();
    let mut answered = HashSet::new();
    for exchange in record.exchanges.iter().filter(|one| i64::from(one.request.template) == id) {
        if let Some(Outcome::Coupon { coupon, .. }) = exchange.outcome() {
            answered.insert(coupon.code.to_string());
        }
    }
    let count = answered.len();
    let is_row = |code: &String| {
        let name = key.decode(code).expect("a code of ours");
        rows.contains(&(name.serial, i32::from(name.epoch)))
    };
    answered.retain(|code| !is_row(code));
    (count, answered.into_iter().collect())
}
