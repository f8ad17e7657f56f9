//! An empty Redis given back from PostgreSQL, beside COPY out of the same table.
//!
//! Rounds alternate, so that whatever else the machine does falls on both. COPY is the plain one, in its
//! text format, of the columns that a recovery needs, to a client that drops what it gets. What was given
//! back is then compared as `floodgate reconcile` does, once whole, and once with a user's receipts taken out,
//! until they are found and given back.

use std::fmt;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use floodgate::app::App;
use floodgate::cli::out;
use floodgate::demo::place;
use floodgate::demo::redis_server::{Fsync, RedisOptions, RedisServer};
use floodgate::domain::ids::TemplateId;
use floodgate::grant::recover::recover;
use floodgate::pg::{Pg, migrate};
use floodgate::reconcile::walk::Walk;
use floodgate::reconcile::{Blind, View, mend};
use floodgate::redis::client::Redis;
use floodgate::redis::fault::Fault;
use futures_util::TryStreamExt;
use redis::Value;

use super::{Scale, settings, told};

/// Both sides of one round.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub rows: u64,
    pub copy: Duration,
    /// From a Redis that is empty to one that is open.
    pub recovery: Duration,
    /// A whole comparison that finds nothing, and one that finds and mends what was taken out.
    pub compared: Option<(Duration, Duration)>,
    /// Of Redis, when it was over.
    pub memory_bytes: u64,
}

const COPY: &str = "COPY user_coupons (template_id, serial, epoch, user_ref, first_user_ref, claim_key_hash, ip_hash, \
                    device_hash, acquired_at) TO STDOUT";

/// Plays so many rounds, each on an empty Redis of its own; `compare`: with comparisons.
pub async fn measure(
    scale: &Scale,
    folder: &Path,
    rounds: usize,
    fsync: Fsync,
    compare: bool,
) -> Result<Vec<Round>, String> {
    let client = scale.connect().await?;
    client.execute(include_str!("../sql/scale/on_sale.sql"), &[&scale.coupons_a_template()]).await.map_err(told)?;
    client.batch_execute("UPDATE cells SET opened_at = now(), epoch = greatest(epoch, 1)").await.map_err(told)?;
    let mut measured = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        let mut stream = pin!(client.copy_out(COPY).await.map_err(told)?);
        let mut bytes = 0;
        while let Some(chunk) = stream.try_next().await.map_err(told)? {
            bytes += chunk.len();
        }
        let copy = begun.elapsed();
        out::say(format_args!("COPY: {bytes} bytes in {:.1} s", copy.as_secs_f64()));
        measured.push(Round { copy, ..one(scale, folder, fsync, compare).await? });
    }
    Ok(measured)
}

async fn one(scale: &Scale, folder: &Path, fsync: Fsync, compare: bool) -> Result<Round, String> {
    let folder = folder.join("redis");
    place::remove_folder(&folder)?;
    let mut server = RedisServer::start(&folder, &RedisOptions { fsync, ..Default::default() }).await?;
    let config = settings(&[("POSTGRES_URL", &scale.server.url()), ("REDIS_URL", &server.url())])?;
    let users = migrate::check(&Pg::new(&config.postgres)?, &config).await?;
    let app = App::new(config, users)?;
    let begun = Instant::now();
    let done = recover(&app.pg, &app.redis, app.cell, &app.config, false, &|told: &str| out::say(told)).await?;
    let recovery = begun.elapsed();
    let memory_bytes = used_memory(&app.redis).await?;
    let compared = if compare { Some(compare_and_mend(&app).await?) } else { None };
    server.stop().await;
    Ok(Round { rows: done.opened.rows_reapplied, copy: Duration::ZERO, recovery, compared, memory_bytes })
}

async fn compare_and_mend(app: &App) -> Result<(Duration, Duration), String> {
    let (compared, found) = reconcile(app).await?;
    if found > 0 {
        return Err(format!("{found} differences after the recovery"));
    }
    take_out(app).await?;
    let (mended, found) = reconcile(app).await?;
    if found == 0 {
        return Err("what was taken out was not found".into());
    }
    Ok((compared, mended))
}

/// Compares everything and mends what is safe: how long it took, and how many differences there were.
async fn reconcile(app: &App) -> Result<(Duration, usize), String> {
    let blind = |blind: Blind| blind.to_string();
    let client = app.pg.own().await.map_err(|fault| fault.to_string())?;
    let view = View::open(app, &client).await.map_err(blind)?;
    let (begun, mut walk, mut found) = (Instant::now(), Walk::default(), 0);
    while !walk.is_over() {
        let differences = walk.step(&view).await.map_err(blind)?;
        found += differences.len();
        mend::all(&view, &differences).await.map_err(blind)?;
    }
    Ok((begun.elapsed(), found))
}

/// Takes a user's receipts of the last template out of Redis.
async fn take_out(app: &App) -> Result<(), String> {
    let last = app.pg.own().await.map_err(|fault| fault.to_string())?;
    let last = last.query_one("SELECT max(template_id) FROM user_coupons", &[]).await.map_err(told)?;
    let keys = app.keys.template(TemplateId(last.get::<_, i32>(0) as u32));
    let fault = |fault: Fault| fault.to_string();
    let user = app.redis.command(redis::cmd("HRANDFIELD").arg(keys.receipts())).await.map_err(fault)?;
    let Value::BulkString(user) = user else { return Err("a template without receipts".into()) };
    app.redis.command(redis::cmd("HDEL").arg(keys.receipts()).arg(user)).await.map_err(fault)?;
    Ok(())
}

async fn used_memory(redis: &Redis) -> Result<u64, String> {
    let info = redis.command(redis::cmd("INFO").arg("memory")).await.map_err(|fault| fault.to_string())?;
    let Value::BulkString(text) = info else { return Err("INFO gives no text".into()) };
    let text = String::from_utf8_lossy(&text);
    let used = text.lines().find_map(|line| line.strip_prefix("used_memory:"));
    used.and_then(|digits| digits.trim().parse().ok()).ok_or_else(|| "INFO tells no used_memory".into())
}

// === impl Round ===

impl Round {
    /// The recovery's rows a second as a part of COPY's.
    pub fn ratio(&self) -> f64 {
        self.copy.as_secs_f64() / self.recovery.as_secs_f64()
    }
}

/// One line of a table.
impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |took: Duration| self.rows as f64 / took.as_secs_f64();
        write!(
            f,
            "| {} | {:.1} | {:.0} | {:.1} | {:.0} | {:.2} | {} |",
            self.rows,
            self.copy.as_secs_f64(),
            rate(self.copy),
            self.recovery.as_secs_f64(),
            rate(self.recovery),
            self.ratio(),
            self.memory_bytes >> 20
        )?;
        match self.compared {
            Some((compared, mended)) => write!(f, " {:.1} | {:.1} |", compared.as_secs_f64(), mended.as_secs_f64()),
            None => f.write_str(" - | - |"),
        }
    }
}
