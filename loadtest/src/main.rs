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
use floodgate_loadtest::link::Protocol;
use floodgate_loadtest::open;
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
    /// Claim as fast as answers come, ask again what is unknown, and write down every request and answer
    Claim(Claim),
    /// Claim at a constant rate, whether answers come or not, and tell latencies from the intended times
    Open(Open),
    /// Compare a journal with Redis and PostgreSQL; the exit status is 1 where they differ
    Check(Check),
}

/// Which claims are made, and where.
#[derive(Args)]
struct Shape {
    /// A gateway's public address, as http://127.0.0.1:8080; may be given again
    #[arg(long = "url", required = true, value_name = "URL")]
    urls: Vec<String>,
    /// A template that is on sale; may be given again
    #[arg(long = "template", required = true, value_name = "ID")]
    templates: Vec<u32>,
    /// How many users claim, named by --prefix and a number
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_000_000))]
    users: u32,
    #[arg(long, default_value = "u-")]
    prefix: String,
    /// Each claim by the next user, instead of by any
    #[arg(long)]
    in_turn: bool,
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
struct Claim {
    /// Claims in all; what is asked again because its outcome was unknown is not counted
    #[arg(long, default_value_t = 40_000)]
    requests: u64,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The journal, a file that must not exist yet
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

#[derive(Args)]
struct Open {
    /// Claims a second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// HTTP/2 without TLS instead of HTTP/1.1
    #[arg(long)]
    h2c: bool,
    /// Requests under way at once on one connection of HTTP/2
    #[arg(long, default_value_t = 64)]
    streams: usize,
    /// Threads of this client; one drives some ten thousand claims a second
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The journal, a file that must not exist yet. Claims whose outcome stayed unknown are then asked
    /// again at the end, so that `check` finds final answers
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
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
        Command::Open(command) => command.run().await,
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

impl Shape {
    /// The plan of so many claims, the gateways, and how requests say whose they are.
    fn read(self, claims: u64) -> Result<(Plan, Vec<String>, Identity), String> {
        let config = settings(self.source, &[])?;
        let identity = match config.auth.mode {
            AuthMode::Jwt => Identity::Tokens(config.auth),
            AuthMode::TrustedHeader => Identity::TrustedHeader,
        };
        let gateways = self.urls.iter().map(|url| address(url)).collect::<Result<_, _>>()?;
        let plan = Plan {
            seed: self.seed.unwrap_or_else(seed_of_now),
            claims,
            templates: self.templates,
            prefix: self.prefix,
            users: self.users,
            in_turn: self.in_turn,
            keys_per_user: self.keys_per_user,
            keyless: self.keyless,
            double_clicks: self.double_clicks,
            places: self.places,
        };
        println!("seed {}", plan.seed);
        Ok((plan, gateways, identity))
    }
}

impl Claim {
    async fn run(self) -> Result<ExitCode, String> {
        let (plan, gateways, identity) = self.shape.read(self.requests)?;
        let journal = Arc::new(Journal::to_file(&self.journal)?);
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

impl Open {
    async fn run(self) -> Result<ExitCode, String> {
        let (plan, gateways, identity) = self.shape.read(self.rate * self.seconds)?;
        let journal = self.journal.as_deref().map(Journal::to_file).transpose()?.map(Arc::new);
        let settings = open::Settings {
            gateways: gateways.clone(),
            protocol: if self.h2c { Protocol::H2c } else { Protocol::Http1 },
            connections: self.connections,
            streams: self.streams,
            rate: self.rate,
            identity: identity.clone(),
            request_timeout: Duration::from_secs(10),
            threads: self.threads,
        };
        let report = open::run(plan.clone(), settings, journal.clone()).await?;
        for (outcome, count) in &report.outcomes {
            println!("{count:>10} {outcome}");
        }
        let rate = report.claims as f64 / report.took.as_secs_f64();
        println!("{} claims in {:.2} s, {rate:.0} a second", report.claims, report.took.as_secs_f64());
        println!("{} went more than a millisecond late; their wait is in the latencies", report.late);
        let latencies = [("answers", &report.latency), ("granted", &report.granted), ("refused", &report.refused)];
        for (name, latency) in latencies.into_iter().filter(|(_, latency)| latency.count() > 0) {
            print!("{name:>10}");
            for (word, part) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
                print!("  {word} {:.3} ms", latency.at(part).as_secs_f64() * 1e3);
            }
            println!();
        }
        if let Some(journal) = journal.filter(|_| !report.unknown.is_empty()) {
            let count = report.unknown.len();
            println!("asking again for {count} claims whose outcome is unknown");
            let settings = Settings::new(gateways, self.connections, identity);
            let summary = client::settle(plan, report.unknown, settings, journal).finish().await?;
            println!("settled: {:?}", summary.outcomes);
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
            if *section == "redis" {
                layers.set("redis", "sentinels", Vec::<String>::new());
            }
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
