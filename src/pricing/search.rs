//! Finds the best legal set of coupons, exactly: depth first, with bounds.
//!
//! A node is a legal set, with what it leaves of the order; its children add one coupon that comes
//! later in the order of computing, so every set is reached once and applied as it will be priced.
//! A branch is left where its bound shows that nothing in it beats the best found, ties included.
//! Of coupons that do the same, the one that ties prefer is used first.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::bound::{Open, Outlook, Score};
use super::cart::{Cart, Effect};
use super::money::Minor;
use super::rules::AloneScope;
use super::stacking::Class;
use super::table::{Entry, Table};
use super::walk::Walk;
use crate::domain::template::Kind;

/// The best of the sets seen so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub score: Score,
    /// Positions in the table, in the order of computing.
    pub chosen: Vec<usize>,
    /// Their ranks in the order of ties, sorted.
    ranks: Vec<u32>,
}

pub(super) struct Search<'t, 'r, 'a> {
    table: &'t Table<'r, 'a>,
    pub found: Found,
    pub nodes: u64,
    /// Work so far and at most: coupons looked at, and lines, several of which weigh as much as one.
    looks: u64,
    looks_max: u64,
    /// The budget ended the search: what was found may not be the best.
    pub is_cut: bool,
    /// All fees, and what shipping coupons take off them at most.
    fees: Minor,
    fees_most: Minor,
}

/// A set of positions.
type Positions = SmallVec<[u64; 8]>;

/// A node: what is chosen, and what may still be.
struct Node {
    walk: Walk,
    score: Score,
    class: usize,
    from: usize,
    stackable_only: bool,
    blocked: Positions,
    /// Coupons in all, at most: what the chosen ones bear.
    company_max: usize,
}

/// Coupons that one node of the budget may look at: all there are, or as many as these.
const LOOKS_PER_NODE_MIN: u64 = 64;
/// Lines that weigh as much as a coupon.
const LINES_PER_LOOK: u64 = 8;

/// The part of the budget that may be spent on shipping coupons by themselves.
const FEES_BUDGET_PART: u64 = 8;

/// Kinds and numbers that scenarios are split by: at most 27 times 8 of them.
const KINDS_SPLIT_MAX: usize = 3;
const NUMBERS_SPLIT_MAX: usize = 8;

// === impl Found ===

impl Found {
    /// Takes the set if it is better: worth more; else fewer; else used first by the order of ties.
    fn offer(&mut self, table: &Table, score: Score, chosen: &[usize]) {
        let by_worth = score.cmp(&self.score).then(self.chosen.len().cmp(&chosen.len()));
        if by_worth.is_lt() {
            return;
        }
        let ranks = sorted_ranks(table, chosen);
        if by_worth.is_gt() || ranks < self.ranks {
            *self = Found { score, chosen: chosen.to_vec(), ranks };
        }
    }
}

// === impl Search ===

impl<'t, 'r, 'a> Search<'t, 'r, 'a> {
    pub fn new(table: &'t Table<'r, 'a>, nodes_max: u64) -> Self {
        let looks_max = nodes_max.saturating_mul(LOOKS_PER_NODE_MIN.max(table.coupons.len() as u64));
        Search::within(table, looks_max)
    }

    fn within(table: &'t Table<'r, 'a>, looks_max: u64) -> Self {
        let found = Found::default();
        Search { table, found, nodes: 0, looks: 0, looks_max, is_cut: false, fees: 0, fees_most: Minor::MAX }
    }

    /// Searches all legal sets. Coupons that must be alone are tried by themselves first, so that they
    /// neither loosen the bounds of the others nor use up the budget; those that shipping coupons may
    /// join are searched with these at last.
    pub fn run(&mut self, cart: &Cart) {
        let table = self.table;
        let mut alone: Positions = SmallVec::from_elem(0, table.words);
        let mut beside_alone: Positions = SmallVec::from_elem(u64::MAX, table.words);
        for (at, entry) in table.coupons.iter().enumerate() {
            if entry.ready.alone().is_some() {
                set(&mut alone, at);
            } else if entry.ready.key.class == Class::Shipping {
                unset(&mut beside_alone, at);
            }
        }
        let empty = Node::root(cart, SmallVec::from_elem(u64::MAX, table.words));
        let mut joinable = Vec::new();
        for (at, entry) in table.coupons.iter().enumerate() {
            let Some(scope) = entry.ready.alone() else { continue };
            if entry.twin.is_some() {
                continue;
            }
            if let Some(child) = self.child(&empty, at, 0) {
                self.found.offer(table, child.score, &[at]);
            }
            if scope == AloneScope::Goods && beside_alone.iter().any(|word| *word != u64::MAX) {
                joinable.push(at);
            }
        }
        self.solve_fees(cart, &alone);
        let mut roots: Vec<(Score, Node)> = scenarios(table, &alone)
            .into_iter()
            .map(|(blocked, company_max)| {
                let root = Node { company_max, ..Node::root(cart, blocked) };
                self.looks += self.cost(&root);
                (Outlook::of(table, &root.walk, &self.open(&root, 0)).most, root)
            })
            .collect();
        // The most promising first: what it finds closes the others sooner.
        roots.sort_by_key(|(most, _)| std::cmp::Reverse(*most));
        for (_, root) in &roots {
            self.visit(root, &mut Vec::new());
        }
        for at in joinable {
            let mut blocked = beside_alone.clone();
            unset(&mut blocked, at);
            self.visit(&Node::root(cart, blocked), &mut Vec::new());
        }
    }

    /// Finds what shipping coupons take off at most. Coupons on goods change no fee, so this holds
    /// whatever they are; those on fees would get in each other's way in every branch anew.
    fn solve_fees(&mut self, cart: &Cart, alone: &Positions) {
        let table = self.table;
        self.fees = cart.fees.iter().map(|(_, fee)| fee).sum();
        let mut blocked = alone.clone();
        let (mut others, mut stackable) = (0, 0);
        for (at, entry) in table.coupons.iter().enumerate() {
            if entry.ready.key.class != Class::Shipping {
                set(&mut blocked, at);
                others += 1;
            } else if entry.is_stackable {
                stackable += 1;
            }
        }
        if stackable < 2 || others == 0 {
            return;
        }
        let mut search = Search::within(table, self.looks_max / FEES_BUDGET_PART);
        search.fees = self.fees;
        search.visit(&Node::root(cart, blocked), &mut Vec::new());
        self.looks += search.looks;
        self.nodes += search.nodes;
        if !search.is_cut {
            self.fees_most = search.found.score.total;
        }
    }

    fn open<'n>(&self, node: &'n Node, chosen: usize) -> Open<'n> {
        let fees_taken = self.fees - node.walk.fees.iter().sum::<Minor>();
        Open {
            class: node.class,
            from: node.from,
            stackable_only: node.stackable_only,
            blocked: &node.blocked,
            count_max: node.company_max - chosen,
            fees_most: (self.fees_most - fees_taken).max(0),
        }
    }

    /// What it takes to bound a node, in coupons looked at.
    fn cost(&self, node: &Node) -> u64 {
        let blocked: u32 = node.blocked.iter().map(|word| word.count_ones()).sum();
        let open = (self.table.words as u64 * 64).saturating_sub(blocked.into()).min(self.table.coupons.len() as u64);
        open + self.table.scope_lines / LINES_PER_LOOK + self.step()
    }

    /// What it takes to add a coupon.
    fn step(&self) -> u64 {
        1 + self.table.order_lines / LINES_PER_LOOK
    }

    fn visit(&mut self, node: &Node, chosen: &mut Vec<usize>) {
        if self.looks > self.looks_max {
            self.is_cut = true;
        }
        if self.is_cut {
            return;
        }
        self.nodes += 1;
        self.looks += self.cost(node);
        for (most, at) in self.options(node, chosen) {
            if node.score + most < self.found.score {
                // The options after it promise less still.
                return;
            }
            self.looks += self.step();
            let Some(child) = self.child(node, at, chosen.len()) else { continue };
            chosen.push(at);
            self.found.offer(self.table, child.score, chosen);
            if chosen.len() < child.company_max && child.class < self.table.classes.len() {
                self.visit(&child, chosen);
            }
            chosen.pop();
            if self.is_cut {
                return;
            }
        }
    }

    /// What may be chosen next, each with a bound on what it and all after it add, the largest first.
    #[inline(never)]
    fn options(&self, node: &Node, chosen: &[usize]) -> Vec<(Score, usize)> {
        let table = self.table;
        let open = self.open(node, chosen.len());
        let outlook = Outlook::of(table, &node.walk, &open);
        if !self.can_win(node, chosen, &open, &outlook) {
            return Vec::new();
        }
        let mut options = Vec::new();
        // What the classes after each one add at most.
        let mut after = outlook.by_class.iter().fold(Score::default(), |sum, adds| sum + *adds);
        for class in node.class..table.classes.len() {
            after = after - outlook.by_class[class - node.class];
            let positions: SmallVec<[usize; 64]> = open.positions(table, class).collect();
            // Stackable coupons of the class that come after the option.
            let mut beside = Score::default();
            for &at in positions.iter().rev() {
                let entry = &table.coupons[at];
                let adds = table.adds(at, &node.walk, &outlook.sums);
                if adds == Score::default() {
                    continue;
                }
                let with = if entry.is_stackable { beside } else { Score::default() };
                if entry.is_stackable {
                    beside = beside + adds;
                }
                let is_shadowed = entry.twin.is_some_and(|twin| !chosen.contains(&twin));
                let most = adds + with + after;
                if !is_shadowed && entry.company_max > chosen.len() && node.score + most >= self.found.score {
                    options.push((most, at));
                }
            }
        }
        options.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        options.iter_mut().for_each(|(most, _)| *most = (*most).min(outlook.most));
        options
    }

    /// Whether a set below this node may be better than the best found.
    fn can_win(&self, node: &Node, chosen: &[usize], open: &Open, outlook: &Outlook) -> bool {
        match (node.score + outlook.most).cmp(&self.found.score) {
            std::cmp::Ordering::Less => return false,
            std::cmp::Ordering::Greater => return true,
            std::cmp::Ordering::Equal => {}
        }
        // Only ties are left to win: by fewer coupons, or by their ranks.
        let gap = self.found.score - node.score;
        if gap == Score::default() {
            return false;
        }
        let Some(ranks) = outlook.fewest(self.table, &node.walk, open, gap) else { return false };
        match (chosen.len() + ranks.len()).cmp(&self.found.chosen.len()) {
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => {
                let mut all = sorted_ranks(self.table, chosen);
                all.extend(ranks);
                all.sort_unstable();
                all < self.found.ranks
            }
        }
    }

    /// The node with one coupon more; `None` where it would do nothing, or not bear its company.
    fn child(&self, node: &Node, at: usize, chosen: usize) -> Option<Node> {
        let entry = &self.table.coupons[at];
        let company_max = node.company_max.min(entry.company_max);
        if chosen + 1 > company_max {
            return None;
        }
        let mut walk = node.walk.clone();
        let adds = match entry.ready.key.does.effect {
            Effect::Gift { value, unvalued } if walk.is_within(entry.ready) => {
                Score { total: value, unvalued: unvalued.into() }
            }
            Effect::Gift { .. } => return None,
            _ => Score { total: walk.take(entry.ready, |_| ()), unvalued: 0 },
        };
        if adds == Score::default() {
            return None;
        }
        let mut blocked = node.blocked.clone();
        blocked.iter_mut().zip(&self.table.clashes[at]).for_each(|(word, clashes)| *word |= clashes);
        let class = self.table.classes.iter().position(|class| class.contains(&at))?;
        let (class, from) = if entry.is_stackable {
            (class, at + 1)
        } else {
            (class + 1, self.table.classes.get(class + 1).map_or(0, |next| next.start))
        };
        let stackable_only = entry.is_stackable;
        Some(Node { walk, score: node.score + adds, class, from, stackable_only, blocked, company_max })
    }
}

// === impl Node ===

impl Node {
    fn root(cart: &Cart, blocked: Positions) -> Node {
        Node {
            walk: Walk::new(cart),
            score: Score::default(),
            class: 0,
            from: 0,
            stackable_only: false,
            blocked,
            company_max: usize::MAX,
        }
    }
}

/// Ways to block coupons such that every legal set is within one of them, and few clashes are left
/// within each: clashes that a bound cannot see are what makes a search long.
///
/// By kind: a set with a coupon that excludes a kind holds no other of that kind. By number: a set
/// holds no more coupons than the least that its members bear, so sets are searched by that number.
fn scenarios(table: &Table, blocked: &Positions) -> Vec<(Positions, usize)> {
    let open = || table.coupons.iter().enumerate().filter(|(at, _)| blocked[at / 64] >> (at % 64) & 1 == 0);
    let excludes = |entry: &Entry, kind: Kind| entry.ready.terms.shape.stackability.excluded.contains(&kind);
    let is_of = |entry: &Entry, kind: Kind| entry.ready.terms.kind == kind;
    let mut ways = vec![blocked.clone()];
    let excluded =
        Kind::WORDS.iter().map(|(_, kind)| *kind).filter(|kind| open().any(|(_, entry)| excludes(entry, *kind)));
    for kind in excluded.take(KINDS_SPLIT_MAX) {
        let mut conditions: Vec<&dyn Fn(&Entry) -> bool> = Vec::new();
        let without_kind = |entry: &Entry| is_of(entry, kind);
        let without_excluders = |entry: &Entry| excludes(entry, kind);
        // One that excludes its own kind stands as the only one of it.
        let only_excluders = |entry: &Entry| is_of(entry, kind) && !excludes(entry, kind);
        conditions.push(&without_kind);
        conditions.push(&without_excluders);
        if open().any(|(_, entry)| is_of(entry, kind) && excludes(entry, kind)) {
            conditions.push(&only_excluders);
        }
        let split = |way: &Positions| -> Vec<Positions> {
            conditions.iter().map(|closes| block(table, way.clone(), closes)).collect()
        };
        ways = ways.iter().flat_map(split).collect();
    }
    let numbers: BTreeSet<usize> = open().map(|(_, entry)| entry.company_max).chain([usize::MAX]).collect();
    if numbers.len() > NUMBERS_SPLIT_MAX {
        return ways.into_iter().map(|way| (way, usize::MAX)).collect();
    }
    let by_number = |way: &Positions| -> Vec<(Positions, usize)> {
        let limit = |most: &usize| (block(table, way.clone(), &|entry: &Entry| entry.company_max < *most), *most);
        numbers.iter().map(limit).collect()
    };
    ways.iter().flat_map(by_number).collect()
}

fn block(table: &Table, mut blocked: Positions, closes: &dyn Fn(&Entry) -> bool) -> Positions {
    for (at, _) in table.coupons.iter().enumerate().filter(|(_, entry)| closes(entry)) {
        set(&mut blocked, at);
    }
    blocked
}

fn sorted_ranks(table: &Table, chosen: &[usize]) -> Vec<u32> {
    let mut ranks: Vec<u32> = chosen.iter().map(|at| table.coupons[*at].rank).collect();
    ranks.sort_unstable();
    ranks
}

fn set(positions: &mut Positions, at: usize) {
    positions[at / 64] |= 1 << (at % 64);
}

fn unset(positions: &mut Positions, at: usize) {
    positions[at / 64] &= !(1 << (at % 64));
}
