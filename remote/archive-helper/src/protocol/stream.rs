//! Large files: what the server asks of them, and what it is told.

use serde::{Deserialize, Serialize};

use super::{AbsPath, Bytes, Extent, HashOutcome, Time};

/// The shortest average length of chunks, in bytes; always a power of two.
pub const MIN_AVERAGE: u32 = 512;

/// The longest average length of chunks, in bytes.
pub const MAX_AVERAGE: u32 = 4 * 1024 * 1024;

/// How many requests for chunks, and for parts of files, may wait at a time.
pub const MAX_STREAMS: usize = 1024;

/// A large file of whose chunks the server wants to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkRequest {
    /// The server's number for the request; comes back in [`Chunks::id`].
    pub id: u64,
    /// The file.
    pub path: AbsPath,
    /// Its size as listed, bytes.
    pub size: u64,
    /// Its mtime as listed.
    pub mtime: Time,
    /// Its owner as listed.
    pub uid: u32,
    /// The average length of chunks, [`MIN_AVERAGE`] to [`MAX_AVERAGE`]; the shortest is a quarter of it, the longest
    /// four times as long.
    pub average: u32,
    /// Which parts, none behind the end: each is cut by itself.
    pub ranges: Vec<Extent>,
    /// Tell of groups of chunks instead.
    pub grouped: bool,
}

/// A part of a file that its content tells apart from others, or a group of such parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chunk {
    /// Bytes.
    pub length: u32,
    /// XXH3-64 of them, little-endian. That two are the same is a guess that the hash of the whole decides over.
    pub sum: [u8; 8],
}

/// Some or all chunks of the parts of a file, or groups of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chunks {
    /// [`ChunkRequest::id`].
    pub id: u64,
    /// In order.
    pub chunks: Vec<Chunk>,
    /// On the last frame: what came of it, without proof. The hash is that of the parts one after the other.
    pub end: Option<HashOutcome>,
}

/// Parts of a large file that the server wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamRequest {
    /// The server's number for it; comes back in [`Piece::id`] and [`Streamed::id`].
    pub id: u64,
    /// The file.
    pub path: AbsPath,
    /// Its size as listed, bytes.
    pub size: u64,
    /// Its mtime as listed.
    pub mtime: Time,
    /// Its owner as listed.
    pub uid: u32,
    /// Which parts; none behind the end.
    pub ranges: Vec<Extent>,
    /// Send what the file holds now, even if its size or mtime are no longer as listed, up to its end.
    pub as_found: bool,
}

/// The next bytes of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// [`StreamRequest::id`].
    pub id: u64,
    /// Not beyond the end of a range.
    pub bytes: Bytes,
}

/// The end of an answer to a [`StreamRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Streamed {
    /// [`StreamRequest::id`].
    pub id: u64,
    /// What came of it.
    pub outcome: StreamOutcome,
}

/// The metadata of an open file that tells whether it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// Bytes.
    pub size: u64,
    /// Its mtime.
    pub mtime: Time,
    /// Owner.
    pub uid: u32,
}

/// What came of a request for parts of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamOutcome {
    /// All was sent; size, mtime and owner were as listed before and after.
    Done,
    /// Size, mtime, owner or kind are no longer as listed: what was sent may be of different states. Its present state, if it
    /// is still a regular file.
    Changed(Option<StreamState>),
    /// It is gone.
    Vanished,
    /// It can't be read: the system's error number.
    Failed(i32),
}
