//! The life of a serving process: what is started, in which order, and how it stops.
//!
//! Claims are served by threads that share nothing but memory: each has its own listener
//! (SO_REUSEPORT), its own runtime, its own lanes and Redis connections. Everything else (the
//! internal listener, the flusher, the workers, reads) runs on the runtime of the caller.
//!
//! Stopping is one story: `/readyz` says no, load balancers look elsewhere, the listeners close,
//! what was accepted is answered, the flusher stores what is queued, and the process ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::admission::probe;
use crate::app::{App, BackgroundLanes};
use crate::audit::keeper::Keeper;
use crate::catalog::{api_keys, approvals, poller, workers};
use crate::claim::{cell, lane, lookup};
use crate::config::{ApprovalMode, ms};
use crate::gifts::returns;
use crate::grant::flusher::Flusher;
use crate::grant::lost::LossWatch;
use crate::http::connection::Stage;
use crate::http::entrance::{Entrance, RequestIds};
use crate::http::listener::{self, Open};
use crate::http::route::Door;
use crate::http::router::Router;
use crate::limits::{BACKGROUND_LANES, BACKGROUND_REQUESTS_MAX};
use crate::pg::{PgFault, replica};
use crate::telemetry::{self, metrics};
use crate::upkeep;
use crate::{reconcile, redemption};

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Listens, and decides claims.
    pub gateway: bool,
    /// Opens the cell, and moves grants into PostgreSQL.
    pub flusher: bool,
    /// Keeps Redis and PostgreSQL in step, and tidies up.
    pub worker: bool,
}

// === impl Roles ===

impl Roles {
    pub const ALL: Roles = Roles { gateway: true, flusher: true, worker: true };
}

/// Serves until `stop` resolves, then drains and returns. `Err`: it could not start, in a sentence.
pub async fn run(app: Arc<App>, roles: Roles, stop: impl Future<Output = ()>) -> Result<(), String> {
    let config = &app.config;
    if roles.gateway {
        listener::probe(config.public.listen)?;
    }
    listener::probe(config.internal.listen)?;
    let keeper = if roles.worker { Some(Keeper::open(config)?) } else { None };
    let (patience, told) = (ms(config.postgres.start_wait_ms), |fault: PgFault| fault.to_string());
    app.pg.patiently(patience, || api_keys::ensure_admin_key(&app.pg, config)).await.map_err(told)?;
    app.pg.patiently(patience, || poller::load_once(&app)).await.map_err(told)?;

    let router = Arc::new(Router::new());
    let (stop_listening, listening) = watch::channel(Stage::Serving);
    let (stop_flushing, flushing) = watch::channel(false);
    let (stop_keeping, keeping) = watch::channel(false);
    let keeper = keeper.map(|keeper| tokio::spawn(keeper.run(app.pg.clone(), keeping)));
    let mut background: Vec<JoinHandle<()>> =
        vec![tokio::spawn(telemetry::upkeep()), tokio::spawn(poller::run(app.clone()))];
    background.push(tokio::spawn(cell::watch(app.claims.cell.clone(), app.engine())));
    let followed = app.redis.clone();
    background.push(tokio::spawn(async move { followed.master().follow().await }));
    let looked_after = app.clone();
    background.push(tokio::spawn(async move { replica::watch(looked_after.pg.clone(), &looked_after.replica).await }));
    if let Some(acks) = app.ack_poller.lock().expect("no panic holds this lock").take() {
        background.push(tokio::spawn(acks.run()));
    }
    if let Some(confirmer) = app.confirmer.lock().expect("no panic holds this lock").take() {
        background.push(tokio::spawn(confirmer.run()));
    }
    let losses = LossWatch::new(app.pg.clone(), app.cell, app.claims.ring.clone());
    background.push(tokio::spawn(losses.run()));
    if roles.gateway {
        background.push(tokio::spawn(probe::run(app.clone())));
    }
    if roles.worker {
        background.push(tokio::spawn(workers::run(app.clone())));
        if config.approval.mode == ApprovalMode::External {
            background.push(tokio::spawn(approvals::run(app.clone())));
        }
        background.push(tokio::spawn(upkeep::workers::run(app.clone())));
        background.push(tokio::spawn(reconcile::worker::run(app.clone())));
        background.push(tokio::spawn(redemption::worker::run(app.clone())));
        background.push(tokio::spawn(returns::run(app.clone())));
    }
    let flusher = roles.flusher.then(|| {
        let flusher = Flusher::new(app.pg.clone(), app.redis.clone(), app.cell, config, flushing);
        tokio::spawn(flusher.run())
    });

    let shared = app.lane_shared();
    let lanes: Vec<_> = (0..BACKGROUND_LANES).map(|_| lane::start(app.engine(), shared.clone()).0).collect();
    let lookups = lookup::start(app.engine(), shared);
    let lane = lanes[0].clone();
    let _ = app.claims.background_lanes.set(BackgroundLanes::new(lanes, lookups.clone()));

    let internal = tokio::spawn(listener::run(
        bind(config.internal.listen)?,
        Arc::new(Entrance {
            app: app.clone(),
            door: Door::Internal,
            router: router.clone(),
            lane,
            lookups,
            background: tokio::runtime::Handle::current(),
            places: Arc::new(Semaphore::new(BACKGROUND_REQUESTS_MAX)),
            ids: RequestIds::new(),
        }),
        Arc::default(),
        metrics().connections_internal.clone(),
        listening.clone(),
    ));
    let gateways = if roles.gateway { start_gateways(&app, &router, &listening)? } else { Vec::new() };
    tracing::info!(public = %config.public.listen, internal = %config.internal.listen, ?roles, version = crate::faults::version(), "serving");

    stop.await;
    drain(&app, stop_listening, stop_flushing, internal, gateways, flusher).await;
    stop_keeping.send_replace(true);
    if let Some(keeper) = keeper
        && tokio::time::timeout(KEEPER_STOP, keeper).await.is_err()
    {
        tracing::warn!("audit records are left unsealed; the next worker seals them");
    }
    for task in background {
        task.abort();
    }
    tracing::info!("stopped");
    Ok(())
}

/// One thread, runtime, listener and pair of lanes for each core.
fn start_gateways(
    app: &Arc<App>,
    router: &Arc<Router>,
    listening: &watch::Receiver<Stage>,
) -> Result<Vec<std::thread::JoinHandle<()>>, String> {
    let config = &app.config;
    let threads = match config.http.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let open: Arc<Open> = Arc::default();
    let places = Arc::new(Semaphore::new(BACKGROUND_REQUESTS_MAX));
    let background = tokio::runtime::Handle::current();
    let mut gateways = Vec::with_capacity(threads);
    for number in 0..threads {
        let socket = bind(config.public.listen)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start a runtime: {error}"))?;
        let (app, router, open, places) = (app.clone(), router.clone(), open.clone(), places.clone());
        let (background, listening) = (background.clone(), listening.clone());
        let thread = std::thread::Builder::new().name(format!("gateway-{number}")).spawn(move || {
            runtime.block_on(async move {
                let shared = app.lane_shared();
                let (lane, lane_task) = lane::start(app.engine(), shared.clone());
                let lookups = lookup::start(app.engine(), shared);
                let entrance = Arc::new(Entrance {
                    app,
                    door: Door::Public,
                    router,
                    lane,
                    lookups,
                    background,
                    places,
                    ids: RequestIds::new(),
                });
                let gauge = metrics().connections_public.clone();
                if let Err(error) = listener::run(socket, entrance, open, gauge, listening).await {
                    tracing::error!(error = %error, "a public listener failed");
                }
                // The last handle is gone: the lane answers what it took, and ends.
                let _ = lane_task.await;
            });
        });
        gateways.push(thread.map_err(|error| format!("cannot start a thread: {error}"))?);
    }
    Ok(gateways)
}

async fn drain(
    app: &Arc<App>,
    stop_listening: watch::Sender<Stage>,
    stop_flushing: watch::Sender<bool>,
    internal: JoinHandle<std::io::Result<()>>,
    gateways: Vec<std::thread::JoinHandle<()>>,
    flusher: Option<JoinHandle<()>>,
) {
    let config = &app.config.http;
    tracing::info!("draining: not ready any more");
    app.begin_drain();
    if !gateways.is_empty() {
        tokio::time::sleep(ms(config.drain_grace_ms)).await;
    }
    stop_listening.send_replace(Stage::Draining);
    let answered = async {
        let _ = internal.await;
        let _ = tokio::task::spawn_blocking(move || gateways.into_iter().for_each(|thread| drop(thread.join()))).await;
    };
    let mut answered = pin!(answered);
    if tokio::time::timeout(ms(config.drain_timeout_ms), answered.as_mut()).await.is_err() {
        stop_listening.send_replace(Stage::Over);
        // Nothing waits for a client any more: the threads end at once.
        answered.await;
    }
    stop_flushing.send_replace(true);
    if let Some(flusher) = flusher {
        // The flusher bounds its last flush itself; this is for a store that hangs.
        if tokio::time::timeout(FLUSHER_STOP, flusher).await.is_err() {
            tracing::warn!("the flusher did not stop in time; what is queued stays in Redis");
        }
    }
}

const FLUSHER_STOP: Duration = Duration::from_secs(30);
const KEEPER_STOP: Duration = Duration::from_secs(5);

fn bind(address: std::net::SocketAddr) -> Result<std::net::TcpListener, String> {
    listener::bind(address).map_err(|error| format!("cannot listen on {address}: {error}"))
}
