//! A set of items, named by item, category or merchant.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::order::{Line, Order};
use crate::domain::fields::{Complaints, Object};
use crate::limits::{ID_MAX, ITEM_SET_MAX};

/// A line is within it if its item, one of its categories or its merchant is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemSet {
    items: Ids,
    categories: Ids,
    merchants: Ids,
}

/// Ids as they were listed, found by halving: sets are long, and every line is looked up in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ids {
    listed: Vec<String>,
    /// Places in `listed`, in the order of the ids.
    sorted: Vec<u16>,
}

/// Names that a sentence lists before it says "and more".
const NAMED_MAX: usize = 3;

// === impl ItemSet ===

impl ItemSet {
    /// Reads `item_ids`, `category_ids` and `merchant_ids`; at least one id must be listed.
    pub fn read(object: &mut Object, wrong: &mut Complaints) -> ItemSet {
        let set = ItemSet {
            items: Ids::new(object.words("item_ids", ITEM_SET_MAX, ID_MAX, wrong)),
            categories: Ids::new(object.words("category_ids", ITEM_SET_MAX, ID_MAX, wrong)),
            merchants: Ids::new(object.words("merchant_ids", ITEM_SET_MAX, ID_MAX, wrong)),
        };
        set.demand_some(object, "item_ids, category_ids or merchant_ids must list at least one id", wrong);
        set
    }

    /// Reads `required_item_ids` and `required_category_ids`.
    pub fn read_required(object: &mut Object, wrong: &mut Complaints) -> ItemSet {
        let set = ItemSet {
            items: Ids::new(object.words("required_item_ids", ITEM_SET_MAX, ID_MAX, wrong)),
            categories: Ids::new(object.words("required_category_ids", ITEM_SET_MAX, ID_MAX, wrong)),
            merchants: Ids::default(),
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
        self.len() == 0
    }

    /// Ids in all.
    pub fn len(&self) -> usize {
        self.items.listed.len() + self.categories.listed.len() + self.merchants.listed.len()
    }

    pub fn holds(&self, line: &Line) -> bool {
        self.items.holds(&line.item_id)
            || self.merchants.holds(&line.merchant_id)
            || line.category_ids.iter().any(|category| self.categories.holds(category))
    }

    /// What of this set no line of the order has.
    pub fn absent(&self, order: &Order) -> ItemSet {
        let lines = || order.lines.iter();
        ItemSet {
            items: self.items.without(lines().map(|line| &*line.item_id).collect()),
            categories: self
                .categories
                .without(lines().flat_map(|line| line.category_ids.iter().map(String::as_str)).collect()),
            merchants: self.merchants.without(lines().map(|line| &*line.merchant_id).collect()),
        }
    }

    /// "cat-roast-duck", "d-1 or d-2", "d-1, d-2, d-3 and more".
    pub fn names(&self) -> String {
        let lists = [&self.categories, &self.items, &self.merchants];
        let all: Vec<&str> = lists.iter().flat_map(|ids| ids.listed.iter().map(String::as_str)).collect();
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
            .filter(|(_, ids)| !ids.listed.is_empty())
            .map(|(name, ids)| (name, json!(ids.listed)))
            .collect()
    }
}

// === impl Ids ===

impl Ids {
    /// At most [`ITEM_SET_MAX`] ids.
    fn new(listed: Vec<String>) -> Self {
        let mut sorted: Vec<u16> = (0..listed.len() as u16).collect();
        sorted.sort_by(|a, b| listed[usize::from(*a)].cmp(&listed[usize::from(*b)]));
        Ids { listed, sorted }
    }

    fn holds(&self, id: &str) -> bool {
        self.sorted.binary_search_by(|at| self.listed[usize::from(*at)].as_str().cmp(id)).is_ok()
    }

    fn without(&self, known: HashSet<&str>) -> Ids {
        Ids::new(self.listed.iter().filter(|id| !known.contains(id.as_str())).cloned().collect())
    }
}
