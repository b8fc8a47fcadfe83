//! What people name: a source, a path of its client, or a plain file in the repository.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::history::Past;
use crate::path::{AbsPath, Escaped, SourceName};
use crate::repository::Repository;
use crate::repository::place::Tree;
use crate::source::name_of_host;
use crate::time::When;

/// Something of a source.
pub(super) struct Named {
    /// Whose.
    pub source: SourceName,
    /// The path on the client; `/` for a source alone.
    pub path: AbsPath,
    /// The run that found it, when a plain file of the archive was named.
    pub at: Option<When>,
}

impl Named {
    /// Reads `SOURCE`, `SOURCE:PATH`, or the path of a plain file: as this machine has it, or as the program prints it,
    /// relative to the repository.
    pub(super) fn parse(repository: &Repository, text: &OsStr) -> Result<Named> {
        match is_plain_path(text) {
            true => of_plain_file(repository, text),
            false => of_source(text.as_bytes()),
        }
    }

    /// As [`parse`](Named::parse), but a source alone is not enough.
    pub(super) fn with_path(repository: &Repository, text: &OsStr) -> Result<Named> {
        let bytes = text.as_bytes();
        if bytes.contains(&b':') || bytes.contains(&b'/') { Named::parse(repository, text) } else { Err(wrong(bytes)) }
    }
}

/// True for the path of a plain file: there is a slash in it, and no colon before that.
pub(super) fn is_plain_path(text: &OsStr) -> bool {
    text.as_bytes().iter().find(|byte| matches!(byte, b'/' | b':')) == Some(&b'/')
}

fn wrong(text: &[u8]) -> Error {
    Error::usage(format_args!("`{}` names no path of a source", Escaped(text)))
        .hint("write `SOURCE:/PATH`, or the path of a plain file in the repository")
}

fn of_source(text: &[u8]) -> Result<Named> {
    // An address in brackets has colons of its own.
    let address = text.iter().position(|&byte| byte == b']').filter(|_| text.starts_with(b"[")).unwrap_or(0);
    let (source, path) = match text[address..].iter().position(|&byte| byte == b':') {
        Some(colon) => (&text[..address + colon], &text[address + colon + 1..]),
        None => (text, &b"/"[..]),
    };
    let source = std::str::from_utf8(source).map_err(|_| wrong(text))?;
    let source = if address > 0 { name_of_host(source) } else { source.to_owned() };
    let path = if path == b"/" { path } else { path.strip_suffix(b"/").unwrap_or(path) };
    let path = AbsPath::new(path).ok_or_else(|| wrong(text))?;
    Ok(Named { source: SourceName::new(&source)?, path, at: None })
}

fn of_plain_file(repository: &Repository, text: &OsStr) -> Result<Named> {
    let bytes = text.as_bytes();
    let outside = || {
        Error::usage(format_args!("`{}` is in none of the repository's trees", Escaped(bytes)))
            .hint("write `SOURCE:/PATH`, or the path of a plain file in `snapshot` or `archive`")
    };
    let below = below_repository(repository, Path::new(text)).ok_or_else(outside)?;
    let mut parts = below.splitn(3, |&byte| byte == b'/');
    let tree = parts.next().unwrap_or_default();
    let source = parts.next().and_then(|source| std::str::from_utf8(source).ok()).ok_or_else(outside)?;
    let path = AbsPath::new([b"/", parts.next().unwrap_or_default()].concat()).ok_or_else(outside)?;
    let source = SourceName::new(source)?;
    match [Tree::Snapshot, Tree::Archive].into_iter().find(|known| known.name().as_bytes() == tree) {
        Some(Tree::Snapshot) => Ok(Named { source, path, at: None }),
        Some(Tree::Archive) => of_archive(repository, source, path),
        None => Err(outside()),
    }
}

fn of_archive(repository: &Repository, source: SourceName, path: AbsPath) -> Result<Named> {
    let archived = Past::open(repository, &source)?.archived(&path)?;
    // A directory of the archive stands for the client's.
    let Some((path, version)) = archived else { return Ok(Named { source, path, at: None }) };
    Ok(Named { source, path, at: Some(When::Run(version.from_run)) })
}

// Relative to the repository, without a slash at the end.
fn below_repository(repository: &Repository, path: &Path) -> Option<Vec<u8>> {
    let bytes = |path: &Path| path.components().collect::<std::path::PathBuf>().as_os_str().as_bytes().to_vec();
    let is_printed = [Tree::Snapshot, Tree::Archive].iter().any(|tree| path.starts_with(tree.name()));
    if is_printed && !path.exists() {
        return Some(bytes(path));
    }
    // Only what leads to it: it may be a symlink itself, or gone.
    let (parent, name) = (path.parent()?, path.file_name()?);
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let whole = fs_err::canonicalize(parent).ok()?.join(name);
    whole.strip_prefix(fs_err::canonicalize(repository.dir()).ok()?).ok().map(bytes)
}
