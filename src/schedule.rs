//! When a source is due: once in each period of the local calendar.

use std::fmt;
use std::time::Duration;

use jiff::civil::{DateTime, Time, date};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Result};
use crate::path::Escaped;
use crate::time::show_seconds;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The Monday from which periods of a day and more are counted, so that weeks begin on Mondays.
const FIRST_MONDAY: DateTime = date(1970, 1, 5).to_datetime(Time::midnight());

/// The periods of a source, and the time from which it is due in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    every: Duration,
    at: TimeOfDay,
}

impl Schedule {
    /// A schedule of these keys; `None` when the source is always due. `at` without `every` means once a day.
    pub fn new(every: Option<Duration>, at: Option<TimeOfDay>) -> Result<Option<Schedule>> {
        let every = match (every, at) {
            (Some(every), _) => every,
            (None, Some(_)) => DAY,
            (None, None) => return Ok(None),
        };
        let at = at.unwrap_or_default();
        if every.is_zero() {
            return Ok(None);
        }
        if at.since_midnight().unsigned_abs() >= every {
            let every = show_seconds(every.as_secs_f64());
            return Err(Error::usage(format_args!("`at = \"{at}\"` is not within an `every` of {every}"))
                .hint("`at` is counted from the start of each period: make it shorter than `every`"));
        }
        Ok(Some(Schedule { every, at }))
    }

    /// From when on the source is due, if its runs that count began at these times, oldest first; it is due now unless that is
    /// later than `now`. The time zone is that of `now`.
    pub fn due_from(&self, runs: &[Timestamp], now: &ZonedDateTime) -> Timestamp {
        let (zone, at) = (now.time_zone(), self.at.since_midnight());
        let served = self.newest_served(runs, zone);
        let period = self.period(now.datetime());
        let start = self.start(period, now);
        if served.is_some_and(|served| served >= start) {
            let next = self.after(period);
            return first_showing(next.saturating_add(at), first_showing(next, start, zone), zone);
        }
        let first = first_showing(period.saturating_add(at), start, zone);
        // A period that passed without a run is made up for at once.
        let is_missed = served.is_some_and(|served| served < self.before(period, zone));
        if is_missed { first.min(now.timestamp()) } else { first }
    }

    // When the newest period began that had its run. A run before the time of its period makes up for the one before, if that
    // had none.
    fn newest_served(&self, runs: &[Timestamp], zone: &TimeZone) -> Option<Timestamp> {
        runs.iter().fold(None, |served: Option<Timestamp>, run| {
            let begun = run.to_zoned_datetime(zone.clone());
            let period = self.period(begun.datetime());
            let start = self.start(period, &begun);
            let is_early = *run < first_showing(period.saturating_add(self.at.since_midnight()), start, zone);
            let before = self.before(period, zone);
            let makes_up = is_early && served.is_some_and(|served| served < before);
            served.max(Some(if makes_up { before } else { start }))
        })
    }

    // The local time at which the period of a local time starts. Those shorter than a day are counted from its midnight.
    fn period(&self, local: DateTime) -> DateTime {
        let midnight = local.date().to_datetime(Time::midnight());
        let first = if self.every < DAY { midnight } else { FIRST_MONDAY };
        let length = self.length();
        let periods = local.duration_since(first).as_nanos().div_euclid(length.as_nanos());
        let since = SignedDuration::from_nanos_i128(periods * length.as_nanos());
        first.saturating_add(since)
    }

    // When the period before one began.
    fn before(&self, period: DateTime, zone: &TimeZone) -> Timestamp {
        let before = self.period(period.saturating_sub(SignedDuration::from_nanos(1)));
        first_showing(before, Timestamp::MIN, zone)
    }

    fn after(&self, period: DateTime) -> DateTime {
        let next = period.saturating_add(self.length());
        let midnight = next.date().to_datetime(Time::midnight());
        if self.every < DAY && next.date() != period.date() { midnight } else { next }
    }

    fn length(&self) -> SignedDuration {
        SignedDuration::try_from(self.every).unwrap_or(SignedDuration::MAX)
    }

    // When the period began that has this local start. In the hour that the clock shows twice, a period of a day or more
    // starts once, and a shorter one with each of them.
    fn start(&self, period: DateTime, now: &ZonedDateTime) -> Timestamp {
        let moment = now.time_zone().to_ambiguous_timestamp(period);
        let is_twice = matches!(moment.offset(), AmbiguousOffset::Fold { .. });
        let second = moment.later().ok().filter(|second| is_twice && self.every < DAY && *second <= now.timestamp());
        second.unwrap_or_else(|| first_showing(period, Timestamp::MIN, now.time_zone()))
    }
}

// The first moment from `start` on at which the clock shows this time; for one that it skips, as if it had not been set.
fn first_showing(local: DateTime, start: Timestamp, zone: &TimeZone) -> Timestamp {
    let moment = zone.to_ambiguous_timestamp(local);
    let first = moment.compatible().ok().filter(|first| *first >= start);
    first.or_else(|| moment.later().ok()).unwrap_or(Timestamp::MAX)
}

/// A time of the day, to the minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeOfDay(Time);

impl TimeOfDay {
    fn since_midnight(self) -> SignedDuration {
        self.0.duration_since(Time::midnight())
    }
}

impl std::str::FromStr for TimeOfDay {
    type Err = Error;

    fn from_str(text: &str) -> Result<TimeOfDay> {
        let is_digit = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
        let has_form = text.len() == 5 && text.as_bytes()[2] == b':' && [0, 1, 3, 4].into_iter().all(is_digit);
        let number = |part: &str| part.parse::<i8>().ok();
        let time = has_form.then(|| Some((number(&text[..2])?, number(&text[3..])?))).flatten();
        time.and_then(|(hour, minute)| Time::new(hour, minute, 0, 0).ok()).map(TimeOfDay).ok_or_else(|| {
            Error::usage(format_args!("`{}` is no time of the day", Escaped(text.as_bytes())))
                .hint("write it as in `02:30`")
        })
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0.hour(), self.0.minute())
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<TimeOfDay, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(every: u64, at: &str) -> Schedule {
        let at = Some(at).filter(|at| !at.is_empty()).map(|at| at.parse().unwrap());
        Schedule::new(Some(Duration::from_secs(every)), at).unwrap().unwrap()
    }

    fn berlin(local: &str) -> ZonedDateTime {
        format!("{local}[Europe/Berlin]").parse().unwrap()
    }

    /// From when on it is due, as the clock in Berlin shows it, after runs that are separated by spaces.
    fn due(schedule: Schedule, runs: &str, now: &str) -> String {
        let runs: Vec<_> = runs.split_whitespace().map(|run| berlin(run).timestamp()).collect();
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let from = schedule.due_from(&runs, &berlin(now)).to_zoned_datetime(zone);
        from.strftime("%Y-%m-%dT%H:%M%:z").to_string()
    }

    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAYS: u64 = 24 * HOUR;

    #[test]
    fn daily_source_is_due_once_a_day_however_early_or_late_a_run_begins() {
        let daily = schedule(DAYS, "");
        // Three seconds earlier than the day before.
        assert_eq!(due(daily, "2026-11-22T02:30:03", "2026-11-23T02:30:00"), "2026-11-23T00:00+01:00");
        assert_eq!(due(daily, "2026-11-23T02:30:00", "2026-11-23T23:59:59"), "2026-11-24T00:00+01:00");
        assert_eq!(due(daily, "2026-11-23T00:00:00", "2026-11-23T00:00:00"), "2026-11-24T00:00+01:00");
        assert_eq!(due(daily, "2026-11-22T23:59:59", "2026-11-23T00:00:00"), "2026-11-23T00:00+01:00");
        assert_eq!(due(daily, "2026-10-01T00:00:00", "2026-11-23T00:00:00"), "2026-11-23T00:00+01:00");
        assert_eq!(due(daily, "", "2026-11-23T12:00:00"), "2026-11-23T00:00+01:00");
    }

    #[test]
    fn source_is_due_from_its_time_of_the_day_on() {
        let nightly = schedule(DAYS, "02:30");
        assert_eq!(due(nightly, "2026-11-22T02:30:00", "2026-11-23T02:29:59"), "2026-11-23T02:30+01:00");
        assert_eq!(due(nightly, "2026-11-22T02:30:00", "2026-11-23T09:00:00"), "2026-11-23T02:30+01:00");
        // A run by hand before that time is the one of its day.
        assert_eq!(due(nightly, "2026-11-23T01:00:00", "2026-11-23T09:00:00"), "2026-11-24T02:30+01:00");
        assert_eq!(due(nightly, "", "2026-11-23T01:00:00"), "2026-11-23T02:30+01:00");
    }

    #[test]
    fn missed_period_is_made_up_for() {
        let late = schedule(DAYS, "23:30");
        let made_up = "2026-11-20T23:30:00 2026-11-22T00:10:00";
        assert_eq!(due(late, made_up, "2026-11-22T00:20:00"), "2026-11-22T23:30+01:00");
        assert_eq!(due(late, made_up, "2026-11-23T00:10:00"), "2026-11-23T00:10+01:00");
        assert_eq!(due(late, "2026-11-23T00:10:00", "2026-11-23T00:20:00"), "2026-11-24T23:30+01:00");
        assert_eq!(due(late, "2026-11-22T23:30:00", "2026-11-23T00:10:00"), "2026-11-23T23:30+01:00");
    }

    #[test]
    fn run_by_hand_moves_no_later_run() {
        let evening = schedule(DAYS, "20:00");
        let by_hand = "2026-11-22T20:00:00 2026-11-23T10:00:00";
        assert_eq!(due(evening, by_hand, "2026-11-23T20:00:00"), "2026-11-24T20:00+01:00");
        assert_eq!(due(evening, by_hand, "2026-11-24T00:00:00"), "2026-11-24T20:00+01:00");
        assert_eq!(due(evening, "2026-11-23T10:00:00", "2026-11-24T00:00:00"), "2026-11-24T20:00+01:00");
    }

    #[test]
    fn timer_that_comes_after_midnight_pulls_each_day() {
        let late = schedule(DAYS, "23:30");
        let mut runs = vec![berlin("2026-11-01T12:00:00").timestamp()];
        for day in 2..=20 {
            let now = berlin(&format!("2026-11-{day:02}T00:10:00"));
            if late.due_from(&runs, &now) <= now.timestamp() {
                runs.push(now.timestamp());
            }
        }
        // The one of 1 November is that by hand, so the first that is made up for is that of 2 November.
        assert_eq!(runs.len(), 19);
    }

    #[test]
    fn weeks_begin_on_monday_and_other_days_are_counted_from_one() {
        let weekly = schedule(7 * DAYS, "04:00");
        assert_eq!(due(weekly, "2026-11-23T04:00:00", "2026-11-29T23:00:00"), "2026-11-30T04:00+01:00");
        assert_eq!(due(weekly, "2026-11-22T04:00:00", "2026-11-23T05:00:00"), "2026-11-23T04:00+01:00");
        let fortnightly = schedule(14 * DAYS, "");
        assert!(due(fortnightly, "", "2026-11-26T05:00:00").as_str() <= "2026-11-23T00:00+01:00");
        let every_other_day = schedule(2 * DAYS, "");
        let first = due(every_other_day, "", "2026-11-23T12:00:00");
        let second = due(every_other_day, "2026-11-23T12:00:00", "2026-11-23T12:00:00");
        assert!(first.as_str() <= "2026-11-23T00:00+01:00" && second.as_str() > "2026-11-23T12:00+01:00");
    }

    #[test]
    fn shorter_periods_are_counted_from_midnight() {
        let quarter = schedule(6 * HOUR, "00:10");
        assert_eq!(due(quarter, "2026-11-23T00:10:00", "2026-11-23T05:59:00"), "2026-11-23T06:10+01:00");
        assert_eq!(due(quarter, "2026-11-23T05:59:00", "2026-11-23T06:10:00"), "2026-11-23T06:10+01:00");
        let odd = schedule(5 * HOUR, "");
        assert_eq!(due(odd, "2026-11-23T20:00:00", "2026-11-23T23:00:00"), "2026-11-24T00:00+01:00");
        assert_eq!(due(odd, "2026-11-23T23:00:00", "2026-11-24T00:00:00"), "2026-11-24T00:00+01:00");
        let often = schedule(15 * MINUTE, "");
        assert_eq!(due(often, "2026-11-23T12:14:59", "2026-11-23T12:15:00"), "2026-11-23T12:15+01:00");
    }

    #[test]
    fn no_day_is_lost_or_pulled_twice_when_clocks_change() {
        // In Berlin, 29 March 2026 had 23 hours, and half past two did not come; 25 October had 25, and it came twice.
        for at in ["", "02:30"] {
            let daily = schedule(DAYS, at);
            for (month, days) in [(3, 20..32), (10, 20..32)] {
                let (mut begun, mut runs) = (Vec::new(), Vec::new());
                // The timer of the manual, every hour on the hour of UTC.
                let begins = berlin(&format!("2026-{month:02}-{:02}T00:00:00", days.start)).timestamp();
                for hour in 0..24 * 12 {
                    let now = (begins + SignedDuration::from_hours(hour))
                        .to_zoned_datetime(TimeZone::get("Europe/Berlin").unwrap());
                    if daily.due_from(&begun, &now) <= now.timestamp() {
                        begun.push(now.timestamp());
                        runs.push(now.date());
                    }
                }
                let mut dates = runs.clone();
                dates.dedup();
                assert_eq!(runs, dates, "{month} {at}: a day was pulled twice");
                assert!(runs.windows(2).all(|days| days[0].tomorrow().unwrap() == days[1]), "{runs:?}");
                assert!(runs.len() >= 11, "{runs:?}");
            }
        }
        let nightly = schedule(DAYS, "02:30");
        assert_eq!(due(nightly, "2026-03-28T02:30:00", "2026-03-29T03:00:00"), "2026-03-29T03:30+02:00");
        assert_eq!(due(nightly, "2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"), "2026-10-26T02:30+01:00");
    }

    #[test]
    fn both_hours_of_the_same_name_are_periods_of_their_own() {
        let hourly = schedule(HOUR, "00:15");
        let first = "2026-10-25T02:20:00+02:00";
        assert_eq!(due(hourly, first, "2026-10-25T02:50:00+02:00"), "2026-10-25T03:15+01:00");
        assert_eq!(due(hourly, first, "2026-10-25T02:10:00+01:00"), "2026-10-25T02:15+01:00");
        assert_eq!(due(hourly, "2026-10-25T02:20:00+01:00", "2026-10-25T02:50:00+01:00"), "2026-10-25T03:15+01:00");
        assert_eq!(due(hourly, "2026-03-29T01:20:00", "2026-03-29T03:20:00"), "2026-03-29T03:15+02:00");
    }

    #[test]
    fn extreme_periods_and_dates_are_no_fault() {
        let longest = Schedule { every: Duration::MAX, at: TimeOfDay::default() };
        for now in ["9999-12-30T00:00:00", "-009999-01-03T00:00:00", "2026-11-23T00:00:00"] {
            longest.due_from(&[Timestamp::MIN], &berlin(now));
            schedule(DAYS, "23:59").due_from(&[Timestamp::MAX], &berlin(now));
        }
    }

    #[test]
    fn times_of_the_day_are_read_and_bad_ones_refused() {
        assert_eq!("02:30".parse::<TimeOfDay>().unwrap().to_string(), "02:30");
        for text in ["", "2:30", "02:3", "24:00", "02:60", "+2:30", "02:30:00", "02.30", "noon", "02:é"] {
            assert!(text.parse::<TimeOfDay>().is_err(), "{text}");
        }
        let at = |text: &str| Some(text.parse::<TimeOfDay>().unwrap());
        let hours = |hours| Some(Duration::from_secs(hours * HOUR));
        assert!(Schedule::new(hours(2), at("02:00")).unwrap_err().to_string().contains("not within"));
        assert_eq!(Schedule::new(None, at("02:30")).unwrap(), Schedule::new(hours(24), at("02:30")).unwrap());
        assert_eq!(Schedule::new(None, None).unwrap(), None);
        assert_eq!(Schedule::new(hours(0), at("02:00")).unwrap(), None);
    }
}
