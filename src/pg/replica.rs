//! A replica for reads that decide nothing.
//!
//! It is lent while it answers and is not later than `postgres.replica_lag_max_ms`; else there is
//! nobody to lend, and the reader asks the primary, as it does where the replica cannot tell. How
//! late it is follows from positions in the primary's log and when they were read: no clock of
//! another machine is asked, and a primary at rest makes nobody late.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Connection, Pg, PgFault, Pooled};
use crate::config;
use crate::limits::{REPLICA_CONNECT_MS, REPLICA_LOOK_MS, REPLICA_POSITIONS_MAX};
use crate::telemetry::metrics;

/// The replica of the settings, if they name one.
pub struct Replica {
    pg: Option<Pg>,
    lag_max: Duration,
    in_use: AtomicBool,
}

/// A connection to a replica that is in use.
pub struct Lent<'a> {
    connection: Pooled<'a>,
    replica: &'a Replica,
}

/// Positions in the primary's log that the replica has not replayed, and when the primary was there.
#[derive(Default)]
struct Lag {
    ahead: VecDeque<(Instant, i64)>,
}

// === impl Replica ===

impl Replica {
    /// Takes the settings; connects to nothing yet, and lends nothing before [`watch`] has looked.
    pub fn new(config: &config::Postgres) -> Result<Replica, String> {
        let pg = match config.replica_url.is_empty() {
            true => None,
            false => {
                let own = config::Postgres {
                    url: config.replica_url.clone(),
                    connect_timeout_ms: config.connect_timeout_ms.min(REPLICA_CONNECT_MS),
                    ..config.clone()
                };
                let wrong = |error: String| error.replace("postgres.url", "postgres.replica_url");
                Some(Pg::new(&own).map_err(wrong)?)
            }
        };
        Ok(Replica { pg, lag_max: config::ms(config.replica_lag_max_ms), in_use: AtomicBool::new(false) })
    }

    /// A connection, if there is a replica in use.
    pub async fn lend(&self) -> Option<Lent<'_>> {
        let pg = self.pg.as_ref().filter(|_| self.in_use.load(Ordering::Acquire))?;
        match pg.get().await {
            Ok(connection) => Some(Lent { connection, replica: self }),
            Err(fault) => {
                self.away(&fault);
                None
            }
        }
    }

    /// Connections in use, for the metrics.
    pub fn busy(&self) -> u32 {
        self.pg.as_ref().map_or(0, |pg| pg.pool_status().0)
    }

    fn away(&self, fault: &PgFault) {
        metrics().replica_reads_failed.increment(1);
        // A read that replay cancelled says nothing of the next.
        let cancelled = fault.sqlstate.as_deref().is_some_and(|state| state.starts_with("40"));
        if !cancelled && self.in_use.swap(false, Ordering::AcqRel) {
            tracing::warn!(error = %fault, "the replica does not answer: reads go to the primary");
        }
    }

    fn set_in_use(&self, lag: Result<Duration, PgFault>) {
        let in_use = match &lag {
            Ok(lag) => {
                metrics().replica_lag_seconds.set(lag.as_secs_f64());
                *lag <= self.lag_max
            }
            Err(_) => false,
        };
        metrics().replica_in_use.set(f64::from(u8::from(in_use)));
        if self.in_use.swap(in_use, Ordering::AcqRel) == in_use {
            return;
        }
        match lag {
            Ok(_) if in_use => tracing::info!("reads that decide nothing go to the replica"),
            Ok(lag) => tracing::warn!(lag_ms = lag.as_millis() as u64, "the replica is late: reads go to the primary"),
            Err(fault) => tracing::warn!(error = %fault, "the replica does not answer: reads go to the primary"),
        }
    }
}

/// Looks after the replica, for ever. Without one it returns at once.
pub async fn watch(primary: Pg, replica: &Replica) {
    let Some(pg) = &replica.pg else { return };
    let mut lag = Lag::default();
    loop {
        // Without the primary its log does not grow: what is known of it stays true.
        if let Ok(position) = position(&primary).await {
            lag.primary_was_at(Instant::now(), position);
        }
        let look = position(pg).await.map(|position| lag.replica_is_at(position, Instant::now()));
        replica.set_in_use(look);
        tokio::time::sleep(config::ms(REPLICA_LOOK_MS)).await;
    }
}

/// How far a server's log is written, or on a standby replayed.
async fn position(pg: &Pg) -> Result<i64, PgFault> {
    let row = pg.urgent().await?.row(include_str!("../sql/pg/position.sql"), &[]).await?;
    row.map(|row| row.get(0)).ok_or_else(|| PgFault::fault("a server without a position"))
}

// === impl Lent ===

impl Lent<'_> {
    /// What a read gave. `None`: read the primary. The replica was not new enough, or failed.
    pub fn settle<T>(&self, read: Result<Option<T>, PgFault>) -> Option<T> {
        match read {
            Ok(Some(found)) => {
                metrics().replica_reads_served.increment(1);
                Some(found)
            }
            Ok(None) => {
                metrics().replica_reads_behind.increment(1);
                None
            }
            Err(fault) => {
                self.replica.away(&fault);
                None
            }
        }
    }
}

impl Deref for Lent<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

// === impl Lag ===

impl Lag {
    fn primary_was_at(&mut self, at: Instant, position: i64) {
        if self.ahead.back().is_none_or(|(_, last)| *last < position) && self.ahead.len() < REPLICA_POSITIONS_MAX {
            self.ahead.push_back((at, position));
        }
    }

    /// For how long the replica has missed something.
    fn replica_is_at(&mut self, position: i64, now: Instant) -> Duration {
        while self.ahead.front().is_some_and(|(_, reached)| *reached <= position) {
            self.ahead.pop_front();
        }
        self.ahead.front().map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_late_by_the_time_it_has_missed_something() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut lag = Lag::default();
        lag.primary_was_at(begin, 100);
        lag.primary_was_at(begin + second, 200);
        lag.primary_was_at(begin + 2 * second, 200);
        assert_eq!(lag.replica_is_at(50, begin + 2 * second), 2 * second);
        assert_eq!(lag.replica_is_at(150, begin + 3 * second), 2 * second);
        // Nothing is written: it stays as good as the primary, however long.
        assert_eq!(lag.replica_is_at(200, begin + 60 * second), Duration::ZERO);
        lag.primary_was_at(begin + 61 * second, 300);
        assert_eq!(lag.replica_is_at(250, begin + 62 * second), second);
    }

    #[test]
    fn what_a_standing_replica_misses_is_bounded() {
        let (begin, mut lag) = (Instant::now(), Lag::default());
        for step in 0..3 * REPLICA_POSITIONS_MAX as i64 {
            lag.primary_was_at(begin, step);
        }
        assert_eq!(lag.ahead.len(), REPLICA_POSITIONS_MAX);
    }
}
