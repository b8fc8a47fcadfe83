//! Reaching a client: what a pull needs of it, whichever way it is reached.

mod attempt;
pub mod local;
mod pace;
pub mod sftp;
#[cfg(test)]
mod testing;

use crate::path::AbsPath;

/// One file to read from a client.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The caller's number for it; comes back in [`Arrived`].
    pub id: u64,
    /// The file.
    pub path: AbsPath,
    /// Its size as listed, bytes.
    pub size: u64,
    /// Its mtime as listed, nanoseconds.
    pub mtime: i64,
    /// Its owner as listed.
    pub uid: u32,
}

/// What comes back for a [`Wanted`] file: any number of `Data`, in order of offsets, then one `End` or `Failed`.
#[derive(Debug)]
pub enum Arrived {
    /// The next bytes.
    Data {
        /// [`Wanted::id`].
        id: u64,
        /// At least one byte, at most 256 KiB.
        bytes: Vec<u8>,
    },
    /// The file changed while it was read: what came of it so far is void, reading starts over.
    Restart {
        /// [`Wanted::id`].
        id: u64,
    },
    /// The file was read to its end.
    End {
        /// [`Wanted::id`].
        id: u64,
        /// What the open file's metadata was after the last byte.
        state: FileState,
        /// False when it kept changing: what was read last may never have existed.
        consistent: bool,
    },
    /// It could not be read.
    Failed {
        /// [`Wanted::id`].
        id: u64,
        /// Why.
        error: ReadError,
    },
}

/// What an open file's metadata says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds; whole seconds where the way to the client tells no more.
    pub mtime: i64,
    /// Owner.
    pub uid: u32,
}

/// Why a file of a client could not be read: never the server's fault, so the pull goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It was gone when its turn came.
    #[error("vanished")]
    Vanished,
    /// The client says no.
    #[error("{0}")]
    Refused(String),
}
