//! `floodgate serve`: the service on stores that exist.

use clap::{Args, ValueEnum};

use super::signals::Signals;
use super::{Failure, Source, descriptors, logging, runtime};
use crate::serve::{self, Roles};
use crate::telemetry;

#[derive(Args)]
pub struct Serve {
    /// What this process does, separated by commas (else FLOODGATE_ROLES, else all)
    #[arg(long, value_name = "ROLES", value_delimiter = ',')]
    roles: Vec<Role>,
    #[command(flatten)]
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Listen, and decide claims
    Gateway,
    /// Open the cell, and move grants into PostgreSQL
    Flusher,
    /// Keep Redis and PostgreSQL in step, and tidy up
    Worker,
}

// === impl Serve ===

impl Serve {
    pub fn run(self) -> Result<(), Failure> {
        let roles = self.roles()?;
        let config = self.source.config()?;
        logging::start(&config.log)?;
        telemetry::install()?;
        let descriptors = descriptors::raise();
        if roles.gateway && descriptors < descriptors::needed(config.http.connections_max) {
            tracing::warn!(
                descriptors,
                "fewer file descriptors than http.connections_max needs: see `floodgate doctor`"
            );
        }
        runtime()?.block_on(async {
            let mut signals = Signals::catch()?;
            let app = super::app(config).await?;
            let stop = async move {
                let signal = signals.next().await;
                tracing::info!(signal, "stopping");
            };
            Ok(serve::run(app, roles, stop).await?)
        })
    }

    fn roles(&self) -> Result<Roles, Failure> {
        let named = std::env::var("FLOODGATE_ROLES").ok().filter(|text| !text.trim().is_empty());
        let roles = match named {
            Some(text) if self.roles.is_empty() => parse(&text)?,
            _ => self.roles.clone(),
        };
        if roles.is_empty() {
            return Ok(Roles::ALL);
        }
        let has = |role| roles.contains(&role);
        Ok(Roles { gateway: has(Role::Gateway), flusher: has(Role::Flusher), worker: has(Role::Worker) })
    }
}

fn parse(text: &str) -> Result<Vec<Role>, Failure> {
    let words = text.split(',').map(str::trim);
    let roles = words.map(|word| Role::from_str(word, true).map_err(|_| word));
    roles.collect::<Result<_, _>>().map_err(|word| {
        Failure::Usage(format!("FLOODGATE_ROLES: {word} is no role; the roles are gateway, flusher and worker"))
    })
}
