//! Why a coupon is not used: stable words, and what is missing.

use serde_json::{Map, Value, json};

use super::money::{Currency, Minor};

/// One word per rule and one per state. Never renamed: shops translate them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    MinimumSpend,
    ItemEligibility,
    ScopeEmpty,
    ExcludedItems,
    GiftCondition,
    SpendForGift,
    TimeSlot,
    DayOfWeek,
    Channel,
    UserSegment,
    NotYetValid,
    Expired,
    Locked,
    Used,
    Offered,
    Revoked,
    Currency,
    NoBenefit,
    NotStackable,
    NotBest,
}

/// A coupon's refusal: the word for programs, the sentence for people, and what would help.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub reason: Reason,
    pub detail: String,
    /// As `{"amount":"20.00"}`; empty where nothing that the user could add would help.
    pub missing: Map<String, Value>,
    /// What is missing to a threshold, in minor units; hints are made of it.
    pub short_by: Option<Minor>,
}

// === impl Reason ===

impl Reason {
    pub fn word(self) -> &'static str {
        match self {
            Reason::MinimumSpend => "minimum_spend",
            Reason::ItemEligibility => "item_eligibility",
            Reason::ScopeEmpty => "scope_empty",
            Reason::ExcludedItems => "excluded_items",
            Reason::GiftCondition => "gift_condition",
            Reason::SpendForGift => "spend_for_gift",
            Reason::TimeSlot => "time_slot",
            Reason::DayOfWeek => "day_of_week",
            Reason::Channel => "channel",
            Reason::UserSegment => "user_segment",
            Reason::NotYetValid => "not_yet_valid",
            Reason::Expired => "expired",
            Reason::Locked => "locked",
            Reason::Used => "used",
            Reason::Offered => "offered",
            Reason::Revoked => "revoked",
            Reason::Currency => "currency",
            Reason::NoBenefit => "no_benefit",
            Reason::NotStackable => "not_stackable",
            Reason::NotBest => "not_best",
        }
    }
}

// === impl Refusal ===

impl Refusal {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Refusal { reason, detail: detail.into(), missing: Map::new(), short_by: None }
    }

    /// Says what would help.
    pub fn missing(mut self, name: &str, value: Value) -> Self {
        self.missing.insert(name.to_owned(), value);
        self
    }

    /// So much more would have to be spent, within `place` if that is named.
    pub fn short(reason: Reason, by: Minor, place: &str, currency: Currency) -> Self {
        let amount = currency.decimal(by).to_string();
        let place = if place.is_empty() { String::new() } else { format!(" in {place}") };
        let mut refusal = Refusal::new(reason, format!("spend {amount} more{place}")).missing("amount", json!(amount));
        refusal.short_by = Some(by);
        refusal
    }
}
