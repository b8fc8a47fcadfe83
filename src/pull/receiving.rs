//! Files on their way from the client: asked for here, written into staging and hashed as they arrive.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use archive_helper::protocol::MAX_BUNDLED;
use crossbeam_channel::Sender as Unbounded;

use super::Run;
use super::arriving::{Arriving, Part, Received, Target, Trouble};
use super::change::{Change, aborted};
use super::comparing::Comparing;
use super::contents::{Claim, Contents, FileTask, Key, Released, Turn};
use super::proof::{is_proven, proof_of};
use crate::entry::{Entry, Extent, Hash, Kind, Version};
use crate::error::{OnServer, Result};
use crate::path::AbsPath;
use crate::queue::{Receiver, Sender};
use crate::remote::{Arrived, Base, FileState, MOST_COMPARED_BYTES, ReadError, Wanted};
use crate::repository::dirs::Dir;
use crate::repository::index::Index;
use crate::repository::staging::{Staged, Staging, partial_name};
use crate::source::LinkWhen;

const WHAT: &str = "can't write into the staging area";

/// Files that were asked for, by number.
#[derive(Debug, Default)]
pub struct Expected {
    tasks: Mutex<HashMap<u64, Asked>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Asked {
    task: FileTask,
    part: Option<Part>,
    base: Option<Base>,
    once: bool,
}

// How many threads write at most.
const MOST_LANES: usize = 4;

// From how many bytes on a file that breaks off is carried on by the next run.
const LARGE: u64 = 1 << 20;

// From how many bytes on a file may be compared with its earlier version: of a smaller one much is new if anything is. It
// may have grown so many times, for else most of it is new, and shrunk so many times, for all of the other is looked at.
const COMPARED: u64 = 4 * 1024;
const GROWN: u64 = 16;
const SHRUNK: u64 = 4;

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
    fn take(&self, id: u64) -> FileTask {
        self.take_asked(id).task
    }

    fn take_asked(&self, id: u64) -> Asked {
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

    fn base(&self, id: u64) -> Option<Base> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(&id).and_then(|asked| asked.base.clone())
    }

    fn target(&self, id: u64) -> Target {
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

/// How many threads write at once what arrives: unless told otherwise as there are processors, but one file system takes
/// only so many at a time.
pub fn lanes(writers: Option<u8>) -> usize {
    let usual = || std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST_LANES));
    writers.map_or_else(usual, usize::from)
}

/// Which of them takes something: the same one for all of a file, and for all of one content, so that whoever hears of
/// a content that has come finds it.
pub fn lane(arrived: &Arrived) -> usize {
    match arrived {
        Arrived::Whole { hash, .. } | Arrived::Same { hash, .. } => usize::from(hash[0]),
        other => other.id() as usize,
    }
}

/// Writes what arrives into staging, until nothing more comes.
pub fn receive(run: &Run<'_>, staging: &Staging, arrived: &Receiver<Arrived>, comparing: &Comparing<'_>) -> Result<()> {
    let Comparing { expected, contents, changes, released, .. } = comparing;
    let receiving = HashMap::new();
    let mut inbox = Inbox { run, staging, expected, contents, changes, released, comparing, receiving, index: None };
    arrived.iter().try_for_each(|arrival| inbox.take(arrival))
}

struct Inbox<'a> {
    run: &'a Run<'a>,
    staging: &'a Staging,
    expected: &'a Expected,
    contents: &'a Contents,
    changes: &'a Sender<Change>,
    released: &'a Unbounded<Released>,
    comparing: &'a Comparing<'a>,
    receiving: HashMap<u64, Arriving>,
    // Opened when something has come that may be here already.
    index: Option<Index>,
}

impl Inbox<'_> {
    fn take(&mut self, arrival: Arrived) -> Result<()> {
        match arrival {
            Arrived::Data { id, bytes } => self.data(id, &bytes),
            Arrived::Ahead { id } => self.ahead(id),
            Arrived::Hole { id, length } => {
                let run = self.run;
                self.begun(id)?.skip(length, run)
            }
            Arrived::Here { id, offset, length } => self.here(id, Extent { offset, length }),
            Arrived::Whole { id, bytes, hash, state } => self.whole(id, (&bytes, hash), state),
            Arrived::Same { id, hash } => {
                let claim = Claim { hash, proof: None };
                self.release(Released::Claimed(self.expected.take(id), claim))
            }
            Arrived::Restart { id } => self.restart(id),
            Arrived::End { id, state, consistent, claimed } => self.end(id, state, consistent, claimed),
            Arrived::Failed { id, error } => {
                self.discard(id)?;
                self.hand_on(failed(self.run, self.expected.take(id), &error))
            }
        }
    }

    fn begun(&mut self, id: u64) -> Result<&mut Arriving> {
        match self.receiving.entry(id) {
            Slot::Occupied(begun) => Ok(begun.into_mut()),
            Slot::Vacant(free) => {
                let base = self.expected.base(id);
                Ok(free.insert(Arriving::begin(self.staging, self.expected.target(id), base.as_ref())?))
            }
        }
    }

    fn ahead(&mut self, id: u64) -> Result<()> {
        self.begun(id)?.is_ahead = true;
        Ok(())
    }

    fn count(&self, bytes: u64) {
        self.run.tally.progress.bytes_copied.add(bytes);
        self.run.tally.report.progress(&self.run.tally.progress);
    }

    fn data(&mut self, id: u64, bytes: &[u8]) -> Result<()> {
        self.run.room.take(bytes.len() as u64)?;
        self.count(bytes.len() as u64);
        self.begun(id)?.add(bytes)
    }

    fn here(&mut self, id: u64, extent: Extent) -> Result<()> {
        self.run.room.take(extent.length)?;
        let (base, run) = (self.expected.base(id), self.run);
        self.begun(id)?.copy(base, extent, run)
    }

    fn whole(&mut self, id: u64, (bytes, hash): (&[u8], Hash), state: FileState) -> Result<()> {
        self.run.room.take(bytes.len() as u64)?;
        let Asked { mut task, once, .. } = self.expected.take_asked(id);
        self.count(bytes.len() as u64);
        // Several helpers may have sent it, and another file may have had it before.
        let has_changed = task.old.is_some() && self.run.source.settings.link != LinkWhen::Never;
        if once && (has_changed || self.run.client.is_far()) {
            let Some(first) = self.first_of(task, (bytes, hash))? else { return Ok(()) };
            task = first;
        }
        let content = Received::whole((bytes, hash), &task, self.staging)?;
        self.contents.lead_arrived(&mut task, hash);
        self.hand_on(finish(self.run, task, content, state, true, self.staging)?)
    }

    // A content may be here already, or under way to be: then this copy of it counts for nothing, and `None` comes back. It
    // may be another source's: that the client has it is proven by what it sent.
    fn first_of(&mut self, task: FileTask, (bytes, hash): (&[u8], Hash)) -> Result<Option<FileTask>> {
        let index = match &self.index {
            Some(index) => index,
            None => self.index.insert(self.run.repository.index()?),
        };
        let is_here = || index.source_sent(self.run.source_id, &hash);
        let proven = |task: &FileTask| {
            let claim = Claim { hash, proof: Some(proof_of(self.run, bytes)) };
            is_proven(self.run, index, task, claim)
        };
        match self.contents.lead_claim(task, Claim { hash, proof: None }, is_here)? {
            Turn::Lead(task) if self.run.has_others && proven(&task)? => {
                self.hand_on(Change::Known(task, hash)).map(|()| None)
            }
            Turn::Lead(task) => Ok(Some(task)),
            Turn::Wait => Ok(None),
            Turn::Known(task, hash) => self.hand_on(Change::Known(task, hash)).map(|()| None),
        }
    }

    fn restart(&mut self, id: u64) -> Result<()> {
        self.discard(id)?;
        let target = match self.expected.target(id) {
            Target::Part(part) => Target::Part(Part { size: 0, ..part }),
            new => new,
        };
        self.receiving.insert(id, Arriving::begin(self.staging, target, None)?);
        Ok(())
    }

    fn end(&mut self, id: u64, state: FileState, consistent: bool, claimed: Option<Hash>) -> Result<()> {
        let begun = match self.receiving.remove(&id) {
            Some(begun) => begun,
            None => Arriving::begin(self.staging, self.expected.target(id), None)?,
        };
        let (mut task, is_carried_on, is_ahead) = (self.expected.take(id), begun.is_carried_on, begun.is_ahead);
        match begun.trouble {
            Some(Trouble::TooLarge) => {
                begun.discard(self.staging)?;
                let error = ReadError::Refused("it is larger than a file can be on this file system".to_owned());
                return self.hand_on(failed(self.run, task, &error));
            }
            Some(Trouble::LostBase) => {
                begun.discard(self.staging)?;
                task.whole = true;
                return self.release(Released::Missing(task));
            }
            None => {}
        }
        let mut content = begun.end()?;
        let is_other = claimed.is_some_and(|claimed| claimed != content.hash);
        if is_other || is_carried_on && !is_as_claimed(&task, &content.hash) {
            // What was here of it was spoilt, or of another file: all of it is fetched.
            self.staging.unlink(&content.name).on_server(WHAT)?;
            task.whole = true;
            return self.release(Released::Missing(task));
        }
        if is_ahead {
            // Where it is decided that it must come another time, it may begin to before this copy is gone.
            content.name = self.staging.set_aside(&content.name).on_server(WHAT)?;
            let Some(wanted) = self.comparing.decide(task, content.hash)? else {
                return self.staging.unlink(&content.name).on_server(WHAT);
            };
            task = wanted;
        }
        self.staging.permit(&content.file, &task.entry).on_server(WHAT)?;
        self.hand_on(finish(self.run, task, content, state, consistent, self.staging)?)
    }

    fn discard(&mut self, id: u64) -> Result<()> {
        self.receiving.remove(&id).map_or(Ok(()), |begun| begun.discard(self.staging))
    }

    fn hand_on(&self, change: Change) -> Result<()> {
        self.changes.send(change).map_err(aborted)
    }

    fn release(&self, released: Released) -> Result<()> {
        self.released.send(released).map_err(aborted)
    }
}

fn finish(
    run: &Run<'_>,
    mut task: FileTask,
    content: Received,
    state: FileState,
    consistent: bool,
    staging: &Staging,
) -> Result<Change> {
    let Received { name, file, hash, size } = content;
    // What was read counts, not what was listed. Its ctime is not known then, so the next run looks at it again.
    let as_listed = state.size == task.entry.size && state.mtime == task.entry.mtime;
    (task.entry.size, task.entry.mtime) = (size, state.mtime);
    let consistent = consistent && (is_as_claimed(&task, &hash) || !as_listed);
    task.deviates = !as_listed || !consistent;
    if !consistent {
        run.tally
            .warn(format_args!("`{}` kept changing while it was read; its copy may be inconsistent", path_of(&task)));
    }
    staging.dress(&file, &task.entry).on_server(WHAT)?;
    run.tally.progress.copied.add(1);
    Ok(Change::Received(task, Staged { name, hash, size, consistent }))
}

fn is_as_claimed(task: &FileTask, hash: &Hash) -> bool {
    task.leads.iter().all(|key| !matches!(key, Key::Hash(claimed) if claimed != hash))
}

fn failed(run: &Run<'_>, task: FileTask, error: &ReadError) -> Change {
    let path = path_of(&task);
    match error {
        ReadError::Vanished => {
            run.tally.notice(format_args!("`{path}` vanished before it was read"));
            run.tally.progress.skipped.add(1);
            Change::Unread(task, true)
        }
        ReadError::Refused(why) => {
            run.tally.unread(format_args!("can't read `{path}` on the client: {why}"));
            Change::Unread(task, false)
        }
    }
}
