//! Administration against real servers: life cycle, four eyes, owners, idempotency, publication,
//! stock, freeing, keys and the blacklist.

mod shop;

use floodgate::catalog::poller;
use floodgate::domain::ids::TemplateId;
use floodgate::domain::user::UserId;
use floodgate::domain::window::rfc3339;
use floodgate::http::handlers;
use floodgate::http::route::{Access, Role};
use serde_json::{Value, json};

use shop::{Key, Shop, coupons};

fn path(id: i64) -> String {
    format!("/v1/admin/templates/{id}")
}

fn codes(answer: &shop::Answer) -> Vec<(String, String)> {
    let errors = answer.body["errors"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    errors.iter().map(|error| (text(&error["field"]), text(&error["code"]))).collect()
}

#[tokio::test]
async fn a_template_lives_from_draft_to_stop_under_four_eyes() {
    let mut shop = Shop::open("catalog-life").await;
    let (author, other, approver) = (shop.key("operator").await, shop.key("admin").await, shop.key("approver").await);

    let wrong = shop.post(&author, "/v1/admin/templates", json!({"name": "x", "limits": {"per_user": 0}})).await;
    assert_eq!((wrong.status, wrong.code.as_str()), (400, "invalid_request"));
    assert!(codes(&wrong).contains(&("limits.per_user".into(), "out_of_range".into())), "{wrong:?}");

    let id = shop.template(&author, coupons("life")).await;
    assert_eq!(shop.post(&author, "/v1/admin/templates", coupons("life")).await.code, "name_taken");
    let read = shop.get(&author, &path(id)).await;
    assert_eq!((read.tag, &read.body["status"], &read.body["revision"]), (Some(1), &json!("draft"), &json!(1)));

    // A draft changes under its revision only.
    let patch = |tag: Option<&'static str>, body: Value| {
        let (shop, other) = (&shop, &other);
        async move {
            let headers: Vec<_> = tag.into_iter().map(|tag| ("if-match", tag)).collect();
            shop.call(other, "PATCH", &path(id), &headers, body).await
        }
    };
    assert_eq!(patch(None, json!({"description": "d"})).await.status, 428);
    assert_eq!(patch(Some("\"7\""), json!({"description": "d"})).await.status, 412);
    let patched = patch(Some("\"1\""), json!({"description": "d"})).await;
    assert_eq!((patched.status, patched.tag, &patched.body["description"]), (200, Some(2), &json!("d")));

    // Illegal steps are conflicts and change nothing.
    for action in ["approve", "publish", "pause", "resume", "stop"] {
        assert_eq!(shop.act(&other, id, action).await.code, "conflict", "{action}");
    }
    assert_eq!(shop.act(&author, id, "submit").await.body["status"], "pending_approval");
    assert_eq!(patch(Some("3"), json!({"name": "later"})).await.code, "conflict");
    assert_eq!(shop.call(&author, "DELETE", &path(id), &[], Value::Null).await.code, "conflict");

    // Neither the author nor who edited the draft approves it, not even as admin.
    assert_eq!(shop.act(&author, id, "approve").await.code, "forbidden");
    assert_eq!(shop.act(&other, id, "approve").await.code, "four_eyes");
    assert_eq!(codes(&shop.post(&approver, &format!("{}/reject", path(id)), json!({})).await).len(), 1);
    let rejected = shop.post(&approver, &format!("{}/reject", path(id)), json!({"reason": "too much"})).await;
    assert_eq!((&rejected.body["status"], &rejected.body["reject_reason"]), (&json!("draft"), &json!("too much")));
    assert_eq!(shop.act(&author, id, "submit").await.status, 200);
    let approved = shop.act(&approver, id, "approve").await;
    assert_eq!(approved.body["approver_key_id"], approver.id);

    // Publication loads Redis and says so.
    assert_eq!(shop.held(id).await.state, 0);
    let published = shop.act(&author, id, "publish").await;
    assert_eq!(published.body["status"], "published");
    assert_eq!(published.body["redis_revision"], published.body["revision"]);
    let held = shop.held(id).await;
    assert_eq!((held.state, held.given, held.remaining), (1, 5, 5));
    assert_eq!((held.per_user, held.per_user_daily, held.daily, held.quotas), (2, 1, 4, false));
    assert_eq!(held.revision, published.body["revision"].as_i64().unwrap());

    for (action, status, state) in [("pause", "paused", 2), ("resume", "published", 1), ("pause", "paused", 2)] {
        assert_eq!(shop.act(&author, id, action).await.body["status"], status);
        assert_eq!(shop.held(id).await.state, state);
    }

    // What is published is frozen, but for its names and a later end.
    let revision = shop.read(id).await["revision"].to_string();
    let headers = [("if-match", revision.as_str())];
    let frozen = shop.call(&author, "PATCH", &path(id), &headers, json!({"limits": {"per_user": 3}})).await;
    assert_eq!(codes(&frozen), [("limits.per_user".to_owned(), "frozen".to_owned())]);
    let later = rfc3339(chrono_tz::Tz::UTC, floodgate::clock::now_ms() + 2 * 86_400_000);
    let body = json!({"name": "life anew", "claim_window": {"ends_at": later}});
    let extended = shop.call(&author, "PATCH", &path(id), &headers, body).await;
    assert_eq!((extended.status, &extended.body["name"]), (200, &json!("life anew")));
    assert!(shop.held(id).await.ends_at > held.ends_at);

    // With Redis away the change is saved, said to be so, and made good later.
    shop.kill_redis();
    let stopped = shop.act(&author, id, "stop").await;
    assert_eq!((stopped.status, stopped.code.as_str()), (503, "unavailable"));
    let after = shop.read(id).await;
    assert_eq!(after["status"], "stopped");
    assert_ne!(after["redis_revision"], after["revision"]);
    shop.start_redis().await;
    shop.open_cell(2).await;
    shop.work().await;
    assert_eq!(shop.held(id).await.state, 3);
    let after = shop.read(id).await;
    assert_eq!(after["redis_revision"], after["revision"]);
    assert_eq!(shop.act(&author, id, "resume").await.code, "conflict");

    let draft = shop.template(&author, coupons("gone")).await;
    assert_eq!(shop.call(&author, "DELETE", &path(draft), &[], Value::Null).await.status, 204);
    assert_eq!(shop.get(&author, &path(draft)).await.code, "template_not_found");
}

#[tokio::test]
async fn stock_is_added_sold_out_and_freed() {
    let shop = Shop::open("catalog-stock").await;
    let (author, approver) = (shop.key("operator").await, shop.key("approver").await);
    let id = shop.published(&author, &approver, coupons("stock")).await;
    let hash = shop.app.keys.template(TemplateId(id as u32)).template().to_owned();
    let stock = format!("{}/stock", path(id));

    poller::load_once(&shop.app).await.unwrap();
    let live = shop.app.snapshot.load().templates[&TemplateId(id as u32)].clone();
    live.latch.set(0, 1000);
    assert!(live.latch.is_set(1001));

    // The same key adds once, whoever's answer was lost.
    let headers = [("idempotency-key", "more-1")];
    let added = shop.call(&author, "POST", &stock, &headers, json!({"add": 7})).await;
    let again = shop.call(&author, "POST", &stock, &headers, json!({"add": 7})).await;
    assert_eq!(added, again);
    assert_eq!((added.status, &added.body["stock"]["total"]), (200, &json!(12)), "{added:?}");
    assert_eq!(shop.call(&author, "POST", &stock, &headers, json!({"add": 8})).await.code, "idempotency_mismatch");
    let held = shop.held(id).await;
    assert_eq!((held.given, held.remaining, held.generation), (12, 12, 1));
    poller::load_once(&shop.app).await.unwrap();
    assert!(!live.latch.is_set(1001), "a restock clears the latch");
    let now = shop.app.snapshot.load().templates[&TemplateId(id as u32)].clone();
    assert_eq!((now.stock_generation, now.definition.stock.total), (1, Some(12)));

    // Sold out is finished; more stock opens it again; both are the same to Redis.
    shop.set_in_redis(&hash, &[("next", "13"), ("last", "12"), ("more", "")]).await;
    shop.work().await;
    assert_eq!(shop.read(id).await["status"], "finished");
    assert_eq!(shop.held(id).await.state, 1);
    assert_eq!(shop.post(&author, &stock, json!({"add": 1})).await.body["status"], "published");
    shop.work().await;
    assert_eq!(shop.read(id).await["status"], "published");
    assert_eq!(shop.held(id).await.remaining, 1);
    for (body, code) in [(json!({"add": 0}), "out_of_range"), (json!({"add": 1u64 << 40}), "out_of_range")] {
        assert_eq!(codes(&shop.post(&author, &stock, body).await)[0].1, code);
    }

    let mut unlimited = coupons("unlimited");
    unlimited["stock"] = json!({"total": -1});
    let unlimited = shop.published(&author, &approver, unlimited).await;
    assert_eq!(shop.held(unlimited).await.remaining, (1 << 40) - 1);
    let refused = shop.post(&author, &format!("{}/stock", path(unlimited)), json!({"add": 1})).await;
    assert_eq!(refused.code, "conflict");

    // Redis that differs from what was put is not reported as done.
    shop.set_in_redis(&hash, &[("pu", "9")]).await;
    let client = shop.app.pg.get().await.unwrap();
    client.execute("UPDATE coupon_templates SET redis_revision = 0 WHERE id = $1", &[&(id as i32)]).await.unwrap();
    assert!(floodgate::catalog::workers::sync_once(&shop.app).await.is_err());
    shop.set_in_redis(&hash, &[("pu", "2")]).await;
    shop.work().await;

    // An end in the past: finished, and freed once its last entry is stored.
    let mut over = coupons("over");
    over["claim_window"] = json!({"starts_at": "2026-01-01T00:00:00Z", "ends_at": "2026-01-02T00:00:00Z"});
    let over = shop.published(&author, &approver, over).await;
    let mark = shop.app.keys.template(TemplateId(over as u32)).mark().to_owned();
    shop.set_in_redis(shop.app.keys.meta(), &[(&mark, "1-5")]).await;
    shop.work().await;
    assert_eq!(shop.read(over).await["status"], "finished");
    shop.work().await;
    assert_eq!(shop.held(over).await.state, 1, "not freed before its entry is stored");
    client.execute("UPDATE cells SET watermark_epoch = 1, watermark_seq = 5", &[]).await.unwrap();
    shop.work().await;
    shop.work().await;
    let held = shop.held(over).await;
    let record = shop.read(over).await;
    assert_eq!((held.state, held.revision), (9, record["revision"].as_i64().unwrap()));
    assert_eq!(record["redis_revision"], record["revision"]);
    poller::load_once(&shop.app).await.unwrap();
    assert!(shop.app.snapshot.load().templates[&TemplateId(over as u32)].freed);

    // Freed is final.
    assert_eq!(shop.post(&author, &format!("{}/stock", path(over)), json!({"add": 1})).await.code, "conflict");
    let revision = record["revision"].to_string();
    let later = json!({"claim_window": {"ends_at": "2096-01-01T00:00:00Z"}});
    let refused = shop.call(&author, "PATCH", &path(over), &[("if-match", &revision)], later).await;
    assert_eq!(refused.code, "conflict");
    assert_eq!(shop.act(&author, over, "stop").await.code, "conflict");
}

#[tokio::test]
async fn keys_have_owners_roles_and_an_end_and_writes_happen_once() {
    let shop = Shop::open("catalog-keys").await;
    let admin = shop.admin().await;
    let platform = shop.key("operator").await;
    let (mine, theirs) =
        (shop.owned_key("operator", "merchant", "m-1").await, shop.owned_key("operator", "merchant", "m-2").await);

    // A merchant's key makes and sees its own templates; the platform sees all.
    let made = shop.post(&mine, "/v1/admin/templates", coupons("own")).await;
    assert_eq!((&made.body["issuer"], &made.body["issuer_id"]), (&json!("merchant"), &json!("m-1")));
    let id = made.body["id"].as_i64().unwrap();
    let mut foreign = coupons("foreign");
    foreign["issuer"] = json!("merchant");
    foreign["issuer_id"] = json!("m-1");
    assert_eq!(shop.post(&theirs, "/v1/admin/templates", foreign.clone()).await.code, "forbidden");
    assert_eq!(shop.post(&platform, "/v1/admin/templates", foreign.clone()).await.code, "forbidden");
    assert_eq!(shop.post(&admin, "/v1/admin/templates", foreign).await.status, 201);
    assert_eq!(shop.get(&theirs, &path(id)).await.code, "template_not_found");
    assert_eq!(shop.act(&theirs, id, "submit").await.code, "template_not_found");
    let patch = json!({"issuer_id": "m-2"});
    assert_eq!(shop.call(&mine, "PATCH", &path(id), &[("if-match", "1")], patch).await.code, "forbidden");
    let ids = |answer: shop::Answer| {
        answer.body["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids(shop.get(&theirs, "/v1/admin/templates").await), [0i64; 0]);
    assert_eq!(ids(shop.get(&mine, "/v1/admin/templates?status=DRAFT").await).len(), 2);
    shop.template(&platform, coupons("third")).await;
    let first = shop.get(&platform, "/v1/admin/templates?limit=2").await;
    let cursor = first.body["next_cursor"].as_str().unwrap().to_owned();
    let rest = shop.get(&platform, &format!("/v1/admin/templates?limit=2&cursor={cursor}")).await;
    assert_eq!((ids(first).len(), ids(rest.clone()).len(), &rest.body["next_cursor"]), (2, 1, &Value::Null));
    assert_eq!(shop.get(&platform, "/v1/admin/templates?status=lost").await.status, 400);

    // Writes happen once, also when they come at once; a refused write leaves its key free.
    let headers = [("idempotency-key", "once")];
    let body = coupons("once");
    let create = || shop.call(&platform, "POST", "/v1/admin/templates", &headers, body.clone());
    let (a, b, c) = tokio::join!(create(), create(), create());
    assert_eq!((a.status, &a, &b), (201, &b, &c));
    let other = shop.call(&mine, "POST", "/v1/admin/templates", &headers, coupons("once")).await;
    assert_eq!(other.status, 201, "keys of others do not meet");
    let mismatch = shop.call(&platform, "POST", "/v1/admin/templates", &headers, coupons("twice")).await;
    assert_eq!((mismatch.status, mismatch.code.as_str()), (422, "idempotency_mismatch"));
    let headers = [("idempotency-key", "second")];
    let taken = shop.call(&platform, "POST", "/v1/admin/templates", &headers, coupons("once")).await;
    assert_eq!(taken.code, "name_taken");
    let free = shop.call(&platform, "POST", "/v1/admin/templates", &headers, coupons("free")).await;
    assert_eq!(free.status, 201);
    let bad = shop.call(&platform, "POST", "/v1/admin/templates", &[("idempotency-key", "a b")], coupons("bad")).await;
    assert_eq!(bad.code, "invalid_request");

    // After a day the key is anyone's again, swept or not.
    let client = shop.app.pg.get().await.unwrap();
    let aged = "UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = $1";
    assert_eq!(client.execute(aged, &[&"second"]).await.unwrap(), 1);
    let renewed = shop.call(&platform, "POST", "/v1/admin/templates", &headers, coupons("renewed")).await;
    assert_eq!((renewed.status, &renewed.body["name"]), (201, &json!("renewed")));
    assert_eq!(client.execute(aged, &[&"second"]).await.unwrap(), 1);
    shop.work().await;
    assert_eq!(client.execute(aged, &[&"second"]).await.unwrap(), 0, "swept");

    // A key is shown once a request, never stored, and ends within a poll.
    let body = json!({"name": "ops", "role": "OPERATOR", "owner_type": "platform", "owner_id": ""});
    let headers = [("idempotency-key", "key-1")];
    let shown = shop.call(&admin, "POST", "/v1/admin/api-keys", &headers, body.clone()).await;
    assert_eq!(shown, shop.call(&admin, "POST", "/v1/admin/api-keys", &headers, body).await);
    let secret = shown.body["key"].as_str().unwrap();
    let dump: String = client
        .query_one("SELECT string_agg(k::text, ' ') || (SELECT string_agg(i::text, ' ') FROM idempotency_keys i) FROM api_keys k", &[])
        .await
        .unwrap()
        .get(0);
    assert!(!dump.contains(secret) && dump.contains("key_seed"));
    assert_eq!(shop.app.api_keys.authenticate(secret).await.unwrap().role, Role::Operator);
    let revoke = format!("/v1/admin/api-keys/{}", shown.body["id"]);
    assert_eq!(shop.call(&admin, "DELETE", &revoke, &[], Value::Null).await.status, 204);
    poller::load_once(&shop.app).await.unwrap();
    assert_eq!(shop.app.api_keys.authenticate(secret).await.unwrap_err().code, "unauthenticated");
    assert_eq!(shop.app.api_keys.authenticate("fgk_made-up").await.unwrap_err().code, "unauthenticated");
    assert_eq!(shop.app.api_keys.authenticate(&mine.secret).await.unwrap(), mine.caller);
    let list = shop.get(&admin, "/v1/admin/api-keys").await;
    assert!(list.body["items"].as_array().unwrap().iter().all(|item| item.get("key").is_none()));
    let owner = shop.owned_key("admin", "merchant", "m-1").await;
    let grab = json!({"name": "grab", "role": "admin"});
    assert_eq!(shop.post(&owner, "/v1/admin/api-keys", grab).await.code, "forbidden");

    blacklist(&shop, &platform, &owner).await;
}

async fn blacklist(shop: &Shop, operator: &Key, merchant: &Key) {
    let list = "/v1/admin/blacklist";
    let put = |body: Value| async move { shop.post(operator, list, body).await };
    let user = put(json!({"kind": "user", "value": "u-1", "reason": "fraud"})).await;
    assert_eq!((user.status, &user.body["value"]), (201, &json!("u-1")));
    let until = "2096-01-01T00:00:00.000+00:00";
    let net = put(json!({"kind": "IP", "value": "192.0.2.9/24", "reason": "bots", "expires_at": until})).await;
    assert_eq!((&net.body["value"], &net.body["expires_at"]), (&json!("192.0.2.0/24"), &json!(until)));
    assert_eq!(put(json!({"kind": "device", "value": "d-1", "reason": "farm"})).await.status, 201);
    assert_eq!(codes(&put(json!({"kind": "ip", "value": "nowhere"})).await).len(), 2);
    assert_eq!(shop.post(merchant, list, json!({"kind": "user", "value": "u", "reason": "r"})).await.code, "forbidden");

    poller::load_once(&shop.app).await.unwrap();
    let sealed = |id: &str| shop.app.users.seal(&UserId::parse(id).unwrap());
    let blocks = |user: &str, ip: &str, device: Option<&str>| {
        let device = device.map(|device| shop.app.hashing.device(device));
        let now = floodgate::clock::now_ms();
        shop.app.snapshot.load().blacklist.blocks(&sealed(user), Some(ip.parse().unwrap()), device, now)
    };
    assert!(
        blocks("u-1", "8.8.8.8", None) && blocks("u-2", "192.0.2.77", None) && blocks("u-2", "8.8.8.8", Some("d-1"))
    );
    assert!(!blocks("u-2", "8.8.8.8", Some("d-2")));

    let again = put(json!({"kind": "user", "value": "u-1", "reason": "fraud, twice"})).await;
    assert_eq!(again.body["id"], user.body["id"]);
    let support = shop.key("support").await;
    let shown = shop.get(&support, "/v1/admin/blacklist?kind=user").await;
    assert_eq!(shown.body["items"].as_array().unwrap().len(), 1);
    let entry = format!("{list}/{}", user.body["id"]);
    assert_eq!(shop.call(&support, "DELETE", &entry, &[], Value::Null).await.code, "forbidden");
    assert_eq!(shop.call(operator, "DELETE", &entry, &[], Value::Null).await.status, 204);
    assert_eq!(shop.call(operator, "DELETE", &entry, &[], Value::Null).await.code, "not_found");
    poller::load_once(&shop.app).await.unwrap();
    assert!(!blocks("u-1", "8.8.8.8", None));
}

/// Who may call what, whole: a route that is added must be added here.
#[test]
fn the_table_of_roles_by_route() {
    let expected = "
        POST   /v1/admin/templates                operator
        GET    /v1/admin/templates                operator approver support auditor
        GET    /v1/admin/templates/{id}           operator approver support auditor
        PATCH  /v1/admin/templates/{id}           operator
        DELETE /v1/admin/templates/{id}           operator
        POST   /v1/admin/templates/{id}/submit    operator
        POST   /v1/admin/templates/{id}/approve   approver
        POST   /v1/admin/templates/{id}/reject    approver
        POST   /v1/admin/templates/{id}/publish   operator
        POST   /v1/admin/templates/{id}/pause     operator
        POST   /v1/admin/templates/{id}/resume    operator
        POST   /v1/admin/templates/{id}/stop      operator
        POST   /v1/admin/templates/{id}/stock     operator
        POST   /v1/admin/rule-sets                operator
        GET    /v1/admin/rule-sets                operator support auditor
        GET    /v1/admin/rule-sets/{id}           operator support auditor
        PATCH  /v1/admin/rule-sets/{id}           operator
        DELETE /v1/admin/rule-sets/{id}           operator
        POST   /v1/admin/api-keys
        GET    /v1/admin/api-keys
        DELETE /v1/admin/api-keys/{id}
        POST   /v1/admin/blacklist                operator
        GET    /v1/admin/blacklist                operator support
        DELETE /v1/admin/blacklist/{id}           operator
        POST   /v1/admin/revocations              operator
        GET    /v1/admin/revocations              operator support auditor
        GET    /v1/admin/revocations/{id}         operator support auditor
        GET    /v1/admin/audit                    auditor";
    let expected: Vec<String> =
        expected.trim().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let found: Vec<String> = handlers::routes()
        .iter()
        .filter(|route| route.path.starts_with("/v1/admin/"))
        .map(|route| {
            assert!(matches!(route.access, Access::Roles(_)), "{} is open", route.path);
            assert!(route.access.admits(Role::Admin));
            let roles = Role::ALL.into_iter().filter(|role| *role != Role::Admin && route.access.admits(*role));
            let roles: Vec<&str> = roles.map(Role::word).collect();
            format!("{} {} {}", route.method, route.path, roles.join(" ")).trim_end().to_owned()
        })
        .collect();
    assert_eq!(found, expected);
}
