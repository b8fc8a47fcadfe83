//! Fetching: which files are wanted, and what arrives of them.

use std::fs::File;
use std::sync::Arc;

use crate::entry::{Extent, Hash, Time};
use crate::error::Result;
use crate::path::AbsPath;
use crate::queue::{Receiver, Sender};

/// The largest file that arrives in one [`FetchEvent::Full`], bytes.
pub const MAX_SMALL_FILE_BYTES: u64 = 128 * 1024;

/// The largest file that may have a basis, bytes: larger ones have too many chunks.
pub const MAX_DELTA_BYTES: u64 = 256 << 30;

/// Files to fetch, and where they go.
pub struct Fetch<'a> {
    /// The files.
    pub jobs: &'a Receiver<FetchJob>,
    /// Where their contents go.
    pub events: &'a Sender<FetchEvent>,
    /// Asked once the hash of a file with a basis is known: if the file is not wanted, no event of it follows. Not asked about
    /// a file of which there was an event.
    pub is_wanted: &'a IsWanted<'a>,
    /// There will almost certainly be jobs, so channels may be opened at once.
    pub expects_many: bool,
}

/// Returns whether the file with this number and this BLAKE3 is still wanted; the flag is true when all of it was found in its
/// basis.
pub type IsWanted<'a> = dyn Fn(u64, &Hash, bool) -> Result<bool> + Sync + 'a;

/// One file to fetch.
#[derive(Clone, Debug)]
pub struct FetchJob {
    /// The caller's number for it; comes back in [`FetchEvent`].
    pub id: u64,
    /// The file.
    pub path: AbsPath,
    /// Its size as listed, bytes.
    pub size: u64,
    /// Its mtime as listed.
    pub mtime: Time,
    /// Its owner as listed.
    pub uid: u32,
    /// The first byte that is wanted, as those before are on the server; 0 for a small file.
    pub offset: u64,
    /// A small file that need not be sent when the client has sent the same content before.
    pub dedup: bool,
    /// Where it has data, when the listing reported holes: the rest of it need not be sent.
    pub data: Option<Arc<[Extent]>>,
    /// Content on the server that the file may be like: only the changed ranges need be sent.
    pub basis: Option<BasisRef>,
}

/// Content on the server, opened when it is needed: there may be more of these than files may be open.
#[derive(Clone)]
pub struct BasisRef {
    /// Its size, bytes.
    pub size: u64,
    open: Arc<dyn Fn() -> std::io::Result<File> + Send + Sync>,
}

impl BasisRef {
    /// A basis of `size` bytes that `open` opens.
    pub fn new(size: u64, open: impl Fn() -> std::io::Result<File> + Send + Sync + 'static) -> BasisRef {
        BasisRef { size, open: Arc::new(open) }
    }

    /// Opens it.
    pub fn open(&self) -> std::io::Result<File> {
        (self.open)()
    }
}

impl std::fmt::Debug for BasisRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BasisRef")
    }
}

/// The events of a [`FetchJob`]: either `Full`, `AlreadySent` or `Failed` alone; or an optional `Speculative`, any number of
/// `Data`, `Hole` and `FromBasis` in order of offsets (after `Restart` from the start again), then one `End` or `Failed`. A file
/// that is not wanted any more has none.
#[derive(Debug)]
pub enum FetchEvent {
    /// The next bytes.
    Data {
        /// [`FetchJob::id`].
        id: u64,
        /// At least one byte, at most 256 KiB.
        bytes: Vec<u8>,
    },
    /// The file begins to arrive before its hash is known, so [`Fetch::is_wanted`] is not asked: the caller decides at the end.
    /// The first event of a file.
    Speculative {
        /// [`FetchJob::id`].
        id: u64,
    },
    /// The next bytes are a hole: zeros.
    Hole {
        /// [`FetchJob::id`].
        id: u64,
        /// How many, at least one.
        length: u64,
    },
    /// The next bytes are in [`FetchJob::basis`].
    FromBasis {
        /// [`FetchJob::id`].
        id: u64,
        /// The offset in the basis.
        offset: u64,
        /// How many, at least one.
        length: u64,
    },
    /// All of a small file, read at once and as listed.
    Full {
        /// [`FetchJob::id`].
        id: u64,
        /// Its content.
        bytes: Vec<u8>,
        /// BLAKE3 of it.
        hash: Hash,
        /// The open file's metadata after the last byte.
        state: FileState,
        /// Several channels send files: the same content may have arrived before, [`FetchJob::dedup`] or not.
        may_repeat: bool,
    },
    /// A file with [`FetchJob::dedup`] has the content of one that was sent before.
    AlreadySent {
        /// [`FetchJob::id`].
        id: u64,
        /// BLAKE3 of the content, as the client says.
        hash: Hash,
    },
    /// The file changed while it was read: discard what arrived, reading starts over.
    Restart {
        /// [`FetchJob::id`].
        id: u64,
    },
    /// The file was read to its end.
    End {
        /// [`FetchJob::id`].
        id: u64,
        /// The open file's metadata after the last byte.
        state: FileState,
        /// False when it kept changing: the content that arrived may never have existed as a whole.
        consistent: bool,
        /// BLAKE3 of the whole, as the client says, when not all of it was sent.
        claimed: Option<Hash>,
    },
    /// It could not be read.
    Failed {
        /// [`FetchJob::id`].
        id: u64,
        /// Why.
        error: ReadError,
    },
}

impl FetchEvent {
    /// [`FetchJob::id`].
    pub fn id(&self) -> u64 {
        match *self {
            FetchEvent::Data { id, .. }
            | FetchEvent::Hole { id, .. }
            | FetchEvent::FromBasis { id, .. }
            | FetchEvent::Full { id, .. }
            | FetchEvent::AlreadySent { id, .. }
            | FetchEvent::Speculative { id }
            | FetchEvent::Restart { id }
            | FetchEvent::End { id, .. }
            | FetchEvent::Failed { id, .. } => id,
        }
    }

    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> usize {
        size_of::<FetchEvent>()
            + match self {
                FetchEvent::Data { bytes, .. } | FetchEvent::Full { bytes, .. } => bytes.len(),
                _ => 0,
            }
    }
}

/// What an open file's metadata says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds; whole seconds where the client reports no more.
    pub mtime: Time,
    /// Owner.
    pub uid: u32,
}

/// Why a file of a client could not be read: never the server's fault, so the pull goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It did not exist any more.
    #[error("vanished")]
    Vanished,
    /// The client refused.
    #[error("{0}")]
    Refused(String),
}

impl ReadError {
    /// The error of another user's file than was listed: see `read_attempt::Verdict::OtherOwner`.
    pub(super) fn other_owner() -> ReadError {
        ReadError::Refused("its owner changed while it was read".to_owned())
    }

    /// The error of a path that is no regular file any more.
    pub(super) fn irregular() -> ReadError {
        ReadError::Refused("is no longer a regular file".to_owned())
    }

    /// The error of a system call of the client.
    pub fn from_errno(errno: i32) -> ReadError {
        ReadError::Refused(nix::errno::Errno::from_raw(errno).desc().to_owned())
    }
}
