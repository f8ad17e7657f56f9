//! Kinds that nobody mends but a person: each is produced, named alone, left by `--repair`, and gone when the
//! remedy was taken.

use std::fs;

use serde_json::{Value, json};

use super::super::support::app::{TestApp, coupons, until};
use super::super::support::ledger::number;
use super::{
    META, QUEUE, Said, dump_queue, grant, key, lines_of_a_claim, reconcile, restore_queue, sorted, stored, to_file,
};

const FLUSHER: usize = 1;
const WORKER: usize = 2;

/// More entries than one read of the queue takes.
const ENTRIES: i64 = 210;

async fn shop(name: &str) -> TestApp {
    TestApp::plan(name).process("gateway").process("flusher").process("worker").start().await
}

async fn run(app: &TestApp, sql: &str) {
    app.sql().await.batch_execute(sql).await.unwrap();
}

async fn dump(app: &TestApp, key: &str) -> redis::Value {
    app.redis(&["DUMP", key]).await
}

/// These differences and no others, none of them safe; `--repair` sees the same and changes nothing.
async fn left(app: &TestApp, template: i64, more: &[&str], expected: &[(&str, i64, i64)]) -> Said {
    let held = async || {
        let receipts = format!("{}:u", key(template));
        let mut held = Vec::new();
        for name in [META, QUEUE, &key(template), &receipts] {
            held.push(dump(app, name).await);
        }
        (held, app.rows(template).await, number(app, "SELECT count(*) FROM lost_claims").await)
    };
    let before = held().await;
    let said = reconcile(app, more);
    assert_eq!((said.code, said.places()), (1, sorted(expected)));
    assert!(said.differences.iter().all(|one| one["safe"] == json!(false)), "{:?}", said.differences);
    let again = reconcile(app, &[more, &["--repair"]].concat());
    assert_eq!((again.code, again.places()), (1, sorted(expected)));
    assert!(again.differences.iter().all(|one| one["repaired"].is_null()), "{:?}", again.differences);
    assert_eq!(held().await, before, "nothing is changed");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_that_is_not_where_postgres_has_it_is_opened_anew_by_a_flusher() {
    let mut app = shop("reconcile-cell").await;
    let id = app.publish(coupons(100)).await;
    grant(&app, id, 3).await;
    for (number, (harm, kind)) in [
        ("UPDATE cells SET epoch = epoch + 1", "epoch_differs"),
        ("UPDATE cells SET watermark_seq = watermark_seq + 5", "watermark_ahead"),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(app.terminate(FLUSHER).await);
        reconcile(&app, &[]).is_clean();
        run(&app, harm).await;
        left(&app, id, &[], &[(kind, 0, 0)]).await;
        app.restart(FLUSHER).await;
        until("it is opened anew", async || app.gateway(FLUSHER).metric("floodgate_openings_total").await == Some(1.0))
            .await;
        let user = format!("after-{kind}");
        until("claims go on", async || app.claim(id, &user, "k", &[]).await.status != 503).await;
        stored(&app, id, 4 + number as i64).await;
        reconcile(&app, &[]).is_clean();
    }
    app.stop().await;
}

/// A watermark that was moved by hand over two grants: whatever stands before them on the queue, nothing is trimmed,
/// and no mark is cleared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_the_queue_alone_is_never_trimmed() {
    let mut app = shop("reconcile-not-stored").await;
    let id = app.publish(coupons(500)).await;
    assert!(app.terminate(FLUSHER).await);
    for number in 1..=ENTRIES {
        assert_eq!(app.claim(id, &format!("u-{number}"), "k", &[]).await.status, 201);
    }
    let queue = dump_queue(&app).await;
    app.restart(FLUSHER).await;
    stored(&app, id, ENTRIES).await;
    assert!(app.terminate(FLUSHER).await);
    restore_queue(&app, &queue).await;
    for user in ["late-1", "late-2"] {
        assert_eq!(app.claim(id, user, "k", &[]).await.status, 201);
    }
    run(&app, "UPDATE cells SET watermark_seq = watermark_seq + 2").await;
    let [first, last] = [ENTRIES + 1, ENTRIES + 2];
    // The same seen from both ends: an entry that was to become a row, and a receipt that is none.
    let expected = [
        ("entry_not_stored", id, first),
        ("entry_not_stored", id, last),
        ("row_missing", id, first),
        ("row_missing", id, last),
    ];
    let said = left(&app, id, &[], &expected).await;
    let users: Vec<&Value> = said.differences[..2].iter().map(|one| &one["user_ref"]).collect();
    assert_eq!(users, ["late-1", "late-2"]);

    run(&app, "UPDATE cells SET watermark_seq = watermark_seq - 2").await;
    app.restart(FLUSHER).await;
    stored(&app, id, last).await;
    reconcile(&app, &[]).is_clean();
    app.stop().await;
}

/// PostgreSQL that was set back behind what Redis was given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_of_a_later_postgres_is_left() {
    let plan = TestApp::plan("reconcile-template").set("WORKER_FREE_AFTER_S", 1);
    let mut app = plan.process("gateway").process("flusher").process("worker").start().await;
    let mut over = coupons(100);
    over["claim_window"] = json!({"starts_at": "2026-01-01T00:00:00Z", "ends_at": "2026-01-02T00:00:00Z"});
    let (ahead, freed) = (app.publish(coupons(100)).await, app.publish(over).await);
    grant(&app, ahead, 3).await;
    until("its keys are freed", async || {
        app.redis(&["HGET", &key(freed), "st"]).await == redis::Value::BulkString(b"9".to_vec())
    })
    .await;
    until("PostgreSQL knows", async || {
        let sql = format!("SELECT count(*) FROM coupon_templates WHERE id = {freed} AND redis_revision = revision");
        number(&app, &sql).await == 1
    })
    .await;
    reconcile(&app, &[]).is_clean();
    assert!(app.terminate(WORKER).await);
    let back = "revision = revision - 1, redis_revision = revision - 1";
    run(&app, &format!("UPDATE coupon_templates SET {back} WHERE id = {ahead}")).await;
    left(&app, ahead, &[], &[("template_ahead", ahead, 0)]).await;
    run(&app, &format!("UPDATE coupon_templates SET {back}, freed_at = NULL WHERE id = {freed}")).await;
    left(&app, freed, &[], &[("template_ahead", ahead, 0), ("template_freed", freed, 0)]).await;

    // Changed until its revision is higher; freed is final.
    for action in ["pause", "resume", "pause"] {
        app.act(app.keys().0, ahead, action).await;
    }
    app.restart(WORKER).await;
    until("both are as PostgreSQL has them", async || reconcile(&app, &[]).differences.is_empty()).await;
    assert_eq!(app.claim(ahead, "new", "k", &[]).await.json["code"], "template_inactive");
    app.stop().await;
}

/// Both stores agree with each other and not with what shoppers were told: only a journal can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_stores_have_forgotten_or_altered_a_journal_tells() {
    let app = TestApp::plan("reconcile-promise").process("gateway,flusher,worker").start().await;
    let id = app.publish(coupons(100)).await;
    let mut lines = Vec::new();
    for number in 1..=5 {
        let user = format!("u-{number}");
        let claimed = app.claim(id, &user, "k", &[]).await;
        assert_eq!(claimed.status, 201, "{claimed:?}");
        lines.extend(lines_of_a_claim(number, id, &user, &claimed.json));
    }
    stored(&app, id, 5).await;
    let journal = app.folder().join("journal.ndjson");
    let path = journal.to_str().unwrap().to_owned();
    to_file(&journal, &lines);
    let said = reconcile(&app, &["--journal", &path]);
    said.is_clean();
    assert_eq!(said.summary["promises"], 5);

    // Rows that were altered, whose receipts were then taken from them.
    let receipts = format!("{}:u", key(id));
    let of = |serial| format!("WHERE template_id = {id} AND serial = {serial}");
    run(&app, &format!("UPDATE user_coupons SET acquired_at = acquired_at + interval '1 s' {}", of(2))).await;
    run(&app, &format!("UPDATE user_coupons SET user_ref = 'stranger' {}", of(3))).await;
    app.redis(&["HDEL", &receipts, "u-2", "u-3"]).await;
    let given = reconcile(&app, &["--repair"]);
    assert_eq!((given.code, given.places()), (0, sorted(&[("receipt_missing", id, 2), ("receipt_missing", id, 3)])));
    // The last grant, gone from both.
    run(&app, &format!("DELETE FROM user_coupons {}", of(5))).await;
    app.redis(&["HDEL", &receipts, "u-5"]).await;
    app.redis(&["HSET", &key(id), "next", "5"]).await;
    reconcile(&app, &[]).is_clean();
    // A code that no coupon of this installation has.
    let code = fs::read_to_string(&journal).unwrap().split("\"code\":\"").nth(4).unwrap()[..26].to_owned();
    for line in &mut lines {
        *line = line.replace(&code, &code.chars().rev().collect::<String>());
    }
    to_file(&journal, &lines);
    let expected =
        [("promise_differs", id, 2), ("promise_differs", id, 3), ("promise_broken", id, 4), ("promise_broken", id, 5)];
    let said = left(&app, id, &["--journal", &path], &expected).await;
    let told: Vec<&Value> = said.differences.iter().map(|one| &one["detail"]).collect();
    let told = |part: &str| told.iter().filter(|detail| detail.as_str().unwrap().contains(part)).count();
    assert_eq!((told("is of user stranger"), told("another time"), told("neither store")), (1, 1, 1), "{said:?}");
    app.stop().await;
}
