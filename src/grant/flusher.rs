//! The loop that owns a cell: opens it, and moves its grants from the queue into PostgreSQL.
//!
//! Any number of processes may run it. Whoever holds the cell's advisory lock is the flusher, and
//! writes over the very connection that holds it: a lost connection is a lost ownership, and
//! PostgreSQL lets nobody else in before that connection's last transaction has ended. So the
//! watermark that the next owner reads also settles a COMMIT whose answer was lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::cells::Position;
use super::owner::{Ground, Owner, Pace, PassFault, lost};
use super::stores::postgres::LiveStores;
use super::stores::{Archive, Stores};
use crate::config::{self, Config};
use crate::domain::ids::CellId;
use crate::limits;
use crate::pg::{Pg, PgFault};
use crate::redis::client::Redis;
use crate::telemetry::metrics;

/// The flusher of one cell, waiting to become it.
pub struct Flusher<S = LiveStores> {
    ground: Ground<S>,
    pace: Pace,
    settings: config::Flusher,
    statement_timeout: Duration,
    wake: Arc<Notify>,
    stop: watch::Receiver<bool>,
    trouble: Trouble,
}

/// What the rest of the process has of its flusher.
#[derive(Clone)]
pub struct FlusherHandle {
    wake: Arc<Notify>,
    position: watch::Receiver<Position>,
}

/// What is wrong at present: said once, and once when it is over.
#[derive(Default)]
struct Trouble {
    said: Option<&'static str>,
    pause: Duration,
}

/// A transaction may take several statements' time.
const STATEMENTS_A_TRANSACTION: u32 = 4;

// === impl FlusherHandle ===

impl FlusherHandle {
    /// There may be something on the queue: do not wait for the next look.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The cell's epoch and watermark, as of the last time this process was its flusher.
    pub fn position(&self) -> watch::Receiver<Position> {
        self.position.clone()
    }
}

// === impl Flusher ===

impl Flusher {
    /// Over the stores that are configured; see [`Flusher::over`].
    pub fn new(pg: Pg, redis: Redis, cell: CellId, config: &Config, stop: watch::Receiver<bool>) -> Self {
        let redis_timeout = config::ms(config.redis.command_timeout_ms);
        Flusher::over(LiveStores { pg, redis, cell, redis_timeout }, cell, config, stop)
    }
}

impl<S: Stores> Flusher<S> {
    /// `stop` turns true once: the transaction under way ends, and what is left is stored for at
    /// most [`limits::FLUSH_STOP_MS`].
    pub fn over(stores: S, cell: CellId, config: &Config, stop: watch::Receiver<bool>) -> Self {
        let statement_timeout = config::ms(config.postgres.statement_timeout_ms);
        let ground = Ground {
            stores,
            cell,
            quota: config.quota.clone(),
            install: config.install_name(),
            rows_max: config.flusher.rows_max,
            write_timeout: statement_timeout * STATEMENTS_A_TRANSACTION,
            position: watch::Sender::new(Position::default()),
        };
        let (pace, settings) = (Pace::new(config.flusher.rows_max), config.flusher.clone());
        Flusher { ground, pace, settings, statement_timeout, wake: Arc::default(), stop, trouble: Trouble::default() }
    }

    pub fn handle(&self) -> FlusherHandle {
        FlusherHandle { wake: self.wake.clone(), position: self.ground.position.subscribe() }
    }

    /// Runs until it is stopped. Outlives every error.
    pub async fn run(mut self) {
        while !*self.stop.borrow() {
            let ended = match self.acquire().await {
                Ok(Some(archive)) => self.own(archive).await,
                Ok(None) => break,
                Err(fault) => Err(lost(fault)),
            };
            metrics().flusher_active.set(0.0);
            let pause = match ended {
                Ok(()) => break,
                Err(PassFault::Refused(fault)) => {
                    metrics().openings_refused.increment(1);
                    self.say(fault.word(), &fault.to_string());
                    config::ms(limits::OPEN_PAUSE_MS)
                }
                Err(PassFault::Lost(why)) => self.say("ownership", &why),
                Err(PassFault::Again(kind, why)) => {
                    self.say(kind, &why);
                    config::ms(2 * limits::FLUSHER_LOCK_PAUSE_MS)
                }
                Err(PassFault::Gap { .. } | PassFault::OpenLater(_)) => config::ms(self.settings.backoff_max_ms),
            };
            pause_until_stop(&mut self.stop, pause).await;
        }
        metrics().flusher_active.set(0.0);
    }

    /// Waits to become the flusher. `None`: stopped before.
    async fn acquire(&mut self) -> Result<Option<S::Archive>, PgFault> {
        let archive = self.ground.stores.archive().await?;
        loop {
            let locked = tokio::time::timeout(self.statement_timeout, archive.try_lock()).await;
            if locked.map_err(|_| PgFault::transient("no answer in time"))?? {
                return Ok(Some(archive));
            }
            // Someone else is the flusher: nothing is wrong here.
            metrics().flusher_failing.set(0.0);
            pause_until_stop(&mut self.stop, config::ms(limits::FLUSHER_LOCK_PAUSE_MS)).await;
            if *self.stop.borrow() {
                return Ok(None);
            }
        }
    }

    /// Flushes as the owner. `Ok`: stopped in order. Dropping the connection lets the lock go.
    async fn own(&mut self, archive: S::Archive) -> Result<(), PassFault> {
        let cell = self.ground.cell;
        let mut owner = Owner::new(&self.ground, &mut self.pace, archive);
        metrics().flusher_active.set(1.0);
        tracing::info!(cell = cell.0, "this process is the flusher");
        let (mut stop_by, mut failing_since) = (None, None);
        loop {
            if *self.stop.borrow() && stop_by.is_none() {
                stop_by = Some(Instant::now() + config::ms(limits::FLUSH_STOP_MS));
            }
            if stop_by.is_some_and(|by| Instant::now() >= by) {
                tracing::warn!(cell = cell.0, "stopped with entries on the queue: the next flusher stores them");
                return Ok(());
            }
            let pause = match owner.pass().await {
                Ok(busy) => {
                    failing_since = None;
                    self.trouble.over(cell);
                    match (busy, stop_by) {
                        (true, _) => {}
                        (false, Some(_)) => return Ok(()),
                        (false, None) => {
                            tokio::select! {
                                () = pause_until_stop(&mut self.stop, config::ms(self.settings.poll_ms)) => {}
                                () = self.wake.notified() => {}
                            }
                        }
                    }
                    continue;
                }
                Err(PassFault::Again(kind, why)) => {
                    if owner.is_closed() {
                        return Err(PassFault::Lost(why));
                    }
                    let pause = self.trouble.say(&self.settings, cell, kind, &why);
                    if failing_since.get_or_insert_with(Instant::now).elapsed() > config::ms(limits::FLUSHER_YIELD_MS) {
                        // Another process may reach what this one cannot.
                        return Err(PassFault::Again(kind, why));
                    }
                    // No claim is possible before a Redis that has come back is open.
                    if kind == "postgres" { pause } else { pause.min(config::ms(limits::OPEN_PAUSE_MS)) }
                }
                Err(PassFault::Gap { after, found }) => {
                    metrics().queue_gap.increment(1);
                    let why = format!("the queue goes on with {found} behind {after}: entries are missing");
                    self.trouble.say(&self.settings, cell, "gap", &why);
                    config::ms(self.settings.backoff_max_ms)
                }
                Err(PassFault::OpenLater(pause)) => pause,
                Err(fault) => return Err(fault),
            };
            match stop_by {
                Some(by) => tokio::time::sleep(pause.min(by.saturating_duration_since(Instant::now()))).await,
                None => pause_until_stop(&mut self.stop, pause).await,
            }
        }
    }

    fn say(&mut self, kind: &'static str, why: &str) -> Duration {
        self.trouble.say(&self.settings, self.ground.cell, kind, why)
    }
}

/// Waits, but not longer than until the stop. Nothing else cuts the pause after an error short.
async fn pause_until_stop(stop: &mut watch::Receiver<bool>, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        // Where the sender is gone, nobody can stop it and the pause is whole.
        Ok(()) = stop.changed() => {}
    }
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
