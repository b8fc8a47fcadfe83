//! What people name: a source, a path of its client, or a plain file in the repository.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jiff::ZonedDateTime;

use crate::error::{Error, Result};
use crate::history::{Past, unknown_source};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::repository::Repository;
use crate::repository::index::Index;
use crate::repository::place::Tree;
use crate::source::{Ssh, name_of_host};
use crate::time::{When, parse_when};

/// Reads what `--at` takes.
pub(super) fn when(text: &str) -> Result<When> {
    parse_when(text, &ZonedDateTime::now())
}

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
        if is_plain_path(text) { of_plain_file(repository, text) } else { of_source(text.as_bytes()) }
    }

    /// As [`parse`](Named::parse), but a source alone is not enough.
    pub(super) fn with_path(repository: &Repository, text: &OsStr) -> Result<Named> {
        let bytes = text.as_bytes();
        let has_path = split(bytes).1.is_some_and(|path| !path.is_empty());
        if is_plain_path(text) || has_path { Named::parse(repository, text) } else { Err(wrong(bytes)) }
    }
}

/// Reads the name of a source. An address in brackets stands for the source that a pull of that host makes.
pub(super) fn source_named(text: &str) -> Result<SourceName> {
    SourceName::new(&without_brackets(text))
}

/// The text of [`source_named`], unchecked: to be compared with names that exist.
pub(super) fn without_brackets(text: &str) -> String {
    if Ssh::plain_host(text) == text { text.to_owned() } else { name_of_host(text) }
}

/// The names of the sources that the index knows, or the one of them that a person named.
pub(super) fn known_names(index: &Index, named: Option<&str>) -> Result<Vec<String>> {
    let known = index.source_names()?;
    let Some(named) = named else { return Ok(known) };
    let name = without_brackets(named);
    if known.contains(&name) { Ok(vec![name]) } else { Err(unknown_source(index, named)) }
}

/// Splits `SOURCE[:REST]` at its first colon. An address in brackets has colons of its own.
pub(super) fn split(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let bracket = text.iter().position(|&byte| byte == b'[').filter(|&at| at == 0 || text[at - 1] == b'@');
    let address = bracket.and_then(|at| Some(at + text[at..].iter().position(|&byte| byte == b']')?)).unwrap_or(0);
    match text[address..].iter().position(|&byte| byte == b':') {
        Some(colon) => (&text[..address + colon], Some(&text[address + colon + 1..])),
        None => (text, None),
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
    let (source, path) = split(text);
    let path = path.filter(|path| !path.is_empty()).unwrap_or(b"/");
    let source = std::str::from_utf8(source).map_err(|_| wrong(text))?;
    let path = if path == b"/" { path } else { path.strip_suffix(b"/").unwrap_or(path) };
    let path = AbsPath::new(path).ok_or_else(|| wrong(text))?;
    Ok(Named { source: source_named(source)?, path, at: None })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_in_brackets_is_split_behind_them_and_names_its_source() {
        for (text, source, rest, name) in [
            ("laptop:/x:y", "laptop", Some("/x:y"), Some("laptop")),
            ("[::1]:/x:y", "[::1]", Some("/x:y"), Some("0--1")),
            ("anna@[fe80::1%eth0]:x", "anna@[fe80::1%eth0]", Some("x"), Some("fe80--1_eth0")),
            ("[::1]", "[::1]", None, Some("0--1")),
            ("a[b]:/x", "a[b]", Some("/x"), None),
            ("[::1", "[", Some(":1"), None),
        ] {
            assert_eq!(split(text.as_bytes()), (source.as_bytes(), rest.map(str::as_bytes)), "{text}");
            assert_eq!(source_named(source).ok().as_ref().map(SourceName::as_str), name, "{text}");
        }
    }
}
