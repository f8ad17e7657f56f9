//! Creation checks that depend on kind and rules, as a table.

use super::*;

fn complaints(kind: &str, value: Value, rules: Value, more: Value) -> Vec<String> {
    let errors = terms(kind, value, rules, more).err().unwrap_or_default();
    errors.into_iter().map(|error| format!("{} {}", error.field, error.code)).collect()
}

fn rule(name: &str, params: Value) -> Value {
    json!([{"rule_type": name, "params": params}])
}

#[test]
fn kinds_check_their_values() {
    let none = || json!({});
    let gift = rule("SPEND_FOR_GIFT", json!({"amount": 200}));
    let percent = |percentage: &str| json!({"percentage": percentage, "max_off": 20});
    let full = |amount: &str| json!({"amount": amount});
    let cases: Vec<(&str, Value, Value, Value, &[&str])> = vec![
        ("cash_voucher", json!({"amount": 10}), json!([]), none(), &[]),
        ("cash_voucher", json!({"amount": "0.001"}), json!([]), none(), &["value.amount too_precise"]),
        (
            "cash_voucher",
            json!({"amount": "0.5"}),
            json!([]),
            json!({"currency": "JPY"}),
            &["value.amount too_precise"],
        ),
        ("cash_voucher", json!({"amount": "0.005"}), json!([]), json!({"currency": "KWD"}), &[]),
        ("cash_voucher", json!({"amount": 1}), json!([]), json!({"currency": "ABC"}), &["currency unknown_value"]),
        ("full_reduction", full("20"), spend("100"), none(), &[]),
        ("full_reduction", full("20"), json!([]), none(), &["usage_rules threshold_required"]),
        ("full_reduction", full("20"), spend("20"), none(), &["value.amount not_below_threshold"]),
        ("full_reduction", full("80"), spend("100"), none(), &[]),
        ("full_reduction", full("80.01"), spend("100"), none(), &["value.amount above_max_discount_ratio"]),
        ("full_reduction", full("5"), spend("5.01"), json!({"max_discount_ratio": 1}), &[]),
        ("percentage_discount", percent("15"), json!([]), none(), &[]),
        ("percentage_discount", percent("12.5"), json!([]), none(), &[]),
        ("percentage_discount", percent("0.99"), json!([]), none(), &["value.percentage out_of_range"]),
        ("percentage_discount", percent("90.1"), json!([]), none(), &["value.percentage out_of_range"]),
        ("percentage_discount", percent("81"), json!([]), none(), &["value.percentage above_max_discount_ratio"]),
        ("percentage_discount", percent("90"), json!([]), json!({"max_discount_ratio": "0.9"}), &[]),
        ("shipping", json!({"amount": 8}), json!([]), none(), &[]),
        ("free_item", json!({"gift_item_id": "d"}), gift.clone(), none(), &[]),
        ("free_item", json!({"gift_item_id": "d"}), json!([]), none(), &["usage_rules gift_condition_required"]),
        ("cash_voucher", json!({"amount": 10}), gift, none(), &["usage_rules[0].rule_type wrong_kind"]),
        ("red_packet", json!({}), json!([]), none(), &[]),
    ];
    for (kind, value, rules, more, expected) in cases {
        assert_eq!(complaints(kind, value.clone(), rules, more), expected, "{kind} {value}");
    }
}

#[test]
fn rules_check_their_parameters() {
    let at = |name: &str| format!("usage_rules[0].{name}");
    let cases = [
        ("MINIMUM_SPENT", json!({"amount": 1}), at("rule_type unknown_value")),
        ("MINIMUM_SPEND", json!({}), at("params.amount required")),
        ("MINIMUM_SPEND", json!({"amount": 0}), at("params.amount out_of_range")),
        ("MINIMUM_SPEND", json!({"amount": -1}), at("params.amount out_of_range")),
        ("MINIMUM_SPEND", json!({"amount": 2, "max_amount": 1}), at("params.max_amount out_of_range")),
        ("MINIMUM_SPEND", json!({"amount": 2, "amounts": 1}), at("params.amounts unknown_field")),
        ("ITEM_ELIGIBILITY", json!({"item_ids": []}), at("params required")),
        ("ITEM_ELIGIBILITY", json!({"item_ids": ["a"], "logic": "SOME"}), at("params.logic unknown_value")),
        ("ITEM_DISCOUNT_SCOPE", json!({"item_ids": ["a"], "logic": "ANY"}), at("params.logic unknown_field")),
        ("EXCLUDED_ITEMS", json!({"item_ids": ["a"], "logic": "ANY"}), at("params.logic unknown_value")),
        (
            "STACKABILITY",
            json!({"exclude_coupon_types": ["COUPON"]}),
            at("params.exclude_coupon_types[0] unknown_value"),
        ),
        ("STACKABILITY", json!({"alone_scope": "goods"}), at("params.alone_scope contradiction")),
        ("VALID_TIME_SLOTS", json!([]), at("params length")),
        ("VALID_TIME_SLOTS", json!([{"start": "25:00", "end": "26:00"}]), at("params[0].start time_of_day")),
        ("VALID_TIME_SLOTS", json!([{"start": "11:00", "end": "11:00"}]), at("params[0].start out_of_range")),
        ("VALID_DAYS_OF_WEEK", json!([0]), at("params[0] out_of_range")),
        ("VALID_DAYS_OF_WEEK", json!([1, 1]), at("params[1] repeated")),
        ("VALID_DAYS_OF_WEEK", json!({"days": [1]}), at("params type")),
        ("CHANNELS", json!([1]), at("params[0] length")),
        ("USER_SEGMENTS", json!({}), at("params required")),
        ("USER_SEGMENTS", json!({"level": "gold"}), at("params.level unknown_field")),
    ];
    for (name, params, expected) in cases {
        let found = complaints("cash_voucher", json!({"amount": 10}), rule(name, params.clone()), json!({}));
        assert!(found.contains(&expected), "{name} {params}: {found:?} lacks {expected}");
    }
    let twice = json!([
        {"rule_type": "MINIMUM_SPEND", "params": {"amount": 1}},
        {"rule_type": "minimum_spend", "params": {"amount": 2}},
    ]);
    assert_eq!(
        complaints("cash_voucher", json!({"amount": 1}), twice, json!({})),
        ["usage_rules[1].rule_type repeated"]
    );
}

#[test]
fn settings_bind_creation_and_not_what_is_stored() {
    let strict = Settings {
        require_threshold: true,
        max_discount_ratio: "0.5".parse().unwrap(),
        kinds: vec!["cash_voucher".into()],
        ..Settings::default()
    };
    let percentage = definition("percentage_discount", json!({"percentage": 15, "max_off": 20}), json!([]), json!({}));
    let errors = Terms::of(&percentage, &strict).unwrap_err();
    let fields: Vec<&str> = errors.iter().map(|error| error.code).collect();
    assert_eq!(fields, ["disabled", "out_of_range", "threshold_required"]);
    assert_eq!(Terms::stored(&percentage).unwrap().explain(None), ["15 % off, at most 20.00"]);
}

#[test]
fn kinds_and_rules_say_in_words_what_they_give_and_demand() {
    let ids = |ids: &[&str]| json!({ "item_ids": ids });
    let with = |ids: &[&str], logic: &str| json!({"item_ids": ids, "logic": logic});
    let slots = json!([{"start": "11:00", "end": "14:00"}, {"start": "22:00", "end": "02:30"}]);
    let cases = [
        ("MINIMUM_SPEND", json!({"amount": 100}), "spend at least 100.00"),
        ("MINIMUM_SPEND", json!({"amount": 1, "max_amount": "9.5"}), "spend at least 1.00 and at most 9.50"),
        ("ITEM_ELIGIBILITY", ids(&["a", "b"]), "for orders with a or b"),
        ("ITEM_ELIGIBILITY", with(&["a", "b"], "ALL"), "for orders with a and b"),
        ("ITEM_ELIGIBILITY", with(&["a", "b"], "ONLY"), "only for orders of nothing but a or b"),
        ("ITEM_DISCOUNT_SCOPE", ids(&["a", "b", "c", "d"]), "only on a, b, c and more"),
        ("EXCLUDED_ITEMS", ids(&["a"]), "not for orders with a"),
        ("EXCLUDED_ITEMS", with(&["a"], "ignore"), "nothing off a, which does not count"),
        ("STACKABILITY", json!({}), ""),
        ("STACKABILITY", json!({"allow_stacking": false}), "used alone"),
        (
            "STACKABILITY",
            json!({"allow_stacking": false, "alone_scope": "goods"}),
            "used alone, or with shipping coupons",
        ),
        (
            "STACKABILITY",
            json!({"allow_stacking": true, "exclude_coupon_types": ["SHIPPING", "free_item"], "max_stacked": 2}),
            "stacks with coupons of its class that stack too, not beside shipping, free_item, at most 2 others beside it",
        ),
        ("VALID_TIME_SLOTS", slots, "usable at 11:00-14:00, 22:00-02:30"),
        ("VALID_DAYS_OF_WEEK", json!([7, 6]), "usable on weekdays 6, 7 (Monday is 1)"),
        ("CHANNELS", json!(["app", "web"]), "usable through app, web"),
        (
            "USER_SEGMENTS",
            json!({"levels": ["gold", "jade"], "tags": ["vip"], "new_user_days": 30, "first_order": true}),
            "for users of level gold or jade, tagged vip, registered within 30 days, on their first order",
        ),
    ];
    for (name, params, expected) in cases {
        let (terms, _) = terms("cash_voucher", json!({"amount": 10}), rule(name, params), json!({})).unwrap();
        let mut sentences = vec!["10.00 off"];
        sentences.extend(Some(expected).filter(|sentence| !sentence.is_empty()));
        assert_eq!(terms.explain(None), sentences);
    }

    // The threshold says where it counts; rules come in the order in which they are asked.
    let scope = json!({"rule_type": "ITEM_DISCOUNT_SCOPE", "params": {"category_ids": ["cat-roast-duck"]}});
    let least = json!({"rule_type": "MINIMUM_SPEND", "params": {"amount": 100}});
    let merchant = json!({"issuer": "merchant", "issuer_id": "m-1"});
    let (duck, _) = terms("full_reduction", json!({"amount": 20}), json!([least, scope]), merchant).unwrap();
    assert_eq!(
        duck.explain(None),
        ["20.00 off", "only on cat-roast-duck", "spend at least 100.00 in cat-roast-duck of m-1"]
    );
    let drink = json!({"gift_item_id": "d-901", "gift_item_name": "酸梅汤"});
    let course = rule("CONDITIONAL_GIFT_ITEM", json!({"required_category_ids": ["cat-main-course"]}));
    let (drink, _) = terms("free_item", drink, course, json!({})).unwrap();
    assert_eq!(drink.explain(None), ["1 x 酸梅汤 free", "buy cat-main-course"]);
    let more = json!({"same_as_bought": true, "buy_quantity": 2});
    let (more, _) = terms("free_item", more, rule("SPEND_FOR_GIFT", json!({"amount": 9})), json!({})).unwrap();
    assert_eq!(more.explain(None), ["buy 2, get 1 free", "spend at least 9.00"]);
    let (ship, _) = terms("shipping", json!({"amount": 5}), json!([]), json!({"currency": "JPY"})).unwrap();
    assert_eq!(ship.explain(None), ["5 off shipping"]);
    // A red packet's coupon says itself what it is worth.
    let (packet, _) = terms("red_packet", json!({}), json!([]), json!({})).unwrap();
    assert_eq!(packet.explain(None), ["its own amount off"]);
    assert_eq!(packet.explain(Some("3.3300".parse().unwrap())), ["3.33 off"]);
}

#[test]
fn an_eligibility_without_a_scope_is_warned_of() {
    let rules = rule("ITEM_ELIGIBILITY", json!({"item_ids": ["a"]}));
    let (_, warnings) = terms("cash_voucher", json!({"amount": 1}), rules, json!({})).unwrap();
    assert_eq!((&*warnings[0].field, warnings[0].code), ("usage_rules[0]", "discount_not_scoped"));
    let (_, warnings) = terms("cash_voucher", json!({"amount": 1}), spend("9"), json!({})).unwrap();
    assert_eq!(warnings, []);
}
