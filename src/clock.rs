//! The process' clocks.
//!
//! Decisions are made by the stores' clocks (Redis `TIME`, PostgreSQL `now()`); the gateway's own
//! clock only refuses early, 100 ms on the careful side, and measures durations. Those that decide
//! anything go by the runtime's clock, so that a simulation can be the one who moves it.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::domain::window::Millis;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Wall clock, milliseconds since the Unix epoch.
pub fn now_ms() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as Millis)
}

/// Monotonic clock, milliseconds since about the start of the process, from 1.
pub fn mono_ms() -> u64 {
    START.elapsed().as_millis() as u64 + 1
}
