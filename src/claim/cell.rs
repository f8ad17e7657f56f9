//! Which history of the cell this process believes in.
//!
//! A check when a connection is made fences nothing, so the scripts check on every call. When one
//! finds a mismatch, the cell's meta is read again: if it is open, on a master, and the recorded
//! replication id is the live one, its epoch is adopted; else the cell is closed for this process
//! until that is so.
//!
//! A master that was replaced and does not know it has a cell that looks open. Epochs only rise: what is
//! below one that this process has adopted, or that PostgreSQL has seen begin, is a history that has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::engine::Engine;
use crate::clock::mono_ms;
use crate::domain::ids::Epoch;
use crate::redis::cell::{CellMeta, Identity};
use crate::redis::fault::Fault;
use crate::telemetry::metrics;

/// The identity that this process believes in, shared by its lanes.
#[derive(Default)]
pub struct Cell {
    identity: ArcSwapOption<Identity>,
    /// Lower epochs are not adopted.
    floor: AtomicU16,
    /// Redis' time less this process' monotonic time, in ms, plus one; 0: not known.
    clock_offset: AtomicU64,
}

/// Between two looks at the meta of a cell that is closed.
const ADOPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at one that is open.
const WATCH_PAUSE: Duration = Duration::from_millis(500);
/// The longest that one look may take.
const LOOK_MAX: Duration = Duration::from_secs(2);

// === impl Cell ===

impl Cell {
    /// The identity to claim under. `None`: the cell is not open, as far as this process knows.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// The identity to call under; where there is none, one look at the cell's meta within `left`.
    pub async fn find(&self, engine: &mut impl Engine, left: Duration) -> Option<Arc<Identity>> {
        if let Some(identity) = self.identity() {
            return Some(identity);
        }
        match tokio::time::timeout(left, engine.meta()).await.unwrap_or_else(|_| Err(Fault::timeout())) {
            Ok(meta) => self.adopt(&meta),
            Err(fault) => {
                metrics().redis_error(fault.kind);
                None
            }
        }
    }

    /// A script refused `used`: forget it, unless another one was adopted meanwhile.
    pub fn doubt(&self, used: &Identity) {
        let current = self.identity.load();
        if current.as_deref() == Some(used) {
            let _ = self.identity.compare_and_swap(&*current, None);
            metrics().cell_epoch.set(0.0);
        }
    }

    /// Takes over what the cell's meta says.
    pub fn adopt(&self, meta: &CellMeta) -> Option<Arc<Identity>> {
        self.see_meta(meta);
        let floor = self.floor.load(Ordering::Acquire);
        let identity = Identity::of(meta).filter(|identity| identity.epoch >= floor).map(Arc::new);
        self.floor.fetch_max(identity.as_ref().map_or(0, |identity| identity.epoch), Ordering::AcqRel);
        metrics().cell_epoch.set(identity.as_ref().map_or(0.0, |identity| f64::from(identity.epoch)));
        self.identity.store(identity.clone());
        identity
    }

    /// Histories before `epoch` have ended, whatever a Redis says of its own.
    pub fn raise_floor(&self, epoch: Epoch) {
        self.floor.fetch_max(epoch, Ordering::AcqRel);
        if let Some(ended) = self.identity().filter(|identity| identity.epoch < epoch) {
            self.doubt(&ended);
        }
    }

    /// Notes Redis' time as an answer told it: never later than it is now.
    pub fn see_clock(&self, redis_now: i64) {
        self.clock_offset.store((redis_now - mono_ms() as i64 + 1) as u64, Ordering::Relaxed);
    }

    /// The same as the meta tells it. The cell's time does not go back: where Redis' clock did, claims
    /// are not refused by it here (`not_started`), but there, as unavailable.
    fn see_meta(&self, meta: &CellMeta) {
        self.see_clock(meta.now.max(meta.clock));
    }

    /// Redis' time now: at most one round trip behind it. `None` before the first answer.
    pub fn redis_now(&self) -> Option<i64> {
        match self.clock_offset.load(Ordering::Relaxed) {
            0 => None,
            offset => Some(mono_ms() as i64 + offset as i64 - 1),
        }
    }
}

/// Keeps looking, so that readiness waits for no claim: often while the cell is closed, else now and
/// then, since without claims nobody else would notice that Redis is gone.
pub async fn watch(cell: Arc<Cell>, mut engine: impl Engine) {
    loop {
        let known = cell.identity();
        let looked = tokio::time::timeout(LOOK_MAX, engine.meta()).await.unwrap_or_else(|_| Err(Fault::timeout()));
        if let Ok(meta) = &looked {
            report_backlog(meta);
        }
        match looked {
            Ok(meta) if known.is_some() && Identity::of(&meta).as_ref() == known.as_deref() => cell.see_meta(&meta),
            Ok(meta) => {
                cell.adopt(&meta);
            }
            Err(fault) => {
                metrics().redis_error(fault.kind);
                if let Some(known) = known {
                    tracing::warn!(error = %fault, "the cell does not answer");
                    cell.doubt(&known);
                }
            }
        }
        tokio::time::sleep(if cell.identity().is_some() { WATCH_PAUSE } else { ADOPT_PAUSE }).await;
    }
}

/// The backlog as every process sees it, so that it shows while no flusher can work.
fn report_backlog(meta: &CellMeta) {
    let age = meta.oldest.map_or(0, |oldest| (meta.now - oldest).max(0)) as f64 / 1000.0;
    metrics().backlog_entries.set(meta.backlog as f64);
    metrics().backlog_grants.set(meta.queued as f64);
    metrics().backlog_age_seconds.set(age);
    metrics().watermark_lag_seconds.set(age);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_that_has_ended_is_not_adopted() {
        let meta = |epoch| CellMeta {
            role: "master".into(),
            live_replid: "a".into(),
            replid: "a".into(),
            epoch,
            open: true,
            ..CellMeta::default()
        };
        let cell = Cell::default();
        assert!(cell.adopt(&meta(2)).is_some());
        assert!(cell.adopt(&meta(1)).is_none() && cell.identity().is_none());
        assert!(cell.adopt(&meta(2)).is_some());
        cell.raise_floor(2);
        assert!(cell.identity().is_some());
        cell.raise_floor(3);
        assert!(cell.identity().is_none() && cell.adopt(&meta(2)).is_none());
        assert!(cell.adopt(&meta(3)).is_some());
    }
}
