//! The private servers: they start on what is there, after any death, in any folder.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use floodgate::demo::place;
use floodgate::demo::postgres_server::{PostgresOptions, PostgresServer};
use floodgate::demo::redis_server::{RedisOptions, RedisServer};
use tokio_postgres::NoTls;

/// A folder of the test's own, removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("floodgate-it-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn unsafe_but_quick() -> PostgresOptions {
    PostgresOptions { fsync: false, ..Default::default() }
}

async fn redis(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("the client takes the URL");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

async fn postgres(server: &PostgresServer) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}

/// The append-only file that is being written.
fn increment(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder.join("appendonlydir")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max().expect("an increment")
}

#[tokio::test]
async fn redis_keeps_its_data_over_kill_and_stop() {
    let folder = Folder::new("redis-data");
    let place = folder.join("redis");
    for round in 0..4 {
        let mut server = RedisServer::start(&place, &RedisOptions::default()).await.unwrap();
        let mut connection = redis(&server).await;
        let count: i64 = redis::cmd("INCR").arg("starts").query_async(&mut connection).await.unwrap();
        assert_eq!(count, round + 1);
        let policy: Vec<String> =
            redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query_async(&mut connection).await.unwrap();
        assert_eq!(policy[1], "noeviction");
        if round % 2 == 0 {
            server.kill();
        } else {
            server.stop().await;
        }
        assert!(server.exited().is_some());
    }
}

#[tokio::test]
async fn a_torn_append_only_file_is_cut_back_to_whole_transactions() {
    let folder = Folder::new("redis-torn");
    let place = folder.join("redis");
    let mut server = RedisServer::start(&place, &RedisOptions::default()).await.unwrap();
    let mut connection = redis(&server).await;
    let _: () = redis::cmd("SET").arg("whole").arg("1").query_async(&mut connection).await.unwrap();
    let before = fs::metadata(increment(&place)).unwrap().len();
    let _: () = redis::pipe().atomic().set("torn", 1).set("torn2", 2).query_async(&mut connection).await.unwrap();
    server.kill();
    let after = fs::metadata(increment(&place)).unwrap().len();
    assert!(before < after);
    // At every third byte of the last transaction, the start of MULTI and the end of EXEC among them.
    let whole = fs::read(increment(&place)).unwrap();
    for cut in (before + 1..after).step_by(3) {
        fs::write(increment(&place), &whole[..cut as usize]).unwrap();
        let mut server = RedisServer::start(&place, &RedisOptions::default()).await.unwrap();
        let mut connection = redis(&server).await;
        let (kept, torn): (Option<i64>, Option<i64>) =
            redis::cmd("MGET").arg("whole").arg("torn").query_async(&mut connection).await.unwrap();
        assert_eq!((kept, torn), (Some(1), None), "cut at byte {cut} of {before}..{after}");
        // What is written after the repair is there after the next start.
        let _: () = redis::cmd("SET").arg("later").arg("1").query_async(&mut connection).await.unwrap();
        server.kill();
        let server = RedisServer::start(&place, &RedisOptions::default()).await.unwrap();
        let mut connection = redis(&server).await;
        let later: Option<i64> = redis::cmd("GET").arg("later").query_async(&mut connection).await.unwrap();
        assert_eq!(later, Some(1), "cut at byte {cut}");
    }
}

#[tokio::test]
async fn a_redis_that_cannot_start_says_why() {
    let folder = Folder::new("redis-wrong");
    let options = RedisOptions { extra: vec![("maxmemory-policy".into(), "sometimes".into())], ..Default::default() };
    let error = RedisServer::start(&folder.join("redis"), &options).await.err().unwrap();
    assert!(error.starts_with("redis-server ended") && error.contains("must be one of"), "{error}");
}

#[tokio::test]
async fn postgres_keeps_its_data_over_every_death() {
    let folder = Folder::new("pg-data");
    let place = folder.join("postgres");
    for round in 0..4 {
        let mut server = PostgresServer::start(&place, &unsafe_but_quick()).await.unwrap();
        let client = postgres(&server).await;
        client
            .batch_execute("CREATE TABLE IF NOT EXISTS starts (at int); INSERT INTO starts VALUES (1)")
            .await
            .unwrap();
        let count: i64 = client.query_one("SELECT count(*) FROM starts", &[]).await.unwrap().get(0);
        assert_eq!(count, round + 1);
        match round {
            0 => server.stop().await,
            1 => server.kill_immediate(),
            // The backend of `client` outlives its postmaster for a moment; the next start waits for it.
            _ => server.kill(),
        }
        assert!(server.exited().is_some());
    }
}

#[tokio::test]
async fn folders_with_long_and_odd_names_do() {
    let folder = Folder::new("long");
    let deep = folder.join(&"a-folder-of-some-length/".repeat(6)).join("with a space, an ü and a 'quote'");
    assert!(deep.as_os_str().len() > 150);
    let redis_server = RedisServer::start(&deep.join("redis"), &RedisOptions::default()).await.unwrap();
    let mut connection = redis(&redis_server).await;
    let _: () = redis::cmd("SET").arg("a").arg("1").query_async(&mut connection).await.unwrap();
    let server = PostgresServer::start(&deep.join("postgres"), &unsafe_but_quick()).await.unwrap();
    postgres(&server).await.batch_execute("SELECT 1").await.unwrap();
    assert!(redis_server.socket().as_os_str().len() <= 107);
}

#[tokio::test]
async fn two_servers_never_share_a_folder() {
    let folder = Folder::new("shared");
    let place = folder.join("redis");
    let mut first = RedisServer::start(&place, &RedisOptions::default()).await.unwrap();
    let second = tokio::spawn({
        let place = place.clone();
        async move { RedisServer::start(&place, &RedisOptions::default()).await.map(|server| server.pid()) }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!second.is_finished(), "the second waits for the first to end");
    let ended = Instant::now();
    first.stop().await;
    second.await.unwrap().unwrap();
    assert!(ended.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_missing_program_is_one_sentence_with_its_package() {
    let error = place::find_binary("redis-server", "redis-server", &["/nowhere".into()]).unwrap_err();
    assert_eq!(
        error,
        "redis-server is not installed: install the Debian package redis-server (apt-get install redis-server)"
    );
}

#[test]
fn a_file_that_is_no_program_is_passed_over() {
    let folder = Folder::new("no-program");
    OpenOptions::new().create(true).truncate(true).write(true).open(folder.join("redis-server")).unwrap();
    place::find_binary("redis-server", "redis-server", std::slice::from_ref(&folder.0)).unwrap_err();
}
