use super::coupon::{Case, Coupon};
use super::quote::{Quote, Ranking};
pub fn best(_case: &Case, _coupons: &[Coupon], _nodes_max: u64) -> Quote {
    unimplemented!()
}
pub fn rank(_case: &Case, _coupons: &[Coupon]) -> Ranking {
    unimplemented!()
}
