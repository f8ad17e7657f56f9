//! Acknowledged grants that a failover lost: found, counted, and kept in `lost_claims`.
//!
//! When a cell was opened under a new epoch, PostgreSQL has where the history before ended. What a
//! gateway's ring ([`crate::claim::ring`]) holds beyond that end was answered and is in no store. It is
//! written down, so that its code answers `claim_lost` and `floodgate reconcile` lists it. The serial may
//! be granted again under the new epoch; the code holds the epoch, and so names the grant that was lost.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::cells::cell_i16;
use super::stores::postgres::PgRows;
use super::stores::{Reached, RowsSeen};
use crate::claim::ring::{Ring, RingBatch, Verdict};
use crate::domain::ids::{CellId, EntryId, Epoch};
use crate::limits::{LOST_ROWS_MAX, RING_LOOK_MS};
use crate::pg::{Pg, PgFault};
use crate::telemetry::{Trouble, metrics};

/// Looks after the ring of this process.
pub struct LossWatch {
    pg: Pg,
    cell: CellId,
    ring: Arc<Ring>,
    /// Lost, and not written down yet.
    lost: Vec<RingBatch>,
}

// === impl LossWatch ===

impl LossWatch {
    pub fn new(pg: Pg, cell: CellId, ring: Arc<Ring>) -> Self {
        LossWatch { pg, cell, ring, lost: Vec::new() }
    }

    /// Looks for as long as the process lives; asks PostgreSQL only while the ring holds something.
    pub async fn run(mut self) {
        let mut trouble = Trouble::new("whether acknowledged claims were lost is not looked at");
        loop {
            tokio::time::sleep(Duration::from_millis(RING_LOOK_MS)).await;
            let looked = self.look().await;
            if let Err(fault) = &looked {
                metrics().postgres_error(fault.word());
            }
            trouble.note(looked.err());
        }
    }

    /// One look.
    pub async fn look(&mut self) -> Result<(), PgFault> {
        if let Some(lowest) = self.ring.lowest_epoch() {
            let rows = PgRows { pg: self.pg.clone(), cell: self.cell };
            let Reached { watermark, endings, .. } = rows.reached(lowest).await?;
            self.lost.extend(self.ring.settle(|entry| judge(entry, watermark, &endings)));
        }
        if !self.lost.is_empty() {
            self.keep().await?;
        }
        Ok(())
    }

    /// Writes down what is lost, unless its row is there after all: an entry that was looked up later
    /// than it was written may lie beyond the end that its grant does not.
    async fn keep(&mut self) -> Result<(), PgFault> {
        let client = self.pg.get().await?;
        while let Some(batch) = self.lost.last() {
            let kept = note(&client, self.cell, batch, "ring").await?;
            if kept > 0 {
                metrics().claims_lost.increment(kept);
                tracing::error!(
                    template = batch.template.0,
                    epoch = batch.epoch,
                    entry = %batch.entry,
                    claims = kept,
                    "acknowledged claims are lost: Redis came back without them; see `floodgate reconcile`"
                );
            }
            self.lost.pop();
        }
        Ok(())
    }
}

/// Writes lost grants down with what knew of them, those that are not there yet; tells how many those were.
pub async fn note(client: &Client, cell: CellId, batch: &RingBatch, source: &str) -> Result<u64, PgFault> {
    let mut kept = 0;
    for grants in batch.grants.chunks(LOST_ROWS_MAX) {
        let serials: Vec<i64> = grants.iter().map(|grant| grant.serial as i64).collect();
        let users: Vec<&str> = grants.iter().map(|grant| grant.user.as_str()).collect();
        let hashes: Vec<i64> = grants.iter().map(|grant| grant.claim_key_hash as i64).collect();
        let acquired: Vec<i64> = grants.iter().map(|grant| grant.acquired).collect();
        let params: [&(dyn ToSql + Sync); 10] = [
            &cell_i16(cell),
            &batch.template.as_i32(),
            &i32::from(batch.epoch),
            &i32::from(batch.entry.epoch),
            &(batch.entry.seq as i64),
            &serials,
            &users,
            &hashes,
            &acquired,
            &source,
        ];
        kept += client.execute(include_str!("../sql/grant/lost_insert.sql"), &params).await?;
    }
    Ok(kept)
}

/// An entry is lost beyond the end of its history, once that is stored to its end: until then a grant
/// whose own entry lies before the end may still become a row.
fn judge(entry: EntryId, watermark: EntryId, endings: &[(Epoch, EntryId)]) -> Verdict {
    let beyond = endings.iter().filter(|(epoch, ended)| *epoch > entry.epoch && *ended < entry);
    match beyond.map(|(_, ended)| *ended).max() {
        Some(ended) if watermark >= ended => Verdict::Lost,
        Some(_) => Verdict::Waits,
        None if watermark >= entry => Verdict::Stored,
        None => Verdict::Waits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_beyond_its_history_is_lost_once_that_history_is_stored() {
        let id = |text| EntryId::parse(text).unwrap();
        let endings = [(3, id("2-40")), (4, id("3-5"))];
        let of = |entry, watermark| judge(id(entry), id(watermark), &endings);
        assert_eq!(of("2-40", "2-39"), Verdict::Waits);
        assert_eq!(of("2-40", "2-40"), Verdict::Stored);
        assert_eq!(of("2-41", "2-39"), Verdict::Waits);
        assert_eq!(of("2-41", "2-40"), Verdict::Lost);
        assert_eq!(of("2-41", "4-7"), Verdict::Lost);
        assert_eq!(of("3-5", "4-0"), Verdict::Stored);
    }
}
