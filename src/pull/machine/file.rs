//! One file on its way through a run, and what is decided about it so far.

use std::sync::Arc;

use super::super::Directory;
use super::waiting::WaitKey;
use crate::client::FileState;
use crate::entry::{Attributes, Entry, Hash, Kind, Version};
use crate::path::{AbsPath, Name};
use crate::repository::index::Record;

// Bytes of memory of a waiting file besides its names and attributes.
const FILE_BYTES: usize = 512;

/// Bytes of a file that may be holes: all of a file on ext4 may be. Zeros are hashed at some gigabytes a second, so this takes
/// about an hour on the server, on the client, and for each `verify`; a file of 7 EiB, which takes no room on XFS, would take
/// decades. BLAKE3 has no shortcut: equal chunks at different offsets have different hashes.
pub const MAX_HOLE_BYTES: u64 = 16 << 40;

/// Why a file with more holes is refused.
pub const TOO_SPARSE: &str = "more than 16 TiB of it are holes";

// No disk holds more data in one file, whatever its file system says of holes, bytes.
const MAX_FILE_BYTES: u64 = 256 << 40;

/// Why a file is refused before it is read: that would never end.
pub fn refusal(entry: &Entry) -> Option<&'static str> {
    let data = entry.attributes.as_ref().and_then(|attributes| attributes.data.as_deref());
    let holes = data.map_or(0, |data| data.iter().fold(entry.size, |left, extent| left.saturating_sub(extent.length)));
    if holes > MAX_HOLE_BYTES {
        Some(TOO_SPARSE)
    } else {
        (entry.size > MAX_FILE_BYTES).then_some("it is larger than 256 TiB")
    }
}

/// A file, or another entry, that is new, changed or touched.
#[derive(Debug)]
pub struct FileTask {
    /// The client's directory.
    pub directory: Arc<Directory>,
    /// As listed, or as read since then.
    pub entry: Entry,
    /// The current version at its path, of any kind.
    pub old: Option<Box<Version>>,
    /// Where this run has put another name of its inode.
    pub other_name: Option<Arc<SnapshotPath>>,
    /// An earlier run has received a part of it.
    pub is_begun: bool,
    /// What other files wait for until this one is done.
    pub(super) leads: Vec<WaitKey>,
    pub(super) state: State,
    // A sample of its content, once the client has taken one.
    pub(super) sample: Option<u64>,
    // The client's file has the content of the old version, but the file in the snapshot has not.
    pub(super) is_basis_corrupt: bool,
}

/// What is decided about a file.
#[derive(Debug, PartialEq)]
pub(super) enum State {
    /// Nothing.
    Listed,
    /// The client takes a sample of it.
    Sampling,
    /// The client hashes it.
    Hashing,
    /// Another file with its content, inode or size is under way.
    Waiting(Option<Claim>),
    /// The client has reported its hash, and it is to be decided what follows.
    Claimed(Claim),
    /// Neither a sample nor a plain hash is enough: the client must hash it, under the run's key if there are other sources.
    Unproven,
    /// The server reads what the client says it has; `received` if the client has sent the content.
    Proving { claim: Claim, received: Option<Reading> },
    /// The client must send it without a basis: no file on the server proves to have its content, its basis can't be read, or the
    /// result was another content than the client has reported.
    Missing,
    /// The content that it waited for is in place.
    Found(Hash),
    /// The client sends it.
    Fetching(Fetching),
    /// It is in staging.
    Received { as_listed: bool },
}

/// How the client sends a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetching {
    /// Without a basis. The part that an earlier run has received may be resumed.
    Full,
    /// As a delta against its basis, and from where an earlier run was cut off, if possible.
    Delta,
    /// A small file: as a reference if the same content was sent before, otherwise as [`Fetching::Delta`].
    Dedup,
}

/// What the client and the receiver report of a file that was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// BLAKE3 of the received bytes.
    pub hash: Hash,
    /// Received bytes.
    pub size: u64,
    /// Size and mtime of the open file after the last byte.
    pub state: FileState,
    /// False if the file kept changing while it was read.
    pub is_consistent: bool,
}

/// What a client says of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its BLAKE3 hash.
    pub hash: Hash,
    /// Its BLAKE3 hash under the run's key, if that was asked for.
    pub proof: Option<Hash>,
}

/// A keyed hash that shows that a client has a content, and the file on the server for which it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Possession {
    /// The content's hash under the run's key.
    pub proof: Hash,
    /// The inode number of the file on the server.
    pub inode: u64,
    /// What that file was like when it was read.
    pub record: Record,
}

/// A path in the snapshot, in two parts.
#[derive(Debug)]
pub struct SnapshotPath {
    /// The client's directory.
    pub directory: AbsPath,
    /// The name in it.
    pub name: Name,
}

impl FileTask {
    /// A file about which nothing is decided.
    pub fn new(directory: Arc<Directory>, entry: Entry, old: Option<Version>) -> Box<FileTask> {
        Box::new(FileTask {
            directory,
            entry,
            old: old.map(Box::new),
            other_name: None,
            is_begun: false,
            leads: Vec::new(),
            state: State::Listed,
            sample: None,
            is_basis_corrupt: false,
        })
    }

    /// The client's path.
    pub fn path(&self) -> AbsPath {
        self.directory.path.join(&self.entry.name).expect("a listing with a path that is too long is refused")
    }

    /// True if the snapshot's file was found to have another content than the index says.
    pub fn is_basis_corrupt(&self) -> bool {
        self.is_basis_corrupt
    }

    /// True if what was read is what was listed; otherwise the next run must read it again.
    pub fn is_as_listed(&self) -> bool {
        !matches!(self.state, State::Received { as_listed: false })
    }

    /// True if it leads its inode.
    pub fn leads_inode(&self) -> bool {
        self.leads.iter().any(|key| matches!(key, WaitKey::Inode(_)))
    }

    /// Ends it, and returns what other files wait for.
    pub fn into_leads(self) -> (Vec<WaitKey>, Arc<Directory>) {
        (self.leads, self.directory)
    }

    /// True if the old version is a file with this content.
    pub fn had_content(&self, hash: &Hash) -> bool {
        self.old.as_ref().is_some_and(|old| old.entry.kind == Kind::File && old.hash.as_ref() == Some(hash))
    }

    /// True if it leads a content.
    pub(super) fn is_claimed(&self) -> bool {
        self.leads.iter().any(|key| matches!(key, WaitKey::Hash(_)))
    }

    /// True unless the client has reported another hash.
    pub fn is_as_claimed(&self, hash: &Hash) -> bool {
        self.leads.iter().all(|key| !matches!(key, WaitKey::Hash(claimed) if claimed != hash))
    }

    pub(super) fn with(mut self: Box<FileTask>, state: State) -> Box<FileTask> {
        self.state = state;
        self
    }

    /// About how many bytes of memory it takes.
    pub(super) fn weight(&self) -> usize {
        let of_entry = |entry: &Entry| {
            let attributes = entry.attributes.as_deref().map_or(0, Attributes::weight);
            entry.name.as_bytes().len() + entry.target.len() + attributes
        };
        FILE_BYTES + of_entry(&self.entry) + self.old.as_ref().map_or(0, |old| FILE_BYTES + of_entry(&old.entry))
    }
}
