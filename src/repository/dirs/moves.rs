//! Moves and links that never overwrite, also where `renameat2` can't refuse to, and removals of what is meant alone.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat, mkdirat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::{Dir, Metadata, metadata_of};
use crate::entry::{Kind, Time};
use crate::fault::{self, lacks};
use crate::path::Name;

/// What became of a name that was to be removed.
#[derive(Debug, PartialEq)]
pub enum Unlinked {
    /// It was removed: the inode before and after that.
    Yes {
        /// With the name.
        before: Metadata,
        /// Without it.
        after: Metadata,
    },
    /// It names something else, and remains.
    No,
    /// It did not exist.
    Missing,
}

impl Dir {
    /// Gives the inode of `name` a further name; never overwrites. `EMLINK` when the inode takes no further name, for whatever
    /// reason: a copy may still be possible.
    pub fn link(&self, name: &Name, to: &Dir, to_name: &Name) -> nix::Result<()> {
        fault::step()?;
        if !self.abilities().links {
            return Err(Errno::EMLINK);
        }
        match self.link_name(name, to, to_name) {
            // GlusterFS reports its link limit as a full disk; a copy finds out whether the disk is full. EPERM is a file system
            // without hard links, or a kernel that protects files of others.
            Err(Errno::ENOSPC | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => Err(Errno::EMLINK),
            other => other,
        }
    }

    /// Lets the owner read and write a file of this process's user again, as it is in the trees; true if it was not so before.
    pub fn make_own_readable(&self, name: &Name) -> nix::Result<bool> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let held = openat(self, name.as_bytes(), flags, Mode::empty())?;
        let found = metadata_of(&fstat(&held)?);
        let is_own = found.kind == Kind::File && found.uid == nix::unistd::geteuid().as_raw();
        if !is_own || found.mode & 0o600 == 0o600 {
            return Ok(false);
        }
        // The name may be another file's by now; what is held is not.
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        fchmodat(AT_FDCWD, path.as_str(), Mode::from_bits_truncate(found.mode | 0o600), FchmodatFlags::FollowSymlink)?;
        Ok(true)
    }

    /// As [`open_file_with_metadata`](Dir::open_file_with_metadata), also where the owner, which this process is, may not read.
    pub fn open_own_file(&self, name: &Name) -> nix::Result<(File, Metadata)> {
        match self.open_file_with_metadata(name) {
            Err(Errno::EACCES) if self.make_own_readable(name)? => self.open_file_with_metadata(name),
            opened => opened,
        }
    }

    /// Removes a name if what it names is meant at this moment.
    pub fn unlink_if(&self, name: &Name, is_meant: impl FnOnce(&Metadata) -> bool) -> nix::Result<Unlinked> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let held = match openat(self, name.as_bytes(), flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(Unlinked::Missing),
            other => other?,
        };
        let before = self.identified(fstat(&held).map(|stat| metadata_of(&stat))?);
        if !is_meant(&before) {
            return Ok(Unlinked::No);
        }
        self.unlink(name)?;
        // Some file systems know an inode by its names only.
        let fewer = Metadata { links: before.links.saturating_sub(1), ..before };
        let after = fstat(&held).map_or(fewer, |stat| self.identified(metadata_of(&stat)));
        Ok(Unlinked::Yes { before, after })
    }

    /// Moves `name`; never overwrites.
    ///
    /// Where `renameat2` does not refuse to overwrite, a move takes two steps. One that was cut off in between is completed by
    /// [`complete_move`](Dir::complete_move).
    pub fn rename(&self, name: &Name, to: &Dir, to_name: &Name) -> nix::Result<()> {
        fault::step()?;
        let moved = if self.abilities().moves { self.rename_if_free(name, to, to_name) } else { Err(Errno::EINVAL) };
        match moved {
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => self.rename_in_steps(name, to, to_name)?,
            other => other?,
        }
        self.has_changed()?;
        to.has_changed()
    }

    /// Completes a move that was cut off: true when `to_name` exists and what remained at `name` is gone now.
    pub fn complete_move(&self, name: &Name, to: &Dir, to_name: &Name) -> nix::Result<bool> {
        if self.has_same(name, to, to_name)? {
            return self.unlink(name).map(|()| true);
        }
        // What has been reserved is empty, so nothing is overwritten that anybody could miss.
        let is_file = self.stat(name).is_ok_and(|found| found.kind == Kind::File);
        if self.abilities().moves || !is_file || !Reserved::File.is_at(to, to_name) {
            return Ok(false);
        }
        renameat(self, name.as_bytes(), to, to_name.as_bytes())?;
        self.has_changed()?;
        to.has_changed().map(|()| true)
    }

    /// True when two different names are of one file: of one inode, or where moves copy symlinks, of equal ones.
    pub(in crate::repository) fn has_same(&self, name: &Name, to: &Dir, to_name: &Name) -> nix::Result<bool> {
        let (Ok(one), Ok(other)) = (self.stat(name), to.stat(to_name)) else { return Ok(false) };
        let is_symlink = |kind: Kind| kind == Kind::Symlink;
        if is_symlink(one.kind) && is_symlink(other.kind) && !self.abilities().symlink_links {
            return Ok(self.read_symlink(name)? == to.read_symlink(to_name)?);
        }
        // Numbers prove it only where links do; without links no move leaves two names.
        Ok(self.abilities().links && one.kind != Kind::Dir && one.inode == other.inode)
    }

    pub(super) fn link_name(&self, name: &Name, to: &Dir, to_name: &Name) -> nix::Result<()> {
        if lacks("links") {
            return Err(Errno::EPERM);
        }
        if lacks("link-count") && self.stat(name)?.links >= 4 {
            return Err(Errno::ENOSPC);
        }
        if lacks("symlink-links") && self.stat(name)?.kind == Kind::Symlink {
            return Err(Errno::EPERM);
        }
        linkat(self, name.as_bytes(), to, to_name.as_bytes(), LinkatFlags::empty())?;
        to.has_changed()
    }

    pub(super) fn rename_if_free(&self, name: &Name, to: &Dir, to_name: &Name) -> nix::Result<()> {
        if lacks("renameat2") {
            return Err(Errno::EINVAL);
        }
        let flags = if lacks("refusal") { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        renameat2(self, name.as_bytes(), to, to_name.as_bytes(), flags)
    }

    pub(super) fn rename_in_steps(&self, name: &Name, to: &Dir, to_name: &Name) -> nix::Result<()> {
        let found = self.stat(name)?;
        let abilities = self.abilities();
        match found.kind {
            Kind::Dir => return self.rename_over_reserved(name, to, to_name, Reserved::Directory),
            Kind::Symlink if !abilities.symlink_links => return self.copy_symlink(name, found.mtime, to, to_name),
            _ if !abilities.links => {}
            _ => match self.link_name(name, to, to_name) {
                // The inode has as many names as it may have.
                Err(Errno::EMLINK | Errno::ENOSPC | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
                linked => {
                    linked?;
                    return self.remove_or(name, || to.remove_name(to_name));
                }
            },
        }
        self.rename_over_reserved(name, to, to_name, Reserved::File)
    }

    // Creating a name does refuse to overwrite everywhere; what rename(2) overwrites then is only what was just created.
    fn rename_over_reserved(&self, name: &Name, to: &Dir, to_name: &Name, reserved: Reserved) -> nix::Result<()> {
        reserved.create(to, to_name)?;
        let plainly = || fault::step().and_then(|()| renameat(self, name.as_bytes(), to, to_name.as_bytes()));
        let Err(errno) = plainly() else { return Ok(()) };
        reserved.remove(to, to_name)?;
        // A server that refuses to overwrite anything, as SFTP's plain rename does.
        if errno == Errno::EEXIST && to.stat(to_name).is_err_and(|errno| errno == Errno::ENOENT) {
            return plainly();
        }
        Err(errno)
    }

    fn copy_symlink(&self, name: &Name, mtime: Time, to: &Dir, to_name: &Name) -> nix::Result<()> {
        let target = self.read_symlink(name)?;
        symlinkat(target.as_slice(), to, to_name.as_bytes())?;
        if self.abilities().symlink_metadata {
            to.set_mtime(to_name, mtime)?;
        }
        self.remove_or(name, || to.remove_name(to_name))
    }

    // Removes the old name; has the new one removed if that fails.
    fn remove_or(&self, name: &Name, undo: impl FnOnce() -> nix::Result<()>) -> nix::Result<()> {
        let removed = fault::step().and_then(|()| self.remove_name(name));
        removed.or_else(|errno| undo().and(Err(errno)))
    }

    fn remove_name(&self, name: &Name) -> nix::Result<()> {
        unlinkat(self, name.as_bytes(), UnlinkatFlags::NoRemoveDir)
    }
}

/// What holds a name until something is moved there.
#[derive(Clone, Copy)]
enum Reserved {
    File,
    Directory,
}

impl Reserved {
    fn create(self, to: &Dir, name: &Name) -> nix::Result<()> {
        match self {
            Reserved::Directory => mkdirat(to, name.as_bytes(), Mode::S_IRWXU),
            Reserved::File => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
                openat(to, name.as_bytes(), flags, Mode::S_IRUSR | Mode::S_IWUSR).map(drop)
            }
        }
    }

    // Somebody may have put something there meanwhile.
    fn remove(self, to: &Dir, name: &Name) -> nix::Result<()> {
        match self {
            Reserved::Directory => unlinkat(to, name.as_bytes(), UnlinkatFlags::RemoveDir),
            Reserved::File if self.is_at(to, name) => to.remove_name(name),
            Reserved::File => Err(Errno::EEXIST),
        }
    }

    // A file that has not been written to since it was reserved. An empty file is never linked.
    fn is_at(self, to: &Dir, name: &Name) -> bool {
        to.stat(name).is_ok_and(|found| match self {
            Reserved::Directory => found.kind == Kind::Dir,
            Reserved::File => found.kind == Kind::File && found.size == 0 && found.links == 1,
        })
    }
}
