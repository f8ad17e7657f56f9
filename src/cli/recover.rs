//! `floodgate recover`: opens a cell whose Redis is empty or has another history than PostgreSQL.
//!
//! For a person to decide, never for a process: grants that only the lost Redis knew are given up.

use clap::Args;

use super::{Failure, Source, logging, out, runtime, service};
use crate::grant::recover::recover;

#[derive(Args)]
pub struct Recover {
    /// Do it: without this, recover only says what it would mean
    #[arg(long)]
    yes: bool,
    /// Even where Redis' history is PostgreSQL's own and needs no recovery
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    source: Source,
}

const MEANING: &str = "\
recover makes Redis anew from PostgreSQL's rows and opens the cell under a new epoch.
Grants that were acknowledged by Redis alone, and that are not in PostgreSQL, are given up:
their codes answer claim_lost, and their serials may be granted again.
First make sure that the Redis which had them will not come back (a replica, a backup, a volume).
Then run it again with --yes.";

// === impl Recover ===

impl Recover {
    pub fn run(self) -> Result<(), Failure> {
        let config = self.source.config()?;
        if !self.yes {
            out::warn(MEANING);
            return Err(Failure::Silent);
        }
        logging::start(&config.log)?;
        runtime()?.block_on(async {
            let app = service::app(config).await?;
            let progress = |step: &str| out::say(step);
            let done = recover(&app.pg, &app.redis, app.cell, &app.config, self.force, &progress).await?;
            out::say(format_args!(
                "the cell is open under epoch {}: {} rows reapplied, {} grants of the other history set aside",
                done.opened.identity.epoch, done.opened.rows_reapplied, done.kept
            ));
            Ok(())
        })
    }
}
