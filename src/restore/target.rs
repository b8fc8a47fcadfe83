//! What a restore writes to: a directory of this machine, or one of a host.

use std::path::Path;

use nix::errno::Errno;

use crate::client::{Client, RestoreOptions, RestoreRefused, RestoreSession};
use crate::error::{Error, Kind, Result};
use crate::path::{AbsPath, Escaped};

/// Where things are restored to.
#[derive(Clone, Copy)]
pub enum To<'a> {
    /// A directory of this machine.
    Here {
        /// This machine.
        client: &'a dyn Client,
        /// The directory.
        path: &'a Path,
    },
    /// A directory of a client.
    There {
        /// The client.
        client: &'a dyn Client,
        /// The directory; a relative one starts at the home directory.
        directory: &'a [u8],
        /// Host and directory as the user wrote them, as in `anna@laptop:/home`.
        written: &'a [u8],
    },
}

impl<'a> To<'a> {
    /// The machine.
    pub fn client(&self) -> &'a dyn Client {
        match self {
            To::Here { client, .. } | To::There { client, .. } => *client,
        }
    }
}

/// Names the paths at the destination, for messages and lists.
pub(super) struct TargetPaths(Vec<u8>);

impl TargetPaths {
    /// Paths below the destination.
    pub(super) fn below(to: &To<'_>, options: &RestoreOptions) -> TargetPaths {
        match to {
            To::Here { .. } => TargetPaths(options.destination.clone()),
            To::There { written, .. } => TargetPaths(written.to_vec()),
        }
    }

    /// The path of one of them, as in `anna@laptop:/home/anna/notes.txt`.
    pub(super) fn of(&self, path: &AbsPath) -> Vec<u8> {
        if path.is_root() {
            return self.0.clone();
        }
        let end = self.0.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        [&self.0[..end], path.as_bytes()].concat()
    }
}

/// Returns the path that a path of the client gets below a destination, which is as the user wrote it.
pub fn target_of(written: &[u8], path: &AbsPath, in_place: bool) -> Vec<u8> {
    let below = match path.split() {
        Some((_, name)) if !in_place => AbsPath::root().join(&name),
        _ => Some(path.clone()),
    };
    TargetPaths(written.to_vec()).of(&below.unwrap_or_else(AbsPath::root))
}

/// Opens one of several sessions at a time with the destination.
pub(super) fn open_session<'a>(to: To<'a>, options: &RestoreOptions) -> Result<Box<dyn RestoreSession + 'a>> {
    to.client().restore(options).map_err(|refused| match refused {
        RestoreRefused::Destination(errno) => unusable(&to, options, errno),
        RestoreRefused::Client(error) => error,
    })
}

fn unusable(to: &To<'_>, options: &RestoreOptions, errno: i32) -> Error {
    let (paths, why) = (TargetPaths::below(to, options), Errno::from_raw(errno).desc());
    if Errno::from_raw(errno) == Errno::EBUSY {
        let destination = paths.of(&AbsPath::root());
        return Error::usage(format_args!(
            "`{}` is in the repository, whose trees only pulls change",
            Escaped(&destination)
        ))
        .hint("name a directory outside of it");
    }
    Error::new(Kind::Failed, format_args!("can't restore to `{}`: {why}", Escaped(&paths.of(&AbsPath::root()))))
        .hint("name a directory, or a new one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_paths_have_one_slash_between_destination_and_path() {
        let path = AbsPath::new("/a/b").unwrap();
        for (destination, shown) in
            [("/", "/a/b"), ("/d", "/d/a/b"), ("h:/", "h:/a/b"), ("h:.", "h:./a/b"), ("/d//", "/d/a/b")]
        {
            assert_eq!(TargetPaths(destination.into()).of(&path), shown.as_bytes());
        }
        assert_eq!(TargetPaths(b"h:/".to_vec()).of(&AbsPath::root()), b"h:/");
    }
}
