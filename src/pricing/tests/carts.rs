//! Random orders and coupons, from a seed: small ones for comparison with enumeration, large ones for
//! speed. The benchmark uses them too.

use std::sync::Arc;

use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::{Coupon, Definition, Millis, Order, Settings, State, TemplateId, Terms, parse};

/// A generator of numbers that are good enough for tests (xorshift64*).
pub struct Dice(u64);

/// How large a cart is, and how its coupons are.
pub struct Size {
    /// From the first to the second.
    pub lines: (u64, u64),
    pub merchants: u64,
    pub coupons: usize,
    /// The highest price, in minor units.
    pub price_max: u64,
    /// One in so many coupons allows stacking; 0: none says anything of stacking.
    pub stacking: u64,
    /// With what is rare in shops: kinds excluded by any coupon, gifts of every sort, fractions of percents.
    pub wild: bool,
    /// Half of the coupons are on fees, where they get in each other's way.
    pub shipping: bool,
    /// CNY, JPY or KWD: amounts are as many minor units in each.
    pub currency: &'static str,
}

impl Size {
    fn money(&self, minor: u64) -> Decimal {
        let scale = match self.currency {
            "JPY" => 0,
            "KWD" => 3,
            _ => 2,
        };
        Decimal::new(minor as i64, scale)
    }

    fn amount(&self, minor: u64) -> String {
        self.money(minor).to_string()
    }
}

const CATEGORIES: u64 = 6;
const NOON: Millis = 1_781_755_200_000; // 2026-06-18T12:00:00+08:00
const DAY: Millis = 86_400_000;

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }

    pub fn one_in(&mut self, bound: u64) -> bool {
        bound > 0 && self.below(bound) == 0
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

pub fn order(dice: &mut Dice, size: &Size) -> Order {
    let merchants = 1 + dice.below(size.merchants);
    let lines: Vec<Value> = (0..size.lines.0 + dice.below(size.lines.1 - size.lines.0 + 1))
        .map(|at| {
            let categories: Vec<String> =
                (0..1 + dice.below(2)).map(|_| format!("c-{}", dice.below(CATEGORIES))).collect();
            let streamer = dice.one_in(3).then(|| format!("s-{}", dice.below(2)));
            let merchant = if at == 0 { 0 } else { dice.below(merchants) };
            json!({
                "line_id": at.to_string(), "item_id": format!("d-{}", dice.below(12)), "category_ids": categories,
                "merchant_id": format!("m-{merchant}"), "streamer_id": streamer,
                "unit_price": size.amount(dice.below(size.price_max)), "quantity": 1 + dice.below(3),
            })
        })
        .collect();
    let sells = |merchant: u64| lines.iter().any(|line| line["merchant_id"] == format!("m-{merchant}"));
    let fees: Vec<Value> = (0..merchants)
        .filter(|merchant| sells(*merchant))
        .map(|merchant| json!({"merchant_id": format!("m-{merchant}"), "fee": size.amount(dice.below(1_200))}))
        .collect();
    let body = json!({
        "order_id": "o", "user_id": "u", "channel": "app", "placed_at": "2026-06-18T12:00:00+08:00",
        "currency": size.currency, "shipping": fees, "lines": lines,
    });
    Order::parse(&body, "order").expect("a sound order")
}

/// Coupons, most of them usable for carts of this size, some of one template.
pub fn coupons(dice: &mut Dice, size: &Size) -> Vec<Coupon> {
    let mut coupons: Vec<Coupon> = Vec::with_capacity(size.coupons);
    let mut template = 0;
    while coupons.len() < size.coupons {
        let terms = Arc::new(terms(dice, size));
        template += 1;
        for _ in 0..if dice.one_in(6) { 3 } else { 1 } {
            coupons.push(Coupon {
                code: format!("k-{:03}", coupons.len()),
                template_id: TemplateId(template),
                terms: terms.clone(),
                state: State::Unused,
                valid_from: NOON - DAY,
                expires: NOON + DAY * (1 + dice.below(3) as Millis),
                amount: (terms.kind.word() == "red_packet").then(|| size.money(1 + dice.below(300))),
            });
        }
    }
    coupons.truncate(size.coupons);
    dice.shuffle(&mut coupons);
    coupons
}

fn terms(dice: &mut Dice, size: &Size) -> Terms {
    let scale = size.price_max;
    let yuan = |minor: u64| size.amount(minor);
    let amount = 1 + dice.below(scale / 2);
    let kinds = [
        "cash_voucher",
        "cash_voucher",
        "full_reduction",
        "full_reduction",
        "percentage_discount",
        "percentage_discount",
        "shipping",
        "free_item",
        "red_packet",
    ];
    let kind = kinds[dice.below(kinds.len() as u64) as usize];
    let kind = if size.shipping && dice.one_in(2) { "shipping" } else { kind };
    let mut rules = Vec::new();
    let mut rule = |name: &str, params: Value| rules.push(json!({"rule_type": name, "params": params}));
    let value = match kind {
        "cash_voucher" => {
            // Amounts repeat, so that ties are common.
            let amount = [amount, 500, 500, 1_000][dice.below(4) as usize];
            json!({"amount": yuan(amount)})
        }
        "full_reduction" => {
            rule("MINIMUM_SPEND", json!({"amount": yuan(amount * 5 / 4 + 1 + dice.below(scale))}));
            json!({"amount": yuan(amount)})
        }
        "percentage_discount" if size.wild && dice.one_in(2) => {
            let percentage = Decimal::new(10_000 + dice.below(700_000) as i64, 4).to_string();
            json!({"percentage": percentage, "max_off": yuan(1 + dice.below(scale))})
        }
        "percentage_discount" => {
            json!({"percentage": 1 + dice.below(60), "max_off": yuan(1 + dice.below(scale))})
        }
        "shipping" => json!({"amount": yuan(1 + dice.below(1_500))}),
        "free_item" if size.wild && dice.one_in(2) => {
            let item = format!("d-{}", dice.below(12));
            let category = format!("c-{}", dice.below(CATEGORIES));
            let required = json!({"required_item_ids": [item], "required_category_ids": [category]});
            rule("CONDITIONAL_GIFT_ITEM", required);
            let most = 1 + dice.below(6);
            let buy = 1 + dice.below(3);
            if dice.one_in(2) {
                json!({"same_as_bought": true, "buy_quantity": buy, "max_gifts": most})
            } else {
                json!({"gift_item_id": "g", "gift_value": yuan(dice.below(300)), "buy_quantity": buy, "max_gifts": most})
            }
        }
        "free_item" => {
            rule("SPEND_FOR_GIFT", json!({"amount": yuan(1 + dice.below(scale))}));
            if dice.one_in(2) {
                json!({"gift_item_id": "g"})
            } else {
                json!({"gift_item_id": "g", "gift_value": yuan(dice.below(800)), "gift_quantity": 1 + dice.below(2)})
            }
        }
        _ => json!({}),
    };
    if size.wild && dice.one_in(3) {
        let scope = match dice.below(3) {
            0 => {
                json!({"item_ids": (0..4).map(|_| format!("d-{}", dice.below(12))).collect::<std::collections::BTreeSet<_>>()})
            }
            1 => json!({"merchant_ids": [format!("m-{}", dice.below(size.merchants))]}),
            _ => {
                json!({"category_ids": [format!("c-{}", dice.below(CATEGORIES))], "item_ids": [format!("d-{}", dice.below(12))]})
            }
        };
        rule("ITEM_DISCOUNT_SCOPE", scope);
    } else if dice.one_in(2) && kind != "free_item" {
        rule("ITEM_DISCOUNT_SCOPE", json!({"category_ids": [format!("c-{}", dice.below(CATEGORIES))]}));
    }
    if dice.one_in(8) {
        rule("EXCLUDED_ITEMS", json!({"item_ids": [format!("d-{}", dice.below(12))], "logic": "ignore"}));
    }
    if dice.one_in(8) {
        rule("CHANNELS", json!(["app"]));
    }
    if (kind == "cash_voucher" || kind == "percentage_discount") && dice.one_in(4) {
        let from = 1 + dice.below(scale);
        rule("MINIMUM_SPEND", json!({"amount": yuan(from), "max_amount": yuan(from + scale * 4)}));
    }
    if dice.one_in(size.stacking) {
        rule("STACKABILITY", if size.wild { wild_stacking(dice) } else { stacking(dice) });
    }
    let issuer = match dice.below(8) {
        0..=3 => json!({"issuer": "merchant", "issuer_id": format!("m-{}", dice.below(size.merchants))}),
        4 => json!({"issuer": "streamer", "issuer_id": format!("s-{}", dice.below(2))}),
        5 => json!({"special": true}),
        _ => json!({}),
    };
    let mut body = json!({
        "name": "coupon", "kind": kind, "value": value, "usage_rules": rules, "stock": {"total": 5}, "currency": size.currency,
        "claim_window": {"starts_at": "2026-06-18T00:00:00+08:00", "ends_at": "2026-06-19T00:00:00+08:00"},
        "validity": {"type": "relative", "days": 7},
    });
    for (name, member) in issuer.as_object().expect("an object") {
        body[name] = member.clone();
    }
    let definition: Definition = parse(&body, Millis::MIN).expect("a sound template");
    Terms::of(&definition, &Settings::default()).unwrap_or_else(|errors| panic!("{body}: {errors:?}")).0
}

fn stacking(dice: &mut Dice) -> Value {
    match dice.below(8) {
        0..=3 => json!({"allow_stacking": true}),
        4 => json!({"allow_stacking": false}),
        5 => json!({"allow_stacking": false, "alone_scope": "goods"}),
        6 => json!({"exclude_coupon_types": ["PERCENTAGE_DISCOUNT"]}),
        _ => json!({"allow_stacking": true, "max_stacked": dice.below(4)}),
    }
}

/// Exclusions of every kind, beside stacking too, and numbers of every size, without stacking too.
fn wild_stacking(dice: &mut Dice) -> Value {
    let kinds = ["cash_voucher", "full_reduction", "percentage_discount", "shipping", "free_item", "red_packet"];
    let mut params = match dice.below(6) {
        0 => json!({"allow_stacking": false}),
        1 => json!({"allow_stacking": false, "alone_scope": "goods"}),
        2 => json!({"max_stacked": dice.below(12)}),
        _ => json!({"allow_stacking": true}),
    };
    if dice.one_in(3) {
        params["exclude_coupon_types"] = json!([kinds[dice.below(6) as usize]]);
    }
    if dice.one_in(4) {
        params["max_stacked"] = dice.below(12).into();
    }
    params
}
