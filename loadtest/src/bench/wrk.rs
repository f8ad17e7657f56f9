//! wrk: the ceiling of a server over HTTP/1.1, the same for every party.
//!
//! It is a closed loop, so it says nothing of latency. Statuses are not counted one by one, which would cost
//! wrk a third of its speed: answers are 2xx, or they are not.

use std::time::Duration;

use super::stand::{Stand, find, root};

/// What wrk is told; scripts and environment as loadtest/README.md describes them.
pub struct Wrk<'a> {
    pub url: String,
    /// Of loadtest/wrk, without its ending.
    pub script: &'a str,
    pub env: Vec<(&'a str, String)>,
}

/// What it counted.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    pub answers: u64,
    /// Of these, with a status of 400 and more.
    pub refused: u64,
    pub took: Duration,
}

/// Ends wrk where the server hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn absent() -> Option<String> {
    find("wrk").err().map(|_| "wrk is not installed: scripts/install-load-tools".into())
}

// === impl Wrk ===

impl Wrk<'_> {
    pub async fn run(&self, stand: &Stand) -> Result<Count, String> {
        self.run_for(stand, stand.duration()).await
    }

    /// wrk counts in whole seconds.
    pub async fn run_for(&self, stand: &Stand, duration: Duration) -> Result<Count, String> {
        let seconds = duration.as_secs_f64().ceil().max(1.0);
        let mut command = tokio::process::Command::new(find("wrk")?);
        command
            .args(["-t2", &format!("-c{}", stand.settings.connections), &format!("-d{seconds}s"), "--timeout", "10s"])
            .arg("-s")
            .arg(root().join(format!("loadtest/wrk/{}.lua", self.script)))
            .arg(&self.url)
            .env("COUNT", "0")
            .env("TRUSTED_HEADER", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true);
        let output = tokio::time::timeout(duration + PATIENCE, command.output())
            .await
            .map_err(|_| "wrk does not end")?
            .map_err(|error| format!("wrk: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let count =
            parse(&text).ok_or_else(|| format!("wrk said: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
        match output.status.success() {
            true => Ok(count),
            false => Err(format!("wrk's script found it wrong: {}", text.lines().last().unwrap_or_default())),
        }
    }
}

// === impl Count ===

impl Count {
    pub fn granted(&self) -> u64 {
        self.answers - self.refused
    }
}

/// `claims.lua`'s line: answers, refusals, microseconds.
fn parse(text: &str) -> Option<Count> {
    let line = text.lines().find_map(|line| line.strip_prefix("answers: "))?;
    let numbers: Vec<u64> = line.split([',', ' ']).filter_map(|word| word.parse().ok()).collect();
    let [answers, refused, us] = numbers[..] else { return None };
    Some(Count { answers, refused, took: Duration::from_micros(us) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_line_is_read() {
        let count = parse("status\nanswers: 120, refused: 20, in us: 1000000\nmore\n").unwrap();
        assert_eq!((count.answers, count.refused, count.granted()), (120, 20, 100));
        assert_eq!(count.took, Duration::from_secs(1));
        assert!(parse("no line").is_none() && parse("answers: 120").is_none());
    }
}
