//! What is measured, a file each. A new peer is a file here and a line in [`all`].

pub mod bare;
pub mod batch;
pub mod copy;
pub mod floodgate;
pub mod half;
pub mod hot_row;
pub mod lone;
pub mod memory;
pub mod naive;
pub mod nginx;
pub mod overload;
pub mod script;
pub mod vector;
pub mod webdis;

use super::party::Party;

/// In the order of their turns: what is compared stands side by side.
pub fn all() -> Vec<Box<dyn Party>> {
    let mut parties: Vec<Box<dyn Party>> = Vec::new();
    parties.extend(bare::parties());
    parties.extend(floodgate::parties());
    parties.extend(batch::parties());
    parties.extend(script::parties());
    parties.extend(vector::parties());
    parties.extend(naive::parties());
    parties.extend(nginx::parties());
    parties.extend(webdis::parties());
    parties.extend(copy::parties());
    parties.extend(hot_row::parties());
    parties.extend(half::parties());
    parties.extend(lone::parties());
    parties.extend(overload::parties());
    parties.extend(memory::parties());
    parties
}
