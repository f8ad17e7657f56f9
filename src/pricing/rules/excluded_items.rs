//! `EXCLUDED_ITEMS`: the order has none of them (`reject`), or they do not count (`ignore`).

use super::{Asked, Reading, Rule, RuleType, Shape};
use crate::domain::fields::Complaints;
use crate::pricing::items::ItemSet;
use crate::pricing::order::Line;
use crate::pricing::reason::{Reason, Refusal};

pub struct ExcludedItems;

#[derive(Debug)]
struct Excluded {
    set: ItemSet,
    /// Such lines stay out of the coupon's reach; else they refuse it.
    ignore: bool,
}

impl RuleType for ExcludedItems {
    fn name(&self) -> &'static str {
        "EXCLUDED_ITEMS"
    }

    fn repeatable(&self) -> bool {
        true
    }

    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>> {
        let mut object = reading.object(wrong);
        let set = ItemSet::read(&mut object, wrong);
        let ignore = object.word("logic", &[("reject", false), ("ignore", true)], wrong).unwrap_or(false);
        object.finish(wrong);
        Some(Box::new(Excluded { set, ignore }))
    }
}

impl Rule for Excluded {
    fn lay_down(&self, shape: &mut Shape) {
        if self.ignore {
            shape.ignored.push(self.set.clone());
        }
    }

    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        // Ignored lines refuse the coupon only where they are all that it could have fallen on.
        let stands_in_the_way = !self.ignore || (!asked.has_lines && asked.shape.scope.is_none());
        let counts = |line: &Line| (!self.ignore || asked.terms.is_own(line)) && self.set.holds(line);
        if stands_in_the_way && asked.order.lines.iter().any(counts) {
            return Err(Refusal::new(Reason::ExcludedItems, format!("not for orders with {}", self.set.names())));
        }
        Ok(())
    }

    fn explain(&self, _: &str) -> String {
        let names = self.set.names();
        if self.ignore {
            format!("nothing off {names}, which does not count")
        } else {
            format!("not for orders with {names}")
        }
    }
}
