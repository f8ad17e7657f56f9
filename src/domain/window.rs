//! Days, windows and validity, in the template's time zone.
//!
//! "Day" is the local calendar day, daylight saving included: it may last 23, 24 or 25 hours
//! (or 23.5, Lord Howe), and where a zone skips a midnight the day starts at the first moment
//! that exists. Times inside the claim path are milliseconds since the Unix epoch.

use chrono::{DateTime, Days, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeZone, Utc};
use chrono_tz::Tz;

/// Milliseconds since the Unix epoch.
pub type Millis = i64;

/// A local day as `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    pub start: Millis,
    pub end: Millis,
}

impl Day {
    pub fn contains(&self, at: Millis) -> bool {
        self.start <= at && at < self.end
    }

    /// The local day of `zone` that holds `at`.
    pub fn of(zone: Tz, at: Millis) -> Day {
        let date = utc(at).with_timezone(&zone).date_naive();
        Day { start: start_of_day(zone, date), end: start_of_day(zone, date + Days::new(1)) }
    }
}

/// How long a coupon holds once it is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Fixed {
        from: Millis,
        until: Millis,
    },
    /// The same local time `days` later, after `delay_days`; or to the end of that local day.
    Relative {
        days: u32,
        delay_days: u32,
        end_of_day: bool,
    },
}

impl Validity {
    /// When a coupon acquired at `acquired` becomes valid and expires: `[from, expires)`.
    pub fn span(&self, zone: Tz, acquired: Millis) -> (Millis, Millis) {
        match *self {
            Validity::Fixed { from, until } => (from, until),
            Validity::Relative { days, delay_days, end_of_day } => {
                let local = utc(acquired).with_timezone(&zone).naive_local();
                let from = if delay_days == 0 { acquired } else { resolve(zone, local + Days::new(delay_days.into())) };
                let last = local + Days::new((delay_days + days).into());
                let expires =
                    if end_of_day { start_of_day(zone, last.date() + Days::new(1)) } else { resolve(zone, last) };
                (from, expires)
            }
        }
    }
}

/// Writes a time as RFC 3339 with the zone's offset at that time, milliseconds included.
pub fn rfc3339(zone: Tz, at: Millis) -> String {
    utc(at).with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Millis, false)
}

/// The time as chrono has it. Out-of-range values (year 262,000) become the epoch.
pub fn utc(at: Millis) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(at).unwrap_or_default()
}

fn start_of_day(zone: Tz, date: NaiveDate) -> Millis {
    resolve(zone, date.and_time(NaiveTime::MIN))
}

/// The moment of a local time. A time that happens twice is its first; a time that daylight
/// saving skips is the moment of the jump.
fn resolve(zone: Tz, local: NaiveDateTime) -> Millis {
    match zone.from_local_datetime(&local) {
        LocalResult::Single(at) => at.timestamp_millis(),
        LocalResult::Ambiguous(first, second) => first.min(second).timestamp_millis(),
        LocalResult::None => {
            // The jump lies where the offset changes: search the 26 hours around by bisection.
            let guess = Utc.from_utc_datetime(&local).timestamp_millis();
            let (mut before, mut after) = (guess - 26 * HOUR, guess + 26 * HOUR);
            while after - before > 1 {
                let middle = before + (after - before) / 2;
                if utc(middle).with_timezone(&zone).naive_local() < local {
                    before = middle;
                } else {
                    after = middle;
                }
            }
            after
        }
    }
}

const HOUR: Millis = 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Millis {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    fn zone(name: &str) -> Tz {
        name.parse().unwrap()
    }

    #[test]
    fn days_around_daylight_saving() {
        let cases = [
            ("Asia/Shanghai", "2026-06-18T12:00:00+08:00", "2026-06-18T00:00:00+08:00", "2026-06-19T00:00:00+08:00"),
            ("America/New_York", "2026-03-08T12:00:00-04:00", "2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00"),
            ("America/New_York", "2026-11-01T12:00:00-05:00", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"),
            ("Europe/London", "2026-10-25T12:00:00Z", "2026-10-25T00:00:00+01:00", "2026-10-26T00:00:00Z"),
            (
                "Australia/Lord_Howe",
                "2026-10-04T12:00:00+11:00",
                "2026-10-04T00:00:00+10:30",
                "2026-10-05T00:00:00+11:00",
            ),
            // Sao Paulo skipped midnight itself: the day began at one o'clock.
            (
                "America/Sao_Paulo",
                "2018-11-04T12:00:00-02:00",
                "2018-11-04T01:00:00-02:00",
                "2018-11-05T00:00:00-02:00",
            ),
            // Samoa skipped 2011-12-30 altogether.
            ("Pacific/Apia", "2011-12-29T12:00:00-10:00", "2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00"),
        ];
        for (name, now, start, end) in cases {
            assert_eq!(Day::of(zone(name), at(now)), Day { start: at(start), end: at(end) }, "{name} {now}");
        }
    }

    #[test]
    fn relative_validity_keeps_the_local_time() {
        let week = Validity::Relative { days: 7, delay_days: 0, end_of_day: false };
        let acquired = at("2026-10-01T10:00:00+08:00");
        assert_eq!(week.span(zone("Asia/Shanghai"), acquired), (acquired, at("2026-10-08T10:00:00+08:00")));

        let over_the_change = at("2026-03-07T10:00:00-05:00");
        assert_eq!(week.span(zone("America/New_York"), over_the_change).1, at("2026-03-14T10:00:00-04:00"));

        let to_midnight = Validity::Relative { days: 1, delay_days: 2, end_of_day: true };
        let (from, until) = to_midnight.span(zone("Asia/Shanghai"), acquired);
        assert_eq!((from, until), (at("2026-10-03T10:00:00+08:00"), at("2026-10-05T00:00:00+08:00")));

        // 02:30 does not exist on 2026-03-08 in New York: the moment of the jump stands for it.
        let skipped = Validity::Relative { days: 1, delay_days: 0, end_of_day: false };
        assert_eq!(
            skipped.span(zone("America/New_York"), at("2026-03-07T02:30:00-05:00")).1,
            at("2026-03-08T03:00:00-04:00")
        );
    }

    #[test]
    fn times_carry_the_offset() {
        assert_eq!(rfc3339(zone("Asia/Shanghai"), at("2026-11-10T16:00:00.123Z")), "2026-11-11T00:00:00.123+08:00");
    }

    proptest! {
        #[test]
        fn every_moment_lies_in_its_day_and_days_join(name in prop::sample::select(vec!["Asia/Shanghai", "America/New_York", "Europe/London", "Australia/Lord_Howe", "America/Sao_Paulo", "Africa/Casablanca", "Pacific/Apia", "UTC"]), now in 1_262_304_000_000i64..1_893_456_000_000) {
            let day = Day::of(zone(name), now);
            prop_assert!(day.contains(now));
            prop_assert!((20 * HOUR..=28 * HOUR).contains(&(day.end - day.start)), "{:?}", day);
            prop_assert_eq!(Day::of(zone(name), day.end).start, day.end);
            prop_assert_eq!(Day::of(zone(name), day.start), day);
            prop_assert_eq!(Day::of(zone(name), day.end - 1), day);
        }
    }
}
