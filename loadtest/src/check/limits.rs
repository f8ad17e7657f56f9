//! Nobody has more than their limits and quotas allow, by the rows in PostgreSQL.

use std::collections::BTreeMap;

use floodgate::domain::window::{Day, Millis};

use super::stores::{Quota, Row};
use super::{Difference, Equation, World};

pub fn check(world: &World<'_>, found: &mut Vec<Difference>) {
    let mut say = |kind, detail: String| found.push(Difference::new(Equation::Limits, kind, detail));
    let mut of_user: BTreeMap<(u32, &str), u32> = BTreeMap::new();
    let mut of_user_day: BTreeMap<(u32, &str, Millis), u32> = BTreeMap::new();
    let mut of_day: BTreeMap<(u32, Millis), u64> = BTreeMap::new();
    for Row { grant, .. } in &world.stores.rows {
        let Some(template) = world.stores.templates.get(&grant.template) else { continue };
        let definition = &template.definition;
        *of_user.entry((grant.template, &grant.user)).or_default() += 1;
        if definition.limits.per_user_daily.is_some() || definition.stock.daily.is_some() {
            let day = Day::of(definition.timezone, grant.acquired).start;
            *of_user_day.entry((grant.template, &grant.user, day)).or_default() += 1;
            *of_day.entry((grant.template, day)).or_default() += 1;
        }
    }
    let definition = |id: &u32| &world.stores.templates[id].definition;
    for ((id, user), count) in &of_user {
        let limit = definition(id).limits.per_user;
        if *count > limit {
            say("over_user_limit", format!("template {id}: {} has {count} of {limit}", shown(world, user)));
        }
    }
    for ((id, user, day), count) in &of_user_day {
        if let Some(limit) = definition(id).limits.per_user_daily.filter(|limit| count > limit) {
            let user = shown(world, user);
            say("over_user_daily_limit", format!("template {id}: {user} has {count} of {limit} on the day from {day}"));
        }
    }
    for ((id, day), count) in &of_day {
        if let Some(limit) = definition(id).stock.daily.filter(|limit| count > limit) {
            say("over_daily_stock", format!("template {id}: {count} of {limit} on the day from {day}"));
        }
    }
    quotas(world, &mut say);
}

/// Sliding windows over all templates that count in quotas.
fn quotas(world: &World<'_>, say: &mut impl FnMut(&'static str, String)) {
    let counted =
        |row: &&Row| world.stores.templates.get(&row.grant.template).is_some_and(|template| template.definition.quotas);
    let mut users: BTreeMap<&str, Vec<Millis>> = BTreeMap::new();
    let mut places: [BTreeMap<u64, Vec<Millis>>; 2] = Default::default();
    for row in world.stores.rows.iter().filter(counted) {
        users.entry(&row.grant.user).or_default().push(row.grant.acquired);
        for (place, hash) in places.iter_mut().zip([row.ip_hash, row.device_hash]) {
            if let Some(hash) = hash {
                place.entry(hash).or_default().push(row.grant.acquired);
            }
        }
    }
    let [user_quota, place_quotas @ ..] = world.stores.quotas;
    for (user, times) in users {
        if let Some(count) = most_at_once(times, user_quota) {
            say("over_user_quota", format!("{}: {count} of {} in a window", shown(world, user), user_quota.limit));
        }
    }
    for ((kind, place), quota) in ["over_ip_quota", "over_device_quota"].into_iter().zip(places).zip(place_quotas) {
        for (hash, times) in place {
            if let Some(count) = most_at_once(times, quota) {
                say(kind, format!("hash {hash:016x}: {count} of {} in a window", quota.limit));
            }
        }
    }
}

/// The most grants in one window, if that is more than the quota.
fn most_at_once(mut times: Vec<Millis>, quota: Quota) -> Option<u64> {
    if quota.limit == 0 {
        return None;
    }
    times.sort_unstable();
    let (mut from, mut most) = (0, 0);
    for (at, time) in times.iter().enumerate() {
        while times[from] <= time - quota.window_ms {
            from += 1;
        }
        most = most.max((at - from + 1) as u64);
    }
    (most > quota.limit).then_some(most)
}

/// The user as the journal knows them, if it does.
fn shown(world: &World<'_>, user_ref: &str) -> String {
    match world.claims.refs.iter().find(|(_, known)| known.as_str() == user_ref) {
        Some((user, _)) => format!("user {user}"),
        None => format!("user reference {user_ref}"),
    }
}
