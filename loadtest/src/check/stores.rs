//! What Redis and PostgreSQL hold of the templates under load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use floodgate::domain::ids::{CellId, EntryId, Epoch, Serial, TemplateId};
use floodgate::domain::template::Definition;
use floodgate::domain::window::Millis;
use floodgate::grant::entry;
use floodgate::grant::stores::CellLink;
use floodgate::grant::stores::redis::RedisCell;
use floodgate::pg::Pg;
use floodgate::redis::cell::{
    CellMeta, Holding, Identity, RECEIPT_BYTES, Receipt, int, read_holdings, read_meta_pooled, text,
};
use floodgate::redis::client::Redis;
use floodgate::redis::keys::CellKeys;
use redis::Value;

/// A grant, wherever it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub template: u32,
    pub serial: Serial,
    pub epoch: Epoch,
    /// The user's reference, as the stores have it.
    pub user: Box<str>,
    pub claim_key_hash: u64,
    pub acquired: Millis,
}

/// A row of `user_coupons`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub grant: Grant,
    pub ip_hash: Option<u64>,
    pub device_hash: Option<u64>,
    pub valid_from: Millis,
    pub expires_at: Millis,
}

/// A row of `set_aside`. None: its entry could not be read.
#[derive(Clone, Debug)]
pub struct Aside {
    pub grant: Option<Grant>,
    pub entry: EntryId,
    pub reason: String,
}

/// A template by both stores.
#[derive(Clone, Debug)]
pub struct Template {
    pub definition: Definition,
    pub freed: bool,
    /// First and last serial, and when the range was added.
    pub ranges: Vec<(Serial, Serial, Millis)>,
    /// As the cell has it; none where the cell is not open.
    pub cell: Option<Holding>,
}

/// How far the cell's queue is stored, by PostgreSQL.
#[derive(Clone, Copy, Debug)]
pub struct CellRow {
    pub epoch: Epoch,
    pub watermark: EntryId,
    /// Rows set aside by the counter, and by the table.
    pub set_aside: (i64, i64),
}

/// A quota as the open cell applies it. Limit 0: none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quota {
    pub limit: u64,
    pub window_ms: Millis,
}

#[derive(Clone, Debug)]
pub struct Stores {
    pub templates: BTreeMap<u32, Template>,
    pub rows: Vec<Row>,
    pub aside: Vec<Aside>,
    /// Grants on the queue beyond the watermark.
    pub queued: Vec<Grant>,
    /// Entries on the queue beyond the watermark that cannot be read.
    pub unreadable: Vec<EntryId>,
    pub receipts: Vec<Grant>,
    pub cell: CellRow,
    pub meta: CellMeta,
    /// On user, IP and device.
    pub quotas: [Quota; 3],
}

const PAUSE: Duration = Duration::from_millis(20);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const ENTRIES_A_READ: usize = 1000;

/// Waits until everything granted is stored and trimmed, at most for `patience`. What is not by then
/// is a difference.
pub async fn drained(pg: &Pg, redis: &Redis, cell: CellId, patience: Duration) {
    let keys = CellKeys::new(cell);
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let (Ok(meta), Ok(row)) = (read_meta_pooled(redis, &keys).await, read_cell(pg, cell).await)
            && Identity::of(&meta).is_some_and(|identity| identity.epoch == row.epoch)
            && meta.backlog == 0
            && meta.marks.is_empty()
            && row.watermark >= meta.last
        {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

// === impl Stores ===

impl Stores {
    pub async fn read(pg: &Pg, redis: &Redis, cell: CellId, templates: &[u32]) -> Result<Stores, String> {
        let keys = CellKeys::new(cell);
        let ids: Vec<i32> = templates.iter().map(|id| *id as i32).collect();
        let meta = read_meta_pooled(redis, &keys).await.map_err(|fault| fault.to_string())?;
        let row = read_cell(pg, cell).await?;
        let (queued, unreadable) = read_queue(redis, &keys, &meta, row.watermark, templates).await?;
        let mut receipts = Vec::new();
        for id in templates {
            read_receipts(redis, &keys, TemplateId(*id), &mut receipts).await?;
        }
        Ok(Stores {
            templates: read_templates(pg, redis, &keys, &meta, &ids).await?,
            rows: read_rows(pg, &ids).await?,
            aside: read_aside(pg, &ids).await?,
            queued,
            unreadable,
            receipts,
            cell: row,
            quotas: read_quotas(redis, &keys).await?,
            meta,
        })
    }
}

async fn query(pg: &Pg, sql: &str, ids: &[i32]) -> Result<Vec<tokio_postgres::Row>, String> {
    let client = pg.own().await.map_err(|fault| fault.to_string())?;
    let unlimited = client.batch_execute("SET statement_timeout = 0").await;
    unlimited.map_err(|error| error.to_string())?;
    client.query(sql, &[&ids]).await.map_err(|error| error.to_string())
}

async fn read_cell(pg: &Pg, cell: CellId) -> Result<CellRow, String> {
    let client = pg.own().await.map_err(|fault| fault.to_string())?;
    let row = client.query_one(include_str!("../sql/cell.sql"), &[&(cell.0 as i16)]).await;
    let row = row.map_err(|error| error.to_string())?;
    Ok(CellRow {
        epoch: row.get::<_, i32>(0) as Epoch,
        watermark: EntryId::new(row.get::<_, i32>(1) as Epoch, row.get::<_, i64>(2) as u64),
        set_aside: (row.get(3), row.get(4)),
    })
}

async fn read_rows(pg: &Pg, ids: &[i32]) -> Result<Vec<Row>, String> {
    let rows = query(pg, include_str!("../sql/coupons.sql"), ids).await?;
    let rows = rows.iter().map(|row| Row {
        grant: Grant {
            template: row.get::<_, i32>(0) as u32,
            serial: row.get::<_, i64>(1) as u64,
            epoch: row.get::<_, i32>(2) as Epoch,
            user: row.get::<_, &str>(3).into(),
            claim_key_hash: row.get::<_, i64>(4) as u64,
            acquired: millis(row, 7),
        },
        ip_hash: row.get::<_, Option<i64>>(5).map(|hash| hash as u64),
        device_hash: row.get::<_, Option<i64>>(6).map(|hash| hash as u64),
        valid_from: millis(row, 8),
        expires_at: millis(row, 9),
    });
    Ok(rows.collect())
}

async fn read_aside(pg: &Pg, ids: &[i32]) -> Result<Vec<Aside>, String> {
    let rows = query(pg, include_str!("../sql/set_aside.sql"), ids).await?;
    let grant = |row: &tokio_postgres::Row| {
        Some(Grant {
            template: row.get::<_, Option<i32>>(0)? as u32,
            serial: row.get::<_, Option<i64>>(1)? as u64,
            epoch: row.get::<_, Option<i32>>(2)? as Epoch,
            user: row.get::<_, Option<&str>>(3)?.into(),
            claim_key_hash: row.get::<_, Option<i64>>(4)? as u64,
            acquired: row.get::<_, Option<DateTime<Utc>>>(5)?.timestamp_millis(),
        })
    };
    let rows = rows.iter().map(|row| Aside {
        grant: grant(row),
        entry: EntryId::new(row.get::<_, i32>(6) as Epoch, row.get::<_, i64>(7) as u64),
        reason: row.get(8),
    });
    Ok(rows.collect())
}

async fn read_templates(
    pg: &Pg,
    redis: &Redis,
    keys: &CellKeys,
    meta: &CellMeta,
    ids: &[i32],
) -> Result<BTreeMap<u32, Template>, String> {
    let mut templates = BTreeMap::new();
    for row in query(pg, include_str!("../sql/templates.sql"), ids).await? {
        let id = row.get::<_, i32>(0) as u32;
        let definition = Definition::from_store(&row.get::<_, serde_json::Value>(1))
            .map_err(|_| format!("the definition of template {id} cannot be read"))?;
        templates.insert(id, Template { definition, freed: row.get(2), ranges: Vec::new(), cell: None });
    }
    for row in query(pg, include_str!("../sql/ranges.sql"), ids).await? {
        if let Some(template) = templates.get_mut(&(row.get::<_, i32>(0) as u32)) {
            template.ranges.push((row.get::<_, i64>(1) as u64, row.get::<_, i64>(2) as u64, millis(&row, 3)));
        }
    }
    if let Some(identity) = Identity::of(meta) {
        let names: Vec<TemplateId> = templates.keys().map(|id| TemplateId(*id)).collect();
        let read = read_holdings(redis, keys, &identity, None, &names).await.map_err(|fault| fault.to_string())?;
        for (template, holding) in templates.values_mut().zip(read.1) {
            template.cell = Some(holding);
        }
    }
    Ok(templates)
}

async fn read_queue(
    redis: &Redis,
    keys: &CellKeys,
    meta: &CellMeta,
    watermark: EntryId,
    templates: &[u32],
) -> Result<(Vec<Grant>, Vec<EntryId>), String> {
    let (mut queued, mut unreadable) = (Vec::new(), Vec::new());
    // A cell that is not open is a difference of its own.
    let Some(identity) = Identity::of(meta) else { return Ok((queued, unreadable)) };
    let link = redis.link().await.map_err(|fault| fault.to_string())?;
    let mut link = RedisCell::new(link, keys.clone(), READ_TIMEOUT);
    let mut after = watermark;
    loop {
        let read = link.read(&identity, after, ENTRIES_A_READ).await;
        let read = read.map_err(|fault| fault.to_string())?;
        let Some(last) = read.entries.last() else { return Ok((queued, unreadable)) };
        after = last.id;
        for found in read.entries.iter().filter(|found| !found.id.is_marker()) {
            let Ok(grants) = entry::decode(found.id, &found.payload) else {
                unreadable.push(found.id);
                continue;
            };
            queued.extend(grants.iter().filter(|grant| templates.contains(&grant.template.0)).map(|grant| Grant {
                template: grant.template.0,
                serial: grant.serial,
                epoch: grant.epoch,
                user: String::from_utf8_lossy(grant.user).into(),
                claim_key_hash: grant.claim_key_hash,
                acquired: grant.acquired,
            }));
        }
    }
}

async fn read_receipts(redis: &Redis, keys: &CellKeys, id: TemplateId, into: &mut Vec<Grant>) -> Result<(), String> {
    let names = keys.template(id);
    let mut cursor = 0;
    // HSCAN may show a field twice.
    let mut found = BTreeMap::new();
    loop {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(names.receipts()).arg(cursor).arg("COUNT").arg(1000);
        let reply = redis.command(&scan).await.map_err(|fault| fault.to_string())?;
        let Value::Array(reply) = reply else { return Err("HSCAN: no array".into()) };
        let [next, Value::Array(pairs)] = &reply[..] else { return Err("HSCAN: no cursor and fields".into()) };
        for pair in pairs.chunks_exact(2) {
            let [Value::BulkString(user), Value::BulkString(packed)] = pair else {
                return Err("HSCAN: no pair".into());
            };
            let (receipts, []) = packed.as_chunks::<RECEIPT_BYTES>() else {
                return Err(format!("template {id}: receipts of {} bytes", packed.len()));
            };
            let receipts = receipts.iter().map(Receipt::unpack).collect::<Vec<_>>();
            found.insert(String::from_utf8_lossy(user).into_owned(), receipts);
        }
        cursor = int(next).map_err(|fault| fault.to_string())?;
        if cursor == 0 {
            break;
        }
    }
    for (user, receipts) in found {
        into.extend(receipts.iter().map(|receipt| Grant {
            template: id.0,
            serial: receipt.serial,
            epoch: receipt.epoch,
            user: user.as_str().into(),
            claim_key_hash: receipt.claim_key_hash,
            acquired: receipt.acquired,
        }));
    }
    Ok(())
}

async fn read_quotas(redis: &Redis, keys: &CellKeys) -> Result<[Quota; 3], String> {
    let mut get = redis::cmd("HMGET");
    get.arg(keys.meta()).arg(&["ul", "uw", "il", "iw", "dl", "dw"]);
    let reply = redis.command(&get).await.map_err(|fault| fault.to_string())?;
    let Value::Array(fields) = reply else { return Err("HMGET: no array".into()) };
    let number = |at: usize| fields.get(at).and_then(|value| text(value).ok()?.parse::<i64>().ok()).unwrap_or(0);
    let quota = |at| Quota { limit: number(at) as u64, window_ms: number(at + 1) };
    Ok([quota(0), quota(2), quota(4)])
}

fn millis(row: &tokio_postgres::Row, column: usize) -> Millis {
    row.get::<_, DateTime<Utc>>(column).timestamp_millis()
}
