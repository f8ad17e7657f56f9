//! The open loop: claims at a constant rate, whether answers come or not.
//!
//! A client that waits for its answer before it sends the next request asks less of a server that
//! slows down, and never measures what the others would have waited ("coordinated omission", Gil
//! Tene). Here each claim has its time; its latency counts from that time to the last byte of its
//! answer, also where it went late because every place was taken. Claims are not asked again: what
//! stayed unknown is told, so that the checker can be given the final answers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use floodgate::clock::now_ms;
use hdrhistogram::Histogram;
use http_body_util::Full;
use hyper::Request as HttpRequest;
use tokio::sync::{Barrier, oneshot};

use crate::client::{self, Credentials, Identity};
use crate::journal::{Answer, Journal, Outcome};
use crate::link::{Link, Protocol};
use crate::pacer::Pacer;
use crate::plan::{Claim, Plan};

#[derive(Clone)]
pub struct Settings {
    /// `host:port` each; connections spread over them.
    pub gateways: Vec<String>,
    pub protocol: Protocol,
    pub connections: usize,
    /// Requests under way on one h2c connection.
    pub streams: usize,
    /// Claims a second.
    pub rate: u64,
    pub identity: Identity,
    /// A request without an answer for so long has an unknown outcome.
    pub request_timeout: Duration,
    /// Threads, each with its share of rate and connections.
    pub threads: usize,
}

/// What came of it.
#[derive(Clone, Default)]
pub struct Report {
    /// From the first claim's time to the last answer.
    pub took: Duration,
    pub claims: u64,
    /// Claims by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Of every answer, in microseconds, from the time that the claim was meant to go.
    pub latency: Latency,
    /// The same of grants and replays, and of refusals.
    pub granted: Latency,
    pub refused: Latency,
    /// From the first claim's time to the last refusal.
    pub last_refused: Duration,
    /// Grants and replays that were answered before the last claim's time, and how long that is.
    pub granted_in_time: u64,
    pub time: Duration,
    /// Claims that went more than a millisecond after their time: every place was taken, or the
    /// generator had no processor.
    pub late: u64,
    /// Numbers of the claims that may have been granted untold.
    pub unknown: Vec<u64>,
}

/// Latencies in microseconds, to three digits, up to a minute.
#[derive(Clone)]
pub struct Latency(Histogram<u64>);

const LATENCY_US_MAX: u64 = 60_000_000;
const LATE: Duration = Duration::from_millis(1);
/// A gateway that does not answer is not asked at once again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// One thread's part.
struct Part {
    plan: Plan,
    settings: Settings,
    credentials: Credentials,
    journal: Option<Arc<Journal>>,
    /// This thread's claims are `first`, `first + threads`, and so on.
    first: u64,
    start: Arc<Start>,
}

/// Where threads wait until all of them are connected.
struct Start {
    barrier: Barrier,
    /// The first claim's time.
    begun: OnceLock<Instant>,
}

/// Plays a plan in the open loop. `journal`: where every request and answer is written.
pub async fn run(plan: Plan, settings: Settings, journal: Option<Arc<Journal>>) -> Result<Report, String> {
    let threads = settings.threads.clamp(1, settings.connections.max(1));
    let start = Arc::new(Start { barrier: Barrier::new(threads), begun: OnceLock::new() });
    let mut waiting = Vec::new();
    for first in 0..threads as u64 {
        let settings = Settings { threads, ..settings.clone() };
        let credentials = Credentials::new(settings.identity.clone());
        let part =
            Part { plan: plan.clone(), settings, credentials, journal: journal.clone(), first, start: start.clone() };
        let (done, answer) = oneshot::channel();
        let work = move || {
            let _ = done.send(part.run());
        };
        std::thread::Builder::new().name("open".into()).spawn(work).map_err(|error| format!("thread: {error}"))?;
        waiting.push(answer);
    }
    let mut report = Report::default();
    for answer in waiting {
        report.add(answer.await.map_err(|_| "a thread of the client ended")??);
    }
    Ok(report)
}

// === impl Part ===

impl Part {
    /// On a runtime of this thread's own.
    fn run(self) -> Result<Report, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("runtime: {error}"))?;
        tokio::task::LocalSet::new().block_on(&runtime, self.play())
    }

    async fn play(self) -> Result<Report, String> {
        let threads = self.settings.threads as u64;
        let claims = (self.plan.claims + threads - 1 - self.first) / threads;
        let rate = self.settings.rate as f64 / threads as f64;
        let places = self.connect().await;
        self.start.barrier.wait().await;
        let begun = *self.start.begun.get_or_init(Instant::now);
        let offset = Duration::from_secs_f64(self.first as f64 / self.settings.rate as f64);
        let pacer = Rc::new(Pacer::new(begun + offset, rate, claims)?);
        let (part, report) = (Rc::new(self), Rc::new(RefCell::new(Report::default())));
        let tasks: Vec<_> = places?
            .into_iter()
            .map(|link| tokio::task::spawn_local(part.clone().place(pacer.clone(), link, begun, report.clone())))
            .collect();
        pacer.run().await?;
        for task in tasks {
            task.await.map_err(|error| error.to_string())??;
        }
        Ok(report.take())
    }

    /// This thread's places, connected.
    async fn connect(&self) -> Result<Vec<Link>, String> {
        let mut places = Vec::new();
        for number in (self.first as usize..self.settings.connections.max(1)).step_by(self.settings.threads) {
            let gateway = &self.settings.gateways[number % self.settings.gateways.len()];
            let mut link = Link::new(gateway, self.settings.protocol);
            link.connect().await?;
            if link.is_h2() {
                places.extend((1..self.settings.streams.max(1)).map(|_| link.another()));
            }
            places.push(link);
        }
        Ok(places)
    }

    /// One place takes claims as they fall due. `report`: of all places of the thread, as each would need histograms of
    /// half a megabyte for itself.
    async fn place(
        self: Rc<Self>,
        pacer: Rc<Pacer>,
        mut link: Link,
        begun: Instant,
        report: Rc<RefCell<Report>>,
    ) -> Result<(), String> {
        let time = Duration::from_secs_f64(self.plan.claims as f64 / self.settings.rate as f64);
        while let Some((turn, intended)) = pacer.next().await {
            let number = self.first + turn * self.settings.threads as u64;
            if intended.elapsed() > LATE {
                report.borrow_mut().late += 1;
            }
            let asked = self.ask(number, &mut link).await;
            if asked.is_err() {
                pacer.stop();
            }
            let outcome = asked?;
            report.borrow_mut().note(number, intended, &outcome, begun.elapsed(), time);
            if matches!(outcome, Outcome::Unknown { .. }) {
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
        Ok(())
    }

    /// `Err`: the journal cannot be written, so nothing more may be sent.
    async fn ask(&self, number: u64, link: &mut Link) -> Result<Outcome, String> {
        let claim = self.plan.claim(number);
        let request = self.request(&claim, link)?;
        let seq = match &self.journal {
            Some(journal) => {
                let noted = client::note(&self.plan, &claim, claim.key.as_deref(), link.address());
                Some(journal.request(noted)?)
            }
            None => None,
        };
        let answer = tokio::time::timeout(self.settings.request_timeout, link.send(request)).await;
        let outcome = match answer {
            Ok(Ok(answer)) => client::read(&answer),
            Ok(Err(why)) => Outcome::Unknown { why: why.into() },
            Err(_) => Outcome::Unknown { why: "no answer in time".into() },
        };
        if let (Some(journal), Some(seq)) = (&self.journal, seq) {
            journal.answer(Answer { seq, at: now_ms(), outcome: outcome.clone() })?;
        }
        Ok(outcome)
    }

    fn request(&self, claim: &Claim, link: &Link) -> Result<HttpRequest<Full<Bytes>>, String> {
        let path = format!("/v1/templates/{}/claims", claim.template);
        let mut request = HttpRequest::post(match link.is_h2() {
            true => format!("http://{}{path}", link.address()),
            false => path,
        });
        if !link.is_h2() {
            request = request.header("host", link.address());
        }
        let (name, value) = self.credentials.header(&self.plan.user(claim.user))?;
        request = request.header(name, value);
        let (ip, device) = (self.plan.address(claim.user), self.plan.device(claim.user));
        for (name, value) in [("idempotency-key", claim.key.clone()), ("x-forwarded-for", ip), ("x-device-id", device)]
        {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.body(Full::default()).map_err(|error| format!("request: {error}"))
    }
}

// === impl Report ===

impl Report {
    /// `at`: since the first claim's time.
    fn note(&mut self, number: u64, intended: Instant, outcome: &Outcome, at: Duration, time: Duration) {
        let took = intended.elapsed();
        self.claims += 1;
        (self.took, self.time) = (self.took.max(at), time);
        *self.outcomes.entry(outcome.word().to_owned()).or_default() += 1;
        self.latency.note(took);
        match outcome {
            Outcome::Coupon { .. } => {
                self.granted.note(took);
                self.granted_in_time += u64::from(at <= time);
            }
            Outcome::Refused { .. } => {
                self.refused.note(took);
                self.last_refused = at;
            }
            Outcome::Unknown { .. } => {}
        }
        if outcome.is_unknown() {
            self.unknown.push(number);
        }
    }

    fn add(&mut self, other: Report) {
        self.took = self.took.max(other.took);
        self.claims += other.claims;
        for (word, count) in other.outcomes {
            *self.outcomes.entry(word).or_default() += count;
        }
        self.latency.add(&other.latency);
        self.granted.add(&other.granted);
        self.refused.add(&other.refused);
        self.last_refused = self.last_refused.max(other.last_refused);
        self.granted_in_time += other.granted_in_time;
        self.time = self.time.max(other.time);
        self.late += other.late;
        self.unknown.extend(other.unknown);
    }

    pub fn count(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or(0)
    }
}

// === impl Latency ===

impl Default for Latency {
    fn default() -> Latency {
        Latency(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are sound"))
    }
}

impl Latency {
    fn note(&mut self, took: Duration) {
        self.0.saturating_record((took.as_micros() as u64).max(1));
    }

    fn add(&mut self, other: &Latency) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time within which that part of all claims was answered; `part` from 0 to 1.
    pub fn at(&self, part: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(part))
    }
}
