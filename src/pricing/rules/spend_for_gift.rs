//! `SPEND_FOR_GIFT` `{amount}`: a gift once the eligible amount reaches it.

use super::{Asked, Reading, Rule, RuleType, Shape, at_least};
use crate::domain::fields::Complaints;
use crate::pricing::money::{Currency, Minor};
use crate::pricing::reason::{Reason, Refusal};

pub struct SpendForGift;

#[derive(Debug)]
struct AtLeast {
    amount: Minor,
    currency: Currency,
}

impl RuleType for SpendForGift {
    fn name(&self) -> &'static str {
        "SPEND_FOR_GIFT"
    }

    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>> {
        reading.demand_free_item(self.name(), wrong);
        let mut object = reading.object(wrong);
        object.need("amount", wrong);
        let amount = reading.amount(&mut object, "amount", wrong);
        object.finish(wrong);
        Some(Box::new(AtLeast { amount: amount?, currency: reading.currency }))
    }
}

impl Rule for AtLeast {
    fn lay_down(&self, shape: &mut Shape) {
        shape.has_gift_condition = true;
        shape.raise_min(self.amount, Reason::SpendForGift);
    }

    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        if asked.eligible < self.amount {
            let short = self.amount - asked.eligible;
            let place = asked.shape.place(asked.issuer_id);
            return Err(Refusal::short(Reason::SpendForGift, short, &place, self.currency));
        }
        Ok(())
    }

    fn explain(&self, place: &str) -> String {
        at_least(self.amount, place, self.currency)
    }
}
