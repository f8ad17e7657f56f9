//! Waits until a grant is a row: ack level `postgres`.
//!
//! One task a process asks PostgreSQL, one query a round, and only while somebody waits. Waiters
//! may live on any runtime.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::stores::postgres::PgRows;
use super::stores::{Reached, RowsSeen};
use crate::domain::ids::{CellId, EntryId, Epoch, Serial, TemplateId};
use crate::faults::{self, Bug};
use crate::limits;
use crate::pg::{Pg, PgFault};
use crate::telemetry::metrics;

/// What became of a grant that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Its row is committed.
    Committed,
    /// PostgreSQL refused its row.
    SetAside,
    /// Its entry lies beyond the end of its epoch's history: a failover lost it.
    BeyondFinal,
    /// Not known in time.
    Unknown,
}

/// A grant, and the entry that must be stored for it to be a row: its own, or for a replay the
/// cell's last one as of the replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Awaited {
    pub entry: EntryId,
    pub template: TemplateId,
    pub serial: Serial,
    pub epoch: Epoch,
}

/// Where to wait. Cheap to clone, one for each gateway thread.
#[derive(Clone)]
pub struct Acks {
    waiters: mpsc::Sender<Waiter>,
}

/// The task that asks. One a process.
pub struct AckPoller<R = PgRows> {
    rows: R,
    arrivals: mpsc::Receiver<Waiter>,
    waiting: Vec<Waiter>,
}

struct Waiter {
    awaited: Awaited,
    answer: oneshot::Sender<Ack>,
}

/// A waiting place and the task that serves it.
pub fn acks(pg: Pg, cell: CellId) -> (Acks, AckPoller) {
    acks_over(PgRows { pg, cell })
}

/// The same, where rows are seen by other means.
pub fn acks_over<R: RowsSeen>(rows: R) -> (Acks, AckPoller<R>) {
    let (waiters, arrivals) = mpsc::channel(limits::ACK_WAITERS_MAX);
    (Acks { waiters }, AckPoller { rows, arrivals, waiting: Vec::new() })
}

// === impl Acks ===

impl Acks {
    /// Whether so many wait that a place is worth something.
    pub fn is_crowded(&self) -> bool {
        self.waiters.capacity() < limits::ACK_WAITERS_MAX / 2
    }

    /// Waits until `deadline` at the longest. Where too many wait already, the answer is `Unknown`
    /// at once.
    pub async fn wait(&self, awaited: Awaited, deadline: Instant) -> Ack {
        let (answer, answered) = oneshot::channel();
        if self.waiters.try_send(Waiter { awaited, answer }).is_err() {
            return Ack::Unknown;
        }
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(ack)) => ack,
            Ok(Err(_)) | Err(_) => Ack::Unknown,
        }
    }
}

// === impl AckPoller ===

impl<R: RowsSeen> AckPoller<R> {
    /// Runs until every [`Acks`] is gone.
    pub async fn run(mut self) {
        let mut failing = false;
        loop {
            if self.waiting.is_empty() {
                match self.arrivals.recv().await {
                    Some(waiter) => self.waiting.push(waiter),
                    None => return,
                }
            }
            while self.waiting.len() < limits::ACK_WAITERS_MAX {
                match self.arrivals.try_recv() {
                    Ok(waiter) => self.waiting.push(waiter),
                    Err(_) => break,
                }
            }
            self.waiting.retain(|waiter| !waiter.answer.is_closed());
            metrics().ack_waiting.set(self.waiting.len() as f64);
            let pause = match self.round().await {
                Ok(()) => {
                    failing = false;
                    limits::ACK_POLL_MS
                }
                Err(fault) => {
                    metrics().postgres_error(fault.word());
                    if !failing {
                        tracing::warn!(%fault, "cannot ask for the watermark");
                    }
                    failing = true;
                    20 * limits::ACK_POLL_MS
                }
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// One look at PostgreSQL; answers whom it can.
    async fn round(&mut self) -> Result<(), PgFault> {
        let Some(lowest) = self.waiting.iter().map(|waiter| waiter.awaited.entry.epoch).min() else { return Ok(()) };
        let Reached { watermark, any_set_aside, endings } = self.rows.reached(lowest).await?;
        let mut passed = Vec::new();
        for waiter in std::mem::take(&mut self.waiting) {
            match judge(waiter.awaited.entry, watermark, &endings) {
                Some(Ack::Committed) if any_set_aside => passed.push(waiter),
                Some(ack) => drop(waiter.answer.send(ack)),
                None => self.waiting.push(waiter),
            }
        }
        if passed.is_empty() {
            return Ok(());
        }
        // Something was set aside once: only the row itself proves a grant.
        let asked: Vec<Awaited> = passed.iter().map(|waiter| waiter.awaited).collect();
        let stored: HashSet<Awaited> = match self.rows.stored(&asked).await {
            Ok(stored) => stored.into_iter().collect(),
            Err(fault) => {
                self.waiting.append(&mut passed);
                return Err(fault);
            }
        };
        for Waiter { awaited, answer } in passed {
            let _ = answer.send(if stored.contains(&awaited) { Ack::Committed } else { Ack::SetAside });
        }
        Ok(())
    }
}

/// What the watermark and the endings of histories say of an entry; `None`: not yet.
fn judge(entry: EntryId, watermark: EntryId, endings: &[(Epoch, EntryId)]) -> Option<Ack> {
    // A watermark of a later epoch has passed a lost entry too: the endings come first.
    let lost = endings.iter().any(|(epoch, ended)| *epoch > entry.epoch && *ended < entry);
    if lost && !faults::bug(Bug::EndingsIgnored) {
        return Some(Ack::BeyondFinal);
    }
    (watermark >= entry).then_some(Ack::Committed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_beyond_its_history_is_lost_though_the_watermark_passed_it() {
        let id = |text| EntryId::parse(text).unwrap();
        let endings = [(3, id("2-40")), (4, id("2-35"))];
        assert_eq!(judge(id("2-30"), id("2-30"), &endings), Some(Ack::Committed));
        assert_eq!(judge(id("2-30"), id("2-29"), &endings), None);
        assert_eq!(judge(id("2-38"), id("4-2"), &endings), Some(Ack::BeyondFinal));
        assert_eq!(judge(id("4-2"), id("4-2"), &endings), Some(Ack::Committed));
    }
}
