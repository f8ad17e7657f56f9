//! What a handler takes and gives, and who may call it.
//!
//! Handlers hold no SQL and no status codes: they read a [`Request`], call the module that does
//! the work, and return a [`Reply`] or a [`Problem`]. The router and the OpenAPI document are made
//! from the same list of [`Route`]s.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use serde_json::Value;

use super::problem::Problem;
use crate::admission::identity::Shopper;
use crate::app::App;
use crate::audit::{Actor, Origin};
use crate::limits::{PAGE_DEFAULT, PAGE_MAX};

/// Which listener a route is reached through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Public,
    Internal,
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Admin,
    Operator,
    Approver,
    Service,
    Support,
    Auditor,
}

/// Who may call a route.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// Anyone who reaches the listener.
    Open,
    /// A shopper, by token or trusted header.
    Shopper,
    /// A key of one of these roles; `admin` always.
    Roles(&'static [Role]),
}

/// The key that makes an internal call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub key_id: i32,
    pub role: Role,
    /// `platform`, `merchant` or `streamer`.
    pub owner_type: String,
    /// Empty for the platform.
    pub owner_id: String,
}

/// A request as handlers see it: head read, body in memory, caller known where one must be.
pub struct Request {
    pub method: Method,
    /// Values of the route's `{parameters}`, in order, percent-decoded.
    pub params: Vec<String>,
    /// Pairs of the query, percent-decoded.
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Set on routes with [`Access::Roles`].
    pub caller: Option<Caller>,
    /// Set on routes with [`Access::Shopper`].
    pub shopper: Option<Arc<(Shopper, u64)>>,
    /// The client's address, behind trusted proxies.
    pub ip: IpAddr,
    pub request_id: String,
}

/// What a handler gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Ok(Value),
    /// With the revision for `ETag`.
    OkTagged(Value, i64),
    Created(Value),
    NoContent,
    /// A body that is not JSON: content type and bytes.
    Raw(&'static str, Bytes),
    /// JSON, because the process is not ready.
    NotReady(Value),
}

pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<Reply, Problem>> + Send>>;
pub type Handler = fn(Arc<App>, Request) -> HandlerFuture;

/// One call of the HTTP contract.
pub struct Route {
    pub method: Method,
    /// As `/v1/admin/templates/{id}`.
    pub path: &'static str,
    pub door: Door,
    pub access: Access,
    pub handler: Handler,
    /// One line for people.
    pub summary: &'static str,
    /// Name of the request body's schema in the OpenAPI document; empty: no body.
    pub body: &'static str,
    /// Name of the answer's schema; empty: no content, or not JSON.
    pub answer: &'static str,
    /// Media type of an answer that has no schema; empty: no content.
    pub media: &'static str,
    /// Whether the answer carries its revision as `ETag`.
    pub tagged: bool,
    /// Query parameters: name, and JSON schema.
    pub query: &'static [(&'static str, &'static str)],
    /// Codes of `problem` that are particular to this call.
    pub problems: &'static [&'static str],
    /// Statuses of success, for the document.
    pub statuses: &'static [u16],
    /// Whether it is a write that takes an `Idempotency-Key`.
    pub idempotent_by_key: bool,
}

/// The query parameters of a list.
pub const PAGE_QUERY: &[(&str, &str)] =
    &[("cursor", r#"{"type":"string"}"#), ("limit", r#"{"type":"integer","minimum":1,"maximum":100,"default":20}"#)];

// === impl Route ===

impl Route {
    /// A call that takes no body, gives none, and succeeds with 200.
    pub fn new(
        method: Method,
        door: Door,
        path: &'static str,
        access: Access,
        handler: Handler,
        summary: &'static str,
    ) -> Self {
        Route {
            method,
            path,
            door,
            access,
            handler,
            summary,
            body: "",
            answer: "",
            media: "",
            tagged: false,
            query: &[],
            statuses: &[200],
            problems: &[],
            idempotent_by_key: false,
        }
    }

    /// Takes a body of this schema.
    pub fn takes(mut self, schema: &'static str) -> Self {
        self.body = schema;
        self
    }

    /// Answers with this schema.
    pub fn gives(mut self, schema: &'static str) -> Self {
        self.answer = schema;
        self
    }

    /// Answers with something else than JSON of a schema.
    pub fn serves(mut self, media: &'static str) -> Self {
        self.media = media;
        self
    }

    /// Answers with the revision as `ETag`.
    pub fn tagged(mut self) -> Self {
        self.tagged = true;
        self
    }

    /// Succeeds with these statuses.
    pub fn with(mut self, statuses: &'static [u16]) -> Self {
        self.statuses = statuses;
        self
    }

    /// Takes these query parameters.
    pub fn asks(mut self, query: &'static [(&'static str, &'static str)]) -> Self {
        self.query = query;
        self
    }

    /// Has these particular problems.
    pub fn refuses(mut self, problems: &'static [&'static str]) -> Self {
        self.problems = problems;
        self
    }

    /// Takes an `Idempotency-Key`.
    pub fn by_key(mut self) -> Self {
        self.idempotent_by_key = true;
        self
    }
}

// === impl Role ===

impl Role {
    pub const ALL: [Role; 6] =
        [Role::Admin, Role::Operator, Role::Approver, Role::Service, Role::Support, Role::Auditor];

    pub fn word(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Operator => "operator",
            Role::Approver => "approver",
            Role::Service => "service",
            Role::Support => "support",
            Role::Auditor => "auditor",
        }
    }

    pub fn parse(text: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.word().eq_ignore_ascii_case(text))
    }
}

// === impl Access ===

impl Access {
    /// Whether a key of `role` may call.
    pub fn admits(&self, role: Role) -> bool {
        match self {
            Access::Open => true,
            Access::Shopper => false,
            Access::Roles(roles) => role == Role::Admin || roles.contains(&role),
        }
    }
}

// === impl Request ===

impl Request {
    /// The key that calls. Only on routes with [`Access::Roles`], where the router has set it.
    pub fn caller(&self) -> &Caller {
        self.caller.as_ref().expect("the router sets the caller before it calls the handler")
    }

    /// The shopper that asks. Only on routes with [`Access::Shopper`], where the router has set it.
    pub fn shopper(&self) -> &Shopper {
        &self.shopper.as_ref().expect("the router sets the shopper before it calls the handler").0
    }

    /// Who asks and from where, for the audit log: the key, or else the shopper.
    pub fn origin(&self) -> Origin {
        let actor = match &self.caller {
            Some(caller) => Actor::Key(caller.key_id),
            None => Actor::User(self.shopper().user.clone()),
        };
        Origin { actor, ip: Some(self.ip), request_id: Some(self.request_id.clone()) }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON; nesting is bounded.
    pub fn json(&self) -> Result<Value, Problem> {
        super::body::parse_json(&self.body)
    }

    /// A query parameter's first value; empty counts as absent.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// The page asked for: `limit` (1 to 100, 20 unless told) and `cursor`.
    pub fn page(&self) -> Result<(usize, Option<&str>), Problem> {
        let limit = match self.query_value("limit") {
            None => PAGE_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=PAGE_MAX).contains(limit))
                .ok_or_else(|| Problem::new("invalid_request", format!("limit must be 1 to {PAGE_MAX}")))?,
        };
        Ok((limit, self.query_value("cursor")))
    }
}

/// Turns an `async fn(Arc<App>, Request)` into a [`Handler`].
#[macro_export]
macro_rules! handler {
    ($function:path) => {
        |app, request| Box::pin($function(app, request))
    };
}
