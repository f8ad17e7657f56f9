//! Connections to the master that are lent for one call.
//!
//! The library's own manager makes and checks them; this one finds the master before, and lends no connection
//! that leads to a master of before.

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
    manager: deadpool_redis::Manager,
    turn: u64,
}

pub type Pool = deadpool::managed::Pool<Keeper>;

// === impl Keeper ===

impl Manager for Keeper {
    type Type = Kept;
    type Error = Fault;

    async fn create(&self) -> Result<Kept, Fault> {
        let (manager, turn) = self.master.manager(self.answers_within).await?;
        let mut connection = manager.create().await.map_err(Fault::connect)?;
        self.master.check(&mut connection).await?;
        Ok(Kept { connection, manager, turn })
    }

    /// A connection that leads to a master of before, or nowhere, is not lent again.
    async fn recycle(&self, kept: &mut Kept, metrics: &Metrics) -> RecycleResult<Fault> {
        if kept.turn != self.master.turn() {
            return Err(RecycleError::message("there is another master"));
        }
        let answered = kept.manager.recycle(&mut kept.connection, metrics).await;
        answered.map_err(|error| RecycleError::Backend(Fault::connect(error)))
    }
}
