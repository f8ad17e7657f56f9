//! Which coupons may stand beside each other on one order.

use super::cart::Ready;
use super::rules::AloneScope;
use super::settings::{Settings, StackingMode};

/// Coupons of one class exclude each other unless each of them allows stacking. In the order of
/// computing; the merchant's id is empty where merchant coupons are limited to one an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class<'a> {
    Merchant(&'a str),
    Streamer,
    Platform,
    Special,
    Gift,
    Shipping,
    RedPacket,
}

// === impl Ready ===

impl Ready<'_> {
    /// Whether it shares its class with others that say so too.
    pub fn is_stackable(&self) -> bool {
        self.terms.shape.stackability.allow == Some(true)
    }

    /// How alone it must be, if it does not stack.
    pub fn alone(&self) -> Option<AloneScope> {
        let stackability = &self.terms.shape.stackability;
        (stackability.allow == Some(false)).then_some(stackability.alone_scope)
    }

    /// Coupons on the order with this one among them, at most.
    pub fn company_max(&self) -> usize {
        self.terms.shape.stackability.max_others.map_or(usize::MAX, |others| others as usize + 1)
    }

    fn bears(&self, other: &Ready) -> bool {
        let suits = match self.alone() {
            None => true,
            Some(AloneScope::All) => false,
            Some(AloneScope::Goods) => other.key.class == Class::Shipping,
        };
        suits && !self.terms.shape.stackability.excluded.contains(&other.terms.kind)
    }
}

/// Whether two coupons may never be on one order.
pub(super) fn clash(a: &Ready, b: &Ready, settings: &Settings) -> bool {
    let share_class = a.key.class != b.key.class || (a.is_stackable() && b.is_stackable());
    settings.stacking.mode == StackingMode::OnePerOrder || !share_class || !a.bears(b) || !b.bears(a)
}

/// Whether a coupon may join a set that is legal without it.
pub(super) fn may_join(set: &[&Ready], ready: &Ready, settings: &Settings) -> bool {
    let count = set.len() + 1;
    ready.company_max() >= count
        && set.iter().all(|other| other.company_max() >= count && !clash(ready, other, settings))
}

/// The positions in `set` of the coupons that are in each other's way.
pub(super) fn in_the_way(set: &[&Ready], settings: &Settings) -> Vec<usize> {
    let is_in_the_way = |at: &usize| {
        set[*at].company_max() < set.len()
            || (0..set.len()).any(|other| other != *at && clash(set[*at], set[other], settings))
    };
    (0..set.len()).filter(is_in_the_way).collect()
}
