//! What a person sees: messages, one steady line of progress, a summary of three lines.

use std::fmt::{self, Display};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Change, Level, Outcome, Progress, Report, Restoration, Summary, counted, grouped, noun};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::time::show_seconds;

mod line;

pub use line::erase_line;

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Warnings and errors only.
    Quiet,
    /// Notices and summaries too.
    Normal,
    /// Every changed path too.
    Verbose,
}

/// Listens for a person at a terminal, or behind a mail from cron.
pub struct Terminal {
    verbosity: Verbosity,
    colored: bool,
    // Where standard output is a program's to read, changes and summaries are left to another listener.
    json: bool,
    line: Mutex<Option<ProgressBar>>,
    lists_changes: Mutex<bool>,
    // The tenth of a second in which the line was last written anew.
    shown: AtomicU64,
    source_of_line: Mutex<String>,
    // Others pull at the same time: what is said is said of whom, and there is no line.
    among_others: bool,
    source: Mutex<Option<String>>,
}

impl Terminal {
    /// A listener that writes messages to standard error; `json` leaves standard output alone.
    pub fn new(verbosity: Verbosity, colored: bool, json: bool) -> Terminal {
        Terminal {
            verbosity,
            colored,
            json,
            line: Mutex::new(None),
            lists_changes: Mutex::new(false),
            shown: AtomicU64::new(0),
            source_of_line: Mutex::default(),
            among_others: false,
            source: Mutex::new(None),
        }
    }

    /// As one of several at a time: each message names its source, and no progress is shown.
    pub fn among_others(mut self) -> Terminal {
        self.among_others = true;
        self
    }

    /// Has it list every change, as in a dry run.
    pub fn list_changes(&self) {
        *self.lists_changes.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn paint(&self, color: &str, text: &str) -> String {
        if self.colored { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn lists(&self) -> bool {
        let lists = *self.lists_changes.lock().unwrap_or_else(PoisonError::into_inner);
        !self.json && (lists || self.verbosity == Verbosity::Verbose)
    }

    // The line gives way to what is written, and comes back below it.
    fn write(&self, write: impl FnOnce()) {
        match &*self.line.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(line) => line.suspend(write),
            None => write(),
        }
    }
}

impl Report for Terminal {
    fn begin(&self, source: &SourceName, run: Option<i64>) {
        *self.lists_changes.lock().unwrap_or_else(PoisonError::into_inner) = run.is_none();
        if self.among_others {
            *self.source.lock().unwrap_or_else(PoisonError::into_inner) = Some(source.to_string());
            return;
        }
        let mut shown = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.is_some() || self.verbosity == Verbosity::Quiet || !std::io::stderr().is_terminal() {
            return;
        }
        let line = ProgressBar::with_draw_target(None, line::target());
        let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is right");
        line.set_style(style);
        *self.source_of_line.lock().unwrap_or_else(PoisonError::into_inner) = source.to_string();
        line.set_message(format!("{source}:"));
        line.enable_steady_tick(Duration::from_millis(125));
        *shown = Some(line);
    }

    fn message(&self, level: Level, text: &dyn Display) {
        let (word, least) = match level {
            Level::Notice => ("notice".to_owned(), Verbosity::Normal),
            Level::Warning => (self.paint("33", "warning"), Verbosity::Quiet),
            Level::Error => (self.paint("31", "error"), Verbosity::Quiet),
        };
        if self.verbosity >= least {
            let source = self.source.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let source = source.map_or(String::new(), |source| format!("{source}: "));
            // Not `eprintln`, which panics when nobody reads standard error any more.
            self.write(|| drop(writeln!(std::io::stderr(), "archive: {source}{word}: {}", Plain(text))));
        }
    }

    fn waits(&self, what: &dyn Display) {
        if std::io::stderr().is_terminal() {
            self.message(Level::Notice, what);
        }
    }

    fn change(&self, change: Change, path: &AbsPath) {
        if !self.lists() {
            return;
        }
        let color = match change {
            Change::New => "32",
            Change::Changed => "33",
            Change::Touched => "36",
            Change::Removed => "31",
            Change::Skipped | Change::Excluded => "35",
        };
        let word = self.paint(color, &format!("{:<8}", change.word()));
        self.write(|| drop(writeln!(std::io::stdout(), "{word} {path}")));
    }

    fn restored(&self, restoration: &Restoration<'_>) {
        if !self.lists() {
            return;
        }
        let word = self.paint("32", &format!("{:<8}", "restore"));
        // Its width counts only for text.
        let bytes = ByteSize(restoration.bytes).to_string();
        let target = Escaped(restoration.target);
        self.write(|| drop(writeln!(std::io::stdout(), "{word} {bytes:>10}  {target}")));
    }

    fn progress(&self, progress: &Progress) {
        // A listener that has no line must cost nothing.
        let Ok(line) = self.line.try_lock() else { return };
        if let Some(line) = &*line {
            let now = line.elapsed();
            let tenth = now.as_millis() as u64 / 100;
            if self.shown.swap(tenth, Ordering::Relaxed) != tenth {
                let source = self.source_of_line.lock().unwrap_or_else(PoisonError::into_inner);
                line.set_message(format!("{source}: {}", progress_text(progress, now)));
            }
        }
    }

    fn summary(&self, summary: &Summary) {
        if let Some(line) = self.line.lock().unwrap_or_else(PoisonError::into_inner).take() {
            line.finish_and_clear();
            line::is_cleared();
        }
        if self.verbosity >= Verbosity::Normal && !self.json {
            let text = summary_text(summary, |word| match summary.outcome {
                Outcome::Ok => self.paint("32", word),
                Outcome::Partial => self.paint("33", word),
                Outcome::Stopped | Outcome::Failed => self.paint("31", word),
            });
            // Nobody listens any more: the exit status still tells.
            let _ = write!(std::io::stdout(), "{text}");
        }
    }
}

fn progress_text(progress: &Progress, elapsed: Duration) -> String {
    let bytes = progress.bytes_copied.get();
    let rate = (bytes as f64 / elapsed.as_secs_f64().max(0.1)) as u64;
    // What matters most stands first, for the end is cut off on a narrow terminal.
    let doing = match bytes {
        0 => "comparing".to_owned(),
        _ => format!("copying at {}/s", ByteSize(rate)),
    };
    format!(
        "{doing}, {} listed, {} copied ({}), {} linked",
        grouped(progress.listed.get()),
        counted(progress.copied.get(), "file"),
        ByteSize(bytes),
        grouped(progress.linked.get()),
    )
}

fn summary_text(summary: &Summary, paint: impl Fn(&str) -> String) -> String {
    let count = |name| grouped(summary.count(name));
    let bytes = |name| ByteSize(summary.count(name));
    let run = match (summary.dry_run, summary.run) {
        (true, _) => "dry run".to_owned(),
        (false, Some(run)) => format!("run {run}"),
        (false, None) => "no run".to_owned(),
    };
    let way = summary.remote.map(|remote| format!(" ({})", remote.word())).unwrap_or_default();
    let troubles = match (summary.count("errors"), summary.count("warnings")) {
        (0, 0) => String::new(),
        (errors, warnings) => format!("; {}, {}", counted(errors, "error"), counted(warnings, "warning")),
    };
    let outcome = paint(summary.outcome.word());
    let mut text =
        format!("{}: {outcome}, {run} in {}{way}{troubles}\n", summary.source, show_seconds(summary.seconds));
    // A run that failed before it did anything has nothing to count.
    let has = |names: &[&str]| summary.outcome == Outcome::Ok || names.iter().any(|name| summary.count(name) > 0);
    if has(&["listed", "new", "changed", "touched", "removed"]) {
        let left_out = |name| match summary.count(name) {
            0 => String::new(),
            entries => format!(", {} {name}", grouped(entries)),
        };
        let (skipped, excluded) = (left_out("skipped"), left_out("excluded"));
        text += &format!(
            "  {} of {} {} unchanged: {} new, {} changed, {} touched, {} removed{skipped}{excluded}\n",
            count("unchanged"),
            count("listed"),
            noun(summary.count("listed"), "entry"),
            count("new"),
            count("changed"),
            count("touched"),
            count("removed"),
        );
    }
    if has(&["listed", "copied", "linked", "archived", "bytes_copied", "bytes_linked"]) {
        text += &format!(
            "  copied {} ({}), linked {} ({}), archived {}; sent {}, received {}\n",
            counted(summary.count("copied"), "file"),
            bytes("bytes_copied"),
            count("linked"),
            bytes("bytes_linked"),
            count("archived"),
            bytes("bytes_sent"),
            bytes("bytes_received"),
        );
    }
    text
}

/// Text that may quote a client: what would steer a terminal is shown instead.
pub struct Plain<'a>(pub &'a dyn Display);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.to_string().chars() {
            if character.is_control() {
                write!(f, "\\x{:02x}", u32::from(character))?
            } else {
                write!(f, "{character}")?
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::COUNT_NAMES;
    use crate::source::ClientKind;

    #[test]
    fn a_summary_has_three_lines() {
        let mut counts = [0; COUNT_NAMES.len()];
        counts
            .copy_from_slice(&[100_000, 99_982, 12, 3, 1, 2, 14, 1, 5, 0, 7, 2_411_725, 12_288, 1229, 2_516_582, 0, 0]);
        let summary = Summary {
            source: "laptop".to_owned(),
            run: Some(12),
            outcome: Outcome::Ok,
            exit: 0,
            remote: Some(ClientKind::Helper),
            counts,
            seconds: 4.2,
            dry_run: false,
        };
        insta::assert_snapshot!(summary_text(&summary, str::to_owned), @r"
        laptop: ok, run 12 in 4.2 s (helper)
          99,982 of 100,000 entries unchanged: 12 new, 3 changed, 1 touched, 2 removed, 7 excluded
          copied 14 files (2.3 MiB), linked 1 (12.0 KiB), archived 5; sent 1.2 KiB, received 2.4 MiB
        ");
    }

    #[test]
    fn failure_before_anything_was_listed_has_one_line() {
        let mut summary = Summary {
            source: "laptop".to_owned(),
            run: Some(12),
            outcome: Outcome::Failed,
            exit: 6,
            remote: None,
            counts: [0; COUNT_NAMES.len()],
            seconds: 4.2,
            dry_run: false,
        };
        summary.counts[COUNT_NAMES.len() - 1] = 1;
        assert_eq!(summary_text(&summary, str::to_owned), "laptop: failed, run 12 in 4.2 s; 1 error, 0 warnings\n");
        summary.counts[0] = 1;
        assert!(summary_text(&summary, str::to_owned).contains("  0 of 1 entry unchanged: 0 new"));
    }

    #[test]
    fn control_characters_are_shown_not_sent() {
        assert_eq!(Plain(&"a\x1b[31mb\u{9b}c\nd").to_string(), "a\\x1b[31mb\\x9bc\\x0ad");
    }
}
