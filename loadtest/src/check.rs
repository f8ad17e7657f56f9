//! The checker: journal, Redis and PostgreSQL compared by set, every difference named.
//!
//! It is run when the load is over. It waits until the queue is drained, reads everything, and
//! then five equations must hold ([`Equation`]). Templates that the journal does not mention are
//! not looked at.
//!
//! # Layout
//! - [`stores`]: what Redis and PostgreSQL hold
//! - `claims`: the journal by claim, and what was promised to each
//! - `stock`, `limits`, `promises`, `origins`, `queue`: an equation each

mod claims;
mod limits;
mod origins;
mod promises;
mod queue;
mod stock;
pub mod stores;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use floodgate::config::Config;
use floodgate::domain::code::CodeKey;
use floodgate::domain::ids::CellId;
use floodgate::domain::user::UserCodec;
use floodgate::domain::window::Millis;
use floodgate::hashing::Hashing;
use floodgate::pg::{Pg, migrate};
use floodgate::redis::client::Redis;

use crate::journal::Record;
use claims::Claims;
use stores::Stores;

/// What must hold after every fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Equation {
    /// Stock = rows + unflushed + remaining; serials within the ranges and without a gap.
    Stock,
    /// Nobody has more than limits and quotas allow.
    Limits,
    /// Every acknowledged claim is in PostgreSQL exactly once, as it was answered.
    Promises,
    /// Nothing was granted that nobody asked for, and each claim has one answer.
    Origins,
    /// The queue is drained, and its marks are cleared.
    Queue,
}

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub equation: Equation,
    /// A stable word for the kind of difference.
    pub kind: &'static str,
    /// Which template, serial, user, claim key or request.
    pub detail: String,
}

/// A way to both stores, and to what their contents mean.
pub struct Checker {
    pg: Pg,
    redis: Redis,
    lens: Lens,
}

/// How ids, keys and codes look in the stores.
pub struct Lens {
    pub users: UserCodec,
    pub hashing: Hashing,
    pub code_key: CodeKey,
}

/// What the equations look at.
struct World<'a> {
    record: &'a Record,
    claims: Claims<'a>,
    stores: &'a Stores,
    lens: &'a Lens,
}

/// The clocks of client and Redis: the client must run where they agree.
const CLOCKS_DIFFER_MS: Millis = 20;

const CELL: CellId = CellId(0);

// === impl Checker ===

impl Checker {
    /// With the settings of the gateways that were under load.
    pub async fn new(config: &Config) -> Result<Checker, String> {
        let pg = Pg::new(&config.postgres)?;
        let users = migrate::check(&pg, config).await?;
        let code_key = config.code_key();
        let lens = Lens { users, hashing: Hashing::new(&code_key), code_key };
        Ok(Checker { redis: Redis::new(&config.redis)?, pg, lens })
    }

    /// Waits until the queue is drained, at most for `patience`, and compares. `Err`: a store cannot
    /// be read.
    pub async fn check(&self, record: &Record, patience: Duration) -> Result<Vec<Difference>, String> {
        stores::drained(&self.pg, &self.redis, CELL, patience).await;
        let stores = Stores::read(&self.pg, &self.redis, CELL, &record.templates()).await?;
        Ok(compare(record, &stores, &self.lens))
    }
}

/// Every difference between what was promised and what is, in the order of the equations.
pub fn compare(record: &Record, stores: &Stores, lens: &Lens) -> Vec<Difference> {
    let world = World { record, claims: Claims::of(record, lens), stores, lens };
    let mut found = Vec::new();
    stock::check(&world, &mut found);
    limits::check(&world, &mut found);
    promises::check(&world, &mut found);
    origins::check(&world, &mut found);
    queue::check(&world, &mut found);
    found
}

// === impl Difference ===

impl Difference {
    fn new(equation: Equation, kind: &'static str, detail: impl Into<String>) -> Difference {
        Difference { equation, kind, detail: detail.into() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equation = match self.equation {
            Equation::Stock => "stock",
            Equation::Limits => "limits",
            Equation::Promises => "promises",
            Equation::Origins => "origins",
            Equation::Queue => "queue",
        };
        write!(f, "{equation}: {}: {}", self.kind, self.detail)
    }
}
