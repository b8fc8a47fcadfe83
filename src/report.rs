//! How verbs tell of their work, without knowing who listens: a terminal, the log, a program that reads JSON.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::path::{AbsPath, SourceName};
use crate::source::ClientKind;

pub mod json;
pub mod log;
pub mod terminal;

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Worth knowing; nothing is wrong.
    Notice,
    /// Something is not as it should be; what was asked for was done all the same.
    Warning,
    /// Something that was asked for was not done.
    Error,
}

/// What a pull does to one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Was not there before.
    New,
    /// Other content or kind.
    Changed,
    /// Other metadata only.
    Touched,
    /// Is no longer there.
    Removed,
    /// Is left out by a rule or an option; what is remembered of it stays.
    Skipped,
    /// Is left out by an exclude, as if it were not there.
    Excluded,
}

impl Change {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Change::New => "new",
            Change::Changed => "changed",
            Change::Touched => "touched",
            Change::Removed => "removed",
            Change::Skipped => "skipped",
            Change::Excluded => "excluded",
        }
    }
}

/// One path that a restore makes, or in a dry run would make.
#[derive(Clone, Copy, Debug)]
pub struct Restoration<'a> {
    /// The client's path.
    pub path: &'a AbsPath,
    /// The path at the destination, with its host if it is on one.
    pub target: &'a [u8],
    /// Bytes of content that are written.
    pub bytes: u64,
}

/// Who listens. Every method may be called from any thread.
pub trait Report: Send + Sync {
    /// What follows is about this source; called again as soon as its run has a number, which a dry run never gets.
    fn begin(&self, source: &SourceName, run: Option<i64>);

    /// A message for a person, one line, without a full stop.
    fn message(&self, level: Level, text: &dyn Display);

    /// Something may take long before any other message comes: only a person who watches needs to know.
    fn waits(&self, _: &dyn Display) {}

    /// Something was done, or in a dry run would be done, to this path of the client.
    fn change(&self, change: Change, path: &AbsPath);

    /// Something was restored, or in a dry run would be.
    fn restored(&self, _: &Restoration<'_>) {}

    /// Work has gone on; called often, so it must be cheap.
    fn progress(&self, progress: &Progress);

    /// A pull is over.
    fn summary(&self, summary: &Summary);
}

impl dyn Report + '_ {
    /// See [`Level::Notice`].
    pub fn notice(&self, text: impl Display) {
        self.message(Level::Notice, &text);
    }

    /// See [`Level::Warning`].
    pub fn warn(&self, text: impl Display) {
        self.message(Level::Warning, &text);
    }

    /// See [`Level::Error`].
    pub fn error(&self, text: impl Display) {
        self.message(Level::Error, &text);
    }
}

/// Several listeners as one.
pub struct Tee<'a>(pub Vec<&'a dyn Report>);

impl Report for Tee<'_> {
    fn begin(&self, source: &SourceName, run: Option<i64>) {
        self.0.iter().for_each(|report| report.begin(source, run));
    }

    fn message(&self, level: Level, text: &dyn Display) {
        self.0.iter().for_each(|report| report.message(level, text));
    }

    fn waits(&self, what: &dyn Display) {
        self.0.iter().for_each(|report| report.waits(what));
    }

    fn change(&self, change: Change, path: &AbsPath) {
        self.0.iter().for_each(|report| report.change(change, path));
    }

    fn restored(&self, restoration: &Restoration<'_>) {
        self.0.iter().for_each(|report| report.restored(restoration));
    }

    fn progress(&self, progress: &Progress) {
        self.0.iter().for_each(|report| report.progress(progress));
    }

    fn summary(&self, summary: &Summary) {
        self.0.iter().for_each(|report| report.summary(summary));
    }
}

/// A number that several threads add to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Begins anew.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of a pull under way.
#[derive(Debug, Default)]
pub struct Progress {
    /// Entries that the client has.
    pub listed: Counter,
    /// Entries as they were.
    pub unchanged: Counter,
    /// Entries that were not there before.
    pub new: Counter,
    /// Entries with other content, target or kind.
    pub changed: Counter,
    /// Entries with other metadata only.
    pub touched: Counter,
    /// Entries that are no longer there.
    pub removed: Counter,
    /// Files whose content was copied from the client.
    pub copied: Counter,
    /// Files that got their content from what was here already.
    pub linked: Counter,
    /// Files moved or linked into the archive.
    pub archived: Counter,
    /// Entries that could not be read, or were left out on the way.
    pub skipped: Counter,
    /// Entries that an exclude matches; what is below such a directory is not counted.
    pub excluded: Counter,
    /// Bytes of content copied from the client.
    pub bytes_copied: Counter,
    /// Bytes of content that did not have to be copied.
    pub bytes_linked: Counter,
    /// Warnings told.
    pub warnings: Counter,
    /// Errors told.
    pub errors: Counter,
}

/// How a pull ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was read and kept.
    Ok,
    /// It came to its end, but some files could not be read.
    Partial,
    /// A guard stopped it.
    Stopped,
    /// It broke off.
    Failed,
}

impl Outcome {
    /// The word for it, in the index and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Partial => "partial",
            Outcome::Stopped => "stopped",
            Outcome::Failed => "failed",
        }
    }
}

/// The facts of a pull that is over: the fields of its JSON line.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The source's name.
    pub source: String,
    /// The run's number; `None` for a dry run, and when it failed before it began.
    pub run: Option<i64>,
    /// How it ended.
    pub outcome: Outcome,
    /// The exit status that goes with it.
    pub exit: u8,
    /// How the client was reached; `None` when it was not.
    pub remote: Option<ClientKind>,
    /// The counts, in the order of [`COUNT_NAMES`].
    pub counts: [u64; COUNT_NAMES.len()],
    /// Wall-clock time.
    pub seconds: f64,
    /// Whether it only showed what it would do.
    pub dry_run: bool,
}

/// The names of [`Summary::counts`].
pub const COUNT_NAMES: [&str; 17] = [
    "listed",
    "unchanged",
    "new",
    "changed",
    "touched",
    "removed",
    "copied",
    "linked",
    "archived",
    "skipped",
    "excluded",
    "bytes_copied",
    "bytes_linked",
    "bytes_sent",
    "bytes_received",
    "warnings",
    "errors",
];

impl Summary {
    /// A count by its name in [`COUNT_NAMES`].
    pub fn count(&self, name: &str) -> u64 {
        let at = COUNT_NAMES.iter().position(|known| *known == name).expect("a count's name is one of COUNT_NAMES");
        self.counts[at]
    }
}

impl Progress {
    /// Takes back the counts of changes, none of which was carried out.
    pub fn forget_changes(&self) {
        let Progress { listed, unchanged, new, changed, touched, removed, copied, linked, archived, .. } = self;
        let counters = [listed, unchanged, new, changed, touched, removed, copied, linked, archived];
        counters.iter().for_each(|counter| counter.reset());
        [&self.skipped, &self.excluded, &self.bytes_copied, &self.bytes_linked]
            .iter()
            .for_each(|counter| counter.reset());
    }

    /// The counts as [`Summary::counts`] has them; what went through ssh is counted elsewhere.
    pub fn counts(&self, bytes_sent: u64, bytes_received: u64) -> [u64; COUNT_NAMES.len()] {
        [
            self.listed.get(),
            self.unchanged.get(),
            self.new.get(),
            self.changed.get(),
            self.touched.get(),
            self.removed.get(),
            self.copied.get(),
            self.linked.get(),
            self.archived.get(),
            self.skipped.get(),
            self.excluded.get(),
            self.bytes_copied.get(),
            self.bytes_linked.get(),
            bytes_sent,
            bytes_received,
            self.warnings.get(),
            self.errors.get(),
        ]
    }
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and what it counts, as in `1 entry` and `2,000 entries`.
pub fn counted(number: u64, one: &str) -> String {
    format!("{} {}", grouped(number), noun(number, one))
}

/// The word for so many of something, of the word for one.
pub fn noun(number: u64, one: &str) -> String {
    match (number, one.strip_suffix('y')) {
        (1, _) => one.to_owned(),
        (_, Some(stem)) => format!("{stem}ies"),
        (_, None) => format!("{one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_their_nouns() {
        assert_eq!(counted(0, "file"), "0 files");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(1, "entry"), "1 entry");
        assert_eq!(counted(1_234_567, "entry"), "1,234,567 entries");
    }
}
