//! Gives a closed cell back what PostgreSQL knows: templates and their stock, receipts, day counts,
//! quotas and cursors.
//!
//! Serials below a template's cursor in Redis are in Redis; everything from the cursor on is read
//! from PostgreSQL by primary key, in chunks, each idempotent.

use tokio_postgres::Row;

use super::cells;
use super::opening::{OpenFault, Opening};
use super::queue::ask;
use crate::catalog::publish::{TemplateRow, load_page, put_answer, put_call};
use crate::config;
use crate::domain::ids::{SERIAL_MAX, Serial};
use crate::domain::window::{Day, Millis};
use crate::limits;
use crate::redis::cell::{Identity, Receipt, accepted, int, short};
use crate::redis::client::Call;
use crate::redis::keys::TemplateKeys;
use crate::redis::scripts::Script;

/// Limit and window in ms of user, IP and device.
pub(super) fn quotas(quota: &config::Quota) -> [(u64, u64); 3] {
    [
        (quota.user_limit, quota.user_window_s),
        (quota.ip_limit, quota.ip_window_s),
        (quota.device_limit, quota.device_window_s),
    ]
    .map(|(limit, window_s)| (limit.into(), u64::from(window_s) * 1000))
}

/// The same as arguments.
pub(super) fn put_quotas(call: &mut Call, quota: &config::Quota) {
    for (limit, window) in quotas(quota) {
        call.arg(limit).arg(window);
    }
}

/// Puts every template that the cell must hold, and reapplies its rows. Returns the rows.
pub(super) async fn all(
    opening: &mut Opening<'_>,
    identity: &Identity,
    now: impl Fn() -> Millis,
) -> Result<u64, OpenFault> {
    let (mut after, mut rows) = (0, 0);
    loop {
        let page = load_page(opening.client, after, limits::PAGE_MAX).await?;
        let Some(last) = page.last() else { return Ok(rows) };
        after = last.id.as_i32();
        for template in &page {
            put_answer(ask(opening.link, &put_call(opening.keys, identity, false, template), opening.timeout).await?)?;
            if !template.freed {
                rows += one(opening, identity, template, Day::of(template.definition.timezone, now())).await?;
            }
        }
    }
}

/// Reapplies one template's rows from the cell's cursor on.
async fn one(
    opening: &mut Opening<'_>,
    identity: &Identity,
    template: &TemplateRow,
    day: Day,
) -> Result<u64, OpenFault> {
    let last = template.ranges.last().map_or(0, |(_, last)| *last as i64);
    let keys = opening.keys.template(template.id);
    let mut cursor = chunk(opening, identity, template, &keys, day, &[]).await?;
    let mut count = 0;
    loop {
        let sql = include_str!("../sql/grant/rows_from.sql");
        let from = cursor.min(SERIAL_MAX + 1) as i64;
        let rows = opening
            .client
            .query(sql, &[&template.id.as_i32(), &from, &(limits::REAPPLY_ROWS_MAX as i64), &last])
            .await?;
        if rows.is_empty() {
            break;
        }
        cursor = chunk(opening, identity, template, &keys, day, &rows).await?;
        count += rows.len() as u64;
        (opening.progress)(&format!("template {}: {count} rows given back", template.id));
    }
    if count > 0 {
        tracing::info!(cell = opening.cell.0, template = template.id.0, rows = count, "rows reapplied");
    }
    Ok(count)
}

/// Reapplies a chunk of rows and returns the cursor; without rows it only tells the cursor.
async fn chunk(
    opening: &mut Opening<'_>,
    identity: &Identity,
    template: &TemplateRow,
    keys: &TemplateKeys,
    day: Day,
    rows: &[Row],
) -> Result<Serial, OpenFault> {
    let names: Vec<&str> = [opening.keys.meta(), keys.template(), keys.receipts()]
        .into_iter()
        .chain(opening.keys.quotas().iter().map(|key| &**key))
        .collect();
    let mut call = Call::new(Script::CellReapply, names.into_iter());
    identity.put(&mut call);
    call.arg(day.start).arg(day.end).arg(u8::from(template.definition.quotas));
    put_quotas(&mut call, opening.quota);
    call.arg(rows.len());
    for row in rows {
        let receipt = Receipt {
            serial: row.get::<_, i64>(0) as u64,
            epoch: cells::epoch(row, 1),
            acquired: row.get(6),
            claim_key_hash: row.get::<_, i64>(3) as u64,
        };
        let hash = |at: usize| row.get::<_, Option<i64>>(at).map(|hash| (hash as u64).to_be_bytes());
        call.arg(row.get::<_, Option<&str>>(2).unwrap_or(""));
        call.bytes(&receipt.pack());
        call.bytes(hash(4).as_ref().map_or(&[], |bytes| bytes));
        call.bytes(hash(5).as_ref().map_or(&[], |bytes| bytes));
    }
    let mut reply = accepted(ask(opening.link, &call, opening.timeout).await?)?;
    Ok(int(&reply.next().ok_or_else(short)?)? as Serial)
}
