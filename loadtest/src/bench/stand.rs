//! Where the bench takes place: a folder, one PostgreSQL with a database for each party, Redis servers
//! that live as long as a party's turn, and the programs that are measured or measure.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use floodgate::demo::child::{FamilyLock, Supervised};
use floodgate::demo::place;
use floodgate::demo::postgres_server::{PostgresOptions, PostgresServer};
use floodgate::demo::redis_server::{Fsync, RedisOptions, RedisServer};
use tokio_postgres::NoTls;

use super::Settings;

pub struct Stand {
    pub settings: Settings,
    pub postgres: PostgresServer,
    folder: PathBuf,
    number: AtomicU32,
}

/// The longest that a server may take to answer after its start.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

// === impl Stand ===

impl Stand {
    pub async fn new(settings: Settings) -> Result<Stand, String> {
        let folder = settings.folder.clone();
        place::remove_folder(&folder)?;
        std::fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        // pgbench has a connection for each client.
        let connections = (settings.connections + 100).to_string();
        // As deploy/postgresql.conf has it, for a machine that is shared with everybody else in the bench.
        let extra = [
            ("shared_buffers", "512MB"),
            ("max_wal_size", "8GB"),
            ("checkpoint_timeout", "15min"),
            ("wal_compression", "on"),
            ("max_connections", connections.as_str()),
            // It would clean up after one party while another has its turn.
            ("autovacuum", "off"),
        ];
        let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let postgres = PostgresServer::start(&folder.join("pg"), &PostgresOptions { fsync: true, extra }).await?;
        Ok(Stand { settings, postgres, folder, number: AtomicU32::new(1) })
    }

    /// How long a party is measured.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.settings.seconds)
    }

    /// A quantity for a full run, and the one for a quick one.
    pub fn size(&self, full: u64, quick: u64) -> u64 {
        if self.settings.quick { quick } else { full }
    }

    /// A folder that no other party has.
    pub fn fresh_folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.folder.join(format!("{}-{name}", self.number.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        Ok(folder)
    }

    /// An empty Redis that keeps an append-only file.
    pub async fn redis(&self, fsync: Fsync) -> Result<RedisServer, String> {
        self.redis_with(fsync, &[]).await
    }

    /// The same with further lines of redis.conf.
    pub async fn redis_with(&self, fsync: Fsync, more: &[(&str, &str)]) -> Result<RedisServer, String> {
        // When a file is rewritten depends on the bytes in it: it would hit some turns and not others.
        let lines = [("auto-aof-rewrite-percentage", "0")].iter().chain(more);
        let extra = lines.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = RedisOptions { fsync, extra, ..Default::default() };
        RedisServer::start(&self.fresh_folder("redis")?, &options).await
    }

    /// A new database, and its URL.
    pub async fn database(&self) -> Result<String, String> {
        let name = format!("bench_{}", self.number.fetch_add(1, Ordering::Relaxed));
        let client = connect(&self.postgres.superuser_url()).await?;
        let sql = format!("CREATE DATABASE {name} OWNER floodgate");
        client.batch_execute(&sql).await.map_err(|error| format!("{sql}: {error}"))?;
        Ok(self.postgres.url().replace("/floodgate?", &format!("/{name}?")))
    }

    /// Lets PostgreSQL write what earlier parties left to be written, so that it costs none of the next.
    pub async fn settle(&self) -> Result<(), String> {
        let client = connect(&self.postgres.superuser_url()).await?;
        client.batch_execute("CHECKPOINT").await.map_err(|error| format!("CHECKPOINT: {error}"))
    }

    /// A child that ends with the bench.
    pub async fn child(&self, name: &'static str, command: Command) -> Result<Supervised, String> {
        let folder = self.fresh_folder(name.rsplit('/').next().unwrap_or(name))?;
        let lock = FamilyLock::take(&folder.join("lock")).await?;
        Supervised::spawn(name, command, lock, folder.join("log"), libc::SIGKILL)
    }

    /// Waits until something listens there.
    pub async fn listening(&self, child: &mut Supervised, address: &str) -> Result<(), String> {
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = child.exited() {
                return Err(child.obituary(status));
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("nothing listens on {address}: {}", child.last_line().unwrap_or_default()));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

/// A connection to a database.
pub async fn connect(url: &str) -> Result<tokio_postgres::Client, String> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.map_err(|error| format!("PostgreSQL: {error}"))?;
    tokio::spawn(connection);
    Ok(client)
}

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What scripts/install-load-tools unpacked of the peers.
pub fn peers() -> PathBuf {
    root().join("target/load-tools/peers/root")
}

/// `floodgate` of the same build as the bench itself.
pub fn floodgate() -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let binary = me.with_file_name("floodgate");
    if !binary.exists() {
        return Err(format!("{} is not built: make bench builds it", binary.display()));
    }
    Ok(binary)
}

/// This program itself, which holds the peers that are written in Rust.
pub fn myself() -> Result<Command, String> {
    std::env::current_exe().map(Command::new).map_err(|error| format!("where this program is: {error}"))
}

/// A program on the PATH or among PostgreSQL's own.
pub fn find(name: &str) -> Result<PathBuf, String> {
    let mut folders = place::path_folders();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    place::find_binary(name, name, &folders)
}

/// A loopback address that is free, outside of the range that the system takes for outgoing connections.
pub fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(89));
        let address = format!("127.0.0.1:{}", 10_000 + step % 20_000);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}
