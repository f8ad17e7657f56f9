//! The Lua scripts as a closed list. `lua/README.md` tells how they are written.

use std::sync::LazyLock;

use crate::faults;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    ClaimBatch,
    LookupBatch,
    Holdings,
    CellMeta,
    CellClose,
    CellReapply,
    CellOpen,
    CellConfirm,
    TemplatePut,
    TemplateFree,
    QueueRead,
    QueueTrim,
    CompareRead,
    CellMend,
}

/// A script that may write: refused as a whole by a replica, without memory, or without persistence.
const WRITES: &str = "#!lua\n";
/// A script that never writes: it runs even where Redis takes no writes.
const READS: &str = "#!lua flags=no-writes\n";

macro_rules! source {
    ($flags:expr; $($file:literal),+) => {
        [$flags, $(include_str!(concat!("../../lua/", $file, ".lua"))),+].concat()
    };
}

struct Loaded {
    source: String,
    sha: String,
}

static SCRIPTS: LazyLock<Vec<Loaded>> = LazyLock::new(|| {
    Script::ALL
        .iter()
        .map(|script| {
            let source = faults::patched(script.assemble());
            let sha = redis::Script::new(&source).get_hash().to_owned();
            Loaded { source, sha }
        })
        .collect()
});

// === impl Script ===

impl Script {
    pub const ALL: [Script; 14] = [
        Script::ClaimBatch,
        Script::LookupBatch,
        Script::Holdings,
        Script::CellMeta,
        Script::CellClose,
        Script::CellReapply,
        Script::CellOpen,
        Script::CellConfirm,
        Script::TemplatePut,
        Script::TemplateFree,
        Script::QueueRead,
        Script::QueueTrim,
        Script::CompareRead,
        Script::CellMend,
    ];

    /// What Redis is given to load.
    pub fn source(self) -> &'static str {
        &SCRIPTS[self as usize].source
    }

    /// SHA-1 of the source in hex: the name for EVALSHA.
    pub fn sha(self) -> &'static str {
        &SCRIPTS[self as usize].sha
    }

    fn assemble(self) -> String {
        match self {
            Script::ClaimBatch => {
                source!(WRITES; "lib/outcomes", "lib/identity", "lib/clock", "lib/quota", "claim_batch")
            }
            Script::LookupBatch => source!(READS; "lib/outcomes", "lib/identity", "lib/clock", "lookup_batch"),
            Script::Holdings => source!(READS; "lib/identity", "lib/clock", "holdings"),
            Script::CellMeta => source!(READS; "cell_meta"),
            Script::CellClose => source!(WRITES; "cell_close"),
            Script::CellReapply => source!(WRITES; "lib/clock", "lib/quota", "cell_reapply"),
            Script::CellOpen => source!(WRITES; "lib/clock", "cell_open"),
            Script::CellConfirm => source!(WRITES; "lib/identity", "cell_confirm"),
            Script::TemplatePut => source!(WRITES; "lib/identity", "template_put"),
            Script::TemplateFree => source!(WRITES; "lib/identity", "template_free"),
            Script::QueueRead => source!(READS; "lib/identity", "queue_read"),
            Script::QueueTrim => source!(WRITES; "lib/identity", "queue_trim"),
            Script::CompareRead => source!(READS; "lib/identity", "lib/clock", "lib/quota", "compare_read"),
            Script::CellMend => source!(WRITES; "lib/identity", "lib/clock", "lib/quota", "cell_mend"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order_and_each_source_has_its_contract() {
        for (position, script) in Script::ALL.into_iter().enumerate() {
            assert_eq!(script as usize, position);
            assert_eq!(script.sha().len(), 40);
            let source = script.source();
            assert!(source.starts_with("#!lua"), "{script:?}");
            for word in ["-- KEYS", "-- ARGV", "-- Returns", "-- Cost"] {
                assert!(source.contains(word), "{script:?} does not say {word}");
            }
        }
    }
}
