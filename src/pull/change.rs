//! What the stages before the last one hand on to it.

use std::sync::Arc;

use super::Directory;
use super::contents::FileTask;
use crate::entry::{Hash, Version};
use crate::error::{Error, Kind};
use crate::path::AbsPath;
use crate::repository::staging::Staged;

/// What is to be applied to the trees and the index.
#[derive(Debug)]
pub enum Change {
    /// Something whose content, if any, is all in its entry: directory, symlink, fifo, socket, device.
    Plain(FileTask),
    /// Another entry of the same version, in the index only.
    Restated(FileTask),
    /// A file whose content was received.
    Received(FileTask, Staged),
    /// A file whose content is here already.
    Known(FileTask, Hash),
    /// A file that could not be read: what is remembered of it stays. True when it has just vanished.
    Unread(FileTask, bool),
    /// Something that could not be listed.
    Unlisted(Version),
    /// What the run is about; comes first.
    Roots(Vec<AbsPath>),
    /// Something that is no longer there.
    Removed(Arc<Directory>, Box<Version>),
    /// All changes of a directory were handed over.
    Planned(Arc<Directory>),
}

/// The next stage is gone: the run has failed, and whoever made it fail has told why.
pub fn aborted<T>(_: T) -> Error {
    Error::new(Kind::BrokenOff, "the run was broken off")
}
