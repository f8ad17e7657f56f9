//! Every acknowledged claim is in PostgreSQL exactly once, with the serial, code and times that were
//! answered, for the user who was answered.

use std::collections::HashMap;

use floodgate::admission::identity::parse_time;
use floodgate::domain::code::CouponName;
use floodgate::domain::ids::TemplateId;

use super::claims::Claim;
use super::stores::Row;
use super::{Difference, Equation, World};
use crate::journal::{Coupon, Outcome};

pub fn check(world: &World<'_>, found: &mut Vec<Difference>) {
    let mut say = |kind, detail: String| found.push(Difference::new(Equation::Promises, kind, detail));
    let stores = world.stores;
    let rows: HashMap<(u32, u64), &Row> =
        stores.rows.iter().map(|row| ((row.grant.template, row.grant.serial), row)).collect();
    let mut owners: HashMap<(u32, u64), &Claim<'_>> = HashMap::new();
    for claim in &world.claims.all {
        let Some((exchange, coupon)) = claim.coupons().next() else { continue };
        let place = (claim.template, coupon.serial);
        if let Some(other) = owners.insert(place, claim) {
            let detail = format!("serial {} to {} and to {}", coupon.serial, other.shown(), claim.shown());
            say("serial_answered_twice", detail);
        }
        let Some(row) = rows.get(&place) else {
            let aside = stores
                .aside
                .iter()
                .find(|aside| aside.grant.as_ref().is_some_and(|grant| (grant.template, grant.serial) == place));
            let queued = stores.queued.iter().any(|grant| (grant.template, grant.serial) == place);
            let (kind, fate) = match (aside, queued) {
                (Some(aside), _) => ("row_set_aside", format!("set aside: {}", aside.reason)),
                (None, true) => ("row_missing", "still on the queue".into()),
                (None, false) => ("row_missing", "in no row".into()),
            };
            let at = &coupon.acquired_at;
            say(kind, format!("serial {} was answered at {at} and is {fate}: {}", coupon.serial, claim.shown()));
            continue;
        };
        for what in differing(world, claim, coupon, row) {
            let detail =
                format!("serial {}: {what}: request {}, {}", coupon.serial, exchange.request.seq, claim.shown());
            say("row_differs", detail);
        }
    }
    held(world, &rows, &mut say);
}

/// In what a row is not as it was answered.
fn differing(world: &World<'_>, claim: &Claim<'_>, coupon: &Coupon, row: &Row) -> Vec<String> {
    let mut wrong = Vec::new();
    let name =
        CouponName { template: TemplateId(claim.template), serial: coupon.serial, epoch: row.grant.epoch, gift: 0 };
    match world.lens.code_key.decode(&coupon.code) {
        Some(answered) if answered == name => {}
        Some(answered) => wrong.push(format!("the code names {answered:?}, the row is {name:?}")),
        None => wrong.push(format!("{} is no code", coupon.code)),
    }
    if *row.grant.user != *claim.user_ref.as_str() {
        wrong.push(format!("the row is of the user with reference {}", row.grant.user));
    }
    if row.grant.claim_key_hash != claim.hash {
        wrong.push("the row is of another claim key".into());
    }
    for (what, answered, stored) in [
        ("acquired_at", &coupon.acquired_at, row.grant.acquired),
        ("valid_from", &coupon.valid_from, row.valid_from),
        ("expires_at", &coupon.expires_at, row.expires_at),
    ] {
        if parse_time(answered) != Some(stored) {
            wrong.push(format!("{what} was answered as {answered} and is stored as {stored} ms"));
        }
    }
    wrong
}

/// Coupons that a refusal listed must be the user's own.
fn held(world: &World<'_>, rows: &HashMap<(u32, u64), &Row>, say: &mut impl FnMut(&'static str, String)) {
    for exchange in &world.record.exchanges {
        let Some(Outcome::Refused { held, .. }) = exchange.outcome() else { continue };
        let request = &exchange.request;
        let Some(user_ref) = world.claims.refs.get(&*request.user) else { continue };
        for coupon in held {
            let theirs = rows.get(&(request.template, coupon.serial)).is_some_and(|row| {
                let named = world.lens.code_key.decode(&coupon.code);
                *row.grant.user == *user_ref.as_str()
                    && named.is_some_and(|name| name.serial == coupon.serial && name.epoch == row.grant.epoch)
            });
            if !theirs {
                let (seq, user, serial) = (request.seq, &request.user, coupon.serial);
                let detail = format!("request {seq} told user {user} that they hold serial {serial}: they do not");
                say("held_is_not_theirs", detail);
            }
        }
    }
}
