//! What the unit tests of several modules list.

use super::{Entry, Kind, Name, Time};

/// A file of no size.
pub(crate) fn file(name: &str) -> Entry {
    Entry {
        name: Name::new(name).unwrap(),
        kind: Kind::File,
        size: 0,
        mtime: Time::default(),
        ctime: 0,
        mode: 0o644,
        uid: 0,
        gid: 0,
        inode: None,
        device: 0,
        target: Vec::new(),
        attributes: None,
    }
}
