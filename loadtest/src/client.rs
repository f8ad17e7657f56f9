//! Many connections over any number of gateways, each claim asked until its outcome is certain.
//!
//! A claim whose outcome is unknown is sent again with the same claim key, to the next gateway,
//! until there is a definite answer or patience ends. Gateways may die and return: a connection
//! that fails moves on to the next of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use floodgate::admission::identity::{self, TokenClaims, parse_time};
use floodgate::clock::now_ms;
use floodgate::config;
use serde::Deserialize;
use tokio::task::JoinHandle;

use crate::http::{self, Connection};
use crate::journal::{Answer, Coupon, Held, Journal, Outcome, Request};
use crate::plan::{Claim, Plan, mix};

/// How requests say whose they are.
#[derive(Clone)]
pub enum Identity {
    /// Tokens signed with these settings' secret.
    Tokens(config::Auth),
    /// `X-User-Id`, which a gateway believes from a trusted proxy.
    TrustedHeader,
}

/// Makes the header that says whose a request is.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    /// The same for every token, so that a user's is always the same.
    tokens_expire: u64,
}

#[derive(Clone)]
pub struct Settings {
    /// `host:port` each.
    pub gateways: Vec<String>,
    pub connections: usize,
    pub identity: Identity,
    /// A request without an answer for so long has an unknown outcome.
    pub request_timeout: Duration,
    /// A claim without a definite answer for so long is given up.
    pub patience: Duration,
}

/// A load under way.
pub struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    begun: Instant,
}

/// What a load came to.
#[derive(Clone, Debug)]
pub struct Summary {
    pub took: Duration,
    /// Claims with a definite answer, by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Requests sent, retries too.
    pub requests: u64,
    /// Claims with a key that never got a definite answer.
    pub given_up: u64,
    /// Claims without a key whose answer was lost: nobody can ask for them again.
    pub lost_keyless: u64,
}

struct Shared {
    plan: Plan,
    /// Which of the plan's claims; none: all of them, in order.
    only: Option<Vec<u64>>,
    settings: Settings,
    credentials: Credentials,
    journal: Arc<Journal>,
    next: AtomicU64,
    decided: AtomicU64,
    requests: AtomicU64,
    stopping: AtomicBool,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    outcomes: BTreeMap<String, u64>,
    given_up: u64,
    lost_keyless: u64,
    /// Why the load ended early.
    failed: Option<String>,
}

/// One connection's worth of load.
struct Worker {
    shared: Arc<Shared>,
    gateway: usize,
    connection: Option<Connection>,
    /// Grows while nothing answers.
    pause: Duration,
    turns: u64,
}

/// What became of one claim.
enum End {
    Decided(String),
    GivenUp,
    LostKeyless,
    Failed(String),
}

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// So many claims without a definite answer end the load: nobody decides there any more.
const GIVEN_UP_MAX: u64 = 100;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const TOKEN_SECONDS: u64 = 86_400;

/// Starts a plan's claims as tasks of the present runtime.
pub fn start(plan: Plan, settings: Settings, journal: Arc<Journal>) -> Load {
    start_claims(plan, None, settings, journal)
}

/// Asks for claims of these numbers until their outcomes are certain: those that the open loop left
/// unknown.
pub fn settle(plan: Plan, numbers: Vec<u64>, settings: Settings, journal: Arc<Journal>) -> Load {
    start_claims(plan, Some(numbers), settings, journal)
}

fn start_claims(plan: Plan, only: Option<Vec<u64>>, settings: Settings, journal: Arc<Journal>) -> Load {
    let connections = settings.connections.max(1);
    let shared = Arc::new(Shared {
        plan,
        only,
        credentials: Credentials::new(settings.identity.clone()),
        settings,
        journal,
        next: AtomicU64::new(0),
        decided: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
        tally: Mutex::default(),
    });
    let tasks = (0..connections)
        .map(|number| {
            let gateway = number % shared.settings.gateways.len().max(1);
            let worker =
                Worker { shared: shared.clone(), gateway, connection: None, pause: PAUSE_MIN, turns: number as u64 };
            tokio::spawn(worker.run())
        })
        .collect();
    Load { shared, tasks, begun: Instant::now() }
}

// === impl Settings ===

impl Settings {
    pub fn new(gateways: Vec<String>, connections: usize, identity: Identity) -> Settings {
        Settings {
            gateways,
            connections,
            identity,
            request_timeout: Duration::from_secs(10),
            patience: Duration::from_secs(60),
        }
    }
}

// === impl Load ===

impl Load {
    /// Claims with a definite answer so far.
    pub fn decided(&self) -> u64 {
        self.shared.decided.load(Ordering::Relaxed)
    }

    pub fn is_over(&self) -> bool {
        self.tasks.iter().all(JoinHandle::is_finished)
    }

    /// No new claims; those under way are still asked to the end.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }

    /// Waits for the last answer.
    pub async fn finish(self) -> Result<Summary, String> {
        for task in self.tasks {
            task.await.map_err(|error| error.to_string())?;
        }
        let took = self.begun.elapsed();
        let tally = std::mem::take(&mut *self.shared.tally.lock().expect("no panic holds this lock"));
        match tally.failed {
            Some(why) => Err(why),
            None => Ok(Summary {
                took,
                outcomes: tally.outcomes,
                requests: self.shared.requests.load(Ordering::Relaxed),
                given_up: tally.given_up,
                lost_keyless: tally.lost_keyless,
            }),
        }
    }
}

// === impl Summary ===

impl Summary {
    pub fn count(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or(0)
    }

    /// Claims decided in a second.
    pub fn rate(&self) -> f64 {
        self.outcomes.values().sum::<u64>() as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

// === impl Worker ===

impl Worker {
    async fn run(mut self) {
        loop {
            let turn = self.shared.next.fetch_add(1, Ordering::Relaxed);
            let number = match &self.shared.only {
                Some(numbers) => numbers.get(turn as usize).copied(),
                None => (turn < self.shared.plan.claims).then_some(turn),
            };
            let Some(number) = number else { return };
            if self.shared.stopping.load(Ordering::Relaxed) {
                return;
            }
            let claim = self.shared.plan.claim(number);
            let end = self.ask(claim).await;
            let mut tally = self.shared.tally.lock().expect("no panic holds this lock");
            match end {
                End::Decided(word) => *tally.outcomes.entry(word).or_default() += 1,
                End::GivenUp => {
                    tally.given_up += 1;
                    if tally.given_up >= GIVEN_UP_MAX {
                        self.shared.stopping.store(true, Ordering::Relaxed);
                    }
                }
                End::LostKeyless => tally.lost_keyless += 1,
                End::Failed(why) => {
                    tally.failed = Some(why);
                    return self.shared.stopping.store(true, Ordering::Relaxed);
                }
            }
            self.shared.decided.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks until the outcome is certain.
    async fn ask(&mut self, claim: Claim) -> End {
        let begun = Instant::now();
        let identity = match self.identity(&claim) {
            Ok(line) => line,
            Err(why) => return End::Failed(why),
        };
        let mut key = claim.key.clone();
        self.pause = PAUSE_MIN;
        while begun.elapsed() < self.shared.settings.patience {
            let Some(mut connection) = self.connected().await else { continue };
            let (request, bytes) = self.request(&claim, key.as_deref(), &identity);
            let seq = match self.shared.journal.request(request) {
                Ok(seq) => seq,
                Err(why) => return End::Failed(why),
            };
            self.shared.requests.fetch_add(1, Ordering::Relaxed);
            let answer = tokio::time::timeout(self.shared.settings.request_timeout, connection.send(&bytes)).await;
            let outcome = match answer {
                Ok(Ok(answer)) => {
                    if !answer.last {
                        self.connection = Some(connection);
                    }
                    read(&answer)
                }
                Ok(Err(why)) => Outcome::Unknown { why: why.into() },
                Err(_) => Outcome::Unknown { why: "no answer in time".into() },
            };
            let word = outcome.word().to_owned();
            let (open, unknown) = (outcome.is_open(), outcome.is_unknown());
            if let Outcome::Refused { claim_key: Some(told), .. } = &outcome {
                key.get_or_insert_with(|| told.to_string());
            }
            if let Err(why) = self.shared.journal.answer(Answer { seq, at: now_ms(), outcome }) {
                return End::Failed(why);
            }
            if !open {
                return End::Decided(word);
            }
            if unknown && key.is_none() {
                return End::LostKeyless;
            }
            self.move_on().await;
        }
        End::GivenUp
    }

    /// The connection in hand, or a new one. None: this gateway does not answer.
    async fn connected(&mut self) -> Option<Connection> {
        if let Some(connection) = self.connection.take() {
            return Some(connection);
        }
        let address = &self.shared.settings.gateways[self.gateway];
        match tokio::time::timeout(CONNECT_TIMEOUT, Connection::open(address)).await {
            Ok(Ok(connection)) => Some(connection),
            Ok(Err(_)) | Err(_) => {
                self.move_on().await;
                None
            }
        }
    }

    /// To the next gateway, after a pause that grows and is never the same for two connections.
    async fn move_on(&mut self) {
        self.connection = None;
        self.gateway = (self.gateway + 1) % self.shared.settings.gateways.len();
        self.turns += 1;
        let spread = mix(self.turns ^ mix(self.shared.plan.seed)) % 1000;
        tokio::time::sleep(self.pause / 2 + self.pause * spread as u32 / 1000).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn identity(&self, claim: &Claim) -> Result<String, String> {
        let (name, value) = self.shared.credentials.header(&self.shared.plan.user(claim.user))?;
        Ok(format!("{name}: {value}\r\n"))
    }

    fn request(&self, claim: &Claim, key: Option<&str>, identity: &str) -> (Request, Vec<u8>) {
        let plan = &self.shared.plan;
        let gateway = &self.shared.settings.gateways[self.gateway];
        let mut head =
            format!("POST /v1/templates/{}/claims HTTP/1.1\r\nhost: {gateway}\r\n{identity}", claim.template);
        let request = note(plan, claim, key, gateway);
        for (name, value) in [
            ("idempotency-key", key),
            ("x-forwarded-for", request.ip.as_deref()),
            ("x-device-id", request.device.as_deref()),
        ] {
            if let Some(value) = value {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str("content-length: 0\r\n\r\n");
        (request, head.into_bytes())
    }
}

// === impl Credentials ===

impl Credentials {
    pub fn new(identity: Identity) -> Credentials {
        Credentials { identity, tokens_expire: now_ms() as u64 / 1000 + TOKEN_SECONDS }
    }

    /// Name and value.
    pub fn header(&self, user: &str) -> Result<(&'static str, String), String> {
        Ok(match &self.identity {
            Identity::Tokens(auth) => {
                let claims = TokenClaims {
                    sub: user.to_owned(),
                    iss: auth.jwt_issuer.clone(),
                    aud: auth.jwt_audience.clone(),
                    exp: self.tokens_expire,
                    level: None,
                    tags: Vec::new(),
                    registered_at: None,
                    first_order: None,
                };
                ("authorization", format!("Bearer {}", identity::sign(auth, &claims)?))
            }
            Identity::TrustedHeader => ("x-user-id", user.to_owned()),
        })
    }
}

/// A claim as the journal has it, to be sent now.
pub fn note(plan: &Plan, claim: &Claim, key: Option<&str>, gateway: &str) -> Request {
    Request {
        seq: 0,
        at: now_ms(),
        gateway: gateway.into(),
        template: claim.template,
        user: plan.user(claim.user).into(),
        claim_key: key.map(Into::into),
        ip: plan.address(claim.user).map(Into::into),
        device: plan.device(claim.user).map(Into::into),
    }
}

/// What the gateway answers, as far as the journal keeps it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    outcome: Box<str>,
    code: Box<str>,
    claim_key: Option<Box<str>>,
    coupon: Option<Coupon>,
    coupons: Vec<Held>,
}

/// What an answer says of its claim.
pub fn read(answer: &http::Answer) -> Outcome {
    let Ok(body) = serde_json::from_slice::<Body>(&answer.body) else {
        // Not of the gateway, or not whole: it says nothing.
        return Outcome::Unknown { why: format!("status {} with a body that is no answer", answer.status).into() };
    };
    match (answer.status, body.coupon, body.claim_key) {
        (200 | 201, Some(coupon), Some(claim_key)) => {
            let replayed = answer.status == 200;
            let words = if replayed { "replayed" } else { "granted" };
            if *body.outcome != *words || parse_time(&coupon.acquired_at).is_none() {
                return Outcome::Unknown { why: "status and outcome do not agree".into() };
            }
            Outcome::Coupon { replayed, claim_key, coupon }
        }
        (200..=299, ..) => Outcome::Unknown { why: "a grant without coupon or claim key".into() },
        (status, _, claim_key) => Outcome::Refused { status, code: body.code, claim_key, held: body.coupons },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &str) -> Outcome {
        read(&http::Answer { status, body: body.into(), last: false })
    }

    #[test]
    fn answers_are_read_as_the_contract_has_them() {
        let granted = r#"{"outcome":"granted","claim_key":"k","coupon":{"code":"C","template_id":7,"serial":3,"status":"unused","acquired_at":"2026-11-11T00:00:00.123+08:00","valid_from":"f","expires_at":"e"}}"#;
        let Outcome::Coupon { replayed: false, coupon, .. } = answered(201, granted) else { panic!() };
        assert_eq!((coupon.serial, &*coupon.code, &*coupon.expires_at), (3, "C", "e"));
        assert!(answered(200, granted).is_unknown(), "a replay that says granted");
        assert_eq!(answered(410, r#"{"code":"sold_out","title":"x"}"#).word(), "sold_out");
        let limit = r#"{"code":"user_limit_reached","coupons":[{"code":"C","serial":3,"acquired_at":"a"}]}"#;
        let Outcome::Refused { held, .. } = answered(409, limit) else { panic!() };
        assert_eq!(held[0].serial, 3);
        assert!(answered(201, "{\"outcome\":\"granted\"").is_unknown());
        assert!(answered(502, "<html>").is_unknown());
    }
}
