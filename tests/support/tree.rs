//! Trees as literals: what there is, in one expression.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use filetime::{FileTime, set_symlink_file_times};

/// Something to make. Names are bytes.
pub enum Node {
    /// A file with this content.
    File(Vec<u8>),
    /// A directory.
    Dir(Vec<(Vec<u8>, Node)>),
    /// A symlink with this target.
    Link(Vec<u8>),
    /// A fifo.
    Fifo,
    /// Something with these permission bits.
    Mode(u32, Box<Node>),
    /// Something with this mtime, seconds and nanoseconds.
    At(i64, u32, Box<Node>),
}

/// A file with this content.
pub fn file(content: impl AsRef<[u8]>) -> Node {
    Node::File(content.as_ref().to_vec())
}

/// A directory with these entries.
pub fn dir<N: AsRef<[u8]>>(entries: impl IntoIterator<Item = (N, Node)>) -> Node {
    Node::Dir(entries.into_iter().map(|(name, node)| (name.as_ref().to_vec(), node)).collect())
}

/// A symlink.
pub fn link(target: impl AsRef<[u8]>) -> Node {
    Node::Link(target.as_ref().to_vec())
}

/// A fifo.
pub fn fifo() -> Node {
    Node::Fifo
}

/// With these permission bits.
pub fn mode(bits: u32, node: Node) -> Node {
    Node::Mode(bits, Box::new(node))
}

/// With this mtime.
pub fn at(seconds: i64, nanoseconds: u32, node: Node) -> Node {
    Node::At(seconds, nanoseconds, Box::new(node))
}

/// A directory on the disk that is removed with this value.
pub struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    /// Makes a directory with these entries.
    pub fn new<N: AsRef<[u8]>>(entries: impl IntoIterator<Item = (N, Node)>) -> Tree {
        let tree = Tree { dir: tempfile::Builder::new().prefix("client").tempdir_in("/tmp").unwrap() };
        fs::create_dir(tree.root()).unwrap();
        tree.add(entries);
        tree
    }

    /// The directory to pull.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<[u8]>) -> PathBuf {
        self.root().join(OsStr::from_bytes(name.as_ref()))
    }

    /// Makes more entries.
    pub fn add<N: AsRef<[u8]>>(&self, entries: impl IntoIterator<Item = (N, Node)>) {
        for (name, node) in entries {
            make(&self.path(name), node);
        }
    }

    /// Makes something, in the place of what is there.
    pub fn put(&self, name: impl AsRef<[u8]>, node: Node) {
        self.remove(name.as_ref());
        make(&self.path(name), node);
    }

    /// Removes something, with all below it.
    pub fn remove(&self, name: impl AsRef<[u8]>) {
        let path = self.path(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
            Ok(_) => fs::remove_file(path).unwrap(),
            Err(_) => {}
        }
    }

    /// Renames something.
    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Gives a file a further name.
    pub fn hard_link(&self, from: &str, to: &str) {
        fs::hard_link(self.path(from), self.path(to)).unwrap();
    }
}

fn make(path: &Path, node: Node) {
    match node {
        Node::File(content) => fs::write(path, content).unwrap(),
        Node::Dir(entries) => {
            fs::create_dir(path).unwrap();
            for (name, node) in entries {
                make(&path.join(OsStr::from_bytes(&name)), node);
            }
        }
        Node::Link(target) => symlink(OsStr::from_bytes(&target), path).unwrap(),
        Node::Fifo => nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap(),
        Node::Mode(bits, node) => {
            make(path, *node);
            fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
        }
        Node::At(seconds, nanoseconds, node) => {
            make(path, *node);
            let time = FileTime::from_unix_time(seconds, nanoseconds);
            set_symlink_file_times(path, time, time).unwrap();
        }
    }
}

/// Bytes that nothing compresses, another sequence for each seed (xorshift, Marsaglia 2003).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// The names in a directory, sorted; none if it is not there.
pub fn names(path: &Path) -> Vec<String> {
    let Ok(listing) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<_> = listing.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The inode number of a path.
pub fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).ino()
}
