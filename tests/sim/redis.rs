//! Redis as the simulation has it: two machines, of which one is found under the address.
//!
//! What a script does is the model cell's business. Here is what happens to machines: they die, come
//! back with all they had or with what was on disk, are replaced by a replica that lags, and go on
//! serving whoever is still connected.

use std::collections::VecDeque;

use floodgate::claim::model_engine::ModelCell;
use floodgate::domain::window::Millis;

use crate::chance::Chance;

/// What a restarted Redis still knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// All that was answered.
    Always,
    /// After a power cut, what was there up to two seconds before.
    EverySecond,
}

pub struct Fleet {
    pub machines: [Machine; 2],
    /// Which machine a new connection reaches.
    pub address: usize,
    pub fsync: Fsync,
    /// Whether the other machine follows the one under the address.
    pub replicated: bool,
    /// Replication ids given out.
    ids: u64,
}

pub struct Machine {
    pub cell: ModelCell,
    pub up: bool,
    /// Connections made in an earlier life are cut.
    pub life: u64,
    /// How far its clock is off.
    pub step: Millis,
    /// States of the last two seconds, some of them: what disk or replica may have.
    kept: VecDeque<(Millis, ModelCell)>,
}

/// A connection, to a machine in one of its lives.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    pub machine: usize,
    life: u64,
}

/// The oldest state that a power cut or a promoted replica can go back to.
const LAG_MAX: Millis = 2_000;

/// States kept of one machine.
const KEPT_MAX: usize = 12;

// === impl Fleet ===

impl Fleet {
    pub fn new(now: Millis, fsync: Fsync, replicated: bool) -> Self {
        let machine =
            |id: &str| Machine { cell: ModelCell::new(now, id), up: true, life: 1, step: 0, kept: VecDeque::new() };
        let mut replica = machine("r1");
        replica.cell.role = "slave";
        Fleet { machines: [machine("r1"), replica], address: 0, fsync, replicated, ids: 1 }
    }

    pub fn connect(&self) -> Option<Wire> {
        let machine = &self.machines[self.address];
        machine.up.then_some(Wire { machine: self.address, life: machine.life })
    }

    /// The machine behind a connection, with its clock set, unless the connection is cut.
    pub fn reach(&mut self, wire: Wire, now: Millis) -> Option<&mut Machine> {
        let machine = &mut self.machines[wire.machine];
        if !machine.up || machine.life != wire.life {
            return None;
        }
        machine.cell.now = now + machine.step;
        Some(machine)
    }

    pub fn serving(&self) -> &Machine {
        &self.machines[self.address]
    }

    /// A write was made: disk and replica may have this state later.
    pub fn wrote(&mut self, machine: usize, now: Millis, chance: &mut Chance) {
        let follows = self.fsync == Fsync::EverySecond || self.replicated;
        let machine = &mut self.machines[machine];
        if follows && (machine.kept.is_empty() || chance.one_in(3)) {
            machine.kept.push_back((now, machine.cell.clone()));
        }
        // The newest state that is older than the lag is the oldest that can still be met.
        while machine.kept.len() > KEPT_MAX || machine.kept.get(1).is_some_and(|(at, _)| *at < now - LAG_MAX) {
            machine.kept.pop_front();
        }
    }

    /// Goes down. Whether memory is lost is seen when it comes back.
    pub fn kill(&mut self, machine: usize) {
        self.machines[machine].up = false;
        self.machines[machine].life += 1;
    }

    /// Comes back: with everything, or after a power cut with what was on disk. True: something is lost.
    pub fn restart(&mut self, machine: usize, power_cut: bool, chance: &mut Chance) -> bool {
        let id = self.new_id();
        let back = (power_cut && self.fsync == Fsync::EverySecond).then(|| self.machines[machine].earlier(chance));
        let machine = &mut self.machines[machine];
        let lost = match back.flatten() {
            Some(cell) => {
                let lost = cell.meta().last < machine.cell.meta().last;
                machine.cell = cell;
                // What was written after that was never on disk.
                machine.kept.clear();
                lost
            }
            None => false,
        };
        machine.cell.live_replid = id;
        machine.up = true;
        lost
    }

    /// The other machine takes over with what had reached it. The old one goes down, or goes on for those
    /// who are connected to it. True: the new master lacks something.
    pub fn fail_over(&mut self, old_serves: bool, chance: &mut Chance) -> bool {
        let (old, new) = (self.address, 1 - self.address);
        let state = if chance.one_in(4) { None } else { self.machines[old].earlier(chance) };
        let state = state.unwrap_or_else(|| self.machines[old].cell.clone());
        let lost = state.meta().last < self.machines[old].cell.meta().last;
        let id = self.new_id();
        let promoted = &mut self.machines[new];
        promoted.cell = state;
        promoted.cell.role = "master";
        promoted.cell.live_replid = id;
        promoted.kept.clear();
        promoted.up = true;
        promoted.life += 1;
        if !old_serves {
            self.kill(old);
        }
        self.address = new;
        lost
    }

    /// The machine that is not under the address takes it back as it stands, if it is a master still.
    pub fn fail_back(&mut self) {
        let other = &mut self.machines[1 - self.address];
        if other.up && other.cell.role == "master" {
            other.life += 1;
            self.address = 1 - self.address;
        }
    }

    /// A machine comes back with nothing.
    pub fn empty(&mut self, machine: usize, now: Millis) {
        let id = self.new_id();
        self.kill(machine);
        let machine = &mut self.machines[machine];
        machine.cell = ModelCell::new(now, &id);
        machine.kept.clear();
        machine.up = true;
    }

    /// The machine that is not under the address follows the one that is: all that it had is gone.
    pub fn demote_other(&mut self) {
        let (master, other) = (self.address, 1 - self.address);
        let mut copy = self.machines[master].cell.clone();
        copy.role = "slave";
        let other = &mut self.machines[other];
        (other.cell, other.up) = (copy, true);
        other.kept.clear();
    }

    fn new_id(&mut self) -> String {
        self.ids += 1;
        format!("r{}", self.ids)
    }
}

// === impl Machine ===

impl Machine {
    fn earlier(&self, chance: &mut Chance) -> Option<ModelCell> {
        let at = chance.below(self.kept.len().max(1) as u64) as usize;
        self.kept.get(at).map(|(_, cell)| cell.clone())
    }
}
