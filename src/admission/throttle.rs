//! How many requests a user, an address or a device may make.
//!
//! The algorithm is governor's (GCRA, ITU-T I.371); the store is ours: a table of fixed size, so
//! that a flood of made-up keys costs no memory. When a key's bucket is full, the key that is
//! closest to being forgiven is forgotten: a throttle may become milder under a flood, never
//! larger.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};

use crate::config;
use crate::domain::outcome::Scope;
use crate::telemetry::metrics;

/// The throttles of a process.
pub struct Throttles {
    all: Option<Throttle>,
    ip: Option<Throttle>,
    user: Option<Throttle>,
    device: Option<Throttle>,
}

struct Throttle {
    limiter: RateLimiter<u64, SharedTable, RequestClock, NoOpMiddleware<Nanos>>,
    table: Arc<KeyTable>,
}

/// The limiter owns its store; its fill is read beside it.
struct SharedTable(Arc<KeyTable>);

/// A refusal, with its scope and when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttled {
    pub scope: Scope,
    pub retry_after_ms: u64,
}

/// The time of the request that this thread handles: read once a request, not once a throttle.
#[derive(Clone, Copy, Debug, Default)]
struct RequestClock;

/// A fixed table of theoretical arrival times by 64-bit key, eight to a bucket.
struct KeyTable {
    slots: Box<[Slot]>,
    mask: usize,
    used: AtomicUsize,
}

#[derive(Default)]
struct Slot {
    /// 0: empty.
    key: AtomicU64,
    /// Nanoseconds since the limiter's start.
    arrival: AtomicU64,
}

const BUCKET: usize = 8;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(1) };
}

/// Reads the clock for the request that begins on this thread.
pub fn begin_request() {
    NOW.with(|now| now.set(START.elapsed().as_nanos() as u64 + 1));
}

// === impl Throttles ===

impl Throttles {
    pub fn new(config: &config::Throttle) -> Self {
        let limiter = |per_s: u32, burst: u32, keys: usize| {
            let quota = Quota::per_second(NonZeroU32::new(per_s)?).allow_burst(NonZeroU32::new(burst)?);
            let table = Arc::new(KeyTable::new(keys));
            Some(Throttle { limiter: RateLimiter::new(quota, SharedTable(table.clone()), RequestClock), table })
        };
        Throttles {
            all: limiter(config.all_per_s, config.all_burst, BUCKET),
            ip: limiter(config.ip_per_s, config.ip_burst, config.keys_max),
            user: limiter(config.user_per_s, config.user_burst, config.keys_max),
            device: limiter(config.device_per_s, config.device_burst, config.keys_max),
        }
    }

    /// Counts a request against a scope. `key` is a hash; one key stands for `Scope::All`.
    /// The clock is the one that [`begin_request`] read.
    pub fn check(&self, scope: Scope, key: u64) -> Result<(), Throttled> {
        let throttle = match scope {
            Scope::All => &self.all,
            Scope::Ip => &self.ip,
            Scope::User => &self.user,
            Scope::Device => &self.device,
        };
        let Some(throttle) = throttle else { return Ok(()) };
        throttle.limiter.check_key(&key).map_err(|not_until| {
            metrics().throttled(scope);
            let wait = not_until.wait_time_from(RequestClock.now());
            Throttled { scope, retry_after_ms: wait.as_millis() as u64 + 1 }
        })
    }

    /// Keys in the tables, for the metrics.
    pub fn report(&self) {
        let used = |throttle: &Option<Throttle>| {
            throttle.as_ref().map_or(0.0, |throttle| throttle.table.used.load(Ordering::Relaxed) as f64)
        };
        metrics().throttle_keys_ip.set(used(&self.ip));
        metrics().throttle_keys_user.set(used(&self.user));
        metrics().throttle_keys_device.set(used(&self.device));
    }
}

// === impl KeyTable ===

impl KeyTable {
    fn new(keys: usize) -> Self {
        let buckets = keys.div_ceil(BUCKET).next_power_of_two();
        let slots = (0..buckets * BUCKET).map(|_| Slot::default()).collect();
        KeyTable { slots, mask: buckets - 1, used: AtomicUsize::new(0) }
    }

    /// The key's slot; an empty one, or the one of the key that is forgiven first, becomes it.
    fn slot(&self, key: u64) -> &Slot {
        let first = (key as usize & self.mask) * BUCKET;
        let bucket = &self.slots[first..first + BUCKET];
        if let Some(slot) = bucket.iter().find(|slot| slot.key.load(Ordering::Acquire) == key) {
            return slot;
        }
        let mut oldest = &bucket[0];
        for slot in bucket {
            if slot.key.load(Ordering::Acquire) == 0 {
                oldest = slot;
                break;
            }
            if slot.arrival.load(Ordering::Relaxed) < oldest.arrival.load(Ordering::Relaxed) {
                oldest = slot;
            }
        }
        // Two threads that insert at once may both miss each other: the loser's count is lost.
        let forgotten = oldest.key.swap(key, Ordering::AcqRel);
        let due = oldest.arrival.swap(0, Ordering::AcqRel);
        if forgotten == 0 {
            self.used.fetch_add(1, Ordering::Relaxed);
        } else if due > NOW.with(Cell::get) {
            metrics().throttle_evictions.increment(1);
        }
        oldest
    }
}

impl StateStore for SharedTable {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // 0 marks an empty slot.
        let slot = self.0.slot((*key).max(1));
        let mut seen = slot.arrival.load(Ordering::Acquire);
        loop {
            let (result, next) = decide((seen != 0).then(|| Nanos::from(seen)))?;
            match slot.arrival.compare_exchange_weak(seen, next.as_u64(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(result),
                Err(now) => seen = now,
            }
        }
    }
}

// === impl RequestClock ===

impl Clock for RequestClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(NOW.with(Cell::get))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttles(keys: usize) -> Throttles {
        Throttles::new(&config::Throttle {
            all_per_s: 0,
            all_burst: 0,
            ip_per_s: 10,
            ip_burst: 3,
            user_per_s: 1,
            user_burst: 1,
            device_per_s: 0,
            device_burst: 0,
            keys_max: keys,
            device_required: false,
        })
    }

    fn at(ms: u64) {
        NOW.with(|now| now.set(ms * 1_000_000 + 1));
    }

    #[test]
    fn a_burst_then_the_rate_and_each_key_for_itself() {
        let throttles = throttles(1024);
        at(1000);
        for _ in 0..3 {
            assert_eq!(throttles.check(Scope::Ip, 7), Ok(()));
        }
        let refused = throttles.check(Scope::Ip, 7).unwrap_err();
        assert_eq!(refused.scope, Scope::Ip);
        assert!((1..=101).contains(&refused.retry_after_ms), "{refused:?}");
        assert_eq!(throttles.check(Scope::Ip, 8), Ok(()));
        at(1000 + refused.retry_after_ms);
        assert_eq!(throttles.check(Scope::Ip, 7), Ok(()));
        assert!(throttles.check(Scope::Ip, 7).is_err());
        for _ in 0..100 {
            assert_eq!(throttles.check(Scope::All, 0), Ok(()), "a rate of 0 is no throttle");
        }
    }

    #[test]
    fn a_flood_of_keys_takes_no_memory_and_the_table_says_how_full_it_is() {
        let throttles = throttles(1024);
        at(1000);
        let keys: u64 = if std::env::var("FAULTS").is_ok_and(|form| form == "full") { 10_000_000 } else { 100_000 };
        for key in 1..keys {
            let spread = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            assert_eq!(throttles.check(Scope::User, spread), Ok(()));
        }
        let table = &throttles.user.as_ref().unwrap().table;
        assert_eq!(table.slots.len(), 1024);
        assert_eq!(table.used.load(Ordering::Relaxed), 1024);
    }

    #[test]
    fn threads_share_one_count() {
        let throttles = throttles(1024);
        let granted = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    at(1000);
                    for _ in 0..1000 {
                        if throttles.check(Scope::Ip, 42).is_ok() {
                            granted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        // Threads that insert a new key at the same moment may each begin a count.
        let granted = granted.load(Ordering::Relaxed);
        assert!((3..=12).contains(&granted), "{granted}");
    }
}
