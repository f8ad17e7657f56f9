//! Money taken back, and coupons given back.

use chrono::DateTime;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::{duck, settled, till};
use crate::support::till::{Till, of_merchant, order, reduction, rule, template, voucher};

fn refund_of(order: &str, id: &str) -> Value {
    json!({"refund_id": id, "order_id": order, "reason": "changed their mind"})
}

fn part_of(order: &str, id: &str, lines: &[(&str, u32)]) -> Value {
    let mut body = refund_of(order, id);
    body["lines"] = lines.iter().map(|(line, quantity)| json!({"line_id": line, "quantity": quantity})).collect();
    body
}

async fn refunded(till: &Till, body: Value) -> Value {
    let answer = till.refund(body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json
}

fn at(value: &Value) -> i64 {
    DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap().timestamp_millis()
}

/// A template with other words on refunds.
fn with(mut template: Value, refund: Value) -> Value {
    template["refund"] = refund;
    template
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_refund_reverses_the_accounts_and_gives_the_coupon_back_with_its_time() {
    let till = till("refund-whole").await;
    let (id, code) = till.coupon(reduction(), "u-1").await;
    till.used(&duck("o-1", "u-1"), &[&code]).await;
    let sql =
        format!("SELECT (extract(epoch FROM expires_at) * 1000)::int8 FROM user_coupons WHERE template_id = {id}");
    let before = till.number(&sql).await;
    let back = set_back(&till, "o-1", "1 hour").await;
    let refund = refunded(&till, refund_of("o-1", "r-1")).await;
    let lines = json!([
        {"line_id": "1", "quantity": 1, "reversed": "13.33"}, {"line_id": "2", "quantity": 1, "reversed": "6.67"},
    ]);
    assert_eq!((&refund["reversed_total"], &refund["lines"]), (&json!("20.00"), &lines));
    let coupon = &refund["coupons"][0];
    assert_eq!((&coupon["code"], &coupon["status"]), (&json!(code), &json!("unused")));
    // An hour and a moment lie between lock and refund; so much longer it holds.
    let grown = at(&coupon["expires_at"]) - before;
    assert!((back..back + 60_000).contains(&grown), "{grown}");
    assert_eq!(till.status("u-1", &code).await, "unused");
    assert_eq!(till.redemption("o-1").await.json["status"], "refunded");
    assert_eq!(till.trace(id).await[2..], ["restore 4>1 refund r-1"]);
    assert_eq!(settled(&till, "o-1").await, (true, "merchant:m-1=0 merchant:m-2=0 platform:=0".into()));

    // Repeated, it answers as it did; under its name nothing else happens.
    let again = till.refund(refund_of("o-1", "r-1")).await;
    assert_eq!((again.status, &again.json), (200, &refund));
    let other = till.refund(part_of("o-1", "r-1", &[("1", 1)])).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_mismatch"));
    let more = till.refund(refund_of("o-1", "r-2")).await;
    assert_eq!((more.status, more.code()), (409, "conflict"));
    let counted =
        "SELECT concat_ws(' ', sum(used), sum(restored), trim_scale(sum(discount_total) - sum(discount_reversed)),
        trim_scale(sum(revenue) - sum(revenue_refunded))) FROM coupon_counters";
    assert_eq!(till.text(counted).await, "1 1 0 0");
    // It may be used again.
    till.used(&duck("o-2", "u-1"), &[&code]).await;
    till.close().await;
}

/// Sets an order's lock and use back in time, and tells by how many milliseconds.
async fn set_back(till: &Till, order: &str, span: &str) -> i64 {
    let sql = format!(
        "UPDATE redemptions SET locked_at = locked_at - interval '{span}', used_at = used_at - interval '{span}'
         WHERE order_id = '{order}'"
    );
    assert_eq!(till.app.sql().await.execute(&sql, &[]).await.unwrap(), 1);
    till.number(&format!("SELECT (extract(epoch FROM interval '{span}') * 1000)::int8")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_add_up_to_the_whole_are_a_whole_refund_in_any_order() {
    let till = till("refund-parts").await;
    let (id, code) = till.coupon(reduction(), "u-1").await;
    let mut o1 = order("o-1", "u-1", &[("d-1", "c", "m-1", "10.01"), ("d-2", "c", "m-2", "90.00")]);
    o1["lines"][0]["quantity"] = 3.into();
    let used = till.used(&o1, &[&code]).await;
    assert_eq!(used["coupons"][0]["lines"][0]["share"], "5.00");
    let mut reversed = Vec::new();
    for (at, lines) in [("1", 1), ("2", 1), ("1", 1), ("1", 1)].iter().enumerate() {
        let body = part_of("o-1", &format!("r-{at}"), &[*lines]);
        let refund = refunded(&till, body.clone()).await;
        reversed.push(refund["reversed_total"].as_str().unwrap().to_owned());
        let whole = at == 3;
        let status = if whole { "refunded" } else { "partially_refunded" };
        assert_eq!(till.redemption("o-1").await.json["status"], status);
        assert_eq!(till.status("u-1", &code).await, if whole { "unused" } else { "used" });
        assert_eq!(till.refund(body).await.json, refund);
    }
    assert_eq!(reversed, ["1.66", "15.00", "1.67", "1.67"]);
    assert_eq!(till.redemption("o-1").await.json["reversed_total"], "20.00");
    let too_many = till.refund(part_of("o-1", "r-9", &[("1", 1), ("9", 1)])).await;
    assert_eq!(too_many.status, 400, "{too_many:?}");
    assert_eq!(too_many.json["errors"][0]["field"], "lines[0].quantity");
    assert_eq!(settled(&till, "o-1").await, (true, "merchant:m-1=0 merchant:m-2=0 platform:=0".into()));
    assert_eq!(till.trace(id).await.len(), 3);
    till.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_threshold_costs_what_the_template_says() {
    let till = till("refund-policies").await;
    let cases = [
        ("proportional", "6.67", "used", "merchant:m-1=13.33 merchant:m-2=0 platform:=-13.33"),
        ("clawback", "20.00", "used", "merchant:m-1=0 merchant:m-2=0 platform:=0"),
        ("RESTORE", "20.00", "unused", "merchant:m-1=0 merchant:m-2=0 platform:=0"),
    ];
    for (at, (policy, reversed, status, parties)) in cases.into_iter().enumerate() {
        let (_, code) = till.coupon(with(reduction(), json!({"partial": policy})), "u-1").await;
        let order = format!("o-{at}");
        till.used(&duck(&order, "u-1"), &[&code]).await;
        let refund = refunded(&till, part_of(&order, &format!("r-{at}"), &[("2", 1)])).await;
        assert_eq!(refund["reversed_total"], reversed, "{policy}: {refund}");
        assert_eq!(till.status("u-1", &code).await, status, "{policy}");
        assert_eq!(settled(&till, &order).await, (true, parties.into()), "{policy}");
        assert_eq!(till.redemption(&order).await.json["status"], "partially_refunded");
        // The rest goes back too.
        let rest = refunded(&till, refund_of(&order, &format!("s-{at}"))).await;
        assert_eq!(rest["reversed_total"], if at == 0 { "13.33" } else { "0.00" }, "{policy}: {rest}");
        assert_eq!(till.status("u-1", &code).await, "unused", "{policy}");
    }
    till.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_returns_within_its_window_and_while_it_holds_and_the_accounts_reverse_always() {
    let till = till("refund-windows").await;
    let over = "expires_at = now() - interval '1 second'";
    let none = json!({});
    let cases = [
        ("window", json!({"window_days": 1}), None::<&str>, "2 days", "used", ""),
        ("at once", json!({"window_days": 0}), None, "1 second", "used", ""),
        ("never", json!({"returnable": false}), None, "0 seconds", "used", ""),
        ("expired", none.clone(), Some(over), "0 seconds", "expired", "restore 4>5"),
        ("extended", json!({"extend_days": 3}), Some(over), "0 seconds", "unused", "extend 4>1"),
        ("as it was", json!({"restore_elapsed": false}), None, "1 hour", "unused", "restore 4>1"),
    ];
    for (at, (what, refund, alter, back, status, step)) in cases.into_iter().enumerate() {
        let (id, code) = till.coupon(with(reduction(), refund), "u-1").await;
        let order = format!("o-{at}");
        till.used(&duck(&order, "u-1"), &[&code]).await;
        if let Some(set) = alter {
            till.alter(id, set).await;
        }
        let sql =
            format!("SELECT (extract(epoch FROM expires_at) * 1000)::int8 FROM user_coupons WHERE template_id = {id}");
        let before = till.number(&sql).await;
        set_back(&till, &order, back).await;
        let refund = refunded(&till, refund_of(&order, &format!("r-{at}"))).await;
        assert_eq!(refund["reversed_total"], "20.00", "{what}");
        assert_eq!(refund["coupons"][0]["status"], status, "{what}");
        assert_eq!(till.status("u-1", &code).await, status, "{what}");
        let grown = at_days(&refund["coupons"][0]["expires_at"], before);
        assert_eq!(grown, if what == "extended" { 3 } else { 0 }, "{what}");
        assert_eq!(settled(&till, &order).await.1, "merchant:m-1=0 merchant:m-2=0 platform:=0", "{what}");
        let last = till.trace(id).await.last().unwrap().clone();
        assert!(step.is_empty() || last.starts_with(step), "{what}: {last}");
    }
    let counted = "SELECT concat_ws(' ', sum(used), sum(restored), sum(expired)) FROM coupon_counters";
    assert_eq!(till.text(counted).await, "6 3 1");
    // Uses were moved to another day by hand, which the ledger check would name.
    till.app.stop().await;
}

/// By how many whole days a time is later.
fn at_days(later: &Value, before: i64) -> i64 {
    (at(later) - before) / 86_400_000
}

#[tokio::test(flavor = "multi_thread")]
async fn fees_and_gifts_go_back_when_they_are_given_back() {
    let till = till("refund-fees").await;
    let (_, shipping) = till.coupon(template("shipping", json!({"amount": "5.00"}), &[]), "u-1").await;
    let gift = json!({"gift_item_id": "d-901", "gift_item_name": "酸梅汤", "gift_quantity": 2, "gift_value": "4.00"});
    let condition = rule("CONDITIONAL_GIFT_ITEM", json!({"required_category_ids": ["cat-roast-duck"]}));
    let (_, drink) = till.coupon(template("free_item", gift, &[condition]), "u-1").await;
    let mut o1 = duck("o-1", "u-1");
    o1["shipping"] = json!([{"merchant_id": "m-1", "fee": "8.00"}]);
    let used = till.used(&o1, &[&shipping, &drink]).await;
    assert_eq!((&used["discount_total"], &used["gifts"][0]["quantity"]), (&json!("5.00"), &json!(2)));
    // m-1 is owed the fee's share; whoever supplies the drinks has their cost: the platform itself.
    assert_eq!(settled(&till, "o-1").await, (true, "merchant:m-1=5 platform:=-5".into()));

    let part = refunded(&till, part_of("o-1", "r-1", &[("1", 1)])).await;
    let of = |refund: &Value| {
        ["reversed_total", "shipping_reversed", "gift_value_recovered"]
            .map(|name| refund[name].as_str().unwrap().to_owned())
    };
    assert_eq!(of(&part), ["0.00", "0.00", "0.00"]);
    let mut rest = refund_of("o-1", "r-2");
    rest["shipping_refunded"] = false.into();
    assert_eq!(of(&refunded(&till, rest).await), ["0.00", "0.00", "8.00"]);
    // The fee was not paid back: what paid a part of it stays used.
    assert_eq!(
        (till.status("u-1", &shipping).await, till.status("u-1", &drink).await),
        ("used".into(), "unused".into())
    );
    let mut fee = part_of("o-1", "r-3", &[]);
    fee["shipping_refunded"] = true.into();
    assert_eq!(of(&refunded(&till, fee.clone()).await), ["5.00", "5.00", "0.00"]);
    assert_eq!(till.status("u-1", &shipping).await, "unused");
    fee["refund_id"] = "r-4".into();
    assert_eq!(till.refund(fee).await.code(), "conflict");
    let counted = "SELECT trim_scale(sum(gift_total) - sum(gift_reversed))::text FROM coupon_counters";
    assert_eq!(till.text(counted).await, "0");
    till.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refunds_that_make_no_sense_say_so_and_change_nothing() {
    let till = till("refund-refusals").await;
    let (_, code) = till.coupon(voucher("5.00"), "u-1").await;
    let unknown = till.refund(refund_of("o-1", "r-1")).await;
    assert_eq!((unknown.status, unknown.code()), (404, "redemption_not_found"));
    till.locked(&duck("o-1", "u-1"), &[&code]).await;
    let early = till.refund(refund_of("o-1", "r-1")).await;
    assert_eq!((early.status, early.code(), &early.json["redemption_status"]), (409, "conflict", &json!("locked")));
    assert_eq!(till.confirm("o-1").await.status, 200);
    let mut bad = refund_of("o-1", "");
    bad["lines"] = json!([{"line_id": "1"}]);
    bad["money"] = 1.into();
    let bad = till.refund(bad).await;
    let fields: Vec<&str> = bad.json["errors"].as_array().unwrap().iter().filter_map(|e| e["field"].as_str()).collect();
    assert_eq!((bad.status, fields), (400, vec!["refund_id", "lines[0].quantity", "money"]));
    let twelve: Vec<_> = (0..12).map(|_| till.refund(part_of("o-1", "r-1", &[("1", 1)]))).collect();
    let answers = futures_util::future::join_all(twelve).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|answer| answer.json == answers[0].json), "{answers:?}");
    assert_eq!(till.number("SELECT count(*) FROM refunds").await, 1);
    // One name for refunds of two orders at once: it is the first one's.
    let (_, code) = till.coupon(voucher("5.00"), "u-2").await;
    till.used(&duck("o-2", "u-2"), &[&code]).await;
    let both: Vec<_> =
        (0..8).map(|at| till.refund(part_of(if at % 2 == 0 { "o-1" } else { "o-2" }, "r-2", &[("2", 1)]))).collect();
    let answers = futures_util::future::join_all(both).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort();
    assert_eq!(statuses, [200, 200, 200, 201, 422, 422, 422, 422], "{answers:?}");
    till.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_coupons_of_other_kinds_and_currencies_go_back_to_the_minor_unit() {
    let till = till("refund-kinds").await;
    // A percentage of what the merchant's coupon leaves, and two stackable ones of one template.
    let percent = template("percentage_discount", json!({"percentage": 15, "max_off": "20.00"}), &[]);
    let (_, percent) = till.coupon(percent, "u-1").await;
    let (_, merchant) = till.coupon(of_merchant(voucher("7.00"), "m-1"), "u-1").await;
    let used = till.used(&duck("o-1", "u-1"), &[&percent, &merchant]).await;
    assert_eq!((&used["discount_total"], &used["payable"]), (&json!("23.95"), &json!("96.05")));
    let one = refunded(&till, part_of("o-1", "r-1", &[("1", 1)])).await;
    let two = refunded(&till, refund_of("o-1", "r-2")).await;
    let sum = |names: [&Value; 2]| names.iter().map(|text| text.as_str().unwrap().parse::<Decimal>().unwrap()).sum();
    let total: Decimal = sum([&one["reversed_total"], &two["reversed_total"]]);
    assert_eq!(total.to_string(), "23.95");

    let mut pair = voucher("3.00");
    pair["limits"] = json!({"per_user": 2});
    pair["usage_rules"] = json!([rule("STACKABILITY", json!({"allow_stacking": true}))]);
    let id = till.app.publish(pair).await;
    let (a, b) = (till.claim(id, "u-1").await, till.claim(id, "u-1").await);
    let used = till.used(&duck("o-2", "u-1"), &[&a, &b]).await;
    assert_eq!((&used["discount_total"], used["coupons"].as_array().unwrap().len()), (&json!("6.00"), 2));
    for (at, line) in ["2", "1"].into_iter().enumerate() {
        refunded(&till, part_of("o-2", &format!("s-{at}"), &[(line, 1)])).await;
    }
    assert_eq!((till.status("u-1", &a).await, till.status("u-1", &b).await), ("unused".into(), "unused".into()));

    for (currency, price, off, payable) in [("JPY", "101", "20", "182"), ("KWD", "10.001", "2.002", "18.000")] {
        let mut foreign = voucher(off);
        foreign["currency"] = currency.into();
        let (_, code) = till.coupon(foreign, "u-1").await;
        let id = format!("o-{currency}");
        let mut order = order(&id, "u-1", &[("d", "c", "m-1", price)]);
        order["currency"] = currency.into();
        order["lines"][0]["quantity"] = 2.into();
        let used = till.used(&order, &[&code]).await;
        assert_eq!((&used["payable"], &used["discount_total"]), (&json!(payable), &json!(off)));
        let half = refunded(&till, part_of(&id, &format!("h-{currency}"), &[("1", 1)])).await;
        let rest = refunded(&till, refund_of(&id, &format!("r-{currency}"))).await;
        let total: Decimal = sum([&half["reversed_total"], &rest["reversed_total"]]);
        assert_eq!(total.to_string(), off);
    }
    till.close().await;
}
