//! A price computed once more, the slow and obvious way, and `price()` compared with it.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::carts::{self, Dice, Size};
use super::*;
use crate::domain::template::{Issuer, Kind};
use crate::pricing::kinds::{Pays, Worth};
use crate::pricing::order::Line;
use crate::pricing::rules::AloneScope;
use crate::pricing::settings::{MerchantLimit, StackingMode, ThresholdBasis};

/// What each coupon takes off, and where, in minor units, sorted. By kind and not by code: of coupons
/// that do the same either may go first.
type Shares = Vec<(&'static str, Decimal, BTreeMap<String, Decimal>)>;

fn class<'c>(coupon: &'c Coupon, settings: &Settings) -> (u8, &'c str) {
    let terms = &coupon.terms;
    match (terms.kind, terms.issuer) {
        (Kind::RedPacket, _) => (6, ""),
        (Kind::Shipping, _) => (5, ""),
        (Kind::FreeItem, _) => (4, ""),
        (_, Issuer::Merchant) if settings.stacking.merchant == MerchantLimit::PerOrder => (0, ""),
        (_, Issuer::Merchant) => (0, &terms.issuer_id),
        (_, Issuer::Streamer) => (1, ""),
        (_, Issuer::Platform) => (if terms.special { 3 } else { 2 }, ""),
    }
}

/// Whether `a` bears `b` beside it.
fn bears(a: &Coupon, b: &Coupon, settings: &Settings) -> bool {
    let (mine, theirs) = (&a.terms.shape.stackability, &b.terms.shape.stackability);
    let both_stack = mine.allow == Some(true) && theirs.allow == Some(true);
    let joins = mine.allow != Some(false) || (mine.alone_scope == AloneScope::Goods && b.terms.kind == Kind::Shipping);
    settings.stacking.mode != StackingMode::OnePerOrder
        && (class(a, settings) != class(b, settings) || both_stack)
        && joins
        && !mine.excluded.contains(&b.terms.kind)
}

/// The lines that a coupon counts, by place.
fn own(coupon: &Coupon, lines: &[&Line]) -> Vec<usize> {
    let (terms, shape) = (&coupon.terms, &coupon.terms.shape);
    let counts = |line: &Line| {
        (match terms.issuer {
            Issuer::Platform => true,
            Issuer::Merchant => line.merchant_id == terms.issuer_id,
            Issuer::Streamer => line.streamer_id.as_ref() == Some(&terms.issuer_id),
        }) && shape.scope.as_ref().is_none_or(|scope| scope.holds(line))
            && !shape.ignored.iter().any(|set| set.holds(line))
    };
    (0..lines.len()).filter(|at| counts(lines[*at])).collect()
}

/// In proportion, rounded down; then one more unit each by the largest remainder.
fn share(off: Decimal, places: &[usize], left: &mut [Decimal]) -> Vec<(usize, Decimal)> {
    let total: Decimal = places.iter().map(|at| left[*at]).sum();
    let exact = |at: usize, left: &[Decimal]| off * left[at];
    let mut shares: Vec<(usize, Decimal)> =
        places.iter().map(|at| (*at, ((exact(*at, left) - exact(*at, left) % total) / total).round())).collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(exact(places[*at], left) % total), *at));
    let mut owed = off - shares.iter().map(|(_, share)| share).sum::<Decimal>();
    for at in order {
        if owed > Decimal::ZERO {
            shares[at].1 += Decimal::ONE;
            owed -= Decimal::ONE;
        }
    }
    shares.iter().for_each(|(at, share)| left[*at] -= share);
    shares.retain(|(_, share)| !share.is_zero());
    shares
}

/// `None`: these coupons cannot be used together.
fn reference(case: &Case, coupons: &[Coupon]) -> Option<Shares> {
    let (settings, minor) = (case.settings, |amount: i64| Decimal::from(amount));
    let mut lines: Vec<&Line> = case.order.lines.iter().collect();
    lines.sort_by(|a, b| a.line_id.cmp(&b.line_id));
    let mut merchants: Vec<_> = case.order.shipping.iter().collect();
    merchants.sort_by(|a, b| a.merchant_id.cmp(&b.merchant_id));
    let amounts: Vec<Decimal> =
        lines.iter().map(|line| minor(line.unit_price) * Decimal::from(line.quantity)).collect();
    let mut left = amounts.clone();
    let mut fees: Vec<Decimal> = merchants.iter().map(|fee| minor(fee.fee)).collect();
    let total: Decimal = left.iter().chain(&fees).sum();
    let payable = if settings.allow_zero_total { Decimal::ZERO } else { Decimal::ONE };
    let mut room = (total - payable).min((total * settings.max_order_discount_ratio).floor()).max(Decimal::ZERO);
    for (at, coupon) in coupons.iter().enumerate() {
        let others = || coupons.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, other)| other);
        let is_crowded =
            coupon.terms.shape.stackability.max_others.is_some_and(|most| others().count() > most as usize);
        if is_crowded || others().any(|other| !bears(coupon, other, settings) || !bears(other, coupon, settings)) {
            return None;
        }
    }
    let worth = |coupon: &Coupon| match &coupon.terms.worth {
        Worth::Off { rate, cap, .. } => (Decimal::new((*rate).into(), 6), minor(*cap)),
        Worth::OwnAmount => (Decimal::ONE, minor(coupon.terms.currency.minor(coupon.amount.unwrap()).unwrap())),
        Worth::Gift(_) => (Decimal::ZERO, Decimal::ZERO),
    };
    let mut set: Vec<(&Coupon, Vec<usize>)> = coupons.iter().map(|coupon| (coupon, own(coupon, &lines))).collect();
    set.sort_by_key(|(coupon, own)| {
        let shape = &coupon.terms.shape;
        let kind = match coupon.terms.kind {
            Kind::FullReduction => 0,
            Kind::PercentageDiscount => 1,
            _ => 2,
        };
        let within = (shape.min.map_or(0, |(min, _)| min), shape.max.unwrap_or(i64::MAX));
        (class(coupon, settings), shape.scope.is_none(), kind, worth(coupon), own.clone(), within)
    });
    let mut shares = Shares::new();
    for (coupon, own) in set {
        let shape = &coupon.terms.shape;
        let is_remaining = settings.threshold_basis == ThresholdBasis::Remaining;
        let sum = |amounts: &[Decimal]| own.iter().map(|at| amounts[*at]).sum::<Decimal>();
        let (original, now) = (sum(&amounts), sum(&left));
        let judged = if is_remaining { now } else { original };
        let is_below = shape.min.is_some_and(|(min, _)| original < minor(min) || judged < minor(min));
        if is_below || shape.max.is_some_and(|max| judged > minor(max)) || own.is_empty() {
            return None;
        }
        let (rate, cap) = worth(coupon);
        let mut at = BTreeMap::new();
        let off = match &coupon.terms.worth {
            Worth::Gift(gift) => {
                let asked = |line: &Line| shape.gift_items.iter().all(|set| set.holds(line));
                let counted: Vec<&Line> = own.iter().map(|at| lines[*at]).filter(|line| asked(line)).collect();
                let mut pieces: BTreeMap<&str, u32> = BTreeMap::new();
                for line in counted {
                    let item = if gift.item.is_some() { "" } else { &line.item_id };
                    *pieces.entry(item).or_default() += line.quantity;
                }
                let is_worthless = gift.value == Some(0);
                if is_worthless || !pieces.values().any(|count| *count >= gift.buy_quantity) {
                    return None;
                }
                Decimal::ZERO
            }
            Worth::Off { on: Pays::Shipping, .. } => {
                let sells = |merchant: &str| own.iter().any(|at| lines[*at].merchant_id == merchant);
                let places: Vec<usize> = (0..fees.len()).filter(|at| sells(&merchants[*at].merchant_id)).collect();
                let off = places.iter().map(|at| fees[*at]).sum::<Decimal>().min(cap).min(room);
                if off > Decimal::ZERO {
                    let given = share(off, &places, &mut fees);
                    at.extend(given.into_iter().map(|(at, share)| (merchants[at].merchant_id.clone(), share)));
                }
                off
            }
            _ => {
                let off = (now * rate).floor().min(cap).min(room);
                if off > Decimal::ZERO {
                    let given = share(off, &own, &mut left);
                    at.extend(given.into_iter().map(|(at, share)| (lines[at].line_id.clone(), share)));
                }
                off
            }
        };
        if off.is_zero() && coupon.terms.kind != Kind::FreeItem {
            return None;
        }
        room -= off;
        shares.push((coupon.terms.kind.word(), off, at));
    }
    shares.sort();
    Some(shares)
}

#[test]
fn prices_are_those_of_a_naive_reference() {
    let user = User::default();
    let (mut legal, mut several) = (0, 0);
    for seed in 0..3_000 {
        let dice = &mut Dice::new(5_000_000 + seed);
        let size = Size {
            lines: (1, 8),
            merchants: 1 + dice.below(3),
            coupons: 8,
            price_max: [60, 900, 8_000][dice.below(3) as usize],
            stacking: dice.below(3),
            wild: dice.one_in(2),
            shipping: dice.one_in(6),
            currency: ["CNY", "CNY", "JPY", "KWD"][dice.below(4) as usize],
        };
        let (order, coupons) = (carts::order(dice, &size), carts::coupons(dice, &size));
        let settings = super::search::settings(dice);
        let case = Case { order: &order, user: &user, now: noon(), settings: &settings };
        for _ in 0..6 {
            let many = 1 + dice.below(4);
            let set: Vec<Coupon> = coupons.iter().filter(|_| dice.below(8) < many).cloned().collect();
            let minor = |amount: Decimal| Decimal::from(order.currency.minor(amount).unwrap());
            let found = price(&case, &set).ok().map(|priced| -> Shares {
                let of = |applied: &quote::Applied| {
                    let lines = applied.lines.iter().map(|line| (line.line_id.clone(), minor(line.share)));
                    let fees = applied.shipping.iter().map(|fee| (fee.merchant_id.clone(), minor(fee.share)));
                    (set[applied.coupon].terms.kind.word(), minor(applied.discount), lines.chain(fees).collect())
                };
                let mut shares: Shares = priced.coupons.iter().map(of).collect();
                shares.sort();
                shares
            });
            assert_eq!(found, reference(&case, &set), "seed {seed}\n{settings:?}\n{order:?}\n{set:#?}");
            legal += u32::from(found.is_some());
            several += u32::from(found.is_some_and(|shares| shares.len() > 1));
        }
    }
    assert!(legal > 2_000 && several > 300, "the sets are too easy: {legal} legal, {several} of several");
}
