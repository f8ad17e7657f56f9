//! Where claims wait for the batch in flight.
//!
//! Natural batching: a lane takes all that wait and never waits for more; the next batch forms
//! while this one is at Redis. A lane answers every claim that it accepted, and says only what is
//! certain: a batch whose outcome is unknown is looked up once its deadline has passed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::cell::Cell;
use super::doubt::Doubts;
use super::engine::{
    Batch, BatchReply, Claim, Decision, Engine, Group, GroupReply, Held, LookupGroup, LookupGroupReply, LookupReply,
    Mismatch,
};
use super::ring::{Ring, RingBatch, RingGrant};
use crate::catalog::snapshot::LiveTemplate;
use crate::clock::mono_ms;
use crate::config;
use crate::domain::ids::{EntryId, Epoch, Serial};
use crate::domain::outcome::{ClaimOutcome, Scope};
use crate::domain::template::AckLevel;
use crate::domain::window::{Day, Millis};
use crate::faults::{self, Bug, Point};
use crate::redis::fault::{Executed, Fault};
use crate::redis::keys::CellKeys;
use crate::telemetry::{Seldom, metrics};

/// What a lane has to say of a claim.
#[derive(Debug)]
pub enum Answer {
    /// Granted in `entry`, which ack level `postgres` waits for.
    Granted {
        held: Held,
        entry: EntryId,
    },
    /// Granted before; the row is stored at the latest with `last`.
    Replayed {
        held: Held,
        last: EntryId,
    },
    /// The user has all they may have: these; their rows are stored at the latest with `last`.
    UserLimit {
        held: Vec<Held>,
        last: EntryId,
    },
    Quota {
        scope: Scope,
        until: Millis,
    },
    Refused(ClaimOutcome),
    /// Whether it was granted is not known; its deadline has passed, so the same key will tell.
    Unknown,
}

/// A claim on its way into a lane.
pub struct Job {
    pub template: Arc<LiveTemplate>,
    pub claim: Claim,
}

/// The entrance of a lane. Cheap to clone.
#[derive(Clone)]
pub struct LaneHandle {
    jobs: mpsc::Sender<Queued>,
    load: Arc<Load>,
    batch_max: usize,
    wait_max: Duration,
}

/// What the lanes of a process share.
pub struct LaneShared {
    pub cell: Arc<Cell>,
    pub doubts: Arc<Doubts>,
    /// Where grants are remembered until they are rows.
    pub ring: Arc<Ring>,
    pub keys: CellKeys,
    pub settings: config::Claim,
}

struct Queued {
    job: Job,
    since: Instant,
    answer: oneshot::Sender<Answer>,
}

/// How full a lane is and how long a batch takes: what early shedding goes by.
#[derive(Default)]
struct Load {
    waiting: AtomicUsize,
    /// Smoothed time of a batch, in microseconds.
    batch_us: AtomicU64,
}

/// The claims of one template in a batch, with those who wait for the answers.
struct Bundle {
    template: Arc<LiveTemplate>,
    group: Group,
    answers: Vec<oneshot::Sender<Answer>>,
    /// Whether grants are acknowledged before they are rows.
    early: bool,
}

struct Lane<E> {
    engine: E,
    shared: Arc<LaneShared>,
    load: Arc<Load>,
}

/// Tries of one batch while it is certain that nothing was executed.
const TRIES_MAX: usize = 4;

/// How long the lookup that settles an unknown outcome may take.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(1000);

// === impl LaneHandle ===

impl LaneHandle {
    /// Hands a claim in. `Err`: the lane is too full, with the time in ms after which it may not be.
    pub fn submit(&self, job: Job) -> Result<oneshot::Receiver<Answer>, u64> {
        let ahead = self.load.waiting.load(Ordering::Relaxed);
        let batches = (ahead / self.batch_max + 1) as u64;
        let wait = Duration::from_micros(batches * self.load.batch_us.load(Ordering::Relaxed));
        if wait > self.wait_max && ahead > 0 {
            return Err(wait.as_millis() as u64);
        }
        let (answer, answered) = oneshot::channel();
        let queued = Queued { job, since: Instant::now(), answer };
        // Counted before it is visible, so that the lane never subtracts what was not added.
        self.load.waiting.fetch_add(1, Ordering::Relaxed);
        if self.jobs.try_send(queued).is_err() {
            self.load.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(wait.as_millis().max(10) as u64);
        }
        Ok(answered)
    }
}

/// Starts a lane as a task of the present runtime. It ends, with everything answered, when the
/// last handle is dropped.
pub fn start<E: Engine>(engine: E, shared: Arc<LaneShared>) -> (LaneHandle, tokio::task::JoinHandle<()>) {
    let settings = &shared.settings;
    let (jobs, queue) = mpsc::channel(settings.lane_max);
    let load = Arc::new(Load::default());
    let handle = LaneHandle {
        jobs,
        load: load.clone(),
        batch_max: settings.batch_max,
        wait_max: config::ms(settings.wait_max_ms),
    };
    let lane = Lane { engine, shared, load };
    (handle, tokio::spawn(lane.run(queue)))
}

// === impl Lane ===

impl<E: Engine> Lane<E> {
    async fn run(mut self, mut queue: mpsc::Receiver<Queued>) {
        let batch_max = self.shared.settings.batch_max;
        let wait_max = config::ms(self.shared.settings.wait_max_ms);
        let mut taken = Vec::with_capacity(batch_max);
        while queue.recv_many(&mut taken, batch_max).await > 0 {
            let begun = Instant::now();
            self.load.waiting.fetch_sub(taken.len(), Ordering::Relaxed);
            metrics().lane_waiting.set(queue.len() as f64);
            metrics().batch_size.record(taken.len() as f64);
            metrics().claim_lane_seconds.record(begun.duration_since(taken[0].since));
            let bundles = self.bundle(taken.drain(..).filter_map(|queued| {
                if begun.duration_since(queued.since) <= wait_max {
                    return Some(queued);
                }
                let _ = queued.answer.send(Answer::Refused(ClaimOutcome::Overloaded));
                None
            }));
            if !bundles.is_empty() {
                self.decide(bundles).await;
            }
            let took = begun.elapsed();
            metrics().claim_redis_seconds.record(took);
            let smoothed = (self.load.batch_us.load(Ordering::Relaxed) * 7 + took.as_micros() as u64) / 8;
            self.load.batch_us.store(smoothed, Ordering::Relaxed);
        }
    }

    /// Sorts claims by template, those under quotas first, as the script wants them.
    fn bundle(&self, queued: impl Iterator<Item = Queued>) -> Vec<Bundle> {
        let mut bundles: Vec<Bundle> = Vec::with_capacity(1);
        for Queued { job: Job { template, claim }, answer, .. } in queued {
            let early = self.shared.settings.level(&template.definition) != AckLevel::Postgres;
            let at = match bundles.iter().position(|bundle| bundle.template.id == template.id) {
                Some(at) => at,
                None => {
                    let group = Group {
                        template: template.id,
                        keys: self.shared.keys.template(template.id),
                        quotas: template.definition.quotas,
                        day: Day { start: 0, end: 0 },
                        claims: Vec::new(),
                    };
                    bundles.push(Bundle { template, group, answers: Vec::new(), early });
                    bundles.len() - 1
                }
            };
            // Two snapshots may meet in a batch.
            bundles[at].early |= early;
            bundles[at].group.claims.push(claim);
            bundles[at].answers.push(answer);
        }
        bundles.sort_by_key(|bundle| !bundle.group.quotas);
        bundles
    }

    /// Decides a batch, again where it is certain that nothing was executed and time is left.
    async fn decide(&mut self, mut bundles: Vec<Bundle>) {
        let begun = Instant::now();
        let budget = config::ms(self.shared.settings.deadline_ms);
        let margin = config::ms(self.shared.settings.answer_margin_ms);
        for _ in 0..TRIES_MAX {
            let left = budget.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            let Some(identity) = self.shared.cell.find(&mut self.engine, left).await else { break };
            let Some(redis_now) = self.shared.cell.redis_now() else { break };
            for bundle in &mut bundles {
                bundle.group.day = day_of(&bundle.template, redis_now);
            }
            let (groups, waiting): (Vec<_>, Vec<_>) = bundles
                .into_iter()
                .map(|bundle| (bundle.group, (bundle.template, bundle.answers, bundle.early)))
                .unzip();
            let left = budget.saturating_sub(begun.elapsed());
            let batch = Batch {
                deadline: redis_now + left.as_millis() as Millis,
                backlog_max: self.shared.settings.backlog_grants_max,
                groups,
            };
            let (sent, sent_at) = (mono_ms(), Instant::now());
            faults::point(Point::ClaimBeforeScript);
            let reply = tokio::time::timeout(left + margin, self.engine.claim(&identity, &batch)).await;
            faults::point(Point::ClaimAfterScript);
            bundles = waiting
                .into_iter()
                .zip(batch.groups)
                .map(|((template, answers, early), group)| Bundle { template, group, answers, early })
                .collect();
            let given_up = |sent| Err(if sent { Fault::timeout() } else { Fault::not_sent() });
            match reply.unwrap_or_else(|_| given_up(self.engine.sent())) {
                Ok(BatchReply::Executed { now, last, entry, groups }) => {
                    self.shared.cell.see_clock(now);
                    let told = Told { epoch: identity.epoch, now, last, entry: entry.unwrap_or(last) };
                    bundles = answer_all(bundles, groups, &told, sent, &self.shared.ring);
                    if bundles.is_empty() {
                        return;
                    }
                }
                Ok(BatchReply::NotExecuted { reason, now }) => {
                    if let Some(now) = now {
                        self.shared.cell.see_clock(now);
                    }
                    match reason {
                        Mismatch::Identity => {
                            metrics().identity_mismatch.increment(1);
                            self.shared.cell.doubt(&identity);
                        }
                        Mismatch::Deadline => {}
                        Mismatch::Clock => {
                            metrics().clock_behind.increment(1);
                            static LINE: Seldom = Seldom::new();
                            if let Some(more) = LINE.now() {
                                tracing::error!(
                                    more,
                                    "Redis' clock is more than a second behind what the cell has seen"
                                );
                            }
                            break;
                        }
                    }
                }
                Err(fault) => {
                    metrics().redis_error(fault.kind);
                    static LINE: Seldom = Seldom::new();
                    if let Some(more) = LINE.now() {
                        let claims = count(&bundles);
                        tracing::warn!(error = %fault, claims, more, "a batch of claims has no answer");
                    }
                    self.shared.cell.doubt(&identity);
                    if fault.executed == Executed::Unknown && !faults::bug(Bug::UnknownIsRefusal) {
                        return self.settle(bundles, sent_at + left, batch.deadline, redis_now);
                    }
                    break;
                }
            }
        }
        refuse_all(bundles, ClaimOutcome::Unavailable);
    }

    /// Notes the claims as in doubt and, in the background, looks them up when their deadline has
    /// passed: what is found was granted, what is not found never will be by this batch.
    ///
    /// `deadline` is when that is by this process' clock, `redis_deadline` by Redis' own: only an
    /// answer from behind both is final. What was acquired before `asked`, Redis' time when the batch
    /// was sent, was granted before.
    fn settle(&self, bundles: Vec<Bundle>, deadline: Instant, redis_deadline: Millis, asked: Millis) {
        let until = mono_ms() + deadline.saturating_duration_since(Instant::now()).as_millis() as u64 + 1;
        let claims = bundles.iter().flat_map(|bundle| {
            let id = bundle.template.id;
            bundle.group.claims.iter().map(move |claim| (id, claim.user.clone(), claim.claim_key_hash))
        });
        if !faults::bug(Bug::DoubtNotNoted) {
            self.shared.doubts.note(claims, until);
        }
        let mut engine = self.engine.another();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(deadline + Duration::from_millis(1)).await;
            let groups: Vec<LookupGroup> = bundles.iter().map(lookup_group).collect();
            let found = tokio::time::timeout(SETTLE_TIMEOUT, async {
                let identity = match shared.cell.identity() {
                    Some(identity) => identity,
                    None => shared.cell.adopt(&engine.meta().await.ok()?)?,
                };
                match engine.lookup(&identity, &groups).await.ok()? {
                    LookupReply::Executed { now, last, groups } if now >= redis_deadline => Some((last, groups)),
                    _ => None,
                }
            })
            .await
            .ok()
            .flatten();
            match found {
                Some((last, groups)) => settle_all(bundles, groups, last, asked, &shared.ring),
                None => bundles.into_iter().flat_map(|bundle| bundle.answers).for_each(|answer| {
                    let _ = answer.send(Answer::Unknown);
                }),
            }
            shared.doubts.sweep();
        });
    }
}

fn count(bundles: &[Bundle]) -> usize {
    bundles.iter().map(|bundle| bundle.answers.len()).sum()
}

/// The local day where a limit asks for it; else any, the script does not look.
fn day_of(template: &LiveTemplate, now: Millis) -> Day {
    let definition = &template.definition;
    if definition.stock.daily.is_some() || definition.limits.per_user_daily.is_some() {
        let day = Day::of(definition.timezone, now);
        if faults::bug(Bug::DayHas24Hours) { Day { end: day.start + 86_400_000, ..day } } else { day }
    } else {
        Day { start: 0, end: 0 }
    }
}

fn lookup_group(bundle: &Bundle) -> LookupGroup {
    let claims = bundle.group.claims.iter().map(|claim| (claim.user.clone(), claim.claim_key_hash)).collect();
    LookupGroup { keys: bundle.group.keys.clone(), claims }
}

/// What goes for all claims of a batch that was executed.
struct Told {
    epoch: Epoch,
    now: Millis,
    /// The queue's last entry, and the one that holds the batch's grants.
    last: EntryId,
    entry: EntryId,
}

/// Answers what was decided; gives back what must be asked again because the day has moved.
fn answer_all(
    bundles: Vec<Bundle>,
    replies: Vec<GroupReply>,
    &Told { epoch, now, last, entry }: &Told,
    sent: u64,
    ring: &Ring,
) -> Vec<Bundle> {
    let mut again = Vec::new();
    for (bundle, reply) in bundles.into_iter().zip(replies) {
        let (generation, decisions) = match reply {
            GroupReply::DayMoved => {
                again.push(bundle);
                continue;
            }
            GroupReply::NotLoaded => {
                refuse_all(vec![bundle], ClaimOutcome::Unavailable);
                continue;
            }
            GroupReply::Decided { generation, decisions, .. } => (generation, decisions),
        };
        let mut grants = Vec::new();
        for ((answer, decision), claim) in bundle.answers.into_iter().zip(decisions).zip(bundle.group.claims) {
            let _ = answer.send(match decision {
                Decision::Granted(serial) => {
                    if bundle.early {
                        grants.push(ring_grant(claim, serial, now));
                    }
                    Answer::Granted { held: Held { serial, epoch, acquired: now }, entry }
                }
                Decision::Replayed(held) => Answer::Replayed { held, last },
                Decision::UserLimit(held) => Answer::UserLimit { held, last },
                Decision::Quota { scope, until } => Answer::Quota { scope, until },
                Decision::Refused(outcome) => {
                    if outcome == ClaimOutcome::SoldOut {
                        bundle.template.latch.set(generation, sent);
                        bundle.template.latch.touch(sent);
                    }
                    Answer::Refused(outcome)
                }
            });
        }
        ring.push(RingBatch { template: bundle.template.id, epoch, entry, grants });
    }
    again
}

fn ring_grant(claim: Claim, serial: Serial, acquired: Millis) -> RingGrant {
    RingGrant { serial, user: claim.user, claim_key_hash: claim.claim_key_hash, acquired }
}

fn settle_all(bundles: Vec<Bundle>, replies: Vec<LookupGroupReply>, last: EntryId, asked: Millis, ring: &Ring) {
    for (bundle, reply) in bundles.into_iter().zip(replies) {
        match reply {
            LookupGroupReply::Found(receipts) => {
                // The same claim key may stand in a batch twice: only its first claim was the grant.
                let mut told = HashSet::new();
                let claims = bundle.group.claims.into_iter();
                for ((answer, receipt), claim) in bundle.answers.into_iter().zip(receipts).zip(claims) {
                    let _ = answer.send(match receipt {
                        Some(held) if held.acquired < asked || !told.insert(held.serial) => {
                            Answer::Replayed { held, last }
                        }
                        Some(held) => {
                            if bundle.early {
                                let grants = vec![ring_grant(claim, held.serial, held.acquired)];
                                let (template, epoch) = (bundle.template.id, held.epoch);
                                ring.push(RingBatch { template, epoch, entry: last, grants });
                            }
                            Answer::Granted { held, entry: last }
                        }
                        None => Answer::Refused(ClaimOutcome::Unavailable),
                    });
                }
            }
            LookupGroupReply::Freed => refuse_all(vec![bundle], ClaimOutcome::Ended),
            LookupGroupReply::NotLoaded => {
                bundle.answers.into_iter().for_each(|answer| {
                    let _ = answer.send(Answer::Unknown);
                });
            }
        }
    }
}

fn refuse_all(bundles: Vec<Bundle>, outcome: ClaimOutcome) {
    for answer in bundles.into_iter().flat_map(|bundle| bundle.answers) {
        let _ = answer.send(Answer::Refused(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::TemplateId;
    use crate::domain::template::{Definition, Status};
    use crate::domain::user::UserRef;

    fn live() -> Arc<LiveTemplate> {
        let definition = serde_json::json!({
            "name": "ten off", "kind": "cash_voucher", "value": {"amount": "5.00"}, "timezone": "UTC", "stock": {"total": 9},
            "claim_window": {"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2100-01-01T00:00:00Z"},
            "validity": {"type": "relative", "days": 7},
        });
        Arc::new(LiveTemplate {
            id: TemplateId(1),
            definition: Definition::from_store(&definition).unwrap(),
            status: Status::Published,
            revision: 1,
            stock_generation: 1,
            freed: false,
            terms: None,
            latch: Arc::default(),
        })
    }

    #[test]
    fn after_an_unknown_outcome_a_claim_key_is_granted_once_and_then_replayed() {
        let (answers, answered): (Vec<_>, Vec<_>) = (0..4).map(|_| oneshot::channel()).unzip();
        let keys = CellKeys::new(crate::domain::ids::CellId(0)).template(TemplateId(1));
        let day = Day { start: 0, end: 0 };
        let group = Group { template: TemplateId(1), keys, quotas: false, day, claims: Vec::new() };
        let claim =
            |key| Claim { user: UserRef::from_store("u").unwrap(), claim_key_hash: key, ip: None, device: None };
        let group = Group { claims: [1, 2, 2, 3].map(claim).into(), ..group };
        let bundle = Bundle { template: live(), group, answers, early: true };
        let held = |serial, acquired| Some(Held { serial, epoch: 1, acquired });
        // Granted before; twice in the batch that had no answer; not granted.
        let found = LookupGroupReply::Found(vec![held(1, 99), held(2, 100), held(2, 100), None]);
        let ring = Ring::default();
        settle_all(vec![bundle], vec![found], EntryId::new(1, 5), 100, &ring);
        let lost = ring.settle(|_| crate::claim::ring::Verdict::Lost);
        assert_eq!(lost.len(), 1, "a grant is remembered once: {lost:?}");
        let told: Vec<Answer> = answered.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect();
        assert!(matches!(told[0], Answer::Replayed { held: Held { serial: 1, .. }, .. }), "{told:?}");
        assert!(matches!(told[1], Answer::Granted { held: Held { serial: 2, .. }, .. }), "{told:?}");
        assert!(matches!(told[2], Answer::Replayed { held: Held { serial: 2, .. }, .. }), "{told:?}");
        assert!(matches!(told[3], Answer::Refused(ClaimOutcome::Unavailable)), "{told:?}");
    }
}
