//! The best of a user's coupons for an order, and every coupon on its own.

use std::collections::HashSet;

use super::cart::{Cart, Ready, Short};
use super::coupon::{Case, Coupon};
use super::money::Minor;
use super::price::{given_twice, price_ready};
use super::quote::{Hint, Priced, Quote, Ranking, Unusable};
use super::reason::{Reason, Refusal};
use super::search::Search;
use super::stacking::may_join;
use super::table::Table;
use crate::limits::QUOTE_HINTS_MAX;

/// Coupons brought into numbers; those that are unusable on their own are set aside with their reason.
struct Sorted<'a> {
    cart: Cart<'a>,
    usable: Vec<Ready<'a>>,
    unusable: Vec<Unusable>,
}

/// The legal combination that takes off most, found within `nodes_max` nodes or said not to be proven;
/// with a reason for every coupon that it leaves out.
pub fn best(case: &Case, coupons: &[Coupon], nodes_max: u64) -> Quote {
    let Sorted { cart, usable, mut unusable } = sort(case, coupons);
    let mut in_order: Vec<&Ready> = usable.iter().collect();
    in_order.sort_by(|a, b| a.key.cmp(&b.key));
    let table = Table::new(&in_order, case.settings);
    let mut search = Search::new(&table, nodes_max);
    search.run(&cart);
    let set: Vec<&Ready> = search.found.chosen.iter().map(|at| in_order[*at]).collect();
    let used: HashSet<usize> = set.iter().map(|ready| ready.index).collect();
    let hints = hints(&cart, coupons, &unusable);
    for ready in usable.iter().filter(|ready| !used.contains(&ready.index)) {
        unusable.push(Unusable { coupon: ready.index, refusal: left_out(&cart, &set, ready) });
    }
    unusable.sort_by_key(|unusable| unusable.coupon);
    let priced = price_ready(&cart, set).expect("every set that the search visits is legal");
    Quote { priced, optimal: !search.is_cut, nodes: search.nodes, unusable, hints }
}

/// Every coupon alone, the best first, by the same order as combinations.
pub fn rank(case: &Case, coupons: &[Coupon]) -> Ranking {
    let Sorted { cart, usable, mut unusable } = sort(case, coupons);
    let hints = hints(&cart, coupons, &unusable);
    let mut ranked: Vec<(&Ready, Priced)> = Vec::new();
    for ready in &usable {
        match price_ready(&cart, vec![ready]) {
            Ok(priced) => ranked.push((ready, priced)),
            Err(refused) => unusable.extend(refused.0),
        }
    }
    ranked.sort_by(|(a, a_priced), (b, b_priced)| {
        b_priced.worth().cmp(&a_priced.worth()).then_with(|| a.key.tie.cmp(&b.key.tie))
    });
    unusable.sort_by_key(|unusable| unusable.coupon);
    Ranking { ranked: ranked.into_iter().map(|(_, priced)| priced).collect(), unusable, hints }
}

fn sort<'a>(case: &Case<'a>, coupons: &'a [Coupon]) -> Sorted<'a> {
    let cart = Cart::new(*case);
    let (mut usable, mut unusable, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for (index, coupon) in coupons.iter().enumerate() {
        if !seen.insert(coupon.code.as_str()) {
            unusable.push(Unusable { coupon: index, refusal: given_twice() });
            continue;
        }
        match cart.ready(index, coupon) {
            Ok(ready) => usable.push(ready),
            Err(refusal) => unusable.push(Unusable { coupon: index, refusal }),
        }
    }
    Sorted { cart, usable, unusable }
}

/// Why a coupon that could be used is not.
fn left_out(cart: &Cart, set: &[&Ready], ready: &Ready) -> Refusal {
    if let Err(refused) = price_ready(cart, vec![ready])
        && let Some(unusable) = refused.0.into_iter().next()
    {
        return unusable.refusal;
    }
    if may_join(set, ready, cart.case.settings) {
        Refusal::new(Reason::NotBest, "saves nothing more beside the best coupons")
    } else {
        Refusal::new(Reason::NotStackable, "cannot be used together with the best coupons")
    }
}

/// What a little more would bring: the least more first, one for each template.
fn hints(cart: &Cart, coupons: &[Coupon], unusable: &[Unusable]) -> Vec<Hint> {
    let mut shorts: Vec<Short> =
        unusable.iter().filter_map(|unusable| cart.short(&coupons[unusable.coupon], &unusable.refusal)).collect();
    shorts.sort_by_key(|short| (short.by, std::cmp::Reverse(short.save), short.template));
    let mut seen = HashSet::new();
    shorts.retain(|short| seen.insert(short.template));
    let decimal = |minor: Minor| cart.case.order.currency.decimal(minor);
    shorts
        .into_iter()
        .take(QUOTE_HINTS_MAX)
        .map(|short| Hint {
            template_id: short.template,
            spend_more: decimal(short.by),
            save: decimal(short.save),
            text: format!("{} and save {}", short.detail, decimal(short.save)),
        })
        .collect()
}
