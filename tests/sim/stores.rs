//! The stores as the project's own code sees them: connections to the model machines.

use std::sync::Arc;

use floodgate::claim::engine::{Batch, BatchReply, Decision, Engine, GroupReply, LookupGroup, LookupReply};
use floodgate::domain::ids::Epoch;
use floodgate::grant::stores::{Reached, RowsSeen, Stores};
use floodgate::grant::watermark::Awaited;
use floodgate::pg::PgFault;
use floodgate::redis::cell::{CellMeta, Identity};
use floodgate::redis::fault::{Executed, Fault};

use crate::archive::SimArchive;
use crate::link::SimLink;
use crate::postgres::cut;
use crate::redis::Wire;
use crate::world::{Process, State, World};

/// Where a process of the simulation finds its stores.
#[derive(Clone)]
pub struct SimStores {
    pub world: Arc<World>,
    pub process: Arc<Process>,
}

/// The engine of a lane: the model's decisions over a connection that may be lost.
pub struct SimEngine {
    stores: SimStores,
    wire: Option<Wire>,
    sent: bool,
}

// === impl SimStores ===

impl SimStores {
    pub async fn connect(&self) -> Result<Wire, Fault> {
        let wire = self.world.call(&self.process, |_, state| state.redis.connect()).await;
        wire.ok().flatten().ok_or_else(|| Fault::connect("connection refused"))
    }

    /// One script over `wire`. `writes`: a replica refuses it, and disk and replica take it over.
    pub async fn script<T: Send + 'static>(
        &self,
        wire: Wire,
        writes: bool,
        run: impl FnOnce(&mut State, usize) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let carried = self.world.call(&self.process, move |world, state| {
            let now = world.now();
            let Some(machine) = state.redis.reach(wire, now) else { return Err(dropped()) };
            if writes && machine.cell.role != "master" {
                return Err(Fault { executed: Executed::No, kind: "readonly", detail: "a replica".into() });
            }
            if writes && machine.cell.starved {
                return Err(Fault { executed: Executed::No, kind: "oom", detail: "no memory".into() });
            }
            let result = run(state, wire.machine);
            if writes {
                let State { redis, chance, .. } = state;
                redis.wrote(wire.machine, now, chance);
            }
            result
        });
        let result = carried.await.unwrap_or_else(|_| Err(dropped()));
        // A connection that was cut meanwhile carried no answer back.
        let now = self.world.now();
        if self.world.state().redis.reach(wire, now).is_none() { Err(dropped()) } else { result }
    }
}

impl Stores for SimStores {
    type Link = SimLink;
    type Archive = SimArchive;

    async fn link(&self) -> Result<SimLink, Fault> {
        Ok(SimLink::new(self.clone(), self.connect().await?))
    }

    async fn archive(&self) -> Result<SimArchive, PgFault> {
        SimArchive::connect(self.clone()).await
    }
}

impl RowsSeen for SimStores {
    async fn reached(&self, lowest: Epoch) -> Result<Reached, PgFault> {
        let seen = self.world.call(&self.process, move |_, state| {
            let database = &state.postgres;
            let endings = database.finals.iter().filter(|(epoch, _)| **epoch > lowest);
            database.up.then(|| Reached {
                watermark: database.watermark,
                any_set_aside: !database.set_aside.is_empty(),
                endings: endings.map(|(epoch, ended)| (*epoch, *ended)).collect(),
            })
        });
        seen.await.ok().flatten().ok_or_else(cut)
    }

    async fn stored(&self, grants: &[Awaited]) -> Result<Vec<Awaited>, PgFault> {
        let grants = grants.to_vec();
        let seen = self.world.call(&self.process, move |_, state| {
            let is_row = |grant: &Awaited| {
                let row = state.postgres.coupons.get(&(grant.template, grant.serial));
                row.is_some_and(|row| row.epoch == grant.epoch)
            };
            state.postgres.up.then(|| grants.into_iter().filter(is_row).collect())
        });
        seen.await.ok().flatten().ok_or_else(cut)
    }
}

fn dropped() -> Fault {
    Fault { executed: Executed::Unknown, kind: "dropped", detail: "connection reset".into() }
}

// === impl SimEngine ===

impl SimEngine {
    pub fn new(stores: SimStores) -> Self {
        SimEngine { stores, wire: None, sent: false }
    }

    /// One script on the engine's own connection, which is dropped with any doubt.
    async fn run<T: Send + 'static>(
        &mut self,
        writes: bool,
        run: impl FnOnce(&mut State, usize) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.sent = false;
        let wire = match self.wire.take() {
            Some(wire) => wire,
            None => self.stores.connect().await?,
        };
        self.sent = true;
        let result = self.stores.script(wire, writes, run).await;
        let lost = |fault: &Fault| fault.executed == Executed::Unknown || fault.kind == "readonly";
        if !result.as_ref().is_err_and(lost) {
            self.wire = Some(wire);
        }
        result
    }
}

impl Engine for SimEngine {
    async fn meta(&mut self) -> Result<CellMeta, Fault> {
        let meta = self.run(false, |state, machine| Ok(state.redis.machines[machine].cell.meta())).await?;
        if meta.role != "master" {
            // The address leads to the master, this connection does not.
            self.wire = None;
        }
        Ok(meta)
    }

    async fn claim(&mut self, identity: &Identity, batch: &Batch) -> Result<BatchReply, Fault> {
        let (identity, batch) = (identity.clone(), batch.clone());
        self.run(true, move |state, machine| {
            let reply = state.redis.machines[machine].cell.claim(&identity, &batch);
            state.granted(&identity, &batch, &reply);
            Ok(reply)
        })
        .await
    }

    async fn lookup(&mut self, identity: &Identity, groups: &[LookupGroup]) -> Result<LookupReply, Fault> {
        let (identity, groups) = (identity.clone(), groups.to_vec());
        self.run(false, move |state, machine| Ok(state.redis.machines[machine].cell.lookup(&identity, &groups))).await
    }

    fn sent(&self) -> bool {
        self.sent
    }

    fn another(&self) -> Self {
        SimEngine::new(self.stores.clone())
    }
}

impl State {
    /// A script has decided: it gave nothing that exists already, and nothing beyond the stock.
    fn granted(&mut self, identity: &Identity, batch: &Batch, reply: &BatchReply) {
        let BatchReply::Executed { entry, groups, .. } = reply else {
            self.note(format_args!("batch not executed: {reply:?}"));
            return;
        };
        self.note(format_args!("batch in epoch {}: {entry:?} {groups:?}", identity.epoch));
        for (group, reply) in batch.groups.iter().zip(groups) {
            let GroupReply::Decided { decisions, .. } = reply else { continue };
            for decision in decisions {
                let Decision::Granted(serial) = decision else { continue };
                let now = self.now();
                self.journal.granted(group.template, *serial, identity.epoch, now);
                let beyond = *serial > self.postgres.last_serial(group.template);
                let taken = self.postgres.coupons.contains_key(&(group.template, *serial));
                // A master that was replaced goes on for those it still reaches: PostgreSQL takes none of it.
                let current = identity.epoch == self.postgres.epoch;
                self.promise(!beyond, || format!("serial {serial} of template {} is beyond the stock", group.template));
                self.promise(!(taken && current), || {
                    format!("serial {serial} of template {} was given out again", group.template)
                });
            }
        }
    }
}
