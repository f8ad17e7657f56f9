//! Accepted claims on their way to disk.
//!
//! Redis decides, PostgreSQL keeps. What lies between is a queue in Redis, a watermark in
//! PostgreSQL, and an epoch that tells one history of a cell from another. Nothing here speaks HTTP.
//!
//! # Layout
//! - [`entry`]: the bytes of a queue entry
//! - [`stores`]: what is asked of Redis and of PostgreSQL, and who answers
//! - [`queue`]: which entries follow on the watermark
//! - [`terms`]: how long a template's coupons hold
//! - [`writer`]: one transaction: watermark, [`rows`], what was set aside (`aside`)
//! - [`cells`]: a cell's row in PostgreSQL, and where each of its histories ended
//! - [`flusher`]: the loop that owns a cell (`owner`: what it does while it is the owner)
//! - [`opening`], [`reapply`]: a cell is opened under a new epoch (`progress`: told to who waits)
//! - [`given`]: the call that gives a closed cell rows back
//! - [`stored`]: what PostgreSQL has of a template's grants, for a cell that may have less
//! - [`recover`]: the same for a Redis that came back empty or with another history
//! - [`watermark`]: waits until a grant is a row
//! - [`lost`]: acknowledged grants that a failover lost
//! - [`fate`]: what became of a grant whose row is not there

mod aside;
pub mod cells;
pub mod entry;
pub mod fate;
pub mod flusher;
pub mod given;
pub mod lost;
pub mod opening;
mod owner;
mod progress;
pub mod queue;
pub mod reapply;
pub mod recover;
pub mod rows;
pub mod stored;
pub mod stores;
pub mod terms;
pub mod watermark;
pub mod writer;
