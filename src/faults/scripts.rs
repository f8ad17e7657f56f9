//! Bugs in the scripts: a line that is there becomes one that somebody could have written instead. And scripts of
//! another build, which do the same under another SHA-1.

use super::Bug;
use super::on::{asked_for, other_build};

/// A bug, the text that it replaces, which stands in one script or piece alone, and what stands there instead.
const PATCHES: &[(Bug, &str, &str)] = &[
    (Bug::ReplayNotChecked, "if sub(held, p + 13, p + 20) == key then", "if false then"),
    (Bug::ReplayAfterRefusal, "if held then outcome = replay_of(", "if held and not refusal then outcome = replay_of("),
    (Bug::LimitOffByOne, "if #held >= per_user then", "if #held > per_user then"),
    (Bug::DailyLimitOffByOne, "if n >= per_day then", "if n > per_day then"),
    (Bug::QuotaNotCounted, "redis.call('HSET', q.cur, unpack(pairs_))", ""),
    (Bug::StockOffByOne, "if not outcome and nxt > last then", "if not outcome and nxt > last + 1 then"),
    (Bug::DeadlineIgnored, "if now >= tonumber(ARGV[3]) then return { 0, 'deadline', now } end", ""),
    (
        Bug::IdentityNotChecked,
        "if ARGV[1] ~= replid or not string.find(info, 'master_replid:' .. ARGV[1], 1, true) then return 'replid' end",
        "",
    ),
    (Bug::ClockMayGoBack, "if now < latest - 1000 then return nil end", ""),
    (Bug::BacklogIgnored, "if not outcome and full then outcome = OVERLOADED end", ""),
    (Bug::CursorNotReapplied, "if final >= nxt then nxt = final + 1 end", ""),
    (Bug::TombstoneReadAsNew, "elseif t[1] == '9' then", "elseif t[1] == 'freed' then"),
];

/// A script's source, with the bug that was asked for, if it is one of this script, or as the other build has it.
pub fn patched(source: String) -> String {
    let source = match PATCHES.iter().find(|(bug, ..)| Some(*bug) == asked_for()) {
        Some((_, right, wrong)) => source.replace(right, wrong),
        None => source,
    };
    other_build().map_or(source.clone(), |word| of_build(&source, word))
}

/// A script's source as the build has it that goes by this word.
pub fn of_build(source: &str, word: &str) -> String {
    format!("{source}\n-- {word}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script that is rewritten takes its bugs along, or this says which of them no longer finds its line.
    #[test]
    fn every_patch_finds_its_line_once() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("lua");
        let files = ["claim_batch.lua", "cell_reapply.lua", "lib/identity.lua", "lib/clock.lua", "lib/quota.lua"];
        let texts = files.map(|file| std::fs::read_to_string(folder.join(file)).unwrap());
        for (bug, right, _) in PATCHES {
            let found: usize = texts.iter().map(|text| text.matches(right).count()).sum();
            assert_eq!(found, 1, "{bug:?}: {right}");
        }
    }
}
