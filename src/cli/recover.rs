//! `floodgate recover`: opens a cell whose Redis is empty or has another history than PostgreSQL.
//!
//! For a person to decide, never for a process: grants that only the lost Redis knew are given up.

use clap::Args;

use super::{Failure, Source, logging, out, runtime, service};

#[derive(Args)]
pub struct Recover {
    /// Do it: without this, recover only says what it would mean
    #[arg(long)]
    yes: bool,
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
            let done = service::recover(app).await?;
            out::say(done);
            Ok(())
        })
    }
}
