//! What happens on the clients: every kind of change, with names and contents that are prone to be mixed up.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use filetime::FileTime;

use super::Dice;
use crate::support::noise;

/// Something in a tree, as far as it must be given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: i64,
    /// Of a file its hash, of a symlink its target.
    pub content: Vec<u8>,
    pub mode: u32,
    pub mtime: i64,
    pub owner: (u32, u32),
    pub size: u64,
    /// Device and inode.
    pub inode: (u64, u64),
    pub links: u64,
}

/// Trees by absolute paths.
pub type Walk = BTreeMap<Vec<u8>, Seen>;

/// One kind of change.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Write,
    Append,
    Rewrite,
    Sneak,
    Touch,
    Chmod,
    Chown,
    Xattr,
    HardLink,
    Remove,
    Clear,
    Rename,
    Copy,
    Symlink,
    Mkdir,
    Fifo,
    Swap,
    Churn,
    Twins,
}

/// How often each occurs.
pub const CHANGES: [(Change, u64); 19] = [
    (Change::Write, 8),
    (Change::Append, 2),
    (Change::Rewrite, 5),
    (Change::Sneak, 3),
    (Change::Touch, 3),
    (Change::Chmod, 5),
    (Change::Chown, 3),
    (Change::Xattr, 3),
    (Change::HardLink, 4),
    (Change::Remove, 4),
    (Change::Clear, 2),
    (Change::Rename, 4),
    (Change::Copy, 4),
    (Change::Symlink, 2),
    (Change::Mkdir, 4),
    (Change::Fifo, 1),
    (Change::Swap, 2),
    (Change::Churn, 3),
    (Change::Twins, 3),
];

// That of the stamps in the names, twice, and another.
const TIMES: [(i64, u32); 3] = [(1_000_000_000, 0), (1_000_000_000, 1), (1_200_000_000, 5)];
const SIZES: [usize; 8] = [100, 100, 100, 7, 7, 0, 3_000, 140_000];
const MODES: [u32; 5] = [0o644, 0o600, 0o755, 0o444, 0o4755];
const TARGETS: [&str; 3] = ["a", "a~", "../r/d"];

/// Names that a careless program takes for its own, or for each other.
pub fn names() -> Vec<Vec<u8>> {
    let stamp = b".20010909T014640Z";
    let long = [&[b'x'; 255 - 17][..], stamp].concat();
    let longer = [&[b'x'; 254 - 17][..], stamp, b"~"].concat();
    let shortened = [&[b'x'; 221][..], b"~", blake3::hash(&long).to_hex()[..32].as_bytes(), b"~"].concat();
    let mut names: Vec<Vec<u8>> = ["a", "a~", "d", "d~", "b", "a.20010909T014640Z", "a.20010909T014640Z~"]
        .map(|name| name.as_bytes().to_vec())
        .to_vec();
    names.extend([b"a.20010909T014640Z-2".to_vec(), b"\xff\xfe".to_vec(), long, longer, shortened, vec![b'y'; 255]]);
    names
}

/// The roots of one client.
pub struct Client {
    base: PathBuf,
    names: Vec<Vec<u8>>,
}

impl Client {
    /// Makes a client with three roots, of which one is a file, at different depths.
    pub fn new(base: PathBuf) -> Client {
        fs::create_dir_all(base.join("r")).unwrap();
        fs::create_dir_all(base.join("deep/er/q~")).unwrap();
        fs::write(base.join("f"), "a root that is a file").unwrap();
        fs::write(base.join("r/stays"), "stays").unwrap();
        let plain = ["a", "b", "d", "e", "k"].map(|name| name.as_bytes().to_vec()).to_vec();
        Client { base, names: if super::is_left_out("Names") { plain } else { names() } }
    }

    /// The roots.
    pub fn roots(&self) -> Vec<PathBuf> {
        ["r", "deep/er/q~", "f"].map(|root| self.base.join(root)).to_vec()
    }

    fn found(&self, fits: impl Fn(&fs::Metadata) -> bool) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut waiting = self.roots()[..2].to_vec();
        while let Some(directory) = waiting.pop() {
            for path in children(&directory) {
                let metadata = fs::symlink_metadata(&path).unwrap();
                if metadata.is_dir() {
                    waiting.push(path.clone());
                }
                if fits(&metadata) && !path.ends_with("stays") {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    fn any_file(&self, dice: &mut Dice) -> Option<PathBuf> {
        let mut files = self.found(fs::Metadata::is_file);
        files.push(self.base.join("f"));
        dice.one_of(&files)
    }

    fn any(&self, dice: &mut Dice) -> Option<PathBuf> {
        dice.one_of(&self.found(|_| true))
    }

    fn directory(&self, dice: &mut Dice) -> PathBuf {
        let mut directories = self.found(|found| found.is_dir());
        // Not too deep, or the long names make paths that no call takes.
        directories.retain(|path| path.as_os_str().len() < 1000);
        directories.extend(self.roots()[..2].to_vec());
        dice.one_of(&directories).unwrap()
    }

    fn spot(&self, dice: &mut Dice) -> PathBuf {
        let directory = self.directory(dice);
        // The short ones most of the time.
        let names = if dice.below(3) > 0 { &self.names[..5] } else { &self.names[..] };
        directory.join(OsStr::from_bytes(&dice.one_of(names).unwrap()))
    }

    /// Makes a change; what the system refuses is left undone. Returns what was done, in words.
    pub fn change(&self, change: Change, dice: &mut Dice) -> String {
        let short = |path: &Path| path.strip_prefix(&self.base).unwrap_or(path).display().to_string();
        let spot = self.spot(dice);
        let Some(file) = self.any_file(dice) else { return String::new() };
        let any = self.any(dice).unwrap_or_else(|| file.clone());
        let words = match change {
            Change::Write | Change::Mkdir | Change::Fifo | Change::Swap | Change::Twins => short(&spot),
            Change::HardLink | Change::Copy | Change::Rename => {
                format!("{} to {}", short(if matches!(change, Change::Rename) { &any } else { &file }), short(&spot))
            }
            Change::Touch | Change::Chown | Change::Xattr | Change::Remove => short(&any),
            Change::Clear | Change::Churn | Change::Symlink => String::new(),
            _ => short(&file),
        };
        let more = self.carry_out(change, dice, &spot, &file, &any).unwrap_or_else(|error| format!(" ({error})"));
        format!("{change:?} {words}{more}")
    }

    fn carry_out(
        &self,
        change: Change,
        dice: &mut Dice,
        spot: &Path,
        file: &Path,
        any: &Path,
    ) -> std::io::Result<String> {
        match change {
            Change::Write if dice.below(20) == 0 => return write(&self.base.join("f"), dice),
            Change::Write => return write(spot, dice),
            Change::Append => {
                let longer = [fs::read(file)?, b"+".to_vec()].concat();
                fs::write(file, longer)?;
            }
            Change::Rewrite => {
                let size = fs::metadata(file)?.len() as usize;
                fs::write(file, noise(dice.below(4), size))?;
                settle(file, dice)?;
            }
            Change::Sneak => {
                let was = fs::metadata(file)?;
                fs::write(file, noise(dice.below(4), was.len() as usize))?;
                filetime::set_file_mtime(file, FileTime::from_last_modification_time(&was))?;
            }
            Change::Touch => settle(any, dice)?,
            Change::Chmod => fs::set_permissions(file, fs::Permissions::from_mode(dice.one_of(&MODES).unwrap()))?,
            Change::Chown => lchown(any, Some(dice.below(3) as u32), Some(dice.below(3) as u32))?,
            Change::Xattr => {
                let name = ["user.one", "user.two"][dice.below(2) as usize];
                let (value, none) = ([dice.below(3) as u8], rustix::fs::XattrFlags::empty());
                if dice.below(4) == 0 {
                    rustix::fs::lremovexattr(any, name)?;
                } else {
                    rustix::fs::lsetxattr(any, name, &value, none)?;
                }
            }
            Change::HardLink => {
                if file != spot {
                    remove(spot)?;
                    fs::hard_link(file, spot)?;
                }
            }
            Change::Remove => remove(any)?,
            Change::Clear => {
                let directory = self.directory(dice);
                children(&directory)
                    .iter()
                    .filter(|path| !path.ends_with("stays"))
                    .try_for_each(|path| remove(path))?;
                return Ok(directory.strip_prefix(&self.base).unwrap_or(&directory).display().to_string());
            }
            Change::Rename => {
                if !spot.starts_with(any) && !any.starts_with(spot) {
                    remove(spot)?;
                    fs::rename(any, spot)?;
                }
            }
            Change::Copy => {
                let (content, was) = (fs::read(file)?, fs::metadata(file)?);
                if !file.starts_with(spot) {
                    remove(spot)?;
                    fs::write(spot, content)?;
                    if dice.below(2) == 0 {
                        filetime::set_file_mtime(spot, FileTime::from_last_modification_time(&was))?;
                    }
                }
            }
            Change::Symlink => {
                remove(spot)?;
                symlink(dice.one_of(&TARGETS).unwrap(), spot)?;
                settle(spot, dice)?;
            }
            Change::Mkdir => {
                if !spot.is_dir() {
                    remove(spot)?;
                    fs::create_dir(spot)?;
                }
            }
            Change::Fifo => {
                remove(spot)?;
                nix::unistd::mkfifo(spot, nix::sys::stat::Mode::from_bits_truncate(0o644))?;
            }
            Change::Swap => self.swap(dice, spot)?,
            Change::Churn => return self.churn(dice),
            Change::Twins => return self.twins(dice),
        }
        Ok(String::new())
    }

    // A directory becomes a file, anything else a directory with a file.
    fn swap(&self, dice: &mut Dice, spot: &Path) -> std::io::Result<()> {
        let was_directory = fs::symlink_metadata(spot).is_ok_and(|found| found.is_dir());
        remove(spot)?;
        if was_directory {
            write(spot, dice)?;
        } else {
            fs::create_dir(spot)?;
            write(&spot.join("a"), dice)?;
        }
        Ok(())
    }

    // Files with two names go from one root, and others with two names come to the other: most file systems give them the
    // same inode numbers.
    fn churn(&self, dice: &mut Dice) -> std::io::Result<String> {
        let roots = self.roots();
        let (from, to) = if dice.below(2) == 0 { (&roots[0], &roots[1]) } else { (&roots[1], &roots[0]) };
        let mut gone = 0;
        for path in self.found(|found| found.is_file() && found.nlink() > 1) {
            if path.starts_with(from) {
                fs::remove_file(&path)?;
                gone += 1;
            }
        }
        for name in ["a", "b", "k"] {
            let (first, second) = (to.join(name), to.join(format!("{name}-2")));
            remove(&first)?;
            remove(&second)?;
            fs::write(&first, noise(dice.below(6), 100))?;
            settle(&first, dice)?;
            fs::hard_link(&first, &second)?;
        }
        Ok(format!("{gone} linked names removed, three pairs made in {}", to.display()))
    }

    // Two directories whose names a mapping could confuse, with one file of one time each.
    fn twins(&self, dice: &mut Dice) -> std::io::Result<String> {
        let pairs = [("d", "d~"), ("a.20010909T014640Z", "a.20010909T014640Z~"), ("a", "a~")];
        let (parent, (one, two)) = (self.directory(dice), dice.one_of(&pairs).unwrap());
        for name in [one, two] {
            let directory = parent.join(name);
            if !directory.is_dir() {
                remove(&directory)?;
                fs::create_dir(&directory)?;
            }
            let file = directory.join("a");
            remove(&file)?;
            fs::write(&file, noise(dice.below(4), 100))?;
            filetime::set_file_mtime(&file, FileTime::from_unix_time(TIMES[0].0, TIMES[0].1))?;
        }
        Ok(format!(": {} with {one} and {two}", parent.display()))
    }

    /// Puts files of one size into a directory, all with the contents that the numbers from `seed` on say.
    pub fn crowd(&self, seed: u64, files: u64) {
        let directory = self.base.join("r/crowd");
        let _ = fs::create_dir(&directory);
        for number in 0..files {
            let path = directory.join(format!("f{number}"));
            let _ = remove(&path);
            fs::write(path, noise(1_000_000 + seed * 1_000 + number, 1_000)).unwrap();
        }
    }
}

fn write(spot: &Path, dice: &mut Dice) -> std::io::Result<String> {
    if fs::symlink_metadata(spot).is_ok_and(|found| !found.is_file()) {
        remove(spot)?;
    }
    let sizes = if dice.below(6) == 0 { &SIZES[..] } else { &SIZES[..6] };
    let size = dice.one_of(sizes).unwrap();
    let seed = dice.below(4);
    fs::write(spot, noise(seed, size))?;
    settle(spot, dice)?;
    Ok(format!(" {size} bytes from {seed}"))
}

// Half of the times one of a few.
fn settle(path: &Path, dice: &mut Dice) -> std::io::Result<()> {
    if dice.below(2) > 0 {
        let (seconds, nanoseconds) = dice.one_of(&TIMES).unwrap();
        let time = FileTime::from_unix_time(seconds, nanoseconds);
        filetime::set_symlink_file_times(path, time, time)?;
    }
    Ok(())
}

/// Removes whatever is there, if anything is.
pub fn remove(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(directory) else { return Vec::new() };
    listing.map(|entry| entry.unwrap().path()).collect()
}

/// Everything at and below a path, under its absolute path with `from` replaced by `to`.
pub fn walk(from: &Path, to: &Path) -> Walk {
    let mut walk = Walk::new();
    let mut waiting = vec![from.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            waiting.extend(children(&path));
        }
        let below = path.strip_prefix(from).unwrap();
        let named = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
        walk.insert(named.into_os_string().into_vec(), look(&path, &metadata));
    }
    walk
}

fn look(path: &Path, metadata: &fs::Metadata) -> Seen {
    let (kind, content) = match metadata.file_type() {
        kind if kind.is_file() => (0, blake3::hash(&fs::read(path).unwrap()).as_bytes().to_vec()),
        kind if kind.is_dir() => (1, Vec::new()),
        kind if kind.is_symlink() => (2, fs::read_link(path).unwrap().into_os_string().into_vec()),
        _ => (3, Vec::new()),
    };
    Seen {
        kind,
        content,
        mode: metadata.mode() & 0o7777,
        mtime: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        owner: (metadata.uid(), metadata.gid()),
        size: metadata.len(),
        inode: (metadata.dev(), metadata.ino()),
        links: metadata.nlink(),
    }
}
