//! Names that were never given are answered from memory: PostgreSQL counts its statements.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::support::app::{TestApp, coupons, until};
use crate::support::wire::Client;

const NAMES: u64 = 100_000;
const CLIENTS: u64 = 16;

/// How often each statement of the app's database ran.
async fn calls(sql: &tokio_postgres::Client) -> BTreeMap<String, i64> {
    let counted = "SELECT query, sum(calls)::int8 FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
        WHERE d.datname = 'floodgate' GROUP BY query";
    sql.query(counted, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The statements that ran meanwhile, and how often.
fn risen(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let more = |(text, calls): (&String, &i64)| (text.clone(), calls - before.get(text).copied().unwrap_or(0));
    after.iter().map(more).filter(|(_, calls)| *calls > 0).collect()
}

/// The `n`-th made-up code: 26 letters of the right alphabet.
fn code(n: u64) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letter = |at: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // The first letter holds three bits.
        ALPHABET[(state % if at == 0 { 8 } else { 32 }) as usize] as char
    };
    (0..26).map(letter).collect()
}

#[tokio::test]
async fn made_up_names_reach_no_database() {
    // The worker that compares the stores reads a piece of them now and then.
    let plan = TestApp::plan("reads-made-up")
        .set("WORKER_RECONCILE_PAUSE_S", 0)
        .postgres("shared_preload_libraries", "pg_stat_statements");
    let app = plan.postgres("pg_stat_statements.track", "all").start().await;
    let id = app.publish(coupons(10)).await;
    let real = app.claim(id, "u-1", "k", &[]).await.json["coupon"]["code"].as_str().unwrap().to_owned();
    until("it is stored", async || app.rows(id).await.len() == 1).await;
    let (support, service) = (app.api_key("support").await, app.api_key("service").await);
    let sql = app.superuser_sql().await;
    sql.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();

    // The counting works: a real name is a query.
    let before = calls(&sql).await;
    assert_eq!(app.get("u-1", &format!("/v1/me/coupons/{real}"), &[]).await.status, 200);
    let by_code = risen(&before, &calls(&sql).await);
    assert!(by_code.keys().any(|text| text.contains("user_coupons")), "{by_code:?}");

    // What runs while nobody asks.
    let idle = calls(&sql).await;
    let ticks = async || {
        let polled = risen(&idle, &calls(&sql).await);
        polled.iter().filter(|(text, _)| text.contains("catalog_versions")).map(|(_, calls)| *calls).sum::<i64>()
    };
    until("the background has had its turns", async || ticks().await >= 15).await;
    let background: Vec<String> = risen(&idle, &calls(&sql).await).into_keys().collect();

    // The new keys are met after every process has heard of them.
    for key in [&support, &service] {
        app.call(key, "GET", "/v1/users/u-1/coupons", &[], json!(null)).await;
    }
    let before = calls(&sql).await;
    let (shop, office) = (app.gateway(0).address().to_owned(), app.gateway(0).internal_address().to_owned());
    let (shopper, support, service) = (app.token("u-1"), support, service);
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (shop, office, next) = (Client::new(&shop), Client::new(&office), next.clone());
        let [shopper, support, service] = [&shopper, &support, &service].map(|key| format!("Bearer {key}"));
        clients.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= NAMES {
                    return;
                }
                let (template, code) = (1_000_000 + n, code(n));
                let line = json!({"line_id": "1", "item_id": "d-1", "category_ids": [], "merchant_id": "m-1",
                    "streamer_id": null, "unit_price": "40.00", "quantity": 1});
                let mut order = json!({"order_id": "o-1", "checkout_id": "c-1", "channel": "app",
                    "currency": "CNY", "lines": [line]});
                let (client, key, method, path, body, expected) = match n % 8 {
                    0 => (
                        &shop,
                        &shopper,
                        "POST",
                        format!("/v1/templates/{template}/claims"),
                        json!({}),
                        "template_not_found",
                    ),
                    1 => {
                        (&shop, &shopper, "GET", format!("/v1/templates/{template}"), json!(null), "template_not_found")
                    }
                    2 | 3 => {
                        (&shop, &shopper, "GET", format!("/v1/me/coupons/{code}"), json!(null), "coupon_not_found")
                    }
                    4 => {
                        let body = json!({"order": order, "coupons": [code], "mode": "given"});
                        (&shop, &shopper, "POST", "/v1/me/quotes".to_owned(), body, "coupon_not_yours")
                    }
                    5 => {
                        order["user_id"] = "u-1".into();
                        let body = json!({"order": order, "coupons": [code], "mode": "given"});
                        (&office, &service, "POST", "/v1/quotes".to_owned(), body, "coupon_not_yours")
                    }
                    6 => (
                        &office,
                        &support,
                        "GET",
                        format!("/v1/coupons/{code}/history"),
                        json!(null),
                        "coupon_not_found",
                    ),
                    _ => {
                        let body = json!({"claims": [{"user_id": "u-1", "claim_key": "k"}]});
                        let path = format!("/v1/templates/{template}/claims:batch");
                        (&office, &service, "POST", path, body, "template_not_found")
                    }
                };
                let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
                let body = if body.is_null() { String::new() } else { body.to_string() };
                let answer = client.send(method, &path, &headers, body).await.unwrap();
                let code = match answer.json["results"].as_array() {
                    Some(results) => {
                        results[0]["body"]["code"].as_str().or(results[0]["code"].as_str()).unwrap_or_default()
                    }
                    None => answer.code(),
                };
                assert_eq!(code, expected, "{method} {path}: {answer:?}");
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    let ran = risen(&before, &calls(&sql).await);
    let (timed, asked): (Vec<_>, Vec<_>) = ran.iter().partition(|(text, _)| background.contains(text));
    assert!(asked.is_empty(), "made-up names made queries: {asked:#?}");
    // A query for each name of one kind would be 12,500.
    let turns: i64 = timed.iter().map(|(_, calls)| **calls).sum();
    assert!(turns < NAMES as i64 / 20, "{turns} statements ran by themselves: {timed:#?}");
    app.stop().await;
}
