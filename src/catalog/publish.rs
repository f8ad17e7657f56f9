//! Brings Redis to what PostgreSQL says of a template, and reads it back before saying so.
//!
//! [`bring`] may be called by anyone, any number of times, at the same time: the script takes
//! newer revisions only, and ranges that it does not have. Requests call it once after their
//! commit; [`workers`](super::workers) repeats it until both stores agree.

use std::fmt;

use redis::Value;
use tokio_postgres::{GenericClient, Row};

use super::store::{read_definition, read_status};
use crate::app::App;
use crate::domain::ids::{EntryId, Serial, TemplateId};
use crate::domain::template::{Definition, Status};
use crate::http::problem::Problem;
use crate::pg::PgFault;
use crate::redis::cell::{Holding, Identity, accepted, int, read_holdings, read_meta_pooled, short};
use crate::redis::client::Call;
use crate::redis::fault::Fault;
use crate::redis::keys::CellKeys;
use crate::redis::scripts::Script;

const ROW: &str = include_str!("../sql/catalog/row_live.sql");
const PAGE: &str = include_str!("../sql/catalog/rows_page.sql");
const HOLDS: &str = include_str!("../sql/catalog/redis_holds.sql");
const WATERMARK: &str = include_str!("../sql/grant/watermark.sql");

/// A template's state in a cell, as the scripts know it.
const STATE_PUBLISHED: u8 = 1;
const STATE_PAUSED: u8 = 2;
const STATE_STOPPED: u8 = 3;
const STATE_FREED: u8 = 9;

/// How often a template that changes meanwhile is brought anew, before the worker has it.
const ATTEMPTS: usize = 3;

/// What a cell must know of a template: read from PostgreSQL in one statement.
#[derive(Clone, Debug)]
pub struct TemplateRow {
    pub id: TemplateId,
    pub definition: Definition,
    pub status: Status,
    pub revision: i64,
    /// The revision that Redis is known to hold.
    pub redis_revision: i64,
    pub stock_generation: u32,
    /// The cell holds a tombstone, or is about to.
    pub freed: bool,
    /// First and last serials, ascending. Empty for what is freed.
    pub ranges: Vec<(Serial, Serial)>,
}

/// What the put script found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The cell holds this revision now.
    Holds(i64),
    /// The cell holds a tombstone, which nothing replaces.
    Freed,
}

/// Why Redis does not have it yet.
#[derive(Debug)]
pub enum NotYet {
    Postgres(PgFault),
    Redis(Fault),
    /// No flusher has opened the cell.
    NotOpen,
    /// The template's last entry is not stored yet: its keys cannot be freed.
    Unflushed,
    /// What was read back is not what was put.
    Differs(String),
}

// === impl TemplateRow ===

impl TemplateRow {
    pub fn state(&self) -> u8 {
        match self.status {
            _ if self.freed => STATE_FREED,
            Status::Paused => STATE_PAUSED,
            Status::Stopped => STATE_STOPPED,
            Status::Published | Status::Finished => STATE_PUBLISHED,
            // Never loaded from PostgreSQL; closed is the safe word for it.
            Status::Draft | Status::PendingApproval | Status::Approved => STATE_STOPPED,
        }
    }

    fn from_row(row: &Row) -> Result<TemplateRow, PgFault> {
        let id = TemplateId(row.get::<_, i32>("id") as u32);
        let (firsts, lasts): (Vec<i64>, Vec<i64>) = (row.get("firsts"), row.get("lasts"));
        let freed = row.get("freed");
        let ranges = firsts.into_iter().zip(lasts).map(|(first, last)| (first as Serial, last as Serial));
        Ok(TemplateRow {
            id,
            definition: read_definition(id, &row.get("definition"))?,
            status: read_status(id, row.get("status"))?,
            revision: row.get("revision"),
            redis_revision: row.get("redis_revision"),
            stock_generation: row.get::<_, i32>("stock_generation") as u32,
            freed,
            ranges: if freed { Vec::new() } else { ranges.collect() },
        })
    }

    /// The first field in which the cell differs from this row, if any.
    pub(crate) fn difference(&self, held: &Holding) -> Option<&'static str> {
        if self.freed {
            return (held.state != STATE_FREED).then_some("state");
        }
        let limits = &self.definition.limits;
        let given = self.ranges.last().map_or(0, |(_, last)| *last);
        let checks = [
            ("state", held.state == self.state()),
            ("stock generation", held.generation == self.stock_generation),
            ("claim window", (held.starts_at, held.ends_at) == self.definition.claim_window),
            ("limit per user", held.per_user == limits.per_user),
            ("limit per user and day", held.per_user_daily == limits.per_user_daily.unwrap_or(0)),
            ("limit per day", held.daily == self.definition.stock.daily.unwrap_or(0)),
            ("quotas", held.quotas == self.definition.quotas),
            ("stock", held.given == given && held.remaining <= given),
        ];
        checks.into_iter().find(|(_, equal)| !equal).map(|(name, _)| name)
    }
}

/// A page of the templates that were ever published, by id behind `after`: what an opening gives
/// its cell.
pub async fn load_page(client: &impl GenericClient, after: i32, limit: usize) -> Result<Vec<TemplateRow>, PgFault> {
    client.query(PAGE, &[&after, &(limit as i64)]).await?.iter().map(TemplateRow::from_row).collect()
}

/// One template, if it was ever published.
pub async fn load_row(client: &impl GenericClient, id: TemplateId) -> Result<Option<TemplateRow>, PgFault> {
    client.query_opt(ROW, &[&id.as_i32()]).await?.as_ref().map(TemplateRow::from_row).transpose()
}

/// The call that brings a cell to a row: `open` says whether the cell is open, or held closed by
/// the opening whose epoch `identity` names. A freed row becomes a tombstone. See [`put_answer`].
pub fn put_call(keys: &CellKeys, identity: &Identity, open: bool, row: &TemplateRow) -> Call {
    put_as(keys, identity, u8::from(open), row)
}

/// The same for an open cell that holds this revision, with fields that somebody has altered.
pub fn put_again_call(keys: &CellKeys, identity: &Identity, row: &TemplateRow) -> Call {
    put_as(keys, identity, 2, row)
}

fn put_as(keys: &CellKeys, identity: &Identity, way: u8, row: &TemplateRow) -> Call {
    let template = keys.template(row.id);
    let mut names = vec![keys.meta(), template.template()];
    if row.freed {
        names.push(template.receipts());
    }
    let mut call = Call::new(Script::TemplatePut, names.into_iter());
    identity.put(&mut call);
    let (starts_at, ends_at) = row.definition.claim_window;
    call.arg(way)
        .arg(row.state())
        .arg(row.revision)
        .arg(row.stock_generation)
        .arg(starts_at)
        .arg(ends_at)
        .arg(row.definition.limits.per_user)
        .arg(row.definition.limits.per_user_daily.unwrap_or(0))
        .arg(row.definition.stock.daily.unwrap_or(0))
        .arg(u8::from(row.definition.quotas));
    for (first, last) in &row.ranges {
        call.arg(*first).arg(*last);
    }
    call
}

/// Reads the answer to [`put_call`].
pub fn put_answer(reply: Value) -> Result<Put, Fault> {
    if let Value::Array(elements) = &reply
        && let [Value::Int(0), Value::BulkString(word)] = elements.as_slice()
        && word == b"freed"
    {
        return Ok(Put::Freed);
    }
    let revision = int(&accepted(reply)?.next().ok_or_else(short)?)?;
    Ok(Put::Holds(revision))
}

/// Brings Redis to the template's row, reads it back, and records the revision that it holds.
pub async fn bring(app: &App, id: TemplateId) -> Result<(), NotYet> {
    let meta = read_meta_pooled(&app.redis, &app.keys).await?;
    let identity = Identity::of(&meta).ok_or(NotYet::NotOpen)?;
    let client = app.pg.get().await?;
    let mut newer = 0;
    for _ in 0..ATTEMPTS {
        let Some(row) = load_row(&**client, id).await? else { return Ok(()) };
        if row.freed {
            free(app, &**client, &identity, &row).await?;
        } else {
            let reply = app.redis.pooled(&put_call(&app.keys, &identity, true, &row)).await?;
            if put_answer(reply)? == Put::Freed {
                return Err(NotYet::Differs(format!("Redis holds a tombstone of template {id}, which is not freed")));
            }
        }
        let (_, held) = read_holdings(&app.redis, &app.keys, &identity, None, &[id]).await?;
        let held = held.into_iter().next().unwrap_or_default();
        if held.revision > row.revision {
            // Someone changed it since the row was read: once more with the newer row.
            newer = held.revision;
            continue;
        }
        if held.revision < row.revision {
            return Err(NotYet::Differs(format!("template {id} in Redis is at revision {}", held.revision)));
        }
        if let Some(field) = row.difference(&held) {
            return Err(NotYet::Differs(format!("template {id} in Redis has another {field}")));
        }
        client.execute(HOLDS, &[&id.as_i32(), &row.revision]).await.map_err(PgFault::from)?;
        return Ok(());
    }
    Err(NotYet::Differs(format!("template {id} in Redis is at revision {newer}, newer than PostgreSQL's")))
}

/// How far the cell's queue is stored.
pub async fn read_watermark(app: &App, client: &impl GenericClient) -> Result<EntryId, PgFault> {
    let row = client.query_one(WATERMARK, &[&(app.cell.0 as i16)]).await?;
    Ok(EntryId::new(row.get::<_, i32>(0) as u16, row.get::<_, i64>(1) as u64))
}

async fn free(app: &App, client: &impl GenericClient, identity: &Identity, row: &TemplateRow) -> Result<(), NotYet> {
    let watermark = read_watermark(app, client).await?;
    let template = app.keys.template(row.id);
    let mut call =
        Call::new(Script::TemplateFree, [app.keys.meta(), template.template(), template.receipts()].into_iter());
    identity.put(&mut call);
    call.arg(row.revision).arg(template.mark()).arg(watermark.epoch).arg(watermark.seq);
    let reply = app.redis.pooled(&call).await?;
    if let Value::Array(elements) = &reply
        && let [Value::Int(0), Value::BulkString(word)] = elements.as_slice()
        && word == b"unflushed"
    {
        return Err(NotYet::Unflushed);
    }
    accepted(reply)?;
    Ok(())
}

// === impl NotYet ===

impl From<PgFault> for NotYet {
    fn from(fault: PgFault) -> Self {
        NotYet::Postgres(fault)
    }
}

impl From<Fault> for NotYet {
    fn from(fault: Fault) -> Self {
        NotYet::Redis(fault)
    }
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotYet::Postgres(fault) => fault.fmt(f),
            NotYet::Redis(fault) => fault.fmt(f),
            NotYet::NotOpen => f.write_str("the cell is not open"),
            NotYet::Unflushed => f.write_str("the template's last entry is not stored yet"),
            NotYet::Differs(what) => f.write_str(what),
        }
    }
}

/// What a caller is told whose change is committed.
impl From<NotYet> for Problem {
    fn from(reason: NotYet) -> Self {
        match &reason {
            NotYet::Postgres(fault) => crate::telemetry::metrics().postgres_error(fault.word()),
            NotYet::Redis(fault) => crate::telemetry::metrics().redis_error(fault.kind),
            NotYet::NotOpen | NotYet::Unflushed | NotYet::Differs(_) => {}
        }
        tracing::warn!(%reason, "a template's change is saved, and Redis does not have it yet");
        let why = match reason {
            NotYet::NotOpen => "the cell is not open",
            NotYet::Postgres(_) => "PostgreSQL is not available",
            _ => "Redis does not have it",
        };
        let detail = format!("the change is saved and will be applied; {why} at this moment");
        Problem::new("unavailable", detail).retry_after_ms(1000)
    }
}
