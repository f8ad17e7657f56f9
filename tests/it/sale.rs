//! Whole sales over several gateway processes, each request and answer journalled: what was promised
//! is what the stores hold, to the last coupon.

use std::sync::Arc;
use std::time::Duration;

use floodgate::domain::ids::{CellId, TemplateId};
use floodgate::redis::keys::CellKeys;
use floodgate_loadtest::check::{Checker, Difference};
use floodgate_loadtest::client::{self, Identity, Settings, Summary};
use floodgate_loadtest::journal::{Journal, Outcome, Record};
use floodgate_loadtest::link::Protocol;
use floodgate_loadtest::open;
use floodgate_loadtest::plan::Plan;
use serde_json::json;

use super::support::app::{PATIENCE, TestApp, coupons};

/// How large a sale is: FLOODGATE_SALE=full for what the project promises.
struct Size {
    stock: u32,
    claims: u64,
    users: u32,
    at_once: u32,
}

const QUICK: Size = Size { stock: 10_000, claims: 40_000, users: 15_000, at_once: 1_000 };
const FULL: Size = Size { stock: 100_000, claims: 400_000, users: 150_000, at_once: 10_000 };

fn size() -> Size {
    match std::env::var("FLOODGATE_SALE").as_deref() {
        Ok("full") => FULL,
        _ => QUICK,
    }
}

async fn shop(name: &str) -> TestApp {
    TestApp::plan(name).process("gateway,flusher,worker").process("gateway").start().await
}

pub fn settings(app: &TestApp, gateways: &[usize], connections: usize) -> Settings {
    let addresses = gateways.iter().map(|number| app.gateway(*number).address().to_owned()).collect();
    Settings::new(addresses, connections, Identity::Tokens(app.config().auth.clone()))
}

/// Plays a plan on the first two gateways.
async fn sell(app: &TestApp, plan: Plan, connections: usize, journal: &Arc<Journal>) -> Summary {
    let what = format!("{} claims, seed {}", plan.claims, plan.seed);
    let load = client::start(plan, settings(app, &[0, 1], connections), journal.clone());
    let summary = load.finish().await.unwrap();
    let (rate, took) = (summary.rate(), summary.took.as_secs_f64());
    println!("{what}: {:?} in {took:.1} s, {rate:.0} claims/s", summary.outcomes);
    assert_eq!((summary.given_up, summary.lost_keyless), (0, 0), "{what}");
    summary
}

pub async fn differences(app: &TestApp, record: &Record) -> Vec<Difference> {
    let checker = Checker::new(app.config()).await.unwrap();
    checker.check(record, *PATIENCE).await.unwrap()
}

pub async fn agree(app: &TestApp, record: &Record) {
    let found = differences(app, record).await;
    let shown: Vec<String> = found.iter().take(20).map(Difference::to_string).collect();
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), shown.join("\n"));
}

fn template(id: i64) -> u32 {
    id.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_is_sold_to_the_last_coupon_and_nobody_gets_two() {
    let Size { stock, claims, users, .. } = size();
    let app = shop("sale").await;
    let id = app.publish(coupons(stock.into())).await;
    let plan = Plan { double_clicks: 20, ..Plan::new(template(id), users, claims) };
    let journal = Arc::new(Journal::in_memory());
    let summary = sell(&app, plan, 64, &journal).await;
    assert_eq!(summary.count("granted"), u64::from(stock));
    assert!(summary.count("replayed") > 0 && summary.count("sold_out") > 0, "{summary:?}");
    let total: u64 = ["granted", "replayed", "sold_out"].iter().map(|word| summary.count(word)).sum();
    assert_eq!(total, claims, "{summary:?}");
    agree(&app, &journal.record()).await;
    let serials: Vec<i64> = app.rows(id).await.iter().map(|row| row.serial).collect();
    assert!(serials.iter().copied().eq(1..=i64::from(stock)), "every serial once");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_over_either_protocol_is_journalled_whole() {
    let app = shop("sale-open").await;
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let id = app.publish(coupons(500)).await;
        let plan = Plan { in_turn: true, ..Plan::new(template(id), 700, 700) };
        let journal = Arc::new(Journal::in_memory());
        let closed = settings(&app, &[0, 1], 8);
        let load = open::Settings {
            gateways: closed.gateways.clone(),
            protocol,
            connections: 8,
            streams: 16,
            rate: 700,
            identity: closed.identity.clone(),
            request_timeout: closed.request_timeout,
            threads: 2,
        };
        let report = open::run(plan.clone(), load, Some(journal.clone())).await.unwrap();
        assert_eq!(report.claims, 700);
        assert_eq!((report.latency.count(), report.granted.count() + report.refused.count()), (700, 700));
        assert_eq!((report.count("granted"), report.count("sold_out")), (500, 200), "{:?}", report.outcomes);
        assert!(report.latency.at(1.0) >= report.latency.at(0.5));
        // A claim whose answer was lost is asked again with its key, and has one outcome then.
        let first = &journal.record().exchanges[0].request;
        let number = first.user.trim_start_matches("u-").parse::<u64>().unwrap() - 1;
        journal.forget_answer(first.seq);
        assert_ne!(differences(&app, &journal.record()).await, []);
        let settled = client::settle(plan, vec![number], closed, journal.clone()).finish().await.unwrap();
        assert_eq!(settled.count("replayed"), 1, "{settled:?}");
        agree(&app, &journal.record()).await;
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_coupon_goes_to_one_of_thousands_at_once() {
    let Size { at_once, .. } = size();
    let app = shop("one-coupon").await;
    let id = app.publish(coupons(1)).await;
    let journal = Arc::new(Journal::in_memory());
    // A connection a claim: all of them are under way together.
    let plan = Plan::new(template(id), at_once * 10, at_once.into());
    let summary = sell(&app, plan, at_once as usize, &journal).await;
    assert_eq!((summary.count("granted"), summary.count("sold_out") > 0), (1, true), "{summary:?}");
    agree(&app, &journal.record()).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_templates_at_once_with_limits_double_clicks_and_claims_without_a_key() {
    let Size { stock, claims, users, .. } = size();
    let app = shop("ten-templates").await;
    let mut templates = Vec::new();
    for number in 0..10 {
        let mut definition = coupons(i64::from(stock) / 20);
        // Every other template allows three a user; two of them no more than two a day.
        if number % 2 == 0 {
            definition["limits"] = json!({"per_user": 3});
        }
        if number % 5 == 0 {
            definition["limits"] = json!({"per_user": 3, "per_user_daily": 2});
        }
        templates.push(template(app.publish(definition).await));
    }
    let plan =
        Plan { templates, keys_per_user: 5, keyless: 150, double_clicks: 100, ..Plan::new(0, users / 50, claims / 4) };
    let journal = Arc::new(Journal::in_memory());
    let summary = sell(&app, plan, 64, &journal).await;
    for outcome in ["granted", "replayed", "user_limit_reached", "user_daily_limit_reached", "sold_out"] {
        assert!(summary.count(outcome) > 0, "no {outcome} in {:?}", summary.outcomes);
    }
    agree(&app, &journal.record()).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_hold_over_templates_and_gateways() {
    let plan = TestApp::plan("sale-quotas").set("TRUSTED_PROXIES", "127.0.0.0/8");
    let plan = plan.set("QUOTA_USER_LIMIT", 2).set("QUOTA_IP_LIMIT", 2).set("QUOTA_DEVICE_LIMIT", 2);
    let app = plan.process("gateway,flusher,worker").process("gateway").start().await;
    let mut templates = Vec::new();
    for _ in 0..4 {
        let mut definition = coupons(1000);
        definition["quotas"] = json!(true);
        templates.push(template(app.publish(definition).await));
    }
    let plan = Plan { templates, places: true, double_clicks: 50, ..Plan::new(0, 300, 4000) };
    let journal = Arc::new(Journal::in_memory());
    let summary = sell(&app, plan, 32, &journal).await;
    assert!(summary.count("quota_exceeded") > 0 && summary.count("granted") > 500, "{summary:?}");
    agree(&app, &journal.record()).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_again_after_sold_out_pause_and_end_finds_their_coupon() {
    let app = shop("asked-again").await;
    let (sold, paused, ended) =
        (app.publish(coupons(300)).await, app.publish(coupons(3000)).await, app.publish(coupons(3000)).await);
    let templates = vec![template(sold), template(paused), template(ended)];
    let plan = Plan { templates, ..Plan::new(0, 600, 2000) };
    let journal = Arc::new(Journal::in_memory());
    let first = sell(&app, plan.clone(), 32, &journal).await;
    app.pause(paused).await;
    app.end(ended).await;
    let before = journal.record();
    // The same claims once more: everyone who has a coupon finds it, the others are refused.
    let second = sell(&app, plan, 32, &journal).await;
    assert_eq!(second.count("granted"), 0, "{second:?}");
    assert_eq!(second.count("replayed"), holders(&before), "{second:?}");
    assert_eq!(second.count("sold_out"), first.count("sold_out"), "{second:?}");
    let record = journal.record();
    assert_eq!(record.exchanges.len(), 2 * before.exchanges.len());
    agree(&app, &record).await;
    app.stop().await;
}

/// Claims of a first pass that belong to a claim key with a coupon.
fn holders(record: &Record) -> u64 {
    let is_coupon = |outcome: Option<&Outcome>| matches!(outcome, Some(Outcome::Coupon { .. }));
    record.exchanges.iter().filter(|exchange| is_coupon(exchange.outcome())).count() as u64
}

/// The checker bites: each harm done to a finished sale is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_harm_to_a_sale_is_named() {
    let app = shop("harm").await;
    let id = app.publish(coupons(200)).await;
    let journal = Arc::new(Journal::in_memory());
    sell(&app, Plan::new(template(id), 300, 1000), 16, &journal).await;
    let record = journal.record();
    agree(&app, &record).await;
    let kinds = async |record: &Record| -> Vec<(&'static str, String)> {
        let checker = Checker::new(app.config()).await.unwrap();
        let found = checker.check(record, Duration::from_millis(1)).await.unwrap();
        found.into_iter().map(|difference| (difference.kind, difference.detail)).collect()
    };
    let named = |found: &[(&str, String)], kind: &str, part: &str| {
        assert!(
            found.iter().any(|(word, detail)| *word == kind && detail.contains(part)),
            "no {kind} of {part} in {found:#?}"
        );
    };

    // A claim whose lines are gone from the journal.
    let granted = record.exchanges.iter().find(|one| one.outcome().is_some_and(|outcome| outcome.word() == "granted"));
    let granted = granted.unwrap().clone();
    let mut without = record.clone();
    without.exchanges.retain(|one| one.request.user != granted.request.user);
    named(&kinds(&without).await, "nobody_asked", &format!("reference {}", granted.request.user));
    // Only the answers of a user are gone: nobody knows what became of the claim.
    let mut unanswered = record.clone();
    unanswered
        .exchanges
        .iter_mut()
        .filter(|one| one.request.user == granted.request.user)
        .for_each(|one| one.answer = None);
    named(&kinds(&unanswered).await, "unresolved", &format!("user {}", granted.request.user));
    // Only the request is gone.
    let mut orphaned = record.clone();
    orphaned.exchanges.retain(|one| one.request.seq != granted.request.seq);
    orphaned.orphans.extend(granted.answer.clone());
    named(&kinds(&orphaned).await, "answer_without_request", &format!("request {}", granted.request.seq));

    let sql = app.sql().await;
    let run = async |text: &str| sql.batch_execute(text).await.unwrap();
    // A row, and back.
    run("CREATE TABLE kept AS SELECT * FROM user_coupons WHERE serial = 100").await;
    run("DELETE FROM user_coupons WHERE serial = 100").await;
    let found = kinds(&record).await;
    named(&found, "row_missing", "serial 100 ");
    named(&found, "receipt_without_row", "serial 100,");
    named(&found, "stock_does_not_balance", "1 are nowhere");
    named(&found, "serial_skipped", "serial 100 ");
    // The row under another serial, of another user, with another time, beyond the stock.
    run("INSERT INTO user_coupons SELECT * FROM kept; UPDATE user_coupons SET serial = 201 WHERE serial = 100").await;
    let found = kinds(&record).await;
    named(&found, "row_missing", "serial 100 ");
    named(&found, "serial_beyond_stock", "serial 201 ");
    named(&found, "row_without_receipt", "serial 201,");
    run("UPDATE user_coupons SET serial = 100, user_ref = 'stranger' WHERE serial = 201").await;
    let found = kinds(&record).await;
    named(&found, "row_differs", "reference stranger");
    named(&found, "nobody_asked", "reference stranger");
    run("DELETE FROM user_coupons WHERE serial = 100; INSERT INTO user_coupons SELECT * FROM kept").await;
    run("UPDATE user_coupons SET expires_at = expires_at + interval '1 ms' WHERE serial = 100").await;
    named(&kinds(&record).await, "row_differs", "expires_at");
    run("DELETE FROM user_coupons WHERE serial = 100; INSERT INTO user_coupons SELECT * FROM kept").await;
    // The same claim twice, which is one more than the user may have.
    run("DELETE FROM user_coupons WHERE serial = 99; UPDATE user_coupons SET serial = 99 WHERE serial = 100").await;
    run("INSERT INTO user_coupons SELECT * FROM kept").await;
    let found = kinds(&record).await;
    named(&found, "granted_twice", "100");
    named(&found, "over_user_limit", "2 of 1");
    app.stop().await;
}

/// The same for what Redis holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_harm_to_redis_is_named() {
    let app = shop("harm-redis").await;
    let id = app.publish(coupons(200)).await;
    let journal = Arc::new(Journal::in_memory());
    sell(&app, Plan::new(template(id), 300, 1000), 16, &journal).await;
    let record = journal.record();
    agree(&app, &record).await;
    let user = app.rows(id).await[99].user.clone();
    let keys = CellKeys::new(CellId(0));
    let names = keys.template(TemplateId(template(id)));
    let named = async |harm: &[&str], kind: &str, part: &str| {
        app.redis(harm).await;
        let checker = Checker::new(app.config()).await.unwrap();
        let found = checker.check(&record, Duration::from_millis(1)).await.unwrap();
        let is_named = found.iter().any(|one| one.kind == kind && one.detail.contains(part));
        assert!(is_named, "no {kind} of {part} after {harm:?} in {found:#?}");
    };
    named(&["HDEL", names.receipts(), &user], "row_without_receipt", "serial 100,").await;
    named(&["HSET", names.receipts(), &user, &"x".repeat(21)], "receipt_without_row", &user).await;
    named(&["HSET", names.template(), "next", "199"], "stock_does_not_balance", "2 too many").await;
    named(&["HSET", keys.meta(), "open", "0"], "cell_not_open", "open false").await;
    app.stop().await;
}
