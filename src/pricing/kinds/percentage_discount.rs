//! `percentage_discount`: a part of the eligible amount, rounded down, at most `max_off`.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::{CouponKind, Pays, Worth, amount};
use crate::domain::fields::{Complaints, Object};
use crate::domain::template::Kind;
use crate::pricing::money::Currency;
use crate::pricing::terms::Creation;

pub struct PercentageDiscount;

const PERCENTAGE_MIN: u32 = 1;
const PERCENTAGE_MAX: u32 = 90;
/// Millionths in a hundredth.
const MILLIONTHS: u32 = 10_000;

impl CouponKind for PercentageDiscount {
    fn kind(&self) -> Kind {
        Kind::PercentageDiscount
    }

    fn priority(&self) -> i32 {
        20
    }

    fn tie_rank(&self) -> u8 {
        1
    }

    fn check(&self, creation: &Creation, wrong: &mut Complaints) -> Option<Worth> {
        let cap = amount(creation, "max_off", wrong);
        let mut object = Object::at("value", &creation.definition.value, wrong);
        object.need("percentage", wrong);
        let percentage = object.decimal("percentage", wrong)?;
        let ratio = creation.definition.max_discount_ratio;
        if percentage < PERCENTAGE_MIN.into() || percentage > PERCENTAGE_MAX.into() {
            let detail = format!("must be {PERCENTAGE_MIN} to {PERCENTAGE_MAX}");
            wrong.add("value.percentage", "out_of_range", detail);
        } else if percentage > ratio * Decimal::ONE_HUNDRED {
            let detail = format!("must be at most 100 x {ratio} (max_discount_ratio)");
            wrong.add("value.percentage", "above_max_discount_ratio", detail);
        }
        if creation.settings.require_threshold && creation.shape.minimum_spend().is_none() {
            wrong.add("usage_rules", "threshold_required", "a percentage_discount needs a MINIMUM_SPEND here");
        }
        let rate = (percentage * Decimal::from(MILLIONTHS)).to_u32()?;
        Some(Worth::Off { on: Pays::Goods, rate, cap: cap? })
    }

    fn explain(&self, worth: &Worth, currency: Currency) -> String {
        match worth {
            Worth::Off { rate, cap, .. } => {
                let percentage = (Decimal::from(*rate) / Decimal::from(MILLIONTHS)).normalize();
                format!("{percentage} % off, at most {}", currency.decimal(*cap))
            }
            _ => String::new(),
        }
    }
}
