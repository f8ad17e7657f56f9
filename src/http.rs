//! The front door: two listeners, one table of routes, one table from reason to answer.
//!
//! # Layout
//! - [`handlers`]: one thin function a call
//! - [`problem`]: a refusal on its way out, and the only place that knows statuses
//! - [`route`]: what a handler takes and gives, and who may call it

pub mod body;
pub mod handlers;
pub mod problem;
pub mod route;
