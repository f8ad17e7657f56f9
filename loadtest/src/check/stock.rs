//! Stock = rows + unflushed + remaining; every serial within the ranges, none skipped, and sold out
//! was said only when it was true.

use std::collections::{BTreeMap, BTreeSet};

use super::stores::Template;
use super::{Difference, Equation, World};
use crate::journal::Outcome;

/// Gaps that are named one by one.
const GAPS_SHOWN: usize = 10;

pub fn check(world: &World<'_>, found: &mut Vec<Difference>) {
    let mut say = |kind, detail: String| found.push(Difference::new(Equation::Stock, kind, detail));
    let mut taken: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    let stores = world.stores;
    let rows = stores.rows.iter().map(|row| &row.grant);
    let aside = stores.aside.iter().filter_map(|aside| aside.grant.as_ref());
    for grant in rows.chain(aside).chain(&stores.queued) {
        taken.entry(grant.template).or_default().insert(grant.serial);
    }
    for id in world.record.templates() {
        if !stores.templates.contains_key(&id) && taken.contains_key(&id) {
            say("template_missing", format!("template {id} has coupons and does not exist"));
        }
    }
    for (id, template) in &stores.templates {
        let none = BTreeSet::new();
        let serials = taken.get(id).unwrap_or(&none);
        for serial in serials {
            if !template.ranges.iter().any(|(first, last, _)| (first..=last).contains(&serial)) {
                say("serial_beyond_stock", format!("template {id}: serial {serial} is in none of its ranges"));
            }
        }
        gaps(*id, template, serials, &mut say);
        let Some(cell) = template.cell.as_ref().filter(|_| !template.freed) else { continue };
        let stock: u64 = template.ranges.iter().map(|(first, last, _)| last - first + 1).sum();
        let counted = serials.len() as u64 + cell.remaining;
        if stock != counted {
            let detail = format!(
                "template {id}: of a stock of {stock}, {} serials are granted and {} remain: {}",
                serials.len(),
                cell.remaining,
                if counted < stock {
                    format!("{} are nowhere", stock - counted)
                } else {
                    format!("{} too many", counted - stock)
                }
            );
            say("stock_does_not_balance", detail);
        }
        if cell.remaining > 0
            && let Some(seq) = told_sold_out(world, *id, template)
        {
            let detail = format!("template {id}: request {seq} was told sold_out, {} serials remain", cell.remaining);
            say("sold_out_with_stock", detail);
        }
    }
}

/// Serials are granted in order, range by range: below the highest, none is skipped.
fn gaps(id: u32, template: &Template, serials: &BTreeSet<u64>, say: &mut impl FnMut(&'static str, String)) {
    let Some(highest) = serials.last() else { return };
    let mut missing = 0_u64;
    for (first, last, _) in &template.ranges {
        let mut expected = *first;
        for serial in serials.range(first..=last).copied().chain([(*last).min(*highest) + 1]) {
            for gap in expected..serial {
                missing += 1;
                if missing <= GAPS_SHOWN as u64 {
                    say(
                        "serial_skipped",
                        format!("template {id}: serial {gap} is nowhere, though {highest} is granted"),
                    );
                }
            }
            expected = serial + 1;
        }
    }
    if missing > GAPS_SHOWN as u64 {
        say("serial_skipped", format!("template {id}: and {} serials more", missing - GAPS_SHOWN as u64));
    }
}

/// A request that was told so after the last stock was added.
fn told_sold_out(world: &World<'_>, id: u32, template: &Template) -> Option<u64> {
    let added = template.ranges.iter().map(|(.., at)| *at).max().unwrap_or(0);
    world.record.exchanges.iter().find_map(|exchange| match exchange.outcome()? {
        Outcome::Refused { code, .. }
            if exchange.request.template == id && &**code == "sold_out" && exchange.request.at > added =>
        {
            Some(exchange.request.seq)
        }
        _ => None,
    })
}
