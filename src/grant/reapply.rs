//! Gives a closed cell back what PostgreSQL knows: templates and their stock, receipts, day counts,
//! quotas and cursors.
//!
//! Serials below a template's cursor in Redis are in Redis; everything from the cursor on is read
//! from PostgreSQL by primary key, in chunks, each idempotent. While Redis takes one read's chunks
//! the next is read, of the same template or the next, so that neither store waits for the other.

use tokio::sync::mpsc;

use super::opening::{OpenFault, Opening};
use super::progress::Progress;
use super::stores::{Archive, CellLink, Quotas, StoredGrant};
use crate::catalog::publish::TemplateRow;
use crate::config;
use crate::domain::ids::Serial;
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

/// Rows of one template on their way from PostgreSQL to Redis.
type Rows<'a> = (&'a TemplateRow, Vec<StoredGrant>);

/// Puts every template that the cell must hold, and reapplies its rows. Returns the rows.
pub(super) async fn all<A: Archive, L: CellLink>(
    opening: &mut Opening<'_, A, L>,
    identity: &Identity,
    now: impl Fn() -> Millis,
    progress: &mut Progress<'_>,
) -> Result<u64, OpenFault> {
    let quotas = quotas(opening.quota);
    let (mut after, mut rows) = (0, 0);
    loop {
        let page = opening.archive.templates(after, limits::PAGE_MAX).await?;
        let Some(last) = page.last() else { return Ok(rows) };
        after = last.id.as_i32();
        let mut cursors = Vec::with_capacity(page.len());
        for template in &page {
            opening.link.put(identity, template).await?;
            if !template.freed {
                // Without rows it only tells the cursor.
                let day = Day::of(template.definition.timezone, now());
                let cursor = opening.link.reapply(identity, template, day, &quotas, &[]).await?;
                progress.passed_over(cursor.saturating_sub(1));
                cursors.push((template, cursor));
            }
        }
        let (on_their_way, arriving) = mpsc::channel(1);
        let (archive, link) = (opening.archive, &mut *opening.link);
        let writing = write(link, identity, &quotas, &now, arriving, progress);
        let ((), written) = tokio::try_join!(read(archive, &cursors, on_their_way), writing)?;
        rows += written;
    }
}

/// Reads what lies behind the cursors, a read ahead of what is written.
async fn read<'a>(
    archive: &impl Archive,
    cursors: &[(&'a TemplateRow, Serial)],
    on_their_way: mpsc::Sender<Rows<'a>>,
) -> Result<(), OpenFault> {
    for (template, cursor) in cursors {
        let mut from = *cursor;
        loop {
            let grants = archive.grants_from(template, from, limits::REAPPLY_READ_ROWS_MAX).await?;
            let Some(last) = grants.last() else { break };
            from = last.receipt.serial + 1;
            let is_end = grants.len() < limits::REAPPLY_READ_ROWS_MAX;
            // Nobody takes it: the writer has failed, and says so.
            if on_their_way.send((template, grants)).await.is_err() {
                return Ok(());
            }
            if is_end {
                break;
            }
        }
    }
    Ok(())
}

async fn write(
    link: &mut impl CellLink,
    identity: &Identity,
    quotas: &Quotas,
    now: &impl Fn() -> Millis,
    mut arriving: mpsc::Receiver<Rows<'_>>,
    progress: &mut Progress<'_>,
) -> Result<u64, OpenFault> {
    let mut rows = 0;
    while let Some((template, mut grants)) = arriving.recv().await {
        grants.retain(|grant| {
            template.ranges.iter().any(|(first, last)| (*first..=*last).contains(&grant.receipt.serial))
        });
        if grants.is_empty() {
            continue;
        }
        let day = Day::of(template.definition.timezone, now());
        link.reapply(identity, template, day, quotas, &grants).await?;
        progress.given_back(template.id, grants.len() as u64);
        rows += grants.len() as u64;
    }
    Ok(rows)
}
