//! The loop that owns a cell: opens it, and moves its grants from the queue into PostgreSQL.
//!
//! Any number of processes may run it. Whoever holds the cell's advisory lock is the flusher, and
//! writes over the very connection that holds it: a lost connection is a lost ownership, and
//! PostgreSQL lets nobody else in before that connection's last transaction has ended. So the
//! watermark that the next owner reads also settles a COMMIT whose answer was lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_postgres::Client;

use super::cells::{self, Position};
use super::opening::{OpenFault, Opening};
use super::queue::{self, QueueEntry};
use super::writer::{WriteFault, Writer, Written};
use crate::clock;
use crate::config::{self, Config};
use crate::domain::ids::{CellId, EntryId, Epoch, TemplateId};
use crate::limits;
use crate::pg::{Pg, PgFault, PgKind};
use crate::redis::cell::{Identity, read_meta};
use crate::redis::client::{Link, Redis};
use crate::redis::fault::Fault;
use crate::redis::keys::CellKeys;
use crate::telemetry::metrics;

/// The flusher of one cell, waiting to become it.
pub struct Flusher {
    pg: Pg,
    redis: Redis,
    cell: CellId,
    keys: CellKeys,
    quota: config::Quota,
    settings: config::Flusher,
    redis_timeout: Duration,
    statement_timeout: Duration,
    wake: Arc<Notify>,
    position: Arc<watch::Sender<Position>>,
    stop: watch::Receiver<bool>,
    trouble: Trouble,
}

/// What the rest of the process has of its flusher.
#[derive(Clone)]
pub struct FlusherHandle {
    wake: Arc<Notify>,
    position: Arc<watch::Sender<Position>>,
}

/// One ownership: from the lock to the connection's end.
struct Owner {
    writer: Writer,
    link: Option<Link>,
    /// None: the cell must be looked at, and perhaps opened.
    identity: Option<Identity>,
    position: Position,
    /// Entries to ask for: as many as lately filled a transaction.
    count: usize,
    opening_next: Instant,
    opening_pause: Duration,
}

/// Why a pass ended early.
enum PassFault {
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

/// What is wrong at present: said once, and once when it is over.
#[derive(Default)]
struct Trouble {
    said: Option<&'static str>,
    pause: Duration,
}

/// A transaction may take several statements' time.
const STATEMENTS_A_TRANSACTION: u32 = 4;

/// Entries asked for at first.
const COUNT_FIRST: usize = 128;

// === impl FlusherHandle ===

impl FlusherHandle {
    /// There may be something on the queue: do not wait for the next look.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The cell's epoch and watermark, as long as this process is its flusher.
    pub fn position(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }
}

// === impl Flusher ===

impl Flusher {
    /// `stop` turns true once: the transaction under way ends, and what is left is stored for at
    /// most [`limits::FLUSH_STOP_MS`].
    pub fn new(pg: Pg, redis: Redis, cell: CellId, config: &Config, stop: watch::Receiver<bool>) -> Self {
        Flusher {
            pg,
            redis,
            cell,
            keys: CellKeys::new(cell),
            quota: config.quota.clone(),
            settings: config.flusher.clone(),
            redis_timeout: config::ms(config.redis.command_timeout_ms),
            statement_timeout: config::ms(config.postgres.statement_timeout_ms),
            wake: Arc::default(),
            position: Arc::new(watch::Sender::new(Position::default())),
            stop,
            trouble: Trouble::default(),
        }
    }

    pub fn handle(&self) -> FlusherHandle {
        FlusherHandle { wake: self.wake.clone(), position: self.position.clone() }
    }

    /// Runs until it is stopped. Outlives every error.
    pub async fn run(mut self) {
        while !*self.stop.borrow() {
            let ended = match self.acquire().await {
                Ok(Some(client)) => self.own(client).await,
                Ok(None) => break,
                Err(fault) => Err(PassFault::Lost(fault.to_string())),
            };
            metrics().flusher_active.set(0.0);
            let pause = match ended {
                Ok(()) => break,
                Err(PassFault::Refused(fault)) => {
                    metrics().openings_refused.increment(1);
                    self.trouble.say(&self.settings, self.cell, fault.word(), &fault.to_string());
                    config::ms(limits::OPEN_PAUSE_MS)
                }
                Err(PassFault::Lost(why)) => self.trouble.say(&self.settings, self.cell, "postgres", &why),
                Err(_) => config::ms(self.settings.backoff_max_ms),
            };
            self.pause(pause).await;
        }
        metrics().flusher_active.set(0.0);
    }

    /// Waits to become the flusher. `None`: stopped before.
    async fn acquire(&mut self) -> Result<Option<Client>, PgFault> {
        let client = self.pg.own().await?;
        // A flusher whose machine vanished must not hold the lock for hours.
        client
            .batch_execute("SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3")
            .await?;
        loop {
            let sql = include_str!("../sql/grant/try_lock.sql");
            let cell = i32::from(self.cell.0);
            let locked = tokio::time::timeout(self.statement_timeout, client.query_one(sql, &[&cell]))
                .await
                .map_err(|_| PgFault::transient("no answer in time"))??;
            if locked.get(0) {
                return Ok(Some(client));
            }
            // Someone else is the flusher: nothing is wrong here.
            metrics().flusher_failing.set(0.0);
            self.pause(config::ms(limits::FLUSHER_LOCK_PAUSE_MS)).await;
            if *self.stop.borrow() {
                return Ok(None);
            }
        }
    }

    /// Flushes as the owner. `Ok`: stopped in order. Dropping the connection lets the lock go.
    async fn own(&mut self, client: Client) -> Result<(), PassFault> {
        let timeout = self.statement_timeout * STATEMENTS_A_TRANSACTION;
        let writer = Writer::new(client, self.cell, timeout).await.map_err(lost)?;
        metrics().flusher_active.set(1.0);
        tracing::info!(cell = self.cell.0, "this process is the flusher");
        let mut owner = Owner {
            writer,
            link: None,
            identity: None,
            position: Position::default(),
            count: COUNT_FIRST,
            opening_next: Instant::now(),
            opening_pause: config::ms(limits::OPEN_PAUSE_MS),
        };
        let mut stop_by = None;
        loop {
            if *self.stop.borrow() && stop_by.is_none() {
                stop_by = Some(Instant::now() + config::ms(limits::FLUSH_STOP_MS));
            }
            if stop_by.is_some_and(|by| Instant::now() >= by) {
                tracing::warn!(
                    cell = self.cell.0,
                    "stopped with entries left on the queue: the next flusher stores them"
                );
                return Ok(());
            }
            let pause = match self.pass(&mut owner).await {
                Ok(busy) => {
                    self.trouble.over(self.cell);
                    match (busy, stop_by) {
                        (true, _) => {}
                        (false, Some(_)) => return Ok(()),
                        (false, None) => self.idle().await,
                    }
                    continue;
                }
                Err(PassFault::Again(kind, why)) => {
                    if owner.writer.client().is_closed() {
                        return Err(PassFault::Lost(why));
                    }
                    self.trouble.say(&self.settings, self.cell, kind, &why)
                }
                Err(PassFault::Gap { after, found }) => {
                    metrics().queue_gap.increment(1);
                    let why = format!("the queue goes on with {found} behind {after}: entries are missing");
                    self.trouble.say(&self.settings, self.cell, "gap", &why);
                    config::ms(self.settings.backoff_max_ms)
                }
                Err(PassFault::OpenLater(pause)) => pause,
                Err(fault) => return Err(fault),
            };
            match stop_by {
                Some(by) => tokio::time::sleep(pause.min(by.saturating_duration_since(Instant::now()))).await,
                None => self.pause(pause).await,
            }
        }
    }

    /// One look at the queue: whether there was anything.
    async fn pass(&mut self, owner: &mut Owner) -> Result<bool, PassFault> {
        if owner.link.is_none() {
            owner.identity = None;
            owner.link = Some(self.redis.link().await.map_err(again)?);
        }
        let result = self.pass_linked(owner).await;
        if result.is_err() {
            // After a fault nobody knows what is still on its way over the old connection.
            owner.link = None;
        }
        result
    }

    async fn pass_linked(&mut self, owner: &mut Owner) -> Result<bool, PassFault> {
        if owner.identity.is_none() {
            self.identify(owner).await?;
        }
        let (Some(link), Some(identity)) = (owner.link.as_mut(), owner.identity.clone()) else { return Ok(true) };
        let after = owner.position.watermark;
        let read =
            queue::read(link, &self.keys, &identity, after, owner.count, self.redis_timeout).await.map_err(again)?;
        metrics().backlog_entries.set(read.length as f64);
        let Some(first) = read.entries.first() else {
            metrics().backlog_age_seconds.set(0.0);
            return Ok(false);
        };
        if let Some(grant) =
            super::entry::decode(first.id, &first.payload).ok().and_then(|grants| grants.first().copied())
        {
            metrics().backlog_age_seconds.set((read.now - grant.acquired).max(0) as f64 / 1000.0);
        }
        let whole = self.contiguous(owner, &read.entries).await?;
        if whole == 0 {
            return Err(PassFault::Gap { after, found: first.id });
        }
        let taken = bounded(&read.entries[..whole], self.settings.rows_max);
        let written = self.write(owner, taken).await?;
        let rows = written.rows + written.set_aside + written.repeats;
        owner.count = next_count(taken.len(), rows, self.settings.rows_max);
        let templates: Vec<TemplateId> = written.templates.into_iter().collect();
        let Some(link) = owner.link.as_mut() else { return Ok(true) };
        queue::trim(link, &self.keys, &identity, owner.position.watermark, &templates, self.redis_timeout)
            .await
            .map_err(again)?;
        Ok(true)
    }

    async fn write(&self, owner: &mut Owner, taken: &[QueueEntry]) -> Result<Written, PassFault> {
        let Position { epoch, watermark } = owner.position;
        let started = Instant::now();
        let written = owner.writer.write(epoch, watermark, taken).await.map_err(|fault| match fault {
            WriteFault::Zombie => PassFault::Lost("another flusher has taken over".into()),
            // Whether it committed is settled by the watermark, once the lock is ours again.
            WriteFault::Pg(fault) if fault.kind == PgKind::Unknown => lost(fault),
            WriteFault::Pg(fault) => {
                metrics().postgres_error(fault.word());
                PassFault::Again("postgres", fault.to_string())
            }
        })?;
        if let Some(last) = taken.last() {
            owner.position.watermark = last.id;
            self.position.send_replace(owner.position);
        }
        metrics().flush_seconds.record(started.elapsed().as_secs_f64());
        metrics().flush_rows.increment(written.rows as u64);
        metrics().flush_batch_rows.record(written.rows as f64);
        metrics().set_aside_rows.increment(written.set_aside as u64);
        if let Some(newest) = written.newest {
            metrics().watermark_lag_seconds.set((clock::now_ms() - newest).max(0) as f64 / 1000.0);
        }
        Ok(written)
    }

    /// How many entries follow on the watermark; asks PostgreSQL only where a marker is among them.
    async fn contiguous(&self, owner: &Owner, entries: &[QueueEntry]) -> Result<usize, PassFault> {
        let mut finals: Vec<(Epoch, EntryId)> = Vec::new();
        for entry in entries.iter().filter(|entry| entry.id.is_marker()) {
            let ended =
                cells::final_before(owner.writer.client(), self.cell, entry.id.epoch).await.map_err(pg_again)?;
            finals.extend(ended.map(|ended| (entry.id.epoch, ended)));
        }
        Ok(queue::contiguous(owner.position.watermark, entries, |epoch| {
            finals.iter().find(|(known, _)| *known == epoch).map(|(_, ended)| *ended)
        }))
    }

    /// Makes the cell's identity known: as it is, where everything matches, else by opening it.
    async fn identify(&self, owner: &mut Owner) -> Result<(), PassFault> {
        let Some(link) = owner.link.as_mut() else { return Ok(()) };
        let row = cells::read(owner.writer.client(), self.cell).await.map_err(pg_again)?;
        let meta = tokio::time::timeout(self.redis_timeout, read_meta(link, &self.keys)).await;
        let meta = meta.unwrap_or_else(|_| Err(Fault::timeout())).map_err(again)?;
        owner.position = row.position;
        let set_back = meta.last < row.position.watermark;
        let mut marked: Vec<TemplateId> = meta.marks.iter().map(|(template, _)| *template).collect();
        owner.identity = Identity::of(&meta).filter(|identity| identity.epoch == row.position.epoch && !set_back);
        if owner.identity.is_none() {
            metrics().cell_epoch.set(0.0);
            let now = Instant::now();
            if now < owner.opening_next {
                return Err(PassFault::OpenLater(owner.opening_next - now));
            }
            owner.opening_next = now + owner.opening_pause;
            let opened = Opening {
                client: owner.writer.client(),
                link,
                keys: &self.keys,
                cell: self.cell,
                quota: &self.quota,
                timeout: self.redis_timeout,
                progress: &|_| {},
            }
            .run()
            .await;
            let opened = match opened {
                Ok(opened) => opened,
                Err(fault @ OpenFault::Refused(_)) => return Err(PassFault::Refused(fault)),
                Err(OpenFault::Overtaken) => return Err(PassFault::Lost(OpenFault::Overtaken.to_string())),
                Err(OpenFault::Pg(fault)) if fault.kind == PgKind::Unknown => return Err(lost(fault)),
                Err(fault) => {
                    let longest = config::ms(limits::OPEN_PAUSE_MAX_MS);
                    owner.opening_pause = (owner.opening_pause * 2).min(longest);
                    return Err(PassFault::Again("opening", format!("the cell cannot be opened: {fault}")));
                }
            };
            owner.opening_pause = config::ms(limits::OPEN_PAUSE_MS);
            metrics().openings.increment(1);
            tracing::info!(
                cell = self.cell.0,
                epoch = opened.identity.epoch,
                history_ended = %opened.final_id,
                rows = opened.rows_reapplied,
                "the cell is open"
            );
            owner.position.epoch = opened.identity.epoch;
            owner.identity = Some(opened.identity);
            marked.clear();
        }
        self.position.send_replace(owner.position);
        metrics().cell_epoch.set(f64::from(owner.position.epoch));
        // What a flusher before this one stored, it may not have trimmed.
        if let (Some(link), Some(identity)) = (owner.link.as_mut(), &owner.identity) {
            queue::trim(link, &self.keys, identity, owner.position.watermark, &marked, self.redis_timeout)
                .await
                .map_err(again)?;
        }
        Ok(())
    }

    /// Waits until it is stopped, at the longest. Nothing else cuts the pause after an error short.
    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Where the sender is gone, nobody can stop it and the pause is whole.
            Ok(()) = self.stop.changed() => {}
        }
    }

    /// Waits for the next look at an empty queue, or until it is woken.
    async fn idle(&mut self) {
        let wake = self.wake.clone();
        tokio::select! {
            () = self.pause(config::ms(self.settings.poll_ms)) => {}
            () = wake.notified() => {}
        }
    }
}

/// The entries from the front whose payloads can hold no more than `rows_max` rows, and one at least.
fn bounded(entries: &[QueueEntry], rows_max: usize) -> &[QueueEntry] {
    let mut rows = 0;
    let fits = entries.iter().take_while(|entry| {
        rows += super::entry::decode(entry.id, &entry.payload).map_or(1, |grants| grants.len());
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
    if fault.kind == PgKind::Unknown { lost(fault) } else { PassFault::Again("postgres", fault.to_string()) }
}

fn lost(fault: PgFault) -> PassFault {
    metrics().postgres_error(fault.word());
    PassFault::Lost(fault.to_string())
}

// === impl Trouble ===

impl Trouble {
    /// Logs what is wrong, once for each kind in a row, and returns the pause before the next try.
    fn say(&mut self, settings: &config::Flusher, cell: CellId, kind: &'static str, why: &str) -> Duration {
        metrics().flusher_failing.set(1.0);
        if self.said != Some(kind) {
            tracing::error!(cell = cell.0, kind, why, "the flusher cannot go on and repeats");
            self.said = Some(kind);
        }
        let (min, max) = (config::ms(settings.backoff_min_ms), config::ms(settings.backoff_max_ms));
        self.pause = (self.pause * 2).clamp(min, max);
        self.pause
    }

    fn over(&mut self, cell: CellId) {
        if self.said.take().is_some() {
            tracing::info!(cell = cell.0, "the flusher goes on");
        }
        self.pause = Duration::ZERO;
        metrics().flusher_failing.set(0.0);
    }
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
