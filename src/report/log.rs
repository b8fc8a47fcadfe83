//! The repository's log: one line for each message, with time, source and run.

use std::fmt::{self, Display};
use std::fs::File;
use std::sync::{Mutex, PoisonError};

use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::terminal::Plain;
use super::{Change, Level, Outcome, Progress, Report, Summary};
use crate::path::{AbsPath, SourceName};
use crate::time::{log_time, show_seconds};

/// Writes to a log file, through a subscriber of its own.
pub struct Log {
    dispatch: Dispatch,
    whose: Mutex<String>,
}

impl Log {
    /// A log that appends to this file.
    pub fn new(file: File) -> Log {
        // A full disk is reported where something is lost by it.
        let subscriber = tracing_subscriber::fmt()
            .with_writer(Mutex::new(file))
            .with_ansi(false)
            .log_internal_errors(false)
            .event_format(Line)
            .finish();
        Log { dispatch: Dispatch::new(subscriber), whose: Mutex::new("-".to_owned()) }
    }

    fn write(&self, level: Level, text: &dyn Display) {
        let whose = self.whose.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = Plain(text);
        tracing::dispatcher::with_default(&self.dispatch, || match level {
            Level::Notice => tracing::info!("{whose}: {text}"),
            Level::Warning => tracing::warn!("{whose}: {text}"),
            Level::Error => tracing::error!("{whose}: {text}"),
        });
    }
}

impl Report for Log {
    fn begin(&self, source: &SourceName, run: Option<i64>) {
        let whose = run.map_or(source.to_string(), |run| format!("{source} run {run}"));
        *self.whose.lock().unwrap_or_else(PoisonError::into_inner) = whose;
        if run.is_some() {
            self.write(Level::Notice, &"begins");
        }
    }

    fn message(&self, level: Level, text: &dyn Display) {
        self.write(level, text);
    }

    fn change(&self, _: Change, _: &AbsPath) {}

    fn progress(&self, _: &Progress) {}

    fn summary(&self, summary: &Summary) {
        let counts = super::COUNT_NAMES.iter().zip(summary.counts);
        let counts = counts.filter(|(_, count)| summary.outcome == Outcome::Ok || *count > 0);
        let counts: Vec<_> = counts.map(|(name, count)| format!("{name}={count}")).collect();
        let (outcome, time) = (summary.outcome.word(), show_seconds(summary.seconds));
        self.write(Level::Notice, &format_args!("ends {outcome} after {time}: {}", counts.join(" ")));
    }
}

/// The form of a line: `2026-11-23T12:54:00Z WARN laptop run 12: text`.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "{} {} ", log_time(), event.metadata().level())?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_time_source_and_run() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        let log = Log::new(File::create(&path).unwrap());
        log.begin(&SourceName::new("laptop").unwrap(), Some(12));
        log.message(Level::Warning, &"bad\nname");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap()).collect();
        assert_eq!(lines[0].1, "INFO laptop run 12: begins");
        assert_eq!(lines[1].1, "WARN laptop run 12: bad\\x0aname");
        assert!(lines[0].0.parse::<jiff::Timestamp>().is_ok());
    }
}
