//! A step over a template's receipts beside the rows that they must have become.
//!
//! A receipt that was seen is a row once the watermark has passed the template's last entry of a moment
//! behind that. Serials without a row that the rows' pages found are told with the receipt that they have.

use std::collections::HashMap;

use super::difference::{Difference, Kind};
use super::{Blind, View};
use crate::catalog::publish::TemplateRow;
use crate::domain::ids::{Epoch, Serial};
use crate::limits::RECONCILE_PAGE_ROWS;
use crate::redis::cell::Receipt;
use crate::redis::compare;

/// What one step came to.
#[derive(Debug, Default)]
pub struct Scanned {
    pub found: Vec<Difference>,
    /// The next step's cursor; 0: this was the last.
    pub next: u64,
    pub receipts: usize,
    /// Serials of `gaps` that have a receipt.
    pub told: Vec<Serial>,
}

/// Looks at some receipts. `gaps`: serials that are no rows.
pub async fn look(
    view: &View<'_>,
    row: &TemplateRow,
    cursor: u64,
    gaps: &[(Serial, Serial)],
) -> Result<Scanned, Blind> {
    let (redis, keys) = (&view.app.redis, &view.app.keys);
    let (next, held) = compare::scan_receipts(redis, keys, row.id, cursor, RECONCILE_PAGE_ROWS).await?;
    // Behind the receipts: it checks the identity as well.
    let stand = compare::read(redis, keys, &view.identity, row.id, &[], &[]).await?.stand;
    let mut scanned = Scanned { next, receipts: held.len(), ..Scanned::default() };
    if matches!(stand.state, 0 | 9) || !view.settled(stand.mark).await? {
        return Ok(scanned);
    }
    let serials: Vec<i64> = held.iter().map(|(_, receipt)| receipt.serial as i64).collect();
    let sql = include_str!("../sql/reconcile/rows_of.sql");
    let mut stored: HashMap<Serial, Vec<(Epoch, String, u64)>> = HashMap::with_capacity(serials.len());
    for found in view.client.query(sql, &[&row.id.as_i32(), &serials]).await? {
        let grant = (found.get::<_, i32>(1) as Epoch, found.get(2), found.get::<_, i64>(3) as u64);
        stored.entry(found.get::<_, i64>(0) as u64).or_default().push(grant);
    }
    for (user, receipt) in held {
        let grants = stored.get(&receipt.serial).map_or(&[][..], Vec::as_slice);
        let is_stored = |(epoch, of, hash): &(Epoch, String, u64)| {
            // A row that was set aside without its user is the receipt's as far as anyone knows.
            *epoch == receipt.epoch
                && (*of == user || of.is_empty())
                && (*hash == receipt.claim_key_hash || of.is_empty())
        };
        if !grants.iter().any(is_stored) {
            let in_gap = gaps.iter().any(|(first, last)| (*first..=*last).contains(&receipt.serial));
            scanned.found.push(without_row(row, user, &receipt, in_gap, !grants.is_empty()));
            if in_gap {
                scanned.told.push(receipt.serial);
            }
        }
    }
    Ok(scanned)
}

fn without_row(row: &TemplateRow, user: String, receipt: &Receipt, in_gap: bool, others: bool) -> Difference {
    let (kind, detail) = if in_gap {
        let (acquired, hash) = (receipt.acquired, receipt.claim_key_hash);
        (Kind::RowMissing, format!("the user's receipt, of {acquired} ms and claim key {hash:016x}, is no row"))
    } else if others {
        (Kind::ReceiptWithoutRow, "the row of its serial is another grant".to_owned())
    } else {
        (Kind::ReceiptWithoutRow, "the cell has not granted its serial, or not this one".to_owned())
    };
    Difference::new(kind, detail).template(row.id).serial(receipt.serial).epoch(receipt.epoch).user(user)
}
