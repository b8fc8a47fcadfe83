//! Which directories the ones above them list: nothing is believed of any other.
//!
//! The entries of a directory come before those of the ones below it, for the helper sends them in the order of verdicts.

use std::collections::HashSet;

use crate::entry::{Entry, Kind};
use crate::error::{Error, Result};
use crate::path::AbsPath;
use crate::plan::Step;
use crate::remote::helper::nonsense;
use crate::repository::index::{Index, SourceId};

/// Directories by the digests of their paths.
#[derive(Default)]
pub struct Parents {
    listed: HashSet<u128>,
    // Known directories that are gone or have become something else.
    dropped: HashSet<u128>,
    // Known directories in which something was believed, and all above them: none may be gone afterwards.
    believed: HashSet<u128>,
}

impl Parents {
    /// Notes a root that is a directory.
    pub fn list_root(&mut self, path: &AbsPath) {
        self.listed.insert(digest(path));
    }

    /// Notes an entry of a directory.
    pub fn list(&mut self, directory: &AbsPath, entry: &Entry) {
        if entry.kind == Kind::Dir {
            self.listed.extend(directory.join(&entry.name).as_ref().map(digest));
        }
    }

    /// Notes how an entry of a directory differs from the index. Refuses what leaves out a directory that was listed before.
    pub fn note(&mut self, directory: &AbsPath, step: &Step) -> Result<()> {
        match step {
            Step::New { entry } | Step::Touched { entry, .. } | Step::Restated { entry, .. } => {
                self.list(directory, entry)
            }
            Step::Changed { entry, .. } if entry.kind == Kind::Dir => self.list(directory, entry),
            Step::Changed { old, .. } | Step::Removed { old } if old.entry.kind == Kind::Dir => {
                let number = directory.join(&old.entry.name).as_ref().map(digest);
                if number.is_some_and(|number| self.believed.contains(&number)) {
                    return Err(unlisted());
                }
                self.dropped.extend(number);
            }
            _ => {}
        }
        Ok(())
    }

    /// Refuses a directory that its parent does not list and the index does not know. What is in it is believed from then on.
    pub fn check(&mut self, remembered: Option<(&Index, SourceId)>, path: &AbsPath) -> Result<()> {
        let number = digest(path);
        if self.listed.contains(&number) {
            return Ok(());
        }
        let known = match remembered.filter(|_| !self.is_dropped(path)) {
            Some((index, source)) => index.current_at(source, path)?,
            None => None,
        };
        if known.is_none_or(|version| version.entry.kind != Kind::Dir) {
            return Err(unlisted());
        }
        let mut next = Some(path.clone());
        while let Some(path) = next.filter(|path| self.believed.insert(digest(path))) {
            next = path.split().map(|(parent, _)| parent);
        }
        Ok(())
    }

    // A directory below a dropped one is gone with it.
    fn is_dropped(&self, path: &AbsPath) -> bool {
        let mut above = Some(path.clone()).filter(|_| !self.dropped.is_empty());
        while let Some(path) = above {
            if self.dropped.contains(&digest(&path)) {
                return true;
            }
            above = path.split().map(|(parent, _)| parent);
        }
        false
    }
}

/// The error of a directory that the one above it does not list.
pub fn unlisted() -> Error {
    nonsense("it announced a directory that is not listed in the one above it")
}

/// A number that stands for a path: the first half of its BLAKE3 hash, for a client that could find two paths with one number
/// could have one stand for the other.
pub fn digest(path: &AbsPath) -> u128 {
    let hash = blake3::hash(path.as_bytes());
    u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}
