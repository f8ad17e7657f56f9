//! The nouns of Floodgate and the rules that need no I/O.
//!
//! Nothing in here opens a socket, asks a clock or rolls dice: time and chance are arguments.
//!
//! # Layout
//! - [`ids`]: template, serial, epoch, entry id
//! - [`code`]: a coupon's public name
//! - [`coupon`]: where a coupon stands in its life
//! - [`gift`]: a coupon on its way to another user
//! - [`fields`]: JSON read field by field, with every complaint kept
//! - [`outcome`]: what can become of a claim
//! - [`user`]: the one way in which a user id reaches a store
//! - [`window`]: days, windows and validity in a template's time zone
//! - [`template`]: what a coupon is, and every check that its creation must pass
//! - [`rule_set`]: usage rules that templates share by name
//! - [`audience`]: who may claim

pub mod audience;
pub mod code;
pub mod coupon;
pub mod fields;
pub mod gift;
pub mod ids;
pub mod outcome;
pub mod rule_set;
pub mod template;
pub mod user;
pub mod window;
