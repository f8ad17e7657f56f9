//! `floodgate reconcile`: what was altered in one store is named, and mended where that is safe; a sale in
//! full swing shows no difference; what Redis lost of acknowledged claims is known and says so.
//!
//! # Layout
//! - this file: what Redis lost, what was altered, a sale, lost claims
//! - [`kinds`]: kinds that are for a person, one by one

mod kinds;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use floodgate::clock::now_ms;
use floodgate::demo::redis_server::RedisOptions;
use floodgate::journal::{Answer, Coupon, Line, Outcome, Request};
use floodgate_loadtest::client;
use floodgate_loadtest::journal::Journal;
use floodgate_loadtest::plan::Plan;
use serde_json::{Value, json};

use super::sale::settings;
use super::support::app::{TestApp, coupons, until};
use super::support::wire;

/// What one run said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub differences: Vec<Value>,
    summary: Value,
}

/// Runs the command.
pub fn reconcile(app: &TestApp, more: &[&str]) -> Said {
    let mut arguments = vec!["reconcile", "--json"];
    arguments.extend(more);
    let done = tokio::task::block_in_place(|| app.command(&arguments));
    let lines = String::from_utf8(done.stdout).unwrap();
    let mut lines: Vec<Value> =
        lines.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap_or_default();
    assert!(summary["summary"].is_object(), "{summary}: {}", String::from_utf8_lossy(&done.stderr));
    Said { code: done.status.code().unwrap(), differences: lines, summary: summary["summary"].clone() }
}

// === impl Said ===

impl Said {
    /// Kind, template and serial of each difference, in order.
    fn places(&self) -> Vec<(String, i64, i64)> {
        let number = |value: &Value| value.as_i64().unwrap_or(0);
        let place = |one: &Value| {
            (one["kind"].as_str().unwrap().to_owned(), number(&one["template_id"]), number(&one["serial"]))
        };
        let mut places: Vec<_> = self.differences.iter().map(place).collect();
        places.sort();
        places
    }

    fn is_clean(&self) {
        assert!(self.differences.is_empty() && self.code == 0, "code {}: {:?}", self.code, self.places());
    }
}

fn sorted(expected: &[(&str, i64, i64)]) -> Vec<(String, i64, i64)> {
    let mut expected: Vec<_> =
        expected.iter().map(|(kind, template, serial)| ((*kind).to_owned(), *template, *serial)).collect();
    expected.sort();
    expected
}

fn key(template: i64) -> String {
    format!("fg:{{c0}}:t:{template}")
}

const META: &str = "fg:{c0}:meta";
const QUEUE: &str = "fg:{c0}:q";

/// Grants serials 1 to `count` to users u-1 to u-`count`, and waits until they are rows and trimmed.
async fn grant(app: &TestApp, template: i64, count: i64) {
    for number in 1..=count {
        let claimed = app.claim(template, &format!("u-{number}"), &format!("k-{number}"), &[]).await;
        assert_eq!(claimed.status, 201, "{claimed:?}");
    }
    stored(app, template, count).await;
}

async fn stored(app: &TestApp, template: i64, count: i64) {
    until("the grants are rows", async || app.rows(template).await.len() as i64 == count).await;
    until("the queue is trimmed", async || app.redis(&["XLEN", QUEUE]).await == redis::Value::Int(0)).await;
}

/// The queue as it is, put back later: entries that a flusher stored and did not trim.
async fn dump_queue(app: &TestApp) -> Vec<u8> {
    match app.redis(&["DUMP", QUEUE]).await {
        redis::Value::BulkString(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

async fn restore_queue(app: &TestApp, dump: &[u8]) {
    let client = redis::Client::open(app.redis.as_ref().unwrap().url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut restore = redis::cmd("RESTORE");
    restore.arg(QUEUE).arg(0).arg(dump).arg("REPLACE");
    restore.exec_async(&mut connection).await.unwrap();
}

/// Templates with a day's limit, with quotas, and plain ones.
async fn shop(app: &TestApp) -> [i64; 5] {
    let mut daily = coupons(100);
    daily["stock"]["daily"] = json!(50);
    let mut counted = coupons(100);
    counted["quotas"] = json!(true);
    let mut ids = [0; 5];
    for (at, definition) in [daily, counted, coupons(100), coupons(100), coupons(100)].into_iter().enumerate() {
        ids[at] = app.publish(definition).await;
        grant(app, ids[at], 12).await;
    }
    // As if it had been opened long before: what an opening may have begun anew is not looked at.
    app.sql().await.batch_execute("UPDATE cells SET opened_at = opened_at - interval '1 hour'").await.unwrap();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_lost_is_named_mended_and_shown_by_the_gauge() {
    let plan = TestApp::plan("reconcile-safe").set("QUOTA_USER_LIMIT", 40).set("WORKER_RECONCILE_PAUSE_S", 1);
    let mut app = plan.process("gateway,worker").process("flusher").start().await;
    let [daily, counted, stale, altered, restocked] = shop(&app).await;
    // Entries of a flusher that stored them and ended: as its queue was.
    assert!(app.terminate(1).await);
    assert_eq!(app.claim(stale, "late", "k", &[]).await.status, 201);
    let dump = dump_queue(&app).await;
    app.restart(1).await;
    stored(&app, stale, 13).await;
    app.add_stock(restocked, 20).await;
    reconcile(&app, &[]).is_clean();

    restore_queue(&app, &dump).await;
    app.redis(&["HSET", &key(daily), "dc", "3"]).await;
    app.redis(&["HDEL", &format!("{}:u", key(counted)), "u-3"]).await;
    app.redis(&["HSET", &key(counted), "next", "11"]).await;
    for parity in 0..2 {
        app.redis(&["HDEL", &format!("fg:{{c0}}:qu:{parity}"), "u-5"]).await;
    }
    app.redis(&["HSET", &key(stale), "rev", "0", "pu", "9"]).await;
    app.redis(&["HSET", &key(altered), "pu", "99"]).await;
    app.redis(&["HSET", &key(restocked), "given", "100", "more", ""]).await;
    app.redis(&["HSET", META, &format!("d:{altered}"), "1-1"]).await;
    let expected = [
        ("entry_untrimmed", 0, 0),
        ("mark_stale", altered, 0),
        ("day_count_low", daily, 0),
        ("receipt_missing", counted, 3),
        ("cursor_behind", counted, 12),
        ("quota_low", counted, 5),
        ("template_stale", stale, 0),
        ("template_differs", altered, 0),
        ("stock_missing", restocked, 0),
    ];
    let said = reconcile(&app, &[]);
    assert_eq!((said.code, said.places()), (1, sorted(&expected)));
    assert!(said.differences.iter().all(|one| one["safe"] == json!(true) && one["repaired"].is_null()));
    until("the gauge shows it", async || {
        app.gateway(0).metric("floodgate_drift").await.is_some_and(|drift| drift as usize == expected.len())
    })
    .await;

    let mended = reconcile(&app, &["--repair"]);
    assert_eq!((mended.code, mended.places()), (0, sorted(&expected)));
    assert!(mended.differences.iter().all(|one| one["repaired"] == json!(true)), "{:?}", mended.differences);
    app.redis(&["HSET", META, "queued", "77"]).await;
    let counted_wrong = reconcile(&app, &["--repair"]);
    assert_eq!((counted_wrong.code, counted_wrong.places()), (0, sorted(&[("queue_count", 0, 0)])));
    reconcile(&app, &[]).is_clean();
    until("the gauge shows none", async || app.gateway(0).metric("floodgate_drift").await == Some(0.0)).await;

    // What was given back holds: the replay, the limit, and the next serial.
    let again = app.claim(counted, "u-3", "k-3", &[]).await;
    assert_eq!((again.status, &again.json["coupon"]["serial"]), (200, &json!(3)));
    assert_eq!(app.claim(counted, "u-3", "other", &[]).await.json["code"], "user_limit_reached");
    assert_eq!(app.claim(counted, "new", "k", &[]).await.json["coupon"]["serial"], 13);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_person_can_decide_is_named_and_left() {
    let app = TestApp::plan("reconcile-unsafe").process("gateway,flusher,worker").start().await;
    let [daily, deleted, forged, missing, beyond] = shop(&app).await;
    reconcile(&app, &[]).is_clean();
    let client = app.sql().await;
    let run = async |sql: String| client.batch_execute(&sql).await.unwrap();
    app.redis(&["HSET", &key(daily), "dc", "40"]).await;
    run(format!("DELETE FROM user_coupons WHERE template_id = {deleted} AND serial = 7")).await;
    app.redis(&["HINCRBY", &key(deleted), "next", "5"]).await;
    run(format!("UPDATE user_coupons SET claim_key_hash = 1 WHERE template_id = {forged} AND serial = 8")).await;
    // A receipt of serial 90, which nobody was granted.
    let receipt = "\0\0\0\0\x5a\0\x01\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09";
    app.redis(&["HSET", &format!("{}:u", key(forged)), "ghost", receipt]).await;
    app.redis(&["DEL", &key(missing)]).await;
    run(format!("UPDATE stock_ranges SET last_serial = 60 WHERE template_id = {beyond}")).await;
    run(format!(
        "INSERT INTO set_aside (cell, entry_epoch, entry_seq, template_id, serial, epoch, user_ref, claim_key_hash, reason)
         VALUES (0, 1, 1, {beyond}, 50, 1, 'u-50', 1, 'a test')"
    ))
    .await;
    let expected = [
        ("day_count_high", daily, 0),
        ("row_missing", deleted, 7),
        ("serial_stranded", deleted, 13),
        ("receipt_differs", forged, 8),
        ("receipt_without_row", forged, 8),
        ("receipt_without_row", forged, 90),
        ("template_missing", missing, 0),
        ("stock_beyond", beyond, 0),
        ("cursor_behind", beyond, 50),
        ("receipt_missing", beyond, 50),
        ("set_aside", beyond, 50),
    ];
    let said = reconcile(&app, &[]);
    assert_eq!((said.code, said.places()), (1, sorted(&expected)));
    let gone = said.differences.iter().find(|one| one["kind"] == "row_missing").unwrap();
    assert_eq!((&gone["user_ref"], &gone["safe"]), (&json!("u-7"), &json!(false)));
    let left = reconcile(&app, &["--repair"]);
    assert_eq!(left.code, 1, "what is not safe is left");
    let unsafe_ones = expected.iter().filter(|(kind, ..)| !matches!(*kind, "cursor_behind" | "receipt_missing"));
    let unsafe_ones: Vec<_> = unsafe_ones.copied().collect();
    let mut still = reconcile(&app, &[]).places();
    // The cursor is behind the set-aside serial now, as it would be had Redis granted it.
    still.retain(|(kind, template, _)| !(kind == "serial_stranded" && *template == beyond));
    assert_eq!(still, sorted(&unsafe_ones));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_in_full_swing_shows_no_difference() {
    let plan = TestApp::plan("reconcile-load").set("WORKER_RECONCILE_PAUSE_S", 1).set("WORKER_RECONCILE_ROWS", 500);
    let app = plan.process("gateway,worker").process("flusher").start().await;
    let mut definition = coupons(6_000);
    definition["stock"]["daily"] = json!(5_500);
    definition["limits"] = json!({"per_user": 2});
    let id = app.publish(definition).await;
    let journal = Arc::new(Journal::to_file(&app.folder().join("journal.ndjson")).unwrap());
    let plan = Plan { keys_per_user: 3, ..Plan::new(id.try_into().unwrap(), 5_000, 14_000) };
    let load = client::start(plan, settings(&app, &[0], 32), journal);
    let (mut runs, mut rows) = (0, 0);
    while !load.is_over() {
        let said = reconcile(&app, &[]);
        said.is_clean();
        (runs, rows) = (runs + 1, rows + said.summary["rows"].as_u64().unwrap());
    }
    let summary = load.finish().await.unwrap();
    println!("{runs} runs over {rows} rows beside {:.0} claims/s: {:?}", summary.rate(), summary.outcomes);
    assert!(runs > 0 && summary.count("granted") > 5_000, "{runs}, {summary:?}");
    let journal = app.folder().join("journal.ndjson");
    let said = reconcile(&app, &["--journal", journal.to_str().unwrap()]);
    said.is_clean();
    assert!(said.summary["promises"].as_u64() >= Some(summary.count("granted")), "{}", said.summary);
    assert_eq!(app.gateway(0).metric("floodgate_drift").await, Some(0.0));
    app.stop().await;
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Claims that a Redis acknowledges and then comes back without. The flusher, process 1, is away.
async fn lose(app: &mut TestApp, template: i64, users: &[&str]) -> Vec<wire::Answer> {
    assert!(app.terminate(1).await);
    let (aof, kept) = (app.redis_folder().join("appendonlydir"), app.folder().join("copy"));
    copy(&aof, &kept);
    let mut answers = Vec::new();
    for user in users {
        let claimed = app.claim(template, user, &format!("key-{user}"), &[]).await;
        assert_eq!(claimed.status, 201, "{claimed:?}");
        answers.push(claimed);
    }
    app.kill_redis();
    copy(&kept, &aof);
    app.start_redis().await;
    answers
}

async fn lost_claims(app: &TestApp) -> i64 {
    app.sql().await.query_one("SELECT count(*) FROM lost_claims", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_redis_lost_are_counted_listed_and_say_so() {
    let plan = TestApp::plan("reconcile-lost").redis(RedisOptions::default());
    let mut app = plan.process("gateway").process("flusher,worker").start().await;
    let id = app.publish(coupons(100)).await;
    grant(&app, id, 5).await;
    let answers = lose(&mut app, id, &["lost-1", "lost-2", "lost-3"]).await;
    app.restart(1).await;
    until("the losses are written down", async || lost_claims(&app).await == 3).await;
    until("they are counted", async || app.gateway(0).metric("floodgate_claims_lost_total").await == Some(3.0)).await;

    // The serial goes to someone else, under another code.
    until("claims go on", async || app.claim(id, "heir", "k", &[]).await.status != 503).await;
    let heir = app.claim(id, "heir", "k", &[]).await;
    assert_eq!(heir.json["coupon"]["serial"], answers[0].json["coupon"]["serial"]);
    for (answer, user) in answers.iter().zip(["lost-1", "lost-2", "lost-3"]) {
        let code = answer.json["coupon"]["code"].as_str().unwrap();
        assert_ne!(code, heir.json["coupon"]["code"].as_str().unwrap());
        let read = app.get(user, &format!("/v1/me/coupons/{code}"), &[]).await;
        assert_eq!((read.status, &read.json["code"]), (410, &json!("claim_lost")), "{read:?}");
        let path = format!("/v1/coupons/{code}/history");
        let history = app.call(app.admin_key(), "GET", &path, &[], Value::Null).await;
        assert_eq!((history.status, &history.json["code"]), (410, &json!("claim_lost")), "{history:?}");
    }
    stored(&app, id, 6).await;
    let said = reconcile(&app, &["--repair"]);
    let lost = [("claim_lost", id, 6), ("claim_lost", id, 7), ("claim_lost", id, 8)];
    assert_eq!((said.code, said.places()), (1, sorted(&lost)));
    assert_eq!(said.differences[0]["user_ref"], "lost-1");
    app.sql().await.batch_execute("UPDATE lost_claims SET settled_at = now()").await.unwrap();
    reconcile(&app, &[]).is_clean();

    // A gateway that ended has forgotten whom it told; a client's journal has not.
    let told = lose(&mut app, id, &["lost-4"]).await;
    app.kill9(0);
    app.restart_unready(0).await;
    app.restart(1).await;
    app.ready(0).await;
    let path = app.folder().join("journal.ndjson");
    write_journal(&path, id, "lost-4", &told[0].json);
    assert_eq!(lost_claims(&app).await, 3);
    let said = reconcile(&app, &["--journal", path.to_str().unwrap(), "--repair"]);
    assert_eq!((said.code, said.places()), (0, sorted(&[("claim_lost", id, 7)])));
    assert_eq!(said.differences[0]["repaired"], true, "it is written down");
    assert_eq!(lost_claims(&app).await, 4);
    app.stop().await;
}

fn write_journal(path: &Path, template: i64, user: &str, granted: &Value) {
    to_file(path, &lines_of_a_claim(1, template, user, granted));
}

fn to_file(path: &Path, lines: &[String]) {
    fs::write(path, lines.concat()).unwrap();
}

/// What a client's journal says of a claim that was granted so.
fn lines_of_a_claim(seq: u64, template: i64, user: &str, granted: &Value) -> [String; 2] {
    let text = |value: &Value| -> Box<str> { value.as_str().unwrap().into() };
    let coupon = &granted["coupon"];
    let request = Request {
        seq,
        at: now_ms(),
        gateway: "a gateway".into(),
        template: template.try_into().unwrap(),
        user: user.into(),
        claim_key: None,
        ip: None,
        device: None,
    };
    let coupon = Coupon {
        serial: coupon["serial"].as_u64().unwrap(),
        code: text(&coupon["code"]),
        acquired_at: text(&coupon["acquired_at"]),
        valid_from: text(&coupon["valid_from"]),
        expires_at: text(&coupon["expires_at"]),
    };
    let outcome = Outcome::Coupon { replayed: false, claim_key: text(&granted["claim_key"]), coupon };
    let answer = Answer { seq, at: now_ms(), outcome };
    [Line::Request(&request), Line::Answer(&answer)].map(|line| serde_json::to_string(&line).unwrap() + "\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_looked_at_is_told_from_what_differs() {
    let mut app = TestApp::plan("reconcile-blind").process("gateway,flusher,worker").start().await;
    let id = app.publish(coupons(10)).await;
    grant(&app, id, 2).await;
    app.redis(&["FLUSHALL"]).await;
    let emptied = tokio::task::block_in_place(|| app.command(&["reconcile"]));
    let text = String::from_utf8_lossy(&emptied.stdout).into_owned();
    assert!(emptied.status.code() == Some(1) && text.contains("cell_refused") && text.contains("recover"), "{text}");
    app.kill_redis();
    let blind = tokio::task::block_in_place(|| app.command(&["reconcile"]));
    assert_eq!(blind.status.code(), Some(2), "{}", String::from_utf8_lossy(&blind.stderr));
}
