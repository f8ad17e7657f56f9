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

/// What a template may miss in Redis: grants from the cursor on.
struct Missing<'a> {
    template: &'a TemplateRow,
    cursor: Serial,
    extent: Extent,
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
        let from: Vec<(TemplateId, Serial)> = cursors.iter().map(|(template, cursor)| (template.id, *cursor)).collect();
        let extents: HashMap<TemplateId, Extent> = opening.archive.extents(&from).await?.into_iter().collect();
        let missing = cursors.into_iter().filter_map(|(template, cursor)| {
            let extent = *extents.get(&template.id)?;
            Some(Missing { template, cursor, extent })
        });
        let (on_their_way, arriving) = mpsc::channel(1);
        let (archive, link) = (opening.archive, &mut *opening.link);
        let writing = write(link, identity, &quotas, &now, arriving, progress);
        let ((), written) = tokio::try_join!(read(archive, missing.collect(), on_their_way), writing)?;
        rows += written;
    }
}

/// Reads what is missing, template by template, in portions, a read ahead of what is written.
async fn read<'a>(
    archive: &impl Archive,
    missing: Vec<Missing<'a>>,
    on_their_way: mpsc::Sender<Rows<'a>>,
) -> Result<(), OpenFault> {
    for Missing { template, cursor, extent } in missing {
        for (first, last) in joined(&template.ranges) {
            let (mut from, end) = (first.max(cursor), last.min(extent.rows.max(extent.asides)));
            while from <= end {
                let to = end.min(from + limits::REAPPLY_READ_SERIALS - 1);
                let grants = archive.grants_within(template, from, to, from <= extent.asides).await?;
                from = to + 1;
                if grants.is_empty() {
                    // A gap may be of any width.
                    let Some(next) = archive.next_serial(template.id, from, end).await? else { break };
                    from = next;
                } else if on_their_way.send((template, grants)).await.is_err() {
                    // Nobody takes it: the writer has failed, and says so.
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Ranges in ascending order, where one goes on at the next serial as one.
fn joined(ranges: &[(Serial, Serial)]) -> Vec<(Serial, Serial)> {
    let mut joined: Vec<(Serial, Serial)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if *end + 1 == *first => *end = *last,
            _ => joined.push((*first, *last)),
        }
    }
    joined
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
        let day = Day::of(template.definition.timezone, now());
        link.reapply(identity, template, day, quotas, &grants).await?;
        progress.given_back(template.id, grants.len() as u64);
        rows += grants.len() as u64;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_that_was_added_is_read_on_without_a_break() {
        assert_eq!(joined(&[(1, 10), (11, 20), (31, 40), (41, 41)]), [(1, 20), (31, 41)]);
        assert_eq!(joined(&[]), []);
    }
}
