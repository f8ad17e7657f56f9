//! What a flusher does while it owns its cell: look, read, write, trim.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::cells::Position;
use super::entry;
use super::opening::{OpenFault, Opening};
use super::queue::{self, QueueEntry};
use super::reapply;
use super::stores::{Archive, CellLink, Stores};
use super::writer::{WriteFault, Writer, Written};
use crate::config;
use crate::domain::ids::{CellId, EntryId, TemplateId};
use crate::faults::{self, Bug, Point};
use crate::limits;
use crate::pg::{PgFault, PgKind};
use crate::redis::cell::Identity;
use crate::redis::fault::Fault;
use crate::telemetry::metrics;

/// What every ownership of one flusher works with.
pub(super) struct Ground<S> {
    pub stores: S,
    pub cell: CellId,
    pub quota: config::Quota,
    /// Which installation this is: a Redis of another one is refused.
    pub install: String,
    pub rows_max: usize,
    pub write_timeout: Duration,
    pub position: watch::Sender<Position>,
}

/// How often the cell may be opened, and how much is stored at once. Outlives ownerships.
pub(super) struct Pace {
    next: Instant,
    pause: Duration,
    /// Rows in one transaction: fewer after one that PostgreSQL could not finish.
    rows_max: usize,
}

/// One ownership: from the lock to the connection's end.
pub(super) struct Owner<'a, S: Stores> {
    ground: &'a Ground<S>,
    pace: &'a mut Pace,
    writer: Writer<S::Archive>,
    link: Option<S::Link>,
    /// None: the cell must be looked at, and perhaps opened.
    identity: Option<Identity>,
    position: Position,
    /// Entries to ask for: as many as lately filled a transaction.
    count: usize,
}

/// Why a pass ended early.
pub(super) enum PassFault {
    /// Ownership is gone or worthless: the connection is dropped.
    Lost(String),
    /// `floodgate recover` must be able to take the lock: it is let go for a while.
    Refused(OpenFault),
    /// Once more after a pause, still owner: who failed, and why.
    Again(&'static str, String),
    /// The queue does not follow on the watermark: once more, slowly.
    Gap { after: EntryId, found: EntryId },
    /// Too early for another attempt to open.
    OpenLater(Duration),
}

/// Entries asked for at first.
const COUNT_FIRST: usize = 128;

/// Rows that a transaction may always have.
const ROWS_MAX_LEAST: usize = 100;

// === impl Pace ===

impl Pace {
    pub fn new(rows_max: usize) -> Self {
        Pace { next: Instant::now(), pause: config::ms(limits::OPEN_PAUSE_MS), rows_max }
    }

    /// Takes the right to one attempt, or tells how long there is none.
    fn attempt(&mut self) -> Result<(), Duration> {
        let now = Instant::now();
        if now < self.next {
            return Err(self.next - now);
        }
        self.next = now + self.pause;
        Ok(())
    }

    /// Each attempt that fails in the middle costs an epoch: the next ones come more slowly.
    fn failed(&mut self) {
        self.pause = (self.pause * 2).min(config::ms(limits::OPEN_PAUSE_MAX_MS));
    }

    fn opened(&mut self) {
        self.pause = config::ms(limits::OPEN_PAUSE_MS);
    }
}

// === impl Owner ===

impl<'a, S: Stores> Owner<'a, S> {
    /// `archive` holds the cell's advisory lock; dropping the owner lets it go.
    pub fn new(ground: &'a Ground<S>, pace: &'a mut Pace, archive: S::Archive) -> Self {
        Owner {
            writer: Writer::new(archive, ground.cell, ground.write_timeout),
            link: None,
            identity: None,
            position: Position::default(),
            count: COUNT_FIRST,
            ground,
            pace,
        }
    }

    /// Whether the connection that holds the lock is gone.
    pub fn is_closed(&self) -> bool {
        self.writer.archive().is_closed()
    }

    /// One look at the queue: whether there was anything.
    pub async fn pass(&mut self) -> Result<bool, PassFault> {
        let mut link = match self.link.take().filter(CellLink::is_current) {
            Some(link) => link,
            None => {
                self.identity = None;
                self.ground.stores.link().await.map_err(again)?
            }
        };
        // After a fault the link is dropped: nobody knows what is still on its way over it.
        let busy = self.pass_over(&mut link).await?;
        self.link = Some(link);
        Ok(busy)
    }

    async fn pass_over(&mut self, link: &mut S::Link) -> Result<bool, PassFault> {
        let identity = match self.identity.clone() {
            Some(identity) => identity,
            None => self.identify(link).await?,
        };
        let after = self.position.watermark;
        let read = link.read(&identity, after, self.count).await.map_err(again)?;
        let Some(first) = read.entries.first() else { return Ok(false) };
        let whole = self.contiguous(&read.entries).await?;
        if whole == 0 {
            return Err(PassFault::Gap { after, found: first.id });
        }
        let taken = bounded(&read.entries[..whole], self.pace.rows_max);
        faults::point(Point::FlushBeforeTransaction);
        if let (true, Some(last)) = (faults::bug(Bug::TrimBeforeCommit), taken.last()) {
            link.trim(&identity, last.id, &[], 0).await.map_err(again)?;
        }
        let written = self.write(taken).await?;
        faults::point(Point::FlushBeforeTrim);
        let rows = written.rows + written.set_aside + written.repeats;
        self.count = next_count(taken.len(), rows, self.pace.rows_max);
        let templates: Vec<TemplateId> = written.templates.into_iter().collect();
        link.trim(&identity, self.position.watermark, &templates, rows).await.map_err(again)?;
        Ok(true)
    }

    async fn write(&mut self, taken: &[QueueEntry]) -> Result<Written, PassFault> {
        let Position { epoch, watermark } = self.position;
        let started = Instant::now();
        let written = match self.writer.write(epoch, watermark, taken).await {
            Ok(written) => written,
            Err(WriteFault::Zombie) => return Err(PassFault::Lost("another flusher has taken over".into())),
            // Whether it committed is settled by the watermark, once the lock is ours again.
            Err(WriteFault::Pg(fault)) if fault.kind == PgKind::Unknown => return Err(lost(fault)),
            Err(WriteFault::Pg(fault)) => {
                metrics().postgres_error(fault.word());
                self.pace.rows_max = (self.pace.rows_max / 2).max(ROWS_MAX_LEAST.min(self.ground.rows_max));
                return Err(PassFault::Again("postgres", fault.to_string()));
            }
        };
        self.pace.rows_max = (self.pace.rows_max * 2).min(self.ground.rows_max);
        if let Some(last) = taken.last() {
            self.position.watermark = last.id;
            self.ground.position.send_replace(self.position);
        }
        metrics().flush_seconds.record(started.elapsed().as_secs_f64());
        metrics().flush_rows.increment(written.rows as u64);
        metrics().flush_batch_rows.record(written.rows as f64);
        metrics().set_aside_rows.increment(written.set_aside as u64);
        Ok(written)
    }

    /// How many entries follow on the watermark; asks PostgreSQL only where a marker is among them.
    async fn contiguous(&self, entries: &[QueueEntry]) -> Result<usize, PassFault> {
        queue::follow(self.writer.archive(), self.position.watermark, entries).await.map_err(pg_again)
    }

    /// Makes the cell's identity known: as it is, where everything matches, else by opening it.
    async fn identify(&mut self, link: &mut S::Link) -> Result<Identity, PassFault> {
        let row = self.writer.archive().cell().await.map_err(pg_again)?;
        let meta = link.meta().await.map_err(again)?;
        self.position = row.position;
        let set_back = meta.last < row.position.watermark;
        // Quotas are fixed while a cell is open: other settings are another opening.
        let same_quotas = meta.quotas == reapply::quotas(&self.ground.quota);
        let adopted =
            Identity::of(&meta).filter(|identity| identity.epoch == row.position.epoch && !set_back && same_quotas);
        let identity = match adopted {
            Some(identity) => identity,
            None => self.open(link).await?,
        };
        self.position.epoch = identity.epoch;
        self.ground.position.send_replace(self.position);
        metrics().cell_epoch.set(f64::from(identity.epoch));
        // What a flusher before this one stored, it may not have trimmed.
        let marked: Vec<TemplateId> = meta.marks.iter().map(|(template, _)| *template).collect();
        link.trim(&identity, self.position.watermark, &marked, 0).await.map_err(again)?;
        self.identity = Some(identity.clone());
        Ok(identity)
    }

    async fn open(&mut self, link: &mut S::Link) -> Result<Identity, PassFault> {
        metrics().cell_epoch.set(0.0);
        self.pace.attempt().map_err(PassFault::OpenLater)?;
        let mut opening = Opening {
            archive: self.writer.archive(),
            link,
            cell: self.ground.cell,
            quota: &self.ground.quota,
            install: &self.ground.install,
            progress: &|_| {},
        };
        let opened = match opening.run().await {
            Ok(opened) => opened,
            Err(fault @ OpenFault::Refused(_)) => return Err(PassFault::Refused(fault)),
            Err(OpenFault::Overtaken) => return Err(PassFault::Lost(OpenFault::Overtaken.to_string())),
            Err(fault) => {
                self.pace.failed();
                return Err(match fault {
                    OpenFault::Pg(fault) if fault.kind == PgKind::Unknown => lost(fault),
                    fault => PassFault::Again("opening", format!("the cell cannot be opened: {fault}")),
                });
            }
        };
        self.pace.opened();
        metrics().openings.increment(1);
        tracing::info!(
            cell = self.ground.cell.0,
            epoch = opened.identity.epoch,
            history_ended = %opened.final_id,
            rows = opened.rows_reapplied,
            "the cell is open"
        );
        Ok(opened.identity)
    }
}

/// The entries from the front whose payloads hold no more than `rows_max` rows, and one at least.
fn bounded(entries: &[QueueEntry], rows_max: usize) -> &[QueueEntry] {
    let mut rows = 0;
    let fits = entries.iter().take_while(|entry| {
        rows += entry::decode(entry.id, &entry.payload).map_or(1, |grants| grants.len());
        rows <= rows_max
    });
    let count = fits.count();
    &entries[..count.max(1).min(entries.len())]
}

/// Entries to ask for next: as many as filled `rows_max` lately, at most twice as many as were there.
fn next_count(entries: usize, rows: usize, rows_max: usize) -> usize {
    let fill = rows_max * entries / rows.max(1);
    fill.min(2 * entries).clamp(COUNT_FIRST, limits::FLUSH_ENTRIES_MAX)
}

fn again(fault: Fault) -> PassFault {
    metrics().redis_error(fault.kind);
    PassFault::Again("redis", fault.to_string())
}

fn pg_again(fault: PgFault) -> PassFault {
    if fault.kind == PgKind::Unknown {
        return lost(fault);
    }
    metrics().postgres_error(fault.word());
    PassFault::Again("postgres", fault.to_string())
}

pub(super) fn lost(fault: PgFault) -> PassFault {
    metrics().postgres_error(fault.word());
    PassFault::Lost(fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::entry;

    #[test]
    fn a_transaction_takes_as_many_entries_as_fit_and_one_at_least() {
        let grant = entry::Grant {
            template: TemplateId(1),
            serial: 1,
            epoch: 1,
            acquired: 0,
            claim_key_hash: 1,
            user: b"u",
            ip_hash: None,
            device_hash: None,
        };
        let entries: Vec<_> = (1..=5)
            .map(|seq| QueueEntry { id: EntryId::new(1, seq), payload: entry::encode(0, &[grant; 3]) })
            .collect();
        assert_eq!(bounded(&entries, 100).len(), 5);
        assert_eq!(bounded(&entries, 7).len(), 2);
        assert_eq!(bounded(&entries, 1).len(), 1);
    }

    #[test]
    fn reads_grow_with_the_backlog_and_shrink_with_the_entries() {
        assert_eq!(next_count(128, 128, 20_000), 256);
        assert_eq!(next_count(1_500, 1_500, 20_000), limits::FLUSH_ENTRIES_MAX);
        assert_eq!(next_count(200, 100_000, 20_000), COUNT_FIRST);
    }
}
