//! `floodgate config`: the settings in force, secrets hidden.

use clap::Args;

use super::{Failure, Source, out};

#[derive(Args)]
pub struct Show {
    #[command(flatten)]
    source: Source,
}

// === impl Show ===

impl Show {
    /// Prints first and checks then: whoever looks for a mistake wants to see it.
    pub fn run(self) -> Result<(), Failure> {
        let layers = self.source.layers()?;
        out::say(layers.print().trim_end());
        layers.build()?;
        Ok(())
    }
}
