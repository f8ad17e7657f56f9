//! `shipping`: an amount off shipping fees, never more than the fees, never off goods.
//!
//! It pays the fees of the merchants whose lines are eligible: a merchant's coupon that merchant's,
//! the platform's all, and within an ITEM_DISCOUNT_SCOPE those that sell from it.

use super::{CouponKind, Pays, Worth, amount};
use crate::domain::fields::Complaints;
use crate::domain::template::Kind;
use crate::pricing::money::{Currency, RATE_ONE};
use crate::pricing::terms::Creation;

pub struct Shipping;

impl CouponKind for Shipping {
    fn kind(&self) -> Kind {
        Kind::Shipping
    }

    fn priority(&self) -> i32 {
        50
    }

    fn check(&self, creation: &Creation, wrong: &mut Complaints) -> Option<Worth> {
        Some(Worth::Off { on: Pays::Shipping, rate: RATE_ONE, cap: amount(creation, "amount", wrong)? })
    }

    fn explain(&self, worth: &Worth, currency: Currency) -> String {
        match worth {
            Worth::Off { cap, .. } => format!("{} off shipping", currency.decimal(*cap)),
            _ => String::new(),
        }
    }
}
