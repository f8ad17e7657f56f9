//! Kills under load, at the default ack level: whatever dies, no acknowledged claim is lost, none is
//! granted twice, unknown outcomes resolve, and the sale goes on to the last coupon.
//!
//! `KILLS=20` plays that many rounds of each kind instead of two; `SEED=n` repeats a run's rounds.
//! The moment of a kill depends on the machine, too.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodgate::demo::redis_server::RedisOptions;
use floodgate_loadtest::client;
use floodgate_loadtest::journal::{Journal, Outcome};
use floodgate_loadtest::plan::{Plan, mix, seed_of_now};
use serde_json::json;

use super::sale::{agree, settings};
use super::support::app::{PATIENCE, TestApp, coupons};
use super::support::ledger::balances;

const STOCK: i64 = 3_000;
const CLAIMS: u64 = 12_000;
const USERS: u32 = 2_500;
/// Added when all is sold.
const MORE: i64 = 200;

const GATEWAYS: [usize; 2] = [0, 1];
const FLUSHER: usize = 2;
const SECOND_FLUSHER: usize = 3;

/// How long what was killed stays away, at most.
const AWAY_MAX_MS: u64 = 300;

async fn shop(name: &str) -> TestApp {
    let plan = TestApp::plan(name).redis(RedisOptions::default()).own_postgres();
    plan.process("gateway").process("gateway").process("flusher,worker").process("flusher").start().await
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Rounds of one kind: a sale each, with a kill at a random moment of it.
async fn rounds(name: &str, strike: impl AsyncFn(&mut TestApp, u64)) {
    let seed = number("SEED").unwrap_or_else(seed_of_now);
    let mut app = shop(name).await;
    for round in 0..number("KILLS").unwrap_or(2) {
        let chance = mix(seed.wrapping_add(round));
        println!("{name}, round {round}: SEED={seed}");
        one_round(&mut app, chance, &strike).await;
    }
    app.stop().await;
}

async fn one_round(app: &mut TestApp, chance: u64, strike: &impl AsyncFn(&mut TestApp, u64)) {
    let mut definition = coupons(STOCK);
    definition["limits"] = json!({"per_user": 2});
    let id = app.publish(definition).await;
    let plan = Plan {
        seed: chance,
        keys_per_user: 3,
        keyless: 30,
        double_clicks: 50,
        ..Plan::new(id.try_into().unwrap(), USERS, CLAIMS)
    };
    let journal = Arc::new(Journal::in_memory());
    let load = client::start(plan, settings(app, &GATEWAYS, 48), journal.clone());
    // While there is still something to sell: beyond two thirds it is refusals and replays.
    let moment = CLAIMS / 50 + mix(chance) % (CLAIMS / 2);
    while load.decided() < moment {
        assert!(!load.is_over(), "the load ended before the kill");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    strike(app, chance).await;
    let struck = load.decided();
    let summary = load.finish().await.unwrap();
    let (rate, requests, outcomes) = (summary.rate(), summary.requests, &summary.outcomes);
    println!(
        "killed after {moment} claims, back after {struck}: {outcomes:?}, {requests} requests, {rate:.0} claims/s"
    );
    assert_eq!(summary.given_up, 0, "{summary:?}");
    agree(app, &journal.record()).await;
    assert_eq!(app.rows(id).await.len() as i64, STOCK, "sold to the last coupon");
    sell_more(app, id, &journal).await;
    balances(app);
}

/// Waits until a process is ready. What could not start because a store died under it is started again,
/// as a supervisor would.
pub async fn revive(app: &mut TestApp, number: usize) {
    let begun = Instant::now();
    while app.gateway(number).readyz().await != Some(200) {
        assert!(begun.elapsed() < *PATIENCE, "process {number} does not become ready");
        if !app.is_running(number) {
            app.restart_unready(number).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The sale goes on: stock that is added afterwards is sold, too.
async fn sell_more(app: &mut TestApp, id: i64, journal: &Arc<Journal>) {
    for number in 0..app.processes() {
        revive(app, number).await;
    }
    let before = serials(id, journal).len();
    app.add_stock(id, MORE).await;
    let sold = || serials(id, journal).len() - before;
    // The latch of "sold out" may be late, but not for ever. What is counted are coupons, not answers
    // that say "granted": a claim whose first answer was lost learns of its grant by a replay.
    for again in 0..50 {
        let prefix = format!("late-{again}-");
        let plan = Plan { prefix, ..Plan::new(id.try_into().unwrap(), 10_000, MORE as u64) };
        client::start(plan, settings(app, &GATEWAYS, 16), journal.clone()).finish().await.unwrap();
        if sold() as i64 >= MORE {
            break;
        }
    }
    assert_eq!(sold() as i64, MORE, "the added stock is sold");
    agree(app, &journal.record()).await;
}

/// Coupons of a template that somebody was told of.
fn serials(id: i64, journal: &Journal) -> HashSet<u64> {
    let told = journal.record().exchanges.into_iter().filter(|exchange| i64::from(exchange.request.template) == id);
    told.filter_map(|exchange| match exchange.answer?.outcome {
        Outcome::Coupon { coupon, .. } => Some(coupon.serial),
        _ => None,
    })
    .collect()
}

/// The time that a dead process stays dead: part of the fault, not of the test.
async fn stay_away(chance: u64) {
    tokio::time::sleep(Duration::from_millis(mix(chance ^ 1) % AWAY_MAX_MS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_killed() {
    rounds("kill-gateway", async |app, chance| {
        let victim = GATEWAYS[(chance % 2) as usize];
        app.kill9(victim);
        stay_away(chance).await;
        app.restart_unready(victim).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flusher_is_killed() {
    rounds("kill-flusher", async |app, chance| {
        // One of the two owns the cell, and nobody knows which.
        app.kill9(FLUSHER);
        app.kill9(SECOND_FLUSHER);
        stay_away(chance).await;
        app.restart_unready(FLUSHER).await;
        app.restart_unready(SECOND_FLUSHER).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed() {
    rounds("kill-redis", async |app, chance| {
        app.kill_redis();
        stay_away(chance).await;
        app.start_redis().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_stopped_at_once() {
    rounds("kill-postgres", async |app, chance| {
        app.kill_postgres();
        stay_away(chance).await;
        app.start_postgres().await;
    })
    .await;
}

/// One after the other, and at once: processes and stores, of one sale. A second flusher waits for the
/// first one's death, and one that was only stopped must find that it is no flusher any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_killed() {
    rounds("kill-everything", async |app, chance| {
        for blow in 0..4 {
            let chance = mix(chance ^ blow << 8);
            match chance >> 32 & 7 {
                0 | 1 => app.kill9(GATEWAYS[(chance % 2) as usize]),
                2 => app.kill9(FLUSHER),
                3 => app.kill9(SECOND_FLUSHER),
                4 if app.is_running(FLUSHER) => app.signal(FLUSHER, libc::SIGSTOP),
                5 if app.postgres_runs() => app.kill_postgres(),
                6 | 7 if app.redis.is_some() => app.kill_redis(),
                _ => {}
            }
            stay_away(chance).await;
            // Half of the blows fall while the last one is not mended.
            if chance >> 40 & 1 == 0 {
                mend(app).await;
            }
        }
        mend(app).await;
    })
    .await;
}

/// Starts again whatever is dead.
async fn mend(app: &mut TestApp) {
    if app.redis.is_none() {
        app.start_redis().await;
    }
    if !app.postgres_runs() {
        app.start_postgres().await;
    }
    for number in 0..app.processes() {
        match app.is_running(number) {
            true => app.signal(number, libc::SIGCONT),
            false => app.restart_unready(number).await,
        }
    }
}

/// What a failover does: Redis comes back as it was some time ago. Claims acknowledged at `redis` may be
/// lost by it; those at `postgres` never are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_comes_back_with_less_than_it_acknowledged() {
    let seed = seed_of_now();
    println!("set-back: SEED={seed}");
    let mut app = shop("set-back").await;
    for round in 0..number("KILLS").unwrap_or(2) {
        let chance = mix(number("SEED").unwrap_or(seed).wrapping_add(round));
        let mut definition = coupons(100_000);
        definition["ack"] = json!("postgres");
        let id = app.publish(definition).await;
        let plan = Plan { seed: chance, double_clicks: 50, ..Plan::new(id.try_into().unwrap(), 6_000, CLAIMS) };
        let journal = Arc::new(Journal::in_memory());
        let load = client::start(plan, settings(&app, &GATEWAYS, 200), journal.clone());
        let reached = async |claims: u64| {
            while load.decided() < claims && !load.is_over() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        reached(CLAIMS / 20 + mix(chance) % (CLAIMS / 4)).await;
        let copy = app.folder().join(format!("then-{round}"));
        copy_files(&app.redis_folder().join("appendonlydir"), &copy);
        let then = load.decided();
        reached(then + mix(chance ^ 1) % (CLAIMS / 4)).await;
        assert!(!load.is_over(), "the load ended before the kill");
        app.kill_redis();
        let lost = load.decided() - then;
        std::fs::remove_dir_all(app.redis_folder().join("appendonlydir")).unwrap();
        copy_files(&copy, &app.redis_folder().join("appendonlydir"));
        app.start_redis().await;
        let summary = load.finish().await.unwrap();
        println!("set back by {lost} claims: {:?}, {} requests", summary.outcomes, summary.requests);
        assert_eq!(summary.given_up, 0, "{summary:?}");
        agree(&app, &journal.record()).await;
        balances(&app);
    }
    app.stop().await;
}

/// The files of a folder as they are at this moment; the last line may be torn.
fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
