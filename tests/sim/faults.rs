//! What goes wrong in a simulation: a list drawn from the seed, each trouble with its moment and its end.

use std::sync::Arc;
use std::time::Duration;

use floodgate::domain::ids::TemplateId;
use floodgate::domain::window::Millis;
use tokio::time::{Instant, sleep};

use crate::chance::Chance;
use crate::crew::{Crew, FLUSHERS};
use crate::link;
use crate::redis::Fsync;
use crate::shop::Shop;
use crate::world::{State, Weather, World};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// kill -9: what was written is there again.
    KillRedis {
        away: u64,
    },
    PowerCut {
        away: u64,
    },
    /// The replica takes over; the old master dies, or serves whom it still reaches for a while.
    FailOver {
        old_serves: u64,
    },
    /// The replica takes over; then the old master, as it stands, with what only it has.
    FailBack {
        after: u64,
    },
    /// Redis comes back with nothing.
    EmptyRedis,
    /// Connections to Redis are cut, all of them.
    CutRedis,
    StarveRedis {
        long: u64,
    },
    StepClock {
        by: Millis,
    },
    KillPostgres {
        away: u64,
    },
    /// Connections to PostgreSQL are cut, all of them.
    CutPostgres,
    /// The advisory lock is let go under its owner's feet.
    SlipLock,
    KillFlusher {
        which: usize,
        away: u64,
    },
    RestartFlusher {
        which: usize,
    },
    FreezeFlusher {
        which: usize,
        long: u64,
        cut: bool,
    },
    KillGateway {
        which: usize,
    },
    FreezeGateway {
        which: usize,
        long: u64,
    },
    Storm {
        weather: u64,
        long: u64,
    },
    Restock {
        template: TemplateId,
        more: u64,
    },
}

/// A trouble and when it comes, in ms.
pub type Plan = Vec<(u64, Trouble)>;

/// Draws what may go wrong with these stores.
pub fn plan(chance: &mut Chance, horizon: u64, templates: u32, fsync: Fsync, replicated: bool) -> Plan {
    let count = chance.below(8);
    let mut plan: Plan = (0..count)
        .map(|_| {
            let which = chance.below(FLUSHERS as u64) as usize;
            let away = chance.pick(&[5, 50, 300, 1_500]);
            let trouble = match chance.below(21) {
                0 | 1 => Trouble::KillRedis { away },
                2 | 3 if fsync == Fsync::EverySecond => Trouble::PowerCut { away },
                4 | 5 if replicated => Trouble::FailOver { old_serves: chance.pick(&[0, 0, 200, 1_200]) },
                2..=5 => Trouble::KillRedis { away },
                6 => Trouble::CutRedis,
                7 => Trouble::StarveRedis { long: away },
                8 => Trouble::StepClock { by: chance.pick(&[-900, -200, 500, 3_000, -1_700, 3_600_000]) },
                9 => Trouble::KillPostgres { away },
                10 => Trouble::CutPostgres,
                11 => Trouble::SlipLock,
                12 | 13 => Trouble::KillFlusher { which, away },
                14 => Trouble::RestartFlusher { which },
                15 => Trouble::FreezeFlusher { which, long: chance.between(100, 3_000), cut: chance.one_in(2) },
                16 => match chance.below(2) {
                    0 => Trouble::KillGateway { which },
                    _ => Trouble::FreezeGateway { which, long: chance.between(100, 2_500) },
                },
                17 if replicated => Trouble::FailBack { after: chance.pick(&[50, 300, 1_200]) },
                17 => Trouble::KillRedis { away },
                18 if chance.one_in(3) => Trouble::EmptyRedis,
                18 => Trouble::CutPostgres,
                19 => Trouble::Storm { weather: chance.pick(&[30, 200, 600]), long: chance.between(50, 800) },
                _ => Trouble::Restock {
                    template: TemplateId(1 + chance.below(templates.into()) as u32),
                    more: chance.between(1, 6),
                },
            };
            (chance.below(horizon), trouble)
        })
        .collect();
    plan.sort_by_key(|(at, _)| *at);
    plan
}

/// Lets one trouble happen, and end.
pub async fn strike(world: Arc<World>, shop: Arc<Shop>, crew: Arc<Crew>, at: u64, trouble: Trouble) {
    sleep(Duration::from_millis(at)).await;
    world.state().note(format_args!("{trouble:?}"));
    let ms = Duration::from_millis;
    match trouble {
        Trouble::KillRedis { away } => down(&world, away, false).await,
        Trouble::PowerCut { away } => down(&world, away, true).await,
        Trouble::FailOver { old_serves } => {
            if fail_over(&world, old_serves > 0) {
                sleep(ms(old_serves)).await;
                world.state().redis.demote_other();
            }
        }
        Trouble::FailBack { after } => {
            if fail_over(&world, true) {
                sleep(ms(after)).await;
                let mut state = world.state();
                state.redis.fail_back();
                state.redis.demote_other();
            }
        }
        Trouble::EmptyRedis => {
            let mut state = world.state();
            let (address, now) = (state.redis.address, world.now());
            // A cell that was never opened is made from nothing by itself.
            state.lossy = true;
            state.redis.empty(address, now);
        }
        Trouble::CutRedis => {
            let mut state = world.state();
            let address = state.redis.address;
            state.redis.machines[address].life += 1;
        }
        Trouble::StarveRedis { long } => {
            let address = world.state().redis.address;
            world.state().redis.machines[address].cell.starved = true;
            sleep(ms(long)).await;
            world.state().redis.machines[address].cell.starved = false;
        }
        Trouble::StepClock { by } => {
            let mut state = world.state();
            let address = state.redis.address;
            state.redis.machines[address].step += by;
        }
        Trouble::KillPostgres { away } => {
            world.state().postgres.crash();
            sleep(ms(away)).await;
            world.state().postgres.up = true;
        }
        Trouble::CutPostgres => world.state().postgres.cut_all(),
        Trouble::SlipLock => world.state().postgres.slip_lock(),
        Trouble::KillFlusher { which, away } => crew.kill(which, ms(away)).await,
        Trouble::RestartFlusher { which } => crew.restart(which).await,
        Trouble::FreezeFlusher { which, long, cut } => {
            crew.process(which).freeze(Instant::now() + ms(long));
            if cut {
                // PostgreSQL gives up on a client that is silent within a transaction.
                sleep(ms(long / 2)).await;
                world.state().postgres.cut_all();
            }
        }
        Trouble::KillGateway { which } => shop.replace(which),
        Trouble::FreezeGateway { which, long } => shop.gateway(which).process.freeze(Instant::now() + ms(long)),
        Trouble::Storm { weather, long } => {
            world.state().weather = Weather { lost: weather, late: weather / 4, slow: 300 };
            sleep(ms(long)).await;
            let mut state = world.state();
            state.weather = state.calm;
        }
        Trouble::Restock { template, more } => restock(&world, &shop, template, more).await,
    }
}

/// Whether the replica has taken over.
fn fail_over(world: &World, old_serves: bool) -> bool {
    let mut state = world.state();
    let State { redis, chance, .. } = &mut *state;
    // Only a replica that was there before its master went can take over, and one that has heard of the cell.
    let heard = redis.serving().cell.meta().epoch > 0;
    if !redis.serving().up || !redis.machines[1 - redis.address].up || !heard {
        return false;
    }
    let lost = redis.fail_over(old_serves, chance);
    state.lossy |= lost || old_serves;
    true
}

async fn down(world: &Arc<World>, away: u64, power_cut: bool) {
    let machine = {
        let mut state = world.state();
        let address = state.redis.address;
        state.redis.kill(address);
        address
    };
    sleep(Duration::from_millis(away)).await;
    let mut state = world.state();
    if !state.redis.machines[machine].up {
        let State { redis, chance, .. } = &mut *state;
        let lost = redis.restart(machine, power_cut, chance);
        state.lossy |= lost;
        let last = state.redis.machines[machine].cell.meta().last;
        state.note(format_args!("Redis is back, at {last}"));
    }
}

/// More stock: a row first, then Redis, as often as it takes.
async fn restock(world: &Arc<World>, shop: &Shop, template: TemplateId, more: u64) {
    let row = {
        let mut state = world.state();
        let Some(row) = state.postgres.templates.get_mut(&template) else { return };
        let last = row.ranges.last().map_or(0, |range| range.1);
        row.ranges.push((last + 1, last + more));
        row.revision += 1;
        row.stock_generation += 1;
        row.clone()
    };
    let pause = world.state().chance.between(1, 200);
    sleep(Duration::from_millis(pause)).await;
    loop {
        {
            let mut state = world.state();
            let address = state.redis.address;
            let machine = &mut state.redis.machines[address];
            let meta = machine.cell.meta();
            if machine.up && meta.role == "master" && meta.open && meta.replid == meta.live_replid {
                link::put(&mut machine.cell, &row);
                break;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    shop.learn(&row);
}
