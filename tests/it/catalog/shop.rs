//! An administration under test: private servers, an open cell, and one verb for every call.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use floodgate::app::App;
use floodgate::catalog::{api_keys, workers};
use floodgate::config::Layers;
use floodgate::demo::postgres_server::{PostgresOptions, PostgresServer};
use floodgate::demo::redis_server::{Fsync, RedisOptions, RedisServer};
use floodgate::domain::ids::TemplateId;
use floodgate::http::handlers;
use floodgate::http::problem::Problem;
use floodgate::http::route::{Caller, Reply, Request};
use floodgate::pg::migrate;
use floodgate::redis::cell::{self, Holding, Identity};
use floodgate::redis::client::Call;
use floodgate::redis::scripts::Script;
use hyper::{HeaderMap, Method};
use redis::Value as RedisValue;
use serde_json::{Value, json};

pub const ADMIN_KEY: &str = "an-admin-key-for-the-tests";

/// A folder of the test's own, removed when the test ends.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Shop {
    pub app: Arc<App>,
    pub redis: Option<RedisServer>,
    redis_folder: PathBuf,
    _postgres: PostgresServer,
    _folder: Folder,
}

/// A key with its caller, as `authenticate` tells it.
#[derive(Clone)]
pub struct Key {
    pub id: i64,
    pub secret: String,
    pub caller: Caller,
}

/// What a call gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub code: String,
    pub body: Value,
    pub tag: Option<i64>,
}

impl Shop {
    pub async fn open(name: &str) -> Shop {
        let _ = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::WARN).try_init();
        let folder = Folder(std::env::temp_dir().join(format!("floodgate-it-{}-{name}", std::process::id())));
        std::fs::create_dir_all(&folder.0).unwrap();
        let (postgres_folder, redis_folder) = (folder.0.join("pg"), folder.0.join("redis"));
        let (quick, options) = (PostgresOptions { fsync: false, ..Default::default() }, redis_options());
        let (postgres, redis) =
            tokio::join!(PostgresServer::start(&postgres_folder, &quick), RedisServer::start(&redis_folder, &options));
        let (postgres, redis) = (postgres.unwrap(), redis.unwrap());
        let env = [
            ("FLOODGATE_POSTGRES_URL", postgres.url()),
            ("FLOODGATE_REDIS_URL", redis.url()),
            ("FLOODGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef".into()),
            ("FLOODGATE_CODE_KEY", "000102030405060708090a0b0c0d0e0f".into()),
            ("FLOODGATE_ADMIN_KEY", ADMIN_KEY.into()),
            ("FLOODGATE_WORKER_FREE_AFTER_S", "0".into()),
            ("FLOODGATE_REDIS_COMMAND_TIMEOUT_MS", "500".into()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value));
        let config = Layers::read(None, env).unwrap().build().unwrap();
        let pg = floodgate::pg::Pg::new(&config.postgres).unwrap();
        migrate::migrate(&pg, &config).await.unwrap();
        let users = migrate::check(&pg, &config).await.unwrap();
        let app = App::new(config, users).unwrap();
        api_keys::ensure_admin_key(&app.pg, &app.config).await.unwrap();
        let shop = Shop { app, redis: Some(redis), redis_folder, _postgres: postgres, _folder: folder };
        shop.open_cell(1).await;
        shop
    }

    /// What the flusher does, without a history.
    pub async fn open_cell(&self, epoch: u16) {
        let keys = &self.app.keys;
        let live = cell::read_meta_pooled(&self.app.redis, keys).await.unwrap().live_replid;
        let mut close = Call::new(Script::CellClose, [keys.meta()].into_iter());
        close.arg(epoch).arg(&*live);
        cell::accepted(self.app.redis.pooled(&close).await.unwrap()).unwrap();
        let quotas = keys.quotas().iter().map(|key| &**key);
        let names: Vec<&str> = [keys.meta(), keys.queue()].into_iter().chain(quotas).collect();
        let mut open = Call::new(Script::CellOpen, names.into_iter());
        open.arg(&*live).arg(epoch);
        for _ in 0..3 {
            open.arg(1).arg(60_000);
        }
        cell::accepted(self.app.redis.pooled(&open).await.unwrap()).unwrap();
    }

    pub fn kill_redis(&mut self) {
        self.redis.take().expect("a running Redis").kill();
    }

    pub async fn start_redis(&mut self) {
        self.redis = Some(RedisServer::start(&self.redis_folder, &redis_options()).await.unwrap());
    }

    /// One call through the table of routes, the role checked as the router does.
    pub async fn call(&self, key: &Key, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let method: Method = method.parse().unwrap();
        let (route, params) = handlers::routes()
            .into_iter()
            .filter(|route| route.method == method)
            .find_map(|route| matched(route.path, path).map(|params| (route, params)))
            .unwrap_or_else(|| panic!("no route for {method} {path}"));
        if !route.access.admits(key.caller.role) {
            return refused(Problem::new("forbidden", "the role does not admit it"));
        }
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name.parse::<hyper::header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let request = Request {
            method,
            params,
            query: query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            headers: map,
            body: if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) },
            caller: Some(key.caller.clone()),
            shopper: None,
            ip: [127, 0, 0, 1].into(),
            request_id: "test".into(),
        };
        match (route.handler)(self.app.clone(), request).await {
            Ok(Reply::Ok(body)) => Answer { status: 200, code: String::new(), body, tag: None },
            Ok(Reply::OkTagged(body, tag)) => Answer { status: 200, code: String::new(), body, tag: Some(tag) },
            Ok(Reply::Created(body)) => Answer { status: 201, code: String::new(), body, tag: None },
            Ok(Reply::NoContent) => Answer { status: 204, code: String::new(), body: Value::Null, tag: None },
            Ok(other) => panic!("an unexpected reply: {other:?}"),
            Err(problem) => refused(problem),
        }
    }

    pub async fn post(&self, key: &Key, path: &str, body: Value) -> Answer {
        self.call(key, "POST", path, &[], body).await
    }

    pub async fn get(&self, key: &Key, path: &str) -> Answer {
        self.call(key, "GET", path, &[], Value::Null).await
    }

    pub async fn admin(&self) -> Key {
        let caller = self.app.api_keys.authenticate(ADMIN_KEY).await.unwrap();
        Key { id: caller.key_id.into(), secret: ADMIN_KEY.into(), caller }
    }

    /// A new key of the platform.
    pub async fn key(&self, role: &str) -> Key {
        self.owned_key(role, "platform", "").await
    }

    pub async fn owned_key(&self, role: &str, owner_type: &str, owner_id: &str) -> Key {
        let body = json!({"name": role, "role": role, "owner_type": owner_type, "owner_id": owner_id});
        let made = self.post(&self.admin().await, "/v1/admin/api-keys", body).await;
        assert_eq!(made.status, 201, "{made:?}");
        let secret = made.body["key"].as_str().unwrap().to_owned();
        let caller = self.app.api_keys.authenticate(&secret).await.unwrap();
        Key { id: made.body["id"].as_i64().unwrap(), secret, caller }
    }

    /// A draft made by `author`, as far as `published` where an approver is given.
    pub async fn template(&self, author: &Key, body: Value) -> i64 {
        let made = self.post(author, "/v1/admin/templates", body).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.body["id"].as_i64().unwrap()
    }

    pub async fn act(&self, key: &Key, id: i64, action: &str) -> Answer {
        self.post(key, &format!("/v1/admin/templates/{id}/{action}"), Value::Null).await
    }

    pub async fn published(&self, author: &Key, approver: &Key, body: Value) -> i64 {
        let id = self.template(author, body).await;
        for (key, action) in [(author, "submit"), (approver, "approve"), (author, "publish")] {
            let answer = self.act(key, id, action).await;
            assert_eq!(answer.status, 200, "{action}: {answer:?}");
        }
        id
    }

    pub async fn read(&self, id: i64) -> Value {
        self.get(&self.admin().await, &format!("/v1/admin/templates/{id}")).await.body
    }

    /// What Redis has of a template.
    pub async fn held(&self, id: i64) -> Holding {
        let meta = cell::read_meta_pooled(&self.app.redis, &self.app.keys).await.unwrap();
        let identity = Identity::of(&meta).expect("an open cell");
        let id = [TemplateId(id as u32)];
        let (_, held) = cell::read_holdings(&self.app.redis, &self.app.keys, &identity, None, &id).await.unwrap();
        held.into_iter().next().unwrap()
    }

    /// Sets fields of a hash in Redis behind everyone's back.
    pub async fn set_in_redis(&self, key: &str, fields: &[(&str, &str)]) {
        let mut cmd = redis::cmd("HSET");
        cmd.arg(key);
        for (name, value) in fields {
            cmd.arg(*name).arg(*value);
        }
        assert!(matches!(self.app.redis.command(&cmd).await.unwrap(), RedisValue::Int(_)));
    }

    /// One round of each worker.
    pub async fn work(&self) {
        workers::life_once(&self.app).await.unwrap();
        workers::sync_once(&self.app).await.unwrap();
    }
}

/// A template of 5 coupons, on sale now for a day.
pub fn coupons(name: &str) -> Value {
    let now = floodgate::clock::now_ms();
    let time = |at| floodgate::domain::window::rfc3339(chrono_tz::Tz::UTC, at);
    json!({
        "name": name, "kind": "cash_voucher", "value": {"amount": 10}, "stock": {"total": 5, "daily": 4},
        "claim_window": {"starts_at": time(now - 60_000), "ends_at": time(now + 86_400_000)},
        "validity": {"type": "relative", "days": 7}, "limits": {"per_user": 2, "per_user_daily": 1}, "quotas": false,
    })
}

fn redis_options() -> RedisOptions {
    RedisOptions { fsync: Fsync::No, ..Default::default() }
}

fn refused(problem: Problem) -> Answer {
    Answer { status: problem.status(), code: problem.code.to_owned(), body: problem.to_json("test"), tag: None }
}

fn matched(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (pattern, path): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
    let fits = pattern.len() == path.len()
        && pattern.iter().zip(&path).all(|(known, given)| known.starts_with('{') || known == given);
    let values = pattern.iter().zip(path).filter(|(known, _)| known.starts_with('{'));
    fits.then(|| values.map(|(_, given)| given.to_owned()).collect())
}
