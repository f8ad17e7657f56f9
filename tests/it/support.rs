//! What the tests stand on.
//!
//! # Layout
//! - [`app`]: stores of the test's own and `floodgate serve` processes on them, with the verbs of a test
//! - [`wire`]: a small HTTP client with keep-alive, and raw bytes for those who send worse
//! - [`proxy`]: a bad link
//! - [`clock_redis`]: a redis-server whose wall clock the test sets
//! - [`ledger`]: coupons by the thousand, and the ledger checked
//! - [`replicas`]: a Redis with replicas and a Sentinel
//! - [`stage`]: one cell with the verbs of a test, on the model or on Redis
//! - [`history`]: random histories, and the two stages side by side
//! - [`till`]: an order service on an app
//! - [`language`], [`words`]: tests as text, played on all stages at once

pub mod app;
pub mod clock_redis;
pub mod frames;
pub mod history;
pub mod language;
pub mod ledger;
pub mod proxy;
pub mod replicas;
pub mod stage;
pub mod till;
pub mod wire;
pub mod words;
