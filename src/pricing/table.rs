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
    /// Distinct sets of fees that shipping coupons pay, and the fees that any stackable one of them pays.
    pub fee_sets: Vec<&'r [u16]>,
    pub fee_home: Vec<u16>,
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
    pub fee_set: usize,
    /// Place in the order of ties: the lower is used first.
    pub rank: u32,
    /// The coupon before it, where that does the same: it is used first.
    pub twin: Option<usize>,
    pub company_max: usize,
}

/// What is left of scopes and sets of fees at a node.
pub(super) struct Sums {
    pub lines: SmallVec<[Minor; 64]>,
    pub fees: SmallVec<[Minor; 16]>,
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
        let (mut scopes, mut fee_sets) = (Distinct::default(), Distinct::default());
        let mut classes: Vec<Range<usize>> = Vec::new();
        let mut all_clashes = Vec::with_capacity(coupons.len());
        let mut entries: Vec<Entry<'r, 'a>> = Vec::with_capacity(coupons.len());
        for (at, ready) in coupons.iter().enumerate() {
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
                scope: scopes.place(&ready.key.does.lines),
                fee_set: fee_sets.place(&ready.key.does.fees),
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
        let payers = coupons.iter().filter(|ready| ready.is_stackable());
        let fee_home: BTreeSet<u16> = payers.flat_map(|ready| ready.key.does.fees.iter().copied()).collect();
        let scopes = scopes.sets;
        let scope_lines = scopes.iter().map(|lines| lines.len() as u64).sum();
        let order_lines = scopes.iter().filter_map(|lines| lines.last()).max().map_or(0, |last| u64::from(*last) + 1);
        Table {
            coupons: entries,
            classes,
            scopes,
            homes,
            fee_sets: fee_sets.sets,
            fee_home: fee_home.into_iter().collect(),
            clashes: all_clashes,
            words,
            scope_lines,
            order_lines,
        }
    }

    /// What is left of every scope and every set of fees.
    pub fn sums(&self, walk: &Walk) -> Sums {
        let sum = |places: &[u16], left: &[Minor]| places.iter().map(|at| left[usize::from(*at)]).sum();
        Sums {
            lines: self.scopes.iter().map(|lines| sum(lines, &walk.left)).collect(),
            fees: self.fee_sets.iter().map(|fees| sum(fees, &walk.fees)).collect(),
        }
    }

    /// What a coupon adds at most, chosen now or later: what it adds at the present state.
    pub fn adds(&self, at: usize, walk: &Walk, sums: &Sums) -> Score {
        let entry = &self.coupons[at];
        let eligible = sums.lines[entry.scope];
        if eligible < entry.least {
            return Score::default();
        }
        let money = |off: Minor| Score { total: off.min(walk.room), unvalued: 0 };
        match entry.effect {
            Effect::Goods { rate, cap } => money(Worth::off(rate, cap, eligible)),
            Effect::Shipping { rate, cap } => money(Worth::off(rate, cap, sums.fees[entry.fee_set])),
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

/// Sets of places, each once.
#[derive(Default)]
struct Distinct<'r> {
    sets: Vec<&'r [u16]>,
    place_of: HashMap<&'r [u16], usize>,
}

// === impl Distinct ===

impl<'r> Distinct<'r> {
    fn place(&mut self, set: &'r [u16]) -> usize {
        *self.place_of.entry(set).or_insert_with(|| {
            self.sets.push(set);
            self.sets.len() - 1
        })
    }
}
