//! Gives a closed cell back what PostgreSQL knows: templates and their stock, receipts, day counts,
//! quotas and cursors.
//!
//! Serials below a template's cursor in Redis are in Redis; everything from the cursor on is read
//! from PostgreSQL by primary key, in chunks, each idempotent.

use tokio_postgres::Row;

use super::cells::{self, cell_i16};
use super::opening::{OpenFault, Opening};
use super::queue::ask;
use crate::config;
use crate::domain::ids::{SERIAL_MAX, Serial, TemplateId};
use crate::domain::template::Definition;
use crate::domain::window::{Day, Millis};
use crate::limits;
use crate::pg::PgFault;
use crate::redis::cell::{Identity, Receipt, accepted, int, short};
use crate::redis::client::Call;
use crate::redis::keys::TemplateKeys;
use crate::redis::scripts::Script;

/// A template as its row has it, as far as a cell must know it.
struct Stored {
    id: TemplateId,
    state: u8,
    revision: i64,
    generation: i32,
    definition: Definition,
}

/// The state that marks a tombstone in Redis.
const FREED: u8 = 9;

/// Arguments of the quota settings: limit and window in ms of user, IP and device.
pub(super) fn put_quotas(call: &mut Call, quota: &config::Quota) {
    for (limit, window_s) in [
        (quota.user_limit, quota.user_window_s),
        (quota.ip_limit, quota.ip_window_s),
        (quota.device_limit, quota.device_window_s),
    ] {
        call.arg(limit).arg(u64::from(window_s) * 1000);
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
        let sql = include_str!("../sql/grant/loadable_templates.sql");
        let page = opening.client.query(sql, &[&after, &(limits::PAGE_MAX as i64)]).await?;
        let Some(last) = page.last() else { return Ok(rows) };
        after = last.get(0);
        for row in &page {
            let template = Stored::of(row)?;
            let last = put(opening, identity, &template).await?;
            if template.state != FREED {
                rows += one(opening, identity, &template, last, Day::of(template.definition.timezone, now())).await?;
            }
        }
    }
}

/// Brings one template to its revision and gives the cell the ranges it lacks. Returns the last
/// serial of its stock.
async fn put(opening: &mut Opening<'_>, identity: &Identity, template: &Stored) -> Result<i64, OpenFault> {
    let keys = opening.keys.template(template.id);
    let mut names = vec![opening.keys.meta(), keys.template()];
    if template.state == FREED {
        names.push(keys.receipts());
    }
    let mut call = Call::new(Script::TemplatePut, names.into_iter());
    identity.put(&mut call);
    call.arg("0").arg(template.state).arg(template.revision).arg(template.generation);
    let Definition { limits, stock, claim_window: (starts, ends), quotas, .. } = &template.definition;
    call.arg(starts).arg(ends).arg(limits.per_user).arg(limits.per_user_daily.unwrap_or(0));
    call.arg(stock.daily.unwrap_or(0)).arg(u8::from(*quotas));
    let mut last = 0;
    if template.state != FREED {
        let sql = include_str!("../sql/grant/template_ranges.sql");
        for row in opening.client.query(sql, &[&template.id.as_i32(), &cell_i16(opening.cell)]).await? {
            last = row.get(1);
            call.arg(row.get::<_, i64>(0)).arg(last);
        }
    }
    match accepted(ask(opening.link, &call, opening.timeout).await?) {
        Err(fault) if template.state == FREED && fault.detail.ends_with("freed") => Ok(last),
        result => result.map(|_| last).map_err(OpenFault::from),
    }
}

/// Reapplies one template's rows from the cell's cursor on.
async fn one(
    opening: &mut Opening<'_>,
    identity: &Identity,
    template: &Stored,
    last: i64,
    day: Day,
) -> Result<u64, OpenFault> {
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
    template: &Stored,
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

// === impl Stored ===

impl Stored {
    fn of(row: &Row) -> Result<Stored, PgFault> {
        let id = TemplateId(row.get::<_, i32>(0) as u32);
        let state = match row.get::<_, &str>(1) {
            _ if row.get(5) => FREED,
            "paused" => 2,
            "stopped" => 3,
            // Finished is published with its window over or its stock sold: Redis sees that itself.
            _ => 1,
        };
        let definition = Definition::from_store(&row.get(4))
            .map_err(|wrong| PgFault::fault(format!("the definition of template {id} cannot be read: {wrong:?}")))?;
        Ok(Stored { id, state, revision: row.get(2), generation: row.get(3), definition })
    }
}
