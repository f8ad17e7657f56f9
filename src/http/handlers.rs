//! Handlers, one file an area, and the list of all routes.
//!
//! A handler reads the request, calls the module that does the work, and returns what it gave. An
//! endpoint that is not built is absent from this list, and so from router and OpenAPI.

pub mod admin_audit;
pub mod admin_blacklist;
pub mod admin_keys;
pub mod admin_revocations;
pub mod admin_rule_sets;
pub mod admin_templates;
pub mod approvals;
pub mod claims;
pub mod gifts;
pub mod operations;
pub mod quotes;
pub mod redemptions;
pub mod support;
pub mod wallet;

use serde_json::{Value, json};

use super::problem::{FieldError, Problem};
use super::route::{Request, Route};

/// Every route of this build.
pub fn routes() -> Vec<Route> {
    [
        claims::routes(),
        wallet::routes(),
        gifts::routes(),
        quotes::routes(),
        support::routes(),
        redemptions::routes(),
        admin_templates::routes(),
        admin_rule_sets::routes(),
        admin_keys::routes(),
        admin_blacklist::routes(),
        admin_revocations::routes(),
        admin_audit::routes(),
        approvals::routes(),
        operations::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A page of a list.
fn page(items: Vec<Value>, next: Option<impl ToString>) -> Value {
    json!({"items": items, "next_cursor": next.map(|next| next.to_string())})
}

/// The cursor of a list by number.
fn number_cursor<T: std::str::FromStr>(cursor: Option<&str>) -> Result<Option<T>, Problem> {
    let wrong = |_| Problem::new("invalid_request", "the cursor is none that a list gave");
    cursor.map(|text| text.parse().map_err(wrong)).transpose()
}

/// A value of the query that must be one of a list of words.
fn query_word<T>(request: &Request, name: &str, parse: fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
    let found = request.query.iter().find(|(key, _)| key == name);
    found
        .map(|(_, text)| {
            parse(text).ok_or_else(|| {
                let detail = "is not one of its words".to_owned();
                Problem::invalid(vec![FieldError { field: name.to_owned(), code: "unknown_value", detail }])
            })
        })
        .transpose()
}

/// The body of a call that takes none: empty, or an empty object.
fn no_body(request: &Request) -> Result<(), Problem> {
    if request.body.is_empty() || request.json()?.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok(());
    }
    Err(Problem::new("invalid_request", "this call takes no body"))
}

/// The revision that `If-Match` names; a tag that is none of ours matches no revision.
fn if_match(request: &Request) -> Option<i64> {
    let text = request.header("if-match")?.trim();
    let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    Some(digits.parse().ok().filter(|revision| *revision > 0).unwrap_or(-1))
}

/// The revision that a change must name.
fn revision_to_change(request: &Request) -> Result<i64, Problem> {
    let detail = "name the revision that you change: If-Match with the ETag of your last read";
    if_match(request).ok_or_else(|| Problem::new("precondition_required", detail))
}
