//! What workers report to the state machine, and what it orders.

use std::sync::Arc;

use super::super::applying::Change;
use super::file::{Claim, FileTask, Possession, Reading, SnapshotPath};
use super::waiting::WaitKey;
use crate::client::{HashJob, ReadError};
use crate::entry::{Extent, Hash, Time};
use crate::path::{AbsPath, Name};

/// The number of a file that is being hashed, or fetched.
pub type FileId = u64;

/// A report of a worker.
#[derive(Debug)]
pub enum Event {
    /// An entry is new, changed or touched.
    Listed(Box<FileTask>),
    /// An entry of a directory that has moved; a file's content is known.
    Moved { file: Box<FileTask>, hash: Hash },
    /// Only numbers of an entry differ that say nothing about its version, such as the client's device number.
    Restated(Box<FileTask>),
    /// The client has hashed a file.
    Hashed { id: FileId, claim: Claim },
    /// The client has taken a sample of a file; `of_first` is that of the first file of its size, if it was asked for and could
    /// be read.
    Sampled { id: FileId, sample: u64, of_first: Option<u64> },
    /// The file that was to be hashed is not as listed any more.
    ChangedBeforeHash { id: FileId },
    /// The client can't read a file that was to be hashed.
    HashFailed { id: FileId, error: ReadError },
    /// The client can't read a file that was to be fetched, or the server can't store it.
    FetchFailed { id: FileId, error: ReadError },
    /// The client is about to send a file and reports its hash; `is_in_basis` if all of it was found in the basis.
    Described { id: FileId, hash: Hash, is_in_basis: bool },
    /// The client has sent the same content before.
    Repeated { id: FileId, hash: Hash },
    /// A small file was received, and is in memory. `may_repeat` if the same content may be sent twice.
    ReceivedSmall { id: FileId, reading: Reading, may_repeat: bool },
    /// A file was received, and is in staging. `claimed` is the client's hash of it; `is_resumed` if an earlier run has
    /// received a part of it; `is_speculative` if the client has sent it before its hash was known.
    Received { id: FileId, reading: Reading, claimed: Option<Hash>, is_resumed: bool, is_speculative: bool },
    /// The basis of a file that is being received can't be read.
    BasisLost { id: FileId },
    /// The server has found out whether the client has shown that it has a content.
    Proved { file: Box<FileTask>, possession: Option<Box<Possession>> },
    /// No file on the server proves to have the content of this one.
    NotFound(Box<FileTask>),
    /// A file that was postponed.
    Resumed(Box<FileTask>),
    /// A file is committed, or was given up. `path` is where it is, if it leads an inode and was read as
    /// listed.
    Finished { leads: Vec<WaitKey>, hash: Option<Hash>, path: Option<Arc<SnapshotPath>> },
}

/// An order to a worker.
#[derive(Debug)]
pub enum Order {
    /// Have the client hash a file.
    Hash(HashJob),
    /// Have the client send a file.
    Fetch(FetchOrder),
    /// Read the server's files with the claimed content, and find out whether the claim proves possession.
    Prove(Box<FileTask>, Claim),
    /// Write the small file that was received to staging, or keep what is there, and hand it to the batch writer.
    /// Whatever was received and is not kept must be discarded.
    Keep { file: Box<FileTask>, is_consistent: bool },
    /// Hand this to the batch writer.
    Record(Change),
    /// Report that a file can't be read, and hand it to the batch writer.
    GiveUp(Box<FileTask>, ReadError),
    /// Report this file as [`Event::Resumed`], as soon as this may wait for other workers.
    Postpone(Box<FileTask>),
}

/// A file to be fetched.
#[derive(Debug, PartialEq)]
pub struct FetchOrder {
    /// Its number.
    pub id: FileId,
    /// Its path on the client.
    pub path: AbsPath,
    /// As listed, bytes.
    pub size: u64,
    /// As listed.
    pub mtime: Time,
    /// Its owner, as listed.
    pub uid: u32,
    /// Where it has data, if it has holes.
    pub data: Option<Arc<[Extent]>>,
    /// A reference is enough if the same content was sent before.
    pub is_dedup: bool,
    /// The version in the snapshot that a delta is computed against.
    pub basis: Option<BasisVersion>,
    /// May begin with the part that an earlier run has received: its hash is checked at the end.
    pub may_resume: bool,
}

/// A current version that is the basis of a delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasisVersion {
    /// The client's directory.
    pub directory: AbsPath,
    /// The name in it.
    pub name: Name,
    /// Bytes.
    pub size: u64,
}
