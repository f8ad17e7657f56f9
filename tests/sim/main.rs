//! Deterministic simulation: the project's own lanes, flushers, openings and recovery against model stores,
//! with all scheduling, time and faults drawn from a seed.
//!
//! # Layout
//! - [`run`]: one simulation from its seed to its verdict
//! - [`faults`]: what goes wrong, and when
//! - [`shop`], [`crew`], [`operator`]: gateways with shoppers before them; flushers; who recovers a cell
//! - [`world`]: what they share, and the network between them
//! - [`redis`], [`postgres`]: the model stores
//! - [`stores`], [`link`], [`archive`]: how the project's code reaches them
//! - [`journal`]: what shoppers were told, and what must be true of it
//! - [`chance`]: the seed, and the trace
//!
//! `SEED=7` plays one seed twice and prints its trace hash, with `TRACE=1` every step, too. `SEEDS=100000`
//! plays that many, from `FIRST` on.

mod archive;
mod chance;
mod crew;
mod faults;
mod journal;
mod link;
mod operator;
mod postgres;
mod redis;
mod run;
mod shop;
mod stores;
mod world;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use run::{Report, simulate};

/// Seeds of a run that asks for no number.
const SEEDS_QUICK: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[test]
fn seeds_keep_every_promise() {
    // The process' clock begins before any simulated one.
    floodgate::clock::mono_ms();
    match number("SEED") {
        Some(seed) => one(seed),
        None => many(number("FIRST").unwrap_or(1), number("SEEDS").unwrap_or(SEEDS_QUICK)),
    }
}

/// One seed, twice: the trace must be the same.
fn one(seed: u64) {
    let Report { hash, steps, virtual_ms, broken, lines, .. } = simulate(seed, true);
    if number("TRACE").is_some() || broken.is_some() {
        lines.iter().for_each(|line| println!("{line}"));
    }
    println!("seed {seed}: trace {hash:016x}, {steps} steps in {virtual_ms} ms of its own time");
    let again = simulate(seed, false);
    assert_eq!(hash, again.hash, "two runs of seed {seed} differ");
    if let Some(broken) = broken {
        panic!("seed {seed}: {broken}");
    }
}

/// Many seeds on all processors. Stops at the first that fails, and tells how to repeat it.
fn many(first: u64, seeds: u64) {
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, steps, rows) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let (lossy, openings, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicUsize::new(0));
    let recoveries = AtomicU64::new(0);
    let work = || {
        while failed.load(Ordering::Relaxed) == 0 {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            let report = simulate(seed, false);
            steps.fetch_add(report.steps, Ordering::Relaxed);
            rows.fetch_add(report.rows as u64, Ordering::Relaxed);
            openings.fetch_add(report.epochs.into(), Ordering::Relaxed);
            lossy.fetch_add(report.lossy.into(), Ordering::Relaxed);
            recoveries.fetch_add(report.recoveries, Ordering::Relaxed);
            if let Some(broken) = report.broken {
                failed.fetch_add(1, Ordering::Relaxed);
                println!("seed {seed}: {broken}\nrepeat with: make sim SEED={seed}");
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    println!(
        "{seeds} seeds from {first}: {} steps, {} openings, {} recoveries, {} coupons stored, {} with losses, in {:.1} s",
        steps.into_inner(),
        openings.into_inner(),
        recoveries.into_inner(),
        rows.into_inner(),
        lossy.into_inner(),
        began.elapsed().as_secs_f64()
    );
    assert_eq!(failed.into_inner(), 0, "a seed failed: its line above tells how to repeat it");
}
