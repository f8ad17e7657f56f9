//! `floodgate-bench`: Floodgate beside its peers, and the peers that are written in Rust.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use floodgate_loadtest::bench::{self, Settings, servers};
use floodgate_loadtest::link::Protocol;

/// Floodgate beside its peers, in one run on one machine. `make bench` builds and runs it.
#[derive(Parser)]
#[command(name = "floodgate-bench", version = floodgate::VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start every party in turn, measure, and print the table of goals
    Run(Run),
    /// The bare server that everything is compared with
    ServeBare(ServeBare),
    /// A gateway that sends one EVALSHA a claim
    ServeNaive(ServeNaive),
}

#[derive(Args)]
struct Run {
    /// How often every party has its turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a turn is measured
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Of wrk, redis-benchmark and the open loop
    #[arg(long, default_value_t = 256)]
    connections: usize,
    /// Only parties whose name begins so; may be given again
    #[arg(long = "only", value_name = "PARTY")]
    only: Vec<String>,
    /// One short round, to show that the bench works: its figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Where the servers keep their data; it is emptied
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Write bench.json, bench.svg and bench.txt there
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct ServeBare {
    #[arg(long)]
    listen: SocketAddr,
    /// HTTP/2 without TLS instead of HTTP/1.1
    #[arg(long)]
    h2c: bool,
}

#[derive(Args)]
struct ServeNaive {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    redis: String,
    /// Hash of the plain script, which Redis must hold
    #[arg(long)]
    sha: String,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(command) => command.run(),
        Command::ServeBare(command) => {
            servers::bare(command.listen, if command.h2c { Protocol::H2c } else { Protocol::Http1 })
        }
        Command::ServeNaive(command) => servers::naive(command.listen, command.redis, command.sha),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("floodgate-bench: {sentence}");
            ExitCode::FAILURE
        }
    }
}

// === impl Run ===

impl Run {
    fn run(self) -> Result<(), String> {
        let folder = || std::env::temp_dir().join(format!("floodgate-bench-{}", std::process::id()));
        let given = self.folder.is_some();
        let folder = self.folder.unwrap_or_else(folder);
        let settings = Settings {
            rounds: if self.quick { 1 } else { self.rounds.max(1) },
            seconds: if self.quick { 1.0 } else { self.seconds.max(1.0) },
            // A hot row lets hardly one of many through in a second.
            connections: if self.quick { self.connections.clamp(1, 32) } else { self.connections.max(1) },
            only: self.only,
            quick: self.quick,
            folder: folder.clone(),
            out: self.out,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let done = runtime.map_err(|error| format!("runtime: {error}"))?.block_on(bench::run(settings));
        if !given {
            let _ = std::fs::remove_dir_all(folder);
        }
        done
    }
}
