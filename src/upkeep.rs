//! Coupons that end without being used: their time is over, or an operator takes them back.
//!
//! Both are refused at once by whoever reads the coupon; here the rows follow, in steps of bounded size.
//! A step is one transaction with its trace, events and counters, guarded by a row that says how far the
//! work has come: any number of processes may take steps, and one that dies has taken none.
//!
//! # Layout
//! - [`ending`]: coupons locked, ended, traced and counted
//! - [`revocation`]: what operators ask for and read
//! - [`revoker`]: revocations carried out
//! - [`sweeper`]: what has expired
//! - [`workers`]: the loops

pub mod ending;
pub mod revocation;
pub mod revoker;
pub mod sweeper;
pub mod workers;
