//! Gives a closed cell back what PostgreSQL knows: templates and their stock, receipts, day counts,
//! quotas and cursors.
//!
//! Serials below a template's cursor in Redis are in Redis; everything from the cursor on is read
//! from PostgreSQL by primary key, in chunks, each idempotent. While Redis takes one read's chunks
//! the next is read, so that neither store waits for the other.

use super::opening::{OpenFault, Opening};
use super::progress::Progress;
use super::stores::{Archive, CellLink, Quotas, StoredGrant};
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
    progress: &mut Progress<'_>,
) -> Result<u64, OpenFault> {
    let (mut after, mut rows) = (0, 0);
    loop {
        let page = opening.archive.templates(after, limits::PAGE_MAX).await?;
        let Some(last) = page.last() else { return Ok(rows) };
        after = last.id.as_i32();
        for template in &page {
            opening.link.put(identity, template).await?;
            if !template.freed {
                let day = Day::of(template.definition.timezone, now());
                rows += one(opening, identity, template, day, progress).await?;
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
    progress: &mut Progress<'_>,
) -> Result<u64, OpenFault> {
    let quotas = quotas(opening.quota);
    let in_stock = |grant: &StoredGrant| {
        template.ranges.iter().any(|(first, last)| (*first..=*last).contains(&grant.receipt.serial))
    };
    // Without rows it only tells the cursor.
    let cursor = opening.link.reapply(identity, template, day, &quotas, &[]).await?;
    progress.passed_over(cursor.saturating_sub(1));
    let (archive, link) = (opening.archive, &mut *opening.link);
    let read = |first| archive.grants_from(template, first, limits::REAPPLY_ROWS_MAX);
    let (mut grants, mut count) = (read(cursor).await?, 0);
    while let Some(behind) = grants.last().map(|grant| grant.receipt.serial + 1) {
        grants.retain(in_stock);
        let write = async {
            if grants.is_empty() {
                return Ok::<u64, OpenFault>(0);
            }
            link.reapply(identity, template, day, &quotas, &grants).await?;
            progress.given_back(template.id, grants.len() as u64);
            Ok(grants.len() as u64)
        };
        let (written, next) = tokio::join!(write, read(behind));
        count += written?;
        grants = next?;
    }
    if count > 0 {
        tracing::info!(cell = opening.cell.0, template = template.id.0, rows = count, "rows reapplied");
    }
    Ok(count)
}
