//! The archive of one source: earlier versions, each under its name with the time of its last change.

use std::collections::HashSet;

use nix::errno::Errno;

use super::dirs::{Dir, OpenTree};
use crate::entry::Kind;
use crate::path::{AbsPath, MAX_NAME, Name};
use crate::time::stamp;

/// The archive of one source.
#[derive(Debug)]
pub struct Archive {
    tree: OpenTree,
    // Directories in which nothing is but what was given a name since: see `settle`.
    fresh: HashSet<AbsPath>,
}

impl Archive {
    /// The archive that begins at `base`.
    pub fn new(base: Dir) -> Archive {
        Archive { tree: OpenTree::new(base), fresh: HashSet::new() }
    }

    /// Names that were given are taken from now on, as far as they are: whoever gives more has to look.
    pub fn settle(&mut self) {
        self.fresh.clear();
    }

    /// Moves `name` of the client's directory `path` here from `from`; returns its name here.
    pub fn take(&mut self, path: &AbsPath, from: &Dir, name: &Name, mtime: i64) -> nix::Result<Name> {
        let to = self.directory(path)?;
        under_free_name(name, mtime, |archived| from.rename(name, &to, archived))
    }

    /// A name that is free here for a version of `name` in the client's directory `path`, and not `taken`, as those are that
    /// were given since the last [`settle`](Archive::settle).
    pub fn free_name(
        &mut self,
        path: &AbsPath,
        name: &Name,
        mtime: i64,
        taken: impl Fn(&Name) -> bool,
    ) -> nix::Result<Name> {
        let dir = self.directory(path)?;
        let is_fresh = self.fresh.contains(path);
        under_free_name(name, mtime, |archived| match taken(archived) {
            true => Err(Errno::EEXIST),
            false if is_fresh => Ok(()),
            false => match dir.metadata(archived) {
                Err(Errno::ENOENT) => Ok(()),
                Ok(_) => Err(Errno::EEXIST),
                Err(errno) => Err(errno),
            },
        })
    }

    /// Gives `name` in the client's directory `path` free: a directory, which a client called like an archived file,
    /// goes to the place where it would have been made after that file; anything else gets a number.
    pub fn make_room(&mut self, path: &AbsPath, name: &Name) -> nix::Result<()> {
        let dir = self.directory(path)?;
        if dir.metadata(name)?.kind == Kind::Dir {
            path.join(name).iter().for_each(|below| self.tree.forget(below));
            return dir.rename(name, &dir, &aside(name));
        }
        for number in 2.. {
            match dir.rename(name, &dir, &fitting(name, format!("-{number}").as_bytes())) {
                Err(Errno::EEXIST) => continue,
                other => return other,
            }
        }
        Err(Errno::EEXIST)
    }

    /// Removes `name` of the client's directory `path`, if it still is a name of this inode.
    pub fn drop_name(&mut self, path: &AbsPath, name: &Name, inode: (u64, u64)) -> nix::Result<()> {
        let dir = match self.tree.directory_by(path, |base| open_directory(base, path, false)) {
            Err(Errno::ENOENT) => return Ok(()),
            other => other?,
        };
        match dir.metadata(name) {
            Ok(found) if found.inode == inode => dir.unlink(name),
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Removes the directory of `path` if nothing is in it, and then those above it.
    pub fn clear(&mut self, path: &AbsPath) -> nix::Result<()> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        self.tree.forget(path);
        let removed = self.tree.base().open(parent.below_root()).and_then(|dir| dir.remove_dir(&name));
        match removed {
            Ok(()) => self.clear(&parent),
            // Something is in it, or it has another place.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The directory here of a client's directory, made if it is not there.
    pub fn directory(&mut self, path: &AbsPath) -> nix::Result<Dir> {
        let fresh = &mut self.fresh;
        self.tree.directory_by(path, |base| match open_directory(base, path, false) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                let made = open_directory(base, path, true)?;
                fresh.insert(path.clone());
                Ok(made)
            }
            other => other,
        })
    }
}

/// Opens the archive's directory of a client's directory, below an archive's `base`.
///
/// A client may have a directory of the very name that an archived file got. Such a directory has a `~` behind
/// its name here.
pub fn open_directory(base: &Dir, path: &AbsPath, create: bool) -> nix::Result<Dir> {
    let missing = match base.open(path.below_root()) {
        Err(missing @ (Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => missing,
        other => return other,
    };
    // Most of what is above it is there.
    let (parent, name) = path.split().ok_or(missing)?;
    let above = open_directory(base, &parent, create)?;
    match above.open(name.as_bytes()) {
        Err(Errno::ENOENT) if create && above.open(aside(&name).as_bytes()).is_err() => {
            above.open_or_create(name.as_bytes())
        }
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) if create => above.open_or_create(aside(&name).as_bytes()),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => above.open(aside(&name).as_bytes()),
        other => other,
    }
}

/// The path below an archive's `base` of a client's directory: see [`open_directory`].
pub fn path_on_disk(base: &Dir, path: &AbsPath) -> AbsPath {
    if base.open(path.below_root()).is_ok() {
        return path.clone();
    }
    let parts = path.below_root().split(|&byte| byte == b'/').filter_map(Name::new);
    parts.fold(AbsPath::root(), |above, name| {
        let is_there = |name: &Name| above.join(name).is_some_and(|path| base.open(path.below_root()).is_ok());
        let name = if !is_there(&name) && is_there(&aside(&name)) { aside(&name) } else { name };
        above.join(&name).unwrap_or(above)
    })
}

fn aside(name: &Name) -> Name {
    fitting(name, b"~")
}

// Tries names until one is free; `act` fails with EEXIST where one is not.
fn under_free_name(name: &Name, mtime: i64, mut act: impl FnMut(&Name) -> nix::Result<()>) -> nix::Result<Name> {
    for attempt in 1.. {
        let archived = archive_name(name, mtime, attempt);
        match act(&archived) {
            Ok(()) => return Ok(archived),
            Err(Errno::EEXIST) => continue,
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EEXIST)
}

/// The name in the archive of a version with this name and mtime (nanoseconds): `.STAMP` behind it, and from the
/// second `attempt` on `-2`, `-3`, … What would be too long is shortened and carries 16 digits of its hash.
pub fn archive_name(name: &Name, mtime: i64, attempt: u32) -> Name {
    let suffix = match attempt {
        1 => format!(".{}", stamp(mtime)),
        _ => format!(".{}-{attempt}", stamp(mtime)),
    };
    fitting(name, suffix.as_bytes())
}

/// The name on the client that an archived name stands for, as far as it tells: what is before the stamp.
/// Only a rebuild of the index asks, when nothing better is left.
pub fn original_name(archived: &Name) -> Name {
    let bytes = archived.as_bytes();
    let stamped = bytes.iter().rposition(|&byte| byte == b'.').filter(|&dot| is_stamp(&bytes[dot + 1..]));
    stamped.and_then(|dot| Name::new(&bytes[..dot])).unwrap_or_else(|| archived.clone())
}

fn is_stamp(text: &[u8]) -> bool {
    let stamp = text.split(|&byte| byte == b'-').next().unwrap_or_default();
    stamp.len() == 16
        && stamp[8] == b'T'
        && stamp[15] == b'Z'
        && [&stamp[..8], &stamp[9..15]].iter().all(|digits| digits.iter().all(u8::is_ascii_digit))
}

fn fitting(name: &Name, suffix: &[u8]) -> Name {
    let bytes = name.as_bytes();
    let whole = [bytes, suffix].concat();
    let fits = if whole.len() <= MAX_NAME { whole } else { shortened(bytes, suffix) };
    Name::new(fits).expect("a name with a suffix that was made to fit is a name")
}

fn shortened(name: &[u8], suffix: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    let mark = [b"~", &hash.as_bytes()[..16]].concat();
    let mut kept = MAX_NAME - suffix.len() - mark.len();
    // Don't cut a character of UTF-8 in two.
    while kept > 1 && name[kept] & 0xc0 == 0x80 {
        kept -= 1;
    }
    [&name[..kept], &mark, suffix].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_795_438_440_000_000_000;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn a_stamp_is_put_behind_the_name() {
        assert_eq!(archive_name(&name("a.txt"), NOON, 1).to_string(), "a.txt.20261123T125400Z");
        assert_eq!(archive_name(&name("a.txt"), NOON, 3).to_string(), "a.txt.20261123T125400Z-3");
    }

    #[test]
    fn a_long_name_is_shortened_and_stays_distinct() {
        let (one, two) = (name(&"x".repeat(255)), name(&("x".repeat(254) + "y")));
        let archived = [archive_name(&one, NOON, 1), archive_name(&two, NOON, 1)];
        assert!(archived.iter().all(|name| name.as_bytes().len() == 255));
        assert!(archived.iter().all(|name| name.to_string().ends_with(".20261123T125400Z")));
        assert_ne!(archived[0], archived[1]);
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let archived = archive_name(&name(&"ä".repeat(127)), NOON, 1);
        assert!(std::str::from_utf8(archived.as_bytes()).is_ok());
    }

    #[test]
    fn the_original_name_stands_before_the_stamp() {
        let twice = archive_name(&archive_name(&name("a"), NOON, 1), NOON, 2);
        assert_eq!(original_name(&twice), archive_name(&name("a"), NOON, 1));
        assert_eq!(original_name(&name("a.txt")), name("a.txt"));
    }

    #[test]
    fn a_name_is_free_until_it_is_given_away_or_taken() {
        let place = tempfile::tempdir().unwrap();
        let mut archive = Archive::new(Dir::open_base(place.path()).unwrap());
        let path = AbsPath::new(&b"/d"[..]).unwrap();
        let first = archive_name(&name("f"), NOON, 1);
        let free = |archive: &mut Archive, is_given: bool| {
            archive.free_name(&path, &name("f"), NOON, |archived| is_given && *archived == first).unwrap()
        };
        assert_eq!(free(&mut archive, false), first);
        assert_eq!(free(&mut archive, true), archive_name(&name("f"), NOON, 2));
        std::fs::write(place.path().join("d").join(first.to_string()), "").unwrap();
        archive.settle();
        assert_eq!(free(&mut archive, false), archive_name(&name("f"), NOON, 2), "others have made it");
    }

    #[test]
    fn a_directory_is_made_beside_a_file_that_has_the_name_aside() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("d~"), "a backup of somebody's").unwrap();
        let mut archive = Archive::new(Dir::open_base(place.path()).unwrap());
        archive.directory(&AbsPath::new(&b"/d"[..]).unwrap()).unwrap();
        assert!(place.path().join("d").is_dir());
    }

    #[test]
    fn a_directory_called_like_an_archived_file_gets_its_own_place() {
        let place = tempfile::tempdir().unwrap();
        let base = Dir::open_base(place.path()).unwrap();
        base.create_file(&name("x")).unwrap();
        let path = AbsPath::new(&b"/x/y"[..]).unwrap();
        let made = open_directory(&base, &path, true).unwrap();
        made.create_file(&name("kept")).unwrap();
        let found = open_directory(&base, &path, false).unwrap();
        assert_eq!(found.names().unwrap(), [name("kept")]);
        assert_eq!(path_on_disk(&base, &path), AbsPath::new(&b"/x~/y"[..]).unwrap());
    }
}
