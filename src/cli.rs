//! The command line: one file a command.
//!
//! Exit codes: 0 done, 1 it failed, 2 wrong usage or settings. Whatever goes wrong is a sentence on
//! standard error.
//!
//! # Layout
//! - [`serve`], [`demo`]: run the service
//! - [`migrate`], [`token`], [`config`], [`doctor`], [`recover`], [`reconcile`], [`ledger`], [`audit`]: run once and end
//! - [`logging`], [`signals`], [`descriptors`], [`out`]: what the commands share

pub mod audit;
pub mod config;
pub mod demo;
pub mod descriptors;
pub mod doctor;
pub mod ledger;
pub mod logging;
pub mod migrate;
pub mod out;
pub mod reconcile;
pub mod recover;
pub mod serve;
pub mod signals;
pub mod token;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::app::App;
use crate::config::{Config, ConfigError, Layers};
use crate::pg::{Pg, migrate as migrate_pg};

/// The gateway in front of a promotion's hottest second.
#[derive(Parser)]
#[command(name = "floodgate", version = crate::VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve claims, flush grants, work in the background
    Serve(serve::Serve),
    /// Everything in one: private Redis and PostgreSQL, a template on sale, a curl to copy
    Demo(demo::Demo),
    /// Bring the database's schema up to this binary's
    Migrate(migrate::Migrate),
    /// Print tokens for shoppers
    Token(token::Token),
    /// Print the settings in force, secrets hidden
    Config(config::Show),
    /// Check Redis, PostgreSQL and this machine
    Doctor(doctor::Doctor),
    /// Open a cell whose Redis is empty or has another history, from PostgreSQL's rows
    Recover(recover::Recover),
    /// Compare Redis, the grant queue and PostgreSQL, and mend what is safe
    Reconcile(reconcile::Reconcile),
    /// Count the ledger of coupons and money anew
    Ledger(ledger::Ledger),
    /// The audit log: verify it
    Audit(audit::Audit),
}

/// Where the settings come from, besides the environment.
#[derive(Args, Clone, Default)]
pub struct Source {
    /// A TOML file of settings (else FLOODGATE_CONFIG)
    #[arg(long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failure {
    /// The command line or the settings are wrong: exit code 2.
    Usage(String),
    /// It was tried and failed: exit code 1.
    Failed(String),
    /// All has been said already: exit code 1.
    Silent,
    /// It could not even be looked at: exit code 2.
    Unable(String),
}

/// Runs the command of this process' arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Serve(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Migrate(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Recover(command) => command.run(),
        Command::Reconcile(command) => command.run(),
        Command::Ledger(command) => command.run(),
        Command::Audit(command) => command.run(),
    };
    let (code, text) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Silent) => return ExitCode::from(1),
        Err(Failure::Failed(text)) => (1, text),
        Err(Failure::Usage(text) | Failure::Unable(text)) => (2, text),
    };
    for line in text.lines() {
        out::warn(format_args!("floodgate: {line}"));
    }
    ExitCode::from(code)
}

/// What a process shares, with settings that fit the installation.
pub async fn app(config: Config) -> Result<Arc<App>, String> {
    let pg = Pg::new(&config.postgres)?;
    let patience = crate::config::ms(config.postgres.start_wait_ms);
    pg.patiently(patience, || async { pg.own().await.map(drop) }).await.map_err(|fault| fault.to_string())?;
    let users = migrate_pg::check(&pg, &config).await?;
    App::new(config, users)
}

/// A runtime with a thread a core.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))
}

// === impl Source ===

impl Source {
    /// The settings, merged but not checked.
    fn layers(&self) -> Result<Layers, Failure> {
        let named = std::env::var_os("FLOODGATE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = self.file.clone().or(named);
        // A variable that is no UTF-8 can be none of ours.
        let env = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let env = env.map(|(name, value)| (name, value.to_string_lossy().into_owned()));
        Ok(Layers::read(file.as_deref(), env)?)
    }

    /// The settings, checked.
    fn config(&self) -> Result<Config, Failure> {
        Ok(self.layers()?.build()?)
    }
}

// === impl Failure ===

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Usage(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure::Failed(text)
    }
}
