//! What a deployment may change about pricing.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::Deserialize;

use super::kinds;
use super::money::RATE_ONE;
use crate::domain::template::Kind;

/// The `[pricing]` section of the configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Percentage coupons need a MINIMUM_SPEND.
    pub require_threshold: bool,
    /// Discounts may bring an order to nothing; else one minor unit is left to pay.
    pub allow_zero_total: bool,
    /// The highest `max_discount_ratio` that a template may ask for, above 0 and at most 1.
    pub max_discount_ratio: Decimal,
    pub threshold_basis: ThresholdBasis,
    /// The largest part of goods and shipping that all discounts together may take off. 1: no cap.
    pub max_order_discount_ratio: Decimal,
    /// Kinds that templates may be created with. Coupons that were issued before stay good.
    pub kinds: Vec<String>,
    /// As `percentage_discount.max_off=50.00`: what a new template's value takes where it leaves the field out.
    pub presets: Vec<String>,
    /// The `[stacking]` section.
    #[serde(skip)]
    pub stacking: Stacking,
    /// Nodes that a search for the best combination may visit before it answers with the best found.
    pub search_nodes_max: u64,
}

/// Which amounts a threshold is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdBasis {
    /// Prices before any coupon.
    Original,
    /// What the coupons before it have left.
    Remaining,
}

/// The `[stacking]` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stacking {
    pub mode: StackingMode,
    pub merchant: MerchantLimit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StackingMode {
    /// One of each class, classes together.
    #[default]
    Classes,
    OnePerOrder,
}

/// How often merchant coupons may be used on one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MerchantLimit {
    #[default]
    PerMerchant,
    PerOrder,
}

impl Default for Stacking {
    fn default() -> Self {
        Stacking { mode: StackingMode::Classes, merchant: MerchantLimit::PerMerchant }
    }
}

// === impl Settings ===

impl Default for Settings {
    /// As `config/default.toml` has them; a test compares the two.
    fn default() -> Self {
        Settings {
            require_threshold: false,
            allow_zero_total: false,
            max_discount_ratio: Decimal::ONE,
            threshold_basis: ThresholdBasis::Original,
            max_order_discount_ratio: Decimal::ONE,
            kinds: Kind::WORDS.iter().map(|(word, _)| (*word).to_owned()).collect(),
            presets: Vec::new(),
            stacking: Stacking::default(),
            search_nodes_max: 8_000,
        }
    }
}

impl Settings {
    /// Whether coupons of this kind are created and priced.
    pub fn enables(&self, kind: Kind) -> bool {
        self.kinds.iter().any(|word| word.eq_ignore_ascii_case(kind.word()))
    }

    /// The fields that new templates of a kind take where they leave them out, and their amounts.
    pub fn presets(&self, kind: Kind) -> impl Iterator<Item = (&str, &str)> {
        self.presets
            .iter()
            .filter_map(|preset| read_preset(preset))
            .filter(move |(of, ..)| *of == kind)
            .map(|(_, field, amount)| (field, amount))
    }

    pub(super) fn max_order_discount_ratio_millionths(&self) -> u32 {
        (self.max_order_discount_ratio * Decimal::from(RATE_ONE)).to_u32().unwrap_or(RATE_ONE).min(RATE_ONE)
    }

    /// What is wrong, a sentence each.
    pub fn check(&self, mut demand: impl FnMut(bool, &str)) {
        let is_ratio = |ratio: Decimal| ratio > Decimal::ZERO && ratio <= Decimal::ONE;
        demand(is_ratio(self.max_discount_ratio), "pricing.max_discount_ratio must be above 0 and at most 1");
        demand(
            is_ratio(self.max_order_discount_ratio) && self.max_order_discount_ratio.normalize().scale() <= 6,
            "pricing.max_order_discount_ratio must be above 0 and at most 1, of at most 6 places",
        );
        demand(
            self.kinds.iter().all(|word| Kind::parse(word).is_some_and(|kind| kinds::of(kind).is_some())),
            "pricing.kinds must list kinds that exist",
        );
        demand(
            self.presets.iter().all(|preset| read_preset(preset).is_some()),
            "pricing.presets must be of the form kind.field=amount, as percentage_discount.max_off=50.00",
        );
        demand(!self.kinds.is_empty(), "pricing.kinds must list at least one kind");
        demand((1..=10_000_000).contains(&self.search_nodes_max), "pricing.search_nodes_max must be 1 to 10000000");
    }
}

fn read_preset(preset: &str) -> Option<(Kind, &str, &str)> {
    let (kind, rest) = preset.split_once('.')?;
    let (field, amount) = rest.split_once('=')?;
    let (kind, field, amount) = (Kind::parse(kind.trim())?, field.trim(), amount.trim());
    let fields: &[&str] = match kind {
        Kind::CashVoucher | Kind::FullReduction | Kind::Shipping => &["amount"],
        Kind::PercentageDiscount => &["percentage", "max_off"],
        Kind::FreeItem => &["gift_value"],
        Kind::RedPacket => &[],
    };
    let is_amount = amount.parse::<Decimal>().is_ok_and(|amount| amount > Decimal::ZERO);
    (fields.contains(&field) && is_amount).then_some((kind, field, amount))
}
