//! Claims: a shopper's own, and the batch of a trusted backend.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::Method;
use hyper::body::{Body, Incoming};
use serde_json::Value;

use crate::admission::client::{Headers, Name};
use crate::admission::identity::{Shopper, checked_facts, parse_time};
use crate::app::{App, BackgroundLanes};
use crate::claim::lane::LaneHandle;
use crate::claim::lookup::LookupHandle;
use crate::config::ms;
use crate::domain::audience::Facts;
use crate::domain::ids::TemplateId;
use crate::domain::outcome::{ClaimOutcome, Scope};
use crate::domain::template::Issuer;
use crate::domain::user::UserId;
use crate::gateway::{self, ClaimRequest, Granted};
use crate::handler;
use crate::http::body;
use crate::http::entrance::{Entrance, throttle, throttle_client};
use crate::http::problem::{FieldError, Problem};
use crate::http::respond::{self, Answer};
use crate::http::route::{Access, Caller, Door, Reply, Request, Role, Route};
use crate::limits::{BATCH_ENDPOINT_CLAIMS_MAX, CHANNEL_MAX, CLAIM_BODY_BYTES_MAX, CLAIM_KEY_MAX, DEVICE_ID_MAX};

const CLAIM_PROBLEMS: &[&str] = &[
    "unauthenticated",
    "invalid_request",
    "template_not_found",
    "throttled",
    "template_inactive",
    "not_started",
    "ended",
    "blocked",
    "device_required",
    "not_eligible",
    "user_limit_reached",
    "user_daily_limit_reached",
    "quota_exceeded",
    "sold_out",
    "daily_limit_reached",
    "unavailable",
    "overloaded",
    "outcome_unknown",
    "set_aside",
];

pub fn routes() -> Vec<Route> {
    let service = Access::Roles(&[Role::Service]);
    let claim = "/v1/templates/{id}/claims";
    let of_many = "Claim for up to 1,000 users of a trusted backend";
    vec![
        // Reached by the short way of the entrance; the table lists it for the document.
        Route::new(Method::POST, Door::Public, claim, Access::Shopper, handler!(unreachable_claim), "Claim a coupon")
            .gives("ClaimAnswer")
            .with(&[200, 201])
            .refuses(CLAIM_PROBLEMS)
            .by_key(),
        Route::new(Method::POST, Door::Internal, "/v1/templates/{id}/claims:batch", service, handler!(batch), of_many)
            .takes("ClaimBatch")
            .gives("ClaimBatchAnswer")
            .refuses(&["template_not_found", "payload_too_large"]),
    ]
}

/// Who claims, from where and with which key, as the head says it.
pub struct Admitted {
    ip: IpAddr,
    shopper: Arc<(Shopper, u64)>,
    key: Option<Box<str>>,
    /// By its hash.
    device: Option<u64>,
    channel: Option<Box<str>>,
}

/// Room for the answer to a grant.
const GRANTED_BYTES: usize = 448;

/// `{id}` of `/v1/templates/{id}/claims`.
pub fn template_of(path: &str) -> Option<&str> {
    let id = path.strip_prefix("/v1/templates/")?.strip_suffix("/claims")?;
    (!id.contains('/')).then_some(id)
}

/// Answers a shopper's claim, on the thread that read it.
pub async fn answer(
    entrance: &Entrance,
    headers: &Headers<'_>,
    incoming: Incoming,
    template: &str,
    peer: IpAddr,
    request_id: &str,
) -> Answer {
    let app = &*entrance.app;
    let claim = async {
        let admitted = admit(app, headers, peer)?;
        if !incoming.is_end_stream() {
            // Apart: hardly a claim has a body.
            Box::pin(read_body(app, incoming)).await.inspect_err(gateway::count_refusal)?;
        }
        // What is malformed is said before what does not exist.
        let template =
            TemplateId::parse(template).ok_or_else(|| no_template(template)).inspect_err(gateway::count_refusal)?;
        decide(entrance, &admitted, template).await
    };
    let result = claim.await;
    let unread = result.as_ref().is_err_and(|problem| matches!(problem.code, "payload_too_large" | "request_timeout"));
    let mut answer = answer_to(app, result, request_id);
    if unread {
        respond::close(&mut answer);
    }
    answer
}

/// Reads what the head says, and counts the request against the throttle of its address.
pub fn admit(app: &App, headers: &Headers<'_>, peer: IpAddr) -> Result<Admitted, Problem> {
    let admit = || {
        let ip = headers.address(peer, &app.config.auth.trusted_proxies);
        throttle_client(app, ip)?;
        let shopper = app.gatekeeper.identify(headers, peer, &app.users)?;
        let key = headers.word(Name::IdempotencyKey, CLAIM_KEY_MAX)?.map(Box::from);
        let device = headers.device()?.map(|device| app.hashing.device(device));
        let channel = headers.channel()?.map(Box::from);
        Ok(Admitted { ip, shopper, key, device, channel })
    };
    admit().inspect_err(gateway::count_refusal)
}

/// Counts the claim against the throttles of its device and user, and has it decided.
pub async fn decide(entrance: &Entrance, admitted: &Admitted, template: TemplateId) -> Result<Granted, Problem> {
    let app = &*entrance.app;
    let Admitted { ip, shopper, key, device, channel } = admitted;
    let throttled = || -> Result<(), Problem> {
        if let Some(device) = *device {
            throttle(app, Scope::Device, device)?;
        }
        throttle(app, Scope::User, app.hashing.user(&shopper.0.user))
    };
    throttled().inspect_err(gateway::count_refusal)?;
    let request = ClaimRequest {
        template,
        user: &shopper.0.user,
        facts: &shopper.0.facts,
        channel: channel.as_deref(),
        ip: Some(*ip),
        device: *device,
        key: key.as_deref(),
    };
    gateway::claim(app, &entrance.lane, &entrance.lookups, request).await
}

/// What a claim came to, as an answer.
pub fn answer_to(app: &App, result: Result<Granted, Problem>, request_id: &str) -> Answer {
    match result {
        Ok(granted) => {
            let mut bytes = Vec::with_capacity(GRANTED_BYTES);
            gateway::write_granted(app, &granted, &mut bytes);
            respond::granted(bytes, granted.replayed)
        }
        Err(problem) => respond::problem(&problem, request_id),
    }
}

async fn read_body(app: &App, incoming: Incoming) -> Result<(), Problem> {
    let bytes = body::read(incoming, CLAIM_BODY_BYTES_MAX, ms(app.config.http.body_timeout_ms)).await?;
    check_claim_body(&bytes)
}

fn no_template(text: &str) -> Problem {
    Problem::of(ClaimOutcome::TemplateNotFound, format!("there is no template {text}"))
}

/// A claim's body is empty or `{}`.
fn check_claim_body(bytes: &[u8]) -> Result<(), Problem> {
    if bytes.trim_ascii().is_empty() {
        return Ok(());
    }
    match body::parse_json(bytes)? {
        Value::Object(members) if members.is_empty() => Ok(()),
        Value::Object(members) => Err(Problem::invalid(
            members
                .keys()
                .map(|name| field_error(name.clone(), "unknown_field", "a claim's body has no fields"))
                .collect(),
        )),
        _ => Err(Problem::of(ClaimOutcome::InvalidRequest, "a claim's body is empty or {}")),
    }
}

async fn unreachable_claim(_app: Arc<App>, _request: Request) -> Result<Reply, Problem> {
    Err(Problem::new("internal", "claims are answered before the router"))
}

// === The batch of a trusted backend ===

struct BatchClaim {
    user: UserId,
    facts: Facts,
    channel: Option<String>,
    ip: Option<IpAddr>,
    device: Option<String>,
    key: Option<String>,
}

async fn batch(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let template = TemplateId::parse(&request.params[0]).ok_or_else(|| no_template(&request.params[0]))?;
    if !is_own(&app, request.caller(), template) {
        return Err(no_template(&request.params[0]));
    }
    let claims = parse_batch(&request.json()?)?;
    // All of them wait in the lane at once, and are answered in order.
    let lanes = app.claims.background_lanes.get().map(BackgroundLanes::next);
    let waiting = claims.iter().map(|claim| one_of_batch(&app, lanes, template, claim, &request.request_id));
    let answers = futures_util::future::join_all(waiting).await;
    let mut body = Vec::with_capacity(answers.iter().map(|answer| answer.len() + 1).sum::<usize>() + 16);
    body.extend_from_slice(b"{\"results\":[");
    body.extend_from_slice(&answers.join(&b','));
    body.extend_from_slice(b"]}");
    Ok(Reply::Raw("application/json", body.into()))
}

/// Whether a key may claim a template for others: its own issuer's, and the platform's keys all.
fn is_own(app: &App, caller: &Caller, template: TemplateId) -> bool {
    let snapshot = app.snapshot.load();
    caller.owner_type == Issuer::Platform.word()
        || snapshot.templates.get(&template).is_none_or(|template| {
            let definition = &template.definition;
            definition.issuer.word() == caller.owner_type && definition.issuer_id == caller.owner_id
        })
}

/// A claim of a batch, answered as a single claim would be, with its status inside.
async fn one_of_batch(
    app: &App,
    lanes: Option<(&LaneHandle, &LookupHandle)>,
    template: TemplateId,
    claim: &BatchClaim,
    request_id: &str,
) -> Vec<u8> {
    let user = app.users.seal(&claim.user);
    let request = ClaimRequest {
        template,
        user: &user,
        facts: &claim.facts,
        channel: claim.channel.as_deref(),
        ip: claim.ip,
        device: claim.device.as_deref().map(|device| app.hashing.device(device)),
        key: claim.key.as_deref(),
    };
    let result = match lanes {
        Some((lane, lookups)) => gateway::claim(app, lane, lookups, request).await,
        None => Err(Problem::of(ClaimOutcome::Unavailable, "this process serves no claims")),
    };
    let mut answer = Vec::with_capacity(GRANTED_BYTES);
    match result {
        Ok(granted) => {
            answer.extend_from_slice(if granted.replayed { b"{\"status\":200," } else { b"{\"status\":201," });
            let brace = answer.len();
            gateway::write_granted(app, &granted, &mut answer);
            answer.remove(brace);
        }
        Err(problem) => {
            answer.extend_from_slice(&respond::problem_body(&problem, request_id));
            if let Some(ms) = problem.retry_after_ms {
                answer.pop();
                answer.extend_from_slice(format!(",\"retry_after_s\":{}}}", ms.div_ceil(1000)).as_bytes());
            }
        }
    }
    answer
}

/// Reads `{"claims":[{"user_id","claim_key","ip","device_id","channel","facts"}]}`, naming every violated field.
fn parse_batch(value: &Value) -> Result<Vec<BatchClaim>, Problem> {
    let mut errors = Vec::new();
    let mut claims = Vec::new();
    let members =
        value.as_object().ok_or_else(|| Problem::of(ClaimOutcome::InvalidRequest, "the body is no object"))?;
    for name in members.keys().filter(|name| *name != "claims") {
        errors.push(field_error(name.clone(), "unknown_field", "there is no such field"));
    }
    match members.get("claims").and_then(Value::as_array) {
        Some(list) if (1..=BATCH_ENDPOINT_CLAIMS_MAX).contains(&list.len()) => {
            for (at, claim) in list.iter().enumerate() {
                claims.extend(parse_claim(claim, &format!("claims[{at}]"), &mut errors));
            }
        }
        _ => errors.push(field_error(
            "claims".into(),
            "out_of_range",
            &format!("a list of 1 to {BATCH_ENDPOINT_CLAIMS_MAX} claims"),
        )),
    }
    if errors.is_empty() { Ok(claims) } else { Err(Problem::invalid(errors)) }
}

fn parse_claim(value: &Value, at: &str, errors: &mut Vec<FieldError>) -> Option<BatchClaim> {
    let Some(members) = value.as_object() else {
        errors.push(field_error(at.to_owned(), "wrong_type", "a claim is an object"));
        return None;
    };
    let before = errors.len();
    const KNOWN: [&str; 6] = ["user_id", "claim_key", "ip", "device_id", "channel", "facts"];
    for name in members.keys().filter(|name| !KNOWN.contains(&name.as_str())) {
        errors.push(field_error(format!("{at}.{name}"), "unknown_field", "there is no such field"));
    }
    let mut text = |name: &str, max: usize| match members.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) => {
            Some(text.clone())
        }
        Some(_) => {
            let detail = format!("1 to {max} characters of printable ASCII without space");
            errors.push(field_error(format!("{at}.{name}"), "wrong_format", &detail));
            None
        }
    };
    let user = text("user_id", 64);
    let key = text("claim_key", CLAIM_KEY_MAX);
    let ip = text("ip", 45);
    let device = text("device_id", DEVICE_ID_MAX);
    let channel = text("channel", CHANNEL_MAX);
    if members.get("user_id").is_none_or(Value::is_null) {
        errors.push(field_error(format!("{at}.user_id"), "required", "whose claim it is"));
    }
    let ip = match ip.map(|ip| ip.parse::<IpAddr>()) {
        None => None,
        Some(Ok(ip)) => Some(ip.to_canonical()),
        Some(Err(_)) => {
            errors.push(field_error(format!("{at}.ip"), "wrong_format", "an IPv4 or IPv6 address"));
            None
        }
    };
    let facts = match members.get("facts") {
        None | Some(Value::Null) => Facts::default(),
        Some(value) => parse_facts(value).unwrap_or_else(|detail| {
            errors.push(field_error(format!("{at}.facts"), "wrong_format", detail));
            Facts::default()
        }),
    };
    if errors.len() > before {
        return None;
    }
    Some(BatchClaim { user: UserId::parse(&user?)?, facts, channel, ip, device, key })
}

fn parse_facts(value: &Value) -> Result<Facts, &'static str> {
    let wrong = "level: text, tags: list of text, registered_at: RFC 3339 time";
    let members = value.as_object().ok_or(wrong)?;
    if members.keys().any(|name| !["level", "tags", "registered_at"].contains(&name.as_str())) {
        return Err(wrong);
    }
    let text = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(wrong),
    };
    let tags = match members.get("tags") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(tags)) => {
            tags.iter().map(|tag| tag.as_str().map(str::to_owned).ok_or(wrong)).collect::<Result<Vec<_>, _>>()?
        }
        Some(_) => return Err(wrong),
    };
    let registered_at = text("registered_at")?.map(|text| parse_time(&text).ok_or(wrong)).transpose()?;
    checked_facts(text("level")?, tags, registered_at).ok_or("level or tags are too long or too many")
}

fn field_error(field: String, code: &'static str, detail: &str) -> FieldError {
    FieldError { field, code, detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claims_body_is_empty_or_an_empty_object() {
        for good in ["", " \n", "{}", " { } "] {
            assert!(check_claim_body(good.as_bytes()).is_ok(), "{good:?}");
        }
        for bad in ["[]", "null", "{\"a\":1}", "{", "x", "\u{feff}{}"] {
            assert_eq!(check_claim_body(bad.as_bytes()).unwrap_err().code, "invalid_request", "{bad:?}");
        }
    }

    #[test]
    fn a_batch_names_every_violated_field() {
        let body = json!({"claims": [
            {"user_id": "u-1", "claim_key": "k", "ip": "1.2.3.4", "facts": {"level": "gold", "tags": ["a"]}},
            {"user_id": "a b", "ip": "nowhere"},
            {"device_id": 7, "color": "red"},
            {"user_id": "u-4", "facts": {"tags": "a"}},
        ], "more": 1});
        let problem = parse_batch(&body).err().unwrap();
        let fields: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
        for field in [
            "more",
            "claims[1].user_id",
            "claims[1].ip",
            "claims[2].device_id",
            "claims[2].color",
            "claims[2].user_id",
            "claims[3].facts",
        ] {
            assert!(fields.contains(&field), "{field} not in {fields:?}");
        }
        assert!(parse_batch(&json!({"claims": []})).is_err());
        let nobody = parse_batch(&json!({"claims": [{"user_id": null}]})).err().unwrap();
        assert_eq!(nobody.errors[0].field, "claims[0].user_id");
        assert!(parse_batch(&json!({"claims": [{"user_id": "u-1"}]})).is_ok());
    }
}
