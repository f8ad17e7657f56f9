//! Templates, their stock, who may administer them, and who may not claim.
//!
//! PostgreSQL owns all of it. Gateways hold a snapshot in memory that is compared with PostgreSQL
//! several times a second; Redis holds, per template, what the claim script decides by, and is
//! brought to a template's revision by [`publish`](self).
//!
//! # Layout
//! - [`snapshot`]: what gateways hold in memory

pub mod snapshot;
