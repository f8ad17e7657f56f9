//! A set of items, named by item, category or merchant.

use serde_json::{Value, json};

use super::order::{Line, Order};
use crate::domain::fields::{Complaints, Object};
use crate::limits::{ID_MAX, ITEM_SET_MAX};

/// A line is within it if its item, one of its categories or its merchant is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemSet {
    pub items: Vec<String>,
    pub categories: Vec<String>,
    pub merchants: Vec<String>,
}

/// Names that a sentence lists before it says "and more".
const NAMED_MAX: usize = 3;

// === impl ItemSet ===

impl ItemSet {
    /// Reads `item_ids`, `category_ids` and `merchant_ids`; at least one id must be listed.
    pub fn read(object: &mut Object, wrong: &mut Complaints) -> ItemSet {
        let set = ItemSet {
            items: object.words("item_ids", ITEM_SET_MAX, ID_MAX, wrong),
            categories: object.words("category_ids", ITEM_SET_MAX, ID_MAX, wrong),
            merchants: object.words("merchant_ids", ITEM_SET_MAX, ID_MAX, wrong),
        };
        set.demand_some(object, "item_ids, category_ids or merchant_ids must list at least one id", wrong);
        set
    }

    /// Reads `required_item_ids` and `required_category_ids`.
    pub fn read_required(object: &mut Object, wrong: &mut Complaints) -> ItemSet {
        let set = ItemSet {
            items: object.words("required_item_ids", ITEM_SET_MAX, ID_MAX, wrong),
            categories: object.words("required_category_ids", ITEM_SET_MAX, ID_MAX, wrong),
            merchants: Vec::new(),
        };
        set.demand_some(object, "required_item_ids or required_category_ids must list at least one id", wrong);
        set
    }

    fn demand_some(&self, object: &Object, detail: &str, wrong: &mut Complaints) {
        // A list that was refused has its complaint already.
        if self.is_empty() && wrong.is_empty() {
            wrong.add(object.path("").trim_end_matches('.'), "required", detail);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.categories.is_empty() && self.merchants.is_empty()
    }

    pub fn holds(&self, line: &Line) -> bool {
        self.items.contains(&line.item_id)
            || self.merchants.contains(&line.merchant_id)
            || line.category_ids.iter().any(|category| self.categories.contains(category))
    }

    /// What of this set no line of the order has.
    pub fn absent(&self, order: &Order) -> ItemSet {
        let missing = |ids: &[String], has: &dyn Fn(&Line, &String) -> bool| -> Vec<String> {
            ids.iter().filter(|id| !order.lines.iter().any(|line| has(line, id))).cloned().collect()
        };
        ItemSet {
            items: missing(&self.items, &|line, id| line.item_id == *id),
            categories: missing(&self.categories, &|line, id| line.category_ids.contains(id)),
            merchants: missing(&self.merchants, &|line, id| line.merchant_id == *id),
        }
    }

    /// "cat-roast-duck", "d-1 or d-2", "d-1, d-2, d-3 and more".
    pub fn names(&self) -> String {
        let all: Vec<&str> =
            self.categories.iter().chain(&self.items).chain(&self.merchants).map(String::as_str).collect();
        match all.as_slice() {
            [front @ .., last] if !front.is_empty() && all.len() <= NAMED_MAX => {
                format!("{} or {last}", front.join(", "))
            }
            [only] => (*only).to_owned(),
            _ => format!("{} and more", all.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ")),
        }
    }

    /// The lists that are not empty, for what a refusal says is missing.
    pub fn to_members(&self) -> Vec<(&'static str, Value)> {
        [("item_ids", &self.items), ("category_ids", &self.categories), ("merchant_ids", &self.merchants)]
            .into_iter()
            .filter(|(_, ids)| !ids.is_empty())
            .map(|(name, ids)| (name, json!(ids)))
            .collect()
    }
}
