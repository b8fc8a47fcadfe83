//! What of the snapshot nobody may change, by chattr(1): one such file must not end a run, and a batch that can't be carried
//! out would wait in the journal.

use std::collections::HashSet;

use crate::path::{AbsPath, Name};
use crate::repository::dirs::Dir;

/// Looks for immutable names; remembers the directory that was asked about last.
pub struct Blocked {
    snapshot: Dir,
    last: Option<(AbsPath, Option<Dir>, bool)>,
    // Directories that hold something blocked, so that they have to stay.
    holding: HashSet<AbsPath>,
}

impl Blocked {
    /// In this source's snapshot.
    pub fn new(snapshot: Dir) -> Blocked {
        Blocked { snapshot, last: None, holding: HashSet::new() }
    }

    /// Whether a name of a directory can't be made, replaced or removed.
    pub fn is_blocked(&mut self, directory: &AbsPath, name: &Name) -> bool {
        if self.last.as_ref().is_none_or(|(last, ..)| last != directory) {
            let dir = self.snapshot.open(directory.below_root()).ok();
            let is_blocked = self.is_immutable(directory);
            self.last = Some((directory.clone(), dir, is_blocked));
        }
        let Some((_, dir, is_blocked)) = &self.last else { return false };
        if *is_blocked || dir.as_ref().is_some_and(|dir| dir.is_immutable(Some(name))) {
            self.hold(directory);
            return true;
        }
        !self.holding.is_empty() && directory.join(name).is_some_and(|path| self.holding.contains(&path))
    }

    fn hold(&mut self, directory: &AbsPath) {
        let mut path = directory.clone();
        while self.holding.insert(path.clone())
            && let Some((parent, _)) = path.split()
        {
            path = parent;
        }
    }

    /// Forgets the directory: it may have been made since.
    pub fn forget(&mut self) {
        self.last = None;
    }

    // Of a directory that is yet to be made, the lowest one above it counts.
    fn is_immutable(&self, directory: &AbsPath) -> bool {
        let mut path = directory.clone();
        loop {
            match (self.snapshot.open(path.below_root()), path.split()) {
                (Ok(dir), _) => return dir.is_immutable(None),
                (Err(nix::errno::Errno::ENOENT), Some((parent, _))) => path = parent,
                _ => return false,
            }
        }
    }
}
