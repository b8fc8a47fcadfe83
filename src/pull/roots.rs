//! Roots: how they are asked for, and what the client tells of them.

use archive_helper::protocol::{Root, Walk};

use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::path::{AbsPath, Escaped, Name};
use crate::source::Source;

/// The request to walk a source's roots; for all entries of every directory with `all`.
pub fn walk(source: &Source, repository_id: &str, all: bool) -> Result<Walk> {
    let settings = &source.settings;
    let markers = settings.exclude_if_present.iter().map(|name| {
        Name::new(name.as_bytes()).ok_or_else(|| {
            Error::usage(format_args!("`{}` is no file name", Escaped(name.as_bytes())))
                .hint("`exclude_if_present` takes names, not paths")
        })
    });
    Ok(Walk {
        roots: source.paths.clone(),
        exclude: settings.exclude.clone(),
        exclude_caches: settings.exclude_caches,
        exclude_if_present: markers.collect::<Result<_>>()?,
        one_file_system: settings.one_file_system,
        repository: repository_id.to_owned(),
        all,
    })
}

/// True when a root that the client tells of is the one that was asked for. A relative root starts at the account's home, of
/// which only the client knows.
pub fn is_what_was_asked(written: &[u8], root: &Root) -> bool {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        parts.map(<[u8]>::to_vec).collect()
    };
    match root {
        Root::Invalid => true,
        Root::Found { path, .. } | Root::Missing { path } | Root::Unreadable { path, .. } => {
            let at_home = if written == b"~" { Some(&b""[..]) } else { written.strip_prefix(b"~/") };
            let (asked, told) = (parts(at_home.unwrap_or(written)), parts(path.as_bytes()));
            if written.starts_with(b"/") { told == asked } else { told.ends_with(&asked) }
        }
    }
}

/// Refuses roots of which one lies within another.
pub fn refuse_overlap(roots: &[(AbsPath, Option<Entry>)]) -> Result<()> {
    for (at, (one, _)) in roots.iter().enumerate() {
        for (other, _) in &roots[at + 1..] {
            if one.starts_with(other) || other.starts_with(one) {
                return Err(Error::usage(format_args!("`{one}` and `{other}` overlap")).hint("name only the outer one"));
            }
        }
    }
    Ok(())
}
