//! What the tests stand on.
//!
//! # Layout
//! - [`clock_redis`]: a redis-server whose wall clock the test sets
//! - [`stage`]: one cell with the verbs of a test, on the model or on Redis
//! - [`history`]: random histories, and the two stages side by side
//! - [`language`], [`words`]: tests as text, played on all stages at once

pub mod clock_redis;
pub mod history;
pub mod language;
pub mod stage;
pub mod words;
