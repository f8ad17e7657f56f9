//! Redis that dies, forgets, fills up, is busy, or stands on a bad disk.

use std::path::Path;
use std::time::Instant;

use floodgate::demo::redis_server::{Fsync, RedisOptions, RedisServer};
use floodgate::domain::ids::{CellId, TemplateId};
use floodgate::redis::keys::CellKeys;
use redis::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Area, Fault, Scene, fault, is_full};
use crate::support::app::{Plan, TestApp, coupons, may_mount, until};

fn shop(name: &str, fsync: Fsync) -> Plan {
    let plan = TestApp::plan(name).redis(RedisOptions { fsync, ..Default::default() });
    plan.process("gateway").process("gateway").process("flusher,worker")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_forgets_and_refuses() {
    let mut area = Area::of(shop("faults-redis", Fsync::Everysec)).await;
    // While a sync is slow Redis holds back what it would write, for up to two seconds, and answers.
    area.play(fault("Redis is killed under everysec").loses(0), killed).await;
    area.play(fault("the script cache is flushed again and again"), flushed).await;
    area.play(fault("a script of another keeps Redis busy"), busy).await;
    area.play(fault("Redis has no memory left"), out_of_memory).await;
    let empty = fault("Redis comes back empty, and an operator recovers it").ack("postgres");
    area.play(empty, emptied).await;
    area.close().await;
}

/// What Redis had not synced is gone. What PostgreSQL has of it is given back; where its flusher is halted, that is
/// less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_power_of_redis_is_cut_under_everysec() {
    let mut area = Area::of(shop("faults-everysec", Fsync::Everysec).bad_disk()).await;
    let cut = |what: &str| -> Fault { fault(format!("Redis' power is cut under everysec{what}")).long() };
    area.play(cut(", level redis").loses(0), async |scene| power_cut(scene, false).await).await;
    area.play(cut(" while the flusher is halted").loses(1), async |scene| power_cut(scene, true).await).await;
    area.play(cut(", level postgres").ack("postgres"), async |scene| power_cut(scene, false).await).await;
    area.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_on_a_bad_disk() {
    for (fsync, word) in [(Fsync::Always, "always"), (Fsync::Everysec, "everysec")] {
        let mut area = Area::of(shop(&format!("faults-disk-{word}"), fsync).bad_disk()).await;
        area.play(fault(format!("Redis' writes to disk fail (EIO) under {word}")), failing).await;
        area.play(fault(format!("Redis' syncs take 300 ms under {word}")).full_only(word != "always"), slow).await;
        area.close().await;
    }
    if !may_mount() {
        return println!("| Redis' disk is full | 0 | | not played: this user may not mount a disk |");
    }
    for (fsync, word) in [(Fsync::Always, "always"), (Fsync::Everysec, "everysec")] {
        let mut area = Area::of(shop(&format!("faults-full-{word}"), fsync).small_disk("redis", 16)).await;
        area.play(fault(format!("Redis' disk is full under {word}")).full_only(word != "always"), full).await;
        area.close().await;
    }
}

async fn killed(scene: &mut Scene<'_>) {
    scene.app.kill_redis();
    scene.app.start_redis().await;
}

async fn flushed(scene: &mut Scene<'_>) {
    for _ in 0..20 {
        scene.app.redis(&["SCRIPT", "FLUSH"]).await;
        scene.sells(20).await;
    }
}

/// Beyond `busy-reply-threshold` Redis answers BUSY, and what was sent is certainly not executed.
async fn busy(scene: &mut Scene<'_>) {
    scene.app.redis(&["CONFIG", "SET", "busy-reply-threshold", "50"]).await;
    // As an inline command: the client library would not wait for so long.
    let spin = "EVAL \"local t = redis.call('TIME') local till = t[1] + 2 \
        repeat t = redis.call('TIME') until t[1] + 0 >= till return 1\" 0\r\n";
    let mut stream = UnixStream::connect(scene.app.redis.as_ref().unwrap().socket()).await.unwrap();
    stream.write_all(spin.as_bytes()).await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b":1\r\n");
}

async fn out_of_memory(scene: &mut Scene<'_>) {
    scene.app.redis(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    scene.lasts(500).await;
    scene.app.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
}

async fn emptied(scene: &mut Scene<'_>) {
    scene.app.kill_redis();
    std::fs::remove_dir_all(scene.app.redis_folder().join("appendonlydir")).unwrap();
    scene.app.start_redis().await;
    until("nobody sells from an empty Redis", async || scene.app.gateway(0).readyz().await == Some(503)).await;
    let recovered = scene.app.command(&["recover", "--yes"]);
    assert!(recovered.status.success(), "{}", String::from_utf8_lossy(&recovered.stderr));
}

/// Under `always` Redis ends by itself, under `everysec` it refuses writes; then the disk is well again.
async fn failing(scene: &mut Scene<'_>) {
    scene.app.set_disk(libc::EIO, 0);
    scene.lasts(1_200).await;
    scene.app.set_disk(0, 0);
    started_again(scene).await;
}

async fn full(scene: &mut Scene<'_>) {
    scene.app.fill_disk("redis");
    scene.lasts(1_200).await;
    scene.app.clear_disk("redis");
    started_again(scene).await;
}

/// The last sync has ended, and the next one does not: it may be two seconds until the power is gone.
async fn power_cut(scene: &mut Scene<'_>, halted: bool) {
    const FLUSHER: usize = 2;
    const UNSYNCED_CLAIMS: u64 = 100;
    if halted {
        scene.app.freeze(FLUSHER).await;
    }
    // A sale may be over before Redis has synced for the first time, a second after its start: some claims go synced.
    scene.app.redis(&["CONFIG", "SET", "appendfsync", "always"]).await;
    scene.sells(20).await;
    scene.app.redis(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    scene.app.set_disk(0, 60_000);
    scene.sells(UNSYNCED_CLAIMS).await;
    assert!(!scene.load.is_over(), "the load ended before the cut");
    scene.app.kill_redis();
    let file = std::fs::File::options().write(true).open(increment(&scene.app.redis_folder())).unwrap();
    let (written, synced) = (file.metadata().unwrap().len(), scene.app.synced_bytes());
    assert!(0 < synced && synced <= written, "{synced} of {written} bytes are synced");
    file.set_len(synced).unwrap();
    scene.app.set_disk(0, 0);
    scene.app.start_redis().await;
    if halted {
        scene.app.signal(FLUSHER, libc::SIGCONT);
    }
}

async fn slow(scene: &mut Scene<'_>) {
    scene.app.set_disk(0, 300);
    scene.lasts(1_500).await;
    scene.app.set_disk(0, 0);
}

/// What a supervisor does.
async fn started_again(scene: &mut Scene<'_>) {
    if scene.app.redis.as_mut().is_some_and(|redis| redis.exited().is_some()) {
        scene.app.kill_redis();
        scene.app.start_redis().await;
    }
}

/// A power cut under `always`: the file ends somewhere behind the last synced byte. Whatever was
/// acknowledged by then is there, after the first start and after a second one with writes between.
#[tokio::test]
async fn a_power_cut_leaves_what_was_acknowledged() {
    const CLAIMS: usize = 8;
    let plan = TestApp::plan("faults-power").redis(RedisOptions::default()).bad_disk();
    let mut app = plan.process("gateway").process("flusher,worker").start().await;
    let id = app.publish(coupons(100)).await;
    // No trim may stand among the claims.
    app.kill9(1);
    let increment = increment(&app.redis_folder());
    let size = || std::fs::metadata(&increment).unwrap().len();
    let mut ends = vec![size()];
    for user in 0..CLAIMS {
        assert_eq!(app.claim(id, &format!("u-{user}"), "k", &[]).await.code(), "granted");
        assert_eq!(app.synced_bytes(), size(), "it is on disk before the answer");
        ends.push(size());
    }
    app.kill_redis();
    let whole = std::fs::read(&increment).unwrap();
    let (first, last) = (ends[CLAIMS - 3], ends[CLAIMS]);
    let step = if is_full() { 1 } else { (last - first) / 12 };
    let (begun, mut cuts) = (Instant::now(), 0);
    for cut in (first..=last).step_by(step.max(1) as usize) {
        let folder = app.folder().join("cut");
        copy(&app.redis_folder().join("appendonlydir"), &folder.join("appendonlydir"));
        std::fs::write(folder.join("appendonlydir").join(increment.file_name().unwrap()), &whole[..cut as usize])
            .unwrap();
        let acknowledged = ends[1..].iter().filter(|end| **end <= cut).count();
        // Not 'no': a start without a sync would be a start from memory.
        for again in ["first start", "second start"] {
            let mut server = RedisServer::start(&folder, &RedisOptions::default()).await.unwrap();
            let client = redis::Client::open(server.url()).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let keys = CellKeys::new(CellId(0));
            let receipts = keys.template(TemplateId(id as u32)).receipts().to_owned();
            let held: usize = redis::cmd("HLEN").arg(&receipts).query_async(&mut connection).await.unwrap();
            assert_eq!(held, acknowledged, "cut at byte {cut}, {again}");
            let queued: usize = redis::cmd("XLEN").arg(keys.queue()).query_async(&mut connection).await.unwrap();
            assert!(queued >= acknowledged, "cut at byte {cut}, {again}: {queued} entries");
            let written: Value = redis::cmd("INCR").arg("between").query_async(&mut connection).await.unwrap();
            assert_eq!(written, Value::Int(if again == "first start" { 1 } else { 2 }), "cut at byte {cut}");
            server.kill();
        }
        std::fs::remove_dir_all(&folder).unwrap();
        cuts += 1;
    }
    let took = begun.elapsed().as_secs_f64();
    println!(
        "| power cut under always: the file cut at {cuts} bytes of its last 3 transactions, two starts each, writes between | {cuts} | what was acknowledged is there | holds, {took:.0} s |"
    );
}

/// The append-only file that is being written.
fn increment(folder: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(folder.join("appendonlydir")).unwrap().flatten();
    let mut files: Vec<_> =
        files.map(|file| file.path()).filter(|path| path.display().to_string().ends_with(".incr.aof")).collect();
    files.sort();
    files.pop().expect("an append-only file")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
