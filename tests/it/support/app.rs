//! Stores of the test's own and `floodgate serve` processes on them, with the verbs of a test.
//!
//! Redis is the app's own; the PostgreSQL server is shared by the tests that run at the same time,
//! each with a database of its own, unless the test wants one that it may kill. Nothing outlives
//! the app: its processes are killed by their handles.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex as Lock, Weak};
use std::time::{Duration, Instant};

use floodgate::admission::identity::{self, TokenClaims};
use floodgate::clock::now_ms;
use floodgate::config::{Config, Layers};
use floodgate::demo::child::{FamilyLock, Supervised};
use floodgate::demo::postgres_server::{PostgresOptions, PostgresServer};
use floodgate::demo::redis_server::{Fsync, RedisOptions, RedisServer};
use floodgate::domain::window::rfc3339;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_postgres::NoTls;

use super::wire::{Answer, Client};

/// The longest that a condition is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);
const ADMIN_KEY: &str = "an-admin-key-for-the-tests";

/// How an app is to be started.
pub struct Plan {
    name: String,
    env: Vec<(String, String)>,
    processes: Vec<Process>,
    redis: RedisOptions,
    own_postgres: bool,
}

struct Process {
    roles: String,
    env: Vec<(String, String)>,
}

pub struct TestApp {
    /// Started in this order; a process keeps its number and its ports when it is started again.
    gateways: Vec<Gateway>,
    pub redis: Option<RedisServer>,
    redis_options: RedisOptions,
    postgres: Postgres,
    postgres_url: String,
    env: Vec<(String, String)>,
    config: Config,
    tokens: Lock<HashMap<String, String>>,
    author: String,
    approver: String,
    writes: AtomicU32,
    folder: Folder,
}

/// One `floodgate serve`.
pub struct Gateway {
    roles: String,
    env: Vec<(String, String)>,
    child: Option<Supervised>,
    public: String,
    internal: String,
    /// Clients of both listeners; they keep their connections.
    pub shop: Client,
    pub office: Client,
}

/// A coupon as PostgreSQL has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub serial: i64,
    pub user: String,
    pub epoch: i32,
    pub status: i16,
    pub acquired_ms: i64,
}

enum Postgres {
    Own { server: Option<Box<PostgresServer>>, folder: PathBuf },
    Shared { _server: Arc<(PostgresServer, Folder)> },
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

static SHARED: Mutex<Weak<(PostgresServer, Folder)>> = Mutex::const_new(Weak::new());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Waits for a condition, for a bounded time.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A template of `stock` coupons for a day from a minute ago, one a user, without quotas.
pub fn coupons(stock: i64) -> Value {
    let time = |at| rfc3339(chrono_tz::Tz::UTC, at);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    json!({
        "name": format!("coupons {number}"), "kind": "cash_voucher", "value": {"amount": "5.00"},
        "timezone": "Asia/Shanghai", "stock": {"total": stock}, "limits": {"per_user": 1},
        "claim_window": {"starts_at": time(now_ms() - 60_000), "ends_at": time(now_ms() + 86_400_000)},
        "validity": {"type": "relative", "days": 7}, "quotas": false,
    })
}

// === impl Plan ===

impl Plan {
    /// A setting of every process, as `FLOODGATE_SECTION_KEY` without the prefix.
    pub fn set(mut self, name: &str, value: impl ToString) -> Plan {
        self.env.push((format!("FLOODGATE_{name}"), value.to_string()));
        self
    }

    /// One more process. Without any there is one of all roles.
    pub fn process(mut self, roles: &str) -> Plan {
        self.processes.push(Process { roles: roles.to_owned(), env: Vec::new() });
        self
    }

    /// A setting of the last process alone.
    pub fn with(mut self, name: &str, value: impl ToString) -> Plan {
        let last = self.processes.last_mut().expect("a process before its settings");
        last.env.push((format!("FLOODGATE_{name}"), value.to_string()));
        self
    }

    /// `appendfsync always` unless told.
    pub fn redis(mut self, options: RedisOptions) -> Plan {
        self.redis = options;
        self
    }

    /// A PostgreSQL that the test may stop.
    pub fn own_postgres(mut self) -> Plan {
        self.own_postgres = true;
        self
    }

    /// Starts everything and returns when every process is ready.
    pub async fn start(mut self) -> TestApp {
        let folder = Folder::new(&self.name);
        let redis = RedisServer::start(&folder.0.join("redis"), &self.redis).await.unwrap();
        let (postgres, postgres_url) = match self.own_postgres {
            true => Postgres::own(&folder.0.join("pg")).await,
            false => Postgres::shared(&self.name).await,
        };
        let mut env: Vec<(String, String)> = [
            ("POSTGRES_URL", postgres_url.as_str()),
            ("REDIS_URL", &redis.url()),
            ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
            ("CODE_KEY", "000102030405060708090a0b0c0d0e0f"),
            ("ADMIN_KEY", ADMIN_KEY),
            ("PRIVACY_ENCRYPT", "false"),
            ("HTTP_THREADS", "2"),
            ("HTTP_DRAIN_GRACE_MS", "100"),
            ("POSTGRES_POOL_MAX", "4"),
            ("REDIS_POOL_MAX", "4"),
            ("THROTTLE_KEYS_MAX", "1024"),
            ("THROTTLE_IP_PER_S", "0"),
            ("THROTTLE_USER_PER_S", "0"),
            ("THROTTLE_DEVICE_PER_S", "0"),
            ("QUOTA_USER_LIMIT", "0"),
            ("QUOTA_IP_LIMIT", "0"),
            ("QUOTA_DEVICE_LIMIT", "0"),
        ]
        .map(|(name, value)| (format!("FLOODGATE_{name}"), value.to_owned()))
        .into();
        env.append(&mut self.env);
        let config = Layers::read(None, env.clone()).unwrap().build().unwrap();
        if self.processes.is_empty() {
            self = self.process("gateway,flusher,worker");
        }
        let mut app = TestApp {
            gateways: self.processes.into_iter().map(Gateway::new).collect(),
            redis: Some(redis),
            redis_options: self.redis,
            postgres,
            postgres_url,
            config,
            env,
            tokens: Lock::default(),
            author: String::new(),
            approver: String::new(),
            writes: AtomicU32::new(0),
            folder,
        };
        let migrated = app.command(&["migrate"]);
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        for number in 0..app.gateways.len() {
            app.spawn(number).await;
        }
        for number in 0..app.gateways.len() {
            app.ready(number).await;
        }
        app.author = app.api_key("operator").await;
        app.approver = app.api_key("approver").await;
        app
    }
}

// === impl TestApp ===

impl TestApp {
    /// `name` is the test's, unique in the binary.
    pub fn plan(name: &str) -> Plan {
        Plan {
            name: name.to_owned(),
            env: Vec::new(),
            processes: Vec::new(),
            redis: RedisOptions { fsync: Fsync::No, ..Default::default() },
            own_postgres: false,
        }
    }

    /// One process of all roles.
    pub async fn start(name: &str) -> TestApp {
        TestApp::plan(name).start().await
    }

    pub fn gateway(&self, number: usize) -> &Gateway {
        &self.gateways[number]
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// A command of the binary, run to its end with the app's settings.
    pub fn command(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = binary(&self.env);
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    // --- Processes ---

    async fn spawn(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        let mut command = binary(&self.env);
        command.arg("serve").args(["--roles", &gateway.roles]);
        command.env("FLOODGATE_PUBLIC_LISTEN", &gateway.public);
        command.env("FLOODGATE_INTERNAL_LISTEN", &gateway.internal);
        command.envs(gateway.env.iter().map(|(name, value)| (name, value)));
        let lock = FamilyLock::take(&self.folder.0.join(format!("serve-{number}.lock"))).await.unwrap();
        let log = self.folder.0.join(format!("serve-{number}.log"));
        gateway.child = Some(Supervised::spawn("floodgate serve", command, lock, log, libc::SIGKILL).unwrap());
    }

    /// Waits until a process says that it is ready.
    pub async fn ready(&mut self, number: usize) {
        let started = Instant::now();
        while self.gateways[number].readyz().await != Some(200) {
            let child = self.gateways[number].child.as_mut().expect("a process that was started");
            if let Some(status) = child.exited() {
                panic!("process {number} did not start: {}", child.obituary(status));
            }
            assert!(started.elapsed() < PATIENCE, "process {number} does not become ready");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn pid(&self, number: usize) -> u32 {
        self.gateways[number].child.as_ref().expect("a running process").pid()
    }

    /// Any signal, without waiting for what it does.
    pub fn signal(&mut self, number: usize, signal: i32) {
        self.gateways[number].child.as_mut().expect("a running process").signal(signal);
    }

    /// SIGKILL.
    pub fn kill9(&mut self, number: usize) {
        if let Some(mut child) = self.gateways[number].child.take() {
            child.kill(libc::SIGKILL);
        }
    }

    /// SIGTERM, and waits for the end; whether it was in order.
    pub async fn terminate(&mut self, number: usize) -> bool {
        let Some(mut child) = self.gateways[number].child.take() else { return true };
        child.signal(libc::SIGTERM);
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = child.exited() {
                return status.success();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    /// Starts a process again on its ports, after whatever end, and waits until it is ready.
    pub async fn restart(&mut self, number: usize) {
        self.restart_unready(number).await;
        self.ready(number).await;
    }

    /// The same without waiting: for a process that cannot be ready yet.
    pub async fn restart_unready(&mut self, number: usize) {
        self.kill9(number);
        self.spawn(number).await;
    }

    /// Ends every process in order, then the stores with the app.
    pub async fn stop(mut self) {
        for number in 0..self.gateways.len() {
            assert!(self.terminate(number).await, "process {number} did not stop in order");
        }
    }

    // --- Stores ---

    pub fn kill_redis(&mut self) {
        self.redis.take().expect("a running Redis").kill();
    }

    pub async fn stop_redis(&mut self) {
        self.redis.take().expect("a running Redis").stop().await;
    }

    /// Where Redis keeps its data; its socket is there, too.
    pub fn redis_folder(&self) -> PathBuf {
        self.folder.0.join("redis")
    }

    pub async fn start_redis(&mut self) {
        self.redis = Some(RedisServer::start(&self.redis_folder(), &self.redis_options).await.unwrap());
    }

    /// The immediate stop, as after a crash. Only with [`Plan::own_postgres`].
    pub fn kill_postgres(&mut self) {
        let Postgres::Own { server, .. } = &mut self.postgres else { panic!("a shared PostgreSQL is not killed") };
        server.take().expect("a running PostgreSQL").kill_immediate();
    }

    pub async fn start_postgres(&mut self) {
        let Postgres::Own { server, folder } = &mut self.postgres else { panic!("PostgreSQL is shared") };
        *server = Some(Box::new(PostgresServer::start(folder, &quick()).await.unwrap()));
    }

    /// One command to Redis.
    pub async fn redis(&self, command: &[&str]) -> redis::Value {
        let client = redis::Client::open(self.redis.as_ref().expect("a running Redis").url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]);
        cmd.query_async(&mut connection).await.unwrap()
    }

    /// A connection to the app's database.
    pub async fn sql(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.postgres_url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The coupons of a template, by serial.
    pub async fn rows(&self, template: i64) -> Vec<Row> {
        let sql = "SELECT serial, user_ref, epoch, status, (extract(epoch FROM acquired_at) * 1000)::int8
            FROM user_coupons WHERE template_id = $1 ORDER BY serial";
        let rows = self.sql().await.query(sql, &[&(template as i32)]).await.unwrap();
        let row = |row: &tokio_postgres::Row| Row {
            serial: row.get(0),
            user: row.get(1),
            epoch: row.get(2),
            status: row.get(3),
            acquired_ms: row.get(4),
        };
        rows.iter().map(row).collect()
    }

    // --- Administration, over HTTP ---

    /// The process that administration goes to: the first that runs.
    fn office(&self) -> &Client {
        let running = self.gateways.iter().find(|gateway| gateway.child.is_some());
        &running.expect("a running process").office
    }

    /// A call with an API key; writes bring an idempotency key of their own.
    pub async fn call(&self, key: &str, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        let bearer = format!("Bearer {key}");
        let write = format!("write-{}", self.writes.fetch_add(1, Ordering::Relaxed));
        let mut all = vec![("authorization", bearer.as_str())];
        if method != "GET" && !headers.iter().any(|(name, _)| *name == "idempotency-key") {
            all.push(("idempotency-key", &write));
        }
        all.extend_from_slice(headers);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.office().send(method, path, &all, body).await.unwrap()
    }

    pub fn admin_key(&self) -> &'static str {
        ADMIN_KEY
    }

    /// A new API key of a role.
    pub async fn api_key(&self, role: &str) -> String {
        let body = json!({"name": role, "role": role, "owner_type": "platform", "owner_id": ""});
        let made = self.call(ADMIN_KEY, "POST", "/v1/admin/api-keys", &[], body).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.json["key"].as_str().unwrap().to_owned()
    }

    /// A template from draft to published, known to every gateway when this returns.
    pub async fn publish(&self, template: Value) -> i64 {
        let mut known = Vec::new();
        for gateway in self.gateways.iter().filter(|gateway| gateway.serves()) {
            known.push((gateway, gateway.metric("floodgate_snapshot_templates").await.unwrap_or(0.0)));
        }
        let id = self.draft(template).await;
        for (key, action) in [(&self.author, "submit"), (&self.approver, "approve"), (&self.author, "publish")] {
            let done = self.act(key, id, action).await;
            assert_eq!(done.status, 200, "{action}: {done:?}");
        }
        for (gateway, before) in known {
            until("a gateway knows the template", async || {
                gateway.metric("floodgate_snapshot_templates").await.is_some_and(|now| now > before)
            })
            .await;
        }
        id
    }

    /// A draft. Issuers other than the platform have no keys here: the admin's makes theirs.
    pub async fn draft(&self, template: Value) -> i64 {
        let key = if template["issuer"].is_string() { ADMIN_KEY } else { &self.author };
        let made = self.call(key, "POST", "/v1/admin/templates", &[], template).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.json["id"].as_i64().unwrap()
    }

    /// A key of role operator, which writes the templates, and one of role approver.
    pub fn keys(&self) -> (&str, &str) {
        (&self.author, &self.approver)
    }

    pub async fn act(&self, key: &str, id: i64, action: &str) -> Answer {
        self.call(key, "POST", &format!("/v1/admin/templates/{id}/{action}"), &[], Value::Null).await
    }

    async fn acted(&self, id: i64, action: &str) {
        let done = self.act(&self.author, id, action).await;
        assert_eq!(done.status, 200, "{action}: {done:?}");
    }

    pub async fn pause(&self, id: i64) {
        self.acted(id, "pause").await;
    }

    pub async fn resume(&self, id: i64) {
        self.acted(id, "resume").await;
    }

    pub async fn end(&self, id: i64) {
        self.acted(id, "stop").await;
    }

    pub async fn add_stock(&self, id: i64, add: i64) {
        let path = format!("/v1/admin/templates/{id}/stock");
        let done = self.call(&self.author, "POST", &path, &[], json!({"add": add})).await;
        assert_eq!(done.status, 200, "{done:?}");
    }

    /// A merge patch under the present revision.
    pub async fn patch(&self, id: i64, patch: Value) -> Answer {
        let path = format!("/v1/admin/templates/{id}");
        let read = self.call(&self.author, "GET", &path, &[], Value::Null).await;
        let revision = read.json["revision"].to_string();
        self.call(&self.author, "PATCH", &path, &[("if-match", &revision)], patch).await
    }

    /// Blocks a user, an address or a device, and returns the entry's path, which DELETE lifts.
    pub async fn blacklist(&self, kind: &str, value: &str) -> String {
        let body = json!({"kind": kind, "value": value, "reason": "a test"});
        let put = self.call(&self.author, "POST", "/v1/admin/blacklist", &[], body).await;
        assert_eq!(put.status, 201, "{put:?}");
        format!("/v1/admin/blacklist/{}", put.json["id"])
    }

    /// Takes an entry off the blacklist.
    pub async fn unblock(&self, entry: &str) {
        let gone = self.call(&self.author, "DELETE", entry, &[], Value::Null).await;
        assert_eq!(gone.status, 204, "{gone:?}");
    }

    // --- Shoppers ---

    /// A shopper's token, signed once.
    pub fn token(&self, user: &str) -> String {
        let sign = || self.token_of(user, |_| {});
        self.tokens.lock().unwrap().entry(user.to_owned()).or_insert_with(sign).clone()
    }

    /// A token with other facts.
    pub fn token_of(&self, user: &str, change: impl FnOnce(&mut TokenClaims)) -> String {
        let auth = &self.config.auth;
        let mut claims = TokenClaims {
            sub: user.to_owned(),
            iss: auth.jwt_issuer.clone(),
            aud: auth.jwt_audience.clone(),
            exp: now_ms() as u64 / 1000 + 3600,
            level: None,
            tags: Vec::new(),
            registered_at: None,
        };
        change(&mut claims);
        identity::sign(auth, &claims).unwrap()
    }

    /// A claim at the first gateway. An empty key: none.
    pub async fn claim(&self, template: i64, user: &str, key: &str, headers: &[(&str, &str)]) -> Answer {
        self.claim_at(0, template, user, key, headers).await.unwrap()
    }

    /// A claim at one gateway. `Err`: the connection broke before the answer was there.
    pub async fn claim_at(
        &self,
        number: usize,
        template: i64,
        user: &str,
        key: &str,
        headers: &[(&str, &str)],
    ) -> std::io::Result<Answer> {
        let bearer = format!("Bearer {}", self.token(user));
        let mut all = vec![("authorization", bearer.as_str())];
        if !key.is_empty() {
            all.push(("idempotency-key", key));
        }
        all.extend_from_slice(headers);
        self.gateways[number].shop.send("POST", &format!("/v1/templates/{template}/claims"), &all, "").await
    }

    /// A JSON body of a shopper's to the first gateway.
    pub async fn post(&self, token: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        let bearer = format!("Bearer {token}");
        let mut all = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.gateways[0].shop.send("POST", path, &all, body.to_string()).await.unwrap()
    }

    /// A read of a shopper's at the first gateway.
    pub async fn get(&self, user: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let bearer = format!("Bearer {}", self.token(user));
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        self.gateways[0].shop.send("GET", path, &all, "").await.unwrap()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        for number in 0..self.gateways.len() {
            self.kill9(number);
            if std::thread::panicking() {
                let log = std::fs::read_to_string(self.folder.0.join(format!("serve-{number}.log")));
                let log = log.unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(30).collect();
                eprintln!("process {number} said at last:");
                lines.iter().rev().for_each(|line| eprintln!("  {line}"));
            }
        }
    }
}

// === impl Gateway ===

impl Gateway {
    fn new(process: Process) -> Gateway {
        let (public, internal) = (free_address(), free_address());
        let (shop, office) = (Client::new(&public), Client::new(&internal));
        Gateway { roles: process.roles, env: process.env, child: None, public, internal, shop, office }
    }

    /// Address of the public listener, as `127.0.0.1:8080`.
    pub fn address(&self) -> &str {
        &self.public
    }

    pub fn internal_address(&self) -> &str {
        &self.internal
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.public)
    }

    pub fn internal(&self) -> String {
        format!("http://{}", self.internal)
    }

    /// Whether it runs and has the public listener.
    fn serves(&self) -> bool {
        self.child.is_some() && self.roles.contains("gateway")
    }

    /// The status of `/readyz`; `None`: nobody answers.
    pub async fn readyz(&self) -> Option<u16> {
        Some(self.office.send("GET", "/readyz", &[], "").await.ok()?.status)
    }

    /// The sum of a metric's series whose line begins so: a name, perhaps with `{label="value"`.
    pub async fn metric(&self, begin: &str) -> Option<f64> {
        let answer = self.office.send("GET", "/metrics", &[], "").await.ok()?;
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        let values = text
            .lines()
            .filter(|line| line.strip_prefix(begin).is_some_and(|rest| rest.starts_with([' ', '{', ',', '}'])));
        values.map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

// === impl Postgres ===

impl Postgres {
    async fn own(folder: &Path) -> (Postgres, String) {
        let server = PostgresServer::start(folder, &quick()).await.unwrap();
        let url = server.url();
        (Postgres::Own { server: Some(Box::new(server)), folder: folder.to_owned() }, url)
    }

    async fn shared(name: &str) -> (Postgres, String) {
        let server = {
            let mut slot = SHARED.lock().await;
            match slot.upgrade() {
                Some(server) => server,
                None => {
                    let folder = Folder::new("app-pg");
                    let server = PostgresServer::start(&folder.0.join("pg"), &quick()).await.unwrap();
                    let server = Arc::new((server, folder));
                    *slot = Arc::downgrade(&server);
                    server
                }
            }
        };
        let database = format!("app_{}_{}", name.replace('-', "_"), NUMBER.fetch_add(1, Ordering::Relaxed));
        let (client, connection) = tokio_postgres::connect(&server.0.superuser_url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&format!("CREATE DATABASE {database} OWNER floodgate")).await.unwrap();
        let url = server.0.url().replace("/floodgate?", &format!("/{database}?"));
        (Postgres::Shared { _server: server }, url)
    }
}

// === impl Folder ===

impl Folder {
    fn new(name: &str) -> Folder {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("floodgate-app-{}-{number}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn quick() -> PostgresOptions {
    let extra = [("max_connections", "300"), ("shared_buffers", "32MB")];
    let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    PostgresOptions { fsync: false, extra }
}

/// The binary with these settings and no others.
fn binary(env: &[(String, String)]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_floodgate"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command
}

/// A loopback address that is free and stays so: outside of the range that the system takes for
/// outgoing connections.
fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(97));
        let address = format!("127.0.0.1:{}", 10_000 + step % 20_000);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}
