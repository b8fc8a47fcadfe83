//! Mount points that are remembered and on which nothing is mounted any more: the files may be on a disk that is not there.

use archive_helper::exclude::Excludes;

use super::super::Directory;
use super::{Before, Consent};
use crate::error::Result;
use crate::path::{AbsPath, Name};
use crate::repository::index::Stop;
use crate::source::Source;

/// What a run finds out about them.
#[derive(Debug, Default)]
pub struct Mounts {
    // Those that are remembered, once a directory is gone.
    remembered: Option<Vec<AbsPath>>,
    // Those that are gone with a directory.
    vanished: Vec<AbsPath>,
    // Where file systems were mounted that are mounted at another path now.
    moved: Vec<AbsPath>,
    unmounted: Vec<Unmounted>,
}

/// One that is a directory of the file system above now.
#[derive(Debug)]
struct Unmounted {
    path: AbsPath,
    // Files that were removed below it; `None` while nothing was.
    removed_files: Option<u64>,
}

impl Mounts {
    /// Notes that nothing is mounted any more at a path.
    pub fn note_unmounted(&mut self, path: &AbsPath) {
        self.unmounted.push(Unmounted { path: path.clone(), removed_files: None });
    }

    /// Notes a directory that had another path before.
    pub fn note_moved(&mut self, directory: &Directory) {
        let origin = directory.origin.iter().filter(|_| directory.is_mount).map(|(origin, _)| origin);
        for origin in origin {
            if self.moved.last() != Some(origin) {
                self.moved.push(origin.clone());
            }
        }
    }

    /// Notes a removed entry, with so many files.
    pub fn note_removed(&mut self, directory: &AbsPath, name: &Name, files: u64) {
        if self.unmounted.is_empty() {
            return;
        }
        let Some(path) = directory.join(name) else { return };
        for unmounted in self.unmounted.iter_mut().filter(|unmounted| path.starts_with(&unmounted.path)) {
            *unmounted.removed_files.get_or_insert_default() += files;
        }
    }

    /// Notes a removed directory. A disk that is unplugged may take its mount point along, as those below /media do.
    pub fn note_removed_directory(&mut self, removed: &AbsPath, before: Before<'_>, source: &Source) -> Result<()> {
        let remembered = match &self.remembered {
            Some(remembered) => remembered,
            None => {
                let mounts = before.index.mounts(before.source_id)?.into_iter().map(|(_, path)| path);
                let excludes = Excludes::new(&source.settings.exclude);
                self.remembered.insert(mounts.filter(|path| !is_excluded(&excludes, path)).collect())
            }
        };
        self.vanished.extend(remembered.iter().filter(|path| path.starts_with(removed)).cloned());
        Ok(())
    }

    /// Stops the run if files have gone with a file system, and nobody has allowed that.
    pub fn check(self, before: Before<'_>, source: &Source, consent: &Consent) -> Result<()> {
        let Mounts { mut vanished, mut unmounted, moved, .. } = self;
        unmounted.retain(|at| at.removed_files.is_some() && !consent.allows_missing(&at.path));
        let is_below = |path: &AbsPath| unmounted.iter().any(|at| path.starts_with(&at.path));
        vanished.retain(|path| !moved.contains(path) && !is_below(path) && !consent.allows_missing(path));
        if vanished.is_empty() && unmounted.is_empty() {
            return Ok(());
        }
        let mut removed: u64 = unmounted.iter().filter_map(|at| at.removed_files).sum();
        for path in &vanished {
            removed += before.index.count_files_below(before.source_id, path, None)?;
        }
        let what = match (vanished.len(), unmounted.len()) {
            (1, 0) => "was a mount point and does not exist",
            (_, 0) => "were mount points and do not exist",
            (0, 1) => "was a mount point and holds other files now",
            (0, _) => "were mount points and hold other files now",
            _ => "were mount points and do not exist, or hold other files now",
        };
        let paths: Vec<_> = unmounted.into_iter().map(|at| at.path).chain(vanished).collect();
        let named = paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ");
        consent.note(Stop { removed, paths, roots: Vec::new() });
        Err(consent.missing(source, format_args!("{named} {what} on the client")))
    }
}

// What is excluded since the last pull is gone because a person wants that.
fn is_excluded(excludes: &Excludes, path: &AbsPath) -> bool {
    let mut next = path.split();
    while let Some((parent, name)) = next {
        if excludes.within(&parent).excludes(name.as_bytes(), true) {
            return true;
        }
        next = parent.split();
    }
    false
}
