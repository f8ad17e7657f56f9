//! A coupon as pricing sees it, and the moment and the user that it is judged for.

use std::sync::Arc;

use rust_decimal::Decimal;

use super::order::Order;
use super::settings::Settings;
use super::terms::Terms;
use crate::domain::audience::Facts;
use crate::domain::ids::TemplateId;
use crate::domain::window::Millis;

/// One coupon that an order may be priced with.
#[derive(Clone, Debug)]
pub struct Coupon {
    /// Its public name. Unique within one call; ties are decided by it at last.
    pub code: String,
    pub template_id: TemplateId,
    /// What its template promises: made once for each template, shared by its coupons.
    pub terms: Arc<Terms>,
    pub state: State,
    /// It holds while `valid_from <= now < expires`.
    pub valid_from: Millis,
    pub expires: Millis,
    /// A red packet's share. Other kinds have none.
    pub amount: Option<Decimal>,
}

/// Only `Unused` coupons are priced; the others are refused by their state's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Unused,
    Locked,
    Offered,
    Used,
    Expired,
    Revoked,
}

/// What is known of the user when the order is placed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct User {
    pub facts: Facts,
}

/// Everything but the coupons that a price depends on.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    pub order: &'a Order,
    pub user: &'a User,
    /// The moment at which coupons must hold. Slots and weekdays go by `order.placed_at`.
    pub now: Millis,
    pub settings: &'a Settings,
}
