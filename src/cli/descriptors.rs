//! How many files and sockets the process may have open.
//!
//! Systems give 1,024 at first and allow far more on request: a gateway for 20,000 connections
//! asks.

/// Descriptors beside the listeners' connections: stores, lanes, files, with room to spare.
const OTHER: u64 = 512;

/// What two listeners of `connections_max` connections need.
pub fn needed(connections_max: usize) -> u64 {
    2 * connections_max as u64 + OTHER
}

/// The present limit, and how far it can be raised without privileges.
pub fn limits() -> (u64, u64) {
    let limit = read();
    (limit.rlim_cur, limit.rlim_max)
}

/// Raises the limit as far as it goes, and returns it.
pub fn raise() -> u64 {
    let mut limit = read();
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: setrlimit reads a struct that outlives the call.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    read().rlim_cur
}

fn read() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes into a struct that outlives the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit
}
