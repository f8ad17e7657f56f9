//! What a process shares: settings, stores, the snapshot it decides by, and the claim path's parts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::admission::identity::Gatekeeper;
use crate::admission::throttle::Throttles;
use crate::catalog::api_keys::ApiKeys;
use crate::catalog::snapshot::SharedSnapshot;
use crate::claim::cell::Cell;
use crate::claim::confirm::{self, Confirmer, Confirms};
use crate::claim::doubt::Doubts;
use crate::claim::lane::{LaneHandle, LaneShared};
use crate::claim::lookup::LookupHandle;
use crate::claim::redis_engine::RedisEngine;
use crate::claim::ring::Ring;
use crate::clock::now_ms;
use crate::config::Config;
use crate::domain::code::CodeKey;
use crate::domain::gift::GiftTokens;
use crate::domain::ids::CellId;
use crate::domain::user::UserCodec;
use crate::gateway::ClaimKeys;
use crate::grant::watermark::{self, AckPoller, Acks};
use crate::hashing::Hashing;
use crate::idempotency::Seal;
use crate::pg::Pg;
use crate::pg::replica::Replica;
use crate::quotes::Desk;
use crate::redis::client::Redis;
use crate::redis::keys::CellKeys;
use crate::telemetry::metrics;

/// Shared by every thread of the process.
pub struct App {
    pub config: Config,
    pub pg: Pg,
    /// For reads that decide nothing.
    pub replica: Replica,
    pub redis: Redis,
    pub code_key: CodeKey,
    pub users: UserCodec,
    pub gift_tokens: GiftTokens,
    /// Seals remembered answers.
    pub seal: Seal,
    pub hashing: Hashing,
    pub cell: CellId,
    pub keys: CellKeys,
    pub snapshot: SharedSnapshot,
    /// Held while the snapshot is read anew.
    pub snapshot_loading: tokio::sync::Mutex<()>,
    pub api_keys: ApiKeys,
    pub gatekeeper: Gatekeeper,
    pub throttles: Throttles,
    pub claims: ClaimParts,
    /// Where searches for the best coupons wait.
    pub quotes: Desk,
    /// Waits for rows, for ack level `postgres`.
    pub acks: Acks,
    /// The task behind `acks`, until [`crate::serve::run`] takes it.
    pub ack_poller: std::sync::Mutex<Option<AckPoller>>,
    /// Waits for replicas, for ack level `replica`.
    pub confirms: Confirms,
    /// The task behind `confirms`, until [`crate::serve::run`] takes it.
    pub confirmer: std::sync::Mutex<Option<Confirmer>>,
    draining: AtomicBool,
}

/// What the claim path shares beyond the stores.
pub struct ClaimParts {
    pub cell: Arc<Cell>,
    pub doubts: Arc<Doubts>,
    /// Acknowledged grants until they are rows.
    pub ring: Arc<Ring>,
    pub keys: ClaimKeys,
    /// Lanes for claims that do not come in through a gateway thread: the batch endpoint.
    pub background_lanes: OnceLock<BackgroundLanes>,
}

/// Lanes of a process beside those of its gateway threads: more than one, so that Redis decides one's batch while
/// another's answers are written.
pub struct BackgroundLanes {
    lanes: Vec<LaneHandle>,
    lookups: LookupHandle,
    turn: AtomicUsize,
}

// === impl BackgroundLanes ===

impl BackgroundLanes {
    pub fn new(lanes: Vec<LaneHandle>, lookups: LookupHandle) -> Self {
        BackgroundLanes { lanes, lookups, turn: AtomicUsize::new(0) }
    }

    /// The lane whose turn it is, and the one for lookups.
    pub fn next(&self) -> (&LaneHandle, &LookupHandle) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        (&self.lanes[turn % self.lanes.len()], &self.lookups)
    }
}

// === impl App ===

impl App {
    /// Takes checked settings and the installation's way with user ids. Connects to nothing.
    pub fn new(config: Config, users: UserCodec) -> Result<Arc<App>, String> {
        let cell = CellId(0);
        let code_key = config.code_key();
        let pg = Pg::new(&config.postgres)?;
        let (acks, ack_poller) = watermark::acks(pg.clone(), cell);
        let (redis, keys, cell_state) = (Redis::new(&config.redis)?, CellKeys::new(cell), Arc::<Cell>::default());
        let (confirms, confirmer) = confirm::confirms(redis.clone(), keys.clone(), cell_state.clone(), &config.claim);
        Ok(Arc::new(App {
            replica: Replica::new(&config.postgres)?,
            redis,
            hashing: Hashing::new(&code_key),
            gift_tokens: GiftTokens::new(&code_key),
            seal: Seal::new(&code_key),
            gatekeeper: Gatekeeper::new(&config.auth),
            throttles: Throttles::new(&config.throttle),
            claims: ClaimParts {
                cell: cell_state,
                doubts: Arc::default(),
                ring: Arc::default(),
                keys: ClaimKeys::new()?,
                background_lanes: OnceLock::new(),
            },
            quotes: Desk::new(),
            api_keys: ApiKeys::new(pg.clone()),
            snapshot: Default::default(),
            snapshot_loading: Default::default(),
            keys,
            acks,
            ack_poller: std::sync::Mutex::new(Some(ack_poller)),
            confirms,
            confirmer: std::sync::Mutex::new(Some(confirmer)),
            draining: AtomicBool::new(false),
            pg,
            users,
            cell,
            code_key,
            config,
        }))
    }

    /// A connection of one's own to the cell, for a lane.
    pub fn engine(&self) -> RedisEngine {
        RedisEngine::new(self.redis.clone(), self.keys.clone())
    }

    pub fn lane_shared(&self) -> Arc<LaneShared> {
        Arc::new(LaneShared {
            cell: self.claims.cell.clone(),
            doubts: self.claims.doubts.clone(),
            ring: self.claims.ring.clone(),
            keys: self.keys.clone(),
            settings: self.config.claim.clone(),
        })
    }

    /// From now on `/readyz` says no.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Sets the gauges that are read when somebody looks.
    pub fn report(&self) {
        let snapshot = self.snapshot.load();
        metrics().snapshot_templates.set(snapshot.templates.len() as f64);
        let checked_at = snapshot.checked_at.load(Ordering::Relaxed);
        if checked_at > 0 {
            metrics().snapshot_age_seconds.set((now_ms() - checked_at) as f64 / 1000.0);
        }
        metrics().postgres_pool_busy.set(f64::from(self.pg.pool_status().0));
        metrics().replica_pool_busy.set(f64::from(self.replica.busy()));
        metrics().redis_pool_busy.set(self.redis.pool_status().0 as f64);
        metrics().quotes_waiting.set(self.quotes.waiting() as f64);
        self.throttles.report();
        self.gatekeeper.report();
        self.claims.doubts.sweep();
    }
}
