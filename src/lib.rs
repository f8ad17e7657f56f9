//! Floodgate: the gateway in front of a promotion's hottest second.
//!
//! Every press on "claim" is decided exactly once: Redis Lua scripts decide, a flusher makes each
//! grant a row in PostgreSQL, and a primary key refuses what may never be.
//!
//! # Layout
//! - [`domain`]: nouns and rules, no I/O
//! - [`config`], [`limits`], [`clock`], [`hashing`], [`telemetry`]: what everything stands on
//! - [`redis`], [`pg`]: the only code that speaks to each store
//! - [`admission`]: may this request spend anything at all?
//! - [`claim`]: lanes, batches, and the engine that decides
//! - [`grant`]: accepted claims on their way to disk
//! - [`journal`]: what a client wrote down of its requests and answers
//! - [`reconcile`]: Redis, the queue and PostgreSQL compared, and mended where it is safe
//! - [`gateway`]: one claim, from the checks in memory to the acknowledged answer
//! - [`wallet`]: what a user holds, and what they may claim
//! - [`audit`]: who changed what, and the chain that shows tampering
//! - [`ledger`]: what every change to a coupon after its grant leaves behind
//! - [`upkeep`]: coupons that end without being used
//! - [`pricing`]: what an order costs with coupons, and the best of them
//! - [`quotes`]: what an order would cost with a user's coupons
//! - [`redemption`]: coupons locked for an order, used, given free, refunded
//! - [`gifts`]: coupons given from one user to another
//! - [`catalog`]: templates, stock, keys, blacklist
//! - [`idempotency`]: every write but a claim, done once
//! - [`webhook`]: signed messages to other systems and from them
//! - [`http`]: the front door
//! - [`app`], [`serve`]: what a process shares, and its life from start to drain
//! - [`faults`]: faults on purpose, compiled in for tests alone
//! - [`demo`]: private servers, and the embedded default
//! - [`cli`]: the command line, one file a command

pub mod admission;
pub mod app;
pub mod audit;
pub mod catalog;
pub mod claim;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod domain;
pub mod faults;
pub mod gateway;
pub mod gifts;
pub mod grant;
pub mod hashing;
pub mod http;
pub mod idempotency;
pub mod journal;
pub mod ledger;
pub mod limits;
pub mod pg;
pub mod pricing;
pub mod quotes;
pub mod reconcile;
pub mod redemption;
pub mod redis;
pub mod serve;
pub mod telemetry;
pub mod upkeep;
pub mod wallet;
pub mod webhook;

/// The version and the commit that this binary was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("FLOODGATE_COMMIT"), ")");
