//! The system calls that a walk is made of, and that other systems than Linux have under other names.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::protocol::{Entry, Inode, Kind, Name};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a root, following symlinks: the user named it.
pub fn open_root(path: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
}

/// Opens a directory below a root, following none: `path` is relative, empty for the root itself.
pub fn open_below(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    static NO_OPENAT2: AtomicBool = AtomicBool::new(false);
    let path = if path.is_empty() { b"." } else { path };
    if !NO_OPENAT2.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&root, path, DIRECTORY, Mode::empty(), resolve) {
            // An older kernel, or the system call filter of a container.
            Err(Errno::NOSYS | Errno::PERM) => NO_OPENAT2.store(true, Ordering::Relaxed),
            other => return other,
        }
    }
    rustix::fs::openat(&root, path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens a file to hash: it must not block on a fifo, and must not follow a link.
pub fn open_file(path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// Calls `each` with every name in a directory but `.` and `..`.
pub fn list(dir: impl AsFd, buffer: &mut Vec<u8>, mut each: impl FnMut(&CStr)) -> Result<(), Errno> {
    const SIZE: usize = 64 * 1024;
    buffer.reserve(SIZE);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        match entry?.file_name() {
            name if name == c"." || name == c".." => {}
            name => each(name),
        }
    }
    Ok(())
}

/// What `statx` tells of a name in a directory; `follow` resolves a symlink.
pub fn stat(dir: impl AsFd, name: &CStr, follow: bool) -> Result<Statx, Errno> {
    let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)
}

/// What `statx` tells of a path.
pub fn stat_path(path: &[u8]) -> Result<Statx, Errno> {
    rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
}

/// The target of a symlink.
pub fn read_link(dir: impl AsFd, name: &CStr) -> Result<Vec<u8>, Errno> {
    rustix::fs::readlinkat(dir, name, Vec::new()).map(|target| target.into_bytes())
}

/// The device that something lies on.
pub fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// The entry that a `statx` describes.
pub fn entry(name: Name, stat: &Statx, target: Vec<u8>) -> Entry {
    let kind = kind(stat);
    let is_device = matches!(kind, Kind::Char | Kind::Block);
    let has_links = kind == Kind::File && stat.stx_nlink > 1;
    Entry {
        name,
        kind,
        size: if kind == Kind::File { stat.stx_size } else { 0 },
        mtime: nanoseconds(&stat.stx_mtime),
        ctime: nanoseconds(&stat.stx_ctime),
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        inode: has_links.then(|| Inode { device: device(stat), number: stat.stx_ino }),
        device: if is_device { rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor) } else { 0 },
        target,
    }
}

/// A time in nanoseconds since 1970; the years that an `i64` has no room for, before 1677 and after 2262, are cut off.
pub fn nanoseconds(time: &rustix::fs::StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}

/// What a `statx` describes.
pub fn kind(stat: &Statx) -> Kind {
    use rustix::fs::FileType;
    match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::Char,
        FileType::BlockDevice => Kind::Block,
        _ => Kind::File,
    }
}

/// True for file systems whose content the kernel makes up (the numbers are those of linux/magic.h).
pub fn is_kernel_file_system(dir: impl AsFd) -> bool {
    const MADE_UP: [u32; 19] = [
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
        0xf97c_ff8c, // selinuxfs
    ];
    rustix::fs::fstatfs(dir).is_ok_and(|found| MADE_UP.contains(&(found.f_type as u32)) || found.f_type as u32 == 0x0187)
}
