//! Numbers that name things.

use std::fmt;

/// The number of a template: positive, at most `i32::MAX` (PostgreSQL `integer`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateId(pub u32);

impl TemplateId {
    /// Reads a path segment. `None` for anything but `1..=i32::MAX` in plain decimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > 10 || text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        match text.parse::<u32>() {
            Ok(id) if id <= i32::MAX as u32 => Some(TemplateId(id)),
            _ => None,
        }
    }

    /// The value as PostgreSQL stores it.
    pub fn as_i32(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Display for TemplateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of one coupon within its template: 1, 2, 3 ... up to [`SERIAL_MAX`].
pub type Serial = u64;

/// A serial fills 40 bits of a coupon's code.
pub const SERIAL_MAX: Serial = (1 << 40) - 1;

/// A cell's number. One Redis has one cell, number 0; every key carries it from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellId(pub u16);

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number that a cell gets anew at each opening. 16 bits: it is part of every code.
pub type Epoch = u16;

/// The name of an entry on a cell's grant queue: Redis' stream id `<epoch>-<seq>`.
///
/// Sequence 0 is the marker that an opening writes; grants have 1, 2, 3 ... without a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    pub epoch: Epoch,
    pub seq: u64,
}

impl EntryId {
    pub const ZERO: EntryId = EntryId { epoch: 0, seq: 0 };

    pub fn new(epoch: Epoch, seq: u64) -> Self {
        EntryId { epoch, seq }
    }

    /// Reads `<epoch>-<seq>`.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, seq) = text.split_once('-')?;
        Some(EntryId { epoch: epoch.parse().ok()?, seq: seq.parse().ok()? })
    }

    /// Whether this is the marker entry of an opening, which holds no grants.
    pub fn is_marker(self) -> bool {
        self.seq == 0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_ids_are_plain_positive_decimals() {
        assert_eq!(TemplateId::parse("7"), Some(TemplateId(7)));
        assert_eq!(TemplateId::parse("2147483647"), Some(TemplateId(2147483647)));
        for bad in ["", "0", "07", "-1", "+1", "2147483648", "9999999999", "99999999999", "1a", "１"] {
            assert_eq!(TemplateId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn entry_ids_sort_by_epoch_then_sequence() {
        let id = |text| EntryId::parse(text).unwrap();
        assert!(id("1-99") < id("2-0"));
        assert!(id("2-9") < id("2-10"));
        assert_eq!(id("3-4").to_string(), "3-4");
        assert_eq!(EntryId::parse("3"), None);
        assert_eq!(EntryId::parse("70000-1"), None);
    }
}
