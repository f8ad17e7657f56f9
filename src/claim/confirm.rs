//! Waits until replicas have a grant: ack level `replica`.
//!
//! One task a process asks, for all who wait, and again while somebody waits: what it asks covers every grant
//! that was made before, by whatever gateway. So batches wait for no replica, claims of other levels are not
//! held up, and a replay is confirmed as a grant is: by what the replicas have now.
//!
//! That a replica has it means that it is in its memory. Which replica is promoted, Sentinel decides.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::cell::Cell;
use crate::config;
use crate::domain::ids::Epoch;
use crate::limits::{CONFIRM_PAUSE_MS, CONFIRM_WAITERS_MAX};
use crate::redis::cell::{Identity, read_meta};
use crate::redis::client::{Link, Redis};
use crate::redis::fault::Fault;
use crate::redis::keys::CellKeys;
use crate::redis::replicas;
use crate::telemetry::{Seldom, metrics};

/// Where to wait. Cheap to clone, one for each gateway thread.
#[derive(Clone)]
pub struct Confirms {
    waiters: mpsc::Sender<Waiter>,
}

/// The task that asks. One a process.
pub struct Confirmer {
    redis: Redis,
    keys: CellKeys,
    cell: Arc<Cell>,
    /// Replicas that must have a grant.
    wanted: u32,
    wait_ms: u64,
    answer_margin: Duration,
    arrivals: mpsc::Receiver<Waiter>,
    link: Option<Link>,
}

struct Waiter {
    /// The epoch under which Redis answered that the claim has its coupon.
    epoch: Epoch,
    answer: oneshot::Sender<bool>,
}

/// A waiting place and the task that serves it.
pub fn confirms(redis: Redis, keys: CellKeys, cell: Arc<Cell>, settings: &config::Claim) -> (Confirms, Confirmer) {
    let (waiters, arrivals) = mpsc::channel(CONFIRM_WAITERS_MAX);
    let confirmer = Confirmer {
        redis,
        keys,
        cell,
        wanted: settings.replicas,
        wait_ms: settings.replica_wait_ms,
        answer_margin: config::ms(settings.answer_margin_ms),
        arrivals,
        link: None,
    };
    (Confirms { waiters }, confirmer)
}

// === impl Confirms ===

impl Confirms {
    /// Whether so many wait that a place is worth something.
    pub fn is_crowded(&self) -> bool {
        self.waiters.capacity() < CONFIRM_WAITERS_MAX / 2
    }

    /// Whether enough replicas have what Redis answered under `epoch` before this call. `false` at `deadline`, where
    /// too many wait already, and where the cell has another epoch by now: then nobody knows.
    pub async fn wait(&self, epoch: Epoch, deadline: Instant) -> bool {
        let (answer, answered) = oneshot::channel();
        if self.waiters.try_send(Waiter { epoch, answer }).is_err() {
            return false;
        }
        matches!(tokio::time::timeout_at(deadline, answered).await, Ok(Ok(true)))
    }
}

// === impl Confirmer ===

impl Confirmer {
    /// Runs until every [`Confirms`] is gone.
    pub async fn run(mut self) {
        let mut waiting = Vec::new();
        while self.arrivals.recv_many(&mut waiting, CONFIRM_WAITERS_MAX).await > 0 {
            waiting.retain(|waiter: &Waiter| !waiter.answer.is_closed());
            metrics().confirm_waiting.set((waiting.len() + self.arrivals.len()) as f64);
            if waiting.is_empty() {
                continue;
            }
            // Nobody may wait for a connection or a cell longer than WAIT itself would take.
            let most = config::ms(self.wait_ms) + self.answer_margin;
            let asked = tokio::time::timeout(most, self.ask()).await.unwrap_or_else(|_| Err(Fault::timeout()));
            let confirmed = match asked {
                Ok((epoch, count)) if count >= self.wanted => Some(epoch),
                Ok((_, count)) => {
                    self.say(&format!("{count} of {} replicas have what was granted", self.wanted));
                    None
                }
                Err(fault) => {
                    metrics().redis_error(fault.kind);
                    self.say(&fault.to_string());
                    None
                }
            };
            metrics().confirm_failed.increment(u64::from(confirmed.is_none()));
            for waiter in waiting.drain(..) {
                let _ = waiter.answer.send(confirmed == Some(waiter.epoch));
            }
            metrics().confirm_waiting.set(self.arrivals.len() as f64);
            if confirmed.is_none() {
                tokio::time::sleep(config::ms(CONFIRM_PAUSE_MS)).await;
            }
        }
    }

    /// The epoch that holds, and how many replicas have what was granted under it so far.
    async fn ask(&mut self) -> Result<(Epoch, u32), Fault> {
        // Out while it is asked: a link that is given up, or fails in any way, is not used again.
        let mut link = match self.link.take().filter(Link::is_current) {
            Some(link) => link,
            None => self.redis.link().await?,
        };
        let identity = match self.cell.identity() {
            Some(identity) => identity,
            None => {
                let meta = read_meta(&mut link, &self.keys).await?;
                self.cell.adopt(&meta).ok_or_else(|| Fault::refused("closed"))?
            }
        };
        let count = self.confirm(&mut link, &identity).await?;
        self.link = Some(link);
        Ok((identity.epoch, count))
    }

    async fn confirm(&self, link: &mut Link, identity: &Identity) -> Result<u32, Fault> {
        let confirmed = replicas::confirm(link, &self.keys, identity, self.wanted, self.wait_ms).await;
        if confirmed.as_ref().is_err_and(|fault| fault.kind == "refused") {
            self.cell.doubt(identity);
        }
        confirmed
    }

    fn say(&self, why: &str) {
        static LINE: Seldom = Seldom::new();
        if let Some(more) = LINE.now() {
            tracing::warn!(more, why, "claims of level replica are not confirmed");
        }
    }
}
