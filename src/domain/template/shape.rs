//! A template's value and usage rules, checked for shape.
//!
//! Amounts come as strings or numbers and are kept as exact decimal strings. Whether a rule or a
//! value makes sense for its kind is judged elsewhere.

use rust_decimal::Decimal;
use serde_json::{Map, Value, json};

use super::Kind;
use super::parse::is_id;
use crate::domain::fields::{Complaints, Object, is_plain};
use crate::limits::{ITEM_NAME_MAX, USAGE_RULES_BYTES_MAX, USAGE_RULES_MAX};

const RULE_TYPE_MAX: usize = 64;
const GIFTS_MAX: i64 = 1_000;
const PRIORITY_MAX: i64 = 1_000_000;
/// Digits of a number within a rule's params: PostgreSQL keeps them all, and no amount has more.
const NUMBER_LENGTH_MAX: usize = 40;

/// The kind's own fields. Complaints are kept; the result then counts for nothing.
pub(super) fn value(kind: Kind, value: &Value, wrong: &mut Complaints) -> Value {
    let mut object = Object::at("value", value, wrong);
    let mut members = Map::new();
    match kind {
        Kind::CashVoucher | Kind::FullReduction | Kind::Shipping => {
            object.need("amount", wrong);
            put(&mut members, "amount", amount(&mut object, "amount", false, wrong));
        }
        Kind::PercentageDiscount => {
            object.need("percentage", wrong);
            put(&mut members, "percentage", amount(&mut object, "percentage", false, wrong));
            object.need("max_off", wrong);
            put(&mut members, "max_off", amount(&mut object, "max_off", false, wrong));
        }
        Kind::FreeItem => {
            let same = object.flag("same_as_bought", wrong);
            if same != Some(true) {
                object.need("gift_item_id", wrong);
            }
            if let Some(id) = object.text("gift_item_id", wrong) {
                if !is_id(id) {
                    wrong.add("value.gift_item_id", "length", "must be an item's id, without spaces");
                }
                members.insert("gift_item_id".into(), id.into());
            }
            if let Some(name) = object.text("gift_item_name", wrong) {
                if !(1..=ITEM_NAME_MAX).contains(&name.chars().count()) || !is_plain(name) {
                    let detail = format!("must have 1 to {ITEM_NAME_MAX} characters");
                    wrong.add("value.gift_item_name", "length", detail);
                }
                members.insert("gift_item_name".into(), name.into());
            }
            put(&mut members, "gift_value", amount(&mut object, "gift_value", true, wrong));
            put(&mut members, "same_as_bought", same.map(Value::Bool));
            for field in ["gift_quantity", "buy_quantity", "max_gifts"] {
                put(&mut members, field, object.whole(field, 1, GIFTS_MAX, wrong).map(Value::from));
            }
        }
        Kind::RedPacket => {}
    }
    object.finish(wrong);
    Value::Object(members)
}

/// `[{rule_type, params, priority}]`, with the words in capitals and the priority written out.
pub(crate) fn read_rules(rules: &Value, wrong: &mut Complaints) -> Value {
    let Some(items) = rules.as_array() else {
        wrong.add("usage_rules", "type", "must be a list");
        return Value::Null;
    };
    if items.len() > USAGE_RULES_MAX {
        wrong.add("usage_rules", "too_many", format!("must hold at most {USAGE_RULES_MAX} rules"));
        return Value::Null;
    }
    let mut kept = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let path = format!("usage_rules[{at}]");
        let mut rule = Object::at(&path, item, wrong);
        let word = rule.need_text("rule_type", wrong).unwrap_or_default();
        if rule.has("rule_type")
            && (!(1..=RULE_TYPE_MAX).contains(&word.len())
                || !word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        {
            wrong.add(rule.path("rule_type"), "length", "must be a word of letters, digits and underscores");
        }
        let params = rule.need("params", wrong).cloned().unwrap_or_default();
        if rule.has("params") && !params.is_object() && !params.is_array() {
            wrong.add(rule.path("params"), "type", "must be an object, or the list that the rule takes");
        }
        if !is_storable(&params) {
            let detail = "must hold plain text and numbers of up to 40 digits without exponent";
            wrong.add(rule.path("params"), "not_storable", detail);
        }
        let priority = rule.whole("priority", -PRIORITY_MAX, PRIORITY_MAX, wrong).unwrap_or(0);
        rule.finish(wrong);
        kept.push(json!({"rule_type": word.to_ascii_uppercase(), "params": params, "priority": priority}));
    }
    let kept = Value::Array(kept);
    if kept.to_string().len() > USAGE_RULES_BYTES_MAX {
        wrong.add("usage_rules", "too_long", format!("must have at most {USAGE_RULES_BYTES_MAX} bytes in all"));
    }
    kept
}

fn put(members: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        members.insert(name.to_owned(), value);
    }
}

fn amount(object: &mut Object, name: &'static str, may_be_zero: bool, wrong: &mut Complaints) -> Option<Value> {
    let amount = object.decimal(name, wrong)?;
    if amount < Decimal::ZERO || (amount.is_zero() && !may_be_zero) {
        let detail = if may_be_zero { "must not be negative" } else { "must be greater than 0" };
        wrong.add(object.path(name), "out_of_range", detail);
    }
    Some(Value::String(amount.to_string()))
}

/// What PostgreSQL's jsonb takes as it is: no NUL in a text, no number that it would refuse or write out.
fn is_storable(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => true,
        Value::String(text) => !text.contains('\0'),
        Value::Number(number) => {
            let text = number.as_str();
            text.len() <= NUMBER_LENGTH_MAX && !text.contains(['e', 'E'])
        }
        Value::Array(items) => items.iter().all(is_storable),
        Value::Object(members) => members.iter().all(|(name, member)| !name.contains('\0') && is_storable(member)),
    }
}
