//! Unknown files, and those in `damaged/`: sources of content that is lost elsewhere.

use std::collections::HashMap;
use std::fs::File;

use crate::entry::{Hash, Kind, hash_content};
use crate::error::{OnServer, Result};
use crate::index::check::Unknown;
use crate::path::{AbsPath, Name, SourceName};
use crate::repository::dirs::Dir;
use crate::repository::evidence::ProvedFile;
use crate::repository::place::Tree;
use crate::repository::{Repository, path_in};

const WHAT: &str = "can't read the trees";

const DAMAGED: &str = "damaged";

/// Those of one source, by size.
pub(super) struct Orphans {
    by_size: HashMap<u64, Vec<Orphan>>,
}

/// One of them.
#[derive(Clone)]
pub(super) struct Orphan {
    dir: Dir,
    name: Name,
    /// Its path relative to the repository.
    pub(super) on_disk: Vec<u8>,
    // True in the trees, where the file is removed once its content is in place.
    is_in_trees: bool,
    hash: Option<Hash>,
    // The file that was opened last, as it was before it was read.
    proved: Option<ProvedFile>,
}

impl Orphans {
    /// Finds the unknown files.
    pub(super) fn find(repository: &Repository, source: &SourceName, unknown: &[Unknown]) -> Result<Orphans> {
        let mut orphans = Orphans { by_size: HashMap::new() };
        for (tree, path) in unknown {
            let Some((parent, name)) = path.split() else { continue };
            let base = match tree {
                Tree::Snapshot => repository.snapshot(source)?,
                Tree::Archive => repository.archive(source)?,
            };
            if let Ok(dir) = base.open(parent.below_root()) {
                orphans.add(dir, name.clone(), (path_in(tree.name(), source, &parent, &name), true));
            }
        }
        let damaged = [DAMAGED.as_bytes(), b"/", source.as_str().as_bytes()].concat();
        let Ok(base) = repository.base().open(&damaged) else { return Ok(orphans) };
        let mut waiting = vec![AbsPath::root()];
        while let Some(path) = waiting.pop() {
            let dir = base.open(path.below_root()).on_server(WHAT)?;
            for name in dir.names().on_server(WHAT)? {
                match dir.metadata(&name).on_server(WHAT)?.kind {
                    Kind::Dir => waiting.extend(path.join(&name)),
                    _ => orphans.add(dir.clone(), name.clone(), (path_in(DAMAGED, source, &path, &name), false)),
                }
            }
        }
        Ok(orphans)
    }

    fn add(&mut self, dir: Dir, name: Name, (on_disk, is_in_trees): (Vec<u8>, bool)) {
        if let Ok((_, found)) = dir.open_file_with_metadata(&name) {
            let orphan = Orphan { dir, name, on_disk, is_in_trees, hash: None, proved: None };
            self.by_size.entry(found.size).or_default().push(orphan);
        }
    }

    /// A file with this content, verified by reading it.
    pub(super) fn with(&mut self, hash: &Hash, size: u64) -> Option<Orphan> {
        let orphans = self.by_size.get_mut(&size)?;
        let found = orphans.iter_mut().position(|orphan| orphan.content() == Some(*hash))?;
        orphans.get(found).cloned()
    }
}

impl Orphan {
    fn content(&mut self) -> Option<Hash> {
        if self.hash.is_none() {
            let file = self.dir.open_file(&self.name).ok()?;
            self.hash = hash_content(file, blake3::Hasher::new()).ok();
        }
        self.hash
    }

    /// Opens it, if reading it shows that it has this content.
    pub(super) fn open(&mut self, hash: &Hash) -> Option<File> {
        let (file, found) = self.dir.open_file_with_metadata(&self.name).ok()?;
        self.proved = Some(ProvedFile::of(&found));
        hash_content(&file, blake3::Hasher::new()).is_ok_and(|found| found == *hash).then_some(file)
    }

    /// Removes it, if it is in the trees and still what was read: its content is where it belongs. Several versions may have been
    /// repaired from one file.
    pub(super) fn remove(&self) -> nix::Result<()> {
        let proved = self.proved.filter(|_| self.is_in_trees);
        proved.map_or(Ok(()), |proved| self.dir.unlink_if(&self.name, |found| proved.is(found)).map(drop))
    }
}
