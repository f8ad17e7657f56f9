//! What the model keeps: every grant, as lists that are counted anew for each claim.

use crate::domain::ids::{EntryId, Serial, TemplateId};
use crate::domain::user::UserRef;
use crate::domain::window::{Day, Millis};
use crate::redis::cell::Receipt;

/// What a cell knows of a template besides its stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// 1 published, 2 paused, 3 stopped, 9 freed.
    pub state: u8,
    pub revision: u32,
    pub generation: u32,
    pub starts_at: Millis,
    pub ends_at: Millis,
    pub per_user: u32,
    /// 0: no such limit.
    pub per_user_daily: u32,
    /// 0: no such limit.
    pub daily: u64,
    pub quotas: bool,
}

/// How many grants a key of one scope may get within a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaRule {
    /// 0: no such quota.
    pub limit: u32,
    pub window: Millis,
}

/// A grant as the queue has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub template: TemplateId,
    pub serial: Serial,
    pub claim: (UserRef, u64, Option<u64>, Option<u64>),
}

/// An entry on the queue; a marker has no grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: EntryId,
    pub at: Millis,
    pub grants: Vec<Grant>,
}

/// A grant as PostgreSQL gives it back.
#[derive(Clone, Debug)]
pub struct Row {
    /// None of a row that was set aside without one.
    pub user: Option<UserRef>,
    pub receipt: Receipt,
    pub ip: Option<u64>,
    pub device: Option<u64>,
}

/// One scope's rule, and every grant it ever counted: the key and the time.
#[derive(Clone, Debug, Default)]
pub(super) struct Quota {
    pub rule: QuotaRule,
    pub grants: Vec<(Vec<u8>, Millis)>,
}

#[derive(Clone, Debug)]
pub(super) struct Template {
    pub terms: Terms,
    pub freed: bool,
    /// Ranges that still hold something, in order.
    pub ranges: Vec<(Serial, Serial)>,
    /// The last serial ever given.
    pub given: Serial,
    /// Every grant; who got it is not known of a row that was set aside without a user.
    pub grants: Vec<(Option<UserRef>, Receipt)>,
    /// The day that was counted last, for [`Holding`](crate::redis::cell::Holding).
    pub day: Millis,
    pub day_count: u64,
}

// === impl Template ===

impl Template {
    pub fn new(terms: Terms) -> Self {
        Template { terms, freed: false, ranges: Vec::new(), given: 0, grants: Vec::new(), day: 0, day_count: 0 }
    }

    pub fn held_by(&self, user: &UserRef) -> Vec<Receipt> {
        self.grants.iter().filter(|(holder, _)| holder.as_ref() == Some(user)).map(|(_, receipt)| *receipt).collect()
    }

    pub fn receipt(&self, user: &UserRef, key: u64) -> Option<Receipt> {
        self.held_by(user).into_iter().find(|receipt| receipt.claim_key_hash == key)
    }

    pub fn granted_in(&self, day: &Day) -> u64 {
        self.grants.iter().filter(|(_, receipt)| day.contains(receipt.acquired)).count() as u64
    }

    pub fn may_still_grant(&self, serial: Serial) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&serial))
    }

    pub fn take(&mut self) -> Serial {
        let (first, last) = self.ranges[0];
        if first == last {
            self.ranges.remove(0);
        } else {
            self.ranges[0].0 += 1;
        }
        first
    }
}

// === impl Quota ===

impl Quota {
    /// Takes another rule. Times that were kept for another window are not trusted.
    pub fn follow(&mut self, rule: QuotaRule) {
        if self.rule.window != rule.window {
            self.grants.clear();
        }
        self.rule = rule;
    }

    /// When the key may be granted again, if it may not now.
    pub fn refuses(&self, key: &Option<Vec<u8>>, now: Millis) -> Option<Millis> {
        let key = key.as_ref().filter(|_| self.rule.limit > 0)?;
        let mut times: Vec<Millis> = self.grants.iter().filter(|grant| grant.0 == *key).map(|grant| grant.1).collect();
        times.retain(|at| *at > now - self.rule.window);
        times.sort_unstable();
        // As many must leave the window as are more than one below the limit.
        let leave = (times.len() + 1).checked_sub(self.rule.limit as usize)?;
        (leave > 0).then(|| times[leave - 1] + self.rule.window)
    }

    pub fn note(&mut self, key: &Option<Vec<u8>>, at: Millis) {
        if let Some(key) = key.as_ref().filter(|_| self.rule.limit > 0) {
            self.grants.push((key.clone(), at));
        }
    }
}

pub(super) fn hash(hash: Option<u64>) -> Option<Vec<u8>> {
    hash.map(|hash| hash.to_be_bytes().to_vec())
}
