//! A private PostgreSQL on a Unix socket.
//!
//! The socket's folder is closed to other users, and whoever reaches the socket is trusted. As root
//! the server runs as another user (PostgreSQL insists), and where that user cannot
//! reach the data folder, as in root's home, the data live in /var/lib under a stable name.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use super::child::{FamilyLock, Supervised, run_helper};
use super::place::{self, RunAs};

const PACKAGE: &str = "postgresql";
const SOCKET: &str = ".s.PGSQL.5432";
const SOCKET_LOCK: &str = ".s.PGSQL.5432.lock";
const POLL: Duration = Duration::from_millis(20);
/// Replaying the log after a crash takes its time.
const READY_MAX: Duration = Duration::from_secs(180);
const STOP_MAX: Duration = Duration::from_secs(60);
/// In the data folder, where the data live elsewhere: their folder's path.
const POINTER: &str = "data-is-in";
const ELSEWHERE: &str = "/var/lib/floodgate-demo-";

#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Off only in tests that never cut the power.
    pub fsync: bool,
    /// Further settings, name and value; they come last, so they win.
    pub extra: Vec<(String, String)>,
}

/// A running PostgreSQL. Dropping it kills it.
pub struct PostgresServer {
    process: Supervised,
    sockets: PathBuf,
    data: PathBuf,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        PostgresOptions { fsync: true, extra: Vec::new() }
    }
}

// === impl PostgresServer ===

impl PostgresServer {
    /// Starts a server on the folder's data, which are made at the first start, and waits until
    /// the role and the database `floodgate` are there.
    pub async fn start(folder: &Path, options: &PostgresOptions) -> Result<PostgresServer, String> {
        let folder = place::private_folder(folder)?;
        let user = if place::is_root() { Some(place::unprivileged()?) } else { None };
        let home = home(&folder, user)?;
        let lock = FamilyLock::take(&home.join("lock")).await?;
        let sockets = place::socket_folder(&home, user)?;
        let data = home.join("data");
        let bin = binaries(fs::read_to_string(data.join("PG_VERSION")).ok())?;
        if !data.join("PG_VERSION").exists() {
            make_data(&bin, &home, &data, user, options).await?;
        }
        // The lock says that nobody runs here; a number in these files may be another process' by now.
        for stale in [data.join("postmaster.pid"), sockets.join(SOCKET_LOCK), sockets.join(SOCKET)] {
            place::remove_file(&stale)?;
        }
        let mut command = Command::new(bin.join("postgres"));
        command.arg("-D").arg(&data).current_dir(&data);
        for (name, value) in settings(&sockets, options) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        run_as(&mut command, user);
        // SIGQUIT, the immediate stop: nobody is left to wait for a checkpoint.
        let process = Supervised::spawn("postgres", command, lock, folder.join("postgres.log"), libc::SIGQUIT)?;
        let mut server = PostgresServer { process, sockets, data };
        server.make_database().await?;
        Ok(server)
    }

    /// A standby of this server on a folder of its own: a copy, which then follows it. For tests.
    pub async fn standby(&self, folder: &Path, options: &PostgresOptions) -> Result<PostgresServer, String> {
        let folder = place::private_folder(folder)?;
        let user = if place::is_root() { Some(place::unprivileged()?) } else { None };
        let home = home(&folder, user)?;
        let bin = binaries(fs::read_to_string(self.data.join("PG_VERSION")).ok())?;
        let mut command = Command::new(bin.join("pg_basebackup"));
        command.args(["--username=postgres", "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--host"]);
        command.arg(&self.sockets).arg("--pgdata").arg(home.join("data")).current_dir(&home);
        run_as(&mut command, user);
        let output = run_helper(command, "").await.map_err(|error| format!("cannot run pg_basebackup: {error}"))?;
        if !output.status.success() {
            return Err(format!("cannot copy the server: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        PostgresServer::start(&folder, options).await
    }

    /// As the PostgreSQL client takes it.
    pub fn url(&self) -> String {
        format!("postgres://floodgate@/floodgate?host={}", place::percent(self.sockets.as_os_str()))
    }

    /// The same of the superuser, for tests that break things.
    pub fn superuser_url(&self) -> String {
        format!("postgres://postgres@/postgres?host={}", place::percent(self.sockets.as_os_str()))
    }

    /// Where the data are: not always in the folder it was started on.
    pub fn data(&self) -> &Path {
        &self.data
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

    /// The immediate stop: as after a crash, the next start replays the log.
    pub fn kill_immediate(&mut self) {
        self.end(libc::SIGQUIT);
    }

    /// SIGKILL to the postmaster. Its backends notice by themselves; the next start waits for them.
    pub fn kill(&mut self) {
        self.end(libc::SIGKILL);
    }

    /// The fast stop: sessions are ended, a checkpoint is written.
    pub async fn stop(&mut self) {
        let ran = self.process.exited().is_none();
        self.process.stop(libc::SIGINT, STOP_MAX).await;
        self.leave(ran);
    }

    fn end(&mut self, signal: i32) {
        let ran = self.process.exited().is_none();
        self.process.kill(signal);
        self.leave(ran);
    }

    /// Tidies up after the end of a server that still ran: after that of another, the socket may be
    /// its successor's.
    fn leave(&self, ran: bool) {
        if ran {
            place::leave_socket_folder(&self.sockets, &[SOCKET, SOCKET_LOCK]);
        }
    }

    async fn make_database(&mut self) -> Result<(), String> {
        let client = self.superuser().await?;
        let failed = |error: tokio_postgres::Error| format!("cannot make the database: {error}");
        let missing = "SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'floodgate'), \
                       NOT EXISTS (SELECT FROM pg_database WHERE datname = 'floodgate')";
        let row = client.query_one(missing, &[]).await.map_err(failed)?;
        if row.get(0) {
            client.batch_execute("CREATE ROLE floodgate LOGIN CREATEDB").await.map_err(failed)?;
        }
        if row.get(1) {
            client.batch_execute("CREATE DATABASE floodgate OWNER floodgate").await.map_err(failed)?;
        }
        Ok(())
    }

    /// A connection as soon as there is one.
    async fn superuser(&mut self) -> Result<Client, String> {
        let started = tokio::time::Instant::now();
        loop {
            if let Some(status) = self.process.exited() {
                return Err(self.process.obituary(status));
            }
            let error = match tokio_postgres::connect(&self.superuser_url(), NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return Ok(client);
                }
                Err(error) => error,
            };
            if started.elapsed() > READY_MAX {
                return Err(format!("PostgreSQL does not answer in {}: {error}", self.sockets.display()));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // SIGKILL to the postmaster would leave its backends to find out for themselves.
        self.kill_immediate();
    }
}

/// Removes what a server on this folder has put elsewhere. For `--reset`.
pub fn forget(folder: &Path) -> Result<(), String> {
    match pointed_to(folder) {
        Some(home) => place::remove_folder(&home),
        None => Ok(()),
    }
}

/// Where the folder says that its data are. A folder that was moved still finds them.
fn pointed_to(folder: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(folder.join(POINTER)).ok()?;
    let named = text.trim().strip_prefix(ELSEWHERE)?;
    // Nothing but a name of ours: what stands here may be deleted.
    let ours = !named.is_empty() && named.bytes().all(|byte| byte.is_ascii_hexdigit());
    ours.then(|| PathBuf::from(text.trim()))
}

/// The folder whose `data` is the server's: `folder`, or one that the server's user can reach.
fn home(folder: &Path, user: Option<RunAs>) -> Result<PathBuf, String> {
    let Some(user) = user else { return Ok(folder.to_owned()) };
    place::give(folder, Some(user))?;
    if place::can_write(folder, user) {
        return Ok(folder.to_owned());
    }
    let pointer = folder.join(POINTER);
    let home = match pointed_to(folder) {
        Some(home) => home,
        None => {
            let home = PathBuf::from(format!("{ELSEWHERE}{}", place::stable_name(folder)));
            // What is there belongs to a data folder of this name that has been deleted.
            place::remove_folder(&home)?;
            place::private_folder(&home)?;
            fs::write(&pointer, format!("{}\n", home.display()))
                .map_err(|error| format!("cannot write {}: {error}", pointer.display()))?;
            home
        }
    };
    place::private_folder(&home)?;
    place::give(&home, Some(user))?;
    Ok(home)
}

/// The programs' folder: of the data's version, or for new data the newest that there is.
fn binaries(version: Option<String>) -> Result<PathBuf, String> {
    let mut folders = place::path_folders();
    let mut packaged: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    packaged.sort();
    if let Some(version) = version {
        let version = version.trim();
        // With data there, only their own version will do; PATH is tried where it is not packaged.
        if let Some((_, bin)) = packaged.iter().find(|(number, _)| number.to_string() == version) {
            folders.insert(0, bin.clone());
        }
    } else {
        folders.extend(packaged.into_iter().rev().map(|(_, bin)| bin));
    }
    let complete = |folder: &PathBuf| folder.join("initdb").exists();
    folders.retain(complete);
    let binary = place::find_binary("postgres", PACKAGE, &folders)?;
    Ok(binary.parent().expect("a file in a folder").to_owned())
}

/// initdb beside the final place, then a rename: half-made data are never taken for data.
async fn make_data(
    bin: &Path,
    home: &Path,
    data: &Path,
    user: Option<RunAs>,
    options: &PostgresOptions,
) -> Result<(), String> {
    let making = home.join("data.new");
    place::remove_folder(&making)?;
    let mut command = Command::new(bin.join("initdb"));
    command.args(["--username=postgres", "--encoding=UTF8", "--locale=C"]);
    command.args(["--auth-local=trust", "--auth-host=reject", "-D"]).arg(&making).current_dir(home);
    if !options.fsync {
        command.arg("--no-sync");
    }
    run_as(&mut command, user);
    let output = run_helper(command, "").await.map_err(|error| format!("cannot run initdb: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let first = text.lines().find(|line| line.contains("error")).unwrap_or(text.trim()).to_owned();
        return Err(format!("cannot make PostgreSQL's data in {}: {first}", home.display()));
    }
    fs::rename(&making, data).map_err(|error| format!("cannot make {}: {error}", data.display()))
}

fn settings(sockets: &Path, options: &PostgresOptions) -> Vec<(String, String)> {
    let on = |flag: bool| if flag { "on" } else { "off" }.to_owned();
    let mut settings: Vec<(String, String)> = vec![
        ("listen_addresses".into(), String::new()),
        ("unix_socket_directories".into(), sockets.display().to_string()),
        ("unix_socket_permissions".into(), "0700".into()),
        ("port".into(), "5432".into()),
        ("max_connections".into(), "100".into()),
        ("shared_buffers".into(), "128MB".into()),
        ("synchronous_commit".into(), "on".into()),
        ("fsync".into(), on(options.fsync)),
        ("full_page_writes".into(), on(options.fsync)),
        ("max_wal_size".into(), "2GB".into()),
        ("checkpoint_timeout".into(), "10min".into()),
        ("wal_compression".into(), "on".into()),
        ("jit".into(), "off".into()),
        ("timezone".into(), "UTC".into()),
        ("log_timezone".into(), "UTC".into()),
        ("logging_collector".into(), "off".into()),
    ];
    settings.extend(options.extra.iter().cloned());
    settings
}

fn run_as(command: &mut Command, user: Option<RunAs>) {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
}
