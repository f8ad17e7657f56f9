//! What must hold of every price and every best combination, on carts of all sizes.

use rust_decimal::Decimal;

use super::carts::{self, Dice, Size};
use super::search::settings;
use super::*;

/// Enough for most of these carts; where the search is cut, only `price()` is judged.
const BUDGET: u64 = 20_000;

fn size(dice: &mut Dice) -> Size {
    Size {
        lines: (1, 40),
        merchants: 1 + dice.below(6),
        coupons: 1 + dice.below(40) as usize,
        price_max: [60, 900, 8_000, 100_000][dice.below(4) as usize],
        stacking: dice.below(5),
        wild: dice.one_in(3),
        shipping: dice.one_in(4),
        currency: ["CNY", "CNY", "JPY", "KWD"][dice.below(4) as usize],
    }
}

fn check_price(order: &Order, priced: &Priced, settings: &Settings) {
    let mut lines: std::collections::HashMap<&str, Decimal> =
        order.lines.iter().map(|line| (&*line.line_id, order.currency.decimal(line.amount()))).collect();
    let mut fees: std::collections::HashMap<&str, Decimal> =
        order.shipping.iter().map(|fee| (&*fee.merchant_id, order.currency.decimal(fee.fee))).collect();
    let mut total = Decimal::ZERO;
    for applied in &priced.coupons {
        let mut sum = Decimal::ZERO;
        for line in &applied.lines {
            assert!(line.share > Decimal::ZERO);
            sum += line.share;
            *lines.get_mut(&*line.line_id).unwrap() -= line.share;
        }
        for fee in &applied.shipping {
            assert!(fee.share > Decimal::ZERO);
            sum += fee.share;
            *fees.get_mut(&*fee.merchant_id).unwrap() -= fee.share;
        }
        assert_eq!(sum, applied.discount, "shares sum to the discount");
        let is_gift = priced.gifts.iter().any(|gift| gift.coupon == applied.coupon);
        assert!(applied.discount > Decimal::ZERO || is_gift, "no coupon without benefit");
        total += applied.discount;
    }
    assert!(lines.values().chain(fees.values()).all(|left| *left >= Decimal::ZERO), "nothing below zero");
    assert_eq!(total, priced.discount_total);
    assert_eq!(priced.goods_total + priced.shipping_total - total, priced.payable);
    assert_eq!(lines.values().chain(fees.values()).sum::<Decimal>(), priced.payable);
    let before = priced.goods_total + priced.shipping_total;
    let unit = if settings.allow_zero_total { Decimal::ZERO } else { order.currency.decimal(1) };
    assert!(priced.payable >= before.min(unit), "something is left to pay");
    assert!(total <= before * settings.max_order_discount_ratio, "no more than may be taken off");
}

#[test]
fn prices_are_sound_whatever_the_order_of_lines_and_coupons() {
    let user = User::default();
    let mut proven = 0;
    for seed in 0..250 {
        let dice = &mut Dice::new(1_000_000 + seed);
        let size = size(dice);
        let settings = if dice.one_in(2) { Settings::default() } else { settings(dice) };
        let mut order = carts::order(dice, &size);
        let mut coupons = carts::coupons(dice, &size);
        let case = Case { order: &order, user: &user, now: noon(), settings: &settings };
        let quote = best(&case, &coupons, BUDGET);
        check_price(&order, &quote.priced, &settings);
        let set: Vec<Coupon> = quote.priced.coupons.iter().map(|applied| coupons[applied.coupon].clone()).collect();
        let again = price(&case, &set).unwrap();
        assert_eq!((again.payable, again.discount_total), (quote.priced.payable, quote.priced.discount_total));
        assert_eq!(again.coupons.len() + quote.unusable.len(), coupons.len(), "every coupon is accounted for");
        if !quote.optimal {
            continue;
        }
        proven += 1;
        let fewer = best(&case, &coupons[..coupons.len() / 2], BUDGET);
        assert!(!fewer.optimal || fewer.priced.worth() <= quote.priced.worth(), "more coupons never cost more");
        assert_eq!(best(&case, &coupons, BUDGET), quote, "the same answer to the same question");
        let (codes, payable) = (used(&quote, &coupons), quote.priced.payable);
        let by_code = |quote: &Quote, coupons: &[Coupon]| {
            let mut list: Vec<_> = quote
                .priced
                .coupons
                .iter()
                .map(|a| (coupons[a.coupon].code.clone(), a.discount, a.lines.clone()))
                .collect();
            list.sort_by(|a, b| a.0.cmp(&b.0));
            list
        };
        let before = by_code(&quote, &coupons);
        dice.shuffle(&mut coupons);
        dice.shuffle(&mut order.lines);
        dice.shuffle(&mut order.shipping);
        let case = Case { order: &order, user: &user, now: noon(), settings: &settings };
        let shuffled = best(&case, &coupons, NODES);
        assert_eq!((used(&shuffled, &coupons), shuffled.priced.payable), (codes, payable), "seed {seed}");
        assert_eq!(by_code(&shuffled, &coupons), before, "seed {seed}");
    }
    assert!(proven > 200, "only {proven} of 250 searches ended within {BUDGET} nodes");
}
