//! Times and durations: as names show them, as people write them.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo, Timestamp};

use crate::error::{Error, Result};
use crate::path::Escaped;

/// The stamp that an archived version carries: its mtime (nanoseconds) in UTC, as in `20261123T125400Z`.
pub fn stamp(mtime: i64) -> String {
    let second = mtime.div_euclid(1_000_000_000);
    let second = Timestamp::from_second(second).expect("jiff knows every time of an i64 of nanoseconds");
    second.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Now, as the log shows it.
pub fn log_time() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads a duration as people write it: `90s`, `10m`, `1d12h`, `2w`. A day has 24 hours here.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::usage(format_args!("`{}` is no duration", Escaped(text.as_bytes())))
            .hint("write it as in `90s`, `10m`, `1d12h` or `2w`")
    };
    let span: Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(duration).map_err(|_| wrong())
}

/// A number of seconds for people: `0.3 s`, `4.2 s`, `3 min 20 s`, `1 h 5 min`.
pub fn show_seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_utc_to_the_second() {
        assert_eq!(stamp(1_795_438_440_999_999_999), "20261123T125400Z");
        assert_eq!(stamp(-1), "19691231T235959Z");
        assert_eq!(stamp(-315_619_200_000_000_000), "19600101T000000Z");
        assert_eq!(stamp(4_102_444_800_000_000_000), "21000101T000000Z");
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("1d12h", 129_600), ("2w", 1_209_600), ("0s", 0)] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        for text in ["", "5", "soon", "-1d", "1y"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_are_shown_in_fitting_units() {
        assert_eq!(show_seconds(0.26), "0.3 s");
        assert_eq!(show_seconds(200.0), "3 min 20 s");
        assert_eq!(show_seconds(3900.0), "1 h 5 min");
    }
}
