//! Instants in `before` and `after`: reading dates and milliseconds, without allocation.
//!
//! What must hold: a text is RFC 3339 and nothing more, so that no two readers can disagree on it:
//!
//! ```text
//! 2026-11-22T17:00:00.5+01:00     date, T or t or a space, time with seconds, fraction or none, offset
//! ```
//!
//! The offset is `Z`, `z` or hours to 23 and minutes to 59. Years are 0000 to 9999, in the Gregorian
//! calendar also before it was in use. Digits of a fraction after the ninth are cut off. A leap
//! second (60) is read as second 59. A number is milliseconds since 1970, at most 2^53 away, so that JSON
//! carries it exactly; a fraction of it is rounded down.
//!
//! Left out: time zones by name, week dates, durations, and what time it is. The crate `jiff` is the
//! yardstick in the tests; it reads much more than RFC 3339.

use std::fmt;

use serde::{Deserialize, Serialize};

const DAY_SECONDS: i64 = 86_400;

/// The largest distance from 1970 of an instant given as a number.
const MILLIS_MAX: i64 = 1 << 53;

/// 0000-01-01T00:00:00Z.
const YEAR_0: i64 = -62_167_219_200;

/// 10000-01-01T00:00:00Z.
const YEAR_10000: i64 = 253_402_300_800;

/// The largest offset of a text, in seconds.
const OFFSET_MAX: i64 = (23 * 60 + 59) * 60;

/// A point in time, to the nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Instant {
    /// Whole seconds since 1970-01-01T00:00:00Z, rounded down.
    seconds: i64,
    nanoseconds: u32,
}

impl Instant {
    /// Reads RFC 3339 text; nothing when it is anything else.
    pub fn parse(text: &str) -> Option<Instant> {
        let mut rest = Rest(text.as_bytes());
        let (year, month, day) = (rest.number(4)?, rest.dashed()?, rest.dashed()?);
        rest.one_of(b"Tt ")?;
        let (hour, minute, second) = (rest.number(2)?, rest.coloned()?, rest.coloned()?);
        let nanoseconds = rest.fraction()?;
        let offset = rest.offset()?;
        let valid = (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day)
            && hour <= 23
            && minute <= 59
            && second <= 60
            && rest.0.is_empty();
        let days = days_since_1970(year, month, day);
        let seconds = days * DAY_SECONDS + hour * 3_600 + minute * 60 + second.min(59) - offset;
        valid.then_some(Instant {
            seconds,
            nanoseconds,
        })
    }

    /// Reads milliseconds since 1970, rounded down to whole ones; nothing when they are not a number
    /// or more than 2^53 away.
    pub fn from_millis(millis: f64) -> Option<Instant> {
        // Exact: 2^53 is a power of two. A NaN is in no range.
        let max = MILLIS_MAX as f64;
        (-max..=max).contains(&millis).then(|| {
            // Exact as well: whole, and at most 2^53.
            let millis = millis.floor() as i64;
            Instant {
                seconds: millis.div_euclid(1_000),
                nanoseconds: millis.rem_euclid(1_000) as u32 * 1_000_000,
            }
        })
    }
}

/// Shows RFC 3339 in UTC; years that it cannot write as milliseconds since 1970, rounded down.
impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !(YEAR_0..YEAR_10000).contains(&self.seconds) {
            let millis = i64::from(self.nanoseconds / 1_000_000);
            return write!(f, "{}", self.seconds * 1_000 + millis);
        }
        let (year, month, day) = date(self.seconds.div_euclid(DAY_SECONDS));
        let second = self.seconds.rem_euclid(DAY_SECONDS);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        if self.nanoseconds > 0 {
            let (mut fraction, mut width) = (self.nanoseconds, 9);
            while fraction % 10 == 0 {
                (fraction, width) = (fraction / 10, width - 1);
            }
            write!(f, ".{fraction:0width$}")?;
        }
        f.write_str("Z")
    }
}

/// An instant as it is stored, before it is known to be one.
#[derive(Deserialize)]
struct Unchecked {
    seconds: i64,
    nanoseconds: u32,
}

impl TryFrom<Unchecked> for Instant {
    type Error = &'static str;

    fn try_from(unchecked: Unchecked) -> Result<Instant, &'static str> {
        let Unchecked {
            seconds,
            nanoseconds,
        } = unchecked;
        let from_text = (YEAR_0 - OFFSET_MAX..YEAR_10000 + OFFSET_MAX).contains(&seconds);
        let millis = i64::from(nanoseconds / 1_000_000);
        let millis = seconds.checked_mul(1_000).map(|s| s.saturating_add(millis));
        let from_number = nanoseconds % 1_000_000 == 0
            && millis.is_some_and(|millis| (-MILLIS_MAX..=MILLIS_MAX).contains(&millis));
        if nanoseconds < 1_000_000_000 && (from_text || from_number) {
            Ok(Instant {
                seconds,
                nanoseconds,
            })
        } else {
            Err("not an instant")
        }
    }
}

/// The part of a text that is still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn one_of(&mut self, allowed: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        if !allowed.contains(first) {
            return None;
        }
        self.0 = rest;
        Some(*first)
    }

    fn digit(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        let digit = first.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        self.0 = rest;
        Some(digit)
    }

    fn number(&mut self, digits: usize) -> Option<i64> {
        (0..digits).try_fold(0, |number, _| Some(number * 10 + i64::from(self.digit()?)))
    }

    fn dashed(&mut self) -> Option<i64> {
        self.one_of(b"-")?;
        self.number(2)
    }

    fn coloned(&mut self) -> Option<i64> {
        self.one_of(b":")?;
        self.number(2)
    }

    /// Nanoseconds; 0 when there is no fraction, nothing when there is a point without digits.
    fn fraction(&mut self) -> Option<u32> {
        if self.one_of(b".").is_none() {
            return Some(0);
        }
        let (mut nanoseconds, mut unit) = (0, 100_000_000);
        let mut digit = self.digit()?;
        loop {
            nanoseconds += u32::from(digit) * unit;
            unit /= 10;
            match self.digit() {
                Some(next) => digit = next,
                None => return Some(nanoseconds),
            }
        }
    }

    /// Seconds that local time is ahead of UTC.
    fn offset(&mut self) -> Option<i64> {
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let (hours, minutes) = (self.number(2)?, self.coloned()?);
        (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes) * 60)
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 0000-03-01 to 1970-01-01. Years that begin in March have their leap day at the end.
const DAYS_TO_1970: i64 = 719_468;

/// Days of 400 years, after which the calendar repeats.
const DAYS_OF_400_YEARS: i64 = 146_097;

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // Months from March on have 31, 30, 31, 30, 31 days, again and again.
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + leap_days + day_of_year - DAYS_TO_1970
}

/// The inverse of [`days_since_1970`]: year, month, day.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_1970;
    let cycle = days.div_euclid(DAYS_OF_400_YEARS);
    let day = days.rem_euclid(DAYS_OF_400_YEARS);
    // Take out the leap days, so that every year has 365.
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = cycle * 400 + year;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bincode::Options;
    use proptest::prelude::*;

    fn instant(seconds: i64, nanoseconds: u32) -> Instant {
        Instant {
            seconds,
            nanoseconds,
        }
    }

    /// Seconds and nanoseconds, the latter never negative.
    fn by_jiff(text: &str) -> Option<Instant> {
        let timestamp: jiff::Timestamp = text.parse().ok()?;
        let nanoseconds = timestamp.as_nanosecond();
        Some(instant(
            nanoseconds.div_euclid(1_000_000_000) as i64,
            nanoseconds.rem_euclid(1_000_000_000) as u32,
        ))
    }

    #[test]
    fn the_same_instant_can_be_written_in_many_ways() {
        let same = [
            "2026-11-22T16:00:00Z",
            "2026-11-22t16:00:00z",
            "2026-11-22 16:00:00+00:00",
            "2026-11-22T16:00:00-00:00",
            "2026-11-22T16:00:00.000Z",
            "2026-11-22T16:00:00.00000000099999Z",
            "2026-11-23T15:59:00+23:59",
            "2026-11-21T16:01:00-23:59",
        ];
        for text in same {
            assert_eq!(
                Instant::parse(text),
                Some(instant(1_795_363_200, 0)),
                "{text}"
            );
        }
        let leap = Instant::parse("2016-12-31T23:59:60.25Z").unwrap();
        assert_eq!(leap.to_string(), "2016-12-31T23:59:59.25Z");
    }

    #[test]
    fn anything_but_rfc_3339_is_refused() {
        let wrong = [
            "",
            "2026-11-22",
            "2026-11-22T16:00:00",
            "2026-11-22T16:00Z",
            "2026-11-22T16:00:00.Z",
            "2026-11-22T16:00:00,5Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T16:60:00Z",
            "2026-11-22T16:00:61Z",
            "2026-11-22T16:00:00+24:00",
            "2026-11-22T16:00:00+01:60",
            "2026-11-22T16:00:00+0100",
            "2026-11-22T16:00:00+01",
            "2026-11-22T16:00:00 Z",
            "2026-11-22T16:00:00ZZ",
            "2026-11-22T16:00:00Z ",
            " 2026-11-22T16:00:00Z",
            "2026-11-22_16:00:00Z",
            "2026-00-22T16:00:00Z",
            "2026-13-22T16:00:00Z",
            "2026-11-00T16:00:00Z",
            "2026-11-31T16:00:00Z",
            "2026-02-29T16:00:00Z",
            "1900-02-29T16:00:00Z",
            "26-11-22T16:00:00Z",
            "+2026-11-22T16:00:00Z",
            "-2026-11-22T16:00:00Z",
            "2026-11-22T16:00:00\u{2212}01:00",
            "２026-11-22T16:00:00Z",
            "1795363200000",
        ];
        for text in wrong {
            assert_eq!(Instant::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_jiff_reads_beyond_rfc_3339_is_listed_here() {
        let more = [
            // No seconds; seconds may not be left out in RFC 3339.
            "2026-11-22T16:00Z",
            "2026-11-22T16Z",
            // The basic format of ISO 8601.
            "20261122T160000Z",
            // A comma before the fraction.
            "2026-11-22T16:00:00,5Z",
            // Offsets without colon, without minutes, with seconds, or of more than a day.
            "2026-11-22T16:00:00+0100",
            "2026-11-22T16:00:00+01",
            "2026-11-22T16:00:00+01:00:30",
            "2026-11-22T16:00:00+25:59",
            // Years with a sign and six digits.
            "+002026-11-22T16:00:00Z",
            "-002026-11-22T16:00:00Z",
            // A time zone or calendar beside the offset.
            "2026-11-22T16:00:00Z[UTC]",
            "2026-11-22T16:00:00Z[u-ca=iso8601]",
        ];
        for text in more {
            assert!(by_jiff(text).is_some(), "{text}");
            assert_eq!(Instant::parse(text), None, "{text}");
        }
        // The other way: more digits than nanoseconds have, and the last day of year 9999.
        let ours = ["2026-11-22T16:00:00.1234567891Z", "9999-12-31T23:59:59Z"];
        for text in ours {
            assert!(Instant::parse(text).is_some(), "{text}");
            assert_eq!(by_jiff(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_800_years_is_that_of_jiff() {
        let mut day = jiff::civil::date(1600, 1, 1);
        let mut days = day
            .to_zoned(jiff::tz::TimeZone::UTC)
            .unwrap()
            .timestamp()
            .as_second();
        days /= DAY_SECONDS;
        while day.year() < 2400 {
            let (year, month) = (i64::from(day.year()), i64::from(day.month()));
            let ours = (year, month, i64::from(day.day()));
            assert_eq!(days_since_1970(ours.0, ours.1, ours.2), days, "{day}");
            assert_eq!(date(days), ours, "{day}");
            assert_eq!(
                days_in_month(year, month),
                i64::from(day.days_in_month()),
                "{day}"
            );
            (day, days) = (day.tomorrow().unwrap(), days + 1);
        }
    }

    #[test]
    fn the_first_and_last_text_are_at_the_bounds() {
        let first = Instant::parse("0000-01-01T00:00:00+23:59").unwrap();
        assert_eq!(first, instant(YEAR_0 - OFFSET_MAX, 0));
        let last = Instant::parse("9999-12-31T23:59:59.999999999-23:59").unwrap();
        assert_eq!(last, instant(YEAR_10000 + OFFSET_MAX - 1, 999_999_999));
        assert_eq!(first.to_string(), "-62167305540000");
        assert_eq!(last.to_string(), "253402387139999");
        let utc = ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z"];
        for text in utc {
            assert_eq!(Instant::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn milliseconds_are_rounded_down_and_bounded() {
        let found = |millis: f64| Instant::from_millis(millis).map(|i| i.to_string());
        assert_eq!(found(0.0).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(found(-0.0).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(found(1.999).unwrap(), "1970-01-01T00:00:00.001Z");
        assert_eq!(found(-0.001).unwrap(), "1969-12-31T23:59:59.999Z");
        assert_eq!(found(9_007_199_254_740_992.0).unwrap(), "9007199254740992");
        assert_eq!(
            found(-9_007_199_254_740_992.0).unwrap(),
            "-9007199254740992"
        );
        let wrong = [
            9_007_199_254_740_994.0,
            -9_007_199_254_740_994.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ];
        for millis in wrong {
            assert_eq!(Instant::from_millis(millis), None, "{millis}");
        }
    }

    #[test]
    fn only_what_can_be_read_can_be_decoded() {
        let right = [
            (YEAR_0 - OFFSET_MAX, 1),
            (YEAR_10000 + OFFSET_MAX - 1, 999_999_999),
            (9_007_199_254_740, 992_000_000),
            (-9_007_199_254_741, 8_000_000),
        ];
        let wrong = [
            (0, 1_000_000_000),
            (YEAR_0 - OFFSET_MAX - 1, 1),
            (YEAR_10000 + OFFSET_MAX, 1),
            (9_007_199_254_740, 993_000_000),
            (-9_007_199_254_741, 7_000_000),
            (i64::MAX, 0),
            (i64::MIN, 0),
        ];
        let decode = |parts: (i64, u32)| {
            let options = crate::encoding::positional(1_000);
            let bytes = options.serialize(&parts).unwrap();
            crate::encoding::positional(1_000).deserialize::<Instant>(&bytes)
        };
        for (seconds, nanoseconds) in right {
            let found = decode((seconds, nanoseconds)).unwrap();
            assert_eq!(found, instant(seconds, nanoseconds));
        }
        for parts in wrong {
            assert!(decode(parts).is_err(), "{parts:?}");
        }
    }

    /// Texts that are mostly right, in any spelling.
    fn texts() -> impl Strategy<Value = String> {
        let date = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])";
        let time = "([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\\.[0-9]{1,9})?";
        let offset = "(Z|z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
        proptest::string::string_regex(&format!("{date}[Tt ]{time}{offset}")).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        #[test]
        fn right_texts_are_read_as_by_jiff(text in texts()) {
            let ours = Instant::parse(&text);
            // Jiff ends a day earlier, so that every offset can be applied.
            if ours.is_none_or(|i| (YEAR_0..YEAR_10000 - 2 * DAY_SECONDS).contains(&i.seconds)) {
                prop_assert_eq!(ours, by_jiff(&text), "{}", text);
            }
            if let Some(ours) = ours && (YEAR_0..YEAR_10000).contains(&ours.seconds) {
                prop_assert_eq!(Instant::parse(&ours.to_string()), Some(ours), "{}", ours);
            }
        }

        #[test]
        fn what_is_read_of_mutated_texts_jiff_reads_the_same(
            text in texts(),
            at in any::<proptest::sample::Index>(),
            len in 0..3_usize,
            with in "[0-9TtZz:.+ ,\\[-]{0,2}|\\PC",
        ) {
            let mut text = text;
            let at = at.index(text.len());
            text.replace_range(at..(at + len).min(text.len()), &with);
            if let Some(ours) = Instant::parse(&text)
                && ours.seconds < YEAR_10000 - 2 * DAY_SECONDS
                && text.split('.').nth(1).is_none_or(|f| f.trim_end_matches(['Z', 'z']).len() <= 9)
            {
                prop_assert_eq!(Some(ours), by_jiff(&text), "{}", text);
            }
        }

        #[test]
        fn milliseconds_and_texts_agree(millis in -62_167_219_200_000_i64..253_402_300_800_000) {
            let ours = Instant::from_millis(millis as f64).unwrap();
            prop_assert_eq!(Instant::parse(&ours.to_string()), Some(ours), "{}", ours);
            let whole = instant(millis.div_euclid(1_000), millis.rem_euclid(1_000) as u32 * 1_000_000);
            prop_assert_eq!(ours, whole);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = Instant::parse(&text);
        }
    }
}
