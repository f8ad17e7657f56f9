//! What a coupon is: a template's definition, as it is created, frozen and sold.
//!
//! [`Definition`] is typed and complete; [`parse()`] makes one from JSON and names every violated
//! field at once; [`Definition::to_json`] writes it back in the form of the HTTP contract.
//!
//! # Layout
//! - `parse`: every check of a template's creation that depends on neither kind nor rules
//! - `shape`: value and usage rules, checked for shape
//! - `write`: back to JSON
//! - `patch`: what may change in a draft, and in a template that is out

mod parse;
mod patch;
mod shape;
#[cfg(test)]
mod tests;
mod write;

use chrono_tz::Tz;
use rust_decimal::Decimal;
use serde::Deserialize;

use super::audience::Audience;
use super::window::{Millis, Validity};

pub use parse::parse;
pub(crate) use parse::{read_description, read_issuer, read_name};
pub(crate) use patch::laid_over;
pub use patch::{draft_with, patch_published};
pub(crate) use shape::read_rules;

/// How far an acknowledged claim has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckLevel {
    /// The script ran. Under `appendfsync always` the grant is on Redis' disk.
    Redis,
    /// As many replicas as `claim.replicas` have the grant, too.
    Replica,
    /// The grant's row is committed in PostgreSQL.
    Postgres,
}

/// Who issues a coupon and bears its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Issuer {
    Platform,
    Merchant,
    Streamer,
}

/// The states of a template's life. `Finished` is `Published` with its window over or its stock sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Draft,
    PendingApproval,
    Approved,
    Published,
    Paused,
    Stopped,
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    CashVoucher,
    FullReduction,
    PercentageDiscount,
    Shipping,
    FreeItem,
    RedPacket,
}

/// How coupons of a template reach users. Ways that are not built yet are refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Distribution {
    Claim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stock {
    /// Coupons in all. `None`: unlimited (`-1` in JSON).
    pub total: Option<u64>,
    /// Coupons per local day.
    pub daily: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Coupons a user may claim in all, 1 to 10.
    pub per_user: u32,
    /// Coupons a user may claim in a local day.
    pub per_user_daily: Option<u32>,
    /// Coupons a user may use. `None`: all they have.
    pub use_per_user: Option<u32>,
}

/// What a refund gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refund {
    /// Whether the coupon returns. The accounts reverse in any case.
    pub returnable: bool,
    /// Days after its use in which it returns.
    pub window_days: u32,
    /// Whether its validity grows by the time from lock to refund.
    pub restore_elapsed: bool,
    /// New days for a coupon that has expired meanwhile; 0: it stays expired.
    pub extend_days: u32,
    pub partial: Partial,
}

/// What a refund of a part does where the coupon's threshold does not hold on the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Partial {
    /// The rest keeps its share of the discount.
    Proportional,
    /// The rest is priced without the coupon, and less money goes back.
    Clawback,
    /// The same, and the coupon returns.
    Restore,
}

/// Whether and how a coupon may be given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GiftTerms {
    pub allowed: bool,
    /// How often one coupon may pass from hand to hand.
    pub max_hops: u8,
    /// Whether what a receiver holds, and was granted first, may not exceed `limits.per_user`.
    pub receiver_limit: bool,
    /// How long an offer stands.
    pub offer_hours: u32,
}

/// Everything that a template's author says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    pub name: String,
    pub description: String,
    pub issuer: Issuer,
    /// The merchant or streamer; empty for the platform.
    pub issuer_id: String,
    pub special: bool,
    pub kind: Kind,
    /// The kind's own fields, checked for shape. Amounts are kept as exact decimal strings.
    pub value: serde_json::Value,
    pub currency: String,
    pub max_discount_ratio: Decimal,
    /// `[{rule_type, params, priority}]`, checked for shape; with a rule set, the copy of its rules.
    pub usage_rules: serde_json::Value,
    /// The issuer's rule set that the rules were copied from.
    pub rule_set: Option<String>,
    pub distribution: Vec<Distribution>,
    pub timezone: Tz,
    pub stock: Stock,
    pub ack: Option<AckLevel>,
    pub limits: Limits,
    /// `[starts_at, ends_at)`.
    pub claim_window: (Millis, Millis),
    pub validity: Validity,
    pub audience: Option<Audience>,
    /// Whether grants count against, and are checked against, the quotas on user, IP and device.
    pub quotas: bool,
    pub gift: GiftTerms,
    pub refund: Refund,
}

/// Ties an enumeration to its words in the HTTP contract and in PostgreSQL.
macro_rules! words {
    ($name:ident: $($word:literal = $variant:ident),+ $(,)?) => {
        impl $name {
            pub const WORDS: &[(&str, $name)] = &[$(($word, $name::$variant)),+];

            pub fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word),+
                }
            }

            /// Case does not matter.
            pub fn parse(text: &str) -> Option<$name> {
                $name::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
            }
        }
    };
}

words!(AckLevel: "redis" = Redis, "replica" = Replica, "postgres" = Postgres);
words!(Issuer: "platform" = Platform, "merchant" = Merchant, "streamer" = Streamer);
words!(Status:
    "draft" = Draft, "pending_approval" = PendingApproval, "approved" = Approved, "published" = Published,
    "paused" = Paused, "stopped" = Stopped, "finished" = Finished,
);
words!(Kind:
    "cash_voucher" = CashVoucher, "full_reduction" = FullReduction, "percentage_discount" = PercentageDiscount,
    "shipping" = Shipping, "free_item" = FreeItem, "red_packet" = RedPacket,
);
words!(Distribution: "claim" = Claim);
words!(Partial: "proportional" = Proportional, "clawback" = Clawback, "restore" = Restore);

// === impl Refund ===

impl Default for Refund {
    fn default() -> Self {
        Refund {
            returnable: true,
            window_days: 30,
            restore_elapsed: true,
            extend_days: 0,
            partial: Partial::Proportional,
        }
    }
}

// === impl GiftTerms ===

impl Default for GiftTerms {
    fn default() -> Self {
        GiftTerms { allowed: true, max_hops: 1, receiver_limit: true, offer_hours: 24 }
    }
}

// === impl Definition ===

impl Definition {
    /// Reads a definition that passed [`parse()`] when it was stored: time has gone on since.
    pub fn from_store(stored: &serde_json::Value) -> Result<Definition, Vec<super::fields::FieldError>> {
        parse(stored, Millis::MIN)
    }
}
