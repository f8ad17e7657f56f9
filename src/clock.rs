//! The process' clocks.
//!
//! Decisions are made by the stores' clocks (Redis `TIME`, PostgreSQL `now()`); the gateway's own
//! clock only refuses early, 100 ms on the careful side, and measures durations.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::window::Millis;

/// Wall clock, milliseconds since the Unix epoch.
pub fn now_ms() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as Millis)
}
