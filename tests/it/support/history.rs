//! Random histories of a cell, played on the model and on Redis side by side.

use std::collections::BTreeMap;
use std::fmt::Debug;

use chrono_tz::Tz;
use floodgate::claim::engine::{Batch, BatchReply, Claim, Group, LookupGroup};
use floodgate::claim::model_engine::{Entry, QuotaRule, Row, Terms};
use floodgate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use floodgate::domain::user::UserRef;
use floodgate::domain::window::{Day, Millis};
use floodgate::redis::cell::{Identity, Receipt};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::stage::{ModelStage, RedisStage, Stage};

/// One thing that happens to a cell.
#[derive(Clone, Debug)]
pub enum Step {
    Claims {
        claims: Vec<Press>,
        deadline: Millis,
        backlog: u64,
        day_shift: Millis,
    },
    Lookup(Vec<Press>),
    Clock(Millis),
    /// To within a few ms of the next local midnight of a template.
    Midnight(usize, Millis),
    State(usize, u8),
    Window(usize, Millis, Millis),
    Restock {
        template: usize,
        gap: u64,
        count: u64,
    },
    ForgetScripts,
    /// How many entries stay.
    Trim(usize),
    /// Other rules, or other limits over the windows as they are, or nothing new.
    Reopen(Option<[QuotaRule; 3]>, Option<u32>),
    Free(usize),
}

/// A claim by small numbers, so that they meet.
#[derive(Clone, Debug)]
pub struct Press {
    pub template: usize,
    pub user: u8,
    pub key: u8,
    pub ip: Option<u8>,
    pub device: Option<u8>,
}

/// How a history begins.
#[derive(Clone, Debug)]
pub struct Setting {
    pub rules: [QuotaRule; 3],
    pub templates: Vec<Terms>,
    pub stocks: Vec<u64>,
}

/// Both stages and what a gateway, an operator and PostgreSQL know of them.
pub struct World<'a> {
    pub model: ModelStage,
    pub redis: RedisStage<'a>,
    pub now: Millis,
    pub epoch: Epoch,
    pub rules: [QuotaRule; 3],
    pub templates: Vec<Known>,
    /// Every entry ever seen, trimmed or not.
    pub ledger: BTreeMap<EntryId, Entry>,
    /// The last entry that was trimmed.
    pub trimmed: EntryId,
}

pub struct Known {
    pub terms: Terms,
    pub ranges: Vec<(Serial, Serial)>,
    pub freed: bool,
}

/// 2026-10-31 12:00 UTC: clocks change within days in most zones that change them.
const BEGIN: Millis = 1_793_448_000_000;
pub const ZONES: [Tz; 4] = [Tz::UTC, Tz::Asia__Shanghai, Tz::America__New_York, Tz::Europe__London];
const USERS: u8 = 6;

/// Runs a property for as many cases as the environment says. Chance has one seed; a failure
/// tells how to repeat it.
pub fn check<S: Strategy>(name: &str, cases: u32, strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>)
where
    S::Value: Debug,
{
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cases = number("FLOODGATE_PROPTEST_CASES").map_or(cases, |cases| cases as u32);
    let seed = number("FLOODGATE_PROPTEST_SEED").unwrap_or_else(rand_seed);
    let repeat = format!("FLOODGATE_PROPTEST_CASES={cases} FLOODGATE_PROPTEST_SEED={seed} cargo test --test it {name}");
    println!("repeat with: {repeat}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    if let Err(error) = runner.run(&strategy, test) {
        panic!("{error}\nrepeat with: {repeat}");
    }
}

fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

pub fn settings() -> impl Strategy<Value = Setting> {
    let limits = (1..4u32, 0..3u32, 0..5u64).prop_map(|(per_user, per_user_daily, daily)| Terms {
        state: 1,
        revision: 1,
        generation: 1,
        starts_at: 0,
        ends_at: BEGIN + 20 * 86_400_000,
        per_user,
        per_user_daily,
        daily: if daily < 3 { 0 } else { daily },
        quotas: false,
    });
    let templates = prop::collection::vec(limits, ZONES.len()).prop_map(|mut templates| {
        templates[1].quotas = true;
        templates[2].quotas = true;
        templates
    });
    (rules(), templates, prop::collection::vec(0..12u64, ZONES.len())).prop_map(|(rules, templates, stocks)| Setting {
        rules,
        templates,
        stocks,
    })
}

fn rules() -> impl Strategy<Value = [QuotaRule; 3]> {
    let rule = (0..4u32, prop::sample::select(vec![7, 1_000, 60_000, 86_400_000, 604_800_000]))
        .prop_map(|(limit, window)| QuotaRule { limit, window });
    [rule.clone(), rule.clone(), rule]
}

pub fn presses(max: usize) -> impl Strategy<Value = Vec<Press>> {
    let press = (0..ZONES.len(), 0..USERS, 0..10u8, prop::option::weighted(0.7, 0..3u8), prop::option::of(0..3u8))
        .prop_map(|(template, user, key, ip, device)| Press { template, user, key, ip, device });
    prop::collection::vec(press, 1..max)
}

/// Steps that leave limits and rules as they are: after them the promises can be counted.
pub fn plain_steps() -> BoxedStrategy<Step> {
    let template = || 0..ZONES.len();
    let span = prop_oneof![
        4 => 0..20i64,
        3 => prop::sample::select(vec![999i64, 1_000, 59_999, 60_000, 86_399_999, 86_400_000]),
        2 => 0..200_000i64,
        1 => -1_010..0i64,
    ];
    let deadline = prop_oneof![9 => Just(60_000), 1 => -1..2i64];
    let backlog = prop_oneof![9 => Just(1_000u64), 1 => 0..10u64];
    let day_shift = prop_oneof![9 => Just(0), 1 => Just(-86_400_000i64)];
    let state = prop::sample::select(vec![1u8, 1, 1, 2, 3]);
    prop_oneof![
        12 => (presses(12), deadline, backlog, day_shift)
            .prop_map(|(claims, deadline, backlog, day_shift)| Step::Claims { claims, deadline, backlog, day_shift }),
        2 => presses(5).prop_map(Step::Lookup),
        5 => span.prop_map(Step::Clock),
        2 => (template(), -2..2i64).prop_map(|(template, off)| Step::Midnight(template, off)),
        1 => (template(), state).prop_map(|(template, state)| Step::State(template, state)),
        2 => (template(), 0..3u64, 1..6u64).prop_map(|(template, gap, count)| Step::Restock { template, gap, count }),
        1 => Just(Step::ForgetScripts),
        1 => (0..5usize).prop_map(Step::Trim),
    ]
    .boxed()
}

pub fn all_steps() -> BoxedStrategy<Step> {
    let template = || 0..ZONES.len();
    prop_oneof![
        20 => plain_steps(),
        1 => (template(), -5_000..5_000i64, 0..100_000i64)
            .prop_map(|(template, from, length)| Step::Window(template, from, from + length)),
        1 => template().prop_map(|template| Step::Window(template, -86_400_000, 86_400_000)),
        1 => (prop::option::weighted(0.3, rules()), prop::option::of(0..4u32))
            .prop_map(|(rules, limit)| Step::Reopen(rules, limit)),
        1 => template().prop_map(Step::Free),
    ]
    .boxed()
}

/// Both answers, or why they differ.
fn same<T: PartialEq + Debug>(model: T, redis: T) -> Result<T, TestCaseError> {
    prop_assert_eq!(&model, &redis, "model (left) and redis (right)");
    Ok(model)
}

pub fn template_id(template: usize) -> TemplateId {
    TemplateId(template as u32 + 1)
}

// === impl World ===

impl<'a> World<'a> {
    pub fn new(redis: RedisStage<'a>, setting: &Setting) -> World<'a> {
        let templates = setting
            .templates
            .iter()
            .zip(&setting.stocks)
            .map(|(terms, stock)| Known {
                terms: *terms,
                ranges: if *stock == 0 { Vec::new() } else { vec![(1, *stock)] },
                freed: false,
            })
            .collect();
        let mut world = World {
            model: ModelStage::new(),
            redis,
            now: BEGIN,
            epoch: 0,
            rules: setting.rules,
            templates,
            ledger: BTreeMap::new(),
            trimmed: EntryId::ZERO,
        };
        world.move_clock(BEGIN);
        world.close();
        world.put_all();
        world.open();
        world
    }

    pub fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Claims { claims, deadline, backlog, day_shift } => {
                self.claim(claims, *deadline, *backlog, *day_shift)?;
            }
            Step::Lookup(presses) => self.lookup(presses)?,
            Step::Clock(by) => self.move_clock(self.now + by),
            Step::Midnight(template, off) => self.move_clock(Day::of(ZONES[*template], self.now).end + off),
            Step::State(template, state) => self.change(*template, |known| known.terms.state = *state),
            Step::Window(template, from, until) => {
                let now = self.now;
                self.change(*template, |known| {
                    (known.terms.starts_at, known.terms.ends_at) = (now + from, now + until);
                });
            }
            Step::Restock { template, gap, count } => self.change(*template, |known| {
                let first = known.ranges.last().map_or(0, |range| range.1) + 1 + gap;
                known.ranges.push((first, first + count - 1));
                known.terms.generation += 1;
            }),
            Step::ForgetScripts => self.redis.flush_scripts(),
            Step::Trim(keep) => {
                let queue = self.model.queue();
                if let Some(last) = queue.len().checked_sub(keep + 1).map(|position| queue[position].id) {
                    self.model.trim(last);
                    self.redis.trim(last);
                    self.trimmed = last;
                }
            }
            Step::Reopen(rules, limit) => {
                self.rules = rules.unwrap_or(self.rules);
                self.rules = self.rules.map(|rule| QuotaRule { limit: limit.unwrap_or(rule.limit), ..rule });
                // A clock that is behind opens nothing.
                self.catch_up();
                self.close();
                self.open();
            }
            Step::Free(template) => {
                let known = &mut self.templates[*template];
                let (id, revision) = (template_id(*template), known.terms.revision + 1);
                known.freed |=
                    same(self.model.free(id, revision, self.trimmed), self.redis.free(id, revision, self.trimmed))?;
                known.terms.revision = if known.freed { revision } else { known.terms.revision };
            }
        }
        Ok(())
    }

    fn change(&mut self, template: usize, change: impl FnOnce(&mut Known)) {
        let known = &mut self.templates[template];
        change(known);
        known.terms.revision += 1;
        self.model.put(template_id(template), &known.terms, &known.ranges);
        self.redis.put(template_id(template), &known.terms, &known.ranges);
    }

    pub fn move_clock(&mut self, now: Millis) {
        self.now = now;
        self.model.set_clock(now);
        self.redis.set_clock(now);
    }

    /// Moves the clock to where the cell's is, if it is behind.
    pub fn catch_up(&mut self) {
        let clock = self.model.meta().clock;
        self.move_clock(self.now.max(clock));
    }

    pub fn close(&mut self) {
        self.epoch += 1;
        self.model.close(self.epoch);
        self.redis.close(self.epoch);
    }

    pub fn open(&mut self) {
        self.model.open(self.epoch, self.rules);
        self.redis.open(self.epoch, self.rules);
    }

    pub fn put_all(&mut self) {
        for (template, known) in self.templates.iter().enumerate() {
            self.model.put(template_id(template), &known.terms, &known.ranges);
            self.redis.put(template_id(template), &known.terms, &known.ranges);
        }
    }

    fn groups(&self, presses: &[Press], day_shift: Millis) -> Vec<Group> {
        // Templates with quotas first, as the script demands.
        let mut groups: Vec<Group> = Vec::new();
        for template in [1, 2, 0, 3] {
            let quotas = self.templates[template].terms.quotas;
            let of_template = presses.iter().filter(|press| press.template == template);
            let claims: Vec<Claim> = of_template.map(|press| claim(press, quotas)).collect();
            if !claims.is_empty() {
                let id = template_id(template);
                let day = Day::of(ZONES[template], self.now.max(self.model.engine.cell().meta().clock) + day_shift);
                groups.push(Group { template: id, keys: self.redis.keys().template(id), quotas, day, claims });
            }
        }
        groups
    }

    fn claim(
        &mut self,
        presses: &[Press],
        deadline: Millis,
        backlog_max: u64,
        day_shift: Millis,
    ) -> Result<(), TestCaseError> {
        let batch = Batch { deadline: self.now + deadline, backlog_max, groups: self.groups(presses, day_shift) };
        let (model, redis) = self.identities();
        let told =
            |reply: Result<BatchReply, _>| reply.map_err(|fault: floodgate::redis::fault::Fault| fault.to_string());
        let reply = same(told(self.model.claim(&model, &batch)), told(self.redis.claim(&redis, &batch)))?;
        if let Ok(BatchReply::Executed { entry: Some(id), .. }) = reply {
            let entry = self.model.engine.cell().queue().last().cloned().expect("it was just written");
            prop_assert_eq!(entry.id, id);
            self.ledger.insert(id, entry);
        }
        Ok(())
    }

    fn lookup(&mut self, presses: &[Press]) -> Result<(), TestCaseError> {
        let groups: Vec<LookupGroup> = self
            .groups(presses, 0)
            .into_iter()
            .map(|group| LookupGroup {
                keys: group.keys,
                claims: group.claims.into_iter().map(|claim| (claim.user, claim.claim_key_hash)).collect(),
            })
            .collect();
        let (model, redis) = self.identities();
        let model = self.model.lookup(&model, &groups).map_err(|fault| fault.to_string());
        let redis = self.redis.lookup(&redis, &groups).map_err(|fault| fault.to_string());
        same(model, redis).map(drop)?;
        Ok(())
    }

    fn identities(&mut self) -> (Identity, Identity) {
        (self.model.identity(), self.redis.identity())
    }

    /// What both have kept is the same, to the last receipt and entry.
    pub fn compare(&mut self) -> Result<(), TestCaseError> {
        self.catch_up();
        same(self.model.state(), self.redis.state())?;
        for template in 0..self.templates.len() {
            for number in 0..USERS {
                let user = user(number);
                let id = template_id(template);
                let mut holdings = [self.model.holding(id, Some(&user)), self.redis.holding(id, Some(&user))];
                if self.templates[template].terms.daily == 0 {
                    holdings.iter_mut().for_each(|holding| (holding.day, holding.day_count) = (0, 0));
                }
                let [model, redis] = holdings;
                same(model, redis)?;
            }
        }
        Ok(())
    }

    /// A template's grants in the ledger as PostgreSQL's rows, by serial.
    pub fn rows(&self, template: usize) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for entry in self.ledger.values() {
            for grant in entry.grants.iter().filter(|grant| grant.template == template_id(template)) {
                let (user, claim_key_hash, ip, device) = grant.claim.clone();
                let receipt =
                    Receipt { serial: grant.serial, epoch: entry.id.epoch, acquired: entry.at, claim_key_hash };
                rows.push(Row { user: Some(user), receipt, ip, device });
            }
        }
        rows.sort_by_key(|row| row.receipt.serial);
        rows
    }
}

fn user(number: u8) -> UserRef {
    UserRef::from_store(&format!("user-{number}")).expect("a user")
}

fn claim(press: &Press, quotas: bool) -> Claim {
    Claim {
        user: user(press.user),
        claim_key_hash: press.key.into(),
        ip: press.ip.filter(|_| quotas).map(u64::from),
        device: press.device.filter(|_| quotas).map(u64::from),
    }
}
