//! `floodgate audit verify`: whether the audit log is what was written.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, Source, app, out, runtime};
use crate::audit::seal::ChainKey;
use crate::audit::verify::verify;

#[derive(Args)]
pub struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tell flipped, deleted and reordered records and a cut tail; exit code 1 if there is any
    Verify(Verify),
}

#[derive(Args)]
struct Verify {
    /// A file of anchors, each process' own (else audit.anchor_file)
    #[arg(long = "anchor", value_name = "FILE")]
    anchors: Vec<PathBuf>,
    #[command(flatten)]
    source: Source,
}

// === impl Audit ===

impl Audit {
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Verify(command) => command.run(),
        }
    }
}

// === impl Verify ===

impl Verify {
    fn run(self) -> Result<(), Failure> {
        let config = self.source.config()?;
        let configured = Some(config.audit.anchor_file.clone()).filter(|path| !path.as_os_str().is_empty());
        let files = if self.anchors.is_empty() { configured.into_iter().collect() } else { self.anchors };
        let report = runtime()?.block_on(async {
            // For a key that is not this deployment's, all would be flipped.
            let app = app(config).await?;
            verify(&app.pg, &ChainKey::new(&app.code_key), &files).await
        })?;
        for finding in &report.findings {
            out::say(finding);
        }
        if report.more > 0 {
            out::say(format_args!("and {} more", report.more));
        }
        let anchors = match (files.len(), report.anchors) {
            (0, _) => "no anchors: a tail cut from log, chain and head would not show".to_owned(),
            (_, anchors) => format!("{anchors} anchors compared"),
        };
        if report.strange_lines > 0 {
            out::warn(format_args!("{} lines of the anchor files are no anchors", report.strange_lines));
        }
        out::say(format_args!("{} positions verified, the last is {}; {anchors}", report.positions, report.last));
        if report.findings.is_empty() {
            return Ok(());
        }
        let all = report.findings.len() as u64 + report.more;
        Err(Failure::Failed(format!("the audit log is not what was written: {all} findings")))
    }
}
