//! Gateways as far as the claim path goes, and the shoppers before them.
//!
//! Lanes, lookups, latches, doubts and the watch over the cell are the project's own. What stands before
//! them, `gateway.rs`, is told here in a few lines: the latch, the look among the receipts, the doubt.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use floodgate::catalog::publish::TemplateRow;
use floodgate::catalog::snapshot::LiveTemplate;
use floodgate::claim::cell::{self, Cell};
use floodgate::claim::doubt::Doubts;
use floodgate::claim::engine::{Claim, Held};
use floodgate::claim::lane::{self, Answer, Job, LaneHandle, LaneShared};
use floodgate::claim::lookup::{self, Lookup, LookupHandle};
use floodgate::clock::mono_ms;
use floodgate::config::Config;
use floodgate::domain::ids::{CellId, EntryId, TemplateId};
use floodgate::domain::outcome::ClaimOutcome;
use floodgate::domain::template::AckLevel;
use floodgate::domain::user::UserRef;
use floodgate::grant::watermark::{Ack, Acks, Awaited, acks_over};
use floodgate::redis::keys::CellKeys;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::journal::{Key, Told};
use crate::stores::{SimEngine, SimStores};
use crate::world::{Process, World};

pub struct Gateway {
    pub process: Arc<Process>,
    lane: LaneHandle,
    lookups: LookupHandle,
    pub cell: Arc<Cell>,
    doubts: Arc<Doubts>,
    acks: Acks,
    templates: Mutex<BTreeMap<TemplateId, Arc<LiveTemplate>>>,
    tasks: [JoinHandle<()>; 4],
}

/// The gateways that are up, and how a shopper uses them.
pub struct Shop {
    pub world: Arc<World>,
    config: &'static Config,
    gateways: Mutex<Vec<Arc<Gateway>>>,
}

/// One press of a shopper.
#[derive(Clone)]
pub struct Press {
    pub key: Key,
    pub ip: Option<u64>,
    pub device: Option<u64>,
}

/// How long a claim of level `postgres` waits for its row.
const ACK_WAIT: Duration = Duration::from_millis(3_000);

/// Between two looks at PostgreSQL's epoch.
const FLOOR_PAUSE: Duration = Duration::from_millis(200);

/// Gateways at the same time.
const GATEWAYS: usize = 2;

// === impl Gateway ===

impl Gateway {
    fn start(world: &Arc<World>, config: &'static Config) -> Arc<Gateway> {
        let process = Arc::<Process>::default();
        let (cell, doubts) = (Arc::<Cell>::default(), Arc::<Doubts>::default());
        let shared = Arc::new(LaneShared {
            cell: cell.clone(),
            doubts: doubts.clone(),
            ring: Arc::default(),
            keys: CellKeys::new(CellId(0)),
            settings: config.claim.clone(),
        });
        let stores = SimStores { world: world.clone(), process: process.clone() };
        let engine = || SimEngine::new(stores.clone());
        let (lane, lane_task) = lane::start(engine(), shared.clone());
        let lookups = lookup::start(engine(), shared);
        let watch = tokio::spawn(cell::watch(cell.clone(), engine()));
        let (acks, poller) = acks_over(stores.clone());
        let poller = tokio::spawn(poller.run());
        let floor = tokio::spawn(keep_floor(stores, cell.clone()));
        let gateway = Gateway {
            lane,
            lookups,
            cell,
            doubts,
            acks,
            templates: Mutex::default(),
            tasks: [lane_task, watch, poller, floor],
            process,
        };
        world.state().postgres.templates.values().for_each(|row| gateway.learn(row));
        Arc::new(gateway)
    }

    /// Takes a template over as the snapshot does: a newer generation clears the latch.
    fn learn(&self, row: &TemplateRow) {
        let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        let latch = templates.get(&row.id).map(|known| known.latch.clone()).unwrap_or_default();
        latch.clear(row.stock_generation);
        let live = LiveTemplate {
            id: row.id,
            definition: row.definition.clone(),
            terms: None,
            status: row.status,
            revision: row.revision,
            stock_generation: row.stock_generation,
            freed: false,
            latch,
        };
        templates.insert(row.id, Arc::new(live));
    }

    fn template(&self, id: TemplateId) -> Arc<LiveTemplate> {
        self.templates.lock().unwrap_or_else(PoisonError::into_inner)[&id].clone()
    }

    async fn decide(&self, press: &Press) -> Told {
        let Key { template, user, key } = &press.key;
        let live = self.template(*template);
        let user = UserRef::from_store(user).expect("a user reference");
        if live.latch.is_set(mono_ms()) {
            live.latch.touch(mono_ms());
            if self.doubts.holds(*template, &user, *key) {
                return Told::Unknown;
            }
            return match self.lookups.find(live.clone(), user, *key).await {
                Lookup::Found { held, last } => self.acknowledge(&live, held, last).await,
                Lookup::NotFound => Told::Refused(ClaimOutcome::SoldOut),
                Lookup::Unavailable => Told::Refused(ClaimOutcome::Unavailable),
            };
        }
        let (ip, device) = if live.definition.quotas { (press.ip, press.device) } else { (None, None) };
        let claim = Claim { user: user.clone(), claim_key_hash: *key, ip, device };
        let Ok(answered) = self.lane.submit(Job { template: live.clone(), claim }) else {
            return Told::Refused(ClaimOutcome::Overloaded);
        };
        match answered.await.unwrap_or(Answer::Unknown) {
            Answer::Granted { held, entry } => self.acknowledge(&live, held, entry).await,
            Answer::Replayed { held, last } => self.acknowledge(&live, held, last).await,
            _ if self.doubts.holds(*template, &user, *key) => Told::Unknown,
            Answer::UserLimit { .. } => Told::Refused(ClaimOutcome::UserLimitReached),
            Answer::Quota { .. } => Told::Refused(ClaimOutcome::QuotaExceeded),
            Answer::Refused(outcome) => Told::Refused(outcome),
            Answer::Unknown => Told::Unknown,
        }
    }
}

impl Gateway {
    /// Waits until a grant is a row, where its template asks for that.
    async fn acknowledge(&self, template: &LiveTemplate, held: Held, entry: EntryId) -> Told {
        if template.definition.ack != Some(AckLevel::Postgres) {
            return Told::Held(held);
        }
        let awaited = Awaited { entry, template: template.id, serial: held.serial, epoch: held.epoch };
        match self.acks.wait(awaited, Instant::now() + ACK_WAIT).await {
            Ack::Committed => Told::Stored(held),
            Ack::SetAside => Told::SetAside(held),
            Ack::BeyondFinal | Ack::Unknown => Told::Unknown,
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What the snapshot's poller does for the cell: a history that PostgreSQL has seen end is left.
async fn keep_floor(stores: SimStores, cell: Arc<Cell>) {
    loop {
        tokio::time::sleep(FLOOR_PAUSE).await;
        let epoch = stores.world.call(&stores.process, |_, state| state.postgres.up.then_some(state.postgres.epoch));
        if let Ok(Some(epoch)) = epoch.await {
            cell.raise_floor(epoch);
        }
    }
}

// === impl Shop ===

impl Shop {
    pub fn open(world: &Arc<World>, config: &'static Config) -> Arc<Shop> {
        let gateways = (0..GATEWAYS).map(|_| Gateway::start(world, config)).collect();
        Arc::new(Shop { world: world.clone(), config, gateways: Mutex::new(gateways) })
    }

    /// A gateway is killed with all that it was doing, and another takes its place.
    pub fn replace(&self, which: usize) {
        let new = Gateway::start(&self.world, self.config);
        let old = std::mem::replace(&mut self.gateways()[which], new);
        old.tasks.iter().for_each(JoinHandle::abort);
    }

    pub fn gateway(&self, which: usize) -> Arc<Gateway> {
        self.gateways()[which].clone()
    }

    pub fn all(&self) -> Vec<Arc<Gateway>> {
        self.gateways().clone()
    }

    pub fn learn(&self, row: &TemplateRow) {
        self.gateways().iter().for_each(|gateway| gateway.learn(row));
    }

    /// One request, at any gateway; its answer may be lost on the last stretch.
    pub async fn ask(&self, press: &Press) -> Told {
        let (which, request) = {
            let mut state = self.world.state();
            let now = state.now();
            let request = state.journal.asks(&press.key, now);
            (state.chance.below(GATEWAYS as u64) as usize, request)
        };
        let gateway = self.gateway(which);
        let told = gateway.decide(press).await;
        let mut state = self.world.state();
        let lost = state.weather.lost;
        let told = if state.chance.per_mille(lost) { Told::Unknown } else { told };
        let Key { template, user, key } = &press.key;
        state.note(format_args!("{user} {template} {key}: {told:?}"));
        let lossy = state.lossy;
        if let Some(broken) = state.journal.told(&press.key, request, told, lossy) {
            state.promise(false, || broken);
        }
        if let Told::Stored(held) = told {
            let stored = state.postgres.has(&press.key, held);
            state.promise(stored, || format!("{:?} was told that {held:?} is stored", press.key));
        }
        told
    }

    /// A shopper presses, and again with the same key while the answer is none.
    pub async fn press(self: Arc<Self>, press: Press, tries: usize) {
        for _ in 0..tries {
            match self.ask(&press).await {
                Told::Held(_) | Told::Stored(_) | Told::SetAside(_) => return,
                Told::Refused(outcome) if !outcome.retryable() => return,
                Told::Refused(_) | Told::Unknown => {}
            }
            let pause = self.world.state().chance.between(50, 900);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn gateways(&self) -> MutexGuard<'_, Vec<Arc<Gateway>>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
