//! The cell's meta and queue beside its row in PostgreSQL.

use redis::Value;
use tokio_postgres::Client;

use super::difference::{Difference, Kind, Mend};
use super::{Blind, View};
use crate::app::App;
use crate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use crate::grant::entry::{self, Grant};
use crate::grant::queue::QueueEntry;
use crate::grant::recover;
use crate::grant::stores::redis::parse_entry;
use crate::pg::PgFault;
use crate::redis::cell::Identity;
use crate::redis::fault::Fault;

/// Entries behind the watermark that are read at once.
const ENTRIES_MAX: usize = 200;

/// What speaks against the cell as a whole, while it is not open. None: it is being opened.
pub async fn refused(app: &App) -> Result<Option<Difference>, String> {
    let refusal = recover::judge(&app.pg, &app.redis, app.cell).await?;
    Ok(refusal.map(|refusal| Difference::new(Kind::CellRefused, refusal.to_string())))
}

/// Looks at PostgreSQL first: its watermark only follows.
pub async fn look(view: &View<'_>) -> Result<Vec<Difference>, Blind> {
    let (row, meta) = (view.row().await?, view.meta().await?);
    if Identity::of(&meta).as_ref() != Some(&*view.identity) {
        return Err(Blind::NotOpen);
    }
    let watermark = row.position.watermark;
    let mut found = Vec::new();
    if row.position.epoch != meta.epoch {
        let detail = format!("Redis serves epoch {}, PostgreSQL has {}", meta.epoch, row.position.epoch);
        found.push(Difference::new(Kind::EpochDiffers, detail).epoch(meta.epoch));
    }
    if watermark.epoch == meta.epoch && watermark > meta.last {
        let detail = format!("the watermark is {watermark}, the queue's last entry {}", meta.last);
        found.push(Difference::new(Kind::WatermarkAhead, detail).entry(watermark));
    }
    // As long as one of the entries holds what is stored nowhere else, nothing may be trimmed.
    let mut is_safe = true;
    if let Some(first) = meta.first.filter(|first| *first <= watermark) {
        let not_stored = not_stored(view, watermark).await?;
        is_safe = not_stored.is_empty();
        if is_safe {
            let detail = format!("it is on the queue, and the watermark is {watermark}");
            found.push(Difference::new(Kind::EntryUntrimmed, detail).entry(first).mend(Mend::Trim(Vec::new())));
        }
        found.extend(not_stored);
    }
    if meta.backlog == 0 && meta.queued > 0 {
        let detail = format!("{} grants are counted on a queue that is empty", meta.queued);
        found.push(Difference::new(Kind::QueueCount, detail).mend(Mend::Trim(Vec::new())));
    }
    for (template, entry) in meta.marks.iter().filter(|(_, entry)| is_safe && *entry <= watermark) {
        let detail = format!("it is marked as unflushed up to an entry that is stored: the watermark is {watermark}");
        let stale = Difference::new(Kind::MarkStale, detail).template(*template).entry(*entry);
        found.push(stale.mend(Mend::Trim(vec![*template])));
    }
    Ok(found)
}

/// Grants in entries up to the watermark that PostgreSQL has not: the first of them that there are.
async fn not_stored(view: &View<'_>, watermark: EntryId) -> Result<Vec<Difference>, Blind> {
    let mut after = None;
    loop {
        let entries = stale_entries(view.app, after, watermark).await?;
        after = entries.last().map(|entry| entry.id);
        let found = not_stored_of(view, &entries).await?;
        // All are looked at, as many as there may be: what is not found here would be trimmed.
        if !found.is_empty() || after.is_none() {
            return Ok(found);
        }
    }
}

async fn not_stored_of(view: &View<'_>, entries: &[QueueEntry]) -> Result<Vec<Difference>, Blind> {
    let mut found = Vec::new();
    for queued in entries {
        let Ok(grants) = entry::decode(queued.id, &queued.payload) else { continue };
        let stored = stored(view.client, &grants).await?;
        for grant in grants.iter().filter(|grant| !stored.contains(&(grant.template, grant.serial, grant.epoch))) {
            let user = String::from_utf8_lossy(grant.user);
            let detail = "its entry lies behind the watermark, and it is neither a row nor set aside";
            let lost = Difference::new(Kind::EntryNotStored, detail).template(grant.template).serial(grant.serial);
            found.push(lost.epoch(grant.epoch).entry(queued.id).user(user));
        }
    }
    Ok(found)
}

/// Entries behind `after` up to the watermark, from the oldest on.
async fn stale_entries(app: &App, after: Option<EntryId>, watermark: EntryId) -> Result<Vec<QueueEntry>, Fault> {
    let begin = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
    let mut range = redis::cmd("XRANGE");
    range.arg(app.keys.queue()).arg(begin).arg(watermark.to_string()).arg("COUNT").arg(ENTRIES_MAX);
    let Value::Array(entries) = app.redis.command(&range).await? else { return Err(Fault::reply("no entries")) };
    entries.into_iter().map(parse_entry).collect()
}

/// Those of these grants that are rows, or were set aside.
async fn stored(client: &Client, grants: &[Grant<'_>]) -> Result<Vec<(TemplateId, Serial, Epoch)>, PgFault> {
    let templates: Vec<i32> = grants.iter().map(|grant| grant.template.as_i32()).collect();
    let serials: Vec<i64> = grants.iter().map(|grant| grant.serial as i64).collect();
    let epochs: Vec<i32> = grants.iter().map(|grant| i32::from(grant.epoch)).collect();
    let rows = client.query(include_str!("../sql/wallet/stored.sql"), &[&templates, &serials, &epochs]).await?;
    let grant = |row: &tokio_postgres::Row| {
        (TemplateId(row.get::<_, i32>(0) as u32), row.get::<_, i64>(1) as u64, row.get::<_, i32>(2) as u16)
    };
    Ok(rows.iter().map(grant).collect())
}
