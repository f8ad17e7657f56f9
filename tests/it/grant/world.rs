//! A Redis, a database and a flusher, with the verbs of these tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use floodgate::claim::engine::{Batch, BatchReply, Claim, Decision, Engine, Group, GroupReply};
use floodgate::claim::redis_engine::RedisEngine;
use floodgate::clock::now_ms;
use floodgate::config::{Config, Layers};
use floodgate::demo::postgres_server::{PostgresOptions, PostgresServer};
use floodgate::demo::redis_server::{RedisOptions, RedisServer};
use floodgate::domain::code::CouponName;
use floodgate::domain::ids::{CellId, EntryId, Epoch, TemplateId};
use floodgate::domain::outcome::ClaimOutcome;
use floodgate::domain::user::UserRef;
use floodgate::domain::window::Day;
use floodgate::grant::fate::{Fate, fate};
use floodgate::grant::flusher::{Flusher, FlusherHandle};
use floodgate::ledger::check::check;
use floodgate::pg::{Pg, migrate};
use floodgate::redis::cell::{CellMeta, Identity, accepted, read_meta_pooled, text};
use floodgate::redis::client::{Call, Redis};
use floodgate::redis::keys::CellKeys;
use floodgate::redis::scripts::Script;
use redis::Value;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

pub use crate::support::app::until;
use crate::support::proxy::{Place, Proxy};

pub const CELL: CellId = CellId(0);

/// The longest that a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    folder: Folder,
    server: Option<RedisServer>,
    postgres: Option<Database>,
    pub config: Config,
    pub pg: Pg,
    pub redis: Redis,
    /// Where flushers go, which a proxy may stand before.
    flusher_config: Config,
    keys: CellKeys,
    url: String,
}

/// What one claim became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    Granted(u64),
    Replayed(u64),
    Refused(ClaimOutcome),
}

pub struct Running {
    pub handle: FlusherHandle,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

/// A server, of the test's own or shared by all that run at the same time.
struct Database {
    server: Shared,
    folder: PathBuf,
}

enum Shared {
    Own(Box<Option<PostgresServer>>),
    Ours { _server: Arc<(PostgresServer, Folder)> },
}

static POSTGRES: Mutex<Weak<(PostgresServer, Folder)>> = Mutex::const_new(Weak::new());

/// A claim key's hash, made of the user.
pub fn key_hash(user: &str) -> u64 {
    user.bytes().fold(7, |hash: u64, byte| hash.wrapping_mul(1_000_003) ^ u64::from(byte))
}

fn quick() -> PostgresOptions {
    PostgresOptions { fsync: false, ..Default::default() }
}

// === impl World ===

impl World {
    /// A Redis of its own, and a database on a server shared with other tests.
    pub async fn new(name: &str) -> World {
        let folder = Folder::new(name);
        let server = {
            let mut slot = POSTGRES.lock().await;
            match slot.upgrade() {
                Some(server) => server,
                None => {
                    let place = Folder::new("grant-pg");
                    let server = PostgresServer::start(&place.0.join("pg"), &quick()).await.unwrap();
                    let server = Arc::new((server, place));
                    *slot = Arc::downgrade(&server);
                    server
                }
            }
        };
        let database = format!("grant_{}", name.replace('-', "_"));
        let (client, connection) = tokio_postgres::connect(&server.0.superuser_url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&format!("CREATE DATABASE {database} OWNER floodgate")).await.unwrap();
        let url = server.0.url().replace("/floodgate?", &format!("/{database}?"));
        World::on(folder, Database { server: Shared::Ours { _server: server }, folder: PathBuf::new() }, url).await
    }

    /// With a PostgreSQL that it may kill.
    pub async fn with_own_postgres(name: &str) -> World {
        let folder = Folder::new(name);
        let place = folder.0.join("pg");
        let server = PostgresServer::start(&place, &quick()).await.unwrap();
        let url = server.url();
        World::on(folder, Database { server: Shared::Own(Box::new(Some(server))), folder: place }, url).await
    }

    async fn on(folder: Folder, postgres: Database, url: String) -> World {
        let server = RedisServer::start(&folder.0.join("redis"), &RedisOptions::default()).await.unwrap();
        let config = config(&server.url(), &url);
        let pg = Pg::new(&config.postgres).unwrap();
        migrate::migrate(&pg, &config).await.unwrap();
        World {
            pg,
            redis: Redis::new(&config.redis).unwrap(),
            keys: CellKeys::new(CELL),
            server: Some(server),
            postgres: Some(postgres),
            flusher_config: config.clone(),
            folder,
            config,
            url,
        }
    }

    pub fn flusher(&self) -> Running {
        let (stop, stopped) = watch::channel(false);
        let pg = Pg::new(&self.flusher_config.postgres).unwrap();
        let flusher = Flusher::new(pg, self.redis.clone(), CELL, &self.flusher_config, stopped);
        Running { handle: flusher.handle(), stop, task: tokio::spawn(flusher.run()) }
    }

    pub fn keys(&self) -> &CellKeys {
        &self.keys
    }

    /// Other quotas, for flushers that start from now on.
    pub fn set_quota(&mut self, change: impl Fn(&mut floodgate::config::Quota)) {
        change(&mut self.config.quota);
        change(&mut self.flusher_config.quota);
    }

    /// A published template on sale, with `stock` coupons.
    pub async fn template(&self, stock: i64, quotas: bool) -> TemplateId {
        let definition = serde_json::json!({
            "name": format!("stock {stock} {}", now_ms()), "description": "", "issuer": "platform", "issuer_id": "",
            "kind": "cash_voucher", "value": {"amount": "5.00"}, "currency": "CNY", "timezone": "Asia/Shanghai",
            "stock": {"total": stock, "daily": null}, "limits": {"per_user": 1, "per_user_daily": null},
            "claim_window": {"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2100-01-01T00:00:00Z"},
            "validity": {"type": "relative", "days": 7, "delay_days": 0, "end_of_day": false},
            "quotas": quotas,
        });
        let client = self.pg.get().await.unwrap();
        let row = client
            .query_one(
                "WITH k AS (INSERT INTO api_keys (name, role, owner_type, key_sha256)
                     VALUES ('k', 'admin', 'platform', decode(md5(random()::text), 'hex')) RETURNING id)
                 INSERT INTO coupon_templates (issuer, issuer_id, name, status, definition, starts_at, ends_at,
                     author_key_id, editor_key_ids)
                 SELECT 'platform', '', $1::jsonb ->> 'name', 'published', $1::jsonb, '2020-01-01', '2100-01-01', id, ARRAY[id]
                 FROM k RETURNING id",
                &[&definition],
            )
            .await
            .unwrap();
        let id: i32 = row.get(0);
        client.execute("INSERT INTO stock_ranges VALUES ($1, 1, $2, 0)", &[&id, &stock]).await.unwrap();
        TemplateId(id as u32)
    }

    pub async fn fate(&self, template: TemplateId, serial: u64, epoch: Epoch) -> Fate {
        fate(&self.pg.get().await.unwrap(), CELL, CouponName { template, serial, epoch, gift: 0 }).await.unwrap()
    }

    pub async fn meta(&self) -> CellMeta {
        read_meta_pooled(&self.redis, &self.keys).await.unwrap()
    }

    pub async fn opened(&self, epoch: Epoch) {
        until(&format!("epoch {epoch} is open"), async || {
            let meta = read_meta_pooled(&self.redis, &self.keys).await;
            meta.is_ok_and(|meta| meta.open && meta.epoch == epoch && meta.replid == meta.live_replid)
        })
        .await;
    }

    /// Open, in whatever epoch.
    pub async fn open(&self) {
        until("the cell is open", async || {
            let meta = read_meta_pooled(&self.redis, &self.keys).await;
            meta.is_ok_and(|meta| meta.open && meta.replid == meta.live_replid)
        })
        .await;
    }

    pub async fn flushed(&self, entry: EntryId) {
        until(&format!("{entry} is stored"), async || self.watermark_now().await.is_some_and(|at| at >= entry)).await;
    }

    pub async fn watermark(&self) -> EntryId {
        self.watermark_now().await.unwrap()
    }

    async fn watermark_now(&self) -> Option<EntryId> {
        let client = self.pg.own().await.ok()?;
        let row = client.query_one("SELECT watermark_epoch, watermark_seq FROM cells", &[]).await.ok()?;
        Some(EntryId::new(row.get::<_, i32>(0) as Epoch, row.get::<_, i64>(1) as u64))
    }

    /// A batch of one template, a claim a user, each with a claim key of the user's own.
    pub async fn claim(&self, template: TemplateId, users: &[String]) -> Vec<Claimed> {
        let meta = self.meta().await;
        let claims = users.iter().map(|user| Claim {
            user: UserRef::from_store(user).unwrap(),
            claim_key_hash: key_hash(user),
            ip: None,
            device: None,
        });
        let group = Group {
            template,
            keys: self.keys.template(template),
            quotas: true,
            day: Day { start: 0, end: i64::MAX / 4096 },
            claims: claims.collect(),
        };
        let batch = Batch { deadline: meta.now + 10_000, backlog_max: 1_000_000, groups: vec![group] };
        let identity = Identity { replid: meta.replid.as_str().into(), epoch: meta.epoch };
        let mut engine = RedisEngine::new(self.redis.clone(), self.keys.clone());
        let BatchReply::Executed { groups, .. } = engine.claim(&identity, &batch).await.unwrap() else {
            panic!("the batch was not executed")
        };
        let GroupReply::Decided { decisions, .. } = &groups[0] else { panic!("{groups:?}") };
        decisions.iter().map(Claimed::of).collect()
    }

    /// What an opener does that dies thereafter.
    pub async fn close(&self, epoch: Epoch) {
        let mut call = Call::new(Script::CellClose, [self.keys.meta()].into_iter());
        call.arg(epoch).arg(self.meta().await.live_replid);
        accepted(self.redis.pooled(&call).await.unwrap()).unwrap();
    }

    /// Puts an entry on the queue past the claim script.
    pub async fn push(&self, payload: &[u8]) {
        let epoch = self.meta().await.epoch;
        let mut add = redis::cmd("XADD");
        add.arg(self.keys.queue()).arg(format!("{epoch}-*")).arg("g").arg(payload);
        self.redis.command(&add).await.unwrap();
    }

    pub async fn delete_entry(&self, id: EntryId) {
        let mut delete = redis::cmd("XDEL");
        delete.arg(self.keys.queue()).arg(id.to_string());
        assert_eq!(self.redis.command(&delete).await.unwrap(), Value::Int(1));
    }

    /// The user's quota stamps, of both periods.
    pub async fn quota_of(&self, user: &str) -> Vec<u8> {
        let mut stamps = Vec::new();
        for key in &self.keys.quotas()[..2] {
            let mut get = redis::cmd("HGET");
            get.arg(&**key).arg(user);
            if let Value::BulkString(bytes) = self.redis.command(&get).await.unwrap() {
                stamps.extend(bytes);
            }
        }
        stamps
    }

    /// Serials and users of template 1 in PostgreSQL, ascending.
    pub async fn rows(&self) -> Vec<(u64, String)> {
        let client = self.pg.own().await.unwrap();
        let sql = "SELECT serial, user_ref FROM user_coupons WHERE template_id = 1 ORDER BY serial";
        let rows = client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get::<_, i64>(0) as u64, row.get(1))).collect()
    }

    pub async fn serials(&self) -> Vec<u64> {
        self.rows().await.into_iter().map(|(serial, _)| serial).collect()
    }

    /// Rows of a table, or of what stands behind FROM.
    pub async fn count(&self, from: &str) -> i64 {
        let client = self.pg.own().await.unwrap();
        client.query_one(&format!("SELECT count(*) FROM {from}"), &[]).await.unwrap().get(0)
    }

    /// Demands that what was issued is counted as the rows are, whatever happened on the way.
    pub async fn counted(&self) {
        let mut client = self.pg.own().await.unwrap();
        let mut found = Vec::new();
        check(&mut client, None, |difference| found.push(difference.to_string())).await.unwrap();
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(
            self.count("user_coupons").await,
            self.count("generate_series(1, (SELECT sum(issued)::int8 FROM coupon_counters))").await
        );
    }

    pub async fn sql(&self, sql: &str) {
        self.pg.own().await.unwrap().batch_execute(sql).await.unwrap();
    }

    pub fn kill_redis(&mut self) {
        self.server.take().expect("it runs").kill();
    }

    pub async fn start_redis(&mut self) {
        let server = RedisServer::start(&self.folder.0.join("redis"), &RedisOptions::default()).await.unwrap();
        assert_eq!(server.url(), self.config.redis.url.expose(), "it is found where it was");
        self.server = Some(server);
        let ping = redis::cmd("PING");
        until("Redis answers", async || match self.redis.command(&ping).await {
            Ok(answer) => text(&answer).is_ok_and(|text| text == "PONG"),
            Err(_) => false,
        })
        .await;
    }

    pub async fn restart_redis(&mut self) {
        self.kill_redis();
        self.start_redis().await;
    }

    /// A copy of the append-only file as it is: under `always` all of it is written.
    pub fn copy_redis(&self) -> PathBuf {
        static COPIES: AtomicU32 = AtomicU32::new(0);
        let copy = self.folder.0.join(format!("copy-{}", COPIES.fetch_add(1, Ordering::Relaxed)));
        copy_files(&self.aof(), &copy);
        copy
    }

    pub fn put_redis_back(&self, copy: &Path) {
        self.empty_redis();
        copy_files(copy, &self.aof());
    }

    pub fn empty_redis(&self) {
        fs::remove_dir_all(self.aof()).unwrap();
    }

    fn aof(&self) -> PathBuf {
        self.folder.0.join("redis/appendonlydir")
    }

    pub fn kill_postgres(&mut self) {
        match self.postgres.as_mut().map(|postgres| &mut postgres.server) {
            Some(Shared::Own(server)) => server.take().expect("it runs").kill_immediate(),
            _ => panic!("the server is others' too"),
        }
    }

    pub async fn start_postgres(&mut self) {
        let Some(Database { server: Shared::Own(server), folder }) = self.postgres.as_mut() else {
            panic!("the server is others' too")
        };
        **server = Some(PostgresServer::start(folder, &quick()).await.unwrap());
    }

    /// From now on flushers reach PostgreSQL through a proxy.
    pub fn proxy_postgres(&mut self) -> Proxy {
        let place = self.folder.0.join("proxy");
        fs::create_dir_all(&place).unwrap();
        let (address, host) = self.url.split_once("?host=").unwrap();
        let to = PathBuf::from(host.replace("%2F", "/").replace("%2f", "/")).join(".s.PGSQL.5432");
        let url = format!("{address}?host={}", place.display().to_string().replace('/', "%2F"));
        self.flusher_config = config(self.config.redis.url.expose(), &url);
        Proxy::unix(&place.join(".s.PGSQL.5432"), Place::Unix(to))
    }
}

fn config(redis: &str, postgres: &str) -> Config {
    let settings = [
        ("FLOODGATE_REDIS_URL", redis),
        ("FLOODGATE_POSTGRES_URL", postgres),
        ("FLOODGATE_CODE_KEY", "000102030405060708090a0b0c0d0e0f"),
        ("FLOODGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("FLOODGATE_PRIVACY_ENCRYPT", "false"),
        ("FLOODGATE_QUOTA_USER_LIMIT", "5"),
        ("FLOODGATE_FLUSHER_BACKOFF_MIN_MS", "5"),
        ("FLOODGATE_FLUSHER_BACKOFF_MAX_MS", "50"),
    ];
    let env = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Layers::read(None, env).unwrap().build().unwrap()
}

/// Reads a template's part of a claim reply, behind revision and generation.
fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

// === impl Claimed ===

impl Claimed {
    fn of(decision: &Decision) -> Self {
        match decision {
            Decision::Granted(serial) => Claimed::Granted(*serial),
            Decision::Replayed(held) => Claimed::Replayed(held.serial),
            Decision::UserLimit(_) => Claimed::Refused(ClaimOutcome::UserLimitReached),
            Decision::Quota { .. } => Claimed::Refused(ClaimOutcome::QuotaExceeded),
            Decision::Refused(outcome) => Claimed::Refused(*outcome),
        }
    }

    pub fn granted(self) -> Option<u64> {
        match self {
            Claimed::Granted(serial) => Some(serial),
            Claimed::Replayed(_) | Claimed::Refused(_) => None,
        }
    }
}

// === impl Running ===

impl Running {
    /// The ordered stop.
    pub async fn stop(self) {
        self.stop.send(true).unwrap();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it stops in time").unwrap();
    }

    /// For a flusher that has nothing to look forward to.
    pub async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

// === impl Folder ===

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("floodgate-it-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
