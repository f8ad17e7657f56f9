//! What a run of the bench came to: lines, a table, JSON.

use std::fmt::Write;
use std::path::Path;

use floodgate::VERSION;
use floodgate::domain::window::rfc3339;
use serde_json::{Value, json};

use super::Settings;
use super::party::{P50, P99, P999, PER_SECOND, Results, Sample, median};
use super::picture;
use super::table::{Better, Verdict, goals};

pub struct Report {
    settings: Settings,
    results: Results,
    verdicts: Vec<Verdict>,
    machine: Machine,
}

/// Where it ran.
struct Machine {
    cores: usize,
    processor: String,
    kernel: String,
    /// Runnable processes, a mean of the minute before the end: what else ran there shows here.
    load: String,
    at: String,
}

// === impl Report ===

impl Report {
    pub fn new(settings: &Settings, results: Results) -> Report {
        let verdicts = goals().iter().map(|goal| goal.judge(&results)).collect();
        Report { settings: settings.clone(), results, verdicts, machine: Machine::here() }
    }

    /// `Err`: something could not be measured, or a turn was void.
    pub fn verdict(&self) -> Result<(), String> {
        let voids: Vec<String> = self
            .results
            .samples
            .iter()
            .flat_map(|(name, _, samples)| {
                samples.iter().filter_map(move |sample| Some(format!("{name}: {}", sample.void.as_ref()?)))
            })
            .collect();
        match (voids.is_empty(), self.results.failed.first()) {
            (true, None) => Ok(()),
            (_, Some((name, why))) => Err(format!("{name} could not be measured: {why}")),
            (false, None) => Err(format!("void: {}", voids.join("; "))),
        }
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        let Machine { cores, processor, kernel, load, at } = &self.machine;
        let _ = writeln!(out, "\n{at}, {VERSION}, {cores} cores of {processor}, Linux {kernel}, load {load}");
        if self.settings.quick {
            let _ = writeln!(out, "A quick run shows that the bench works. Its figures mean nothing.");
        }
        let _ = writeln!(out, "\n{:52} {:>7} {:>9}  {:18} met", "goal", "goal", "median", "spread");
        for verdict in &self.verdicts {
            let _ = writeln!(out, "{}", verdict_line(verdict));
        }
        let _ = writeln!(out, "\n{:18} {:>10}  {:19} us of CPU a claim, and more", "party", "a second", "spread");
        for (name, what, samples) in &self.results.samples {
            let _ = writeln!(out, "{}\n{:18} {what}", party_line(name, samples), "");
        }
        for (name, why) in &self.results.absent {
            let _ = writeln!(out, "{name:18} absent: {why}");
        }
        out
    }

    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let cannot = |error: std::io::Error| format!("cannot write to {}: {error}", folder.display());
        std::fs::create_dir_all(folder).map_err(cannot)?;
        let json = serde_json::to_string_pretty(&self.json()).expect("plain data");
        std::fs::write(folder.join("bench.json"), json + "\n").map_err(cannot)?;
        let title = format!("{}, {} cores, {}", self.machine.at, self.machine.cores, VERSION);
        std::fs::write(folder.join("bench.svg"), picture::draw(&self.results, &title)).map_err(cannot)?;
        std::fs::write(folder.join("bench.txt"), self.text().trim_start()).map_err(cannot)
    }

    fn json(&self) -> Value {
        let Machine { cores, processor, kernel, load, at } = &self.machine;
        let goals: Vec<Value> = self
            .verdicts
            .iter()
            .map(|verdict| {
                let better = if verdict.better == Better::More { "more" } else { "less" };
                json!({"what": verdict.what, "goal": verdict.goal, "better": better, "median": verdict.median(),
                    "rounds": verdict.rounds, "met": verdict.met()})
            })
            .collect();
        let parties: Vec<Value> = self
            .results
            .samples
            .iter()
            .map(|(name, what, samples)| {
                let rounds = samples.iter().map(|sample| {
                    json!({"measures": sample.measures, "cpu_us_per_claim": sample.cpu_us, "void": sample.void})
                });
                json!({"name": name, "what": what, "rounds": rounds.collect::<Vec<_>>()})
            })
            .collect();
        json!({
            "at": at, "version": VERSION, "quick": self.settings.quick, "rounds": self.settings.rounds,
            "seconds": self.settings.seconds, "connections": self.settings.connections,
            "machine": {"cores": cores, "processor": processor, "kernel": kernel, "load": load},
            "goals": goals, "parties": parties,
            "absent": self.results.absent.iter().map(|(name, why)| json!({"name": name, "why": why})).collect::<Vec<_>>(),
        })
    }
}

// === impl Machine ===

impl Machine {
    fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: processor.unwrap_or_else(|| "an unnamed processor".into()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            at: rfc3339(chrono_tz::Tz::UTC, floodgate::clock::now_ms()),
        }
    }
}

/// One turn, as it ends.
pub fn line(name: &str, sample: &Sample) -> String {
    party_line(name, std::slice::from_ref(sample))
}

/// A party's turns: rate, spread, and the median of everything else.
fn party_line(name: &str, samples: &[Sample]) -> String {
    let good: Vec<&Sample> = samples.iter().filter(|sample| sample.void.is_none()).collect();
    let of = |measure: &str| -> Vec<f64> {
        good.iter().filter_map(|sample| sample.measures.get(measure).copied()).collect()
    };
    let rates = of(PER_SECOND);
    let mut line = format!("{name:18} {:>10}  {:19}", number(median(&rates)), spread(&rates));
    let mut processes: Vec<&str> = good.iter().flat_map(|sample| sample.cpu_us.keys().copied()).collect();
    processes.sort_unstable();
    processes.dedup();
    for process in processes {
        let times: Vec<f64> = good.iter().filter_map(|sample| sample.cpu_us.get(process).copied()).collect();
        let _ = write!(line, " {process} {:.1}", median(&times).unwrap_or_default());
    }
    let mut measures: Vec<&str> = good.iter().flat_map(|sample| sample.measures.keys().copied()).collect();
    measures.sort_unstable();
    measures.dedup();
    for measure in measures.into_iter().filter(|measure| *measure != PER_SECOND) {
        let _ = write!(line, "; {measure} {}", number(median(&of(measure))));
    }
    for void in samples.iter().filter_map(|sample| sample.void.as_ref()) {
        let _ = write!(line, "; VOID: {void}");
    }
    line
}

fn verdict_line(verdict: &Verdict) -> String {
    let sign = if verdict.better == Better::More { ">=" } else { "<=" };
    let met = match verdict.met() {
        None => "not measured",
        Some(true) => "yes",
        Some(false) => "NO",
    };
    let goal = format!("{sign}{}", verdict.goal);
    let (median, spread) = (number(verdict.median()), spread(&verdict.rounds));
    format!("{:52} {goal:>7} {median:>9}  {spread:18} {met}", verdict.what)
}

/// Three digits that matter.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn spread(values: &[f64]) -> String {
    let lowest = values.iter().copied().min_by(f64::total_cmp);
    let highest = values.iter().copied().max_by(f64::total_cmp);
    match (lowest, highest) {
        (Some(low), Some(high)) => format!("{} .. {}", number(Some(low)), number(Some(high))),
        _ => String::new(),
    }
}

/// Measures that the picture shows, too.
pub const LATENCIES: [&str; 3] = [P50, P99, P999];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_the_middle_and_what_was_void() {
        let rate = |rate: f64| Sample::default().with(PER_SECOND, rate).with("batch_claims", 31.25);
        let line = party_line("x", &[rate(100.0), rate(300.0), rate(900.0), rate(9.0).void("they differ")]);
        assert!(line.contains(" 300 ") && line.contains("100 .. 900"), "{line}");
        assert!(line.contains("batch_claims 31.2") && line.contains("VOID: they differ"), "{line}");
    }
}
