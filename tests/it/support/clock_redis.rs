//! A private redis-server whose wall clock stands still where the test puts it.
//!
//! It is started here and not by `floodgate::demo`, because a shim must be preloaded into it. The
//! shim is one C file, compiled by the `cc` that the crates need anyway.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use floodgate::config;
use floodgate::domain::window::Millis;
use floodgate::redis::client::Redis;

/// A running server. Dropping it kills it and removes its folder.
pub struct ClockRedis {
    child: Option<Child>,
    folder: PathBuf,
    clock: File,
}

/// The folders' names begin with this and the process' number.
const FOLDER: &str = "floodgate-clock-";
const START_MAX: Duration = Duration::from_secs(20);

/// The server that most tests share, one at a time: they set its clock. Cells keep them apart.
pub fn shared() -> MutexGuard<'static, ClockRedis> {
    static SHARED: OnceLock<Mutex<ClockRedis>> = OnceLock::new();
    SHARED.get_or_init(|| Mutex::new(ClockRedis::start("shared"))).lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl ClockRedis ===

impl ClockRedis {
    pub fn start(name: &str) -> ClockRedis {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            sweep();
        }
        let folder = std::env::temp_dir().join(format!("{FOLDER}{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for the server");
        let clock = File::options().read(true).write(true).create(true).truncate(true).open(folder.join("clock"));
        let clock = clock.expect("a file for the clock");
        clock.write_all_at(&0i64.to_ne_bytes(), 0).expect("the clock can be written");
        let mut server = ClockRedis { child: None, folder, clock };
        server.restart();
        server
    }

    /// Puts the server's clock to a time; it stays there.
    pub fn set_clock(&self, now: Millis) {
        self.clock.write_all_at(&(now * 1000).to_ne_bytes(), 0).expect("the clock can be written");
    }

    /// Starts the server on the dump in its folder, if there is one.
    pub fn restart(&mut self) {
        self.kill();
        let _ = fs::remove_file(self.socket());
        let mut command = Command::new("redis-server");
        command
            .current_dir(&self.folder)
            .env("LD_PRELOAD", shim())
            .env("FLOODGATE_TEST_CLOCK", self.folder.join("clock"));
        for (name, value) in [
            ("port", "0"),
            ("unixsocket", "./redis.sock"),
            ("save", ""),
            ("maxmemory-policy", "noeviction"),
            ("crash-memcheck-enabled", "no"),
        ] {
            command.arg(format!("--{name}")).arg(value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(spawn_mortal(command));
        let begin = Instant::now();
        while !self.answers() {
            assert!(begin.elapsed() < START_MAX, "redis-server does not start in {}", self.folder.display());
            let child = self.child.as_mut().expect("just started");
            assert!(child.try_wait().expect("a child").is_none(), "redis-server ended at once");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server can be killed");
            child.wait().expect("the server ends");
        }
    }

    /// Writes all data to the dump from which the next start reads.
    pub fn save(&self) {
        let client = redis::Client::open(self.url()).expect("an address");
        let mut connection = client.get_connection().expect("the server takes connections");
        redis::cmd("SAVE").exec(&mut connection).expect("the dump is written");
    }

    /// The gateway's own client for this server.
    pub fn client(&self) -> Redis {
        let config = config::Redis {
            url: config::Secret::new(self.url()),
            sentinels: Vec::new(),
            master_name: String::new(),
            pool_max: 2,
            connect_timeout_ms: 10_000,
            command_timeout_ms: 10_000,
        };
        Redis::new(&config).expect("an address")
    }

    fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }

    fn answers(&self) -> bool {
        let Ok(client) = redis::Client::open(self.url()) else { return false };
        let Ok(mut connection) = client.get_connection() else { return false };
        redis::cmd("PING").query::<String>(&mut connection).is_ok()
    }
}

impl Drop for ClockRedis {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Starts a child that dies with this process. The death signal follows the thread that forked,
/// so that thread never ends.
fn spawn_mortal(mut command: Command) -> Child {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let _ = sender.send(command.spawn());
        loop {
            std::thread::park();
        }
    });
    receiver.recv().expect("an answer").expect("redis-server is installed")
}

/// Removes the folders of runs that are over: a server that is shared is never dropped.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(FOLDER)?.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The compiled shim, made once a run.
pub fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| compile("clock_shim"))
}

/// Compiles a C file of this folder into a library.
pub fn compile(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/support/{name}.c"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (library, made) = (folder.join(format!("{name}.so")), folder.join(format!("{name}.{}", std::process::id())));
    let output = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&made).arg(&source).output();
    let output = output.expect("cc is installed");
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    // Another run may be using the one that is there.
    fs::rename(&made, &library).expect("the shim gets its name");
    library
}
