//! A directory of the client while a pull works on it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::client::list::AnnouncedDirectory;
use crate::entry::{Digests, Fingerprint, Listed};
use crate::path::AbsPath;
use crate::repository::staging::Tray;

// From how many entries on it costs less to move the files of a new directory together. What tests pull is small.
const WORTH_A_TRAY: u64 = if cfg!(debug_assertions) { 2 } else { 8 };

/// A client's directory while its entries are on their way through the pipeline. Whoever holds the last reference
/// knows that all of it is done.
#[derive(Debug)]
pub struct Directory {
    /// Its path on the client.
    pub path: AbsPath,
    /// Its inode number on the client, when it was listed.
    pub inode: u64,
    /// Whether its fingerprint is to be kept once all of it is done.
    pub listed_whole: bool,
    /// Whether a file system is mounted there on the client, below a root.
    pub is_mount: bool,
    /// Where it was before, if it is known to have moved, and the fingerprint that it has there.
    pub origin: Option<(AbsPath, Fingerprint)>,
    /// Of what was listed, once that is complete.
    pub content: OnceLock<Listed>,
    /// How many steps the listing asks for; [`done`](Directory::done) of them were done just as listed.
    pub steps: AtomicU64,
    /// See [`steps`](Directory::steps).
    pub done: AtomicU64,
    /// Where its files gather, when it is new here.
    pub tray: Tray,
}

impl Directory {
    /// One that is not listed itself.
    pub fn new(path: AbsPath) -> Directory {
        let (steps, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let (content, tray) = (OnceLock::new(), Tray::closed());
        Directory { path, inode: 0, listed_whole: false, is_mount: false, origin: None, content, steps, done, tray }
    }

    /// One whose files are to gather, when they are many enough.
    pub fn listed(
        AnnouncedDirectory { path, inode, entries, complete, .. }: AnnouncedDirectory,
        is_mount: bool,
        gathers: bool,
    ) -> Directory {
        let tray = if gathers && entries >= WORTH_A_TRAY { Tray::default() } else { Tray::closed() };
        Directory { inode, listed_whole: complete, is_mount, tray, ..Directory::new(path) }
    }

    /// These are the digests of all that is in it, which come to be known once.
    pub fn settle_on(&self, digests: Digests) {
        let _ = self.content.set(digests.into());
    }

    /// What was listed, if the index holds exactly that by now.
    pub fn settled(&self) -> Option<&Listed> {
        let all_done = self.done.load(Ordering::Relaxed) == self.steps.load(Ordering::Relaxed);
        self.content.get().filter(|_| all_done)
    }
}
