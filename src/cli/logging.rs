//! The log: text or JSON lines on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use super::Failure;
use crate::config::{Log, LogFormat};

/// Starts the log. `RUST_LOG` wins over the settings' filter.
pub fn start(log: &Log) -> Result<(), Failure> {
    let named = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let text = named.as_deref().unwrap_or(&log.filter);
    let filter = EnvFilter::builder()
        .parse(text)
        .map_err(|error| Failure::Usage(format!("the log filter {text:?} cannot be read: {error}")))?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    started.map_err(|error| Failure::Failed(format!("cannot start the log: {error}")))
}
