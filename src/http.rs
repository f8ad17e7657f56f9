//! The front door: two listeners, one table of routes, one table from reason to answer.
//!
//! # Layout
//! - [`problem`]: a refusal on its way out, and the only place that knows statuses
//! - [`route`]: what a handler takes and gives, and who may call it

pub mod body;
pub mod problem;
pub mod route;
