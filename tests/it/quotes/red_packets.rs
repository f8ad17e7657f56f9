//! Red packets on orders: each coupon has its own amount, coupons come first, and zero totals.
//!
//! Templates of the kind and their shares are put into PostgreSQL as dividing a packet will put them.

use super::*;

impl Till {
    /// A template of red packets with these rules, as gateways know it.
    async fn packets(&self, rules: &[Value]) -> i64 {
        let id = self.app.publish(template("CASH_VOUCHER", json!({"amount": "1.00"}), rules)).await;
        let sql = self.app.sql().await;
        let statement = "UPDATE coupon_templates SET revision = revision + 1,
            definition = definition || '{\"kind\": \"red_packet\", \"value\": {}}' WHERE id = $1";
        assert_eq!(sql.execute(statement, &[&(id as i32)]).await.unwrap(), 1);
        sql.execute("UPDATE catalog_versions SET templates = templates + 1", &[]).await.unwrap();
        until("the gateway knows its kind", async || {
            self.app.get("u", &format!("/v1/templates/{id}"), &[]).await.json["kind"] == "red_packet"
        })
        .await;
        id
    }

    /// Gives the user shares of a packet, numbered from `first` on; their codes.
    async fn shares(&self, id: i64, user: &str, first: i64, amounts: &[&str]) -> Vec<String> {
        let sql = self.app.sql().await;
        for (amount, serial) in amounts.iter().zip(first..) {
            let statement = "INSERT INTO user_coupons
                (template_id, serial, epoch, user_ref, claim_key_hash, acquired_at, valid_from, expires_at, amount)
                VALUES ($1, $2, 1, $3, $2, now(), now(), now() + interval '1 day', $4::text::numeric)";
            sql.execute(statement, &[&(id as i32), &serial, &user, amount]).await.unwrap();
        }
        let mut codes = Vec::new();
        for (amount, serial) in amounts.iter().zip(first..) {
            let wallet = self.app.get(user, "/v1/me/coupons?limit=100", &[]).await.json;
            let is_it = |coupon: &&Value| coupon["template_id"] == id && coupon["serial"] == serial;
            let coupon = wallet["items"].as_array().unwrap().iter().find(is_it).expect("the share").clone();
            // The wallet shows what it is worth, in the list and by itself.
            assert_eq!(coupon["value"], json!({ "amount": amount }));
            assert_eq!(coupon["terms"][0], format!("{amount} off"));
            let code = coupon["code"].as_str().unwrap().to_owned();
            assert_eq!(self.app.get(user, &format!("/v1/me/coupons/{code}"), &[]).await.json, coupon);
            codes.push(code);
        }
        codes
    }
}

/// What each coupon of a quote takes off, in the order of computing.
fn discounts(quote: &Value) -> Vec<(i64, &str)> {
    let one = |coupon: &'_ Value| coupon["template_id"].as_i64().unwrap();
    let list = quote["coupons"].as_array().unwrap();
    list.iter().map(|coupon| (one(coupon), coupon["discount"].as_str().unwrap())).collect()
}

fn stackable() -> Value {
    rule("STACKABILITY", json!({"allow_stacking": true}))
}

#[tokio::test]
async fn coupons_come_first_then_red_packets_which_pay_goods_alone() {
    let till = Till::open(TestApp::start("quotes-packets").await).await;
    let cart = |user: &str, price: &str| with_fees(order(user, &[("d-1", "c", "m-1", price)]), &[("m-1", "8.00")]);

    // Half off first, then the packet off what is left, whatever it was worth before.
    let half = template("PERCENTAGE_DISCOUNT", json!({"percentage": 50, "max_off": 99}), &[]);
    let (half, half_code) = till.coupon(half, "u-1").await;
    let packet = till.packets(&[]).await;
    let shares = till.shares(packet, "u-1", 11, &["20.00", "8.88"]).await;
    let quote = till.quote(cart("u-1", "100.00")).await;
    assert_eq!(discounts(&quote), [(half, "50.00"), (packet, "20.00")]);
    assert_eq!((totals(&quote), &quote["coupons"][1]["code"]), (("70.00", "38.00"), &json!(shares[0])));
    assert_eq!(quote["coupons"][1]["lines"], json!([{"line_id": "1", "share": "20.00"}]));
    assert_eq!(quote["coupons"][1]["shipping"], json!([]));
    // One packet an order, unless the packets allow more; the order in which they are named does not count.
    assert_eq!(reason(&quote, packet), "not_stackable");
    let given = json!({"order": cart("u-1", "100.00"), "coupons": [shares[1], half_code], "mode": "given"});
    assert_eq!(discounts(&till.quote_with(given).await), [(half, "50.00"), (packet, "8.88")]);
    let both = json!({"order": cart("u-1", "100.00"), "coupons": [shares[1], shares[0]], "mode": "given"});
    assert_eq!(totals(&till.quote_with(both).await).0, "0.00");
    let ranked = till.quote_with(json!({"order": cart("u-1", "100.00"), "mode": "rank"})).await["ranked"].clone();
    let ranked: Vec<&str> = ranked.as_array().unwrap().iter().map(|one| totals(one).0).collect();
    assert_eq!(ranked, ["50.00", "20.00", "8.88"]);

    // What is left of goods is all that a packet pays: the rest of it is lost, the fee stays.
    let quote = till.quote(cart("u-1", "30.00")).await;
    assert_eq!(discounts(&quote), [(half, "15.00"), (packet, "15.00")]);
    assert_eq!(totals(&quote).1, "8.00");

    // Several where each allows it, on top of coupons; a share of 0.01 is one too.
    let many = till.packets(&[stackable()]).await;
    till.shares(many, "u-2", 21, &["3.33", "0.01", "6.66"]).await;
    let (voucher, _) = till.coupon(voucher("5.00"), "u-2").await;
    let quote = till.quote(cart("u-2", "100.00")).await;
    let mut found = discounts(&quote);
    assert_eq!(found.remove(0), (voucher, "5.00"));
    found.sort();
    assert_eq!(found, [(many, "0.01"), (many, "3.33"), (many, "6.66")]);
    assert_eq!(totals(&quote), ("15.00", "93.00"));

    // Zero totals: one minor unit is left to pay, the last discount being reduced.
    let user = "u-3";
    till.shares(many, user, 31, &["60.00", "60.00"]).await;
    let quote = till.quote(order(user, &[("d-1", "c", "m-1", "100.00")])).await;
    assert_eq!(discounts(&quote), [(many, "60.00"), (many, "39.99")]);
    assert_eq!(totals(&quote), ("99.99", "0.01"));

    // A share without an amount is worth nothing, and no coupon of zero or less can be stored.
    let sql = till.app.sql().await;
    sql.execute("UPDATE user_coupons SET amount = NULL WHERE user_ref = 'u-3'", &[]).await.unwrap();
    assert_eq!(reason(&till.quote(cart(user, "9.00")).await, many), "no_benefit");
    let refused = sql.execute("UPDATE user_coupons SET amount = -1 WHERE user_ref = 'u-3'", &[]).await.unwrap_err();
    assert_eq!(refused.as_db_error().unwrap().constraint(), Some("user_coupons_amount"));
    till.app.stop().await;
}

#[tokio::test]
async fn red_packets_may_pay_an_order_whole_where_zero_totals_are_allowed() {
    let plan = TestApp::plan("quotes-packets-zero").set("PRICING_ALLOW_ZERO_TOTAL", true);
    let till = Till::open(plan.start().await).await;
    let packet = till.packets(&[stackable()]).await;
    till.shares(packet, "u-1", 1_001, &["60.00", "60.00"]).await;
    let goods = order("u-1", &[("d-1", "c", "m-1", "100.00")]);
    let quote = till.quote(goods.clone()).await;
    assert_eq!(discounts(&quote), [(packet, "60.00"), (packet, "40.00")]);
    assert_eq!(totals(&quote), ("100.00", "0.00"));
    // The fee is nothing that a packet pays; a shipping coupon does.
    let (ship, _) = till.coupon(template("SHIPPING", json!({"amount": "9.00"}), &[]), "u-1").await;
    let quote = till.quote(with_fees(goods, &[("m-1", "8.00")])).await;
    assert_eq!(discounts(&quote), [(ship, "8.00"), (packet, "60.00"), (packet, "40.00")]);
    assert_eq!(totals(&quote), ("108.00", "0.00"));
    till.app.stop().await;
}

#[tokio::test]
async fn a_search_that_its_budget_ends_answers_with_the_best_found_and_says_so() {
    let plan = TestApp::plan("quotes-budget").set("PRICING_SEARCH_NODES_MAX", 3);
    let till = Till::open(plan.start().await).await;
    let packet = till.packets(&[stackable()]).await;
    let amounts: Vec<String> = (1..=80).map(|number| format!("{}.{:02}", number % 7 + 1, number)).collect();
    let amounts: Vec<&str> = amounts.iter().map(String::as_str).collect();
    till.shares(packet, "u-1", 1_001, &amounts).await;
    let goods = order("u-1", &[("d-1", "c", "m-1", "100.00")]);
    let quote = till.quote(goods.clone()).await;
    assert_eq!(quote["optimal"], false);
    // What was found is a price as any other.
    let codes: Vec<&Value> = quote["coupons"].as_array().unwrap().iter().map(|coupon| &coupon["code"]).collect();
    assert!(!codes.is_empty(), "{quote}");
    let given = till.quote_with(json!({"order": goods, "coupons": codes, "mode": "given"})).await;
    assert_eq!((totals(&given), &given["coupons"]), (totals(&quote), &quote["coupons"]));
    till.app.stop().await;
}
