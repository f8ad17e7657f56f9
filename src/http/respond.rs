//! Answers as bytes.

use bytes::{BufMut, Bytes, BytesMut};
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::Value;

use super::problem::{MEMBERS, Problem};
use super::route::Reply;

pub type Answer = Response<Bytes>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A body of JSON that is written already.
fn json_bytes(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    answer
}

/// A claim that holds a coupon: 201 when it was granted now, 200 when it was before.
pub fn granted(body: Vec<u8>, replayed: bool) -> Answer {
    json_bytes(if replayed { StatusCode::OK } else { StatusCode::CREATED }, Bytes::from(body))
}

/// What a handler gave.
pub fn reply(reply: Reply) -> Answer {
    let json = |status, value: &serde_json::Value| json_bytes(status, Bytes::from(value.to_string()));
    match reply {
        Reply::Ok(value) => json(StatusCode::OK, &value),
        Reply::OkTagged(value, revision) => {
            let mut answer = json(StatusCode::OK, &value);
            let tag = HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits in quotes");
            answer.headers_mut().insert(ETAG, tag);
            answer
        }
        Reply::Created(value) => json(StatusCode::CREATED, &value),
        Reply::NotReady(value) => json(StatusCode::SERVICE_UNAVAILABLE, &value),
        Reply::NoContent => {
            let mut answer = Response::new(Bytes::new());
            *answer.status_mut() = StatusCode::NO_CONTENT;
            answer
        }
        Reply::Raw(content_type, bytes) => {
            let mut answer = json_bytes(StatusCode::OK, bytes);
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            answer
        }
    }
}

/// A refusal, with `Retry-After` in whole seconds, rounded up.
pub fn problem(problem: &Problem, request_id: &str) -> Answer {
    let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = Response::new(problem_body(problem, request_id));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, PROBLEM_JSON);
    headers.insert(CACHE_CONTROL, NO_STORE);
    if let Some(ms) = problem.retry_after_ms {
        headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(hyper::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// 405 with the methods that the path takes.
pub fn method_not_allowed(allowed: &str, request_id: &str) -> Answer {
    let mut answer = problem(&Problem::new("method_not_allowed", format!("this path takes {allowed}")), request_id);
    if let Ok(value) = HeaderValue::from_str(allowed) {
        answer.headers_mut().insert(ALLOW, value);
    }
    answer
}

/// The body of a problem: by hand where there are no fields to list, since storms of refusals are the
/// busiest seconds of all.
pub fn problem_body(problem: &Problem, request_id: &str) -> Bytes {
    if !problem.errors.is_empty() {
        return Bytes::from(problem.to_json(request_id).to_string());
    }
    let detail = serde_json::to_string(&problem.detail).unwrap_or_default();
    let mut body = BytesMut::with_capacity(320);
    let mut status = itoa::Buffer::new();
    for part in [
        "{\"type\":\"urn:floodgate:problem:",
        problem.code,
        "\",\"title\":\"",
        problem.title(),
        "\",\"status\":",
        status.format(problem.status()),
        ",\"detail\":",
        &detail,
        ",\"code\":\"",
        problem.code,
        "\",\"retryable\":",
        if problem.retryable() { "true" } else { "false" },
        ",\"request_id\":\"",
        request_id,
        "\"",
    ] {
        body.put_slice(part.as_bytes());
    }
    for (member, value) in problem.extra.iter().filter(|(member, _)| !MEMBERS.contains(&member.as_str())) {
        body.put_slice(format!(",{}:{value}", Value::from(member.as_str())).as_bytes());
    }
    body.put_u8(b'}');
    body.freeze()
}

/// Names the request in the answer.
pub fn name_request(answer: &mut Answer, request_id: &str) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        answer.headers_mut().insert(X_REQUEST_ID, value);
    }
}

/// Ends the connection after this answer.
pub fn close(answer: &mut Answer) {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_by_hand_is_the_body_by_the_book() {
        let problem = Problem::new("sold_out", "nothing \"left\"");
        let by_hand: serde_json::Value = serde_json::from_slice(&problem_body(&problem, "r-1")).unwrap();
        assert_eq!(by_hand, problem.to_json("r-1"));
        let mut with_more = Problem::new("throttled", "slow down").with("scope", "ip").with("coupons", vec![1, 2]);
        with_more.extra.insert("status".into(), 7.into());
        let by_hand: serde_json::Value = serde_json::from_slice(&problem_body(&with_more, "r-1")).unwrap();
        assert_eq!(by_hand, with_more.to_json("r-1"));
    }
}
