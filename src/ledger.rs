//! What every change to a coupon after its grant leaves behind.
//!
//! A change of a coupon's status, its trace, the counters and the settlement entries are one
//! transaction or nothing: whoever moves a coupon calls these within the transaction that moves it.
//! The functions write and never decide.
//!
//! # Layout
//! - [`operations`]: every step of a coupon, with its cause
//! - [`counters`]: numbers of a template and day
//! - [`settlement`]: who owes whom
//! - [`events`]: what others are to be told
//! - [`check`](mod@check): all of it counted anew
//! - [`watch`]: the part of it that a worker counts anew all the time

pub mod check;
pub mod counters;
pub mod events;
pub mod operations;
pub mod settlement;
pub mod watch;
