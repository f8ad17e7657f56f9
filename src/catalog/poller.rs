//! Keeps the snapshot close to PostgreSQL: compares counters several times a second, reads what rose.
//!
//! Only templates whose revision changed are read. A row that cannot be read keeps its last form,
//! and is named in the log; while PostgreSQL is away the last snapshot stays in force.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use tokio_postgres::{Client, Row};

use super::checks;
use super::snapshot::{Blacklist, LiveTemplate, Snapshot};
use super::store::{read_definition, read_status};
use crate::app::App;
use crate::clock::now_ms;
use crate::config::ms;
use crate::domain::ids::TemplateId;
use crate::domain::user::UserRef;
use crate::grant::cells::{self, cell_i16};
use crate::limits::BLACKLIST_MAX;
use crate::pg::PgFault;
use crate::telemetry::metrics;

const VERSIONS: &str = include_str!("../sql/catalog/versions_read.sql");
const CHANGED: &str = include_str!("../sql/catalog/snapshot_changed.sql");
const BLACKLIST: &str = include_str!("../sql/catalog/snapshot_blacklist.sql");

/// Compares once and reads what rose: at start-up, and in every round of [`run`].
pub async fn load_once(app: &App) -> Result<(), PgFault> {
    // One at a time: an older reading must not replace a newer one.
    let _loading = app.snapshot_loading.lock().await;
    let client = app.pg.urgent().await?;
    // Counters first: what changes while the rows are read is read again in the next round.
    let row = client.query_one(VERSIONS, &[&cell_i16(app.cell)]).await?;
    let (templates, blacklist): (i64, i64) = (row.get("templates"), row.get("blacklist"));
    app.api_keys.saw_version(row.get("api_keys"));
    app.claims.cell.raise_floor(cells::epoch(&row, 3));

    let old = app.snapshot.load_full();
    if (old.templates_version, old.blacklist_version) == (templates, blacklist) {
        old.checked_at.store(now_ms(), Ordering::Relaxed);
        return Ok(());
    }
    let mut new = Snapshot {
        templates: old.templates.clone(),
        blacklist: old.blacklist.clone(),
        templates_version: templates,
        blacklist_version: blacklist,
        checked_at: AtomicI64::new(now_ms()),
    };
    if old.templates_version != templates {
        load_templates(&client, &old, &mut new).await?;
    }
    if old.blacklist_version != blacklist {
        new.blacklist = load_blacklist(&client).await?;
    }
    app.snapshot.store(Arc::new(new));
    Ok(())
}

/// Repeats [`load_once`] for as long as the process lives.
pub async fn run(app: Arc<App>) {
    let pause = ms(app.config.worker.snapshot_poll_ms);
    let mut failing = false;
    loop {
        match load_once(&app).await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the snapshot is compared with PostgreSQL again");
                }
            }
            Err(fault) => {
                metrics().postgres_error(fault.word());
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = %fault, "the snapshot cannot be compared with PostgreSQL; the last one holds");
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn load_templates(client: &Client, old: &Snapshot, new: &mut Snapshot) -> Result<(), PgFault> {
    let ids: Vec<i32> = old.templates.keys().map(|id| id.as_i32()).collect();
    let revisions: Vec<i64> = old.templates.values().map(|template| template.revision).collect();
    for row in client.query(CHANGED, &[&ids, &revisions]).await? {
        match read_template(&row, old) {
            Ok(template) => {
                new.templates.insert(template.id, Arc::new(template));
            }
            Err(fault) => tracing::error!(error = %fault, "a template is not taken into the snapshot"),
        }
    }
    Ok(())
}

fn read_template(row: &Row, old: &Snapshot) -> Result<LiveTemplate, PgFault> {
    let id = TemplateId(row.get::<_, i32>("id") as u32);
    let stock_generation = row.get::<_, i32>("stock_generation") as u32;
    let before = old.templates.get(&id);
    let latch = before.map(|template| template.latch.clone()).unwrap_or_default();
    if before.is_none_or(|template| template.stock_generation < stock_generation) {
        latch.clear(stock_generation);
    }
    let definition = read_definition(id, &row.get("definition"))?;
    let terms = match before.filter(|template| template.definition == definition) {
        Some(template) => template.terms.clone(),
        None => checks::terms(&definition)
            .inspect_err(|wrong| tracing::error!(template = id.0, ?wrong, "a template's coupons cannot be priced"))
            .ok(),
    };
    Ok(LiveTemplate {
        id,
        definition,
        terms,
        status: read_status(id, row.get("status"))?,
        revision: row.get("revision"),
        stock_generation,
        freed: row.get("freed"),
        latch,
    })
}

async fn load_blacklist(client: &Client) -> Result<Blacklist, PgFault> {
    let mut list = Blacklist::default();
    let mut unread = HashSet::new();
    for row in client.query(BLACKLIST, &[&BLACKLIST_MAX]).await? {
        let (kind, value): (&str, &str) = (row.get("kind"), row.get("value"));
        let until = row.get::<_, Option<DateTime<Utc>>>("expires_at").map(|at| at.timestamp_millis());
        let known = match kind {
            "user" => UserRef::from_store(value).map(|user| {
                list.users.insert(user, until);
            }),
            "device" => u64::from_str_radix(value, 16).ok().map(|device| {
                list.devices.insert(device, until);
            }),
            _ => value.parse::<IpNet>().ok().map(|network| list.add_network(network, until)),
        };
        if known.is_none() {
            unread.insert(row.get::<_, i64>("id"));
        }
    }
    if !unread.is_empty() {
        tracing::error!(ids = ?unread, "entries of the blacklist cannot be read and do not hold");
    }
    Ok(list)
}
