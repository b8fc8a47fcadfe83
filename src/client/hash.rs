//! Hashing on the client: jobs in, outcomes out.

use crate::entry::{Hash, Time};
use crate::error::Result;
use crate::path::AbsPath;

/// One file to hash.
#[derive(Clone, Debug, PartialEq)]
pub struct HashJob {
    /// The caller's number for it, no two jobs of a call alike; comes back with the outcome.
    pub id: u64,
    /// The file.
    pub path: AbsPath,
    /// Its size as listed, bytes.
    pub size: u64,
    /// Its mtime as listed.
    pub mtime: Time,
    /// Its owner as listed.
    pub uid: u32,
    /// What is wanted.
    pub kind: HashKind,
}

/// What is wanted of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum HashKind {
    /// Its hash.
    Plain,
    /// Its hash, and the one under the call's key.
    Proof,
    /// A sample of it.
    Sample {
        /// Also one of this file, if it has the same size.
        other: Option<AbsPath>,
    },
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum HashOutcome {
    /// The file was read to its end, and size, mtime and owner were as listed before and after.
    Done {
        /// Plain BLAKE3.
        hash: Hash,
        /// BLAKE3 under the call's key, if it was wanted: proof that the client has the whole content.
        proof: Option<Hash>,
    },
    /// A sample was wanted, and size, mtime and owner were as listed before and after.
    Sampled {
        /// XXH3-64 of four pieces of the file.
        sample: u64,
        /// That of the other file; `None` when it can't be read or has another size.
        other: Option<u64>,
    },
    /// Size, mtime, owner or kind are no longer as listed.
    Changed,
    /// It does not exist any more.
    Vanished,
    /// It can't be read: the system's error number.
    Failed(i32),
}

/// The receiver of outcomes, each job's once and in any order. An error ends the call.
pub trait HashSink {
    /// Takes the outcome of the job with this number.
    fn hashed(&mut self, id: u64, outcome: HashOutcome) -> Result<()>;
}

impl<F: FnMut(u64, HashOutcome) -> Result<()>> HashSink for F {
    fn hashed(&mut self, id: u64, outcome: HashOutcome) -> Result<()> {
        self(id, outcome)
    }
}
