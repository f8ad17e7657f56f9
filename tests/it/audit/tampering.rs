//! What somebody with SQL does to the log, one deed at a time, and what verification says of it.

use std::path::PathBuf;
use std::process::Output;

use tokio_postgres::Client;

use super::super::support::app::{TestApp, coupons, until};

/// Both tables and the head, as they were.
const SAVE: &str = "CREATE TABLE log_copy AS TABLE audit_log; CREATE TABLE chain_copy AS TABLE audit_chain;
    CREATE TABLE head_copy AS TABLE audit_head;
    ALTER TABLE audit_log DISABLE TRIGGER USER; ALTER TABLE audit_chain DISABLE TRIGGER USER;";
const RESTORE: &str = "TRUNCATE audit_log, audit_chain, audit_head;
    INSERT INTO audit_log OVERRIDING SYSTEM VALUE TABLE log_copy; INSERT INTO audit_chain TABLE chain_copy;
    INSERT INTO audit_head TABLE head_copy;";

fn verify(app: &TestApp, anchors: &[&str]) -> Output {
    let mut arguments = vec!["audit", "verify"];
    anchors.iter().for_each(|file| arguments.extend(["--anchor", file]));
    app.command(&arguments)
}

/// What it found, a line each, with the summary last.
fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn clean(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    let lines = lines(output);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].clone()
}

/// The findings; the command must have failed for them.
fn findings(output: &Output) -> Vec<String> {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let mut lines = lines(output);
    lines.pop();
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("{} findings", lines.len())), "{output:?}");
    lines
}

fn anchors(app: &TestApp) -> PathBuf {
    app.folder().join("anchors")
}

async fn sealed(app: &TestApp) -> (i64, i64) {
    let ends = "SELECT (SELECT max(id) FROM audit_log), position FROM audit_head";
    let row = app.sql().await.query_one(ends, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// An app with some records, stopped in order: all of it is sealed, and anchored.
async fn stopped(name: &str) -> (TestApp, String) {
    let folder = std::env::temp_dir().join(format!("floodgate-it-{}-{name}-anchors", std::process::id()));
    let _ = std::fs::remove_file(&folder);
    let file = folder.to_str().unwrap().to_owned();
    let mut app = TestApp::plan(name).set("AUDIT_ANCHOR_FILE", &file).start().await;
    app.publish(coupons(1)).await;
    app.publish(coupons(1)).await;
    assert!(app.terminate(0).await);
    (app, file)
}

#[tokio::test]
async fn each_deed_is_told_from_the_others() {
    let (app, file) = stopped("audit-deeds").await;
    let sql = app.sql().await;
    let (records, positions) = sealed(&app).await;
    assert_eq!((records, positions), (12, 12), "migrate, three keys, two templates in four steps each");
    let summary = clean(&verify(&app, &[]));
    assert!(summary.starts_with("12 positions verified, the last is 12; ") && summary.contains(" anchors compared"));

    // By a slip of the hand nothing happens at all.
    for slip in ["UPDATE audit_log SET actor = 'cli'", "DELETE FROM audit_chain", "TRUNCATE audit_log CASCADE"] {
        assert!(sql.batch_execute(slip).await.unwrap_err().as_db_error().unwrap().message().contains("append-only"));
    }
    sql.batch_execute(SAVE).await.unwrap();

    let cut = "DELETE FROM audit_log WHERE id > 9; DELETE FROM audit_chain WHERE position > 9;";
    let head =
        "UPDATE audit_head SET position = 9, chain_hash = (SELECT chain_hash FROM audit_chain WHERE position = 9)";
    let behind = format!("cut tail: the anchor of # in {file} names position 12, the chain ends at 9");
    let shifted = behind.replace("ends at 9", "ends at 11");
    let deeds: Vec<(&str, String, Vec<&str>)> = vec![
        (
            "a record's actor",
            "UPDATE audit_log SET actor = 'key:99' WHERE id = 7".into(),
            vec![
                "flipped: position 7: record 7 has another content: now it is template.approve of template:1 by key:99",
            ],
        ),
        (
            "a record's contents, by a blank",
            "UPDATE audit_log SET after = (after::text || ' ')::json WHERE id = 7".into(),
            vec![
                "flipped: position 7: record 7 has another content: now it is template.approve of template:1 by key:3",
            ],
        ),
        (
            "a record and its hash",
            "UPDATE audit_log SET actor = 'cli' WHERE id = 7;
                UPDATE audit_chain SET record_hash = sha256('made up') WHERE position = 7"
                .into(),
            vec![
                "flipped: position 7: the chain itself has another content than was written",
                "flipped: position 7: record 7 has another content: now it is template.approve of template:1 by cli",
            ],
        ),
        (
            "the time of a record",
            "UPDATE audit_log SET at = at - interval '1 microsecond' WHERE id = 1".into(),
            vec!["flipped: position 1: record 1 has another content: now it is schema.migrate of schema by cli"],
        ),
        (
            "a record is deleted",
            "DELETE FROM audit_log WHERE id = 7".into(),
            vec!["deleted: position 7: record 7 is gone"],
        ),
        (
            "a record and its position are deleted",
            "DELETE FROM audit_log WHERE id IN (6, 7); DELETE FROM audit_chain WHERE record_id IN (6, 7)".into(),
            vec!["deleted: position 7: positions 6 to 7 of the chain are gone"],
        ),
        (
            "the first",
            "DELETE FROM audit_log WHERE id = 1; DELETE FROM audit_chain WHERE record_id = 1".into(),
            vec!["deleted: position 1: position 1 of the chain is gone"],
        ),
        (
            "deleted, and those behind moved up",
            "DELETE FROM audit_log WHERE id = 7; DELETE FROM audit_chain WHERE record_id = 7;
                UPDATE audit_chain SET position = -position WHERE position > 7;
                UPDATE audit_chain SET position = -position - 1 WHERE position < 0;
                UPDATE audit_head SET position = 11"
                .into(),
            vec!["deleted: position 7: positions before this one were taken out of the chain", &shifted],
        ),
        (
            "two records change places",
            "UPDATE audit_log a SET (at, actor, ip, request_id, action, subject, before, after) = (SELECT at, actor, ip,
                request_id, action, subject, before, after FROM audit_log b WHERE b.id = 11 - a.id) WHERE id IN (4, 7)"
                .into(),
            vec![
                "reordered: position 4: record 4 has the content of record 7",
                "reordered: position 7: record 7 has the content of record 4",
            ],
        ),
        (
            "two positions change places",
            "UPDATE audit_chain SET position = 1000 WHERE position = 4; UPDATE audit_chain SET position = 4 WHERE
                position = 8; UPDATE audit_chain SET position = 8 WHERE position = 1000"
                .into(),
            [4, 5, 8, 9]
                .map(|at| match at {
                    4 => "reordered: position 4: the chain's positions have changed places",
                    5 => "reordered: position 5: the chain's positions have changed places",
                    8 => "reordered: position 8: the chain's positions have changed places",
                    _ => "reordered: position 9: the chain's positions have changed places",
                })
                .into(),
        ),
        (
            "the tail of the log is cut",
            "DELETE FROM audit_log WHERE id > 10".into(),
            vec![
                "deleted: position 11: record 11 is gone",
                "cut tail: position 11: all records from here to the end, position 12, are gone",
                "deleted: position 12: record 12 is gone",
            ],
        ),
        (
            "the tail of log and chain is cut",
            cut.into(),
            vec!["cut tail: the chain ends at position 9, its head says 12", &behind],
        ),
        ("the tail of all three is cut: the anchor knows", format!("{cut} {head}"), vec![&behind]),
        ("the chain's head is gone", "DELETE FROM audit_head".into(), vec!["cut tail: the chain's head is gone"]),
        (
            "a record is put below the end",
            "INSERT INTO audit_log (id, actor, action, subject) OVERRIDING SYSTEM VALUE
                VALUES (0, 'cli', 'template.stop', 'template:1')"
                .into(),
            vec!["unsealed: record 0 is in no position of the chain"],
        ),
    ];
    for (deed, statement, expected) in deeds {
        sql.batch_execute(&statement).await.unwrap();
        let found: Vec<String> = findings(&verify(&app, &[])).iter().map(|line| timeless(line)).collect();
        assert_eq!(found, expected, "{deed}");
        sql.batch_execute(RESTORE).await.unwrap();
    }
    // All is as it was.
    clean(&verify(&app, &[]));

    // Without an anchor the cut of all three is sound, and verification says what it cannot see.
    sql.batch_execute(&format!("{cut} {head}")).await.unwrap();
    std::fs::write(anchors(&app), "").unwrap();
    let none = verify(&app, &[anchors(&app).to_str().unwrap()]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("holds no anchor"), "{none:?}");
    app.stop().await;
    let _ = std::fs::remove_file(file);
}

/// The line without the time of its anchor.
fn timeless(line: &str) -> String {
    match line.split_once("the anchor of ") {
        Some((begin, rest)) => format!("{begin}the anchor of # {}", rest.split_once(' ').unwrap().1),
        None => line.to_owned(),
    }
}

#[tokio::test]
async fn a_tail_that_was_cut_and_grew_again_is_an_alarm_and_a_finding() {
    let (mut app, file) = stopped("audit-regrown").await;
    app.restart(0).await;
    until("it has seen the end", async || app.gateway(0).metric("floodgate_audit_sealed_position").await == Some(12.0))
        .await;
    let sql = app.sql().await;
    sql.batch_execute(
        "BEGIN; ALTER TABLE audit_log DISABLE TRIGGER USER; ALTER TABLE audit_chain DISABLE TRIGGER USER;
        DELETE FROM audit_log WHERE id > 9; DELETE FROM audit_chain WHERE position > 9;
        UPDATE audit_head SET position = 9, chain_hash = (SELECT chain_hash FROM audit_chain WHERE position = 9);
        COMMIT",
    )
    .await
    .unwrap();
    until("the process cries", async || {
        app.gateway(0).metric("floodgate_audit_head_lost_total").await.is_some_and(|cries| cries >= 1.0)
    })
    .await;
    for _ in 0..5 {
        app.blacklist("user", "u-1").await;
    }
    until("they are sealed", async || sealed(&app).await.1 == 14).await;
    let found = findings(&verify(&app, &[]));
    let expected = format!(
        "cut tail: position 12: the anchor of # in {file} has another hash: the log was cut before it, and went on"
    );
    assert_eq!(found.iter().map(|line| timeless(line)).collect::<Vec<_>>(), [expected]);
    app.stop().await;
    let _ = std::fs::remove_file(file);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_commit_late_or_never_are_sealed_and_verified_under_writes() {
    let mut app = TestApp::plan("audit-late").process("gateway,flusher,worker").process("worker").start().await;
    let insert = "INSERT INTO audit_log (actor, action, subject) VALUES ('cli', 'template.stop', 'template:1')";
    let mut late = app.sql().await;
    let late = late.transaction().await.unwrap();
    late.execute(insert, &[]).await.unwrap();
    // Ids that nobody will ever have.
    for _ in 0..3 {
        let mut never = app.sql().await;
        let never = never.transaction().await.unwrap();
        never.execute(insert, &[]).await.unwrap();
        never.rollback().await.unwrap();
    }
    let writers: Vec<Client> = futures_util::future::join_all((0..4).map(|_| app.sql())).await;
    let writing = async {
        let write = async |sql: &Client| {
            for _ in 0..1_500 {
                sql.execute(insert, &[]).await.unwrap();
            }
        };
        futures_util::future::join_all(writers.iter().map(write)).await;
    };
    let verifying = async {
        for _ in 0..3 {
            let output = tokio::task::block_in_place(|| verify(&app, &[]));
            clean(&output);
        }
    };
    tokio::join!(writing, verifying);
    let sql = app.sql().await;
    let count = async |of: &str| -> i64 { sql.query_one(of, &[]).await.unwrap().get(0) };
    let open = "SELECT count(*) FROM audit_log l WHERE NOT EXISTS (SELECT FROM audit_chain c WHERE c.record_id = l.id)";
    until("all are sealed", async || count(open).await == 0).await;
    let before = count("SELECT position FROM audit_head").await;
    assert!(count("SELECT count(*) FROM audit_gaps").await >= 1, "the late one is waited for");
    late.commit().await.unwrap();
    until("the late one is sealed", async || count("SELECT position FROM audit_head").await == before + 1).await;
    let summary = clean(&tokio::task::block_in_place(|| verify(&app, &[])));
    assert!(summary.contains("no anchors"), "{summary}");

    // Killed in the middle, the next one goes on where it was.
    app.kill9(0);
    app.kill9(1);
    for _ in 0..50 {
        writers[0].execute(insert, &[]).await.unwrap();
    }
    let found = findings(&tokio::task::block_in_place(|| verify(&app, &[])));
    assert_eq!(found.len(), 50, "nobody seals, and that is said");
    assert!(found.iter().all(|line| line.starts_with("unsealed: record ")));
    app.restart(1).await;
    until("they are sealed", async || count(open).await == 0).await;
    clean(&tokio::task::block_in_place(|| verify(&app, &[])));
    let records = count("SELECT count(*) FROM audit_log").await;
    assert_eq!(records, count("SELECT position FROM audit_head").await, "each record has one position");
    app.stop().await;
}
