//! A process that dies with its parent, and the lock that its whole family holds.
//!
//! The kernel sends a child its death signal when the *thread* that forked it ends, not the
//! process; so one thread that never ends forks them all. Each child inherits a locked file: the
//! lock is free only when the last process of the family (a postmaster's backends, a Redis' rewriting
//! fork) is gone, so a server never starts beside the remains of another on the same data.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

/// A log longer than this is begun anew when its server starts.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// How long the remains of an earlier server may take to go away.
const FAMILY_WAIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// A running server process. Dropping it kills it.
pub struct Supervised {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// Where in the log this run begins.
    log_start: u64,
}

/// The right to run a server on a folder. Passed on to the child, see [`Supervised::spawn`].
pub struct FamilyLock {
    file: File,
}

// === impl FamilyLock ===

impl FamilyLock {
    /// Waits until no process of an earlier server is left.
    pub async fn take(path: &Path) -> Result<FamilyLock, String> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        let give_up = Instant::now() + FAMILY_WAIT;
        while !try_lock(&file) {
            if Instant::now() > give_up {
                let folder = path.parent().unwrap_or(path);
                return Err(format!("another server still runs on {}: stop it first", folder.display()));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(FamilyLock { file })
    }
}

/// An exclusive lock without waiting; whether it was free.
pub fn try_lock(file: &File) -> bool {
    // SAFETY: flock on a descriptor that `file` keeps open.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

// === impl Supervised ===

impl Supervised {
    /// Starts `command` with its output appended to `log`. It gets `death_signal` when this process
    /// ends in whatever way, and stands in a process group of its own: Ctrl-C in the terminal
    /// reaches this process alone, which then stops its children in order.
    pub fn spawn(
        name: &'static str,
        mut command: Command,
        lock: FamilyLock,
        log: PathBuf,
        death_signal: i32,
    ) -> Result<Supervised, String> {
        let cannot_log = |error: io::Error| format!("cannot write {}: {error}", log.display());
        let file = OpenOptions::new().create(true).append(true).open(&log).map_err(cannot_log)?;
        if file.metadata().map_err(cannot_log)?.len() > LOG_BYTES_MAX {
            file.set_len(0).map_err(cannot_log)?;
        }
        let log_start = file.metadata().map_err(cannot_log)?.len();
        let again = file.try_clone().map_err(cannot_log)?;
        command.stdin(Stdio::null()).stdout(file).stderr(again).process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let fd = lock.file.as_raw_fd();
        // SAFETY: fcntl on a descriptor that `lock` keeps open until after the fork.
        unsafe {
            command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = spawn_mortal(command, death_signal).map_err(|error| format!("cannot start {program}: {error}"))?;
        // Our copy closes here; the lock stays with the child.
        drop(lock);
        Ok(Supervised { name, child, log, log_start })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal to the process itself, not to its children.
    pub fn signal(&mut self, signal: i32) {
        // Not reaped yet, so the number is still this child's.
        if self.exited().is_none() {
            // SAFETY: kill takes plain numbers.
            unsafe { libc::kill(self.child.id() as i32, signal) };
        }
    }

    /// Sends a signal, waits, and kills it if it has not ended in time.
    pub async fn stop(&mut self, signal: i32, patience: Duration) {
        self.signal(signal);
        let give_up = Instant::now() + patience;
        while self.exited().is_none() {
            if Instant::now() > give_up {
                self.kill(libc::SIGKILL);
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends a signal that ends it, and reaps it.
    pub fn kill(&mut self, signal: i32) {
        self.signal(signal);
        let _ = self.child.wait();
    }

    /// Why it ended, in one sentence; with the last line of its log where it ended by itself.
    pub fn obituary(&self, status: ExitStatus) -> String {
        match self.last_line() {
            _ if status.signal().is_some() => format!("{} ended ({status})", self.name),
            Some(line) => format!("{} ended ({status}): {line} (log: {})", self.name, self.log.display()),
            None => format!("{} ended ({status}), see {}", self.name, self.log.display()),
        }
    }

    /// The last line that this run wrote, without PostgreSQL's and Redis' time stamps being cut.
    pub fn last_line(&self) -> Option<String> {
        let mut file = File::open(&self.log).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(self.log_start.max(length.saturating_sub(16 << 10)))).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if self.exited().is_none() {
            self.kill(libc::SIGKILL);
        }
    }
}

/// Runs a short helper to its end and returns its output; it dies with this process, too.
pub async fn run_helper(mut command: Command, input: &'static str) -> io::Result<std::process::Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = spawn_mortal(command, libc::SIGKILL)?;
    let helper = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that asks nothing has closed its end.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    });
    helper.await.map_err(io::Error::other)?
}

/// Forks on the thread that never ends; the child gets `death_signal` when this process does.
fn spawn_mortal(mut command: Command, death_signal: i32) -> io::Result<Child> {
    type Job = (Command, SyncSender<io::Result<Child>>);
    static FORKER: LazyLock<Sender<Job>> = LazyLock::new(|| {
        let (jobs, inbox) = channel::<Job>();
        let fork_all = move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("forker".into()).spawn(fork_all).expect("a thread");
        jobs
    });
    let parent = std::process::id() as i32;
    // The standard library runs this after it has changed the user, which would clear the signal.
    // SAFETY: prctl, getppid and _exit may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, death_signal) != 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::getppid() != parent {
                // The parent died before the signal was arranged.
                libc::_exit(1);
            }
            Ok(())
        });
    }
    let (answer, result) = sync_channel(1);
    FORKER.send((command, answer)).map_err(io::Error::other)?;
    result.recv().map_err(io::Error::other)?
}
