//! `archive log`: lists the runs.

use jiff::Timestamp;
use serde_json::json;

use super::named::source_named;
use super::status::NO_SOURCE;
use super::table::{self, Cell};
use super::{Context, print_line};
use crate::error::Result;
use crate::history::Past;
use crate::path::SourceName;
use crate::report::json::{object, text};
use crate::report::terminal::Plain;
use crate::report::{Level, Outcome, Report, grouped};
use crate::repository::index::{RunRow, misdated};
use crate::time::show_time;

/// List the runs, newest first
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of this source only
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let repository = context.repository()?;
    let sources = match &args.source {
        Some(source) => vec![source_named(source)?],
        None => {
            repository.known_index()?.source_names()?.iter().map(|name| SourceName::new(name)).collect::<Result<_>>()?
        }
    };
    let mut runs = Vec::new();
    for source in sources {
        let of_source = Past::open(&repository, &source)?.runs()?;
        let misdated = misdated(&of_source, Timestamp::now());
        runs.extend(of_source.into_iter().map(|run| (source.clone(), misdated.contains(&run.id), run)));
    }
    runs.sort_by_key(|(.., run)| std::cmp::Reverse(run.id));
    let mut table = Vec::new();
    for (source, is_misdated, run) in &runs {
        if context.global.json {
            print_line(&run_line(source, *is_misdated, run))?;
        } else {
            table.push(run_row(source, *is_misdated, run));
        }
    }
    if runs.is_empty() && args.source.is_none() && !context.global.json {
        context.terminal().message(Level::Notice, &NO_SOURCE);
    }
    table::print(context, &table).map(|()| 0)
}

fn run_line(source: &SourceName, is_misdated: bool, run: &RunRow) -> String {
    let mut counts = run.recorded();
    let error = counts.as_object_mut().and_then(|counts| counts.remove("error"));
    let mut line = object("run");
    line.insert("run".to_owned(), run.id.into());
    line.insert("source".to_owned(), source.as_str().into());
    line.insert("started".to_owned(), run.started.to_string().into());
    line.insert("ended".to_owned(), json!(run.ended.map(|ended| ended.to_string())));
    line.insert("outcome".to_owned(), json!(run.outcome));
    line.insert("misdated".to_owned(), is_misdated.into());
    line.insert("error".to_owned(), json!(error));
    line.insert("counts".to_owned(), counts);
    text(line)
}

fn run_row(source: &SourceName, is_misdated: bool, run: &RunRow) -> Vec<Cell> {
    const COUNTS: [&str; 4] = ["new", "changed", "touched", "removed"];
    let counts = run.recorded();
    let outcome = run.outcome.as_deref().unwrap_or("cut off");
    let count = |name: &str| counts[name].as_u64().unwrap_or(0);
    // A run that changed nothing because it failed has nothing to count.
    let is_counted = run.outcome.as_deref() == Some(Outcome::Ok.word()) || COUNTS.iter().any(|name| count(name) > 0);
    let mut row = vec![
        Cell::right(run.id.to_string()),
        Cell::left(show_time(run.started)),
        Cell::left(outcome).colored(Some(table::outcome_color(outcome))),
        Cell::left(source.to_string()),
    ];
    let cell = |name: &str| if is_counted { format!("{} {name}", grouped(count(name))) } else { String::new() };
    row.extend(COUNTS.map(|name| Cell::right(cell(name))));
    let misdated = is_misdated.then(|| "the clock was wrong".to_owned());
    let error = counts["error"].as_str().map(|error| Plain(&error).to_string());
    row.push(Cell::left(misdated.into_iter().chain(error).collect::<Vec<_>>().join("; ")));
    row
}
