//! How long the best combination takes, and how often it is proven: `cargo bench --bench pricing`.
//!
//! Random carts of many merchants, from seeds, with coupons of every kind and issuer. In realistic
//! wallets at most one coupon in ten says anything of stacking, so that an order ends up with tens of
//! coupons at most; then one in four does; hostile are those in which every second or every coupon
//! does, the last with exclusions and numbers of every sort. Times are of the thread's own CPU: a busy
//! machine does not count. Each cart is priced three times, and its median counts.
//! FLOODGATE_PRICING_CARTS sets how many carts, FLOODGATE_PRICING_CUT=1 names those that are not proven.

use std::time::Duration;

use floodgate::domain::ids::TemplateId;
use floodgate::domain::template::{Definition, parse};
use floodgate::domain::window::Millis;
use floodgate::pricing::{Case, Coupon, Order, Settings, State, Terms, User, best};

#[path = "../src/pricing/tests/carts.rs"]
mod carts;

use carts::{Dice, Size};

const NOON: Millis = 1_781_755_200_000;

/// Carts of one sort.
struct Load {
    name: &'static str,
    coupons: usize,
    lines: u64,
    /// One coupon in so many says something of stacking; 0: none does.
    stacking: &'static [u64],
    wild: bool,
    /// The goal for p99, where there is one.
    limit_ms: Option<f64>,
    /// How many carts for every thousand that are asked for.
    carts: u64,
}

const REALISTIC: &[u64] = &[0, 0, 20, 10];

const LOADS: &[Load] = &[
    load("realistic", 20, 10, REALISTIC, Some(5.0), 1_000),
    load("realistic", 100, 50, REALISTIC, Some(5.0), 1_000),
    load("realistic", 500, 50, REALISTIC, Some(50.0), 1_000),
    load("one in four stacks", 100, 50, &[4], Some(5.0), 500),
    load("one in four stacks", 500, 50, &[4], Some(50.0), 500),
    load("hostile: every other", 500, 50, &[2, 1], Some(50.0), 200),
    Load { wild: true, ..load("hostile: all, wild", 500, 200, &[1], None, 100) },
];

const fn load(
    name: &'static str,
    coupons: usize,
    lines: u64,
    stacking: &'static [u64],
    limit_ms: Option<f64>,
    carts: u64,
) -> Load {
    Load { name, coupons, lines, stacking, wild: false, limit_ms, carts }
}

fn main() {
    let count = std::env::var("FLOODGATE_PRICING_CARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000u64);
    let settings = Settings::default();
    println!(
        "wallet               | coupons lines carts |  p50 ms  p90 ms  p99 ms  max ms | proven  | nodes p50/p99/max"
    );
    for load in LOADS {
        run(load, (count * load.carts / 1_000).max(1), &settings);
    }
}

/// What this thread has used of the CPU.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux, and `time` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn run(load: &Load, count: u64, settings: &Settings) {
    let user = User::default();
    let (mut times, mut nodes, mut proven) = (Vec::new(), Vec::new(), 0u64);
    for seed in 0..count {
        let dice = &mut Dice::new(seed * 1_000 + load.coupons as u64);
        let size = Size {
            lines: (load.lines, load.lines),
            merchants: 1 + dice.below(10),
            coupons: load.coupons,
            price_max: [900, 8_000, 50_000][dice.below(3) as usize],
            stacking: load.stacking[dice.below(load.stacking.len() as u64) as usize],
            wild: load.wild,
            shipping: false,
            currency: "CNY",
        };
        let order: Order = carts::order(dice, &size);
        let coupons: Vec<Coupon> = carts::coupons(dice, &size);
        let case = Case { order: &order, user: &user, now: NOON, settings };
        let mut runs: Vec<Duration> = Vec::new();
        for _ in 0..3 {
            let start = cpu_time();
            let quote = best(&case, &coupons, settings.search_nodes_max);
            runs.push(cpu_time() - start);
            if runs.len() > 1 {
                continue;
            }
            proven += u64::from(quote.optimal);
            nodes.push(quote.nodes);
            if !quote.optimal && std::env::var_os("FLOODGATE_PRICING_CUT").is_some() {
                let used = quote.priced.coupons.len();
                println!("seed {seed}: one in {} says something of stacking, {used} are used", size.stacking);
            }
        }
        runs.sort_unstable();
        times.push(runs[1]);
    }
    times.sort_unstable();
    nodes.sort_unstable();
    let place = |part: f64| ((times.len() - 1) as f64 * part) as usize;
    let ms = |part: f64| times[place(part)].as_secs_f64() * 1e3;
    println!(
        "{:20} | {:7} {:5} {count:5} | {:7.3} {:7.3} {:7.3} {:7.3} | {:5.1} % | {}/{}/{}",
        load.name,
        load.coupons,
        load.lines,
        ms(0.5),
        ms(0.9),
        ms(0.99),
        ms(1.0),
        proven as f64 * 100.0 / count as f64,
        nodes[place(0.5)],
        nodes[place(0.99)],
        nodes[place(1.0)]
    );
    if let Some(limit) = load.limit_ms.filter(|limit| ms(0.99) > *limit) {
        println!("        p99 is above {limit} ms");
    }
}
