//! What the batch writer takes.

use std::sync::Arc;

use super::Directory;
use super::machine::{FileTask, Possession};
use crate::entry::{Hash, Version};
use crate::error::{Error, Kind};
use crate::path::AbsPath;
use crate::repository::staging::Staged;

/// What the batch writer applies to the trees and the index.
#[derive(Debug)]
pub enum Change {
    /// An entry without content of its own: directory, symlink, fifo, socket, device.
    Plain(Box<FileTask>),
    /// Another entry of the same version, in the index only.
    Restated(Box<FileTask>),
    /// A file whose content was received.
    Received(Box<FileTask>, Staged),
    /// A file whose content is on the server; `possession` is needed for content that only another source has sent.
    Known {
        /// The file.
        file: Box<FileTask>,
        /// Its content.
        hash: Hash,
        /// Shows that the client has the content.
        possession: Option<Box<Possession>>,
    },
    /// A file that could not be read: the old version stays.
    Unread {
        /// The file.
        file: Box<FileTask>,
        /// It does not exist any more; the next listing shows that.
        has_vanished: bool,
    },
    /// An entry that could not be listed.
    Unlisted(Version),
    /// The roots of the run; comes first.
    Roots(Vec<AbsPath>),
    /// An entry that does not exist any more.
    Removed(Arc<Directory>, Box<Version>),
    /// All changes of a directory were handed over.
    Planned(Arc<Directory>),
}

/// The next stage is gone: the run has failed, and whoever made it fail has told why.
pub fn aborted<T>(_: T) -> Error {
    Error::new(Kind::BrokenOff, "the run was broken off")
}
