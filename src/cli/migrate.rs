//! `floodgate migrate`: the schema, and what is fixed when a deployment is made.

use clap::Args;

use super::{Failure, Source, out, runtime};
use crate::pg::{Pg, migrate};

#[derive(Args)]
pub struct Migrate {
    #[command(flatten)]
    source: Source,
}

// === impl Migrate ===

impl Migrate {
    pub fn run(self) -> Result<(), Failure> {
        let config = self.source.config()?;
        let applied = runtime()?.block_on(async { migrate::migrate(&Pg::new(&config.postgres)?, &config).await })?;
        for name in &applied {
            out::say(format_args!("applied {name}"));
        }
        out::say(format_args!("the schema is at version {}", migrate::known_version()));
        Ok(())
    }
}
