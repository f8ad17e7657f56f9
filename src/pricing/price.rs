//! An order priced with a given set of coupons: the one computation that quotes and locks share.

use std::collections::BTreeMap;

use super::cart::{Cart, Effect, Ready};
use super::coupon::{Case, Coupon};
use super::money::Minor;
use super::quote::{Applied, FeeShare, Gift, LineShare, Priced, Refused, Unusable};
use super::reason::{Reason, Refusal};
use super::stacking::in_the_way;
use super::walk::{Share, Walk};

/// Prices the order with exactly these coupons, or names every one that cannot be used with its
/// reason. A coupon that would do nothing is refused: using it up would cost its holder.
pub fn price(case: &Case, coupons: &[Coupon]) -> Result<Priced, Refused> {
    let cart = Cart::new(*case);
    let mut refused = Vec::new();
    let mut set = Vec::with_capacity(coupons.len());
    for (index, coupon) in coupons.iter().enumerate() {
        if coupons[..index].iter().any(|other| other.code == coupon.code) {
            refused.push(Unusable { coupon: index, refusal: given_twice() });
            continue;
        }
        match cart.ready(index, coupon) {
            Ok(ready) => set.push(ready),
            Err(refusal) => refused.push(Unusable { coupon: index, refusal }),
        }
    }
    if !refused.is_empty() {
        return Err(Refused(refused));
    }
    price_ready(&cart, set.iter().collect())
}

pub(super) fn given_twice() -> Refusal {
    Refusal::new(Reason::NotStackable, "is given twice")
}

/// Prices coupons that are each usable on their own.
pub(super) fn price_ready(cart: &Cart, mut set: Vec<&Ready>) -> Result<Priced, Refused> {
    set.sort_by(|a, b| a.key.cmp(&b.key));
    let clashing = in_the_way(&set, cart.case.settings);
    if !clashing.is_empty() {
        let refusal = || Refusal::new(Reason::NotStackable, "cannot be used together with the other coupons");
        let mut unusable: Vec<Unusable> =
            clashing.into_iter().map(|at| Unusable { coupon: set[at].index, refusal: refusal() }).collect();
        unusable.sort_by_key(|unusable| unusable.coupon);
        return Err(Refused(unusable));
    }
    let currency = cart.case.order.currency;
    let mut walk = Walk::new(cart);
    let (mut applied, mut gifts, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut total: Minor = 0;
    for ready in set {
        let (mut lines, mut fees) = (BTreeMap::<u16, Minor>::new(), BTreeMap::<u16, Minor>::new());
        let is_within = walk.is_within(ready);
        let eligible = walk.eligible(ready);
        let off = walk.take(ready, |share| match share {
            Share::Line(at, share) => *lines.entry(at).or_default() += share,
            Share::Fee(at, share) => *fees.entry(at).or_default() += share,
        });
        let is_gift = matches!(ready.key.does.effect, Effect::Gift { .. });
        if !is_within || (off == 0 && !is_gift) {
            let refusal = no_effect(ready, is_within, eligible);
            refused.push(Unusable { coupon: ready.index, refusal });
            continue;
        }
        total += off;
        applied.push(Applied {
            coupon: ready.index,
            discount: currency.decimal(off),
            lines: lines
                .into_iter()
                .map(|(at, share)| LineShare {
                    line_id: cart.lines[usize::from(at)].line_id.clone(),
                    share: currency.decimal(share),
                })
                .collect(),
            shipping: fees
                .into_iter()
                .map(|(at, share)| FeeShare {
                    merchant_id: cart.fees[usize::from(at)].0.to_owned(),
                    share: currency.decimal(share),
                })
                .collect(),
        });
        gifts.extend(ready.gifts.iter().map(|line| Gift {
            coupon: ready.index,
            item_id: line.item_id.clone(),
            name: line.name.clone(),
            quantity: line.quantity,
            value: currency.decimal(line.value),
        }));
    }
    if !refused.is_empty() {
        refused.sort_by_key(|unusable: &Unusable| unusable.coupon);
        return Err(Refused(refused));
    }
    let (goods, shipping) = (cart.case.order.goods_total(), cart.case.order.shipping_total());
    Ok(Priced {
        currency,
        goods_total: currency.decimal(goods),
        shipping_total: currency.decimal(shipping),
        discount_total: currency.decimal(total),
        payable: currency.decimal(goods + shipping - total),
        coupons: applied,
        gifts,
    })
}

/// Why a coupon that is good on its own does nothing after the others.
fn no_effect(ready: &Ready, is_within: bool, eligible: Minor) -> Refusal {
    match ready.terms.shape.min {
        Some((min, reason)) if !is_within && eligible < min => {
            let place = ready.terms.shape.place(&ready.terms.issuer_id);
            let mut refusal = Refusal::short(reason, min - eligible, &place, ready.terms.currency);
            refusal.short_by = None;
            refusal
        }
        _ if !is_within => Refusal::new(Reason::MinimumSpend, "what the other coupons leave is above its limit"),
        _ => Refusal::new(Reason::NoBenefit, "takes nothing off what the other coupons leave"),
    }
}
