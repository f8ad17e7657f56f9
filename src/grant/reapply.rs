//! Gives a closed cell back what PostgreSQL knows: templates and their stock, receipts, day counts,
//! quotas and cursors.
//!
//! Serials below a template's cursor in Redis are in Redis; everything from the cursor on is read
//! from PostgreSQL by primary key, in chunks, each idempotent. While Redis takes one read's chunks
//! the next is read, of the same template or the next, so that neither store waits for the other.

use std::collections::HashMap;

use tokio::sync::mpsc;

use super::opening::{OpenFault, Opening};
use super::progress::Progress;
use super::stores::{Archive, CellLink, Extent, Quotas, StoredGrant};
use crate::catalog::publish::TemplateRow;
use crate::config;
use crate::domain::ids::{Serial, TemplateId};
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

/// What one read is of: serials of a template.
struct Piece<'a> {
    template: &'a TemplateRow,
    extent: Extent,
    first: Serial,
    last: Serial,
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
        let ids: Vec<TemplateId> = page.iter().map(|template| template.id).collect();
        let extents: HashMap<TemplateId, Extent> = opening.archive.extents(&ids).await?.into_iter().collect();
        let mut missing = Vec::new();
        for template in &page {
            opening.link.put(identity, template).await?;
            if !template.freed {
                // Without rows it only tells the cursor.
                let day = Day::of(template.definition.timezone, now());
                let cursor = opening.link.reapply(identity, template, day, &quotas, &[]).await?;
                progress.passed_over(cursor.saturating_sub(1));
                missing.extend(pieces(template, extents.get(&template.id).copied().unwrap_or_default(), cursor));
            }
        }
        if missing.is_empty() {
            continue;
        }
        let (on_their_way, arriving) = mpsc::channel(1);
        let (archive, link) = (opening.archive, &mut *opening.link);
        let writing = write(link, identity, &quotas, &now, arriving, progress);
        let ((), written) = tokio::try_join!(read(archive, missing, on_their_way), writing)?;
        rows += written;
    }
}

/// The serials from the cursor on that may have grants, in portions.
fn pieces(template: &TemplateRow, extent: Extent, cursor: Serial) -> impl Iterator<Item = Piece<'_>> {
    let end = extent.rows.max(extent.asides);
    template.ranges.iter().flat_map(move |(first, last)| {
        let last = end.min(*last);
        let firsts = (cursor.max(*first)..=last).step_by(limits::REAPPLY_READ_SERIALS as usize);
        firsts.map(move |first| Piece {
            template,
            extent,
            first,
            last: last.min(first + limits::REAPPLY_READ_SERIALS - 1),
        })
    })
}

/// Reads pieces in their order, a read ahead of what is written.
async fn read<'a>(
    archive: &impl Archive,
    pieces: Vec<Piece<'a>>,
    on_their_way: mpsc::Sender<Rows<'a>>,
) -> Result<(), OpenFault> {
    for Piece { template, extent, first, last } in pieces {
        let grants = archive.grants_within(template, extent, first, last).await?;
        // Nobody takes it: the writer has failed, and says so.
        if on_their_way.send((template, grants)).await.is_err() {
            break;
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
    while let Some((template, grants)) = arriving.recv().await {
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
