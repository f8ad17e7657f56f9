//! More than can be served, and the time thereafter.

use std::time::Duration;

use floodgate_loadtest::client;
use floodgate_loadtest::plan::Plan;

use super::{Area, Scene, fault, front};
use crate::support::app::TestApp;
use crate::support::proxy::Weather;

/// A lane that holds few claims before a Redis that answers late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_and_its_aftermath() {
    let plan = TestApp::plan("faults-overload").set("CLAIM_LANE_MAX", 16).set("CLAIM_BATCH_MAX", 8);
    let plan = plan.process("gateway").linked().process("gateway").linked().process("flusher,worker");
    let mut area = Area::of(plan).await;
    let overload =
        fault("more claims than lanes take").also("refusals say when to come back; all is served thereafter");
    area.play(overload, overloaded).await;
    area.close().await;
}

async fn overloaded(scene: &mut Scene<'_>) {
    for gateway in super::GATEWAYS {
        scene.app.gateway(gateway).links().redis.set(Weather::Late(Duration::from_millis(40)));
    }
    let plan = Plan { prefix: "crowd-".into(), ..Plan::new(scene.template, 300, 400) };
    let crowd = client::start(plan, front(scene.app, 200), scene.journal.clone());
    scene.lasts(800).await;
    for gateway in super::GATEWAYS {
        scene.app.gateway(gateway).links().redis.set(Weather::Clear);
    }
    let summary = crowd.finish().await.unwrap();
    assert_eq!(summary.given_up, 0, "{summary:?}");
    let record = scene.journal.record();
    let refused =
        record.exchanges.iter().filter(|one| one.outcome().is_some_and(|outcome| outcome.word() == "overloaded"));
    assert!(refused.count() > 0, "nobody was refused: this is no overload");
}
