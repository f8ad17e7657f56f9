//! Load on Floodgate that can be believed: every request and answer is journalled, and the journal
//! is compared with Redis and PostgreSQL.
//!
//! # Layout
//! - [`plan`]: which claims are made, by seed
//! - [`journal`]: what was asked and answered
//! - [`http`], [`link`]: one connection, as small as can be, and over both protocols
//! - [`client`]: the closed loop: many connections over any number of gateways
//! - [`open`], [`pacer`]: the open loop, at a constant rate
//! - [`check`]: journal, Redis and PostgreSQL, every difference named
//! - [`meter`]: processor time of processes, and what Redis counted
//! - [`scale`]: reads at the size of a year of sales
//! - [`mod@bench`]: Floodgate beside its peers
//! - [`redemptions`]: lock and confirm beside the same statements bare

pub mod bench;
pub mod check;
pub mod client;
pub mod http;
pub mod journal;
pub mod link;
pub mod meter;
pub mod open;
pub mod pacer;
pub mod plan;
pub mod redemptions;
pub mod scale;
