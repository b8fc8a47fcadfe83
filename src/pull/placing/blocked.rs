//! What nobody may change in the trees, by chattr(1): one such file must not end a run, and a batch that can't be carried out
//! would wait in the journal.

use std::collections::HashSet;

use nix::errno::Errno;

use crate::path::{AbsPath, Name};
use crate::repository::archive::path_on_disk;
use crate::repository::dirs::Dir;
use crate::repository::place::Tree;

/// Looks for immutable names; remembers the directory that was asked about last.
pub struct Blocked {
    snapshot: Dir,
    archive: Dir,
    last: Option<Asked>,
    // Directories that hold something blocked, so that they have to stay.
    holding: HashSet<AbsPath>,
}

struct Asked {
    path: AbsPath,
    // In the snapshot, if it exists there.
    dir: Option<Dir>,
    // The tree in which the directory itself can't be changed.
    blocked: Option<Tree>,
}

impl Blocked {
    /// In this source's snapshot and archive.
    pub fn new(snapshot: Dir, archive: Dir) -> Blocked {
        Blocked { snapshot, archive, last: None, holding: HashSet::new() }
    }

    /// The tree in which a name of a directory can't be made, replaced or removed, if there is one: a file that is replaced moves
    /// to the archive.
    pub fn tree_of(&mut self, directory: &AbsPath, name: &Name) -> Option<Tree> {
        if self.last.as_ref().is_none_or(|last| last.path != *directory) {
            self.last = Some(self.ask(directory));
        }
        let Asked { dir, blocked, .. } = self.last.as_ref()?;
        let is_immutable = || dir.as_ref().is_some_and(|dir| dir.is_immutable(Some(name)));
        if let Some(tree) = blocked.or_else(|| is_immutable().then_some(Tree::Snapshot)) {
            self.hold(directory);
            return Some(tree);
        }
        let holds = !self.holding.is_empty() && directory.join(name).is_some_and(|path| self.holding.contains(&path));
        holds.then_some(Tree::Snapshot)
    }

    fn ask(&self, path: &AbsPath) -> Asked {
        let blocked = if is_immutable(&self.snapshot, path.below_root()) {
            Some(Tree::Snapshot)
        } else {
            is_immutable(&self.archive, &path_on_disk(path)).then_some(Tree::Archive)
        };
        Asked { path: path.clone(), dir: self.snapshot.open(path.below_root()).ok(), blocked }
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
}

// Whether a directory at a path below `base` is immutable. For one that is yet to be made, the lowest that exists above it
// counts; a client may list a path of two thousand names, so that is found by halving.
fn is_immutable(base: &Dir, path: &[u8]) -> bool {
    match base.open(path) {
        Ok(dir) => return dir.is_immutable(None),
        Err(Errno::ENOENT) => {}
        Err(_) => return false,
    }
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let above: Vec<&[u8]> = std::iter::once(0).chain(slashes).map(|end| &path[..end]).collect();
    let missing = above.partition_point(|path| !matches!(base.open(path), Err(Errno::ENOENT)));
    let lowest = missing.checked_sub(1).and_then(|at| base.open(above[at]).ok());
    lowest.is_some_and(|dir| dir.is_immutable(None))
}
