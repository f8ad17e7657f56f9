//! The audit log against real servers: who changed what is recorded by the change itself.

mod tampering;

use serde_json::{Value, json};

use super::support::app::{TestApp, coupons, until};

/// A record as the database has it.
#[derive(Debug)]
struct Record {
    actor: String,
    ip: Option<String>,
    request_id: Option<String>,
    action: String,
    subject: String,
    before: Value,
    after: Value,
}

async fn records(app: &TestApp) -> Vec<Record> {
    let rows = app.sql().await.query("SELECT * FROM audit_log ORDER BY id", &[]).await.unwrap();
    let record = |row: &tokio_postgres::Row| Record {
        actor: row.get("actor"),
        ip: row.get("ip"),
        request_id: row.get("request_id"),
        action: row.get("action"),
        subject: row.get("subject"),
        before: row.get::<_, Option<Value>>("before").unwrap_or_default(),
        after: row.get::<_, Option<Value>>("after").unwrap_or_default(),
    };
    rows.iter().map(record).collect()
}

#[tokio::test]
async fn every_administrative_write_leaves_one_record() {
    let app = TestApp::start("audit-writes").await;
    let (author, approver) = app.keys();
    let begun = records(&app).await;
    let first: Vec<(&str, &str)> = begun.iter().map(|record| (&*record.actor, &*record.action)).collect();
    let made = ("key:1", "api_key.create");
    assert_eq!(first, [("cli", "schema.migrate"), ("settings", "api_key.create"), made, made]);

    let write = async |key: &str, method: &str, path: String, headers: &[(&str, &str)], body: Value| {
        let answer = app.call(key, method, &path, headers, body).await;
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer
    };
    let named = [("x-request-id", "the-draft")];
    let draft = write(author, "POST", "/v1/admin/templates".into(), &named, coupons(5)).await.json;
    let template = format!("/v1/admin/templates/{}", draft["id"]);
    let tag = [("if-match", "1")];
    let patched = write(author, "PATCH", template.clone(), &tag, json!({"description": "d"})).await.json;
    for (key, step) in [(author, "submit"), (approver, "approve")] {
        write(key, "POST", format!("{template}/{step}"), &[], Value::Null).await;
    }
    write(approver, "POST", format!("{template}/reject"), &[], json!({"reason": "too much"})).await;
    for (key, step) in [(author, "submit"), (approver, "approve"), (author, "publish")] {
        write(key, "POST", format!("{template}/{step}"), &[], Value::Null).await;
    }
    // A repeat under the same key is no second change.
    let once = [("idempotency-key", "pause-once")];
    write(author, "POST", format!("{template}/pause"), &once, Value::Null).await;
    write(author, "POST", format!("{template}/pause"), &once, Value::Null).await;
    write(author, "POST", format!("{template}/resume"), &[], Value::Null).await;
    write(author, "POST", format!("{template}/stock"), &[], json!({"add": 3})).await;
    write(author, "POST", format!("{template}/stop"), &[], Value::Null).await;
    let gone = write(author, "POST", "/v1/admin/templates".into(), &[], coupons(5)).await.json;
    write(author, "DELETE", format!("/v1/admin/templates/{}", gone["id"]), &[], Value::Null).await;
    let rules = json!([{"rule_type": "MINIMUM_SPEND", "params": {"amount": "9.00"}}]);
    let set = json!({"name": "a set", "usage_rules": rules});
    let set = write(author, "POST", "/v1/admin/rule-sets".into(), &[], set).await.json;
    let set = format!("/v1/admin/rule-sets/{}", set["id"]);
    write(author, "PATCH", set.clone(), &tag, json!({"description": "of rules"})).await;
    write(author, "DELETE", set, &[], Value::Null).await;
    let entry = app.blacklist("user", "u-1").await;
    app.blacklist("user", "u-1").await;
    app.unblock(&entry).await;
    let key = json!({"name": "k", "role": "support", "owner_type": "platform", "owner_id": ""});
    let key = write(app.admin_key(), "POST", "/v1/admin/api-keys".into(), &[], key).await.json;
    let revoke = format!("/v1/admin/api-keys/{}", key["id"]);
    write(app.admin_key(), "DELETE", revoke.clone(), &[], Value::Null).await;
    // It was revoked already: nothing changes.
    write(app.admin_key(), "DELETE", revoke, &[], Value::Null).await;
    // What is refused changes nothing.
    let refused = app.call(author, "POST", "/v1/admin/templates", &[], json!({"name": "x"})).await;
    assert_eq!(refused.status, 400);

    let all = records(&app).await;
    let new = &all[begun.len()..];
    let found: Vec<&str> = new.iter().map(|record| record.action.as_str()).collect();
    let expected = [
        "template.create",
        "template.patch",
        "template.submit",
        "template.approve",
        "template.reject",
        "template.submit",
        "template.approve",
        "template.publish",
        "template.pause",
        "template.resume",
        "template.add_stock",
        "template.stop",
        "template.create",
        "template.delete",
        "rule_set.create",
        "rule_set.patch",
        "rule_set.delete",
        "blacklist.put",
        "blacklist.put",
        "blacklist.delete",
        "api_key.create",
        "api_key.revoke",
    ];
    assert_eq!(found, expected);

    let (create, patch, publish) = (&new[0], &new[1], &new[7]);
    assert_eq!((&*create.actor, create.ip.as_deref()), ("key:2", Some("127.0.0.1")));
    assert_eq!(create.request_id.as_deref(), Some("the-draft"));
    assert_eq!((&create.subject, &create.before), (&format!("template:{}", draft["id"]), &Value::Null));
    assert_eq!(create.after, draft);
    assert_eq!((&patch.before, &patch.after), (&draft, &patched));
    assert_eq!((&publish.before["status"], &publish.after["status"]), (&json!("approved"), &json!("published")));
    assert_eq!(new[3].actor, "key:3", "the approver's key approved");
    let (put, again, gone) = (&new[17], &new[18], &new[19]);
    assert_eq!((&put.before, &again.before, &gone.after), (&Value::Null, &put.after, &Value::Null));
    assert_eq!(gone.before, again.after);
    let (made, revoked) = (&new[20], &new[21]);
    assert_eq!((&made.after["role"], &made.before), (&json!("support"), &Value::Null));
    assert_eq!((&revoked.before, revoked.after["revoked_at"].is_string()), (&made.after, true));
    let whole = format!("{all:?}");
    for secret in [key["key"].as_str().unwrap(), "key_seed", "key_sha256", app.admin_key()] {
        assert!(!whole.contains(secret), "{secret} is in the log");
    }
    app.stop().await;
}

#[tokio::test]
async fn auditors_find_records_by_what_whom_how_and_when() {
    let app = TestApp::plan("audit-list").set("PRIVACY_ENCRYPT", "true").start().await;
    let (first, second) = (app.publish(coupons(1)).await, app.publish(coupons(1)).await);
    app.pause(first).await;
    let auditor = app.api_key("auditor").await;
    let ask = async |query: &str| {
        let answer = app.call(&auditor, "GET", &format!("/v1/admin/audit?{query}"), &[], Value::Null).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        answer.json
    };
    let words = |page: &Value, word: &str| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|item| item[word].as_str().unwrap().to_owned()).collect()
    };
    let life = ["template.publish", "template.approve", "template.submit", "template.create"];
    let page = ask(&format!("subject=template:{first}")).await;
    assert_eq!(words(&page, "action"), [["template.pause"].as_slice(), &life].concat());
    assert_eq!(page["next_cursor"], Value::Null);
    let item = &page["items"][0];
    assert_eq!((&item["actor"], &item["ip"]), (&json!("key:2"), &json!("127.0.0.1")));
    assert_eq!((&item["before"]["status"], &item["after"]["status"]), (&json!("published"), &json!("paused")));
    let page = ask(&format!("subject=template:{second}&actor=key:3")).await;
    assert_eq!(words(&page, "action"), ["template.approve"]);
    let page = ask("actor=key:3").await;
    assert_eq!(words(&page, "subject"), [format!("template:{second}"), format!("template:{first}")]);
    assert_eq!(words(&ask("actor=key:3&action=template.stop").await, "action"), Vec::<String>::new());
    assert_eq!(words(&ask("action=template.pause").await, "subject"), [format!("template:{first}")]);

    // All of it, by pages of any size, in one order and each once.
    let all = words(&ask("limit=100").await, "action");
    assert_eq!(all.len(), 14);
    for query in ["limit=1", "limit=5", "actor=key:1&limit=1", "action=template.publish&limit=1", "limit=14"] {
        let whole = words(&ask(&format!("{}&limit=100", query.split_once("limit").unwrap().0)).await, "action");
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = ask(&format!("{query}{cursor}")).await;
            found.extend(words(&page, "action"));
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(found, whole, "{query}");
    }

    // Time cuts where it says, to the microsecond that the rows have.
    let sql = app.sql().await;
    let row = sql.query_one("SELECT at FROM audit_log WHERE action = 'template.pause'", &[]).await.unwrap();
    let paused: chrono::DateTime<chrono::Utc> = row.get(0);
    let at = paused.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    assert_eq!(words(&ask(&format!("until={at}&limit=1")).await, "action"), ["template.publish"]);
    assert_eq!(words(&ask(&format!("from={at}")).await, "action"), ["api_key.create", "template.pause"]);
    until("the newest has its position", async || ask("limit=1").await["items"][0]["position"] == 14).await;

    // Shoppers are references in the rows and ids to those who may read them.
    let user = app.config();
    let user = floodgate::domain::user::UserCodec::encrypted(&user.code_key())
        .seal(&floodgate::domain::user::UserId::parse("u-7").unwrap());
    let insert = "INSERT INTO audit_log (actor, action, subject) VALUES ('user:' || $1::text, 'gift.offer', 'gift:g')";
    sql.execute(insert, &[&user.as_str()]).await.unwrap();
    assert_eq!(words(&ask("actor=user:u-7").await, "actor"), ["user:u-7"]);

    for wrong in ["from=yesterday", "until=2026-11-11", "until=", "cursor=x", "cursor=1.", "limit=0", "actor=user:%20"]
    {
        let answer = app.call(&auditor, "GET", &format!("/v1/admin/audit?{wrong}"), &[], Value::Null).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{wrong}: {answer:?}");
    }
    let merchants = json!({"name": "m", "role": "auditor", "owner_type": "merchant", "owner_id": "m-1"});
    let made = app.call(app.admin_key(), "POST", "/v1/admin/api-keys", &[], merchants).await.json;
    let answer = app.call(made["key"].as_str().unwrap(), "GET", "/v1/admin/audit", &[], Value::Null).await;
    assert_eq!(answer.code(), "forbidden");
    app.stop().await;
}

#[tokio::test]
async fn what_happens_by_itself_is_recorded_too() {
    let app = TestApp::start("audit-life").await;
    let id = app.publish(coupons(1)).await;
    app.claim(id, "u-1", "k", &[]).await;
    let actions = async || -> Vec<String> {
        let all = records(&app).await;
        let own = all.into_iter().filter(|record| record.actor == "worker:life");
        own.map(|record| format!("{} {} {} {}", record.subject, record.action, record.before, record.after)).collect()
    };
    let finished =
        format!("template:{id} template.finish {} {}", json!({"status": "published"}), json!({"status": "finished"}));
    until("sold out is finished", async || actions().await == [finished.clone()]).await;
    app.stop().await;
}
