//! `MINIMUM_SPEND` `{amount, max_amount?}`: the eligible amount is within it.

use super::{Asked, Reading, Rule, RuleType, Shape, at_least};
use crate::domain::fields::Complaints;
use crate::pricing::money::{Currency, Minor};
use crate::pricing::reason::{Reason, Refusal};

pub struct MinimumSpend;

#[derive(Debug)]
struct Within {
    amount: Minor,
    max_amount: Option<Minor>,
    currency: Currency,
}

impl RuleType for MinimumSpend {
    fn name(&self) -> &'static str {
        "MINIMUM_SPEND"
    }

    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>> {
        let mut object = reading.object(wrong);
        object.need("amount", wrong);
        let amount = reading.amount(&mut object, "amount", wrong);
        let max_amount = reading.amount(&mut object, "max_amount", wrong);
        if amount.zip(max_amount).is_some_and(|(amount, max)| max < amount) {
            wrong.add(object.path("max_amount"), "out_of_range", "must not be less than amount");
        }
        object.finish(wrong);
        Some(Box::new(Within { amount: amount?, max_amount, currency: reading.currency }))
    }
}

impl Rule for Within {
    fn lay_down(&self, shape: &mut Shape) {
        shape.raise_min(self.amount, Reason::MinimumSpend);
        shape.max = self.max_amount;
    }

    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        if asked.eligible < self.amount {
            let short = self.amount - asked.eligible;
            let place = asked.shape.place(asked.issuer_id);
            return Err(Refusal::short(Reason::MinimumSpend, short, &place, self.currency));
        }
        match self.max_amount {
            Some(max) if asked.eligible > max && !asked.may_shrink => {
                let detail = format!("only up to {}", self.currency.decimal(max));
                Err(Refusal::new(Reason::MinimumSpend, detail))
            }
            _ => Ok(()),
        }
    }

    fn explain(&self, place: &str) -> String {
        let least = at_least(self.amount, place, self.currency);
        self.max_amount.map_or(least.clone(), |max| format!("{least} and at most {}", self.currency.decimal(max)))
    }
}
