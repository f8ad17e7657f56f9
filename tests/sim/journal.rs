//! What shoppers asked for and what they were told, and the promises that can be held against it.

use std::collections::BTreeMap;

use floodgate::claim::engine::Held;
use floodgate::domain::ids::{Serial, TemplateId};
use floodgate::domain::outcome::ClaimOutcome;

use crate::postgres::{Coupon, Database, is_lost};

/// A claim by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub template: TemplateId,
    pub user: String,
    pub key: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Held(Held),
    /// Held, and a row by now: no failover takes it away.
    Stored(Held),
    /// Held, but PostgreSQL refused its row.
    SetAside(Held),
    /// Certainly not granted by this request.
    Refused(ClaimOutcome),
    /// Nobody knows: the same key will tell.
    Unknown,
}

/// All requests of one claim.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// When each request began, and whether it was certainly refused; `None`: not answered yet.
    requests: Vec<(u64, Option<bool>)>,
    /// Whether one ended without a certain answer.
    pub unknown: bool,
    /// Coupons that were named, in order; more than one only where something was lost.
    pub held: Vec<Held>,
    /// Those of them that were said to be stored.
    pub stored: Vec<Held>,
    /// What it was told after everything was mended: that holds, whatever was lost before.
    pub at_last: Option<Told>,
}

#[derive(Default)]
pub struct Journal {
    pub stories: BTreeMap<Key, Story>,
    /// Everything is mended: nothing is lost from here on.
    pub mended: bool,
    /// Who was told that a serial is theirs.
    named: BTreeMap<(TemplateId, Serial, u16), Key>,
    /// When each serial was granted, by the simulation's own clock.
    granted: BTreeMap<(TemplateId, Serial, u16), u64>,
}

// === impl Told ===

impl Told {
    pub fn held(self) -> Option<Held> {
        match self {
            Told::Held(held) | Told::Stored(held) | Told::SetAside(held) => Some(held),
            Told::Refused(_) | Told::Unknown => None,
        }
    }
}

// === impl Journal ===

impl Journal {
    /// Notes a request, and gives its number.
    pub fn asks(&mut self, key: &Key, now: u64) -> usize {
        let story = self.stories.entry(key.clone()).or_default();
        story.requests.push((now, None));
        story.requests.len() - 1
    }

    pub fn granted(&mut self, template: TemplateId, serial: Serial, epoch: u16, now: u64) {
        self.granted.insert((template, serial, epoch), now);
    }

    /// Notes an answer, and tells which promise it breaks by itself.
    pub fn told(&mut self, key: &Key, request: usize, told: Told, lossy: bool) -> Option<String> {
        let story = self.stories.entry(key.clone()).or_default();
        story.requests[request].1 = Some(matches!(told, Told::Refused(_)));
        if self.mended {
            story.at_last = Some(told);
        }
        match told {
            Told::Unknown => story.unknown = true,
            Told::Refused(_) => {}
            Told::Held(held) | Told::Stored(held) | Told::SetAside(held) => {
                if matches!(told, Told::Stored(_)) {
                    story.stored.push(held);
                }
                if !story.held.contains(&held) {
                    story.held.push(held);
                    if story.held.len() > 1 && !lossy {
                        return Some(format!("{key:?} was told of two coupons: {:?}", story.held));
                    }
                }
                let granted = self.granted.get(&(key.template, held.serial, held.epoch)).copied();
                let may_have = |(began, refused): &(u64, Option<bool>)| {
                    granted.is_some_and(|at| *began <= at) && *refused != Some(true)
                };
                if !story.requests.iter().any(may_have) {
                    return Some(format!("{key:?} was granted {held:?} by a request that was told it was refused"));
                }
                let named = self.named.entry((key.template, held.serial, held.epoch)).or_insert_with(|| key.clone());
                if named != key {
                    return Some(format!("serial {} was given to {named:?} and to {key:?}", held.serial));
                }
            }
        }
        None
    }

    /// Whether a row is one that somebody asked for.
    pub fn asked(&self, coupon: &Coupon) -> bool {
        self.stories.contains_key(&Key { template: coupon.template, user: coupon.user.clone(), key: coupon.key })
    }

    /// Once all is still: every answer against what PostgreSQL has. The first that does not hold.
    pub fn settle(&self, database: &Database, lossy: bool) -> Option<String> {
        let aside = database.set_aside.iter().filter(|(_, _, reason)| !is_lost(reason));
        let mut stored: BTreeMap<Key, Vec<&Coupon>> = BTreeMap::new();
        for coupon in database.coupons.values().chain(aside.map(|(_, coupon, _)| coupon)) {
            let key = Key { template: coupon.template, user: coupon.user.clone(), key: coupon.key };
            stored.entry(key).or_default().push(coupon);
        }
        for (key, story) in &self.stories {
            let rows = stored.get(key).map_or(&[][..], Vec::as_slice);
            if rows.len() > 1 {
                return Some(format!("{key:?} has {} rows", rows.len()));
            }
            if story.requests.iter().any(|(_, answered)| answered.is_none()) {
                return Some(format!("{key:?} was never answered"));
            }
            for held in &story.held {
                if rows
                    .iter()
                    .any(|row| (row.serial, row.epoch, row.acquired) == (held.serial, held.epoch, held.acquired))
                {
                    continue;
                }
                let cut_short = database.finals.keys().any(|later| *later > held.epoch);
                let is_last = story.at_last.and_then(Told::held) == Some(*held);
                if !lossy || !cut_short || is_last || story.stored.contains(held) {
                    return Some(format!("{key:?} was told of {held:?}, and PostgreSQL has {rows:?}"));
                }
            }
            if let (Some(row), true, false) = (rows.first(), story.held.is_empty(), story.unknown) {
                return Some(format!("{key:?} was refused whenever it asked, and has {row:?}"));
            }
        }
        None
    }
}
