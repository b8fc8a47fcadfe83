//! Where in the trees the plain file of a version is.

use super::archive::open_directory;
use super::dirs::{Dir, Metadata};
use super::index::{Index, Located};
use super::{Repository, path_in};
use crate::entry::{Hash, hash_content, is_on_disk};
use crate::error::Result;
use crate::path::{AbsPath, Name, SourceName};

// Places of a content that are tried.
const MOST_PLACES: u32 = 64;

/// One of the two trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// The newest state.
    Snapshot,
    /// Earlier versions.
    Archive,
}

impl Tree {
    /// The name of its directory in the repository.
    pub fn name(self) -> &'static str {
        match self {
            Tree::Snapshot => "snapshot",
            Tree::Archive => "archive",
        }
    }
}

/// A place in the trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which tree.
    pub tree: Tree,
    /// Whose.
    pub source: SourceName,
    /// The client's directory.
    pub directory: AbsPath,
    /// The name on disk.
    pub name: Name,
}

impl Place {
    /// The places of a version: in the snapshot, in the archive, in both, or nowhere.
    pub fn all_of(located: &Located) -> Vec<Place> {
        let version = &located.version;
        let snapshot = version.until_run.is_none() && is_on_disk(version.entry.kind);
        let snapshot = snapshot.then(|| Place::new(Tree::Snapshot, located, version.entry.name.clone()));
        let archive = version.archive_name.clone().map(|name| Place::new(Tree::Archive, located, name));
        snapshot.into_iter().chain(archive).collect()
    }

    /// A place that holds this content, as reading it tells; not one that is `wrong`.
    pub fn intact(repository: &Repository, index: &Index, hash: &Hash, wrong: &Place) -> Result<Option<Place>> {
        for located in index.versions_with(hash, MOST_PLACES)? {
            for place in Place::all_of(&located).into_iter().filter(|place| place != wrong) {
                let file = place.open_directory(repository).and_then(|dir| dir.open_file(&place.name));
                let Ok(file) = file else { continue };
                if hash_content(file, blake3::Hasher::new()).is_ok_and(|found| found == *hash) {
                    return Ok(Some(place));
                }
            }
        }
        Ok(None)
    }

    fn new(tree: Tree, located: &Located, name: Name) -> Place {
        Place { tree, source: located.source.clone(), directory: located.directory.clone(), name }
    }

    /// Opens the directory that it is in.
    pub fn open_directory(&self, repository: &Repository) -> nix::Result<Dir> {
        let base =
            repository.base().open(&[self.tree.name().as_bytes(), b"/", self.source.as_str().as_bytes()].concat())?;
        match self.tree {
            Tree::Snapshot => base.open(self.directory.below_root()),
            Tree::Archive => open_directory(&base, &self.directory, false),
        }
    }

    /// Its directory and what is there now.
    pub fn look(&self, repository: &Repository) -> nix::Result<(Dir, Metadata)> {
        let dir = self.open_directory(repository)?;
        let found = dir.metadata(&self.name)?;
        Ok((dir, found))
    }

    /// The path relative to the repository.
    pub fn on_disk(&self) -> Vec<u8> {
        path_in(self.tree.name(), &self.source, &self.directory, &self.name)
    }
}
