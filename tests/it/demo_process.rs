//! `floodgate demo` as a process: it comes up, is killed in every way, and leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a busy machine: the tests wait for what happens, not for time.
const PATIENCE: Duration = Duration::from_secs(90);

/// A demo that is killed with the test.
struct Demo {
    child: Child,
    out: BufReader<ChildStdout>,
    said: String,
}

/// A data folder, and ports of its own.
struct Place {
    data: PathBuf,
    public: u16,
    internal: u16,
}

// === impl Place ===

impl Place {
    fn new(name: &str) -> Place {
        let data = std::env::temp_dir().join(format!("floodgate-demo-{}-{name}", std::process::id()));
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (public, internal) = (free(), free());
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        Place { data, public: port(&public), internal: port(&internal) }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_floodgate"));
        command.arg("demo").arg("--data").arg(&self.data).args(arguments);
        command.env("FLOODGATE_PUBLIC_LISTEN", format!("127.0.0.1:{}", self.public));
        command.env("FLOODGATE_INTERNAL_LISTEN", format!("127.0.0.1:{}", self.internal));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a demo and waits until it says that it is up.
    fn up(&self, arguments: &[&str]) -> Demo {
        let mut child = self.command(arguments).stderr(Stdio::inherit()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut demo = Demo { child, out, said: String::new() };
        demo.wait_for("Ctrl-C stops it");
        demo
    }

    /// What a demo says that cannot start.
    fn refusal(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "one sentence: {text}");
        text
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.data);
    }
}

// === impl Demo ===

impl Demo {
    fn wait_for(&mut self, words: &str) {
        let started = Instant::now();
        while !self.said.contains(words) {
            let read = self.out.read_line(&mut self.said).unwrap();
            assert!(read > 0 && started.elapsed() < PATIENCE, "it did not say {words:?} but:\n{}", self.said);
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill takes plain numbers; the child is not reaped yet.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    fn wait(mut self) -> (ExitStatus, String) {
        self.out.read_to_string(&mut self.said).unwrap();
        (self.child.wait().unwrap(), std::mem::take(&mut self.said))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process' state and its parent, of /proc/PID/stat.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before stands in brackets and may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// The children of a process, and theirs.
fn family(of: u32) -> Vec<u32> {
    let every = fs::read_dir("/proc").unwrap().flatten();
    let pids: Vec<u32> = every.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let mut found = vec![of];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(pids.iter().filter(|pid| stat(**pid).is_some_and(|(_, above)| above == parent)));
        at += 1;
    }
    found.split_off(1)
}

/// Waits until none of them runs. One that has ended and waits to be reaped runs no more.
fn gone(pids: &[u32]) {
    let started = Instant::now();
    let runs = |pid: &&u32| stat(**pid).is_some_and(|(state, _)| state != 'Z' && state != 'X');
    while let Some(pid) = pids.iter().find(runs) {
        assert!(started.elapsed() < PATIENCE, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One command to the demo's Redis.
fn redis(data: &Path, command: &str) -> String {
    try_redis(data, command).unwrap()
}

/// The same, of a Redis that may be dying or coming back.
fn try_redis(data: &Path, command: &str) -> std::io::Result<String> {
    use std::io::Write;
    let mut stream = UnixStream::connect(data.join("redis/redis.sock"))?;
    writeln!(stream, "{command}\r")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

#[test]
fn after_kill_9_no_process_is_left_and_the_data_are_there_again() {
    let place = Place::new("kill");
    for round in 1..=3 {
        let demo = place.up(&[]);
        assert_eq!(redis(&place.data, "INCR floodgate-test-starts"), format!(":{round}"));
        let family = family(demo.child.id());
        assert!(family.len() > 3, "Redis, PostgreSQL and its own: {family:?}");
        demo.signal(libc::SIGKILL);
        let (status, _) = demo.wait();
        assert!(!status.success());
        gone(&family);
    }
}

#[test]
fn ctrl_c_stops_it_in_order_and_reset_starts_afresh() {
    let place = Place::new("stop");
    let demo = place.up(&[]);
    redis(&place.data, "SET floodgate-test-mark 1");
    let secret = fs::read_to_string(place.data.join("code.key")).unwrap();
    let family = family(demo.child.id());
    demo.signal(libc::SIGINT);
    let (status, said) = demo.wait();
    assert!(status.success(), "{status}: {said}");
    let order = ["stopping after SIGINT", "stopping Redis", "stopping PostgreSQL"].map(|words| said.find(words));
    assert!(order.is_sorted() && order[0].is_some(), "{said}");
    gone(&family);
    let demo = place.up(&["--reset"]);
    assert_eq!(redis(&place.data, "EXISTS floodgate-test-mark"), ":0");
    assert_ne!(fs::read_to_string(place.data.join("code.key")).unwrap(), secret);
    demo.signal(libc::SIGTERM);
    assert!(demo.wait().0.success());
}

#[test]
fn a_store_that_dies_is_started_again() {
    let place = Place::new("restart");
    let demo = place.up(&[]);
    redis(&place.data, "SET floodgate-test-mark 1");
    for pid in family(demo.child.id()) {
        if stat(pid).is_some_and(|(_, parent)| parent == demo.child.id()) {
            // SAFETY: kill takes plain numbers.
            unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        }
    }
    let started = Instant::now();
    while UnixStream::connect(place.data.join("redis/redis.sock")).is_err()
        || UnixStream::connect(place.data.join("postgres/.s.PGSQL.5432")).is_err()
        || !try_redis(&place.data, "EXISTS floodgate-test-mark").is_ok_and(|answer| answer == ":1")
    {
        assert!(started.elapsed() < PATIENCE, "the stores do not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
    demo.signal(libc::SIGINT);
    assert!(demo.wait().0.success());
}

#[test]
fn what_is_in_the_way_is_one_sentence() {
    let place = Place::new("way");
    let demo = place.up(&[]);
    let text = place.refusal(&mut place.command(&[]));
    assert!(text.contains("in use by process") && text.contains("--data"), "{text}");
    demo.signal(libc::SIGINT);
    demo.wait();

    let taken = TcpListener::bind(("127.0.0.1", place.public)).unwrap();
    let text = place.refusal(&mut place.command(&[]));
    assert!(text.contains("is taken by another process") && text.contains("FLOODGATE_PUBLIC_LISTEN"), "{text}");
    drop(taken);

    let text = place.refusal(place.command(&[]).env("PATH", "/nowhere"));
    assert!(text.contains("apt-get install redis-server"), "{text}");
}
