//! The claim path between the front door and Redis. It never touches PostgreSQL.
//!
//! # Layout
//! - [`engine`]: what a batch of claims is, and what can become of it; the trait that decides
//! - [`redis_engine`]: the engine that sells, over the Lua scripts
//! - [`model_engine`]: the same decisions in plain sequential Rust, to test the scripts against
//! - [`cell`]: which history of the cell this process believes in
//! - [`lane`]: where claims wait for the batch in flight
//! - [`lookup`]: the lane for claim keys that are looked up before a refusal
//! - [`confirm`]: waits until replicas have a grant: ack level `replica`
//! - [`ring`]: acknowledged grants, until they are rows
//! - [`doubt`]: claims whose outcome is unknown, until their deadline has passed

pub mod cell;
pub mod confirm;
pub mod doubt;
pub mod engine;
pub mod lane;
pub mod lookup;
pub mod model_engine;
pub mod redis_engine;
pub mod ring;
