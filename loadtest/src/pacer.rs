//! Lets claims go at the times that an arrival rate gives them, to some ten microseconds.
//!
//! The runtime's own timers tick in milliseconds, which is what an answer takes. Here one kernel
//! timer a thread wakes the runtime when the next claim is due. Claims that are due wait for a free
//! place, and their waiting counts: time is told from when a claim was meant to go.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

/// The claims of one thread, in the order of their times.
pub struct Pacer {
    timer: AsyncFd<OwnedFd>,
    begun: Instant,
    rate: f64,
    claims: u64,
    /// A permit for each claim that is due and that nobody has taken.
    due: Semaphore,
    taken: Cell<u64>,
    stopped: Cell<bool>,
}

/// Claims that are due within so short a time go together: each wake-up costs the generator.
const STEP: Duration = Duration::from_micros(50);

// === impl Pacer ===

impl Pacer {
    /// `claims` claims at `rate` a second from `begun` on.
    pub fn new(begun: Instant, rate: f64, claims: u64) -> Result<Pacer, String> {
        // SAFETY: the call takes plain numbers; the descriptor it returns is nobody else's.
        let timer = unsafe {
            match libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) {
                -1 => return Err(format!("timer: {}", io::Error::last_os_error())),
                fd => OwnedFd::from_raw_fd(fd),
            }
        };
        // SAFETY: an OwnedFd keeps its descriptor, and the same one, for as long as it lives.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        let timer = timer.map_err(|error| format!("timer: {}", io::Error::from(error)))?;
        let (due, taken, stopped) = (Semaphore::new(0), Cell::new(0), Cell::new(false));
        Ok(Pacer { timer, begun, rate, claims, due, taken, stopped })
    }

    /// Releases every claim at its time; returns when the last is released.
    pub async fn run(&self) -> Result<(), String> {
        let mut released = 0;
        while released < self.claims && !self.stopped.get() {
            let now = self.begun.elapsed();
            let due = ((now.as_secs_f64() * self.rate) as u64 + 1).min(self.claims);
            if due > released {
                self.due.add_permits((due - released) as usize);
                released = due;
                continue;
            }
            let wait = self.offset(released).saturating_sub(now).max(STEP);
            self.sleep(wait).await.map_err(|error| format!("timer: {error}"))?;
        }
        // Whoever waits for a claim now hears that there is none, once the last is taken.
        self.due.add_permits(Semaphore::MAX_PERMITS / 2);
        Ok(())
    }

    /// The next claim that is due: its number and its time. `None`: there are no more.
    pub async fn next(&self) -> Option<(u64, Instant)> {
        self.due.acquire().await.expect("it is never closed").forget();
        let number = self.taken.get();
        if number >= self.claims || self.stopped.get() {
            return None;
        }
        self.taken.set(number + 1);
        Some((number, self.begun + self.offset(number)))
    }

    /// No further claim goes.
    pub fn stop(&self) {
        self.stopped.set(true);
    }

    fn offset(&self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.rate)
    }

    async fn sleep(&self, wait: Duration) -> io::Result<()> {
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()).max(1) };
        let setting = libc::itimerspec { it_interval: zero, it_value: value };
        let fd = self.timer.get_ref().as_raw_fd();
        // SAFETY: `setting` outlives the call, and the old setting is not asked for.
        if unsafe { libc::timerfd_settime(fd, 0, &setting, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0u8; 8];
            let read = ready.try_io(|timer| {
                // SAFETY: the buffer has the 8 bytes that a timer's descriptor gives.
                match unsafe { libc::read(timer.as_raw_fd(), expirations.as_mut_ptr().cast(), 8) } {
                    -1 => Err(io::Error::last_os_error()),
                    _ => Ok(()),
                }
            });
            if let Ok(done) = read {
                return done;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_claim_goes_once_and_none_before_its_time() {
        let begun = Instant::now();
        let pacer = Pacer::new(begun, 20_000.0, 200).unwrap();
        let take = async {
            let mut taken = Vec::new();
            while let Some((number, intended)) = pacer.next().await {
                assert!(intended <= Instant::now(), "claim {number} went before its time");
                taken.push((number, intended - begun));
            }
            taken
        };
        let (ran, taken) = tokio::join!(pacer.run(), take);
        ran.unwrap();
        assert_eq!(taken.len(), 200);
        for (at, (number, offset)) in taken.into_iter().enumerate() {
            assert_eq!(number, at as u64);
            assert_eq!(offset, Duration::from_secs_f64(number as f64 / 20_000.0));
        }
    }
}
