//! Moves archived files from directories with names of formats before 5 to where they belong.
//!
//! Those depended on what was on the disk, and two directories of a client could come to share one. Here each archived file
//! comes to where [`path_on_disk`] says. What is cut off is done again: each file is either at the one place or at the other.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::Repository;
use super::archive::{original_path, path_on_disk};
use super::dirs::Dir;
use super::evidence::{Evidence, Proof};
use super::index::{Index, SourceId};
use crate::entry::{DirectoryId, Version};
use crate::error::{OnServer, Result};
use crate::path::{AbsPath, Escaped, MAX_NAME, Name, SourceName};

const WHAT: &str = "can't move the archive's directories";

/// Moves the files of a source's archive to the directories that they belong to. The source must be locked.
pub(super) fn relocate(repository: &Repository, index: &Index, (id, source): (SourceId, &SourceName)) -> Result<()> {
    let base = repository.archive(source)?;
    let mut emptied = BTreeSet::new();
    for (directory, path) in index.directories_with_archive(id)? {
        let new = path_on_disk(&path);
        for (old, on_disk) in old_directories(&base, &path).into_iter().filter(|(_, on_disk)| *on_disk != new) {
            let moving = Moving { index, id, old: &old, on_disk: &on_disk, path: &path };
            if moving.move_all(&base, directory, &new)? {
                emptied.insert(on_disk);
            }
        }
    }
    emptied.iter().rev().for_each(|path| remove_empty(&base, path));
    base.sync_file_system().on_server(WHAT)
}

struct Moving<'a> {
    index: &'a Index,
    id: SourceId,
    old: &'a Dir,
    on_disk: &'a [u8],
    path: &'a AbsPath,
}

impl Moving<'_> {
    // True when something was moved.
    fn move_all(&self, base: &Dir, directory: DirectoryId, new: &[u8]) -> Result<bool> {
        let mut evidence = Evidence::new();
        let mut has_moved = false;
        for version in self.index.versions_in(directory)? {
            let Some(name) = &version.archive_name else { continue };
            let is_missing = |dir: Dir| dir.metadata(name) == Err(Errno::ENOENT);
            if base.open(new).map_or(true, is_missing) && self.is_of(&mut evidence, &version, name)? {
                self.move_one(&base.open_or_create(new).on_server(WHAT)?, name)?;
                has_moved = true;
            }
        }
        Ok(has_moved)
    }

    // Two client directories may have shared the old one, so the content decides.
    fn is_of(&self, evidence: &mut Evidence, version: &Version, name: &Name) -> Result<bool> {
        match evidence.of_version_at(self.index, (self.old, name), version)? {
            Proof::Holds(_) => Ok(true),
            Proof::Differs | Proof::Missing => Ok(false),
            Proof::Unreadable(error) => {
                let path = [self.on_disk, name.as_bytes()].join(&b'/');
                Err(error).on_server(format_args!("can't read `{}` in the archive", Escaped(&path)))
            }
        }
    }

    // A file that the current owner of the old directory also claims is linked, not moved.
    fn move_one(&self, to: &Dir, name: &Name) -> Result<()> {
        let moved =
            if self.is_claimed(name)? { self.old.link(name, to, name) } else { self.old.rename(name, to, name) };
        moved.on_server(WHAT)
    }

    fn is_claimed(&self, name: &Name) -> Result<bool> {
        let Some(on_disk) = AbsPath::new([b"/", self.on_disk].concat()) else { return Ok(true) };
        let (claimant, is_exact) = original_path(&on_disk);
        if !is_exact || claimant == *self.path {
            return Ok(false);
        }
        let Some((directory, _)) = self.index.directory(self.id, &claimant)? else { return Ok(false) };
        Ok(self.index.versions_in(directory)?.iter().any(|version| version.archive_name.as_ref() == Some(name)))
    }
}

// Where older programs may have had a client's directory: each name on the way to it by itself, or with `~` where that was
// no directory, or had been made for another one.
fn old_directories(base: &Dir, path: &AbsPath) -> Vec<(Dir, Vec<u8>)> {
    let Some((parent, name)) = path.split() else { return vec![(base.clone(), Vec::new())] };
    let names = [Some(name.clone()), aside(&name)];
    let mut found = Vec::new();
    for (above, on_disk) in old_directories(base, &parent) {
        for name in names.iter().flatten() {
            if let Ok(dir) = above.open(name.as_bytes()) {
                let parts = [&on_disk[..], name.as_bytes()].into_iter().filter(|part| !part.is_empty());
                found.push((dir, parts.collect::<Vec<_>>().join(&b'/')));
            }
        }
    }
    found
}

fn aside(name: &Name) -> Option<Name> {
    let bytes = name.as_bytes();
    if bytes.len() < MAX_NAME {
        return Name::new([bytes, b"~"].concat());
    }
    let hash = blake3::hash(bytes).to_hex();
    let mut kept = MAX_NAME - 18;
    while kept > 1 && bytes[kept] & 0xc0 == 0x80 {
        kept -= 1;
    }
    Name::new([&bytes[..kept], b"~", &hash.as_bytes()[..16], b"~"].concat())
}

fn remove_empty(base: &Dir, on_disk: &[u8]) {
    let (parent, name) = match on_disk.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&on_disk[..slash], &on_disk[slash + 1..]),
        None => (&b""[..], on_disk),
    };
    if let (Ok(dir), Some(name)) = (base.open(parent), Name::new(name))
        && dir.remove_dir(&name).is_ok()
        && !parent.is_empty()
    {
        remove_empty(base, parent);
    }
}
