//! What both programs mean by a name, a path, a time and a range. POSIX defines these, not the protocol.
//!
//! Their serde encoding is the wire's alone: the server stores and shows them in encodings of its own.

use serde::{Deserialize, Serialize};

mod names;
mod time;

pub(crate) use names::checked_bytes;
pub use names::{AbsPath, MAX_NAME, MAX_PATH, Name, escape, is_unprintable};
pub use time::Time;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, at least 1.
    pub length: u64,
}

impl Extent {
    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}
