//! Where it takes place: private servers, a gateway on them, a template on sale and coupons of it.

use std::process::Command;
use std::time::{Duration, Instant};

use floodgate::config::Layers;
use floodgate::demo::child::{FamilyLock, Supervised, run_helper};
use floodgate::demo::place;
use floodgate::demo::postgres_server::{self, PostgresOptions, PostgresServer};
use floodgate::demo::redis_server::{Fsync, RedisOptions, RedisServer};
use floodgate::domain::code::{CodeKey, CouponName};
use floodgate::domain::ids::TemplateId;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use super::Settings;
use crate::http::Connection;
use crate::meter::Meter;

/// The servers, and an order service's key to the gateway.
pub struct Stage {
    pub template: TemplateId,
    /// Of the gateway's internal listener.
    pub address: String,
    /// An API key of role `service`.
    pub service: String,
    /// The gateway's setting, a parameter of one of its statements.
    pub checkouts_window_s: u32,
    env: Vec<(String, String)>,
    code_key: CodeKey,
    gateway: Supervised,
    binary: std::path::PathBuf,
    postgres: PostgresServer,
    _redis: RedisServer,
}

/// Rows by table, as `written.sql` names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written(pub Vec<(String, i64)>);

const ADMIN_KEY: &str = "an-admin-key-for-the-bench";
/// The longest that a process may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

// === impl Stage ===

impl Stage {
    pub async fn open(settings: &Settings) -> Result<Stage, String> {
        let folder = &settings.folder;
        place::remove_folder(folder)?;
        std::fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        // What the product recommends, at the size of a shared machine. Commits wait for the disk.
        let extra =
            [("shared_buffers", "512MB"), ("max_wal_size", "8GB"), ("shared_preload_libraries", "pg_stat_statements")];
        let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let postgres = PostgresServer::start(&folder.join("pg"), &PostgresOptions { fsync: true, extra }).await?;
        let redis = RedisOptions { fsync: Fsync::No, ..Default::default() };
        let redis = RedisServer::start(&folder.join("redis"), &redis).await?;
        let mut env: Vec<(String, String)> = [
            ("POSTGRES_URL", postgres.url()),
            ("POSTGRES_POOL_MAX", settings.connections.to_string()),
            ("REDIS_URL", redis.url()),
            ("JWT_SECRET", "0123456789abcdef0123456789abcdef".into()),
            ("CODE_KEY", "000102030405060708090a0b0c0d0e0f".into()),
            ("ADMIN_KEY", ADMIN_KEY.into()),
            ("PRIVACY_ENCRYPT", "false".into()),
            ("PUBLIC_LISTEN", free_address()?),
            ("INTERNAL_LISTEN", free_address()?),
            ("LOG_FILTER", "warn".into()),
        ]
        .map(|(name, value)| (format!("FLOODGATE_{name}"), value))
        .into();
        if let Some(limit) = settings.checkouts_limit {
            env.push(("FLOODGATE_REDEMPTION_CHECKOUTS_LIMIT".into(), limit.to_string()));
        }
        let config = Layers::read(None, env.clone()).and_then(Layers::build).map_err(|error| error.0.join("; "))?;
        ended_well("floodgate migrate", command(settings, &env, &["migrate"])).await?;
        let lock = FamilyLock::take(&folder.join("serve.lock")).await?;
        let serve = command(settings, &env, &["serve"]);
        let gateway = Supervised::spawn("floodgate serve", serve, lock, folder.join("serve.log"), libc::SIGKILL)?;
        let mut stage = Stage {
            template: TemplateId(0),
            address: config.internal.listen.to_string(),
            service: String::new(),
            checkouts_window_s: config.redemption.checkouts_window_s,
            env,
            code_key: config.code_key(),
            gateway,
            binary: settings.gateway.clone(),
            postgres,
            _redis: redis,
        };
        stage.until("the gateway is not ready", "/readyz", |status, _| status == 200).await?;
        stage.service = stage.api_key("service").await?;
        stage.publish(settings.coupons()).await?;
        stage.issue(settings.coupons()).await?;
        Ok(stage)
    }

    /// Ends everything, and leaves nothing of it.
    pub fn close(self, settings: &Settings) -> Result<(), String> {
        drop(self);
        postgres_server::forget(&settings.folder.join("pg"))?;
        place::remove_folder(&settings.folder)
    }

    /// A connection to the product's database, as its own role.
    pub async fn connect(&self) -> Result<Client, String> {
        connect(&self.postgres.url()).await
    }

    pub async fn superuser(&self) -> Result<Client, String> {
        connect(&self.postgres.superuser_url()).await
    }

    pub fn postgres_url(&self) -> String {
        self.postgres.url()
    }

    /// Of both servers and the generator, from now on.
    pub fn meter(&self) -> Meter {
        Meter::start(&[("floodgate", self.gateway.pid()), ("postgres", self.postgres.pid())])
    }

    /// The code of a coupon of the template.
    pub fn code(&self, serial: u64) -> String {
        self.code_key.encode(CouponName { template: self.template, serial, epoch: 1, gift: 0 })
    }

    /// Leaves nothing of what was written so far to be cleaned up or written in the next round.
    pub async fn settle(&self) -> Result<(), String> {
        self.connect().await?.batch_execute("VACUUM ANALYZE").await.map_err(told)?;
        self.superuser().await?.batch_execute("CHECKPOINT").await.map_err(told)
    }

    pub async fn written(&self) -> Result<Written, String> {
        let row = self.connect().await?.query_one(include_str!("../sql/redemptions/written.sql"), &[]).await;
        let row = row.map_err(told)?;
        let count = |(at, column): (usize, &tokio_postgres::Column)| (column.name().to_owned(), row.get(at));
        Ok(Written(row.columns().iter().enumerate().map(count).collect()))
    }

    /// Demands that every coupon, entry and counter balances, whichever side wrote it.
    pub async fn check_ledger(&self) -> Result<(), String> {
        let mut check = Command::new(&self.binary);
        check.args(["ledger", "check"]);
        ended_well("floodgate ledger check", with(check, &self.env)).await
    }

    // --- The operator ---

    /// One call with an API key; the answer's body where it is no refusal.
    async fn call(&self, key: &str, method: &str, path: &str, body: Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request(method, path, &self.address, key, &body);
        let answer = Connection::open(&self.address).await?.send(request.as_bytes()).await?;
        if answer.status >= 300 {
            return Err(format!("{method} {path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
        serde_json::from_slice(&answer.body).map_err(|error| format!("{method} {path}: {error}"))
    }

    async fn api_key(&self, role: &str) -> Result<String, String> {
        let made = self.call(ADMIN_KEY, "POST", "/v1/admin/api-keys", json!({"name": role, "role": role})).await?;
        made["key"].as_str().map(str::to_owned).ok_or_else(|| "an API key was made without a key".into())
    }

    /// 20 off from 100, and known to the gateway when this returns.
    async fn publish(&mut self, stock: u64) -> Result<(), String> {
        let (author, approver) = (self.api_key("operator").await?, self.api_key("approver").await?);
        let definition = json!({
            "name": "20 off from 100", "kind": "full_reduction", "value": {"amount": "20.00"}, "timezone": "UTC",
            "usage_rules": [{"rule_type": "MINIMUM_SPEND", "params": {"amount": "100.00"}}],
            "stock": {"total": stock}, "limits": {"per_user": 1},
            "claim_window": {"starts_at": "2026-01-01T00:00:00Z", "ends_at": "2036-01-01T00:00:00Z"},
            "validity": {"type": "relative", "days": 31},
        });
        let made = self.call(&author, "POST", "/v1/admin/templates", definition).await?;
        let id =
            made["id"].as_u64().and_then(|id| u32::try_from(id).ok()).ok_or("a template was made without an id")?;
        for (key, action) in [(&author, "submit"), (&approver, "approve"), (&author, "publish")] {
            self.call(key, "POST", &format!("/v1/admin/templates/{id}/{action}"), Value::Null).await?;
        }
        self.template = TemplateId(id);
        self.until("the gateway does not learn of the template", "/metrics", |_, body| {
            body.lines().any(|line| line.starts_with("floodgate_snapshot_templates 1"))
        })
        .await
    }

    /// Coupons as the flusher would have made them, a user each.
    async fn issue(&self, coupons: u64) -> Result<(), String> {
        let made = include_str!("../sql/redemptions/coupons.sql");
        let client = self.connect().await?;
        client.execute(made, &[&self.template.as_i32(), &(coupons as i64)]).await.map_err(told)?;
        Ok(())
    }

    /// Asks the gateway until an answer fits, for a bounded time.
    async fn until(&mut self, what: &str, path: &str, fits: impl Fn(u16, &str) -> bool) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let asked = request("GET", path, &self.address, "", "");
            let answer = async { Connection::open(&self.address).await?.send(asked.as_bytes()).await }.await;
            if answer.is_ok_and(|answer| fits(answer.status, &String::from_utf8_lossy(&answer.body))) {
                return Ok(());
            }
            if let Some(status) = self.gateway.exited() {
                return Err(self.gateway.obituary(status));
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{what}: {}", self.gateway.last_line().unwrap_or_default()));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

// === impl Written ===

impl Written {
    /// Orders whose coupons are used.
    pub fn pairs(&self) -> i64 {
        self.0.iter().find(|(table, _)| table == "redemptions_used").map_or(0, |(_, count)| *count)
    }
}

/// A whole request over HTTP/1.1. Without a key it says nothing of who asks.
pub fn request(method: &str, path: &str, host: &str, key: &str, body: &str) -> String {
    let who = if key.is_empty() { String::new() } else { format!("authorization: Bearer {key}\r\n") };
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{who}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

pub fn told(error: tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("PostgreSQL: {} {}", db.code().code(), db.message()),
        None => format!("PostgreSQL: {error}"),
    }
}

async fn connect(url: &str) -> Result<Client, String> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(told)?;
    tokio::spawn(connection);
    Ok(client)
}

/// `floodgate` with these settings and no others.
fn command(settings: &Settings, env: &[(String, String)], arguments: &[&str]) -> Command {
    let mut command = Command::new(&settings.gateway);
    command.args(arguments);
    with(command, env)
}

fn with(mut command: Command, env: &[(String, String)]) -> Command {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command
}

async fn ended_well(what: &str, command: Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = run_helper(command, "").await.map_err(|error| format!("cannot start {program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    Err(format!("{what}: {}", said.join("\n")))
}

/// A loopback address that is free now.
fn free_address() -> Result<String, String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no free port: {error}"))?;
    listener.local_addr().map(|address| address.to_string()).map_err(|error| error.to_string())
}
