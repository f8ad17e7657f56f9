//! A quote's request, read whole: every violated field is named at once, the order's too.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::admission::identity::checked_facts;
use crate::domain::audience::Facts;
use crate::domain::fields::{Complaints, FieldError, Object};
use crate::domain::ids::TemplateId;
use crate::domain::user::UserId;
use crate::domain::window::{Millis, rfc3339};
use crate::limits::{
    FACT_TAGS_MAX, FACT_WORD_MAX, PLACED_AT_TRUST_MS, QUOTE_CODE_MAX, QUOTE_COUPONS_MAX, QUOTE_TRIALS_MAX,
};
use crate::pricing::{Order, User};

/// What is asked of a user's coupons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The best legal combination.
    Best,
    /// These coupons together.
    Given,
    /// Each coupon by itself, the best first.
    Rank,
}

/// What an order may cost, as it was asked.
#[derive(Clone, Debug)]
pub struct QuoteRequest {
    /// Placed at a time that is trusted.
    pub order: Order,
    pub user: User,
    /// Codes as they were sent; `None`: whatever the user has.
    pub codes: Option<Vec<String>>,
    pub mode: Mode,
    /// The moment that counts as the server's: its clock, or a dry run's time.
    pub clock: Millis,
    /// Templates that are tried as if the user held a coupon of each.
    pub trials: Vec<TemplateId>,
}

/// The shopper who asks for themself.
pub struct Asker<'a> {
    pub id: &'a UserId,
    pub facts: &'a Facts,
    /// The request's, where the order names none.
    pub channel: Option<&'a str>,
}

// === impl QuoteRequest ===

impl QuoteRequest {
    /// The request of an order service at `clock`. `facts`, `now` and `trial_templates` are its own.
    pub fn of_service(body: &Value, clock: Millis) -> Result<QuoteRequest, Vec<FieldError>> {
        let wrong = &mut Complaints::default();
        let mut object = Object::body(body, wrong);
        let now = object.time("now", wrong);
        let clock = now.unwrap_or(clock);
        let user = read_facts(&mut object, wrong);
        let trials = read_trials(&mut object, wrong);
        let order = read_order(&mut object, wrong, |order| fill(order, clock));
        read(object, order, user, clock, trials, wrong)
    }

    /// A shopper's request at `clock`: their facts come with their token.
    pub fn of_shopper(body: &Value, clock: Millis, asker: &Asker<'_>) -> Result<QuoteRequest, Vec<FieldError>> {
        let wrong = &mut Complaints::default();
        let mut object = Object::body(body, wrong);
        let user = User { facts: asker.facts.clone() };
        let order = read_order(&mut object, wrong, |order| {
            fill(order, clock);
            default(order, "user_id", asker.id.as_str());
            if let Some(channel) = asker.channel {
                default(order, "channel", channel);
            }
        });
        if order.as_ref().is_some_and(|order| order.user_id != *asker.id) {
            wrong.add("order.user_id", "not_the_shopper", "must be absent, or the shopper who asks");
        }
        read(object, order, user, clock, Vec::new(), wrong)
    }
}

// === impl Mode ===

impl Mode {
    const WORDS: &[(&str, Mode)] = &[("best", Mode::Best), ("given", Mode::Given), ("rank", Mode::Rank)];
}

/// What both kinds of request hold.
fn read(
    mut object: Object<'_>,
    order: Option<Order>,
    user: User,
    clock: Millis,
    trials: Vec<TemplateId>,
    wrong: &mut Complaints,
) -> Result<QuoteRequest, Vec<FieldError>> {
    let codes = object.has("coupons").then(|| read_codes(&mut object, QUOTE_COUPONS_MAX, wrong));
    if codes.is_none() {
        object.get("coupons");
    }
    let mode = object.word("mode", Mode::WORDS, wrong).unwrap_or(Mode::Best);
    if mode == Mode::Given && codes.is_none() && trials.is_empty() {
        wrong.add("coupons", "required", "is required in mode given");
    }
    object.finish(wrong);
    let request = order.map(|mut order| {
        // Beyond the time in which clocks may differ, nobody knows when it was placed.
        if order.placed_at.abs_diff(clock) > PLACED_AT_TRUST_MS {
            order.placed_at = clock;
        }
        QuoteRequest { order, user, codes, mode, clock, trials }
    });
    std::mem::take(wrong).or(request)
}

/// The order of a request, after `complete` has filled in what it leaves out.
pub(crate) fn read_order(
    object: &mut Object<'_>,
    wrong: &mut Complaints,
    complete: impl Fn(&mut Value),
) -> Option<Order> {
    let mut order = object.need("order", wrong)?.clone();
    complete(&mut order);
    match Order::parse(&order, "order") {
        Ok(order) => Some(order),
        Err(errors) => {
            errors.into_iter().for_each(|error| wrong.add(error.field, error.code, error.detail));
            None
        }
    }
}

/// A cart has no order yet, and perhaps no clock.
fn fill(order: &mut Value, clock: Millis) {
    default(order, "order_id", "cart");
    fill_placed_at(order, clock);
}

pub(crate) fn fill_placed_at(order: &mut Value, clock: Millis) {
    default(order, "placed_at", &rfc3339(chrono_tz::UTC, clock));
}

fn default(order: &mut Value, name: &str, text: &str) {
    if let Some(members) = order.as_object_mut()
        && members.get(name).is_none_or(Value::is_null)
    {
        members.insert(name.to_owned(), json!(text));
    }
}

/// The codes under `coupons`, as they were sent.
pub(crate) fn read_codes(object: &mut Object<'_>, most: usize, wrong: &mut Complaints) -> Vec<String> {
    let mut codes = Vec::new();
    for (path, item) in list(object, "coupons", most, wrong) {
        match item.as_str() {
            Some(code) if code.len() <= QUOTE_CODE_MAX => codes.push(code.to_owned()),
            _ => wrong.add(path, "type", format!("must be a code of at most {QUOTE_CODE_MAX} characters")),
        }
    }
    codes
}

fn read_trials(object: &mut Object<'_>, wrong: &mut Complaints) -> Vec<TemplateId> {
    let mut seen = HashSet::new();
    let mut trials = Vec::new();
    for (path, item) in list(object, "trial_templates", QUOTE_TRIALS_MAX, wrong) {
        match item.as_u64().and_then(|id| TemplateId::parse(&id.to_string())) {
            Some(id) if seen.insert(id) => trials.push(id),
            Some(_) => wrong.add(path, "repeated", "is named twice"),
            None => wrong.add(path, "type", "must be a template's id"),
        }
    }
    trials
}

/// What an order service knows of the user, under `facts`.
pub(crate) fn read_facts(object: &mut Object<'_>, wrong: &mut Complaints) -> User {
    let mut facts = object.object("facts", wrong);
    let level = facts.text("level", wrong).map(str::to_owned);
    let tags = facts.words("tags", FACT_TAGS_MAX, FACT_WORD_MAX, wrong);
    let registered_at = facts.time("registered_at", wrong);
    let first_order = facts.flag("first_order", wrong);
    facts.finish(wrong);
    let known = checked_facts(level, tags, registered_at);
    if known.is_none() {
        wrong.add("facts", "length", format!("level and tags must have at most {FACT_WORD_MAX} bytes each"));
    }
    User { facts: Facts { first_order, ..known.unwrap_or_default() } }
}

/// The elements of a list with their paths.
fn list<'a>(
    object: &mut Object<'a>,
    name: &'static str,
    most: usize,
    wrong: &mut Complaints,
) -> Vec<(String, &'a Value)> {
    match object.get(name).map(Value::as_array) {
        None => Vec::new(),
        Some(None) => {
            wrong.add(name, "type", "must be a list");
            Vec::new()
        }
        Some(Some(items)) if items.len() > most => {
            wrong.add(name, "too_many", format!("must hold at most {most}"));
            Vec::new()
        }
        Some(Some(items)) => items.iter().enumerate().map(|(at, item)| (format!("{name}[{at}]"), item)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Millis = 1_781_755_200_000;

    fn order(placed_at: Value) -> Value {
        let line = json!({"line_id": "1", "item_id": "d", "merchant_id": "m", "unit_price": 1, "quantity": 1});
        json!({"order": {"user_id": "u-1", "placed_at": placed_at, "currency": "CNY", "lines": [line]}})
    }

    fn at(ms: Millis) -> Value {
        rfc3339(chrono_tz::UTC, ms).into()
    }

    #[test]
    fn a_time_is_believed_within_five_minutes_of_the_clock() {
        let minute = 60_000;
        for (placed, believed) in [(-6, 0), (-5, -5), (0, 0), (5, 5), (6, 0)] {
            let request = QuoteRequest::of_service(&order(at(CLOCK + placed * minute)), CLOCK).unwrap();
            assert_eq!(request.order.placed_at, CLOCK + believed * minute, "{placed}");
        }
        // A dry run has its own clock.
        let mut body = order(at(CLOCK));
        body["now"] = at(CLOCK + 24 * 60 * minute);
        let request = QuoteRequest::of_service(&body, CLOCK).unwrap();
        assert_eq!((request.clock, request.order.placed_at), (CLOCK + 24 * 60 * minute, CLOCK + 24 * 60 * minute));
    }

    #[test]
    fn a_cart_is_completed_with_who_asks_and_when() {
        let (id, facts) = (UserId::parse("u-1").unwrap(), Facts { level: Some("gold".into()), ..Default::default() });
        let asker = Asker { id: &id, facts: &facts, channel: Some("app") };
        let mut body = order(Value::Null);
        body["order"]["user_id"] = Value::Null;
        let request = QuoteRequest::of_shopper(&body, CLOCK, &asker).unwrap();
        assert_eq!((request.order.user_id, request.order.placed_at), (id.clone(), CLOCK));
        assert_eq!((request.order.channel.as_deref(), request.user.facts), (Some("app"), facts.clone()));
        assert_eq!((request.mode, request.codes), (Mode::Best, None));

        body["order"]["channel"] = "web".into();
        body["coupons"] = json!([]);
        let request = QuoteRequest::of_shopper(&body, CLOCK, &asker).unwrap();
        assert_eq!((request.order.channel.as_deref(), request.codes), (Some("web"), Some(Vec::new())));

        // A service names the user; what is wrong is named at once, the order's too.
        body["colour"] = 1.into();
        body["order"]["lines"][0]["quantity"] = 0.into();
        body["trial_templates"] = json!([0]);
        let errors = QuoteRequest::of_service(&body, CLOCK).unwrap_err();
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["trial_templates[0]", "order.user_id", "order.lines[0].quantity", "colour"]);
    }
}
