//! Creates a repository, in an empty directory or as a new directory, and says whether one exists.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::FlockArg;

use super::dirs::Dir;
use super::lock::FileLock;
use super::{FORMAT, file_system, random_key};
use crate::entry::Kind as EntryKind;
use crate::error::{Error, Kind, OnServer, Result};
use crate::path::Name;

const SKELETON: [&[u8]; 5] = [b"snapshot", b"archive", b"staging", b"log", b"lock"];

// Not that of the repository: as soon as there is a `format` file, others may use the repository.
const CREATION_LOCK: &str = "creation";

const README: &str = include_str!("README.txt");

/// Whether a directory holds a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It does.
    Present,
    /// It does not, for this reason.
    Absent(&'static str),
}

/// Looks for a repository's `format` file; an error when it can't be told whether there is one.
pub(super) fn state(path: &Path) -> Result<State> {
    match std::fs::metadata(path.join("format")) {
        Ok(found) if found.is_file() && found.len() > 0 => return Ok(State::Present),
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(error) => return Err(Error::server(what(path), error)),
    }
    match std::fs::metadata(path) {
        Ok(found) if !found.is_dir() => Ok(State::Absent("it is no directory")),
        Ok(_) => match content(path)? {
            Content::Other => Ok(State::Absent("the directory holds no repository")),
            Content::Nothing | Content::Begun => Ok(State::Absent("the directory is empty")),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(State::Absent("it does not exist")),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(State::Absent("it is no directory")),
        Err(error) => Err(Error::server(what(path), error)),
    }
}

/// Creates a repository in an empty directory, or as a new directory in one that exists; finishes one whose creation was
/// cut off. Returns false when there is one already, which another process may be creating at this moment.
pub(super) fn create(path: &Path) -> Result<bool> {
    if state(path)? == State::Present {
        return Ok(false);
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match begin_in(path) {
            // The directory's content was read while another process completed it.
            Err(_) if state(path)? == State::Present => return Ok(false),
            begun => begun?,
        },
        // The place may be a disk that is not mounted.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let parent = path.parent().unwrap_or(path).display();
            return Err(Error::new(Kind::Failed, format_args!("{}: `{parent}` is no directory", failed(path)))
                .hint("mount the disk, or create the directory first"));
        }
        Err(error) => return Err(Error::server(failed(path), error)),
    }
    fill(path)
}

/// Creates the directories that lead to a repository.
pub(super) fn create_above(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all).on_server(failed(path))
}

/// The error for a repository that exists.
pub(super) fn exists(path: &Path) -> Error {
    Error::new(Kind::Failed, format_args!("{}: it exists already", failed(path)))
}

fn failed(path: &Path) -> String {
    format!("can't create the repository `{}`", path.display())
}

fn begin_in(path: &Path) -> Result<()> {
    if !path.is_dir() {
        return Err(
            Error::usage(format_args!("`{}` is no directory", path.display())).hint("name one with `--repo DIR`")
        );
    }
    match content(path)? {
        Content::Begun => Ok(()),
        Content::Nothing => {
            let restricted = fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o700));
            restricted.on_server(what(path))
        }
        Content::Other => {
            Err(Error::usage(format_args!("`{}` holds something else than a repository", path.display()))
                .hint("name an empty or a new directory with `--repo DIR`"))
        }
    }
}

/// What a directory without a complete `format` file holds.
enum Content {
    /// Nothing, or what mkfs(8) puts into a new file system.
    Nothing,
    /// A repository whose creation was cut off: empty directories, and files that are created first.
    Begun,
    /// Something else.
    Other,
}

fn content(path: &Path) -> Result<Content> {
    let base = Dir::open_base(path).on_server(what(path))?;
    let mut names = base.names().on_server(what(path))?;
    names.retain(|name| {
        let is_dir = |name| base.metadata(name).is_ok_and(|found| found.kind == EntryKind::Dir);
        name.as_bytes() != b"lost+found" || !is_dir(name)
    });
    // Older versions of the program held the repository's own lock.
    let is_lock = |name: &[u8]| name == CREATION_LOCK.as_bytes() || name == b"repository";
    let is_empty_directory = |name: &[u8]| {
        let names = base.open(name).and_then(|dir| dir.names());
        names.is_ok_and(|names| {
            names.iter().all(|inside| name == b"lock" && is_lock(inside.as_bytes()) || file_system::is_probe(inside))
        })
    };
    let is_ours = |name: &Name| match name.as_bytes() {
        b"README.txt" | file_system::FILE_NAME => true,
        b"format" => base.metadata(name).is_ok_and(|found| found.kind == EntryKind::File && found.size == 0),
        ours => SKELETON.contains(&ours) && is_empty_directory(ours),
    };
    Ok(match names.as_slice() {
        [] => Content::Nothing,
        names if names.iter().all(is_ours) => Content::Begun,
        _ => Content::Other,
    })
}

// Returns false when another process was faster.
fn fill(path: &Path) -> Result<bool> {
    let base = Dir::open_base(path).on_server(what(path))?;
    for tree in SKELETON {
        base.open_or_create(tree).on_server(what(path))?;
    }
    // Of several processes that create it at the same time, one decides on the id.
    let lock = base.open(b"lock").and_then(|dir| create_or_open(&dir, CREATION_LOCK)).on_server(what(path))?;
    let _lock = FileLock::take(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).on_server(what(path))?;
    if state(path)? == State::Present {
        return Ok(false);
    }
    file_system::probe(path, &base)?;
    write(&base, "README.txt", README)?;
    base.sync_file_system().on_server(what(path))?;
    // Last, for this file is what makes the directory a repository.
    let id = &blake3::Hash::from_bytes(random_key()?).to_hex()[..32];
    write(&base, "format", &format!("archive repository\nformat {FORMAT}\nid {id}\n"))?;
    base.sync_file_system().on_server(what(path))?;
    Ok(true)
}

fn create_or_open(dir: &Dir, name: &str) -> nix::Result<std::fs::File> {
    let name = Name::new(name).expect("a file of the repository has a name");
    match dir.create_file(&name) {
        Err(Errno::EEXIST) => dir.open_file_to_write(&name),
        other => other,
    }
}

fn write(base: &Dir, name: &str, text: &str) -> Result<()> {
    let what = format!("can't write `{name}` in the repository");
    let mut file = create_or_open(base, name).on_server(&what)?;
    file.write_all(text.as_bytes()).and_then(|()| base.sync_file(&file)).on_server(&what)
}

fn what(path: &Path) -> String {
    format!("can't open the repository `{}`", path.display())
}
