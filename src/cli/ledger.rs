//! `floodgate ledger check`: counts the ledger anew and names every difference.

use clap::{Args, Subcommand};

use super::{Failure, Source, logging, out, runtime};
use crate::domain::ids::TemplateId;
use crate::ledger::check::check;
use crate::pg::{Pg, migrate};

#[derive(Args)]
pub struct Ledger {
    #[command(subcommand)]
    command: LedgerCommand,
}

#[derive(Subcommand)]
enum LedgerCommand {
    /// Compare counters, coupons, operations, orders and settlement entries; exit code 1 on any difference
    Check(Check),
}

#[derive(Args)]
struct Check {
    /// Only what concerns this template
    #[arg(long, value_name = "ID", value_parser = template)]
    template: Option<TemplateId>,
    #[command(flatten)]
    source: Source,
}

// === impl Ledger ===

impl Ledger {
    pub fn run(self) -> Result<(), Failure> {
        let LedgerCommand::Check(command) = self.command;
        command.run()
    }
}

// === impl Check ===

impl Check {
    fn run(self) -> Result<(), Failure> {
        let config = self.source.config()?;
        logging::start(&config.log)?;
        runtime()?.block_on(async {
            let pg = Pg::new(&config.postgres)?;
            migrate::check(&pg, &config).await?;
            let mut client = pg.own().await.map_err(|fault| fault.to_string())?;
            let unhurried = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0";
            client.batch_execute(unhurried).await.map_err(|error| error.to_string())?;
            let done = check(&mut client, self.template, out::say).await;
            let checked = done.map_err(|fault| fault.to_string())?;
            if checked.differences > 0 {
                return Err(Failure::Failed(format!("{} differences", checked.differences)));
            }
            out::say(format_args!("the ledger balances: {} templates and their orders", checked.templates));
            Ok(())
        })
    }
}

fn template(text: &str) -> Result<TemplateId, String> {
    TemplateId::parse(text).ok_or_else(|| "must be a template's id, a positive whole number".to_owned())
}
