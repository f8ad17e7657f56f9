//! A private redis-server on a Unix socket.
//!
//! It keeps an append-only file, evicts nothing, and refuses to load a torn file by itself: Redis'
//! own repair can leave half a transaction behind, which the next restart would take for the
//! end of the file. So `redis-check-aof --fix` runs before every start.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::child::{FamilyLock, Supervised, run_helper};
use super::place;

const PACKAGE: &str = "redis-server";
const SOCKET: &str = "redis.sock";
const POLL: Duration = Duration::from_millis(5);
/// A server that takes longer than this to answer at all is stuck; loading may take as long as it needs.
const ANSWER_MAX: Duration = Duration::from_secs(20);
const STOP_MAX: Duration = Duration::from_secs(20);

/// When the append-only file is forced to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Before the answers: a power cut loses no answered claim.
    #[default]
    Always,
    /// Once a second, in the background.
    Everysec,
    /// When the operating system likes.
    No,
}

#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    pub fsync: Fsync,
    /// Further lines of redis.conf, name and value; they come last, so they win.
    pub extra: Vec<(String, String)>,
    /// Variables of its environment, for tests that give it a clock or a disk of their own.
    pub env: Vec<(String, String)>,
}

/// A running redis-server. Dropping it kills it.
pub struct RedisServer {
    process: Supervised,
    socket: PathBuf,
}

// === impl RedisServer ===

impl RedisServer {
    /// Starts a server on the folder's data, repaired if its end is torn, and waits until it has
    /// loaded them.
    pub async fn start(folder: &Path, options: &RedisOptions) -> Result<RedisServer, String> {
        let folders = place::path_folders();
        let binary = place::find_binary("redis-server", PACKAGE, &folders)?;
        let checker = place::find_binary("redis-check-aof", "redis-tools", &folders)?;
        let folder = place::private_folder(folder)?;
        let lock = FamilyLock::take(&folder.join("lock")).await?;
        let socket = place::socket_folder(&folder, None)?.join(SOCKET);
        repair(&checker, &folder).await?;
        let settings = folder.join("redis.conf");
        fs::write(&settings, settings_text(&socket, options))
            .map_err(|error| format!("cannot write {}: {error}", settings.display()))?;
        // The folder is named only as the working folder: redis.conf has its own ideas of quotes.
        let mut command = Command::new(binary);
        command.arg("./redis.conf").current_dir(&folder).envs(options.env.iter().map(|(name, value)| (name, value)));
        let process = Supervised::spawn("redis-server", command, lock, folder.join("redis.log"), libc::SIGTERM)?;
        let mut server = RedisServer { process, socket };
        server.wait_until_loaded().await?;
        Ok(server)
    }

    /// As the Redis client takes it.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.process.exited()
    }

    /// Why it ended, in one sentence.
    pub fn obituary(&self, status: ExitStatus) -> String {
        self.process.obituary(status)
    }

    /// SIGKILL, and reaps it. What `kill -9` tests: the operating system keeps what was written.
    pub fn kill(&mut self) {
        let ran = self.process.exited().is_none();
        self.process.kill(libc::SIGKILL);
        self.leave(ran);
    }

    /// Lets it write what it has and end.
    pub async fn stop(&mut self) {
        let ran = self.process.exited().is_none();
        self.process.stop(libc::SIGTERM, STOP_MAX).await;
        self.leave(ran);
    }

    /// Tidies up after the end of a server that still ran: after that of another, the socket may be
    /// its successor's.
    fn leave(&self, ran: bool) {
        if ran && let Some(folder) = self.socket.parent() {
            place::leave_socket_folder(folder, &[SOCKET]);
        }
    }

    async fn wait_until_loaded(&mut self) -> Result<(), String> {
        let mut silent_since = tokio::time::Instant::now();
        loop {
            if let Some(status) = self.process.exited() {
                return Err(self.process.obituary(status));
            }
            match ping(&self.socket).await {
                Some(answer) if answer.starts_with(b"+PONG") => return Ok(()),
                Some(_loading) => silent_since = tokio::time::Instant::now(),
                None if silent_since.elapsed() > ANSWER_MAX => {
                    let last = self.process.last_line().unwrap_or_default();
                    return Err(format!("redis-server does not answer on {}: {last}", self.socket.display()));
                }
                None => {}
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The first bytes of the answer to PING, if there is one within a second.
async fn ping(socket: &Path) -> Option<Vec<u8>> {
    let ask = async {
        let mut stream = UnixStream::connect(socket).await.ok()?;
        stream.write_all(b"PING\r\n").await.ok()?;
        let mut answer = vec![0; 64];
        let length = stream.read(&mut answer).await.ok()?;
        answer.truncate(length);
        (length > 0).then_some(answer)
    };
    tokio::time::timeout(Duration::from_secs(1), ask).await.ok().flatten()
}

/// Cuts an append-only file back to its last whole transaction.
async fn repair(checker: &Path, folder: &Path) -> Result<(), String> {
    let manifest = folder.join("appendonlydir/appendonly.aof.manifest");
    if !manifest.exists() {
        return Ok(());
    }
    let mut command = Command::new(checker);
    command.arg("--fix").arg("appendonlydir/appendonly.aof.manifest").current_dir(folder);
    // It asks for every file it would shorten; there is a base, and at most a few increments.
    let output = run_helper(command, "y\ny\ny\ny\n")
        .await
        .map_err(|error| format!("cannot run {}: {error}", checker.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given").to_owned();
    Err(format!("the append-only file in {} is damaged beyond its end: {last}", folder.display()))
}

fn settings_text(socket: &Path, options: &RedisOptions) -> String {
    let fsync = match options.fsync {
        Fsync::Always => "always",
        Fsync::Everysec => "everysec",
        Fsync::No => "no",
    };
    let socket = String::from_utf8_lossy(socket.as_os_str().as_bytes());
    let mut text = format!(
        "# Written anew at every start.\n\
         port 0\n\
         unixsocket {socket}\n\
         unixsocketperm 700\n\
         daemonize no\n\
         dir ./\n\
         save \"\"\n\
         appendonly yes\n\
         appendfsync {fsync}\n\
         no-appendfsync-on-rewrite no\n\
         aof-load-truncated no\n\
         aof-use-rdb-preamble yes\n\
         auto-aof-rewrite-min-size 1gb\n\
         maxmemory-policy noeviction\n\
         repl-backlog-ttl 0\n\
         crash-memcheck-enabled no\n"
    );
    for (name, value) in &options.extra {
        text.push_str(&format!("{name} {value}\n"));
    }
    text
}
