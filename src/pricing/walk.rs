//! Coupons applied one after the other: what is left of lines, fees and room.

use super::cart::{Cart, Effect, Ready};
use super::kinds::Worth;
use super::money::Minor;
use super::share::spread;

/// An order part of the way through its coupons.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub left: Vec<Minor>,
    pub fees: Vec<Minor>,
    /// What further discounts may take off.
    pub room: Minor,
}

/// Where a share of a discount falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Line(u16, Minor),
    Fee(u16, Minor),
}

// === impl Walk ===

impl Walk {
    pub fn new(cart: &Cart) -> Self {
        Walk { left: cart.amounts.clone(), fees: cart.fees.iter().map(|(_, fee)| *fee).collect(), room: cart.room }
    }

    /// What is left of the coupon's eligible lines.
    pub fn eligible(&self, ready: &Ready) -> Minor {
        ready.key.does.lines.iter().map(|at| self.left[usize::from(*at)]).sum()
    }

    /// Applies the coupon: what it takes off. Zero where it takes nothing, and for gifts.
    pub fn take(&mut self, ready: &Ready, mut shared: impl FnMut(Share)) -> Minor {
        let does = &ready.key.does;
        match does.effect {
            Effect::Goods { rate, cap } => {
                let eligible = self.eligible(ready);
                if !(does.within.0..=does.within.1).contains(&eligible) {
                    return 0;
                }
                let off = Worth::off(rate, cap, eligible).min(self.room);
                self.room -= off;
                spread(off, &does.lines, eligible, &mut self.left, |at, share| shared(Share::Line(at, share)));
                off
            }
            Effect::Shipping { rate, cap } => {
                if !self.is_within(ready) {
                    return 0;
                }
                let fees = does.fees.iter().map(|at| self.fees[usize::from(*at)]).sum();
                let off = Worth::off(rate, cap, fees).min(self.room);
                self.room -= off;
                spread(off, &does.fees, fees, &mut self.fees, |at, share| shared(Share::Fee(at, share)));
                off
            }
            Effect::Gift { .. } => 0,
        }
    }

    /// Whether what is left is within the coupon's thresholds.
    pub fn is_within(&self, ready: &Ready) -> bool {
        let within = ready.key.does.within;
        within == (0, Minor::MAX) || (within.0..=within.1).contains(&self.eligible(ready))
    }
}
