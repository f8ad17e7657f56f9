//! Gives a closed cell back what PostgreSQL knows: templates and their stock, receipts, day counts,
//! quotas and cursors.
//!
//! Serials below a template's cursor in Redis are in Redis; everything from the cursor on is read
//! from PostgreSQL by primary key, in chunks, each idempotent.

use super::opening::{OpenFault, Opening};
use super::stores::{Archive, CellLink, Quotas};
use crate::catalog::publish::TemplateRow;
use crate::config;
use crate::domain::window::{Day, Millis};
use crate::limits;
use crate::redis::cell::Identity;

/// Limit and window in ms of user, IP and device.
pub(super) fn quotas(quota: &config::Quota) -> Quotas {
    [
        (quota.user_limit, quota.user_window_s),
        (quota.ip_limit, quota.ip_window_s),
        (quota.device_limit, quota.device_window_s),
    ]
    .map(|(limit, window_s)| (limit.into(), u64::from(window_s) * 1000))
}

/// Puts every template that the cell must hold, and reapplies its rows. Returns the rows.
pub(super) async fn all<A: Archive, L: CellLink>(
    opening: &mut Opening<'_, A, L>,
    identity: &Identity,
    now: impl Fn() -> Millis,
) -> Result<u64, OpenFault> {
    let (mut after, mut rows) = (0, 0);
    loop {
        let page = opening.archive.templates(after, limits::PAGE_MAX).await?;
        let Some(last) = page.last() else { return Ok(rows) };
        after = last.id.as_i32();
        for template in &page {
            opening.link.put(identity, template).await?;
            if !template.freed {
                rows += one(opening, identity, template, Day::of(template.definition.timezone, now())).await?;
            }
        }
    }
}

/// Reapplies one template's rows from the cell's cursor on.
async fn one<A: Archive, L: CellLink>(
    opening: &mut Opening<'_, A, L>,
    identity: &Identity,
    template: &TemplateRow,
    day: Day,
) -> Result<u64, OpenFault> {
    let quotas = quotas(opening.quota);
    // Without rows it only tells the cursor.
    let mut cursor = opening.link.reapply(identity, template, day, &quotas, &[]).await?;
    let mut count = 0;
    loop {
        let rows = opening.archive.grants_from(template, cursor, limits::REAPPLY_ROWS_MAX).await?;
        if rows.is_empty() {
            break;
        }
        cursor = opening.link.reapply(identity, template, day, &quotas, &rows).await?;
        count += rows.len() as u64;
        (opening.progress)(&format!("template {}: {count} rows given back", template.id));
    }
    if count > 0 {
        tracing::info!(cell = opening.cell.0, template = template.id.0, rows = count, "rows reapplied");
    }
    Ok(count)
}
