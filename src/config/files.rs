//! The files of a configuration: where they are, and which of those in `conf.d` are read.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, OnServer, Result, cause};
use crate::source::BYTE_ORDER_MARK;

/// What is in `conf.d`, in the order of the names.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Files of the configuration.
    pub(super) read: Vec<PathBuf>,
    /// Files that a person may take for such.
    pub(super) ignored: Vec<PathBuf>,
}

/// The main file that counts: the first that exists. A symlink to nowhere does, and so does one at home that can't be looked
/// for, so that an error reports it. What root keeps to itself is no other user's configuration.
pub(super) fn usual() -> Option<PathBuf> {
    use ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    let is_root = nix::unistd::geteuid().is_root();
    let is_missing = |path: &PathBuf| match std::fs::symlink_metadata(path) {
        Ok(found) => found.is_dir(),
        Err(error) if path.starts_with("/etc") => error.kind() != PermissionDenied || !is_root,
        Err(error) => matches!(error.kind(), NotFound | NotADirectory),
    };
    usual_places().into_iter().find(|path| !is_missing(path))
}

fn usual_places() -> Vec<PathBuf> {
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let own = own.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    own.into_iter().chain([PathBuf::from("/etc")]).map(|place| place.join("archive/archive.toml")).collect()
}

/// The files in the `conf.d` beside the main file.
pub(super) fn beside(main: &Path) -> Result<Beside> {
    let directory = main.parent().unwrap_or(Path::new(".")).join("conf.d");
    // A symlink to nowhere is no missing directory: sources would go unnoticed.
    if std::fs::symlink_metadata(&directory).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(Beside::default());
    }
    let failed = format!("can't list the configuration in `{}`", directory.display());
    let listing = std::fs::read_dir(&directory).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let mut paths: Vec<_> = listing.on_server(failed)?.iter().map(std::fs::DirEntry::path).collect();
    paths.retain(|path| !is_leftover(path.file_name().unwrap_or_default()));
    paths.sort();
    let (read, ignored) =
        paths.into_iter().partition(|path| path.extension().is_some_and(|extension| extension == "toml"));
    Ok(Beside { read, ignored })
}

// True for what editors and package managers leave beside a file: their lock files, copies and backups.
fn is_leftover(name: &OsStr) -> bool {
    const ENDS: [&[u8]; 6] = [b"~", b".bak", b".orig", b".swp", b".swo", b"#"];
    const PACKAGE_MANAGERS: [&[u8]; 4] = [b".dpkg-", b".ucf-", b".rpmnew", b".rpmsave"];
    let name = name.as_bytes();
    name.starts_with(b".")
        || ENDS.iter().any(|end| name.ends_with(end))
        || PACKAGE_MANAGERS.iter().any(|mark| name.windows(mark.len()).any(|part| part == *mark))
}

/// The text of the main file.
pub(super) fn read(path: &Path) -> Result<String> {
    let bytes = read_bytes(path).map_err(|error| error.hint("name a configuration file with `--config FILE`"))?;
    String::from_utf8(bytes).map_err(|error| not_utf8(path, error.utf8_error()))
}

/// The error for a file that is no text.
pub(super) fn not_utf8(path: &Path, error: std::str::Utf8Error) -> Error {
    Error::usage(format_args!("the configuration `{}` is not UTF-8: {error}", path.display())).hint("save it as UTF-8")
}

/// The bytes of a file.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::usage(format_args!("can't read the configuration `{}`: {}", path.display(), cause(error)))
}

/// True when a file with a mistake seems to say what counts for every source. The main file alone may, but who wrote that
/// does not want the other sources to be pulled without it. The file need not be TOML.
pub(super) fn may_count_for_all(bytes: &[u8]) -> bool {
    const KEYS: [&[u8]; 4] = [b"repository", b"helper_dir", b"defaults", b"[defaults"];
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(bytes);
    bytes.split(|&byte| byte == b'\n').any(|line| {
        let line: Vec<u8> = line.iter().copied().filter(|byte| !b" \t\r\"'".contains(byte)).collect();
        KEYS.iter().any(|key| line.starts_with(key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_editors_and_package_managers_are_ignored() {
        for name in [
            ".#x.toml",
            ".x.toml",
            "x.toml~",
            "#x.toml#",
            "x.toml.bak",
            "x.toml.orig",
            ".x.toml.swp",
            "x.toml.dpkg-old",
        ] {
            assert!(is_leftover(OsStr::new(name)), "{name}");
        }
        for name in ["x.toml", "x~y.toml", "x.conf"] {
            assert!(!is_leftover(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn file_that_may_count_for_every_source_is_recognized_by_its_text() {
        for text in [
            "repository = '/x",
            "[source.a]\npaths = [\n[ defaults ]\n",
            "\"defaults\".hash = 1",
            "\thelper_dir=1",
            "\u{feff}repository = [",
        ] {
            assert!(may_count_for_all(text.as_bytes()), "{text}");
        }
        assert!(!may_count_for_all(b"[source.repository]\n# [defaults]\npaths = ["));
    }
}
