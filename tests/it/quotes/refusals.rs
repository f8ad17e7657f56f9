//! What quotes and creation refuse, by name; and rule sets.

use super::*;

#[tokio::test]
async fn what_a_quote_refuses_it_names() {
    let till = Till::open(TestApp::start("quotes-refused").await).await;
    let goods = || order("u-1", &[("d-1", "c", "m-1", "50.00")]);
    let (id, code) = till.coupon(voucher("3.00"), "u-1").await;
    let (_, other) = till.coupon(voucher("3.00"), "u-2").await;
    let line = |name: &str, value: Value| {
        let mut order = goods();
        order["lines"][0][name] = value;
        json!({ "order": order })
    };
    let twice = order("u-1", &[("d-1", "c", "m-1", "1"), ("d-2", "c", "m-1", "1")]);
    let mut lines = json!({ "order": twice });
    lines["order"]["lines"][1]["line_id"] = "1".into();
    let many = vec![goods()["lines"][0].clone(); 501];
    let set = |name: &str, value: Value| {
        let mut order = goods();
        order[name] = value;
        json!({ "order": order })
    };
    let cases = [
        (json!({}), "order", "required"),
        (json!({"order": goods(), "colour": 1}), "colour", "unknown_field"),
        (json!({"order": goods(), "mode": "worst"}), "mode", "unknown_value"),
        (json!({"order": goods(), "mode": "given"}), "coupons", "required"),
        (json!({"order": goods(), "coupons": "x"}), "coupons", "type"),
        (json!({"order": goods(), "coupons": [code, code.to_lowercase()]}), "coupons[1]", "repeated"),
        (json!({"order": goods(), "coupons": vec!["x"; 501]}), "coupons", "too_many"),
        (json!({"order": goods(), "facts": {"age": 7}}), "facts.age", "unknown_field"),
        (json!({"order": goods(), "now": "noon"}), "now", "time"),
        (json!({"order": goods(), "trial_templates": [id, id]}), "trial_templates[1]", "repeated"),
        (json!({"order": goods(), "trial_templates": ["x"]}), "trial_templates[0]", "type"),
        (set("colour", json!(1)), "order.colour", "unknown_field"),
        (set("currency", json!("RMB")), "order.currency", "unknown_value"),
        (set("user_id", json!("a b")), "order.user_id", "length"),
        (set("lines", json!([])), "order.lines", "length"),
        (set("lines", json!(many)), "order.lines", "too_many"),
        (set("placed_at", json!("today")), "order.placed_at", "time"),
        (set("shipping", json!([{"merchant_id": "m-9", "fee": 1}])), "order.shipping[0].merchant_id", "no_lines"),
        (line("quantity", json!(0)), "order.lines[0].quantity", "out_of_range"),
        (line("quantity", json!(1u64 << 40)), "order.lines[0].quantity", "out_of_range"),
        (line("unit_price", json!("-1.00")), "order.lines[0].unit_price", "out_of_range"),
        (line("unit_price", json!("1.001")), "order.lines[0].unit_price", "too_precise"),
        (line("unit_price", json!("1e3")), "order.lines[0].unit_price", "decimal"),
        (line("colour", json!(1)), "order.lines[0].colour", "unknown_field"),
        (lines, "order.lines[1].line_id", "repeated"),
    ];
    for (body, name, word) in cases {
        let answer = till.post(body.clone()).await;
        assert_eq!((answer.status, fields(&answer)), (400, field(name, word)), "{body}");
    }

    // Another's code, a lost one and no code at all look the same.
    let body = |code: &str| json!({"order": goods(), "coupons": [code]});
    for strange in [other.as_str(), "46NMMV8VVF87FDXEXAC839H6RY", "x", ""] {
        let answer = till.post(body(strange)).await;
        assert_eq!((answer.status, answer.code()), (409, "coupon_not_yours"), "{strange}");
        assert_eq!(answer.json["coupon"], strange);
    }
    assert_eq!(till.post(body(&code)).await.status, 200);

    // Coupons of another currency are none for this order.
    let yen = till.quote(set("currency", json!("JPY"))["order"].clone()).await;
    assert_eq!((yen.get("coupons"), reason(&yen, id)), (Some(&json!([])), "currency"), "{yen}");

    // A shopper has no dry runs; a key of another role has no quotes.
    let token = till.app.token("u-1");
    for name in ["now", "facts", "trial_templates"] {
        let mut body = json!({"order": goods()});
        body[name] = Value::from(1);
        let answer = till.app.post(&token, "/v1/me/quotes", &[], body).await;
        assert_eq!(fields(&answer), field(name, "unknown_field"));
    }
    let (author, _) = till.app.keys();
    assert_eq!(till.app.call(author, "POST", "/v1/quotes", &[], body(&code)).await.code(), "forbidden");
    till.app.stop().await;
}

#[tokio::test]
async fn a_template_is_checked_by_its_kind_and_rules() {
    let till = Till::open(TestApp::start("quotes-checks").await).await;
    let app = &till.app;
    let (author, approver) = app.keys();
    let create = async |template: Value| app.call(author, "POST", "/v1/admin/templates", &[], template).await;

    let wrong = template(
        "FULL_REDUCTION",
        json!({"amount": "90.00"}),
        &[
            rule("MINIMUM_SPEND", json!({"amount": "100.00"})),
            rule("MINIMUM_SPENT", json!({"amount": 1})),
            rule("USER_SEGMENTS", json!({"age": 18})),
        ],
    );
    let refused = create(wrong).await;
    let names: Vec<String> = fields(&refused).into_iter().map(|(name, _)| name).collect();
    for name in ["value.amount", "usage_rules[1].rule_type", "usage_rules[2].params.age"] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
    // A red packet's shares are not made yet: the kind is priced, and no template is of it.
    assert_eq!(fields(&create(template("RED_PACKET", json!({}), &[])).await), field("kind", "not_built"));
    // With everything else that is wrong, at once.
    let mut worse = voucher("5.00");
    worse["name"] = "x".into();
    worse["usage_rules"] = json!([rule("MINIMUM_SPEND", json!({"amount": "-1"}))]);
    let names: Vec<String> = fields(&create(worse).await).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["name", "usage_rules[0].params.amount"]);

    // What is legal but likely a mistake is a warning in every answer.
    let eligible = rule("ITEM_ELIGIBILITY", json!({"item_ids": ["d-1"], "logic": "ANY"}));
    let made = create(template("CASH_VOUCHER", json!({"amount": 5}), &[eligible])).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.json["warnings"].as_array().unwrap().len(), 1, "{made:?}");
    let id = made.json["id"].as_i64().unwrap();
    let read = app.call(author, "GET", &format!("/v1/admin/templates/{id}"), &[], Value::Null).await;
    assert_eq!(read.json["warnings"], made.json["warnings"]);
    let scope = rule("ITEM_DISCOUNT_SCOPE", json!({"item_ids": ["d-1"]}));
    let patched = app.patch(id, json!({"usage_rules": [scope]})).await;
    assert_eq!((patched.status, &patched.json["warnings"]), (200, &json!([])));
    let broken = app.patch(id, json!({"usage_rules": [rule("NO_RULE", json!({}))]})).await;
    assert_eq!(fields(&broken), field("usage_rules[0].rule_type", "unknown_value"));

    // A coupon whose template was published under rules that are gone spoils no other's quote.
    let (old, _) = till.coupon(voucher("9.00"), "old").await;
    till.coupon(voucher("2.00"), "old").await;
    let sql = app.sql().await;
    let statement = "UPDATE coupon_templates SET revision = revision + 1,
        definition = jsonb_set(definition, '{usage_rules}', '[{\"rule_type\": \"GONE\", \"params\": {}}]') WHERE id = $1";
    assert_eq!(sql.execute(statement, &[&(old as i32)]).await.unwrap(), 1);
    sql.execute("UPDATE catalog_versions SET templates = templates + 1", &[]).await.unwrap();
    until("the gateway has read it", async || {
        let quote = till.quote(order("old", &[("d-1", "c", "m-1", "50.00")])).await;
        totals(&quote).0 == "2.00" && reason(&quote, old) == "no_benefit" && quote["optimal"] == false
    })
    .await;

    // What was stored under other checks is checked again on its way out.
    let store = async |rules: Value| {
        let statement =
            "UPDATE coupon_templates SET definition = jsonb_set(definition, '{usage_rules}', $2) WHERE id = $1";
        assert_eq!(sql.execute(statement, &[&(id as i32), &rules]).await.unwrap(), 1);
    };
    let (bad, good) = (json!([{"rule_type": "OLD_RULE", "params": {}, "priority": 0}]), json!([]));
    for (key, action) in [(author, "submit"), (approver, "approve"), (author, "publish")] {
        store(bad.clone()).await;
        let refused = app.act(key, id, action).await;
        assert_eq!(fields(&refused), field("usage_rules[0].rule_type", "unknown_value"), "{action}");
        store(good.clone()).await;
        assert_eq!(app.act(key, id, action).await.status, 200, "{action}");
    }
    till.app.stop().await;
}

#[tokio::test]
async fn rule_sets_are_shared_and_frozen_at_publication() {
    let till = Till::open(TestApp::start("quotes-rule-sets").await).await;
    let app = &till.app;
    let (author, approver) = app.keys();
    let sets = "/v1/admin/rule-sets";
    let at = |threshold: &str| json!([rule("MINIMUM_SPEND", json!({ "amount": threshold }))]);
    let body = |name: &str, threshold: &str| json!({"name": name, "usage_rules": at(threshold)});

    // Made once by key, named once by owner, and checked.
    let headers = [("idempotency-key", "set-1")];
    let made = app.call(author, "POST", sets, &headers, body("满50", "50.00")).await;
    assert_eq!((made.status, &made.json["revision"]), (201, &json!(1)), "{made:?}");
    let again = app.call(author, "POST", sets, &headers, body("满50", "50.00")).await;
    assert_eq!((again.status, &again.json), (201, &made.json));
    assert_eq!(app.call(author, "POST", sets, &headers, body("满60", "60.00")).await.code(), "idempotency_mismatch");
    assert_eq!(app.call(author, "POST", sets, &[], body("满50", "50.00")).await.code(), "name_taken");
    let wrong = json!({"name": "x", "usage_rules": [rule("NO_RULE", json!({})), rule("CHANNELS", json!({"a": 1}))]});
    let wrong = app.call(author, "POST", sets, &[], wrong).await;
    let names: Vec<String> = fields(&wrong).into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"name".into()) && names.contains(&"usage_rules[0].rule_type".into()), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("usage_rules[1].params")), "{names:?}");
    let item = format!("{sets}/{}", made.json["id"]);
    let support = app.api_key("support").await;
    assert_eq!(app.call(&support, "GET", &item, &[], Value::Null).await.json, made.json);
    assert_eq!(app.call(&support, "DELETE", &item, &[], Value::Null).await.code(), "forbidden");
    let list = app.call(&support, "GET", sets, &[], Value::Null).await;
    assert_eq!(list.json, json!({"items": [made.json], "next_cursor": null}));
    assert_eq!(app.call(author, "GET", &format!("{sets}/99"), &[], Value::Null).await.code(), "not_found");

    // A set is its owner's.
    let owner = json!({"name": "shop", "role": "operator", "owner_type": "merchant", "owner_id": "m-1"});
    let owner = app.call(app.admin_key(), "POST", "/v1/admin/api-keys", &[], owner).await;
    let owner = owner.json["key"].as_str().unwrap();
    assert_eq!(app.call(owner, "GET", &item, &[], Value::Null).await.code(), "not_found");
    let own = app.call(owner, "POST", sets, &[], body("满50", "70.00")).await;
    assert_eq!((own.status, &own.json["issuer_id"]), (201, &json!("m-1")));

    // Templates name it, instead of rules of their own, and take its rules.
    let named = |template: Value, name: &str| {
        let mut template = template;
        template["rule_set"] = name.into();
        template
    };
    let create = async |template: Value| app.call(author, "POST", "/v1/admin/templates", &[], template).await;
    assert_eq!(fields(&create(named(voucher("5.00"), "满99")).await), field("rule_set", "unknown_value"));
    let mut both = named(voucher("5.00"), "满50");
    both["usage_rules"] = at("1.00");
    assert_eq!(fields(&create(both).await), field("usage_rules", "rule_set_named"));
    let amount = |template: &Value| template["usage_rules"][0]["params"]["amount"].as_str().unwrap().to_owned();
    let first = create(named(voucher("5.00"), "满50")).await;
    assert_eq!((first.status, amount(&first.json), &first.json["rule_set"]), (201, "50.00".into(), &json!("满50")));
    let first = first.json["id"].as_i64().unwrap();

    let set = async |revision: i64, patch: Value| {
        app.call(author, "PATCH", &item, &[("if-match", &revision.to_string())], patch).await
    };
    assert_eq!(app.call(author, "PATCH", &item, &[], json!({})).await.status, 428);
    assert_eq!(set(7, json!({"description": "d"})).await.status, 412);
    assert_eq!(set(1, json!({"usage_rules": at("40.00")})).await.json["revision"], 2);
    assert_eq!(set(2, json!({"name": "满40"})).await.code(), "conflict", "templates name it");
    assert_eq!(set(2, json!({"usage_rules": [rule("NO_RULE", json!({}))]})).await.status, 400);

    // Submission takes the rules as they are; a change behind the approver's back sends it back.
    let path = format!("/v1/admin/templates/{first}");
    let submitted = app.act(author, first, "submit").await;
    assert_eq!((submitted.status, amount(&submitted.json)), (200, "40.00".into()));
    assert_eq!(set(2, json!({"usage_rules": at("30.00")})).await.status, 200);
    assert_eq!(app.act(approver, first, "approve").await.code(), "conflict");
    let reject = app.call(approver, "POST", &format!("{path}/reject"), &[], json!({"reason": "the set changed"})).await;
    assert_eq!(reject.status, 200);
    for (key, action) in [(author, "submit"), (approver, "approve"), (author, "publish")] {
        assert_eq!(app.act(key, first, action).await.status, 200, "{action}");
    }

    // Published, it is frozen: the set goes on without it.
    assert_eq!(set(3, json!({"usage_rules": at("500.00")})).await.status, 200);
    let read = app.call(author, "GET", &path, &[], Value::Null).await;
    assert_eq!(amount(&read.json), "30.00");
    assert_eq!(fields(&app.patch(first, json!({"rule_set": null})).await), field("rule_set", "frozen"));
    until("the gateway knows the template", async || {
        app.get("u-1", &format!("/v1/templates/{first}"), &[]).await.status == 200
    })
    .await;
    till.claim(first, "u-1").await;
    let quote = till.quote(order("u-1", &[("d-1", "c", "m-1", "30.00")])).await;
    assert_eq!(totals(&quote), ("5.00", "25.00"));

    // It can be deleted when no template names it.
    assert_eq!(app.call(author, "DELETE", &item, &[], Value::Null).await.code(), "conflict");
    let spare = app.call(author, "POST", sets, &[], body("spare", "1.00")).await;
    let draft = app.draft(named(voucher("5.00"), "spare")).await;
    let spare = format!("{sets}/{}", spare.json["id"]);
    assert_eq!(app.call(author, "DELETE", &spare, &[], Value::Null).await.code(), "conflict");
    let kept = app.patch(draft, json!({"rule_set": null})).await;
    assert_eq!((kept.status, amount(&kept.json)), (200, "1.00".into()));
    assert_eq!(app.call(author, "DELETE", &spare, &[], Value::Null).await.status, 204);
    assert_eq!(app.call(author, "DELETE", &spare, &[], Value::Null).await.code(), "not_found");
    till.app.stop().await;
}
