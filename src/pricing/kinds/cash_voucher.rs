//! `cash_voucher`: an amount off goods. No change is given: what the goods do not reach is lost.

use super::{CouponKind, Pays, Worth, amount, explain_off};
use crate::domain::fields::Complaints;
use crate::domain::template::Kind;
use crate::pricing::money::{Currency, RATE_ONE};
use crate::pricing::terms::Creation;

pub struct CashVoucher;

impl CouponKind for CashVoucher {
    fn kind(&self) -> Kind {
        Kind::CashVoucher
    }

    fn priority(&self) -> i32 {
        30
    }

    fn tie_rank(&self) -> u8 {
        2
    }

    fn check(&self, creation: &Creation, wrong: &mut Complaints) -> Option<Worth> {
        Some(Worth::Off { on: Pays::Goods, rate: RATE_ONE, cap: amount(creation, "amount", wrong)? })
    }

    fn explain(&self, worth: &Worth, currency: Currency) -> String {
        explain_off(worth, currency)
    }
}
