//! Listing: what a client is asked to walk, and what it reports of its directories.

use crate::entry::{Differences, Digests, Entry, Fingerprint};
use crate::error::Result;
use crate::path::{AbsPath, Name};

/// The most entries that [`ListSink::entries`] gets at a time.
pub const MAX_PAGE_ENTRIES: usize = 4096;

/// What to walk, and what to leave out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListRequest {
    /// Paths of directories or files; relative ones start at the home directory.
    pub roots: Vec<Vec<u8>>,
    /// Patterns of gitignore(5); a leading slash anchors at `/`.
    pub exclude: Vec<Vec<u8>>,
    /// Leave out directories with a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out directories with a file of one of these names.
    pub exclude_if_present: Vec<Name>,
    /// Do not enter other file systems.
    pub one_file_system: bool,
    /// The repository's id: a directory whose file `format` holds it is not entered.
    pub repository: String,
    /// All entries of every directory are wanted: what [`ListSink::directory`] answers does not matter.
    pub all: bool,
    /// Report excluded entries as [`Skipped`], at most 1024 of each directory.
    pub names_excluded: bool,
}

/// The receiver of a listing. An error ends the listing.
///
/// A client reports what it wants: the sink checks numbers, order of names and bounds, whichever client it is.
pub trait ListSink {
    /// The roots, one for each of [`ListRequest::roots`] and in that order, before anything else.
    fn roots(&mut self, roots: Vec<Root>) -> Result<()>;

    /// A directory, after the one that holds it; returns which of its entries are wanted.
    fn directory(&mut self, directory: AnnouncedDirectory) -> Result<Wanted>;

    /// Entries of a directory of which all are wanted, or for which changes would be no shorter.
    fn entries(&mut self, page: EntriesPage) -> Result<()>;

    /// Changes in a directory of which only these are wanted.
    fn changes(&mut self, changes: Changes) -> Result<()>;

    /// Something could not be listed.
    fn problem(&mut self, problem: Problem) -> Result<()>;

    /// A file was left out, or a directory was not entered: it counts as empty, except for the file that caused it.
    fn skipped(&mut self, skipped: Skipped);
}

/// Which entries of a directory are wanted.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// None: they are known.
    Nothing,
    /// All.
    All,
    /// Those that differ from these, at most [`MAX_DIGESTS`](crate::entry::MAX_DIGESTS).
    Changes(Digests),
}

/// A root, as the client found it.
#[derive(Clone, Debug, PartialEq)]
pub enum Root {
    /// It exists. `entry` describes what the path leads to, a symlink followed; its name is the path's last component.
    Found {
        /// The absolute path.
        path: AbsPath,
        /// What it is; `None` for `/`.
        entry: Option<Entry>,
        /// A directory without entries, or a file that is not read because the kernel generates its content.
        empty: bool,
    },
    /// It does not exist.
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
    /// It is no path that can be pulled: too long, or with `..` in it.
    Invalid,
}

/// Whether a file system is mounted on a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mounted {
    /// None is.
    #[default]
    Nothing,
    /// One whose files last.
    Lasting,
    /// One that comes and goes: tmpfs, overlay, squashfs, or a desktop session's FUSE mounts.
    Passing,
}

/// A directory that was listed.
#[derive(Clone, Debug, PartialEq)]
pub struct AnnouncedDirectory {
    /// The client's number for it: counts up from 0.
    pub number: u64,
    /// Its path.
    pub path: AbsPath,
    /// Its inode number: it may have had another path before. 0 where the client reports none.
    pub inode: u64,
    /// Of its entries.
    pub fingerprint: Fingerprint,
    /// How many entries it has.
    pub entries: u64,
    /// False when some entries could not be read: then a missing name says nothing.
    pub complete: bool,
    /// What is mounted on it.
    pub mounted: Mounted,
    /// How many more entries there are that an exclude matches, or that are the client's own files of this program.
    pub excluded: u64,
}

/// Some or all entries of a directory.
#[derive(Clone, Debug, PartialEq)]
pub struct EntriesPage {
    /// [`AnnouncedDirectory::number`].
    pub directory: u64,
    /// At most [`MAX_PAGE_ENTRIES`], in ascending order of names.
    pub entries: Vec<Entry>,
    /// True for the directory's last page.
    pub last: bool,
    /// In which order to read the files: places in `entries`, each once, by inode numbers. Empty for the order of `entries`.
    pub order: Vec<u16>,
}

/// Changes in a directory of which the client got digests.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    /// [`AnnouncedDirectory::number`].
    pub directory: u64,
    /// Where.
    pub differences: Differences,
    /// The entries that were added, in ascending order of names.
    pub entries: Vec<Entry>,
}

/// A path that could not be listed, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The path.
    pub path: AbsPath,
    /// The system's error number.
    pub errno: i32,
}

/// A directory that was not entered, or a file that was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Skipped {
    /// The directory, or the file.
    pub path: AbsPath,
    /// Why.
    pub reason: SkipReason,
}

/// Why a directory was not entered, or an entry was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The kernel generates its content: proc, sysfs, cgroup, devpts and similar.
    KernelFileSystem,
    /// It is on another file system than its root.
    OtherFileSystem,
    /// It holds a valid `CACHEDIR.TAG`.
    Cache,
    /// It holds a file of an excluding name.
    Marker,
    /// It is the repository that this pull writes to.
    Repository,
    /// An exclude matches it, or it is the client's own directory of this program.
    Excluded,
}
