//! Pricing, tested as a whole: worked examples, creation, the search against enumeration, properties.

mod carts;
mod creation;
mod examples;
mod orders;
mod properties;
mod reference;
mod search;

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::domain::fields::FieldError;
use crate::domain::ids::TemplateId;
use crate::domain::template::{Definition, parse};
use crate::domain::window::Millis;

/// Nodes that no test's search needs.
const NODES: u64 = 1_000_000;

fn at(text: &str) -> Millis {
    chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
}

/// A Thursday, at noon in Shanghai.
fn noon() -> Millis {
    at("2026-06-18T12:00:00+08:00")
}

fn definition(kind: &str, value: Value, rules: Value, more: Value) -> Definition {
    let mut body = json!({
        "name": "coupon", "kind": kind, "value": value, "usage_rules": rules, "stock": {"total": 5000},
        "claim_window": {"starts_at": "2026-06-18T00:00:00+08:00", "ends_at": "2026-06-19T00:00:00+08:00"},
        "validity": {"type": "relative", "days": 7},
    });
    for (name, member) in more.as_object().unwrap() {
        body[name] = member.clone();
    }
    parse(&body, Millis::MIN).unwrap_or_else(|errors| panic!("{body}: {errors:?}"))
}

fn terms(kind: &str, value: Value, rules: Value, more: Value) -> Result<(Terms, Vec<Warning>), Vec<FieldError>> {
    Terms::of(&definition(kind, value, rules, more), &Settings::default())
}

/// An unused coupon of a platform's template, unless `more` says otherwise.
fn coupon(code: &str, kind: &str, value: Value, rules: Value, more: Value) -> Coupon {
    let amount = more.get("amount").map(|amount| amount.as_str().unwrap().parse().unwrap());
    let mut more = more;
    more.as_object_mut().unwrap().remove("amount");
    let (terms, _) = terms(kind, value, rules, more).unwrap();
    Coupon {
        code: code.into(),
        template_id: TemplateId(code.bytes().fold(0, |id, byte| id * 31 % 1_000_003 + u32::from(byte))),
        terms: Arc::new(terms),
        state: State::Unused,
        valid_from: at("2026-06-01T00:00:00+08:00"),
        expires: at("2026-07-01T00:00:00+08:00"),
        amount,
    }
}

/// Lines as `(item, category, merchant, unit price, quantity)`, fees as `(merchant, fee)`.
fn order(lines: &[(&str, &str, &str, &str, u32)], fees: &[(&str, &str)]) -> Order {
    let lines: Vec<Value> = lines
        .iter()
        .enumerate()
        .map(|(at, (item, category, merchant, price, quantity))| {
            json!({
                "line_id": (at + 1).to_string(), "item_id": item, "category_ids": [category],
                "merchant_id": merchant, "unit_price": price, "quantity": quantity,
            })
        })
        .collect();
    let fees: Vec<Value> = fees.iter().map(|(merchant, fee)| json!({"merchant_id": merchant, "fee": fee})).collect();
    let body = json!({
        "order_id": "o-1", "checkout_id": "c-1", "user_id": "u-1", "channel": "app",
        "placed_at": "2026-06-18T12:00:00+08:00", "currency": "CNY", "shipping": fees, "lines": lines,
    });
    Order::parse(&body, "order").unwrap()
}

fn best_of(order: &Order, coupons: &[Coupon], settings: &Settings) -> Quote {
    let user = User::default();
    let quote = best(&Case { order, user: &user, now: noon(), settings }, coupons, NODES);
    assert!(quote.optimal);
    quote
}

fn given(order: &Order, coupons: &[Coupon], settings: &Settings) -> Result<Priced, Refused> {
    let user = User::default();
    price(&Case { order, user: &user, now: noon(), settings }, coupons)
}

/// The codes that a quote uses, sorted.
fn used(quote: &Quote, coupons: &[Coupon]) -> Vec<String> {
    let mut codes: Vec<String> =
        quote.priced.coupons.iter().map(|applied| coupons[applied.coupon].code.clone()).collect();
    codes.sort();
    codes
}

/// What is refused, as "code reason".
fn refused(result: Result<Priced, Refused>, coupons: &[Coupon]) -> Vec<String> {
    let refused = result.err().map(|refused| refused.0).unwrap_or_default();
    refused
        .iter()
        .map(|unusable| format!("{} {}", coupons[unusable.coupon].code, unusable.refusal.reason.word()))
        .collect()
}

fn spend(amount: &str) -> Value {
    json!([{"rule_type": "MINIMUM_SPEND", "params": {"amount": amount}}])
}
