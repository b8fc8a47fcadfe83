//! Which contents this run has on their way, and who waits for them.
//!
//! A content is fetched once: whoever asks for it while it is under way waits, and is told when it is in place.
//! Under way is what a hash was found for that nothing here has, what is fetched without a hash because nothing
//! else has its size, and what has several names on the client.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Directory;
use crate::entry::{Attributes, Entry, Hash, Inode, Time, Version};
use crate::path::{AbsPath, Name};
use crate::repository::index::Record;

// Inodes with several names that are remembered.
const MAX_LINKED_INODES: usize = 64 * 1024;

// Bytes of memory that waiting files may take; the listing pauses above that.
const MAX_WAITING_BYTES: usize = 64 << 20;

// Bytes of a waiting task besides its names and attributes.
const TASK_BYTES: usize = 512;

/// One file whose content is wanted in the snapshot.
#[derive(Debug)]
pub struct FileTask {
    /// Where it is on the client.
    pub directory: Arc<Directory>,
    /// What was listed.
    pub entry: Entry,
    /// The current version at its path, of whatever kind.
    pub old: Option<Box<Version>>,
    /// What others wait for until this one is done.
    pub leads: Vec<Key>,
    /// All of it must come, whatever is said to be here.
    pub whole: bool,
    /// Its earlier version has the same content, but what the snapshot has of it has not.
    pub basis_corrupt: bool,
    /// What the index gets is not what was listed: the next run must look again.
    pub deviates: bool,
    /// Where this run has put another name of its inode.
    pub other_name: Option<Arc<Spot>>,
    /// Whether its content is told from those of other files by a sample.
    pub sampling: Sampling,
    /// Proof that the client has the content, if one was needed.
    pub possession: Option<Box<Possession>>,
    /// Its memory is counted among that of what waits.
    pub is_counted: bool,
}

/// Of a large file, if nothing of its size was here when the first of them was come across.
#[derive(Debug, Default, PartialEq)]
pub enum Sampling {
    /// It is not sampled.
    #[default]
    Not,
    /// The client is to sample it; and the first file of its size, if that is named.
    Wanted {
        /// That file.
        first: Option<AbsPath>,
    },
    /// Its sample.
    Is(u64),
}

/// A path in the snapshot, in two parts.
#[derive(Debug)]
pub struct Spot {
    /// The client's directory.
    pub directory: AbsPath,
    /// The name in it.
    pub name: Name,
}

impl FileTask {
    /// A task of which nothing is known yet.
    pub fn new(directory: Arc<Directory>, entry: Entry, old: Option<Version>) -> FileTask {
        let old = old.map(Box::new);
        FileTask {
            directory,
            entry,
            old,
            leads: Vec::new(),
            whole: false,
            basis_corrupt: false,
            deviates: false,
            other_name: None,
            sampling: Sampling::Not,
            possession: None,
            is_counted: false,
        }
    }
}

impl FileTask {
    // The bytes to add to the total; 0 if the task is counted already.
    fn count(&mut self) -> usize {
        if std::mem::replace(&mut self.is_counted, true) { 0 } else { self.bytes() }
    }

    // About how much memory it takes.
    fn bytes(&self) -> usize {
        let of_entry = |entry: &Entry| {
            let attributes = entry.attributes.as_deref().map_or(0, Attributes::weight);
            entry.name.as_bytes().len() + entry.target.len() + attributes
        };
        TASK_BYTES + of_entry(&self.entry) + self.old.as_ref().map_or(0, |old| TASK_BYTES + of_entry(&old.entry))
    }
}

impl Released {
    /// The task, unless it is the end.
    pub fn task(&mut self) -> Option<&mut FileTask> {
        match self {
            Released::Known(task, _) | Released::Claimed(task, _) => Some(task),
            Released::Unknown(task) | Released::Unproven(task) | Released::Missing(task) => Some(task),
            Released::End => None,
        }
    }
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A content.
    Hash(Hash),
    /// The only content of a size, fetched before its hash is known.
    Size(u64),
    /// The only content of a size with a sample, fetched before its hash is known.
    Sample(u64, u64),
    /// An inode of the client with its present size and times: inode numbers are reused.
    Inode(Linked),
}

/// An inode of the client that has several names, as it was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Linked {
    inode: Inode,
    size: u64,
    mtime: Time,
    ctime: i64,
}

impl Linked {
    /// The inode of an entry with several names.
    pub fn of(entry: &Entry) -> Option<Linked> {
        let &Entry { size, mtime, ctime, .. } = entry;
        entry.inode.map(|inode| Linked { inode, size, mtime, ctime })
    }
}

/// That a client has a content, shown by a keyed hash, and the plain file on the server for which that was shown.
#[derive(Clone, Copy, Debug)]
pub struct Possession {
    /// The content's hash under the run's key.
    pub proof: Hash,
    /// The plain file's inode number.
    pub inode: u64,
    /// What it was like.
    pub record: Record,
}

/// What a client said of a content.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Its plain hash.
    pub hash: Hash,
    /// Its keyed hash, if that was asked for.
    pub proof: Option<Hash>,
}

/// A task that waited.
#[derive(Debug)]
pub enum Released {
    /// The content that it waited for is in place.
    Known(FileTask, Hash),
    /// What it waited for is something else: decide anew.
    Claimed(FileTask, Claim),
    /// What it waited for failed, and nothing is known of its own content.
    Unknown(FileTask),
    /// Its content is another source's, so the client has to hash it under the run's key; or its sample does not tell.
    Unproven(FileTask),
    /// The index knows its content, but no place holds it any more: fetch it.
    Missing(FileTask),
    /// There will be no more.
    End,
}

/// What became of an attempt to take the lead for a key.
pub enum Turn {
    /// The task leads now: others will wait for it.
    Lead(FileTask),
    /// It waits for another one.
    Wait,
    /// The content of this inode is in place.
    Known(FileTask, Hash),
}

#[derive(Debug, Default)]
struct Waiting {
    tasks: HashMap<Key, Vec<(FileTask, Option<Claim>)>>,
    // Inodes with several names whose content is in place, and where: some 200 bytes each.
    inodes: HashMap<Linked, (Hash, Arc<Spot>)>,
    // Those of the keys that are samples, by sizes.
    samples: HashMap<u64, Vec<u64>>,
    // Bytes of memory of waiting tasks, and of released ones that are not yet decided.
    bytes: usize,
    unfinished: usize,
    ending: bool,
    aborted: bool,
}

impl Waiting {
    // Has others wait for a task, unless they wait for another one already.
    fn lead(&mut self, task: &mut FileTask, key: Key) {
        if let Slot::Vacant(free) = self.tasks.entry(key) {
            free.insert(Vec::new());
            if let Key::Sample(size, sample) = key {
                self.samples.entry(size).or_default().push(sample);
            }
            // Of most it is the only one, and many of them wait to be applied.
            task.leads.reserve_exact(1);
            task.leads.push(key);
        }
    }

    // Whose sample a task has that may be under way; of what has none it may be any of its size, unless that is its own.
    fn sampled(&self, task: &FileTask) -> Option<Key> {
        let size = task.entry.size;
        let is_like = |sample: &&u64| match task.sampling {
            Sampling::Is(own) => **sample == own,
            _ => !task.leads.contains(&Key::Size(size)),
        };
        let mut keys = self.samples.get(&size)?.iter().filter(is_like).map(|sample| Key::Sample(size, *sample));
        keys.find(|key| !task.leads.contains(key))
    }

    // Who waits for a key that is under way no longer.
    fn end(&mut self, key: Key) -> Vec<(FileTask, Option<Claim>)> {
        if let Key::Sample(size, sample) = key
            && let Slot::Occupied(mut samples) = self.samples.entry(size)
        {
            samples.get_mut().retain(|other| *other != sample);
            if samples.get().is_empty() {
                samples.remove();
            }
        }
        self.tasks.remove(&key).unwrap_or_default()
    }
}

/// What is under way.
#[derive(Debug, Default)]
pub struct Contents {
    waiting: Mutex<Waiting>,
    finished: Condvar,
}

impl Contents {
    /// Counts a task that has begun.
    pub fn begin(&self) {
        self.lock().unfinished += 1;
    }

    /// Blocks until the waiting tasks are below their limit; false when the run is aborted.
    pub fn wait_for_room(&self) -> bool {
        let waiting = self.lock();
        let is_full = |waiting: &mut Waiting| waiting.bytes > MAX_WAITING_BYTES && !waiting.aborted;
        !self.finished.wait_while(waiting, is_full).unwrap_or_else(PoisonError::into_inner).aborted
    }

    /// True when the listing waits for room.
    pub fn is_full(&self) -> bool {
        self.lock().bytes > MAX_WAITING_BYTES
    }

    /// Counts a task that is about to wait for another decision.
    pub fn wait(&self, task: &mut FileTask) {
        let bytes = task.count();
        self.lock().bytes += bytes;
    }

    /// Uncounts a task that waits no longer.
    pub fn resume(&self, task: &mut FileTask) {
        if !std::mem::take(&mut task.is_counted) {
            return;
        }
        let mut waiting = self.lock();
        waiting.bytes = waiting.bytes.saturating_sub(task.bytes());
        drop(waiting);
        self.finished.notify_all();
    }

    /// Makes a task the one that others of its inode wait for.
    pub fn lead_inode(&self, mut task: FileTask, inode: Linked) -> Turn {
        let mut waiting = self.lock();
        if let Some((hash, spot)) = waiting.inodes.get(&inode) {
            task.other_name = Some(Arc::clone(spot));
            return Turn::Known(task, *hash);
        }
        let key = Key::Inode(inode);
        if task.leads.contains(&key) {
            return Turn::Lead(task);
        }
        match waiting.tasks.get_mut(&key) {
            Some(others) => {
                let bytes = task.count();
                others.push((task, None));
                waiting.bytes += bytes;
                Turn::Wait
            }
            None => {
                waiting.lead(&mut task, key);
                Turn::Lead(task)
            }
        }
    }

    /// Makes a task the first of its size, or sample: those of the same that come later wait for its hash.
    pub fn lead(&self, mut task: FileTask, key: Key) -> FileTask {
        self.lock().lead(&mut task, key);
        task
    }

    /// Makes a task the one to fetch what it claims, unless that is under way already or `is_known` finds it.
    /// Nothing can come into place between the two, for [`finish`](Contents::finish) comes after the commit.
    pub fn lead_claim<E>(
        &self,
        mut task: FileTask,
        claim: Claim,
        is_known: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Turn, E> {
        let mut waiting = self.lock();
        let sampled = waiting.sampled(&task);
        for key in [Key::Hash(claim.hash), Key::Size(task.entry.size)].into_iter().chain(sampled) {
            if let Some(others) = waiting.tasks.get_mut(&key).filter(|_| !task.leads.contains(&key)) {
                let bytes = task.count();
                others.push((task, Some(claim)));
                waiting.bytes += bytes;
                return Ok(Turn::Wait);
            }
        }
        if is_known()? {
            return Ok(Turn::Known(task, claim.hash));
        }
        waiting.lead(&mut task, Key::Hash(claim.hash));
        Ok(Turn::Lead(task))
    }

    /// Makes a task whose content has come the one that others with this content wait for.
    pub fn lead_arrived(&self, task: &mut FileTask, hash: Hash) {
        self.lock().lead(task, Key::Hash(hash));
    }

    /// Ends a task; `hash` is that of the content that is in place now, `None` when it failed. If it leads an inode, `spot`
    /// is where it is. Returns who waited.
    pub fn finish(&self, leads: Vec<Key>, hash: Option<Hash>, spot: Option<Arc<Spot>>) -> Vec<Released> {
        let mut waiting = self.lock();
        waiting.unfinished -= 1;
        if waiting.unfinished == 0 {
            self.finished.notify_all();
        }
        let mut released = Vec::new();
        for key in leads {
            let mut other_name = None;
            if let (Key::Inode(inode), Some(hash), Some(spot)) = (key, hash, &spot) {
                // Names that are listed after this are hashed, and linked by content.
                if waiting.inodes.len() >= MAX_LINKED_INODES {
                    waiting.inodes.clear();
                }
                waiting.inodes.insert(inode, (hash, Arc::clone(spot)));
                other_name = Some(spot);
            }
            for (mut task, claim) in waiting.end(key) {
                task.other_name = other_name.cloned().or(task.other_name);
                released.push(release(task, claim, key, hash));
            }
        }
        released
    }

    /// True when some task waits for another, or the run for its last ones.
    pub fn is_awaited(&self) -> bool {
        let waiting = self.lock();
        waiting.ending || waiting.tasks.values().any(|tasks| !tasks.is_empty())
    }

    /// Waits until every task that has begun is finished, or the run is aborted.
    pub fn wait_until_finished(&self) {
        let mut waiting = self.lock();
        waiting.ending = true;
        let done = self.finished.wait_while(waiting, |waiting| waiting.unfinished > 0 && !waiting.aborted);
        drop(done.unwrap_or_else(PoisonError::into_inner));
    }

    /// Wakes whoever waits for the end, for it will not come.
    pub fn abort(&self) {
        self.lock().aborted = true;
        self.finished.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn release(task: FileTask, claim: Option<Claim>, key: Key, hash: Option<Hash>) -> Released {
    match (claim, hash) {
        (Some(claim), Some(hash)) if claim.hash == hash => Released::Known(task, hash),
        (Some(claim), _) => Released::Claimed(task, claim),
        (None, Some(hash)) if matches!(key, Key::Inode(_)) => Released::Known(task, hash),
        (None, _) => Released::Unknown(task),
    }
}
