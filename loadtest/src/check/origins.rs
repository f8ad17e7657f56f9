//! Nothing was granted that nobody asked for; unknown outcomes resolve; each claim has one answer;
//! Redis and PostgreSQL tell the same of every grant.

use std::collections::{HashMap, HashSet};

use floodgate::domain::window::Millis;

use super::claims::{Claim, Name};
use super::stores::Grant;
use super::{CLOCKS_DIFFER_MS, Difference, Equation, World};
use crate::journal::{Exchange, Outcome, SET_ASIDE};

/// Refusals that may stand before the look for a replay, and what is none: they do not say that the
/// claim key was not granted.
const NO_WORD_OF_THE_KEY: [&str; 5] =
    ["unauthenticated", "invalid_request", "template_not_found", "throttled", SET_ASIDE];

pub fn check(world: &World<'_>, found: &mut Vec<Difference>) {
    let mut say = |kind, detail: String| found.push(Difference::new(Equation::Origins, kind, detail));
    for orphan in &world.record.orphans {
        let (seq, word) = (orphan.seq, orphan.outcome.word());
        say("answer_without_request", format!("request {seq} was answered {word} and is not in the journal"));
    }
    let stored = stored(world);
    for claim in &world.claims.all {
        let grant = stored.get(&claim.name()).and_then(|grants| grants.first());
        one_answer(claim, &mut say);
        resolved(world, claim, grant.is_some(), &mut say);
        if let Some(grant) = grant {
            explained(claim, grant, &mut say);
        }
    }
    for ((template, user, _), rows) in &stored {
        if rows.len() > 1 {
            let serials: Vec<u64> = rows.iter().map(|row| row.serial).collect();
            say(
                "granted_twice",
                format!("template {template}, reference {user}: one claim key has serials {serials:?}"),
            );
        }
    }
    asked_for(world, &mut say);
    receipts(world, &mut say);
}

/// Grants that are on their way or there, by claim.
fn stored<'a>(world: &World<'a>) -> HashMap<Name<'a>, Vec<&'a Grant>> {
    let mut stored: HashMap<Name<'_>, Vec<&Grant>> = HashMap::new();
    for grant in grants(world) {
        let of_claim = stored.entry((grant.template, &grant.user, grant.claim_key_hash)).or_default();
        if !of_claim.iter().any(|other| other.serial == grant.serial) {
            of_claim.push(grant);
        }
    }
    stored
}

fn grants<'a>(world: &World<'a>) -> impl Iterator<Item = &'a Grant> {
    let aside = world.stores.aside.iter().filter_map(|aside| aside.grant.as_ref());
    world.stores.rows.iter().map(|row| &row.grant).chain(aside).chain(&world.stores.queued)
}

/// All coupons that a claim was answered are the same bytes, and it was granted but once.
fn one_answer(claim: &Claim<'_>, say: &mut impl FnMut(&'static str, String)) {
    let mut coupons = claim.coupons();
    let Some((first, coupon)) = coupons.next() else { return };
    if let Some((other, answered)) = coupons.find(|(_, other)| *other != coupon) {
        let (one, two) = (first.request.seq, other.request.seq);
        let detail = format!("request {one} got {coupon:?}, request {two} {answered:?}: {}", claim.shown());
        say("replay_differs", detail);
    }
}

/// A claim ends with one definite answer, and no refusal contradicts a grant.
fn resolved(world: &World<'_>, claim: &Claim<'_>, is_stored: bool, say: &mut impl FnMut(&'static str, String)) {
    let answered = claim.coupons().next().is_some();
    let unknown = claim.exchanges.iter().any(|exchange| exchange.is_unknown());
    let refusals: Vec<&Exchange> = claim.exchanges.iter().copied().filter(|exchange| is_refusal(exchange)).collect();
    let set_aside = claim.exchanges.iter().any(|one| one.outcome().is_some_and(|told| told.word() == SET_ASIDE));
    if unknown && !answered && !set_aside && refusals.is_empty() {
        let fate = if is_stored { "it was granted" } else { "it was not granted" };
        say("unresolved", format!("{fate}, and the client does not know: {}", claim.shown()));
    }
    if is_stored && !answered && !unknown {
        say("granted_untold", format!("only refusals were answered, and it is granted: {}", claim.shown()));
    }
    let freed = world.stores.templates.get(&claim.template).is_some_and(|template| template.freed);
    if !is_stored || freed {
        return;
    }
    // When the claim was certainly decided: a coupon was answered, or, if none ever was, the last
    // request that may have been granted was over.
    let over = |exchange: &&Exchange| exchange.answer.as_ref().map_or(i64::MAX, |answer| answer.at);
    let candidates = || claim.exchanges.iter().copied().filter(|one| one.is_unknown());
    let decided = match claim.coupons().map(|(exchange, _)| over(&exchange)).min() {
        Some(at) => at,
        None => candidates().map(|one| over(&one)).max().unwrap_or(i64::MAX),
    };
    if let Some(refused) = refusals.iter().find(|refusal| refusal.request.at > decided) {
        let word = refused.outcome().map_or("", Outcome::word);
        let detail = format!("request {} was told {word} after the grant: {}", refused.request.seq, claim.shown());
        say("refused_though_granted", detail);
    }
}

/// A grant was made during a request that was told so, or that was told nothing: `unavailable` means
/// that nothing was granted, and who was told so must not have been.
fn explained(claim: &Claim<'_>, grant: &Grant, say: &mut impl FnMut(&'static str, String)) {
    let explains = |exchange: &&Exchange| {
        let until = match (&exchange.answer, exchange.outcome()) {
            (Some(answer), Some(Outcome::Coupon { .. })) => answer.at + CLOCKS_DIFFER_MS,
            // What was not answered may be executed later.
            _ if exchange.is_unknown() => Millis::MAX,
            _ => return false,
        };
        (exchange.request.at - CLOCKS_DIFFER_MS..=until).contains(&grant.acquired)
    };
    let told = claim.coupons().next().is_some() || claim.exchanges.iter().any(|exchange| exchange.is_unknown());
    if told && !claim.exchanges.iter().copied().any(|exchange| explains(&exchange)) {
        let (serial, acquired) = (grant.serial, grant.acquired);
        let detail = format!("serial {serial}, acquired {acquired} ms, in no request that may have been granted: ");
        say("granted_while_refused", detail + &claim.shown());
    }
}

/// Whether the answer says for certain that this claim key was not granted by then.
fn is_refusal(exchange: &Exchange) -> bool {
    match exchange.outcome() {
        Some(outcome @ Outcome::Refused { code, .. }) => !outcome.is_open() && !NO_WORD_OF_THE_KEY.contains(&&**code),
        _ => false,
    }
}

/// Every grant belongs to a request in the journal: the same template, user and claim key.
fn asked_for(world: &World<'_>, say: &mut impl FnMut(&'static str, String)) {
    let asked: HashSet<Name<'_>> = world.claims.all.iter().map(Claim::name).collect();
    let mut nameless: HashMap<(u32, &str), usize> = HashMap::new();
    for ((template, user), count) in &world.claims.nameless {
        if let Some(user_ref) = world.claims.refs.get(user) {
            *nameless.entry((*template, user_ref.as_str())).or_default() += count;
        }
    }
    let mut seen = HashSet::new();
    for grant in grants(world) {
        if !seen.insert((grant.template, grant.serial))
            || asked.contains(&(grant.template, &*grant.user, grant.claim_key_hash))
        {
            continue;
        }
        match nameless.get_mut(&(grant.template, &*grant.user)) {
            Some(left) if *left > 0 => *left -= 1,
            _ => say("nobody_asked", format!("no request of the journal asked for {}", shown(grant))),
        }
    }
}

/// What Redis says of a user's coupons is what PostgreSQL says.
fn receipts(world: &World<'_>, say: &mut impl FnMut(&'static str, String)) {
    let place = |grant: &Grant| (grant.template, grant.serial);
    let receipts: HashMap<(u32, u64), &Grant> =
        world.stores.receipts.iter().map(|receipt| (place(receipt), receipt)).collect();
    let all: HashMap<(u32, u64), &Grant> = grants(world).map(|grant| (place(grant), grant)).collect();
    for receipt in &world.stores.receipts {
        match all.get(&place(receipt)) {
            None => say("receipt_without_row", format!("Redis has {}, PostgreSQL has not", shown(receipt))),
            Some(row) if *row != receipt => {
                say("receipt_differs", format!("Redis has {}, PostgreSQL {}", shown(receipt), shown(row)));
            }
            Some(_) => {}
        }
    }
    let freed = |id: u32| world.stores.templates.get(&id).is_some_and(|template| template.freed);
    for row in world.stores.rows.iter().map(|row| &row.grant).filter(|row| !freed(row.template)) {
        if !receipts.contains_key(&place(row)) {
            say("row_without_receipt", format!("PostgreSQL has {}, Redis has not", shown(row)));
        }
    }
}

fn shown(grant: &Grant) -> String {
    let Grant { template, serial, epoch, user, claim_key_hash, acquired } = grant;
    format!(
        "template {template}, serial {serial}, epoch {epoch}, reference {user}, claim key hash {claim_key_hash:016x}, \
         acquired {acquired} ms"
    )
}
