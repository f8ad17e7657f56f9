//! `floodgate doctor`: is what the gateway stands on as it must be?
//!
//! Each line is ok, warn or fail, with what to do. It changes nothing.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use redis::Value;

use super::{Failure, Source, descriptors, out, runtime};
use crate::config::Config;
use crate::domain::template::AckLevel;
use crate::pg::{Pg, migrate};
use crate::redis::client::Redis;

/// A difference between two clocks that a window's edge can show, and one that ordering suffers from.
const SKEW_WARN: Duration = Duration::from_millis(100);
const SKEW_FAIL: Duration = Duration::from_secs(1);
const REDIS_MAJOR_MIN: u32 = 7;
const POSTGRES_VERSION_MIN: i32 = 140_000;
/// An append-only file of so many bytes has some million claims.
const REWRITE_MIN: u64 = 256 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct Doctor {
    #[command(flatten)]
    source: Source,
}

/// What was found so far.
#[derive(Default)]
struct Report {
    failed: u32,
    warned: u32,
}

// === impl Doctor ===

impl Doctor {
    pub fn run(self) -> Result<(), Failure> {
        let config = self.source.config()?;
        let mut report = Report::default();
        machine(&mut report, &config);
        runtime()?.block_on(async {
            let looked = async {
                if let Err(error) = redis(&mut report, &config).await {
                    report.fail("redis", error);
                }
                if let Err(error) = postgres(&mut report, &config).await {
                    report.fail("postgres", error);
                }
            };
            looked.await;
        });
        out::say(format_args!("{} failed, {} warned", report.failed, report.warned));
        if report.failed > 0 { Err(Failure::Silent) } else { Ok(()) }
    }
}

// === impl Report ===

impl Report {
    fn ok(&mut self, what: &str, found: impl Display) {
        out::say(format_args!("ok    {what}: {found}"));
    }

    fn warn(&mut self, what: &str, found: impl Display) {
        self.warned += 1;
        out::say(format_args!("warn  {what}: {found}"));
    }

    fn fail(&mut self, what: &str, found: impl Display) {
        self.failed += 1;
        out::say(format_args!("fail  {what}: {found}"));
    }

    fn demand(&mut self, what: &str, found: &str, holds: bool, remedy: &str) {
        if holds { self.ok(what, found) } else { self.fail(what, format_args!("{found}: {remedy}")) }
    }

    /// `theirs` was read between `before` and `before + took`.
    fn skew(&mut self, what: &str, theirs: Duration, before: Duration, took: Duration) {
        let ours = before + took / 2;
        let skew = ours.abs_diff(theirs).saturating_sub(took / 2);
        let found = format!("{} ms from this machine's", skew.as_millis());
        if skew >= SKEW_FAIL {
            self.fail(what, format_args!("{found}: synchronise the clocks (chrony, systemd-timesyncd)"));
        } else if skew >= SKEW_WARN {
            self.warn(what, format_args!("{found}: claims at a window's edge are refused or asked again needlessly"));
        } else {
            self.ok(what, found);
        }
    }
}

/// Bytes of Redis that a queued grant takes at most: its record with the longest encrypted user id.
const QUEUED_GRANT_BYTES: u64 = 150;

fn machine(report: &mut Report, config: &Config) {
    let (now, most) = descriptors::limits();
    let needed = descriptors::needed(config.http.connections_max);
    let found = format!("{now}, and up to {most} on request; {needed} needed");
    if most >= needed {
        report.ok("file descriptors", found);
    } else {
        let remedy = "raise the hard limit (LimitNOFILE= in the unit, ulimit -Hn), or lower http.connections_max";
        report.warn("file descriptors", format_args!("{found}: {remedy}"));
    }
}

async fn redis(report: &mut Report, config: &Config) -> Result<(), String> {
    let redis = Redis::new(&config.redis)?;
    let before = since_epoch();
    let started = Instant::now();
    let time = ask(&redis, &["TIME"]).await?;
    let took = started.elapsed();
    let info = text(&ask(&redis, &["INFO"]).await?);
    let info: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim().split_once(':')).collect();
    let field = |name: &str| info.get(name).copied().unwrap_or("unknown");

    let version = field("redis_version");
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    report.demand("redis version", version, major >= REDIS_MAJOR_MIN, "Redis 7.0 or newer is needed");
    let role = field("role");
    report.demand("redis role", role, role == "master", "the address must be the master's: a replica takes no claim");
    let clustered = field("cluster_enabled");
    report.demand(
        "redis cluster_enabled",
        clustered,
        clustered != "1",
        "give the address of a Redis that stands alone",
    );
    report.demand("redis loading", field("loading"), field("loading") == "0", "it reads its data: wait");

    let needed = config.claim.backlog_grants_max * QUEUED_GRANT_BYTES;
    match setting(&redis, "maxmemory").await.map(|text| text.parse::<u64>().unwrap_or(0)) {
        Err(error) => report.warn("redis maxmemory", format_args!("cannot be read ({error}): make sure it is set")),
        Ok(0) => report.warn("redis maxmemory", "not set: Redis may grow until the system kills it; set it"),
        Ok(bytes) if bytes < needed => report.warn(
            "redis maxmemory",
            format_args!(
                "{} MiB, but claim.backlog_grants_max may fill {} MiB: raise the one or lower the other",
                bytes >> 20,
                needed >> 20
            ),
        ),
        Ok(bytes) => report.ok("redis maxmemory", format_args!("{} MiB", bytes >> 20)),
    }
    for (name, holds, remedy) in [
        ("maxmemory-policy", &["noeviction"][..], "set noeviction: an evicted receipt is a second coupon"),
        ("appendonly", &["yes"], "set yes: otherwise a restart forgets acknowledged claims"),
        ("aof-load-truncated", &["no"], "set no, and run redis-check-aof --fix before a start after a power cut"),
        ("appendfsync", &["always", "everysec"], "set always: otherwise a power cut takes acknowledged claims"),
    ] {
        let what = format!("redis {name}");
        match setting(&redis, name).await {
            Err(error) => report.warn(&what, format_args!("cannot be read ({error}): make sure yourself, {remedy}")),
            Ok(value) if name == "appendfsync" && value == "everysec" => report.warn(
                &what,
                "everysec: a power cut, or a kill on a slow disk, takes up to 2 s of claims acknowledged at level redis; set always, or use level postgres",
            ),
            Ok(value) => report.demand(&what, &value, holds.contains(&value.as_str()), remedy),
        }
    }
    rewrites(report, &redis).await;
    replication(report, config, &redis, field("connected_slaves")).await;
    if let Value::Array(parts) = &time
        && let [seconds, micros] = &parts[..]
        && let (Ok(seconds), Ok(micros)) = (text(seconds).parse(), text(micros).parse::<u64>())
    {
        let theirs = Duration::from_secs(seconds) + Duration::from_micros(micros);
        report.skew("redis clock", theirs, before, took);
    }
    Ok(())
}

/// Whether Redis rewrites its append-only file in the middle of a sale.
async fn rewrites(report: &mut Report, redis: &Redis) {
    let what = "redis auto-aof-rewrite-min-size";
    let percentage = setting(redis, "auto-aof-rewrite-percentage").await;
    let size = setting(redis, "auto-aof-rewrite-min-size").await;
    let size = size.and_then(|text| text.parse::<u64>().map_err(|error| error.to_string()));
    match (percentage.as_deref(), size) {
        (Ok("0"), _) => report.ok(what, "the file is rewritten only when Redis is told to"),
        (_, Err(error)) => report.warn(what, format_args!("cannot be read ({error}): make sure yourself, set 1gb")),
        (_, Ok(bytes)) if bytes < REWRITE_MIN => report.warn(
            what,
            format_args!(
                "{} MiB: a sale goes through several rewrites, each a fork and a busy core; set 1gb",
                bytes >> 20
            ),
        ),
        (_, Ok(bytes)) => report.ok(what, format_args!("{} MiB", bytes >> 20)),
    }
}

/// What ack level replica, and a failover, stand on.
async fn replication(report: &mut Report, config: &Config, redis: &Redis, connected: &str) {
    let wanted = config.claim.replicas;
    let is_default = config.claim.ack == AckLevel::Replica;
    let sentinels = redis.master().sentinels();
    let count: u32 = connected.parse().unwrap_or(0);
    let found = format!("{connected} connected, claim.replicas is {wanted}");
    if count >= wanted {
        report.ok("redis replicas", &found);
    } else if is_default {
        let remedy = "claims of level replica are answered outcome_unknown: attach replicas";
        report.fail("redis replicas", format_args!("{found}: {remedy}"));
    } else if sentinels > 0 {
        report.warn("redis replicas", format_args!("{found}: a template of level replica could not be claimed"));
    } else {
        report.ok("redis replicas", format_args!("{connected} connected, and none is asked for"));
    }
    if is_default || sentinels > 0 || count > 0 {
        match setting(redis, "min-replicas-to-write").await.map(|text| text.parse::<u32>().unwrap_or(0)) {
            Err(error) => report.warn("redis min-replicas-to-write", format_args!("cannot be read ({error})")),
            Ok(0) => report.warn(
                "redis min-replicas-to-write",
                "0: a master that is cut off goes on granting what a failover loses; set 1, where there are two \
                 replicas or more, or take level replica",
            ),
            Ok(least) if least > count => report.fail(
                "redis min-replicas-to-write",
                format_args!("{least}, but {count} replicas are connected: Redis refuses every claim"),
            ),
            Ok(least) => report.ok("redis min-replicas-to-write", least),
        }
        match setting(redis, "repl-backlog-ttl").await {
            Ok(ttl) if ttl != "0" => report.warn(
                "redis repl-backlog-ttl",
                format_args!("{ttl}: set 0, or the cell is closed for a moment when the last replica has been away"),
            ),
            Ok(ttl) => report.ok("redis repl-backlog-ttl", ttl),
            Err(error) => report.warn("redis repl-backlog-ttl", format_args!("cannot be read ({error})")),
        }
    }
    for (number, said) in redis.master().quorum().await.into_iter().enumerate() {
        let what = format!("sentinel {}", number + 1);
        match said {
            Ok(said) => report.ok(&what, said),
            Err(error) => report.fail(&what, error),
        }
    }
    if (1..3).contains(&sentinels) {
        report
            .warn("sentinels", format_args!("{sentinels}: three or more, on machines of their own, fail over safely"));
    }
}

async fn postgres(report: &mut Report, config: &Config) -> Result<(), String> {
    let pg = Pg::new(&config.postgres)?;
    let client = pg.own().await.map_err(|fault| format!("cannot be reached: {fault}"))?;
    let before = since_epoch();
    let started = Instant::now();
    let question = "SELECT current_setting('server_version'), current_setting('server_version_num')::int4, \
                    current_setting('fsync'), current_setting('full_page_writes'), \
                    current_setting('synchronous_commit'), pg_is_in_recovery(), \
                    current_setting('max_connections')::int4, \
                    (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
    let row = client.query_one(question, &[]).await.map_err(|error| error.to_string())?;
    let took = started.elapsed();
    let (version, number): (String, i32) = (row.get(0), row.get(1));
    report.demand("postgres version", &version, number >= POSTGRES_VERSION_MIN, "PostgreSQL 14 or newer is needed");
    let recovering: bool = row.get(5);
    let role = if recovering { "standby" } else { "primary" };
    report.demand("postgres role", role, !recovering, "the URL must lead to the primary");
    for (at, name) in [(2, "fsync"), (3, "full_page_writes")] {
        let value: String = row.get(at);
        report.demand(&format!("postgres {name}"), &value, value == "on", "set on: otherwise a power cut takes rows");
    }
    // The flusher sets its own; this is for the writes of operators.
    let commit: String = row.get(4);
    report.demand("postgres synchronous_commit", &commit, commit != "off", "set on: otherwise a crash takes rows");
    let connections: i32 = row.get(6);
    let needed = config.postgres.pool_max + 4;
    let found = format!("{connections}; a process takes up to {needed}");
    if i64::from(connections) < 2 * i64::from(needed) {
        report.warn("postgres max_connections", format_args!("{found}: raise it, or lower postgres.pool_max"));
    } else {
        report.ok("postgres max_connections", found);
    }
    let micros: i64 = row.get(7);
    report.skew("postgres clock", Duration::from_micros(micros.unsigned_abs()), before, took);
    match migrate::check(&pg, config).await {
        Ok(_) => report.ok("postgres schema", format_args!("version {}", migrate::known_version())),
        Err(error) => report.fail("postgres schema", error),
    }
    Ok(())
}

async fn ask(redis: &Redis, words: &[&str]) -> Result<Value, String> {
    let mut cmd = redis::cmd(words[0]);
    for word in &words[1..] {
        cmd.arg(word);
    }
    match tokio::time::timeout(PATIENCE, redis.command(&cmd)).await {
        Ok(answer) => answer.map_err(|fault| format!("cannot be reached: {fault}")),
        Err(_) => Err("does not answer".into()),
    }
}

async fn setting(redis: &Redis, name: &str) -> Result<String, String> {
    match ask(redis, &["CONFIG", "GET", name]).await? {
        Value::Array(pair) if pair.len() == 2 => Ok(text(&pair[1])),
        Value::Map(pairs) if pairs.len() == 1 => Ok(text(&pairs[0].1)),
        _ => Err("no such setting".into()),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::VerbatimString { text, .. } => text.clone(),
        _ => String::new(),
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
