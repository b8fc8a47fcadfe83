//! Times of files, as exactly as `stat` reports them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const NANOSECONDS: i64 = 1_000_000_000;

/// A time since 1970 UTC in nanoseconds, of any year that 64 bits of seconds can hold. On the wire it is one `i128`, whose
/// encoding is that of an `i64` where one suffices: from 1677-09-21 to 2262-04-11.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i128", into = "i128")]
pub struct Time {
    seconds: i64,
    // Below `NANOSECONDS`.
    nanoseconds: u32,
}

impl Time {
    /// The time of a `timespec`. A second has fewer than 10^9 nanoseconds; if a file system says more, the rest is carried.
    pub const fn new(seconds: i64, nanoseconds: i64) -> Time {
        let seconds = seconds.saturating_add(nanoseconds.div_euclid(NANOSECONDS));
        Time { seconds, nanoseconds: nanoseconds.rem_euclid(NANOSECONDS) as u32 }
    }

    /// Whole seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// The nanoseconds of the second, below 10^9.
    pub fn nanoseconds(self) -> u32 {
        self.nanoseconds
    }

    /// The nearest number of nanoseconds since 1970 that 64 bits can hold.
    pub fn clamped(self) -> i64 {
        let total = i128::from(self);
        i64::try_from(total).unwrap_or(if total < 0 { i64::MIN } else { i64::MAX })
    }

    /// The lowest 64 bits of the number of nanoseconds since 1970: that number itself, unless the time is
    /// [far](Time::is_far). For times that are only compared with each other, such as a ctime.
    pub fn wrapped(self) -> i64 {
        i128::from(self) as i64
    }

    /// True if a file system that has no finer unit than two seconds, as FAT has, may have made this of `exact` by rounding
    /// it down.
    pub fn rounds(self, exact: Time) -> bool {
        (0..2 * i128::from(NANOSECONDS)).contains(&(i128::from(exact) - i128::from(self)))
    }

    /// True for a time of which [`clamped`](Time::clamped) gives another one.
    pub fn is_far(self) -> bool {
        i64::try_from(i128::from(self)).is_err()
    }

    /// The number of nanoseconds, lowest byte first: 8 bytes, or 16 for a time that is [far](Time::is_far).
    pub fn to_bytes(self) -> Vec<u8> {
        let total = i128::from(self);
        i64::try_from(total).map_or_else(|_| total.to_le_bytes().to_vec(), |total| total.to_le_bytes().to_vec())
    }
}

impl From<i64> for Time {
    fn from(nanoseconds: i64) -> Time {
        Time::new(0, nanoseconds)
    }
}

impl From<Time> for i128 {
    fn from(time: Time) -> i128 {
        i128::from(time.seconds) * i128::from(NANOSECONDS) + i128::from(time.nanoseconds)
    }
}

impl TryFrom<i128> for Time {
    type Error = &'static str;

    fn try_from(total: i128) -> Result<Time, &'static str> {
        let second = i128::from(NANOSECONDS);
        let seconds = i64::try_from(total.div_euclid(second)).map_err(|_| "a time that cannot be")?;
        Ok(Time { seconds, nanoseconds: total.rem_euclid(second) as u32 })
    }
}

/// Seconds with nine decimal places, as in `-20000000000.000000000`.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (total, second) = (i128::from(*self), u128::from(NANOSECONDS.unsigned_abs()));
        let sign = if total < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:09}", total.unsigned_abs() / second, total.unsigned_abs() % second)
    }
}

/// From what [`Display`](fmt::Display) writes, and nothing else.
impl FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Time, &'static str> {
        let wrong = "no time";
        let (whole, fraction) = text.split_once('.').ok_or(wrong)?;
        let total = [whole, fraction].concat().parse::<i128>().map_err(|_| wrong)?;
        let time = Time::try_from(total)?;
        if time.to_string() == text { Ok(time) } else { Err(wrong) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_3000: i64 = 32_503_680_000;

    #[test]
    fn near_time_is_encoded_like_an_i64() {
        for nanoseconds in [0, 1, -1, 1_795_438_440_999_999_999, i64::MIN, i64::MAX] {
            let encoded = postcard::to_stdvec(&nanoseconds).unwrap();
            assert_eq!(postcard::to_stdvec(&Time::from(nanoseconds)).unwrap(), encoded);
            assert_eq!(postcard::from_bytes(&encoded), Ok(Time::from(nanoseconds)));
            assert_eq!((Time::from(nanoseconds).clamped(), Time::from(nanoseconds).is_far()), (nanoseconds, false));
        }
    }

    #[test]
    fn far_time_is_decoded_exactly_and_by_no_i64() {
        for (seconds, nanoseconds) in
            [(YEAR_3000, 1), (-20_000_000_000, 999_999_999), (i64::MIN, 0), (i64::MAX, 999_999_999)]
        {
            let time = Time::new(seconds, nanoseconds);
            let encoded = postcard::to_stdvec(&time).unwrap();
            assert_eq!(postcard::from_bytes(&encoded), Ok(time));
            assert!(postcard::from_bytes::<i64>(&encoded).is_err());
            assert_eq!(time.to_string().parse(), Ok(time));
            assert_eq!((time.seconds(), i64::from(time.nanoseconds())), (seconds, nanoseconds));
            assert_eq!((time.clamped(), time.is_far()), (if seconds < 0 { i64::MIN } else { i64::MAX }, true));
        }
    }

    #[test]
    fn wrapped_times_differ_where_clamped_ones_do_not() {
        for time in [Time::new(YEAR_3000, 1), Time::new(-20_000_000_000, 5), Time::from(7)] {
            let later = Time::new(time.seconds() + 1, time.nanoseconds().into());
            assert_eq!(later.wrapped().wrapping_sub(time.wrapped()), NANOSECONDS);
        }
        assert_eq!(Time::from(-7).wrapped(), -7);
    }

    #[test]
    fn time_is_rounded_down_by_less_than_two_seconds() {
        let exact = Time::new(101, 5);
        for rounded in [exact, Time::new(101, 0), Time::new(100, 0)] {
            assert!(rounded.rounds(exact), "{rounded}");
        }
        for other in [Time::new(99, 0), Time::new(102, 0), Time::new(99, 5), Time::new(i64::MIN, 0)] {
            assert!(!other.rounds(exact), "{other}");
        }
        assert!(Time::new(-102, 0).rounds(Time::new(-101, 999_999_999)));
    }

    #[test]
    fn more_seconds_than_a_file_can_have_do_not_decode() {
        for total in
            [i128::from(Time::new(i64::MAX, 999_999_999)) + 1, i128::from(Time::new(i64::MIN, 0)) - 1, i128::MAX]
        {
            assert!(postcard::from_bytes::<Time>(&postcard::to_stdvec(&total).unwrap()).is_err());
        }
    }

    #[test]
    fn times_are_ordered_and_nanoseconds_are_carried() {
        let times =
            [Time::new(i64::MIN, 0), Time::from(i64::MIN), Time::from(-1), Time::from(0), Time::new(YEAR_3000, 0)];
        assert!(times.is_sorted());
        assert_eq!(Time::new(1, 2_500_000_000), Time::new(3, 500_000_000));
        assert_eq!(Time::new(1, -1), Time::from(999_999_999));
    }

    #[test]
    fn text_of_a_time_has_one_form() {
        assert_eq!(Time::from(-1_250_000_000).to_string(), "-1.250000000");
        for text in ["", "1", "1.5", "+1.000000000", "01.000000000", "-0.000000000", "1.-00000001", "x.000000000"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }
}
