//! A directory that things are put into, one name at a time, following no symlink.

use std::collections::HashSet;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    self, AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, RawMode, RenameFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags,
};

use super::{BELOW, DIRECTORY, Directory, Errno, Metadata, read_xattrs};
use crate::protocol::{ACCESS_ACL, DEFAULT_ACL, Kind, MAX_PATH, Time, Xattr};
use crate::repository;

/// An open directory, to be written to.
pub struct Folder(OwnedFd);

/// True when the process may give things to others.
pub fn is_privileged() -> bool {
    rustix::process::geteuid().is_root()
}

/// Who runs the process: user and group.
pub fn own_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

impl Folder {
    /// Opens what `path` leads to, symlinks followed: the user named it.
    pub fn open(path: &[u8]) -> Result<Folder, Errno> {
        fs::open(path, DIRECTORY, Mode::empty()).map(Folder)
    }

    /// Makes a directory at `path`, and what leads to it.
    pub fn create(path: &[u8]) -> Result<(), Errno> {
        match fs::mkdirat(CWD, path, Mode::from_raw_mode(0o777)) {
            Err(Errno::NOENT) => {
                let parent = path.iter().rposition(|&byte| byte == b'/').filter(|slash| *slash > 0);
                Folder::create(&path[..parent.ok_or(Errno::NOENT)?])?;
                fs::mkdirat(CWD, path, Mode::from_raw_mode(0o777))
            }
            Err(Errno::EXIST) => Ok(()),
            made => made,
        }
    }

    /// Opens a directory below this one, no part of whose path may be a symlink; empty for this one.
    pub fn open_below(&self, path: &[u8]) -> Result<Folder, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        match fs::openat2(&self.0, path, DIRECTORY, Mode::empty(), BELOW) {
            Err(Errno::NOSYS | Errno::PERM) => self.open_by_parts(path),
            opened => opened.map(Folder),
        }
    }

    // For kernels before 5.6.
    fn open_by_parts(&self, path: &[u8]) -> Result<Folder, Errno> {
        let open =
            |parent: BorrowedFd<'_>, part: &[u8]| fs::openat(parent, part, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        let mut parts = path.split(|&byte| byte == b'/');
        let mut folder = open(self.0.as_fd(), parts.next().unwrap_or(b"."))?;
        for part in parts {
            folder = open(folder.as_fd(), part)?;
        }
        Ok(Folder(folder))
    }

    /// What is at a name.
    pub fn metadata(&self, name: &[u8]) -> Result<Option<Metadata>, Errno> {
        match fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) {
            Err(Errno::NOENT) => Ok(None),
            found => found.map(|stat| Some(stat.into())),
        }
    }

    /// The target of a symlink.
    pub fn read_link(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut buffer = [MaybeUninit::uninit(); MAX_PATH + 1];
        fs::readlinkat_raw(&self.0, name, &mut buffer).map(|(target, _)| target.to_vec())
    }

    /// True when a directory in it has no entries.
    pub fn is_empty_below(&self, name: &[u8]) -> Result<bool, Errno> {
        Directory(self.open_below(name)?.0).is_empty()
    }

    /// True when it is the repository with this id, by the file that holds it. One that this user may not read is no file of a
    /// repository that the user could write to.
    pub fn is_repository(&self, id: &[u8]) -> Result<bool, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match fs::openat(&self.0, repository::FORMAT, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS | Errno::NXIO) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        let mut head = [0; repository::FORMAT_HEAD];
        match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut head)) {
            Ok(length) => Ok(repository::is_repository(&head[..length], id)),
            Err(Errno::ISDIR | Errno::INVAL) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// All names in it.
    pub fn names(&self) -> Result<HashSet<Vec<u8>>, Errno> {
        let entries = fs::Dir::read_from(&self.0)?;
        entries.map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec())).collect()
    }

    /// Makes a directory.
    pub fn create_dir(&self, name: &[u8], mode: u32) -> Result<(), Errno> {
        fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode as RawMode))
    }

    /// Creates a file that was not there, to be written by its owner only.
    pub fn create_file(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)
    }

    /// Makes a symlink.
    pub fn create_symlink(&self, name: &[u8], target: &[u8]) -> Result<(), Errno> {
        fs::symlinkat(target, &self.0, name)
    }

    /// Makes a fifo or a device, which only its owner may use yet.
    pub fn create_node(&self, name: &[u8], kind: Kind, device: u64) -> Result<(), Errno> {
        let kind = match kind {
            Kind::Fifo => FileType::Fifo,
            Kind::Char => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => return Err(Errno::INVAL),
        };
        fs::mknodat(&self.0, name, kind, Mode::RUSR | Mode::WUSR, device as Dev)
    }

    /// Gives a file a further name in `to`.
    pub fn link(&self, name: &[u8], to: &Folder, to_name: &[u8]) -> Result<(), Errno> {
        fs::linkat(&self.0, name, &to.0, to_name, AtFlags::empty())
    }

    /// Renames something; only with `replace` over what is there.
    pub fn rename(&self, name: &[u8], to: &[u8], replace: bool) -> Result<(), Errno> {
        if replace {
            return fs::renameat(&self.0, name, &self.0, to);
        }
        match fs::renameat_with(&self.0, name, &self.0, to, RenameFlags::NOREPLACE) {
            // Some file systems of others can't tell: what is there by now was not when it was looked for.
            Err(Errno::INVAL | Errno::NOSYS) if self.metadata(to)?.is_none() => {
                fs::renameat(&self.0, name, &self.0, to)
            }
            renamed => renamed,
        }
    }

    /// Removes what is no directory.
    pub fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        fs::unlinkat(&self.0, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: &[u8]) -> Result<(), Errno> {
        fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)
    }

    /// Gives a name its owner, a symlink's own included.
    pub fn set_owner(&self, name: &[u8], uid: u32, gid: u32) -> Result<(), Errno> {
        fs::chownat(&self.0, name, uid_of(uid), gid_of(gid), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Gives a name of this kind, which is no symlink, its mode. Whoever may write here could have put something else there
    /// meanwhile, which `chmod` would follow.
    pub fn set_mode(&self, name: &[u8], kind: Kind, mode: u32) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = fs::openat(&self.0, name, flags, Mode::empty())?;
        if kind == Kind::Symlink || Metadata::from(fs::fstat(&node)?).kind != Some(kind) {
            return Err(Errno::STALE);
        }
        fs::chmod(format!("/proc/self/fd/{}", node.as_raw_fd()), Mode::from_raw_mode(mode as RawMode))
    }

    /// Gives a name its mtime, a symlink's own included.
    pub fn set_mtime(&self, name: &[u8], mtime: Time) -> Result<(), Errno> {
        fs::utimensat(&self.0, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Gives a name an extended attribute, a symlink's own included.
    pub fn set_xattr(&self, name: &[u8], xattr: &Xattr) -> Result<(), Errno> {
        fs::lsetxattr(self.path_of(name), &xattr.name[..], &xattr.value, XattrFlags::empty())
    }

    /// The extended attributes of a name, a symlink's own included; none where they can't be read.
    pub fn xattrs(&self, name: &[u8]) -> Vec<Xattr> {
        read_xattrs(&self.path_of(name), false).unwrap_or_default()
    }

    /// Its own extended attributes; none where they can't be read.
    pub fn own_xattrs(&self) -> Vec<Xattr> {
        read_xattrs(&self.path_of(b""), true).unwrap_or_default()
    }

    /// Takes the access control list away that a name was born with.
    pub fn remove_acl(&self, name: &[u8]) {
        // There may be none, or no such thing.
        let _ = fs::lremovexattr(self.path_of(name), ACCESS_ACL);
    }

    // The kernel has no call that sets the attributes of a name in a directory before version 6.13.
    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        [format!("/proc/self/fd/{}/", self.0.as_raw_fd()).as_bytes(), name].concat()
    }

    /// True when what is made in it is born with an access control list.
    pub fn hands_on_acl(&self) -> bool {
        fs::fgetxattr(&self.0, DEFAULT_ACL, &mut [0_u8; 0][..]).is_ok()
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives what is open its owner.
pub fn set_owner(file: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    fs::fchown(file, uid_of(uid), gid_of(gid))
}

/// Gives what is open its mode.
pub fn set_mode(file: impl AsFd, mode: u32) -> Result<(), Errno> {
    fs::fchmod(file, Mode::from_raw_mode(mode as RawMode))
}

/// Gives what is open its mtime.
pub fn set_mtime(file: impl AsFd, mtime: Time) -> Result<(), Errno> {
    fs::futimens(file, &times(mtime))
}

/// Gives what is open an extended attribute.
pub fn set_xattr(file: impl AsFd, xattr: &Xattr) -> Result<(), Errno> {
    fs::fsetxattr(file, &xattr.name[..], &xattr.value, XattrFlags::empty())
}

/// Takes the access control lists away that what is open was born with.
pub fn remove_acls(file: impl AsFd) {
    for name in [ACCESS_ACL, DEFAULT_ACL] {
        // There may be none, or no such thing.
        let _ = fs::fremovexattr(&file, name);
    }
}

/// Takes an extended attribute away from what is open.
pub fn remove_xattr(file: impl AsFd, name: &[u8]) {
    // It may be gone already.
    let _ = fs::fremovexattr(&file, name);
}

/// Writes all of `bytes` at an offset.
pub fn write_at(file: impl AsFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(&file, bytes, offset))?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Makes an open file so long.
pub fn set_size(file: impl AsFd, size: u64) -> Result<(), Errno> {
    fs::ftruncate(file, size)
}

// The highest number means nobody in particular.
fn uid_of(uid: u32) -> Option<Uid> {
    (uid != u32::MAX).then(|| Uid::from_raw(uid))
}

fn gid_of(gid: u32) -> Option<Gid> {
    (gid != u32::MAX).then(|| Gid::from_raw(gid))
}

// The types of the fields differ by machine.
#[allow(clippy::unnecessary_cast)]
fn times(mtime: Time) -> Timestamps {
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let last_modification = Timespec { tv_sec: mtime.seconds() as _, tv_nsec: mtime.nanoseconds() as _ };
    Timestamps { last_access, last_modification }
}
