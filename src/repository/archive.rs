//! The archive of one source: earlier versions, each under its name with the time of its last change.

use std::collections::{HashMap, HashSet};

use nix::errno::Errno;

use super::dirs::{Dir, OpenTree};
use super::index::{Index, SourceId};
use crate::entry::Time;
use crate::error::Result;
use crate::path::{AbsPath, MAX_NAME, Name};
use crate::time::stamp;

// `~`, 32 digits, `~`: the end of a directory's name that was shortened.
const DIRECTORY_MARK: usize = 34;

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

    /// Moves something of the client's directory `path` here from a directory and a name there; returns its name here, which
    /// is free and none that `is_claimed`.
    pub fn take(
        &mut self,
        path: &AbsPath,
        (from, name): (&Dir, &Name),
        mtime: Time,
        is_claimed: impl Fn(&Name) -> bool,
    ) -> nix::Result<Name> {
        let to = self.directory(path)?;
        under_free_name(name, mtime, |archived| {
            if is_claimed(archived) { Err(Errno::EEXIST) } else { from.rename(name, &to, archived) }
        })
    }

    /// A name that is free here for a version of `name` in the client's directory `path`, and not `taken`, as those are that
    /// were given since the last [`settle`](Archive::settle).
    pub fn free_name(
        &mut self,
        path: &AbsPath,
        name: &Name,
        mtime: Time,
        taken: impl Fn(&Name) -> bool,
    ) -> nix::Result<Name> {
        let dir = self.directory(path)?;
        let is_fresh = self.fresh.contains(path);
        under_free_name(name, mtime, |archived| {
            if taken(archived) {
                return Err(Errno::EEXIST);
            }
            if is_fresh {
                return Ok(());
            }
            match dir.metadata(archived) {
                Err(Errno::ENOENT) => Ok(()),
                Ok(_) => Err(Errno::EEXIST),
                Err(errno) => Err(errno),
            }
        })
    }

    /// Frees `name` in the client's directory `path`: what is there, which nobody knows of, gets a number.
    pub fn make_room(&mut self, path: &AbsPath, name: &Name) -> nix::Result<()> {
        let dir = self.directory(path)?;
        number(&dir, name)
    }

    /// The directory here of the client's directory `path`, which must exist.
    pub fn existing_directory(&mut self, path: &AbsPath) -> nix::Result<Dir> {
        self.tree.directory_by(path, |base| open_directory(base, path))
    }

    /// The archive's own directory.
    pub fn base(&self) -> &Dir {
        self.tree.base()
    }

    /// Removes the directory of `path` if nothing is in it, and then those above it.
    pub fn clear(&mut self, path: &AbsPath) -> nix::Result<()> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        self.tree.forget(path);
        match open_directory(self.tree.base(), &parent).and_then(|dir| dir.remove_dir(&name_on_disk(&name))) {
            Ok(()) => self.clear(&parent),
            // Something is in it, or it is no directory.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The directory here of a client's directory, made if it is not there.
    pub fn directory(&mut self, path: &AbsPath) -> nix::Result<Dir> {
        let fresh = &mut self.fresh;
        self.tree.directory_by(path, |base| {
            let on_disk = path_on_disk(path);
            match base.open(&on_disk) {
                Err(Errno::ENOENT) => {}
                Err(Errno::ENOTDIR | Errno::ELOOP) => make_way(base, &on_disk)?,
                other => return other,
            }
            let made = base.open_or_create(&on_disk)?;
            fresh.insert(path.clone());
            Ok(made)
        })
    }
}

// Renames an unknown file that is where a directory must be.
fn make_way(base: &Dir, on_disk: &[u8]) -> nix::Result<()> {
    let mut dir = base.clone();
    for name in on_disk.split(|&byte| byte == b'/').filter_map(Name::new) {
        dir = match dir.open(name.as_bytes()) {
            Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTDIR | Errno::ELOOP) => return number(&dir, &name),
            other => other?,
        };
    }
    Ok(())
}

fn number(dir: &Dir, name: &Name) -> nix::Result<()> {
    for number in 2.. {
        match dir.rename(name, dir, &fitting(name, format!("-{number}").as_bytes())) {
            Err(Errno::EEXIST) => continue,
            other => return other,
        }
    }
    Err(Errno::EEXIST)
}

/// Renames something in a directory of the archive that has no archived file's name, and so could be where a directory must
/// be; returns its name then, which ends in its mtime.
pub fn give_stamp(dir: &Dir, name: &Name, mtime: Time) -> nix::Result<Name> {
    if is_stamped(name.as_bytes()) {
        return Ok(name.clone());
    }
    under_free_name(name, mtime, |stamped| dir.rename(name, dir, stamped))
}

/// Opens the archive's directory of a client's directory, below an archive's `base`.
pub fn open_directory(base: &Dir, path: &AbsPath) -> nix::Result<Dir> {
    base.open(&path_on_disk(path))
}

/// The path below an archive's base of a client's directory: names joined by `/`, empty for the base itself.
///
/// No two directories of a client share one, and none has a name that an archived file can have: see [`name_on_disk`].
pub fn path_on_disk(path: &AbsPath) -> Vec<u8> {
    let names = components(path).map(|name| name_on_disk(&name).as_bytes().to_vec());
    names.collect::<Vec<_>>().join(&b'/')
}

/// Client directories of a source by their path in the archive, where the two differ.
pub fn renamed_directories(index: &Index, source: SourceId) -> Result<HashMap<Vec<u8>, AbsPath>> {
    let directories = index.directories_below(source, &AbsPath::root())?.into_iter();
    let by_path = directories.map(|(_, path)| (path_on_disk(&path), path));
    Ok(by_path.filter(|(on_disk, path)| on_disk != path.below_root()).collect())
}

/// The client's directory that a directory of the archive stands for, and whether it is the one that [`path_on_disk`]
/// leads to: a shortened name tells nothing, and older programs gave directories other names.
pub fn original_path(on_disk: &AbsPath) -> (AbsPath, bool) {
    let mut is_exact = true;
    let path = components(on_disk).fold(AbsPath::root(), |above, name| {
        let original = original_directory_name(&name);
        is_exact &= name_on_disk(&original) == name;
        above.join(&original).unwrap_or(above)
    });
    (path, is_exact)
}

fn components(path: &AbsPath) -> impl Iterator<Item = Name> + '_ {
    path.below_root().split(|&byte| byte == b'/').filter_map(Name::new)
}

// A directory that is called like an archived file gets a `~` more. So does what could be such a name with its `~`, or one
// that was shortened, or two directories could come to have one name.
fn name_on_disk(name: &Name) -> Name {
    let bytes = name.as_bytes();
    if !is_stamped_directory(bytes) && !is_shortened_directory(bytes) {
        return name.clone();
    }
    let marked = [bytes, b"~"].concat();
    Name::new(if marked.len() <= MAX_NAME { marked } else { shortened_directory(bytes) })
        .expect("a name with a mark that was made to fit is a name")
}

fn original_directory_name(on_disk: &Name) -> Name {
    let bytes = on_disk.as_bytes();
    let unmarked = bytes.strip_suffix(b"~").filter(|_| is_stamped_directory(bytes) && !is_shortened_directory(bytes));
    unmarked.and_then(Name::new).unwrap_or_else(|| on_disk.clone())
}

fn is_stamped_directory(name: &[u8]) -> bool {
    let end = name.iter().rposition(|&byte| byte != b'~').map_or(0, |last| last + 1);
    is_stamped(&name[..end])
}

// As `shortened_directory` makes them.
fn is_shortened_directory(name: &[u8]) -> bool {
    let tail = name.len().checked_sub(DIRECTORY_MARK).map(|start| &name[start..]);
    let is_mark = |tail: &[u8]| {
        let (digits, ends) = (&tail[1..DIRECTORY_MARK - 1], (tail[0], tail[DIRECTORY_MARK - 1]));
        ends == (b'~', b'~') && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    name.len() == MAX_NAME && tail.is_some_and(is_mark)
}

// 128 bits of the hash, for a client that could find two names with one mark could have one directory hide another.
fn shortened_directory(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    [&name[..MAX_NAME - DIRECTORY_MARK], b"~", &hash.as_bytes()[..DIRECTORY_MARK - 2], b"~"].concat()
}

// Tries names until one is free; `act` fails with EEXIST where one is not.
fn under_free_name(name: &Name, mtime: Time, mut act: impl FnMut(&Name) -> nix::Result<()>) -> nix::Result<Name> {
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

/// The name in the archive of a version with this name and mtime: `.STAMP` behind it, and from the
/// second `attempt` on `-2`, `-3`, … What would be too long is shortened and carries 16 digits of its hash.
pub fn archive_name(name: &Name, mtime: Time, attempt: u32) -> Name {
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
    let stamped = bytes.iter().rposition(|&byte| byte == b'.').filter(|_| is_stamped(bytes));
    stamped.and_then(|dot| Name::new(&bytes[..dot])).unwrap_or_else(|| archived.clone())
}

// True for `….STAMP` and `….STAMP-N`.
fn is_stamped(name: &[u8]) -> bool {
    name.iter().rposition(|&byte| byte == b'.').is_some_and(|dot| is_stamp(&name[dot + 1..]))
}

fn is_stamp(text: &[u8]) -> bool {
    let are_digits = |digits: &[u8]| digits.iter().all(u8::is_ascii_digit);
    let (stamp, number) = match text.iter().position(|&byte| byte == b'-') {
        Some(dash) => (&text[..dash], Some(&text[dash + 1..])),
        None => (text, None),
    };
    stamp.len() == 16
        && (stamp[8], stamp[15]) == (b'T', b'Z')
        && are_digits(&stamp[..8])
        && are_digits(&stamp[9..15])
        && number.is_none_or(|number| !number.is_empty() && are_digits(number))
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

    const NOON: Time = Time::new(1_795_438_440, 0);

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

    fn on_disk(path: &[u8]) -> Vec<u8> {
        path_on_disk(&AbsPath::new(path).unwrap())
    }

    #[test]
    fn directory_called_like_archived_file_gets_mark() {
        assert_eq!(on_disk(b"/a/d~/b"), b"a/d~/b");
        assert_eq!(on_disk(b"/x.20261123T125400Z/y"), b"x.20261123T125400Z~/y");
        assert_eq!(on_disk(b"/x.20261123T125400Z~"), b"x.20261123T125400Z~~");
        assert_eq!(on_disk(b"/x.20261123T125400Z-2"), b"x.20261123T125400Z-2~");
        assert_eq!(on_disk(b"/x.20261123T125400Z-a"), b"x.20261123T125400Z-a");
        assert_eq!(on_disk(b"/"), b"");
    }

    #[test]
    fn directories_and_archived_files_never_share_name() {
        // Names with marks, stamps and shortened names, derived from each other.
        let long = |tail: &str| name(&("x".repeat(255 - tail.len()) + tail));
        let mut names: Vec<Name> = ["d", "d~", "d~~", ".20261123T125400Z"].map(name).into_iter().collect();
        names.extend(
            ["", "~", "-2", "-2~", ".20261123T125400Z", ".20261123T125400Z~", ".20261123T125400Z-12~"].map(long),
        );
        names.push(long(&format!("~{}~", "0".repeat(32))));
        for round in 0..4 {
            let next: Vec<Name> = names.iter().map(name_on_disk).collect();
            let files = names.iter().map(|name| archive_name(name, NOON, 1 + round));
            names = names
                .iter()
                .cloned()
                .chain(next)
                .chain(files)
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect();
        }
        assert!(names.len() > 100, "{}", names.len());
        let mapped: HashSet<Name> = names.iter().map(name_on_disk).collect();
        assert_eq!(mapped.len(), names.len(), "two directories share a name");
        let files: HashSet<Name> =
            names.iter().flat_map(|name| (1..4).map(|attempt| archive_name(name, NOON, attempt))).collect();
        assert!(mapped.is_disjoint(&files), "a directory has the name of an archived file");
    }

    #[test]
    fn original_path_undoes_what_is_not_shortened() {
        for path in [&b"/"[..], b"/a/d~", b"/x.20261123T125400Z/y", b"/x.20261123T125400Z-2~/z"] {
            let path = AbsPath::new(path).unwrap();
            let on_disk = AbsPath::new([b"/", &path_on_disk(&path)[..]].concat()).unwrap();
            assert_eq!(original_path(&on_disk), (path, true));
        }
        let of_old_program = AbsPath::new(&b"/x.20261123T125400Z/y"[..]).unwrap();
        assert_eq!(original_path(&of_old_program), (of_old_program.clone(), false));
    }

    proptest::proptest! {
        #[test]
        fn mapping_of_directories_is_injective(
            one in proptest::collection::vec("(x{0,3}|x{240,255})(\\.2026112[0-9]T125400Z(-[0-9]{1,3})?)?(~|~[0-9a-f]{32}~){0,3}", 1..3),
            other in proptest::collection::vec("(x{0,3}|x{240,255})(\\.2026112[0-9]T125400Z(-[0-9]{1,3})?)?(~|~[0-9a-f]{32}~){0,3}", 1..3),
        ) {
            let path = |parts: Vec<String>| {
                let parts = parts.iter().map(|part| part.as_bytes()[..part.len().min(255)].to_vec());
                AbsPath::new(parts.fold(Vec::new(), |path, part| [&path[..], b"/", &part].concat()))
            };
            if let (Some(one), Some(other)) = (path(one), path(other)) {
                proptest::prop_assert_eq!(one == other, path_on_disk(&one) == path_on_disk(&other));
            }
        }
    }

    #[test]
    fn directory_is_made_where_unknown_file_was() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("d"), "somebody's").unwrap();
        let mut archive = Archive::new(Dir::open_base(place.path()).unwrap());
        archive.directory(&AbsPath::new(&b"/d/e"[..]).unwrap()).unwrap();
        assert!(place.path().join("d/e").is_dir());
        assert_eq!(std::fs::read(place.path().join("d-2")).unwrap(), b"somebody's");
    }
}
