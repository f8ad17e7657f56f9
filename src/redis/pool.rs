//! Connections to the master that are lent for one call.

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use redis::aio::MultiplexedConnection;

use super::fault::Fault;
use super::master::Master;

/// Makes what the pool holds, and looks at it before it is lent again.
pub struct Keeper {
    pub master: Arc<Master>,
    /// How long an answer may take.
    pub answers_within: Duration,
}

/// A connection, and the master's turn in which it was made.
pub struct Kept {
    pub connection: MultiplexedConnection,
    turn: u64,
}

pub type Pool = deadpool::managed::Pool<Keeper>;

// === impl Keeper ===

impl Manager for Keeper {
    type Type = Kept;
    type Error = Fault;

    async fn create(&self) -> Result<Kept, Fault> {
        let (connection, turn) = self.master.connect(self.answers_within).await?;
        Ok(Kept { connection, turn })
    }

    /// A connection that leads to a master of before, or nowhere, is not lent again.
    async fn recycle(&self, kept: &mut Kept, _: &Metrics) -> RecycleResult<Fault> {
        if kept.turn != self.master.turn() {
            return Err(RecycleError::message("there is another master"));
        }
        let pong = redis::cmd("PING").query_async::<String>(&mut kept.connection).await;
        pong.map(drop).map_err(|error| RecycleError::Backend(Fault::of(&error)))
    }
}
