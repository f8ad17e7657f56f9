//! What an order costs with coupons, and which of them to use.
//!
//! Pure: no I/O, no clock, no chance. The order, the user's facts, the moment and the settings are
//! arguments, so that a quote, a lock and a dry run at another time compute the same numbers.
//!
//! # Layout
//! - [`money`], [`order`], [`coupon`], [`settings`]: what goes in
//! - [`kinds`], [`rules`]: one small file for each, behind a trait and a registry
//! - [`terms`]: a template's kind and rules, checked at creation
//! - `items`, `share`: sets of items; a discount spread over lines
//! - `cart`: an order and coupons brought into numbers
//! - `stacking`: which coupons may stand beside each other
//! - `walk`: coupons applied one after the other
//! - [`price()`]: an order with a given set of coupons
//! - `table`, `bound`, `search`: the best legal set, found exactly
//! - [`best()`], [`rank()`]: with a reason for every coupon that is left out
//! - [`quote`], [`reason`]: what comes out

mod best;
mod bound;
mod cart;
pub mod coupon;
mod items;
pub mod kinds;
pub mod money;
pub mod order;
mod price;
pub mod quote;
pub mod reason;
pub mod rules;
mod search;
pub mod settings;
mod share;
mod stacking;
mod table;
pub mod terms;
#[cfg(test)]
mod tests;
mod walk;

pub use best::{best, rank};
pub use coupon::{Case, Coupon, State, User};
pub use order::Order;
pub use price::price;
pub use quote::{Priced, Quote, Ranking, Refused};
pub use settings::Settings;
pub use terms::{Terms, Warning};
