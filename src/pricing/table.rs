//! The usable coupons of a search, side by side: classes, clashes, scopes and ranks.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use smallvec::SmallVec;

use super::bound::{ClassEffect, Score};
use super::cart::{Effect, Ready};
use super::kinds::Worth;
use super::money::Minor;
use super::settings::Settings;
use super::stacking::{Class, clash};
use super::walk::Walk;

/// Coupons in the order of computing.
pub(super) struct Table<'r, 'a> {
    pub coupons: Vec<Entry<'r, 'a>>,
    /// Where each class begins and ends.
    pub classes: Vec<Range<usize>>,
    /// Distinct sets of eligible lines: many coupons share one.
    pub scopes: Vec<&'r [u16]>,
    /// For each class, the lines that any of its coupons reaches.
    pub homes: Vec<Vec<u16>>,
    /// For each coupon, those that may never stand beside it.
    pub clashes: Vec<SmallVec<[u64; 8]>>,
    /// Words of a set of coupons.
    pub words: usize,
    /// Lines in all scopes together, and in any of them: what bounds and steps take grows with these.
    pub scope_lines: u64,
    pub order_lines: u64,
}

pub(super) struct Entry<'r, 'a> {
    pub ready: &'r Ready<'a>,
    /// Copied from the coupon: bounds read these of every coupon at every node.
    pub effect: Effect,
    pub least: Minor,
    pub is_stackable: bool,
    pub is_unscoped: bool,
    pub scope: usize,
    /// Place in the order of ties: the lower is used first.
    pub rank: u32,
    /// The coupon before it, where that does the same: it is used first.
    pub twin: Option<usize>,
    pub company_max: usize,
}

// === impl Table ===

impl<'r, 'a> Table<'r, 'a> {
    /// `coupons` must be in the order of computing.
    pub fn new(coupons: &[&'r Ready<'a>], settings: &Settings) -> Self {
        let words = coupons.len().div_ceil(64).max(1);
        let mut ranks: Vec<usize> = (0..coupons.len()).collect();
        ranks.sort_by_key(|at| coupons[*at].key.tie);
        let mut rank_of = vec![0; coupons.len()];
        for (rank, at) in ranks.into_iter().enumerate() {
            rank_of[at] = rank as u32;
        }
        let mut scopes: Vec<&'r [u16]> = Vec::new();
        let mut scope_of: HashMap<&'r [u16], usize> = HashMap::new();
        let mut classes: Vec<Range<usize>> = Vec::new();
        let mut all_clashes = Vec::with_capacity(coupons.len());
        let mut entries: Vec<Entry<'r, 'a>> = Vec::with_capacity(coupons.len());
        for (at, ready) in coupons.iter().enumerate() {
            let lines: &'r [u16] = &ready.key.does.lines;
            let scope = *scope_of.entry(lines).or_insert_with(|| {
                scopes.push(lines);
                scopes.len() - 1
            });
            let before = at.checked_sub(1).map(|before| coupons[before]);
            let is_new = before.is_none_or(|before| before.key.class != ready.key.class);
            match classes.last_mut() {
                Some(class) if !is_new => class.end = at + 1,
                _ => classes.push(at..at + 1),
            }
            let twin = before.filter(|before| before.key.is_twin_of(&ready.key)).map(|_| at - 1);
            let mut clashes: SmallVec<[u64; 8]> = SmallVec::from_elem(0, words);
            for (other, other_ready) in coupons.iter().enumerate() {
                if other != at && clash(ready, other_ready, settings) {
                    clashes[other / 64] |= 1 << (other % 64);
                }
            }
            entries.push(Entry {
                ready,
                effect: ready.key.does.effect,
                least: ready.key.does.within.0,
                is_stackable: ready.is_stackable(),
                is_unscoped: ready.key.is_unscoped,
                scope,
                rank: rank_of[at],
                twin,
                company_max: ready.company_max(),
            });
            all_clashes.push(clashes);
        }
        let home = |class: &Range<usize>| {
            let lines = coupons[class.clone()].iter().flat_map(|ready| ready.key.does.lines.iter().copied());
            lines.collect::<BTreeSet<u16>>().into_iter().collect()
        };
        let homes = classes.iter().map(home).collect();
        let scope_lines = scopes.iter().map(|lines| lines.len() as u64).sum();
        let order_lines = scopes.iter().filter_map(|lines| lines.last()).max().map_or(0, |last| u64::from(*last) + 1);
        Table { coupons: entries, classes, scopes, homes, clashes: all_clashes, words, scope_lines, order_lines }
    }

    /// What a coupon adds at most, chosen now or later: what it adds at the present state.
    pub fn adds(&self, at: usize, walk: &Walk, sums: &[Minor]) -> Score {
        let entry = &self.coupons[at];
        let eligible = sums[entry.scope];
        if eligible < entry.least {
            return Score::default();
        }
        let money = |off: Minor| Score { total: off.min(walk.room), unvalued: 0 };
        match entry.effect {
            Effect::Goods { rate, cap } => money(Worth::off(rate, cap, eligible)),
            Effect::Shipping { rate, cap } => {
                let fees = &entry.ready.key.does.fees;
                money(Worth::off(rate, cap, fees.iter().map(|fee| walk.fees[usize::from(*fee)]).sum()))
            }
            Effect::Gift { value, unvalued } => Score { total: value, unvalued: unvalued.into() },
        }
    }

    pub fn class_effect(&self, class: usize) -> ClassEffect {
        match self.coupons[self.classes[class].start].ready.key.class {
            Class::Shipping => ClassEffect::Fees,
            Class::Gift => ClassEffect::Gifts,
            _ => ClassEffect::Goods,
        }
    }
}
