//! Quotes over HTTP with real stores: the worked examples, as shops would send them, and what quotes refuse.

mod examples;
mod modes;
mod red_packets;
mod refusals;

use serde_json::{Value, json};

use super::support::app::{TestApp, until};
use super::support::till::{self, Till, of_merchant, rule, template, voucher};
use super::support::wire::Answer;

impl Till {
    async fn post(&self, body: Value) -> Answer {
        self.call("POST", "/v1/quotes", body).await
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

/// An order of one piece a line: item, category, merchant, price.
fn order(user: &str, lines: &[(&str, &str, &str, &str)]) -> Value {
    let mut order = till::order("o-1", user, lines);
    order["checkout_id"] = "c-1".into();
    order
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
