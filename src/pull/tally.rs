//! The counts of a run, what is reported of it, and its summary.

use std::sync::OnceLock;
use std::time::Instant;

use super::Options;
use crate::error::{Error, Kind};
use crate::path::AbsPath;
use crate::report::{Change, Level, Outcome, Progress, Report, Summary, counted};
use crate::source::{ClientKind, Source};

/// What a summary tells beyond the counts.
#[derive(Default)]
pub struct Facts {
    pub(super) run: Option<i64>,
    pub(super) remote: Option<ClientKind>,
    pub(super) traffic: (u64, u64),
    // The client worked without any progress for too long.
    pub(super) has_stalled: bool,
}

/// The counts of a run, and whom it tells.
pub struct Tally<'a> {
    pub(super) progress: Progress,
    pub(super) report: &'a dyn Report,
    pub(super) first_error: OnceLock<String>,
}

impl Tally<'_> {
    pub(super) fn notice(&self, text: impl std::fmt::Display) {
        self.report.message(Level::Notice, &text);
    }

    pub(super) fn warn(&self, text: impl std::fmt::Display) {
        self.progress.warnings.add(1);
        self.report.message(Level::Warning, &text);
    }

    pub(super) fn error(&self, text: impl std::fmt::Display) {
        self.progress.errors.add(1);
        self.first_error.get_or_init(|| text.to_string());
        self.report.message(Level::Error, &text);
    }

    // Why the run did not end well: what ended it, or else its first error.
    pub(super) fn reason(&self, end: Option<&Error>) -> Option<String> {
        let others = self.progress.errors.get().saturating_sub(1);
        match (end, self.first_error.get(), others) {
            (Some(error), ..) => Some(error.to_string()),
            (None, Some(first), 1..) => Some(format!("{first}, and {}", counted(others, "other error"))),
            (None, first, _) => first.cloned(),
        }
    }

    /// Something of the client could not be read.
    pub(super) fn unread(&self, text: impl std::fmt::Display) {
        self.progress.skipped.add(1);
        self.error(text);
    }

    pub(super) fn changed(&self, change: Change, path: &AbsPath) {
        let counter = match change {
            Change::New => &self.progress.new,
            Change::Changed => &self.progress.changed,
            Change::Touched => &self.progress.touched,
            Change::Removed => &self.progress.removed,
            Change::Skipped => &self.progress.skipped,
            // Its directory counts it.
            Change::Excluded => return self.report.change(change, path),
        };
        counter.add(1);
        self.report.change(change, path);
        self.report.progress(&self.progress);
    }

    // What an earlier attempt changed was unchanged in a later one; and one that was cut off may have listed less.
    pub(super) fn add_attempts_up(&self, most_listed: u64) {
        let Progress { listed, unchanged, new, changed, touched, .. } = &self.progress;
        let done = new.get() + changed.get() + touched.get();
        let all = listed.get().max(most_listed).max(done);
        let left = if most_listed == 0 { all - done } else { unchanged.get().min(all - done) };
        listed.reset();
        listed.add(all);
        unchanged.reset();
        unchanged.add(left);
    }

    pub(super) fn has_changed(&self) -> bool {
        let progress = &self.progress;
        [&progress.new, &progress.changed, &progress.touched, &progress.removed].iter().any(|count| count.get() > 0)
    }

    pub(super) fn summary(
        &self,
        source: &Source,
        options: &Options,
        facts: &Facts,
        error: Option<&Error>,
        started: Instant,
    ) -> Summary {
        let (outcome, exit) = match error.map(Error::kind) {
            None if self.progress.errors.get() == 0 => (Outcome::Ok, 0),
            None => (Outcome::Partial, Kind::Partial.exit_status()),
            Some(kind @ (Kind::Guard | Kind::Interrupted | Kind::Terminated)) => (Outcome::Stopped, kind.exit_status()),
            // What was received until the line broke is in place.
            Some(Kind::Unreachable) if facts.remote.is_some() => (Outcome::Partial, Kind::Unreachable.exit_status()),
            Some(kind) => (Outcome::Failed, kind.exit_status()),
        };
        Summary {
            source: source.name.to_string(),
            run: facts.run,
            outcome,
            exit,
            remote: facts.remote,
            counts: self.progress.counts(facts.traffic.0, facts.traffic.1),
            seconds: started.elapsed().as_secs_f64(),
            dry_run: options.dry_run,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Tee;

    /// Returns the counts of listed and unchanged entries after a last attempt with these counts.
    fn added_up(listed: u64, unchanged: u64, new: u64, most_listed: u64) -> (u64, u64) {
        let tally = Tally { progress: Progress::default(), report: &Tee(Vec::new()), first_error: OnceLock::new() };
        tally.progress.listed.add(listed);
        tally.progress.unchanged.add(unchanged);
        tally.progress.new.add(new);
        tally.add_attempts_up(most_listed);
        (tally.progress.listed.get(), tally.progress.unchanged.get())
    }

    #[test]
    fn entries_of_several_attempts_are_counted_once() {
        // Well in the end; lost at the end of the second attempt; lost before it listed anything again.
        assert_eq!(added_up(314, 313, 313, 0), (314, 1));
        assert_eq!(added_up(314, 313, 313, 314), (314, 1));
        assert_eq!(added_up(0, 0, 313, 314), (314, 0));
        assert_eq!(added_up(100, 100, 313, 300), (313, 0));
    }
}
