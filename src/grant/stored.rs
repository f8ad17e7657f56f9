//! What PostgreSQL has of a template's grants, in the order of their serials: rows, and what was set
//! aside in place of one.
//!
//! Rows are read by COPY in its binary format: as fast as the table gives them, without a statement's
//! cost for each. And by ranges of serials, which have few gaps, rather than in order up to a limit: for that
//! PostgreSQL would now and then sort all that a template has left.

use tokio_postgres::{Client, Row};

use super::cells;
use super::stores::StoredGrant;
use crate::domain::ids::{SERIAL_MAX, Serial, TemplateId};
use crate::pg::PgFault;
use crate::pg::copy::CopiedRows;
use crate::redis::cell::Receipt;

/// At most `limit` grants of a template with serials from `first` to `last`, strictly ascending. Fewer than `limit`:
/// there are no more. A row comes before what was set aside under its serial. `places`: with address and device, which
/// only quotas ask for.
pub async fn read(
    client: &Client,
    template: TemplateId,
    places: bool,
    first: Serial,
    last: Serial,
    limit: usize,
) -> Result<Vec<StoredGrant>, PgFault> {
    debug_assert!(limit > 0);
    let mut last = last.min(SERIAL_MAX);
    if first > last {
        return Ok(Vec::new());
    }
    // Before the rows: what an operator makes a row of meanwhile is seen twice rather than never.
    let asides = asides(client, template, first, last, limit).await?;
    if let Some(aside) = asides.get(limit - 1) {
        last = aside.receipt.serial;
    }
    let rows = rows(client, template, places, first, last, limit).await?;
    if rows.len() == limit {
        last = rows[limit - 1].receipt.serial;
    }
    let mut grants = merge(rows, asides.into_iter().filter(|aside| aside.receipt.serial <= last).collect());
    grants.truncate(limit);
    Ok(grants)
}

/// All grants of a template with serials from `first` to `last`, strictly ascending. `any_asides`: whether anything may
/// have been set aside among them.
pub async fn within(
    client: &Client,
    template: TemplateId,
    places: bool,
    first: Serial,
    last: Serial,
    any_asides: bool,
) -> Result<Vec<StoredGrant>, PgFault> {
    // Before the rows, as above.
    let asides = match any_asides {
        true => asides(client, template, first, last, (last - first + 1) as usize).await?,
        false => Vec::new(),
    };
    Ok(merge(range(client, template, places, first, last).await?, asides))
}

/// At most `limit` rows, ascending.
async fn rows(
    client: &Client,
    template: TemplateId,
    places: bool,
    first: Serial,
    last: Serial,
    limit: usize,
) -> Result<Vec<StoredGrant>, PgFault> {
    let mut rows: Vec<StoredGrant> = Vec::new();
    let mut from = first;
    while rows.len() < limit && from <= last {
        let to = last.min(from + (limit - rows.len()) as u64 - 1);
        let mut range = range(client, template, places, from, to).await?;
        let is_whole = range.len() as u64 == to - from + 1;
        if rows.is_empty() {
            rows = range;
        } else {
            rows.append(&mut range);
        }
        from = to + 1;
        if !is_whole && from <= last {
            let Some(next) = next_serial(client, template, from, last).await? else { break };
            from = next;
        }
    }
    Ok(rows)
}

/// The first serial from `first` to `last` that somebody has: what lies before it is a gap.
pub async fn next_serial(
    client: &Client,
    template: TemplateId,
    first: Serial,
    last: Serial,
) -> Result<Option<Serial>, PgFault> {
    let sql = include_str!("../sql/grant/next_serial.sql");
    let next = client.query_one(sql, &[&template.as_i32(), &(first as i64), &(last as i64)]).await?;
    Ok(next.get::<_, Option<i64>>(0).map(|serial| serial as Serial))
}

/// All rows of a range, ascending.
async fn range(
    client: &Client,
    template: TemplateId,
    places: bool,
    first: Serial,
    last: Serial,
) -> Result<Vec<StoredGrant>, PgFault> {
    let mut sql = include_str!("../sql/grant/copy_range.sql").to_owned();
    for (name, value) in [("{template}", u64::from(template.0)), ("{first}", first), ("{last}", last)] {
        sql = sql.replace(name, &value.to_string());
    }
    sql = sql.replace("{places}", if places { ", ip_hash, device_hash" } else { "" });
    // On another thread: the caller writes the rows of the read before meanwhile.
    let decoding = tokio::spawn(decode(CopiedRows::new(client.copy_out(sql.as_str()).await?), places));
    decoding.await.map_err(|error| PgFault::fault(error.to_string()))?
}

async fn decode(mut copied: CopiedRows, places: bool) -> Result<Vec<StoredGrant>, PgFault> {
    let mut rows = Vec::new();
    while let Some(mut row) = copied.next().await? {
        // Fields are read in the order of the columns.
        let (serial, epoch) = (row.int8()? as u64, row.int4()? as u16);
        let user = Some(row.text()?);
        let (claim_key_hash, acquired) = (row.int8()? as u64, row.time()?);
        let (ip, device) = if places { (row.int8_or_null()?, row.int8_or_null()?) } else { (None, None) };
        rows.push(StoredGrant {
            user,
            receipt: Receipt { serial, epoch, acquired, claim_key_hash },
            ip: ip.map(|hash| hash as u64),
            device: device.map(|hash| hash as u64),
        });
    }
    rows.sort_unstable_by_key(|grant| grant.receipt.serial);
    Ok(rows)
}

async fn asides(
    client: &Client,
    template: TemplateId,
    first: Serial,
    last: Serial,
    limit: usize,
) -> Result<Vec<StoredGrant>, PgFault> {
    let sql = include_str!("../sql/grant/asides_from.sql");
    let found = client.query(sql, &[&template.as_i32(), &(first as i64), &(limit as i64), &(last as i64)]).await?;
    let hash = |row: &Row, at: usize| row.get::<_, Option<i64>>(at).map(|hash| hash as u64);
    let grant = |row: &Row| StoredGrant {
        user: row.get(2),
        receipt: Receipt {
            serial: row.get::<_, i64>(0) as u64,
            epoch: cells::epoch(row, 1),
            acquired: row.get::<_, Option<i64>>(6).unwrap_or_default(),
            claim_key_hash: hash(row, 3).unwrap_or_default(),
        },
        ip: hash(row, 4),
        device: hash(row, 5),
    };
    Ok(found.iter().map(grant).collect())
}

/// Both in one order; the first of a serial stays.
fn merge(rows: Vec<StoredGrant>, asides: Vec<StoredGrant>) -> Vec<StoredGrant> {
    if asides.is_empty() {
        return rows;
    }
    let mut merged = rows;
    merged.extend(asides);
    // Stable: of one serial, the row stands before what was set aside.
    merged.sort_by_key(|grant| grant.receipt.serial);
    merged.dedup_by_key(|grant| grant.receipt.serial);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(serial: Serial, user: &str) -> StoredGrant {
        let receipt = Receipt { serial, epoch: 1, acquired: 0, claim_key_hash: 1 };
        StoredGrant { user: Some(user.to_owned()), receipt, ip: None, device: None }
    }

    #[test]
    fn a_serial_is_given_back_once_and_as_its_row_has_it() {
        let rows = vec![grant(1, "a"), grant(3, "c")];
        let asides = vec![grant(2, "b"), grant(3, "other"), grant(3, "third"), grant(4, "d")];
        let merged = merge(rows, asides);
        let users: Vec<&str> = merged.iter().filter_map(|grant| grant.user.as_deref()).collect();
        assert_eq!(users, ["a", "b", "c", "d"]);
    }
}
