//! From a request's head to the handler, and back.
//!
//! A claim takes the short way: decided on the thread that read it, through that thread's lanes.
//! Everything else is read whole and handed to the runtime in the background, so that nothing
//! slow ever stands before a claim.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request as HttpRequest, Version};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::body;
use super::handlers::claims;
use super::problem::Problem;
use super::respond::{self, Answer};
use super::route::{Access, Caller, Door, Reply, Request, Route};
use super::router::{Found, Router, parse_query};
use crate::admission::client::{Headers, Name};
use crate::admission::throttle::{Throttled, begin_request};
use crate::app::App;
use crate::claim::lane::LaneHandle;
use crate::claim::lookup::LookupHandle;
use crate::config::ms;
use crate::domain::outcome::{ClaimOutcome, Scope};
use crate::limits::{ADMIN_BODY_BYTES_MAX, BATCH_BODY_BYTES_MAX, CLAIM_BODY_BYTES_MAX};
use crate::telemetry::{Seldom, metrics};

/// What one thread of one listener needs to answer requests.
pub struct Entrance {
    pub app: Arc<App>,
    pub door: Door,
    pub router: Arc<Router>,
    pub lane: LaneHandle,
    pub lookups: LookupHandle,
    /// Where everything but a claim is carried out.
    pub background: Handle,
    /// How many requests may be carried out there at once: shared by all entrances of one listener.
    pub places: Arc<Semaphore>,
    /// Makes this thread's request ids.
    pub ids: RequestIds,
}

/// Names requests that bring no name: a random prefix of the process, and a number.
pub struct RequestIds {
    prefix: String,
    next: AtomicU64,
}

/// What is kept of a request until its answer: its name, and what the log says of it.
pub struct Visit {
    request_id: String,
    traceparent: Option<Box<str>>,
    /// Only where access lines are on.
    log: Option<AccessLog>,
}

/// One line a request, of target `floodgate::access`: at level debug, and made only where that is on.
struct AccessLog {
    begun: Instant,
    method: Method,
    path: String,
}

/// The longest name of a request that a client may give.
const REQUEST_ID_MAX: usize = 64;

/// A W3C `traceparent` has 55 characters; later versions may have more.
const TRACEPARENT_MAX: usize = 128;

// === impl Entrance ===

impl Entrance {
    /// Answers one request. Never fails: what goes wrong is an answer too.
    pub async fn answer(&self, request: HttpRequest<Incoming>, peer: IpAddr) -> Answer {
        begin_request();
        let (head, incoming) = request.into_parts();
        let headers = Headers::of(&head.headers);
        let visit = Visit::begin(self, &head.method, head.uri.path(), &headers);
        let http1 = head.version < Version::HTTP_2;
        let chunked = http1 && head.headers.contains_key(TRANSFER_ENCODING);
        let mut answer = match check_head(&head) {
            Err(problem) => {
                let mut answer = respond::problem(&problem, &visit.request_id);
                respond::close(&mut answer);
                answer
            }
            Ok(()) => match self.claim_path(&head) {
                Some(template) => claims::answer(self, &headers, incoming, template, peer, &visit.request_id).await,
                // Apart, so that claims carry nothing of it along.
                None => Box::pin(self.other(&head, &headers, incoming, peer, &visit.request_id)).await,
            },
        };
        if chunked || http1 && self.app.draining() {
            // The guard does not read chunked bodies along: nothing may follow them. And who is told
            // during the drain sends no request into a connection that is about to close.
            respond::close(&mut answer);
        }
        visit.end(self, &mut answer);
        answer
    }

    /// `{id}` of `POST /v1/templates/{id}/claims` on the public listener.
    fn claim_path<'a>(&self, head: &'a Parts) -> Option<&'a str> {
        if self.door != Door::Public || head.method != Method::POST {
            return None;
        }
        claims::template_of(head.uri.path())
    }

    async fn other(
        &self,
        head: &Parts,
        headers: &Headers<'_>,
        incoming: Incoming,
        peer: IpAddr,
        request_id: &str,
    ) -> Answer {
        let (route, params) = match self.router.find(self.door, &head.method, head.uri.path()) {
            Found::Route(route, params) => (route, params),
            Found::OtherMethods(methods) => return respond::method_not_allowed(&methods, request_id),
            Found::Nothing => {
                let detail = format!("there is no {} here", head.uri.path());
                return respond::problem(&Problem::new("not_found", detail), request_id);
            }
        };
        let result = self.carry_out(route, params, (head, headers), incoming, peer, request_id).await;
        match result {
            Ok(reply) => respond::reply(reply),
            Err(problem) => {
                let mut answer = respond::problem(&problem, request_id);
                if matches!(problem.code, "payload_too_large" | "request_timeout") {
                    // The rest of the body is not read.
                    respond::close(&mut answer);
                }
                answer
            }
        }
    }

    async fn carry_out(
        &self,
        route: &Route,
        params: Vec<String>,
        (head, headers): (&Parts, &Headers<'_>),
        incoming: Incoming,
        peer: IpAddr,
        request_id: &str,
    ) -> Result<Reply, Problem> {
        let app = self.app.clone();
        let ip = headers.address(peer, &app.config.auth.trusted_proxies);
        let mut shopper = None;
        if self.door == Door::Public {
            throttle_client(&app, ip)?;
        }
        if let Access::Shopper = route.access {
            let known = app.gatekeeper.identify(headers, peer, &app.users)?;
            if let Some(device) = headers.device()? {
                throttle(&app, Scope::Device, app.hashing.device(device))?;
            }
            throttle(&app, Scope::User, app.hashing.user(&known.0.user))?;
            // Malformed is malformed, whether or not this call looks at it.
            headers.channel()?;
            shopper = Some(known);
        }
        let query = parse_query(head.uri.query().unwrap_or(""));
        check_query(route, &query)?;
        let max = match route.body {
            "" => CLAIM_BODY_BYTES_MAX,
            "ClaimBatch" => BATCH_BODY_BYTES_MAX,
            _ => ADMIN_BODY_BYTES_MAX,
        };
        let bytes = body::read(incoming, max, ms(app.config.http.body_timeout_ms)).await?;
        if !bytes.is_empty() && !route.body.is_empty() {
            check_media_type(&head.headers)?;
        }
        let mut request = Request {
            method: head.method.clone(),
            params,
            query,
            headers: head.headers.clone(),
            body: bytes,
            caller: None,
            shopper,
            ip,
            request_id: request_id.to_owned(),
        };
        let (access, handler) = (route.access, route.handler);
        let timeout = ms(app.config.http.request_timeout_ms);
        let work = async move {
            if let Access::Roles(_) = access {
                request.caller = Some(authorize(&app, access, &request.headers).await?);
            }
            handler(app, request).await
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let detail = "too many requests are under way; ask again";
            return Err(Problem::of(ClaimOutcome::Overloaded, detail).retry_after_ms(1000));
        };
        // A client that leaves does not stop a write half-way: the task goes on without it.
        let task = self.background.spawn(async move {
            let _place = place;
            tokio::time::timeout(timeout, work).await
        });
        match task.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Problem::new(
                "timeout",
                "the request took too long; with the same Idempotency-Key it may be repeated",
            )),
            Err(error) => {
                tracing::error!(request_id, error = %error, "a handler panicked");
                Err(Problem::new("internal", "the request could not be carried out; the log says why"))
            }
        }
    }
}

/// Counts a request against the throttles that need no identity. The address comes first: a flood
/// from one address must not use up what all share.
pub fn throttle_client(app: &App, ip: IpAddr) -> Result<(), Problem> {
    throttle(app, Scope::Ip, app.hashing.ip(ip))?;
    throttle(app, Scope::All, 0)
}

/// Counts a request against a throttle.
pub fn throttle(app: &App, scope: Scope, key: u64) -> Result<(), Problem> {
    app.throttles.check(scope, key).map_err(|Throttled { scope, retry_after_ms }| {
        Problem::of(
            ClaimOutcome::Throttled,
            format!("too many requests of this {}; wait and ask again", subject(scope)),
        )
        .retry_after_ms(retry_after_ms)
        .with("scope", scope.word())
    })
}

fn subject(scope: Scope) -> &'static str {
    match scope {
        Scope::All => "deployment",
        Scope::User => "user",
        Scope::Ip => "address",
        Scope::Device => "device",
    }
}

/// Heads that two parsers could read in two ways.
fn check_head(head: &Parts) -> Result<(), Problem> {
    let invalid = |detail: &str| Err(Problem::of(ClaimOutcome::InvalidRequest, detail));
    if head.version == Version::HTTP_11 && head.headers.get_all(HOST).iter().count() != 1 {
        return invalid("send exactly one Host header");
    }
    if head.version == Version::HTTP_10 && head.headers.contains_key(TRANSFER_ENCODING) {
        return invalid("HTTP/1.0 knows no Transfer-Encoding");
    }
    Ok(())
}

/// Of two values of a parameter, one reader takes the first and another the last.
fn check_query(route: &Route, query: &[(String, String)]) -> Result<(), Problem> {
    let times = |name: &str| query.iter().filter(|(key, _)| key == name).count();
    match route.query.iter().find(|(name, _)| times(name) > 1) {
        Some((name, _)) => Err(Problem::of(ClaimOutcome::InvalidRequest, format!("send one {name}"))),
        None => Ok(()),
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let is_json = headers.get(CONTENT_TYPE).is_none_or(|value| {
        let essence = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
        essence.eq_ignore_ascii_case("application/json") || essence.eq_ignore_ascii_case("application/merge-patch+json")
    });
    if is_json { Ok(()) } else { Err(Problem::new("unsupported_media_type", "send Content-Type: application/json")) }
}

/// The key that calls, if its role may.
async fn authorize(app: &App, access: Access, headers: &HeaderMap) -> Result<Caller, Problem> {
    let key = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer "))
        .map(|(_, key)| key.trim())
        .ok_or_else(|| Problem::of(ClaimOutcome::Unauthenticated, "send Authorization: Bearer <api key>"))?;
    let caller = app.api_keys.authenticate(key).await?;
    if !access.admits(caller.role) {
        return Err(Problem::new("forbidden", format!("a key of role {} may not do this", caller.role.word())));
    }
    Ok(caller)
}

// === impl Visit ===

impl Visit {
    pub fn begin(entrance: &Entrance, method: &Method, path: &str, headers: &Headers<'_>) -> Self {
        let log = tracing::enabled!(target: "floodgate::access", tracing::Level::DEBUG).then(|| AccessLog {
            begun: Instant::now(),
            method: method.clone(),
            path: path.to_owned(),
        });
        let traceparent = headers.word(Name::TraceParent, TRACEPARENT_MAX).ok().flatten().map(Box::from);
        Visit { request_id: entrance.ids.name(headers), traceparent, log }
    }

    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Names the request in its answer, counts and logs it.
    pub fn end(self, entrance: &Entrance, answer: &mut Answer) {
        let status = answer.status().as_u16();
        respond::name_request(answer, &self.request_id);
        metrics().request(entrance.door, status);
        match self.log {
            Some(ref log) => log.write(&self, status),
            None if status >= 500 => self.fault(status),
            None => {}
        }
    }

    /// Where access lines are off, faults still say which request they met, once a second.
    fn fault(&self, status: u16) {
        static LINE: Seldom = Seldom::new();
        if let Some(more) = LINE.now() {
            let (request_id, traceparent) = (&self.request_id, self.traceparent.as_deref().unwrap_or(""));
            tracing::warn!(request_id, traceparent, status, more, "a request was answered with a fault");
        }
    }
}

// === impl AccessLog ===

impl AccessLog {
    fn write(&self, visit: &Visit, status: u16) {
        let took_us = self.begun.elapsed().as_micros() as u64;
        let AccessLog { method, path, .. } = self;
        let (request_id, traceparent) = (&visit.request_id, visit.traceparent.as_deref().unwrap_or(""));
        tracing::debug!(target: "floodgate::access", request_id, traceparent, %method, path, status, took_us, "request");
    }
}

// === impl RequestIds ===

impl RequestIds {
    pub fn new() -> Self {
        let mut random = [0u8; 6];
        // Without randomness the ids of two processes may be alike: they are names, not secrets.
        let _ = getrandom::fill(&mut random);
        let prefix = random.iter().map(|byte| format!("{byte:02x}")).collect();
        RequestIds { prefix, next: AtomicU64::new(1) }
    }

    /// The client's own `X-Request-Id` if it is a plain word, else a new one.
    fn name(&self, headers: &Headers<'_>) -> String {
        let given = headers.get(Name::RequestId).and_then(|value| std::str::from_utf8(value).ok());
        match given {
            Some(id) if is_plain(id) => id.to_owned(),
            _ => {
                let mut number = itoa::Buffer::new();
                let number = number.format(self.next.fetch_add(1, Ordering::Relaxed));
                [&self.prefix, "-", number].concat()
            }
        }
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        RequestIds::new()
    }
}

fn is_plain(id: &str) -> bool {
    (1..=REQUEST_ID_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}
