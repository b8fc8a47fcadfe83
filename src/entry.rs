//! Listed things: what a client's directory holds, and what the index remembers of it.

use std::io::{self, Read};

pub use archive_helper::ground::{Extent, Time};

use crate::path::Name;

mod attributes;
mod digests;
#[cfg(test)]
pub(crate) mod testing;

pub use attributes::{Attributes, Xattr};
#[cfg(test)]
pub(crate) use attributes::{MAX_EXTENTS, MAX_XATTR_BYTES};
pub use digests::{Differences, Digests, Fingerprint};

/// The longest target of a symlink, in bytes.
pub const MAX_TARGET_BYTES: usize = 4095;

/// How many digests are kept of a directory: of a larger one, a client is asked for all entries.
pub const MAX_DIGESTS: usize = 16 * 1024;

/// BLAKE3 of some content, plain or keyed.
pub type Hash = [u8; 32];

/// What an entry is. The numbers are those of the index, of the journal and of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// A regular file.
    File = 0,
    /// A directory.
    Dir = 1,
    /// A symbolic link.
    Symlink = 2,
    /// A named pipe.
    Fifo = 3,
    /// A socket.
    Socket = 4,
    /// A character device.
    Char = 5,
    /// A block device.
    Block = 6,
}

impl Kind {
    const ALL: [Kind; 7] = [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::Char, Kind::Block];

    /// The kind that a number stands for.
    pub fn with_number(number: u32) -> Option<Kind> {
        Kind::ALL.get(number as usize).copied()
    }

    /// The number that stands for it.
    pub fn number(self) -> u32 {
        self as u32
    }
}

/// Which inode of the client a file with several names has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inode {
    /// The device number of its file system.
    pub device: u64,
    /// The inode number.
    pub number: u64,
}

/// One listed thing, as `lstat` and `readlink` report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in its directory.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file, at most `i64::MAX`; 0 for all else.
    pub size: u64,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Time of the last change of the inode, nanoseconds since 1970 UTC.
    pub ctime: i64,
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Its inode, when it is no directory and has more than one link.
    pub inode: Option<Inode>,
    /// Number of a character or block device, 0 for all else.
    pub device: u64,
    /// Target of a symlink, 1 to [`MAX_TARGET_BYTES`] bytes without NUL; empty for all else.
    pub target: Vec<u8>,
    /// What else there is to know of it, if anything. Holes are those of a file, their data not behind its end.
    pub attributes: Option<Box<Attributes>>,
}

impl Entry {
    /// False for what no client can have listed: some limit of its fields does not hold.
    pub fn is_possible(&self) -> bool {
        let is_file = self.kind == Kind::File;
        let has_target = (1..=MAX_TARGET_BYTES).contains(&self.target.len()) && !self.target.contains(&0);
        let is_device = matches!(self.kind, Kind::Char | Kind::Block);
        let data = self.attributes.as_ref().and_then(|attributes| attributes.data.as_ref());
        let data_end = data.and_then(|data| data.last()).map_or(0, Extent::end);
        self.size <= i64::MAX as u64
            && (is_file || self.size == 0)
            && if self.kind == Kind::Symlink { has_target } else { self.target.is_empty() }
            && self.mode <= 0o7777
            && (is_device || self.device == 0)
            && (self.kind != Kind::Dir || self.inode.is_none())
            && (data.is_none() || is_file && data_end <= self.size)
            && self.attributes.as_ref().is_none_or(|attributes| attributes.is_possible())
    }
}

/// Flags of a version.
pub mod flags {
    /// It kept changing while it was read: this content may never have existed as a whole.
    pub const INCONSISTENT: u32 = 1;
    /// The last run could not read it, so this is an older state.
    pub const UNREADABLE: u32 = 2;
    /// Made by `index rebuild` from what is on disk: only content and name are certain.
    pub const REBUILT: u32 = 4;
}

/// What a directory's entries are together, and what each of them is, unless they are many.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Of all.
    pub fingerprint: Fingerprint,
    /// At most [`MAX_DIGESTS`].
    pub digests: Option<Digests>,
}

impl From<Digests> for Listed {
    fn from(digests: Digests) -> Listed {
        let fingerprint = digests.fingerprint();
        Listed { fingerprint, digests: Some(digests).filter(|digests| digests.len() <= MAX_DIGESTS) }
    }
}

/// A directory's number in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirectoryId(pub i64);

/// One entry as it was from one run until another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its number in the index.
    pub id: i64,
    /// The directory it is in.
    pub directory: DirectoryId,
    /// What was listed.
    pub entry: Entry,
    /// BLAKE3 of a file's content.
    pub hash: Option<Hash>,
    /// The run that found it.
    pub from_run: i64,
    /// The run that found it gone or replaced; `None` while it is current.
    pub until_run: Option<i64>,
    /// Its name in the archive, when it is there.
    pub archive_name: Option<Name>,
    /// See [`flags`].
    pub flags: u32,
    /// The version whose plain file is this one's, too: of the same name, content and mtime. `None` when it has its own,
    /// or none.
    pub relies_on: Option<i64>,
}

impl Version {
    /// True when this flag is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// True when the content may not be what was listed, whatever size and times say.
    pub fn is_uncertain(&self) -> bool {
        self.has(flags::INCONSISTENT | flags::REBUILT)
    }
}

/// The permission bits that a plain file in the trees gets: what the client said, without setuid, setgid and
/// sticky, and always readable and writable by its owner.
pub fn mode_on_disk(entry: &Entry) -> u32 {
    let least = if entry.kind == Kind::Dir { 0o700 } else { 0o600 };
    entry.mode & 0o777 | least
}

/// True for kinds that have a place in the trees; the others are in the index only.
pub fn is_on_disk(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::Dir | Kind::Symlink)
}

/// The word for a kind in messages and JSON.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::Char => "char",
        Kind::Block => "block",
    }
}

/// A hash as 64 hexadecimal digits.
pub fn hash_hex(hash: &Hash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

/// A directory of which nothing is known but its name.
pub fn unknown_directory(name: Name) -> Entry {
    let (kind, mode, target, attributes, inode, mtime) = (Kind::Dir, 0o700, Vec::new(), None, None, Time::default());
    Entry { name, kind, size: 0, mtime, ctime: 0, mode, uid: 0, gid: 0, inode, device: 0, target, attributes }
}

/// BLAKE3 of all that there is to read, by a hasher that is plain or has a key.
pub fn hash_content(mut content: impl Read, mut hasher: blake3::Hasher) -> io::Result<Hash> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(*hasher.finalize().as_bytes()),
            count => hasher.update(&buffer[..count]),
        };
    }
}
