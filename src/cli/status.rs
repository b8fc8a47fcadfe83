//! `archive status`.

use std::time::Duration;

use jiff::{Timestamp, ZonedDateTime};
use serde_json::json;

use super::named::without_brackets;
use super::table::{self, Cell, color};
use super::{Context, print_line, unless_closed};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::history::Past;
use crate::path::{Escaped, SourceName};
use crate::report::json::{object, text};
use crate::report::{Level, Outcome, Report, counted, grouped};
use crate::repository::Repository;
use crate::repository::index::{RunRow, Verification, finished, misdated};
use crate::schedule::Schedule;
use crate::time::{parse_duration, show_seconds, show_time};

/// Show the last run of each source, and when it is due
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A source; without one, every source
    source: Option<String>,
    /// Fail when the last successful pull of a source is older
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_age: Option<Duration>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let repository = context.repository()?;
    let (config, unused) = context.config_to_read()?;
    let mut status = unused.max(context.report_mistakes(&config));
    let mut known = Vec::new();
    for name in names(&repository, &config, args)? {
        if let Err(error) = config.source(&name) {
            context.terminal().message(Level::Error, &error);
            status = error.kind().exit_status();
        }
        known.push(Known::read(&repository, &config, name)?);
    }
    // Read after the runs, so that none of them begins later.
    let now = ZonedDateTime::now();
    let states: Vec<_> = known.iter().map(|known| State::of(known, &now)).collect();
    if context.global.json {
        unless_closed(states.iter().try_for_each(|state| print_line(&state.line())))?;
    } else if states.is_empty() {
        context.terminal().message(Level::Notice, &NO_SOURCE);
    } else {
        let rows: Vec<_> = std::iter::once(header()).chain(states.iter().map(State::row)).collect();
        unless_closed(table::print(context, &rows))?;
    }
    match args.max_age {
        Some(max_age) => refuse_old(context, &repository, &states, max_age).map(|()| status),
        None => Ok(status),
    }
}

/// The notice of a command that lists sources, for a repository without any.
pub(super) const NO_SOURCE: &str = "the repository holds no source yet: `archive pull` adds one";

fn header() -> Vec<Cell> {
    vec![
        Cell::left("SOURCE"),
        Cell::left("LAST RUN"),
        Cell::left("OUTCOME"),
        Cell::left("LAST SUCCESS"),
        Cell::right("FILES"),
        Cell::right("SIZE"),
        Cell::left("DUE"),
        Cell::left("VERIFIED"),
    ]
}

fn names(repository: &Repository, config: &Config, args: &Args) -> Result<Vec<String>> {
    let mut names = repository.known_index()?.source_names()?;
    // One that was never pulled is what a person must hear of.
    let configured = config.source_names().filter(|name| config.settings(name).paths.is_some());
    names.extend(configured.map(str::to_owned));
    names.sort();
    names.dedup();
    let Some(source) = &args.source else { return Ok(names) };
    let name = without_brackets(source);
    if !names.contains(&name) {
        let wanted = Escaped(source.as_bytes());
        let error = format_args!("there is no source `{wanted}` in the repository or in the configuration");
        let known =
            if names.is_empty() { "neither has one".to_owned() } else { format!("they have `{}`", names.join("`, `")) };
        return Err(Error::usage(error).hint(known));
    }
    Ok(vec![name])
}

// Partial runs count, for one unreadable file must not hide that everything else is safe; but they are reported.
fn refuse_old(context: &Context, repository: &Repository, states: &[State<'_>], max_age: Duration) -> Result<()> {
    let terminal = context.terminal();
    let (mut old, mut never, mut unreached) = (Vec::new(), Vec::new(), Vec::new());
    for state in states {
        let name = state.known.name.as_str();
        match state.success {
            Some(run) if state.age.is_some_and(|age| age <= max_age) => {
                let errors = run.recorded()["errors"].as_u64().unwrap_or(0);
                if run.outcome.as_deref() == Some(Outcome::Partial.word()) {
                    let errors = counted(errors, "error");
                    let text = format_args!("last successful pull of `{name}`, run {}, was partial: {errors}", run.id);
                    terminal.message(Level::Notice, &text);
                }
            }
            Some(_) => old.push(name),
            None if state.known.runs.is_empty() => unreached.push(name),
            None => never.push(name),
        }
        if let Some(last) = state.known.runs.first().filter(|_| state.is_misdated) {
            let text = format_args!("the clock was wrong for run {} of `{name}`, which does not count", last.id);
            terminal.message(Level::Warning, &text);
        }
    }
    let age = show_seconds(max_age.as_secs_f64());
    let old = (!old.is_empty()).then(|| format!("last successful pull of `{}` is older than {age}", old.join("`, `")));
    let never = (!never.is_empty()).then(|| format!("no pull of `{}` was successful", never.join("`, `")));
    let mut hints: Vec<_> =
        (old.is_some() || never.is_some()).then(|| "`archive log` shows why".to_owned()).into_iter().collect();
    let late = unreached.first().map(|first| {
        // Such a source has no run in the index.
        let log = repository.dir().join("log/archive.log");
        hints.push(format!("`archive pull {first}` shows why, or `{}`", log.display()));
        let were = if unreached.len() == 1 { "was" } else { "were" };
        format!("`{}` {were} never reached", unreached.join("`, `"))
    });
    let late: Vec<_> = old.into_iter().chain(never).chain(late).collect();
    if late.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Failed, late.join("; ")).hint(hints.join("; ")))
}

/// A source's configuration and its rows in the index.
struct Known {
    name: String,
    schedule: Option<Schedule>,
    // The newest first.
    runs: Vec<RunRow>,
    // With how many of the plain files it read, and how many there are now.
    verification: Option<(Verification, (u64, u64))>,
    // Files of the snapshot, and their bytes.
    size: (u64, u64),
}

impl Known {
    fn read(repository: &Repository, config: &Config, name: String) -> Result<Known> {
        let schedule = config.source(&name).ok().flatten().and_then(|source| source.schedule);
        let known = Known { name, schedule, runs: Vec::new(), verification: None, size: (0, 0) };
        let Ok(past) = Past::open(repository, &SourceName::new(&known.name)?) else { return Ok(known) };
        let verification = match past.verification()? {
            Some(last) => Some((last, past.verified_share(last.ended)?)),
            None => None,
        };
        Ok(Known { runs: past.runs()?, verification, size: past.current_size()?, ..known })
    }
}

/// The state of a source at some moment.
struct State<'a> {
    known: &'a Known,
    success: Option<&'a RunRow>,
    age: Option<Duration>,
    due: Option<Timestamp>,
    is_due: bool,
    // True when the last run has a date that can't be right.
    is_misdated: bool,
}

impl<'a> State<'a> {
    fn of(known: &'a Known, now: &ZonedDateTime) -> State<'a> {
        let finished = finished(&known.runs, now.timestamp());
        let success = finished.last().copied();
        let starts: Vec<_> = finished.iter().map(|run| run.started).collect();
        let age = success.map(|run| now.timestamp().duration_since(run.started).unsigned_abs());
        let due = known.schedule.map(|schedule| schedule.due_from(&starts, now));
        let is_due = due.is_some_and(|due| due <= now.timestamp());
        let misdated = misdated(&known.runs, now.timestamp());
        let is_misdated = known.runs.first().is_some_and(|run| misdated.contains(&run.id));
        State { known, success, age, due, is_due, is_misdated }
    }

    fn outcome(&self) -> Option<&str> {
        self.known.runs.first().map(|run| run.outcome.as_deref().unwrap_or("cut off"))
    }

    fn line(&self) -> String {
        let Known { name, runs, verification, size, .. } = self.known;
        let mut line = object("status");
        line.insert("source".to_owned(), name.as_str().into());
        line.insert("last".to_owned(), json!(runs.first().map(|run| run.started.to_string())));
        line.insert("outcome".to_owned(), json!(self.outcome()));
        line.insert("misdated".to_owned(), self.is_misdated.into());
        line.insert("good".to_owned(), json!(self.success.map(|run| run.started.to_string())));
        line.insert("good_outcome".to_owned(), json!(self.success.map(|run| run.outcome.as_deref())));
        line.insert("age".to_owned(), json!(self.age.map(|age| age.as_secs())));
        line.insert("due".to_owned(), json!(self.due.map(|due| due.to_string())));
        line.insert("files".to_owned(), size.0.into());
        line.insert("bytes".to_owned(), size.1.into());
        line.insert("verified".to_owned(), json!(verification.map(|(last, _)| last.ended.to_string())));
        line.insert("verified_files".to_owned(), json!(verification.map(|(_, (read, _))| read)));
        line.insert("verifiable_files".to_owned(), json!(verification.map(|(_, (_, all))| all)));
        line.insert("bad".to_owned(), json!(verification.map(|(last, _)| last.bad)));
        text(line)
    }

    fn row(&self) -> Vec<Cell> {
        let last = match self.known.runs.first() {
            Some(run) if self.is_misdated => format!("{} (wrong clock)", show_time(run.started)),
            Some(run) => show_time(run.started),
            None => "never".to_owned(),
        };
        let outcome = self.outcome().unwrap_or("not pulled");
        let success = match (self.age, self.success.and_then(|run| run.outcome.as_deref())) {
            (Some(age), Some("partial")) => format!("{} ago, partial", show_seconds(age.as_secs_f64())),
            (Some(age), _) => format!("{} ago", show_seconds(age.as_secs_f64())),
            (None, _) => "never".to_owned(),
        };
        let (files, bytes) = match self.known.runs.first() {
            Some(_) => (grouped(self.known.size.0), bytesize::ByteSize(self.known.size.1).to_string()),
            None => (String::new(), String::new()),
        };
        let due = match self.due {
            Some(_) if self.is_due => "now".to_owned(),
            Some(due) => show_time(due),
            None => String::new(),
        };
        let (verified, color) = self.verified();
        vec![
            Cell::left(&self.known.name),
            Cell::left(last),
            Cell::left(outcome).colored(Some(table::outcome_color(outcome))),
            Cell::left(success),
            Cell::right(files),
            Cell::right(bytes),
            Cell::left(due),
            Cell::left(verified).colored(color),
        ]
    }

    fn verified(&self) -> (String, Option<&'static str>) {
        let Some((last, (read, all))) = self.known.verification else { return (String::new(), None) };
        let mut text = show_time(last.ended);
        if read < all {
            text += &format!(", {} of {}", grouped(read), counted(all, "file"));
        }
        match last.bad {
            0 => (text, Some(color::GOOD)),
            bad => (format!("{text}: {} bad", grouped(bad)), Some(color::BAD)),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn now() -> ZonedDateTime {
        "2026-11-23T12:00:00[Europe/Berlin]".parse().unwrap()
    }

    /// Runs by their ages in hours and their outcomes, the oldest first.
    fn known(runs: &[(i64, &str, u8)]) -> Known {
        let runs = (1..).zip(runs).map(|(id, (age, outcome, exit))| {
            let started = now().timestamp() - SignedDuration::from_hours(*age);
            let summary = Some(format!("{{\"exit\":{exit}}}"));
            RunRow { id, started, ended: Some(started), outcome: Some((*outcome).to_owned()), summary }
        });
        let mut runs: Vec<_> = runs.collect();
        runs.reverse();
        let schedule = Schedule::new(Some(Duration::from_secs(24 * 3600)), None).unwrap();
        Known { name: "laptop".to_owned(), schedule, runs, verification: None, size: (0, 0) }
    }

    fn hours(state: &State<'_>) -> Option<u64> {
        state.age.map(|age| age.as_secs() / 3600)
    }

    #[test]
    fn wrong_clock_drives_neither_age_nor_due() {
        const YEARS: i64 = 12 * 365 * 24;
        for wrong in [-YEARS, 56 * 365 * 24, YEARS] {
            let known = known(&[(50, "ok", 0), (26, "ok", 0), (wrong, "ok", 0)]);
            let state = State::of(&known, &now());
            assert_eq!((hours(&state), state.is_due, state.is_misdated), (Some(26), true, true), "{wrong}");
            assert!(state.line().contains("\"misdated\":true"));
        }
        let known = known(&[(50, "ok", 0), (-YEARS, "ok", 0), (2, "ok", 0)]);
        let state = State::of(&known, &now());
        assert_eq!((hours(&state), state.is_due, state.is_misdated), (Some(2), false, false));
    }

    #[test]
    fn partial_run_counts_unless_it_lost_the_client() {
        let partial = known(&[(50, "ok", 0), (2, "partial", 3)]);
        let state = State::of(&partial, &now());
        assert_eq!((hours(&state), state.is_due), (Some(2), false));
        let lost = known(&[(50, "ok", 0), (2, "partial", 6), (1, "failed", 1), (0, "rebuild", 0)]);
        let state = State::of(&lost, &now());
        assert_eq!((hours(&state), state.is_due), (Some(50), true));
    }

    #[test]
    fn source_that_was_never_pulled_is_due() {
        let known = known(&[]);
        let state = State::of(&known, &now());
        assert!(state.is_due);
        assert!(state.line().contains("\"due\":\"2026-11-22T23:00:00Z\""), "{}", state.line());
    }
}
