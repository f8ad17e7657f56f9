//! `full_reduction`: an amount off goods that come to a threshold.

use rust_decimal::Decimal;

use super::{CouponKind, Pays, Worth, amount, explain_off};
use crate::domain::fields::Complaints;
use crate::domain::template::Kind;
use crate::pricing::money::{Currency, RATE_ONE};
use crate::pricing::terms::Creation;

pub struct FullReduction;

impl CouponKind for FullReduction {
    fn kind(&self) -> Kind {
        Kind::FullReduction
    }

    fn priority(&self) -> i32 {
        10
    }

    fn tie_rank(&self) -> u8 {
        0
    }

    /// The threshold must exceed the amount, and the amount must not exceed `max_discount_ratio` of it.
    fn check(&self, creation: &Creation, wrong: &mut Complaints) -> Option<Worth> {
        let cap = amount(creation, "amount", wrong);
        let Some(threshold) = creation.shape.minimum_spend() else {
            wrong.add("usage_rules", "threshold_required", "a full_reduction needs a MINIMUM_SPEND");
            return None;
        };
        let cap = cap?;
        let ratio = creation.definition.max_discount_ratio;
        if threshold <= cap {
            wrong.add("value.amount", "not_below_threshold", "must be less than the threshold of MINIMUM_SPEND");
        } else if Decimal::from(cap) > ratio * Decimal::from(threshold) {
            let detail = format!("must be at most {ratio} of the threshold (max_discount_ratio)");
            wrong.add("value.amount", "above_max_discount_ratio", detail);
        }
        Some(Worth::Off { on: Pays::Goods, rate: RATE_ONE, cap })
    }

    fn explain(&self, worth: &Worth, currency: Currency) -> String {
        explain_off(worth, currency)
    }
}
