//! Flushers that die and freeze at every step, and a schema that is migrated beneath them.

use floodgate::domain::ids::CellId;
use floodgate::redis::keys::CellKeys;

use super::{Area, Scene, fault, reached};
use crate::support::app::{TestApp, until};

const FLUSHER: usize = 2;
const SECOND: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_flusher() {
    let plan = TestApp::plan("faults-flusher").process("gateway").process("gateway").process("flusher,worker");
    let mut area = Area::of(plan).await;
    // With its first batch: a busy machine may give it all that is sold in one.
    for (when, failpoint) in [
        ("before its transaction", "flush_before_transaction=kill"),
        ("within its transaction", "flush_in_transaction=kill"),
        ("after its commit, before it trims", "flush_before_trim=kill"),
    ] {
        area.play(fault(format!("a flusher is killed {when}")).armed(FLUSHER, failpoint), killed).await;
    }
    for (when, failpoint) in [
        ("before it closes the cell", "open_before_close=kill"),
        ("with the cell closed", "open_after_close=kill"),
        ("before it writes the marker", "open_before_marker=kill"),
    ] {
        let opener = fault(format!("an opener is killed {when}")).armed(FLUSHER, failpoint);
        area.play(opener, killed_while_it_opens).await;
    }
    area.play(fault("the schema is migrated while all run"), migrated).await;
    area.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_flushers() {
    let plan = TestApp::plan("faults-flushers").process("gateway").process("gateway").process("flusher,worker");
    // PostgreSQL ends a transaction that stands still for so long. The second one brings other quotas.
    let plan = plan.process("flusher").with("QUOTA_USER_LIMIT", 1_000).set("POSTGRES_STATEMENT_TIMEOUT_MS", 1_000);
    let mut area = Area::of(plan).await;
    let frozen = fault("a flusher is frozen within its transaction and thawed when another has its turn");
    area.play(frozen.without(SECOND).armed(FLUSHER, "flush_in_transaction=stop").long(), frozen_in_its_transaction)
        .await;
    let frozen = fault("a flusher is frozen with entries in hand and thawed when another has stored them");
    area.play(frozen.without(SECOND).armed(FLUSHER, "flush_before_transaction=stop").long(), frozen_with_entries).await;
    let opener = fault("an opener is frozen between its look at the cell and its fence, and claims go on");
    area.play(opener.without(SECOND).long(), frozen_before_the_fence).await;
    area.close().await;
}

async fn killed(scene: &mut Scene<'_>) {
    scene.died(FLUSHER).await;
}

async fn killed_while_it_opens(scene: &mut Scene<'_>) {
    scene.sells(100).await;
    scene.app.kill_redis();
    scene.app.start_redis().await;
    scene.died(FLUSHER).await;
}

async fn migrated(scene: &mut Scene<'_>) {
    let done = scene.app.command(&["migrate"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

pub async fn owns(app: &TestApp, flusher: usize) {
    until("it is the flusher", async || app.gateway(flusher).metric("floodgate_flusher_active").await == Some(1.0))
        .await;
}

/// Nothing is on the queue.
pub async fn stored(app: &TestApp) {
    let queue = CellKeys::new(CellId(0)).queue().to_owned();
    until("the queue is empty", async || app.redis(&["XLEN", &queue]).await == redis::Value::Int(0)).await;
}

async fn frozen(app: &TestApp, process: usize) {
    let pid = app.pid(process);
    until("it is frozen", async || state_of(pid) == 'T').await;
}

/// The second flusher takes over, and the first one wakes up.
async fn thawed(scene: &mut Scene<'_>) {
    owns(scene.app, SECOND).await;
    scene.sells(100).await;
    scene.app.signal(FLUSHER, libc::SIGCONT);
}

async fn frozen_in_its_transaction(scene: &mut Scene<'_>) {
    frozen(scene.app, FLUSHER).await;
    scene.app.restart_unready(SECOND).await;
    thawed(scene).await;
}

/// Its session is idle and would hold the lock for as long as it lives: an operator ends it.
async fn frozen_with_entries(scene: &mut Scene<'_>) {
    frozen(scene.app, FLUSHER).await;
    scene.app.restart_unready(SECOND).await;
    let sql = scene.app.sql().await;
    let end_it = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND classid = (hashtext('floodgate flusher')::int8 & 4294967295)::oid";
    until("its session is ended", async || !sql.query(end_it, &[]).await.unwrap().is_empty()).await;
    thawed(scene).await;
}

/// Both flushers own the cell in turn; the second one opens it anew, for it has other quotas.
async fn frozen_before_the_fence(scene: &mut Scene<'_>) {
    owns(scene.app, FLUSHER).await;
    let more = scene.more();
    scene.app.arm(SECOND, Some("open_before_close=stop")).await;
    scene.app.terminate(FLUSHER).await;
    frozen(scene.app, SECOND).await;
    reached(&more, more.decided() + 100).await;
    assert!(!more.is_over(), "no claims go on");
    scene.app.signal(SECOND, libc::SIGCONT);
    scene.enough(more).await;
    owns(scene.app, SECOND).await;
    scene.app.arm(SECOND, None).await;
    scene.app.restart_unready(FLUSHER).await;
}

/// The letter of /proc for what a process does: `T` is stopped.
fn state_of(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?')
}
