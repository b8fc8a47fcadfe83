//! Asking for files: what is wanted of the client, and how.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use archive_helper::protocol::MAX_BUNDLED;

use super::arriving::{Part, Target};
use super::change::aborted;
use super::contents::{FileTask, Key};
use crate::entry::{Entry, Kind, Version};
use crate::error::Result;
use crate::path::AbsPath;
use crate::queue::Sender;
use crate::remote::{Base, MOST_COMPARED_BYTES, Wanted};
use crate::repository::dirs::Dir;
use crate::repository::staging::{Staging, partial_name};

// From how many bytes on a file that breaks off is carried on by the next run.
const LARGE: u64 = 1 << 20;

// From how many bytes on a file may be compared with its earlier version: of a smaller one much is new if anything is. It
// may have grown so many times, for else most of it is new, and shrunk so many times, for all of the other is looked at.
const COMPARED: u64 = 4 * 1024;
const GROWN: u64 = 16;
const SHRUNK: u64 = 4;

/// Files that were asked for, by number.
#[derive(Debug, Default)]
pub struct Expected {
    tasks: Mutex<HashMap<u64, Asked>>,
    next: AtomicU64,
}

/// A file that was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) task: FileTask,
    part: Option<Part>,
    base: Option<Base>,
    // A small one that need not come when its content has.
    pub(super) once: bool,
}

/// The way to what reads files from the client.
#[derive(Clone)]
pub struct Fetch<'a> {
    /// The queue of the reader.
    pub wanted: Sender<Wanted>,
    /// The same for large files that are compared with earlier versions.
    pub compared: Sender<Wanted>,
    /// What it will answer.
    pub expected: &'a Expected,
    /// Where parts of files may be that an earlier run left.
    pub staging: &'a Staging,
    /// Where earlier versions are; `None` when they are of no use.
    pub snapshot: Option<&'a Dir>,
}

impl Fetch<'_> {
    /// Asks for a file.
    pub fn want(&self, task: FileTask) -> Result<()> {
        self.ask(task, false)
    }

    /// Asks for a small file whose content has not come in this run, as far as the client knows.
    pub fn want_once(&self, task: FileTask) -> Result<()> {
        self.ask(task, true)
    }

    fn ask(&self, task: FileTask, once: bool) -> Result<()> {
        let id = self.expected.next.fetch_add(1, Ordering::Relaxed);
        let path = path_of(&task);
        let Entry { size, mtime, uid, .. } = task.entry;
        // What is carried on must be checked by its hash in the end.
        let is_checked = task.leads.iter().any(|key| matches!(key, Key::Hash(_)));
        let part = self.part(&task).map(|part| if is_checked { part } else { Part { size: 0, ..part } });
        let offset = part.as_ref().map_or(0, |part| part.size);
        let data = task.entry.attributes.as_ref().and_then(|attributes| attributes.data.as_deref()).map(Arc::from);
        let base = self.base(&task);
        let wanted = Wanted { id, path, size, mtime, uid, offset, once, data, base: base.clone() };
        self.expected.tasks.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Asked { task, part, base, once });
        let is_compared = wanted.base.is_some() && size > MAX_BUNDLED;
        let way = if is_compared { &self.compared } else { &self.wanted };
        way.send(wanted).map_err(aborted)
    }

    // The plain file of the version that a file may be compared with.
    fn base(&self, task: &FileTask) -> Option<Base> {
        let (snapshot, old) = (self.snapshot?.clone(), self.earlier_version(task)?);
        let (directory, name) = (task.directory.path.clone(), old.entry.name.clone());
        Some(Base::new(old.entry.size, move || Ok(snapshot.open(directory.below_root())?.open_file(&name)?)))
    }

    // The version that is about to be replaced, if it is of use. What has holes comes without them.
    fn earlier_version<'t>(&self, task: &'t FileTask) -> Option<&'t Version> {
        let has_holes = task.entry.attributes.as_ref().is_some_and(|attributes| attributes.data.is_some());
        let is_fit = (COMPARED..=MOST_COMPARED_BYTES).contains(&task.entry.size) && !task.whole && !has_holes;
        let sizes = task.entry.size / GROWN..=task.entry.size.saturating_mul(SHRUNK);
        let is_of_use = |old: &&Version| old.entry.kind == Kind::File && sizes.contains(&old.entry.size);
        task.old.as_deref().filter(|_| is_fit && self.snapshot.is_some()).filter(is_of_use)
    }

    /// True for a large file that is compared with its earlier version before anything else is known of it: it looks as if
    /// its content had changed.
    pub fn compares(&self, task: &FileTask) -> bool {
        let look = |entry: &Entry| (entry.size, entry.mtime);
        let has_changed = |old: &Version| look(&old.entry) != look(&task.entry);
        task.entry.size > MAX_BUNDLED && self.earlier_version(task).is_some_and(has_changed)
    }

    /// True when an earlier run left a part of a file.
    pub fn has_begun(&self, task: &FileTask) -> bool {
        self.part(task).is_some_and(|part| part.size > 0)
    }

    fn part(&self, task: &FileTask) -> Option<Part> {
        let Entry { size, mtime, .. } = task.entry;
        let name = (size >= LARGE).then(|| partial_name(&path_of(task), size, mtime))?;
        let here = Some(self.staging.partial_size(&name)).filter(|here| *here <= size);
        Some(Part { name, size: here.unwrap_or(0) })
    }
}

impl Expected {
    /// Ends the wait for a file.
    pub fn take(&self, id: u64) -> FileTask {
        self.take_asked(id).task
    }

    /// The same, with what was asked.
    pub(super) fn take_asked(&self, id: u64) -> Asked {
        let asked = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        asked.expect("the reader answers each file that it was asked for once")
    }

    /// Has somebody decide anew over a file that is being read; what comes back is still expected. True when it is.
    pub fn reconsider(&self, id: u64, decide: impl FnOnce(FileTask) -> Result<Option<FileTask>>) -> Result<bool> {
        let Asked { task, part, base, once } = self.take_asked(id);
        let Some(task) = decide(task)? else { return Ok(false) };
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Asked { task, part, base, once });
        Ok(true)
    }

    /// The earlier version that it is compared with.
    pub fn base(&self, id: u64) -> Option<Base> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(&id).and_then(|asked| asked.base.clone())
    }

    /// Where it is written.
    pub fn target(&self, id: u64) -> Target {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let Asked { task, part, .. } = tasks.get(&id).expect("the reader sends nothing of a file that is answered");
        match part {
            Some(part) => Target::Part(part.clone()),
            None => Target::New(Arc::clone(&task.directory), task.entry.name.clone()),
        }
    }
}

/// The client's path of a file.
pub fn path_of(task: &FileTask) -> AbsPath {
    task.directory.path.join(&task.entry.name).expect("the client's helper lists no path that is too long")
}
