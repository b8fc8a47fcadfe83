//! What must be true after a pull, said in the plainest way: maps of what was seen at each pull.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whose metadata the snapshot shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    All,
    OfSingleNames,
    /// Names that shared the inode may have been pruned.
    None,
}

/// Something in a tree, with what is to be kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub what: What,
    pub mode: u32,
    pub mtime: i64,
    pub owner: (u32, u32),
    pub links: u64,
}

/// A kind, with what makes up its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    File(Vec<u8>),
    Link(Vec<u8>),
    Dir,
    Fifo,
}

/// A tree, by paths relative to its root.
pub type Walk = BTreeMap<Vec<u8>, Seen>;

/// Looks at everything below a directory.
pub fn walk(root: &Path) -> Walk {
    let mut walk = Walk::new();
    let mut waiting = vec![Vec::new()];
    while let Some(directory) = waiting.pop() {
        let Ok(listing) = fs::read_dir(root.join(OsStr::from_bytes(&directory))) else { continue };
        for entry in listing {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
            let (path, seen) = ([&directory, slash, name.as_bytes()].concat(), look(&entry.path()));
            if seen.what == What::Dir {
                waiting.push(path.clone());
            }
            walk.insert(path, seen);
        }
    }
    walk
}

fn look(path: &Path) -> Seen {
    let found = fs::symlink_metadata(path).unwrap();
    let what = match found.file_type() {
        kind if kind.is_dir() => What::Dir,
        kind if kind.is_symlink() => What::Link(fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()),
        kind if kind.is_file() => What::File(fs::read(path).unwrap()),
        // Or a device: what is in the index only.
        _ => What::Fifo,
    };
    Seen {
        what,
        mode: found.mode() & 0o7777,
        mtime: found.mtime() * 1_000_000_000 + found.mtime_nsec(),
        owner: (found.uid(), found.gid()),
        links: found.nlink(),
    }
}

/// One archived version: the client's path, the stamp, the content.
type Archived = (Vec<u8>, String, What);

/// What one source must have after its pulls so far.
#[derive(Debug, Default)]
pub struct Model {
    /// The client at the last pull; true for what is in the archive already.
    current: BTreeMap<Vec<u8>, (Seen, bool)>,
    archive: BTreeMap<Archived, usize>,
    contents: BTreeSet<Vec<u8>>,
}

impl Model {
    /// Notes that the client was pulled as it is now, with `archive = "all"` or not.
    pub fn pulled(&mut self, now: Walk, all: bool) {
        let before = std::mem::take(&mut self.current);
        for (path, (was, archived)) in &before {
            if !archived && !now.get(path).is_some_and(|is| is_same_version(was, is)) {
                self.archive(path, was);
            }
        }
        for (path, is) in now {
            let earlier = before.get(&path).filter(|(was, _)| is_same_version(was, &is));
            let archived = earlier.map_or(all, |(_, archived)| *archived);
            if archived && earlier.is_none() {
                self.archive(&path, &is);
            }
            if let What::File(content) = &is.what {
                self.contents.insert(content.clone());
            }
            self.current.insert(path, (is, archived));
        }
    }

    /// Notes that everything went but what the last run shows.
    pub fn pruned(&mut self) {
        self.archive.clear();
        self.contents.clear();
        for (path, (seen, archived)) in self.current.clone() {
            if archived {
                self.archive(&path, &seen);
            }
            if let What::File(content) = seen.what {
                self.contents.insert(content);
            }
        }
    }

    fn archive(&mut self, path: &[u8], seen: &Seen) {
        if matches!(seen.what, What::File(_) | What::Link(_)) {
            *self.archive.entry((path.to_vec(), stamp(seen.mtime), seen.what.clone())).or_default() += 1;
        }
    }

    /// The snapshot has what the client has, and nothing else; with its metadata where no inode may have that of another file.
    pub fn assert_snapshot(&self, snapshot: &Path, metadata: Metadata) {
        let found = walk(snapshot);
        let wanted = self.current.iter().filter(|(_, (seen, _))| seen.what != What::Fifo);
        let wanted: BTreeMap<_, _> = wanted.map(|(path, (seen, _))| (path, seen)).collect();
        let names = |walk: Vec<&Vec<u8>>| walk.iter().map(|path| show(path)).collect::<Vec<_>>();
        assert_eq!(names(found.keys().collect()), names(wanted.keys().copied().collect()), "names in the snapshot");
        for (path, seen) in wanted {
            let found = &found[path];
            assert!(found.what == seen.what, "the content of {}", show(path));
            if metadata == Metadata::All || metadata == Metadata::OfSingleNames && found.links == 1 {
                assert_metadata(path, seen, found);
            }
        }
    }

    /// The archive has every version that was removed or replaced, and nothing else.
    pub fn assert_archive(&self, archive: &Path) {
        let mut found = BTreeMap::<Archived, usize>::new();
        for (path, seen) in walk(archive).into_iter().filter(|(_, seen)| seen.what != What::Dir) {
            // A directory's name got a `~` where a version had it before.
            let path = String::from_utf8_lossy(&path).replace("~/", "/").into_bytes();
            let (original, stamp) = unstamped(&path);
            *found.entry((original, stamp, seen.what)).or_default() += 1;
        }
        let mut wanted = BTreeMap::<Archived, usize>::new();
        for ((path, stamp, what), count) in &self.archive {
            let path = String::from_utf8_lossy(path).into_owned().into_bytes();
            *wanted.entry((path, stamp.clone(), what.clone())).or_default() += count;
        }
        let list = |versions: &BTreeMap<Archived, usize>| {
            let lines = versions
                .iter()
                .map(|((path, stamp, what), count)| format!("{} {stamp} {} x{count}", show(path), digest(what)));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(list(&found), list(&wanted), "the archive");
    }

    /// What the index must say of the current versions: each path's kind, size, mtime, mode, owner and hash.
    pub fn rows(&self) -> BTreeMap<Vec<u8>, String> {
        let rows = self.current.iter().map(|(path, (seen, _))| {
            let (kind, size, hash) = match &seen.what {
                What::File(content) => ("file", content.len(), blake3::hash(content).to_string()),
                What::Link(_) => ("symlink", 0, String::new()),
                What::Dir => ("dir", 0, String::new()),
                What::Fifo => ("fifo", 0, String::new()),
            };
            let (mtime, mode, (uid, gid)) = (seen.mtime, seen.mode, seen.owner);
            (path.clone(), format!("{kind} {size} {mtime} {mode:04o} {uid} {gid} {hash}"))
        });
        rows.collect()
    }

    /// Every content that was ever pulled.
    pub fn contents(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.contents.iter()
    }
}

// Another mode or owner makes no other file of it.
fn is_same_version(was: &Seen, is: &Seen) -> bool {
    was.what == is.what && was.mtime == is.mtime
}

fn assert_metadata(path: &[u8], wanted: &Seen, found: &Seen) {
    let added = if wanted.what == What::Dir { 0o700 } else { 0o600 };
    if !matches!(wanted.what, What::Link(_)) {
        assert_eq!(found.mode, wanted.mode & 0o777 | added, "the mode of {}", show(path));
    }
    if wanted.what != What::Dir {
        assert_eq!(found.mtime, wanted.mtime, "the mtime of {}", show(path));
    }
    assert_eq!(found.owner, wanted.owner, "the owner of {}", show(path));
}

fn stamp(mtime: i64) -> String {
    let second = jiff::Timestamp::from_second(mtime.div_euclid(1_000_000_000)).unwrap();
    second.strftime("%Y%m%dT%H%M%SZ").to_string()
}

// `NAME.STAMP` or `NAME.STAMP-N`, in parts.
fn unstamped(path: &[u8]) -> (Vec<u8>, String) {
    let text = String::from_utf8(path.to_vec()).unwrap();
    let numbered = text
        .rsplit_once('-')
        .filter(|(before, number)| before.ends_with('Z') && number.parse::<u32>().is_ok_and(|number| number >= 2));
    let plain = numbered.map_or(text.as_str(), |(before, _)| before);
    let (name, stamp) = plain.rsplit_once('.').unwrap_or_else(|| panic!("no stamp in {text}"));
    (name.as_bytes().to_vec(), stamp.to_owned())
}

fn digest(what: &What) -> String {
    match what {
        What::File(content) if content.len() > 20 => {
            format!("{} bytes {}", content.len(), &blake3::hash(content).to_hex()[..8])
        }
        What::File(content) | What::Link(content) => show(content),
        other => format!("{other:?}"),
    }
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
