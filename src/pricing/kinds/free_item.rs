//! `free_item`: adds a gift, once its condition holds.
//!
//! A coupon gives one round of `gift_quantity` unless `max_gifts` allows more: then a round for
//! every `buy_quantity` bought. With `same_as_bought` the gift is what was bought, the cheapest first.

use super::{CouponKind, GiftWorth, Worth, in_currency};
use crate::domain::fields::{Complaints, Object};
use crate::domain::template::Kind;
use crate::pricing::money::{Currency, Minor, TOTAL_MAX};
use crate::pricing::terms::Creation;

pub struct FreeItem;

const GIFTS_MAX: i64 = 1_000;

impl CouponKind for FreeItem {
    fn kind(&self) -> Kind {
        Kind::FreeItem
    }

    fn priority(&self) -> i32 {
        40
    }

    fn check(&self, creation: &Creation, wrong: &mut Complaints) -> Option<Worth> {
        if !creation.shape.has_gift_condition {
            let detail = "a free_item needs a CONDITIONAL_GIFT_ITEM or a SPEND_FOR_GIFT";
            wrong.add("usage_rules", "gift_condition_required", detail);
        }
        let mut object = Object::at("value", &creation.definition.value, wrong);
        let same = object.flag("same_as_bought", wrong).unwrap_or(false);
        let id = object.text("gift_item_id", wrong);
        let name = object.text("gift_item_name", wrong);
        if same && id.is_some() {
            wrong.add("value.gift_item_id", "contradiction", "must be absent where same_as_bought is true");
        }
        if !same && id.is_none() {
            wrong.add("value.gift_item_id", "required", "is required unless same_as_bought is true");
        }
        let value = object.decimal("gift_value", wrong);
        let value = value.and_then(|value| in_currency(creation, "value.gift_value", value, wrong));
        let mut count = |name| object.whole(name, 1, GIFTS_MAX, wrong).map(|count| count as u32);
        let quantity = count("gift_quantity").unwrap_or(1);
        let buy_quantity = count("buy_quantity").unwrap_or(1);
        let max_gifts = count("max_gifts").unwrap_or(quantity);
        if value.is_some_and(|value| value > TOTAL_MAX / Minor::from(max_gifts)) {
            wrong.add("value.gift_value", "out_of_range", "is too large for so many gifts");
        }
        let item = id.filter(|_| !same).map(|id| (id.to_owned(), name.unwrap_or(id).to_owned()));
        Some(Worth::Gift(GiftWorth { item, value, quantity, buy_quantity, max_gifts }))
    }

    fn explain(&self, worth: &Worth, _: Currency) -> String {
        match worth {
            Worth::Gift(GiftWorth { item: Some((_, name)), quantity, .. }) => format!("{quantity} x {name} free"),
            Worth::Gift(GiftWorth { quantity, buy_quantity, .. }) => format!("buy {buy_quantity}, get {quantity} free"),
            _ => String::new(),
        }
    }
}
