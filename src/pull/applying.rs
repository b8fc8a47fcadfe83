//! The last stage: changes the trees and writes the index, batch by batch.
//!
//! For one path the old version moves to the archive first, then the new one into place, then the index follows. A
//! batch's files are on the disk before any name points at them, and its rows are one transaction.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::contents::{Contents, FileTask, Key, Released};
use super::dispatch::Change;
use super::placing::Placing;
use super::receiving::path_of;
use super::{Directory, Run};
use crate::entry::{DirectoryId, Entry, Hash, Kind, Version, flags};
use crate::error::{OnServer, Result};
use crate::path::{AbsPath, Name};
use crate::report::Change as Told;
use crate::repository::index::{Index, NewVersion, Write};
use crate::repository::staging::{Staged, Staging};

const MOST_CHANGES: usize = 8192;
const MOST_BYTES: u64 = 256 << 20;
const MOST_AGE: Duration = Duration::from_secs(2);
// How often an open batch that gets no more changes looks whether anybody waits for it to be committed.
const IDLE: Duration = Duration::from_millis(10);

/// What is to be written to the index for one change.
pub(super) enum Row {
    /// A version begins.
    Begin { directory: Arc<Directory>, entry: Box<Entry>, hash: Option<Hash>, archive_name: Option<Name>, flags: u32 },
    /// A version ends.
    End { id: i64, archive_name: Option<Name> },
    /// Something that was in the way, and that no row told of, went to the archive.
    Stray { directory: Arc<Directory>, entry: Box<Entry>, hash: Option<Hash>, archive_name: Name },
    /// A version has other metadata.
    Refresh { id: i64, entry: Box<Entry>, hash: Option<Hash>, flags: u32 },
    /// A version could not be read this time.
    Flag { id: i64 },
    /// A directory is gone: the next pull must look at it anew.
    Gone { directory: Arc<Directory>, name: Name },
}

/// Applies changes until no more come.
pub fn apply(
    run: &Run<'_>,
    staging: &Staging,
    contents: &Contents,
    changes: &Receiver<Change>,
    released: &Sender<Released>,
) -> Result<()> {
    let mut index = run.repository.index()?;
    let placing = Placing::open(run, staging)?;
    let batch = Batch {
        placing,
        contents,
        released,
        rows: Vec::new(),
        finished: Vec::new(),
        directories: Vec::new(),
        changes: 0,
        bytes: 0,
        begun: None,
    };
    batch.run(run, &mut index, changes)
}

// What could not be read in an earlier run gets another chance.
fn clear_flags(run: &Run<'_>, index: &mut Index, roots: &[AbsPath]) -> Result<()> {
    let write = index.write()?;
    roots.iter().try_for_each(|root| write.clear_unreadable(run.source_id, root))?;
    write.commit()
}

struct Batch<'a> {
    placing: Placing<'a>,
    contents: &'a Contents,
    released: &'a Sender<Released>,
    rows: Vec<Row>,
    // Tasks that are done once the rows are committed, with the content that is in place then.
    finished: Vec<(Vec<Key>, Option<Hash>)>,
    // References to directories, given up once the rows are committed.
    directories: Vec<Arc<Directory>>,
    changes: usize,
    bytes: u64,
    begun: Option<Instant>,
}

impl Batch<'_> {
    fn run(mut self, run: &Run<'_>, index: &mut Index, changes: &Receiver<Change>) -> Result<()> {
        loop {
            match self.next(changes) {
                Ok(change) => self.take(run, index, change)?,
                Err(RecvTimeoutError::Timeout) => self.commit(run, index)?,
                Err(RecvTimeoutError::Disconnected) => return self.commit(run, index),
            }
            if self.is_full() {
                self.commit(run, index)?;
            }
        }
    }

    fn next(&self, changes: &Receiver<Change>) -> std::result::Result<Change, RecvTimeoutError> {
        let Some(begun) = self.begun else { return changes.recv().map_err(|_| RecvTimeoutError::Disconnected) };
        if let Ok(change) = changes.try_recv() {
            return Ok(change);
        }
        loop {
            match changes.recv_timeout(IDLE) {
                Err(RecvTimeoutError::Timeout) if begun.elapsed() < MOST_AGE && !self.contents.is_awaited() => {}
                received => return received,
            }
        }
    }

    fn is_full(&self) -> bool {
        self.changes >= MOST_CHANGES
            || self.bytes >= MOST_BYTES
            || self.begun.is_some_and(|begun| begun.elapsed() >= MOST_AGE)
    }

    // Changes are made to the trees as they come, but for files that were received or copied: those wait for the
    // batch's sync.
    fn take(&mut self, run: &Run<'_>, index: &mut Index, change: Change) -> Result<()> {
        self.begun.get_or_insert_with(Instant::now);
        self.changes += 1;
        match change {
            Change::Plain(task) => self.plain(run, task),
            Change::Restated(task) => self.restated(run, task),
            Change::Received(task, staged) => self.received(run, task, staged),
            Change::Known(task, hash) => self.known(run, index, task, hash),
            Change::Unread(task, vanished) => self.unread(task, vanished),
            Change::Unlisted(version) => self.flag(version.id),
            Change::Roots(roots) => clear_flags(run, index, &roots),
            Change::Removed(directory, version) => self.removed(run, directory, &version),
            Change::Planned(directory) => self.planned(directory),
        }
    }

    fn plain(&mut self, run: &Run<'_>, task: FileTask) -> Result<()> {
        tell(run, &task, false);
        self.placing.plain(&task, &mut self.rows)?;
        self.finish(task, None);
        Ok(())
    }

    fn restated(&mut self, run: &Run<'_>, task: FileTask) -> Result<()> {
        run.tally.progress.unchanged.add(1);
        if let Some(old) = &task.old {
            self.rows.push(Row::Refresh {
                id: old.id,
                entry: Box::new(task.entry.clone()),
                hash: old.hash,
                flags: old.flags,
            });
        }
        self.finish(task, None);
        Ok(())
    }

    fn received(&mut self, run: &Run<'_>, task: FileTask, staged: Staged) -> Result<()> {
        tell(run, &task, has_content(&task, &staged.hash));
        let hash = staged.hash;
        self.bytes += staged.size;
        self.placing.received(&task, staged);
        self.finish(task, Some(hash));
        Ok(())
    }

    fn known(&mut self, run: &Run<'_>, index: &Index, task: FileTask, hash: Hash) -> Result<()> {
        if !self.placing.known(index, &task, hash, &mut self.rows)? {
            // Its place is gone or spoilt: the client has it still.
            let _ = self.released.send(Released::Missing(task));
            return Ok(());
        }
        tell(run, &task, has_content(&task, &hash));
        self.finish(task, Some(hash));
        Ok(())
    }

    fn unread(&mut self, task: FileTask, vanished: bool) -> Result<()> {
        if let Some(old) = task.old.as_ref().filter(|_| !vanished) {
            self.flag(old.id)?;
        }
        self.finish(task, None);
        Ok(())
    }

    fn flag(&mut self, id: i64) -> Result<()> {
        self.rows.push(Row::Flag { id });
        Ok(())
    }

    fn removed(&mut self, run: &Run<'_>, directory: Arc<Directory>, version: &Version) -> Result<()> {
        self.placing.remove(&directory, version, &mut self.rows)?;
        if let Some(path) = directory.path.join(&version.entry.name) {
            run.tally.changed(Told::Removed, &path);
        }
        self.planned(directory)
    }

    fn planned(&mut self, directory: Arc<Directory>) -> Result<()> {
        self.directories.push(directory);
        Ok(())
    }

    fn finish(&mut self, task: FileTask, hash: Option<Hash>) {
        self.finished.push((task.leads, hash));
        self.directories.push(task.directory);
    }

    fn commit(&mut self, run: &Run<'_>, index: &mut Index) -> Result<()> {
        self.placing.settle(index, &mut self.rows)?;
        let write = index.write()?;
        for row in self.rows.drain(..) {
            write_row(run, &write, row)?;
        }
        // The last reference to a directory says that all of it is done.
        for directory in self.directories.drain(..) {
            if let Some(directory) = Arc::into_inner(directory).filter(|directory| directory.listed_whole) {
                write.remember_fingerprint(id_of(run, &write, &directory)?)?;
            }
        }
        write.commit()?;
        self.placing.committed();
        for (leads, hash) in self.finished.drain(..) {
            for released in self.contents.finish(leads, hash) {
                // Nobody takes it when the run is being broken off.
                let _ = self.released.send(released);
            }
        }
        (self.changes, self.bytes, self.begun) = (0, 0, None);
        run.tally.report.progress(&run.tally.progress);
        Ok(())
    }
}

pub(super) fn has_content(task: &FileTask, hash: &Hash) -> bool {
    task.old.as_ref().is_some_and(|old| old.entry.kind == Kind::File && old.hash.as_ref() == Some(hash))
}

// Counts and tells a change.
fn tell(run: &Run<'_>, task: &FileTask, same_content: bool) {
    let told = match &task.old {
        None => Told::New,
        Some(old) if old.entry.kind != task.entry.kind => Told::Changed,
        Some(_) if same_content || task.entry.kind == Kind::Dir => Told::Touched,
        Some(old) if task.entry.kind != Kind::File && old.entry.target == task.entry.target => Told::Touched,
        Some(_) => Told::Changed,
    };
    run.tally.changed(told, &path_of(task));
}

fn id_of(run: &Run<'_>, write: &Write<'_>, directory: &Directory) -> Result<DirectoryId> {
    if let Some(id) = directory.id.get() {
        return Ok(*id);
    }
    let id = write.enter_directory(run.source_id, &directory.path)?;
    Ok(*directory.id.get_or_init(|| id))
}

fn write_row(run: &Run<'_>, write: &Write<'_>, row: Row) -> Result<()> {
    match row {
        Row::Begin { directory, entry, hash, archive_name, flags } => {
            let directory = id_of(run, write, &directory)?;
            let archive_name = archive_name.as_ref();
            write.insert(&NewVersion { directory, entry: &entry, hash, run: run.number, archive_name, flags })
        }
        Row::End { id, archive_name } => write.close(id, run.number, archive_name.as_ref()),
        Row::Stray { directory, entry, hash, archive_name } => {
            let directory = id_of(run, write, &directory)?;
            let (archive_name, flags) = (Some(&archive_name), flags::REBUILT);
            write.insert_past(&NewVersion { directory, entry: &entry, hash, run: run.number, archive_name, flags })
        }
        Row::Refresh { id, entry, hash, flags } => write.refresh(id, &entry, hash, flags),
        Row::Flag { id } => write.flag(id, flags::UNREADABLE),
        Row::Gone { directory, name } => match directory.path.join(&name) {
            Some(path) => {
                let gone = Directory { path, listed_whole: false, id: OnceLock::new() };
                write.forget_fingerprint(id_of(run, write, &gone)?)
            }
            None => Ok(()),
        },
    }
}

/// The error text for trouble with the trees.
pub(super) const WHAT: &str = "can't change the trees";

/// Waits until what was received is on the disk.
pub(super) fn sync(staging: &Staging) -> Result<()> {
    staging.dir().sync_file_system().on_server("can't sync the staging area")
}
