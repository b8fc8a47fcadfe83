//! Putting things back: what the server asks, and what comes of it. Paths here begin at the destination, which is `/`.

use serde::{Deserialize, Serialize};

use super::{AbsPath, Bytes, Entry};

/// Where and how to put things back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// The directory; made if it is not there. A relative one starts at the home directory.
    pub destination: Vec<u8>,
    /// What to do about something else that is there.
    pub overwrite: Overwrite,
    /// Give things their owners, if that is allowed.
    pub owners: bool,
    /// Make nothing.
    pub dry_run: bool,
    /// The repository's id: nothing is made in a directory whose file `format` holds it, nor below one. A destination there
    /// is refused as busy (EBUSY).
    pub repository: String,
}

/// What to do about something else that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overwrite {
    /// It stays, which is an error.
    Refuse,
    /// It stays.
    Never,
    /// It goes if its mtime is older.
    Older,
    /// It goes, and so does what looks the same.
    Always,
}

/// One thing to put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The directory that it is in; made if it is not there.
    pub directory: AbsPath,
    /// What it is.
    pub entry: Entry,
    /// For a further name of a file that was put back before: that file's path.
    pub link: Option<AbsPath>,
}

/// The content of a file that is [`Outcome::Wanted`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fill {
    /// It begins.
    Begin(Box<Item>),
    /// Bytes of it; what is left out is zeros.
    Data {
        /// Where.
        offset: u64,
        /// Which.
        bytes: Bytes,
    },
    /// What came of it was wrong: it begins anew.
    Again,
    /// All of it was sent; or it can't be, and what there is of it goes.
    End {
        /// Whether it is to get its name.
        keep: bool,
    },
}

/// What became of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was made, or would be.
    Made,
    /// It was made, but for its extended attributes: the system's error number.
    Bare(i32),
    /// It was there as it should be.
    There,
    /// Something else was there, and stays.
    Left,
    /// It was there, but with another owner, mode or extended attributes, and stays as it is.
    Differs,
    /// A file whose content is to come.
    Wanted,
    /// Something else is there, and must not be overwritten.
    Exists,
    /// A directory with something in it is in the way.
    NotEmpty,
    /// It can't be made: the system's error number.
    Failed(i32),
    /// It was made, but with another mtime, mostly the nearest that the file system can hold.
    OtherTime,
    /// The directory there is the repository, and stays as it is.
    IsRepository,
    /// It would be made in the repository.
    InRepository,
    /// It was made, but with an mtime that the file system has rounded, by less than two seconds.
    RoundedTime,
    /// It was there with such an mtime, and otherwise as it should be.
    ThereRounded,
    /// What is there has another name, which the file system takes for the same, and stays.
    OtherName,
    /// It was made, but without its owner or its mode, which can't be set: the system's error number.
    OtherRights(i32),
}
