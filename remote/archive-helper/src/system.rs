//! What the helper asks of the operating system. Nothing else calls it, so another one's edition goes here.
//!
//! Linux of any age: what only newer kernels have (`openat2`) has its older form beside it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::buffer::spare_capacity;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat};
use rustix::process::{self, Resource, Rlimit};

use crate::protocol::{AbsPath, Entry, Extent, Inode, Kind, MAX_PATH, Name, Time};

pub mod folder;
mod mounted;
mod xattrs;

pub use xattrs::read_xattrs;

/// An error number of the system.
pub type Errno = rustix::io::Errno;

// How low the helper's priority is: 0 is everybody's, 19 the lowest.
const NICENESS: i32 = 10;

// The unit in which `stat` counts a file's blocks, whatever the file system's own are.
const BLOCK: u64 = 512;

pub(super) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
// Opens nothing that would block or become a controlling terminal, nor a symlink.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

pub(super) const BELOW: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Lowers the process's priority, and lets it open as many files as it may. What fails is left as it is.
pub fn be_modest() {
    let _ = process::nice(NICENESS);
    let limit = process::getrlimit(Resource::Nofile);
    let _ = process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// What `stat` tells of something.
pub struct Metadata {
    /// What it is; `None` if it is nothing that has a name here.
    pub kind: Option<Kind>,
    /// Bytes, whatever that means for this kind.
    pub size: u64,
    /// Time of the last change of content.
    pub mtime: Time,
    /// The device number of the file system that it is on.
    pub device: u64,
    ctime: i64,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    gid: u32,
    links: u64,
    inode: u64,
    special: u64,
    blocks: u64,
}

impl Metadata {
    /// Of what `path` leads to, symlinks followed.
    pub fn of(path: &AbsPath) -> Result<Metadata, Errno> {
        fs::stat(path.as_bytes()).map(Metadata::from)
    }

    /// Of what is open.
    pub fn of_open(file: impl AsFd) -> Result<Metadata, Errno> {
        fs::fstat(file).map(Metadata::from)
    }

    /// As an entry of this name and kind; `target` is that of a symlink.
    pub fn entry(&self, name: Name, kind: Kind, target: Vec<u8>) -> Entry {
        let is_file = kind == Kind::File;
        let is_device = matches!(kind, Kind::Char | Kind::Block);
        Entry {
            name,
            kind,
            size: if is_file { self.size } else { 0 },
            mtime: self.mtime,
            ctime: self.ctime,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            inode: (kind != Kind::Dir && self.links > 1).then_some(Inode { device: self.device, number: self.inode }),
            device: if is_device { self.special } else { 0 },
            target,
            attributes: None,
        }
    }

    /// True for two names of one inode.
    pub fn is_same_inode(&self, other: &Metadata) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// True when it belongs to these; the highest number stands for nobody in particular.
    pub fn has_owner(&self, uid: u32, gid: u32) -> bool {
        (uid == u32::MAX || uid == self.uid) && (gid == u32::MAX || gid == self.gid)
    }

    /// True for a regular file that has still this size, mtime and owner.
    pub fn is_file_as_listed(&self, size: u64, mtime: Time, uid: u32) -> bool {
        self.kind == Some(Kind::File) && (self.size, self.mtime, self.uid) == (size, mtime, uid)
    }

    /// Number of a character or block device.
    pub fn special(&self) -> u64 {
        self.special
    }

    /// True when a file takes less room than it has bytes.
    pub fn may_have_holes(&self) -> bool {
        self.kind == Some(Kind::File) && self.blocks.saturating_mul(BLOCK) < self.size
    }
}

impl From<Stat> for Metadata {
    // The types of the fields differ by machine.
    #[allow(clippy::unnecessary_cast)]
    fn from(stat: Stat) -> Metadata {
        Metadata {
            kind: kind_of(FileType::from_raw_mode(stat.st_mode)),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: Time::new(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            // Only whether it changed counts.
            ctime: Time::new(stat.st_ctime as i64, stat.st_ctime_nsec as i64).wrapped(),
            mode: (stat.st_mode & 0o7777) as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: stat.st_nlink as u64,
            inode: stat.st_ino as u64,
            device: stat.st_dev as u64,
            special: stat.st_rdev as u64,
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        }
    }
}

// Reads until `buffer`, to which `read` adds behind so many bytes that are read, has got its length. No memory is written
// that is about to be overwritten.
fn fill(
    buffer: &mut Vec<u8>,
    length: usize,
    read: impl Fn(&mut Vec<u8>, usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let start = buffer.len();
    buffer.reserve_exact(length);
    while buffer.len() < start + length {
        let filled = buffer.len() - start;
        match read(buffer, filled) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    buffer.truncate(start + length);
    Ok(buffer.len() - start)
}

fn kind_of(file_type: FileType) -> Option<Kind> {
    match file_type {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Dir),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket => Some(Kind::Socket),
        FileType::CharacterDevice => Some(Kind::Char),
        FileType::BlockDevice => Some(Kind::Block),
        FileType::Unknown => None,
    }
}

/// A name in a directory, as reading the directory tells of it.
pub struct Listed<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The number of its inode.
    pub inode: u64,
    /// What it is, if the file system says so at once.
    pub kind: Option<Kind>,
}

/// An open directory.
pub struct Directory(OwnedFd);

impl Directory {
    /// Opens what `path` leads to, symlinks followed.
    pub fn open(path: &AbsPath) -> Result<Directory, Errno> {
        quietly(DIRECTORY, |flags| fs::open(path.as_bytes(), flags, Mode::empty())).map(Directory)
    }

    /// Opens a directory below this one; no part of `relative` may be a symlink.
    pub fn open_below(&self, relative: &[u8]) -> Result<Directory, Errno> {
        quietly(DIRECTORY, |flags| self.below(relative, flags)).map(Directory)
    }

    /// Its inode number.
    pub fn inode(&self) -> Result<u64, Errno> {
        fs::fstat(&self.0).map(|stat| stat.st_ino)
    }

    /// Whether the file system of a directory below this one is made up by the kernel. Mounts nothing.
    pub fn is_made_up_below(&self, relative: &[u8]) -> Result<bool, Errno> {
        let directory = self.below(relative, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
        Ok(is_made_up(&directory))
    }

    /// Whether the kernel makes up the content of a file in this directory, on which a file of another file system may be
    /// mounted.
    pub fn has_made_up(&self, name: &[u8]) -> bool {
        let file = self.below(name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC);
        file.is_ok_and(|file| is_made_up(&file))
    }

    /// Whether the kernel makes this directory's file system up.
    pub fn is_made_up(&self) -> bool {
        is_made_up(&self.0)
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> Result<bool, Errno> {
        let mut buffer = Vec::with_capacity(4096);
        let mut entries = RawDir::new(&self.0, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            if !is_dots(entry?.file_name().to_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hands the names to `each`, in the file system's order. On an error it has handed over some of them.
    pub fn read(&self, buffer: &mut [MaybeUninit<u8>], mut each: impl FnMut(Listed<'_>)) -> Result<(), Errno> {
        let mut entries = RawDir::new(&self.0, buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !is_dots(name) {
                each(Listed { name, inode: entry.ino(), kind: kind_of(entry.file_type()) });
            }
        }
        Ok(())
    }

    /// What `lstat` tells of a name. Mounts nothing.
    pub fn metadata(&self, name: &[u8]) -> Result<Metadata, Errno> {
        fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT).map(Metadata::from)
    }

    /// The target of a symlink.
    pub fn read_link(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut buffer = [MaybeUninit::uninit(); MAX_PATH + 1];
        let (target, _) = fs::readlinkat_raw(&self.0, name, &mut buffer)?;
        match target.len() {
            0 => Err(Errno::INVAL),
            _ if target.contains(&0) => Err(Errno::INVAL),
            length if length > MAX_PATH => Err(Errno::NAMETOOLONG),
            _ => Ok(target.to_vec()),
        }
    }

    /// The first `limit` bytes of a regular file; `None` if it is none or can't be read.
    pub fn head(&self, name: &[u8], limit: usize) -> Option<Vec<u8>> {
        let file = self.open_file(name).ok()?;
        if file.metadata().ok()?.kind != Some(Kind::File) {
            return None;
        }
        let mut bytes = vec![0; limit];
        let length = file.read(&mut bytes).ok()?;
        bytes.truncate(length);
        Some(bytes)
    }

    /// Opens a file that this directory has, unless it is a symlink. Does not wait for a fifo's writer.
    pub fn open_file(&self, name: &[u8]) -> Result<File, Errno> {
        quietly(FILE, |flags| fs::openat(&self.0, name, flags, Mode::empty())).map(File)
    }

    /// Makes it the process's own directory, so that a name alone leads into it: the kernel has no call that lists the
    /// attributes of a name in a directory before version 6.13.
    pub fn enter(&self) -> Result<(), Errno> {
        process::fchdir(&self.0)
    }

    fn below(&self, relative: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        // A kernel before 5.6, or a sandbox that forbids what it does not know.
        static MISSING: AtomicBool = AtomicBool::new(false);
        if MISSING.load(Ordering::Relaxed) {
            return self.below_by_parts(relative, flags);
        }
        match fs::openat2(&self.0, relative, flags, Mode::empty(), BELOW) {
            // More likely it is the flag that is not permitted: the caller tries without.
            Err(Errno::PERM) if flags.contains(OFlags::NOATIME) => Err(Errno::PERM),
            Err(Errno::NOSYS | Errno::PERM) => {
                let opened = self.below_by_parts(relative, flags)?;
                MISSING.store(true, Ordering::Relaxed);
                Ok(opened)
            }
            result => result,
        }
    }

    fn below_by_parts(&self, relative: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW;
        let open = |parent: Option<&OwnedFd>, part: &[u8], flags| {
            fs::openat(parent.unwrap_or(&self.0), part, flags, Mode::empty())
        };
        let mut parts = relative.split(|&byte| byte == b'/');
        let last = parts.next_back().ok_or(Errno::NOENT)?;
        let mut parent = None;
        for part in parts {
            let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            parent = Some(open(parent.as_ref(), part, through)?);
        }
        open(parent.as_ref(), last, flags)
    }
}

/// A file that is open for reading.
pub struct File(OwnedFd);

impl File {
    /// Opens what `path` names, unless it is a symlink. Does not wait for a fifo's writer.
    pub fn open(path: &AbsPath) -> Result<File, Errno> {
        quietly(FILE, |flags| fs::openat(CWD, path.as_bytes(), flags, Mode::empty())).map(File)
    }

    /// Opens what `path` leads to, symlinks followed.
    pub fn open_followed(path: &AbsPath) -> Result<File, Errno> {
        let flags = FILE.difference(OFlags::NOFOLLOW);
        quietly(flags, |flags| fs::openat(CWD, path.as_bytes(), flags, Mode::empty())).map(File)
    }

    /// What `fstat` tells.
    pub fn metadata(&self) -> Result<Metadata, Errno> {
        fs::fstat(&self.0).map(Metadata::from)
    }

    /// Whether the kernel makes its content up.
    pub fn is_made_up(&self) -> bool {
        is_made_up(&self.0)
    }

    /// Fills `buffer`, unless the file ends before; how much was read.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::read(&self.0, &mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(filled)
    }

    /// Reads from this offset on, maybe less than `buffer` has room for; how much, 0 at the end.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        rustix::io::retry_on_intr(|| rustix::io::pread(&self.0, &mut *buffer, offset))
    }
}

impl File {
    /// Adds the next so many bytes to `buffer`, or less if the file ends before; how many.
    pub fn read_onto(&self, buffer: &mut Vec<u8>, length: usize) -> Result<usize, Errno> {
        fill(buffer, length, |buffer, _| rustix::io::read(&self.0, spare_capacity(buffer)))
    }

    /// As [`read_onto`](File::read_onto), from this offset on.
    pub fn read_onto_at(&self, buffer: &mut Vec<u8>, length: usize, offset: u64) -> Result<usize, Errno> {
        let read =
            |buffer: &mut Vec<u8>, filled| rustix::io::pread(&self.0, spare_capacity(buffer), offset + filled as u64);
        fill(buffer, length, read)
    }

    /// The first piece of data at or after `offset`; `None` when there is none any more.
    pub fn data_after(&self, offset: u64) -> Result<Option<Extent>, Errno> {
        let offset = match fs::seek(&self.0, SeekFrom::Data(offset)) {
            Err(Errno::NXIO) => return Ok(None),
            found => found?,
        };
        let end = fs::seek(&self.0, SeekFrom::Hole(offset))?;
        Ok(Some(Extent { offset, length: end.saturating_sub(offset) }))
    }
}

// Opens without leaving a trace in the access time, where that is allowed.
fn quietly(flags: OFlags, open: impl Fn(OFlags) -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        result => result,
    }
}

fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

fn is_made_up(file: &OwnedFd) -> bool {
    // The field's type differs by machine; the numbers have 32 bits.
    fs::fstatfs(file).is_ok_and(|system| MADE_UP.contains(&(system.f_type as u32)))
}

// The `f_type`s of file systems that hold no files of anybody; see statfs(2).
const MADE_UP: [u32; 24] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x6265_6570, // configfs
    0x1980_0202, // mqueue
    0x9584_58f6, // hugetlbfs
    0x6573_5543, // fusectl
    0x4249_4e4d, // binfmt_misc
    0x6759_6969, // rpc_pipefs
    0x6e73_6673, // nsfs
    0x0187,      // autofs with nothing mounted
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x5a3c_69f0, // apparmorfs
    0x6c6f_6f70, // binderfs
    0x0765_5821, // resctrl
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn old_kernels_open_below_without_following() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", temp.path().join("link")).unwrap();
        let path = AbsPath::new(temp.path().canonicalize().unwrap().as_os_str().as_bytes()).unwrap();
        let directory = Directory::open(&path).unwrap();
        for relative in [b"." as &[u8], b"a", b"a/b"] {
            assert!(directory.below(relative, DIRECTORY).is_ok());
            assert!(directory.below_by_parts(relative, DIRECTORY).is_ok());
        }
        for relative in [b"link" as &[u8], b"link/b"] {
            assert!(directory.below(relative, DIRECTORY).is_err());
            assert!(directory.below_by_parts(relative, DIRECTORY).is_err());
        }
    }

    #[test]
    fn proc_is_made_up_and_a_disk_is_not() {
        let made_up = |path: &str| Directory::open(&AbsPath::new(path).unwrap()).unwrap().is_made_up();
        assert!(made_up("/proc"));
        assert!(!made_up("/etc"));
    }
}
