//! The machine behind a fake client: a tree in memory, a virtual clock, and what is wrong with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::faults::Faults;
use crate::client::list::Mounted;
use crate::client::{FileState, MachineId};
use crate::entry::{Entry, Hash, Inode, Kind, Time, unknown_directory};
use crate::path::{AbsPath, Name};

// The device number of the machine's only file system.
const DEVICE: u64 = 1;

/// A machine in memory. Clients connect to it one after the other, and its tree changes between their calls.
#[derive(Debug)]
pub struct Machine {
    state: Mutex<State>,
}

/// Everything that a machine is.
#[derive(Debug)]
pub struct State {
    /// Entries by name, by the directory that holds them.
    pub directories: BTreeMap<AbsPath, BTreeMap<Name, Node>>,
    /// Where relative paths start.
    pub home: AbsPath,
    /// What distinguishes the machine.
    pub id: Option<MachineId>,
    /// The time on a clock that only work and [`Machine::advance`] move.
    pub now: Duration,
    /// How long each event takes.
    pub latency: Duration,
    /// How fast content arrives.
    pub bytes_per_second: Option<u64>,
    /// What is going to fail.
    pub faults: Faults,
    next_inode: u64,
}

/// One thing in the tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// What a listing reports of it.
    pub entry: Entry,
    /// The content of a file.
    pub content: Arc<[u8]>,
    /// Its inode number.
    pub inode: u64,
    /// Why it can't be read: the system's error number. A directory with one is not listed.
    pub errno: Option<i32>,
    /// What is mounted on a directory.
    pub mounted: Mounted,
    /// What the client says that is not so.
    pub lie: Option<Lie>,
}

/// What a client says of a file that is not so.
#[derive(Clone, Debug)]
pub enum Lie {
    /// A listing reports this of it; whoever reads it finds what it is.
    Entry(Box<Entry>),
    /// This is its hash, and the proof is made up.
    Hash(Hash),
    /// This is its content, whatever was hashed and listed.
    Content(Arc<[u8]>),
    /// It changes whenever it is read: no hash comes of it, and no consistent content.
    KeepsChanging,
}

impl Machine {
    /// A machine with nothing but its root directory.
    pub fn new() -> Arc<Machine> {
        let directories = BTreeMap::from([(AbsPath::root(), BTreeMap::new())]);
        let state = State {
            directories,
            home: AbsPath::root(),
            id: Some([7; 16]),
            now: Duration::ZERO,
            latency: Duration::ZERO,
            bytes_per_second: None,
            faults: Faults::default(),
            next_inode: 2,
        };
        Arc::new(Machine { state: Mutex::new(state) })
    }

    /// The machine, for any change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an entry in a directory, or replaces the one of its name, and returns its inode number. Directories above it that are
    /// missing are made.
    pub fn put(&self, directory: &AbsPath, entry: Entry, content: impl Into<Arc<[u8]>>) -> u64 {
        let mut state = self.state();
        let inode = state.next_inode;
        state.next_inode += 1;
        state.put(directory, Node::new(entry, content.into(), inode));
        inode
    }

    /// Writes a file: its content, its mtime, and a ctime of now.
    pub fn write(&self, path: &AbsPath, content: impl Into<Arc<[u8]>>, mtime: Time) {
        let Some((directory, name)) = path.split() else { return };
        let ctime = i64::try_from(self.state().now.as_nanos()).unwrap_or(i64::MAX);
        let entry = Entry { kind: Kind::File, mtime, ctime, mode: 0o644, ..unknown_directory(name) };
        self.put(&directory, entry, content);
    }

    /// Gives a file one more name.
    pub fn link(&self, path: &AbsPath, further: &AbsPath) {
        if let Some((directory, name)) = further.split() {
            self.state().link(path, &directory, name);
        }
    }

    /// Removes a path and all below it.
    pub fn remove(&self, path: &AbsPath) {
        self.state().remove(path);
    }

    /// Moves a path and all below it; inode numbers stay.
    pub fn rename(&self, from: &AbsPath, to: &AbsPath) {
        self.state().rename(from, to);
    }

    /// Changes one thing of the tree; false when there is nothing of that path.
    pub fn edit(&self, path: &AbsPath, change: impl FnOnce(&mut Node)) -> bool {
        let mut state = self.state();
        state.node_mut(path).map(change).is_some()
    }

    /// The thing at a path.
    pub fn node(&self, path: &AbsPath) -> Option<Node> {
        self.state().node(path).cloned()
    }

    /// Every path, in order, with what is there.
    pub fn paths(&self) -> Vec<(AbsPath, Node)> {
        let state = self.state();
        let below = |(directory, entries): (&AbsPath, &BTreeMap<Name, Node>)| {
            entries
                .values()
                .filter_map(|node| Some((directory.join(&node.entry.name)?, node.clone())))
                .collect::<Vec<_>>()
        };
        let mut paths: Vec<_> = state.directories.iter().flat_map(below).collect();
        paths.sort_by(|one, other| one.0.cmp(&other.0));
        paths
    }

    /// Moves the clock.
    pub fn advance(&self, time: Duration) {
        self.state().now += time;
    }

    /// The time on its clock.
    pub fn now(&self) -> Duration {
        self.state().now
    }
}

impl State {
    /// The thing at a path; `None` for `/`.
    pub fn node(&self, path: &AbsPath) -> Option<&Node> {
        let (directory, name) = path.split()?;
        self.directories.get(&directory)?.get(&name)
    }

    fn node_mut(&mut self, path: &AbsPath) -> Option<&mut Node> {
        let (directory, name) = path.split()?;
        self.directories.get_mut(&directory)?.get_mut(&name)
    }

    /// Makes an entry, or replaces the one of its name; missing directories above it are made.
    pub fn put(&mut self, directory: &AbsPath, node: Node) {
        self.make_directory(directory);
        let path = directory.join(&node.entry.name);
        let is_directory = node.entry.kind == Kind::Dir;
        if let Some(path) = path {
            if is_directory {
                self.directories.entry(path).or_default();
            } else if self.directories.contains_key(&path) {
                self.remove_below(&path);
            }
        }
        if let Some(entries) = self.directories.get_mut(directory) {
            entries.insert(node.entry.name.clone(), node);
        }
    }

    /// Gives a file one more name; false when there is no such file.
    pub fn link(&mut self, path: &AbsPath, directory: &AbsPath, name: Name) -> bool {
        let Some(node) = self.node_mut(path) else { return false };
        node.entry.inode = Some(Inode { device: DEVICE, number: node.inode });
        let mut node = node.clone();
        node.entry.name = name;
        self.put(directory, node);
        true
    }

    /// A node with an inode number that no other has.
    pub fn new_node(&mut self, entry: Entry, content: Arc<[u8]>) -> Node {
        self.next_inode += 1;
        Node::new(entry, content, self.next_inode - 1)
    }

    fn make_directory(&mut self, path: &AbsPath) {
        if self.directories.contains_key(path) {
            return;
        }
        if let Some((parent, name)) = path.split() {
            let node = self.new_node(unknown_directory(name), Arc::from([]));
            self.put(&parent, node);
        }
    }

    /// Removes a path and all below it.
    pub fn remove(&mut self, path: &AbsPath) {
        if self.directories.contains_key(path) {
            self.remove_below(path);
        }
        if let Some((directory, name)) = path.split()
            && let Some(entries) = self.directories.get_mut(&directory)
        {
            entries.remove(&name);
        }
    }

    fn remove_below(&mut self, path: &AbsPath) {
        self.directories.retain(|directory, _| !directory.starts_with(path));
    }

    fn rename(&mut self, from: &AbsPath, to: &AbsPath) {
        let (Some(mut node), Some((directory, name))) = (self.node(from).cloned(), to.split()) else { return };
        let all = std::mem::take(&mut self.directories);
        let (moved, others): (BTreeMap<_, _>, _) = all.into_iter().partition(|(path, _)| path.starts_with(from));
        self.directories = others;
        self.remove(from);
        self.remove(to);
        node.entry.name = name;
        self.put(&directory, node);
        for (path, entries) in moved {
            let below = path.as_bytes().get(from.as_bytes().len()..).unwrap_or_default();
            if let Some(path) = AbsPath::new([to.as_bytes(), below].concat()) {
                self.directories.insert(path, entries);
            }
        }
    }

    /// Moves the clock by one event with so many bytes of content.
    pub fn spend(&mut self, bytes: usize) {
        let seconds = self.bytes_per_second.map_or(0.0, |rate| bytes as f64 / rate.max(1) as f64);
        self.now += self.latency + Duration::from_secs_f64(seconds);
    }
}

impl Node {
    fn new(entry: Entry, content: Arc<[u8]>, inode: u64) -> Node {
        let size = if entry.kind == Kind::File { content.len() as u64 } else { 0 };
        let entry = Entry { size, ..entry };
        Node { entry, content, inode, errno: None, mounted: Mounted::Nothing, lie: None }
    }

    /// What a listing reports.
    pub fn listed_entry(&self) -> &Entry {
        if let Some(Lie::Entry(entry)) = &self.lie { entry } else { &self.entry }
    }

    /// What an open file's metadata says.
    pub fn file_state(&self) -> FileState {
        FileState { size: self.entry.size, mtime: self.entry.mtime, uid: self.entry.uid }
    }

    /// The content that the client sends.
    pub fn sent_content(&self) -> Arc<[u8]> {
        if let Some(Lie::Content(content)) = &self.lie { Arc::clone(content) } else { Arc::clone(&self.content) }
    }

    /// The hash that the client says.
    pub fn said_hash(&self) -> Hash {
        if let Some(Lie::Hash(hash)) = &self.lie { *hash } else { hash_of(&self.content) }
    }
}

/// BLAKE3 of some content.
pub fn hash_of(content: &[u8]) -> Hash {
    blake3::hash(content).into()
}
