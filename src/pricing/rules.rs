//! The rules of use: two traits, a file for each rule type, and their registry.
//!
//! A [`RuleType`] reads and checks parameters when a template is made; the [`Rule`] that it makes
//! is asked at every use. What a rule says about lines, amounts and company it lays down in the
//! [`Shape`], which the arithmetic reads; everything else it decides itself.

mod channels;
mod conditional_gift_item;
mod excluded_items;
mod item_discount_scope;
mod item_eligibility;
mod minimum_spend;
mod spend_for_gift;
mod stackability;
mod user_segments;
mod valid_days_of_week;
mod valid_time_slots;

use std::fmt;

use chrono_tz::Tz;
use serde_json::Value;

use super::coupon::User;
use super::items::ItemSet;
use super::money::{Currency, Minor};
use super::order::Order;
use super::reason::{Reason, Refusal};
use super::terms::Terms;
use crate::domain::fields::{Complaints, Object};
use crate::domain::template::Kind;

pub use stackability::{AloneScope, Stackability};
pub use valid_time_slots::Slot;

/// One type of rule: what its parameters must be.
pub trait RuleType: Sync {
    /// As `MINIMUM_SPEND`.
    fn name(&self) -> &'static str;

    /// Whether a template may have several. Where two of them could contradict each other, it may not.
    fn repeatable(&self) -> bool {
        false
    }

    /// The rule, or complaints about its parameters.
    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>>;
}

/// A rule of one template.
pub trait Rule: fmt::Debug + Send + Sync {
    /// What the arithmetic must know of it.
    fn lay_down(&self, _shape: &mut Shape) {}

    /// Whether it holds for an order; else the reason, with what is missing.
    fn check(&self, asked: &Asked) -> Result<(), Refusal>;

    /// What it demands, as a shopper would say it: "spend at least 100.00 in cat-roast-duck". `place` is
    /// where the coupon's thresholds count ([`Shape::place`]). Empty where it demands nothing.
    fn explain(&self, place: &str) -> String;
}

/// A rule's parameters, and where they stand.
pub struct Reading<'a> {
    pub params: &'a Value,
    /// As `usage_rules[0].params`.
    pub path: String,
    pub currency: Currency,
    pub kind: Kind,
}

/// What a rule is asked about.
pub struct Asked<'a> {
    pub order: &'a Order,
    pub user: &'a User,
    pub zone: Tz,
    pub shape: &'a Shape,
    /// The merchant or streamer; empty for the platform.
    pub issuer_id: &'a str,
    /// The coupon's.
    pub terms: &'a Terms,
    /// What the coupon's eligible lines come to, before any coupon.
    pub eligible: Minor,
    /// Whether any line is eligible.
    pub has_lines: bool,
    /// Whether coupons before this one may bring the amount below an upper limit.
    pub may_shrink: bool,
}

/// What the rules of a template say about lines, amounts and company.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    /// Discounts fall on these only.
    pub scope: Option<ItemSet>,
    /// These neither count nor get a discount.
    pub ignored: Vec<ItemSet>,
    /// The highest threshold, and the reason that it refuses with.
    pub min: Option<(Minor, Reason)>,
    pub max: Option<Minor>,
    pub stackability: Stackability,
    pub has_gift_condition: bool,
    /// What must be bought for a gift.
    pub gift_items: Vec<ItemSet>,
    pub slots: Vec<Slot>,
    /// Whether it is limited to items, or to a channel: ties prefer such coupons.
    pub is_item_limited: bool,
    pub is_channel_limited: bool,
}

/// Every rule type, in the order in which rules of equal priority are asked: what can never hold
/// comes before what a fuller cart would help. A new one adds its file above and its line here.
const REGISTRY: &[&dyn RuleType] = &[
    &channels::Channels,
    &user_segments::UserSegments,
    &valid_days_of_week::ValidDaysOfWeek,
    &valid_time_slots::ValidTimeSlots,
    &excluded_items::ExcludedItems,
    &item_eligibility::ItemEligibility,
    &item_discount_scope::ItemDiscountScope,
    &conditional_gift_item::ConditionalGiftItem,
    &minimum_spend::MinimumSpend,
    &spend_for_gift::SpendForGift,
    &stackability::StackabilityType,
];

/// A rule type and its place in the registry.
pub fn of(name: &str) -> Option<(usize, &'static dyn RuleType)> {
    REGISTRY.iter().position(|entry| entry.name() == name).map(|at| (at, REGISTRY[at]))
}

/// The names of all rule types, for a complaint about one that is none.
pub fn names() -> String {
    REGISTRY.iter().map(|entry| entry.name()).collect::<Vec<_>>().join(", ")
}

// === impl Reading ===

impl<'a> Reading<'a> {
    fn object(&self, wrong: &mut Complaints) -> Object<'a> {
        Object::at(&self.path, self.params, wrong)
    }

    /// The parameters of a rule that takes a list.
    fn list(&self, most: usize, wrong: &mut Complaints) -> &'a [Value] {
        match self.params.as_array() {
            Some(items) if (1..=most).contains(&items.len()) => items,
            Some(_) => {
                wrong.add(&*self.path, "length", format!("must hold 1 to {most} elements"));
                &[]
            }
            None => {
                wrong.add(&*self.path, "type", "must be a list");
                &[]
            }
        }
    }

    /// An amount above zero, in the template's currency.
    fn amount(&self, object: &mut Object, name: &'static str, wrong: &mut Complaints) -> Option<Minor> {
        let amount = object.decimal(name, wrong)?;
        let minor = self.currency.minor(amount).map_err(|error| error.complaint(self.currency));
        match minor {
            Ok(0) => wrong.add(object.path(name), "out_of_range", "must be greater than 0"),
            Ok(minor) => return Some(minor),
            Err((code, detail)) => wrong.add(object.path(name), code, detail),
        }
        None
    }

    /// Refuses a rule about gifts on a coupon that gives none.
    fn demand_free_item(&self, name: &str, wrong: &mut Complaints) {
        if self.kind != Kind::FreeItem {
            let at = self.path.trim_end_matches(".params");
            wrong.add(format!("{at}.rule_type"), "wrong_kind", format!("{name} goes with kind free_item only"));
        }
    }
}

/// "spend at least 100.00 in cat-roast-duck"
fn at_least(amount: Minor, place: &str, currency: Currency) -> String {
    let place = if place.is_empty() { String::new() } else { format!(" in {place}") };
    format!("spend at least {}{place}", currency.decimal(amount))
}

// === impl Shape ===

impl Shape {
    /// The threshold of MINIMUM_SPEND.
    pub fn minimum_spend(&self) -> Option<Minor> {
        self.min.filter(|(_, reason)| *reason == Reason::MinimumSpend).map(|(amount, _)| amount)
    }

    /// A threshold: the highest is the one that counts.
    fn raise_min(&mut self, amount: Minor, reason: Reason) {
        if self.min.is_none_or(|(known, _)| amount > known) {
            self.min = Some((amount, reason));
        }
    }

    /// Where a threshold counts, as a sentence names it: the scope, the issuer, the scope of the issuer;
    /// empty for everywhere.
    pub fn place(&self, issuer_id: &str) -> String {
        match &self.scope {
            None => issuer_id.to_owned(),
            Some(scope) if issuer_id.is_empty() => scope.names(),
            Some(scope) => format!("{} of {issuer_id}", scope.names()),
        }
    }
}
