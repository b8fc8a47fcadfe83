//! `index update`: takes over single files of the trees that were changed by hand.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use nix::errno::Errno;

use super::{Entering, Found, Rebuilt, WHAT, is_as_known, look, stamped};
use crate::entry::{Kind, Version, hash_content, is_on_disk};
use crate::error::{Error, OnServer, Result};
use crate::path::{AbsPath, Escaped, Name, SourceName};
use crate::report::{Report, counted};
use crate::repository::archive::{original_path, path_on_disk, renamed_directories};
use crate::repository::index::{Index, Scope, SourceId};
use crate::repository::journal::recover;
use crate::repository::lock::Lock;
use crate::repository::place::Tree;
use crate::repository::{Repository, path_in};

/// Brings the index up to date with single files of the trees that were changed by hand; returns how many rows
/// changed. A version whose plain file is no longer what it was remains, for a repair may find its content.
pub fn update(repository: &Repository, paths: &[PathBuf], report: &dyn Report) -> Result<u64> {
    let _lock = Lock::repository(repository, Duration::ZERO)?;
    // An index that is opened to write would be made where there is none.
    repository.known_index()?;
    repository.make_room()?;
    let mut index = repository.index()?;
    repository.check_index_is_newest(&index)?;
    index.expect_much_writing()?;
    let mut changed = 0;
    for path in paths {
        let spot = Spot::find(repository, path)?;
        recover(repository, &mut index, &spot.source)?.found.report(report);
        let count = spot.update(repository, &mut index, report)?;
        if count == 0 {
            report.notice(format_args!("the index knows `{}` as it is", path.display()));
        }
        changed += count;
    }
    Ok(changed)
}

/// A place in the trees that a user named.
struct Spot {
    tree: Tree,
    source: SourceName,
    // Below the tree's directory of the source.
    on_disk: AbsPath,
    name: Name,
}

impl Spot {
    fn find(repository: &Repository, path: &Path) -> Result<Spot> {
        let outside = || {
            Error::usage(format_args!("`{}` is in neither tree of the repository", path.display()))
                .hint("name a file below `snapshot/SOURCE` or `archive/SOURCE`")
        };
        let base = fs_err::canonicalize(repository.dir()).on_server("can't find the repository")?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = fs_err::canonicalize(parent).map_err(|_| outside())?;
        let below = parent.strip_prefix(&base).map_err(|_| outside())?.as_os_str().as_bytes();
        let mut parts = below.splitn(3, |&byte| byte == b'/');
        let tree = match parts.next() {
            Some(b"snapshot") => Tree::Snapshot,
            Some(b"archive") => Tree::Archive,
            _ => return Err(outside()),
        };
        let source = parts.next().and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(outside)?;
        let on_disk = AbsPath::new([b"/", parts.next().unwrap_or_default()].concat()).ok_or_else(outside)?;
        let name = path.file_name().and_then(|name| Name::new(name.as_bytes())).ok_or_else(outside)?;
        Ok(Spot { tree, source: SourceName::new(source)?, on_disk, name })
    }

    fn update(&self, repository: &Repository, index: &mut Index, report: &dyn Report) -> Result<u64> {
        let source = index.enter_source(&self.source)?;
        let directory = self.client_directory(index, source)?;
        let found = self.look(repository, &directory)?;
        if let Some(found) = found.as_ref().filter(|found| found.name != self.name) {
            let path = path_in(self.tree.name(), &self.source, &self.on_disk, &found.name);
            report.notice(format_args!(
                "renamed `{}` in the archive to `{}`: its name had no timestamp",
                self.name,
                Escaped(&path)
            ));
        }
        let known = match index.directory(source, &directory)? {
            Some((id, _)) => index.versions_in(id)?.into_iter().find(|version| self.is_of(version)),
            None => None,
        };
        let is_same = match (&found, &known) {
            (None, None) => true,
            (Some(found), Some(known)) => {
                let lacks_hash = known.hash.is_none() && found.hash.is_some();
                is_as_known(known, found) && found.name == self.name && !lacks_hash
            }
            _ => false,
        };
        if is_same {
            return Ok(0);
        }
        let write = index.write()?;
        let run = write.begin_rebuild(source, Timestamp::now())?;
        let below = directory.join(&self.name).filter(|_| self.tree == Tree::Snapshot);
        let scope = Scope { source, directory: &directory, below: below.as_ref() };
        let before = write.count_baseless(&scope)?;
        self.take_over(&Entering { report, write: &write, source, run }, (found, known), &scope)?;
        write.adopt(&scope, run)?;
        let lost = write.count_baseless(&scope)?.saturating_sub(before);
        write.forget_fingerprint(write.enter_directory(source, &directory)?)?;
        write.end_rebuild(run, Timestamp::now())?;
        write.commit()?;
        repository.note_newest(index)?;
        if lost > 0 {
            report.warn(format_args!(
                "{} of `{}` lost the plain file: `archive verify --repair` looks for the contents",
                counted(lost, "version"),
                self.source
            ));
        }
        Ok(1)
    }

    fn take_over(
        &self,
        entering: &Entering<'_>,
        (found, known): (Option<Found>, Option<Version>),
        scope: &Scope<'_>,
    ) -> Result<()> {
        let Entering { write, run, .. } = entering;
        let is_dir = |known: &Version| self.tree == Tree::Snapshot && known.entry.kind == Kind::Dir;
        if known.as_ref().is_some_and(is_dir) {
            write.close_below(scope, *run)?;
        }
        write.begin_finding()?;
        match (found, known, self.tree) {
            (Some(found), Some(known), Tree::Archive) if found.name != self.name => {
                write.set_archive_name(known.id, None)?;
                entering.enter(found, &mut Rebuilt::default())
            }
            (Some(found), _, _) => entering.enter(found, &mut Rebuilt::default()),
            (None, Some(known), Tree::Snapshot) => write.close(known.id, *run, known.archive_name.as_ref()),
            (None, Some(known), Tree::Archive) => write.set_archive_name(known.id, None),
            (None, None, _) => Ok(()),
        }
    }

    // The client's directory that the one on the disk stands for.
    fn client_directory(&self, index: &Index, source: SourceId) -> Result<AbsPath> {
        if self.tree == Tree::Snapshot {
            return Ok(self.on_disk.clone());
        }
        let known = renamed_directories(index, source)?.remove(self.on_disk.below_root());
        let directory = known.unwrap_or_else(|| original_path(&self.on_disk).0);
        if path_on_disk(&directory) == self.on_disk.below_root() {
            return Ok(directory);
        }
        let path = path_in(self.tree.name(), &self.source, &self.on_disk, &self.name);
        Err(Error::usage(format_args!("`{}` is in a directory that is no client's", Escaped(&path)))
            .hint("`archive index rebuild` moves it to where it belongs"))
    }

    fn is_of(&self, version: &Version) -> bool {
        match self.tree {
            // Fifos and devices are in the index only.
            Tree::Snapshot => {
                version.until_run.is_none() && version.entry.name == self.name && is_on_disk(version.entry.kind)
            }
            Tree::Archive => version.archive_name.as_ref() == Some(&self.name),
        }
    }

    // `None` for what the index has no row of, too.
    fn look(&self, repository: &Repository, directory: &AbsPath) -> Result<Option<Found>> {
        let base = match self.tree {
            Tree::Snapshot => repository.snapshot(&self.source)?,
            Tree::Archive => repository.archive(&self.source)?,
        };
        let dir = base.open(self.on_disk.below_root());
        let dir = dir.on_server(format_args!("can't open `{}`", Escaped(self.on_disk.as_bytes())))?;
        match dir.metadata(&self.name) {
            Err(Errno::ENOENT) => return Ok(None),
            other => other.on_server(WHAT)?,
        };
        let name = if self.tree == Tree::Archive { stamped(&dir, self.name.clone())? } else { self.name.clone() };
        let (mut found, file) = look(self.tree, directory, &dir, name)?;
        if let Some(file) = file {
            found.hash = Some(hash_content(&file, blake3::Hasher::new()).on_server(WHAT)?);
        }
        let is_of_index =
            is_on_disk(found.metadata.kind) && (self.tree == Tree::Snapshot || found.metadata.kind != Kind::Dir);
        Ok(is_of_index.then_some(found))
    }
}
