//! `floodgate demo`: everything in one, in a data folder.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Source, descriptors, logging, runtime};
use crate::demo::folder::{self, DataFolder};
use crate::demo::run::{self, Demo as Running};
use crate::telemetry;

#[derive(Args)]
pub struct Demo {
    /// Where everything is kept (else FLOODGATE_DATA, else ./data)
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Remove what an earlier demo has left in the folder
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    source: Source,
}

// === impl Demo ===

impl Demo {
    pub fn run(self) -> Result<(), Failure> {
        let named = std::env::var_os("FLOODGATE_DATA").filter(|path| !path.is_empty()).map(PathBuf::from);
        let path = self.data.or(named).unwrap_or_else(|| "data".into());
        let mut layers = self.source.layers()?;
        let data = DataFolder::take(&path)?;
        if self.reset {
            data.reset()?;
        }
        data.make_secrets()?;
        layers = folder::settings(data.path(), layers)?;
        if std::env::var_os("FLOODGATE_LOG_FILTER").is_none() {
            // What the demo has to say is on standard output.
            layers.set("log", "filter", "warn");
        }
        for key in ["ip_per_s", "user_per_s", "device_per_s"] {
            // The demo is there to be hammered, from one address and by one shopper too.
            if std::env::var_os(format!("FLOODGATE_THROTTLE_{}", key.to_uppercase())).is_none() {
                layers.set("throttle", key, 0);
            }
        }
        let config = layers.build()?;
        run::check_free(config.public.listen, "FLOODGATE_PUBLIC_LISTEN")?;
        run::check_free(config.internal.listen, "FLOODGATE_INTERNAL_LISTEN")?;
        logging::start(&config.log)?;
        telemetry::install()?;
        descriptors::raise();
        Ok(runtime()?.block_on(Running::new(data, config).run())?)
    }
}
