//! What a party used: processor time by process, and what Redis counted.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

/// Processor time of some processes and their children, from [`Meter::start`] on.
pub struct Meter {
    begun: Instant,
    processes: Vec<(&'static str, u32, Duration)>,
    generators: Duration,
}

/// What was used in that time.
#[derive(Clone, Debug, Default)]
pub struct Used {
    pub took: Duration,
    /// By process, and `generator`: the bench itself and those of its children that have ended since.
    pub cpu: BTreeMap<&'static str, Duration>,
}

/// Redis' own counts at one moment.
#[derive(Clone, Debug, Default)]
pub struct RedisCounts {
    /// EVALSHA calls.
    pub scripts: f64,
    /// Commands, those inside of scripts too.
    pub commands: f64,
    pub bytes_in: f64,
    pub bytes_out: f64,
    /// Bytes that the keys and their values take, without clients and buffers.
    pub dataset: f64,
}

// === impl Meter ===

impl Meter {
    pub fn start(processes: &[(&'static str, u32)]) -> Meter {
        let processes = processes.iter().map(|(name, pid)| (*name, *pid, family_cpu(*pid))).collect();
        Meter { begun: Instant::now(), processes, generators: generators_cpu() }
    }

    pub fn stop(&self) -> Used {
        let mut cpu: BTreeMap<&'static str, Duration> = BTreeMap::new();
        for (name, pid, before) in &self.processes {
            *cpu.entry(name).or_default() += family_cpu(*pid).saturating_sub(*before);
        }
        cpu.insert("generator", generators_cpu().saturating_sub(self.generators));
        Used { took: self.begun.elapsed(), cpu }
    }
}

/// A process and its children: PostgreSQL works in children.
fn family_cpu(pid: u32) -> Duration {
    let mut total = Duration::ZERO;
    let Ok(entries) = fs::read_dir("/proc") else { return total };
    for entry in entries.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Some(stat) = Stat::read(number) else { continue };
        if number == pid {
            total += stat.own + stat.ended_children;
        } else if stat.parent == pid {
            total += stat.own;
        }
    }
    total
}

/// Of `/proc/<pid>/stat`.
struct Stat {
    parent: u32,
    own: Duration,
    ended_children: Duration,
}

impl Stat {
    fn read(pid: u32) -> Option<Stat> {
        Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name, in parentheses, may hold anything: fields are counted from its end.
    fn parse(text: &str) -> Option<Stat> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Stat {
            parent: fields.get(1)?.parse().ok()?,
            own: of_ticks(ticks(11)? + ticks(12)?),
            ended_children: of_ticks(ticks(13)? + ticks(14)?),
        })
    }
}

fn of_ticks(ticks: u64) -> Duration {
    // SAFETY: sysconf takes a plain number.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Duration::from_millis(ticks * 1000 / per_second)
}

/// Of this process, which has generators of its own, and of children that it has waited for: wrk,
/// redis-benchmark, pgbench.
fn generators_cpu() -> Duration {
    let usage = |who| {
        // SAFETY: an all-zero rusage is a valid one, and the call fills it.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(who, &mut usage);
            usage
        };
        let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
        of(usage.ru_utime) + of(usage.ru_stime)
    };
    usage(libc::RUSAGE_SELF) + usage(libc::RUSAGE_CHILDREN)
}

/// Resident memory of a process in bytes.
pub fn resident(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? * 1024.0)
}

// === impl RedisCounts ===

impl RedisCounts {
    pub async fn read(connection: &mut MultiplexedConnection) -> Result<RedisCounts, String> {
        let text: Result<String, _> = redis::cmd("INFO").arg("everything").query_async(connection).await;
        let text = text.map_err(|error| format!("INFO: {error}"))?;
        Ok(RedisCounts::parse(&text))
    }

    fn parse(text: &str) -> RedisCounts {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or(0.0)
        };
        let calls = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        RedisCounts {
            scripts: calls.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0.0),
            commands: field("total_commands_processed"),
            bytes_in: field("total_net_input_bytes"),
            bytes_out: field("total_net_output_bytes"),
            dataset: field("used_memory_dataset"),
        }
    }

    /// What was counted since `before`; the dataset's growth.
    pub fn since(&self, before: &RedisCounts) -> RedisCounts {
        RedisCounts {
            scripts: self.scripts - before.scripts,
            commands: self.commands - before.commands,
            bytes_in: self.bytes_in - before.bytes_in,
            bytes_out: self.bytes_out - before.bytes_out,
            dataset: self.dataset - before.dataset,
        }
    }
}

/// A connection for questions, not for load.
pub async fn redis(url: &str) -> Result<MultiplexedConnection, String> {
    let client = redis::Client::open(url).map_err(|error| format!("Redis: {error}"))?;
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&patient).await;
    connection.map_err(|error| format!("Redis: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_whatever_the_process_calls_itself() {
        let line = "42 (a ) S 9 (b) S 7 1 1 0 -1 4194304 1 0 0 0 150 50 20 30 20 0 1 0 5 1 1 0";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat.parent, 7);
        let tick = of_ticks(1);
        assert_eq!((stat.own, stat.ended_children), (tick * 200, tick * 50));
        assert!(Stat::parse("no stat").is_none());
    }

    #[test]
    fn redis_counts_are_read_by_name() {
        let text = "total_commands_processed:12\r\nused_memory_dataset:900\r\ncmdstat_evalsha:calls=3,usec=9\r\n";
        let counts = RedisCounts::parse(text);
        assert_eq!((counts.commands, counts.dataset, counts.scripts), (12.0, 900.0, 3.0));
    }
}
