//! `floodgate-redemptions`: lock and confirm beside the same statements by pgbench, on private servers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use floodgate_loadtest::redemptions::{Settings, run};

/// Measure lock + confirm by HTTP beside the same statements bare; the exit status is 1 where the ratio is missed.
#[derive(Parser)]
#[command(name = "floodgate-redemptions", version = floodgate::VERSION)]
struct Cli {
    /// Of either side, and of the gateway's pool
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds of one side in one round
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// The gateway's redemption.checkouts_limit; else its default
    #[arg(long, value_name = "LIMIT")]
    checkouts_limit: Option<u32>,
    /// The least that HTTP may reach of the bare statements' rate
    #[arg(long, default_value_t = 0.6)]
    ratio: f64,
    /// Where the servers' data go; it is emptied before, and removed once all went well
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// Keeps all rounds in this file, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The gateway's binary; else the one beside this one
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    measure(Cli::parse()).await.unwrap_or_else(|sentence| {
        eprintln!("floodgate-redemptions: {sentence}");
        ExitCode::from(2)
    })
}

async fn measure(cli: Cli) -> Result<ExitCode, String> {
    let beside = || {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        Ok::<_, String>(own.with_file_name("floodgate"))
    };
    let settings = Settings {
        gateway: cli.gateway.map_or_else(beside, Ok)?,
        folder: cli.folder,
        rounds: cli.rounds.into(),
        seconds: cli.seconds,
        connections: cli.connections.into(),
        checkouts_limit: cli.checkouts_limit,
    };
    let report = run(&settings).await?;
    println!("{report}");
    if let Some(file) = &cli.out {
        report.write(file)?;
    }
    Ok(if report.ratio() < cli.ratio { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
