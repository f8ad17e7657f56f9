//! The only code that speaks to Redis.
//!
//! # Layout
//! - [`keys`]: every key, each shown once
//! - [`scripts`]: the Lua scripts as a closed list, loaded before they are called
//! - [`fault`]: what a failed call means: certainly not executed, or unknown
//! - [`master`]: which Redis is the master, and connections to it
//! - `pool`: connections that are lent
//! - `wire`: the socket of a connection that nobody shares
//! - [`client`]: one call of one script
//! - [`cell`]: a cell's identity, and the small calls beside the claim path
//! - [`replicas`]: whether replicas have what a cell has granted
//! - [`compare`]: a template as the cell has it, and single grants given back

pub mod cell;
pub mod client;
pub mod compare;
pub mod fault;
pub mod keys;
pub mod master;
mod pool;
pub mod replicas;
pub mod scripts;
pub mod wire;
