//! Processor time of a server with its children, and of the load generator.

use std::fs;
use std::time::Duration;

/// Processor time used so far. PostgreSQL's is its backends', ended ones too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub floodgate: Duration,
    pub postgres: Duration,
    /// This process and the children that it has waited for.
    pub generator: Duration,
}

/// Of `/proc/<pid>/stat`.
struct Stat {
    parent: u32,
    own: Duration,
    ended_children: Duration,
}

// === impl Cpu ===

impl Cpu {
    pub fn now(floodgate: u32, postgres: u32) -> Cpu {
        Cpu { floodgate: family(floodgate), postgres: family(postgres), generator: generator() }
    }

    pub fn since(&self, before: &Cpu) -> Cpu {
        Cpu {
            floodgate: self.floodgate.saturating_sub(before.floodgate),
            postgres: self.postgres.saturating_sub(before.postgres),
            generator: self.generator.saturating_sub(before.generator),
        }
    }
}

/// A process and its children.
fn family(pid: u32) -> Duration {
    let Ok(entries) = fs::read_dir("/proc") else { return Duration::ZERO };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let time = |number| {
        let stat = Stat::read(number)?;
        match number == pid {
            true => Some(stat.own + stat.ended_children),
            false => (stat.parent == pid).then_some(stat.own),
        }
    };
    numbers.filter_map(time).sum()
}

fn generator() -> Duration {
    let Some(stat) = Stat::read(std::process::id()) else { return Duration::ZERO };
    stat.own + stat.ended_children
}

// === impl Stat ===

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_whatever_the_process_calls_itself() {
        let line = "42 (a ) S 9 (b) S 7 1 1 0 -1 4194304 1 0 0 0 150 50 20 30 20 0 1 0 5 1 1 0";
        let stat = Stat::parse(line).unwrap();
        let tick = of_ticks(1);
        assert_eq!((stat.parent, stat.own, stat.ended_children), (7, tick * 200, tick * 50));
        assert!(Stat::parse("no stat").is_none());
    }
}
