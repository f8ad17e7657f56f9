//! What a failed call means: the difference between "try again" and "nobody knows".

use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a call of a script has no answer.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Whether the script certainly did not run.
    pub executed: Executed,
    /// A bounded word for metrics: `connect`, `timeout`, `dropped`, or Redis' error code in lower case.
    pub kind: &'static str,
    /// For the log.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    No,
    Unknown,
}

// === impl Fault ===

impl Fault {
    /// The connection could not be made: nothing was sent.
    pub fn connect(detail: impl fmt::Display) -> Self {
        Fault { executed: Executed::No, kind: "connect", detail: detail.to_string() }
    }

    /// No answer in time.
    pub fn timeout() -> Self {
        Fault { executed: Executed::Unknown, kind: "timeout", detail: "no answer in time".into() }
    }

    /// Given up before anything was sent.
    pub fn not_sent() -> Self {
        Fault { executed: Executed::No, kind: "connect", detail: "no connection in time".into() }
    }

    /// An answer that is not in the script's contract: the script ran, what it did is unknown.
    pub fn reply(detail: impl Into<String>) -> Self {
        Fault { executed: Executed::Unknown, kind: "reply", detail: detail.into() }
    }

    /// The script refused to run here: the cell's identity does not match, with the script's word.
    pub fn refused(word: &str) -> Self {
        Fault { executed: Executed::No, kind: "refused", detail: format!("the cell refused: {word}") }
    }

    pub fn is_noscript(error: &RedisError) -> bool {
        matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoScript))
    }

    /// Reads an error of the client. Only what Redis checks before a script's first line is
    /// certainly not executed; a dropped connection or a time-out is unknown.
    pub fn of(error: &RedisError) -> Self {
        use ServerErrorKind as S;
        let (executed, kind) = match error.kind() {
            ErrorKind::Server(S::NoScript) => (Executed::No, "noscript"),
            ErrorKind::Server(S::BusyLoading) => (Executed::No, "loading"),
            ErrorKind::Server(S::ReadOnly) => (Executed::No, "readonly"),
            ErrorKind::Server(S::Moved) => (Executed::No, "moved"),
            ErrorKind::Server(S::Ask) => (Executed::No, "ask"),
            ErrorKind::Server(S::TryAgain) => (Executed::No, "tryagain"),
            ErrorKind::Server(S::ClusterDown) => (Executed::No, "clusterdown"),
            ErrorKind::Server(S::MasterDown) => (Executed::No, "masterdown"),
            ErrorKind::Server(S::NoPerm) => (Executed::No, "noperm"),
            ErrorKind::AuthenticationFailed => (Executed::No, "auth"),
            _ => match error.code() {
                Some("BUSY") => (Executed::No, "busy"),
                Some("OOM") => (Executed::No, "oom"),
                Some("MISCONF") => (Executed::No, "misconf"),
                Some("NOREPLICAS") => (Executed::No, "noreplicas"),
                Some("NOAUTH") => (Executed::No, "noauth"),
                Some(_) => (Executed::Unknown, "error"),
                None if error.is_timeout() => (Executed::Unknown, "timeout"),
                None if error.is_connection_refusal() => (Executed::No, "connect"),
                None => (Executed::Unknown, "dropped"),
            },
        };
        Fault { executed, kind, detail: error.to_string() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis {}: {}", self.kind, self.detail)
    }
}

impl std::error::Error for Fault {}
