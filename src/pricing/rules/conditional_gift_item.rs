//! `CONDITIONAL_GIFT_ITEM`: a gift for whoever buys one of the required items.

use super::{Asked, Reading, Rule, RuleType, Shape};
use crate::domain::fields::Complaints;
use crate::pricing::items::ItemSet;
use crate::pricing::reason::{Reason, Refusal};

pub struct ConditionalGiftItem;

#[derive(Debug)]
struct Required(ItemSet);

impl RuleType for ConditionalGiftItem {
    fn name(&self) -> &'static str {
        "CONDITIONAL_GIFT_ITEM"
    }

    fn repeatable(&self) -> bool {
        true
    }

    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>> {
        reading.demand_free_item(self.name(), wrong);
        let mut object = reading.object(wrong);
        let set = ItemSet::read_required(&mut object, wrong);
        object.finish(wrong);
        Some(Box::new(Required(set)))
    }
}

impl Rule for Required {
    fn lay_down(&self, shape: &mut Shape) {
        shape.has_gift_condition = true;
        shape.is_item_limited = true;
        shape.gift_items.push(self.0.clone());
    }

    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        if asked.order.lines.iter().any(|line| self.0.holds(line)) {
            return Ok(());
        }
        let refusal = Refusal::new(Reason::GiftCondition, format!("add one of {}", self.0.names()));
        Err(self.0.to_members().into_iter().fold(refusal, |refusal, (name, ids)| refusal.missing(name, ids)))
    }

    fn explain(&self, _: &str) -> String {
        format!("buy {}", self.0.names())
    }
}
