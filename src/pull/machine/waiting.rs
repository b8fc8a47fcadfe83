//! Files that wait for others, so that a content is fetched once.

#![expect(clippy::vec_box, reason = "a file moves from owner to owner without being copied")]

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

use super::file::{Claim, FileTask, SnapshotPath, State};
use crate::entry::{Entry, Hash, Inode, Time};

// Inodes with several names that are remembered.
const MAX_LINKED_INODES: usize = 64 * 1024;

/// What files wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitKey {
    /// A content.
    Hash(Hash),
    /// The only content of a size, fetched before its hash is known.
    Size(u64),
    /// The only content of a size with a sample, fetched before its hash is known.
    Sample(u64, u64),
    /// An inode of the client.
    Inode(LinkedInode),
}

/// An inode of the client with several names, as listed: inode numbers are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkedInode {
    inode: Inode,
    size: u64,
    mtime: Time,
    ctime: i64,
}

impl LinkedInode {
    /// The inode of an entry with several names.
    pub fn of(entry: &Entry) -> Option<LinkedInode> {
        let &Entry { size, mtime, ctime, .. } = entry;
        entry.inode.map(|inode| LinkedInode { inode, size, mtime, ctime })
    }
}

/// The result of a file's attempt to lead for a key.
pub(super) enum Lead {
    /// It leads: other files wait for it.
    Leads(Box<FileTask>),
    /// It waits for another file.
    Waits,
    /// The content is in place.
    InPlace(Box<FileTask>, Hash),
}

/// Files that wait, by what they wait for.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    files: HashMap<WaitKey, Vec<Box<FileTask>>>,
    // Inodes with several names whose content is in place, and where: some 200 bytes each.
    inodes: HashMap<LinkedInode, (Hash, Arc<SnapshotPath>)>,
    // The samples among the keys, by size.
    samples: HashMap<u64, Vec<u64>>,
    // How many files wait.
    count: usize,
    // Bytes of memory of files that wait, or waited and are not yet decided about.
    bytes: usize,
}

impl Waiting {
    /// Bytes of memory of files that wait, or waited and are not yet decided about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// True if no file waits for another.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// True if no key has a leader.
    #[cfg(test)]
    pub(super) fn has_no_leaders(&self) -> bool {
        self.files.is_empty() && self.samples.is_empty()
    }

    /// Counts the memory of a file that is to be decided about later.
    pub(super) fn postpone(&mut self, file: &FileTask) {
        self.bytes += file.weight();
    }

    /// Stops to count the memory of a file.
    pub(super) fn resume(&mut self, file: &FileTask) {
        self.bytes = self.bytes.saturating_sub(file.weight());
    }

    /// Makes a file the leader of a key, unless that has one.
    pub(super) fn lead(&mut self, file: &mut FileTask, key: WaitKey) {
        if let Slot::Vacant(free) = self.files.entry(key) {
            free.insert(Vec::new());
            if let WaitKey::Sample(size, sample) = key {
                self.samples.entry(size).or_default().push(sample);
            }
            // Most files lead for one key, and many of them wait for the batch writer.
            file.leads.reserve_exact(1);
            file.leads.push(key);
        }
    }

    /// Makes a file the leader of its inode.
    pub(super) fn lead_inode(&mut self, mut file: Box<FileTask>, inode: LinkedInode) -> Lead {
        if let Some((hash, path)) = self.inodes.get(&inode) {
            file.other_name = Some(Arc::clone(path));
            return Lead::InPlace(file, *hash);
        }
        let key = WaitKey::Inode(inode);
        if !file.leads.contains(&key) {
            if self.files.contains_key(&key) {
                self.wait(key, file, None);
                return Lead::Waits;
            }
            self.lead(&mut file, key);
        }
        Lead::Leads(file)
    }

    /// Returns the file unless another one leads its content; then the file waits. The caller must look up whether the content
    /// is in place, and let the file lead if not, before another event is handled.
    pub(super) fn unless_led(&mut self, file: Box<FileTask>, claim: Claim) -> Option<Box<FileTask>> {
        let sampled = self.sampled(&file);
        for key in [WaitKey::Hash(claim.hash), WaitKey::Size(file.entry.size)].into_iter().chain(sampled) {
            if self.files.contains_key(&key) && !file.leads.contains(&key) {
                self.wait(key, file, Some(claim));
                return None;
            }
        }
        Some(file)
    }

    // Another sample that the file may have: one like its own, or any of its size if it has none and does not lead the size.
    fn sampled(&self, file: &FileTask) -> Option<WaitKey> {
        let size = file.entry.size;
        let is_like = |sample: &&u64| match file.sample {
            Some(own) => **sample == own,
            None => !file.leads.contains(&WaitKey::Size(size)),
        };
        let mut keys = self.samples.get(&size)?.iter().filter(is_like).map(|sample| WaitKey::Sample(size, *sample));
        keys.find(|key| !file.leads.contains(key))
    }

    fn wait(&mut self, key: WaitKey, file: Box<FileTask>, claim: Option<Claim>) {
        self.postpone(&file);
        self.count += 1;
        self.files.entry(key).or_default().push(file.with(State::Waiting(claim)));
    }

    /// Ends the lead of a file; `hash` is that of the content that is in place, `None` if the file failed, and `path` where it
    /// is if the file leads an inode and was read as listed. Returns the files that waited, decided about as far as that is possible.
    pub(super) fn finish(
        &mut self,
        leads: Vec<WaitKey>,
        hash: Option<Hash>,
        path: Option<&Arc<SnapshotPath>>,
    ) -> Vec<Box<FileTask>> {
        let mut released = Vec::new();
        for key in leads {
            // What was read by a name may be another file than was listed: then it says nothing about the other names.
            let is_sure = path.is_some() || !matches!(key, WaitKey::Inode(_));
            let hash = hash.filter(|_| is_sure);
            let mut other_name = None;
            if let (WaitKey::Inode(inode), Some(hash), Some(path)) = (key, hash, path) {
                // Names that are listed after this are hashed, and linked by content.
                if self.inodes.len() >= MAX_LINKED_INODES {
                    self.inodes.clear();
                }
                self.inodes.insert(inode, (hash, Arc::clone(path)));
                other_name = Some(path);
            }
            for mut file in self.end(key) {
                file.other_name = other_name.cloned().or(file.other_name);
                let state = released_state(&file, key, hash);
                released.push(file.with(state));
            }
        }
        self.count -= released.len();
        released
    }

    fn end(&mut self, key: WaitKey) -> Vec<Box<FileTask>> {
        if let WaitKey::Sample(size, sample) = key
            && let Slot::Occupied(mut samples) = self.samples.entry(size)
        {
            samples.get_mut().retain(|other| *other != sample);
            if samples.get().is_empty() {
                samples.remove();
            }
        }
        self.files.remove(&key).unwrap_or_default()
    }
}

fn released_state(file: &FileTask, key: WaitKey, hash: Option<Hash>) -> State {
    match (&file.state, hash) {
        (State::Waiting(Some(claim)), Some(hash)) if claim.hash == hash => State::Found(hash),
        (State::Waiting(Some(claim)), _) => State::Claimed(*claim),
        (_, Some(hash)) if matches!(key, WaitKey::Inode(_)) => State::Found(hash),
        _ => State::Listed,
    }
}
