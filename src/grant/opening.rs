//! A cell is opened: what PostgreSQL knows is given back to a Redis that may have less, and the
//! cell goes on under a new epoch.
//!
//! The order is the protocol. The epoch is raised in PostgreSQL before Redis hears of it, grants
//! stop before anything is read, and the marker that lets them go on is written last. A crash
//! anywhere leaves the cell closed, and the next opener starts at the beginning.

use std::fmt;

use tokio::time::Instant;

use super::cells::Raised;
use super::progress::Progress;
use super::reapply;
use super::stores::{Archive, CellLink};
use crate::config;
use crate::domain::ids::{CellId, EntryId, Epoch};
use crate::faults::{self, Bug, Point};
use crate::pg::PgFault;
use crate::redis::cell::{CellMeta, Identity};
use crate::redis::fault::Fault;

/// What an opening works with. The caller holds the cell's advisory lock on `archive`.
pub struct Opening<'a, A, L> {
    pub archive: &'a A,
    pub link: &'a mut L,
    pub cell: CellId,
    pub quota: &'a config::Quota,
    /// Which installation this is, see `Config::install_name`.
    pub install: &'a str,
    /// Told what is being done, for a person who waits.
    pub progress: &'a (dyn Fn(&str) + Sync),
}

/// A cell that is open.
#[derive(Clone, Debug)]
pub struct Opened {
    pub identity: Identity,
    /// Where the history before this epoch ended.
    pub final_id: EntryId,
    pub rows_reapplied: u64,
}

/// Why a cell stays closed.
#[derive(Debug)]
pub enum OpenFault {
    /// Only `floodgate recover` can open it: an operator decides.
    Refused(Refusal),
    /// Not now: the Redis at hand cannot be opened by anyone.
    NotYet(String),
    /// It holds the cell of another installation.
    Foreign,
    /// Another opener has taken a higher epoch, or the cell's lock.
    Overtaken,
    /// All epochs are used up.
    Exhausted,
    Redis(Fault),
    Pg(PgFault),
}

/// What is wrong with the Redis that a cell found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has no cell, though PostgreSQL has opened one.
    Empty,
    /// A recovery began to wipe it and did not finish.
    Wiping,
    /// Its last entry lies beyond the end of the history that was stored.
    Diverged { last: EntryId, epoch: Epoch, ended: EntryId },
}

/// Epochs left below which an operator is told.
const EPOCHS_LEFT_WARN: Epoch = 5_000;

// === impl Opening ===

impl<A: Archive, L: CellLink> Opening<'_, A, L> {
    /// Step 1: the Redis at hand, and what speaks against opening it.
    pub async fn inspect(&mut self) -> Result<(CellMeta, Option<Refusal>), OpenFault> {
        let meta = self.link.meta().await?;
        if meta.role != "master" {
            return Err(OpenFault::NotYet(format!("this Redis is a {}", meta.role)));
        }
        if !meta.install.is_empty() && meta.install != self.install {
            return Err(OpenFault::Foreign);
        }
        if meta.now < meta.clock - 1000 {
            return Err(OpenFault::NotYet(format!("the clock of Redis is {} ms behind", meta.clock - meta.now)));
        }
        let row = self.archive.cell().await?;
        if meta.wiping {
            return Ok((meta, Some(Refusal::Wiping)));
        }
        if meta.epoch == 0 && row.opened && !faults::bug(Bug::EmptyIsNew) {
            return Ok((meta, Some(Refusal::Empty)));
        }
        let diverged = self.archive.diverged(meta.last).await?;
        let diverged = diverged.filter(|_| !faults::bug(Bug::DivergedIsOpened));
        let refusal = diverged.map(|(epoch, ended)| Refusal::Diverged { last: meta.last, epoch, ended });
        Ok((meta, refusal))
    }

    /// Steps 1 to 5. Refuses a Redis that needs `floodgate recover`.
    pub async fn run(&mut self) -> Result<Opened, OpenFault> {
        match self.inspect().await? {
            (_, Some(refusal)) => Err(OpenFault::Refused(refusal)),
            (meta, None) => self.run_on(meta, None).await,
        }
    }

    /// Steps 2 to 5, on a Redis that was judged. `in_all`: about how many rows there are, where a person waits.
    pub(super) async fn run_on(&mut self, meta: CellMeta, in_all: Option<u64>) -> Result<Opened, OpenFault> {
        faults::point(Point::OpenBeforeClose);
        let identity = self.close(&meta).await?;
        faults::point(Point::OpenAfterClose);
        let final_id = self.record_final(&identity).await?;
        let started = Instant::now();
        let now = || meta.now + started.elapsed().as_millis() as i64;
        let mut progress = Progress::new(self.progress, in_all);
        let rows_reapplied = reapply::all(self, &identity, now, &mut progress).await?;
        if !self.archive.mark_opened(identity.epoch).await? {
            return Err(OpenFault::Overtaken);
        }
        faults::point(Point::OpenBeforeMarker);
        self.link.open(&identity, &reapply::quotas(self.quota), self.install).await?;
        Ok(Opened { identity, final_id, rows_reapplied })
    }

    /// Step 2: a new epoch, in PostgreSQL and then in Redis. Grants stop here.
    pub(super) async fn close(&mut self, meta: &CellMeta) -> Result<Identity, OpenFault> {
        let raised = match faults::bug(Bug::EpochNotRaised) {
            true => Raised::To(meta.epoch.max(1)),
            false => self.archive.raise_epoch(meta.epoch).await?,
        };
        let epoch = match raised {
            Raised::To(epoch) => epoch,
            Raised::Exhausted => return Err(OpenFault::Exhausted),
            Raised::NotMine => return Err(OpenFault::Overtaken),
        };
        if epoch > Epoch::MAX - EPOCHS_LEFT_WARN {
            tracing::error!(cell = self.cell.0, epoch, "the cell has few of its 65,535 epochs left");
        }
        let identity = Identity { replid: meta.live_replid.as_str().into(), epoch };
        self.link.close(&identity).await?;
        Ok(identity)
    }

    /// Step 3: with grants stopped, the end of the history so far.
    async fn record_final(&mut self, identity: &Identity) -> Result<EntryId, OpenFault> {
        // The last id is read again: entries may have come in before the cell was closed.
        let meta = self.link.meta().await?;
        if meta.live_replid != *identity.replid || meta.epoch != identity.epoch {
            return Err(OpenFault::NotYet("this Redis changed its role while it was being opened".into()));
        }
        if faults::bug(Bug::FinalNotRecorded) {
            return Ok(meta.last);
        }
        let recorded = self.archive.record_final(identity.epoch, meta.last).await?;
        recorded.ok_or(OpenFault::Overtaken)
    }
}

// === impl OpenFault ===

impl OpenFault {
    /// A bounded word for metrics and for telling one trouble from the next.
    pub fn word(&self) -> &'static str {
        match self {
            OpenFault::Refused(Refusal::Empty) => "empty",
            OpenFault::Refused(Refusal::Diverged { .. }) => "diverged",
            OpenFault::Refused(Refusal::Wiping) => "wiping",
            OpenFault::Foreign => "foreign",
            OpenFault::NotYet(_) => "not_yet",
            OpenFault::Overtaken => "overtaken",
            OpenFault::Exhausted => "exhausted",
            OpenFault::Redis(fault) => fault.kind,
            OpenFault::Pg(fault) => fault.word(),
        }
    }
}

impl From<Fault> for OpenFault {
    fn from(fault: Fault) -> Self {
        OpenFault::Redis(fault)
    }
}

impl From<PgFault> for OpenFault {
    fn from(fault: PgFault) -> Self {
        OpenFault::Pg(fault)
    }
}

impl fmt::Display for OpenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenFault::Refused(refusal) => refusal.fmt(f),
            OpenFault::NotYet(why) => f.write_str(why),
            OpenFault::Foreign => f.write_str(
                "this Redis holds the cell of another installation (another code key): check FLOODGATE_REDIS_URL",
            ),
            OpenFault::Overtaken => f.write_str("another process opens this cell"),
            OpenFault::Exhausted => f.write_str("all 65,535 epochs of the cell are used up: it can never open again"),
            OpenFault::Redis(fault) => fault.fmt(f),
            OpenFault::Pg(fault) => fault.fmt(f),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Empty => f.write_str(
                "Redis is empty, though this cell was open before: claims stay refused until `floodgate recover` \
                 has given it back what PostgreSQL knows",
            ),
            Refusal::Wiping => f.write_str(
                "a `floodgate recover` began to wipe this cell and did not finish: claims stay refused until it is \
                 run again",
            ),
            Refusal::Diverged { last, epoch, ended } => write!(
                f,
                "Redis has entry {last}, but the history that PostgreSQL stored ended at {ended} when epoch {epoch} \
                 began: claims stay refused until `floodgate recover` has replaced it"
            ),
        }
    }
}
