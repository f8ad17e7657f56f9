//! Quotes over HTTP with real stores: the worked examples, as shops would send them, and what quotes refuse.

mod red_packets;

use floodgate::clock::now_ms;
use floodgate::domain::window::rfc3339;
use serde_json::{Value, json};

use super::support::app::{TestApp, coupons, until};
use super::support::wire::Answer;

/// An app with an order service.
struct Till {
    app: TestApp,
    service: String,
}

impl Till {
    async fn open(app: TestApp) -> Till {
        let service = app.api_key("service").await;
        Till { app, service }
    }

    /// A published template, and the code of the user's coupon of it.
    async fn coupon(&self, template: Value, user: &str) -> (i64, String) {
        let id = self.app.publish(template).await;
        (id, self.claim(id, user).await)
    }

    async fn claim(&self, id: i64, user: &str) -> String {
        let claimed = self.app.claim(id, user, "", &[]).await;
        assert_eq!(claimed.status, 201, "{claimed:?}");
        claimed.json["coupon"]["code"].as_str().unwrap().to_owned()
    }

    async fn post(&self, body: Value) -> Answer {
        self.app.call(&self.service, "POST", "/v1/quotes", &[], body).await
    }

    /// The quote of an order with all that its user has.
    async fn quote(&self, order: Value) -> Value {
        self.quote_with(json!({"order": order})).await
    }

    async fn quote_with(&self, body: Value) -> Value {
        let answer = self.post(body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json
    }
}

fn rule(word: &str, params: Value) -> Value {
    json!({"rule_type": word, "params": params})
}

fn template(kind: &str, value: Value, rules: &[Value]) -> Value {
    let mut template = coupons(100);
    template["kind"] = kind.into();
    template["value"] = value;
    template["usage_rules"] = rules.into();
    template
}

/// A voucher of an amount, without conditions.
fn voucher(amount: &str) -> Value {
    template("CASH_VOUCHER", json!({ "amount": amount }), &[])
}

fn of_merchant(mut template: Value, merchant: &str) -> Value {
    template["issuer"] = "merchant".into();
    template["issuer_id"] = merchant.into();
    template
}

/// An order of one piece a line: item, category, merchant, price.
fn order(user: &str, lines: &[(&str, &str, &str, &str)]) -> Value {
    let line = |(at, (item, category, merchant, price)): (usize, &(&str, &str, &str, &str))| {
        json!({
            "line_id": (at + 1).to_string(), "item_id": item, "category_ids": [category], "merchant_id": merchant,
            "streamer_id": null, "unit_price": price, "quantity": 1,
        })
    };
    json!({
        "order_id": "o-1", "checkout_id": "c-1", "user_id": user, "channel": "app",
        "placed_at": rfc3339(chrono_tz::Asia::Shanghai, now_ms()), "currency": "CNY",
        "lines": lines.iter().enumerate().map(line).collect::<Vec<_>>(),
    })
}

fn with_fees(mut order: Value, fees: &[(&str, &str)]) -> Value {
    let fee = |(merchant, fee): &(&str, &str)| json!({"merchant_id": merchant, "fee": fee});
    order["shipping"] = fees.iter().map(fee).collect::<Vec<_>>().into();
    order
}

/// What a quote takes off, and what is left to pay.
fn totals(quote: &Value) -> (&str, &str) {
    (quote["discount_total"].as_str().unwrap(), quote["payable"].as_str().unwrap())
}

/// Templates of the coupons that a quote uses.
fn used(quote: &Value) -> Vec<i64> {
    let mut ids = ids(&quote["coupons"]);
    ids.sort();
    ids
}

fn ids(list: &Value) -> Vec<i64> {
    list.as_array().unwrap().iter().map(|item| item["template_id"].as_i64().unwrap()).collect()
}

/// Why a template's coupon is left out.
fn reason(quote: &Value, id: i64) -> &str {
    let unusable = quote["unusable"].as_array().unwrap();
    let left_out = unusable.iter().find(|item| item["template_id"] == id);
    left_out.unwrap_or_else(|| panic!("{id} is not left out: {quote}"))["reason"].as_str().unwrap()
}

fn fields(answer: &Answer) -> Vec<(String, String)> {
    let errors = answer.json["errors"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    errors.iter().map(|error| (text(&error["field"]), text(&error["code"]))).collect()
}

fn field(field: &str, code: &str) -> Vec<(String, String)> {
    vec![(field.to_owned(), code.to_owned())]
}

#[tokio::test]
async fn the_worked_examples_of_the_sources() {
    let till = Till::open(TestApp::start("quotes-examples").await).await;
    let goods = |user: &str, price: &str| order(user, &[("d-1", "cat-other", "m-1", price)]);

    // 新人专享满68减10, as written; alone, so that nothing joins it.
    let newcomer = template(
        "CASH_VOUCHER",
        json!({"amount": 10}),
        &[rule("MINIMUM_SPEND", json!({"amount": 68})), rule("STACKABILITY", json!({"allow_stacking": false}))],
    );
    let (id, code) = till.coupon(newcomer, "new").await;
    let quote = till.quote(goods("new", "68")).await;
    assert_eq!(totals(&quote), ("10.00", "58.00"));
    assert_eq!(quote["coupons"][0]["code"], code);
    assert_eq!(quote["coupons"][0]["kind"], "cash_voucher");
    assert_eq!(quote["coupons"][0]["lines"], json!([{"line_id": "1", "share": "10.00"}]));
    assert_eq!((&quote["optimal"], &quote["currency"]), (&json!(true), &json!("CNY")));
    let quote = till.quote(goods("new", "67.99")).await;
    assert_eq!(totals(&quote), ("0.00", "67.99"));
    assert_eq!(reason(&quote, id), "minimum_spend");
    assert_eq!(quote["unusable"][0]["missing"], json!({"amount": "0.01"}));

    // The same for new users by their facts: from the body where a service asks.
    let young = template(
        "cash_voucher",
        json!({"amount": 10}),
        &[rule("MINIMUM_SPEND", json!({"amount": 68})), rule("USER_SEGMENTS", json!({"new_user_days": 30}))],
    );
    let (id, _) = till.coupon(young, "young").await;
    let registered = |days: i64| json!({"registered_at": rfc3339(chrono_tz::UTC, now_ms() - days * 86_400_000)});
    for (facts, payable) in [(registered(3), "58.00"), (registered(31), "68.00"), (Value::Null, "68.00")] {
        let quote = till.quote_with(json!({"order": goods("young", "68.00"), "facts": facts})).await;
        assert_eq!(totals(&quote).1, payable, "{facts}");
        if payable == "68.00" {
            assert_eq!(reason(&quote, id), "user_segment");
        }
    }
    // From the token where the shopper does.
    let token = |days: i64| {
        let at = registered(days)["registered_at"].as_str().map(str::to_owned);
        till.app.token_of("young", |claims| claims.registered_at = at)
    };
    let mut cart = goods("young", "68.00");
    for (days, payable) in [(3, "58.00"), (31, "68.00")] {
        let quote = till.app.post(&token(days), "/v1/me/quotes", &[], json!({"order": cart})).await;
        assert_eq!((quote.status, totals(&quote.json).1), (200, payable), "{quote:?}");
    }
    // A first order, as the token says; where nothing is known the detail says so.
    let first = template(
        "cash_voucher",
        json!({"amount": 10}),
        &[rule("USER_SEGMENTS", json!({"new_user_days": 30, "first_order": true}))],
    );
    let (id, _) = till.coupon(first, "first").await;
    let known = "not for this user (first_order)";
    let unknown = "it is not known whether this is the user's first order";
    for (first_order, payable, detail) in
        [(Some(true), "58.00", None), (Some(false), "68.00", Some(known)), (None, "68.00", Some(unknown))]
    {
        let token = till.app.token_of("first", |claims| {
            claims.registered_at = registered(3)["registered_at"].as_str().map(str::to_owned);
            claims.first_order = first_order;
        });
        let quote = till.app.post(&token, "/v1/me/quotes", &[], json!({"order": goods("first", "68.00")})).await.json;
        assert_eq!(totals(&quote).1, payable, "{quote}");
        if let Some(detail) = detail {
            assert_eq!((reason(&quote, id), &quote["unusable"][0]["detail"]), ("user_segment", &json!(detail)));
        }
    }
    // A cart has no order yet, no clock that counts, and no user but the token's.
    for name in ["order_id", "checkout_id", "placed_at", "user_id"] {
        cart.as_object_mut().unwrap().remove(name);
    }
    let quote = till.app.post(&token(3), "/v1/me/quotes", &[], json!({"order": cart})).await;
    assert_eq!((quote.status, totals(&quote.json).1), (200, "58.00"), "{quote:?}");
    cart["user_id"] = "new".into();
    let other = till.app.post(&token(3), "/v1/me/quotes", &[], json!({"order": cart})).await;
    assert_eq!(fields(&other), field("order.user_id", "not_the_shopper"));
    let stranger = till.app.post("no-token", "/v1/me/quotes", &[], json!({"order": cart})).await;
    assert_eq!(stranger.code(), "unauthenticated");

    // 烤鸭节满100减20, as written: the threshold counts the scope alone.
    let duck = template(
        "CASH_VOUCHER",
        json!({"amount": 20}),
        &[
            rule("MINIMUM_SPEND", json!({"amount": 100})),
            rule("ITEM_ELIGIBILITY", json!({"category_ids": ["cat-roast-duck"], "logic": "ANY"})),
            rule("ITEM_DISCOUNT_SCOPE", json!({"category_ids": ["cat-roast-duck"]})),
            rule("STACKABILITY", json!({"allow_stacking": false})),
        ],
    );
    let (id, code) = till.coupon(duck, "duck").await;
    // In words, for who claims it, who holds it and who made it.
    let words = json!([
        "20.00 off",
        "for orders with cat-roast-duck",
        "only on cat-roast-duck",
        "spend at least 100.00 in cat-roast-duck",
        "used alone"
    ]);
    let (author, _) = till.app.keys();
    let admin = till.app.call(author, "GET", &format!("/v1/admin/templates/{id}"), &[], Value::Null).await;
    let center = till.app.get("duck", &format!("/v1/templates/{id}"), &[]).await;
    let held = till.app.get("duck", &format!("/v1/me/coupons/{code}"), &[]).await;
    assert_eq!((&admin.json["terms"], &center.json["terms"], &held.json["terms"]), (&words, &words, &words));
    let meal = |duck: &str| {
        order("duck", &[("d-101", "cat-roast-duck", "m-1", duck), ("d-201", "cat-cold-dish", "m-1", "30.00")])
    };
    let quote = till.quote(meal("80.00")).await;
    assert_eq!(totals(&quote), ("0.00", "110.00"));
    assert_eq!(reason(&quote, id), "minimum_spend");
    assert_eq!(quote["unusable"][0]["detail"], "spend 20.00 more in cat-roast-duck");
    assert_eq!(quote["unusable"][0]["missing"], json!({"amount": "20.00"}));
    let text = "spend 20.00 more in cat-roast-duck and save 20.00";
    assert_eq!(quote["hints"], json!([{"template_id": id, "spend_more": "20.00", "save": "20.00", "text": text}]));
    let quote = till.quote(meal("120.00")).await;
    assert_eq!(totals(&quote), ("20.00", "130.00"));
    assert_eq!(quote["coupons"][0]["lines"], json!([{"line_id": "1", "share": "20.00"}]));

    // {"max_off": 20, "percentage": 15}: 15 % of 200 is 30, capped at 20.
    let capped = template("PERCENTAGE_DISCOUNT", json!({"max_off": 20, "percentage": 15}), &[]);
    till.coupon(capped, "percent").await;
    assert_eq!(totals(&till.quote(goods("percent", "200")).await), ("20.00", "180.00"));
    assert_eq!(totals(&till.quote(goods("percent", "100")).await), ("15.00", "85.00"));

    // 购买主食赠酸梅汤, as written.
    let drink = template(
        "FREE_ITEM",
        json!({"gift_item_id": "d-901", "gift_item_name": "酸梅汤"}),
        &[rule("CONDITIONAL_GIFT_ITEM", json!({"required_category_ids": ["cat-main-course"]}))],
    );
    let (id, code) = till.coupon(drink, "thirsty").await;
    let quote = till.quote(order("thirsty", &[("d-301", "cat-main-course", "m-1", "25.00")])).await;
    let gift = json!({"code": code, "item_id": "d-901", "name": "酸梅汤", "quantity": 1, "value": "0.00"});
    assert_eq!((totals(&quote), &quote["gifts"]), (("0.00", "25.00"), &json!([gift])));
    let quote = till.quote(goods("thirsty", "25.00")).await;
    assert_eq!((reason(&quote, id), &quote["gifts"]), ("gift_condition", &json!([])));
    till.app.stop().await;
}

#[tokio::test]
async fn coupons_of_several_classes_and_merchants_join() {
    let till = Till::open(TestApp::start("quotes-classes").await).await;
    let stackable = rule("STACKABILITY", json!({"allow_stacking": true}));

    // Shipping: never above the fee, and a merchant's on that merchant's alone.
    let two = |user: &str| order(user, &[("d-1", "c", "m-1", "50.00"), ("d-2", "c", "m-2", "50.00")]);
    let shipped = |user: &str| with_fees(two(user), &[("m-1", "5.00"), ("m-2", "9.00")]);
    let ship = |amount: &str| template("SHIPPING", json!({ "amount": amount }), &[]);
    till.coupon(of_merchant(ship("20.00"), "m-1"), "ship").await;
    let quote = till.quote(shipped("ship")).await;
    assert_eq!(totals(&quote), ("5.00", "109.00"));
    assert_eq!(quote["shipping_total"], "14.00");
    assert_eq!(quote["coupons"][0]["shipping"], json!([{"merchant_id": "m-1", "share": "5.00"}]));
    let (free, _) = till.coupon(ship("20.00"), "ship").await;
    let quote = till.quote(shipped("ship")).await;
    assert_eq!((totals(&quote), used(&quote)), (("14.00", "100.00"), vec![free]));

    // Merchant, platform, special and shipping together; each class once.
    let user = "classes";
    let (merchant, _) = till.coupon(of_merchant(voucher("3.00"), "m-1"), user).await;
    let (platform, _) = till.coupon(voucher("4.00"), user).await;
    let (second, _) = till.coupon(voucher("2.00"), user).await;
    let mut special = voucher("6.00");
    special["special"] = true.into();
    let (special, _) = till.coupon(special, user).await;
    let (shipping, _) = till.coupon(ship("8.00"), user).await;
    let quote = till.quote(shipped(user)).await;
    assert_eq!(used(&quote), [merchant, platform, special, shipping]);
    assert_eq!(totals(&quote), ("21.00", "93.00"));
    assert_eq!(reason(&quote, second), "not_stackable");

    // Shares of a coupon add up to its discount, to the last minor unit.
    for coupon in quote["coupons"].as_array().unwrap() {
        let cents = |value: &Value| value.as_str().unwrap().replace('.', "").parse::<i64>().unwrap();
        let shares = coupon["lines"].as_array().unwrap().iter().chain(coupon["shipping"].as_array().unwrap());
        assert_eq!(shares.map(|line| cents(&line["share"])).sum::<i64>(), cents(&coupon["discount"]), "{coupon}");
    }

    // Coupons of two merchants; of one merchant, the better.
    let user = "merchants";
    let (first, _) = till.coupon(of_merchant(voucher("3.00"), "m-1"), user).await;
    let (other, _) = till.coupon(of_merchant(voucher("7.00"), "m-2"), user).await;
    assert_eq!(used(&till.quote(two(user)).await), [first, other]);
    let (better, _) = till.coupon(of_merchant(voucher("5.00"), "m-1"), user).await;
    let quote = till.quote(two(user)).await;
    assert_eq!((used(&quote), totals(&quote).0), (vec![other, better], "12.00"));

    // Two that both allow stacking share their class.
    let user = "stack";
    let stacking =
        |amount: &str| template("CASH_VOUCHER", json!({ "amount": amount }), std::slice::from_ref(&stackable));
    till.coupon(stacking("10.00"), user).await;
    till.coupon(stacking("5.00"), user).await;
    assert_eq!(totals(&till.quote(two(user)).await), ("15.00", "85.00"));

    // One minor unit is left to pay.
    let user = "zero";
    let (id, _) = till.coupon(voucher("500.00"), user).await;
    let quote = till.quote(two(user)).await;
    assert_eq!((totals(&quote), used(&quote)), (("99.99", "0.01"), vec![id]));
    till.app.stop().await;
}

#[tokio::test]
async fn an_order_may_come_to_nothing_where_that_is_allowed() {
    let app = TestApp::plan("quotes-zero")
        .set("PRICING_ALLOW_ZERO_TOTAL", true)
        .set("PRICING_KINDS", "cash_voucher")
        .set("PRICING_PRESETS", "cash_voucher.amount=12.00");
    let till = Till::open(app.start().await).await;
    till.coupon(voucher("500.00"), "zero").await;
    let quote = till.quote(order("zero", &[("d-1", "c", "m-1", "50.00")])).await;
    assert_eq!(totals(&quote), ("50.00", "0.00"));

    // What a template's value leaves out is preset, where the configuration says so.
    let (author, _) = till.app.keys();
    for (value, amount) in [(json!({}), "12.00"), (json!({"amount": 3}), "3")] {
        let made = till.app.draft(template("CASH_VOUCHER", value, &[])).await;
        let made = till.app.call(author, "GET", &format!("/v1/admin/templates/{made}"), &[], Value::Null).await;
        assert_eq!(made.json["value"], json!({ "amount": amount }));
    }

    // A kind that the configuration leaves out is refused by name.
    let shipping = template("SHIPPING", json!({"amount": 5}), &[]);
    let refused = till.app.call(author, "POST", "/v1/admin/templates", &[], shipping).await;
    assert_eq!(fields(&refused), field("kind", "disabled"));
    till.app.stop().await;
}

#[tokio::test]
async fn a_grant_that_is_no_row_yet_is_quoted() {
    let mut app = TestApp::plan("quotes-unflushed").process("gateway,worker").process("flusher,worker").start().await;
    let id = app.publish(voucher("5.00")).await;
    app.kill9(1);
    let till = Till::open(app).await;
    let code = till.claim(id, "quick").await;
    let goods = order("quick", &[("d-1", "c", "m-1", "50.00")]);
    for coupons in [Value::Null, json!([code])] {
        let quote = till.quote_with(json!({"order": goods, "coupons": coupons})).await;
        assert_eq!(totals(&quote), ("5.00", "45.00"), "{coupons}");
        assert_eq!(quote["coupons"][0]["code"], code);
    }
    let strange = till.post(json!({"order": order("slow", &[("d-1", "c", "m-1", "50.00")]), "coupons": [code]})).await;
    assert_eq!(strange.code(), "coupon_not_yours");
    assert_eq!(till.app.rows(id).await, []);
}

#[tokio::test]
async fn modes_dry_runs_and_the_states_of_coupons() {
    let till = Till::open(TestApp::start("quotes-modes").await).await;
    let user = "u-1";
    let goods = order(user, &[("d-1", "c", "m-1", "50.00")]);
    let (small, small_code) = till.coupon(voucher("3.00"), user).await;
    let (large, large_code) = till.coupon(voucher("8.00"), user).await;

    // Given: the chosen set, best or not. Rank: each by itself, the best first.
    let given = json!({"order": goods, "coupons": [small_code], "mode": "given"});
    assert_eq!(totals(&till.quote_with(given).await), ("3.00", "47.00"));
    let lower = json!({"order": goods, "coupons": [small_code.to_lowercase()], "mode": "GIVEN"});
    assert_eq!(used(&till.quote_with(lower).await), [small]);
    let both = json!({"order": goods, "coupons": [small_code, large_code], "mode": "given"});
    let quote = till.quote_with(both).await;
    assert_eq!((totals(&quote), used(&quote)), (("0.00", "50.00"), vec![]));
    assert_eq!((reason(&quote, small), reason(&quote, large)), ("not_stackable", "not_stackable"));
    assert_eq!(quote.get("optimal"), None, "{quote}");
    // All or none: a third that clashes with nothing is not used by itself, and is in nobody's way.
    let (other, other_code) = till.coupon(of_merchant(voucher("1.00"), "m-1"), user).await;
    let three = json!({"order": goods, "coupons": [small_code, large_code, other_code], "mode": "given"});
    let quote = till.quote_with(three).await;
    assert_eq!((totals(&quote).0, ids(&quote["unusable"])), ("0.00", vec![small, large]));
    let two = json!({"order": goods, "coupons": [other_code, large_code], "mode": "given"});
    let quote = till.quote_with(two).await;
    assert_eq!((totals(&quote).0, used(&quote), ids(&quote["unusable"])), ("9.00", vec![large, other], vec![]));
    until("it is a row", async || till.app.rows(other).await.len() == 1).await;
    let spend = "UPDATE user_coupons SET status = 4 WHERE template_id = $1";
    till.app.sql().await.execute(spend, &[&(other as i32)]).await.unwrap();
    let rank = till.quote_with(json!({"order": goods, "mode": "rank"})).await;
    assert_eq!(rank["complete"], true);
    let ranked = rank["ranked"].as_array().unwrap();
    assert_eq!(ranked.iter().map(|one| used(one)[0]).collect::<Vec<_>>(), [large, small]);
    assert_eq!((totals(&ranked[0]), totals(&ranked[1])), (("8.00", "42.00"), ("3.00", "47.00")));

    // What is issued stays valid when its template is paused or stopped.
    till.app.pause(large).await;
    assert_eq!(totals(&till.quote(goods.clone()).await).0, "8.00");
    till.app.end(large).await;
    assert_eq!(totals(&till.quote(goods.clone()).await).0, "8.00");

    // A dry run: templates that nobody has published or holds, and another time.
    let draft = till.app.draft(voucher("20.00")).await;
    let quote = till.quote_with(json!({"order": goods, "trial_templates": [draft]})).await;
    assert_eq!((totals(&quote).0, used(&quote)), ("20.00", vec![draft]));
    let nothing = till.post(json!({"order": goods, "trial_templates": [draft, 999_999]})).await;
    assert_eq!(fields(&nothing), field("trial_templates[1]", "unknown_value"));
    let later = rfc3339(chrono_tz::UTC, now_ms() + 8 * 86_400_000);
    let quote = till.quote_with(json!({"order": goods, "now": later})).await;
    assert_eq!((totals(&quote).0, reason(&quote, small), reason(&quote, large)), ("0.00", "expired", "expired"));
    let earlier = rfc3339(chrono_tz::UTC, now_ms() - 86_400_000);
    let quote = till.quote_with(json!({"order": goods, "now": earlier})).await;
    assert_eq!((totals(&quote).0, reason(&quote, small)), ("0.00", "not_yet_valid"));

    // Each state has its word. The time of an order counts within five minutes of the clock.
    until("the coupons are rows", async || till.app.rows(large).await.len() + till.app.rows(small).await.len() == 2)
        .await;
    let sql = till.app.sql().await;
    for (status, word) in [(2i16, "locked"), (3, "offered"), (4, "used"), (6, "revoked"), (5, "expired")] {
        let statement = "UPDATE user_coupons SET status = $2::int2,
            expires_at = CASE $2::int2 WHEN 5 THEN now() - interval '1 hour' ELSE expires_at END WHERE template_id = $1";
        sql.execute(statement, &[&(large as i32), &status]).await.unwrap();
        let quote = till.quote_with(json!({"order": goods, "coupons": [large_code, small_code]})).await;
        assert_eq!((reason(&quote, large), used(&quote)), (word, vec![small]));
        let all = till.quote(goods.clone()).await;
        assert_eq!(used(&all), [small]);
        assert_eq!(ids(&all["unusable"]).len(), usize::from(matches!(status, 2 | 3 | 5)), "{all}");
    }
    let soon = "UPDATE user_coupons SET expires_at = now() + interval '2 minutes' WHERE template_id = $1";
    sql.execute(soon, &[&(small as i32)]).await.unwrap();
    for (minutes, discount) in [(0, "3.00"), (3, "0.00"), (6, "3.00")] {
        let mut goods = goods.clone();
        goods["placed_at"] = rfc3339(chrono_tz::UTC, now_ms() + minutes * 60_000).into();
        assert_eq!(totals(&till.quote(goods).await).0, discount, "{minutes}");
    }
    till.app.stop().await;
}

#[tokio::test]
async fn a_wallet_of_any_size_is_quoted_within_bounds() {
    let till = Till::open(TestApp::start("quotes-large").await).await;
    let stackable =
        template("CASH_VOUCHER", json!({"amount": 1}), &[rule("STACKABILITY", json!({"allow_stacking": true}))]);
    let (small, large) = (till.app.publish(voucher("3.00")).await, till.app.publish(stackable).await);
    let sql = till.app.sql().await;
    let fill = async |template: i64, from: i64, to: i64, expires: &str| {
        let statement = format!(
            "INSERT INTO user_coupons
                (template_id, serial, epoch, user_ref, claim_key_hash, acquired_at, valid_from, expires_at)
            SELECT $1, s, 1, 'rich', s, now(), now(), now() + interval '{expires}' + s * interval '1 second'
            FROM generate_series($2::int8, $3::int8) s"
        );
        sql.execute(&statement, &[&(template as i32), &from, &to]).await.unwrap();
    };
    let lines: Vec<(&str, &str, &str, &str)> = vec![("d-1", "c", "m-1", "10.00"); 50];
    let goods = order("rich", &lines);

    // The first to expire are priced, and that there are more is said. What is over comes last.
    fill(large, 1, 300, "1 day").await;
    fill(small, 1, 199, "2 days").await;
    fill(small, 200, 260, "-1 day").await;
    let quote = till.quote(goods.clone()).await;
    assert_eq!((quote["optimal"].as_bool(), totals(&quote)), (Some(true), ("300.00", "200.00")));
    assert_eq!(ids(&quote["coupons"]).len() + ids(&quote["unusable"]).len(), 500);
    assert_eq!(reason(&quote, small), "not_stackable");
    fill(large, 301, 302, "1 day").await;
    let quote = till.quote(goods.clone()).await;
    assert_eq!((quote["optimal"].as_bool(), totals(&quote).0), (Some(false), "302.00"));

    // Many at once wait their turn.
    let rank = json!({"order": goods, "mode": "rank"});
    let waiting: Vec<_> = (0..8).map(|_| till.post(rank.clone())).collect();
    for answer in futures_util::future::join_all(waiting).await {
        assert_eq!((answer.status, answer.json["ranked"].as_array().unwrap().len()), (200, 500));
        assert_eq!(answer.json["complete"], false);
    }
    till.app.stop().await;
}

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
