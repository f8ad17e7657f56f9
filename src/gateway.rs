//! One claim, from the checks in memory to the acknowledged answer.
//!
//! What the gateway would refuse on its own (state, window, blacklist, audience, sold out) is
//! first looked up among the receipts if the claim brings its own key: a user whose answer was
//! lost gets the coupon, though the template is over by then. Everything else goes through a lane.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::app::App;
use crate::catalog::snapshot::LiveTemplate;
use crate::claim::engine::{Claim, Held};
use crate::claim::lane::{Answer, Job, LaneHandle};
use crate::claim::lookup::{Lookup, LookupHandle};
use crate::clock::{mono_ms, now_ms};
use crate::config::ms;
use crate::domain::audience::Facts;
use crate::domain::code::{CouponName, to_base32};
use crate::domain::ids::{EntryId, TemplateId};
use crate::domain::outcome::{ClaimOutcome, Scope};
use crate::domain::template::{AckLevel, Status};
use crate::domain::user::UserRef;
use crate::domain::window::{Day, Millis, rfc3339};
use crate::faults::{self, Bug, Point};
use crate::grant::watermark::{Ack, Awaited};
use crate::http::problem::Problem;
use crate::limits::{CLOCK_CARE_MS, SHOWN_WAIT_MS};
use crate::telemetry::metrics;

/// A claim as the front door has read it.
pub struct ClaimRequest<'a> {
    pub template: TemplateId,
    pub user: &'a UserRef,
    pub facts: &'a Facts,
    pub channel: Option<&'a str>,
    pub ip: Option<IpAddr>,
    /// By its hash.
    pub device: Option<u64>,
    /// The caller's own claim key. Without one the gateway makes one.
    pub key: Option<&'a str>,
}

/// A claim that holds a coupon.
pub struct Granted {
    pub template: Arc<LiveTemplate>,
    pub held: Held,
    /// Whether the claim key was granted before.
    pub replayed: bool,
    pub claim_key: String,
}

/// A keyed claim whose client has gone before the answer: it may still be granted, and a retry through
/// this gateway must not be refused meanwhile.
struct LeftBehind<'a> {
    app: &'a App,
    template: TemplateId,
    user: &'a UserRef,
    /// `None`: it was answered, or brought no key.
    key: Option<u64>,
}

/// The times in the answer to a grant: all grants of a batch have the same.
#[derive(Default)]
struct Times {
    key: Option<(TemplateId, i64, Millis)>,
    text: String,
}

thread_local! {
    static TIMES: RefCell<Times> = RefCell::default();
}

/// Makes claim keys for claims that bring none: unique, not secret.
pub struct ClaimKeys {
    prefix: u64,
    next: AtomicU64,
}

/// Decides one claim and waits until its ack level is reached.
pub async fn claim(
    app: &App,
    lane: &LaneHandle,
    lookups: &LookupHandle,
    request: ClaimRequest<'_>,
) -> Result<Granted, Problem> {
    let begun = Instant::now();
    let result = decide(app, lane, lookups, request, begun).await;
    metrics().claim_seconds.record(begun.elapsed());
    match &result {
        Ok(granted) if granted.replayed => metrics().claims(ClaimOutcome::Replayed, 1),
        Ok(_) => metrics().claims(ClaimOutcome::Granted, 1),
        Err(problem) => count_refusal(problem),
    }
    result
}

/// Counts a claim's refusal by its code.
pub fn count_refusal(problem: &Problem) {
    if let Some(outcome) = ClaimOutcome::ALL.into_iter().find(|outcome| outcome.code() == problem.code) {
        metrics().claims(outcome, 1);
    }
}

async fn decide(
    app: &App,
    lane: &LaneHandle,
    lookups: &LookupHandle,
    request: ClaimRequest<'_>,
    begun: Instant,
) -> Result<Granted, Problem> {
    let Some(template) = app.snapshot.load().templates.get(&request.template).cloned() else {
        let detail = format!("there is no template {} to claim", request.template);
        return Err(Problem::of(ClaimOutcome::TemplateNotFound, detail));
    };
    let claim_key = request.key.map_or_else(|| app.claims.keys.make(), str::to_owned);
    let hash = app.hashing.claim_key(&claim_key);
    let now = app.claims.cell.redis_now().unwrap_or_else(now_ms);
    if let Some(refusal) = own_refusal(app, &template, &request, now) {
        if request.key.is_none() || faults::bug(Bug::LatchHidesReplay) {
            return Err(refusal);
        }
        if app.claims.doubts.holds(template.id, request.user, hash) {
            return Err(unknown(&claim_key));
        }
        return match lookups.find(template.clone(), request.user.clone(), hash).await {
            Lookup::Found { held, last } => {
                let granted = Granted { template, held, replayed: true, claim_key };
                acknowledge(app, granted, last, begun).await
            }
            Lookup::NotFound => Err(refusal),
            Lookup::Unavailable => Err(unavailable()),
        };
    }
    let (ip, device) = match template.definition.quotas {
        true => (request.ip.map(|ip| app.hashing.ip(ip)), request.device),
        false => (None, None),
    };
    let claim = Claim { user: request.user.clone(), claim_key_hash: hash, ip, device };
    let answered = lane.submit(Job { template: template.clone(), claim }).map_err(overloaded)?;
    let mut left = LeftBehind { app, template: template.id, user: request.user, key: request.key.map(|_| hash) };
    let answer = match faults::bug(Bug::AnswerBeforeScript) {
        true => Answer::Granted { held: Held { serial: 1, epoch: 1, acquired: now }, entry: EntryId::ZERO },
        false => answered.await.unwrap_or(Answer::Unknown),
    };
    left.key = None;
    let (held, entry, replayed) = match answer {
        Answer::Granted { held, entry } => (held, entry, false),
        Answer::Replayed { held, last } => (held, last, true),
        // An earlier request of the same key may still execute: only its end tells.
        _ if app.claims.doubts.holds(template.id, request.user, hash) => return Err(unknown(&claim_key)),
        Answer::UserLimit { held, last } => {
            let held = shown(app, &template, held, last).await;
            return Err(refusal_of(app, &template, Answer::UserLimit { held, last }, now, &claim_key));
        }
        refused => return Err(refusal_of(app, &template, refused, now, &claim_key)),
    };
    acknowledge(app, Granted { template, held, replayed, claim_key }, entry, begun).await
}

/// What the gateway refuses by what it has in memory, in order of precedence. Close to the edges
/// of the window it leaves the decision to Redis' clock.
fn own_refusal(app: &App, template: &LiveTemplate, request: &ClaimRequest<'_>, now: Millis) -> Option<Problem> {
    let definition = &template.definition;
    let (starts, ends) = definition.claim_window;
    if template.freed {
        return Some(ended());
    }
    if matches!(template.status, Status::Paused | Status::Stopped) {
        return Some(inactive());
    }
    if now < starts - CLOCK_CARE_MS {
        return Some(not_started(definition.timezone, starts, now));
    }
    if now >= ends + CLOCK_CARE_MS {
        return Some(ended());
    }
    if app.snapshot.load().blacklist.blocks(request.user, request.ip, request.device, now) {
        return Some(Problem::of(
            ClaimOutcome::Blocked,
            "claims of this user, address or device are blocked; ask support",
        ));
    }
    if app.config.throttle.device_required && request.device.is_none() {
        return Some(Problem::of(ClaimOutcome::DeviceRequired, "send X-Device-Id"));
    }
    if let Some(audience) = &definition.audience
        && let Err(condition) = audience.check(request.facts, request.channel, now)
    {
        let detail = format!("the template is for others: the condition {condition} does not hold");
        return Some(Problem::of(ClaimOutcome::NotEligible, detail).with("condition", condition));
    }
    let mono = mono_ms();
    if template.latch.is_set(mono) {
        template.latch.touch(mono);
        metrics().latch_refusals.increment(1);
        return Some(sold_out());
    }
    None
}

/// Waits for the ack level. What cannot be acknowledged is said as it is: the grant stands.
async fn acknowledge(app: &App, granted: Granted, entry: EntryId, begun: Instant) -> Result<Granted, Problem> {
    match app.config.claim.level(&granted.template.definition) {
        AckLevel::Redis => Ok(granted),
        AckLevel::Postgres if faults::bug(Bug::AckNotWaited) => Ok(granted),
        // Apart, so that claims which do not wait for it carry nothing of it along.
        level => Box::pin(acknowledged(app, level, granted, entry, begun)).await,
    }
}

async fn acknowledged(
    app: &App,
    level: AckLevel,
    granted: Granted,
    entry: EntryId,
    begun: Instant,
) -> Result<Granted, Problem> {
    faults::point(Point::ClaimBeforeAck);
    let (waiting, settings) = (Instant::now(), &app.config.claim);
    let (deadline, seconds) = match level {
        AckLevel::Postgres => (begun + ms(settings.postgres_wait_ms), &metrics().claim_postgres_seconds),
        AckLevel::Redis | AckLevel::Replica => {
            (waiting + ms(settings.replica_wait_ms), &metrics().claim_replica_seconds)
        }
    };
    let ack = reached(app, level, granted.template.id, &granted.held, entry, deadline).await;
    seconds.record(waiting.elapsed());
    match ack {
        Ack::Committed => Ok(granted),
        Ack::SetAside => Err(Problem::of(
            ClaimOutcome::SetAside,
            "the coupon was granted, but its row was refused; it is set aside for an operator",
        )
        .with("claim_key", granted.claim_key.as_str())),
        Ack::BeyondFinal | Ack::Unknown => Err(unknown(&granted.claim_key)),
    }
}

/// Of the coupons that a refusal would show, those that have reached the template's ack level in time: whoever is
/// shown a coupon may count on it. Where many wait, that is none: the places are for those who are granted something.
async fn shown(app: &App, template: &LiveTemplate, mut held: Vec<Held>, last: EntryId) -> Vec<Held> {
    let level = app.config.claim.level(&template.definition);
    if level == AckLevel::Redis || held.is_empty() {
        return held;
    }
    let deadline = Instant::now() + ms(SHOWN_WAIT_MS);
    if app.acks.is_crowded() || app.confirms.is_crowded() {
        return Vec::new();
    }
    let wait = |held: Held| async move { reached(app, level, template.id, &held, last, deadline).await };
    // All of them wait for the same, but for being set aside.
    let mut acks = vec![Box::pin(wait(held[0])).await];
    match acks[0] {
        Ack::Committed if level == AckLevel::Replica => return held,
        Ack::Committed | Ack::SetAside => {
            let rest = held[1..].iter().map(|held| wait(*held));
            acks.extend(Box::pin(futures_util::future::join_all(rest)).await);
        }
        Ack::BeyondFinal | Ack::Unknown => return Vec::new(),
    }
    let mut acks = acks.into_iter();
    held.retain(|_| acks.next() == Some(Ack::Committed));
    held
}

/// Waits until a coupon that Redis has is where its level wants it, `entry` having told of it.
async fn reached(
    app: &App,
    level: AckLevel,
    template: TemplateId,
    held: &Held,
    entry: EntryId,
    deadline: Instant,
) -> Ack {
    match level {
        AckLevel::Redis => Ack::Committed,
        // The entry was told by the script that answered: its epoch is the one that held then.
        AckLevel::Replica => match app.confirms.wait(entry.epoch, deadline.into()).await {
            true => Ack::Committed,
            false => Ack::Unknown,
        },
        AckLevel::Postgres => {
            let awaited = Awaited { entry, template, serial: held.serial, epoch: held.epoch };
            app.acks.wait(awaited, deadline.into()).await
        }
    }
}

fn refusal_of(app: &App, template: &LiveTemplate, answer: Answer, now: Millis, claim_key: &str) -> Problem {
    let definition = &template.definition;
    let until_midnight = || (Day::of(definition.timezone, now).end - now).max(1) as u64;
    match answer {
        Answer::UserLimit { held, .. } => {
            let coupons: Vec<Value> = held.iter().map(|held| held_json(app, template, held)).collect();
            let detail = format!("the user holds all {} that are allowed", definition.limits.per_user);
            Problem::of(ClaimOutcome::UserLimitReached, detail).with("coupons", coupons)
        }
        Answer::Quota { scope, until } => {
            let detail = match scope {
                Scope::User | Scope::All => "this user was granted as many coupons as are allowed in the time",
                Scope::Ip => "this address was granted as many coupons as are allowed in the time",
                Scope::Device => "this device was granted as many coupons as are allowed in the time",
            };
            Problem::of(ClaimOutcome::QuotaExceeded, detail)
                .with("scope", scope.word())
                .retry_after_ms((until - now).max(1) as u64)
        }
        Answer::Refused(outcome) => match outcome {
            ClaimOutcome::TemplateInactive => inactive(),
            ClaimOutcome::NotStarted => not_started(definition.timezone, definition.claim_window.0, now),
            ClaimOutcome::Ended => ended(),
            ClaimOutcome::SoldOut => sold_out(),
            ClaimOutcome::UserDailyLimitReached => {
                Problem::of(outcome, "the user has all they may have today; come back tomorrow")
                    .retry_after_ms(until_midnight())
            }
            ClaimOutcome::DailyLimitReached => {
                Problem::of(outcome, "sold out for today; come back tomorrow").retry_after_ms(until_midnight())
            }
            ClaimOutcome::Overloaded => overloaded(100),
            _ => unavailable(),
        },
        Answer::Unknown | Answer::Granted { .. } | Answer::Replayed { .. } => unknown(claim_key),
    }
}

fn inactive() -> Problem {
    Problem::of(ClaimOutcome::TemplateInactive, "the template is paused or stopped")
}

fn ended() -> Problem {
    Problem::of(ClaimOutcome::Ended, "the time for claims is over")
}

fn sold_out() -> Problem {
    Problem::of(ClaimOutcome::SoldOut, "every coupon of the template has been given out")
}

fn not_started(zone: chrono_tz::Tz, starts: Millis, now: Millis) -> Problem {
    let at = rfc3339(zone, starts);
    Problem::of(ClaimOutcome::NotStarted, format!("claims begin at {at}"))
        .with("starts_at", at)
        .retry_after_ms((starts - now).max(1) as u64)
}

fn unavailable() -> Problem {
    Problem::of(ClaimOutcome::Unavailable, "nothing was granted; ask again").retry_after_ms(jittered(1000))
}

fn overloaded(wait_ms: u64) -> Problem {
    Problem::of(ClaimOutcome::Overloaded, "too many claims wait; nothing was granted; ask again")
        .retry_after_ms(jittered(wait_ms.max(1000)))
}

fn unknown(claim_key: &str) -> Problem {
    let detail = "whether the claim was granted is not known; ask again with Idempotency-Key set to claim_key";
    Problem::of(ClaimOutcome::OutcomeUnknown, detail).with("claim_key", claim_key).retry_after_ms(jittered(1000))
}

/// Between one and three times `ms`, so that those who were refused together do not return together.
fn jittered(ms: u64) -> u64 {
    static TURN: AtomicU64 = AtomicU64::new(0);
    let spread = TURN.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44;
    ms + ms * 2 * spread / (1 << 20)
}

// === What a coupon looks like ===

/// The public name of a coupon that was never given away.
pub fn code_of(app: &App, template: TemplateId, held: &Held) -> String {
    app.code_key.encode(CouponName { template, serial: held.serial, epoch: held.epoch, gift: 0 })
}

fn held_json(app: &App, template: &LiveTemplate, held: &Held) -> Value {
    let zone = template.definition.timezone;
    json!({
        "code": code_of(app, template.id, held),
        "serial": held.serial,
        "acquired_at": rfc3339(zone, held.acquired),
    })
}

/// The answer to a claim that holds a coupon, as JSON: written by hand, its members need no escapes
/// but the claim key, which is printable ASCII.
pub fn write_granted(app: &App, granted: &Granted, out: &mut Vec<u8>) {
    let (template, held) = (&granted.template, &granted.held);
    let mut number = itoa::Buffer::new();
    let mut put = |text: &str| out.extend_from_slice(text.as_bytes());
    put("{\"outcome\":\"");
    put(if granted.replayed { "replayed" } else { "granted" });
    put("\",\"claim_key\":\"");
    for part in granted.claim_key.split_inclusive(['"', '\\']) {
        match part.strip_suffix(['"', '\\']) {
            Some(plain) => {
                put(plain);
                put("\\");
                put(&part[plain.len()..]);
            }
            None => put(part),
        }
    }
    put("\",\"coupon\":{\"code\":\"");
    put(&code_of(app, template.id, held));
    put("\",\"template_id\":");
    put(number.format(template.id.0));
    put(",\"serial\":");
    put(number.format(held.serial));
    TIMES.with_borrow_mut(|times| put(times.of(template, held.acquired)));
}

// === impl Times ===

impl Times {
    /// The members of a grant's answer that tell its times, and its end.
    fn of(&mut self, template: &LiveTemplate, acquired: Millis) -> &str {
        let key = (template.id, template.revision, acquired);
        if self.key != Some(key) {
            let zone = template.definition.timezone;
            let (from, expires) = template.definition.validity.span(zone, acquired);
            let [acquired, from, expires] = [acquired, from, expires].map(|at| rfc3339(zone, at));
            self.text = format!(
                ",\"status\":\"unused\",\"acquired_at\":\"{acquired}\",\"valid_from\":\"{from}\",\"expires_at\":\"{expires}\"}}}}"
            );
            self.key = Some(key);
        }
        &self.text
    }
}

// === impl LeftBehind ===

impl Drop for LeftBehind<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let settings = &self.app.config.claim;
            let until = mono_ms() + settings.deadline_ms + settings.wait_max_ms;
            self.app.claims.doubts.note([(self.template, self.user.clone(), key)].into_iter(), until);
        }
    }
}

// === impl ClaimKeys ===

impl ClaimKeys {
    pub fn new() -> Result<Self, String> {
        let mut prefix = [0; 8];
        getrandom::fill(&mut prefix).map_err(|error| format!("the system has no randomness: {error}"))?;
        Ok(ClaimKeys { prefix: u64::from_be_bytes(prefix), next: AtomicU64::new(0) })
    }

    fn make(&self) -> String {
        to_base32(u128::from(self.prefix) << 64 | u128::from(self.next.fetch_add(1, Ordering::Relaxed)))
    }
}
