//! Restoring to a client: what is made there, and what came of it. Paths begin at the destination, which is `/`.

use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::path::AbsPath;

/// Where and how to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreOptions {
    /// The directory; made if it does not exist. A relative one starts at the home directory.
    pub destination: Vec<u8>,
    /// What to do about other things at an entry's path.
    pub overwrite: Overwrite,
    /// Set owners, if that is allowed.
    pub owners: bool,
    /// Make nothing.
    pub dry_run: bool,
    /// The repository's id: nothing is made in a directory whose file `format` holds it, nor below one. A destination there
    /// is refused as busy (EBUSY).
    pub repository: String,
}

/// What to do about something else at the path of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Overwrite {
    /// It stays, which is an error.
    #[value(skip)]
    Refuse,
    /// It stays.
    // The flag's own help describes all of them in one sentence.
    #[value(help = None::<&'static str>)]
    Never,
    /// It is replaced if its mtime is older.
    #[value(help = None::<&'static str>)]
    Older,
    /// It is replaced, even if it seems to be the same.
    #[value(help = None::<&'static str>)]
    Always,
}

/// One thing to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreItem {
    /// The directory that holds it; made if it does not exist.
    pub directory: AbsPath,
    /// The entry.
    pub entry: Entry,
    /// For a further name of a file that was restored before: that file's path.
    pub link: Option<AbsPath>,
}

/// What became of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreOutcome {
    /// It was made, or would be.
    Made,
    /// It was made, but without all of its extended attributes: the system's error number.
    WithoutXattrs(i32),
    /// It was made, but without its owner or its mode: the system's error number.
    WithoutRights(i32),
    /// It was made, but with another mtime, mostly the nearest that the file system can hold.
    OtherTime,
    /// It was made, but with an mtime that the file system has rounded, by less than two seconds.
    RoundedTime,
    /// It was present and as it should be.
    Unchanged,
    /// It was present with a rounded mtime, and otherwise as it should be.
    UnchangedRoundedTime,
    /// Something else was present, and stays.
    Left,
    /// It was present with another owner, mode or extended attributes, and stays.
    Differs,
    /// A file whose content is wanted: [`RestoreSession::begin`].
    ContentWanted,
    /// Something else is present, and must not be overwritten.
    Exists,
    /// A directory that is not empty is in the way.
    NotEmpty,
    /// The path's name is another entry's in the eyes of the file system, and that one stays.
    OtherName,
    /// The directory at its path is the repository, and stays.
    IsRepository,
    /// It would be made in the repository.
    InRepository,
    /// It can't be made: the system's error number.
    Failed(i32),
}

/// Why a restore could not begin.
#[derive(Debug)]
pub enum RestoreRefused {
    /// The destination can't be used: the system's error number.
    Destination(i32),
    /// The client failed.
    Client(Error),
}

impl From<Error> for RestoreRefused {
    fn from(error: Error) -> RestoreRefused {
        RestoreRefused::Client(error)
    }
}

/// One of several sessions that restore to the same destination at a time.
pub trait RestoreSession {
    /// Makes everything except files with content; returns the outcome of each item.
    fn offer(&mut self, items: Vec<RestoreItem>) -> Result<Vec<RestoreOutcome>>;

    /// Sets the metadata of directories in which everything is; returns what became of each.
    fn finish(&mut self, directories: Vec<RestoreItem>) -> Result<Vec<RestoreOutcome>>;

    /// Begins a file whose content is wanted. One at a time.
    fn begin(&mut self, item: RestoreItem) -> Result<()>;

    /// Writes bytes of the file that was begun; ranges that are left out are zeros.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Discards what was written of the file, which starts over.
    fn restart(&mut self) -> Result<()>;

    /// Ends the file that was begun; without `keep`, it is removed.
    fn end(&mut self, keep: bool) -> Result<()>;

    /// What became of the files that were ended since the last call, in their order.
    fn filled(&mut self) -> Result<Vec<RestoreOutcome>>;
}
