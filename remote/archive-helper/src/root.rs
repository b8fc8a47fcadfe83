//! Roots: from what a person wrote to a path, and to an open directory.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::attributes;
use crate::protocol::{AbsPath, Entry, Kind, Root};
use crate::system::{Directory, Errno, File, Metadata};

/// A root that is a directory.
pub struct RootDir {
    /// Its path, as the server knows it.
    pub path: AbsPath,
    /// The open directory.
    pub directory: Directory,
    /// The device number of its file system.
    pub device: u64,
}

/// Finds a root: what to tell the server, and the directory to walk if it is one.
pub fn find(written: &[u8]) -> (Root, Option<RootDir>) {
    let Some(path) = resolve(written, &home()) else { return (Root::Invalid, None) };
    match open(&path) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => (Root::Missing { path }, None),
        Err(errno) => (Root::Unreadable { path, errno: errno.raw_os_error() }, None),
    }
}

/// The path of a directory that a person wrote, which may start at the home directory; without a slash at its end.
pub fn path_here(written: &[u8]) -> Vec<u8> {
    let path = match written {
        [b'/', ..] => written.to_vec(),
        b"~" => home(),
        [b'~', b'/', rest @ ..] => [&home(), &b"/"[..], rest].concat(),
        _ => [&home(), &b"/"[..], written].concat(),
    };
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(1, |last| last + 1);
    path[..end].to_vec()
}

/// The directory that this program was installed in by a server, which names it by its content.
pub fn own_directory() -> Option<Metadata> {
    let program = env::current_exe().ok()?;
    let (directory, name) = (program.parent()?, program.file_name()?);
    let is_installed = name.to_str().is_some_and(|name| name.starts_with("archive-helper-"));
    let path = AbsPath::new(directory.as_os_str().as_bytes()).filter(|_| is_installed)?;
    Metadata::of(&path).ok()
}

fn home() -> Vec<u8> {
    let home = env::var_os("HOME").map(OsString::into_vec).filter(|home| home.starts_with(b"/"));
    let current = || env::current_dir().map(|path| path.into_os_string().into_vec());
    home.or_else(|| current().ok()).unwrap_or_else(|| b"/".to_vec())
}

// The absolute path in its shortest form; `None` if there is none.
fn resolve(written: &[u8], home: &[u8]) -> Option<AbsPath> {
    let (base, rest) = match written {
        [] => return None,
        [b'/', ..] => (&b""[..], written),
        b"~" => (home, &b""[..]),
        [b'~', b'/', rest @ ..] => (home, rest),
        _ => (home, written),
    };
    let mut path = Vec::new();
    let parts = base.split(|&byte| byte == b'/').chain(rest.split(|&byte| byte == b'/'));
    for part in parts.filter(|part| !part.is_empty() && *part != b".") {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    // A `..` fails here: where it leads is for the client's symlinks to say.
    if path.is_empty() { Some(AbsPath::root()) } else { AbsPath::new(path) }
}

fn open(path: &AbsPath) -> Result<(Root, Option<RootDir>), Errno> {
    let metadata = Metadata::of(path)?;
    let kind = metadata.kind.ok_or(Errno::INVAL)?;
    // What the kernel makes up is not walked, so it is as good as empty.
    let (directory, empty) = match kind {
        Kind::Dir => {
            let directory = Directory::open(path)?;
            let empty = directory.is_made_up() || directory.is_empty()?;
            (Some(directory), empty)
        }
        Kind::File => {
            let file = File::open_followed(path)?;
            (None, file.is_made_up() && file.metadata()?.size == 0)
        }
        _ => (None, false),
    };
    let root = Root::Found { path: path.clone(), entry: entry(path, kind, &metadata), empty };
    let opened = directory.map(|directory| RootDir { path: path.clone(), directory, device: metadata.device });
    Ok((root, opened))
}

// `None` for `/`, which has no name.
fn entry(path: &AbsPath, kind: Kind, metadata: &Metadata) -> Option<Entry> {
    let (_, name) = path.split()?;
    let attributes = attributes::of_root(path, metadata.may_have_holes());
    Some(Entry { attributes, ..metadata.entry(name, kind, Vec::new()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_paths_resolve() {
        let long = [b"/".as_slice(), &[b'x'; 256]].concat();
        let deep = b"/x".repeat(2048);
        let table: [(&[u8], Option<&[u8]>); 18] = [
            (b"/", Some(b"/")),
            (b"///", Some(b"/")),
            (b"/.", Some(b"/")),
            (b"/srv", Some(b"/srv")),
            (b"/srv/", Some(b"/srv")),
            (b"//srv/./a//b/.", Some(b"/srv/a/b")),
            (b"docs", Some(b"/home/anna/docs")),
            (b"./docs/", Some(b"/home/anna/docs")),
            (b".", Some(b"/home/anna")),
            (b"~", Some(b"/home/anna")),
            (b"~/", Some(b"/home/anna")),
            (b"~/a b", Some(b"/home/anna/a b")),
            (b"~bob/x", Some(b"/home/anna/~bob/x")),
            (b"/a/../b", None),
            (b"..", None),
            (b"", None),
            (b"/a\0b", None),
            (&long, None),
        ];
        for (written, expected) in table {
            let resolved = resolve(written, b"/home//anna/");
            assert_eq!(resolved.as_ref().map(AbsPath::as_bytes), expected, "{}", written.escape_ascii());
        }
        assert_eq!(resolve(&deep, b"/"), None);
    }
}
