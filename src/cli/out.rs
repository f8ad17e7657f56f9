//! Lines for people, on standard output and standard error.
//!
//! A reader that has gone away (`floodgate token --users 100000 | head`) ends the printing,
//! not the process in a panic.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Instant;

/// One line on standard output.
pub fn say(line: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// One line on standard error.
pub fn warn(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Says what is being done, does it, and says how long it took.
pub async fn step<T, E>(what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let started = Instant::now();
    let begin = || -> io::Result<()> {
        let mut out = io::stdout().lock();
        write!(out, "{what} ... ")?;
        out.flush()
    };
    let _ = begin();
    let done = work.await;
    match &done {
        Ok(_) => say(format_args!("{:.1} s", started.elapsed().as_secs_f64())),
        Err(_) => say("failed"),
    }
    done
}
