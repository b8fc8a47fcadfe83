//! `archive status`.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::table::{self, Cell, color};
use super::{Context, print_line};
use crate::error::{Error, Kind, Result};
use crate::history::Past;
use crate::path::SourceName;
use crate::report::Outcome;
use crate::report::json::{object, text};
use crate::report::grouped;
use crate::repository::index::{RunRow, Verification};
use crate::time::{parse_duration, show_seconds, show_time};

/// Tell of each source's last runs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Fail when the last good pull of a source is longer ago
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_age: Option<Duration>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let (repository, config) = (context.repository()?, context.config()?);
    let mut names = repository.known_index()?.source_names()?;
    // One that was never pulled is what a person must hear of.
    let configured = config.source_names().filter(|name| config.keys(name).is_some_and(|keys| keys.paths.is_some()));
    names.extend(configured.map(str::to_owned));
    names.sort();
    names.dedup();
    let now = Timestamp::now();
    let (mut late, mut rows) = (Vec::new(), Vec::new());
    for name in names {
        let every = config.source(&name).ok().flatten().and_then(|source| source.settings.every);
        let (runs, verification, size) = match Past::open(&repository, &SourceName::new(&name)?) {
            Ok(past) => (past.runs()?, past.verification()?, past.current_size()?),
            Err(_) => (Vec::new(), None, (0, 0)),
        };
        let state = State { verification, size, ..State::of(&name, &runs, every, now) };
        match context.global.json {
            true => print_line(&state.line())?,
            false => rows.push(state.row()),
        }
        if args.max_age.is_some_and(|most| state.age.is_none_or(|age| age > most)) {
            late.push(name);
        }
    }
    table::print(context, &rows)?;
    match late.is_empty() {
        true => Ok(0),
        false => {
            Err(Error::new(Kind::Failed, format_args!("no good pull is recent enough of `{}`", late.join("`, `")))
                .hint("`archive log` tells what went wrong"))
        }
    }
}

struct State<'a> {
    name: &'a str,
    last: Option<&'a RunRow>,
    good: Option<&'a RunRow>,
    age: Option<Duration>,
    due: Option<Timestamp>,
    verification: Option<Verification>,
    // Files of the snapshot, and their bytes.
    size: (u64, u64),
}

impl<'a> State<'a> {
    fn of(name: &'a str, runs: &'a [RunRow], every: Option<Duration>, now: Timestamp) -> State<'a> {
        let good = runs.iter().find(|run| run.outcome.as_deref() == Some(Outcome::Ok.word()));
        let age = good.map(|run| now.duration_since(run.started).unsigned_abs());
        let due = good.zip(every).and_then(|(run, every)| run.started.checked_add(every).ok());
        State { name, last: runs.first(), good, age, due, verification: None, size: (0, 0) }
    }

    fn outcome(&self) -> Option<&str> {
        self.last.map(|run| run.outcome.as_deref().unwrap_or("cut off"))
    }

    fn line(&self) -> String {
        let outcome = self.outcome();
        let mut line = object("status");
        line.insert("source".to_owned(), self.name.into());
        line.insert("last".to_owned(), json!(self.last.map(|run| run.started.to_string())));
        line.insert("outcome".to_owned(), json!(outcome));
        line.insert("good".to_owned(), json!(self.good.map(|run| run.started.to_string())));
        line.insert("age".to_owned(), json!(self.age.map(|age| age.as_secs())));
        line.insert("due".to_owned(), json!(self.due.map(|due| due.to_string())));
        line.insert("files".to_owned(), self.size.0.into());
        line.insert("bytes".to_owned(), self.size.1.into());
        line.insert("verified".to_owned(), json!(self.verification.map(|last| last.ended.to_string())));
        line.insert("bad".to_owned(), json!(self.verification.map(|last| last.bad)));
        text(line)
    }

    fn row(&self) -> Vec<Cell> {
        let outcome = self.outcome();
        let last = self.last.map_or("never".to_owned(), |run| show_time(run.started));
        let outcome = outcome.unwrap_or("not pulled");
        let good = match self.age {
            Some(age) => format!("good {} ago", show_seconds(age.as_secs_f64())),
            None => "never good".to_owned(),
        };
        let (files, bytes) = match self.last {
            Some(_) => (format!("{} files", grouped(self.size.0)), bytesize::ByteSize(self.size.1).to_string()),
            None => (String::new(), String::new()),
        };
        let due = self.due.map_or(String::new(), |due| format!("due {}", show_time(due)));
        let (verified, color) = match self.verification {
            None => (String::new(), None),
            Some(last) if last.bad == 0 => (format!("verified {}", show_time(last.ended)), Some(color::GOOD)),
            Some(last) => (format!("{} bad when verified {}", last.bad, show_time(last.ended)), Some(color::BAD)),
        };
        vec![
            Cell::left(self.name),
            Cell::left(format!("last {last}")),
            Cell::left(outcome).colored(Some(table::outcome_color(outcome))),
            Cell::left(good),
            Cell::right(files),
            Cell::right(bytes),
            Cell::left(due),
            Cell::left(verified).colored(color),
        ]
    }
}
