//! Entries of the grant queue, and whether they follow on the watermark.
//!
//! An entry may be read many times and is stored once. It is trimmed after the commit that stores
//! it, never before, so a crash at any line costs a repeat, not a coupon.

use super::stores::Archive;
use crate::domain::ids::{EntryId, Epoch};
use crate::domain::window::Millis;
use crate::faults::{self, Bug};
use crate::pg::PgFault;

/// One entry of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    pub id: EntryId,
    /// The packed grants. A marker has none; what is no entry of ours shows as empty.
    pub payload: Vec<u8>,
}

/// What one read found.
#[derive(Debug)]
pub struct Read {
    pub now: Millis,
    /// Entries on the queue in all, trimmed or not yet.
    pub length: u64,
    pub entries: Vec<QueueEntry>,
}

/// How many of `entries` follow on `after` without a gap, as [`contiguous`] says. Asks PostgreSQL
/// only where a marker is among them.
pub async fn follow(archive: &impl Archive, after: EntryId, entries: &[QueueEntry]) -> Result<usize, PgFault> {
    let mut finals = Vec::new();
    for entry in entries.iter().filter(|entry| entry.id.is_marker()) {
        let ended = archive.final_before(entry.id.epoch).await?;
        finals.extend(ended.map(|ended| (entry.id.epoch, ended)));
    }
    Ok(contiguous(after, entries, |epoch| finals.iter().find(|(known, _)| *known == epoch).map(|(_, ended)| *ended)))
}

/// How many of `entries` follow on `after` without a gap.
///
/// An entry follows with the next sequence of the same epoch, or as the marker of a later epoch
/// before which the history ended exactly here; `final_before` tells where it ended.
pub fn contiguous(after: EntryId, entries: &[QueueEntry], final_before: impl Fn(Epoch) -> Option<EntryId>) -> usize {
    let mut at = after;
    for (position, entry) in entries.iter().enumerate() {
        let follows = if entry.id.is_marker() {
            entry.id.epoch > at.epoch && final_before(entry.id.epoch) == Some(at)
        } else {
            entry.id.epoch == at.epoch && Some(entry.id.seq) == at.seq.checked_add(1)
        };
        if !follows && !faults::bug(Bug::GapIgnored) {
            return position;
        }
        at = entry.id;
    }
    entries.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(ids: &[&str]) -> Vec<QueueEntry> {
        ids.iter().map(|id| QueueEntry { id: EntryId::parse(id).unwrap(), payload: Vec::new() }).collect()
    }

    #[test]
    fn a_gap_and_a_foreign_marker_stop_the_reader() {
        let id = |text| EntryId::parse(text).unwrap();
        // Epoch 2 began after 1-3; epoch 4 after 2-1; epoch 3 was never opened.
        let final_before = |epoch| match epoch {
            2 => Some(id("1-3")),
            4 => Some(id("2-1")),
            _ => None,
        };
        let run = |after, ids: &[&str]| contiguous(id(after), &entries(ids), final_before);
        assert_eq!(run("1-1", &["1-2", "1-3", "2-0", "2-1", "4-0", "4-1"]), 6);
        assert_eq!(run("1-1", &["1-3"]), 0);
        assert_eq!(run("1-1", &["1-2", "2-0"]), 1);
        assert_eq!(run("1-3", &["2-1"]), 0);
        assert_eq!(run("2-1", &["3-0"]), 0);
        assert_eq!(run("2-1", &["2-0"]), 0);
        assert_eq!(run("0-0", &[]), 0);
    }
}
