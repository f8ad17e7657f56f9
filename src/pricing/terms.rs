//! What a template promises at checkout: its kind's worth and its rules, read once and checked.
//!
//! [`Terms::of`] is every creation check that depends on kind and rules. A rule type or a
//! parameter that is not known is refused here, when the template is made, never ignored at use.

use std::fmt;

use chrono_tz::Tz;
use rust_decimal::Decimal;

use super::kinds::{self, Worth};
use super::money::{Currency, Minor, RATE_ONE};
use super::rules::{self, Reading, Rule, Shape};
use super::settings::Settings;
use crate::domain::fields::{Complaints, FieldError, Object};
use crate::domain::template::{Definition, Issuer, Kind};

/// A template's value and usage rules, ready to be applied. Immutable, shared by its coupons.
#[derive(Debug)]
pub struct Terms {
    pub kind: Kind,
    pub issuer: Issuer,
    pub issuer_id: String,
    pub special: bool,
    pub currency: Currency,
    pub timezone: Tz,
    pub(super) worth: Worth,
    /// What the rules say about lines, amounts and company.
    pub(super) shape: Shape,
    /// In the order of evaluation: a higher priority first, then the registry's order.
    pub(super) rules: Vec<Box<dyn Rule>>,
    /// The kind's place in the order of computing within a class.
    pub(super) priority: i32,
}

/// Something that is allowed and probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub field: String,
    pub code: &'static str,
    pub detail: String,
}

/// What a kind's check may look at besides its own value.
pub struct Creation<'a> {
    pub definition: &'a Definition,
    pub settings: &'a Settings,
    pub currency: Currency,
    pub shape: &'a Shape,
}
