//! Templates, their stock, who may administer them, and who may not claim.
//!
//! PostgreSQL owns all of it. Gateways hold a snapshot in memory that is compared with PostgreSQL
//! several times a second; Redis holds, per template, what the claim script decides by, and is
//! brought to a template's revision by [`publish`](mod@publish).
//!
//! # Layout
//! - [`store`]: templates in PostgreSQL, and whose they are
//! - [`lifecycle`]: from draft to publication and its end
//! - [`publish`](mod@publish): Redis brought to a template's revision, and read back
//! - [`workers`]: what happens to templates by itself
//! - [`snapshot`], [`poller`]: what gateways hold in memory, and how it stays close to PostgreSQL
//! - [`approvals`]: approval by another system
//! - [`checks`]: what kind and rules demand of a template
//! - [`rule_sets`]: usage rules that templates share by name
//! - [`api_keys`], [`blacklist`]: who may administer, and who may not claim

pub mod api_keys;
pub mod approvals;
pub mod blacklist;
pub mod checks;
pub mod lifecycle;
pub mod poller;
pub mod publish;
pub mod rule_sets;
pub mod snapshot;
pub mod store;
pub mod workers;
