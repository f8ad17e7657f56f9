//! The worked examples of the rules and of the source documents, and ties decided as written.

use super::*;
use crate::pricing::reason::Reason;
use crate::pricing::settings::{MerchantLimit, StackingMode, ThresholdBasis};

fn duck_coupon() -> Coupon {
    let rules: Value = serde_json::from_str(
        r#"[{"rule_type": "MINIMUM_SPEND", "params": {"amount": 100}},
            {"rule_type": "ITEM_ELIGIBILITY", "params": {"category_ids": ["cat-roast-duck"], "logic": "ANY"}},
            {"rule_type": "ITEM_DISCOUNT_SCOPE", "params": {"category_ids": ["cat-roast-duck"]}},
            {"rule_type": "STACKABILITY", "params": {"allow_stacking": false}}]"#,
    )
    .unwrap();
    coupon("duck", "CASH_VOUCHER", json!({"amount": 20}), rules, json!({"name": "烤鸭节满100减20"}))
}

fn duck_and_cold(duck: &str) -> Order {
    order(&[("d-101", "cat-roast-duck", "m-1", duck, 1), ("d-301", "cat-cold", "m-1", "30.00", 1)], &[])
}

fn payable(quote: &Quote) -> String {
    quote.priced.payable.to_string()
}

#[test]
fn roast_duck_80_and_cold_30_is_refused_and_120_and_30_pays_130() {
    let (settings, coupons) = (Settings::default(), [duck_coupon()]);
    let short = best_of(&duck_and_cold("80.00"), &coupons, &settings);
    assert_eq!(payable(&short), "110.00");
    let answer = short.to_json(&coupons);
    assert_eq!(answer["unusable"][0]["reason"], "minimum_spend");
    assert_eq!(answer["unusable"][0]["detail"], "spend 20.00 more in cat-roast-duck");
    assert_eq!(answer["unusable"][0]["missing"], json!({"amount": "20.00"}));
    assert_eq!(answer["hints"][0]["text"], "spend 20.00 more in cat-roast-duck and save 20.00");
    assert_eq!((&answer["hints"][0]["spend_more"], &answer["hints"][0]["save"]), (&json!("20.00"), &json!("20.00")));

    let enough = best_of(&duck_and_cold("120.00"), &coupons, &settings);
    assert_eq!(payable(&enough), "130.00");
    let answer = enough.to_json(&coupons);
    assert_eq!(answer["coupons"][0]["lines"], json!([{"line_id": "1", "share": "20.00"}]));
    assert_eq!(answer["coupons"][0]["kind"], "cash_voucher");
}

#[test]
fn new_users_take_10_off_68() {
    let rules = json!([
        {"rule_type": "MINIMUM_SPEND", "params": {"amount": 68}},
        {"rule_type": "USER_SEGMENTS", "params": {"new_user_days": 30, "first_order": true}},
        {"rule_type": "STACKABILITY", "params": {"allow_stacking": false}},
    ]);
    let coupons = [coupon("new", "CASH_VOUCHER", json!({"amount": 10}), rules, json!({"name": "新人专享满68减10"}))];
    let order = order(&[("d-1", "c", "m-1", "34.00", 2)], &[]);
    let settings = Settings::default();
    let mut user = User::default();
    user.facts.registered_at = Some(noon() - 86_400_000);
    user.facts.first_order = Some(true);
    let case = Case { order: &order, user: &user, now: noon(), settings: &settings };
    assert_eq!(price(&case, &coupons).unwrap().payable.to_string(), "58.00");
    for (days, first_order) in [(31, Some(true)), (1, Some(false)), (1, None)] {
        let mut user = user.clone();
        user.facts.registered_at = Some(noon() - days * 86_400_000);
        user.facts.first_order = first_order;
        let case = Case { user: &user, ..case };
        assert_eq!(refused(price(&case, &coupons), &coupons), ["new user_segment"]);
    }
    assert_eq!(refused(given(&order, &coupons, &settings), &coupons), ["new user_segment"]);
}

#[test]
fn fifteen_percent_capped_at_20_on_200_pays_180() {
    let value = json!({"max_off": 20, "percentage": 15});
    let coupons = [coupon("p", "PERCENTAGE_DISCOUNT", value, json!([]), json!({}))];
    let settings = Settings::default();
    let of = |price: &str| payable(&best_of(&order(&[("d", "c", "m", price, 1)], &[]), &coupons, &settings));
    assert_eq!(of("200.00"), "180.00");
    assert_eq!(of("100.00"), "85.00");
    // 15 % of 0.99 are 0.1485: rounded down.
    assert_eq!(of("0.99"), "0.85");
}

#[test]
fn a_main_course_gives_a_free_drink() {
    let value = json!({"gift_item_id": "d-901", "gift_item_name": "酸梅汤"});
    let rules =
        json!([{"rule_type": "CONDITIONAL_GIFT_ITEM", "params": {"required_category_ids": ["cat-main-course"]}}]);
    let coupons = [coupon("gift", "FREE_ITEM", value, rules, json!({}))];
    let settings = Settings::default();
    let quote = best_of(&order(&[("d-1", "cat-main-course", "m", "30.00", 2)], &[]), &coupons, &settings);
    let answer = quote.to_json(&coupons);
    let gift = json!([{"code": "gift", "item_id": "d-901", "name": "酸梅汤", "quantity": 1, "value": "0.00"}]);
    assert_eq!((&answer["gifts"], &answer["payable"]), (&gift, &json!("60.00")));
    let without = order(&[("d-2", "cat-cold", "m", "30.00", 1)], &[]);
    assert_eq!(refused(given(&without, &coupons, &settings), &coupons), ["gift gift_condition"]);
}

#[test]
fn gifts_for_spending_and_the_same_as_bought() {
    let settings = Settings::default();
    let rules = json!([{"rule_type": "SPEND_FOR_GIFT", "params": {"amount": 200}}]);
    let value = json!({"gift_item_id": "d-9", "gift_value": "12.00", "gift_quantity": 2});
    let coupons = [coupon("gift", "free_item", value, rules, json!({}))];
    let short = order(&[("d", "c", "m", "150.00", 1)], &[]);
    let quote = best_of(&short, &coupons, &settings);
    assert_eq!(quote.unusable[0].refusal.reason, Reason::SpendForGift);
    assert_eq!(quote.hints[0].save.to_string(), "24.00");
    let quote = best_of(&order(&[("d", "c", "m", "200.00", 1)], &[]), &coupons, &settings);
    assert_eq!((quote.priced.gifts[0].quantity, quote.priced.gifts[0].value.to_string()), (2, "12.00".into()));

    let rules = json!([{"rule_type": "CONDITIONAL_GIFT_ITEM", "params": {"required_item_ids": ["tea", "cake"]}}]);
    let same = |more: Value| {
        let mut value = json!({"same_as_bought": true});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        [coupon("same", "free_item", value, rules.clone(), json!({}))]
    };
    let cart =
        order(&[("tea", "c", "m", "8.00", 3), ("cake", "c", "m", "20.00", 2), ("soup", "c", "m", "5.00", 9)], &[]);
    let gifts = |coupons: &[Coupon]| -> Vec<(String, u32, String)> {
        let quote = best_of(&cart, coupons, &settings);
        quote.priced.gifts.into_iter().map(|gift| (gift.item_id, gift.quantity, gift.value.to_string())).collect()
    };
    let gift = |item: &str, quantity, value: &str| (item.to_owned(), quantity, value.to_owned());
    assert_eq!(gifts(&same(json!({}))), [gift("tea", 1, "8.00")]);
    assert_eq!(gifts(&same(json!({"max_gifts": 4}))), [gift("tea", 3, "8.00"), gift("cake", 1, "20.00")]);
    assert_eq!(
        gifts(&same(json!({"buy_quantity": 2, "max_gifts": 9}))),
        [gift("tea", 1, "8.00"), gift("cake", 1, "20.00")]
    );
    let many = same(json!({"buy_quantity": 6}));
    let refusal = given(&cart, &many, &settings).unwrap_err().0.remove(0).refusal;
    assert_eq!((refusal.reason, refusal.missing["quantity"].clone()), (Reason::GiftCondition, json!(1)));
}

#[test]
fn shipping_is_never_above_the_fee_and_a_merchants_only_on_its_own() {
    let settings = Settings::default();
    let cart =
        order(&[("a", "c", "m-1", "50.00", 1), ("b", "c", "m-2", "50.00", 1)], &[("m-1", "8.00"), ("m-2", "5.00")]);
    let merchant = json!({"issuer": "merchant", "issuer_id": "m-1"});
    let own = [coupon("own", "shipping", json!({"amount": "10.00"}), json!([]), merchant)];
    let quote = best_of(&cart, &own, &settings);
    assert_eq!(payable(&quote), "105.00");
    assert_eq!(quote.to_json(&own)["coupons"][0]["shipping"], json!([{"merchant_id": "m-1", "share": "8.00"}]));
    assert!(quote.priced.coupons[0].lines.is_empty());
    let all = [coupon("all", "shipping", json!({"amount": "99.00"}), json!([]), json!({}))];
    assert_eq!(payable(&best_of(&cart, &all, &settings)), "100.00");
    let free = order(&[("a", "c", "m-1", "50.00", 1)], &[("m-1", "0.00")]);
    assert_eq!(refused(given(&free, &all, &settings), &all), ["all no_benefit"]);
}

fn off(code: &str, amount: &str, more: Value) -> Coupon {
    coupon(code, "cash_voucher", json!({"amount": amount}), json!([]), more)
}

fn merchant(id: &str) -> Value {
    json!({"issuer": "merchant", "issuer_id": id})
}

#[test]
fn classes_stack_and_each_class_holds_one() {
    let settings = Settings::default();
    let cart =
        order(&[("a", "c", "m-1", "50.00", 1), ("b", "c", "m-2", "50.00", 1)], &[("m-1", "8.00"), ("m-2", "5.00")]);
    let coupons = [
        off("merchant-1", "5.00", merchant("m-1")),
        off("merchant-1b", "4.00", merchant("m-1")),
        off("merchant-2", "3.00", merchant("m-2")),
        off("platform", "2.00", json!({})),
        off("platform-b", "1.00", json!({})),
        off("special", "7.00", json!({"special": true})),
        coupon("ship", "shipping", json!({"amount": "6.00"}), json!([]), json!({})),
        coupon("packet", "red_packet", json!({}), json!([]), json!({"amount": "1.50"})),
    ];
    let quote = best_of(&cart, &coupons, &settings);
    assert_eq!(used(&quote, &coupons), ["merchant-1", "merchant-2", "packet", "platform", "ship", "special"]);
    assert_eq!(payable(&quote), "88.50");
    let order_of_computing: Vec<&str> =
        quote.priced.coupons.iter().map(|applied| &*coupons[applied.coupon].code).collect();
    assert_eq!(order_of_computing, ["merchant-1", "merchant-2", "platform", "special", "ship", "packet"]);
    let reasons: Vec<_> = quote.unusable.iter().map(|unusable| unusable.refusal.reason).collect();
    assert_eq!(reasons, [Reason::NotStackable, Reason::NotStackable]);
    let two = [coupons[0].clone(), coupons[1].clone()];
    assert_eq!(refused(given(&cart, &two, &settings), &two), ["merchant-1 not_stackable", "merchant-1b not_stackable"]);

    let mut strict = settings.clone();
    strict.stacking.merchant = MerchantLimit::PerOrder;
    assert_eq!(
        used(&best_of(&cart, &coupons, &strict), &coupons),
        ["merchant-1", "packet", "platform", "ship", "special"]
    );
    strict.stacking.mode = StackingMode::OnePerOrder;
    assert_eq!(used(&best_of(&cart, &coupons, &strict), &coupons), ["special"]);
}

#[test]
fn stackability_opens_and_closes() {
    let settings = Settings::default();
    let cart = order(&[("a", "c", "m-1", "100.00", 1)], &[("m-1", "8.00")]);
    let with = |code: &str, kind: &str, value: Value, params: Value, more: Value| {
        coupon(code, kind, value, json!([{"rule_type": "STACKABILITY", "params": params}]), more)
    };
    let stack = |code: &str, amount: &str, params: Value| {
        with(code, "cash_voucher", json!({"amount": amount}), params, json!({}))
    };
    let open = json!({"allow_stacking": true});
    let check = |coupons: &[Coupon], expected: &[&str]| {
        assert_eq!(used(&best_of(&cart, coupons, &settings), coupons), expected);
    };
    // Both allow it, or it does not hold.
    check(&[stack("a", "5", open.clone()), stack("b", "4", open.clone())], &["a", "b"]);
    check(&[stack("a", "5", open.clone()), off("b", "4", json!({}))], &["a"]);
    // Alone, or alone among goods coupons.
    let ship = coupon("ship", "shipping", json!({"amount": "3.00"}), json!([]), json!({}));
    let special = off("special", "4.00", json!({"special": true}));
    let alone = stack("alone", "6", json!({"allow_stacking": false}));
    check(&[alone.clone(), ship.clone(), special.clone()], &["ship", "special"]);
    check(&[alone, ship.clone()], &["alone"]);
    let goods = stack("alone", "6", json!({"allow_stacking": false, "alone_scope": "goods"}));
    check(&[goods, ship.clone(), special.clone()], &["alone", "ship"]);
    // Kinds that may not stand beside it, from either side.
    let picky = stack("picky", "6", json!({"exclude_coupon_types": ["SHIPPING"]}));
    check(&[picky.clone(), ship.clone(), special.clone()], &["picky", "special"]);
    let set = [ship.clone(), picky];
    assert_eq!(refused(given(&cart, &set, &settings), &set), ["ship not_stackable", "picky not_stackable"]);
    // At most N others beside it.
    let few = stack("few", "6", json!({"max_stacked": 1}));
    check(&[few, ship, special], &["few", "special"]);
    // Red packets: several where each allows it.
    let packet = |code: &str, params: Value| with(code, "red_packet", json!({}), params, json!({"amount": "2.00"}));
    check(&[packet("r1", open.clone()), packet("r2", open)], &["r1", "r2"]);
    check(&[packet("r1", json!({"max_stacked": 5})), packet("r2", json!({"max_stacked": 5}))], &["r1"]);
}

#[test]
fn coupons_come_first_then_red_packets_and_percentages_take_of_what_is_left() {
    let settings = Settings::default();
    let cart = order(&[("a", "c", "m-1", "100.00", 1)], &[]);
    let percent = coupon("p", "percentage_discount", json!({"percentage": 50, "max_off": 99}), json!([]), json!({}));
    let packet = coupon("r", "red_packet", json!({}), json!([]), json!({"amount": "20.00"}));
    let set = [packet, percent, off("m", "10.00", merchant("m-1"))];
    let discounts: Vec<String> = given(&cart, &set, &settings)
        .unwrap()
        .coupons
        .iter()
        .map(|applied| format!("{} {}", set[applied.coupon].code, applied.discount))
        .collect();
    assert_eq!(discounts, ["m 10.00", "p 45.00", "r 20.00"]);
}

#[test]
fn thresholds_go_by_original_prices_unless_by_what_is_left() {
    let cart = order(&[("a", "c", "m-1", "100.00", 1)], &[]);
    let set = [
        off("m", "10.00", merchant("m-1")),
        coupon("f", "full_reduction", json!({"amount": "20.00"}), spend("100.00"), json!({})),
    ];
    let settings = Settings::default();
    assert_eq!(given(&cart, &set, &settings).unwrap().payable.to_string(), "70.00");
    let remaining = Settings { threshold_basis: ThresholdBasis::Remaining, ..settings };
    let refusal = given(&cart, &set, &remaining).unwrap_err().0.remove(0);
    assert_eq!((refusal.coupon, refusal.refusal.detail), (1, "spend 10.00 more".to_owned()));
    assert_eq!(used(&best_of(&cart, &set, &remaining), &set), ["f"]);
}

#[test]
fn zero_totals_leave_one_minor_unit_or_nothing() {
    let cart = order(&[("a", "c", "m-1", "10.00", 1)], &[("m-1", "5.00")]);
    let set =
        [off("all", "99.00", json!({})), coupon("ship", "shipping", json!({"amount": "9.00"}), json!([]), json!({}))];
    let settings = Settings::default();
    let priced = given(&cart, &set, &settings).unwrap();
    assert_eq!(priced.payable.to_string(), "0.01");
    assert_eq!(priced.coupons[0].discount.to_string(), "10.00");
    assert_eq!(priced.coupons[1].discount.to_string(), "4.99");
    let zero = Settings { allow_zero_total: true, ..settings.clone() };
    assert_eq!(given(&cart, &set, &zero).unwrap().payable.to_string(), "0.00");
    // A unit of a currency without minor units.
    let mut yen = cart.clone();
    yen.currency = money::Currency::of("JPY").unwrap();
    let set = [coupon("yen", "cash_voucher", json!({"amount": 9_999}), json!([]), json!({"currency": "JPY"}))];
    assert_eq!(given(&yen, &set, &settings).unwrap().payable.to_string(), "500");
    let half = Settings { max_order_discount_ratio: rust_decimal::Decimal::new(5, 1), ..settings };
    assert_eq!(given(&yen, &set, &half).unwrap().payable.to_string(), "750");
    assert_eq!(refused(given(&cart, &set, &half), &set), ["yen currency"]);
}

#[test]
fn a_discount_is_shared_by_largest_remainder_with_ties_by_line_id() {
    let cart = order(&[("a", "c", "m", "1.00", 1), ("b", "c", "m", "1.00", 1), ("d", "c", "m", "1.00", 1)], &[]);
    let set = [off("x", "0.50", json!({}))];
    let shares: Vec<String> = given(&cart, &set, &Settings::default()).unwrap().coupons[0]
        .lines
        .iter()
        .map(|line| format!("{}: {}", line.line_id, line.share))
        .collect();
    assert_eq!(shares, ["1: 0.17", "2: 0.17", "3: 0.16"]);
}

#[test]
fn ties_are_decided_as_written() {
    let cart = order(&[("a", "c", "m-1", "100.00", 1)], &[]);
    let settings = Settings::default();
    let soon = |mut coupon: Coupon| {
        coupon.expires -= 1;
        coupon
    };
    let full = |code: &str| coupon(code, "full_reduction", json!({"amount": 10}), spend("20"), json!({}));
    let percent = |code: &str| {
        coupon(code, "percentage_discount", json!({"percentage": 10, "max_off": 99}), json!([]), json!({}))
    };
    let cash = |code: &str, rules: Value| coupon(code, "cash_voucher", json!({"amount": 10}), rules, json!({}));
    let scope = json!([{"rule_type": "ITEM_DISCOUNT_SCOPE", "params": {"category_ids": ["c"]}}]);
    let app = json!([{"rule_type": "CHANNELS", "params": ["app"]}]);
    let wins = |winner: Coupon, loser: Coupon| {
        let code = winner.code.clone();
        for coupons in [[winner.clone(), loser.clone()], [loser, winner]] {
            assert_eq!(used(&best_of(&cart, &coupons, &settings), &coupons), std::slice::from_ref(&code));
            let user = User::default();
            let ranking = rank(&Case { order: &cart, user: &user, now: noon(), settings: &settings }, &coupons);
            assert_eq!(coupons[ranking.ranked[0].coupons[0].coupon].code, code);
        }
    };
    let free = json!([]);
    wins(soon(cash("z", free.clone())), full("a"));
    wins(full("z"), percent("a"));
    wins(percent("z"), cash("a", free.clone()));
    wins(cash("z", scope.clone()), cash("a", app.clone()));
    wins(cash("z", app), cash("a", free.clone()));
    wins(cash("a", free.clone()), cash("b", free.clone()));
    // A scope that holds the whole order changes nothing, and expiry comes first; among those that must be alone too.
    wins(soon(cash("z", free.clone())), cash("a", scope.clone()));
    let with = |rules: &Value, name: &str, params: Value| {
        let mut rules = rules.clone();
        rules.as_array_mut().unwrap().push(json!({"rule_type": name, "params": params}));
        rules
    };
    let alone = |rules: &Value| with(rules, "STACKABILITY", json!({"allow_stacking": false}));
    wins(soon(cash("z", alone(&free))), cash("a", alone(&scope)));
    wins(soon(cash("z", alone(&scope))), cash("a", alone(&free)));
    // Fewer coupons come before all of these, and more money before that.
    let five = |code: &str, more: Value| soon(off(code, "5.00", more));
    let both = [
        coupon("one", "cash_voucher", json!({"amount": 10}), free.clone(), json!({"special": true})),
        five("two", merchant("m-1")),
    ];
    assert_eq!(used(&best_of(&cart, &both, &settings), &both), ["one", "two"]);
    let little = order(&[("a", "c", "m-1", "10.01", 1)], &[]);
    assert_eq!(used(&best_of(&little, &both, &settings), &both), ["one"]);
}

#[test]
fn states_and_times_are_refused_by_their_reason() {
    let cart = order(&[("a", "c", "m-1", "100.00", 1)], &[]);
    let settings = Settings::default();
    let reason_of = |change: &dyn Fn(&mut Coupon)| {
        let mut coupons = [off("x", "1.00", json!({}))];
        change(&mut coupons[0]);
        refused(given(&cart, &coupons, &settings), &coupons).join("")
    };
    assert_eq!(reason_of(&|_| ()), "");
    assert_eq!(reason_of(&|coupon| coupon.state = State::Locked), "x locked");
    assert_eq!(reason_of(&|coupon| coupon.state = State::Used), "x used");
    assert_eq!(reason_of(&|coupon| coupon.state = State::Offered), "x offered");
    assert_eq!(reason_of(&|coupon| coupon.state = State::Revoked), "x revoked");
    assert_eq!(reason_of(&|coupon| coupon.expires = noon()), "x expired");
    assert_eq!(reason_of(&|coupon| coupon.valid_from = noon() + 1), "x not_yet_valid");
    let twice = [off("x", "1.00", json!({})), off("x", "1.00", json!({}))];
    assert_eq!(refused(given(&cart, &twice, &settings), &twice), ["x not_stackable"]);
}

#[test]
fn rules_of_time_place_and_company() {
    let settings = Settings::default();
    let rule = |name: &str, params: Value| json!([{"rule_type": name, "params": params}]);
    let slots = |list: Value| rule("VALID_TIME_SLOTS", list);
    // Placed on Thursday at noon; and on Friday at one in the morning.
    let night = at("2026-06-19T01:00:00+08:00");
    let over_midnight = json!([{"start": "22:00", "end": "02:00"}]);
    let both = |days: Value| {
        json!([
            {"rule_type": "VALID_TIME_SLOTS", "params": over_midnight},
            {"rule_type": "VALID_DAYS_OF_WEEK", "params": days},
        ])
    };
    let items = |logic: &str, ids: Value| rule("ITEM_ELIGIBILITY", json!({"item_ids": ids, "logic": logic}));
    let excluded = |logic: &str| rule("EXCLUDED_ITEMS", json!({"category_ids": ["c-2"], "logic": logic}));
    let scope = |id: &str| rule("ITEM_DISCOUNT_SCOPE", json!({"merchant_ids": [id]}));
    let cases = [
        (noon(), slots(json!([{"start": "11:00", "end": "14:00"}])), ""),
        (noon(), slots(json!([{"start": "11:00", "end": "12:00"}])), "time_slot"),
        (noon(), slots(json!([{"start": "12:00", "end": "24:00"}])), ""),
        (noon(), slots(over_midnight.clone()), "time_slot"),
        (night, slots(over_midnight.clone()), ""),
        (night, both(json!([4])), ""),
        (night, both(json!([5])), "day_of_week"),
        (noon(), rule("VALID_DAYS_OF_WEEK", json!([4])), ""),
        (noon(), rule("VALID_DAYS_OF_WEEK", json!([6, 7])), "day_of_week"),
        (noon(), rule("CHANNELS", json!(["app", "web"])), ""),
        (noon(), rule("CHANNELS", json!(["mini_program"])), "channel"),
        (noon(), items("any", json!(["a", "x"])), ""),
        (noon(), items("all", json!(["a", "b"])), ""),
        (noon(), items("all", json!(["a", "x"])), "item_eligibility"),
        (noon(), items("only", json!(["a"])), "item_eligibility"),
        (noon(), items("only", json!(["a", "b", "x"])), ""),
        (noon(), items("any", json!(["x"])), "item_eligibility"),
        (noon(), excluded("reject"), "excluded_items"),
        (noon(), excluded("ignore"), ""),
        (noon(), scope("m-1"), ""),
        (noon(), scope("m-9"), "scope_empty"),
        (noon(), rule("MINIMUM_SPEND", json!({"amount": 1, "max_amount": "30.00"})), ""),
        (noon(), rule("MINIMUM_SPEND", json!({"amount": 1, "max_amount": "29.99"})), "minimum_spend"),
    ];
    for (placed_at, rules, expected) in cases {
        let mut cart = order(&[("a", "c-1", "m-1", "10.00", 1), ("b", "c-2", "m-1", "20.00", 1)], &[]);
        cart.placed_at = placed_at;
        let coupons = [coupon("x", "cash_voucher", json!({"amount": 15}), rules.clone(), json!({}))];
        let result = given(&cart, &coupons, &settings);
        let word = result.as_ref().err().map_or("", |refused| refused.0[0].refusal.reason.word());
        assert_eq!(word, expected, "{rules}");
        if rules == excluded("ignore") {
            assert_eq!(result.unwrap().payable.to_string(), "20.00");
        }
    }
}

#[test]
fn gifts_of_any_price_stay_within_the_range_of_amounts() {
    let rules = json!([{"rule_type": "SPEND_FOR_GIFT", "params": {"amount": 1}}]);
    let value = json!({"same_as_bought": true, "gift_quantity": 1000, "max_gifts": 1000});
    let stack = json!({"rule_type": "STACKABILITY", "params": {"allow_stacking": true}});
    let mut rules = rules;
    rules.as_array_mut().unwrap().push(stack);
    let coupons: Vec<Coupon> = (0..400)
        .map(|at| coupon(&format!("g-{at:03}"), "free_item", value.clone(), rules.clone(), json!({})))
        .collect();
    let cart = order(&[("d", "c", "m", "999999999999.98", 1)], &[]);
    let quote = best_of(&cart, &coupons, &Settings::default());
    assert_eq!(quote.priced.coupons.len(), 400);
    // One coupon's gifts count for an order's highest total, whatever their price and number.
    assert_eq!(quote.priced.worth().0.to_string(), "400000000000000.00");
    assert_eq!(
        (quote.priced.gifts[0].quantity, quote.priced.gifts[0].value.to_string()),
        (1000, "999999999999.98".into())
    );
}

#[test]
fn a_gift_that_is_said_to_be_worth_nothing_is_no_benefit() {
    let rules = json!([{"rule_type": "SPEND_FOR_GIFT", "params": {"amount": 1}}]);
    let gift = |value: Value| [coupon("gift", "free_item", value, rules.clone(), json!({}))];
    let (cart, settings) = (order(&[("d", "c", "m", "10.00", 1)], &[]), Settings::default());
    let worthless = gift(json!({"gift_item_id": "g", "gift_value": "0.00"}));
    assert_eq!(refused(given(&cart, &worthless, &settings), &worthless), ["gift no_benefit"]);
    let unvalued = gift(json!({"gift_item_id": "g"}));
    assert_eq!(used(&best_of(&cart, &unvalued, &settings), &unvalued), ["gift"]);
}

#[test]
fn of_two_thresholds_the_higher_makes_the_hint_and_only_if_nothing_else_is_missing() {
    let rules = json!([
        {"rule_type": "MINIMUM_SPEND", "params": {"amount": 100}},
        {"rule_type": "SPEND_FOR_GIFT", "params": {"amount": 200}},
    ]);
    let settings = Settings::default();
    let cart = order(&[("d", "c", "m", "80.00", 1)], &[]);
    let gift = |more: Value| {
        let mut value = json!({"gift_item_id": "g", "gift_value": "12.00"});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        [coupon("gift", "free_item", value, rules.clone(), json!({}))]
    };
    let quote = best_of(&cart, &gift(json!({})), &settings);
    assert_eq!(quote.unusable[0].refusal.missing["amount"], "120.00");
    assert_eq!(quote.hints[0].text, "spend 120.00 more and save 12.00");
    assert_eq!(best_of(&cart, &gift(json!({"buy_quantity": 2})), &settings).hints, []);
}

#[test]
fn a_merchants_coupon_names_the_merchant_and_looks_at_its_own_lines() {
    let scope = json!({"rule_type": "ITEM_DISCOUNT_SCOPE", "params": {"category_ids": ["cat-roast-duck"]}});
    let ignore = json!({"rule_type": "EXCLUDED_ITEMS", "params": {"category_ids": ["c"], "logic": "ignore"}});
    let least = json!({"rule_type": "MINIMUM_SPEND", "params": {"amount": 100}});
    let of = |rules: Value| coupon("m", "cash_voucher", json!({"amount": 20}), rules, merchant("m-1"));
    let refusal =
        |cart: &Order, rules: Value| given(cart, &[of(rules)], &Settings::default()).unwrap_err().0.remove(0).refusal;
    let duck = order(&[("d", "cat-roast-duck", "m-1", "80.00", 1)], &[]);
    assert_eq!(refusal(&duck, json!([scope, least])).detail, "spend 20.00 more in cat-roast-duck of m-1");
    assert_eq!(refusal(&duck, json!([least])).detail, "spend 20.00 more in m-1");
    // What another merchant sells is not in the way.
    let elsewhere = order(&[("d", "c", "m-2", "80.00", 1)], &[]);
    assert_eq!(refusal(&elsewhere, json!([ignore])).reason, Reason::NoBenefit);
    assert_eq!(refusal(&elsewhere, json!([ignore, scope])).reason, Reason::ScopeEmpty);
    assert_eq!(refusal(&elsewhere, json!([ignore, scope])).detail, "add something of cat-roast-duck of m-1");
    let own = order(&[("d", "c", "m-1", "80.00", 1)], &[]);
    assert_eq!(refusal(&own, json!([ignore])).reason, Reason::ExcludedItems);
}
