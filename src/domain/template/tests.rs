//! Creation checks as a table, and the round trip as a property.

use proptest::prelude::*;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::*;
use crate::domain::fields::FieldError;

fn at(text: &str) -> Millis {
    chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
}

fn now() -> Millis {
    at("2026-06-01T00:00:00+08:00")
}

/// The least that a template needs.
fn least() -> Value {
    json!({
        "name": "618", "kind": "full_reduction", "value": {"amount": "20.00"}, "stock": {"total": 5000},
        "claim_window": {"starts_at": "2026-06-18T00:00:00+08:00", "ends_at": "2026-06-19T00:00:00+08:00"},
        "validity": {"type": "relative", "days": 7},
    })
}

fn with(path: &str, value: Value) -> Value {
    let mut body = least();
    let mut slot = &mut body;
    for name in path.split('.') {
        slot = slot.as_object_mut().unwrap().entry(name).or_insert_with(|| json!({}));
    }
    *slot = value;
    body
}

fn named(result: Result<Definition, Vec<FieldError>>) -> Vec<(String, &'static str)> {
    result.err().unwrap_or_default().into_iter().map(|error| (error.field, error.code)).collect()
}

#[test]
fn what_is_absent_takes_the_default() {
    let definition = parse(&least(), now()).unwrap();
    assert_eq!(definition.issuer, Issuer::Platform);
    assert_eq!(definition.currency, "CNY");
    assert_eq!(definition.max_discount_ratio, Decimal::new(8, 1));
    assert_eq!(definition.timezone, Tz::Asia__Shanghai);
    assert_eq!(definition.limits, Limits { per_user: 1, per_user_daily: None, use_per_user: None });
    assert_eq!(definition.distribution, [Distribution::Claim]);
    assert!(definition.quotas && definition.audience.is_none() && definition.ack.is_none());
    let written = definition.to_json();
    assert_eq!(written["claim_window"]["starts_at"], "2026-06-18T00:00:00.000+08:00");
    assert_eq!(written["gift"]["offer_hours"], 24);
}

#[test]
fn what_the_sources_write_is_accepted() {
    let accepted = [
        ("kind", json!("FULL_REDUCTION")),
        ("value", json!({"amount": 20})),
        ("name", json!("618 满100减20")),
        ("name", json!("1 < 2 & 3 > 2")),
        ("description", json!("line\nline")),
        ("stock.total", json!(-1)),
        ("stock.total", json!((1u64 << 40) - 1)),
        ("stock.daily", json!(5000)),
        ("limits.per_user", json!(10)),
        ("max_discount_ratio", json!(1)),
        ("max_discount_ratio", Value::Null),
        ("distribution", json!(["CLAIM"])),
        ("audience", json!({})),
        ("audience", json!({"new_user_days": 30, "levels": ["gold"], "user_list_id": null})),
        ("gift", json!({"allowed": true})),
        ("gift", json!({"allowed": false, "max_hops": 255, "receiver_limit": false, "offer_hours": 168})),
        ("refund", json!({"partial": "PROPORTIONAL"})),
        ("refund", json!({"partial": "restore", "window_days": 0, "extend_days": 7, "returnable": null})),
        ("limits.use_per_user", json!(3)),
        ("notifications", json!({"expiry_days": [3, 1]})),
        ("wide", json!(false)),
        ("ack", json!("Postgres")),
        ("ack", json!("replica")),
        ("currency", json!("usd")),
        ("validity", json!({"type": "FIXED", "from": "2026-06-18T00:00:00Z", "until": "2026-07-18T00:00:00Z"})),
        ("usage_rules", json!([{"rule_type": "minimum_spend", "params": {"amount": 100}}])),
        ("rule_set", json!("满100")),
        ("usage_rules", json!([{"rule_type": "VALID_DAYS_OF_WEEK", "params": [1, 7]}])),
    ];
    for (path, value) in accepted {
        assert_eq!(named(parse(&with(path, value.clone()), now())), [], "{path} {value}");
    }
    let kinds = [
        ("CASH_VOUCHER", json!({"amount": 10})),
        ("PERCENTAGE_DISCOUNT", json!({"percentage": 15, "max_off": 20})),
        ("FREE_ITEM", json!({"gift_item_id": "d-901", "gift_item_name": "酸梅汤"})),
        ("FREE_ITEM", json!({"same_as_bought": true, "buy_quantity": 1, "max_gifts": 2, "gift_value": 0})),
        ("RED_PACKET", json!({})),
    ];
    for (kind, value) in kinds {
        let mut body = with("kind", json!(kind));
        body["value"] = value;
        assert_eq!(named(parse(&body, now())), [], "{kind}");
    }
    let exact = parse(&with("value", serde_json::from_str(r#"{"amount":0.10}"#).unwrap()), now()).unwrap();
    assert_eq!(exact.value, json!({"amount": "0.10"}));
}

#[test]
fn each_violation_is_named() {
    let fixed = |from: &str, until: &str| json!({"type": "fixed", "from": from, "until": until});
    let long = |n: usize| json!("x".repeat(n));
    let cases = [
        ("name", json!("x"), "name", "length"),
        ("name", long(101), "name", "length"),
        ("name", json!(" x "), "name", "length"),
        ("name", json!("a\u{0}b"), "name", "control_character"),
        ("name", json!("<b>618</b>"), "name", "markup"),
        ("name", Value::Null, "name", "required"),
        ("name", json!(618), "name", "type"),
        ("description", long(1001), "description", "length"),
        ("description", json!("<SCRIPT src=x>"), "description", "markup"),
        ("description", json!("&lt;script&gt;"), "description", "markup"),
        ("description", json!("JavaScript:alert(1)"), "description", "markup"),
        ("issuer", json!("bank"), "issuer", "unknown_value"),
        ("issuer", json!("merchant"), "issuer_id", "required"),
        ("issuer_id", json!("m-1"), "issuer_id", "platform_has_none"),
        ("kind", json!("voucher"), "kind", "unknown_value"),
        ("value", json!({"amount": 0}), "value.amount", "out_of_range"),
        ("value", json!({"amount": "-1"}), "value.amount", "out_of_range"),
        ("value", json!({"amount": "1e2"}), "value.amount", "decimal"),
        ("value", json!({}), "value.amount", "required"),
        ("value", json!({"amount": 1, "max_off": 2}), "value.max_off", "unknown_field"),
        ("value", json!([]), "value", "type"),
        ("currency", json!("RMBY"), "currency", "currency"),
        ("max_discount_ratio", json!(0), "max_discount_ratio", "out_of_range"),
        ("max_discount_ratio", json!("1.01"), "max_discount_ratio", "out_of_range"),
        ("distribution", json!([]), "distribution", "length"),
        ("distribution", json!(["claim", "manual"]), "distribution[1]", "not_built"),
        ("distribution", json!(["mail"]), "distribution[0]", "unknown_value"),
        ("distribution", json!(["claim", "claim"]), "distribution[1]", "repeated"),
        ("timezone", json!("Mars/Olympus"), "timezone", "timezone"),
        ("stock", Value::Null, "stock", "required"),
        ("stock.total", json!(0), "stock.total", "out_of_range"),
        ("stock.total", json!(-2), "stock.total", "out_of_range"),
        ("stock.total", json!(1.5), "stock.total", "out_of_range"),
        ("stock.total", json!("5"), "stock.total", "type"),
        ("stock.total", json!(1u64 << 40), "stock.total", "out_of_range"),
        ("stock.daily", json!(5001), "stock.daily", "above_total"),
        ("stock.daily", json!(0), "stock.daily", "out_of_range"),
        ("stock.weekly", json!(1), "stock.weekly", "unknown_field"),
        ("ack", json!("hope"), "ack", "unknown_value"),
        ("limits.per_user", json!(0), "limits.per_user", "out_of_range"),
        ("limits.per_user", json!(11), "limits.per_user", "out_of_range"),
        ("limits.per_user_daily", json!(2), "limits.per_user_daily", "above_per_user"),
        ("limits.per_user_period", json!(1), "limits.per_user_period", "not_built"),
        ("limits.use_per_user", json!(0), "limits.use_per_user", "out_of_range"),
        ("claim_window", Value::Null, "claim_window", "required"),
        ("claim_window.ends_at", json!("2026-06-18T00:00:00+08:00"), "claim_window.ends_at", "not_after_start"),
        ("claim_window.starts_at", json!("2026-06-18"), "claim_window.starts_at", "time"),
        ("claim_window.starts_at", json!("1999-06-18T00:00:00Z"), "claim_window.starts_at", "time"),
        ("validity", Value::Null, "validity", "required"),
        ("validity", json!({"type": "forever"}), "validity.type", "unknown_value"),
        ("validity.days", json!(0), "validity.days", "out_of_range"),
        ("validity.days", json!(366), "validity.days", "out_of_range"),
        ("validity.delay_days", json!(-1), "validity.delay_days", "out_of_range"),
        ("validity.from", json!("2026-06-18T00:00:00Z"), "validity.from", "unknown_field"),
        ("validity", fixed("2026-07-01T00:00:00Z", "2026-07-01T00:00:00Z"), "validity.until", "not_after_from"),
        (
            "validity",
            fixed("2026-06-01T00:00:00Z", "2026-06-18T12:00:00Z"),
            "validity.until",
            "ends_before_claim_window",
        ),
        ("audience", json!({"levels": [""]}), "audience.levels[0]", "length"),
        ("audience", json!({"new_user_days": 0}), "audience.new_user_days", "out_of_range"),
        ("audience", json!({"first_order": true}), "audience.first_order", "not_built"),
        ("audience", json!({"age": 18}), "audience.age", "unknown_field"),
        ("quotas", json!("yes"), "quotas", "type"),
        ("usage_rules", json!({"min_spend": 100}), "usage_rules", "type"),
        ("usage_rules", json!(["x"]), "usage_rules[0]", "type"),
        ("usage_rules", json!([{"params": {}}]), "usage_rules[0].rule_type", "required"),
        ("usage_rules", json!([{"rule_type": "A", "params": 1}]), "usage_rules[0].params", "type"),
        ("usage_rules", json!([{"rule_type": "A", "params": {"\u{0}": 1}}]), "usage_rules[0].params", "not_storable"),
        ("usage_rules", json!([{"rule_type": "A", "params": {}, "when": 1}]), "usage_rules[0].when", "unknown_field"),
        ("usage_rules", json!(vec![json!({"rule_type": "A", "params": {}}); 51]), "usage_rules", "too_many"),
        ("rule_set", json!("b"), "rule_set", "length"),
        ("rule_set", json!(7), "rule_set", "type"),
        ("campaign_id", json!(7), "campaign_id", "not_built"),
        ("wide", json!(true), "wide", "not_built"),
        ("gift", json!([]), "gift", "type"),
        ("gift", json!({"allowed": "yes"}), "gift.allowed", "type"),
        ("gift", json!({"max_hops": 0}), "gift.max_hops", "out_of_range"),
        ("gift", json!({"max_hops": 256}), "gift.max_hops", "out_of_range"),
        ("gift", json!({"offer_hours": 169}), "gift.offer_hours", "out_of_range"),
        ("gift", json!({"offer_hours": 0.5}), "gift.offer_hours", "out_of_range"),
        ("gift", json!({"hops": 1}), "gift.hops", "unknown_field"),
        ("refund", json!({"window_days": -1}), "refund.window_days", "out_of_range"),
        ("refund", json!({"partial": "half"}), "refund.partial", "unknown_value"),
        ("refund", json!({"fee": 1}), "refund.fee", "unknown_field"),
        ("notifications", json!({"expiry_days": []}), "notifications.expiry_days", "not_built"),
        ("colour", json!("red"), "colour", "unknown_field"),
    ];
    for (path, value, field, code) in cases {
        let found = named(parse(&with(path, value.clone()), now()));
        assert_eq!(found, [(field.to_owned(), code)], "{path} {value}");
    }
    let mut special = with("special", json!(true));
    special["issuer"] = json!("streamer");
    special["issuer_id"] = json!("s-1");
    assert_eq!(named(parse(&special, now())), [("special".to_owned(), "platform_only")]);

    let mut over = with("validity", fixed("2026-05-01T00:00:00Z", "2026-05-20T00:00:00Z"));
    over["claim_window"] = json!({"starts_at": "2026-05-01T00:00:00Z", "ends_at": "2026-05-02T00:00:00Z"});
    assert_eq!(named(parse(&over, now())), [("validity.until".to_owned(), "past")]);
    assert!(Definition::from_store(&over).is_ok(), "a stored definition does not age");
}

#[test]
fn all_violations_are_named_at_once() {
    let found = named(parse(&json!({"limits": {"per_user": 99}, "colour": 1}), now()));
    let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
    let expected = ["name", "kind", "value", "stock", "limits.per_user", "claim_window", "validity", "colour"];
    assert_eq!(fields, expected);
    assert_eq!(named(parse(&json!("x"), now())).len(), 1);
}

#[test]
fn a_draft_may_become_anything_that_could_be_created() {
    let draft = parse(&with("limits", json!({"per_user": 5, "per_user_daily": 2})), now()).unwrap();
    let patch = json!({"name": "another", "limits": {"per_user_daily": null}, "audience": {"tags": ["vip"]}});
    let patch_draft = |patch: &Value| draft_with(&draft, patch).and_then(|body| parse(&body, now()));
    let patched = patch_draft(&patch).unwrap();
    assert_eq!(
        (patched.name.as_str(), patched.limits),
        ("another", Limits { per_user: 5, per_user_daily: None, use_per_user: None })
    );
    assert_eq!(patched.audience.unwrap().tags, ["vip"]);
    assert_eq!(patched.stock, draft.stock);
    assert_eq!(named(patch_draft(&json!({"name": null}))), [("name".to_owned(), "required")]);
    assert_eq!(named(patch_draft(&json!([]))).len(), 1);
}

#[test]
fn what_is_published_is_frozen() {
    let published = parse(&least(), now()).unwrap();
    let window = |starts: &str, ends: &str| json!({"claim_window": {"starts_at": starts, "ends_at": ends}});
    let fine = [
        json!({}),
        json!({"name": "another", "description": "more"}),
        window("2026-06-17T16:00:00Z", "2026-06-20T00:00:00+08:00"),
        published.to_json(),
    ];
    for patch in fine {
        assert_eq!(named(patch_published(&published, &patch)), [], "{patch}");
    }
    let cases = [
        (json!({"stock": {"total": 6000}}), vec![("stock.total", "frozen")]),
        (
            json!({"kind": "cash_voucher", "limits": {"per_user": 2}}),
            vec![("kind", "frozen"), ("limits.per_user", "frozen")],
        ),
        (json!({"limits": {"per_user": 99}}), vec![("limits.per_user", "frozen")]),
        (json!({"audience": {"tags": ["vip"]}}), vec![("audience", "frozen")]),
        (json!({"name": "<b>"}), vec![("name", "markup")]),
        (window("2026-06-18T00:00:00+08:00", "2026-06-18T12:00:00+08:00"), vec![("claim_window.ends_at", "not_later")]),
    ];
    for (patch, expected) in cases {
        let found = named(patch_published(&published, &patch));
        let found: Vec<_> = found.iter().map(|(field, code)| (field.as_str(), *code)).collect();
        assert_eq!(found, expected, "{patch}");
    }
}

prop_compose! {
    fn any_definition()(
        name in "[a-z满减]{2,20}",
        issuer in prop::sample::select(vec![Issuer::Platform, Issuer::Merchant, Issuer::Streamer]),
        special in any::<bool>(),
        (kind, value) in prop::sample::select(vec![
            (Kind::CashVoucher, json!({"amount": "0.01"})),
            (Kind::Shipping, json!({"amount": "8"})),
            (Kind::PercentageDiscount, json!({"percentage": "15", "max_off": "20.00"})),
            (Kind::FreeItem, json!({"gift_item_id": "d-1", "gift_quantity": 2, "same_as_bought": false})),
            (Kind::RedPacket, json!({})),
        ]),
        ratio in 1i64..=10_000,
        rules in prop::collection::vec(("[A-Z_]{1,20}", -5i64..5), 0..4),
        timezone in prop::sample::select(vec![Tz::Asia__Shanghai, Tz::America__New_York, Tz::Australia__Lord_Howe]),
        total in prop::option::of(10u64..1 << 40),
        daily in prop::option::of(1u64..=10),
        ack in prop::sample::select(vec![None, Some(AckLevel::Redis), Some(AckLevel::Replica), Some(AckLevel::Postgres)]),
        per_user in 1u32..=10,
        has_daily_limit in any::<bool>(),
        starts in 946_684_800_000i64..4_000_000_000_000,
        length in 1i64..1_000_000_000_000,
        fixed in any::<bool>(),
        (days, delay_days, end_of_day) in (1u32..=365, 0u32..=365, any::<bool>()),
        rule_set in prop::option::of("[a-z]{2,9}"),
        audience in prop::option::of((1u32..100, prop::collection::vec("[a-z]{1,8}", 0..3))),
        quotas in any::<bool>(),
        (allowed, max_hops, receiver_limit, offer_hours) in (any::<bool>(), 1u8..=255, any::<bool>(), 1u32..=168),
        use_per_user in prop::option::of(1u32..9),
        (window_days, extend_days, partial) in
            (0u32..99, 0u32..99, prop::sample::select(Partial::WORDS.iter().map(|(_, it)| *it).collect::<Vec<_>>())),
    ) -> Definition {
        let until = starts + length;
        Definition {
            name,
            description: "满100减20\n".into(),
            issuer,
            issuer_id: if issuer == Issuer::Platform { String::new() } else { "m-1".into() },
            special: special && issuer == Issuer::Platform,
            kind,
            value,
            currency: "CNY".into(),
            max_discount_ratio: Decimal::new(ratio, 4).normalize(),
            usage_rules: rules.into_iter()
                .map(|(word, priority)| json!({"rule_type": word, "params": {"amount": 1}, "priority": priority}))
                .collect(),
            rule_set,
            distribution: vec![Distribution::Claim],
            timezone,
            stock: Stock { total, daily },
            ack,
            limits: Limits { per_user, per_user_daily: has_daily_limit.then_some(per_user), use_per_user },
            claim_window: (starts, until),
            validity: if fixed {
                Validity::Fixed { from: starts, until }
            } else {
                Validity::Relative { days, delay_days, end_of_day }
            },
            audience: audience.map(|(days, tags)| Audience {
                new_user_days: Some(days),
                registered_from: Some(starts),
                tags,
                ..Default::default()
            }),
            quotas,
            gift: GiftTerms { allowed, max_hops, receiver_limit, offer_hours },
            refund: Refund { returnable: quotas, window_days, restore_elapsed: !quotas, extend_days, partial },
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back_equal(definition in any_definition()) {
        let written = definition.to_json();
        prop_assert_eq!(parse(&written, Millis::MIN).unwrap(), definition.clone());
        let text = written.to_string();
        prop_assert_eq!(parse(&serde_json::from_str(&text).unwrap(), Millis::MIN).unwrap(), definition.clone());
        prop_assert_eq!(patch_published(&definition, &written).unwrap(), definition);
    }

    #[test]
    fn no_body_makes_it_panic(text in r#"[\[\]{}",:a-z0-9.eE+-]{0,60}"#) {
        if let Ok(body) = serde_json::from_str(&text) {
            let _ = parse(&body, 0);
        }
    }
}
