//! One simulation from its seed to its verdict: a sale with troubles, then everything is mended, and what was
//! promised must come true.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use floodgate::catalog::publish::TemplateRow;
use floodgate::config::{Config, Layers};
use floodgate::domain::ids::TemplateId;
use floodgate::domain::outcome::ClaimOutcome;
use floodgate::domain::template::{AckLevel, Definition, Status};
use floodgate::domain::window::{Day, Millis};
use floodgate::redis::cell::Identity;
use tokio::time::{sleep, timeout};

use crate::chance::{Chance, Trace};
use crate::crew::{Crew, FLUSHERS};
use crate::faults::{Plan, plan, strike};
use crate::journal::{Key, Told};
use crate::operator;
use crate::postgres::Database;
use crate::redis::{Fleet, Fsync};
use crate::shop::{Press, Shop};
use crate::world::{State, Weather, World};

/// What a simulation came to.
pub struct Report {
    pub hash: u64,
    pub steps: u64,
    pub virtual_ms: u64,
    pub rows: usize,
    pub epochs: u16,
    pub recoveries: u64,
    pub lossy: bool,
    pub broken: Option<String>,
    pub lines: Vec<String>,
}

/// A sale as the seed has it.
struct Sale {
    begin: Millis,
    fsync: Fsync,
    replicated: bool,
    weather: Weather,
    templates: Vec<TemplateRow>,
    presses: Vec<(u64, Press)>,
    refused_user: Option<String>,
    plan: Plan,
}

/// How long shoppers press and troubles come, in ms.
const HORIZON: u64 = 3_000;

/// How long a mended world may take to settle: the longest pause between two openings, and some more.
const SETTLE_MAX: Duration = Duration::from_secs(200);

/// 2026-10-31 12:00 UTC: the night after, clocks go back in New York.
const BEGIN: Millis = 1_793_448_000_000;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let settings = [
        ("REDIS_URL", "redis://none.invalid"),
        ("POSTGRES_URL", "postgres://none.invalid/none"),
        ("CODE_KEY", "000102030405060708090a0b0c0d0e0f"),
        ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("QUOTA_USER_LIMIT", "2"),
        ("QUOTA_USER_WINDOW_S", "2"),
        ("QUOTA_IP_LIMIT", "3"),
        ("QUOTA_IP_WINDOW_S", "3"),
        ("QUOTA_DEVICE_LIMIT", "3"),
        ("QUOTA_DEVICE_WINDOW_S", "5"),
        ("FLUSHER_POLL_MS", "100"),
        ("FLUSHER_BACKOFF_MAX_MS", "500"),
    ];
    let env = settings.map(|(name, value)| (format!("FLOODGATE_{name}"), value.to_owned()));
    Layers::read(None, env).expect("known settings").build().expect("sound settings")
});

static DEFINITION: LazyLock<Definition> = LazyLock::new(|| {
    let definition = serde_json::json!({
        "name": "ten off", "kind": "cash_voucher", "value": {"amount": "5.00"}, "timezone": "America/New_York",
        "stock": {"total": 9},
        "claim_window": {"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2100-01-01T00:00:00Z"},
        "validity": {"type": "relative", "days": 7},
    });
    Definition::from_store(&definition).expect("a definition")
});

/// Plays the simulation of `seed`.
pub fn simulate(seed: u64, keep_lines: bool) -> Report {
    let config: &'static Config = &CONFIG;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async move {
        let mut chance = Chance::new(seed);
        let sale = Sale::draw(&mut chance);
        let world = sale.world(chance, keep_lines);
        let began = tokio::time::Instant::now();
        let played = timeout(Duration::from_secs(600), play(world.clone(), config, sale)).await;
        if played.is_err() {
            world.state().promise(false, || "it does not come to an end".into());
        }
        let virtual_ms = began.elapsed().as_millis() as u64;
        let mut state = world.state();
        let trace = std::mem::replace(&mut state.trace, Trace::new(false));
        let steps = trace.steps;
        let (hash, lines) = trace.finish();
        Report {
            hash,
            steps,
            virtual_ms,
            rows: state.postgres.coupons.len(),
            epochs: state.postgres.epoch,
            recoveries: state.recoveries,
            lossy: state.lossy,
            broken: state.broken.take(),
            lines,
        }
    })
}

async fn play(world: Arc<World>, config: &'static Config, sale: Sale) {
    let crew = Crew::start(&world, config);
    let shop = Shop::open(&world, config);
    let operator = operator::start(&world, config);
    let presses: Vec<_> = sale
        .presses
        .into_iter()
        .map(|(at, press)| {
            let shop = shop.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(at)).await;
                shop.press(press, 3).await;
            })
        })
        .collect();
    let troubles: Vec<_> = sale
        .plan
        .into_iter()
        .map(|(at, trouble)| tokio::spawn(strike(world.clone(), shop.clone(), crew.clone(), at, trouble)))
        .collect();
    sleep(Duration::from_millis(HORIZON)).await;
    mend(&world, &shop, &crew);
    for task in presses.into_iter().chain(troubles) {
        let ended = task.await;
        world.state().promise(ended.is_ok(), || format!("a task has panicked: {ended:?}"));
    }
    // Troubles that ended late may have left something.
    mend(&world, &shop, &crew);
    world.state().journal.mended = true;
    if world.state().broken.is_none() && timeout(SETTLE_MAX, settle(&world, &shop)).await.is_err() {
        let standing = standing(&world);
        world.state().promise(false, || format!("it does not settle: {standing}"));
    }
    operator.abort();
}

/// Everything works again. Clocks only go forward.
fn mend(world: &World, shop: &Shop, crew: &Crew) {
    let mut state = world.state();
    state.note(format_args!("mended"));
    (state.weather, state.calm) = Default::default();
    state.postgres.up = true;
    let address = state.redis.address;
    if !state.redis.machines[address].up {
        let State { redis, chance, .. } = &mut *state;
        redis.restart(address, false, chance);
    }
    // Nobody is behind what any of them has decided by.
    let clocks = state.redis.machines.iter().map(|machine| machine.cell.meta().clock);
    let set_aside = state.postgres.set_aside.iter().map(|(_, coupon, _)| coupon);
    let times = state.postgres.coupons.values().chain(set_aside).map(|coupon| coupon.acquired);
    let ahead = clocks.chain(times).max().unwrap_or_default() - world.now();
    for machine in &mut state.redis.machines {
        machine.cell.starved = false;
        machine.step = machine.step.max(ahead);
    }
    drop(state);
    shop.all().iter().for_each(|gateway| gateway.process.thaw());
    (0..FLUSHERS).for_each(|which| crew.process(which).thaw());
}

/// The end of a sale: each doubt is resolved, the rest is sold, the queue runs dry, and all agree.
async fn settle(world: &Arc<World>, shop: &Arc<Shop>) {
    let pause = || sleep(Duration::from_millis(200));
    while !shop.all().iter().all(|gateway| gateway.cell.identity().is_some_and(|identity| serves(world, &identity))) {
        pause().await;
    }
    let keys: Vec<Key> = {
        let state = world.state();
        let doubtful = state.journal.stories.iter().filter(|(_, story)| story.unknown || !story.held.is_empty());
        doubtful.map(|(key, _)| key.clone()).collect()
    };
    let asked: Vec<_> = keys.into_iter().map(|key| tokio::spawn(until_certain(shop.clone(), key))).collect();
    for asked in asked {
        let told = asked.await;
        world.state().promise(told.is_ok(), || format!("a task has panicked: {told:?}"));
    }
    sell_out(world, shop).await;
    while !drained(world) {
        pause().await;
    }
    let mut state = world.state();
    let lossy = state.lossy;
    if let Some(broken) = state.journal.settle(&state.postgres, lossy) {
        state.promise(false, || broken);
    }
}

/// Sells what is left, to shoppers who have nothing yet and come all at once: all of it must go, unless a day's
/// total is reached.
async fn sell_out(world: &Arc<World>, shop: &Arc<Shop>) {
    let templates: Vec<TemplateRow> = world.state().postgres.templates.values().cloned().collect();
    for row in templates {
        let stock: u64 = row.ranges.iter().map(|(first, last)| last - first + 1).sum();
        let left = stock.saturating_sub(world.state().postgres.given(row.id) as u64);
        let key = |number| Key { template: row.id, user: format!("late{}x{number}", row.id), key: 1 };
        let asked: Vec<_> = (0..=left).map(|number| tokio::spawn(until_certain(shop.clone(), key(number)))).collect();
        let mut last_word = None;
        for asked in asked {
            if let Ok(Told::Refused(outcome)) = asked.await {
                last_word = Some(outcome);
            }
        }
        while !drained(world) {
            sleep(Duration::from_millis(100)).await;
        }
        let mut state = world.state();
        let given = state.postgres.given(row.id) as u64;
        let day_ends = row.definition.stock.daily.is_some() && last_word == Some(ClaimOutcome::DailyLimitReached);
        state.promise(day_ends || last_word == Some(ClaimOutcome::SoldOut) && given == stock, || {
            format!("template {}: {given} of {stock} are given out, and the last word is {last_word:?}", row.id)
        });
    }
}

/// Asks until the answer is certain.
async fn until_certain(shop: Arc<Shop>, key: Key) -> Told {
    let press = Press { key, ip: None, device: None };
    loop {
        let told = shop.ask(&press).await;
        if is_certain(told) {
            return told;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn is_certain(told: Told) -> bool {
    match told {
        Told::Held(_) | Told::Stored(_) | Told::SetAside(_) => true,
        Told::Unknown => false,
        Told::Refused(outcome) => !matches!(outcome, ClaimOutcome::Unavailable | ClaimOutcome::Overloaded),
    }
}

/// Whether this is the history that the Redis under the address goes on with.
fn serves(world: &World, identity: &Identity) -> bool {
    let state = world.state();
    state.redis.serving().cell.is(identity) && identity.epoch == state.postgres.epoch
}

/// Everything on the queue is stored and trimmed.
fn drained(world: &World) -> bool {
    let state = world.state();
    let meta = state.redis.serving().cell.meta();
    meta.open && meta.backlog == 0 && meta.marks.is_empty() && meta.last == state.postgres.watermark
}

fn standing(world: &World) -> String {
    let state = world.state();
    let meta = state.redis.serving().cell.meta();
    format!(
        "epoch {}, watermark {}, Redis open {} in epoch {}, last {}, backlog {}",
        state.postgres.epoch, state.postgres.watermark, meta.open, meta.epoch, meta.last, meta.backlog
    )
}

// === impl Sale ===

impl Sale {
    fn draw(chance: &mut Chance) -> Sale {
        let fsync = chance.pick(&[Fsync::Always, Fsync::EverySecond]);
        let replicated = chance.one_in(2);
        let lost = chance.pick(&[0, 0, 3, 20]);
        let weather = Weather { lost, late: lost / 3, slow: chance.pick(&[0, 5, 30]) };
        // Half of the sales begin shortly before a local midnight.
        let mut begin = BEGIN;
        if chance.one_in(2) {
            begin = Day::of(DEFINITION.timezone, BEGIN).end - chance.below(HORIZON) as Millis;
        }
        let templates: Vec<TemplateRow> =
            (1..=chance.between(1, 3) as u32).map(|id| draw_template(chance, id)).collect();
        let users = chance.between(2, 8);
        let presses = draw_presses(chance, users, templates.len() as u32);
        let refused_user = chance.one_in(6).then(|| format!("user{}", chance.between(1, users)));
        let plan = plan(chance, HORIZON, templates.len() as u32, fsync, replicated);
        Sale { begin, fsync, replicated, weather, templates, presses, refused_user, plan }
    }

    fn world(&self, chance: Chance, keep_lines: bool) -> Arc<World> {
        let mut trace = Trace::new(keep_lines);
        trace.note(0, format_args!("{:?}, replicated: {}, {:?}", self.fsync, self.replicated, self.plan));
        let database = Database::new(&self.templates, self.refused_user.clone(), [(2, 2_000), (3, 3_000), (3, 5_000)]);
        let fleet = Fleet::new(self.begin, self.fsync, self.replicated);
        let mut state = State::new(chance, trace, fleet, database);
        (state.weather, state.calm) = (self.weather, self.weather);
        World::new(self.begin, state)
    }
}

fn draw_template(chance: &mut Chance, id: u32) -> TemplateRow {
    let mut definition = DEFINITION.clone();
    let stock = chance.between(1, 16);
    definition.stock.total = Some(stock);
    definition.stock.daily = chance.one_in(4).then(|| chance.between(1, 8));
    definition.limits.per_user = chance.between(1, 3) as u32;
    definition.limits.per_user_daily = chance.one_in(4).then(|| chance.between(1, 2) as u32);
    definition.quotas = chance.one_in(3);
    definition.ack = chance.one_in(3).then_some(AckLevel::Postgres);
    TemplateRow {
        id: TemplateId(id),
        definition,
        status: Status::Published,
        revision: 1,
        redis_revision: 1,
        stock_generation: 1,
        freed: false,
        ranges: vec![(1, stock)],
    }
}

/// Shoppers press at random; one in four again with a key that they had, one in eight twice at once.
fn draw_presses(chance: &mut Chance, users: u64, templates: u32) -> Vec<(u64, Press)> {
    let mut presses: Vec<(u64, Press)> = Vec::new();
    for number in 1..=chance.between(5, 40) {
        let at = chance.below(HORIZON);
        let key = Key {
            template: TemplateId(1 + chance.below(templates.into()) as u32),
            user: format!("user{}", chance.between(1, users)),
            key: number,
        };
        let mut address = || chance.one_in(2).then(|| chance.between(1, 2));
        let mut press = Press { key, ip: address(), device: address() };
        if !presses.is_empty() && chance.one_in(4) {
            press = presses[chance.below(presses.len() as u64) as usize].1.clone();
        }
        if chance.one_in(8) {
            presses.push((at, press.clone()));
        }
        presses.push((at, press));
    }
    presses
}
