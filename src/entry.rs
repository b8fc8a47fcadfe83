//! Listed things: what a client's directory holds, and what the index remembers of it.

use std::io::{self, Read};

use archive_helper::protocol::MAX_DIGESTS;

use crate::path::Name;

#[cfg(test)]
pub(crate) mod testing;

pub use archive_helper::protocol::{Attributes, Digests, Entry, Extent, Fingerprint, Hash, Inode, Kind, Time, Xattr};

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

/// The longest target of a symlink, in bytes.
pub const MAX_TARGET_BYTES: usize = 4095;

/// How many bytes the names and values of an entry's extended attributes may have together.
pub const MAX_XATTR_BYTES: usize = 128 * 1024;

/// How many pieces of data a file with holes may have.
pub const MAX_EXTENTS: usize = 4096;

/// Refuses an entry that no client can have listed. It says what is impossible about it.
pub fn check(entry: &Entry) -> Result<(), &'static str> {
    let is_link = entry.kind == Kind::Symlink;
    let is_device = matches!(entry.kind, Kind::Char | Kind::Block);
    if entry.size > i64::MAX as u64 || (entry.kind != Kind::File && entry.size != 0) {
        return Err("size");
    }
    if is_link == entry.target.is_empty() || entry.target.len() > MAX_TARGET_BYTES || entry.target.contains(&0) {
        return Err("link target");
    }
    if entry.mode > 0o7777 || (entry.device != 0 && !is_device) || (entry.inode.is_some() && entry.kind == Kind::Dir) {
        return Err("mode, device or inode");
    }
    let Some(attributes) = &entry.attributes else { return Ok(()) };
    let end = attributes.data.iter().flatten().last().map_or(0, Extent::end);
    if attributes.data.is_some() && (entry.kind != Kind::File || end > entry.size) {
        return Err("holes");
    }
    check_attributes(attributes)
}

fn check_attributes(Attributes { xattrs, data }: &Attributes) -> Result<(), &'static str> {
    let bytes: usize = xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
    let ascend = xattrs.windows(2).all(|pair| pair[0].name < pair[1].name);
    if !ascend || bytes > MAX_XATTR_BYTES || !xattrs.iter().all(|xattr| is_kept(&xattr.name)) {
        return Err("extended attributes");
    }
    let extents = data.as_deref().unwrap_or(&[]);
    let apart = extents.windows(2).all(|pair| pair[0].end() < pair[1].offset);
    if extents.len() > MAX_EXTENTS || !apart || extents.iter().any(|extent| extent.length == 0) {
        return Err("holes");
    }
    if xattrs.is_empty() && data.is_none() { Err("attributes") } else { Ok(()) }
}

// True for the extended attributes that a backup keeps: those of users, access control lists, file capabilities, and what
// only root sees.
fn is_kept(name: &[u8]) -> bool {
    let below = |space: &[u8]| name.len() > space.len() && name.starts_with(space);
    let is_named =
        [&b"security.capability"[..], b"system.posix_acl_access", b"system.posix_acl_default"].contains(&name);
    (is_named || below(b"user.") || below(b"trusted.")) && name.len() <= 255 && !name.contains(&0)
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
