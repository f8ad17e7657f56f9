//! What may change in a draft, and in a template that is out.
//!
//! Both take JSON merge patches (RFC 7396) over the contract form. A draft may become anything
//! that could be created. Of a published template the name, the description and a later end of
//! the claim window may change; whatever else would is refused by name.

use serde_json::{Map, Value};

use super::Definition;
use super::parse::{ENDS_BEFORE_WINDOW, parse};
use crate::domain::fields::FieldError;
use crate::domain::window::Millis;

/// What a published template may change.
const OPEN_FIELDS: &[&str] = &["name", "description", "claim_window.ends_at"];

/// The draft with the patch laid over it, to be checked like a new one.
pub fn draft_with(draft: &Definition, patch: &Value) -> Result<Value, Vec<FieldError>> {
    laid_over(draft.to_json(), patch)
}

/// The published template with the patch laid over it.
pub fn patch_published(published: &Definition, patch: &Value) -> Result<Definition, Vec<FieldError>> {
    let patched = parse(&laid_over(published.to_json(), patch)?, Millis::MIN).map_err(|errors| {
        let is_open = |error: &FieldError| {
            OPEN_FIELDS.contains(&error.field.as_str()) || [ENDS_BEFORE_WINDOW, "unknown_field"].contains(&error.code)
        };
        errors.into_iter().map(|error| if is_open(&error) { error } else { frozen(error.field) }).collect::<Vec<_>>()
    })?;
    let mut changed = Vec::new();
    differences(&published.to_json(), &patched.to_json(), String::new(), &mut changed);
    let mut errors: Vec<FieldError> =
        changed.into_iter().filter(|field| !OPEN_FIELDS.contains(&field.as_str())).map(frozen).collect();
    if patched.claim_window.1 < published.claim_window.1 {
        errors.push(FieldError {
            field: "claim_window.ends_at".into(),
            code: "not_later",
            detail: "may only become later".into(),
        });
    }
    if errors.is_empty() { Ok(patched) } else { Err(errors) }
}

fn frozen(field: String) -> FieldError {
    FieldError { field, code: "frozen", detail: "cannot change once the template is published".into() }
}

/// What is written with a merge patch laid over it.
pub(crate) fn laid_over(mut written: Value, patch: &Value) -> Result<Value, Vec<FieldError>> {
    if !patch.is_object() {
        let detail = "the body must be an object".to_owned();
        return Err(vec![FieldError { field: String::new(), code: "type", detail }]);
    }
    merge(&mut written, patch);
    Ok(written)
}

/// RFC 7396, section 2. Nesting is bounded where the body is read.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().expect("made one above");
    for (name, member) in members {
        if member.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.as_str()).or_insert(Value::Null), member);
        }
    }
}

/// The paths at which two values of the contract form differ; lists count as one.
fn differences(before: &Value, after: &Value, path: String, changed: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let added = new.keys().filter(|name| !old.contains_key(*name));
            for name in old.keys().chain(added) {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let member = |object: &Map<String, Value>| object.get(name).cloned().unwrap_or_default();
                differences(&member(old), &member(new), inner, changed);
            }
        }
        _ if before != after => changed.push(path),
        _ => {}
    }
}
