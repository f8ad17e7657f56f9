//! `red_packet`: an amount off goods that each coupon says for itself.

use super::{CouponKind, Worth};
use crate::domain::fields::Complaints;
use crate::domain::template::Kind;
use crate::pricing::money::Currency;
use crate::pricing::terms::Creation;

pub struct RedPacket;

impl CouponKind for RedPacket {
    fn kind(&self) -> Kind {
        Kind::RedPacket
    }

    fn priority(&self) -> i32 {
        60
    }

    fn check(&self, _: &Creation, _: &mut Complaints) -> Option<Worth> {
        Some(Worth::OwnAmount)
    }

    fn explain(&self, _: &Worth, _: Currency) -> String {
        "its own amount off".into()
    }
}
