//! What happens to templates by itself: Redis is brought to them, they finish, and they are freed.
//!
//! Every step is idempotent and guarded in its WHERE, so any number of processes may run these
//! loops. They outlive their errors: the gauge `templates_out_of_step` shows what is not done,
//! the log says once why, and the loop comes back later.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::ToSql;

use super::publish::{self, NotYet};
use crate::app::App;
use crate::audit::{self, Action, Actor, Change, Origin, Subject};
use crate::domain::ids::TemplateId;
use crate::domain::template::Status;
use crate::idempotency;
use crate::limits::{HOLDINGS_TEMPLATES_MAX, IDEMPOTENCY_HOURS, SWEEP_ROWS_MAX, SYNC_TEMPLATES_MAX};
use crate::pg::{Connection, PgFault};
use crate::redis::cell::{Identity, read_holdings, read_meta_pooled};
use crate::telemetry::{Trouble, metrics};

const OUT_OF_STEP: &str = include_str!("../sql/catalog/rows_out_of_step.sql");
const FINISH_ENDED: &str = include_str!("../sql/catalog/finish_ended.sql");
const STOCK_WATCHED: &str = include_str!("../sql/catalog/stock_watched.sql");
const FINISH_SOLD: &str = include_str!("../sql/catalog/finish_sold.sql");
const FREE_CANDIDATES: &str = include_str!("../sql/catalog/free_candidates.sql");
const FREE_ANNOUNCE: &str = include_str!("../sql/catalog/free_announce.sql");
const RAISE: &str = include_str!("../sql/catalog/versions_raise_templates.sql");
const SWEEP_BLACKLIST: &str = include_str!("../sql/catalog/blacklist_sweep.sql");

/// Pauses between rounds; the first doubles up to the second while rounds fail.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const LIFE_PAUSE: Duration = Duration::from_secs(1);

/// All of it, for as long as the process lives.
pub async fn run(app: Arc<App>) {
    tokio::join!(sync_worker(app.clone()), life_worker(app));
}

/// Brings Redis to every template whose revision it is not known to hold. Never returns.
pub async fn sync_worker(app: Arc<App>) {
    let mut trouble = Trouble::new("templates cannot be brought to Redis");
    let mut pause = PAUSE_MIN;
    loop {
        let done = sync_once(&app).await;
        pause = if done.is_ok() { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        trouble.note(done.err());
        tokio::time::sleep(pause).await;
    }
}

/// Marks templates finished or published again, frees old ones, and deletes what has expired. Never returns.
pub async fn life_worker(app: Arc<App>) {
    let mut trouble = Trouble::new("the life of templates stands still");
    let mut pause = LIFE_PAUSE;
    loop {
        let done = life_once(&app).await;
        pause = if done.is_ok() { LIFE_PAUSE } else { (pause * 2).min(PAUSE_MAX) };
        trouble.note(done.err());
        tokio::time::sleep(pause).await;
    }
}

/// One round: how many templates are still out of step. An error of one does not keep the others.
pub async fn sync_once(app: &App) -> Result<(), NotYet> {
    let rows = app.pg.get().await?.query(OUT_OF_STEP, &[&SYNC_TEMPLATES_MAX]).await.map_err(PgFault::from)?;
    let mut left = rows.first().map_or(0, |row| row.get::<_, i64>("in_all"));
    let mut failed = None;
    for row in &rows {
        match publish::bring(app, TemplateId(row.get::<_, i32>("id") as u32)).await {
            Ok(()) => left -= 1,
            // The stores themselves are away: the others would fare no better.
            Err(away @ (NotYet::Postgres(_) | NotYet::Redis(_) | NotYet::NotOpen)) => {
                failed = Some(away);
                break;
            }
            Err(reason) => failed = Some(reason),
        }
    }
    metrics().templates_out_of_step.set(left as f64);
    failed.map_or(Ok(()), Err)
}

/// One round of the life of templates.
pub async fn life_once(app: &App) -> Result<(), NotYet> {
    let mut client = app.pg.get().await?;
    change(&mut client, Action::TemplateFinish, FINISH_ENDED, &[&SYNC_TEMPLATES_MAX]).await?;
    client.execute(idempotency::SWEEP, &[&IDEMPOTENCY_HOURS, &SWEEP_ROWS_MAX]).await.map_err(PgFault::from)?;
    client.execute(SWEEP_BLACKLIST, &[&SWEEP_ROWS_MAX]).await.map_err(PgFault::from)?;

    let meta = read_meta_pooled(&app.redis, &app.keys).await?;
    // A cell that is not open is the flusher's trouble; nothing is known of stock or marks then.
    let Some(identity) = Identity::of(&meta) else { return Ok(()) };
    watch_stock(app, &mut client, &identity).await?;

    let watermark = publish::read_watermark(app, &**client).await?;
    let age = app.config.worker.free_after_s as f64;
    let rows = client.query(FREE_CANDIDATES, &[&age, &SYNC_TEMPLATES_MAX]).await.map_err(PgFault::from)?;
    let unflushed = |id: i32| meta.marks.iter().any(|(marked, entry)| marked.as_i32() == id && *entry > watermark);
    let ids: Vec<i32> = rows.iter().map(|row| row.get("id")).filter(|id| !unflushed(*id)).collect();
    if !ids.is_empty() {
        change(&mut client, Action::TemplateFree, FREE_ANNOUNCE, &[&ids, &age]).await?;
    }
    Ok(())
}

/// Marks what is sold out finished, and published again what has stock: a restock, or an epoch
/// that began with grants lost.
async fn watch_stock(app: &App, client: &mut Connection, identity: &Identity) -> Result<(), NotYet> {
    let mut after = 0i32;
    loop {
        let rows =
            client.query(STOCK_WATCHED, &[&after, &(HOLDINGS_TEMPLATES_MAX as i64)]).await.map_err(PgFault::from)?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.get("id");
        let ids: Vec<TemplateId> = rows.iter().map(|row| TemplateId(row.get::<_, i32>("id") as u32)).collect();
        let (_, held) = read_holdings(&app.redis, &app.keys, identity, None, &ids).await?;
        for (from, to, action) in [
            (Status::Published, Status::Finished, Action::TemplateFinish),
            (Status::Finished, Status::Published, Action::TemplateReopen),
        ] {
            let (mut seen, mut generations) = (Vec::new(), Vec::new());
            for (row, holding) in rows.iter().zip(&held) {
                let generation: i32 = row.get("stock_generation");
                let is_known = holding.state == 1 && holding.generation as i32 == generation;
                let is_sold = holding.remaining == 0;
                if is_known && row.get::<_, &str>("status") == from.word() && is_sold == (to == Status::Finished) {
                    seen.push(row.get::<_, i32>("id"));
                    generations.push(generation);
                }
            }
            if !seen.is_empty() {
                change(client, action, FINISH_SOLD, &[&seen, &generations, &from.word(), &to.word()]).await?;
            }
        }
    }
}

/// A change by the worker, its records, and the counter that tells gateways of it, in one transaction.
async fn change(
    client: &mut Connection,
    action: Action,
    statement: &'static str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<(), PgFault> {
    let tx = client.begin().await?;
    let changed = tx.rows(statement, params).await?;
    let life = Origin::inner(Actor::Worker("life"));
    for row in &changed {
        let subject = Subject::Template(TemplateId(row.get::<_, i32>("id") as u32));
        let change = Change::new(action, subject, row.get("before"), row.get("after"));
        audit::record(&tx, &life, &change).await?;
    }
    if !changed.is_empty() {
        tx.change(RAISE, &[]).await?;
    }
    tx.commit().await
}
