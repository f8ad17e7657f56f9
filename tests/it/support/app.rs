//! Stores of the test's own and `floodgate serve` processes on them, with the verbs of a test.
//!
//! Redis is the app's own; the PostgreSQL server is shared by the tests that run at the same time,
//! each with a database of its own, unless the test wants one that it may kill. Nothing outlives
//! the app: its processes are killed by their handles.
//!
//! # Layout
//! - this file: how an app starts, its processes and its stores
//! - [`gateway`]: one process
//! - [`disk`]: disks that fill up and fail
//! - [`stores`]: its Redis and its PostgreSQL, killed and asked
//! - [`verbs`]: what operators and shoppers do

mod disk;
mod gateway;
pub mod stores;
mod verbs;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use floodgate::clock::now_ms;
use floodgate::config::{Config, Layers};
use floodgate::demo::child::{FamilyLock, Supervised};
use floodgate::demo::postgres_server::PostgresServer;
use floodgate::demo::redis_server::{Fsync, RedisOptions, RedisServer};
use floodgate::domain::window::{Millis, rfc3339};
use serde_json::{Value, json};

use super::replicas::Replicas;
pub use gateway::{Gateway, Links, free_address};
use stores::Postgres;

use super::clock_redis;
use super::proxy::{Place, Proxy};

/// The longest that a condition is waited for: a minute, or PATIENCE seconds where a test is to fail.
pub static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = std::env::var("PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
});
const ADMIN_KEY: &str = "an-admin-key-for-the-tests";

/// How an app is to be started.
pub struct Plan {
    name: String,
    env: Vec<(String, String)>,
    processes: Vec<Process>,
    redis: RedisOptions,
    own_postgres: bool,
    /// Further settings of that PostgreSQL.
    postgres_settings: Vec<(String, String)>,
    standby: bool,
    /// With a Sentinel, instead of a Redis alone.
    replicas: Option<usize>,
    clock: bool,
    bad_disk: bool,
    disks: Vec<(String, u32)>,
}

struct Process {
    roles: String,
    env: Vec<(String, String)>,
    linked: bool,
}

pub struct TestApp {
    /// Started in this order; a process keeps its number and its ports when it is started again.
    gateways: Vec<Gateway>,
    pub redis: Option<RedisServer>,
    /// With [`Plan::replicas`], instead of `redis`.
    pub replicas: Option<Replicas>,
    redis_options: RedisOptions,
    postgres: Postgres,
    /// With [`Plan::standby`].
    pub standby: Option<PostgresServer>,
    postgres_url: String,
    env: Vec<(String, String)>,
    config: Config,
    tokens: Mutex<HashMap<String, String>>,
    author: String,
    approver: String,
    writes: AtomicU32,
    /// Unmounted before the folder goes, and behind the stores.
    _disks: Vec<disk::Disk>,
    folder: Folder,
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

/// Whether this user may mount a file system.
pub fn may_mount() -> bool {
    let folder = Folder::new("mount");
    disk::mount(&folder.0, 1).is_some()
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Waits for a condition, for a bounded time.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < *PATIENCE, "waited in vain: {what}");
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
        self.processes.push(Process { roles: roles.to_owned(), env: Vec::new(), linked: false });
        self
    }

    /// A setting of the last process alone.
    pub fn with(mut self, name: &str, value: impl ToString) -> Plan {
        let last = self.processes.last_mut().expect("a process before its settings");
        last.env.push((format!("FLOODGATE_{name}"), value.to_string()));
        self
    }

    /// The last process reaches its stores, and its shoppers reach it, through proxies.
    pub fn linked(mut self) -> Plan {
        self.processes.last_mut().expect("a process before its links").linked = true;
        self
    }

    /// Redis has a clock of its own, which [`TestApp::set_clock`] sets.
    pub fn clock(mut self) -> Plan {
        self.clock = true;
        self
    }

    /// Redis has a disk that fails and is slow when told, see [`TestApp::set_disk`].
    pub fn bad_disk(mut self) -> Plan {
        self.bad_disk = true;
        self
    }

    /// A store (`redis`, `pg`) has a file system of so many megabytes, which a test fills. Only where
    /// [`may_mount`].
    pub fn small_disk(mut self, store: &str, megabytes: u32) -> Plan {
        self.disks.push((store.to_owned(), megabytes));
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

    /// A PostgreSQL of the test's own with a setting of its own.
    pub fn postgres(mut self, name: &str, value: &str) -> Plan {
        self.postgres_settings.push((name.to_owned(), value.to_owned()));
        self.own_postgres()
    }

    /// A PostgreSQL of the test's own, and a standby of it for reads.
    pub fn standby(mut self) -> Plan {
        self.standby = true;
        self.own_postgres()
    }

    /// A Redis with so many replicas, and a Sentinel that the processes ask for the master.
    pub fn replicas(mut self, replicas: usize) -> Plan {
        self.replicas = Some(replicas);
        self
    }

    /// Starts everything and returns when every process is ready.
    pub async fn start(mut self) -> TestApp {
        let folder = Folder::new(&self.name);
        for (asked, variable, file, library) in [
            (self.clock, "FLOODGATE_TEST_CLOCK", "clock", clock_redis::shim as fn() -> &'static Path),
            (self.bad_disk, "FLOODGATE_TEST_DISK", disk::DISK_FILE, disk::shim as fn() -> &'static Path),
        ] {
            if asked {
                let file = folder.0.join(file);
                std::fs::write(&file, [0; 24]).unwrap();
                let env = [("LD_PRELOAD", library()), (variable, file.as_path())];
                self.redis.env = env.map(|(name, path)| (name.to_owned(), path.display().to_string())).into();
            }
        }
        let mount = |(store, megabytes): &(String, u32)| disk::mount(&folder.0.join(store), *megabytes);
        let disks = self.disks.iter().map(mount).collect::<Option<Vec<_>>>().expect("the right to mount a disk");
        let (mut redis, mut replicas, mut redis_settings) = (None, None, Vec::new());
        match self.replicas {
            Some(count) => {
                let all = Replicas::start(&folder.0, count, &self.redis).await;
                redis_settings.extend(all.settings());
                replicas = Some(all);
            }
            None => {
                let server = RedisServer::start(&folder.0.join("redis"), &self.redis).await.unwrap();
                redis_settings.push(("REDIS_URL", server.url()));
                redis = Some(server);
            }
        }
        let (postgres, postgres_url) = match self.own_postgres {
            true => Postgres::own(&folder.0.join("pg"), std::mem::take(&mut self.postgres_settings)).await,
            false => Postgres::shared(&self.name).await,
        };
        let mut env: Vec<(String, String)> = [
            ("POSTGRES_URL", postgres_url.as_str()),
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
        env.extend(redis_settings.into_iter().map(|(name, value)| (format!("FLOODGATE_{name}"), value)));
        env.append(&mut self.env);
        let config = Layers::read(None, env.clone()).unwrap().build().unwrap();
        if self.processes.is_empty() {
            self = self.process("gateway,flusher,worker");
        }
        let is_linked = |(number, process): (usize, &Process)| process.linked.then_some(number);
        let linked: Vec<usize> = self.processes.iter().enumerate().filter_map(is_linked).collect();
        let mut app = TestApp {
            gateways: self.processes.into_iter().map(Gateway::new).collect(),
            redis,
            replicas,
            redis_options: self.redis,
            postgres,
            standby: None,
            postgres_url,
            config,
            env,
            tokens: Mutex::default(),
            author: String::new(),
            approver: String::new(),
            writes: AtomicU32::new(0),
            _disks: disks,
            folder,
        };
        for number in linked {
            app.link(number).await;
        }
        let migrated = app.command(&["migrate"]);
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        if self.standby {
            app.start_standby().await;
        }
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
            postgres_settings: Vec::new(),
            standby: false,
            replicas: None,
            clock: false,
            bad_disk: false,
            disks: Vec::new(),
        }
    }

    /// One process of all roles.
    pub async fn start(name: &str) -> TestApp {
        TestApp::plan(name).start().await
    }

    pub fn gateway(&self, number: usize) -> &Gateway {
        &self.gateways[number]
    }

    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// Redis' clock: standing still at a time, or (0) so much ahead of the machine's. With [`Plan::clock`].
    pub fn set_clock(&self, at: Millis, ahead: Millis) {
        let bytes = [(at * 1000).to_ne_bytes(), (ahead * 1000).to_ne_bytes()].concat();
        // In place: the server has the file's page in its memory.
        File::options().write(true).open(self.folder.0.join("clock")).unwrap().write_all_at(&bytes, 0).unwrap();
    }

    /// A command of the binary, run to its end with the app's settings.
    pub fn command(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = binary(&self.env);
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    // --- Processes ---

    /// One more process, with settings of its own, which is not started yet: its number.
    pub fn add(&mut self, roles: &str, settings: &[(&str, String)]) -> usize {
        let env = settings.iter().map(|(name, value)| (format!("FLOODGATE_{name}"), value.clone())).collect();
        self.gateways.push(Gateway::new(Process { roles: roles.to_owned(), env, linked: false }));
        self.gateways.len() - 1
    }

    /// What a process has logged so far, over all its lives.
    pub fn log(&self, number: usize) -> String {
        std::fs::read_to_string(self.folder.0.join(format!("serve-{number}.log"))).unwrap_or_default()
    }

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

    /// Puts proxies around a process that has not been started.
    async fn link(&mut self, number: usize) {
        let postgres: tokio_postgres::Config = self.postgres_url.parse().unwrap();
        let [tokio_postgres::config::Host::Unix(folder)] = postgres.get_hosts() else { panic!("no socket") };
        let redis = self.redis.as_ref().expect("a running Redis").socket().to_owned();
        let links = Links {
            shoppers: Proxy::tcp(Place::Tcp(self.gateways[number].public.clone())).await,
            redis: Proxy::tcp(Place::Unix(redis)).await,
            postgres: Proxy::tcp(Place::Unix(folder.join(".s.PGSQL.5432"))).await,
        };
        let database = postgres.get_dbname().unwrap();
        let urls = [
            ("FLOODGATE_REDIS_URL", format!("redis://{}", links.redis.address())),
            ("FLOODGATE_POSTGRES_URL", format!("postgres://floodgate@{}/{database}", links.postgres.address())),
        ];
        let gateway = &mut self.gateways[number];
        gateway.env.extend(urls.map(|(name, url)| (name.to_owned(), url)));
        gateway.links = Some(links);
    }

    /// A variable of a process' environment, from its next start on; none: it has not got it.
    pub fn set_env(&mut self, number: usize, variable: &str, value: Option<&str>) {
        let env = &mut self.gateways[number].env;
        env.retain(|(name, _)| name != variable);
        env.extend(value.map(|value| (variable.to_owned(), value.to_owned())));
    }

    /// Starts a process again, in order, with a failpoint in it; with none, the failpoint is gone.
    pub async fn arm(&mut self, number: usize, failpoint: Option<&str>) {
        self.set_env(number, "FLOODGATE_FAILPOINT", failpoint);
        self.terminate(number).await;
        self.restart_unready(number).await;
    }

    /// Waits until a process has ended by itself.
    pub async fn died(&mut self, number: usize) {
        let started = Instant::now();
        while self.is_running(number) {
            assert!(started.elapsed() < *PATIENCE, "process {number} lives");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until a process says that it is ready.
    pub async fn ready(&mut self, number: usize) {
        let started = Instant::now();
        while self.gateways[number].readyz().await != Some(200) {
            let child = self.gateways[number].child.as_mut().expect("a process that was started");
            if let Some(status) = child.exited() {
                panic!("process {number} did not start: {}", child.obituary(status));
            }
            assert!(started.elapsed() < *PATIENCE, "process {number} does not become ready");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The settings of the processes, on these stores.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Processes that were started, running or not.
    pub fn processes(&self) -> usize {
        self.gateways.len()
    }

    /// Whether it was started and has not ended by itself.
    pub fn is_running(&mut self, number: usize) -> bool {
        self.gateways[number].child.as_mut().is_some_and(|child| child.exited().is_none())
    }

    pub fn pid(&self, number: usize) -> u32 {
        self.gateways[number].child.as_ref().expect("a running process").pid()
    }

    /// Any signal, without waiting for what it does.
    pub fn signal(&mut self, number: usize, signal: i32) {
        self.gateways[number].child.as_mut().expect("a running process").signal(signal);
    }

    /// SIGSTOP, and waits until every thread stands still: a signal takes its time.
    pub async fn freeze(&mut self, number: usize) {
        self.signal(number, libc::SIGSTOP);
        let stat = format!("/proc/{}/stat", self.pid(number));
        until("the process stands still", async || {
            // The state follows on the name, which is in parentheses.
            let text = std::fs::read_to_string(&stat).unwrap_or_default();
            text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        })
        .await;
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
        while started.elapsed() < *PATIENCE {
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

/// The binary with these settings and no others.
fn binary(env: &[(String, String)]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_floodgate"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(env.iter().map(|(name, value)| (name, value)));
    // A bug that this run of the tests must notice.
    command.envs(std::env::var_os("FLOODGATE_BUG").map(|bug| ("FLOODGATE_BUG", bug)));
    command
}
