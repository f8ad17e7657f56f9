//! Gateways that die, halt or are replaced, and clients that leave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use floodgate::faults::of_build;
use floodgate::redis::scripts::Script;
use floodgate_loadtest::client::{self, Load, Summary};
use floodgate_loadtest::journal::{Exchange, Journal, Outcome, Record};
use floodgate_loadtest::plan::Plan;

use super::{Area, GATEWAYS, Scene, fault, front};
use crate::sale::agree;
use crate::support::app::{TestApp, coupons, until};

const VICTIM: usize = 1;

/// Longer than a claim's deadline and its answer's margin.
const HALT_MS: u64 = 1_500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_and_their_clients() {
    let plan = TestApp::plan("faults-gateway").process("gateway").process("gateway").process("flusher,worker");
    let mut area = Area::of(plan).await;
    for (when, failpoint) in [
        ("before its batch is sent", "claim_before_script=kill@12"),
        ("between the script and the answers", "claim_after_script=kill@12"),
    ] {
        area.play(fault(format!("a gateway is killed {when}")).armed(VICTIM, failpoint), killed).await;
    }
    let waiting = fault("a gateway is killed while its answers wait for rows").ack("postgres");
    area.play(waiting.armed(VICTIM, "claim_before_ack=kill@40"), killed).await;
    area.play(fault("a gateway is halted past its deadlines and goes on"), halted).await;
    area.play(fault("clients leave in the middle of their requests"), left_alone).await;
    let rolling = fault("gateways are restarted one after the other").also("no request fails");
    area.play(rolling, restarted_in_turn).await;
    area.close().await;
}

async fn killed(scene: &mut Scene<'_>) {
    scene.died(VICTIM).await;
}

async fn halted(scene: &mut Scene<'_>) {
    scene.app.signal(VICTIM, libc::SIGSTOP);
    scene.lasts(HALT_MS).await;
    scene.app.signal(VICTIM, libc::SIGCONT);
}

/// Claims whose clients wait for two milliseconds only, and ask again later.
async fn left_alone(scene: &mut Scene<'_>) {
    const CLAIMS: u64 = 200;
    let plan = Plan { prefix: "hasty-".into(), ..Plan::new(scene.template, 150, CLAIMS) };
    let patient = front(scene.app, 16);
    let mut hasty = patient.clone();
    (hasty.request_timeout, hasty.patience) = (Duration::from_millis(2), Duration::from_millis(1));
    // Nobody gets an answer: the load stops where a hundred were given up, and begins anew.
    for first in (0..CLAIMS).step_by(50) {
        let some = (first..first + 50).collect();
        client::settle(plan.clone(), some, hasty.clone(), scene.journal.clone()).finish().await.unwrap();
    }
    let all = (0..CLAIMS).collect();
    let settled = client::settle(plan, all, patient, scene.journal.clone()).finish().await.unwrap();
    assert_eq!(settled.given_up, 0, "{settled:?}");
}

async fn restarted_in_turn(scene: &mut Scene<'_>) {
    let more = scene.more();
    for gateway in GATEWAYS {
        assert!(scene.app.terminate(gateway).await, "it stops in order");
        scene.app.restart(gateway).await;
    }
    scene.enough(more).await;
    none_failed(&scene.journal.record());
}

/// Nobody was answered a status of 500 or more, or lost their connection over a request. What has no answer yet is under
/// way; `overloaded` is of a machine that is too busy, whoever restarts.
fn none_failed(record: &Record) {
    let has_failed = |exchange: &&Exchange| match exchange.outcome() {
        Some(Outcome::Unknown { .. }) => true,
        Some(Outcome::Refused { status, code, .. }) => *status >= 500 && &**code != "overloaded",
        Some(Outcome::Coupon { .. }) | None => false,
    };
    let failed: Vec<_> = record.exchanges.iter().filter(has_failed).collect();
    assert!(failed.is_empty(), "{} requests failed, the first: {:?}", failed.len(), failed[0]);
}

/// Of the other build, to whose word each process is restarted and back, one after the other, in one sale.
const OLDER: &str = "older";

/// Granted by each gateway while the two are of different builds, at least.
const GRANTED_APART: f64 = 50.0;

/// Another build says another version and has scripts under other names, both of which stay in Redis. Gateways,
/// flusher and worker are brought from one to the other, and back: whichever stands beside whichever, no request
/// fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_builds_sell_side_by_side() {
    let fault = fault("processes are brought to another build one after the other, and back").also("no request fails");
    if !fault.is_asked_for() {
        return;
    }
    let plan = TestApp::plan("faults-builds").process("gateway").process("gateway").process("flusher,worker");
    let mut app = plan.start().await;
    let template = app.publish(coupons(10_000_000)).await.try_into().unwrap();
    let journal = Arc::new(Journal::in_memory());
    // Half of a load's connections begin at each gateway; those that a restart drives away stay where they went.
    let load = |app: &TestApp, number: usize| {
        let plan = Plan { prefix: format!("u-{number}-"), ..Plan::new(template, 1_000_000, u64::MAX) };
        client::start(Plan { keys_per_user: 3, double_clicks: 50, ..plan }, front(app, 16), journal.clone())
    };
    let (begun, rounds) = (Instant::now(), fault.size().rounds);
    let (mut loads, mut requests, mut granted) = (0, 0, 0);
    let mut under_way = load(&app, loads);
    for build in [Some(OLDER), None].into_iter().cycle().take(2 * rounds as usize) {
        for process in [0, 1, 2] {
            app.set_env(process, "FLOODGATE_OTHER_BUILD", build);
            assert!(app.terminate(process).await, "it stops in order");
            app.restart(process).await;
            let livez = app.gateway(process).office.send("GET", "/livez", &[], "").await.unwrap();
            assert_eq!(livez.json["version"].as_str().unwrap().ends_with(OLDER), build.is_some(), "{livez:?}");
            loads += 1;
            let before = std::mem::replace(&mut under_way, load(&app, loads));
            assert!(!before.is_over(), "claims went on all the time");
            let summary = ended(before).await;
            (requests, granted) = (requests + summary.requests, granted + summary.count("granted"));
            for gateway in GATEWAYS {
                let granted = async || app.gateway(gateway).metric(GRANTED).await.unwrap();
                let before = granted().await;
                until("both sell", async || granted().await >= before + GRANTED_APART).await;
            }
        }
    }
    let summary = ended(under_way).await;
    (requests, granted) = (requests + summary.requests, granted + summary.count("granted"));
    let source = Script::ClaimBatch.source();
    let [this, older] = [source.to_owned(), of_build(source, OLDER)].map(|text| redis::Script::new(&text));
    let known = app.redis(&["SCRIPT", "EXISTS", this.get_hash(), older.get_hash()]).await;
    assert_eq!(known, redis::Value::Array(vec![redis::Value::Int(1); 2]), "both builds' scripts were sent");
    let record = journal.record();
    none_failed(&record);
    agree(&app, &record).await;
    let (also, took) = (fault.also.unwrap_or_default(), begun.elapsed().as_secs_f64() / rounds as f64);
    println!(
        "| {} | {rounds} | equations; {also} | hold: {requests} requests, {granted} granted, {took:.1} s a round |",
        fault.name
    );
    app.stop().await;
}

async fn ended(load: Load) -> Summary {
    load.stop();
    let summary = load.finish().await.unwrap();
    assert_eq!((summary.given_up, summary.lost_keyless), (0, 0), "{summary:?}");
    summary
}

const GRANTED: &str = "floodgate_claims_total{outcome=\"granted\"";
