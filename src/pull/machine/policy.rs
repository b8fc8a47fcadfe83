//! What a run's decisions depend on: settings, capabilities, and what a delta is worth.

use super::file::FileTask;
use crate::entry::{Entry, Kind, Version, flags};
use crate::repository::dirs::Abilities;

// Largest changed file that is fetched as fast as its hash, bytes.
const MAX_UNHASHED_BYTES: u64 = 16 * 1024;

// Smallest file that is fetched as a delta, bytes: of a smaller one most is new if anything is.
const MIN_DELTA_BYTES: u64 = 4 * 1024;

// How many times larger than its basis a file may be: most of a larger one is new.
const MAX_GROWTH: u64 = 16;

// How many times smaller than its basis a file may be: all of the basis is read.
const MAX_SHRINKAGE: u64 = 4;

/// What a run decides by: settings of the source, capabilities of the client, and the state of the repository at its begin.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The client hashes; otherwise the server does, after it has received a file.
    pub client_hashes: bool,
    /// The client sends small files at little cost, each content once.
    pub sends_small_files: bool,
    /// Largest small file, bytes.
    pub max_small_file_bytes: u64,
    /// The client sends deltas, and the user wants them.
    pub sends_deltas: bool,
    /// Largest file that is fetched as a delta, bytes.
    pub max_delta_bytes: u64,
    /// Files with the same content are linked.
    pub links: bool,
    /// The index was empty when the run began.
    pub begins_empty: bool,
    /// The repository has content of other sources.
    pub has_others: bool,
    /// Which mtimes the repository's file system can hold.
    pub abilities: Abilities,
}

impl Policy {
    pub(super) fn is_small(&self, file: &FileTask) -> bool {
        file.entry.size <= self.max_small_file_bytes
    }

    /// True for a small file that is fetched unless the server may have its content.
    pub fn is_sent_at_little_cost(&self, file: &FileTask) -> bool {
        self.client_hashes && self.sends_small_files && self.is_small(file)
    }

    /// True if it depends on the size of a listed file, and on what the index knows of it, whether the file is hashed.
    pub fn looks_up_size(&self, file: &FileTask) -> bool {
        let has_bytes = file.entry.kind == Kind::File && file.entry.size > 0;
        has_bytes && !self.begins_empty && !file.is_begun && self.is_sent_at_little_cost(file)
    }

    // A rebuilt index knows no ctimes, and mtimes only as the file system holds them. Size and mtime are no proof, but the
    // client's hash is, and makes a transfer of everything unnecessary.
    pub(super) fn is_like_rebuilt(&self, file: &FileTask) -> bool {
        file.old.as_ref().is_some_and(|old| {
            old.has(flags::REBUILT)
                && old.entry.size == file.entry.size
                && self.abilities.keeps(old.entry.mtime, file.entry.mtime)
        })
    }

    // A large file that looks changed is read once, for its delta and its hash.
    pub(super) fn is_delta_first(&self, file: &FileTask) -> bool {
        let listed = |entry: &Entry| (entry.size, entry.mtime);
        let has_changed = |old: &Version| listed(&old.entry) != listed(&file.entry);
        !self.is_small(file) && self.basis_of(file).is_some_and(has_changed)
    }

    // The version that is about to be replaced, if a delta against it is worth while. A file with holes is sent without them.
    pub(super) fn basis_of<'f>(&self, file: &'f FileTask) -> Option<&'f Version> {
        let has_holes = file.entry.attributes.as_ref().is_some_and(|attributes| attributes.data.is_some());
        let is_fit = (MIN_DELTA_BYTES..=self.max_delta_bytes).contains(&file.entry.size) && !has_holes;
        let sizes = file.entry.size / MAX_GROWTH..=file.entry.size.saturating_mul(MAX_SHRINKAGE);
        let is_alike = |old: &&Version| old.entry.kind == Kind::File && sizes.contains(&old.entry.size);
        file.old.as_deref().filter(|_| is_fit && self.sends_deltas).filter(is_alike)
    }
}

// A file with another size has another content than before: if the server has it under another name, little was sent in vain.
pub(super) fn is_little_and_changed(file: &FileTask) -> bool {
    let old = file.old.as_ref().filter(|old| old.entry.kind == Kind::File);
    file.entry.size <= MAX_UNHASHED_BYTES && old.is_some_and(|old| old.entry.size != file.entry.size)
}
