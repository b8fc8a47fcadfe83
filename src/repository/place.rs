//! Where in the trees the plain file of a version is.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;

use super::Repository;
use super::archive::{open_directory, path_on_disk};
use super::dirs::{Dir, Metadata};
use super::index::{Index, Located};
use crate::entry::{Hash, hash_content, is_on_disk};
use crate::error::Result;
use crate::path::{AbsPath, Name, SourceName};

// How many versions of a content are looked at together.
const PAGE: u32 = 256;

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

    /// A place that holds this content, as reading it tells, and the file that was read; not one that is `wrong`.
    pub fn intact(repository: &Repository, index: &Index, hash: &Hash, wrong: &Place) -> Result<Option<(Place, File)>> {
        for copy in Copies::of(repository, index, *hash) {
            let (place, file) = copy?;
            if place != *wrong && hash_content(&file, blake3::Hasher::new()).is_ok_and(|found| found == *hash) {
                return Ok(Some((place, file)));
            }
        }
        Ok(None)
    }

    /// Opens the plain file there.
    pub fn open(&self, repository: &Repository) -> nix::Result<File> {
        self.open_directory(repository)?.open_file(&self.name)
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
            Tree::Archive => open_directory(&base, &self.directory),
        }
    }

    /// True when both are in the same directory of the same tree.
    pub fn is_beside(&self, other: &Place) -> bool {
        (self.tree, &self.source, &self.directory) == (other.tree, &other.source, &other.directory)
    }

    /// Its directory and what is there now.
    pub fn look(&self, repository: &Repository) -> nix::Result<(Dir, Metadata)> {
        let dir = self.open_directory(repository)?;
        let found = dir.metadata(&self.name)?;
        Ok((dir, found))
    }

    /// The path relative to the repository.
    pub fn on_disk(&self) -> Vec<u8> {
        let directory = match self.tree {
            Tree::Snapshot => self.directory.below_root().to_vec(),
            Tree::Archive => path_on_disk(&self.directory),
        };
        let parts = [self.tree.name().as_bytes(), self.source.as_str().as_bytes(), &directory, self.name.as_bytes()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/')
    }
}

/// The plain files that the index says hold a content: those of newer versions first, each inode once.
pub struct Copies<'a> {
    repository: &'a Repository,
    index: &'a Index,
    hash: Hash,
    // Places that were not looked at yet, the next one last, and the version behind which there are more.
    places: Vec<Place>,
    before: i64,
    seen: HashSet<(u64, u64)>,
}

impl<'a> Copies<'a> {
    /// Those of this content.
    pub fn of(repository: &'a Repository, index: &'a Index, hash: Hash) -> Copies<'a> {
        Copies { repository, index, hash, places: Vec::new(), before: i64::MAX, seen: HashSet::new() }
    }

    // False when there are no more.
    fn turn_page(&mut self) -> Result<bool> {
        let page = self.index.versions_with_before(&self.hash, self.before, PAGE)?;
        let Some(last) = page.last() else { return Ok(false) };
        self.before = last.version.id;
        self.places = page.iter().rev().flat_map(|located| Place::all_of(located).into_iter().rev()).collect();
        Ok(true)
    }

    fn open_unseen(&mut self, place: &Place) -> Option<File> {
        let file = place.open(self.repository).ok()?;
        let metadata = file.metadata().ok()?;
        self.seen.insert((metadata.dev(), metadata.ino())).then_some(file)
    }
}

impl Iterator for Copies<'_> {
    type Item = Result<(Place, File)>;

    fn next(&mut self) -> Option<Result<(Place, File)>> {
        loop {
            let Some(place) = self.places.pop() else {
                match self.turn_page() {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(error) => return Some(Err(error)),
                }
            };
            if let Some(file) = self.open_unseen(&place) {
                return Some(Ok((place, file)));
            }
        }
    }
}
