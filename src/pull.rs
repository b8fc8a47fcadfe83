//! The pull: where a client and the repository meet.
//!
//! A state machine decides what happens to each file. Workers report events to it and carry out its orders. Bounded queues join
//! them, so that memory does not grow with the number of files; the listing pauses while too many postponed files wait:
//!
//! ```text
//!     client          client       client
//!        |               ^  |         ^  |
//!        v               |  v         |  v
//!    [listing]       [hashing]    [fetching]  [receiving] -> staging
//!        |               |             |           |
//!    [dispatch]          |             |           |
//!        |               v             v           v
//!        +---------> events of the [machine] in [in_flight] <-------+
//!        |                         |                                |
//!        |                         v                                |
//!        |                  orders, by [routes]                     |
//!        |          |          |            |           |           |
//!        |        hash       fetch       postpone    record         |
//!        |                              (decided        |           |
//!        |                               again)         v           |
//!        +-- removals ---------------------------> [applying] ------+ committed
//! ```
//!
//! To follow one file, read [`machine`] first; the order of the modules is that of a run:
//!
//! - [`preview`] is a dry run; [`pipeline`] a run: it starts the workers, and ends all of them when one
//!   fails;
//! - [`roots`] checks what the client says of the roots, [`mending`] what an earlier run has left;
//! - [`listing`] compares what the client lists with the index and, through [`crate::plan`], finds what to do for each
//!   [`directory`]; [`path_set`] remembers which were listed;
//! - [`dispatch`] reports every step, and keeps [`removals`] until the [`guard`] has counted them; [`counting`] lists once more
//!   if that takes too long;
//! - [`machine`] decides, [`in_flight`] lets all workers share it, [`routes`] carries out its orders, [`possession`] finds out
//!   who may have the content of another source;
//! - [`hashing`] and [`fetching`] ask the client; [`receiving`] writes what it sends into staging, as [`arriving`] files;
//! - [`applying`] gathers changes, plans each by [`placing`] with contents that [`content_locator`] finds, carries the batch
//!   out, and has the index written while the next one gathers;
//! - [`tally`] counts and reports.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::client::{self, ByteCounts, Client, MachineId, Stop, connect};
use crate::entry::Hash;
use crate::error::{Error, Kind, Result};
use crate::path::SourceName;
use crate::report::{Progress, Report, Summary, counted};
use crate::repository::index::{Index, SourceId, finished};
use crate::repository::journal::recover;
use crate::repository::lock::Lock;
use crate::repository::room::Room;
use crate::repository::staging::Staging;
use crate::repository::{Repository, random_key};
use crate::source::Source;

mod applying;
mod arriving;
mod content_locator;
mod counting;
mod directory;
mod dispatch;
mod fetching;
mod guard;
mod hashing;
mod in_flight;
mod listing;
mod machine;
mod mending;
mod path_set;
mod pipeline;
mod placing;
mod possession;
mod preview;
mod receiving;
mod removals;
mod roots;
mod routes;
mod tally;
#[cfg(test)]
mod tests;

use directory::Directory;
use guard::{Before, Consent, Gate, GoneFiles};
use listing::Remembered;
use path_set::Spill;
use tally::{Facts, Tally};

// How long to wait before connecting again.
const PAUSE: Duration = Duration::from_secs(1);

/// How to pull, beyond what the source says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only report what would be done.
    pub dry_run: bool,
    /// Trust no size and time: hash every file.
    pub checksum: bool,
    /// Take a root that is missing or empty for removed.
    pub allow_missing: bool,
    /// Have the client name what it excludes, and not only count it.
    pub names_excluded: bool,
    /// How long to wait for another pull of the same source to end.
    pub lock_wait: Duration,
    /// Where helpers for other machine types are.
    pub helper_dir: Option<PathBuf>,
    /// How to stop it.
    pub stop: Stop,
}

/// Pulls a source into a repository, and tells how it went, also to `report`. Only a dry run does without a
/// repository.
pub fn pull(repository: Option<&Repository>, source: &Source, options: &Options, report: &dyn Report) -> Summary {
    pull_by(&Threads, repository, source, options, report)
}

fn pull_by(
    engine: &dyn Engine,
    repository: Option<&Repository>,
    source: &Source,
    options: &Options,
    report: &dyn Report,
) -> Summary {
    let started = Instant::now();
    report.begin(&source.name, None);
    let tally = Tally { progress: Progress::default(), report, first_error: OnceLock::new() };
    let options = &Options { stop: options.stop.within(source.settings.max_time), ..options.clone() };
    // The last one that closes the index brings all of its log to the disk, so it stays open until the end is remembered.
    let (mut facts, mut index) = (Facts::default(), None);
    let pull = Pull { source, options, tally: &tally, engine };
    let result = match (repository, options.dry_run) {
        (repository, true) => preview::preview(&pull, repository, &mut facts),
        (Some(repository), false) => pull.run(repository, &mut facts, &mut index),
        (None, false) => Err(Error::usage("a pull needs a repository").hint("name one with `--repo DIR`")),
    };
    if let Err(error) = &result {
        tally.error(error);
    }
    report_inexact_mtimes(repository, report);
    let mut summary = tally.summary(source, options, &facts, result.as_ref().err(), started);
    if let (Some(mut index), Some(run)) = (index, facts.run)
        && let Err(error) =
            index.end_run(run, Timestamp::now(), &summary, tally.reason(result.as_ref().err()).as_deref())
    {
        tally.error(&error);
        summary = tally.summary(source, options, &facts, Some(&error), started);
    }
    report.summary(&summary);
    summary
}

fn report_inexact_mtimes(repository: Option<&Repository>, report: &dyn Report) {
    let count = repository.map_or(0, |repository| repository.base().take_inexact_mtimes());
    if count > 0 {
        let mtimes = counted(count, "mtime");
        report.notice(format_args!("the repository's file system can't hold {mtimes} exactly; the index can"));
    }
}

/// When the runs of a source began that finished, be it with files unread, and whose dates can be right; oldest first.
pub fn finished_starts(repository: &Repository, source: &SourceName, now: Timestamp) -> Result<Vec<Timestamp>> {
    let index = repository.index()?;
    let Some(id) = index.source_id(source)? else { return Ok(Vec::new()) };
    Ok(finished(&index.runs(id)?, now).into_iter().map(|run| run.started).collect())
}

/// What every stage of a run knows.
struct Run<'a> {
    repository: &'a Repository,
    source: &'a Source,
    options: &'a Options,
    tally: &'a Tally<'a>,
    client: &'a dyn Client,
    source_id: SourceId,
    number: i64,
    /// True if the index was empty when the run began. Other sources may add contents meanwhile.
    begins_empty: bool,
    /// True when the index knew nothing of the source as the run began.
    begins_anew: bool,
    /// True when an earlier run, or an earlier attempt of this one, was cut off.
    mends: bool,
    /// True if the server has content of other sources. A client must prove that it has such content before it is linked.
    has_others: bool,
    /// For such proofs.
    key: Hash,
    /// What has to stay free.
    room: &'a Room,
    /// What may be removed.
    consent: &'a Consent,
    /// What changes of the trees have to pass.
    gate: &'a Gate,
}

impl Run<'_> {
    fn before<'i>(&self, index: &'i Index) -> Before<'i> {
        Before { index, source_id: self.source_id, run: Some(self.number), is_empty: self.begins_anew }
    }

    fn remembered<'i>(&'i self, index: &'i Index, staging: &'i Staging) -> Remembered<'i> {
        let Options { checksum: distrust, names_excluded, .. } = *self.options;
        let spill = Some(Spill { staging, room: self.room });
        let index = Some((index, self.source_id));
        Remembered { index, distrust, names_excluded, consent: self.consent, spill }
    }
}

/// How a pull reaches its client, and has the stages of a run work.
trait Engine {
    fn connect(&self, source: &Source, how: &client::Options, report: &dyn Report) -> Result<Box<dyn Client>>;
    fn work(&self, run: &Run<'_>) -> Result<()>;
    /// Waits before the next attempt to connect.
    fn pause(&self);
}

/// A thread for each stage.
struct Threads;

impl Engine for Threads {
    fn connect(&self, source: &Source, how: &client::Options, report: &dyn Report) -> Result<Box<dyn Client>> {
        connect(source.ssh.as_ref(), how, report)
    }

    fn work(&self, run: &Run<'_>) -> Result<()> {
        pipeline::run(run)
    }

    fn pause(&self) {
        std::thread::sleep(PAUSE);
    }
}

/// One pull, from the first attempt to the last.
struct Pull<'a> {
    source: &'a Source,
    options: &'a Options,
    tally: &'a Tally<'a>,
    engine: &'a dyn Engine,
}

/// What the attempts of a pull share.
struct Attempts<'a> {
    repository: &'a Repository,
    index: RefCell<&'a mut Index>,
    room: Room,
    consent: Consent,
    // The machine of the last run.
    known_machine: Option<Vec<u8>>,
    // The source's number and the run's.
    begun: Cell<Option<(SourceId, i64)>>,
    machine: Cell<Option<MachineId>>,
    // See [`Run::mends`].
    mends: Cell<bool>,
    // The guard has let some attempt change the trees.
    has_begun_to_change: Cell<bool>,
}

impl Pull<'_> {
    fn run(&self, repository: &Repository, facts: &mut Facts, opened: &mut Option<Index>) -> Result<()> {
        let Pull { source, options, tally, .. } = *self;
        let _lock = Lock::source(repository, &source.name, options.lock_wait)?;
        let index = opened.insert(repository.index()?);
        let known = index.source_id(&source.name)?;
        refuse_without_index(repository, source, known)?;
        repository.check_index_is_newest(index)?;
        let finished = self.finish_interrupted(repository, index)?;
        if finished > 0 {
            let changes = counted(finished, "change");
            tally.notice(format_args!("finished {changes} that an interrupted run had begun"));
        }
        let was_cut_off = known.map(|id| index.has_cut_off_runs(id)).transpose()?.unwrap_or(false);
        let begun = known.map(|id| begin(repository, index, (id, &source.name), tally)).transpose()?;
        facts.run = begun.map(|(_, number)| number);
        if repository.is_open_to_others() {
            tally.warn(format_args!("others may look into `{}`: run `chmod 700` on it", repository.dir().display()));
        }
        let consent = Consent::read(known.map(|id| (&*index, id)), options)?;
        let room = Room::new(repository, source.settings.min_free);
        room.check()?;
        repository.keep_reserve();
        let knows_directories = known.map(|id| index.knows_directories(id)).transpose()?.unwrap_or(false);
        let how = client::Options { reads: !knows_directories, ..self.how() };
        let attempts = Attempts {
            repository,
            known_machine: known.map(|id| index.machine(id)).transpose()?.flatten(),
            index: RefCell::new(index),
            room,
            consent,
            begun: Cell::new(begun),
            machine: Cell::new(None),
            mends: Cell::new(was_cut_off),
            has_begun_to_change: Cell::new(false),
        };
        let pulled = self.with_retries(how, facts, |client| self.attempt(&attempts, client));
        let Attempts { known_machine, index, consent, begun, machine, has_begun_to_change, .. } = attempts;
        let (index, begun) = (index.into_inner(), begun.get());
        if !has_begun_to_change.get() && pulled.as_ref().is_err_and(|error| error.kind() == Kind::Guard) {
            tally.progress.forget_changes();
        }
        facts.run = begun.map(|(_, number)| number);
        let Some(begun) = begun else { return pulled };
        match (&pulled, note_outcome(index, begun, &pulled, consent.into_outcome())) {
            // Why the guard stopped it matters more.
            (Err(_), Err(error)) => tally.warn(format_args!("can't note what the pull was stopped for: {error}")),
            (_, noted) => noted?,
        }
        pulled?;
        if let Some(id) = machine.get().filter(|id| known_machine.as_deref() != Some(&id[..])) {
            index.set_machine(begun.0, &id)?;
        }
        if tally.has_changed()
            && let Err(error) = keep_copy_of_index(repository, source, index)
        {
            tally.warn(format_args!("no copy of the index was kept: {error}"));
        }
        Ok(())
    }

    // Returns how many changes were finished.
    fn finish_interrupted(&self, repository: &Repository, index: &mut Index) -> Result<u64> {
        let finished = recover(repository, index, &self.source.name)?;
        finished.found.warnings().for_each(|warning| self.tally.warn(warning));
        Ok(finished.changes)
    }

    // Has the stages work until the client is done, or the connection is lost.
    fn attempt(&self, attempts: &Attempts<'_>, client: &dyn Client) -> Result<()> {
        let Pull { source, options, tally, engine } = *self;
        let Attempts { repository, room, consent, .. } = attempts;
        warn_of_other_machine(&source.name, attempts.known_machine.as_deref(), client, &attempts.machine, tally);
        let index = &mut **attempts.index.borrow_mut();
        // An earlier attempt may have been broken off.
        if attempts.mends.get() {
            self.finish_interrupted(repository, index)?;
        }
        // A new source is entered now that its client was reached: a mistyped one never is.
        let (source_id, number) = match attempts.begun.get() {
            Some(begun) => begun,
            None => {
                let id = index.enter_source(&source.name)?;
                begin(repository, index, (id, &source.name), tally)?
            }
        };
        attempts.begun.set(Some((source_id, number)));
        let gate = Gate::default();
        let done = engine.work(&Run {
            repository,
            source,
            options,
            tally,
            client,
            source_id,
            number,
            begins_empty: index.is_empty()?,
            begins_anew: !index.knows_directories(source_id)?,
            mends: attempts.mends.replace(true),
            has_others: index.has_other_sources(source_id)?,
            key: random_key()?,
            room,
            consent,
            gate: &gate,
        });
        attempts.has_begun_to_change.set(attempts.has_begun_to_change.get() || gate.is_open());
        done
    }

    /// Works, and when the line is lost connects again, as often as the source says.
    fn with_retries(
        &self,
        mut how: client::Options,
        facts: &mut Facts,
        work: impl Fn(&dyn Client) -> Result<()>,
    ) -> Result<()> {
        let Pull { source, tally, .. } = *self;
        let mut left = source.settings.retries;
        let is_named = Cell::new(false);
        let work = |client: &dyn Client| {
            let result = work(client);
            if let Some(limitation) = client.limitation()
                && !is_named.replace(true)
            {
                tally.notice(limitation);
            }
            result
        };
        let mut most_listed = 0;
        let result = loop {
            let reached = facts.remote.is_some();
            let error = match self.with_client(&how, facts, work) {
                Ok(()) => break Ok(()),
                Err(error) => error,
            };
            most_listed = most_listed.max(tally.progress.listed.get());
            let lost = error.kind() == Kind::Unreachable && (reached || facts.remote.is_some());
            // One that stalls would stall again, and others wait.
            if !lost || left == 0 || facts.has_stalled {
                break Err(error);
            }
            left -= 1;
            // Whatever made the line break, several channels at a time are not to do so again.
            how.channels = Some(1);
            tally.notice(format_args!("{error}; connects again"));
            tally.progress.listed.reset();
            tally.progress.unchanged.reset();
            tally.progress.excluded.reset();
            self.engine.pause();
        };
        if left < source.settings.retries {
            tally.add_attempts_up(if result.is_ok() { 0 } else { most_listed });
        }
        result
    }

    // How the source's settings have its client reached.
    fn how(&self) -> client::Options {
        let Pull { source, options, .. } = *self;
        client::Options {
            kind: source.settings.remote,
            helper_dir: options.helper_dir.clone(),
            bytes_per_second: source.settings.bwlimit,
            copy: source.settings.tuning.copy,
            compress: source.settings.compress,
            timeout: source.settings.timeout,
            stall_time: source.settings.stall_time,
            channels: source.settings.tuning.channels.map(u8::from),
            reads: false,
            keeps_helper: !options.dry_run,
            readers: source.settings.tuning.readers.map(u8::from),
            stop: options.stop.clone(),
        }
    }

    /// Connects, works, and closes the connection whatever came of the work.
    fn with_client(
        &self,
        how: &client::Options,
        facts: &mut Facts,
        work: impl FnOnce(&dyn Client) -> Result<()>,
    ) -> Result<()> {
        let client = self.engine.connect(self.source, how, self.tally.report)?;
        facts.remote = Some(client.kind());
        let result = work(&*client);
        facts.has_stalled = client.has_stalled();
        let ByteCounts { sent_bytes, received_bytes } = client.traffic();
        facts.traffic = (facts.traffic.0 + sent_bytes, facts.traffic.1 + received_bytes);
        client.disconnect();
        match self.options.stop.asked() {
            Some(stopped) if result.is_err() => Err(stopped),
            _ => result,
        }
    }
}

// A stop remains until a pull that lists what was missing succeeds, or begins to remove it.
fn note_outcome(
    index: &mut Index,
    (source, run): (SourceId, i64),
    pulled: &Result<()>,
    guard::Outcome { stop, gone, listed }: guard::Outcome,
) -> Result<()> {
    match (pulled, stop) {
        (Ok(()), _) => index.clear_stop(source, &listed),
        (Err(error), Some(stop)) => {
            let files = gone.map(GoneFiles::into_versions).transpose()?;
            index.note_stop(source, run, &stop, &error.to_string(), files.into_iter().flatten())
        }
        // The removals that the guard let pass may have begun: an acceptance of them is used up.
        (Err(_), None) if !listed.is_empty() => index.clear_stop(source, &listed),
        (Err(_), None) => Ok(()),
    }
}

fn begin(
    repository: &Repository,
    index: &mut Index,
    (id, name): (SourceId, &SourceName),
    tally: &Tally<'_>,
) -> Result<(SourceId, i64)> {
    let number = repository.begin_run(index, id, Timestamp::now())?;
    tally.report.begin(name, Some(number));
    Ok((id, number))
}

// Two machines that are reached by one name, such as `localhost` at different ports, would take each other's files for removed.
fn warn_of_other_machine(
    source: &SourceName,
    known: Option<&[u8]>,
    client: &dyn Client,
    machine: &Cell<Option<MachineId>>,
    tally: &Tally<'_>,
) {
    let Some(id) = client.machine() else { return };
    let is_first_attempt = machine.replace(Some(id)).is_none();
    if is_first_attempt && known.is_some_and(|known| known != id) {
        tally.warn(format_args!(
            "source `{source}` was another machine in its last run: if these are two, give one of them a name by `--name`"
        ));
    }
}

// Without what the index knows, everything would be taken for new, and what is here for somebody else's.
fn refuse_without_index(repository: &Repository, source: &Source, known: Option<SourceId>) -> Result<()> {
    let name = &source.name;
    if known.is_some() || !repository.holds(name)? {
        return Ok(());
    }
    Err(Error::new(Kind::Failed, format_args!("the index knows nothing of what is in `snapshot/{name}`"))
        .hint("run `archive index rebuild` first"))
}

// A lost index costs the exact metadata of shared inodes; a copy not older than a day or so keeps that loss small.
fn keep_copy_of_index(repository: &Repository, source: &Source, index: &Index) -> Result<()> {
    const KEPT: usize = 2;
    let today = Timestamp::now().strftime("index-%Y%m%d.sqlite").to_string();
    let mut copies = repository.index_copies()?;
    if copies.contains(&today) {
        return Ok(());
    }
    index.copy_to(&repository.index_copy_in_the_making(&source.name)?)?;
    repository.date_index_copy(&source.name, &today)?;
    // Those of a clock that was ahead are older than this one, too.
    copies.sort_by_key(|copy| (*copy <= today, copy.clone()));
    let superfluous = (copies.len() + 1).saturating_sub(KEPT);
    copies.drain(..superfluous).try_for_each(|old| repository.remove_index_copy(&old))
}
