//! The kinds of coupons: a trait, a file for each, and their registry.
//!
//! A kind says what a template's value must look like and what the coupon is then worth. The
//! arithmetic is in [`Worth`], so that the search's bounds hold for every kind, new ones too:
//! what a coupon takes off grows with the amount that it falls on, and never faster than it.

mod cash_voucher;
mod free_item;
mod full_reduction;
mod percentage_discount;
mod red_packet;
mod shipping;

use rust_decimal::Decimal;

use super::money::{Currency, Minor, part};
use super::terms::Creation;
use crate::domain::fields::{Complaints, Object};
use crate::domain::template::Kind;

/// One kind of coupon.
pub trait CouponKind: Sync {
    fn kind(&self) -> Kind;

    /// Place in the order of computing within a class: lower goes first.
    fn priority(&self) -> i32;

    /// Place among equals when ties are decided: lower is used first.
    fn tie_rank(&self) -> u8 {
        3
    }

    /// What the coupon is worth, or complaints about the template that says so.
    fn check(&self, creation: &Creation, wrong: &mut Complaints) -> Option<Worth>;

    /// As a shopper would say it: "20.00 off".
    fn explain(&self, worth: &Worth, currency: Currency) -> String;
}

/// What a coupon does to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Worth {
    /// Takes off `rate` millionths of what it falls on, at most `cap`.
    Off {
        on: Pays,
        rate: u32,
        cap: Minor,
    },
    /// Takes off goods what the coupon itself says, each its own amount.
    OwnAmount,
    Gift(GiftWorth),
}

/// What a discount falls on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pays {
    Goods,
    Shipping,
}

/// What a gift coupon adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GiftWorth {
    /// The item; `None` where the gift is the same as what is bought.
    pub item: Option<(String, String)>,
    /// Of one piece. `None`: nothing is said of it; the same as bought is worth its price then.
    pub value: Option<Minor>,
    /// Pieces for every `buy_quantity` bought.
    pub quantity: u32,
    pub buy_quantity: u32,
    /// Pieces in all.
    pub max_gifts: u32,
}

/// Every kind. A new one adds its file above and its line here.
const REGISTRY: &[&dyn CouponKind] = &[
    &full_reduction::FullReduction,
    &percentage_discount::PercentageDiscount,
    &cash_voucher::CashVoucher,
    &free_item::FreeItem,
    &shipping::Shipping,
    &red_packet::RedPacket,
];

pub fn of(kind: Kind) -> Option<&'static dyn CouponKind> {
    REGISTRY.iter().find(|entry| entry.kind() == kind).copied()
}

// === impl Worth ===

impl Worth {
    /// What `rate` and `cap` take off an amount.
    pub fn off(rate: u32, cap: Minor, amount: Minor) -> Minor {
        part(amount, rate).min(cap)
    }
}

/// An amount of the value, in minor units and above zero.
fn amount(creation: &Creation, name: &'static str, wrong: &mut Complaints) -> Option<Minor> {
    let mut object = Object::at("value", &creation.definition.value, wrong);
    object.need(name, wrong);
    let amount = object.decimal(name, wrong)?;
    let minor = in_currency(creation, &format!("value.{name}"), amount, wrong)?;
    if minor == 0 {
        wrong.add(format!("value.{name}"), "out_of_range", "must be greater than 0");
        return None;
    }
    Some(minor)
}

fn in_currency(creation: &Creation, field: &str, amount: Decimal, wrong: &mut Complaints) -> Option<Minor> {
    creation
        .currency
        .minor(amount)
        .map_err(|error| {
            let (code, detail) = error.complaint(creation.currency);
            wrong.add(field, code, detail);
        })
        .ok()
}

fn explain_off(worth: &Worth, currency: Currency) -> String {
    match worth {
        Worth::Off { cap, .. } => format!("{} off", currency.decimal(*cap)),
        _ => String::new(),
    }
}
