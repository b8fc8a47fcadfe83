//! Everything on the server's disk: two trees of plain files, the staging area, the index, the locks.

use std::io::Read;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::entry::Kind as EntryKind;
use crate::error::{Error, Kind, OnServer, Result};
use crate::path::{AbsPath, Name, SourceName};

pub(crate) mod archive;
mod create;
pub(crate) mod dirs;
pub(crate) mod evidence;
mod file_system;
pub(crate) mod index;
pub(crate) mod journal;
pub(crate) mod lock;
mod newest_run;
pub(crate) mod place;
mod relayout;
pub(crate) mod room;
pub(crate) mod staging;
pub(crate) mod stored;

use create::State;
use dirs::Dir;
use index::{Copied, Index};
use place::Tree;

/// The format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// A repository: the directory on the server that holds everything.
#[derive(Debug)]
pub struct Repository {
    path: PathBuf,
    base: Dir,
    id: String,
    copied: Copied,
}

impl Repository {
    /// Opens a repository that exists.
    pub fn open(path: &Path) -> Result<Repository> {
        if let State::Absent(cause) = create::state(path)? {
            return Err(Error::new(
                Kind::Failed,
                format_args!("can't open the repository `{}`: {cause}", path.display()),
            )
            .hint("mount its disk, name another with `--repo DIR`, or create one with `archive init`"));
        }
        let base = Dir::open_base(path).on_server(what(path))?;
        let id = read_format(path)?;
        let repository = Repository { path: path.to_owned(), base, id, copied: Copied::default() };
        repository.recall_file_system();
        repository.check_file_systems()?;
        Ok(repository)
    }

    /// Creates a repository in an empty directory, or as a new directory in one that exists, and opens it.
    pub fn create(path: &Path) -> Result<Repository> {
        if create::create(path)? { Repository::open_new(path) } else { Err(create::exists(path)) }
    }

    /// Creates the directories that lead to a repository, where the user named none.
    pub fn create_above(path: &Path) -> Result<()> {
        create::create_above(path)
    }

    /// Opens a repository, and creates it first where there is none, as [`create`](Self::create) does.
    pub fn open_or_create(path: &Path) -> Result<Repository> {
        if create::create(path)? { Repository::open_new(path) } else { Repository::open(path) }
    }

    // With an index, every question has an answer before the first pull.
    fn open_new(path: &Path) -> Result<Repository> {
        let repository = Repository::open(path)?;
        repository.index()?;
        Ok(repository)
    }

    /// Whether a directory holds a repository; an error when that can't be read.
    pub fn exists(path: &Path) -> Result<bool> {
        create::state(path).map(|state| state == State::Present)
    }

    /// The directory, as the user named it.
    pub fn dir(&self) -> &Path {
        &self.path
    }

    /// The random id that no other repository has.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// True when others than the owner may look into it.
    pub fn is_open_to_others(&self) -> bool {
        self.base.own_metadata().is_ok_and(|found| found.mode & 0o077 != 0)
    }

    /// Opens the index to write.
    pub fn index(&self) -> Result<Index> {
        self.check_is_writable()?;
        Index::open(&self.path)
    }

    /// Fails on read-only media, and in another user's repository, before anything else does so in other words.
    pub fn check_is_writable(&self) -> Result<()> {
        let Err(errno) = self.base.check_is_writable() else { return Ok(()) };
        let hint = match errno {
            Errno::EROFS => "mount its file system writable",
            Errno::EPERM => "is it immutable (`lsattr -d`, `chattr -i`)?",
            _ => "run this as the owner of the repository, or change the owner with `chown -R`",
        };
        let what = format!("can't write to the repository `{}`", self.path.display());
        Err(Error::server(what, errno.into()).hint(hint))
    }

    /// Opens the index for a question to it, which makes no sense when it does not exist. Nothing is changed: it works on
    /// read-only media, on a full disk, and for a user who may only read.
    pub fn known_index(&self) -> Result<Index> {
        self.index_to_read()?.ok_or_else(|| {
            Error::new(Kind::Failed, format_args!("`{}` has no index", self.path.display())).hint(
                "`archive index rebuild` makes it from the trees; without files in the trees, the first pull does",
            )
        })
    }

    /// Opens the index to note what is found; to read it only, where it can't be written.
    pub fn index_to_note(&self) -> Result<Index> {
        let known = self.known_index()?;
        if !known.is_writable() {
            return Ok(known);
        }
        match self.index() {
            Err(error) if error.kind() == Kind::Full => Ok(known),
            other => other,
        }
    }

    /// Opens the index without changing anything; `None` when there is none yet.
    pub fn index_to_read(&self) -> Result<Option<Index>> {
        index::open_to_read(&self.path, &self.copied)
    }

    /// The snapshot of a source, made if it is not there.
    pub fn snapshot(&self, source: &SourceName) -> Result<Dir> {
        self.tree("snapshot", source)
    }

    /// A source's directory in a tree; `None` when it does not exist.
    pub fn tree_to_read(&self, tree: Tree, source: &SourceName) -> Result<Option<Dir>> {
        match self.base.open(&[tree.name().as_bytes(), b"/", source.as_str().as_bytes()].concat()) {
            Err(Errno::ENOENT) => Ok(None),
            other => {
                let what = format_args!("can't open `{}/{source}` in the repository", tree.name()).to_string();
                other.on_server(what).map(Some)
            }
        }
    }

    /// True when there is anything in the snapshot of a source.
    pub fn holds(&self, source: &SourceName) -> Result<bool> {
        let path = [b"snapshot/", source.as_str().as_bytes()].concat();
        match self.base.open(&path).and_then(|dir| dir.names()) {
            Ok(names) => Ok(!names.is_empty()),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno).on_server("can't read the snapshot"),
        }
    }

    /// The archive of a source, made if it is not there.
    pub fn archive(&self, source: &SourceName) -> Result<Dir> {
        self.tree("archive", source)
    }

    /// The staging area of a source, made if it is not there.
    pub fn staging(&self, source: &SourceName) -> Result<Dir> {
        self.tree("staging", source)
    }

    /// Where damaged plain files of a source are put aside, made if it is not there.
    pub fn damaged(&self, source: &SourceName) -> Result<Dir> {
        self.tree("damaged", source)
    }

    /// The sources that the index knows or that have a directory in one of the trees, by name; and what else is in the
    /// trees, relative to the repository.
    pub fn known_sources(&self, index: &Index) -> Result<(Vec<SourceName>, Vec<Vec<u8>>)> {
        const WHAT: &str = "can't list the trees";
        let (mut sources, mut unknown) = (Vec::new(), Vec::new());
        for tree in [Tree::Snapshot, Tree::Archive] {
            let dir = self.base.open(tree.name().as_bytes()).on_server(WHAT)?;
            for name in dir.names().on_server(WHAT)? {
                let is_dir = dir.metadata(&name).on_server(WHAT)?.kind == EntryKind::Dir;
                let source = std::str::from_utf8(name.as_bytes()).ok().and_then(|name| SourceName::new(name).ok());
                match source.filter(|_| is_dir) {
                    Some(source) => sources.push(source),
                    None => unknown.push([tree.name().as_bytes(), b"/", name.as_bytes()].concat()),
                }
            }
        }
        for name in index.source_names()? {
            sources.push(SourceName::new(&name)?);
        }
        sources.sort();
        sources.dedup();
        Ok((sources, unknown))
    }

    /// The directory of the lock files.
    pub fn locks(&self) -> Result<Dir> {
        self.base.open_or_create(b"lock").on_server("can't open `lock` in the repository")
    }

    /// Opens the log to append to it.
    pub fn open_log(&self) -> Result<std::fs::File> {
        let name = Name::new("archive.log").expect("it is a name");
        let log = self.base.open_or_create(b"log").and_then(|dir| dir.open_to_append(&name));
        log.on_server("can't open the log").map_err(|error| error.at("log/archive.log"))
    }

    /// The names of the dated copies of the index.
    pub fn index_copies(&self) -> Result<Vec<String>> {
        let names = self.base.names().on_server("can't list the repository")?;
        let copies = names.iter().filter_map(|name| std::str::from_utf8(name.as_bytes()).ok());
        Ok(copies.filter(|name| name.starts_with("index-") && name.ends_with(".sqlite")).map(str::to_owned).collect())
    }

    /// Where a source's copy of the index is made before it gets its dated name; nothing is there.
    pub fn index_copy_in_the_making(&self, source: &SourceName) -> Result<PathBuf> {
        let name = Name::new("index").expect("it is a name");
        let staging = self.staging(source)?;
        match staging.unlink(&name) {
            Ok(()) | Err(Errno::ENOENT) => Ok(self.path.join("staging").join(source.as_str()).join("index")),
            Err(errno) => Err(errno).on_server("can't clear the staging area"),
        }
    }

    /// Gives a finished copy of the index its dated name, if that is still free.
    pub fn date_index_copy(&self, source: &SourceName, dated: &str) -> Result<()> {
        let staged = Name::new("index").expect("it is a name");
        let name = Name::new(dated).expect("a date makes a name");
        let staging = self.staging(source)?;
        match staging.rename(&staged, &self.base, &name) {
            Err(Errno::EEXIST) => staging.unlink(&staged).on_server("can't clear the staging area"),
            other => other.on_server("can't keep a copy of the index"),
        }
    }

    /// Removes a dated copy of the index.
    pub fn remove_index_copy(&self, name: &str) -> Result<()> {
        let name = Name::new(name).expect("a copy's name was listed");
        match self.base.unlink(&name) {
            // Another pull was faster.
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            other => other.on_server(format_args!("can't remove `{name}` from the repository")),
        }
    }

    /// The repository's own directory.
    pub fn base(&self) -> &Dir {
        &self.base
    }

    fn tree(&self, tree: &str, source: &SourceName) -> Result<Dir> {
        let path = [tree.as_bytes(), b"/", source.as_str().as_bytes()].concat();
        let opened =
            self.base.open_or_create(&path).on_server(format_args!("can't open `{tree}/{source}` in the repository"));
        opened.map_err(|error| error.at(tree))
    }

    // Files are renamed from staging into both trees, which works within one file system only.
    fn check_file_systems(&self) -> Result<()> {
        let device = |name: &str| -> Result<Option<u64>> {
            let what = format_args!("can't open `{name}` in the repository").to_string();
            let found = match self.base.metadata(&Name::new(name).expect("it is a name")) {
                Err(Errno::ENOENT) => self.base.open_or_create(name.as_bytes()).and_then(|dir| dir.own_metadata()),
                Ok(found) if found.kind != EntryKind::Dir => Err(Errno::ENOTDIR),
                other => other,
            };
            match found {
                // Nothing is renamed there.
                Err(Errno::EROFS | Errno::EACCES | Errno::EPERM) => Ok(None),
                other => other.on_server(what).map(|found| Some(found.inode.0)),
            }
        };
        let snapshot = device("snapshot")?;
        for other in ["archive", "staging"] {
            if device(other)?.zip(snapshot).is_some_and(|(other, snapshot)| other != snapshot) {
                return Err(Error::usage(format_args!(
                    "`{}` is on another file system than `snapshot`",
                    self.path.join(other).display()
                ))
                .hint("`snapshot`, `archive` and `staging` must be on one, for files are renamed between them"));
            }
        }
        Ok(())
    }
}

/// Where an entry of this path and a source is in a tree, relative to the repository.
pub fn path_in(tree: &str, source: &SourceName, directory: &AbsPath, name: &Name) -> Vec<u8> {
    let below = directory.below_root();
    let slash: &[u8] = if below.is_empty() { b"" } else { b"/" };
    [tree.as_bytes(), b"/", source.as_str().as_bytes(), b"/", below, slash, name.as_bytes()].concat()
}

fn what(path: &Path) -> String {
    format!("can't open the repository `{}`", path.display())
}

fn read_format(path: &Path) -> Result<String> {
    let mut text = String::new();
    fs_err::File::open(path.join("format"))
        .and_then(|file| file.take(4096).read_to_string(&mut text))
        .on_server("can't read the repository's format")?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let format = field("format ").and_then(|number| number.parse::<u32>().ok());
    match (text.lines().next(), format, field("id ")) {
        (Some("archive repository"), Some(FORMAT), Some(id)) if !id.is_empty() => Ok(id.to_owned()),
        (Some("archive repository"), Some(newer), _) if newer > FORMAT => Err(Error::new(
            Kind::Failed,
            format_args!("the repository `{}` has format {newer}, newer than this program knows", path.display()),
        )
        .hint("use the newer `archive` that wrote it")),
        _ => Err(Error::usage(format_args!(
            "`{}` is no repository: its `format` file says something else",
            path.display()
        ))
        .hint("name another with `--repo DIR`")),
    }
}

/// 32 bytes that nobody can guess.
pub fn random_key() -> Result<[u8; 32]> {
    let mut key = [0; 32];
    let mut filled = 0;
    while filled < key.len() {
        let more = rustix::rand::getrandom(&mut key[filled..], rustix::rand::GetRandomFlags::empty());
        filled += more.map_err(|errno| Error::server("can't get random bytes", errno.into()))?;
    }
    Ok(key)
}
