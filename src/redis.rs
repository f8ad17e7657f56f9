//! The only code that speaks to Redis.
//!
//! # Layout
//! - [`keys`]: every key, each shown once
//! - [`scripts`]: the Lua scripts as a closed list, loaded before they are called
//! - [`fault`]: what a failed call means: certainly not executed, or unknown
//! - [`client`]: connections, and one call of one script
//! - [`cell`]: a cell's identity, and the small calls beside the claim path

pub mod cell;
pub mod client;
pub mod fault;
pub mod keys;
pub mod scripts;
