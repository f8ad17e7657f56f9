//! An app's Redis and PostgreSQL: killed, started again, and asked what they hold.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use floodgate::demo::postgres_server::{PostgresOptions, PostgresServer};
use floodgate::demo::redis_server::RedisServer;
use tokio::sync::Mutex;
use tokio_postgres::NoTls;

use super::{Folder, NUMBER, TestApp};

/// A coupon as PostgreSQL has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub serial: i64,
    pub user: String,
    pub epoch: i32,
    pub status: i16,
    pub acquired_ms: i64,
}

pub(super) enum Postgres {
    Own { server: Option<Box<PostgresServer>>, folder: PathBuf, options: PostgresOptions },
    Shared { _server: Arc<(PostgresServer, Folder)> },
}

static SHARED: Mutex<Weak<(PostgresServer, Folder)>> = Mutex::const_new(Weak::new());

impl TestApp {
    // --- Stores ---

    pub fn kill_redis(&mut self) {
        self.redis.take().expect("a running Redis").kill();
    }

    /// In order, as an operator would.
    #[allow(dead_code)]
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

    /// Whether it has not ended by itself, as on a disk that is full.
    pub fn postgres_lives(&mut self) -> bool {
        let Postgres::Own { server, .. } = &mut self.postgres else { panic!("PostgreSQL is shared") };
        server.as_mut().is_some_and(|server| server.exited().is_none())
    }

    /// Where PostgreSQL's data are.
    pub fn postgres_data(&self) -> PathBuf {
        self.own_server().data().to_owned()
    }

    pub fn postgres_runs(&self) -> bool {
        !matches!(self.postgres, Postgres::Own { server: None, .. })
    }

    pub async fn start_postgres(&mut self) {
        let Postgres::Own { server, folder, options } = &mut self.postgres else { panic!("PostgreSQL is shared") };
        *server = Some(Box::new(PostgresServer::start(folder, options).await.unwrap()));
    }

    fn own_server(&self) -> &PostgresServer {
        let Postgres::Own { server, .. } = &self.postgres else { panic!("PostgreSQL is shared") };
        server.as_deref().expect("a running PostgreSQL")
    }

    pub(super) async fn start_standby(&mut self) {
        let folder = self.folder.0.join("standby");
        let standby = self.own_server().standby(&folder, &quick()).await.unwrap();
        self.env.push(("FLOODGATE_POSTGRES_REPLICA_URL".to_owned(), standby.url()));
        self.standby = Some(standby);
    }

    /// A superuser's connection to the standby.
    pub async fn standby_sql(&self) -> tokio_postgres::Client {
        connect(&self.standby.as_ref().expect("a running standby").superuser_url()).await
    }

    /// A superuser's connection to the app's own server.
    pub async fn superuser_sql(&self) -> tokio_postgres::Client {
        connect(&self.own_server().superuser_url()).await
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
        connect(&self.postgres_url).await
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
}

// === impl Postgres ===

impl Postgres {
    pub(super) async fn own(folder: &Path, settings: Vec<(String, String)>) -> (Postgres, String) {
        let mut options = quick();
        options.extra.extend(settings);
        let server = PostgresServer::start(folder, &options).await.unwrap();
        let url = server.url();
        (Postgres::Own { server: Some(Box::new(server)), folder: folder.to_owned(), options }, url)
    }

    pub(super) async fn shared(name: &str) -> (Postgres, String) {
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
        let client = connect(&server.0.superuser_url()).await;
        client.batch_execute(&format!("CREATE DATABASE {database} OWNER floodgate")).await.unwrap();
        let url = server.0.url().replace("/floodgate?", &format!("/{database}?"));
        (Postgres::Shared { _server: server }, url)
    }
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn quick() -> PostgresOptions {
    let extra = [("max_connections", "300"), ("shared_buffers", "32MB")];
    let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    PostgresOptions { fsync: false, extra }
}
