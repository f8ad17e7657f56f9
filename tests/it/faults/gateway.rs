//! Gateways that die, halt or are replaced, and clients that leave.

use std::time::Duration;

use floodgate_loadtest::client;
use floodgate_loadtest::plan::Plan;

use super::{Area, GATEWAYS, Scene, fault, front};
use crate::support::app::TestApp;

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
    for gateway in GATEWAYS {
        assert!(scene.app.terminate(gateway).await, "it stops in order");
        scene.app.restart(gateway).await;
    }
    let record = scene.journal.record();
    let failed: Vec<_> = record.exchanges.iter().filter(|one| one.answer.is_some() && one.is_unknown()).collect();
    assert!(failed.is_empty(), "{} requests failed, the first: {:?}", failed.len(), failed[0]);
}
