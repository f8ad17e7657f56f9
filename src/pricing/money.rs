//! Amounts of money: exact, in the minor unit of a currency (ISO 4217).
//!
//! At the edges an amount is a [`Decimal`] with as many places as its currency has; within pricing
//! it is a whole number of minor units, so that no step can round by accident. Rounding happens in
//! two places only, both stated here: a percentage takes off the whole minor units that it reaches,
//! rounded down ([`part`]), and a discount is shared among lines by largest remainder (`share.rs`).
//! Nothing else rounds; an amount with more places than its currency has is refused.

use rust_decimal::Decimal;

/// An amount in minor units of the order's currency.
pub type Minor = i64;

/// The most that an order may come to, in minor units: ten thousand times less than `i64` holds.
pub const TOTAL_MAX: Minor = 100_000_000_000_000;

/// A rate of one, in the unit of [`part`]: a percentage of four places is exact in millionths.
pub const RATE_ONE: u32 = 1_000_000;

/// A currency and how many decimal places its minor unit has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Currency {
    code: [u8; 3],
    scale: u32,
}

/// Why an amount is none in a currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoneyError {
    Negative,
    /// More places than the currency has.
    TooPrecise,
    TooLarge,
}

/// Currencies without a minor unit, then with two, three and four places: ISO 4217 as of January
/// 2026, without metals, test codes and units of account that nothing is sold in.
const SCALES: [(u32, &str); 4] = [
    (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"),
    (
        2,
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW \
         CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF \
         IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK \
         MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP \
         SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG \
         YER ZAR ZMW ZWG",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
    (4, "CLF UYW"),
];

// === impl Currency ===

impl Currency {
    /// A currency that is in use, by its code. Case does not matter.
    pub fn of(code: &str) -> Option<Currency> {
        let code: [u8; 3] = code.to_ascii_uppercase().as_bytes().try_into().ok()?;
        let text = std::str::from_utf8(&code).ok()?;
        let (scale, _) = SCALES.iter().find(|(_, codes)| codes.split_ascii_whitespace().any(|known| known == text))?;
        Some(Currency { code, scale: *scale })
    }

    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).expect("made from text")
    }

    /// Places behind the point.
    pub fn scale(&self) -> u32 {
        self.scale
    }

    /// The exact number of minor units, from 0 to [`TOTAL_MAX`].
    pub fn minor(&self, amount: Decimal) -> Result<Minor, MoneyError> {
        if amount.is_sign_negative() && !amount.is_zero() {
            return Err(MoneyError::Negative);
        }
        let exact = amount.normalize();
        if exact.scale() > self.scale {
            return Err(MoneyError::TooPrecise);
        }
        let minor = exact.mantissa().checked_mul(10i128.pow(self.scale - exact.scale())).ok_or(MoneyError::TooLarge)?;
        match Minor::try_from(minor) {
            Ok(minor) if minor <= TOTAL_MAX => Ok(minor),
            _ => Err(MoneyError::TooLarge),
        }
    }

    /// The amount with all the currency's places: 2000 fen are 20.00.
    pub fn decimal(&self, minor: Minor) -> Decimal {
        Decimal::new(minor, self.scale)
    }

    /// An amount as it is shown: with all the currency's places. One that is none in the currency stays as it is.
    pub fn in_full(&self, amount: Decimal) -> String {
        self.minor(amount).map_or(amount.normalize(), |minor| self.decimal(minor)).to_string()
    }
}

// === impl MoneyError ===

impl MoneyError {
    /// A stable word and what to do, for a complaint about a field.
    pub fn complaint(self, currency: Currency) -> (&'static str, String) {
        match self {
            MoneyError::Negative => ("out_of_range", "must not be negative".into()),
            MoneyError::TooPrecise => {
                ("too_precise", format!("must have at most {} decimal places in {}", currency.scale, currency.code()))
            }
            MoneyError::TooLarge => {
                ("out_of_range", format!("must be at most {} {}", currency.decimal(TOTAL_MAX), currency.code()))
            }
        }
    }
}

/// `rate` millionths of an amount, rounded down to the minor unit.
pub fn part(amount: Minor, rate: u32) -> Minor {
    if rate == RATE_ONE {
        return amount;
    }
    // Below 2^43 minor units the product fits 64 bits, and 64-bit division is several times faster.
    if amount < 1 << 43 {
        return amount * Minor::from(rate) / Minor::from(RATE_ONE);
    }
    (i128::from(amount) * i128::from(rate) / i128::from(RATE_ONE)) as Minor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minor(code: &str, amount: &str) -> Result<Minor, MoneyError> {
        Currency::of(code).unwrap().minor(amount.parse().unwrap())
    }

    #[test]
    fn scales_follow_the_currency() {
        assert_eq!(minor("CNY", "20"), Ok(2_000));
        assert_eq!(minor("cny", "20.1000"), Ok(2_010));
        assert_eq!(minor("JPY", "20"), Ok(20));
        assert_eq!(minor("KWD", "0.001"), Ok(1));
        assert_eq!(minor("CLF", "1.0001"), Ok(10_001));
        assert_eq!(minor("JPY", "0.5"), Err(MoneyError::TooPrecise));
        assert_eq!(minor("CNY", "0.001"), Err(MoneyError::TooPrecise));
        assert_eq!(minor("CNY", "-0.01"), Err(MoneyError::Negative));
        assert_eq!(minor("CNY", "-0.00"), Ok(0));
        assert_eq!(minor("CNY", "1000000000000.01"), Err(MoneyError::TooLarge));
        assert_eq!(Currency::of("CNY").unwrap().decimal(2_000).to_string(), "20.00");
        assert_eq!(Currency::of("JPY").unwrap().decimal(20).to_string(), "20");
        for unknown in ["RMB", "XAU", "XXX", "", "CN", "CNYY", "人民币"] {
            assert_eq!(Currency::of(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn codes_are_listed_once() {
        let mut codes: Vec<&str> = SCALES.iter().flat_map(|(_, codes)| codes.split_ascii_whitespace()).collect();
        let count = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), count);
        assert!(codes.iter().all(|code| code.len() == 3) && count > 150, "{count}");
    }

    #[test]
    fn parts_round_down_whatever_their_size() {
        assert_eq!(part(999, 150_000), 149);
        assert_eq!(part(TOTAL_MAX, 999_999), TOTAL_MAX / 1_000_000 * 999_999);
        let edge = (1 << 43) - 1;
        assert_eq!(part(edge, 123_456), (i128::from(edge) * 123_456 / 1_000_000) as Minor);
    }
}
