//! What a simulation shares: both stores, all chance, the trace, and what shoppers were told.
//!
//! Every call of a store goes through [`World::call`]. There its way takes time, and there it is lost:
//! before it was carried out, after, or so late that nobody waits for it any more.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use floodgate::domain::window::Millis;
use tokio::time::Instant;

use crate::chance::{Chance, Trace};
use crate::journal::Journal;
use crate::postgres::Database;
use crate::redis::Fleet;

pub struct World {
    state: Mutex<State>,
    started: Instant,
    /// The wall clock when it started.
    pub begin: Millis,
}

pub struct State {
    pub chance: Chance,
    pub trace: Trace,
    pub weather: Weather,
    /// The weather between storms.
    pub calm: Weather,
    pub redis: Fleet,
    pub postgres: Database,
    pub journal: Journal,
    /// Something acknowledged by Redis alone may be lost: a failover with lag, or a power cut of a Redis
    /// that does not sync each answer.
    pub lossy: bool,
    /// Recoveries that came to their end.
    pub recoveries: u64,
    /// The first promise that was broken.
    pub broken: Option<String>,
    /// Virtual time in ms since the start, for the trace.
    now: u64,
}

/// How calls fare at present, in a thousand.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    /// Lost with their connection, as often before as after they were carried out.
    pub lost: u64,
    /// Carried out after the caller has given up.
    pub late: u64,
    /// Slow by up to half a second.
    pub slow: u64,
}

/// A process of the deployment: it may be stopped in mid-step, and go on later.
#[derive(Default)]
pub struct Process {
    frozen_until: Mutex<Option<Instant>>,
}

/// The answer to a call never came.
pub struct Lost;

// === impl World ===

impl World {
    pub fn new(begin: Millis, state: State) -> Arc<Self> {
        Arc::new(World { state: Mutex::new(state), started: Instant::now(), begin })
    }

    /// The state, with its clock set. Never held across a wait.
    pub fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = self.started.elapsed().as_millis() as u64;
        state
    }

    /// The wall clock.
    pub fn now(&self) -> Millis {
        self.begin + self.started.elapsed().as_millis() as Millis
    }

    /// One call over the network: there, carried out, back. `carry` sees the state at its own moment.
    pub async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        process: &Process,
        carry: impl FnOnce(&World, &mut State) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        process.thawed().await;
        let (there, back, fate) = self.state().way();
        let result = match fate {
            Fate::Late { given_up, arrives } => {
                let world = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(arrives).await;
                    let _ = carry(&world, &mut world.state());
                });
                tokio::time::sleep(given_up).await;
                Err(Lost)
            }
            Fate::LostBefore => {
                pass(there).await;
                Err(Lost)
            }
            fate => {
                pass(there).await;
                let result = carry(self, &mut self.state());
                pass(back).await;
                if matches!(fate, Fate::LostAfter) { Err(Lost) } else { Ok(result) }
            }
        };
        process.thawed().await;
        result
    }
}

/// Lets time pass; none costs nothing.
async fn pass(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

enum Fate {
    Fine,
    LostBefore,
    LostAfter,
    /// Whoever asked gives up first; it arrives all the same.
    Late {
        given_up: Duration,
        arrives: Duration,
    },
}

// === impl State ===

impl State {
    /// Ms since the start.
    pub fn now(&self) -> u64 {
        self.now
    }

    pub fn note(&mut self, line: fmt::Arguments<'_>) {
        self.trace.note(self.now, line);
    }

    /// Demands a promise. The first one that does not hold ends the simulation.
    pub fn promise(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            let what = what();
            self.note(format_args!("BROKEN: {what}"));
            self.broken = Some(what);
        }
    }

    fn way(&mut self) -> (Duration, Duration, Fate) {
        let Weather { lost, late, slow } = self.weather;
        let chance = &mut self.chance;
        let mut leg = || {
            let slow = chance.per_mille(slow);
            Duration::from_millis(if slow { chance.between(10, 500) } else { chance.below(3) })
        };
        let (there, back) = (leg(), leg());
        let fate = match chance.below(1000) {
            roll if roll < lost / 2 => Fate::LostBefore,
            roll if roll < lost => Fate::LostAfter,
            roll if roll < lost + late => {
                let given_up = chance.between(5, 1_200);
                let arrives = Duration::from_millis(given_up + chance.between(1, 1_500));
                Fate::Late { given_up: Duration::from_millis(given_up), arrives }
            }
            _ => Fate::Fine,
        };
        (there, back, fate)
    }
}

impl State {
    pub fn new(chance: Chance, trace: Trace, redis: Fleet, postgres: Database) -> Self {
        State {
            chance,
            trace,
            weather: Weather::default(),
            calm: Weather::default(),
            redis,
            postgres,
            journal: Journal::default(),
            lossy: false,
            recoveries: 0,
            broken: None,
            now: 0,
        }
    }
}

// === impl Process ===

impl Process {
    pub fn freeze(&self, until: Instant) {
        *self.frozen_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    pub fn thaw(&self) {
        *self.frozen_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn thawed(&self) {
        loop {
            let until = *self.frozen_until.lock().unwrap_or_else(PoisonError::into_inner);
            match until {
                Some(until) if Instant::now() < until => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }
}
