//! Which Redis is opened after a failover, and which is refused. The test decides who is the master, and Sentinel
//! is told.

use std::collections::HashSet;
use std::sync::Arc;

use floodgate::domain::ids::CellId;
use floodgate::redis::keys::CellKeys;
use floodgate_loadtest::client;
use floodgate_loadtest::journal::Journal;
use floodgate_loadtest::plan::Plan;
use serde_json::json;

use super::super::sale::{agree, settings};
use super::super::support::app::{TestApp, coupons, until};
use super::super::support::ledger::number;
use super::lost;

const GATEWAY: usize = 0;
const FLUSHER: usize = 1;

/// A gateway and a flusher, and a Redis with one replica.
async fn shop(name: &str) -> TestApp {
    TestApp::plan(name).replicas(1).process("gateway,worker").process("flusher").start().await
}

/// As many users claim a coupon each, and get it.
async fn sell(app: &TestApp, id: i64, prefix: &str, claims: u32, journal: &Arc<Journal>) {
    let plan =
        Plan { in_turn: true, prefix: prefix.into(), ..Plan::new(id.try_into().unwrap(), claims, claims.into()) };
    let summary = client::start(plan, settings(app, &[GATEWAY], 16), journal.clone()).finish().await.unwrap();
    assert_eq!(summary.count("granted") + summary.count("replayed"), u64::from(claims), "{summary:?}");
}

async fn stored(app: &TestApp, id: i64, rows: usize) {
    until("all grants are rows", async || app.rows(id).await.len() == rows).await;
}

async fn open_under(app: &TestApp, above: i64) -> i64 {
    until("the cell is open", async || app.gateway(GATEWAY).readyz().await == Some(200) && epoch(app).await > above)
        .await;
    epoch(app).await
}

async fn epoch(app: &TestApp) -> i64 {
    number(app, "SELECT epoch FROM cells").await
}

fn doctor(app: &TestApp) -> String {
    String::from_utf8(app.command(&["doctor"]).stdout).unwrap()
}

/// The replica hears nothing of what is granted from now on.
async fn detach(app: &TestApp) {
    let replicas = app.replicas.as_ref().unwrap();
    replicas.replicating(0, 1).await;
    replicas.release().await;
    replicas.ask::<()>(1, &["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
}

/// The replica becomes the master, and Sentinel names it.
async fn promote(app: &TestApp, node: usize) {
    let replicas = app.replicas.as_ref().unwrap();
    replicas.ask::<()>(node, &["REPLICAOF", "NO", "ONE"]).await.unwrap();
    replicas.name(node).await;
}

/// A grant that no replica has is not acknowledged, however often its key is asked; what needs none is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_level_replica_waits_for_one() {
    let plan = TestApp::plan("level-replica").replicas(1).set("CLAIM_REPLICA_WAIT_MS", 300);
    let app = plan.process("gateway,worker").process("flusher").start().await;
    let mut definition = coupons(100);
    definition["ack"] = json!("Replica");
    let (sure, quick) = (app.publish(definition).await, app.publish(coupons(100)).await);
    let first = app.claim(sure, "u-1", "k", &[]).await;
    assert_eq!(first.status, 201, "{first:?}");
    let replicas = app.replicas.as_ref().unwrap();
    replicas.freeze(1, true);
    let unknown = app.claim(sure, "u-2", "k", &[]).await;
    assert!(unknown.status == 504 && unknown.json["code"] == "outcome_unknown", "{unknown:?}");
    assert_eq!(unknown.json["claim_key"], "k");
    // A replay writes nothing; that a replica has its grant must be told all the same, and cannot be told now.
    for user in ["u-2", "u-1"] {
        let replay = app.claim(sure, user, "k", &[]).await;
        assert!(replay.status == 504 && replay.json["claim_key"] == "k", "{replay:?}");
    }
    // Nor is anybody shown a coupon that a failover may lose.
    let limited = app.claim(sure, "u-1", "another", &[]).await;
    assert_eq!((limited.code(), &limited.json["coupons"]), ("user_limit_reached", &json!([])), "{limited:?}");
    assert_eq!(app.claim(quick, "u-2", "k", &[]).await.status, 201);
    let failed = app.gateway(GATEWAY).metric("floodgate_confirm_failed_total").await;
    assert!(failed.is_some_and(|failed| failed > 0.0), "{failed:?}");
    replicas.freeze(1, false);
    replicas.replicating(0, 1).await;
    let found = app.claim(sure, "u-2", "k", &[]).await;
    assert!(found.status == 200 && found.json["outcome"] == "replayed", "{found:?}");
    let again = app.claim(sure, "u-1", "k", &[]).await;
    assert_eq!(again.json["coupon"], first.json["coupon"]);
    let limited = app.claim(sure, "u-1", "another", &[]).await;
    assert_eq!(limited.json["coupons"][0]["code"], first.json["coupon"]["code"], "{limited:?}");
    stored(&app, sure, 2).await;
    app.stop().await;
}

/// What PostgreSQL has and the promoted replica has not is given back to it; what neither has is lost, says so, and
/// its serials go to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_replica_that_is_promoted_opens_by_itself() {
    let mut app = shop("lagging").await;
    let said = doctor(&app);
    assert!(said.contains("ok    redis replicas: 1 connected") && said.contains("ok    sentinel 1: OK"), "{said}");
    let id = app.publish(coupons(1_200)).await;
    let kept = Arc::new(Journal::in_memory());
    sell(&app, id, "early-", 300, &kept).await;
    detach(&app).await;
    sell(&app, id, "late-", 300, &kept).await;
    stored(&app, id, 600).await;
    app.freeze(FLUSHER).await;
    let gone = Arc::new(Journal::in_memory());
    sell(&app, id, "gone-", 200, &gone).await;
    let before = epoch(&app).await;
    app.replicas.as_mut().unwrap().kill(0);
    app.signal(FLUSHER, libc::SIGCONT);
    promote(&app, 1).await;
    open_under(&app, before).await;
    let said = doctor(&app);
    assert!(said.contains("warn  redis replicas: 0 connected"), "{said}");

    // Everybody who is a row finds their coupon, whether or not the replica had it.
    sell(&app, id, "early-", 300, &kept).await;
    sell(&app, id, "late-", 300, &kept).await;
    let (answered, missing) = lost(&app, &gone.record(), id).await;
    assert_eq!((answered, missing.len()), (200, 200), "only the dead master had them");
    let asked = app.get("gone-1", &format!("/v1/me/coupons/{}", missing[0]), &[]).await;
    assert!(asked.status == 410 && asked.json["code"] == "claim_lost", "{asked:?}");
    sell(&app, id, "new-", 600, &kept).await;
    stored(&app, id, 1_200).await;
    agree(&app, &kept.record()).await;
    app.stop().await;
}

/// The old master was frozen with grants that nobody else had. It is refused as it stands; as a replica it forgets
/// them, and may be promoted again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_master_is_refused_until_it_was_a_replica() {
    let app = &mut shop("old-master").await;
    let id = app.publish(coupons(2_000)).await;
    let journal = Arc::new(Journal::in_memory());
    sell(app, id, "early-", 200, &journal).await;
    stored(app, id, 200).await;
    detach(app).await;
    app.freeze(FLUSHER).await;
    sell(app, id, "gone-", 100, &Arc::new(Journal::in_memory())).await;
    app.replicas.as_ref().unwrap().freeze(0, true);
    let first = epoch(app).await;
    app.signal(FLUSHER, libc::SIGCONT);
    promote(app, 1).await;
    let second = open_under(app, first).await;
    sell(app, id, "second-", 200, &journal).await;
    stored(app, id, 400).await;

    // It wakes as the master that it was. Promoted as it stands it would bring back what was lost.
    app.replicas.as_ref().unwrap().freeze(0, false);
    app.replicas.as_ref().unwrap().name(0).await;
    until("the old master is refused", async || {
        app.gateway(FLUSHER).metric("floodgate_openings_refused_total").await > Some(0.0)
    })
    .await;
    let answer = app.claim(id, "on-the-wrong-side", "k", &[]).await;
    assert!(answer.status == 503 && answer.json["code"] == "unavailable", "{answer:?}");
    assert!(app.log(FLUSHER).contains("until `floodgate recover`"), "{}", app.log(FLUSHER));
    assert_eq!(epoch(app).await, second, "a refusal costs no epoch");

    // The other one still has its cell open.
    app.replicas.as_ref().unwrap().name(1).await;
    until("the gateway is back", async || app.gateway(GATEWAY).readyz().await == Some(200)).await;
    sell(app, id, "third-", 200, &journal).await;
    // Demoted, it takes over what the other has; then it may be promoted again.
    let replicas = app.replicas.as_ref().unwrap();
    replicas.follow(0, 1).await;
    replicas.replicating(1, 1).await;
    replicas.ask::<()>(1, &["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
    promote(app, 0).await;
    open_under(app, second).await;
    sell(app, id, "fourth-", 200, &journal).await;
    stored(app, id, 800).await;
    agree(app, &journal.record()).await;
    let users: HashSet<String> = app.rows(id).await.into_iter().map(|row| row.user).collect();
    assert!(!users.iter().any(|user| user.starts_with("gone-")), "what was lost stays lost");
}

/// A split by configuration: two Redis, a gateway and a flusher at each. PostgreSQL lets one of them open the cell,
/// and nothing that the other one grants is acknowledged by a level that survives it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rivals_one_opens_the_cell() {
    let mut app = shop("rivals").await;
    let mut definition = coupons(3_000);
    definition["ack"] = json!("postgres");
    let id = app.publish(definition).await;
    let journal = Arc::new(Journal::in_memory());
    sell(&app, id, "early-", 100, &journal).await;
    detach(&app).await;
    let replicas = app.replicas.as_ref().unwrap();
    replicas.ask::<()>(1, &["REPLICAOF", "NO", "ONE"]).await.unwrap();
    replicas.name(0).await;
    let rival = replicas.url(1);
    let own = [("REDIS_SENTINELS", String::new()), ("REDIS_URL", rival)];
    let [gateway, flusher] = [app.add("gateway", &own), app.add("flusher", &own)];
    app.restart_unready(gateway).await;
    app.restart_unready(flusher).await;
    // As long as the first flusher lives the rival waits.
    until("the rival's gateway answers", async || app.gateway(gateway).readyz().await == Some(503)).await;
    let claim = async |app: &TestApp, at, user| app.claim_at(at, id, user, user, &[]).await.unwrap();
    assert_eq!(claim(&app, gateway, "too-early").await.status, 503);
    assert_eq!(claim(&app, GATEWAY, "u-1").await.status, 201);

    // It dies over a grant, and the rival opens its own Redis. The other one goes on without knowing.
    app.freeze(FLUSHER).await;
    let plan = Plan { prefix: "alone-".into(), ..Plan::new(id.try_into().unwrap(), 1, 1) };
    let alone = client::start(plan, settings(&app, &[GATEWAY, gateway], 1), journal.clone());
    let queue = CellKeys::new(CellId(0)).queue().to_owned();
    let queued = async || app.replicas.as_ref().unwrap().ask::<u64>(0, &["XLEN", &queue]).await.unwrap();
    until("it is granted", async || queued().await > 0).await;
    app.kill9(FLUSHER);
    until("the rival is open", async || app.gateway(gateway).readyz().await == Some(200)).await;
    assert_eq!(claim(&app, gateway, "u-2").await.status, 201);
    // Nobody was told of the grant of a history that has ended: its claim was decided on the side that counts.
    let summary = alone.finish().await.unwrap();
    assert_eq!((summary.count("granted"), summary.given_up), (1, 0), "{summary:?}");
    until("the other side is closed", async || app.gateway(GATEWAY).readyz().await == Some(503)).await;
    assert_eq!(claim(&app, GATEWAY, "u-3").await.status, 503);

    // The first flusher comes back, and the rival's dies: its Redis holds what was never stored.
    app.restart_unready(FLUSHER).await;
    app.kill9(flusher);
    until("the first Redis is refused", async || {
        app.gateway(FLUSHER).metric("floodgate_openings_refused_total").await > Some(0.0)
    })
    .await;
    app.kill9(FLUSHER);
    app.restart(flusher).await;
    // Led to the Redis that counts, the first gateway goes on.
    app.replicas.as_ref().unwrap().name(1).await;
    until("the first gateway is back", async || app.gateway(GATEWAY).readyz().await == Some(200)).await;
    assert_eq!(claim(&app, GATEWAY, "u-3").await.status, 201);
    let users: Vec<String> = app.rows(id).await.into_iter().map(|row| row.user).collect();
    for user in ["u-1", "u-2", "u-3", "alone-1"] {
        assert_eq!(users.iter().filter(|other| *other == user).count(), 1, "{user}");
    }
    assert_eq!(users.len(), 104);
    assert_eq!(lost(&app, &journal.record(), id).await, (101, Vec::new()));
}
