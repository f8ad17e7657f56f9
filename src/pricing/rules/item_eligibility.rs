//! `ITEM_ELIGIBILITY`: the order has one of the items (`ANY`), every one (`ALL`), or nothing but them
//! (`ONLY`). It does not narrow the discount: `ITEM_DISCOUNT_SCOPE` does.

use super::{Asked, Reading, Rule, RuleType, Shape};
use crate::domain::fields::Complaints;
use crate::pricing::items::ItemSet;
use crate::pricing::reason::{Reason, Refusal};

pub struct ItemEligibility;

#[derive(Clone, Copy, Debug)]
enum Logic {
    Any,
    All,
    Only,
}

#[derive(Debug)]
struct Has {
    set: ItemSet,
    logic: Logic,
}

impl RuleType for ItemEligibility {
    fn name(&self) -> &'static str {
        "ITEM_ELIGIBILITY"
    }

    fn repeatable(&self) -> bool {
        true
    }

    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>> {
        let mut object = reading.object(wrong);
        let set = ItemSet::read(&mut object, wrong);
        let words = [("ANY", Logic::Any), ("ALL", Logic::All), ("ONLY", Logic::Only)];
        let logic = object.word("logic", &words, wrong).unwrap_or(Logic::Any);
        object.finish(wrong);
        Some(Box::new(Has { set, logic }))
    }
}

impl Rule for Has {
    fn lay_down(&self, shape: &mut Shape) {
        shape.is_item_limited = true;
    }

    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        let lines = &asked.order.lines;
        let absent = match self.logic {
            Logic::All => self.set.absent(asked.order),
            _ => ItemSet::default(),
        };
        let holds = match self.logic {
            Logic::Any => lines.iter().any(|line| self.set.holds(line)),
            Logic::All => absent.is_empty(),
            Logic::Only => lines.iter().all(|line| self.set.holds(line)),
        };
        if holds {
            return Ok(());
        }
        let (detail, missing) = match self.logic {
            Logic::Any => (format!("add one of {}", self.set.names()), &self.set),
            Logic::All => (format!("add {}", absent.names().replace(" or ", " and ")), &absent),
            Logic::Only => (format!("only for orders of nothing but {}", self.set.names()), &absent),
        };
        let refusal = Refusal::new(Reason::ItemEligibility, detail);
        Err(missing.to_members().into_iter().fold(refusal, |refusal, (name, ids)| refusal.missing(name, ids)))
    }

    fn explain(&self, _: &str) -> String {
        let names = self.set.names();
        match self.logic {
            Logic::Any => format!("for orders with {names}"),
            Logic::All => format!("for orders with {}", names.replace(" or ", " and ")),
            Logic::Only => format!("only for orders of nothing but {names}"),
        }
    }
}
