//! One transaction: the watermark moves, the grants are rows, and what PostgreSQL refuses is set aside.
//!
//! The watermark comes first. If it does not stand where this flusher left it, or the epoch has
//! risen, another one has taken over and nothing is written. Rows go by COPY. Where data are bad
//! the same entries go again, one by one under savepoints, so that the neighbours of a bad row pass.
//! What became rows is counted last, in the same transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::entry::{self, BadEntry, Grant};
use super::queue::QueueEntry;
use super::rows::{Decoded, Row, rows};
use super::stores::Archive;
use super::terms::TermsCache;
use crate::domain::ids::{CellId, EntryId, Epoch, Serial, TemplateId};
use crate::domain::window::Millis;
use crate::faults::{self, Bug, Point};
use crate::ledger::counters::Issued;
use crate::pg::{PgFault, PgKind};
use crate::telemetry::metrics;

/// Writes the grants of one cell over a connection of its own.
pub struct Writer<A> {
    archive: A,
    cell: CellId,
    /// The longest that one transaction may take; then the connection is given up.
    timeout: Duration,
    terms: TermsCache,
}

/// What one transaction did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub rows: usize,
    pub set_aside: usize,
    /// Rows that were there already, from the same claims.
    pub repeats: usize,
    /// When the newest grant was made.
    pub newest: Option<Millis>,
    pub templates: BTreeSet<TemplateId>,
}

/// Why nothing was written, or nobody knows.
#[derive(Debug)]
pub enum WriteFault {
    /// Another flusher has taken over: stop at once.
    Zombie,
    Pg(PgFault),
}

// === impl Writer ===

impl<A: Archive> Writer<A> {
    pub fn new(archive: A, cell: CellId, timeout: Duration) -> Self {
        Writer { archive, cell, timeout, terms: TermsCache::default() }
    }

    /// The connection, for what its owner does between transactions.
    pub fn archive(&self) -> &A {
        &self.archive
    }

    /// Stores `entries`, which follow on `expected` without a gap, under `epoch`.
    ///
    /// After a fault of kind `Unknown` it is not known whether the transaction committed: the
    /// connection must be replaced and the watermark read again.
    pub async fn write(
        &mut self,
        epoch: Epoch,
        expected: EntryId,
        entries: &[QueueEntry],
    ) -> Result<Written, WriteFault> {
        match tokio::time::timeout(self.timeout, self.write_untimed(epoch, expected, entries)).await {
            Ok(result) => result,
            Err(_) => Err(WriteFault::Pg(PgFault { kind: PgKind::Unknown, ..PgFault::transient("no answer in time") })),
        }
    }

    async fn write_untimed(
        &mut self,
        epoch: Epoch,
        expected: EntryId,
        entries: &[QueueEntry],
    ) -> Result<Written, WriteFault> {
        let Some(last) = entries.last() else { return Ok(Written::default()) };
        let decoded = self.decode(entries).await?;
        let mut written = Written::default();
        for row in decoded.iter().filter_map(|entry| entry.grants.as_ref().ok()).flatten() {
            written.templates.insert(row.grant.template);
            written.newest = written.newest.max(Some(row.grant.acquired));
        }
        let fast = self.transaction(epoch, expected, last.id, &decoded, &mut written, false).await;
        let result = match fast {
            Err(WriteFault::Pg(fault)) if is_bad_data(&fault) => {
                tracing::warn!(
                    cell = self.cell.0,
                    entry = %last.id,
                    sqlstate = fault.sqlstate,
                    constraint = fault.constraint,
                    "PostgreSQL refused rows: storing their neighbours one by one"
                );
                self.transaction(epoch, expected, last.id, &decoded, &mut written, true).await
            }
            result => result,
        };
        if result.is_err() && !self.archive.is_closed() {
            // Best effort: a connection that cannot roll back is replaced by its owner.
            let _ = self.archive.roll_back().await;
        }
        result.map(|()| written)
    }

    /// `careful`: entry by entry and row by row, instead of all in one COPY.
    async fn transaction(
        &self,
        epoch: Epoch,
        expected: EntryId,
        last: EntryId,
        entries: &[Decoded<'_>],
        written: &mut Written,
        careful: bool,
    ) -> Result<(), WriteFault> {
        (written.rows, written.set_aside, written.repeats) = (0, 0, 0);
        let mut issued = Issued::default();
        if careful {
            self.archive.roll_back().await?;
        }
        self.archive.begin().await?;
        if !self.archive.advance(epoch, expected, last).await? && !faults::bug(Bug::WatermarkNotCompared) {
            return Err(WriteFault::Zombie);
        }
        if !careful {
            let all: Vec<&[Row<'_>]> = entries.iter().filter_map(|entry| entry.grants.as_deref().ok()).collect();
            written.rows = self.archive.copy(&all).await?;
            all.iter().for_each(|rows| count(rows, &mut issued));
        }
        for entry in entries {
            match &entry.grants {
                Err(bad) => {
                    self.set_entry_aside(entry, bad).await?;
                    written.set_aside += 1;
                }
                Ok(rows) => {
                    if careful {
                        self.store_carefully(entry.id, rows, written, &mut issued).await?;
                    }
                    for row in rows {
                        if let Err(reason) = row.span {
                            self.archive.set_grant_aside(entry.id, &row.grant, None, reason).await?;
                            written.set_aside += 1;
                        }
                    }
                }
            }
        }
        if written.set_aside > 0 {
            self.archive.count_set_aside(written.set_aside).await?;
        }
        self.archive.count_issued(&issued).await?;
        faults::point(Point::FlushInTransaction);
        Ok(self.archive.commit().await?)
    }

    /// Stores one entry's rows under a savepoint; where that fails, each row under its own.
    async fn store_carefully(
        &self,
        id: EntryId,
        rows: &[Row<'_>],
        written: &mut Written,
        issued: &mut Issued,
    ) -> Result<(), WriteFault> {
        self.archive.savepoint().await?;
        match self.archive.copy(&[rows]).await {
            Ok(stored) => {
                written.rows += stored;
                count(rows, issued);
                return Ok(self.archive.release(true).await?);
            }
            Err(fault) if is_bad_data(&fault) => self.archive.release(false).await?,
            Err(fault) => return Err(fault.into()),
        }
        for row in rows.iter().filter(|row| row.span.is_ok()) {
            self.archive.savepoint().await?;
            match self.archive.copy(&[std::slice::from_ref(row)]).await {
                Ok(stored) => {
                    written.rows += stored;
                    count(std::slice::from_ref(row), issued);
                    self.archive.release(true).await?;
                }
                Err(fault) if is_bad_data(&fault) => {
                    self.archive.release(false).await?;
                    self.refused(id, &row.grant, fault, written).await?;
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(())
    }

    /// A row that PostgreSQL refuses: a repeat of what is stored, a collision, or plainly bad.
    async fn refused(
        &self,
        id: EntryId,
        grant: &Grant<'_>,
        fault: PgFault,
        written: &mut Written,
    ) -> Result<(), WriteFault> {
        let mut reason = fault.constraint.clone().unwrap_or_else(|| fault.detail.chars().take(500).collect());
        if fault.violates("user_coupons_pkey") {
            let stored = self.archive.stored(grant.template, grant.serial).await?;
            let same = stored.is_some_and(|(epoch, key, user)| {
                epoch == grant.epoch && key == grant.claim_key_hash && user.as_bytes() == grant.user
            });
            if same || faults::bug(Bug::ConflictIsRepeat) {
                written.repeats += 1;
                return Ok(());
            }
            metrics().serial_collisions.increment(1);
            tracing::error!(
                cell = self.cell.0,
                entry = %id,
                template = grant.template.0,
                serial = grant.serial,
                "a serial was granted to two claims: the later one is set aside"
            );
            reason = "serial_collision".into();
        }
        if !faults::bug(Bug::SetAsideDropped) {
            self.archive.set_grant_aside(id, grant, fault.sqlstate.as_deref(), &reason).await?;
        }
        written.set_aside += 1;
        Ok(())
    }

    async fn set_entry_aside(&self, entry: &Decoded<'_>, bad: &BadEntry) -> Result<(), PgFault> {
        tracing::error!(cell = self.cell.0, entry = %entry.id, reason = bad.0, "an entry cannot be read: set aside");
        self.archive.set_entry_aside(entry.id, entry.payload, bad).await
    }

    /// Takes the entries apart and reads what is not known of their templates.
    async fn decode<'a>(&mut self, entries: &'a [QueueEntry]) -> Result<Vec<Decoded<'a>>, PgFault> {
        let mut taken: Vec<(&QueueEntry, Result<Vec<Grant<'a>>, BadEntry>)> = Vec::with_capacity(entries.len());
        let mut wanted: BTreeMap<TemplateId, Serial> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| !entry.id.is_marker()) {
            let grants = entry::decode(entry.id, &entry.payload);
            for grant in grants.iter().flatten() {
                let highest = wanted.entry(grant.template).or_default();
                *highest = grant.serial.max(*highest);
            }
            taken.push((entry, grants));
        }
        self.terms.load(&self.archive, &wanted).await?;
        let decoded = taken.into_iter().map(|(entry, grants)| Decoded {
            id: entry.id,
            payload: &entry.payload,
            grants: grants.map(|grants| rows(grants, &self.terms)),
        });
        Ok(decoded.collect())
    }
}

/// Counts the grants that became rows: all that could be packed.
fn count(rows: &[Row<'_>], issued: &mut Issued) {
    for row in rows.iter().filter(|row| row.span.is_ok()) {
        issued.count(row.grant.template, row.grant.acquired);
    }
}

/// Whether a row is at fault. A COPY stream that PostgreSQL cannot follow is ours: setting every row
/// aside would not mend it.
fn is_bad_data(fault: &PgFault) -> bool {
    fault.kind == PgKind::Data && !matches!(fault.sqlstate.as_deref(), Some("22P03" | "22P04"))
}

impl From<PgFault> for WriteFault {
    fn from(fault: PgFault) -> Self {
        WriteFault::Pg(fault)
    }
}
