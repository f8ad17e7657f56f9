//! What the grant side asks of its two stores, one call each.
//!
//! A cell is opened, flushed and given back by code that decides; what it decides about lies in Redis
//! ([`CellLink`]) and in PostgreSQL ([`Archive`]). The calls are small on purpose: between any two of
//! them a store may be lost, and that is where a simulation, with stores of its own, loses it.

pub mod postgres;
pub mod redis;

use super::cells::{CellRow, Raised};
use super::entry::{BadEntry, Grant};
use super::queue::{QueueEntry, Read};
use super::rows::Row;
use super::terms::Terms;
use super::watermark::Awaited;
use crate::catalog::publish::{Put, TemplateRow};
use crate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use crate::domain::window::Day;
use crate::ledger::counters::Issued;
use crate::pg::PgFault;
use crate::redis::cell::{CellMeta, Identity, Receipt};
use crate::redis::fault::Fault;

/// Where connections to both stores of one cell are made.
pub trait Stores: Send + Sync + 'static {
    type Link: CellLink + 'static;
    type Archive: Archive + 'static;

    fn link(&self) -> impl Future<Output = Result<Self::Link, Fault>> + Send;

    fn archive(&self) -> impl Future<Output = Result<Self::Archive, PgFault>> + Send;
}

/// Where those who wait for rows look.
pub trait RowsSeen: Send + Sync + 'static {
    /// How far the cell is stored, for waiters whose entries are of epoch `lowest` or later.
    fn reached(&self, lowest: Epoch) -> impl Future<Output = Result<Reached, PgFault>> + Send;

    /// Which of these grants are rows.
    fn stored(&self, grants: &[Awaited]) -> impl Future<Output = Result<Vec<Awaited>, PgFault>> + Send;
}

/// How far a cell is stored.
#[derive(Clone, Debug)]
pub struct Reached {
    pub watermark: EntryId,
    /// Whether anything was ever set aside: then only a row proves a grant.
    pub any_set_aside: bool,
    /// Openings later than some epoch: where the history before each ended.
    pub endings: Vec<(Epoch, EntryId)>,
}

/// Limit and window in ms of user, IP and device.
pub type Quotas = [(u64, u64); 3];

/// What PostgreSQL has of a grant that Redis may have lost: a row, or what was set aside.
#[derive(Clone, Debug)]
pub struct StoredGrant {
    /// Who it was granted to. None of a grant that was set aside without a user.
    pub user: Option<String>,
    pub receipt: Receipt,
    pub ip: Option<u64>,
    pub device: Option<u64>,
}

/// How far a template's grants go from some serial on: the highest serial of a row, and of what was set aside, within
/// the stock or not; 0: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub rows: Serial,
    pub asides: Serial,
}

/// One connection to the Redis that serves the cell: a method is a script of `lua/`.
///
/// Each call is bounded in time. A link does not reconnect by itself: after a fault that is not a
/// script's refusal nobody knows what is still on its way over it, and it is to be dropped.
pub trait CellLink: Send {
    /// Whether it leads to the Redis that is the master, as far as is known. One that does not is not used again.
    fn is_current(&self) -> bool {
        true
    }

    fn meta(&mut self) -> impl Future<Output = Result<CellMeta, Fault>> + Send;

    /// Closes the cell under a new epoch: grants stop.
    fn close(&mut self, identity: &Identity) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Opens what this epoch closed, with a marker entry.
    fn open(
        &mut self,
        identity: &Identity,
        quotas: &Quotas,
        install: &str,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Brings a closed cell to a template's row.
    fn put(&mut self, identity: &Identity, row: &TemplateRow) -> impl Future<Output = Result<Put, Fault>> + Send;

    /// Gives a closed cell rows back, in ascending order of serials, and tells its cursor.
    fn reapply(
        &mut self,
        identity: &Identity,
        template: &TemplateRow,
        day: Day,
        quotas: &Quotas,
        rows: &[StoredGrant],
    ) -> impl Future<Output = Result<Serial, Fault>> + Send;

    /// Reads at most `count` entries behind `after`.
    fn read(
        &mut self,
        identity: &Identity,
        after: EntryId,
        count: usize,
    ) -> impl Future<Output = Result<Read, Fault>> + Send;

    /// Reads entries behind `after` whatever the cell's state is, some hundred of them.
    fn queue_behind(&mut self, after: EntryId) -> impl Future<Output = Result<Vec<QueueEntry>, Fault>> + Send;

    /// Removes every key of the cell that `identity` has closed. One that dies in between leaves a mark for which
    /// nobody opens the cell but another recovery, since receipts may be gone whose templates are still there.
    /// What is left is the mark that everything is to be given back.
    fn wipe(&mut self, identity: &Identity) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Trims the queue to `watermark`, which holds `grants` grants, and clears the marks of
    /// `templates` that it covers.
    fn trim(
        &mut self,
        identity: &Identity,
        watermark: EntryId,
        templates: &[TemplateId],
        grants: usize,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// One connection to the PostgreSQL that keeps the cell. What waits for the cell's lock, owns it, and
/// writes is one connection: a lost one is a lost ownership.
pub trait Archive: Send + Sync {
    /// Whether the connection is known to be gone.
    fn is_closed(&self) -> bool;

    /// Takes the cell's advisory lock, if it is free. It is held until the connection ends.
    fn try_lock(&self) -> impl Future<Output = Result<bool, PgFault>> + Send;

    // === The cell and its histories ===

    fn cell(&self) -> impl Future<Output = Result<CellRow, PgFault>> + Send;

    /// The last entry before `epoch` began, as its opening recorded it.
    fn final_before(&self, epoch: Epoch) -> impl Future<Output = Result<Option<EntryId>, PgFault>> + Send;

    /// An opening that found a history which ended before `id`: its epoch, and where that ended.
    fn diverged(&self, id: EntryId) -> impl Future<Output = Result<Option<(Epoch, EntryId)>, PgFault>> + Send;

    /// A new epoch, above PostgreSQL's and Redis', if the cell's advisory lock is held still, or free.
    fn raise_epoch(&self, redis: Epoch) -> impl Future<Output = Result<Raised, PgFault>> + Send;

    /// Records where the history before `mine` ended. `None`: `mine` is no longer the cell's epoch.
    fn record_final(
        &self,
        mine: Epoch,
        redis_last: EntryId,
    ) -> impl Future<Output = Result<Option<EntryId>, PgFault>> + Send;

    /// Notes that the cell may be open from now on. `false`: `mine` is no longer the cell's epoch.
    fn mark_opened(&self, mine: Epoch) -> impl Future<Output = Result<bool, PgFault>> + Send;

    // === What a cell is given back ===

    /// Templates that were ever published, by id behind `after`.
    fn templates(&self, after: i32, limit: usize) -> impl Future<Output = Result<Vec<TemplateRow>, PgFault>> + Send;

    /// How far the grants of these templates go, each from its serial on.
    fn extents(
        &self,
        from: &[(TemplateId, Serial)],
    ) -> impl Future<Output = Result<Vec<(TemplateId, Extent)>, PgFault>> + Send;

    /// Rows and set-asides of a template with serials from `first` to `last`, strictly ascending. `any_asides`: whether
    /// anything may have been set aside among them.
    fn grants_within(
        &self,
        template: &TemplateRow,
        first: Serial,
        last: Serial,
        any_asides: bool,
    ) -> impl Future<Output = Result<Vec<StoredGrant>, PgFault>> + Send;

    /// The first serial from `first` to `last` that is a row or was set aside.
    fn next_serial(
        &self,
        template: TemplateId,
        first: Serial,
        last: Serial,
    ) -> impl Future<Output = Result<Option<Serial>, PgFault>> + Send;

    /// How many rows an empty cell is given back of all templates, as near as the highest serials tell it.
    fn rows_in_all(&self) -> impl Future<Output = Result<u64, PgFault>> + Send;

    // === One transaction of the writer ===

    /// What rows of these templates need; `None` for one that cannot be read, nothing for one that is not there.
    fn terms(
        &self,
        templates: &[TemplateId],
    ) -> impl Future<Output = Result<Vec<(TemplateId, Option<Terms>)>, PgFault>> + Send;

    fn begin(&self) -> impl Future<Output = Result<(), PgFault>> + Send;

    /// Moves the watermark. `false`: it does not stand at `expected`, or the epoch is not `epoch`.
    fn advance(
        &self,
        epoch: Epoch,
        expected: EntryId,
        last: EntryId,
    ) -> impl Future<Output = Result<bool, PgFault>> + Send;

    /// Stores the rows that have a span, all in one COPY, and tells how many those were.
    fn copy(&self, rows: &[&[Row<'_>]]) -> impl Future<Output = Result<usize, PgFault>> + Send;

    fn savepoint(&self) -> impl Future<Output = Result<(), PgFault>> + Send;

    /// Keeps what was done since the savepoint, or undoes it.
    fn release(&self, keep: bool) -> impl Future<Output = Result<(), PgFault>> + Send;

    /// Epoch, claim-key hash and first user of what is stored under a serial.
    fn stored(
        &self,
        template: TemplateId,
        serial: Serial,
    ) -> impl Future<Output = Result<Option<(Epoch, u64, String)>, PgFault>> + Send;

    fn set_grant_aside(
        &self,
        id: EntryId,
        grant: &Grant<'_>,
        sqlstate: Option<&str>,
        reason: &str,
    ) -> impl Future<Output = Result<(), PgFault>> + Send;

    fn set_entry_aside(
        &self,
        id: EntryId,
        payload: &[u8],
        bad: &BadEntry,
    ) -> impl Future<Output = Result<(), PgFault>> + Send;

    /// Keeps a grant, or an entry that cannot be read, of a history that is given up, unless it is stored or kept
    /// already; tells whether it was new.
    fn keep_lost(
        &self,
        entry: &QueueEntry,
        grant: Option<&Grant<'_>>,
        reason: &str,
    ) -> impl Future<Output = Result<bool, PgFault>> + Send;

    fn count_set_aside(&self, rows: usize) -> impl Future<Output = Result<(), PgFault>> + Send;

    fn count_issued(&self, issued: &Issued) -> impl Future<Output = Result<(), PgFault>> + Send;

    fn commit(&self) -> impl Future<Output = Result<(), PgFault>> + Send;

    fn roll_back(&self) -> impl Future<Output = Result<(), PgFault>> + Send;
}
