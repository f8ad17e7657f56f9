//! Flushers: the project's own, in processes that are stopped, killed and started.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use floodgate::config::Config;
use floodgate::domain::ids::CellId;
use floodgate::grant::flusher::Flusher;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::stores::SimStores;
use crate::world::{Process, World};

/// Two places for flushers; whoever has the lock is the flusher.
pub struct Crew {
    world: Arc<World>,
    config: &'static Config,
    places: Mutex<Vec<Running>>,
}

struct Running {
    process: Arc<Process>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

pub const FLUSHERS: usize = 2;

// === impl Crew ===

impl Crew {
    pub fn start(world: &Arc<World>, config: &'static Config) -> Arc<Crew> {
        let places = (0..FLUSHERS).map(|_| Running::start(world, config)).collect();
        Arc::new(Crew { world: world.clone(), config, places: Mutex::new(places) })
    }

    pub fn process(&self, which: usize) -> Arc<Process> {
        self.places()[which].process.clone()
    }

    /// Ends at whatever it was doing; another starts after `away`.
    pub async fn kill(&self, which: usize, away: Duration) {
        self.places()[which].task.abort();
        tokio::time::sleep(away).await;
        self.places()[which] = Running::start(&self.world, self.config);
    }

    /// Ends in order; another starts.
    pub async fn restart(&self, which: usize) {
        let old = std::mem::replace(&mut self.places()[which], Running::start(&self.world, self.config));
        old.stop.send_replace(true);
        let _ = old.task.await;
    }

    fn places(&self) -> MutexGuard<'_, Vec<Running>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Running ===

impl Running {
    fn start(world: &Arc<World>, config: &'static Config) -> Running {
        let process = Arc::<Process>::default();
        let (stop, stopped) = watch::channel(false);
        let stores = SimStores { world: world.clone(), process: process.clone() };
        let flusher = Flusher::over(stores, CellId(0), config, stopped);
        Running { process, stop, task: tokio::spawn(flusher.run()) }
    }
}
