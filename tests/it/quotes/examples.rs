//! The worked examples of the sources, by HTTP.

use floodgate::clock::now_ms;
use floodgate::domain::window::rfc3339;

use super::*;

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
