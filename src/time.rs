//! Times and durations: as names show them, as people write them.

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, SpanFieldwise, SpanRelativeTo, Timestamp, ZonedDateTime};

use crate::entry::Time;
use crate::error::{Error, Result};
use crate::path::Escaped;

// The first second of the year 0.
const YEAR_0: i64 = -62_167_219_200;
// The first stamp that there is, and the last.
const FIRST_STAMP: &str = "00000101T000000Z";
const LAST_STAMP: &str = "99991231T235959Z";

/// The stamp that an archived version carries: its mtime in UTC, as in `20261123T125400Z`. A time before the year 0 has the
/// first stamp there is, one in the last two days of 9999 (which jiff does not know in every time zone) or later the last.
pub fn stamp(mtime: Time) -> String {
    match Timestamp::from_second(mtime.seconds()) {
        _ if mtime.seconds() < YEAR_0 => FIRST_STAMP.to_owned(),
        Ok(second) => second.strftime("%Y%m%dT%H%M%SZ").to_string(),
        Err(_) => LAST_STAMP.to_owned(),
    }
}

/// A file's time for people; seconds since 1970 after `@`, as touch(1) reads them, where the calendar has no more years.
pub fn show_file_time(time: Time) -> String {
    let known = Timestamp::new(time.seconds(), time.nanoseconds() as i32);
    known.map_or_else(|_| format!("@{}", time.seconds()), show_time)
}

/// Now, as the log shows it.
pub fn log_time() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A moment as the index has it: nanoseconds since 1970 UTC, or the nearest number that 64 bits can hold.
pub fn clamped_nanoseconds(time: Timestamp) -> i64 {
    Time::new(time.as_second(), time.subsec_nanosecond().into()).clamped()
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

/// Reads a stretch of the calendar as restic and borg write it: years, months, weeks, days and hours, as in `1y6m2w3d12h`.
/// A month is one of the calendar, and as long as that.
pub fn parse_calendar_span(text: &str) -> Result<SpanFieldwise> {
    let wrong = || {
        Error::usage(format_args!("`{}` is no stretch of the calendar", Escaped(text.as_bytes())))
            .hint("write it as in `30d`, `6m` (months) or `1y6m2w3d12h`")
    };
    let (mut span, mut rest) = (Span::new(), text);
    while let Some(end) = rest.find(|c: char| !c.is_ascii_digit()) {
        let number: i64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = rest[end..].chars().next().ok_or_else(wrong)?;
        let with = match unit {
            'y' => span.try_years(number),
            'm' => span.try_months(number),
            'w' => span.try_weeks(number),
            'd' => span.try_days(number),
            'h' | 'H' => span.try_hours(number),
            _ => return Err(wrong()),
        };
        span = with.map_err(|_| wrong())?;
        rest = &rest[end + unit.len_utf8()..];
    }
    if rest.is_empty() && !text.is_empty() { Ok(span.fieldwise()) } else { Err(wrong()) }
}

/// A moment as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// A point in time.
    At(Timestamp),
    /// The end of a run.
    Run(i64),
    /// The newest state, whatever any clock shows.
    Now,
}

/// Reads a moment: RFC 3339, `2026-11-23`, `2026-11-23 14:00` (in the time zone of this machine), `now`, `today`,
/// `yesterday`, a duration for so long before `now`, as in `3d`, or a run's number. A day alone means its end.
pub fn parse_when(text: &str, now: &ZonedDateTime) -> Result<When> {
    let wrong = || {
        Error::usage(format_args!("`{}` is no time", Escaped(text.as_bytes())))
            .hint("write it as in `2026-11-23`, `2026-11-23 14:00`, `yesterday`, `3d`, or a run's number")
    };
    let end_of = |day: Date| {
        let next = day.tomorrow().and_then(|next| next.to_zoned_datetime(now.time_zone().clone()));
        next.map(|next| When::At(next.timestamp() - Span::new().nanoseconds(1))).map_err(|_| wrong())
    };
    match text {
        "now" => return Ok(When::Now),
        "today" => return end_of(now.date()),
        "yesterday" => return end_of(now.date().yesterday().map_err(|_| wrong())?),
        _ => {}
    }
    if let Ok(number) = text.parse::<u32>() {
        return Ok(When::Run(number.into()));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(When::At(time));
    }
    // A date alone would be read as its midnight.
    if text.len() == "2026-11-23".len()
        && let Ok(day) = text.parse::<Date>()
    {
        return end_of(day);
    }
    if let Ok(local) = text.parse::<DateTime>() {
        let zoned = local.to_zoned_datetime(now.time_zone().clone()).map_err(|_| wrong())?;
        return Ok(When::At(zoned.timestamp()));
    }
    let ago = parse_duration(text).map_err(|_| wrong())?;
    Ok(When::At(now.timestamp().checked_sub(ago).map_err(|_| wrong())?))
}

/// A time for people, in the time zone of this machine: `2026-11-23 14:00:00`.
pub fn show_time(time: Timestamp) -> String {
    time.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A number of seconds for people: `0.3 s`, `4.2 s`, `3 min 20 s`, `1 h 5 min`, `3 d 2 h`.
pub fn show_seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..172_800 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moment_beyond_64_bits_is_the_nearest() {
        let at = |text: &str| clamped_nanoseconds(text.parse().unwrap());
        assert_eq!(at("1970-01-01T00:00:01.5Z"), 1_500_000_000);
        assert_eq!(at("1969-12-31T23:59:59.5Z"), -500_000_000);
        assert_eq!((at("2262-04-12T00:00:00Z"), at("9000-01-01T00:00:00Z")), (i64::MAX, i64::MAX));
        assert_eq!(at("1677-09-20T00:00:00Z"), i64::MIN);
    }

    #[test]
    fn stamps_are_utc_to_the_second() {
        for (seconds, expected) in [
            (1_795_438_440, "20261123T125400Z"),
            (-1, "19691231T235959Z"),
            (-315_619_200, "19600101T000000Z"),
            (4_102_444_800, "21000101T000000Z"),
            (32_503_680_000, "30000101T000000Z"),
            (-20_000_000_000, "13360323T122640Z"),
            (-62_167_219_200, "00000101T000000Z"),
            (-62_167_219_201, "00000101T000000Z"),
            (253_402_207_200, "99991230T220000Z"),
            (253_402_300_800, "99991231T235959Z"),
            (i64::MIN, "00000101T000000Z"),
            (i64::MAX, "99991231T235959Z"),
        ] {
            assert_eq!(stamp(Time::new(seconds, 999_999_999)), expected, "{seconds}");
        }
    }

    #[test]
    fn times_beyond_the_calendar_are_shown_as_seconds() {
        assert_eq!(show_file_time(Time::new(i64::MAX, 5)), "@9223372036854775807");
        assert_eq!(show_file_time(Time::new(i64::MIN, 5)), "@-9223372036854775808");
        assert!(show_file_time(Time::new(32_503_680_000, 5)).contains("-01 "));
    }

    #[test]
    fn moments_are_read_as_people_write_them() {
        // Clocks went back on 25 October 2026 in Berlin.
        let now: ZonedDateTime = "2026-10-26T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        for (text, utc) in [
            ("2026-10-24T10:00:00Z", "2026-10-24T10:00:00Z"),
            ("2026-10-24T10:00:00+02:00", "2026-10-24T08:00:00Z"),
            ("2026-10-24 14:00", "2026-10-24T12:00:00Z"),
            ("2026-10-26 11:00", "2026-10-26T10:00:00Z"),
            ("2026-10-25", "2026-10-25T22:59:59.999999999Z"),
            ("2026-10-24", "2026-10-24T21:59:59.999999999Z"),
            ("yesterday", "2026-10-25T22:59:59.999999999Z"),
            ("3d", "2026-10-23T11:00:00Z"),
            ("90m", "2026-10-26T09:30:00Z"),
            // Half past two came twice that night: the first is meant. In March it never came: what a clock that was
            // not set shows.
            ("2026-10-25 02:30", "2026-10-25T00:30:00Z"),
            ("2026-03-29 02:30", "2026-03-29T01:30:00Z"),
        ] {
            assert_eq!(parse_when(text, &now).unwrap(), When::At(utc.parse().unwrap()), "{text}");
        }
        assert_eq!(parse_when("17", &now).unwrap(), When::Run(17));
        assert_eq!(parse_when("now", &now).unwrap(), When::Now);
        for text in ["", "soon", "2026-13-01", "-3d"] {
            assert!(parse_when(text, &now).is_err(), "{text}");
        }
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
    fn stretches_of_the_calendar_are_read_as_restic_and_borg_do() {
        for (text, span) in [
            ("30d", Span::new().days(30)),
            ("6m", Span::new().months(6)),
            ("1y6m2w3d12h", Span::new().years(1).months(6).weeks(2).days(3).hours(12)),
            ("24H", Span::new().hours(24)),
        ] {
            assert_eq!(parse_calendar_span(text).unwrap(), span.fieldwise(), "{text}");
        }
        for text in ["", "5", "m", "90s", "10min", "-1d", "1d ", "99999999999999999999y", "1000000y"] {
            assert!(parse_calendar_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_are_shown_in_fitting_units() {
        assert_eq!(show_seconds(0.26), "0.3 s");
        assert_eq!(show_seconds(200.0), "3 min 20 s");
        assert_eq!(show_seconds(3900.0), "1 h 5 min");
        assert_eq!(show_seconds(100_000.0), "27 h 46 min");
        assert_eq!(show_seconds(266_500.0), "3 d 2 h");
    }
}
