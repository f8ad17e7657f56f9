//! Waits until a grant is a row: ack level `postgres`.
//!
//! One task a process asks PostgreSQL, one query a round, and only while somebody waits. Waiters
//! may live on any runtime.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::cells::{self, Position, cell_i16};
use crate::domain::ids::{CellId, EntryId, Epoch, Serial, TemplateId};
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
pub struct AckPoller {
    pg: Pg,
    cell: CellId,
    arrivals: mpsc::Receiver<Waiter>,
    waiting: Vec<Waiter>,
}

struct Waiter {
    awaited: Awaited,
    answer: oneshot::Sender<Ack>,
}

/// Openings later than some waiter's epoch: where the history before each ended.
type Endings = Vec<(Epoch, EntryId)>;

/// A waiting place and the task that serves it.
pub fn acks(pg: Pg, cell: CellId) -> (Acks, AckPoller) {
    let (waiters, arrivals) = mpsc::channel(limits::ACK_WAITERS_MAX);
    (Acks { waiters }, AckPoller { pg, cell, arrivals, waiting: Vec::new() })
}

// === impl Acks ===

impl Acks {
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

impl AckPoller {
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
                        tracing::warn!(cell = self.cell.0, %fault, "cannot ask for the watermark");
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
        let client = self.pg.urgent().await?;
        let sql = include_str!("../sql/grant/wait_round.sql");
        let rows = client.query(sql, &[&cell_i16(self.cell), &i32::from(lowest)]).await?;
        let Some(first) = rows.first() else { return Err(PgFault::fault("the cell has no row")) };
        let position = Position { epoch: cells::epoch(first, 0), watermark: cells::entry(first, 1) };
        let any_set_aside = first.get::<_, i64>(3) > 0;
        let endings: Endings = rows
            .iter()
            .filter_map(|row| Some((row.get::<_, Option<i32>>(4)? as Epoch, cells::entry(row, 5))))
            .collect();
        let mut passed = Vec::new();
        for waiter in std::mem::take(&mut self.waiting) {
            match judge(waiter.awaited.entry, position.watermark, &endings) {
                Some(Ack::Committed) if any_set_aside => passed.push(waiter),
                Some(ack) => drop(waiter.answer.send(ack)),
                None => self.waiting.push(waiter),
            }
        }
        if passed.is_empty() {
            return Ok(());
        }
        // Something was set aside once: only the row itself proves a grant.
        let of = |number: fn(&Awaited) -> i32| passed.iter().map(|w| number(&w.awaited)).collect::<Vec<i32>>();
        let serials: Vec<i64> = passed.iter().map(|waiter| waiter.awaited.serial as i64).collect();
        let (templates, epochs) = (of(|awaited| awaited.template.as_i32()), of(|awaited| i32::from(awaited.epoch)));
        let stored = client.query(include_str!("../sql/grant/stored_of.sql"), &[&templates, &serials, &epochs]).await;
        let stored = match stored {
            Ok(rows) => rows,
            Err(error) => {
                self.waiting.append(&mut passed);
                return Err(error.into());
            }
        };
        let stored: HashSet<(i32, i64, i32)> = stored.iter().map(|r| (r.get(0), r.get(1), r.get(2))).collect();
        for Waiter { awaited, answer } in passed {
            let key = (awaited.template.as_i32(), awaited.serial as i64, i32::from(awaited.epoch));
            let _ = answer.send(if stored.contains(&key) { Ack::Committed } else { Ack::SetAside });
        }
        Ok(())
    }
}

/// What the watermark and the endings of histories say of an entry; `None`: not yet.
fn judge(entry: EntryId, watermark: EntryId, endings: &[(Epoch, EntryId)]) -> Option<Ack> {
    // A watermark of a later epoch has passed a lost entry too: the endings come first.
    if endings.iter().any(|(epoch, ended)| *epoch > entry.epoch && *ended < entry) {
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
