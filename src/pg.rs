//! The only code that speaks to PostgreSQL's client library.
//!
//! # Layout
//! - this file: the pool, a connection of one's own, and what an error means
//! - [`connection`]: a pooled connection that prepares each statement once
//! - [`migrate`]: the schema and what is fixed at installation
//! - [`copy`]: rows encoded by hand for COPY
//! - [`replica`]: a replica for reads that decide nothing

pub mod connection;
pub mod copy;
pub mod migrate;
pub mod replica;

use std::fmt;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use crate::config;

pub use connection::{Connection, Tx};

pub type Pool = bb8::Pool<connection::Manager>;
pub type Pooled<'a> = bb8::PooledConnection<'a, connection::Manager>;

/// One PostgreSQL database: a pool for short work, and connections of one's own.
#[derive(Clone)]
pub struct Pg {
    config: Config,
    pool: Pool,
    /// Kept for what must not wait behind reads: the snapshot, and claims of level `postgres`.
    urgent: Pool,
    connect_timeout: Duration,
}

/// One for the snapshot, one for those who wait for rows.
const URGENT_CONNECTIONS: u32 = 2;

/// Why PostgreSQL did not do what was asked.
#[derive(Debug)]
pub struct PgFault {
    pub kind: PgKind,
    /// The constraint that refused, where one did.
    pub constraint: Option<String>,
    pub sqlstate: Option<String>,
    /// For the log.
    pub detail: String,
}

/// What can be done about a [`PgFault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PgKind {
    /// The data are at fault (SQLSTATE classes 22 and 23): repeating changes nothing.
    Data,
    /// The server is away, busy or out of a resource: the same again, later.
    Transient,
    /// The connection broke in the middle: whether the statement took effect is unknown.
    Unknown,
    /// Anything else: a fault of this program or of the schema.
    Fault,
}

// === impl Pg ===

impl Pg {
    /// Takes the settings; connects to nothing yet.
    pub fn new(config: &config::Postgres) -> Result<Self, String> {
        let mut parsed: Config =
            config.url.expose().parse().map_err(|error| format!("postgres.url is no PostgreSQL address: {error}"))?;
        let connect_timeout = config::ms(config.connect_timeout_ms);
        let timeout = config.statement_timeout_ms;
        parsed.connect_timeout(connect_timeout);
        parsed.application_name("floodgate");
        // A server that vanished without a word is noticed within the time of a statement.
        parsed.tcp_user_timeout(config::ms(timeout));
        parsed
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(3))
            .keepalives_retries(3);
        parsed.options(format!(
            "-c statement_timeout={timeout} -c idle_in_transaction_session_timeout={timeout} -c lock_timeout={timeout} -c timezone=UTC"
        ));
        let pool = |size| {
            bb8::Pool::builder()
                .max_size(size)
                .connection_timeout(connect_timeout)
                .test_on_check_out(false)
                .build_unchecked(connection::Manager::new(parsed.clone()))
        };
        let (pool, urgent) = (pool(config.pool_max), pool(URGENT_CONNECTIONS));
        Ok(Pg { config: parsed, pool, urgent, connect_timeout })
    }

    /// A pooled connection. It goes back to the pool when it is dropped.
    pub async fn get(&self) -> Result<Pooled<'_>, PgFault> {
        intact(&self.pool).await
    }

    /// A pooled connection that no reader can take away: for short statements that others wait for.
    pub async fn urgent(&self) -> Result<Pooled<'_>, PgFault> {
        intact(&self.urgent).await
    }

    /// Does `work` again while PostgreSQL is away, for at most `patience`: at start-up, where there is
    /// nothing yet to serve from.
    pub async fn patiently<T, F: Future<Output = Result<T, PgFault>>>(
        &self,
        patience: Duration,
        work: impl Fn() -> F,
    ) -> Result<T, PgFault> {
        let until = tokio::time::Instant::now() + patience;
        let mut said = false;
        loop {
            match work().await {
                Err(fault) if fault.is_passing() && tokio::time::Instant::now() < until => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(error = %fault, "waiting for PostgreSQL");
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                result => return result,
            }
        }
    }

    /// A connection of the caller's own, outside the pool: for an advisory lock or a long COPY.
    /// When the client is dropped, the connection closes.
    pub async fn own(&self) -> Result<Client, PgFault> {
        let (client, connection) = match tokio::time::timeout(self.connect_timeout, self.config.connect(NoTls)).await {
            Ok(connected) => connected?,
            Err(_) => return Err(PgFault::transient("no connection in time")),
        };
        tokio::spawn(async move {
            // The client's next call reports what ended the connection.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Connections in use and in all, for the metrics.
    pub fn pool_status(&self) -> (u32, u32) {
        let state = self.pool.state();
        (state.connections - state.idle_connections, state.connections)
    }
}

/// A connection that is not known to be broken: a pool looks at its connections only when they come
/// back, and a server that restarted has cut all that lie in it.
async fn intact(pool: &Pool) -> Result<Pooled<'_>, PgFault> {
    loop {
        let connection = pool.get().await.map_err(no_connection)?;
        if !connection.is_closed() {
            return Ok(connection);
        }
    }
}

fn no_connection(error: bb8::RunError<tokio_postgres::Error>) -> PgFault {
    match error {
        bb8::RunError::User(error) => PgFault::from(error),
        bb8::RunError::TimedOut => PgFault::transient("no connection in time"),
    }
}

// === impl PgFault ===

impl PgFault {
    pub fn transient(detail: &str) -> Self {
        PgFault { kind: PgKind::Transient, constraint: None, sqlstate: None, detail: detail.to_owned() }
    }

    /// A fault of this program: a row that is not as the schema has it.
    pub fn fault(detail: impl Into<String>) -> Self {
        PgFault { kind: PgKind::Fault, constraint: None, sqlstate: None, detail: detail.into() }
    }

    /// Whether the same may work a little later.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind, PgKind::Transient | PgKind::Unknown)
    }

    /// Whether `name` is the constraint that refused.
    pub fn violates(&self, name: &str) -> bool {
        self.constraint.as_deref() == Some(name)
    }

    /// A bounded word for metrics.
    pub fn word(&self) -> &'static str {
        match self.kind {
            PgKind::Data => "data",
            PgKind::Transient => "transient",
            PgKind::Unknown => "unknown",
            PgKind::Fault => "fault",
        }
    }
}

impl From<tokio_postgres::Error> for PgFault {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // No answer of the server: closed, reset, or never connected.
            return PgFault { kind: PgKind::Unknown, constraint: None, sqlstate: None, detail: error.to_string() };
        };
        let kind = match &db.code().code()[..2] {
            "22" | "23" => PgKind::Data,
            // Connection exceptions, rollback of a conflict, resources, operator intervention, system errors.
            "08" | "40" | "53" | "57" | "58" => PgKind::Transient,
            "55" => PgKind::Transient,
            "25" if *db.code() == SqlState::READ_ONLY_SQL_TRANSACTION => PgKind::Transient,
            "25" if db.code().code() == "25P03" => PgKind::Transient,
            _ => PgKind::Fault,
        };
        PgFault {
            kind,
            constraint: db.constraint().map(str::to_owned),
            sqlstate: Some(db.code().code().to_owned()),
            detail: match db.detail() {
                Some(detail) => format!("{} ({detail})", db.message()),
                None => db.message().to_owned(),
            },
        }
    }
}

impl fmt::Display for PgFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sqlstate {
            Some(state) => write!(f, "postgres {state}: {}", self.detail),
            None => write!(f, "postgres: {}", self.detail),
        }
    }
}

impl std::error::Error for PgFault {}
