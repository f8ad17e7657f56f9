//! Floodgate on stores of its own: a gateway process, a process of flusher and worker, and the verbs of
//! the operator who puts templates on sale.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use floodgate::clock::now_ms;
use floodgate::config::{Config, Layers};
use floodgate::demo::child::Supervised;
use floodgate::demo::redis_server::{Fsync, RedisServer};
use floodgate::domain::ids::{CellId, TemplateId};
use floodgate::redis::keys::CellKeys;
use http_body_util::Full;
use hyper::Request;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};

use super::party::Sample;
use super::stand::{Stand, connect, floodgate, free_address};
use super::wrk::Wrk;
use crate::check::Checker;
use crate::journal::Record;
use crate::link::{Link, Protocol};
use crate::meter::{self, Meter, RedisCounts};

/// What a shop is to be like.
#[derive(Clone)]
pub struct Plan {
    pub fsync: Fsync,
    /// Settings beside those of `Plan::env`, as `SECTION_KEY`.
    pub more: Vec<(&'static str, String)>,
    /// Redis as the gateway alone sees it, where something stands between.
    pub gateway_redis: Option<String>,
    /// Whether Redis has a replica.
    pub replica: bool,
}

pub struct Shop<'a> {
    stand: &'a Stand,
    pub redis: RedisServer,
    replica: Option<RedisServer>,
    pub connection: MultiplexedConnection,
    database: String,
    env: Vec<(String, String)>,
    gateway: Supervised,
    back: Option<Supervised>,
    back_address: String,
    /// Host and port of the gateway's public and internal listeners.
    pub public: String,
    pub internal: String,
    writes: AtomicU64,
    author: String,
    approver: String,
}

/// A gateway beside the shop's own; it ends when this is dropped.
pub struct Gateway {
    pub address: String,
    _child: Supervised,
}

/// What became of the claims of one template, by both stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Serials that Redis gave out.
    pub granted: u64,
    /// Users in Redis who hold one.
    pub holders: u64,
    /// Rows in PostgreSQL, and the highest serial there.
    pub rows: u64,
    pub highest: u64,
    pub set_aside: u64,
}

const REPLAYED: &str = "floodgate_claims_total{outcome=\"replayed\"";
const ADMIN_KEY: &str = "an-admin-key-for-the-bench";
const CELL: CellId = CellId(0);
/// The longest that a process may take to be ready, or a queue to be stored.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);
/// A throttle that checks every request and refuses none.
const NEVER_REACHED: u32 = 10_000_000;

// === impl Plan ===

impl Plan {
    pub fn new(fsync: Fsync) -> Plan {
        Plan { fsync, more: Vec::new(), gateway_redis: None, replica: false }
    }

    pub fn set(mut self, name: &'static str, value: impl ToString) -> Plan {
        self.more.push((name, value.to_string()));
        self
    }

    /// Quotas on all three scopes, as they are by default; a template must ask for them.
    pub fn quotas(self) -> Plan {
        self.set("QUOTA_USER_LIMIT", 1).set("QUOTA_IP_LIMIT", 5).set("QUOTA_DEVICE_LIMIT", 10)
    }

    /// Throttles on, and so high that they refuse nothing; no quotas; plain user ids.
    fn env(&self, redis: &str, postgres: &str) -> Vec<(String, String)> {
        let high = NEVER_REACHED.to_string();
        let fixed = [
            ("REDIS_URL", redis),
            ("POSTGRES_URL", postgres),
            ("AUTH_MODE", "trusted-header"),
            ("TRUSTED_PROXIES", "127.0.0.0/8"),
            ("CODE_KEY", "000102030405060708090a0b0c0d0e0f"),
            ("ADMIN_KEY", ADMIN_KEY),
            ("PRIVACY_ENCRYPT", "false"),
            ("HTTP_DRAIN_GRACE_MS", "10"),
            ("QUOTA_USER_LIMIT", "0"),
            ("QUOTA_IP_LIMIT", "0"),
            ("QUOTA_DEVICE_LIMIT", "0"),
            ("THROTTLE_IP_PER_S", &high),
            ("THROTTLE_IP_BURST", &high),
            ("THROTTLE_USER_PER_S", "5"),
            ("THROTTLE_USER_BURST", "20"),
            ("THROTTLE_DEVICE_PER_S", "5"),
            ("THROTTLE_DEVICE_BURST", "20"),
            ("LOG_FILTER", "warn"),
        ];
        let fixed = fixed.map(|(name, value)| (name, value.to_owned()));
        fixed.into_iter().chain(self.more.clone()).map(|(name, value)| (format!("FLOODGATE_{name}"), value)).collect()
    }
}

// === impl Shop ===

impl<'a> Shop<'a> {
    /// Starts everything and returns when claims can be decided.
    pub async fn open(stand: &'a Stand, plan: Plan) -> Result<Shop<'a>, String> {
        Ok(Shop::open_behind(stand, plan, |_| Ok(())).await?.0)
    }

    /// The same; `between` is put between the gateway and Redis, whose socket it is given.
    pub async fn open_behind<T>(
        stand: &'a Stand,
        plan: Plan,
        between: impl FnOnce(&Path) -> Result<T, String>,
    ) -> Result<(Shop<'a>, T), String> {
        let (redis, replica) = match plan.replica {
            true => replicated(stand, plan.fsync).await?,
            false => (stand.redis(plan.fsync).await?, None),
        };
        let between = between(redis.socket())?;
        let database = stand.database().await?;
        let env = plan.env(&redis.url(), &database);
        let output = command(&env)?.arg("migrate").output().map_err(|error| format!("floodgate migrate: {error}"))?;
        if !output.status.success() {
            return Err(format!("floodgate migrate: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let (public, internal, back_address) = (free_address(), free_address(), free_address());
        let mut serve = command(&env)?;
        serve.args(["serve", "--roles", "gateway"]);
        serve.env("FLOODGATE_PUBLIC_LISTEN", &public).env("FLOODGATE_INTERNAL_LISTEN", &internal);
        if let Some(url) = &plan.gateway_redis {
            serve.env("FLOODGATE_REDIS_URL", url);
        }
        let gateway = stand.child("floodgate gateway", serve).await?;
        let connection = meter::redis(&redis.url()).await?;
        let mut shop = Shop {
            stand,
            redis,
            replica,
            connection,
            database,
            env,
            gateway,
            back: None,
            back_address,
            public,
            internal,
            writes: AtomicU64::new(0),
            author: String::new(),
            approver: String::new(),
        };
        shop.start_back().await?;
        let ready = async |shop: &Shop| shop.ask(&shop.internal, "GET", "/readyz", "", Value::Null).await;
        let begun = Instant::now();
        while ready(&shop).await.map(|(status, _)| status) != Ok(200) {
            if let Some(status) = shop.gateway.exited() {
                return Err(shop.gateway.obituary(status));
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("the gateway is not ready: {}", shop.gateway.last_line().unwrap_or_default()));
            }
            tokio::time::sleep(POLL).await;
        }
        shop.author = shop.api_key("operator").await?;
        shop.approver = shop.api_key("approver").await?;
        Ok((shop, between))
    }

    /// A gateway more, on Redis itself.
    pub async fn another_gateway(&self) -> Result<Gateway, String> {
        let (address, internal) = (free_address(), free_address());
        let mut serve = command(&self.env)?;
        serve.args(["serve", "--roles", "gateway"]);
        serve.env("FLOODGATE_PUBLIC_LISTEN", &address).env("FLOODGATE_INTERNAL_LISTEN", &internal);
        let mut child = self.stand.child("floodgate gateway", serve).await?;
        self.stand.listening(&mut child, &address).await?;
        Ok(Gateway { address, _child: child })
    }

    /// Its database's URL.
    pub fn database(&self) -> &str {
        &self.database
    }

    pub fn gateway_pid(&self) -> u32 {
        self.gateway.pid()
    }

    /// The processes whose time a claim costs.
    pub fn processes(&self) -> Vec<(&'static str, u32)> {
        let mut processes = vec![("gateway", self.gateway.pid()), ("redis", self.redis.pid())];
        processes.extend(self.replica.as_ref().map(|replica| ("replica", replica.pid())));
        if let Some(back) = &self.back {
            processes.push(("flusher", back.pid()));
            processes.push(("postgres", self.stand.postgres.pid()));
        }
        processes
    }

    /// Flusher and worker, where they were stopped.
    pub async fn start_back(&mut self) -> Result<(), String> {
        let mut serve = command(&self.env)?;
        serve.args(["serve", "--roles", "flusher,worker"]);
        serve.env("FLOODGATE_INTERNAL_LISTEN", &self.back_address);
        self.back = Some(self.stand.child("floodgate flusher", serve).await?);
        Ok(())
    }

    /// In order: what is queued is stored before.
    pub async fn stop_back(&mut self) {
        if let Some(mut back) = self.back.take() {
            back.stop(libc::SIGTERM, PATIENCE).await;
        }
    }

    // --- The operator ---

    /// One call; status and body.
    async fn ask(
        &self,
        address: &str,
        method: &str,
        path: &str,
        key: &str,
        body: Value,
    ) -> Result<(u16, Vec<u8>), String> {
        let write = format!("write-{}", self.writes.fetch_add(1, Ordering::Relaxed));
        let mut request = Request::builder().method(method).uri(path).header("host", address);
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if method != "GET" {
            request = request.header("idempotency-key", write).header("content-type", "application/json");
        }
        let bytes = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = request.body(Full::new(bytes)).map_err(|error| error.to_string())?;
        let answer = Link::new(address, Protocol::Http1).send(request).await?;
        Ok((answer.status, answer.body))
    }

    async fn office(&self, method: &str, path: &str, key: &str, body: Value) -> Result<Value, String> {
        let path = format!("/v1/admin{path}");
        let (status, body) = self.ask(&self.internal, method, &path, key, body).await?;
        if status >= 300 {
            return Err(format!("{method} {path}: {status} {}", String::from_utf8_lossy(&body)));
        }
        serde_json::from_slice(&body).map_err(|error| format!("{method} {path}: {error}"))
    }

    pub async fn api_key(&self, role: &str) -> Result<String, String> {
        let body = json!({"name": role, "role": role, "owner_type": "platform", "owner_id": ""});
        let made = self.office("POST", "/api-keys", ADMIN_KEY, body).await?;
        made["key"].as_str().map(str::to_owned).ok_or_else(|| "no key".into())
    }

    /// A template of `stock` coupons, one a user, that claims find on sale when this returns.
    pub async fn publish(&self, stock: u64, quotas: bool) -> Result<u32, String> {
        let time = |ms: i64| floodgate::domain::window::rfc3339(chrono_tz::Tz::UTC, now_ms() + ms);
        let definition = json!({
            "name": format!("bench {}", self.writes.load(Ordering::Relaxed)), "kind": "cash_voucher", "value": {"amount": "5.00"},
            "stock": {"total": stock}, "limits": {"per_user": 1}, "quotas": quotas,
            "claim_window": {"starts_at": time(-60_000), "ends_at": time(86_400_000)},
            "validity": {"type": "relative", "days": 7},
        });
        let known = self.metric("floodgate_snapshot_templates").await?;
        let id = self.office("POST", "/templates", &self.author, definition).await?["id"].as_u64().unwrap_or(0);
        for (key, action) in [(&self.author, "submit"), (&self.approver, "approve"), (&self.author, "publish")] {
            self.office("POST", &format!("/templates/{id}/{action}"), key, Value::Null).await?;
        }
        let begun = Instant::now();
        while self.metric("floodgate_snapshot_templates").await? <= known {
            if begun.elapsed() > PATIENCE {
                return Err(format!("the gateway does not learn of template {id}"));
            }
            tokio::time::sleep(POLL).await;
        }
        u32::try_from(id).map_err(|_| format!("{id} is no template"))
    }

    /// The sum of a metric's series at the gateway, whose line begins so.
    pub async fn metric(&self, begin: &str) -> Result<f64, String> {
        let (_, body) = self.ask(&self.internal, "GET", "/metrics", "", Value::Null).await?;
        let text = String::from_utf8_lossy(&body);
        let of_it = |line: &&str| line.strip_prefix(begin).is_some_and(|rest| rest.starts_with([' ', '{', ',', '}']));
        Ok(text.lines().filter(of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    // --- What became of it ---

    /// Waits until every grant is a row. `Err`: the queue does not drain.
    pub async fn drained(&self) -> Result<(), String> {
        let begun = Instant::now();
        let mut connection = self.connection.clone();
        loop {
            let queued: Result<u64, _> =
                redis::cmd("XLEN").arg(CellKeys::new(CELL).queue()).query_async(&mut connection).await;
            // A marker may be all that is left.
            let left: Result<Option<u64>, _> =
                redis::cmd("HGET").arg(CellKeys::new(CELL).meta()).arg("queued").query_async(&mut connection).await;
            if queued.is_ok() && left.map(|left| left.unwrap_or(0)) == Ok(0) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let last = self.back.as_ref().and_then(Supervised::last_line).unwrap_or_default();
                return Err(format!("the queue does not drain: {last}"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What both stores hold of a template.
    pub async fn tally(&self, template: u32) -> Result<Tally, String> {
        let keys = CellKeys::new(CELL).template(TemplateId(template));
        let mut connection = self.connection.clone();
        let fail = |error: redis::RedisError| format!("Redis: {error}");
        let next: u64 =
            redis::cmd("HGET").arg(keys.template()).arg("next").query_async(&mut connection).await.map_err(fail)?;
        let holders: u64 = redis::cmd("HLEN").arg(keys.receipts()).query_async(&mut connection).await.map_err(fail)?;
        let sql = connect(&self.database).await?;
        let row = sql.query_one(include_str!("../sql/tally.sql"), &[&(template as i32)]).await;
        let row = row.map_err(|error| format!("tally: {error}"))?;
        let number = |at: usize| row.get::<_, i64>(at) as u64;
        Ok(Tally { granted: next - 1, holders, rows: number(0), highest: number(1), set_aside: number(2) })
    }

    /// Compares a journal with both stores. `None`: all agree.
    pub async fn check(&self, record: &Record) -> Result<Option<String>, String> {
        let found = Checker::new(&self.config()?).await?.check(record, PATIENCE).await?;
        Ok(found.first().map(|first| format!("{} differences: {first}", found.len())))
    }

    pub fn config(&self) -> Result<Config, String> {
        let layers = Layers::read(None, self.env.clone()).map_err(|error| error.0.join("; "))?;
        layers.build().map_err(|error| error.0.join("; "))
    }

    pub async fn counts(&self) -> Result<RedisCounts, String> {
        RedisCounts::read(&mut self.connection.clone()).await
    }

    /// Bytes that one key takes, exactly.
    pub async fn bytes_of(&self, key: &str) -> Result<f64, String> {
        let mut connection = self.connection.clone();
        let mut command = redis::cmd("MEMORY");
        command.arg("USAGE").arg(key).arg("SAMPLES").arg(0);
        let bytes: Option<u64> =
            command.query_async(&mut connection).await.map_err(|error| format!("MEMORY USAGE: {error}"))?;
        Ok(bytes.unwrap_or(0) as f64)
    }

    /// One turn of wrk on a template: rate, processors, Redis; and whether the counts agree once every
    /// grant is stored. `answered`: of which outcomes 2xx answers may be.
    pub async fn wrk_turn(&mut self, template: u32, wrk: Wrk<'_>, expected: Expected) -> Result<Sample, String> {
        let (before, replays) = (self.counts().await?, self.metric(REPLAYED).await?);
        let meter = Meter::start(&self.processes());
        let count = wrk.run(self.stand).await?;
        let used = meter.stop();
        // What the flusher is behind at the end has not been stored in the turn's time.
        let behind = if self.back.is_some() { self.queued().await? as f64 } else { 0.0 };
        let counts = self.counts().await?.since(&before);
        let wanted = match expected {
            Expected::Grants => count.granted(),
            Expected::Refusals => count.refused,
        };
        let claims = wanted as f64;
        let sample = Sample::rate(claims, count.took).used(&used, claims).redis(&counts, claims);
        let sample = sample.with("batch_claims", claims / counts.scripts.max(1.0));
        let sample = match self.back {
            Some(_) => sample.with("stored_per_second", (claims - behind).max(0.0) / count.took.as_secs_f64()),
            None => sample,
        };
        if self.back.is_none() {
            self.start_back().await?;
        }
        self.drained().await?;
        let (tally, replayed) = (self.tally(template).await?, self.metric(REPLAYED).await? - replays);
        // wrk leaves with requests under way: granted or not, it does not count them, and nor may the gateway.
        let under_way = self.stand.settings.connections as f64;
        let told = count.granted() as f64;
        let in_all = tally.granted as f64 + replayed;
        let other = count.answers - wanted;
        Ok(sample
            .provided(tally.agrees(), || format!("Redis and PostgreSQL do not agree: {tally:?}"))
            .provided(expected == Expected::Refusals || (in_all - told).abs() <= under_way, || {
                format!("wrk was told {told} grants and replays, Redis has {} and {replayed}", tally.granted)
            })
            .provided(replayed > 0.0 || told <= tally.granted as f64, || {
                format!("wrk was told {told} grants, Redis has {}", tally.granted)
            })
            .provided(other == 0, || format!("{other} answers of another kind than {expected:?}")))
    }
}

/// A Redis and its replica, which follows it when this returns.
async fn replicated(stand: &Stand, fsync: Fsync) -> Result<(RedisServer, Option<RedisServer>), String> {
    let address = free_address();
    let (host, port) = address.split_once(':').ok_or("an address has a port")?;
    let master = stand.redis_with(fsync, &[("bind", host), ("port", port)]).await?;
    let replica = stand.redis_with(fsync, &[("replicaof", &format!("{host} {port}"))]).await?;
    let (mut connection, begun) = (meter::redis(&replica.url()).await?, Instant::now());
    loop {
        let info: Result<String, _> = redis::cmd("INFO").arg("replication").query_async(&mut connection).await;
        if info.is_ok_and(|info| info.contains("master_link_status:up")) {
            return Ok((master, Some(replica)));
        }
        if begun.elapsed() > PATIENCE {
            return Err("the replica does not follow".into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What the claims of a turn are meant to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Grants, and replays where claims repeat.
    Grants,
    Refusals,
}

// === impl Tally ===

impl Tally {
    /// Every serial from 1 on once, in both stores; one a user.
    pub fn agrees(&self) -> bool {
        self.set_aside == 0 && [self.holders, self.rows, self.highest].iter().all(|count| *count == self.granted)
    }
}

/// `floodgate` with these settings and no others.
fn command(env: &[(String, String)]) -> Result<Command, String> {
    let mut command = Command::new(floodgate()?);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(env.iter().map(|(name, value)| (name, value)));
    Ok(command)
}
