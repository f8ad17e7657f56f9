//! The checks of kind and rules, on their way into the catalog: pricing makes them, templates and
//! rule sets must pass them.
//!
//! A template that is not out yet is checked whenever it goes a step: settings and rule types may
//! have changed since it was written. What is published is never judged again: it was sold.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::domain::fields::{Complaints, FieldError};
use crate::domain::template::{self, Definition, Kind};
use crate::domain::window::Millis;
use crate::pricing::money::Currency;
use crate::pricing::rules::{self, Reading};
use crate::pricing::{Settings, Terms, Warning};

/// What pricing reads of a template.
const PRICED_FIELDS: &[&str] =
    &["issuer", "issuer_id", "special", "kind", "value", "currency", "max_discount_ratio", "usage_rules"];

/// A currency of four places, which no amount exceeds: a set does not know its templates' currencies.
const FINEST_CURRENCY: &str = "CLF";

/// A new template's body with the preset amounts of its kind where its value has none.
pub fn with_presets(mut body: Value, settings: &Settings) -> Value {
    let Some(kind) = body["kind"].as_str().and_then(Kind::parse) else { return body };
    if let Some(value) = body.get_mut("value").and_then(Value::as_object_mut) {
        for (field, amount) in settings.presets(kind) {
            value.entry(field).or_insert_with(|| amount.into());
        }
    }
    body
}

/// A definition from a body, checked in full, or everything that is wrong with it.
pub fn parse(body: &Value, now: Millis, settings: &Settings) -> Result<Definition, Vec<FieldError>> {
    template::parse(body, now).map_err(|mut errors| {
        errors.extend(hidden(body, settings));
        errors
    })
}

/// Kinds that pricing knows and nobody can be given a coupon of yet: nothing divides a red packet.
const NOT_BUILT: &[Kind] = &[Kind::RedPacket];

/// Demands that a definition can be sold under these settings.
pub fn demand(definition: &Definition, settings: &Settings) -> Result<(), Vec<FieldError>> {
    let mut errors = Terms::of(definition, settings).err().unwrap_or_default();
    if NOT_BUILT.contains(&definition.kind) {
        let detail = format!("templates of kind {} cannot be made yet", definition.kind.word());
        errors.push(FieldError { field: "kind".into(), code: "not_built", detail });
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// The terms of a template that is out, by whatever settings it was published under.
pub fn terms(definition: &Definition) -> Result<Arc<Terms>, Vec<FieldError>> {
    Terms::stored(definition).map(Arc::new)
}

/// What a coupon gives and demands, in words.
pub fn sentences(definition: &Definition) -> Value {
    Terms::stored(definition).map_or(Vec::new(), |terms| terms.explain(None)).into()
}

/// What is probably not meant, as answers show it.
pub fn warnings(definition: &Definition) -> Value {
    let warnings = Terms::of(definition, &Settings::default()).map_or_else(|_| Vec::new(), |(_, warnings)| warnings);
    let show = |warning: &Warning| json!({"field": warning.field, "code": warning.code, "detail": warning.detail});
    warnings.iter().map(show).collect()
}

/// What is wrong with rules that no template holds yet. Kind and currency are judged where one does.
pub fn of_set(usage_rules: &Value) -> Result<(), Vec<FieldError>> {
    let currency = Currency::of(FINEST_CURRENCY).expect("a currency of ISO 4217");
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for (at, item) in usage_rules.as_array().into_iter().flatten().enumerate() {
        let wrong = &mut Complaints::default();
        let path = format!("usage_rules[{at}]");
        let name = item["rule_type"].as_str().unwrap_or_default();
        if let Some((_, rule_type)) = rules::of(name) {
            if !rule_type.repeatable() && !seen.insert(rule_type.name()) {
                wrong.add(format!("{path}.rule_type"), "repeated", format!("{name} may be given once"));
            }
            // The kind that every rule goes with.
            let kind = Kind::FreeItem;
            rule_type.read(&Reading { params: &item["params"], path: format!("{path}.params"), currency, kind }, wrong);
        } else {
            wrong.add(format!("{path}.rule_type"), "unknown_value", format!("must be one of {}", rules::names()));
        }
        errors.extend(std::mem::take(wrong).or(Some(())).err().unwrap_or_default());
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// What pricing would say of a body whose other fields are wrong.
fn hidden(body: &Value, settings: &Settings) -> Vec<FieldError> {
    let Some(members) = body.as_object() else { return Vec::new() };
    let mut priced: Map<String, Value> = members
        .iter()
        .filter(|(name, value)| PRICED_FIELDS.contains(&name.as_str()) && !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let rest = json!({
        "name": "of no matter", "stock": {"total": 1}, "validity": {"type": "relative", "days": 1},
        "claim_window": {"starts_at": "2026-01-01T00:00:00Z", "ends_at": "2026-01-02T00:00:00Z"},
    });
    if let Value::Object(rest) = rest {
        priced.extend(rest);
    }
    match template::parse(&Value::Object(priced), Millis::MIN) {
        Ok(definition) => demand(&definition, settings).err().unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}
