//! Every operation on the trees and on staging: by directory descriptor, one name at a time, following no link.
//!
//! Nothing else in this program opens, creates, renames or removes anything below the repository.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{
    AtFlags, FallocateFlags, OFlag, OpenHow, ResolveFlag, fallocate, open, openat, openat2, readlinkat, renameat,
};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{AccessFlags, Gid, Uid, UnlinkatFlags, faccessat, fchown, fchownat, symlinkat, syncfs, unlinkat};

use crate::entry::{Entry, Extent, Kind, Time};
use crate::fault::{self, lacks};
use crate::path::{AbsPath, MAX_PATH, Name};

mod abilities;
mod moves;
mod probe;
#[cfg(test)]
mod tests;

pub use abilities::{Abilities, is_on_local_disk};
pub use moves::Unlinked;
pub(super) use probe::{PREFIX as PROBE_PREFIX, Unfit, is_without_flock, take_records};

use abilities::FileSystem;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);

const ACL: &[u8] = b"system.posix_acl_";

/// A directory of the repository, held open.
#[derive(Clone, Debug)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    file_system: Arc<FileSystem>,
}

/// What `fstatat` tells of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Bytes that its blocks take.
    pub bytes_on_disk: u64,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Time of the last change of the inode, its links and metadata included; nanoseconds since 1970 UTC.
    pub ctime: i64,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How many names the inode has.
    pub links: u64,
    /// Device and number of the inode. Where the file system has no lasting numbers, the number is derived from kind, size and
    /// mtime.
    pub inode: (u64, u64),
    /// True when no other content can have had this inode number with this ctime.
    pub identifies: bool,
}

impl Metadata {
    /// True for the inode of this number. The device tells nothing: it is another one after each mount, and all that is
    /// in the trees is on one.
    pub fn is_inode(&self, (_, number): (u64, u64)) -> bool {
        self.inode.1 == number
    }

    /// The entry that the disk tells of; the client's ctime and inode are not among it.
    pub fn entry(&self, name: Name, target: Vec<u8>) -> Entry {
        let size = if self.kind == Kind::File { self.size } else { 0 };
        let Metadata { kind, mtime, mode, uid, gid, .. } = *self;
        Entry { name, kind, size, mtime, ctime: 0, mode, uid, gid, inode: None, device: 0, target, attributes: None }
    }
}

impl Dir {
    /// Opens the repository itself. The only path that is believed, for the user gave it.
    pub fn open_base(path: &Path) -> nix::Result<Dir> {
        let fd = open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let file_system = Arc::new(FileSystem::of(&fd));
        Ok(Dir { fd: Arc::new(fd), file_system })
    }

    /// What its file system can do, as far as that is known.
    pub fn abilities(&self) -> &Abilities {
        self.file_system.abilities()
    }

    /// Opens the directory at `path` below this one: names joined by `/`, empty for this one.
    pub fn open(&self, path: &[u8]) -> nix::Result<Dir> {
        if path.is_empty() {
            return Ok(self.clone());
        }
        self.open_beneath(path, DIRECTORY)
            .map(|fd| Dir { fd: Arc::new(fd), file_system: Arc::clone(&self.file_system) })
    }

    /// Opens the directory at `path`, making what is missing of it with mode 0700.
    pub fn open_or_create(&self, path: &[u8]) -> nix::Result<Dir> {
        match self.open(path) {
            Err(Errno::ENOENT) => self.create_path(path),
            other => other,
        }
    }

    fn create_path(&self, path: &[u8]) -> nix::Result<Dir> {
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (self.open_or_create(&path[..slash])?, &path[slash + 1..]),
            None => (self.clone(), path),
        };
        let name = Name::new(name).ok_or(Errno::EINVAL)?;
        match parent.create_dir(&name, 0o700) {
            Ok(()) | Err(Errno::EEXIST) => parent.open(name.as_bytes()),
            Err(errno) => Err(errno),
        }
    }

    fn open_beneath(&self, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
        static NO_OPENAT2: AtomicBool = AtomicBool::new(false);
        // The kernel takes no longer one, but names of the archive may be longer than the client's own.
        if path.len() <= MAX_PATH && !NO_OPENAT2.load(Ordering::Relaxed) {
            let resolve =
                ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
            match openat2(self, path, OpenHow::new().flags(flags).resolve(resolve)) {
                // EPERM is what a system call filter of an older container says.
                Err(Errno::ENOSYS | Errno::EPERM) => NO_OPENAT2.store(true, Ordering::Relaxed),
                other => return other,
            }
        }
        self.open_by_components(path, flags)
    }

    fn open_by_components(&self, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
        let mut parts = path.split(|&byte| byte == b'/');
        let last = parts.next_back().ok_or(Errno::EINVAL)?;
        let mut parent: Option<OwnedFd> = None;
        for part in parts {
            let below = parent.as_ref().map_or(self.as_fd(), |fd| fd.as_fd());
            parent = Some(openat(below, checked(part)?.as_bytes(), DIRECTORY, Mode::empty())?);
        }
        let below = parent.as_ref().map_or(self.as_fd(), |fd| fd.as_fd());
        openat(below, checked(last)?.as_bytes(), flags, Mode::empty())
    }

    /// Opens a regular file to read; anything else is `EINVAL`.
    pub fn open_file(&self, name: &Name) -> nix::Result<File> {
        self.open_file_with_metadata(name).map(|(file, _)| file)
    }

    /// Opens a regular file to read, with what `fstat` tells of it; anything else is `EINVAL`.
    pub fn open_file_with_metadata(&self, name: &Name) -> nix::Result<(File, Metadata)> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = openat(self, name.as_bytes(), flags, Mode::empty()).map(File::from)?;
        let found = self.identified(file_metadata(&file)?);
        if found.kind == Kind::File { Ok((file, found)) } else { Err(Errno::EINVAL) }
    }

    /// Creates a file that was not there, mode 0600, to write and read.
    pub fn create_file(&self, name: &Name) -> nix::Result<File> {
        self.create_file_as(name, 0o600)
    }

    /// Creates a file that was not there, to write and read, with those of the permission bits `mode` that the process's
    /// umask and the directory's default ACL leave it.
    pub fn create_file_as(&self, name: &Name, mode: u32) -> nix::Result<File> {
        fault::step()?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = openat(self, name.as_bytes(), flags, Mode::from_bits_truncate(mode)).map(File::from)?;
        self.has_changed()?;
        Ok(file)
    }

    /// Opens a file of the repository's own, such as a lock; never one in the trees.
    pub fn open_file_to_write(&self, name: &Name) -> nix::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        openat(self, name.as_bytes(), flags, Mode::empty()).map(File::from)
    }

    /// Opens a file of the repository's own to append to it, creating it with mode 0600.
    pub fn open_to_append(&self, name: &Name) -> nix::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(self, name.as_bytes(), flags, Mode::from_bits_truncate(0o600)).map(File::from)
    }

    /// Creates a directory.
    pub fn create_dir(&self, name: &Name, mode: u32) -> nix::Result<()> {
        fault::step()?;
        mkdirat(self, name.as_bytes(), Mode::from_bits_truncate(mode))?;
        self.has_changed()
    }

    /// Creates a symlink with this target and, where symlinks have one, this mtime.
    pub fn create_symlink(&self, name: &Name, target: &[u8], mtime: Time) -> nix::Result<()> {
        fault::step()?;
        symlinkat(target, self, name.as_bytes())?;
        self.has_changed()?;
        if self.abilities().symlink_metadata { self.set_mtime(name, mtime) } else { Ok(()) }
    }

    /// Reads a symlink's target.
    pub fn read_symlink(&self, name: &Name) -> nix::Result<Vec<u8>> {
        readlinkat(self, name.as_bytes()).map(OsStringExt::into_vec)
    }

    /// Moves a directory to where nothing is, or an empty directory: see rename(2). Overwrites nothing else.
    pub fn rename_directory(&self, name: &Name, to: &Dir, to_name: &Name) -> nix::Result<()> {
        fault::step()?;
        renameat(self, name.as_bytes(), to, to_name.as_bytes())?;
        self.has_changed()?;
        to.has_changed()
    }

    /// Removes a name that is no directory's.
    pub fn unlink(&self, name: &Name) -> nix::Result<()> {
        fault::step()?;
        unlinkat(self, name.as_bytes(), UnlinkatFlags::NoRemoveDir)?;
        self.has_changed()
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: &Name) -> nix::Result<()> {
        fault::step()?;
        unlinkat(self, name.as_bytes(), UnlinkatFlags::RemoveDir)?;
        self.has_changed()
    }

    /// Tells of a name, not following a symlink.
    pub fn metadata(&self, name: &Name) -> nix::Result<Metadata> {
        self.stat(name).map(|found| self.identified(found))
    }

    fn stat(&self, name: &Name) -> nix::Result<Metadata> {
        fstatat(self, name.as_bytes(), AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| metadata_of(&stat))
    }

    // Numbers that the file system may give to another inode are replaced by what a file is recognised by as well as can be.
    fn identified(&self, found: Metadata) -> Metadata {
        if self.abilities().inodes {
            return found;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[found.kind as u8]);
        if found.kind != Kind::Dir {
            hasher.update(&found.size.to_le_bytes()).update(&found.mtime.to_bytes());
        }
        let mut number = [0; 8];
        hasher.finalize_xof().fill(&mut number);
        Metadata { inode: (found.inode.0, u64::from_le_bytes(number)), identifies: false, ..found }
    }

    /// Tells of this directory.
    pub fn own_metadata(&self) -> nix::Result<Metadata> {
        fstat(self).map(|stat| metadata_of(&stat))
    }

    /// Fails if this user may not make names in it.
    pub fn check_is_writable(&self) -> nix::Result<()> {
        faccessat(self, c".", AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS)
    }

    /// Fails with `ENOSPC` or `EDQUOT` if there is no room here for so many bytes, as far as the file system can tell without a
    /// name being made.
    pub fn check_has_room_for(&self, bytes: u64) -> nix::Result<()> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let allocated = openat(self, c".", flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .and_then(|file| fallocate(file, FallocateFlags::empty(), 0, bytes as i64));
        match allocated {
            Err(errno @ (Errno::ENOSPC | Errno::EDQUOT)) => Err(errno),
            _ => Ok(()),
        }
    }

    /// Whether nobody may rename, remove or link a name, or change this directory where none is given: chattr(1)'s `i` and `a`.
    pub fn is_immutable(&self, name: Option<&Name>) -> bool {
        use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
        let (name, flags) = match name {
            Some(name) => (name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW),
            None => (&b""[..], AtFlags::EMPTY_PATH),
        };
        let found = statx(self, name, flags, StatxFlags::empty());
        found.is_ok_and(|found| found.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND))
    }

    /// Whether this directory has an access control list: its own, or one for what is made in it. See acl(5). Where that
    /// can't be told, it may have one.
    pub fn may_have_acl(&self) -> bool {
        let mut names = [0; 4096];
        if lacks("xattrs") {
            return false;
        }
        match rustix::fs::flistxattr(self, &mut names) {
            Ok(length) => names[..length].split(|&byte| byte == 0).any(|name| name.starts_with(ACL)),
            Err(errno) => errno != rustix::io::Errno::OPNOTSUPP,
        }
    }

    /// Sets the permission bits of this directory.
    pub fn set_own_mode(&self, mode: u32) -> nix::Result<()> {
        fault::step()?;
        if !self.abilities().modes {
            return Ok(());
        }
        change_mode(self, mode)?;
        self.has_changed()
    }

    /// Gives a file of this file system its permission bits, where it keeps some.
    pub fn set_file_mode(&self, file: &File, mode: u32) -> nix::Result<()> {
        fault::step()?;
        if self.abilities().modes { change_mode(file, mode) } else { Ok(()) }
    }

    /// Gives a file of this file system its mtime, or the nearest that it keeps, and, if stated, its owner; false when
    /// that can't be given.
    pub fn set_file_metadata(&self, file: &File, mtime: Time, owner: Option<(u32, u32)>) -> io::Result<bool> {
        fault::step()?;
        let given = owner.map_or(Ok(true), |(uid, gid)| owner_given(change_owner(file, uid, gid)))?;
        set_file_mtime(file, self.file_system.mtime_to_set(mtime))?;
        Ok(given)
    }

    /// Sets the mtime of a name, a symlink's own included, or the nearest that the file system keeps.
    pub fn set_mtime(&self, name: &Name, mtime: Time) -> nix::Result<()> {
        if lacks("symlink-times") {
            return Err(Errno::EOPNOTSUPP);
        }
        let flags =
            if lacks("symlink-targets") { UtimensatFlags::FollowSymlink } else { UtimensatFlags::NoFollowSymlink };
        utimensat(self, name.as_bytes(), &TimeSpec::UTIME_OMIT, &time_spec(self.file_system.mtime_to_set(mtime)), flags)
    }

    /// How many mtimes were set of which the file system has kept other ones, since this was asked last.
    pub fn take_inexact_mtimes(&self) -> u64 {
        self.file_system.take_inexact_mtimes()
    }

    /// Sets the owner of this directory.
    pub fn set_own_owner(&self, uid: u32, gid: u32) -> nix::Result<()> {
        fault::step()?;
        change_owner(self, uid, gid)?;
        self.has_changed()
    }

    /// Sets the owner of a symlink, where symlinks have one: a server that follows it would change another file.
    pub fn set_symlink_owner(&self, name: &Name, uid: u32, gid: u32) -> nix::Result<()> {
        fault::step()?;
        if !self.abilities().symlink_metadata || lacks("owners") {
            return Err(Errno::EOPNOTSUPP);
        }
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(self, name.as_bytes(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// The names in this directory, in no order.
    pub fn names(&self) -> nix::Result<Vec<Name>> {
        let mut listing = nix::dir::Dir::openat(self, c".", DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            names.extend(Name::new(entry?.file_name().to_bytes()));
        }
        Ok(names)
    }

    /// Waits until everything written to this directory's file system is on the disk.
    pub fn sync_file_system(&self) -> nix::Result<()> {
        fault::step()?;
        self.file_system.sync()?;
        match syncfs(self) {
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) if !self.abilities().syncs => {}
            other => other?,
        }
        fault::synced();
        Ok(())
    }

    /// Waits until a file of this file system is on the disk, where [`sync_file_system`](Dir::sync_file_system) does not.
    pub fn sync_file(&self, file: &File) -> io::Result<()> {
        if self.abilities().syncs { Ok(()) } else { file.sync_all() }
    }

    /// Has the next [`sync_file_system`](Dir::sync_file_system) wait for what has changed in this directory.
    pub fn has_changed(&self) -> nix::Result<()> {
        self.file_system.has_changed(&self.fd)
    }
}

/// A tree whose directories are kept open for a while, by path.
#[derive(Debug)]
pub struct OpenTree {
    base: Dir,
    open: HashMap<AbsPath, Dir>,
}

// How many directories a tree keeps open; the four of a pull stay well below the usual limit of 1024.
const MOST_OPEN: usize = 128;

impl OpenTree {
    /// A tree with nothing open but its base.
    pub fn new(base: Dir) -> OpenTree {
        OpenTree { base, open: HashMap::new() }
    }

    /// The directory of a client's path; made, with all above it, if it is not there.
    pub fn directory(&mut self, path: &AbsPath) -> nix::Result<Dir> {
        self.directory_by(path, |base| base.open_or_create(path.below_root()))
    }

    /// As [`directory`](OpenTree::directory), opened by the caller's way when it is not open yet.
    pub fn directory_by(&mut self, path: &AbsPath, open: impl FnOnce(&Dir) -> nix::Result<Dir>) -> nix::Result<Dir> {
        if let Some(dir) = self.open.get(path) {
            return Ok(dir.clone());
        }
        let dir = open(&self.base)?;
        if self.open.len() >= MOST_OPEN {
            self.open.clear();
        }
        self.open.insert(path.clone(), dir.clone());
        Ok(dir)
    }

    /// Forgets a directory that is about to go, and everything below it.
    pub fn forget(&mut self, path: &AbsPath) {
        self.open.retain(|open, _| !open.starts_with(path));
    }

    /// Forgets every directory.
    pub fn forget_all(&mut self) {
        self.open.clear();
    }

    /// The tree's own directory.
    pub fn base(&self) -> &Dir {
        &self.base
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn change_mode(fd: impl AsFd, mode: u32) -> nix::Result<()> {
    if lacks("modes") { Err(Errno::EPERM) } else { fchmod(fd, Mode::from_bits_truncate(mode)) }
}

fn change_owner(fd: impl AsFd, uid: u32, gid: u32) -> nix::Result<()> {
    if lacks("owners") { Err(Errno::EINVAL) } else { fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) }
}

/// Tells of an open file.
pub fn file_metadata(file: &File) -> nix::Result<Metadata> {
    fstat(file).map(|stat| metadata_of(&stat))
}

/// Which permission bits an open file has.
pub fn file_mode(file: &File) -> nix::Result<u32> {
    fstat(file).map(|stat| stat.st_mode & 0o7777)
}

/// Takes it for no error that an owner can't be given: one outside the id map of a container (EINVAL), one that the process
/// may not give (EPERM), or any on a file system without owners. The index knows it all the same. False then.
pub fn owner_given(given: nix::Result<()>) -> nix::Result<bool> {
    match given {
        Ok(()) => Ok(true),
        // EACCES is what the server of a network file system may say.
        Err(Errno::EINVAL | Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Makes `to`, which is empty, hold what `from` holds, in the same blocks; false where the file system can't.
pub fn share_blocks(from: &File, to: &File) -> io::Result<bool> {
    fault::step()?;
    Ok(rustix::fs::ioctl_ficlone(to, from).is_ok())
}

/// Makes `to`, which is empty, hold what `from` holds: sharing its blocks where the file system can, else by copying
/// what is not a hole.
pub fn copy_content(from: &File, to: &File) -> io::Result<()> {
    if share_blocks(from, to)? {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    let mut at = 0;
    while let Some(data) = data_after(from, at)? {
        let (mut reading, mut writing) = (from, to);
        reading.seek(io::SeekFrom::Start(data.offset))?;
        writing.seek(io::SeekFrom::Start(data.offset))?;
        io::copy(&mut reading.take(data.length), &mut writing)?;
        at = data.end();
    }
    Ok(())
}

/// The first piece of data in a file at or after an offset; `None` when there is none any more. All of a file is data where
/// the file system does not report holes.
pub fn data_after(file: &File, offset: u64) -> io::Result<Option<Extent>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno as Failure;
    let ask = |from| if lacks("holes") { Err(Failure::INVAL) } else { seek(file, from) };
    let found = ask(SeekFrom::Data(offset)).and_then(|offset| Ok((offset, ask(SeekFrom::Hole(offset))?)));
    let (offset, end) = match found {
        Err(Failure::NXIO) => return Ok(None),
        Err(Failure::INVAL | Failure::OPNOTSUPP | Failure::NOSYS) => match file.metadata()?.len() {
            length if length > offset => (offset, length),
            _ => return Ok(None),
        },
        found => found?,
    };
    Ok(Some(Extent { offset, length: end.saturating_sub(offset) }))
}

// The crate filetime knows no time that `SystemTime` can't hold.
fn set_file_mtime(file: &File, mtime: Time) -> nix::Result<()> {
    futimens(file, &TimeSpec::UTIME_OMIT, &time_spec(mtime))
}

fn time_spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.seconds(), time.nanoseconds().into())
}

fn checked(part: &[u8]) -> nix::Result<Name> {
    Name::new(part).ok_or(Errno::EINVAL)
}

fn metadata_of(stat: &FileStat) -> Metadata {
    let nanoseconds = |exact: i64| if lacks("nanoseconds") { 0 } else { exact };
    let (links, number) = if lacks("inodes") { (1, another_number()) } else { (stat.st_nlink, stat.st_ino) };
    Metadata {
        kind: kind_of(stat.st_mode),
        size: stat.st_size.max(0) as u64,
        // In this unit, whatever the file system's own are: see stat(2).
        bytes_on_disk: stat.st_blocks.max(0) as u64 * 512,
        mtime: Time::new(stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
        // Only whether it changed counts.
        ctime: Time::new(stat.st_ctime, nanoseconds(stat.st_ctime_nsec)).wrapped(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links,
        inode: (stat.st_dev, number),
        identifies: true,
    }
}

// For a test: numbers as of a file system that gives a file a new one whenever it is looked up.
fn another_number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

fn kind_of(mode: u32) -> Kind {
    match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Kind::Dir,
        SFlag::S_IFLNK => Kind::Symlink,
        SFlag::S_IFIFO => Kind::Fifo,
        SFlag::S_IFSOCK => Kind::Socket,
        SFlag::S_IFCHR => Kind::Char,
        SFlag::S_IFBLK => Kind::Block,
        _ => Kind::File,
    }
}
