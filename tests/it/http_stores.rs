//! What a shopper is told while a store is away, and what is true when it is back.

use std::path::Path;
use std::time::{Duration, Instant};

use floodgate::demo::redis_server::{Fsync, RedisOptions};
use redis::Value as RedisValue;
use serde_json::{Value, json};

use super::support::app::{TestApp, coupons, until};

/// A template whose claims are answered when their row is there.
fn stored(stock: i64) -> Value {
    let mut template = coupons(stock);
    template["ack"] = json!("postgres");
    template
}

fn bytes_of(value: &RedisValue) -> Vec<u8> {
    match value {
        RedisValue::BulkString(bytes) => bytes.clone(),
        other => panic!("{other:?}"),
    }
}

fn holds(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// Everything that Redis holds and ever wrote: keys, values, and its append-only file.
async fn all_of_redis(app: &TestApp) -> Vec<u8> {
    let RedisValue::Array(keys) = app.redis(&["KEYS", "*"]).await else { panic!("KEYS") };
    let mut all = Vec::new();
    for key in keys.iter().map(bytes_of) {
        let name = String::from_utf8(key.clone()).unwrap();
        all.extend(key);
        all.extend(bytes_of(&app.redis(&["DUMP", &name]).await));
    }
    for file in std::fs::read_dir(app.redis_folder().join("appendonlydir")).unwrap().flatten() {
        all.extend(std::fs::read(file.path()).unwrap());
    }
    all
}

/// Every row of every table as text.
async fn all_of_postgres(app: &TestApp) -> String {
    let client = app.sql().await;
    let tables = client.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", &[]).await.unwrap();
    let mut all = String::new();
    for table in tables {
        let sql = format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM {} t", table.get::<_, String>(0));
        all += &client.query_one(&sql, &[]).await.unwrap().get::<_, String>(0);
    }
    all
}

#[tokio::test]
async fn encrypted_ids_are_nowhere_plain() {
    let extra = vec![("rdbcompression".into(), "no".into())];
    let options = RedisOptions { fsync: Fsync::No, extra, ..Default::default() };
    let plan = TestApp::plan("stores-encrypted").redis(options).set("PRIVACY_ENCRYPT", true).set("QUOTA_USER_LIMIT", 9);
    let mut app = plan.process("gateway,worker").process("flusher").start().await;
    let mut template = coupons(10);
    template["quotas"] = json!(true);
    let id = app.publish(template).await;
    let (user, other) = ("shopper-whose-id-is-plain", "blocked-whose-id-is-plain");
    let first = app.claim(id, user, "k-1", &[]).await;
    assert_eq!(first.code(), "granted");
    app.blacklist("user", other).await;
    until("the row is there", async || app.rows(id).await.len() == 1).await;
    let sealed = app.rows(id).await[0].user.clone();
    // One more that stays on the queue.
    app.kill9(1);
    let second = format!("{user}-2");
    assert_eq!(app.claim(id, &second, "k-1", &[]).await.code(), "granted");
    until("the other is blocked", async || app.claim(id, other, "", &[]).await.code() == "blocked").await;

    let (in_redis, in_postgres) = (all_of_redis(&app).await, all_of_postgres(&app).await);
    assert!(holds(&in_redis, &sealed) && in_postgres.contains(&sealed), "the search finds what is there");
    let plain = "whose-id-is-plain";
    assert!(!holds(&in_redis, plain), "{plain} is in Redis");
    assert!(!in_postgres.contains(plain), "{plain} is in PostgreSQL");
    let log = std::fs::read_to_string(app.folder().join("serve-0.log")).unwrap();
    assert!(!log.is_empty() && !log.contains(plain), "{plain} is in the log");
    // The user is still found by it.
    let replay = app.claim(id, user, "k-1", &[]).await;
    assert_eq!((replay.code(), &replay.json["coupon"]), ("replayed", &first.json["coupon"]));
    assert_eq!(app.get(user, "/v1/me/coupons", &[]).await.json["items"].as_array().unwrap().len(), 1);
    app.stop().await;
}

#[tokio::test]
async fn at_level_postgres_the_row_is_there_with_the_answer() {
    let app = TestApp::start("stores-ack").await;
    let id = app.publish(stored(30)).await;
    for number in 0..30 {
        let user = format!("u-{number}");
        let answer = app.claim(id, &user, "k", &[]).await;
        assert_eq!(answer.code(), "granted", "{answer:?}");
        let serial = answer.json["coupon"]["serial"].as_i64().unwrap();
        let rows = app.rows(id).await;
        assert!(rows.iter().any(|row| (row.serial, row.user.as_str()) == (serial, &user)), "no row of {serial}");
        assert_eq!(app.claim(id, &user, "k", &[]).await.code(), "replayed");
    }
    app.stop().await;
}

#[tokio::test]
async fn without_postgres_claims_go_on_and_those_that_need_it_are_unknown_until_it_is_back() {
    let plan = TestApp::plan("stores-postgres").own_postgres().set("CLAIM_POSTGRES_WAIT_MS", 2500);
    // A request that takes long is no idle connection.
    let plan = plan.set("HTTP_IDLE_TIMEOUT_MS", 300);
    let mut app = plan.set("POSTGRES_CONNECT_TIMEOUT_MS", 500).set("FLUSHER_BACKOFF_MAX_MS", 200).start().await;
    let (strict, plain) = (app.publish(stored(10)).await, app.publish(coupons(10)).await);
    assert_eq!(app.claim(strict, "u-0", "k", &[]).await.code(), "granted");
    app.kill_postgres();

    let begun = Instant::now();
    let keyed = app.claim(strict, "u-1", "k-1", &[]).await;
    let keyless = app.claim(strict, "u-2", "", &[]).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "it hung for {:?}", begun.elapsed());
    for answer in [&keyed, &keyless] {
        assert_eq!((answer.status, answer.code()), (504, "outcome_unknown"), "{answer:?}");
        assert!((1..=3).contains(&answer.retry_after().unwrap()) && answer.json["retryable"] == true);
    }
    assert_eq!(keyed.json["claim_key"], "k-1");
    let made = keyless.json["claim_key"].as_str().unwrap().to_owned();
    assert_eq!(app.claim(strict, "u-0", "k", &[]).await.code(), "outcome_unknown");
    // Nobody is shown a coupon that may not count.
    let limited = app.claim(strict, "u-1", "k-2", &[]).await;
    assert_eq!((limited.code(), &limited.json["coupons"]), ("user_limit_reached", &json!([])), "{limited:?}");
    assert_eq!(app.claim(plain, "u-1", "k-1", &[]).await.code(), "granted");
    assert_eq!(app.gateway(0).readyz().await, Some(200), "ready, PostgreSQL or not");
    assert_eq!(app.get("u-1", "/v1/me/coupons", &[]).await.code(), "unavailable");
    let admin = app.call(app.admin_key(), "GET", "/v1/admin/templates", &[], Value::Null).await;
    assert_eq!((admin.status, admin.code()), (503, "unavailable"), "{admin:?}");

    app.start_postgres().await;
    for (user, key) in [("u-1", "k-1"), ("u-2", made.as_str())] {
        until("the truth is known", async || app.claim(strict, user, key, &[]).await.code() == "replayed").await;
        let replay = app.claim(strict, user, key, &[]).await;
        let row = app.rows(strict).await.into_iter().find(|row| row.user == user).expect("a row");
        assert_eq!(replay.json["coupon"]["serial"], row.serial);
    }
    assert_eq!(app.rows(strict).await.len(), 3, "each once");
    let limited = app.claim(strict, "u-1", "k-2", &[]).await;
    let theirs = &app.claim(strict, "u-1", "k-1", &[]).await.json["coupon"];
    assert_eq!(limited.json["coupons"][0]["code"], theirs["code"], "{limited:?}");
    until("what was granted meanwhile is stored", async || app.rows(plain).await.len() == 1).await;
    app.stop().await;
}

#[tokio::test]
async fn redis_killed_under_claims_comes_back_with_the_truth() {
    let redis = RedisOptions { fsync: Fsync::Always, ..Default::default() };
    let mut app = TestApp::plan("stores-redis").redis(redis).start().await;
    let id = app.publish(coupons(100_000)).await;
    let (path, address) = (format!("/v1/templates/{id}/claims"), app.gateway(0).address().to_owned());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut shoppers = tokio::task::JoinSet::new();
    for shopper in 0..8 {
        let (path, address, stop) = (path.clone(), address.clone(), stop.clone());
        let tokens: Vec<(String, String)> = (0..4000)
            .map(|turn| format!("s{shopper}-{turn}"))
            .map(|user| (format!("Bearer {}", app.token(&user)), user))
            .collect();
        shoppers.spawn(async move {
            let client = super::support::wire::Client::new(&address);
            let mut told = Vec::new();
            for (token, user) in tokens {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let headers = [("authorization", token.as_str()), ("idempotency-key", "k")];
                told.push((user, client.send("POST", &path, &headers, "").await.unwrap()));
            }
            told
        });
    }
    until("claims are granted", async || {
        app.gateway(0).metric("floodgate_claims_total{outcome=\"granted\"").await.unwrap() > 200.0
    })
    .await;
    app.kill_redis();
    until("it says so", async || app.gateway(0).readyz().await == Some(503)).await;
    let down = app.claim(id, "u-down", "k", &[]).await;
    assert_eq!((down.status, down.code()), (503, "unavailable"), "{down:?}");
    assert!(down.retry_after().is_some());
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let told: Vec<_> = shoppers.join_all().await.into_iter().flatten().collect();
    for (user, answer) in &told {
        assert!(
            matches!(answer.code(), "granted" | "unavailable" | "outcome_unknown" | "overloaded"),
            "{user} {answer:?}"
        );
    }
    app.start_redis().await;
    app.ready(0).await;
    let mut users = std::collections::HashSet::new();
    for (user, answer) in told.iter().filter(|(_, answer)| answer.code() != "overloaded") {
        let now = app.claim(id, user, "k", &[]).await;
        match answer.code() {
            "granted" => assert_eq!((now.code(), &now.json["coupon"]), ("replayed", &answer.json["coupon"]), "{user}"),
            "outcome_unknown" => assert!(matches!(now.code(), "granted" | "replayed"), "{user} {now:?}"),
            _ => assert_eq!(now.code(), "granted", "{user}: certainly nothing was granted, yet {now:?}"),
        }
        users.insert(user.clone());
    }
    until("every grant is a row", async || app.rows(id).await.len() == users.len()).await;
    app.stop().await;
}

#[tokio::test]
async fn the_code_of_a_claim_that_redis_lost_says_so() {
    let mut app = TestApp::plan("stores-lost").process("gateway,worker").process("flusher").start().await;
    let id = app.publish(coupons(10)).await;
    let kept = app.claim(id, "u-kept", "k", &[]).await;
    until("it is stored", async || app.rows(id).await.len() == 1).await;
    app.kill9(1);
    let (folder, copy) = (app.redis_folder().join("appendonlydir"), app.folder().join("earlier"));
    copy_files(&folder, &copy);
    let lost = app.claim(id, "u-lost", "k", &[]).await;
    assert_eq!((kept.code(), lost.code()), ("granted", "granted"));
    let at = |answer: &super::support::wire::Answer| {
        format!("/v1/me/coupons/{}", answer.json["coupon"]["code"].as_str().unwrap())
    };
    assert_eq!(app.get("u-lost", &at(&lost), &[]).await.status, 200);

    app.kill_redis();
    copy_files(&copy, &folder);
    app.start_redis().await;
    app.restart(1).await;
    app.ready(0).await;
    until("the gateway knows the new epoch", async || app.gateway(0).metric("floodgate_cell_epoch").await == Some(2.0))
        .await;
    let gone = app.get("u-lost", &at(&lost), &[]).await;
    assert_eq!((gone.status, gone.code()), (410, "claim_lost"), "{gone:?}");
    assert_eq!(app.get("u-kept", &at(&kept), &[]).await.json["serial"], kept.json["coupon"]["serial"]);
    // On new connections at once, not by way of an unknown outcome on the old ones.
    let begun = Instant::now();
    assert_eq!(app.claim(id, "u-kept", "k", &[]).await.code(), "replayed");
    assert!(begun.elapsed() < Duration::from_millis(800), "it took {:?}", begun.elapsed());
    let anew = app.claim(id, "u-lost", "k", &[]).await;
    assert_eq!(anew.code(), "granted", "{anew:?}");
    assert_ne!(anew.json["coupon"]["code"], lost.json["coupon"]["code"], "a lost code never comes to life");
    assert_eq!(app.get("u-lost", &at(&anew), &[]).await.status, 200);
    assert_eq!(app.get("u-lost", &at(&lost), &[]).await.code(), "claim_lost");
    app.stop().await;
}

fn copy_files(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// With the flusher dead the queue fills; claims are refused long before Redis is, known keys are not,
/// and all goes on when the flusher is back.
#[tokio::test]
async fn a_full_queue_refuses_until_the_flusher_is_back() {
    const QUEUE: u64 = 100;
    let plan = TestApp::plan("stores-full").set("CLAIM_BACKLOG_GRANTS_MAX", QUEUE);
    let mut app = plan.process("gateway,worker").process("flusher").start().await;
    let id = app.publish(coupons(1_000)).await;
    app.kill9(1);
    for number in 0..QUEUE {
        assert_eq!(app.claim(id, &format!("u-{number}"), "k", &[]).await.code(), "granted", "{number}");
    }
    let refused = app.claim(id, "u-late", "k", &[]).await;
    assert_eq!((refused.status, refused.code()), (503, "overloaded"));
    assert!(refused.retry_after().is_some_and(|seconds| seconds >= 1), "{refused:?}");
    assert_eq!(app.claim(id, "u-0", "k", &[]).await.code(), "replayed");
    app.restart(1).await;
    until("the queue is drained", async || app.claim(id, "u-late", "k", &[]).await.code() == "granted").await;
    until("every grant is a row", async || app.rows(id).await.len() as u64 == QUEUE + 1).await;
}

/// A row that PostgreSQL refuses is set aside: its holder is told, its neighbours are stored.
#[tokio::test]
async fn a_coupon_whose_row_is_refused_says_so() {
    let app = TestApp::start("stores-aside").await;
    let id = app.publish(stored(10)).await;
    let refuse = "ALTER TABLE user_coupons ADD CONSTRAINT not_this_user CHECK (user_ref <> 'u-poison')";
    app.sql().await.batch_execute(refuse).await.unwrap();
    assert_eq!(app.claim(id, "u-before", "k", &[]).await.code(), "granted");
    let aside = app.claim(id, "u-poison", "k", &[]).await;
    assert_eq!((aside.status, aside.code(), &aside.json["claim_key"]), (500, "set_aside", &json!("k")));
    assert_eq!(app.claim(id, "u-poison", "k", &[]).await.code(), "set_aside", "and so does its replay");
    assert_eq!(app.claim(id, "u-after", "k", &[]).await.code(), "granted");
    let users: Vec<String> = app.rows(id).await.into_iter().map(|row| row.user).collect();
    assert_eq!(users, ["u-before", "u-after"]);
    let reasons = app.sql().await.query("SELECT sqlstate, user_ref FROM set_aside", &[]).await.unwrap();
    assert_eq!(reasons.len(), 1);
    assert_eq!((reasons[0].get::<_, &str>(0), reasons[0].get::<_, &str>(1)), ("23514", "u-poison"));
}
