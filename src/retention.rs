//! What `prune` keeps: the policy, as a source's `keep` states it, and the runs that it keeps.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, SpanFieldwise, Timestamp};
use serde::{Deserialize, Serialize};

/// A shorter time without a run is no gap.
const MIN_GAP: SignedDuration = SignedDuration::from_hours(24);

/// A time without a run is a gap when it is longer than this many usual intervals.
const MIN_GAP_INTERVALS: i32 = 10;

/// How many runs of each kind to keep; as restic's and borg's options of the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// The newest so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u32>,
    /// The newest of each of so many hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hourly: Option<u32>,
    /// The newest of each of so many days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily: Option<u32>,
    /// The newest of each of so many weeks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekly: Option<u32>,
    /// The newest of each of so many months.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monthly: Option<u32>,
    /// The newest of each of so many years.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yearly: Option<u32>,
    /// All that began no longer than this before the newest; a gap between runs counts as one usual interval.
    #[serde(with = "calendar_span", skip_serializing_if = "Option::is_none")]
    pub within: Option<SpanFieldwise>,
}

// A stretch of the calendar, as `--keep-within` takes it.
mod calendar_span {
    use jiff::SpanFieldwise;
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::time::parse_calendar_span;

    pub fn serialize<S: Serializer>(span: &Option<SpanFieldwise>, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(SpanFieldwise(span)) = span else { return serializer.serialize_none() };
        let units = [
            (span.get_years().into(), "y"),
            (span.get_months(), "m"),
            (span.get_weeks(), "w"),
            (span.get_days(), "d"),
            (span.get_hours(), "h"),
        ];
        let written: String =
            units.iter().filter(|(count, _)| *count != 0).map(|(count, unit)| format!("{count}{unit}")).collect();
        serializer.serialize_str(if written.is_empty() { "0d" } else { &written })
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SpanFieldwise>, D::Error> {
        parse_calendar_span(&String::deserialize(deserializer)?).map(Some).map_err(de::Error::custom)
    }
}

impl Keep {
    /// True when nothing is to be kept, which nobody means.
    pub fn is_empty(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counts.iter().all(|count| count.is_none_or(|count| count == 0)) && self.within.is_none()
    }

    /// Which of these runs, each with its start, are kept. Their starts are in the order of their numbers: see
    /// [`crate::chronology`]. Hours, days and weeks (of ISO 8601) are those of `zone`; an hour that its clock shows twice is
    /// two hours. An hour without a run is not counted, nor is any longer span, as with restic and borg.
    pub fn kept(&self, runs: &[(i64, Timestamp)], zone: &TimeZone) -> BTreeSet<i64> {
        let mut newest_first = runs.to_vec();
        newest_first.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        let mut kept: BTreeSet<i64> =
            newest_first.iter().take(self.last.unwrap_or(0) as usize).map(|run| run.0).collect();
        for (count, span) in [
            (self.hourly, "%Y-%m-%d %H %z"),
            (self.daily, "%Y-%m-%d"),
            (self.weekly, "%G-%V"),
            (self.monthly, "%Y-%m"),
            (self.yearly, "%Y"),
        ] {
            let Some(count) = count else { continue };
            let mut spans = BTreeSet::new();
            for (run, started) in &newest_first {
                let local = started.to_zoned_datetime(zone.clone());
                if spans.insert(local.strftime(span).to_string()) {
                    if spans.len() > count as usize {
                        break;
                    }
                    kept.insert(*run);
                }
            }
        }
        if let (Some(within), Some((_, newest))) = (self.within, newest_first.first()) {
            // What is farther back than any time can be told is farther back than anything.
            let since = newest.to_zoned_datetime(zone.clone()).checked_sub(within.0);
            let since = since.map_or(Timestamp::MIN, |since| since.timestamp());
            let moved = without_gaps(&newest_first);
            kept.extend(moved.filter(|(_, started)| *started >= since).map(|(run, _)| run));
        }
        kept
    }
}

// The runs, newest first, with each start moved towards the newest by the gaps between them: a gap counts as one usual
// interval. A clock that was set ahead for the newest runs makes a gap, which nothing tells from a client that was away, and
// must not age all runs before it.
fn without_gaps(newest_first: &[(i64, Timestamp)]) -> impl Iterator<Item = (i64, Timestamp)> {
    let intervals = newest_first.windows(2).map(|pair| pair[0].1.duration_since(pair[1].1));
    let mut sorted: Vec<_> = intervals.clone().collect();
    sorted.sort();
    // One interval alone does not show what is usual.
    let usual = if sorted.len() < 2 { SignedDuration::ZERO } else { sorted[(sorted.len() - 1) / 2] };
    let is_gap = move |interval: &SignedDuration| {
        *interval > MIN_GAP && usual.checked_mul(MIN_GAP_INTERVALS).is_some_and(|longest| *interval > longest)
    };
    let excesses =
        intervals.map(move |interval| if is_gap(&interval) { interval - usual } else { SignedDuration::ZERO });
    let excesses = std::iter::once(SignedDuration::ZERO).chain(excesses);
    newest_first.iter().zip(excesses).scan(SignedDuration::ZERO, |moved, ((run, started), excess)| {
        *moved = moved.saturating_add(excess);
        Some((*run, started.checked_add(*moved).unwrap_or(Timestamp::MAX)))
    })
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use jiff::civil::{Date, Weekday};

    use super::*;

    const NONE: Keep =
        Keep { last: None, hourly: None, daily: None, weekly: None, monthly: None, yearly: None, within: None };

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    fn kept(keep: &Keep, starts: &[&str]) -> Vec<i64> {
        let runs: Vec<_> = (1..).zip(starts.iter().map(|start| start.parse().unwrap())).collect();
        keep.kept(&runs, &berlin()).into_iter().collect()
    }

    #[test]
    fn policies_keep_what_their_names_say() {
        let days =
            ["2026-01-01T01:00Z", "2026-01-01T23:30Z", "2026-01-02T01:00Z", "2026-01-04T12:00Z", "2026-01-05T12:00Z"]
                .map(|time| time.replace("Z", ":00Z"));
        let days: Vec<&str> = days.iter().map(String::as_str).collect();
        for (keep, expected) in [
            (Keep { last: Some(2), ..NONE }, vec![4, 5]),
            (Keep { last: Some(0), ..NONE }, vec![]),
            // In Berlin, half past eleven of the first is on the second.
            (Keep { daily: Some(3), ..NONE }, vec![3, 4, 5]),
            (Keep { daily: Some(9), ..NONE }, vec![1, 3, 4, 5]),
            (Keep { hourly: Some(4), ..NONE }, vec![2, 3, 4, 5]),
            // The fifth is a Monday.
            (Keep { weekly: Some(2), ..NONE }, vec![4, 5]),
            (Keep { monthly: Some(2), yearly: Some(2), ..NONE }, vec![5]),
            (Keep { within: Some(24.hours().fieldwise()), ..NONE }, vec![4, 5]),
            (Keep { within: Some(19_998.years().fieldwise()), ..NONE }, vec![1, 2, 3, 4, 5]),
            (Keep { within: Some(4.days().fieldwise()), ..NONE }, vec![2, 3, 4, 5]),
            (Keep { within: Some(1.month().fieldwise()), ..NONE }, vec![1, 2, 3, 4, 5]),
            (Keep { last: Some(1), within: Some(jiff::Span::new().fieldwise()), ..NONE }, vec![5]),
        ] {
            assert_eq!(kept(&keep, &days), expected, "{keep:?}");
        }
        assert!(NONE.is_empty() && Keep { daily: Some(0), ..NONE }.is_empty());
        assert!(!Keep { within: Some(jiff::Span::new().fieldwise()), ..NONE }.is_empty());
    }

    #[test]
    fn gap_between_runs_counts_as_one_usual_interval() {
        let within = Keep { within: Some(3.days().fieldwise()), ..NONE };
        let before = ["2026-01-01T02:00:00Z", "2026-01-02T02:00:00Z", "2026-01-03T02:00:00Z", "2026-01-04T02:00:00Z"];
        let then = |later: &[&'static str]| kept(&within, &[&before[..], later].concat());
        // A clock that is twelve years ahead, or a client that was away.
        assert_eq!(then(&["2038-01-04T02:00:00Z"]), [2, 3, 4, 5]);
        assert_eq!(then(&["2038-01-04T02:00:00Z", "2038-01-05T02:00:00Z"]), [3, 4, 5, 6]);
        // Each of several gaps counts.
        assert_eq!(then(&["2030-01-04T02:00:00Z", "2038-01-05T02:00:00Z"]), [3, 4, 5, 6]);
        // Ten days are no gap where a day is usual.
        assert_eq!(then(&["2026-01-14T02:00:00Z"]), [5]);
        // Two runs do not show what is usual.
        assert_eq!(kept(&within, &["2026-01-01T02:00:00Z", "2038-01-01T02:00:00Z"]), [1, 2]);
        // Weekends of a client that is pulled every hour.
        let hourly = Keep { within: Some(30.hours().fieldwise()), ..NONE };
        let starts = ["2026-01-02T14:00:00Z", "2026-01-02T15:00:00Z", "2026-01-02T16:00:00Z", "2026-01-05T08:00:00Z"];
        assert_eq!(kept(&hourly, &starts), [1, 2, 3, 4]);
    }

    #[test]
    fn hour_that_comes_twice_is_two_hours() {
        // Clocks went back from three to two on 25 October 2026: there were two half past twos.
        let starts = ["2026-10-24T23:30:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"];
        assert_eq!(kept(&Keep { hourly: Some(9), ..NONE }, &starts), [1, 2, 3, 4]);
        assert_eq!(kept(&Keep { daily: Some(9), ..NONE }, &starts), [4]);
    }

    #[test]
    fn every_policy_keeps_what_a_naive_model_keeps() {
        // Runs at uneven distances over three years; the model looks from each run at all that are newer.
        let runs: Vec<(i64, Timestamp)> = (0..700)
            .map(|n| (n, Timestamp::from_second(1_700_000_000 + n * 130_000 + n * n % 97 * 977).unwrap()))
            .collect();
        type Same = fn(&jiff::ZonedDateTime, &jiff::ZonedDateTime) -> bool;
        let monday = |time: &jiff::ZonedDateTime| {
            let back = i64::from(time.date().weekday().since(Weekday::Monday));
            time.date() - jiff::Span::new().days(back)
        };
        let local = |time: Timestamp| time.to_zoned_datetime(berlin());
        let same_day: Same = |one, other| one.date() == other.date();
        let same_hour: Same =
            |one, other| one.date() == other.date() && one.hour() == other.hour() && one.offset() == other.offset();
        let same_month: Same = |one, other| (one.year(), one.month()) == (other.year(), other.month());
        let same_year: Same = |one, other| one.year() == other.year();
        let model = |count: u32, same: &dyn Fn(&jiff::ZonedDateTime, &jiff::ZonedDateTime) -> bool| {
            let newest_of = |at: usize| !runs[at + 1..].iter().any(|(_, time)| same(&local(runs[at].1), &local(*time)));
            let mut found: Vec<i64> = (0..runs.len()).rev().filter(|at| newest_of(*at)).map(|at| runs[at].0).collect();
            found.truncate(count as usize);
            found.into_iter().collect::<BTreeSet<_>>()
        };
        for count in [1, 7, 40] {
            let some = Some(count);
            let kept = |keep: Keep| keep.kept(&runs, &berlin());
            assert_eq!(kept(Keep { hourly: some, ..NONE }), model(count, &same_hour), "hourly {count}");
            assert_eq!(kept(Keep { daily: some, ..NONE }), model(count, &same_day), "daily {count}");
            assert_eq!(
                kept(Keep { weekly: some, ..NONE }),
                model(count, &|one, other| monday(one) == monday(other)),
                "weekly {count}"
            );
            assert_eq!(kept(Keep { monthly: some, ..NONE }), model(count, &same_month), "monthly {count}");
            assert_eq!(kept(Keep { yearly: some, ..NONE }), model(count, &same_year), "yearly {count}");
            // By the calendar: the same day and time so many months before the newest, or the last day of a shorter month.
            let newest = local(runs[runs.len() - 1].1);
            let months = i64::from(newest.year()) * 12 + i64::from(newest.month()) - 1 - i64::from(count);
            let first = Date::new((months / 12) as i16, (months % 12) as i8 + 1, 1).unwrap();
            let day = newest.day().min(first.days_in_month());
            let since = first.with().day(day).build().unwrap().to_datetime(newest.time());
            let within = kept(Keep { within: Some(i64::from(count).months().fieldwise()), ..NONE });
            let expected = runs.iter().filter(|(_, started)| local(*started).datetime() >= since).map(|(run, _)| *run);
            assert_eq!(within, expected.collect(), "within {count} months");
        }
    }
}
