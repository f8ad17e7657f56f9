//! An order and its coupons brought into numbers.
//!
//! Lines are ordered by their id and coupons by [`Key`], whatever order they came in, so that no
//! result can depend on it. A coupon that is unusable on its own ends here, with its reason.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::coupon::{Case, Coupon, State};
use super::kinds::{self, GiftWorth, Pays, Worth};
use super::money::{Minor, RATE_ONE, TOTAL_MAX, part};
use super::order::Line;
use super::reason::{Reason, Refusal};
use super::rules::Asked;
use super::settings::{MerchantLimit, ThresholdBasis};
use super::stacking::Class;
use super::terms::Terms;
use crate::domain::ids::TemplateId;
use crate::domain::template::{Issuer, Kind};
use crate::domain::window::Millis;

/// An order in numbers.
pub(super) struct Cart<'a> {
    pub case: Case<'a>,
    /// By line id.
    pub lines: Vec<&'a Line>,
    pub amounts: Vec<Minor>,
    /// By merchant.
    pub fees: Vec<(&'a str, Minor)>,
    /// What all discounts together may take off.
    pub room: Minor,
    /// By the address of the terms: a template's coupons share them.
    judged: RefCell<HashMap<*const Terms, Result<Rc<Judged>, Refusal>>>,
}

/// What all coupons of a template have in common for an order.
struct Judged {
    /// Eligible lines, and what they come to.
    lines: Vec<u16>,
    eligible: Minor,
    fees: Vec<u16>,
    gifts: Vec<GiftLine>,
}

/// A coupon in numbers.
#[derive(Debug)]
pub(super) struct Ready<'a> {
    /// Its index in the list that was given.
    pub index: usize,
    pub terms: &'a Terms,
    pub gifts: Vec<GiftLine>,
    pub key: Key<'a>,
}

/// Orders coupons for computing: by class, item-scoped first, by kind; then by what they do, so that
/// coupons that do the same are neighbours, the one to use first before the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key<'a> {
    pub class: Class<'a>,
    pub is_unscoped: bool,
    priority: i32,
    pub does: Does,
    pub tie: Tie<'a>,
}

/// What a coupon does. Two coupons of a class that do the same can stand for each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Does {
    pub effect: Effect,
    /// Eligible lines, by index.
    pub lines: Vec<u16>,
    /// Fees that it may pay, by index.
    pub fees: Vec<u16>,
    /// Bounds on what is left of the eligible lines when its turn comes. `(0, MAX)` where thresholds
    /// go by original prices: they were compared already.
    pub within: (Minor, Minor),
    kind: &'static str,
    company: (Option<bool>, bool, u32, Option<u32>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    Goods {
        rate: u32,
        cap: Minor,
    },
    Shipping {
        rate: u32,
        cap: Minor,
    },
    /// `unvalued`: pieces of which nothing is known but that they are free.
    Gift {
        value: Minor,
        unvalued: bool,
    },
}

/// What decides between combinations of equal worth: the lower is used first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tie<'a> {
    expires: Millis,
    kind: u8,
    is_for_all_items: bool,
    is_for_all_channels: bool,
    code: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GiftLine {
    pub item_id: String,
    pub name: String,
    pub quantity: u32,
    pub value: Minor,
}

/// A coupon that falls short of a threshold and of nothing else: what a hint is made of.
pub(super) struct Short {
    pub template: TemplateId,
    pub by: Minor,
    pub save: Minor,
    pub detail: String,
}

// === impl Key ===

impl Key<'_> {
    /// Whether two coupons do the same at the same place, so that nothing but ties tells them apart.
    pub fn is_twin_of(&self, other: &Key) -> bool {
        (self.class, self.is_unscoped, self.priority, &self.does)
            == (other.class, other.is_unscoped, other.priority, &other.does)
    }
}

// === impl Cart ===

impl<'a> Cart<'a> {
    pub fn new(case: Case<'a>) -> Self {
        let order = case.order;
        let mut lines: Vec<&Line> = order.lines.iter().collect();
        lines.sort_by(|a, b| a.line_id.cmp(&b.line_id));
        let mut fees: Vec<(&str, Minor)> =
            order.shipping.iter().map(|fee| (fee.merchant_id.as_str(), fee.fee)).collect();
        fees.sort_unstable();
        let total = order.goods_total() + order.shipping_total();
        let payable_min = if case.settings.allow_zero_total { 0 } else { 1 };
        let ratio = case.settings.max_order_discount_ratio_millionths();
        let room = (total - payable_min).max(0).min(part(total, ratio));
        let amounts = lines.iter().map(|line| line.amount()).collect();
        Cart { case, amounts, lines, fees, room, judged: RefCell::default() }
    }

    /// The coupon in numbers, or why it is unusable on its own.
    pub fn ready(&self, index: usize, coupon: &'a Coupon) -> Result<Ready<'a>, Refusal> {
        let (case, terms) = (&self.case, &*coupon.terms);
        self.check_state(coupon)?;
        let judged = self.judged.borrow_mut().entry(terms).or_insert_with(|| self.judge(terms).map(Rc::new)).clone()?;
        let effect = effect(coupon, &judged.gifts);
        let nothing = match effect {
            Effect::Goods { rate, cap } => Worth::off(rate, cap, judged.eligible) == 0,
            Effect::Shipping { rate, cap } => {
                Worth::off(rate, cap, judged.fees.iter().map(|fee| self.fees[usize::from(*fee)].1).sum()) == 0
            }
            Effect::Gift { .. } => false,
        };
        if nothing {
            return Err(Refusal::new(Reason::NoBenefit, "takes nothing off this order"));
        }
        let within = match case.settings.threshold_basis {
            ThresholdBasis::Original => (0, Minor::MAX),
            ThresholdBasis::Remaining => {
                (terms.shape.min.map_or(0, |(min, _)| min), terms.shape.max.unwrap_or(Minor::MAX))
            }
        };
        let stackability = &terms.shape.stackability;
        let excluded = Kind::WORDS
            .iter()
            .enumerate()
            .filter(|(_, (_, kind))| stackability.excluded.contains(kind))
            .map(|(at, _)| 1 << at)
            .sum();
        let alone_all = stackability.alone_scope == Default::default();
        let key = Key {
            class: self.class(terms),
            is_unscoped: terms.shape.scope.is_none(),
            priority: terms.priority,
            does: Does {
                effect,
                lines: judged.lines.clone(),
                fees: judged.fees.clone(),
                within,
                kind: terms.kind.word(),
                company: (stackability.allow, alone_all, excluded, stackability.max_others),
            },
            tie: Tie {
                expires: coupon.expires,
                kind: kinds::of(terms.kind).map_or(u8::MAX, |kind| kind.tie_rank()),
                is_for_all_items: !terms.shape.is_item_limited,
                is_for_all_channels: !terms.shape.is_channel_limited,
                code: &coupon.code,
            },
        };
        Ok(Ready { index, terms, gifts: judged.gifts.clone(), key })
    }

    /// What is the same for every coupon of these terms, or why none of them is usable.
    fn judge(&self, terms: &Terms) -> Result<Judged, Refusal> {
        let lines = self.eligible(terms);
        let asked = self.asked(terms, &lines);
        check_rules(terms, &asked)?;
        let eligible = asked.eligible;
        let fees = match terms.worth {
            Worth::Off { on: Pays::Shipping, .. } => self.fees_of(&lines),
            _ => Vec::new(),
        };
        let gifts = match &terms.worth {
            Worth::Gift(gift) => self.gifts(terms, gift, &lines)?,
            _ => Vec::new(),
        };
        Ok(Judged { lines, eligible, fees, gifts })
    }

    /// What the coupon would do with its threshold reached, if that is all it lacks.
    pub fn short(&self, coupon: &'a Coupon, refusal: &Refusal) -> Option<Short> {
        let by = refusal.short_by?;
        let terms = &*coupon.terms;
        let (threshold, _) = terms.shape.min?;
        let save = match &terms.worth {
            Worth::Off { on: Pays::Goods, rate, cap } => Worth::off(*rate, *cap, threshold),
            Worth::Off { on: Pays::Shipping, rate, cap } => {
                let fees = self.fees_of(&self.eligible(terms));
                Worth::off(*rate, *cap, fees.iter().map(|fee| self.fees[usize::from(*fee)].1).sum())
            }
            Worth::OwnAmount => terms.currency.minor(coupon.amount?).ok()?.min(threshold),
            Worth::Gift(gift) => gifts_worth(&self.gifts(terms, gift, &self.eligible(terms)).ok()?),
        };
        (save > 0).then(|| Short { template: coupon.template_id, by, save, detail: refusal.detail.clone() })
    }

    fn check_state(&self, coupon: &Coupon) -> Result<(), Refusal> {
        let refused = |reason: Reason, detail: &str| Err(Refusal::new(reason, detail));
        match coupon.state {
            State::Unused => {}
            State::Locked => return refused(Reason::Locked, "is locked for another order"),
            State::Offered => return refused(Reason::Offered, "is offered as a gift"),
            State::Used => return refused(Reason::Used, "is used"),
            State::Expired => return refused(Reason::Expired, "has expired"),
            State::Revoked => return refused(Reason::Revoked, "was revoked"),
        }
        if self.case.now >= coupon.expires {
            return refused(Reason::Expired, "has expired");
        }
        if self.case.now < coupon.valid_from {
            return refused(Reason::NotYetValid, "does not hold yet");
        }
        if coupon.terms.currency != self.case.order.currency {
            let detail = format!("is for orders in {}", coupon.terms.currency.code());
            return Err(Refusal::new(Reason::Currency, detail));
        }
        Ok(())
    }

    /// The lines of the issuer's that count, by index.
    fn eligible(&self, terms: &Terms) -> Vec<u16> {
        let counts = |line: &Line| {
            terms.is_own(line)
                && terms.shape.scope.as_ref().is_none_or(|scope| scope.holds(line))
                && !terms.shape.ignored.iter().any(|ignored| ignored.holds(line))
        };
        (0..self.lines.len() as u16).filter(|&at| counts(self.lines[usize::from(at)])).collect()
    }

    fn asked<'t>(&'t self, terms: &'t Terms, lines: &[u16]) -> Asked<'t> {
        Asked {
            order: self.case.order,
            user: self.case.user,
            zone: terms.timezone,
            shape: &terms.shape,
            issuer_id: &terms.issuer_id,
            terms,
            eligible: lines.iter().map(|at| self.amounts[usize::from(*at)]).sum(),
            has_lines: !lines.is_empty(),
            may_shrink: self.case.settings.threshold_basis == ThresholdBasis::Remaining,
        }
    }

    /// The fees of the merchants that sell these lines.
    fn fees_of(&self, lines: &[u16]) -> Vec<u16> {
        let sells = |merchant: &str| lines.iter().any(|at| self.lines[usize::from(*at)].merchant_id == merchant);
        (0..self.fees.len() as u16).filter(|&at| sells(self.fees[usize::from(at)].0)).collect()
    }

    fn class<'t>(&self, terms: &'t Terms) -> Class<'t> {
        match (terms.kind, terms.issuer) {
            (Kind::RedPacket, _) => Class::RedPacket,
            (Kind::Shipping, _) => Class::Shipping,
            (Kind::FreeItem, _) => Class::Gift,
            (_, Issuer::Merchant) => match self.case.settings.stacking.merchant {
                MerchantLimit::PerMerchant => Class::Merchant(&terms.issuer_id),
                MerchantLimit::PerOrder => Class::Merchant(""),
            },
            (_, Issuer::Streamer) => Class::Streamer,
            (_, Issuer::Platform) if terms.special => Class::Special,
            (_, Issuer::Platform) => Class::Platform,
        }
    }

    /// What a gift coupon adds, given what is bought of what it asks for.
    fn gifts(&self, terms: &Terms, gift: &GiftWorth, lines: &[u16]) -> Result<Vec<GiftLine>, Refusal> {
        let asked_for = &terms.shape.gift_items;
        let counts = |line: &Line| asked_for.is_empty() || asked_for.iter().any(|set| set.holds(line));
        let bought: Vec<&Line> =
            lines.iter().map(|at| self.lines[usize::from(*at)]).filter(|line| counts(line)).collect();
        let rounds = |pieces: u64| pieces / u64::from(gift.buy_quantity) * u64::from(gift.quantity);
        let pieces: u64 = bought.iter().map(|line| u64::from(line.quantity)).sum();
        let mut gifts = Vec::new();
        if let Some((item_id, name)) = &gift.item {
            let quantity = rounds(pieces).min(gift.max_gifts.into()) as u32;
            let value = gift.value.unwrap_or(0);
            gifts.push(GiftLine { item_id: item_id.clone(), name: name.clone(), quantity, value });
        } else {
            // By item, at its lowest price; the cheapest are given first.
            let mut items: std::collections::BTreeMap<&str, (Minor, u64)> = Default::default();
            for line in &bought {
                let item = items.entry(&line.item_id).or_insert((line.unit_price, 0));
                *item = (item.0.min(line.unit_price), item.1 + u64::from(line.quantity));
            }
            let mut by_price: Vec<(Minor, &str, u64)> =
                items.into_iter().map(|(id, (price, pieces))| (price, id, pieces)).collect();
            by_price.sort_unstable();
            let mut left = u64::from(gift.max_gifts);
            for (price, id, pieces) in by_price {
                let quantity = rounds(pieces).min(left);
                left -= quantity;
                let value = gift.value.unwrap_or(price);
                gifts.push(GiftLine { item_id: id.into(), name: id.into(), quantity: quantity as u32, value });
            }
        }
        gifts.retain(|line| line.quantity > 0);
        if gifts.is_empty() {
            let more = u64::from(gift.buy_quantity).saturating_sub(pieces);
            let refusal = Refusal::new(Reason::GiftCondition, format!("buy {} of what it asks for", gift.buy_quantity));
            return Err(if more > 0 { refusal.missing("quantity", more.into()) } else { refusal });
        }
        if gift.value == Some(0) {
            return Err(Refusal::new(Reason::NoBenefit, "its gift is worth nothing"));
        }
        Ok(gifts)
    }
}

fn effect(coupon: &Coupon, gifts: &[GiftLine]) -> Effect {
    let terms = &*coupon.terms;
    match terms.worth {
        Worth::Off { on: Pays::Goods, rate, cap } => Effect::Goods { rate, cap },
        Worth::Off { on: Pays::Shipping, rate, cap } => Effect::Shipping { rate, cap },
        Worth::OwnAmount => {
            let amount = coupon.amount.and_then(|amount| terms.currency.minor(amount).ok());
            Effect::Goods { rate: RATE_ONE, cap: amount.unwrap_or(0) }
        }
        Worth::Gift(_) => {
            let value = gifts_worth(gifts);
            Effect::Gift { value, unvalued: value == 0 }
        }
    }
}

/// What the gifts of one coupon count for: no more than an order may come to, so that the gifts of
/// all coupons together cannot leave the range of amounts.
fn gifts_worth(gifts: &[GiftLine]) -> Minor {
    let worth = |line: &GiftLine| line.value.saturating_mul(line.quantity.into());
    gifts.iter().map(worth).fold(0, Minor::saturating_add).min(TOTAL_MAX)
}

/// The first rule that does not hold; of thresholds that are not reached, the highest. It makes a hint
/// only if nothing but thresholds stands in the way.
fn check_rules(terms: &Terms, asked: &Asked) -> Result<(), Refusal> {
    let mut failed = terms.rules.iter().filter_map(|rule| rule.check(asked).err());
    let Some(mut first) = failed.next() else { return Ok(()) };
    if first.short_by.is_none() {
        return Err(first);
    }
    let mut is_more_missing = false;
    for other in failed {
        is_more_missing |= other.short_by.is_none();
        if other.short_by > first.short_by {
            first = other;
        }
    }
    if is_more_missing {
        first.short_by = None;
    }
    Err(first)
}
