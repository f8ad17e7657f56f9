//! What a template promises at checkout: its kind's worth and its rules, read once and checked.
//!
//! [`Terms::of`] is every creation check that depends on kind and rules. A rule type or a
//! parameter that is not known is refused here, when the template is made, never ignored at use.

use chrono_tz::Tz;
use rust_decimal::Decimal;
use serde_json::Value;

use super::kinds::{self, Worth};
use super::money::Currency;
use super::order::Line;
use super::rules::{self, Reading, Rule, Shape};
use super::settings::Settings;
use crate::domain::fields::{Complaints, FieldError, Object};
use crate::domain::template::{Definition, Issuer, Kind};

/// A template's value and usage rules, ready to be applied. Immutable, shared by its coupons.
#[derive(Debug)]
pub struct Terms {
    pub kind: Kind,
    pub issuer: Issuer,
    pub issuer_id: String,
    pub special: bool,
    pub currency: Currency,
    pub timezone: Tz,
    pub(super) worth: Worth,
    /// What the rules say about lines, amounts and company.
    pub(super) shape: Shape,
    /// In the order of evaluation: a higher priority first, then the registry's order.
    pub(super) rules: Vec<Box<dyn Rule>>,
    /// The kind's place in the order of computing within a class.
    pub(super) priority: i32,
    ids: usize,
    /// What the kind gives, then what each rule demands, in words.
    sentences: Vec<String>,
}

/// Something that is allowed and probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub field: String,
    pub code: &'static str,
    pub detail: String,
}

/// What a kind's check may look at besides its own value.
pub struct Creation<'a> {
    pub definition: &'a Definition,
    pub settings: &'a Settings,
    pub currency: Currency,
    pub shape: &'a Shape,
}

// === impl Terms ===

impl Terms {
    /// Checks a template that is being made, or published. Every complaint is named; what is allowed
    /// and probably not meant is a warning.
    pub fn of(definition: &Definition, settings: &Settings) -> Result<(Terms, Vec<Warning>), Vec<FieldError>> {
        let wrong = &mut Complaints::default();
        if !settings.enables(definition.kind) {
            wrong.add("kind", "disabled", format!("{} is not enabled here", definition.kind.word()));
        }
        if definition.max_discount_ratio > settings.max_discount_ratio {
            let detail = format!("must be at most {} here", settings.max_discount_ratio);
            wrong.add("max_discount_ratio", "out_of_range", detail);
        }
        let terms = read(definition, settings, wrong);
        let terms = std::mem::take(wrong).or(terms)?;
        let warnings = warnings(definition, &terms);
        Ok((terms, warnings))
    }

    /// Reads a template that was checked when it was made: settings may have become stricter since,
    /// and issued coupons stay good.
    pub fn stored(definition: &Definition) -> Result<Terms, Vec<FieldError>> {
        let wrong = &mut Complaints::default();
        let terms = read(definition, &Settings::default(), wrong);
        std::mem::take(wrong).or(terms)
    }

    /// Ids that its rules list: looking every line up in them takes time.
    pub fn ids(&self) -> usize {
        self.ids
    }

    /// Whether the issuer sells the line, or shows it: discounts fall on no other.
    pub(super) fn is_own(&self, line: &Line) -> bool {
        match self.issuer {
            Issuer::Platform => true,
            Issuer::Merchant => line.merchant_id == self.issuer_id,
            Issuer::Streamer => line.streamer_id.as_deref() == Some(&self.issuer_id),
        }
    }

    /// As a shopper would say it: "20.00 off", "spend at least 100.00". `own` is what a coupon says that
    /// it is worth itself.
    pub fn explain(&self, own: Option<Decimal>) -> Vec<String> {
        let mut sentences = self.sentences.clone();
        if let (Worth::OwnAmount, Some(amount)) = (&self.worth, own) {
            sentences[0] = format!("{} off", self.currency.in_full(amount));
        }
        sentences
    }
}

fn read(definition: &Definition, settings: &Settings, wrong: &mut Complaints) -> Option<Terms> {
    let currency = Currency::of(&definition.currency);
    if currency.is_none() {
        wrong.add("currency", "unknown_value", "must be a currency of ISO 4217, as CNY");
    }
    let currency = currency?;
    let (rules, shape) = read_rules(definition, currency, wrong);
    let Some(kind) = kinds::of(definition.kind) else {
        wrong.add("kind", "unknown_value", "is not a kind that can be priced");
        return None;
    };
    let worth = kind.check(&Creation { definition, settings, currency, shape: &shape }, wrong)?;
    let place = shape.place(&definition.issuer_id);
    let mut sentences = vec![kind.explain(&worth, currency)];
    sentences.extend(rules.iter().map(|rule| rule.explain(&place)).filter(|sentence| !sentence.is_empty()));
    Some(Terms {
        kind: definition.kind,
        issuer: definition.issuer,
        issuer_id: definition.issuer_id.clone(),
        special: definition.special,
        currency,
        timezone: definition.timezone,
        worth,
        shape,
        rules,
        priority: kind.priority(),
        ids: count_ids(&definition.usage_rules),
        sentences,
    })
}

fn read_rules(definition: &Definition, currency: Currency, wrong: &mut Complaints) -> (Vec<Box<dyn Rule>>, Shape) {
    let mut placed = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    let empty = Vec::new();
    let items = definition.usage_rules.as_array().unwrap_or(&empty);
    for (at, item) in items.iter().enumerate() {
        let path = format!("usage_rules[{at}]");
        let mut object = Object::at(&path, item, wrong);
        let name = object.need_text("rule_type", wrong).unwrap_or_default();
        let priority = object.get("priority").and_then(Value::as_i64).unwrap_or(0);
        let Some((place, rule_type)) = rules::of(name) else {
            wrong.add(object.path("rule_type"), "unknown_value", format!("must be one of {}", rules::names()));
            continue;
        };
        if !rule_type.repeatable() && seen.contains(&rule_type.name()) {
            wrong.add(object.path("rule_type"), "repeated", format!("{name} may be given once"));
        }
        seen.push(rule_type.name());
        let params = object.get("params").unwrap_or(&Value::Null);
        let reading = Reading { params, path: format!("{path}.params"), currency, kind: definition.kind };
        // Complaints of its own: a rule must not be silent because another was refused before it.
        let mut own = Complaints::default();
        let rule = rule_type.read(&reading, &mut own);
        match own.or(rule) {
            Ok(rule) => placed.push((std::cmp::Reverse(priority), place, rule)),
            Err(errors) => errors.into_iter().for_each(|error| wrong.add(error.field, error.code, error.detail)),
        }
    }
    placed.sort_by_key(|(priority, place, _)| (*priority, *place));
    let mut shape = Shape::default();
    let rules: Vec<Box<dyn Rule>> = placed.into_iter().map(|(_, _, rule)| rule).collect();
    rules.iter().for_each(|rule| rule.lay_down(&mut shape));
    (rules, shape)
}

fn count_ids(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(count_ids).sum(),
        Value::Object(members) => members.values().map(count_ids).sum(),
        Value::String(_) => 1,
        _ => 0,
    }
}

fn warnings(definition: &Definition, terms: &Terms) -> Vec<Warning> {
    let empty = Vec::new();
    let items = definition.usage_rules.as_array().unwrap_or(&empty);
    let at = |name: &str| items.iter().position(|item| item["rule_type"] == name);
    let mut warnings = Vec::new();
    if let Some(at) = at("ITEM_ELIGIBILITY")
        && terms.shape.scope.is_none()
        && terms.kind != Kind::FreeItem
    {
        warnings.push(Warning {
            field: format!("usage_rules[{at}]"),
            code: "discount_not_scoped",
            detail: "ITEM_ELIGIBILITY does not narrow the discount: without an ITEM_DISCOUNT_SCOPE it falls on \
                     everything that the issuer sells in the order"
                .into(),
        });
    }
    warnings
}
