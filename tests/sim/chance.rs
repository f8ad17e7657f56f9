//! All chance of a simulation, from one seed; and the trace that shows that nothing else was random.

use std::fmt::{self, Write};

/// SplitMix64: a few instructions, the same on every machine.
pub struct Chance(u64);

/// What happened, as a hash, and as lines where somebody wants to read them.
pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
    pub steps: u64,
}

/// FNV-1a over whatever is written.
struct Hasher(u64);

// === impl Chance ===

impl Chance {
    pub fn new(seed: u64) -> Self {
        Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `below`, which is not 0, exclusive.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    /// From `low` to `high`, inclusive.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `per_mille` times in a thousand.
    pub fn per_mille(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

// === impl Trace ===

impl Trace {
    pub fn new(keep_lines: bool) -> Self {
        Trace { hash: 0xCBF2_9CE4_8422_2325, lines: keep_lines.then(Vec::new), steps: 0 }
    }

    pub fn note(&mut self, at: u64, line: fmt::Arguments<'_>) {
        self.steps += 1;
        let mut hasher = Hasher(self.hash ^ at);
        let _ = hasher.write_fmt(line);
        self.hash = hasher.0;
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{at:>7} ms  {line}"));
        }
    }

    pub fn finish(self) -> (u64, Vec<String>) {
        (self.hash, self.lines.unwrap_or_default())
    }
}

// === impl Hasher ===

impl Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        Ok(())
    }
}
