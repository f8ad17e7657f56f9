//! Orders: what is read, and every complaint about what is not.

use super::*;

fn body() -> Value {
    json!({
        "order_id": "o-1", "checkout_id": "c-1", "user_id": "u-1", "channel": "app",
        "placed_at": "2026-06-18T12:00:00+08:00", "currency": "cny",
        "shipping": [{"merchant_id": "m-1", "fee": "8.00"}],
        "lines": [{"line_id": "1", "item_id": "d-101", "category_ids": ["cat-roast-duck"], "merchant_id": "m-1",
                   "streamer_id": null, "unit_price": 40.10, "quantity": 2}],
    })
}

fn complaints(body: &Value) -> Vec<String> {
    let errors = Order::parse(body, "order").err().unwrap_or_default();
    errors.into_iter().map(|error| format!("{} {}", error.field, error.code)).collect()
}

#[test]
fn amounts_are_exact_and_totals_add_up() {
    let order = Order::parse(&body(), "order").unwrap();
    assert_eq!((order.goods_total(), order.shipping_total()), (8_020, 800));
    assert_eq!(order.currency.code(), "CNY");
}

#[test]
fn each_violation_is_named() {
    let line = |name: &str, value: Value| {
        let mut body = body();
        body["lines"][0][name] = value;
        body
    };
    let field = |name: &str, value: Value| {
        let mut body = body();
        body[name] = value;
        body
    };
    let twice = || json!([body()["lines"][0], body()["lines"][0]]);
    let fees = json!([{"merchant_id": "m-1", "fee": 1}, {"merchant_id": "m-1", "fee": 1}]);
    let cases = [
        (field("lines", json!([])), "order.lines length"),
        (field("lines", Value::Null), "order.lines required"),
        (field("lines", json!({})), "order.lines type"),
        (field("lines", twice()), "order.lines[1].line_id repeated"),
        (field("user_id", json!("u 1")), "order.user_id length"),
        (field("placed_at", json!("2026-06-18")), "order.placed_at time"),
        (field("currency", json!("RMB")), "order.currency unknown_value"),
        (field("total", json!(1)), "order.total unknown_field"),
        (field("shipping", fees), "order.shipping[1].merchant_id repeated"),
        (field("shipping", json!([{"merchant_id": "m-2", "fee": 1}])), "order.shipping[0].merchant_id no_lines"),
        (field("shipping", json!([{"merchant_id": "m-1", "fee": -1}])), "order.shipping[0].fee out_of_range"),
        (line("quantity", json!(0)), "order.lines[0].quantity out_of_range"),
        (line("quantity", json!(100_000)), "order.lines[0].quantity out_of_range"),
        (line("quantity", json!(1.5)), "order.lines[0].quantity out_of_range"),
        (line("unit_price", json!("1.001")), "order.lines[0].unit_price too_precise"),
        (line("unit_price", json!("-1")), "order.lines[0].unit_price out_of_range"),
        (line("unit_price", json!("1e2")), "order.lines[0].unit_price decimal"),
        (line("unit_price", json!("999999999999")), "order.lines out_of_range"),
        (line("sku", json!("x")), "order.lines[0].sku unknown_field"),
        (line("category_ids", json!("c")), "order.lines[0].category_ids type"),
        (line("item_id", json!("")), "order.lines[0].item_id length"),
    ];
    for (body, expected) in cases {
        let found = complaints(&body);
        assert!(found.iter().any(|found| found == expected), "{found:?} lacks {expected}");
    }
    let mut yen = body();
    yen["currency"] = json!("JPY");
    assert_eq!(complaints(&yen), ["order.lines[0].unit_price too_precise"]);
    let all = complaints(&json!({"lines": [{}], "x": 1}));
    assert_eq!(all.len(), 10, "{all:?}");
}
