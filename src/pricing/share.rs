//! Spreads a discount over amounts: in proportion, by largest remainder, to the minor unit.

use super::money::Minor;

/// Takes `discount` off the amounts at `places`, which come to `total`, and says what each gave.
///
/// The shares sum to the discount exactly and none exceeds its amount, provided that the discount
/// does not exceed the total. Of equal remainders the earlier place goes first.
pub fn spread(discount: Minor, places: &[u16], total: Minor, left: &mut [Minor], mut gave: impl FnMut(u16, Minor)) {
    debug_assert!((0..=total).contains(&discount));
    if discount == 0 {
        return;
    }
    let mut remainders: smallvec::SmallVec<[(Minor, u16); 64]> = smallvec::SmallVec::new();
    let mut owed = discount;
    // 64-bit products where they fit: they nearly always do, and divide several times faster.
    let fits = discount.checked_mul(total).is_some();
    for &place in places {
        let amount = left[usize::from(place)];
        let (share, remainder) = if fits {
            let product = discount * amount;
            (product / total, product % total)
        } else {
            let product = i128::from(discount) * i128::from(amount);
            ((product / i128::from(total)) as Minor, (product % i128::from(total)) as Minor)
        };
        owed -= share;
        left[usize::from(place)] = amount - share;
        if share > 0 {
            gave(place, share);
        }
        if remainder > 0 {
            remainders.push((remainder, place));
        }
    }
    let owed = owed as usize;
    if owed == 0 {
        return;
    }
    if owed < remainders.len() {
        remainders.select_nth_unstable_by_key(owed, |&(remainder, place)| (std::cmp::Reverse(remainder), place));
    }
    for &(_, place) in &remainders[..owed] {
        left[usize::from(place)] -= 1;
        gave(place, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(discount: Minor, amounts: &[Minor]) -> Vec<Minor> {
        let places: Vec<u16> = (0..amounts.len() as u16).collect();
        let mut left = amounts.to_vec();
        let mut shares = vec![0; amounts.len()];
        let total = amounts.iter().sum();
        spread(discount, &places, total, &mut left, |place, share| shares[usize::from(place)] += share);
        for ((left, amount), share) in left.iter().zip(amounts).zip(&shares) {
            assert_eq!(left + share, *amount);
        }
        shares
    }

    #[test]
    fn the_largest_remainder_goes_first_then_the_earlier_place() {
        assert_eq!(shares(2, &[1, 1, 1]), [1, 1, 0]);
        assert_eq!(shares(10, &[33, 33, 34]), [3, 3, 4]);
        assert_eq!(shares(1, &[1, 5, 5]), [0, 1, 0]);
        assert_eq!(shares(7, &[0, 7, 0]), [0, 7, 0]);
        assert_eq!(shares(0, &[3, 3]), [0, 0]);
    }

    proptest! {
        #[test]
        fn shares_sum_and_fit(
            amounts in prop::collection::vec(0i64..100_000_000_000, 1..50),
            rate in 0u32..=1_000_000,
        ) {
            let total: Minor = amounts.iter().sum();
            let discount = crate::pricing::money::part(total, rate);
            let shares = shares(discount, &amounts);
            prop_assert_eq!(shares.iter().sum::<Minor>(), discount);
            for (share, amount) in shares.iter().zip(&amounts) {
                prop_assert!(0 <= *share && share <= amount);
            }
        }
    }
}
