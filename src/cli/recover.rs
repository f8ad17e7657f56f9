//! `floodgate recover`: opens a cell whose Redis is empty or has another history than PostgreSQL.
//!
//! For a person to decide, never for a process: grants that only the lost Redis knew are given up.

use clap::Args;

use super::{Failure, Source, app, logging, out, runtime};
use crate::grant::recover::recover;

#[derive(Args)]
pub struct Recover {
    /// Do it: without this, recover only says what it would mean
    #[arg(long)]
    yes: bool,
    /// Wipe a Redis, too, whose history is the one that PostgreSQL knows
    #[arg(long, requires = "yes")]
    force: bool,
    #[command(flatten)]
    source: Source,
}

const MEANING: &str = "\
recover wipes the cell in Redis, makes it anew from PostgreSQL's rows, and opens it under a new epoch.
Grants that Redis alone acknowledged and lost are given up: their codes answer claim_lost. What Redis
still has and PostgreSQL has not is kept in the table set_aside.
First make sure that a Redis with more (a replica, a backup, a volume) is not to be had.
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
            let app = app(config).await?;
            let progress = |sentence: &str| out::say(sentence);
            let done = recover(&app.pg, &app.redis, app.cell, &app.config, self.force, &progress).await?;
            out::say(format_args!(
                "the cell is open under epoch {}: {} rows given back, {} grants kept in set_aside",
                done.opened.identity.epoch, done.opened.rows_reapplied, done.kept
            ));
            Ok(())
        })
    }
}
