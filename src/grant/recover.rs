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

use serde_json::json;
use tokio_postgres::Client;

use super::cells;
use super::entry;
use super::opening::{OpenFault, Opened, Opening, Refusal};
use super::queue;
use super::stores::postgres::PgArchive;
use super::stores::redis::RedisCell;
use super::stores::{Archive, CellLink};
use super::writer::{WriteFault, Writer};
use crate::audit::{self, Action, Actor, Change, Subject};
use crate::config::{self, Config};
use crate::domain::ids::{CellId, EntryId, Epoch};
use crate::pg::{Pg, PgFault};
use crate::redis::cell::CellMeta;
use crate::redis::client::Redis;
use crate::redis::keys::CellKeys;

/// A recovery, between its steps. The caller holds the cell's advisory lock on the writer's connection.
pub struct Recovery<'a, A, L> {
    pub writer: Writer<A>,
    pub link: L,
    pub cell: CellId,
    pub quota: &'a config::Quota,
    /// Which installation this is, see `Config::install_name`.
    pub install: &'a str,
    /// Told what is being done, for a person who waits.
    pub progress: &'a (dyn Fn(&str) + Sync),
}

/// A cell that was recovered.
#[derive(Clone, Debug)]
pub struct Recovered {
    pub opened: Opened,
    /// Grants that were on the queue and are rows now.
    pub stored: u64,
    /// Grants of the history that was given up, kept in `set_aside`.
    pub kept: u64,
}

/// What is known of a cell before it is wiped.
#[derive(Clone, Debug)]
pub struct GivenUp {
    /// The epoch that it had, and the one that it is closed by.
    pub before: Epoch,
    pub epoch: Epoch,
    pub reason: &'static str,
    pub stored: u64,
    pub kept: u64,
}

/// How long a flusher may take to let the lock go. It does so at once when it refuses the cell.
const LOCK_WAIT: &str = "10s";

/// Recovers `cell`. Without `force` only a Redis that is proved empty or diverged is wiped.
pub async fn recover(
    pg: &Pg,
    redis: &Redis,
    cell: CellId,
    config: &Config,
    force: bool,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Recovered, String> {
    let archive = PgArchive::new(lock(pg, cell).await?, cell).await.map_err(|fault| fault.to_string())?;
    let timeout = config::ms(config.postgres.statement_timeout_ms) * 4;
    let link = redis.link().await.map_err(|fault| fault.to_string())?;
    let (quota, install) = (&config.quota, config.install_name());
    let recovery = Recovery {
        writer: Writer::new(archive, cell, timeout),
        link: RedisCell::new(link, CellKeys::new(cell), config::ms(config.redis.command_timeout_ms)),
        cell,
        quota,
        install: &install,
        progress,
    };
    let audited = async |given_up: GivenUp| {
        let GivenUp { before, epoch, reason, stored, kept } = given_up;
        let (before, after) =
            (json!({"epoch": before}), json!({"epoch": epoch, "why": reason, "stored": stored, "kept": kept}));
        let change = Change::new(Action::CellRecover, Subject::Cell(cell), before, after);
        audit::record_alone(pg, Actor::Cli, &change).await.map_err(|fault| fault.to_string())
    };
    recovery.run(force, audited).await
}

// === impl Recovery ===

impl<A: Archive, L: CellLink> Recovery<'_, A, L> {
    /// `audited` is told before anything is lost: nobody wipes a cell unseen.
    pub async fn run(
        mut self,
        force: bool,
        audited: impl AsyncFnOnce(GivenUp) -> Result<(), String>,
    ) -> Result<Recovered, String> {
        let (meta, refusal) = self.opening().inspect().await.map_err(told)?;
        if meta.refilling && refusal.is_none() && !force {
            (self.progress)("an earlier recovery has wiped this cell: going on where it was");
            return Ok(Recovered { opened: self.give_back(meta).await?, stored: 0, kept: 0 });
        }
        let reason = match &refusal {
            Some(Refusal::Empty | Refusal::Wiping) => "diverged",
            Some(Refusal::Diverged { last, epoch, ended }) => {
                (self.progress)(&format!(
                    "Redis ends at {last}, the history that epoch {epoch} continued ended at {ended}"
                ));
                "diverged"
            }
            None if force => "wiped",
            None => {
                return Err("this Redis has the history that PostgreSQL knows: the flusher opens it by itself".into());
            }
        };
        let identity = self.opening().close(&meta).await.map_err(told)?;
        let epoch = identity.epoch;
        (self.progress)(&format!("epoch {epoch}: grants are stopped"));
        let stored = self.store_common(epoch).await?;
        (self.progress)(&format!("{stored} grants on the queue belong to the stored history and are rows now"));
        let kept = self.keep_queue(reason).await?;
        (self.progress)(&format!(
            "{kept} grants that PostgreSQL does not have are kept in set_aside, reason '{reason}'"
        ));
        audited(GivenUp { before: meta.epoch, epoch, reason, stored, kept }).await?;
        self.link.wipe(&identity).await.map_err(|fault| fault.to_string())?;
        (self.progress)("the cell's keys are wiped");
        let (meta, _) = self.opening().inspect().await.map_err(told)?;
        if meta.epoch != 0 {
            return Err("someone else has made this cell anew: nothing more was done".into());
        }
        let opened = self.give_back(meta).await?;
        let (epoch, rows) = (opened.identity.epoch, opened.rows_reapplied);
        tracing::warn!(cell = self.cell.0, epoch, rows, stored, kept, "the cell was recovered");
        Ok(Recovered { opened, stored, kept })
    }

    fn opening(&mut self) -> Opening<'_, A, L> {
        let Recovery { writer, link, cell, quota, install, progress } = self;
        Opening { archive: writer.archive(), link, cell: *cell, quota, install, progress: *progress }
    }

    async fn give_back(&mut self, meta: CellMeta) -> Result<Opened, String> {
        let in_all = self.writer.archive().rows_in_all().await.map_err(|fault| fault.to_string())?;
        self.opening().run_on(meta, Some(in_all)).await.map_err(told)
    }

    /// Stores what follows on the watermark and lies before every recorded end of a history: up to
    /// there, this Redis and the one that went on had the same entries.
    async fn store_common(&mut self, epoch: Epoch) -> Result<u64, String> {
        let told = |fault: PgFault| fault.to_string();
        let mut stored = 0;
        loop {
            let at = self.writer.archive().cell().await.map_err(told)?.position.watermark;
            let mut entries = self.link.queue_behind(at).await.map_err(|fault| fault.to_string())?;
            while let Some(last) = entries.last() {
                match self.writer.archive().diverged(last.id).await.map_err(told)? {
                    Some((_, ended)) => entries.retain(|entry| entry.id <= ended),
                    None => break,
                }
            }
            let count = queue::follow(self.writer.archive(), at, &entries).await.map_err(told)?;
            if count == 0 {
                return Ok(stored);
            }
            let written = self.writer.write(epoch, at, &entries[..count]).await.map_err(|fault| match fault {
                WriteFault::Zombie => "another process has taken this cell over".to_owned(),
                WriteFault::Pg(fault) => fault.to_string(),
            })?;
            stored += written.rows as u64;
        }
    }

    /// Keeps the grants on the queue that PostgreSQL does not have.
    async fn keep_queue(&mut self, reason: &str) -> Result<u64, String> {
        let pg = |fault: PgFault| fault.to_string();
        let (mut after, mut kept) = (EntryId::ZERO, 0);
        loop {
            let entries = self.link.queue_behind(after).await.map_err(|fault| fault.to_string())?;
            let Some(last) = entries.last() else { return Ok(kept) };
            after = last.id;
            let archive = self.writer.archive();
            archive.begin().await.map_err(pg)?;
            let mut count = 0;
            for entry in entries.iter().filter(|entry| !entry.id.is_marker()) {
                match entry::decode(entry.id, &entry.payload) {
                    Ok(grants) => {
                        for grant in &grants {
                            count += usize::from(archive.keep_lost(entry, Some(grant), reason).await.map_err(pg)?);
                        }
                    }
                    Err(_) => count += usize::from(archive.keep_lost(entry, None, reason).await.map_err(pg)?),
                }
            }
            archive.count_set_aside(count).await.map_err(pg)?;
            archive.commit().await.map_err(pg)?;
            kept += count as u64;
        }
    }
}

fn told(fault: OpenFault) -> String {
    fault.to_string()
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
