//! The search against enumeration of every subset through `price()`, on random small carts.

use std::cmp::Reverse;

use super::carts::{self, Dice, Size};
use super::*;
use crate::pricing::settings::{MerchantLimit, StackingMode, ThresholdBasis};

/// Carts compared: FLOODGATE_PRICING_CASES, else what a test run has time for.
const CASES: u64 = 1_500;

/// Settings of all sorts; the defaults most often.
pub(super) fn settings(dice: &mut Dice) -> Settings {
    let mut settings = Settings { allow_zero_total: dice.one_in(3), ..Settings::default() };
    if dice.one_in(4) {
        settings.threshold_basis = ThresholdBasis::Remaining;
    }
    if dice.one_in(6) {
        settings.max_order_discount_ratio = rust_decimal::Decimal::new(1 + dice.below(9) as i64, 1);
    }
    if dice.one_in(6) {
        settings.stacking.merchant = MerchantLimit::PerOrder;
    }
    if dice.one_in(12) {
        settings.stacking.mode = StackingMode::OnePerOrder;
    }
    settings
}

/// The order of ties, written down once more: what a set is compared by, the lowest best.
fn place(priced: &Priced, set: &[Coupon]) -> impl Ord + use<> {
    let mut list: Vec<_> = set
        .iter()
        .map(|coupon| {
            let kind = match coupon.terms.kind.word() {
                "full_reduction" => 0,
                "percentage_discount" => 1,
                "cash_voucher" => 2,
                _ => 3,
            };
            let shape = &coupon.terms.shape;
            (coupon.expires, kind, !shape.is_item_limited, !shape.is_channel_limited, coupon.code.clone())
        })
        .collect();
    list.sort();
    (Reverse(priced.worth()), set.len(), list)
}

fn by_enumeration(case: &Case, coupons: &[Coupon]) -> Vec<String> {
    let mut best = None;
    for mask in 0u32..1 << coupons.len() {
        let set: Vec<Coupon> = coupons
            .iter()
            .enumerate()
            .filter(|(at, _)| mask >> at & 1 == 1)
            .map(|(_, coupon)| coupon.clone())
            .collect();
        let Ok(priced) = price(case, &set) else { continue };
        let place = place(&priced, &set);
        if best.as_ref().is_none_or(|(known, _)| place < *known) {
            best = Some((place, set));
        }
    }
    let mut codes: Vec<String> = best.unwrap().1.into_iter().map(|coupon| coupon.code).collect();
    codes.sort();
    codes
}

#[test]
fn the_search_finds_what_enumeration_finds() {
    let cases = std::env::var("FLOODGATE_PRICING_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
    let seed = std::env::var("FLOODGATE_PRICING_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let user = User::default();
    let (mut sizes, mut nodes) = ([0u64; 9], 0);
    for number in seed..seed + cases {
        let dice = &mut Dice::new(number);
        // A few are as large as enumeration bears, with all coupons saying something of stacking.
        let is_large = dice.one_in(50);
        let size = Size {
            lines: (1, 6),
            merchants: 1 + dice.below(3),
            coupons: if is_large { 11 } else { 1 + dice.below(8) as usize },
            price_max: [60, 900, 8_000][dice.below(3) as usize],
            stacking: if is_large { 1 } else { dice.below(4) },
            wild: dice.one_in(2),
            shipping: dice.one_in(4),
            currency: ["CNY", "CNY", "JPY", "KWD"][dice.below(4) as usize],
        };
        let order = carts::order(dice, &size);
        let coupons = carts::coupons(dice, &size);
        let settings = settings(dice);
        let case = Case { order: &order, user: &user, now: noon(), settings: &settings };
        let quote = best(&case, &coupons, NODES);
        assert!(quote.optimal, "FLOODGATE_PRICING_SEED={number} was cut");
        let expected = by_enumeration(&case, &coupons);
        assert_eq!(
            used(&quote, &coupons),
            expected,
            "repeat with FLOODGATE_PRICING_SEED={number} \
             FLOODGATE_PRICING_CASES=1\n{settings:?}\n{order:?}\n{coupons:#?}"
        );
        sizes[expected.len().min(8)] += 1;
        nodes += quote.nodes;
    }
    println!("{cases} carts; coupons used {sizes:?}; {} nodes a search", nodes / cases.max(1));
    assert!(cases < 1_000 || sizes[3..].iter().sum::<u64>() > cases / 10, "the carts are too easy: {sizes:?}");
}

#[test]
fn a_small_budget_gives_the_best_found_and_says_so() {
    let dice = &mut Dice::new(7);
    let size = Size {
        lines: (30, 30),
        merchants: 6,
        coupons: 80,
        price_max: 8_000,
        stacking: 2,
        wild: false,
        shipping: false,
        currency: "CNY",
    };
    let (order, coupons) = (carts::order(dice, &size), carts::coupons(dice, &size));
    let (user, settings) = (User::default(), Settings::default());
    let case = Case { order: &order, user: &user, now: noon(), settings: &settings };
    let cut = best(&case, &coupons, 3);
    assert!(!cut.optimal && cut.nodes <= 4);
    let set: Vec<Coupon> = cut.priced.coupons.iter().map(|applied| coupons[applied.coupon].clone()).collect();
    assert_eq!(price(&case, &set).unwrap().payable, cut.priced.payable);
}

/// The work of a search grows with the coupons there are, and not with what stands in each other's way.
#[test]
fn a_hostile_search_ends_at_its_budget() {
    let of = |coupons: usize, lines: u64| {
        let dice = &mut Dice::new(11);
        let (merchants, price_max, stacking, wild) = (10, 50_000, 1, true);
        let size = Size {
            lines: (lines, lines),
            merchants,
            coupons,
            price_max,
            stacking,
            wild,
            shipping: false,
            currency: "CNY",
        };
        let (order, coupons) = (carts::order(dice, &size), carts::coupons(dice, &size));
        let (user, settings) = (User::default(), Settings::default());
        let quote = best(&Case { order: &order, user: &user, now: noon(), settings: &settings }, &coupons, 200);
        assert!(!quote.optimal);
        quote.nodes
    };
    let (few, many) = (of(250, 50), of(500, 50));
    assert!((100..1_000).contains(&few) && (100..1_000).contains(&many), "{few} and {many} nodes");
    // Lines count too.
    let long = of(500, 200);
    assert!(long < many, "{long} nodes of {many}");
}

#[test]
fn coupons_that_must_be_alone_do_not_use_up_the_budget() {
    let cart = order(&[("a", "c", "m-1", "500.00", 1)], &[]);
    let rules = |allow: bool| json!([{"rule_type": "STACKABILITY", "params": {"allow_stacking": allow}}]);
    let voucher = |code: &str, amount: u32, allow: bool| {
        coupon(code, "cash_voucher", json!({"amount": amount}), rules(allow), json!({}))
    };
    let mut coupons: Vec<Coupon> = (1..=300).map(|amount| voucher(&format!("alone-{amount}"), amount, false)).collect();
    coupons.extend([voucher("one", 160, true), voucher("two", 170, true)]);
    let (user, settings) = (User::default(), Settings::default());
    let quote = best(&Case { order: &cart, user: &user, now: noon(), settings: &settings }, &coupons, 50);
    assert!(quote.optimal, "{} nodes", quote.nodes);
    assert_eq!(used(&quote, &coupons), ["one", "two"]);
}
