//! Grants that were acknowledged and may not be rows yet.
//!
//! Redis has them, too, until they are stored. A failover to a replica that lags, or an older copy that is
//! started, loses its tail, and then this ring is the only thing that knows who was told of a coupon that is
//! gone. It is bounded: where PostgreSQL is away for long, the oldest grants fall out, which are the last that
//! a failover would lose.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use crate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use crate::domain::user::UserRef;
use crate::domain::window::Millis;
use crate::limits::RING_GRANTS_MAX;
use crate::telemetry::metrics;

/// One grant, as who asked was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingGrant {
    pub serial: Serial,
    pub user: UserRef,
    pub claim_key_hash: u64,
    pub acquired: Millis,
}

/// Grants of one template and entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingBatch {
    pub template: TemplateId,
    /// Of the grants; part of their codes.
    pub epoch: Epoch,
    /// Behind it they are stored: their own entry, or the queue's last when they were looked up.
    pub entry: EntryId,
    pub grants: Vec<RingGrant>,
}

/// What the watermark says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Waits,
    Stored,
    /// It lies beyond the end of its history, which is stored.
    Lost,
}

/// The ring of one process, shared by its lanes.
#[derive(Default)]
pub struct Ring {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    batches: VecDeque<RingBatch>,
    grants: usize,
}

// === impl Ring ===

impl Ring {
    pub fn push(&self, batch: RingBatch) {
        if batch.grants.is_empty() {
            return;
        }
        let mut dropped = 0;
        {
            let mut kept = self.kept();
            kept.grants += batch.grants.len();
            kept.batches.push_back(batch);
            while kept.grants > RING_GRANTS_MAX {
                let Some(oldest) = kept.batches.pop_front() else { break };
                kept.grants -= oldest.grants.len();
                dropped += oldest.grants.len();
            }
        }
        if dropped > 0 {
            metrics().ring_dropped.increment(dropped as u64);
        }
    }

    /// The lowest epoch of an entry that is waited for; `None`: the ring is empty.
    pub fn lowest_epoch(&self) -> Option<Epoch> {
        self.kept().batches.iter().map(|batch| batch.entry.epoch).min()
    }

    /// Lets go of what does not wait any more, and gives out what is lost.
    pub fn settle(&self, verdict: impl Fn(EntryId) -> Verdict) -> Vec<RingBatch> {
        let mut kept = self.kept();
        let mut lost = Vec::new();
        for batch in std::mem::take(&mut kept.batches) {
            match verdict(batch.entry) {
                Verdict::Waits => kept.batches.push_back(batch),
                Verdict::Stored => kept.grants -= batch.grants.len(),
                Verdict::Lost => {
                    kept.grants -= batch.grants.len();
                    lost.push(batch);
                }
            }
        }
        metrics().ring_grants.set(kept.grants as f64);
        lost
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no panic holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(entry: &str, grants: usize) -> RingBatch {
        let grant =
            |serial| RingGrant { serial, user: UserRef::from_store("u").unwrap(), claim_key_hash: serial, acquired: 0 };
        let entry = EntryId::parse(entry).unwrap();
        let grants = (1..=grants as u64).map(grant).collect();
        RingBatch { template: TemplateId(1), epoch: entry.epoch, entry, grants }
    }

    #[test]
    fn what_is_stored_goes_what_is_lost_is_told_and_the_rest_stays() {
        let ring = Ring::default();
        assert_eq!(ring.lowest_epoch(), None);
        for entry in ["2-9", "2-7", "2-8", "3-1"] {
            ring.push(batch(entry, 2));
        }
        let id = |text| EntryId::parse(text).unwrap();
        let verdict = |entry| match entry {
            entry if entry <= id("2-7") => Verdict::Stored,
            entry if entry < id("3-0") => Verdict::Lost,
            _ => Verdict::Waits,
        };
        assert_eq!(ring.settle(verdict), [batch("2-9", 2), batch("2-8", 2)]);
        assert_eq!((ring.lowest_epoch(), ring.kept().grants), (Some(3), 2));
    }

    #[test]
    fn the_oldest_fall_out_where_there_are_too_many() {
        let ring = Ring::default();
        ring.push(batch("1-1", 1));
        ring.push(batch("1-2", RING_GRANTS_MAX - 1));
        ring.push(batch("1-3", 1));
        let kept = ring.kept();
        assert_eq!((kept.grants, kept.batches.len()), (RING_GRANTS_MAX, 2));
    }
}
