//! A wallet page by HTTP beside its bare statement: the same users, the same connections, in turns.
//!
//! The bare side is the product's statement, prepared, on as many connections as the gateway has
//! clients. Rounds alternate, so that whatever else the machine does falls on both; what is
//! reported is the median over rounds of each round's percentiles.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use floodgate::demo::redis_server::{Fsync, RedisOptions, RedisServer};
use hdrhistogram::Histogram;
use http_body_util::Full;
use hyper::Request;
use tokio_postgres::Client;

use super::{Scale, WHALE, secrets, statement, told};
use crate::link::{Link, Protocol};
use crate::plan::mix;

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Clients at once, on either side.
    pub clients: usize,
    pub rounds: usize,
    /// Of one side in one round.
    pub seconds: u64,
}

/// One kind of page, on both sides.
#[derive(Debug)]
pub struct Measured {
    pub what: &'static str,
    pub bare: Figures,
    pub http: Figures,
}

/// Medians over the rounds.
#[derive(Debug)]
pub struct Figures {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

/// Which pages are read.
#[derive(Clone, Copy)]
struct Kind {
    what: &'static str,
    status: Option<&'static str>,
    whale: bool,
}

/// One side's latencies in one round.
struct Round {
    latencies: Histogram<u64>,
    took: Duration,
}

/// A `floodgate serve` on stores of its own.
struct Gateway {
    child: Child,
    public: String,
    _redis: RedisServer,
}

const KINDS: [Kind; 4] = [
    Kind { what: "any user, first page", status: None, whale: false },
    Kind { what: "any user, unused", status: Some("unused"), whale: false },
    Kind { what: "100,000 coupons, first page", status: None, whale: true },
    Kind { what: "100,000 coupons, unused", status: Some("unused"), whale: true },
];
const LIMIT: i64 = 20;
const LOOK: i64 = floodgate::limits::WALLET_LOOK_MAX as i64;
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures every kind of page. `binary`: the gateway's.
pub async fn measure(scale: &Scale, folder: &Path, binary: &Path, settings: Settings) -> Result<Vec<Measured>, String> {
    let gateway = Gateway::start(scale, folder, binary, settings).await?;
    let mut measured = Vec::new();
    for kind in KINDS {
        let (mut bare, mut http) = (Vec::new(), Vec::new());
        // The first round of each fills caches, and is not counted.
        for round in 0..=settings.rounds {
            let seed = round as u64 * 7919;
            let one = bare_round(scale, kind, settings, seed).await?;
            let other = http_round(scale, &gateway, kind, settings, seed).await?;
            if round > 0 {
                bare.push(one);
                http.push(other);
            }
        }
        measured.push(Measured { what: kind.what, bare: Figures::of(&bare), http: Figures::of(&http) });
    }
    Ok(measured)
}

async fn bare_round(scale: &Scale, kind: Kind, settings: Settings, seed: u64) -> Result<Round, String> {
    let sql: Arc<str> = statement("wallet/page.sql")?.into();
    let mut clients = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for number in 0..settings.clients as u64 {
        let (client, sql, users) = (scale.connect().await?, sql.clone(), scale.users());
        clients.spawn(async move {
            let page = client.prepare(&sql).await.map_err(told)?;
            let until = Instant::now() + Duration::from_secs(settings.seconds);
            let mut latencies = histogram();
            let mut turn = 0;
            while Instant::now() < until {
                let user = kind.user(users, seed + number, turn);
                turn += 1;
                let begun = Instant::now();
                read(&client, &page, &user, kind.status).await?;
                record(&mut latencies, begun);
            }
            Ok(latencies)
        });
    }
    Round::of(clients, begun).await
}

async fn read(
    client: &Client,
    page: &tokio_postgres::Statement,
    user: &str,
    status: Option<&str>,
) -> Result<(), String> {
    let (at, template, serial, templates) = (None::<i64>, None::<i32>, None::<i64>, None::<Vec<i32>>);
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
        [&user, &at, &template, &serial, &(LIMIT + 1), &status, &templates, &LOOK];
    client.query(page, &params).await.map(drop).map_err(told)
}

async fn http_round(
    scale: &Scale,
    gateway: &Gateway,
    kind: Kind,
    settings: Settings,
    seed: u64,
) -> Result<Round, String> {
    let mut clients = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for number in 0..settings.clients as u64 {
        let (address, users) = (gateway.public.clone(), scale.users());
        clients.spawn(async move {
            let mut link = Link::new(&address, Protocol::Http1);
            link.connect().await?;
            let path = match kind.status {
                Some(status) => format!("/v1/me/coupons?limit={LIMIT}&status={status}"),
                None => format!("/v1/me/coupons?limit={LIMIT}"),
            };
            let until = Instant::now() + Duration::from_secs(settings.seconds);
            let mut latencies = histogram();
            let mut turn = 0;
            while Instant::now() < until {
                let user = kind.user(users, seed + number, turn);
                turn += 1;
                let request = Request::get(&path).header("host", &address).header("x-user-id", &user);
                let request = request.body(Full::<Bytes>::default()).map_err(|error| error.to_string())?;
                let begun = Instant::now();
                let answer = link.send(request).await?;
                record(&mut latencies, begun);
                if answer.status != 200 {
                    return Err(format!("a page was answered with {}", answer.status));
                }
            }
            Ok(latencies)
        });
    }
    Round::of(clients, begun).await
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

/// In microseconds.
fn record(latencies: &mut Histogram<u64>, begun: Instant) {
    let _ = latencies.record(begun.elapsed().as_micros() as u64);
}

// === impl Kind ===

impl Kind {
    /// As often as their coupons are many, as shoppers come.
    fn user(&self, users: i64, client: u64, turn: u64) -> String {
        if self.whale {
            return WHALE.to_owned();
        }
        let part = (mix(client << 32 | turn) >> 11) as f64 / (1u64 << 53) as f64;
        format!("u-{}", (users as f64 * part.powf(1.5)) as i64)
    }
}

// === impl Round ===

impl Round {
    async fn of(
        mut clients: tokio::task::JoinSet<Result<Histogram<u64>, String>>,
        begun: Instant,
    ) -> Result<Round, String> {
        let mut all = histogram();
        while let Some(client) = clients.join_next().await {
            let latencies = client.map_err(|error| error.to_string())??;
            all.add(&latencies).map_err(|error| error.to_string())?;
        }
        Ok(Round { latencies: all, took: begun.elapsed() })
    }
}

// === impl Figures ===

impl Figures {
    fn of(rounds: &[Round]) -> Figures {
        let median = |of: &dyn Fn(&Round) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        Figures {
            per_second: median(&|round| round.latencies.len() as f64 / round.took.as_secs_f64()),
            p50_us: median(&|round| round.latencies.value_at_quantile(0.5) as f64),
            p99_us: median(&|round| round.latencies.value_at_quantile(0.99) as f64),
        }
    }
}

// === impl Measured ===

impl Measured {
    /// How many times as long the slowest hundredth takes by HTTP.
    pub fn p99_ratio(&self) -> f64 {
        self.http.p99_us / self.bare.p99_us
    }
}

/// One line of a table: times in ms.
impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = |figures: &Figures| {
            format!("{:.0} | {:.2} | {:.2}", figures.per_second, figures.p50_us / 1e3, figures.p99_us / 1e3)
        };
        let p50 = self.http.p50_us / self.bare.p50_us;
        let (bare, http, p99) = (side(&self.bare), side(&self.http), self.p99_ratio());
        write!(f, "| {} | {bare} | {http} | {p50:.2} | {p99:.2} |", self.what)
    }
}

// === impl Gateway ===

impl Gateway {
    async fn start(scale: &Scale, folder: &Path, binary: &Path, settings: Settings) -> Result<Gateway, String> {
        let options = RedisOptions { fsync: Fsync::No, ..Default::default() };
        let redis = RedisServer::start(&folder.join("redis"), &options).await?;
        let (public, internal) = (free_address()?, free_address()?);
        let clients = settings.clients.to_string();
        let mut command = Command::new(binary);
        command.env_clear().envs(secrets()).args(["serve", "--roles", "gateway,flusher,worker"]);
        for (name, value) in [
            ("PUBLIC_LISTEN", public.as_str()),
            ("INTERNAL_LISTEN", &internal),
            ("REDIS_URL", &redis.url()),
            ("POSTGRES_URL", &scale.server.url()),
            ("AUTH_MODE", "trusted-header"),
            ("TRUSTED_PROXIES", "127.0.0.1/32"),
            ("THROTTLE_IP_PER_S", "0"),
            ("THROTTLE_USER_PER_S", "0"),
            // As many as there are clients: what is measured is not a queue for connections.
            ("POSTGRES_POOL_MAX", &clients),
            ("REDIS_POOL_MAX", &clients),
            ("LOG_FILTER", "warn"),
        ] {
            command.env(format!("FLOODGATE_{name}"), value);
        }
        let child = command.stdin(Stdio::null()).spawn().map_err(|error| format!("{}: {error}", binary.display()))?;
        let gateway = Gateway { child, public, _redis: redis };
        let begun = Instant::now();
        loop {
            let mut link = Link::new(&gateway.public, Protocol::Http1);
            let request = Request::get("/v1/me/coupons").header("host", &gateway.public).header("x-user-id", "u-1");
            let request = request.body(Full::<Bytes>::default()).map_err(|error| error.to_string())?;
            match link.send(request).await {
                Ok(answer) if answer.status == 200 => return Ok(gateway),
                _ if begun.elapsed() > PATIENCE => return Err("the gateway does not serve".into()),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> Result<String, String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.to_string()).map_err(|error| error.to_string())
}
