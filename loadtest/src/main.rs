//! `floodgate-load`: claims on running gateways, journalled, and the check of a journal.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use floodgate::config::{AuthMode, Config, ConfigError, Layers};
use floodgate::demo::folder;
use floodgate_loadtest::check::{Checker, Difference};
use floodgate_loadtest::client::{self, Identity, Settings};
use floodgate_loadtest::journal::{Journal, Record};
use floodgate_loadtest::plan::{Plan, seed_of_now};

/// Load on Floodgate, journalled, and the check of the journal.
#[derive(Parser)]
#[command(name = "floodgate-load", version = floodgate::VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Claim, and write down every request and answer
    Claim(Claim),
    /// Compare a journal with Redis and PostgreSQL; the exit status is 1 where they differ
    Check(Check),
}

#[derive(Args)]
struct Claim {
    /// A gateway's public address, as http://127.0.0.1:8080; may be given again
    #[arg(long = "url", required = true, value_name = "URL")]
    urls: Vec<String>,
    /// A template that is on sale; may be given again
    #[arg(long = "template", required = true, value_name = "ID")]
    templates: Vec<u32>,
    /// How many users claim, named by --prefix and a number
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_000_000))]
    users: u32,
    /// Claims in all; what is asked again because its outcome was unknown is not counted
    #[arg(long, default_value_t = 40_000)]
    requests: u64,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The journal, a file that must not exist yet
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
    #[arg(long, default_value = "u-")]
    prefix: String,
    /// Claim keys that a user has for a template: with 1, whoever claims again gets a replay
    #[arg(long, default_value_t = 1)]
    keys_per_user: u32,
    /// Of 1000 claims, how many bring no claim key
    #[arg(long, default_value_t = 0)]
    keyless: u32,
    /// Of 1000 claims, how many are sent twice at the same moment
    #[arg(long, default_value_t = 10)]
    double_clicks: u32,
    /// An address (X-Forwarded-For) and a device for each user
    #[arg(long)]
    places: bool,
    /// Repeats the claims of a run
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    source: Source,
}

#[derive(Args)]
struct Check {
    /// A journal; given again where several clients claimed the same templates
    #[arg(long = "journal", required = true, value_name = "FILE")]
    journals: Vec<PathBuf>,
    /// Instead of the settings' redis.url
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Instead of the settings' postgres.url
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// How many seconds the queue may take to drain
    #[arg(long, default_value_t = 30)]
    wait: u64,
    #[command(flatten)]
    source: Source,
}

/// Where the gateways' settings are.
#[derive(Args)]
struct Source {
    /// The gateways' settings file; FLOODGATE_* variables lay over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder of a `floodgate demo`, whose secrets are taken
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

/// Differences that are printed one by one.
const SHOWN_MAX: usize = 100;

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Claim(command) => command.run().await,
        Command::Check(command) => command.run().await,
    };
    match done {
        Ok(code) => code,
        Err(sentence) => {
            eprintln!("floodgate-load: {sentence}");
            ExitCode::from(2)
        }
    }
}

impl Claim {
    async fn run(self) -> Result<ExitCode, String> {
        let config = settings(self.source, &[])?;
        let identity = match config.auth.mode {
            AuthMode::Jwt => Identity::Tokens(config.auth),
            AuthMode::TrustedHeader => Identity::TrustedHeader,
        };
        let gateways = self.urls.iter().map(|url| address(url)).collect::<Result<_, _>>()?;
        let journal = Arc::new(Journal::to_file(&self.journal)?);
        let plan = Plan {
            seed: self.seed.unwrap_or_else(seed_of_now),
            claims: self.requests,
            templates: self.templates,
            prefix: self.prefix,
            users: self.users,
            keys_per_user: self.keys_per_user,
            keyless: self.keyless,
            double_clicks: self.double_clicks,
            places: self.places,
        };
        println!("seed {}", plan.seed);
        let load = client::start(plan, Settings::new(gateways, self.connections, identity), journal);
        let summary = load.finish().await?;
        for (outcome, count) in &summary.outcomes {
            println!("{count:>10} {outcome}");
        }
        let (took, requests) = (summary.took.as_secs_f64(), summary.requests);
        println!("{requests} requests in {took:.1} s, {:.0} claims decided a second", summary.rate());
        if summary.given_up + summary.lost_keyless > 0 {
            println!("{} claims got no definite answer", summary.given_up + summary.lost_keyless);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Check {
    async fn run(self) -> Result<ExitCode, String> {
        let config = settings(self.source, &[("redis", self.redis), ("postgres", self.postgres)])?;
        let mut record = Record::default();
        for journal in &self.journals {
            let Record { exchanges, orphans } = Record::read(journal)?;
            record.exchanges.extend(exchanges);
            record.orphans.extend(orphans);
        }
        let checker = Checker::new(&config).await?;
        let found = checker.check(&record, Duration::from_secs(self.wait)).await?;
        let requests = record.exchanges.len();
        if found.is_empty() {
            println!("{requests} requests: journal, Redis and PostgreSQL agree");
            return Ok(ExitCode::SUCCESS);
        }
        print(&found);
        println!("{requests} requests, {} differences", found.len());
        Ok(ExitCode::FAILURE)
    }
}

fn print(found: &[Difference]) {
    for difference in found.iter().take(SHOWN_MAX) {
        println!("{difference}");
    }
    if found.len() > SHOWN_MAX {
        println!("and {} more", found.len() - SHOWN_MAX);
    }
}

fn settings(source: Source, urls: &[(&str, Option<String>)]) -> Result<Config, String> {
    let sentences = |error: ConfigError| error.0.join("\n");
    let mut layers = Layers::read(source.config.as_deref(), std::env::vars()).map_err(sentences)?;
    if let Some(data) = &source.data {
        layers = folder::settings(data, layers)?;
    }
    for (section, url) in urls {
        if let Some(url) = url {
            layers.set(section, "url", url.as_str());
        }
    }
    layers.build().map_err(sentences)
}

/// `host:port` of a gateway's URL.
fn address(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url}: write http://host:port"))?;
    let host = rest.trim_end_matches('/');
    if host.is_empty() || host.contains('/') {
        return Err(format!("{url}: write http://host:port"));
    }
    Ok(if host.contains(':') { host.to_owned() } else { format!("{host}:80") })
}
