//! An order as it is priced: lines, fees, and when, where and by whom it was placed.
//!
//! [`Order::parse`] names every violated field at once. What it returns is whole: amounts fit the
//! currency, ids are unique, and the total fits a 64-bit number of minor units.

use std::collections::HashSet;

use rust_decimal::Decimal;
use serde_json::Value;

use super::money::{Currency, Minor, TOTAL_MAX};
use crate::domain::fields::{Complaints, FieldError, Object, is_plain};
use crate::domain::user::UserId;
use crate::domain::window::Millis;
use crate::limits::{CHANNEL_MAX, ID_MAX, LINE_CATEGORIES_MAX, LINE_QUANTITY_MAX, ORDER_LINES_MAX};

/// What is bought, together.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub order_id: String,
    pub checkout_id: Option<String>,
    pub user_id: UserId,
    pub channel: Option<String>,
    /// Time slots and days of the week are judged by this moment.
    pub placed_at: Millis,
    pub currency: Currency,
    /// At most one fee a merchant, and only merchants with lines.
    pub shipping: Vec<Fee>,
    /// In the order in which they came; no computation depends on it.
    pub lines: Vec<Line>,
}

/// What a merchant charges for shipping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fee {
    pub merchant_id: String,
    pub fee: Minor,
}

/// Some number of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub line_id: String,
    pub item_id: String,
    pub category_ids: Vec<String>,
    pub merchant_id: String,
    pub streamer_id: Option<String>,
    pub unit_price: Minor,
    pub quantity: u32,
}

// === impl Order ===

impl Order {
    /// Reads the order of a quote or a redemption. `path` is where it stands in the body, as `order`.
    pub fn parse(value: &Value, path: &str) -> Result<Order, Vec<FieldError>> {
        let wrong = &mut Complaints::default();
        let mut object = if path.is_empty() { Object::body(value, wrong) } else { Object::at(path, value, wrong) };
        let order_id = need_id(&mut object, "order_id", wrong);
        let checkout_id = id(&mut object, "checkout_id", wrong);
        let user_id = object.need_text("user_id", wrong).and_then(|text| {
            let user = UserId::parse(text);
            if user.is_none() {
                wrong.add(object.path("user_id"), "length", "must be 1 to 64 printable ASCII characters without space");
            }
            user
        });
        let channel = object.text("channel", wrong).map(str::to_owned);
        if channel.as_ref().is_some_and(|text| !is_plain(text) || !(1..=CHANNEL_MAX).contains(&text.chars().count())) {
            wrong.add(object.path("channel"), "length", format!("must have 1 to {CHANNEL_MAX} characters"));
        }
        object.need("placed_at", wrong);
        let placed_at = object.time("placed_at", wrong);
        let currency = object.need_text("currency", wrong).and_then(|code| {
            let currency = Currency::of(code);
            if currency.is_none() {
                wrong.add(object.path("currency"), "unknown_value", "must be a currency of ISO 4217, as CNY");
            }
            currency
        });
        object.need("lines", wrong);
        let lines = read_lines(&mut object, currency, wrong);
        let shipping = read_fees(&mut object, currency, &lines, wrong);
        let total: i128 = lines.iter().map(Line::wide_amount).sum::<i128>()
            + shipping.iter().map(|fee| i128::from(fee.fee)).sum::<i128>();
        if total > i128::from(TOTAL_MAX) {
            wrong.add(object.path("lines"), "out_of_range", "the order's total is too large to be priced");
        }
        object.finish(wrong);
        let order = || {
            Some(Order {
                order_id: order_id?,
                checkout_id,
                user_id: user_id?,
                channel,
                placed_at: placed_at?,
                currency: currency?,
                shipping,
                lines,
            })
        };
        let order = order();
        std::mem::take(wrong).or(order)
    }

    /// Before discounts.
    pub fn goods_total(&self) -> Minor {
        self.lines.iter().map(Line::amount).sum()
    }

    /// Before discounts.
    pub fn shipping_total(&self) -> Minor {
        self.shipping.iter().map(|fee| fee.fee).sum()
    }
}

// === impl Line ===

impl Line {
    pub fn amount(&self) -> Minor {
        self.unit_price * Minor::from(self.quantity)
    }

    fn wide_amount(&self) -> i128 {
        i128::from(self.unit_price) * i128::from(self.quantity)
    }
}

fn read_lines(object: &mut Object, currency: Option<Currency>, wrong: &mut Complaints) -> Vec<Line> {
    let mut seen = HashSet::new();
    let mut lines = Vec::new();
    for (path, item) in list(object, "lines", ORDER_LINES_MAX, wrong) {
        let mut part = Object::at(&path, item, wrong);
        let line_id = need_id(&mut part, "line_id", wrong);
        if line_id.as_ref().is_some_and(|id| !seen.insert(id.clone())) {
            wrong.add(part.path("line_id"), "repeated", "is the id of another line too");
        }
        let item_id = need_id(&mut part, "item_id", wrong);
        let category_ids = part.words("category_ids", LINE_CATEGORIES_MAX, ID_MAX, wrong);
        let merchant_id = need_id(&mut part, "merchant_id", wrong);
        let streamer_id = id(&mut part, "streamer_id", wrong);
        part.need("unit_price", wrong);
        let unit_price = amount(&mut part, "unit_price", currency, wrong);
        part.need("quantity", wrong);
        let quantity = part.whole("quantity", 1, LINE_QUANTITY_MAX.into(), wrong);
        part.finish(wrong);
        let line = || {
            Some(Line {
                line_id: line_id?,
                item_id: item_id?,
                category_ids,
                merchant_id: merchant_id?,
                streamer_id,
                unit_price: unit_price?,
                quantity: quantity? as u32,
            })
        };
        lines.extend(line());
    }
    if lines.is_empty() && wrong.is_empty() {
        wrong.add(object.path("lines"), "length", "must hold at least one line");
    }
    lines
}

fn read_fees(object: &mut Object, currency: Option<Currency>, lines: &[Line], wrong: &mut Complaints) -> Vec<Fee> {
    let merchants: HashSet<&str> = lines.iter().map(|line| line.merchant_id.as_str()).collect();
    let mut seen = HashSet::new();
    let mut fees = Vec::new();
    for (path, item) in list(object, "shipping", ORDER_LINES_MAX, wrong) {
        let mut part = Object::at(&path, item, wrong);
        let merchant_id = need_id(&mut part, "merchant_id", wrong);
        if let Some(id) = &merchant_id {
            if !seen.insert(id.clone()) {
                wrong.add(part.path("merchant_id"), "repeated", "has another fee too");
            }
            if !lines.is_empty() && !merchants.contains(id.as_str()) {
                wrong.add(part.path("merchant_id"), "no_lines", "sells nothing in this order");
            }
        }
        part.need("fee", wrong);
        let fee = amount(&mut part, "fee", currency, wrong);
        part.finish(wrong);
        fees.extend(merchant_id.zip(fee).map(|(merchant_id, fee)| Fee { merchant_id, fee }));
    }
    fees
}

/// The elements of a list with their paths.
fn list<'a>(
    object: &mut Object<'a>,
    name: &'static str,
    most: usize,
    wrong: &mut Complaints,
) -> Vec<(String, &'a Value)> {
    let Some(value) = object.get(name) else { return Vec::new() };
    let path = object.path(name);
    match value.as_array() {
        None => wrong.add(path, "type", "must be a list"),
        Some(items) if items.len() > most => wrong.add(path, "too_many", format!("must hold at most {most}")),
        Some(items) => {
            return items.iter().enumerate().map(|(at, item)| (format!("{path}[{at}]"), item)).collect();
        }
    }
    Vec::new()
}

/// An amount of the order's currency. Without a currency its places cannot be judged.
fn amount(
    object: &mut Object,
    name: &'static str,
    currency: Option<Currency>,
    wrong: &mut Complaints,
) -> Option<Minor> {
    let amount: Decimal = object.decimal(name, wrong)?;
    let currency = currency?;
    match currency.minor(amount) {
        Ok(minor) => Some(minor),
        Err(error) => {
            let (code, detail) = error.complaint(currency);
            wrong.add(object.path(name), code, detail);
            None
        }
    }
}

fn need_id(object: &mut Object, name: &'static str, wrong: &mut Complaints) -> Option<String> {
    object.need(name, wrong);
    id(object, name, wrong)
}

fn id(object: &mut Object, name: &'static str, wrong: &mut Complaints) -> Option<String> {
    let text = object.text(name, wrong)?;
    if !(1..=ID_MAX).contains(&text.chars().count()) || !is_plain(text) {
        wrong.add(object.path(name), "length", format!("must have 1 to {ID_MAX} characters"));
        return None;
    }
    Some(text.to_owned())
}
