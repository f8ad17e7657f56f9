//! Stock = rows + unflushed + remaining; every serial within the ranges, none skipped, and sold out
//! was said only when it was true.

use std::collections::{BTreeMap, BTreeSet};

use floodgate::domain::window::Millis;

use super::stores::Template;
use super::{CLOCKS_DIFFER_MS, Difference, Equation, World};
use crate::journal::Exchange;

/// Gaps that are named one by one.
const GAPS_SHOWN: usize = 10;
/// Added stock reaches Redis, and ends every gateway's latch, within this time.
const LATCH_LATE_MS: Millis = 1000;

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
        if let Some((seq, at)) = told_sold_out(world, *id, template) {
            let remaining = cell.remaining;
            if remaining > 0 {
                let detail = format!("template {id}: request {seq} was told sold_out, {remaining} serials remain");
                say("sold_out_with_stock", detail);
            }
            let of_template = stores.rows.iter().filter(|row| row.grant.template == *id);
            if let Some(row) = of_template.max_by_key(|row| row.grant.acquired)
                && row.grant.acquired > at + CLOCKS_DIFFER_MS
            {
                let late = row.grant.acquired - at;
                let serial = row.grant.serial;
                let detail = format!(
                    "template {id}: request {seq} was told sold_out, and {late} ms later serial {serial} was granted"
                );
                say("sold_out_too_early", detail);
            }
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

/// The first request that was told so when the last stock was long there, and when it was told.
fn told_sold_out(world: &World<'_>, id: u32, template: &Template) -> Option<(u64, Millis)> {
    let added = template.ranges.iter().map(|(.., at)| *at).max().unwrap_or(0) + LATCH_LATE_MS;
    let of_template = |exchange: &&Exchange| exchange.request.template == id && exchange.request.at > added;
    let told = world.record.exchanges.iter().filter(of_template).filter_map(|exchange| {
        let answer = exchange.answer.as_ref()?;
        (answer.outcome.word() == "sold_out").then_some((exchange.request.seq, answer.at))
    });
    told.min_by_key(|(_, at)| *at)
}
