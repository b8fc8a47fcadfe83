//! The second stage: sends each step on its way through the pipeline.
//!
//! Removals wait until the listing is complete and a guard has counted them, and with them whatever takes the place
//! of a directory.

use std::sync::Arc;

use archive_helper::protocol::MAX_BUNDLED;
use crossbeam_channel::Sender as Unbounded;

use super::arriving::unreadable;
use super::change::{Change, aborted};
use super::contents::{Contents, FileTask, Key, Linked, Released, Sampling, Turn};
use super::fetching::{Fetch, path_of};
use super::guard::RemovalGuard;
use super::listing::Steps;
use super::mending::mend;
use super::removals::{Removal, Removals};
use super::sizes::{Meeting, Sizes};
use super::{Directory, Run};
use crate::entry::{DirectoryId, Entry, Hash, Kind, Version, flags};
use crate::error::Result;
use crate::path::AbsPath;
use crate::plan::Step;
use crate::queue::Sender;
use crate::repository::index::{Index, SourceId};
use crate::source::HashWhere;

// How many remembered versions are looked at together.
const PAGE: u32 = 4096;

// Up to how many bytes a file comes as fast as its hash.
const LITTLE: u64 = 16 * 1024;

/// BLAKE3 of no bytes at all.
pub fn hash_of_nothing() -> crate::entry::Hash {
    *blake3::hash(b"").as_bytes()
}

/// The ways that lead on once it is known whether a content is here.
#[derive(Clone)]
pub struct Onward<'a> {
    /// To what reads files.
    pub fetch: Fetch<'a>,
    /// To the trees.
    pub changes: Sender<Change>,
    /// What is under way.
    pub contents: &'a Contents,
    /// Sizes of files that this run has come across.
    pub sizes: &'a Sizes,
    /// To be decided over again.
    pub released: Unbounded<Released>,
}

impl Onward<'_> {
    /// Has a task decided over again.
    pub fn release(&self, mut released: Released) -> Result<()> {
        released.task().into_iter().for_each(|task| self.contents.wait(task));
        self.released.send(released).map_err(aborted)
    }

    /// Hands a change over.
    pub fn change(&self, change: Change) -> Result<()> {
        self.changes.send(change).map_err(aborted)
    }
}

/// The ways that lead on from the listing.
#[derive(Clone)]
pub struct Ways<'a> {
    /// Where content need not be hashed first.
    pub onward: Onward<'a>,
    /// To the helper's hashing.
    pub hashing: Sender<FileTask>,
}

impl Ways<'_> {
    /// Sends a file on its way; it has begun already.
    pub fn file(&self, run: &Run<'_>, index: &Index, task: FileTask) -> Result<()> {
        let task = match Linked::of(&task.entry) {
            None => task,
            Some(inode) => match self.onward.contents.lead_inode(task, inode) {
                Turn::Lead(task) => task,
                Turn::Wait => return Ok(()),
                Turn::Known(task, hash) => return self.onward.change(Change::Known(task, hash)),
            },
        };
        if self.onward.fetch.has_begun(&task) {
            // What is carried on is checked by the client's hash in the end.
            self.onward.sizes.meet_other(task.entry.size);
            return self.hashing.send(task).map_err(aborted);
        }
        match run.source.settings.hash {
            HashWhere::Server => self.to_server(run, task),
            HashWhere::Client => self.to_client(run, index, task),
        }
    }

    // A rebuilt index does not know ctimes, and mtimes as well only as the file system keeps them. What size and mtime say is no
    // proof, but the client's hash is, and spares sending everything again.
    fn to_server(&self, run: &Run<'_>, task: FileTask) -> Result<()> {
        let abilities = run.repository.base().abilities();
        let is_alike = |old: &Version| {
            old.has(flags::REBUILT)
                && old.entry.size == task.entry.size
                && abilities.keeps(old.entry.mtime, task.entry.mtime)
        };
        if task.old.as_deref().is_some_and(is_alike) {
            self.hashing.send(task).map_err(aborted)
        } else {
            self.onward.fetch.want(task)
        }
    }

    // Small files of a size that nothing here has come at once, and unless the line is slow so do little ones that have
    // changed; the client itself sees to it that none comes twice in this run.
    fn to_client(&self, run: &Run<'_>, index: &Index, task: FileTask) -> Result<()> {
        let size = task.entry.size;
        if self.onward.fetch.compares(&task) {
            self.onward.sizes.meet_other(size);
            return self.onward.fetch.want(task);
        }
        if size <= MAX_BUNDLED && run.client.streams() {
            let comes_at_once = run.begins_empty || is_little_and_new(&task) && !run.client.has_slow_line();
            return if !comes_at_once && index.knows_size(size)? {
                self.hashing.send(task).map_err(aborted)
            } else {
                self.onward.fetch.want_once(task)
            };
        }
        // This run has met all sizes of an index that was empty. Other sources may be filling it, too: for a large file that is
        // worth a look.
        let is_here = || Ok((size > MAX_BUNDLED || !run.begins_empty) && index.knows_size(size)?);
        match self.onward.sizes.meet(path_of(&task), size, is_here)? {
            Meeting::First => self.onward.fetch.want(self.onward.contents.lead(task, Key::Size(size))),
            Meeting::Sample(first) => {
                let sampling = Sampling::Wanted { first };
                self.hashing.send(FileTask { sampling, ..task }).map_err(aborted)
            }
            Meeting::Hash => self.hashing.send(task).map_err(aborted),
        }
    }
}

// What has another size than before has another content; if that is here under another name, little has come in vain.
fn is_little_and_new(task: &FileTask) -> bool {
    let old = task.old.as_ref().filter(|old| old.entry.kind == Kind::File);
    task.entry.size <= LITTLE && old.is_some_and(|old| old.entry.size != task.entry.size)
}

/// Turns steps into changes and tasks.
pub struct Dispatch<'a> {
    run: &'a Run<'a>,
    index: &'a Index,
    ways: Ways<'a>,
    guard: RemovalGuard<'a>,
}

impl Steps for Dispatch<'_> {
    fn begin(&mut self, roots: &[AbsPath]) -> Result<()> {
        mend(self.run, roots)?;
        let mounts = self.index.mounts(self.run.source_id)?;
        let is_below = |path: &AbsPath| roots.iter().any(|root| path.starts_with(root));
        self.run.gate.expect_mounts(mounts.iter().filter(|(_, path)| is_below(path)).count() as u64);
        self.ways.onward.change(Change::Roots(roots.to_vec()))
    }

    fn step(&mut self, directory: &Arc<Directory>, step: Step) -> Result<()> {
        if !self.ways.onward.contents.wait_for_room() {
            return Err(aborted(()));
        }
        if self.guard.note(directory, &step)? {
            return Ok(());
        }
        let task = |entry, old| FileTask::new(directory.clone(), entry, old);
        match step {
            Step::Same | Step::Removed { .. } => Ok(()),
            Step::New { entry } => self.enter(task(entry, None)),
            Step::Touched { entry, old } | Step::Changed { entry, old } => self.enter(task(entry, Some(old))),
            Step::Restated { entry, old } => {
                self.ways.onward.contents.begin();
                self.ways.onward.change(Change::Restated(task(entry, Some(old))))
            }
        }
    }

    fn moved(&mut self, directory: &Arc<Directory>, entry: Entry, hash: Option<Hash>) -> Result<()> {
        if !self.ways.onward.contents.wait_for_room() {
            return Err(aborted(()));
        }
        self.guard.note_moved(directory, &entry);
        let task = FileTask::new(directory.clone(), entry, None);
        match hash {
            Some(hash) => {
                self.ways.onward.contents.begin();
                self.ways.onward.change(Change::Known(task, hash))
            }
            None => self.enter(task),
        }
    }

    fn present(&mut self, entries: u64) {
        self.run.gate.note_present(entries);
    }

    fn mount(&mut self) {
        self.run.gate.note_mount();
    }

    fn unmounted(&mut self, path: &AbsPath) {
        self.guard.note_unmounted(path);
    }

    fn planned(&mut self, directory: Arc<Directory>) -> Result<()> {
        self.ways.onward.change(Change::Planned(directory))
    }

    fn unreadable(&mut self, path: &AbsPath) -> Result<()> {
        match self.index.current_at(self.run.source_id, path)? {
            Some(version) => self.ways.onward.change(Change::Unlisted(version)),
            None => Ok(()),
        }
    }

    fn read_content(&self) -> bool {
        true
    }
}

impl<'a> Dispatch<'a> {
    /// A dispatcher over these ways.
    pub fn new(run: &'a Run<'a>, index: &'a Index, ways: Ways<'a>) -> Dispatch<'a> {
        let removals = Removals::new(ways.onward.fetch.staging);
        let guard = RemovalGuard::new(run.before(index), run.source, removals);
        Dispatch { run, index, ways, guard }
    }

    /// Does what had to wait for the end of the listing.
    pub fn finish(self, roots: &[AbsPath]) -> Result<()> {
        let Dispatch { run, index, ways, guard } = self;
        let removals = guard.decide(roots, run.consent)?;
        run.consent.note_listed(roots);
        run.gate.open();
        let removing = Removing { run, index, ways };
        removals.drain(|removal| removing.remove(removal))
    }

    fn enter(&self, task: FileTask) -> Result<()> {
        enter(self.run, self.index, &self.ways, task)
    }
}

fn enter(run: &Run<'_>, index: &Index, ways: &Ways<'_>, task: FileTask) -> Result<()> {
    ways.onward.contents.begin();
    if let Some(why) = unreadable(&task.entry) {
        run.tally.unread(format_args!("can't read `{}` on the client: {why}", path_of(&task)));
        return ways.onward.change(Change::Unread(task, false));
    }
    match (task.entry.kind, task.entry.size) {
        (Kind::File, 0) => ways.onward.change(Change::Known(task, hash_of_nothing())),
        (Kind::File, _) => ways.file(run, index, task),
        _ => ways.onward.change(Change::Plain(task)),
    }
}

/// Removes what is no longer there.
struct Removing<'a> {
    run: &'a Run<'a>,
    index: &'a Index,
    ways: Ways<'a>,
}

impl Removing<'_> {
    // Whatever takes the place of a directory moves the directory itself away.
    fn remove(&self, Removal { version, directory, replacement }: Removal) -> Result<()> {
        let old = self.index.version(version)?;
        let directory = match directory {
            Some(directory) => directory,
            None => Arc::new(Directory::new(self.index.path_of_directory(old.directory)?)),
        };
        if old.entry.kind == Kind::Dir
            && let Some(path) = directory.path.join(&old.entry.name)
        {
            self.remove_below(&path)?;
        }
        match replacement {
            Some(entry) => enter(self.run, self.index, &self.ways, FileTask::new(directory, entry, Some(old))),
            None => self.ways.onward.change(Change::Removed(directory, Box::new(old))),
        }
    }

    fn remove_below(&self, path: &AbsPath) -> Result<()> {
        each_directory_below(self.index, self.run.source_id, path, |id, path| {
            let directory = Arc::new(Directory::new(path));
            each_current(self.index, id, |version| {
                self.ways.onward.change(Change::Removed(directory.clone(), Box::new(version)))
            })
        })
    }
}

/// Calls `each` with the directories at and below a path, the deepest first, so that each is empty when its turn comes.
pub fn each_directory_below(
    index: &Index,
    source: SourceId,
    path: &AbsPath,
    mut each: impl FnMut(DirectoryId, AbsPath) -> Result<()>,
) -> Result<()> {
    let mut before = None;
    loop {
        let page = index.last_directories_below(source, path, before.as_ref(), PAGE)?;
        let Some((_, last)) = page.last() else { return Ok(()) };
        before = Some(last.clone());
        page.into_iter().try_for_each(|(id, path)| each(id, path))?;
    }
}

/// Calls `each` with the current versions in a directory, by name.
pub fn each_current(index: &Index, id: DirectoryId, mut each: impl FnMut(Version) -> Result<()>) -> Result<()> {
    let mut after = None;
    loop {
        let page = index.current_after(id, after.as_ref(), PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.entry.name.clone());
        page.into_iter().try_for_each(&mut each)?;
    }
}
