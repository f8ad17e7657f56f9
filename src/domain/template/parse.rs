//! Every check of a template's creation that depends on neither kind nor rules.
//!
//! All violated fields are named at once. What this version does not do yet is accepted at its
//! default value and refused by name at any other, so that nobody believes in a limit that does
//! not hold.

use chrono_tz::Tz;
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use super::shape;
use super::write::unbuilt;
use super::{AckLevel, Definition, Distribution, GiftTerms, Issuer, Kind, Limits, Partial, Refund, Stock};
use crate::domain::audience::Audience;
use crate::domain::fields::{Complaints, FieldError, Object, is_plain};
use crate::domain::ids::SERIAL_MAX;
use crate::domain::window::{Millis, Validity};
use crate::limits::{AUDIENCE_WORDS_MAX, CHANNEL_MAX, FACT_WORD_MAX, GIFT_HOPS_MAX, GIFT_OFFER_HOURS_MAX, ID_MAX};

const NAME_MIN: usize = 2;
const NAME_MAX: usize = 100;
const DESCRIPTION_MAX: usize = 1_000;
const PER_USER_MAX: i64 = 10;
const USE_PER_USER_MAX: i64 = 1_000;
const VALID_DAYS_MAX: i64 = 365;
const REFUND_DAYS_MAX: i64 = 3_650;
const NEW_USER_DAYS_MAX: i64 = 36_500;
const ZONE_DEFAULT: Tz = Tz::Asia__Shanghai;
const CURRENCY_DEFAULT: &str = "CNY";

/// Ways of distribution that are refused by name: nothing hands coupons out by them.
const WAYS_UNBUILT: &[&str] = &["manual", "trigger", "schedule", "code", "campaign"];

/// The complaint of a fixed validity that is over before claiming is; patches look for it.
pub(super) const ENDS_BEFORE_WINDOW: &str = "ends_before_claim_window";

/// Makes a definition from a body, or says everything that is wrong with it.
///
/// `now` judges whether a fixed validity is over already; `Millis::MIN` waives that.
pub fn parse(body: &Value, now: Millis) -> Result<Definition, Vec<FieldError>> {
    let wrong = &mut Complaints::default();
    let mut object = Object::body(body, wrong);

    let name = read_name(&mut object, wrong);
    let description = read_description(&mut object, wrong);
    let (issuer, issuer_id) = read_issuer(&mut object, wrong);
    let special = object.flag("special", wrong).unwrap_or(false);
    if special && issuer != Issuer::Platform {
        wrong.add("special", "platform_only", "only the platform's templates may be special");
    }
    object.need("kind", wrong);
    let kind = object.word("kind", Kind::WORDS, wrong);
    let value = object.need("value", wrong).zip(kind).map(|(value, kind)| shape::value(kind, value, wrong));
    let currency = read_currency(&mut object, wrong);
    let max_discount_ratio = read_ratio(&mut object, wrong);
    let usage_rules =
        object.get("usage_rules").map_or(Value::Array(Vec::new()), |rules| shape::read_rules(rules, wrong));
    let distribution = read_distribution(&mut object, wrong);
    let timezone = read_zone(&mut object, wrong);
    let stock = read_stock(&mut object, wrong);
    let ack = object.word("ack", AckLevel::WORDS, wrong);
    let limits = read_limits(&mut object, wrong);
    let claim_window = read_window(&mut object, wrong);
    let validity = read_validity(&mut object, now, claim_window, wrong);
    let audience = read_audience(&mut object, wrong);
    let quotas = object.flag("quotas", wrong).unwrap_or(true);
    let gift = read_gift(&mut object, wrong);
    let rule_set = read_rule_set(&mut object, wrong);
    let refund = read_refund(&mut object, wrong);
    for field in ["campaign_id", "wide", "notifications"] {
        refuse_unbuilt(&mut object, field, &unbuilt(field), wrong);
    }
    object.finish(wrong);

    let definition = || {
        Some(Definition {
            name: name?,
            description,
            issuer,
            issuer_id,
            special,
            kind: kind?,
            value: value?,
            currency: currency?,
            max_discount_ratio: max_discount_ratio?,
            usage_rules,
            rule_set,
            distribution,
            timezone: timezone?,
            stock: stock?,
            ack,
            limits,
            claim_window: claim_window?,
            validity: validity?,
            audience,
            quotas,
            gift,
            refund,
        })
    };
    let definition = definition();
    std::mem::take(wrong).or(definition)
}

pub(crate) fn read_name(object: &mut Object, wrong: &mut Complaints) -> Option<String> {
    object.need_text("name", wrong).map(|name| checked_name("name", name, wrong))
}

/// The name of the set that the template's rules are copied from.
fn read_rule_set(object: &mut Object, wrong: &mut Complaints) -> Option<String> {
    object.text("rule_set", wrong).map(|name| checked_name("rule_set", name, wrong))
}

fn checked_name(field: &str, name: &str, wrong: &mut Complaints) -> String {
    let name = name.trim();
    let length = name.chars().count();
    if !(NAME_MIN..=NAME_MAX).contains(&length) {
        wrong.add(field, "length", format!("must have {NAME_MIN} to {NAME_MAX} characters"));
    }
    if !is_plain(name) {
        wrong.add(field, "control_character", "must not hold control characters");
    }
    refuse_markup(field, name, wrong);
    name.to_owned()
}

pub(crate) fn read_description(object: &mut Object, wrong: &mut Complaints) -> String {
    let text = object.text("description", wrong).unwrap_or_default();
    if text.chars().count() > DESCRIPTION_MAX {
        wrong.add("description", "length", format!("must have at most {DESCRIPTION_MAX} characters"));
    }
    if text.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t')) {
        wrong.add("description", "control_character", "must not hold control characters but line breaks and tabs");
    }
    refuse_markup("description", text, wrong);
    text.to_owned()
}

/// Tags, as written or as entities, and addresses that run scripts. "1 < 2" is no tag.
fn refuse_markup(field: &str, text: &str, wrong: &mut Complaints) {
    let lower = text.to_lowercase();
    let tag = lower.match_indices('<').any(|(at, _)| {
        lower[at + 1..].starts_with(|next: char| next.is_ascii_alphabetic() || matches!(next, '/' | '!' | '?'))
    });
    let hidden = ["&lt", "&#60", "&#060", "&#x3c", "&#x03c", "javascript:", "vbscript:"];
    if tag || hidden.iter().any(|piece| lower.contains(piece)) {
        wrong.add(field, "markup", "must not hold HTML tags or scripts");
    }
}

pub(crate) fn read_issuer(object: &mut Object, wrong: &mut Complaints) -> (Issuer, String) {
    let issuer = object.word("issuer", Issuer::WORDS, wrong).unwrap_or(Issuer::Platform);
    let id = object.text("issuer_id", wrong).unwrap_or_default();
    match issuer {
        Issuer::Platform if !id.is_empty() => {
            wrong.add("issuer_id", "platform_has_none", "must be empty where the platform issues");
        }
        Issuer::Merchant | Issuer::Streamer if !is_id(id) => {
            let detail = format!("must name the {}: 1 to {ID_MAX} characters without spaces", issuer.word());
            wrong.add("issuer_id", "required", detail);
        }
        _ => {}
    }
    (issuer, id.to_owned())
}

/// The name of something outside: short, and free of spaces and control characters.
pub(super) fn is_id(text: &str) -> bool {
    (1..=ID_MAX).contains(&text.chars().count())
        && !text.chars().any(|letter| letter.is_whitespace() || letter.is_control())
}

fn read_currency(object: &mut Object, wrong: &mut Complaints) -> Option<String> {
    let text = match object.text("currency", wrong) {
        Some(text) => text,
        None if object.has("currency") => return None,
        None => CURRENCY_DEFAULT,
    };
    if text.len() != 3 || !text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        wrong.add("currency", "currency", "must be a code of three letters, as CNY");
    }
    Some(text.to_ascii_uppercase())
}

fn read_ratio(object: &mut Object, wrong: &mut Complaints) -> Option<Decimal> {
    if !object.has("max_discount_ratio") {
        object.get("max_discount_ratio");
        return Some(Decimal::new(8, 1));
    }
    let ratio = object.decimal("max_discount_ratio", wrong)?;
    if ratio <= Decimal::ZERO || ratio > Decimal::ONE {
        wrong.add("max_discount_ratio", "out_of_range", "must be greater than 0 and at most 1");
    }
    Some(ratio.normalize())
}

fn read_distribution(object: &mut Object, wrong: &mut Complaints) -> Vec<Distribution> {
    let Some(value) = object.get("distribution") else { return vec![Distribution::Claim] };
    let words: Option<Vec<&str>> = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
    let Some(words) = words else {
        wrong.add("distribution", "type", "must be a list of strings");
        return Vec::new();
    };
    if words.is_empty() || words.len() > WAYS_UNBUILT.len() + 1 {
        wrong.add("distribution", "length", "must name each way at most once, and at least one");
        return Vec::new();
    }
    let mut ways = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let field = format!("distribution[{at}]");
        match Distribution::parse(word) {
            Some(way) if ways.contains(&way) => wrong.add(field, "repeated", "is named twice"),
            Some(way) => ways.push(way),
            None if WAYS_UNBUILT.iter().any(|way| way.eq_ignore_ascii_case(word)) => {
                wrong.add(field, "not_built", "this way of distribution is not available yet");
            }
            None => wrong.add(field, "unknown_value", "is no way of distribution"),
        }
    }
    ways
}

fn read_zone(object: &mut Object, wrong: &mut Complaints) -> Option<Tz> {
    let Some(text) = object.text("timezone", wrong) else {
        return (!object.has("timezone")).then_some(ZONE_DEFAULT);
    };
    let zone = text.parse().ok();
    if zone.is_none() {
        wrong.add("timezone", "timezone", "must be an IANA time zone, as Asia/Shanghai");
    }
    zone
}

fn read_stock(object: &mut Object, wrong: &mut Complaints) -> Option<Stock> {
    object.need("stock", wrong)?;
    let mut stock = object.object("stock", wrong);
    stock.need("total", wrong);
    let total = stock.whole("total", -1, SERIAL_MAX as i64, wrong);
    if total == Some(0) {
        wrong.add("stock.total", "out_of_range", "must be greater than 0, or -1 for unlimited");
    }
    let daily = stock.whole("daily", 1, SERIAL_MAX as i64, wrong);
    if let (Some(total), Some(daily)) = (total, daily)
        && total > 0
        && daily > total
    {
        wrong.add("stock.daily", "above_total", "must be at most stock.total");
    }
    stock.finish(wrong);
    Some(Stock { total: u64::try_from(total?).ok(), daily: daily.map(|daily| daily as u64) })
}

fn read_limits(object: &mut Object, wrong: &mut Complaints) -> Limits {
    let mut limits = object.object("limits", wrong);
    let per_user = limits.whole("per_user", 1, PER_USER_MAX, wrong).unwrap_or(1) as u32;
    let per_user_daily = limits.whole("per_user_daily", 1, PER_USER_MAX, wrong).map(|daily| daily as u32);
    if per_user_daily.is_some_and(|daily| daily > per_user) {
        wrong.add("limits.per_user_daily", "above_per_user", "must be at most limits.per_user");
    }
    let use_per_user = limits.whole("use_per_user", 1, USE_PER_USER_MAX, wrong).map(|uses| uses as u32);
    for field in ["per_user_period", "per_user_pushed"] {
        refuse_unbuilt(&mut limits, field, &Value::Null, wrong);
    }
    limits.finish(wrong);
    Limits { per_user, per_user_daily, use_per_user }
}

fn read_refund(object: &mut Object, wrong: &mut Complaints) -> Refund {
    let default = Refund::default();
    let mut refund = object.object("refund", wrong);
    let days = |value: Option<i64>, default: u32| value.map_or(default, |days| days as u32);
    let read = Refund {
        returnable: refund.flag("returnable", wrong).unwrap_or(default.returnable),
        window_days: days(refund.whole("window_days", 0, REFUND_DAYS_MAX, wrong), default.window_days),
        restore_elapsed: refund.flag("restore_elapsed", wrong).unwrap_or(default.restore_elapsed),
        extend_days: days(refund.whole("extend_days", 0, VALID_DAYS_MAX, wrong), default.extend_days),
        partial: refund.word("partial", Partial::WORDS, wrong).unwrap_or(default.partial),
    };
    refund.finish(wrong);
    read
}

fn read_gift(object: &mut Object, wrong: &mut Complaints) -> GiftTerms {
    let default = GiftTerms::default();
    let mut gift = object.object("gift", wrong);
    let hops = gift.whole("max_hops", 1, i64::from(GIFT_HOPS_MAX), wrong);
    let hours = gift.whole("offer_hours", 1, i64::from(GIFT_OFFER_HOURS_MAX), wrong);
    let terms = GiftTerms {
        allowed: gift.flag("allowed", wrong).unwrap_or(default.allowed),
        max_hops: hops.map_or(default.max_hops, |hops| hops as u8),
        receiver_limit: gift.flag("receiver_limit", wrong).unwrap_or(default.receiver_limit),
        offer_hours: hours.map_or(default.offer_hours, |hours| hours as u32),
    };
    gift.finish(wrong);
    terms
}

fn read_window(object: &mut Object, wrong: &mut Complaints) -> Option<(Millis, Millis)> {
    object.need("claim_window", wrong)?;
    let mut window = object.object("claim_window", wrong);
    window.need("starts_at", wrong);
    window.need("ends_at", wrong);
    let (starts_at, ends_at) = (window.time("starts_at", wrong), window.time("ends_at", wrong));
    window.finish(wrong);
    let (starts_at, ends_at) = (starts_at?, ends_at?);
    if starts_at >= ends_at {
        wrong.add("claim_window.ends_at", "not_after_start", "must be after claim_window.starts_at");
    }
    Some((starts_at, ends_at))
}

fn read_validity(
    object: &mut Object,
    now: Millis,
    window: Option<(Millis, Millis)>,
    wrong: &mut Complaints,
) -> Option<Validity> {
    object.need("validity", wrong)?;
    let mut validity = object.object("validity", wrong);
    validity.need("type", wrong);
    let parsed = match validity.word("type", &[("fixed", true), ("relative", false)], wrong)? {
        true => {
            validity.need("from", wrong);
            validity.need("until", wrong);
            let (from, until) = (validity.time("from", wrong), validity.time("until", wrong));
            if let (Some(from), Some(until)) = (from, until)
                && from >= until
            {
                wrong.add("validity.until", "not_after_from", "must be after validity.from");
            }
            if until.is_some_and(|until| until < now) {
                wrong.add("validity.until", "past", "must not be over already");
            }
            if let (Some(until), Some((_, ends_at))) = (until, window)
                && until < ends_at
            {
                wrong.add("validity.until", ENDS_BEFORE_WINDOW, "must not end before the claim window does");
            }
            from.zip(until).map(|(from, until)| Validity::Fixed { from, until })
        }
        false => {
            validity.need("days", wrong);
            let days = validity.whole("days", 1, VALID_DAYS_MAX, wrong);
            let delay_days = validity.whole("delay_days", 0, VALID_DAYS_MAX, wrong).unwrap_or(0) as u32;
            let end_of_day = validity.flag("end_of_day", wrong).unwrap_or(false);
            days.map(|days| Validity::Relative { days: days as u32, delay_days, end_of_day })
        }
    };
    validity.finish(wrong);
    parsed
}

fn read_audience(object: &mut Object, wrong: &mut Complaints) -> Option<Audience> {
    let mut part = object.object("audience", wrong);
    let audience = Audience {
        new_user_days: part.whole("new_user_days", 1, NEW_USER_DAYS_MAX, wrong).map(|days| days as u32),
        registered_from: part.time("registered_from", wrong),
        registered_until: part.time("registered_until", wrong),
        levels: part.words("levels", AUDIENCE_WORDS_MAX, FACT_WORD_MAX, wrong),
        tags: part.words("tags", AUDIENCE_WORDS_MAX, FACT_WORD_MAX, wrong),
        channels: part.words("channels", AUDIENCE_WORDS_MAX, CHANNEL_MAX, wrong),
    };
    if let (Some(from), Some(until)) = (audience.registered_from, audience.registered_until)
        && from >= until
    {
        wrong.add("audience.registered_until", "not_after_from", "must be after audience.registered_from");
    }
    for field in ["user_list_id", "min_spend_total", "first_order"] {
        refuse_unbuilt(&mut part, field, &Value::Null, wrong);
    }
    part.finish(wrong);
    (audience != Audience::default()).then_some(audience)
}

/// Accepts a field at its default, member by member where that is an object; else refuses it by name.
fn refuse_unbuilt(object: &mut Object, field: &'static str, default: &Value, wrong: &mut Complaints) {
    let Some(value) = object.get(field) else { return };
    let path = object.path(field);
    let mut refuse = |path: String| wrong.add(path, "not_built", "is not available yet: leave it at its default");
    match (value, default) {
        (Value::Object(members), Value::Object(defaults)) => {
            for (name, member) in members {
                if !member.is_null() && !defaults.get(name).is_some_and(|default| is_same(member, default)) {
                    refuse(format!("{path}.{}", known_name(name, defaults)));
                }
            }
        }
        _ if is_same(value, default) => {}
        _ => refuse(path),
    }
}

fn is_same(value: &Value, default: &Value) -> bool {
    match (value, default) {
        (Value::String(value), Value::String(default)) => value.eq_ignore_ascii_case(default),
        _ => value == default,
    }
}

/// A name for a complaint: ours as it is, a stranger's cut short.
fn known_name(name: &str, defaults: &Map<String, Value>) -> String {
    if defaults.contains_key(name) {
        return name.to_owned();
    }
    name.chars().filter(|letter| !letter.is_control()).take(ID_MAX).collect()
}
