//! Upper bounds on what a branch of the search can still take off.
//!
//! Two facts carry them. What a coupon takes off never grows when coupons before it take more, so
//! its discount at the present state bounds its discount later. And it falls by at most what they
//! take (`Worth` grows no faster than its amount), so "taken so far plus the next coupon" is
//! greatest where the most was taken so far: with `taken` an upper bound on what the coupons between
//! here and there take off goods, the next one finds at most `eligible - max(0, taken - outside)`,
//! where `outside` is what is left of the lines that it does not reach. Whole minor units
//! throughout: rounding down keeps both facts, so no bound is ever short by a cent.
//!
//! Three such bounds are kept for the coupons of a class that stack with each other, and the least
//! counts: the chain over the whole order; the chain over the lines that the class reaches, whatever
//! other classes take; and the sum over its scopes of chains within each, whatever other scopes take.
//! Shipping coupons that stack take no more than all the fees that they pay, and those of them that pay
//! the same fees no more than these.
//!
//! Upper limits of thresholds are ignored, and lower ones are compared with the present state only.

use smallvec::SmallVec;

use super::cart::Effect;
use super::kinds::Worth;
use super::money::Minor;
use super::table::{Sums, Table};
use super::walk::Walk;

/// What a set of coupons is worth: money and gifts at their value, then gifts of no stated value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    pub total: Minor,
    pub unvalued: i32,
}

/// What the coupons still open could add, at the present state.
pub(super) struct Outlook {
    /// An upper bound on what all of them together add.
    pub most: Score,
    /// For each open class, what it adds at most, cheaply summed; by class, from the first open one.
    pub by_class: SmallVec<[Score; 16]>,
    pub sums: Sums,
}

/// The coupons that may still be chosen.
pub(super) struct Open<'t> {
    /// The class that is being decided, and the first position in it that may be chosen.
    pub class: usize,
    pub from: usize,
    /// Only stackable coupons may be chosen in that class: it has one already.
    pub stackable_only: bool,
    /// By position: in the way of something chosen.
    pub blocked: &'t [u64],
    /// How many may be chosen yet.
    pub count_max: usize,
    /// What shipping coupons may take yet.
    pub fees_most: Minor,
}

/// An upper bound on what coupons before the next one take off some lines.
#[derive(Clone, Copy)]
struct Chain {
    taken: Minor,
    /// What is left of those lines at the present state.
    goods_left: Minor,
}

// === impl Chain ===

impl Chain {
    /// The bound with one coupon more. What was taken falls outside its lines as far as it can.
    fn with(&self, rate: u32, cap: Minor, eligible: Minor) -> Minor {
        let inside = (self.taken - (self.goods_left - eligible)).max(0);
        self.taken + Worth::off(rate, cap, (eligible - inside).max(0))
    }
}

// === impl Score ===

impl std::ops::Add for Score {
    type Output = Score;

    fn add(self, other: Score) -> Score {
        Score { total: self.total + other.total, unvalued: self.unvalued + other.unvalued }
    }
}

impl std::ops::Sub for Score {
    type Output = Score;

    /// May fall below zero in its second part: the order is by the first.
    fn sub(self, other: Score) -> Score {
        Score { total: self.total - other.total, unvalued: self.unvalued - other.unvalued }
    }
}

// === impl Open ===

impl Open<'_> {
    pub fn is_blocked(&self, position: usize) -> bool {
        self.blocked[position / 64] >> (position % 64) & 1 == 1
    }

    /// The positions of a class that may still be chosen.
    pub fn positions<'s>(&'s self, table: &'s Table, class: usize) -> impl Iterator<Item = usize> + 's {
        let range = table.classes[class].clone();
        let start = if class == self.class { self.from } else { range.start };
        let narrow = class == self.class && self.stackable_only;
        (start..range.end).filter(move |&at| !self.is_blocked(at) && (!narrow || table.coupons[at].is_stackable))
    }
}

// === impl Outlook ===

impl Outlook {
    pub fn of(table: &Table, walk: &Walk, open: &Open) -> Outlook {
        let sums = table.sums(walk);
        let fees_left: Minor = walk.fees.iter().sum();
        let mut chain = Chain { taken: 0, goods_left: walk.left.iter().sum() };
        let (mut fees, mut gifts) = (0, Score::default());
        let mut by_class: SmallVec<[Score; 16]> = SmallVec::new();
        // Every single addition, for when only a few more may be chosen.
        let few = open.count_max < table.classes.len() - open.class;
        let mut singles: SmallVec<[Score; 32]> = SmallVec::new();
        let mut unvalued_in_all: i32 = 0;
        let mut groups: SmallVec<[Minor; 64]> = SmallVec::from_elem(0, sums.lines.len());
        let mut paid: SmallVec<[Minor; 16]> = SmallVec::from_elem(0, sums.fees.len());
        for class in open.class..table.classes.len() {
            let (mut one, mut all) = (Score::default(), Score::default());
            let mut one_reaches = chain.taken;
            let mut together = chain;
            let home_left = table.homes[class].iter().map(|at| walk.left[usize::from(*at)]).sum();
            let mut within = Chain { taken: 0, goods_left: home_left };
            let (mut grouped, mut is_scoped) = (0, true);
            groups.fill(0);
            for at in open.positions(table, class) {
                let adds = table.adds(at, walk, &sums);
                if adds == Score::default() {
                    continue;
                }
                let coupon = &table.coupons[at];
                unvalued_in_all += adds.unvalued;
                one = one.max(adds);
                let stacks = coupon.is_stackable;
                if stacks {
                    all = all + adds;
                    if few {
                        singles.push(adds);
                    }
                }
                let (rate, cap) = match coupon.effect {
                    Effect::Goods { rate, cap } => (rate, cap),
                    Effect::Shipping { .. } if stacks => {
                        paid[coupon.fee_set] += adds.total;
                        continue;
                    }
                    _ => continue,
                };
                let eligible = sums.lines[coupon.scope];
                one_reaches = one_reaches.max(chain.with(rate, cap, eligible));
                if !stacks {
                    continue;
                }
                if is_scoped && coupon.is_unscoped {
                    is_scoped = false;
                    within.taken = within.taken.min(grouped);
                }
                together.taken = together.with(rate, cap, eligible);
                within.taken = within.with(rate, cap, eligible);
                let group = &mut groups[coupon.scope];
                let adds = Worth::off(rate, cap, (eligible - *group).max(0));
                *group += adds;
                grouped += adds;
            }
            if few && one != Score::default() {
                singles.push(one);
            }
            match table.class_effect(class) {
                ClassEffect::Goods => {
                    let stacked = together.taken.min(chain.taken + within.taken.min(grouped));
                    all.total = all.total.min(within.taken.min(grouped));
                    chain.taken = stacked.max(one_reaches.min(chain.taken + one.total));
                }
                ClassEffect::Fees => {
                    let by_set: Minor = paid.iter().zip(&sums.fees).map(|(paid, left)| paid.min(left)).sum();
                    let home: Minor = table.fee_home.iter().map(|at| walk.fees[usize::from(*at)]).sum();
                    all.total = all.total.min(by_set).min(home);
                    (one.total, all.total) = (one.total.min(open.fees_most), all.total.min(open.fees_most));
                    fees += one.max(all).total;
                }
                ClassEffect::Gifts => gifts = gifts + one.max(all),
            }
            by_class.push(one.max(all));
        }
        let goods = chain.taken;
        let money = (goods + fees.min(fees_left)).min(walk.room);
        let mut most = Score { total: money + gifts.total, unvalued: gifts.unvalued };
        if few {
            singles.sort_unstable_by(|a, b| b.cmp(a));
            let sum = singles.iter().take(open.count_max).fold(Score::default(), |sum, adds| sum + *adds);
            if sum.total < most.total {
                // Another choice of gifts may reach this total: all that are free may be among them.
                most = Score { total: sum.total, unvalued: unvalued_in_all };
            }
        }
        Outlook { most, by_class, sums }
    }

    /// The fewest coupons that could add `gap`, and the ranks that such coupons could have at best: the
    /// lowest open ones, whether or not they add enough.
    pub fn fewest(&self, table: &Table, walk: &Walk, open: &Open, gap: Score) -> Option<SmallVec<[u32; 16]>> {
        let (mut adds, mut ranks) = (SmallVec::<[Score; 32]>::new(), SmallVec::<[u32; 16]>::new());
        for class in open.class..table.classes.len() {
            let (mut one, mut lowest) = (Score::default(), u32::MAX);
            for at in open.positions(table, class) {
                let entry = &table.coupons[at];
                let add = table.adds(at, walk, &self.sums);
                if add == Score::default() {
                    continue;
                }
                if entry.is_stackable {
                    adds.push(add);
                    ranks.push(entry.rank);
                } else {
                    one = one.max(add);
                    lowest = lowest.min(entry.rank);
                }
            }
            if lowest != u32::MAX {
                adds.push(one);
                ranks.push(lowest);
            }
        }
        adds.sort_unstable_by(|a, b| b.cmp(a));
        ranks.sort_unstable();
        let mut sum = Score::default();
        let count = adds.iter().position(|add| {
            sum = sum + *add;
            sum >= gap
        })? + 1;
        ranks.truncate(count);
        Some(ranks)
    }
}

/// What the coupons of a class act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClassEffect {
    Goods,
    Fees,
    Gifts,
}
