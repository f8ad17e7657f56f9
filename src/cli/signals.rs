//! When the operating system asks the process to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal is gone).
pub struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
}

// === impl Signals ===

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    pub fn catch() -> Result<Signals, String> {
        let caught = |kind| signal(kind).map_err(|error| format!("cannot catch signals: {error}"));
        Ok(Signals {
            int: caught(SignalKind::interrupt())?,
            term: caught(SignalKind::terminate())?,
            hup: caught(SignalKind::hangup())?,
        })
    }

    /// Waits for the next of them, and names it.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.int.recv() => "SIGINT",
            _ = self.term.recv() => "SIGTERM",
            _ = self.hup.recv() => "SIGHUP",
        }
    }
}
