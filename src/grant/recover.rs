//! Opens a cell whose Redis came back empty or with another history.
//!
//! The same opening as ever, with cursors at the start. What Redis holds of the stored history and
//! PostgreSQL does not have yet becomes rows; what it holds beyond is kept in `set_aside`. Then the
//! cell is wiped, and given back from PostgreSQL.
//!
//! A recovery that dies in the middle leaves a cell that is closed, whose cursors tell how far it came:
//! the next one, or the flusher, goes on there.
//!
//! It works while gateways and flushers run. A flusher that refuses a cell lets its advisory lock
//! go between attempts, and whoever waits for the lock comes before those who only try; a flusher
//! that serves the cell keeps it, and then there is nothing to recover.

use std::time::Duration;

use redis::Value;
use serde_json::json;
use tokio_postgres::{Client, Statement};

use super::cells::{self, cell_i16};
use super::entry::{self, BadEntry, Grant};
use super::opening::{OpenFault, Opened, Opening, Refusal};
use super::queue::{self, QueueEntry};
use super::stores::Archive;
use super::stores::postgres::PgArchive;
use super::stores::redis::{RedisCell, parse_entry};
use super::writer::{WriteFault, Writer};
use crate::audit::{self, Action, Actor, Change, Subject};
use crate::config::{self, Config};
use crate::domain::ids::{CellId, EntryId, Epoch};
use crate::pg::{Pg, PgFault};
use crate::redis::cell::{Identity, int, read_meta, short, text};
use crate::redis::client::Redis;
use crate::redis::fault::Fault;
use crate::redis::keys::CellKeys;

/// A cell that was recovered.
#[derive(Clone, Debug)]
pub struct Recovered {
    pub opened: Opened,
    /// Grants that were on the queue and are rows now.
    pub stored: u64,
    /// Grants of the history that was given up, kept in `set_aside`.
    pub kept: u64,
}

/// How long a flusher may take to let the lock go. It does so at once when it refuses the cell.
const LOCK_WAIT: &str = "10s";

/// Entries and keys that one call reads.
const SCAN_COUNT: usize = 500;

/// Recovers `cell`. Without `force` only a Redis that is proved empty or diverged is wiped.
pub async fn recover(
    pg: &Pg,
    redis: &Redis,
    cell: CellId,
    config: &Config,
    force: bool,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Recovered, String> {
    let told = |fault: OpenFault| fault.to_string();
    let archive = PgArchive::new(lock(pg, cell).await?, cell).await.map_err(|fault| fault.to_string())?;
    let timeout = config::ms(config.postgres.statement_timeout_ms) * 4;
    let mut writer = Writer::new(archive, cell, timeout);
    let keys = CellKeys::new(cell);
    let redis_timeout = config::ms(config.redis.command_timeout_ms);
    let link = redis.link().await.map_err(|fault| fault.to_string())?;
    let mut link = RedisCell::new(link, keys.clone(), redis_timeout);
    let (quota, install) = (&config.quota, config.install_name());
    let mut opening = Opening { archive: writer.archive(), link: &mut link, cell, quota, install: &install, progress };
    let (meta, refusal) = opening.inspect().await.map_err(told)?;
    if meta.refilling && refusal.is_none() && !force {
        progress("an earlier recovery has wiped this cell: going on where it was");
        let in_all = rows_in_all(opening.archive.client()).await?;
        let opened = opening.run_on(meta, Some(in_all)).await.map_err(told)?;
        return Ok(Recovered { opened, stored: 0, kept: 0 });
    }
    let reason = match &refusal {
        Some(Refusal::Empty | Refusal::Wiping) => "diverged",
        Some(Refusal::Diverged { last, epoch, ended }) => {
            progress(&format!("Redis ends at {last}, the history that epoch {epoch} continued ended at {ended}"));
            "diverged"
        }
        None if force => "wiped",
        None => return Err("this Redis has the history that PostgreSQL knows: the flusher opens it by itself".into()),
    };
    let identity = opening.close(&meta).await.map_err(told)?;
    progress(&format!("epoch {}: grants are stopped", identity.epoch));
    let stored = store_common(&mut writer, redis, &keys, identity.epoch).await?;
    progress(&format!("{stored} grants on the queue belong to the stored history and are rows now"));
    let kept = keep_queue(writer.archive().client(), redis, &keys, cell, reason).await?;
    progress(&format!("{kept} grants that PostgreSQL does not have are kept in set_aside, reason '{reason}'"));
    // Before anything is lost: nobody wipes a cell unseen.
    let before = json!({"epoch": meta.epoch});
    let after = json!({"epoch": identity.epoch, "why": reason, "stored": stored, "kept": kept});
    let change = Change::new(Action::CellRecover, Subject::Cell(cell), before, after);
    audit::record_alone(pg, Actor::Cli, &change).await.map_err(|fault| fault.to_string())?;
    wipe(redis, &keys, &identity).await.map_err(|fault| fault.to_string())?;
    progress("the cell's keys are wiped");
    let mut opening = Opening { archive: writer.archive(), link: &mut link, cell, quota, install: &install, progress };
    let (meta, _) = opening.inspect().await.map_err(told)?;
    if meta.epoch != 0 {
        return Err("someone else has made this cell anew: nothing more was done".into());
    }
    let in_all = rows_in_all(opening.archive.client()).await?;
    let opened = opening.run_on(meta, Some(in_all)).await.map_err(told)?;
    tracing::warn!(
        cell = cell.0,
        epoch = opened.identity.epoch,
        rows = opened.rows_reapplied,
        stored,
        kept,
        "the cell was recovered"
    );
    Ok(Recovered { opened, stored, kept })
}

/// Takes the cell's advisory lock, over the connection that will do the work.
async fn lock(pg: &Pg, cell: CellId) -> Result<Client, String> {
    let client = pg.own().await.map_err(|fault| fault.to_string())?;
    let locked = async {
        client.batch_execute(&format!("SET lock_timeout = '{LOCK_WAIT}'; SET statement_timeout = 0")).await?;
        client.execute(include_str!("../sql/grant/lock.sql"), &[&i32::from(cell.0)]).await?;
        client.batch_execute("RESET statement_timeout; RESET lock_timeout").await
    };
    match locked.await.map_err(PgFault::from) {
        Ok(()) => Ok(client),
        Err(fault) if fault.sqlstate.as_deref() == Some("55P03") => {
            Err("a flusher holds this cell, so it is open or being opened. To recover it all the same, stop every \
             process with the role `flusher` first"
                .into())
        }
        Err(fault) => Err(fault.to_string()),
    }
}

/// Stores what follows on the watermark and lies before every recorded end of a history: up to
/// there, this Redis and the one that went on had the same entries.
async fn store_common(
    writer: &mut Writer<PgArchive>,
    redis: &Redis,
    keys: &CellKeys,
    epoch: Epoch,
) -> Result<u64, String> {
    let told = |fault: PgFault| fault.to_string();
    let mut stored = 0;
    loop {
        let at = writer.archive().cell().await.map_err(told)?.position.watermark;
        let mut entries = read_queue(redis, keys, at).await.map_err(|fault| fault.to_string())?;
        while let Some(last) = entries.last() {
            match writer.archive().diverged(last.id).await.map_err(told)? {
                Some((_, ended)) => entries.retain(|entry| entry.id <= ended),
                None => break,
            }
        }
        let count = queue::follow(writer.archive(), at, &entries).await.map_err(told)?;
        if count == 0 {
            return Ok(stored);
        }
        let written = writer.write(epoch, at, &entries[..count]).await.map_err(|fault| match fault {
            WriteFault::Zombie => "another process has taken this cell over".to_owned(),
            WriteFault::Pg(fault) => fault.to_string(),
        })?;
        stored += written.rows as u64;
    }
}

/// Keeps the grants on the queue that PostgreSQL does not have.
async fn keep_queue(
    client: &Client,
    redis: &Redis,
    keys: &CellKeys,
    cell: CellId,
    reason: &str,
) -> Result<u64, String> {
    let pg = |error: tokio_postgres::Error| PgFault::from(error).to_string();
    let save = client.prepare(include_str!("../sql/grant/save_lost.sql")).await.map_err(pg)?;
    let (mut after, mut kept) = (EntryId::ZERO, 0);
    loop {
        let entries = read_queue(redis, keys, after).await.map_err(|fault| fault.to_string())?;
        let Some(last) = entries.last() else { return Ok(kept) };
        after = last.id;
        client.batch_execute("BEGIN; SET LOCAL synchronous_commit = on").await.map_err(pg)?;
        let mut count = 0;
        for entry in entries.iter().filter(|entry| !entry.id.is_marker()) {
            match entry::decode(entry.id, &entry.payload) {
                Ok(grants) => {
                    for grant in &grants {
                        count += keep(client, &save, cell, entry, Ok(grant), reason).await.map_err(pg)?;
                    }
                }
                Err(bad) => count += keep(client, &save, cell, entry, Err(bad), reason).await.map_err(pg)?,
            }
        }
        let sql = include_str!("../sql/grant/count_set_aside.sql");
        client.execute(sql, &[&cell_i16(cell), &(count as i64)]).await.map_err(pg)?;
        client.batch_execute("COMMIT").await.map_err(pg)?;
        kept += count;
    }
}

async fn keep(
    client: &Client,
    save: &Statement,
    cell: CellId,
    entry: &QueueEntry,
    grant: Result<&Grant<'_>, BadEntry>,
    reason: &str,
) -> Result<u64, tokio_postgres::Error> {
    let grant = grant.ok();
    let user = grant.and_then(|grant| std::str::from_utf8(grant.user).ok()).filter(|user| !user.contains('\0'));
    let payload = if user.is_none() { Some(&entry.payload) } else { None };
    client
        .execute(
            save,
            &[
                &cell_i16(cell),
                &i32::from(entry.id.epoch),
                &(entry.id.seq as i64),
                &grant.map(|grant| grant.template.as_i32()),
                &grant.map(|grant| grant.serial as i64),
                &grant.map(|grant| i32::from(grant.epoch)),
                &user,
                &grant.map(|grant| grant.claim_key_hash as i64),
                &grant.and_then(|grant| grant.ip_hash).map(|hash| hash as i64),
                &grant.and_then(|grant| grant.device_hash).map(|hash| hash as i64),
                &grant.map(|grant| grant.acquired as f64),
                &payload,
                &reason,
            ],
        )
        .await
}

async fn rows_in_all(client: &Client) -> Result<u64, String> {
    let row = client.query_one(include_str!("../sql/grant/rows_in_all.sql"), &[]).await;
    Ok(row.map_err(|error| PgFault::from(error).to_string())?.get::<_, i64>(0) as u64)
}

async fn read_queue(redis: &Redis, keys: &CellKeys, after: EntryId) -> Result<Vec<QueueEntry>, Fault> {
    let mut range = redis::cmd("XRANGE");
    range.arg(keys.queue()).arg(format!("({after}")).arg("+").arg("COUNT").arg(SCAN_COUNT);
    let Value::Array(entries) = redis.command(&range).await? else { return Err(Fault::reply("no entries")) };
    entries.into_iter().map(parse_entry).collect()
}

/// Removes every key of the cell, its meta last and marked: a crash in between leaves a cell that
/// only another recovery opens, since receipts may be gone whose templates are still there. What is left
/// is the mark that the cell is to be given everything back.
async fn wipe(redis: &Redis, keys: &CellKeys, identity: &Identity) -> Result<(), Fault> {
    let mut link = redis.link().await?;
    let meta = tokio::time::timeout(Duration::from_secs(5), read_meta(&mut link, keys)).await;
    let meta = meta.unwrap_or_else(|_| Err(Fault::timeout()))?;
    if meta.live_replid != *identity.replid || meta.epoch != identity.epoch || meta.open {
        return Err(Fault::refused("it is not the Redis that was closed"));
    }
    let mut mark = redis::cmd("HSET");
    redis.command(mark.arg(keys.meta()).arg("wiping").arg("1")).await?;
    let mut cursor = "0".to_owned();
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(keys.pattern()).arg("COUNT").arg(SCAN_COUNT);
        let Value::Array(reply) = redis.command(&scan).await? else { return Err(Fault::reply("no scan")) };
        let [next, Value::Array(found)] = reply.as_slice() else { return Err(short()) };
        if !found.is_empty() {
            let names = found.iter().map(text).collect::<Result<Vec<_>, _>>()?;
            let mut unlink = redis::cmd("UNLINK");
            let others: Vec<_> = names.iter().filter(|name| *name != keys.meta()).collect();
            if !others.is_empty() {
                int(&redis.command(unlink.arg(others)).await?)?;
            }
        }
        cursor = text(next)?;
        if cursor == "0" {
            let mut unlink = redis::cmd("UNLINK");
            redis.command(unlink.arg(keys.meta())).await?;
            let mut mark = redis::cmd("HSET");
            return redis.command(mark.arg(keys.meta()).arg("wiping").arg("2")).await.map(drop);
        }
    }
}

/// The word for what is wrong with the cell, for `doctor`: nothing is changed and no lock is taken.
pub async fn judge(pg: &Pg, redis: &Redis, cell: CellId) -> Result<Option<Refusal>, String> {
    let client = pg.get().await.map_err(|fault| fault.to_string())?;
    let keys = CellKeys::new(cell);
    let meta = crate::redis::cell::read_meta_pooled(redis, &keys).await.map_err(|fault| fault.to_string())?;
    let row = cells::read(&client, cell).await.map_err(|fault| fault.to_string())?;
    if meta.wiping {
        return Ok(Some(Refusal::Wiping));
    }
    if meta.epoch == 0 && row.opened {
        return Ok(Some(Refusal::Empty));
    }
    let diverged = cells::diverged(&client, cell, meta.last).await.map_err(|fault| fault.to_string())?;
    Ok(diverged.map(|(epoch, ended)| Refusal::Diverged { last: meta.last, epoch, ended }))
}
