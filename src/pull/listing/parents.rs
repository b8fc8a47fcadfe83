//! Which directories the ones above them list: nothing is believed of any other.
//!
//! The entries of a directory come before those of the ones below it, for the helper sends them in the order of verdicts.

use super::super::path_set::{PathSet, Spill};
use crate::client::protocol_violation;
use crate::entry::{Entry, Kind};
use crate::error::{Error, Result};
use crate::path::AbsPath;
use crate::plan::Step;
use crate::repository::index::{Index, SourceId};

/// What a listing says of directories.
pub struct Parents<'a> {
    listed: PathSet<'a>,
    // Known directories that are gone or have become something else.
    dropped: PathSet<'a>,
    // Known directories in which something was believed, and all above them: none may be gone afterwards.
    believed: PathSet<'a>,
}

impl<'a> Parents<'a> {
    /// Nothing is listed yet.
    pub fn new(spill: Option<Spill<'a>>) -> Parents<'a> {
        let [listed, dropped, believed] = [(); 3].map(|()| PathSet::new(spill));
        Parents { listed, dropped, believed }
    }

    /// Notes a root that is a directory.
    pub fn list_root(&mut self, path: &AbsPath) -> Result<()> {
        self.listed.insert(path).map(drop)
    }

    /// Notes an entry of a directory.
    pub fn list(&mut self, directory: &AbsPath, entry: &Entry) -> Result<()> {
        match directory.join(&entry.name) {
            Some(path) if entry.kind == Kind::Dir => self.listed.insert(&path).map(drop),
            _ => Ok(()),
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
                let Some(path) = directory.join(&old.entry.name) else { return Ok(()) };
                if self.believed.contains(&path)? {
                    return Err(unlisted());
                }
                self.dropped.insert(&path).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Refuses a directory that is not [believed](Parents::believes).
    pub fn check(&mut self, remembered: Option<(&Index, SourceId)>, path: &AbsPath) -> Result<()> {
        if self.believes(remembered, path)? { Ok(()) } else { Err(unlisted()) }
    }

    /// True for a directory that its parent lists or the index knows. What is in it is believed from then on.
    pub fn believes(&mut self, remembered: Option<(&Index, SourceId)>, path: &AbsPath) -> Result<bool> {
        if self.listed.contains(path)? {
            return Ok(true);
        }
        let known = match remembered {
            Some((index, source)) if !self.is_dropped(path)? => index.current_at(source, path)?,
            _ => None,
        };
        if known.is_none_or(|version| version.entry.kind != Kind::Dir) {
            return Ok(false);
        }
        let mut next = Some(path.clone());
        while let Some(path) = next {
            if !self.believed.insert(&path)? {
                break;
            }
            next = path.split().map(|(parent, _)| parent);
        }
        Ok(true)
    }

    // A directory below a dropped one is gone with it.
    fn is_dropped(&self, path: &AbsPath) -> Result<bool> {
        let mut above = Some(path.clone()).filter(|_| !self.dropped.is_empty());
        while let Some(path) = above {
            if self.dropped.contains(&path)? {
                return Ok(true);
            }
            above = path.split().map(|(parent, _)| parent);
        }
        Ok(false)
    }
}

/// The error of a directory that the one above it does not list.
pub fn unlisted() -> Error {
    protocol_violation("it announced a directory that is not listed in the one above it")
}
