//! The lane for lookups: claim keys of claims that the gateway itself would refuse.
//!
//! The same natural batches as a lane of claims, read-only, on a connection of its own, so that no
//! claim waits behind a storm of retries.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::engine::{Engine, Held, LookupGroup, LookupGroupReply, LookupReply, Mismatch};
use super::lane::LaneShared;
use crate::catalog::snapshot::LiveTemplate;
use crate::config;
use crate::domain::ids::EntryId;
use crate::domain::user::UserRef;
use crate::redis::fault::Fault;
use crate::telemetry::metrics;

/// What a lookup found.
#[derive(Debug)]
pub enum Lookup {
    /// Granted before; the row is stored at the latest with `last`.
    Found { held: Held, last: EntryId },
    /// The claim key was not granted.
    NotFound,
    /// The cell cannot tell at this moment.
    Unavailable,
}

/// The entrance of the lane. Cheap to clone.
#[derive(Clone)]
pub struct LookupHandle {
    jobs: mpsc::Sender<Job>,
}

struct Job {
    template: Arc<LiveTemplate>,
    claim: (UserRef, u64),
    since: Instant,
    answer: oneshot::Sender<Lookup>,
}

struct LookupLane<E> {
    engine: E,
    shared: Arc<LaneShared>,
}

/// Tries of one batch of lookups.
const TRIES_MAX: usize = 2;

/// Starts the lane as a task of the present runtime. It ends when the last handle is dropped.
pub fn start<E: Engine>(engine: E, shared: Arc<LaneShared>) -> LookupHandle {
    let (jobs, queue) = mpsc::channel(shared.settings.lane_max);
    tokio::spawn(LookupLane { engine, shared }.run(queue));
    LookupHandle { jobs }
}

// === impl LookupHandle ===

impl LookupHandle {
    /// Looks a claim key up. A full lane is `Unavailable`.
    pub async fn find(&self, template: Arc<LiveTemplate>, user: UserRef, key: u64) -> Lookup {
        let (answer, answered) = oneshot::channel();
        metrics().lookups.increment(1);
        if self.jobs.try_send(Job { template, claim: (user, key), since: Instant::now(), answer }).is_err() {
            return Lookup::Unavailable;
        }
        answered.await.unwrap_or(Lookup::Unavailable)
    }
}

// === impl LookupLane ===

impl<E: Engine> LookupLane<E> {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let batch_max = self.shared.settings.batch_max;
        let wait_max = config::ms(self.shared.settings.wait_max_ms);
        let mut taken = Vec::with_capacity(batch_max);
        while queue.recv_many(&mut taken, batch_max).await > 0 {
            let mut groups: Vec<(LookupGroup, Vec<oneshot::Sender<Lookup>>)> = Vec::new();
            let mut ids = Vec::new();
            for job in taken.drain(..) {
                if job.since.elapsed() > wait_max {
                    let _ = job.answer.send(Lookup::Unavailable);
                    continue;
                }
                let at = ids.iter().position(|id| *id == job.template.id).unwrap_or_else(|| {
                    ids.push(job.template.id);
                    let keys = self.shared.keys.template(job.template.id);
                    groups.push((LookupGroup { keys, claims: Vec::new() }, Vec::new()));
                    ids.len() - 1
                });
                groups[at].0.claims.push(job.claim);
                groups[at].1.push(job.answer);
            }
            if groups.is_empty() {
                continue;
            }
            let (groups, answers): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
            match self.look_up(&groups).await {
                Some((last, replies)) => {
                    for (answers, reply) in answers.into_iter().zip(replies) {
                        answer_group(answers, reply, last);
                    }
                }
                None => answers.into_iter().flatten().for_each(|answer| {
                    let _ = answer.send(Lookup::Unavailable);
                }),
            }
        }
    }

    async fn look_up(&mut self, groups: &[LookupGroup]) -> Option<(EntryId, Vec<LookupGroupReply>)> {
        let budget = config::ms(self.shared.settings.deadline_ms);
        let begun = Instant::now();
        for _ in 0..TRIES_MAX {
            let budget = budget.saturating_sub(begun.elapsed());
            let identity = self.shared.cell.find(&mut self.engine, budget).await?;
            let reply = tokio::time::timeout(budget, self.engine.lookup(&identity, groups)).await;
            match reply.unwrap_or_else(|_| Err(Fault::timeout())) {
                Ok(LookupReply::Executed { now, last, groups }) => {
                    self.shared.cell.see_clock(now);
                    return Some((last, groups));
                }
                Ok(LookupReply::NotExecuted(Mismatch::Identity)) => self.shared.cell.doubt(&identity),
                Ok(LookupReply::NotExecuted(_)) => return None,
                Err(fault) => {
                    metrics().redis_error(fault.kind);
                    self.shared.cell.doubt(&identity);
                }
            }
        }
        None
    }
}

fn answer_group(answers: Vec<oneshot::Sender<Lookup>>, reply: LookupGroupReply, last: EntryId) {
    match reply {
        LookupGroupReply::Found(receipts) => {
            for (answer, receipt) in answers.into_iter().zip(receipts) {
                let _ = answer.send(receipt.map_or(Lookup::NotFound, |held| Lookup::Found { held, last }));
            }
        }
        LookupGroupReply::Freed => answers.into_iter().for_each(|answer| {
            let _ = answer.send(Lookup::NotFound);
        }),
        LookupGroupReply::NotLoaded => answers.into_iter().for_each(|answer| {
            let _ = answer.send(Lookup::Unavailable);
        }),
    }
}
