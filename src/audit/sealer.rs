//! Seals records: binds what is committed into the chain, in batches, within about a second.
//!
//! Any number of processes may try: whoever holds the lock of the head's row seals. Ids are taken
//! before the commit, so a record may appear below others that are sealed already: the ids that were
//! missing are remembered, and their records are sealed when they come. Positions, not ids, are the
//! order.

use super::seal::{ChainKey, Content, Hash, read_hash};
use crate::limits::AUDIT_SEAL_RECORDS_MAX;
use crate::pg::{Pg, PgFault};

const HEAD: &str = include_str!("../sql/audit/head_lock.sql");
const LATE: &str = include_str!("../sql/audit/unsealed_late.sql");
const UNSEALED: &str = include_str!("../sql/audit/unsealed.sql");
const SEAL: &str = include_str!("../sql/audit/seal.sql");
const MOVE: &str = include_str!("../sql/audit/head_move.sql");
const NOTE: &str = include_str!("../sql/audit/gaps_note.sql");
const CLOSE: &str = include_str!("../sql/audit/gaps_close.sql");

/// What one transaction appends.
#[derive(Default)]
struct Batch {
    positions: Vec<i64>,
    ids: Vec<i64>,
    hashes: Vec<Vec<u8>>,
    before: Vec<Vec<u8>>,
    chain: Vec<Vec<u8>>,
}

/// Seals one batch. Returns whether there may be more.
pub async fn seal_once(pg: &Pg, key: &ChainKey) -> Result<bool, PgFault> {
    let mut connection = pg.get().await?;
    let tx = connection.begin().await?;
    let Some(head) = tx.row(HEAD, &[]).await? else { return Ok(false) };
    let (position, looked_to): (i64, i64) = (head.get("position"), head.get("looked_to"));
    let oldest: String = head.get("oldest");
    let mut rows = tx.rows(LATE, &[&AUDIT_SEAL_RECORDS_MAX]).await?;
    rows.extend(tx.rows(UNSEALED, &[&looked_to, &AUDIT_SEAL_RECORDS_MAX]).await?);
    let mut batch = Batch::default();
    let mut last = (position, read_hash(&head, "chain_hash")?);
    let mut looked = looked_to;
    let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
    for row in &rows {
        let id: i64 = row.get("id");
        if id > looked {
            if id > looked + 1 {
                firsts.push(looked + 1);
                lasts.push(id - 1);
            }
            looked = id;
        }
        last = batch.append(key, last, id, &Content::read(row).hash());
    }
    if !rows.is_empty() {
        let Batch { positions, ids, hashes, before, chain } = &batch;
        tx.change(SEAL, &[positions, ids, hashes, before, chain]).await?;
        tx.change(MOVE, &[&last.0, &&last.1[..], &looked]).await?;
    }
    if !firsts.is_empty() {
        tx.change(NOTE, &[&firsts, &lasts]).await?;
    }
    tx.change(CLOSE, &[&oldest]).await?;
    tx.commit().await?;
    Ok(rows.len() as i64 >= AUDIT_SEAL_RECORDS_MAX)
}

// === impl Batch ===

impl Batch {
    /// Appends a record behind `last`, and returns the new end: its position and hash.
    fn append(&mut self, key: &ChainKey, last: (i64, Hash), id: i64, record_hash: &Hash) -> (i64, Hash) {
        let (position, previous) = (last.0 + 1, last.1);
        let chain_hash = key.chain(&previous, id, record_hash);
        self.positions.push(position);
        self.ids.push(id);
        self.hashes.push(record_hash.to_vec());
        self.before.push(previous.to_vec());
        self.chain.push(chain_hash.to_vec());
        (position, chain_hash)
    }
}
