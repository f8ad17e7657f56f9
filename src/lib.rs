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
//! - [`catalog`]: templates, stock, keys, blacklist
//! - [`grant`]: accepted claims on their way to disk
//! - [`http`]: the front door
//! - [`app`]: what a process shares
//! - [`demo`]: private servers, and the embedded default
//! - [`cli`]: the command line

pub mod admission;
pub mod app;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod domain;
pub mod grant;
pub mod hashing;
pub mod http;
pub mod limits;
pub mod pg;
pub mod redis;
pub mod telemetry;
