//! The bench: Floodgate beside its peers, in one run on one machine.
//!
//! Every party is started privately, one after the other, round after round: what the machine does
//! meanwhile meets all of them. Goals are ratios within a round (docs/PERFORMANCE.md);
//! a run whose counts do not agree is void, and says so.
//!
//! # Layout
//! - [`stand`]: the folder, PostgreSQL, and where programs are found
//! - [`shop`]: Floodgate on stores of its own, with an operator's verbs
//! - [`wrk`], [`flood`]: the generators of ceilings, over HTTP/1.1 and h2c
//! - [`party`]: what is measured; [`parties`]: a file each
//! - [`table`]: the goals and what came of them
//! - [`report`], [`picture`]: text, JSON and SVG

pub mod flood;
pub mod parties;
pub mod party;
pub mod picture;
pub mod report;
pub mod servers;
pub mod shop;
pub mod slow;
pub mod stand;
pub mod table;
pub mod wrk;

use std::path::PathBuf;

use party::Results;
use stand::Stand;

/// What a run of the bench is told.
#[derive(Clone, Debug)]
pub struct Settings {
    pub rounds: usize,
    /// How long each party is measured in a round.
    pub seconds: f64,
    /// Connections of every generator over HTTP/1.1, and of redis-benchmark.
    pub connections: usize,
    /// Only parties whose name begins so; empty: all.
    pub only: Vec<String>,
    /// Short, to show that the bench works: the figures mean nothing.
    pub quick: bool,
    /// Where the servers' data go; it is emptied.
    pub folder: PathBuf,
    /// Where `bench.json` and `bench.svg` are written; none: nowhere.
    pub out: Option<PathBuf>,
}

/// Runs every round and reports. `Err`: a party could not be measured at all, or was void.
pub async fn run(settings: Settings) -> Result<(), String> {
    let stand = Stand::new(settings.clone()).await?;
    let parties = parties::all();
    let wanted =
        |name: &str| settings.only.is_empty() || settings.only.iter().any(|only| name.starts_with(only.as_str()));
    let mut results = Results::default();
    let mut present = Vec::new();
    for party in parties.iter().filter(|party| wanted(party.name())) {
        match party.absent(&stand) {
            Some(why) => {
                println!("absent: {}: {why}", party.name());
                results.absent(party.name(), why);
            }
            None => {
                results.expect(party.name(), party.what());
                present.push(party);
            }
        }
    }
    for round in 1..=settings.rounds {
        println!("round {round} of {}", settings.rounds);
        for party in present.iter().filter(|party| round <= party.rounds_max()) {
            match party.run(&stand, &results).await {
                Ok(sample) => {
                    println!("{}", report::line(party.name(), &sample));
                    results.add(party.name(), sample);
                }
                Err(why) => {
                    println!("{:18} FAILED: {why}", party.name());
                    results.fail(party.name(), why);
                }
            }
        }
    }
    let report = report::Report::new(&settings, results);
    println!("{}", report.text());
    if let Some(out) = &settings.out {
        report.write(out)?;
    }
    report.verdict()
}
