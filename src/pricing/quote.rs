//! Answers: an order priced with a set of coupons, the best of many sets, coupons one by one.
//!
//! Coupons are named by their index in the list that was given, so that nothing is copied.

use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::coupon::Coupon;
use super::money::{Currency, TOTAL_MAX};
use super::reason::Refusal;
use crate::domain::ids::TemplateId;

/// An order with its discounts. Amounts have all the places of the currency.
#[derive(Clone, Debug, PartialEq)]
pub struct Priced {
    pub currency: Currency,
    /// Before discounts.
    pub goods_total: Decimal,
    pub shipping_total: Decimal,
    /// Money that is taken off; gifts are not in it.
    pub discount_total: Decimal,
    pub payable: Decimal,
    /// In the order of computing.
    pub coupons: Vec<Applied>,
    pub gifts: Vec<Gift>,
}

/// What one coupon does. `discount` is the sum of its shares of lines and fees.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Index of the coupon in the list that was given.
    pub coupon: usize,
    pub discount: Decimal,
    /// Lines with a share above zero, by line id.
    pub lines: Vec<LineShare>,
    /// Fees with a share above zero, by merchant.
    pub shipping: Vec<FeeShare>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LineShare {
    pub line_id: String,
    pub share: Decimal,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FeeShare {
    pub merchant_id: String,
    pub share: Decimal,
}

/// Something that a coupon adds to the order for nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Gift {
    pub coupon: usize,
    pub item_id: String,
    pub name: String,
    pub quantity: u32,
    /// Of one piece.
    pub value: Decimal,
}

/// Why coupon number `coupon` is not used.
#[derive(Clone, Debug, PartialEq)]
pub struct Unusable {
    pub coupon: usize,
    pub refusal: Refusal,
}

/// Coupons that cannot be used together, or not at all: every one that is in the way, with its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused(pub Vec<Unusable>);

/// What a little more would bring.
#[derive(Clone, Debug, PartialEq)]
pub struct Hint {
    pub template_id: TemplateId,
    pub spend_more: Decimal,
    /// What the coupon would take off at its threshold.
    pub save: Decimal,
    /// "spend 20.00 more in cat-roast-duck and save 20.00"
    pub text: String,
}

/// The best legal combination.
#[derive(Clone, Debug, PartialEq)]
pub struct Quote {
    pub priced: Priced,
    /// Whether it is proven that none is better; `false` where the budget ended the search.
    pub optimal: bool,
    /// Nodes that the search visited.
    pub nodes: u64,
    /// Every coupon that is not used, in the order given.
    pub unusable: Vec<Unusable>,
    pub hints: Vec<Hint>,
}

/// Every coupon on its own, the best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    pub ranked: Vec<Priced>,
    pub unusable: Vec<Unusable>,
    pub hints: Vec<Hint>,
}

// === impl Priced ===

impl Priced {
    /// What combinations are compared by: money off with gifts at their value, then gift coupons of
    /// whose gifts no value is stated. Those come last because nothing is known of them, but before
    /// "fewer coupons": a free drink is a benefit.
    pub fn worth(&self) -> (Decimal, usize) {
        let of_coupon = |index: usize| self.gifts.iter().filter(move |gift| gift.coupon == index);
        // Of one coupon no more than an order may come to, as in the search.
        let most = self.currency.decimal(TOTAL_MAX);
        let value = |applied: &Applied| {
            of_coupon(applied.coupon).map(|gift| gift.value * Decimal::from(gift.quantity)).sum::<Decimal>().min(most)
        };
        let total = self.discount_total + self.coupons.iter().map(value).sum::<Decimal>();
        let is_unvalued = |applied: &&Applied| {
            of_coupon(applied.coupon).next().is_some() && of_coupon(applied.coupon).all(|gift| gift.value.is_zero())
        };
        (total, self.coupons.iter().filter(is_unvalued).count())
    }

    /// The fields that quotes and redemptions share. `coupons` is the list that was priced.
    pub fn to_json(&self, coupons: &[Coupon]) -> Value {
        let applied: Vec<Value> = self
            .coupons
            .iter()
            .map(|applied| {
                let coupon = &coupons[applied.coupon];
                let lines: Vec<Value> = applied
                    .lines
                    .iter()
                    .map(|line| json!({"line_id": line.line_id, "share": line.share.to_string()}))
                    .collect();
                let shipping: Vec<Value> = applied
                    .shipping
                    .iter()
                    .map(|fee| json!({"merchant_id": fee.merchant_id, "share": fee.share.to_string()}))
                    .collect();
                json!({
                    "code": coupon.code,
                    "template_id": coupon.template_id.0,
                    "kind": coupon.terms.kind.word(),
                    "discount": applied.discount.to_string(),
                    "lines": lines,
                    "shipping": shipping,
                })
            })
            .collect();
        let gifts: Vec<Value> = self
            .gifts
            .iter()
            .map(|gift| {
                json!({
                    "code": coupons[gift.coupon].code,
                    "item_id": gift.item_id,
                    "name": gift.name,
                    "quantity": gift.quantity,
                    "value": gift.value.to_string(),
                })
            })
            .collect();
        json!({
            "currency": self.currency.code(),
            "goods_total": self.goods_total.to_string(),
            "shipping_total": self.shipping_total.to_string(),
            "discount_total": self.discount_total.to_string(),
            "payable": self.payable.to_string(),
            "coupons": applied,
            "gifts": gifts,
        })
    }
}

// === impl Unusable ===

impl Unusable {
    pub fn to_json(&self, coupons: &[Coupon]) -> Value {
        let coupon = &coupons[self.coupon];
        json!({
            "code": coupon.code,
            "template_id": coupon.template_id.0,
            "reason": self.refusal.reason.word(),
            "detail": self.refusal.detail,
            "missing": self.refusal.missing,
        })
    }
}

// === impl Hint ===

impl Hint {
    pub fn to_json(&self) -> Value {
        json!({
            "template_id": self.template_id.0,
            "spend_more": self.spend_more.to_string(),
            "save": self.save.to_string(),
            "text": self.text,
        })
    }
}

// === impl Quote ===

impl Quote {
    /// The answer of mode `best`.
    pub fn to_json(&self, coupons: &[Coupon]) -> Value {
        let mut answer = self.priced.to_json(coupons);
        answer["optimal"] = self.optimal.into();
        answer["unusable"] = self.unusable.iter().map(|unusable| unusable.to_json(coupons)).collect();
        answer["hints"] = self.hints.iter().map(Hint::to_json).collect();
        answer
    }
}

// === impl Ranking ===

impl Ranking {
    /// The answer of mode `rank`: under `ranked`, the order priced with each coupon alone.
    pub fn to_json(&self, coupons: &[Coupon]) -> Value {
        json!({
            "ranked": self.ranked.iter().map(|priced| priced.to_json(coupons)).collect::<Vec<_>>(),
            "unusable": self.unusable.iter().map(|unusable| unusable.to_json(coupons)).collect::<Vec<_>>(),
            "hints": self.hints.iter().map(Hint::to_json).collect::<Vec<_>>(),
        })
    }
}
