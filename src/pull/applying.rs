//! The last stage: changes the trees and writes the index, batch by batch.
//!
//! A batch is planned by [`placing`](super::placing) while it gathers, and carried out by way of the
//! [`journal`](crate::repository::journal).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::counting::decide_ahead;
use super::guard::Watch;
use super::in_flight::InFlight;
use super::machine::{Event, FileTask, Possession, SnapshotPath, WaitKey};
use super::pipeline::Failure;
use super::placing::Placing;
use super::placing::blocked::Blocked;
use super::routes::{Decider, Routes};
use super::{Directory, Run};
use crate::entry::{Attributes, Hash, Kind, Version};
use crate::error::{OnServer, Result};
use crate::fault;
use crate::path::{AbsPath, Escaped, Name};
use crate::queue::{Nothing, Receiver};
use crate::report::Change as Told;
use crate::repository::archive::path_on_disk;
use crate::repository::index::{Index, Write};
use crate::repository::journal::{Journal, Row, Then};
use crate::repository::place::{Place, Tree};
use crate::repository::staging::{Staged, Staging};
use crate::source::{ArchiveWhat, LinkWhen};

mod ledger;

pub(super) use ledger::Ledger;

// One that waits for its trays has half as many more.
const MOST_CHANGES: usize = 2560;
const MOST_BYTES: u64 = 256 << 20;
// Two batches are in memory, one that gathers and one that is being entered, and one in a row of the index while pending.
const MOST_ATTRIBUTES: usize = 16 << 20;
const MOST_AGE: Duration = Duration::from_secs(2);
// Changes that are held back until the guard has decided; each takes about a kilobyte.
const MAX_HELD: usize = 16 * 1024;
// From how many changes on a batch is carried out as soon as none is there to be added, while the client is at work: the
// end has less to do then. A first pull, which has the most to write, does it in few large batches.
const IDLE_BATCH: usize = 512;
// How often an open batch that gets no more changes looks whether anybody waits for it to be committed.
const IDLE: Duration = Duration::from_millis(10);
// How often it looks when it only waits for the rest of its trays.
const PATIENCE: u32 = 3;

const SYMLINK: &str = "can't make a symlink in the staging area";

/// What the batch writer applies to the trees and the index.
#[derive(Debug)]
pub enum Change {
    /// An entry without content of its own: directory, symlink, fifo, socket, device.
    Plain(Box<FileTask>),
    /// Another entry of the same version, in the index only.
    Restated(Box<FileTask>),
    /// A file whose content was received.
    Received(Box<FileTask>, Staged),
    /// A file whose content is on the server; `possession` is needed for content that only another source has sent.
    Known {
        /// The file.
        file: Box<FileTask>,
        /// Its content.
        hash: Hash,
        /// Shows that the client has the content.
        possession: Option<Box<Possession>>,
    },
    /// A file that could not be read: the old version stays.
    Unread {
        /// The file.
        file: Box<FileTask>,
        /// It does not exist any more; the next listing shows that.
        has_vanished: bool,
    },
    /// An entry that could not be listed.
    Unlisted(Version),
    /// The roots of the run; comes first.
    Roots(Vec<AbsPath>),
    /// An entry that does not exist any more.
    Removed(Arc<Directory>, Box<Version>),
    /// All changes of a directory were handed over.
    Planned(Arc<Directory>),
}

/// Applies changes until no more come.
pub fn apply<'a>(
    run: &'a Run<'a>,
    staging: &'a Arc<Staging>,
    in_flight: &'a InFlight,
    changes: &Receiver<Change>,
    routes: &Routes<'a>,
    failure: &'a Failure<'a>,
) -> Result<()> {
    let index = run.repository.index()?;
    index.expect_much_writing()?;
    thread::scope(|scope| {
        let ledger = Ledger::new(index, scope, failure)?;
        BatchWriter::open(run, staging, in_flight, routes, ledger)?.run(changes)
    })
}

// What could not be read in an earlier run gets another chance.
fn clear_flags(run: &Run<'_>, index: &mut Index, roots: &[AbsPath]) -> Result<()> {
    let write = index.write()?;
    roots.iter().try_for_each(|root| write.clear_unreadable(run.source_id, root))?;
    write.commit()
}

/// Gathers changes, and carries them out batch by batch.
pub(super) struct BatchWriter<'scope, 'a: 'scope> {
    run: &'a Run<'a>,
    ledger: Ledger<'scope>,
    placing: Placing<'a>,
    blocked: Blocked,
    journal: Journal,
    staging: &'a Staging,
    in_flight: &'a InFlight,
    decider: Decider<'a>,
    ends: Ends,
    changes: usize,
    // Files that came while the batch waited for those of its trays: they are the next one's.
    late: Vec<Change>,
    most_changes: usize,
    idle_batch: usize,
    bytes: u64,
    attributes: usize,
    begun: Option<Instant>,
    roots: Vec<AbsPath>,
    watch: Watch,
}

/// What ends with a batch.
#[derive(Default)]
struct Ends {
    // Tasks that are done once the rows are committed.
    finished: Vec<Finished>,
    // References to directories, given up along with the rows.
    directories: Vec<Arc<Directory>>,
}

/// A file that ends with a batch; see [`Event::Finished`].
struct Finished {
    leads: Vec<WaitKey>,
    hash: Option<Hash>,
    path: Option<Arc<SnapshotPath>>,
}

impl<'scope, 'a: 'scope> BatchWriter<'scope, 'a> {
    /// Opens the trees of the run's source.
    pub(super) fn open(
        run: &'a Run<'a>,
        staging: &'a Arc<Staging>,
        in_flight: &'a InFlight,
        routes: &Routes<'a>,
        ledger: Ledger<'scope>,
    ) -> Result<BatchWriter<'scope, 'a>> {
        let name = &run.source.name;
        Ok(BatchWriter {
            run,
            ledger,
            placing: Placing::open(run, staging)?,
            blocked: Blocked::new(run.repository.snapshot(name)?, run.repository.archive(name)?),
            journal: Journal::open(run.repository, (run.source_id, name), Arc::clone(staging))?,
            staging,
            in_flight,
            decider: Decider::new(run, in_flight, routes.clone()),
            ends: Ends::default(),
            changes: 0,
            late: Vec::new(),
            most_changes: fault::most_changes(MOST_CHANGES),
            idle_batch: if run.begins_anew { MOST_CHANGES } else { IDLE_BATCH },
            bytes: 0,
            attributes: 0,
            begun: None,
            roots: Vec::new(),
            watch: Watch::default(),
        })
    }

    fn run(mut self, changes: &Receiver<Change>) -> Result<()> {
        loop {
            match self.next(changes) {
                Ok(change) => self.add(change)?,
                Err(Nothing::Yet) => self.commit_if_open()?,
                Err(Nothing::More) => return self.finish(),
            }
            if self.is_full() {
                self.commit_if_open()?;
            }
        }
    }

    /// Adds a change to the batch.
    pub(super) fn add(&mut self, change: Change) -> Result<()> {
        if let Err(error) = take_room(self.run, &change) {
            // What there was room for is kept.
            self.late.clear();
            if self.may_commit()? {
                self.commit(Then::Nothing)?;
            }
            return self.ledger.index().and(Err(error));
        }
        self.take(change)
    }

    /// Carries out what is left, unless the run has failed before the guard has decided.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.run.gate.is_open() {
            while !self.late.is_empty() {
                self.commit(Then::More)?;
            }
            self.commit(Then::Nothing)?;
        }
        self.ledger.index().map(drop)
    }

    // The guard may still stop the run: nothing in the trees is changed before it is certain that it does not.
    fn may_commit(&mut self) -> Result<bool> {
        let before = self.run.before(self.ledger.index()?);
        self.watch.opens(self.run.gate, before, self.run.source, &self.roots)
    }

    /// Carries out the batch, if the guard has decided.
    pub(super) fn commit_if_open(&mut self) -> Result<()> {
        if !self.may_commit()? {
            if !self.is_overfull() {
                return Ok(());
            }
            decide_ahead(self.run, self.ledger.index()?, self.staging)?;
        }
        self.commit(Then::More)
    }

    // Nothing more can be held back: the listing waits, too, when too many tasks wait for others.
    fn is_overfull(&self) -> bool {
        self.changes + self.late.len() >= fault::most_changes(MAX_HELD)
            || self.attributes >= MOST_ATTRIBUTES
            || self.in_flight.is_full()
    }

    fn next(&self, changes: &Receiver<Change>) -> std::result::Result<Change, Nothing> {
        let Some(begun) = self.begun else { return changes.recv().ok_or(Nothing::More) };
        match changes.try_recv() {
            Err(Nothing::Yet) if self.changes < self.idle_batch || self.waits_for_trays() => {}
            Err(Nothing::Yet) if !self.run.gate.is_open() => {}
            received => return received,
        }
        let mut looks = 0;
        loop {
            looks += 1;
            match changes.recv_timeout(IDLE) {
                // Nothing is gained by closing a batch that has to wait for the one before it.
                Err(Nothing::Yet) if self.ledger.is_writing() => {}
                Err(Nothing::Yet) if looks < PATIENCE && self.waits_for_trays() => {}
                Err(Nothing::Yet) if begun.elapsed() < MOST_AGE && !self.in_flight.is_awaited() => {}
                received => return received,
            }
        }
    }

    fn is_full(&self) -> bool {
        self.has_enough() && !self.waits_for_trays()
            || self.bytes >= MOST_BYTES
            || self.attributes >= MOST_ATTRIBUTES
            || self.begun.is_some_and(|begun| begun.elapsed() >= MOST_AGE)
    }

    fn has_enough(&self) -> bool {
        self.changes >= self.most_changes
    }

    // One that ends amid a directory has to move its files one by one.
    fn waits_for_trays(&self) -> bool {
        let most = self.most_changes + self.most_changes / 2;
        self.has_enough() && self.changes + self.late.len() < most && self.placing.has_open_trays()
    }

    fn is_late(&self, change: &Change) -> bool {
        let is_for_others = || match change {
            Change::Received(file, staged) => staged.name.tray.is_some() && !self.placing.has_tray_of(&file.directory),
            _ => false,
        };
        self.has_enough() && is_for_others()
    }

    fn take(&mut self, change: Change) -> Result<()> {
        if self.is_late(&change) {
            self.late.push(change);
            return Ok(());
        }
        self.begun.get_or_insert_with(Instant::now);
        self.changes += 1;
        // A client that waits while the server copies and reads has not stalled.
        self.run.client.progress(bytes_of(&change));
        let Some((directory, name)) = changed_name(&change) else { return self.place(change) };
        // What this run has made itself is not blocked.
        if !self.run.begins_anew
            && let Some(tree) = self.blocked.tree_of(&directory.path, &name)
        {
            return self.refuse(change, &directory, &name, tree);
        }
        self.place(change).map_err(|error| error.at(self.shown(&directory, &name)))
    }

    // Where in the repository a name is, for a person.
    fn shown(&self, directory: &Directory, name: &Name) -> String {
        let (source, directory) = (self.run.source.name.clone(), directory.path.clone());
        let place = Place { tree: Tree::Snapshot, source, directory, name: name.clone() };
        Escaped(&place.on_disk()).to_string()
    }

    // What can't be changed stays, as if it could not be read on the client; the next run tries again.
    fn refuse(&mut self, change: Change, directory: &Arc<Directory>, name: &Name, tree: Tree) -> Result<()> {
        let shown = self.shown(directory, name);
        let (source, on_disk) = (&self.run.source.name, path_on_disk(&directory.path));
        let what = match tree {
            Tree::Snapshot => "it, a directory above or something below".to_owned(),
            Tree::Archive => format!("`archive/{source}/{}` or a directory above", Escaped(&on_disk)),
        };
        self.run
            .tally
            .unread(format_args!("can't change `{shown}`: {what} is immutable (see `lsattr -d`, `chattr -ia`)"));
        match change {
            Change::Received(file, staged) => {
                self.staging.unlink(&staged.name).on_server("can't clear the staging area")?;
                self.unread(file, false)
            }
            Change::Plain(file) | Change::Known { file, .. } => self.unread(file, false),
            Change::Removed(directory, version) => {
                self.placing.flag(version.id);
                self.ends.directories.push(directory);
                Ok(())
            }
            other => self.place(other),
        }
    }

    fn place(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Plain(file) => self.plain(file),
            Change::Restated(file) => self.restated(file),
            Change::Received(file, staged) => self.received(file, staged),
            Change::Known { file, hash, possession } => self.known(file, hash, possession),
            Change::Unread { file, has_vanished } => self.unread(file, has_vanished),
            Change::Unlisted(version) => {
                self.placing.flag(version.id);
                Ok(())
            }
            Change::Roots(roots) => {
                self.placing.check_roots(&roots)?;
                self.roots.clone_from(&roots);
                clear_flags(self.run, self.ledger.index()?, &roots)
            }
            Change::Removed(directory, version) => self.removed(directory, &version),
            Change::Planned(directory) => {
                self.ends.directories.push(directory);
                Ok(())
            }
        }
    }

    fn plain(&mut self, file: Box<FileTask>) -> Result<()> {
        if file.entry.kind == Kind::Symlink && self.staging.refuses_symlink(&file.entry).on_server(SYMLINK)? {
            let (path, length) = (file.path(), file.entry.target.len());
            let what = "the repository's file system can't hold a symlink target of";
            self.run.tally.unread(format_args!("can't keep `{path}`: {what} {length} bytes"));
            return self.unread(file, false);
        }
        tell(self.run, &file, false);
        self.placing.plain(&mut self.ledger, &file)?;
        self.end_file(*file, None, true);
        Ok(())
    }

    fn restated(&mut self, file: Box<FileTask>) -> Result<()> {
        self.run.tally.progress.unchanged.add(1);
        if let Some(old) = &file.old {
            self.placing.end(&mut self.ledger, old)?;
            let entry = Box::new(file.entry.clone());
            self.placing.row(&file.directory, Row::Refresh { id: old.id, entry, hash: old.hash, flags: old.flags });
        }
        self.end_file(*file, None, true);
        Ok(())
    }

    fn received(&mut self, file: Box<FileTask>, staged: Staged) -> Result<()> {
        tell(self.run, &file, file.had_content(&staged.hash));
        let hash = staged.hash;
        self.bytes += staged.size;
        self.placing.received(&mut self.ledger, &file, staged)?;
        let is_as_listed = file.is_as_listed();
        self.end_file(*file, Some(hash), is_as_listed);
        Ok(())
    }

    fn known(&mut self, file: Box<FileTask>, hash: Hash, possession: Option<Box<Possession>>) -> Result<()> {
        if !self.placing.known(&mut self.ledger, &file, hash, possession.as_deref())? {
            // The client still has the content.
            return self.decider.report(Event::NotFound(file));
        }
        tell(self.run, &file, file.had_content(&hash));
        self.end_file(*file, Some(hash), true);
        Ok(())
    }

    fn unread(&mut self, file: Box<FileTask>, has_vanished: bool) -> Result<()> {
        if let Some(old) = file.old.as_ref().filter(|_| !has_vanished) {
            self.placing.flag(old.id);
        }
        self.end_file(*file, None, false);
        Ok(())
    }

    fn removed(&mut self, directory: Arc<Directory>, version: &Version) -> Result<()> {
        self.placing.remove(&mut self.ledger, &directory, version)?;
        directory.done.fetch_add(1, Ordering::Relaxed);
        if let Some(path) = directory.path.join(&version.entry.name) {
            self.run.tally.changed(Told::Removed, &path);
        }
        self.ends.directories.push(directory);
        Ok(())
    }

    fn end_file(&mut self, file: FileTask, hash: Option<Hash>, is_as_listed: bool) {
        self.attributes += file.entry.attributes.as_deref().map_or(0, Attributes::weight);
        let path = (is_as_listed && file.leads_inode())
            .then(|| Arc::new(SnapshotPath { directory: file.directory.path.clone(), name: file.entry.name.clone() }));
        let (leads, directory) = file.into_leads();
        self.ends.finished.push(Finished { leads, hash, path });
        if is_as_listed {
            directory.done.fetch_add(1, Ordering::Relaxed);
        }
        self.ends.directories.push(directory);
    }

    fn commit(&mut self, then: Then) -> Result<()> {
        let batch = self.placing.take_batch();
        self.blocked.forget();
        let done = self.journal.carry_out(self.ledger.index()?, batch, then)?;
        done.found.warnings().for_each(|warning| self.run.tally.warn(warning));
        let ends = std::mem::take(&mut self.ends);
        let (run, staging) = (self.run, self.staging);
        let mut decider = Decider::new(run, self.in_flight, self.decider.routes.clone());
        self.ledger.write(move |index| {
            done.settle(index, |write| end_directories(run, staging, ends.directories, write))?;
            for Finished { leads, hash, path } in ends.finished {
                decider.report(Event::Finished { leads, hash, path })?;
            }
            run.tally.report.progress(&run.tally.progress);
            Ok(())
        })?;
        (self.changes, self.bytes, self.attributes, self.begun) = (0, 0, 0, None);
        std::mem::take(&mut self.late).into_iter().try_for_each(|change| self.take(change))
    }
}

fn end_directories(
    run: &Run<'_>,
    staging: &Staging,
    directories: Vec<Arc<Directory>>,
    write: &Write<'_>,
) -> Result<()> {
    // The last reference to a directory says that all of it is done.
    for directory in directories.into_iter().filter_map(Arc::into_inner) {
        if directory.listed_whole {
            let id = write.enter_directory(run.source_id, &directory.path)?;
            write.remember_fingerprint(id, directory.settled(), directory.inode)?;
            write.remember_mount(id, directory.is_mount)?;
        }
        staging.clear_tray(directory.tray).on_server("can't clear the staging area")?;
    }
    Ok(())
}

// Whatever begins takes an inode, or a row of the index at least; what can't be linked is copied. Removals have room always:
// they may make some.
fn take_room(run: &Run<'_>, change: &Change) -> Result<()> {
    let settings = &run.source.settings;
    let copies = settings.link == LinkWhen::Never;
    let (known, archived) = match change {
        Change::Known { file, .. } if copies => (file.entry.size, file.entry.size),
        Change::Received(file, _) if copies => (0, file.entry.size),
        Change::Known { .. } | Change::Received(..) | Change::Plain(_) => (0, 0),
        _ => return Ok(()),
    };
    run.room.take(known.saturating_add(if settings.archive == ArchiveWhat::All { archived } else { 0 }))
}

fn bytes_of(change: &Change) -> u64 {
    match change {
        Change::Known { file, .. } => file.entry.size,
        // What was received is counted by its stream.
        _ => 0,
    }
}

// The name in the snapshot that a change makes, replaces or removes.
fn changed_name(change: &Change) -> Option<(Arc<Directory>, Name)> {
    match change {
        Change::Plain(file) | Change::Received(file, _) | Change::Known { file, .. } => {
            Some((Arc::clone(&file.directory), file.entry.name.clone()))
        }
        Change::Removed(directory, version) => Some((Arc::clone(directory), version.entry.name.clone())),
        _ => None,
    }
}

// Counts and tells a change.
fn tell(run: &Run<'_>, file: &FileTask, same_content: bool) {
    let told = match &file.old {
        None => Told::New,
        Some(old) if old.entry.kind != file.entry.kind => Told::Changed,
        Some(_) if same_content || file.entry.kind == Kind::Dir => Told::Touched,
        Some(old) if file.entry.kind != Kind::File && old.entry.target == file.entry.target => Told::Touched,
        Some(_) => Told::Changed,
    };
    run.tally.changed(told, &file.path());
}
