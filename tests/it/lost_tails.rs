//! A Redis that comes back with less: an older copy, or nothing at all.
//!
//! It is opened under a new epoch and given back what PostgreSQL has. Afterwards it decides as the
//! model does, and over all that was stored no serial exists twice and no limit is passed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use floodgate::claim::model_engine::{Entry, ModelCell, ModelEngine};
use floodgate::domain::ids::{CellId, EntryId, Serial};
use floodgate::domain::window::{Day, Millis};
use floodgate::redis::cell::Identity;
use proptest::prelude::*;

use super::support::clock_redis::ClockRedis;
use super::support::history::{Setting, Step, World, ZONES, check, plain_steps, presses, settings, template_id};
use super::support::stage::{ModelStage, RedisStage, Stage};

const CELL: CellId = CellId(1);

/// What is lost, and what PostgreSQL has by then.
#[derive(Clone, Debug)]
struct Loss {
    /// Everything, or all since the copy.
    everything: bool,
    /// Of the entries that were written, how many in a thousand are stored.
    stored: usize,
    /// Until the restart.
    pause: Millis,
    /// Rows in one call.
    chunk: usize,
}

fn losses() -> impl Strategy<Value = Loss> {
    (prop::bool::weighted(0.3), 0..=1_000usize, prop_oneof![Just(0i64), 0..100_000i64], 1..5usize)
        .prop_map(|(everything, stored, pause, chunk)| Loss { everything, stored, pause, chunk })
}

/// A stretch of a history, at the end of which Redis comes back with less.
#[derive(Clone, Debug)]
struct Round {
    before_copy: Vec<Step>,
    after_copy: Vec<Step>,
    loss: Loss,
    /// A batch that many take part in, right before and right after the opening.
    rush: Step,
}

fn rounds() -> impl Strategy<Value = Round> {
    let steps = || prop::collection::vec(plain_steps(), 1..12);
    let rush = presses(40).prop_map(|claims| Step::Claims { claims, deadline: 60_000, backlog: 1_000, day_shift: 0 });
    (steps(), steps(), losses(), rush).prop_map(|(before_copy, after_copy, loss, rush)| Round {
        before_copy,
        after_copy,
        loss,
        rush,
    })
}

#[test]
fn a_redis_that_lost_its_tail_is_given_back_what_postgresql_has() {
    let server = RefCell::new(ClockRedis::start("tails"));
    let histories = (settings(), prop::collection::vec(rounds(), 1..4), prop::collection::vec(plain_steps(), 1..12));
    let name = "a_redis_that_lost_its_tail_is_given_back_what_postgresql_has";
    check(name, 40, histories, |(setting, rounds, after)| {
        let server: &mut ClockRedis = &mut server.borrow_mut();
        let redis = RedisStage::at(server, CELL);
        redis.plain(&mut redis::cmd("FLUSHALL"));
        let mut world = World::new(redis, &setting);
        let mut watermark = EntryId::ZERO;
        for (number, round) in rounds.iter().enumerate() {
            play(&mut world, &round.before_copy)?;
            // The copy: a dump for the next start, and the model as it is.
            server.save();
            let copy = world.model.engine.cell().clone();
            let in_copy: BTreeSet<EntryId> = world.ledger.keys().copied().collect();
            play(&mut world, &round.after_copy)?;

            let everything = round.loss.everything;
            let World { now, epoch, rules, templates, mut ledger, trimmed, redis, .. } = world;
            drop(redis);
            server.restart();
            let redis = RedisStage::at(server, CELL);
            let mut model = copy;
            if everything {
                redis.plain(&mut redis::cmd("FLUSHALL"));
                model = ModelCell::new(now, "");
            }
            model.live_replid = format!("fedcba987654321{number}");
            watermark = watermark.max(stored_by_then(&ledger, round.loss.stored, trimmed));
            ledger.retain(|id, _| *id <= watermark || (!everything && in_copy.contains(id)));
            let model = ModelStage { engine: ModelEngine::new(model) };
            world = World { model, redis, now, epoch, rules, templates, ledger, trimmed };
            come_back(&mut world, round, watermark)?;
        }
        play(&mut world, &after)?;
        world.compare()?;
        promises_hold(&world, &setting)
    });
}

fn play(world: &mut World, steps: &[Step]) -> Result<(), TestCaseError> {
    steps.iter().try_for_each(|step| world.step(step))
}

/// What was open is not, until it was opened: this is another Redis, whatever it has.
fn come_back(world: &mut World, round: &Round, watermark: EntryId) -> Result<(), TestCaseError> {
    // A Redis that is behind the rows is opened when it has caught up.
    let latest = world.ledger.values().map(|entry| entry.at).max().unwrap_or(0);
    world.catch_up();
    world.move_clock(world.now.max(latest) + round.loss.pause);
    let entries = world.redis.queue().len();
    prop_assert_eq!(Identity::of(&world.redis.meta()), None);
    world.step(&round.rush)?;
    prop_assert_eq!(world.redis.queue().len(), entries);
    give_back(world, watermark, round.loss.chunk)?;
    world.step(&round.rush)
}

/// The last entry whose rows are stored: what was trimmed is.
fn stored_by_then(ledger: &BTreeMap<EntryId, Entry>, stored: usize, trimmed: EntryId) -> EntryId {
    let count = ledger.len() * stored / 1_000;
    ledger.keys().take(count).next_back().copied().unwrap_or(EntryId::ZERO).max(trimmed)
}

/// The epoch protocol: the cell is closed, given its rows and opened.
fn give_back(world: &mut World, watermark: EntryId, chunk: usize) -> Result<(), TestCaseError> {
    world.close();
    world.put_all();
    for (template, zone) in ZONES.into_iter().enumerate() {
        let id = template_id(template);
        let mut rows = world.rows(template);
        // Entries that are still on the queue only are not rows yet.
        rows.retain(|row| {
            world.ledger.iter().any(|(id, entry)| {
                *id <= watermark
                    && entry
                        .grants
                        .iter()
                        .any(|grant| grant.template == template_id(template) && grant.serial == row.receipt.serial)
            })
        });
        let terms = world.templates[template].terms;
        let time = world.now.max(world.model.meta().clock);
        let day = Day::of(zone, time);
        for rows in rows.chunks(chunk).chain([&[][..], &rows[rows.len().saturating_sub(2)..]]) {
            world.model.reapply(id, &terms, day, world.rules, rows);
            prop_assert_eq!(world.redis.reapply(id, &terms, day, world.rules, rows), None);
        }
    }
    world.open();
    Ok(())
}

/// Counted over everything that is stored or on the queue.
fn promises_hold(world: &World, setting: &Setting) -> Result<(), TestCaseError> {
    let mut quotas: BTreeMap<(usize, Vec<u8>), Vec<Millis>> = BTreeMap::new();
    for (template, known) in world.templates.iter().enumerate() {
        let rows = world.rows(template);
        let serials: BTreeSet<Serial> = rows.iter().map(|row| row.receipt.serial).collect();
        prop_assert_eq!(serials.len(), rows.len(), "a serial of template {} was given twice", template);
        let exists = |serial: &Serial| known.ranges.iter().any(|range| (range.0..=range.1).contains(serial));
        prop_assert!(serials.iter().all(exists), "a serial of template {} does not exist", template);
        let mut by_user: BTreeMap<_, u32> = BTreeMap::new();
        let mut by_user_and_day: BTreeMap<_, u32> = BTreeMap::new();
        let mut by_day: BTreeMap<Millis, u64> = BTreeMap::new();
        for row in &rows {
            let day = Day::of(ZONES[template], row.receipt.acquired).start;
            *by_user.entry(&row.user).or_default() += 1;
            *by_user_and_day.entry((&row.user, day)).or_default() += 1;
            *by_day.entry(day).or_default() += 1;
            if known.terms.quotas {
                let mut note = |scope, key: Option<Vec<u8>>| {
                    if let Some(key) = key {
                        quotas.entry((scope, key)).or_default().push(row.receipt.acquired);
                    }
                };
                note(0, row.user.as_ref().map(|user| user.as_bytes().to_vec()));
                note(1, row.ip.map(|ip| ip.to_be_bytes().to_vec()));
                note(2, row.device.map(|device| device.to_be_bytes().to_vec()));
            }
        }
        let terms = setting.templates[template];
        prop_assert!(by_user.values().all(|count| *count <= terms.per_user), "{:?}", by_user);
        let daily = terms.per_user_daily;
        prop_assert!(daily == 0 || by_user_and_day.values().all(|count| *count <= daily), "{:?}", by_user_and_day);
        prop_assert!(terms.daily == 0 || by_day.values().all(|count| *count <= terms.daily), "{:?}", by_day);
    }
    for ((scope, key), mut times) in quotas {
        let rule = setting.rules[scope];
        times.sort_unstable();
        // One more than the limit never lies within one window.
        let apart =
            times.iter().zip(times.iter().skip(rule.limit as usize)).all(|(first, last)| last - first >= rule.window);
        prop_assert!(rule.limit == 0 || apart, "scope {} key {:?}: {:?}", scope, key, times);
    }
    Ok(())
}
