//! What server and helper say to each other: a greeting, then length-prefixed frames in postcard's encoding.
//!
//! Decoding is validation: a value of one of these types obeys the limits that its documentation states,
//! whoever sent it. `archive-helper(5)` describes the bytes.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod attributes;
mod bytes;
mod digests;
mod restore;
mod stream;

pub use crate::ground::{AbsPath, Extent, MAX_NAME, MAX_PATH, Name, Time, escape, is_unprintable};
pub use attributes::{ACCESS_ACL, Attributes, DEFAULT_ACL, MAX_EXTENTS, MAX_XATTRS, Xattr, is_kept};
pub use bytes::Bytes;
pub use digests::{Changes, Differences, Digests, MAX_DIGESTS};
pub use restore::{Fill, Item, Outcome, Overwrite, Restore};
pub use stream::{
    Chunk, ChunkRequest, Chunks, MAX_AVERAGE, MAX_STREAMS, MIN_AVERAGE, Piece, StreamOutcome, StreamRequest,
    StreamState, Streamed,
};

/// The bytes that begin the helper's output: unprintable, so that no login message is taken for them.
pub const MAGIC: [u8; 8] = [0x00, 0xff, 0x1e, b'A', b'R', b'C', 0x1f, 0xfe];

/// The environment variable that says how many threads of the helper work at a time, from 1 to 16.
pub const THREADS_VARIABLE: &str = "ARCHIVE_HELPER_THREADS";

/// The exact build that both sides must agree on.
pub const VERSION: &str = concat!("archive-helper ", env!("CARGO_PKG_VERSION"), " protocol 10");

/// How many bytes of a login shell's chatter may come before [`MAGIC`].
pub const MAX_CHATTER: usize = 64 * 1024;

/// The largest frame body, in bytes.
pub const MAX_FRAME: usize = 1024 * 1024;

/// How many entries one [`Reply::Entries`] may carry.
pub const MAX_ENTRIES: usize = 4096;

/// How many hash requests may be unanswered at a time.
pub const MAX_HASHES: usize = 4096;

/// The most entries of a directory that are excluded by name, where that was asked for.
pub const MAX_EXCLUDED_NAMED: u64 = 1024;

/// The largest file that is sent whole in a frame, in bytes; larger ones are sent in pieces, or through SFTP.
pub const MAX_BUNDLED: u64 = 128 * 1024;

/// How many contents a helper remembers at most as sent; later ones are sent each time.
pub const MAX_SENT: usize = 1 << 19;

/// After how many seconds without anything to say a helper sends [`Reply::Alive`].
pub const ALIVE_SECONDS: u64 = 10;

/// How far back a compressor looks, as a power of two, in bytes.
pub const PACK_WINDOW: u32 = 22;

/// How many bytes of files may be asked for and not yet have come.
pub const MAX_READING: u64 = 8 * 1024 * 1024;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// Which inode of the client a file with several names has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Inode {
    /// The device number of its file system.
    pub device: u64,
    /// The inode number.
    pub number: u64,
}

/// One listed thing, as `lstat` and `readlink` tell of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawEntry")]
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
    /// Target of a symlink, 1 to [`MAX_PATH`] bytes without NUL; empty for all else.
    pub target: Vec<u8>,
    /// What else there is to know of it, if anything. Holes are those of a file, their data not behind its end.
    pub attributes: Option<Box<Attributes>>,
}

#[derive(Deserialize)]
struct RawEntry {
    name: Name,
    kind: Kind,
    size: u64,
    mtime: Time,
    ctime: i64,
    mode: u32,
    uid: u32,
    gid: u32,
    inode: Option<Inode>,
    device: u64,
    target: Vec<u8>,
    attributes: Option<Box<Attributes>>,
}

impl TryFrom<RawEntry> for Entry {
    type Error = &'static str;

    fn try_from(raw: RawEntry) -> Result<Entry, &'static str> {
        let is_link = raw.kind == Kind::Symlink;
        let is_device = matches!(raw.kind, Kind::Char | Kind::Block);
        if raw.size > i64::MAX as u64 || (raw.kind != Kind::File && raw.size != 0) {
            return Err("a size that cannot be");
        }
        if is_link == raw.target.is_empty() || raw.target.len() > MAX_PATH || raw.target.contains(&0) {
            return Err("a link target that cannot be");
        }
        if raw.mode > 0o7777 || (raw.device != 0 && !is_device) || (raw.inode.is_some() && raw.kind == Kind::Dir) {
            return Err("a mode, device or inode that cannot be");
        }
        let data = raw.attributes.as_ref().and_then(|attributes| attributes.data.as_ref());
        let end = data.and_then(|data| data.last()).map_or(0, Extent::end);
        if data.is_some() && (raw.kind != Kind::File || end > raw.size) {
            return Err("holes that cannot be");
        }
        let RawEntry { name, kind, size, mtime, ctime, mode, uid, gid, inode, device, target, attributes } = raw;
        Ok(Entry { name, kind, size, mtime, ctime, mode, uid, gid, inode, device, target, attributes })
    }
}

/// What a directory's [`Digests`] are together. A change of attributes shows in the ctime, so a directory that is as it
/// was need not be asked for them.
pub type Fingerprint = [u8; 16];

/// The fingerprint of entries that come sorted by name.
pub fn fingerprint<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Fingerprint {
    let mut digests = Digests::default();
    entries.into_iter().for_each(|entry| digests.add(entry));
    digests.fingerprint()
}

/// BLAKE3 of some content, plain or keyed.
pub type Hash = [u8; 32];

/// What the server asks of the helper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Walk these roots. At most once a connection.
    Walk(Walk),
    /// What to do with directories that were announced.
    Verdicts(Vec<Verdict>),
    /// The run's key for [`Proof`](Hashed::proof)s; before the first request that wants one.
    Key(Hash),
    /// Hash these files. At most [`MAX_HASHES`] are under way at a time.
    Hash(Vec<HashRequest>),
    /// Send these small files whole. At most [`MAX_READING`] bytes are under way at a time.
    Read(Vec<ReadRequest>),
    /// Things are going to be put back here. At most once a connection.
    Restore(Restore),
    /// Make these, unless they are files with content. An answer comes for each frame.
    Offer(Vec<Item>),
    /// Content of a file that is wanted, one file at a time. An answer comes for each end.
    Fill(Fill),
    /// Give these directories their metadata, for everything is in them. An answer comes for each frame.
    Finish(Vec<Item>),
    /// Tell of the chunks of a large file, or of parts of one.
    Chunk(ChunkRequest),
    /// Send parts of a large file, or all of it.
    Stream(StreamRequest),
    /// Compress what is sent from now on.
    Pack,
}

/// What to walk, and what to leave out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Walk {
    /// Paths of directories or files; relative ones start at the home directory.
    pub roots: Vec<Vec<u8>>,
    /// Patterns of gitignore(5); a leading slash anchors at `/`.
    pub exclude: Vec<Vec<u8>>,
    /// Leave out what stands beside a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out what stands beside a file of one of these names.
    pub exclude_if_present: Vec<Name>,
    /// Do not enter other file systems.
    pub one_file_system: bool,
    /// The repository's id: a directory whose file `format` holds it is not entered.
    pub repository: String,
    /// Send all entries of every directory: there will be no verdicts.
    pub all: bool,
    /// Name what is excluded, a [`Skipped`] for each of the first [`MAX_EXCLUDED_NAMED`] entries of a directory.
    pub names_excluded: bool,
}

/// The server's answer to one [`Announced`] directory, unless [`Walk::all`] was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The number it was announced by.
    pub directory: u64,
    /// What is wanted of it.
    pub send: Wish,
}

/// What is to be sent of a directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Wish {
    /// Nothing: it is as known.
    Nothing,
    /// All of its entries.
    All,
    /// What is not as these say, at most [`MAX_DIGESTS`]; all of its entries, where that is not less.
    Changes(Digests),
}

/// One file to hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HashRequest {
    /// The server's number for it; comes back in [`Hashed::id`].
    pub id: u64,
    /// The file.
    pub path: AbsPath,
    /// Its size as listed, bytes.
    pub size: u64,
    /// Its mtime as listed.
    pub mtime: Time,
    /// Its owner as listed.
    pub uid: u32,
    /// What is wanted.
    pub wants: Wants,
}

/// What is wanted of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Wants {
    /// Its hash.
    Hash,
    /// Its hash, and the keyed one.
    Proof,
    /// A sample of it.
    Sample {
        /// And one of this file, if it has the same size.
        other: Option<AbsPath>,
    },
}

/// One small file to send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadRequest {
    /// The server's number for it; comes back in [`ReadAnswer::id`].
    pub id: u64,
    /// The file.
    pub path: AbsPath,
    /// Its size as listed, at most [`MAX_BUNDLED`] bytes.
    pub size: u64,
    /// Its mtime as listed.
    pub mtime: Time,
    /// Its owner as listed.
    pub uid: u32,
    /// Do not send it when this connection has sent the same content before.
    pub once: bool,
}

/// What the helper tells the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// One for each root, in the order of [`Walk::roots`], before anything else of a walk.
    Root(Root),
    /// A directory was listed; its entries wait for a [`Verdict`], unless [`Walk::all`] was asked for. A directory is
    /// announced after its parent.
    Directory(Announced),
    /// Entries of a directory that the server asked for, in ascending order of names.
    Entries(Entries),
    /// Something could not be listed.
    Problem(Problem),
    /// A file was left out, or a directory was not entered: it counts as empty, except for the file that caused it.
    Skipped(Skipped),
    /// The walk is over and every wanted entry was sent.
    End,
    /// Answers to hash requests, in any order.
    Hashed(Vec<Hashed>),
    /// Answers to read requests, in any order.
    Read(Vec<ReadAnswer>),
    /// Nothing else was to be said for [`ALIVE_SECONDS`]: the helper is at work, or waits.
    Alive,
    /// Whether things can be put back: the system's error number if not.
    Restoring(Option<i32>),
    /// What became of items that were offered, filled or finished, in their order.
    Outcomes(Vec<Outcome>),
    /// Some or all chunks of what was asked for, in order.
    Chunks(Chunks),
    /// The next bytes of a file, in the order of the request.
    Piece(Piece),
    /// Everything that was wanted of a file was sent, or why not.
    Streamed(Streamed),
    /// The next bytes of a Zstandard stream of frames.
    Packed(Bytes),
    /// What is new in a directory of which the server has digests.
    Changes(Changes),
}

/// A root, as the helper found it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Root {
    /// It is there. `entry` describes what the path leads to, a symlink followed; its name is the path's
    /// last part, `None` for `/`.
    Found {
        /// The absolute path.
        path: AbsPath,
        /// What it is; `None` for `/`.
        entry: Option<Entry>,
        /// A directory without entries, or a file that is not read because the kernel makes its content up.
        empty: bool,
    },
    /// There is nothing of that name.
    Missing {
        /// The absolute path.
        path: AbsPath,
    },
    /// It can't be read.
    Unreadable {
        /// The absolute path.
        path: AbsPath,
        /// The system's error number.
        errno: i32,
    },
    /// It is no path that could be pulled: too long, or with `..` in it.
    Invalid,
}

/// Whether a file system is mounted on a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mounted {
    /// None is.
    #[default]
    Nothing,
    /// One whose files last.
    Lasting,
    /// One that comes and goes: tmpfs, overlay, squashfs, or what a desktop session has in FUSE.
    Passing,
}

/// A listed directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Announced {
    /// The helper's number for it: counts up from 0 in the order of announcement.
    pub directory: u64,
    /// The directory.
    pub path: AbsPath,
    /// Its inode number: it may have had another path before.
    pub inode: u64,
    /// Over its entries.
    pub fingerprint: Fingerprint,
    /// How many entries it has.
    pub entries: u64,
    /// False when some entries could not be read: then a missing name says nothing.
    pub complete: bool,
    /// What is mounted on it.
    pub mounted: Mounted,
    /// How many more entries there are that an exclude matches, or that are the helper's own directory.
    pub excluded: u64,
}

/// Some or all entries of a directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entries {
    /// The number it was announced by.
    pub directory: u64,
    /// At most [`MAX_ENTRIES`].
    pub entries: Vec<Entry>,
    /// True on the directory's last frame.
    pub last: bool,
    /// In which order to read them: places in `entries`, each once, by inode numbers. Empty when they come in that order.
    pub order: Vec<u16>,
}

/// A path that could not be listed, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Where.
    pub path: AbsPath,
    /// The system's error number.
    pub errno: i32,
}

/// A directory that was not entered, or a file that was left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// The directory, or the file.
    pub path: AbsPath,
    /// Why.
    pub reason: SkipReason,
}

/// Why a directory was not entered, or an entry was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SkipReason {
    /// The kernel makes its content up: proc, sysfs, cgroup, devpts and their like.
    KernelFileSystem,
    /// It lies on another file system than its root.
    OtherFileSystem,
    /// It holds a valid `CACHEDIR.TAG`.
    Cache,
    /// It holds a file of an excluding name.
    Marker,
    /// It is the repository that this pull writes to.
    Repository,
    /// An exclude matches it, or it is the helper's own directory.
    Excluded,
}

/// What became of a hash request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hashed {
    /// [`HashRequest::id`].
    pub id: u64,
    /// What came of it.
    pub outcome: HashOutcome,
}

/// What came of a hash request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HashOutcome {
    /// The file was read to its end, and size, mtime and owner were as listed before and after.
    Done {
        /// Plain BLAKE3.
        hash: Hash,
        /// BLAKE3 under the run's key, if it was wanted: proof that the whole content is there.
        proof: Option<Hash>,
    },
    /// Size, mtime, owner or kind are no longer as listed.
    Changed,
    /// It is gone.
    Vanished,
    /// It can't be read: the system's error number.
    Failed(i32),
    /// A sample was wanted, and size, mtime and owner were as listed before and after.
    Sampled {
        /// XXH3-64 of four pieces of [`SAMPLE_PIECE`] bytes, or as many as there are: the first starts at the beginning, the last
        /// ends at the end, and the others are as far apart.
        sample: u64,
        /// That of the other file; `None` when it can't be read or has another size.
        other: Option<u64>,
    },
}

/// How long each piece of a sample is, in bytes.
pub const SAMPLE_PIECE: u64 = 4096;

/// What became of a read request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadAnswer {
    /// [`ReadRequest::id`].
    pub id: u64,
    /// What came of it.
    pub outcome: ReadOutcome,
}

/// What came of a read request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReadOutcome {
    /// All of it; size, mtime and owner were as listed before and after.
    Content(Bytes),
    /// The content has this plain BLAKE3, and was sent before, for a request that wanted it once.
    Sent(Hash),
    /// Size, mtime, owner or kind are no longer as listed.
    Changed,
    /// It is gone.
    Vanished,
    /// It can't be read: the system's error number.
    Failed(i32),
}

/// Writes the greeting: [`MAGIC`], one byte of length, [`VERSION`].
pub fn write_greeting(output: &mut impl Write) -> io::Result<()> {
    output.write_all(&MAGIC)?;
    output.write_all(&[VERSION.len() as u8])?;
    output.write_all(VERSION.as_bytes())?;
    output.flush()
}

/// Writes one frame: the body's length as a little-endian `u32`, then the body.
pub fn write_frame<T: Serialize>(output: &mut impl Write, message: &T) -> io::Result<()> {
    output.write_all(&encode(message, Vec::new())?)
}

/// Encodes one frame, in the memory of a vector that is not needed any more. A message that is too large is
/// `InvalidInput`.
pub fn encode<T: Serialize>(message: &T, mut frame: Vec<u8>) -> io::Result<Vec<u8>> {
    frame.clear();
    frame.extend_from_slice(&[0; 4]);
    let mut frame = postcard::to_extend(message, frame).map_err(io::Error::other)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the frame would be too large"));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Reads one frame; `None` when the stream ends before it. Bad frames are `InvalidData`.
pub fn read_frame<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<Option<T>> {
    read_frame_into(input, &mut Vec::new())
}

/// As [`read_frame`], by way of memory that is kept for the next one.
pub fn read_frame_into<T: DeserializeOwned>(input: &mut impl Read, memory: &mut Vec<u8>) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    if input.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut length[1..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(invalid("a frame is too large"));
    }
    if memory.len() < length {
        memory.resize(length, 0);
    }
    let body = &mut memory[..length];
    input.read_exact(body)?;
    decode(body).map(Some)
}

/// Decodes a frame's body, all of it.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(invalid("a frame is longer than its message")),
        Err(_) => Err(invalid("a frame can't be decoded")),
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
