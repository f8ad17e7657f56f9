//! Reads of what users hold: bounded, scoped, right while everything changes, and right from a replica.

mod made_up;
mod replica;

use floodgate_loadtest::scale::{Scale, plans};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use floodgate::clock::now_ms;
use floodgate::domain::code::{CodeKey, CouponName};
use floodgate::domain::ids::TemplateId;
use floodgate::domain::window::rfc3339;
use serde_json::{Value, json};

use super::support::app::{TestApp, coupons, until};
use super::support::till::{Till, order};
use super::support::wire::Answer;

const STATUSES: [&str; 6] = ["unused", "locked", "offered", "used", "expired", "revoked"];

fn items(answer: &Answer) -> Vec<Value> {
    answer.json["items"].as_array().unwrap_or_else(|| panic!("no list: {answer:?}")).clone()
}

fn serials(list: &[Value]) -> Vec<i64> {
    list.iter().map(|coupon| coupon["serial"].as_i64().unwrap()).collect()
}

/// Every page of a wallet, by its cursors.
async fn pages(app: &TestApp, user: &str, query: &str) -> Vec<Vec<Value>> {
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = app.get(user, &format!("/v1/me/coupons?{query}{cursor}"), &[]).await;
        pages.push(items(&answer));
        match answer.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return pages,
        }
    }
}

/// Coupons that a user was granted a second apart, the first serial the oldest, all stored.
async fn fill(app: &TestApp, template: i64, user: &str, serials: std::ops::RangeInclusive<i64>) {
    let sql = format!(
        "INSERT INTO user_coupons (template_id, serial, epoch, user_ref, claim_key_hash, acquired_at, valid_from, expires_at)
         SELECT {template}, s, 1, '{user}', s, date_trunc('second', now()) - interval '1 day' + s * interval '1 second',
            now() - interval '1 day', now() + interval '1 day'
         FROM generate_series({}, {}::int8) AS s; ANALYZE user_coupons",
        serials.start(),
        serials.end()
    );
    app.sql().await.batch_execute(&sql).await.unwrap();
}

async fn set_status(app: &TestApp, template: i64, status: i16, serials: &[i64]) {
    let sql = "UPDATE user_coupons SET status = $2 WHERE template_id = $1 AND serial = ANY ($3)";
    let changed = app.sql().await.execute(sql, &[&(template as i32), &status, &serials]).await.unwrap();
    assert_eq!(changed, serials.len() as u64);
}

#[tokio::test]
async fn a_hundred_thousand_coupons_are_read_a_bounded_look_at_a_time() {
    let app = TestApp::start("reads-bounded").await;
    let id = app.publish(coupons(10_000)).await;
    fill(&app, id, "u-1", 5_001..=9_500).await;
    set_status(&app, id, 2, &[5_001, 7_400, 9_490]).await;
    set_status(&app, id, 6, &[7_501]).await;

    // Looks of 2,000: 9500 to 7501, 7500 to 5501, 5500 to 5001. Each ends a page, or a page ends within one.
    for limit in [20, 1] {
        let pages = pages(&app, "u-1", &format!("status=locked&limit={limit}")).await;
        let found: Vec<Vec<i64>> = pages.iter().filter(|page| !page.is_empty()).map(|page| serials(page)).collect();
        assert_eq!(found, [[9_490], [7_400], [5_001]]);
        assert!(pages.len() <= 6, "{} pages", pages.len());
    }
    // The very coupon that a look ends with is neither lost nor shown twice.
    assert_eq!(pages(&app, "u-1", "status=revoked&limit=20").await.concat().len(), 1);
    let none = pages(&app, "u-1", "status=used&limit=20").await;
    assert_eq!((none.len(), none.concat().len()), (3, 0));
    let all = pages(&app, "u-1", "limit=100").await;
    assert!(all[..all.len() - 1].iter().all(|page| page.len() == 100));
    assert_eq!(serials(&all.concat()), (5_001..=9_500).rev().collect::<Vec<i64>>());
    let mut by_status = BTreeMap::new();
    for status in STATUSES {
        by_status.insert(status, pages(&app, "u-1", &format!("status={status}&limit=100")).await.concat().len());
    }
    assert_eq!(by_status.values().sum::<usize>(), 4_500, "{by_status:?}");

    // What is granted now and not stored yet still comes first, once.
    let claimed = app.claim(id, "u-1", "k", &[]).await;
    assert_eq!(claimed.code(), "granted", "{claimed:?}");
    let first = app.get("u-1", "/v1/me/coupons?limit=1", &[]).await;
    assert_eq!(items(&first)[0]["code"], claimed.json["coupon"]["code"]);

    // A quote says that it did not look at everything.
    let asked = |user: &str| {
        json!({"order": {
            "order_id": "o-1", "checkout_id": "c-1", "user_id": user, "channel": "app",
            "placed_at": rfc3339(chrono_tz::Tz::UTC, now_ms()), "currency": "CNY",
            "lines": [{"line_id": "1", "item_id": "d-1", "category_ids": [], "merchant_id": "m-1", "streamer_id": null,
                "unit_price": "40.00", "quantity": 1}],
        }})
    };
    app.claim(id, "u-2", "k", &[]).await;
    let service = app.api_key("service").await;
    for (user, optimal) in [("u-1", false), ("u-2", true)] {
        let quote = app.call(&service, "POST", "/v1/quotes", &[], asked(user)).await;
        assert_eq!((quote.status, &quote.json["optimal"]), (200, &json!(optimal)), "{user}");
    }
    app.stop().await;
}

/// The statements that `make explain` explains on ten million coupons, on as many as make an index worth its while.
#[tokio::test]
async fn every_read_goes_by_an_index() {
    let folder = std::env::temp_dir().join(format!("floodgate-plans-{}", std::process::id()));
    let scale = Scale::open(&folder, 300_000).await.unwrap();
    let found = plans::explain(&scale).await.unwrap();
    drop(scale);
    std::fs::remove_dir_all(&folder).unwrap();
    let wrongs = plans::wrongs(&found);
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n\n"));
    assert!(found.iter().any(|one| one.scans.iter().any(|scan| scan == "index scan user_coupons_wallet")));
}

#[tokio::test]
async fn pages_hold_while_coupons_change() {
    const COUPONS: i64 = 240;
    let app = TestApp::start("reads-changing").await;
    let id = app.publish(coupons(1_000)).await;
    fill(&app, id, "u-1", 1..=COUPONS).await;
    // A third keeps its status, two thirds change all the time.
    let of_status = |status: i64| (1..=COUPONS).filter(|s| s % 18 == status - 1).collect::<Vec<i64>>();
    for status in 2..=6 {
        set_status(&app, id, status as i16, &of_status(status)).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let changer = {
        let (sql, stop) = (app.sql().await, stop.clone());
        tokio::spawn(async move {
            let mut rounds = 0i64;
            while !stop.load(Ordering::Relaxed) {
                let change =
                    "UPDATE user_coupons SET status = 1 + (serial + $2) % 6 WHERE template_id = $1 AND serial % 18 > 5";
                sql.execute(change, &[&(id as i32), &rounds]).await.unwrap();
                rounds += 1;
            }
            rounds
        })
    };
    for limit in [1, 7, 100] {
        let all = pages(&app, "u-1", &format!("limit={limit}")).await.concat();
        assert_eq!(serials(&all), (1..=COUPONS).rev().collect::<Vec<i64>>(), "by {limit}");
        for (number, status) in (1..).zip(STATUSES) {
            let found = pages(&app, "u-1", &format!("status={status}&limit={limit}")).await.concat();
            assert!(found.iter().all(|coupon| coupon["status"] == status), "{found:?}");
            let seen = serials(&found);
            assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "{seen:?}");
            let seen: BTreeSet<i64> = seen.into_iter().collect();
            let steady = of_status(number);
            assert!(!steady.is_empty() && steady.iter().all(|serial| seen.contains(serial)), "{status}: {seen:?}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert!(changer.await.unwrap() > 10, "hardly anything changed");
    app.stop().await;
}

#[tokio::test]
async fn support_reads_what_a_user_holds_and_owners_their_own() {
    let app = TestApp::start("reads-support").await;
    let mut merchants = coupons(10);
    merchants["issuer"] = "merchant".into();
    merchants["issuer_id"] = "m-1".into();
    let (platforms, merchants) = (app.publish(coupons(10)).await, app.publish(merchants).await);
    let mut codes = BTreeMap::new();
    for template in [platforms, merchants] {
        let claimed = app.claim(template, "u-1", "k", &[]).await;
        codes.insert(template, claimed.json["coupon"]["code"].as_str().unwrap().to_owned());
    }
    let mine = items(&app.get("u-1", "/v1/me/coupons", &[]).await);
    assert_eq!(mine.len(), 2);
    let read = async |key: &str, path: &str| app.call(key, "GET", path, &[], Value::Null).await;
    let (support, service) = (app.api_key("support").await, app.api_key("service").await);
    for key in [&support, &service] {
        // At once: what is not stored yet too.
        assert_eq!(items(&read(key, "/v1/users/u-1/coupons").await), mine);
        assert_eq!(items(&read(key, "/v1/users/u-1/coupons?status=UNUSED").await), mine);
        assert_eq!(items(&read(key, "/v1/users/u-1/coupons?status=used").await), Vec::<Value>::new());
        assert_eq!(items(&read(key, "/v1/users/nobody/coupons").await), Vec::<Value>::new());
        let first = read(key, "/v1/users/u-1/coupons?limit=1").await;
        let next = first.json["next_cursor"].as_str().unwrap();
        let second = read(key, &format!("/v1/users/u-1/coupons?limit=1&cursor={next}")).await;
        assert_eq!([items(&first), items(&second)].concat(), mine);
    }
    until("all are stored", async || app.rows(platforms).await.len() + app.rows(merchants).await.len() == 2).await;
    assert_eq!(items(&read(&support, "/v1/users/u-1/coupons").await), mine);

    let (owner, stranger) =
        (app.api_key_of("support", "merchant", "m-1").await, app.api_key_of("support", "merchant", "m-2").await);
    let of =
        |template: i64| mine.iter().filter(|coupon| coupon["template_id"] == template).cloned().collect::<Vec<_>>();
    assert_eq!(items(&read(&owner, "/v1/users/u-1/coupons").await), of(merchants));
    assert_eq!(items(&read(&stranger, "/v1/users/u-1/coupons").await), Vec::<Value>::new());
    let history = |template: i64| format!("/v1/coupons/{}/history", codes[&template]);
    for (key, template, status) in [
        (&support, platforms, 200),
        (&support, merchants, 200),
        (&owner, merchants, 200),
        (&owner, platforms, 404),
        (&stranger, merchants, 404),
    ] {
        let answer = read(key, &history(template)).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    for bad in ["status=lost", "limit=0", "limit=101", "cursor=x"] {
        let answer = read(&support, &format!("/v1/users/u-1/coupons?{bad}")).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{bad}: {answer:?}");
    }
    for bad in ["%20", "%C3%BC", &"u".repeat(65)] {
        let answer = read(&support, &format!("/v1/users/{bad}/coupons")).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{bad}: {answer:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_history_tells_every_step_whatever_code_it_is_asked_with() {
    let plan = TestApp::plan("reads-history").set("REDEMPTION_CHECKOUTS_LIMIT", 0);
    let mut till = Till::open(plan.process("gateway,worker").process("flusher").start().await).await;
    let app = &mut till.app;
    let id = app.publish(coupons(10)).await;
    let support = app.api_key("support").await;
    let history = async |app: &TestApp, code: &str, query: &str| {
        app.call(&support, "GET", &format!("/v1/coupons/{code}/history{query}"), &[], Value::Null).await
    };
    app.kill9(1);
    let claimed = app.claim(id, "u-1", "k", &[]).await;
    let code = claimed.json["coupon"]["code"].as_str().unwrap().to_owned();
    // On the queue: it may be a coupon yet.
    let early = history(app, &code, "").await;
    assert_eq!((early.status, early.code(), &early.json["retryable"]), (503, "unavailable", &json!(true)), "{early:?}");
    app.restart_unready(1).await;
    until("it is stored", async || app.rows(id).await.len() == 1).await;

    let fresh = history(app, &code, "").await;
    assert_eq!(fresh.status, 200, "{fresh:?}");
    for (name, value) in claimed.json["coupon"].as_object().unwrap() {
        assert_eq!(&fresh.json["coupon"][name], value, "{name}");
    }
    assert_eq!(fresh.json["grant"]["user_id"], "u-1");
    assert_eq!(fresh.json["grant"]["acquired_at"], claimed.json["coupon"]["acquired_at"]);
    assert_eq!((&fresh.json["operations"], &fresh.json["redemptions"]), (&json!([]), &json!([])));
    assert_eq!((&fresh.json["generation"], &fresh.json["current_generation"]), (&json!(0), &json!(0)));

    // Locked, cancelled, locked for another order, used, given back; and, as gifts would write it, given away.
    let order = |id: &str| order(id, "u-1", &[("d-101", "cat-roast-duck", "m-1", "80.00")]);
    till.locked(&order("o-1"), &[&code]).await;
    assert_eq!(till.cancel("o-1").await.status, 200);
    till.used(&order("o-2"), &[&code]).await;
    let refunded = till.refund(json!({"refund_id": "r-1", "order_id": "o-2", "reason": "returned"})).await;
    assert_eq!(refunded.status, 201, "{refunded:?}");
    let steps = format!(
        "INSERT INTO coupon_operations (template_id, serial, operation, from_status, to_status, user_ref,
            gift_generation, cause_kind, cause_id, actor)
         VALUES ({id}, 2, 'expire', 1, 5, 'u-9', 0, 'time', '', 'worker:expiry'),
            ({id}, 1, 'offer', 1, 3, 'u-1', 0, 'gift', 'g-1', 'user'), ({id}, 1, 'accept', 3, 1, 'u-2', 1, 'gift', 'g-1', 'user');
         UPDATE user_coupons SET user_ref = 'u-2', first_user_ref = 'u-1', gift_generation = 1 WHERE template_id = {id}"
    );
    let app = &till.app;
    app.sql().await.batch_execute(&steps).await.unwrap();
    let told = history(app, &code, "").await.json;
    let step =
        |field: &str| told["operations"].as_array().unwrap().iter().map(|s| s[field].clone()).collect::<Vec<_>>();
    assert_eq!(step("operation"), ["lock", "cancel", "lock", "confirm", "restore", "offer", "accept"]);
    assert_eq!(step("from"), ["unused", "locked", "unused", "locked", "used", "unused", "offered"]);
    assert_eq!(step("to"), ["locked", "unused", "locked", "used", "unused", "offered", "unused"]);
    assert_eq!(step("user_id"), ["u-1", "u-1", "u-1", "u-1", "u-1", "u-1", "u-2"]);
    let by_key = step("actor")[..5].iter().all(|actor| actor.as_str().unwrap().starts_with("key:"));
    assert!(by_key && step("actor")[5..] == ["user", "user"], "{:?}", step("actor"));
    assert_eq!(told["operations"][4]["cause"], json!({"kind": "refund", "id": "r-1"}));
    let orders: Vec<Value> = told["redemptions"].as_array().unwrap().to_vec();
    let tell =
        |order: &Value| ["order_id", "status", "coupon_state", "discount", "reversed"].map(|name| order[name].clone());
    assert_eq!(orders.len(), 2);
    assert_eq!(tell(&orders[0]), ["o-1", "cancelled", "released", "5.00", "0.00"].map(Value::from));
    assert_eq!(tell(&orders[1]), ["o-2", "refunded", "returned", "5.00", "5.00"].map(Value::from));
    assert_eq!((&told["coupon"]["user_id"], &told["grant"]["user_id"]), (&json!("u-2"), &json!("u-1")));
    assert_eq!((&told["generation"], &told["current_generation"]), (&json!(0), &json!(1)));

    // The code that is good now tells the same, of itself; the old one is nobody's any more.
    let current = told["coupon"]["code"].as_str().unwrap();
    assert_ne!(current, code);
    let mut again = history(app, current, "").await.json;
    assert_eq!(again["generation"].take(), 1);
    let mut before = told.clone();
    before["generation"].take();
    assert_eq!(again, before);
    assert_eq!(app.get("u-1", &format!("/v1/me/coupons/{code}"), &[]).await.code(), "coupon_not_found");
    assert_eq!(app.get("u-2", &format!("/v1/me/coupons/{current}"), &[]).await.status, 200);

    // Pages of steps, each with its own orders.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = history(app, &code, &format!("?limit=2{cursor}")).await.json;
        let steps = page["operations"].as_array().unwrap().clone();
        let named: BTreeSet<&str> =
            steps.iter().filter_map(|s| s["cause"]["id"].as_str()).filter(|id| id.starts_with('o')).collect();
        let shown: BTreeSet<&str> =
            page["redemptions"].as_array().unwrap().iter().map(|r| r["order_id"].as_str().unwrap()).collect();
        assert_eq!(named, shown);
        paged.extend(steps);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(Value::from(paged), told["operations"]);

    // What is no coupon, in whatever way, is told alike.
    let key = CodeKey::from_hex("000102030405060708090a0b0c0d0e0f").unwrap();
    let epoch = told["grant"]["epoch"].as_u64().unwrap() as u16;
    let never = key.encode(CouponName { template: TemplateId(id as u32), serial: 9, epoch, gift: 0 });
    let lost = key.encode(CouponName { template: TemplateId(id as u32), serial: 1, epoch: epoch + 1, gift: 0 });
    for code in [never.as_str(), "0", "Z", "%00", &"4".repeat(4_000)] {
        let answer = history(app, code, "").await;
        assert_eq!((answer.status, answer.code()), (404, "coupon_not_found"), "{code}: {answer:?}");
    }
    assert_eq!(history(app, &lost, "").await.code(), "claim_lost");
    for bad in ["?limit=0", "?cursor=x", "?cursor=99999999999999999999"] {
        assert_eq!(history(app, &code, bad).await.code(), "invalid_request", "{bad}");
    }
    till.app.stop().await;
}
