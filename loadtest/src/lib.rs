//! Load on Floodgate that can be believed: every request and answer is journalled, and the journal
//! is compared with Redis and PostgreSQL.
//!
//! # Layout
//! - [`plan`]: which claims are made, by seed
//! - [`journal`]: what was asked and answered
//! - [`http`]: one keep-alive connection
//! - [`client`]: many connections over any number of gateways
//! - [`check`]: journal, Redis and PostgreSQL, every difference named

pub mod check;
pub mod client;
pub mod http;
pub mod journal;
pub mod plan;
