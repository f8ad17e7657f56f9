//! How long the best combination takes: `cargo bench --bench pricing`.
//!
//! Random carts of many merchants, from seeds, with coupons of every kind, issuer and manner of
//! stacking. Times are of the thread's own CPU: a busy machine does not count. Each cart is priced three times and its median counts. FLOODGATE_PRICING_CARTS sets how many of each size.

use std::time::Duration;

use floodgate::domain::ids::TemplateId;
use floodgate::domain::template::{Definition, parse};
use floodgate::domain::window::Millis;
use floodgate::pricing::{Case, Coupon, Order, Settings, State, Terms, User, best};

#[path = "../src/pricing/tests/carts.rs"]
mod carts;

use carts::{Dice, Size};

const NOON: Millis = 1_781_755_200_000;

fn main() {
    let count = std::env::var("FLOODGATE_PRICING_CARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000u64);
    let settings = Settings::default();
    println!("coupons lines carts |  p50 ms  p90 ms  p99 ms  max ms | optimal  nodes p50/p99/max");
    for (coupons, lines, limit_ms) in [(20, 10, 5.0), (100, 50, 5.0), (500, 50, 50.0)] {
        let count = if coupons == 500 { count / 4 } else { count };
        run(coupons, lines, count, limit_ms, false, &settings);
    }
    println!("hostile: every coupon says something of stacking");
    run(500, 200, count / 10, 100.0, true, &settings);
}

/// What this thread has used of the CPU.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux, and `time` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn run(coupons: usize, lines: u64, count: u64, limit_ms: f64, wild: bool, settings: &Settings) {
    let user = User::default();
    let (mut times, mut nodes, mut optimal) = (Vec::new(), Vec::new(), 0);
    for seed in 0..count {
        let dice = &mut Dice::new(seed * 1_000 + coupons as u64);
        let size = Size {
            lines: (lines, lines),
            merchants: 1 + dice.below(10),
            coupons,
            price_max: [900, 8_000, 50_000][dice.below(3) as usize],
            stacking: if wild { 1 } else { [0, 0, 1, 2, 4, 10][dice.below(6) as usize] },
            wild,
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
            if runs.len() == 1 {
                optimal += u64::from(quote.optimal);
                nodes.push(quote.nodes);
                if std::env::var_os("FLOODGATE_PRICING_SLOW").is_some() && quote.nodes > 3_000 {
                    println!(
                        "seed {seed}: {} nodes, {:?}, merchants {}, price_max {}, stacking {}, optimal {}, used {}",
                        quote.nodes,
                        runs[0],
                        size.merchants,
                        size.price_max,
                        size.stacking,
                        quote.optimal,
                        quote.priced.coupons.len()
                    );
                }
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
        "{coupons:7} {lines:5} {count:5} | {:7.3} {:7.3} {:7.3} {:7.3} | {optimal}/{count}  {}/{}/{}",
        ms(0.5),
        ms(0.9),
        ms(0.99),
        ms(1.0),
        nodes[place(0.5)],
        nodes[place(0.99)],
        nodes[place(1.0)]
    );
    if ms(0.99) > limit_ms {
        println!("        p99 is above {limit_ms} ms");
    }
}
