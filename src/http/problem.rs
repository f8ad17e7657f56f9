//! A refusal on its way out, and the only place that knows statuses.
//!
//! Answers follow RFC 9457 (`application/problem+json`) with a stable `code`, `retryable`,
//! `request_id`, and `Retry-After` where a time is known. What the caller reads is `detail`; what
//! the log says is written where the failure is handled.

use serde_json::{Map, Value, json};

pub use crate::domain::fields::FieldError;
use crate::domain::outcome::ClaimOutcome;
use crate::pg::{PgFault, PgKind};
use crate::redis::fault::Fault;
use crate::telemetry::Seldom;

/// A refusal: code, words for the caller, and when to come back.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub code: &'static str,
    /// What is wrong and what to do about it.
    pub detail: String,
    /// Milliseconds until a retry may help.
    pub retry_after_ms: Option<u64>,
    /// Each violated field of the body.
    pub errors: Vec<FieldError>,
    /// Further members of the answer, such as `scope` or `claim_key`.
    pub extra: Map<String, Value>,
}

/// Code, HTTP status, title, whether a retry can help. The one table from reason to answer.
const PROBLEMS: &[(&str, u16, &str, bool)] = &[
    ("unauthenticated", 401, "Who asks is not known", false),
    ("invalid_request", 400, "The request is not as it must be", false),
    ("template_not_found", 404, "There is no such template", false),
    ("throttled", 429, "Too many requests", true),
    ("template_inactive", 409, "The template is paused or stopped", false),
    ("not_started", 409, "Claiming has not started", true),
    ("ended", 410, "Claiming has ended", false),
    ("blocked", 403, "Claims are blocked", false),
    ("device_required", 400, "A device must be named", false),
    ("not_eligible", 403, "The template is not for this user", false),
    ("user_limit_reached", 409, "The user has all they may have", false),
    ("user_daily_limit_reached", 409, "The user has all they may have today", true),
    ("quota_exceeded", 429, "Too many grants in a short time", true),
    ("sold_out", 410, "Sold out", false),
    ("daily_limit_reached", 409, "Sold out for today", true),
    ("unavailable", 503, "Not available at this moment", true),
    ("overloaded", 503, "Too much waits already", true),
    ("outcome_unknown", 504, "Whether the claim was granted is not known yet", true),
    ("claim_lost", 410, "The claim was lost in a failover", false),
    ("set_aside", 500, "The coupon was set aside for an operator", false),
    // Beyond claims.
    ("forbidden", 403, "The key's role or owner does not allow it", false),
    ("not_found", 404, "There is no such thing", false),
    ("method_not_allowed", 405, "The path does not take this method", false),
    ("coupon_not_found", 404, "There is no such coupon", false),
    ("coupon_not_yours", 409, "The coupon is none of the user's", false),
    ("coupon_locked", 409, "The coupon is locked for another order", false),
    ("coupon_used", 409, "The coupon is used", false),
    ("coupon_expired", 409, "The coupon has expired", false),
    ("coupon_revoked", 409, "The coupon was revoked", false),
    ("not_applicable", 422, "The coupons cannot be used on this order", false),
    ("price_changed", 409, "The discount is another than expected", false),
    ("use_limit_reached", 409, "The user has used all they may, for now or for good", true),
    ("redemption_not_found", 404, "There is no redemption of this order", false),
    ("redemption_cancelled", 409, "The order was cancelled", false),
    ("redemption_used", 409, "The order's coupons are used", false),
    ("late_confirm_conflict", 409, "The order was confirmed after its coupons had gone", false),
    ("coupon_offered", 409, "The coupon is offered as a gift", false),
    ("gift_not_found", 404, "There is no such gift", false),
    ("gift_not_allowed", 409, "The coupon cannot be given away", false),
    ("gift_closed", 409, "The gift is no longer offered", false),
    ("gift_limit_reached", 409, "The receiver has all they may have", false),
    ("own_gift", 409, "The gift is the giver's own", false),
    ("conflict", 409, "The state does not allow it", false),
    ("four_eyes", 409, "The approver must not be the author", false),
    ("approved_elsewhere", 409, "Another system approves", false),
    ("name_taken", 409, "The owner has another of this name", false),
    ("idempotency_mismatch", 422, "The idempotency key was used for another request", false),
    ("precondition_required", 428, "The revision that is changed must be named", false),
    ("precondition_failed", 412, "Someone else changed it meanwhile", false),
    ("payload_too_large", 413, "The body is too large", false),
    ("unsupported_media_type", 415, "The body must be JSON", false),
    ("request_timeout", 408, "The body did not arrive in time", true),
    ("timeout", 504, "It took too long", true),
    ("internal", 500, "A fault of the server", false),
];

/// Members that every problem has: an extension of that name would hide one.
pub const MEMBERS: &[&str] = &["type", "title", "status", "detail", "code", "retryable", "request_id", "errors"];

// === impl Problem ===

impl Problem {
    /// `code` must stand in the table.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        debug_assert!(PROBLEMS.iter().any(|row| row.0 == code), "{code} is in no table");
        Problem { code, detail: detail.into(), retry_after_ms: None, errors: Vec::new(), extra: Map::new() }
    }

    /// A refusal of a claim, with its own words.
    pub fn of(outcome: ClaimOutcome, detail: impl Into<String>) -> Self {
        Problem::new(outcome.code(), detail)
    }

    /// One or more violated fields.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        Problem {
            errors: errors.clone(),
            ..Problem::new("invalid_request", format!("see errors: {}", fields.join(", ")))
        }
    }

    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        debug_assert!(!MEMBERS.contains(&member), "{member} is a member of every problem");
        self.extra.insert(member.to_owned(), value.into());
        self
    }

    pub fn status(&self) -> u16 {
        row(self.code).1
    }

    pub fn title(&self) -> &'static str {
        row(self.code).2
    }

    pub fn retryable(&self) -> bool {
        row(self.code).3
    }

    /// The body: RFC 9457 with our members.
    pub fn to_json(&self, request_id: &str) -> Value {
        let (code, status, title, retryable) = row(self.code);
        let mut body = json!({
            "type": format!("urn:floodgate:problem:{code}"),
            "title": title,
            "status": status,
            "detail": self.detail,
            "code": code,
            "retryable": retryable,
            "request_id": request_id,
        });
        let members = body.as_object_mut().expect("an object");
        if !self.errors.is_empty() {
            let list = self
                .errors
                .iter()
                .map(|error| json!({"field": error.field, "code": error.code, "detail": error.detail}));
            members.insert("errors".into(), list.collect());
        }
        for (member, value) in &self.extra {
            members.entry(member).or_insert_with(|| value.clone());
        }
        body
    }
}

/// Every code with its status and whether a retry can help, for OpenAPI.
pub fn all() -> impl Iterator<Item = (&'static str, u16, bool)> {
    PROBLEMS.iter().map(|row| (row.0, row.1, row.3))
}

fn row(code: &str) -> (&'static str, u16, &'static str, bool) {
    *PROBLEMS.iter().find(|row| row.0 == code).unwrap_or(&PROBLEMS[PROBLEMS.len() - 1])
}

/// A store's failure as the caller may read it. Logged and counted where it is handled.
impl From<PgFault> for Problem {
    fn from(fault: PgFault) -> Self {
        crate::telemetry::metrics().postgres_error(fault.word());
        match fault.kind {
            PgKind::Transient | PgKind::Unknown => {
                static LINE: Seldom = Seldom::new();
                if let Some(more) = LINE.now() {
                    tracing::warn!(error = %fault, more, "a request could not reach PostgreSQL");
                }
                Problem::new("unavailable", "PostgreSQL is not available; ask again").retry_after_ms(1000)
            }
            PgKind::Data | PgKind::Fault => {
                tracing::error!(error = %fault, "PostgreSQL refused a statement");
                Problem::new("internal", "the request could not be carried out; the log says why")
            }
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        crate::telemetry::metrics().redis_error(fault.kind);
        static LINE: Seldom = Seldom::new();
        if let Some(more) = LINE.now() {
            tracing::warn!(error = %fault, more, "a request could not reach Redis");
        }
        Problem::new("unavailable", "Redis is not available; ask again").retry_after_ms(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_a_claim_has_its_row_and_they_agree_on_retries() {
        for outcome in ClaimOutcome::ALL.into_iter().skip(2) {
            let (code, _, _, retryable) = row(outcome.code());
            assert_eq!(code, outcome.code());
            assert_eq!(retryable, outcome.retryable(), "{code}");
        }
    }

    #[test]
    fn a_particular_member_takes_no_common_ones_place() {
        let mut problem = Problem::new("conflict", "it is a draft");
        problem.extra.insert("status".into(), "draft".into());
        problem.extra.insert("template_status".into(), "draft".into());
        let body = problem.to_json("r-1");
        assert_eq!((&body["status"], &body["template_status"]), (&json!(409), &json!("draft")));
    }

    #[test]
    fn no_code_stands_twice() {
        let mut codes: Vec<_> = PROBLEMS.iter().map(|row| row.0).collect();
        codes.sort();
        codes.dedup();
        assert_eq!(codes.len(), PROBLEMS.len());
    }
}
