//! `ITEM_DISCOUNT_SCOPE`: the discount falls on these items only, and thresholds count them only.

use super::{Asked, Reading, Rule, RuleType, Shape};
use crate::domain::fields::Complaints;
use crate::pricing::items::ItemSet;
use crate::pricing::reason::{Reason, Refusal};

pub struct ItemDiscountScope;

#[derive(Debug)]
struct Scope(ItemSet);

impl RuleType for ItemDiscountScope {
    fn name(&self) -> &'static str {
        "ITEM_DISCOUNT_SCOPE"
    }

    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>> {
        let mut object = reading.object(wrong);
        let set = ItemSet::read(&mut object, wrong);
        object.finish(wrong);
        Some(Box::new(Scope(set)))
    }
}

impl Rule for Scope {
    fn lay_down(&self, shape: &mut Shape) {
        shape.scope = Some(self.0.clone());
        shape.is_item_limited = true;
    }

    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        if asked.has_lines {
            return Ok(());
        }
        let refusal =
            Refusal::new(Reason::ScopeEmpty, format!("add something of {}", asked.shape.place(asked.issuer_id)));
        Err(self.0.to_members().into_iter().fold(refusal, |refusal, (name, ids)| refusal.missing(name, ids)))
    }

    fn explain(&self, _: &str) -> String {
        format!("only on {}", self.0.names())
    }
}
