//! `floodgate-reads`: reads at the size of a year of sales, on private servers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use floodgate::demo::redis_server::Fsync;
use floodgate_loadtest::scale::wallet::{Settings, measure};
use floodgate_loadtest::scale::{Scale, plans, recover};

/// As in the product: what is measured here runs in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Reads at the size of a year of sales.
#[derive(Parser)]
#[command(name = "floodgate-reads", version = floodgate::VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Explain every read statement; the exit status is 1 where one scans a big table or touches too much
    Explain(Explain),
    /// Measure a wallet page by HTTP beside its bare statement; the exit status is 1 where the ratio is missed
    Wallet(Wallet),
    /// Give an empty Redis back from PostgreSQL, beside COPY out of the table; the exit status is 1 where the ratio is
    /// missed
    Recover(Recover),
}

#[derive(Args)]
struct Explain {
    /// Keeps all plans in this file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    #[command(flatten)]
    data: Data,
}

#[derive(Args)]
struct Wallet {
    /// Clients at once
    #[arg(long, default_value_t = 8)]
    clients: usize,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Seconds of one side in one round
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// What the p99 by HTTP may be of the bare statement's
    #[arg(long, default_value_t = 3.0)]
    ratio: f64,
    /// The gateway's binary; else the one beside this one
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
    #[command(flatten)]
    data: Data,
}

#[derive(Args)]
struct Recover {
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// What the recovery's rows a second must be of COPY's, in the median round
    #[arg(long, default_value_t = 0.5)]
    ratio: f64,
    /// Redis' appendfsync: always, else everysec
    #[arg(long)]
    always: bool,
    /// Compare what was given back with PostgreSQL, too, and find and mend what was taken out
    #[arg(long)]
    compare: bool,
    #[command(flatten)]
    data: Data,
}

/// The coupons that are read.
#[derive(Args)]
struct Data {
    /// Where they are made, and found again by the next run
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(i64).range(1_000..=1_000_000_000))]
    rows: i64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Explain(command) => command.run().await,
        Command::Wallet(command) => command.run().await,
        Command::Recover(command) => command.run().await,
    };
    done.unwrap_or_else(|sentence| {
        eprintln!("floodgate-reads: {sentence}");
        ExitCode::from(2)
    })
}

impl Data {
    async fn open(&self) -> Result<Scale, String> {
        eprintln!("{} coupons in {}: made unless they are there", self.rows, self.folder.display());
        Scale::open(&self.folder.join("postgres"), self.rows).await
    }
}

impl Explain {
    async fn run(self) -> Result<ExitCode, String> {
        let scale = self.data.open().await?;
        let found = plans::explain(&scale).await?;
        println!("| statement | case | plan | reached by | rows | buffers | ms |\n|---|---|---|---|---|---|---|");
        found.iter().for_each(|one| println!("{one}"));
        if let Some(file) = self.save {
            let text = plans::text(&scale, &found);
            std::fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        }
        let wrongs = plans::wrongs(&found);
        wrongs.iter().for_each(|wrong| println!("\n{wrong}"));
        Ok(if wrongs.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Recover {
    async fn run(self) -> Result<ExitCode, String> {
        let scale = self.data.open().await?;
        let fsync = if self.always { Fsync::Always } else { Fsync::Everysec };
        let rounds = recover::measure(&scale, &self.data.folder, self.rounds as usize, fsync, self.compare).await?;
        println!("| rows | COPY s | rows/s | recover s | rows/s | ratio | Redis MiB | compare s | find and mend s |");
        println!("|---|---|---|---|---|---|---|---|---|");
        rounds.iter().for_each(|round| println!("{round}"));
        let mut ratios: Vec<f64> = rounds.iter().map(recover::Round::ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ratios.len() / 2];
        println!("the recovery runs at {median:.2} of COPY's speed, median of {} rounds", rounds.len());
        Ok(if median >= self.ratio { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Wallet {
    async fn run(self) -> Result<ExitCode, String> {
        let scale = self.data.open().await?;
        let beside = || {
            let own = std::env::current_exe().map_err(|error| error.to_string())?;
            Ok::<_, String>(own.with_file_name("floodgate"))
        };
        let gateway = self.gateway.map_or_else(beside, Ok)?;
        let settings = Settings { clients: self.clients, rounds: self.rounds as usize, seconds: self.seconds };
        let measured = measure(&scale, &self.data.folder, &gateway, settings).await?;
        println!("{} clients, {} rounds of {} s a side", self.clients, self.rounds, self.seconds);
        println!("| page | bare/s | p50 ms | p99 ms | HTTP/s | p50 ms | p99 ms | p50 ratio | p99 ratio |");
        println!("|---|---|---|---|---|---|---|---|---|");
        measured.iter().for_each(|one| println!("{one}"));
        let missed = measured.iter().any(|one| one.p99_ratio() > self.ratio);
        Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
