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
    assert_eq!(Terms::stored(&percentage).unwrap().explain(), "15 % off, at most 20.00");
}

#[test]
fn an_eligibility_without_a_scope_is_warned_of() {
    let rules = rule("ITEM_ELIGIBILITY", json!({"item_ids": ["a"]}));
    let (_, warnings) = terms("cash_voucher", json!({"amount": 1}), rules, json!({})).unwrap();
    assert_eq!((&*warnings[0].field, warnings[0].code), ("usage_rules[0]", "discount_not_scoped"));
    let (_, warnings) = terms("cash_voucher", json!({"amount": 1}), spend("9"), json!({})).unwrap();
    assert_eq!(warnings, []);
}
