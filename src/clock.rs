//! The process' clocks.
//!
//! Decisions are made by the stores' clocks (Redis `TIME`, PostgreSQL `now()`); the gateway's own
//! clock only refuses early, 100 ms on the careful side, and measures durations.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
