//! Walking directory trees: several walkers, each listing one directory at a time.
//!
//! A listed directory is announced by its fingerprint and held until the server's verdict. Directories start in the
//! order that keeps few waiting, and none before its parent was announced.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::io::Errno;

use crate::exclude::Exclude;
use crate::output::Output;
use crate::protocol::{
    self, AbsPath, Announced, Entries, Entry, Kind, MAX_ENTRIES, MAX_NAME, Name, Problem, Reply, Root, SkipReason, Skipped, Verdict,
    fingerprint,
};
use crate::system;

// Entries may be held, or on their way out, up to about so many bytes; a larger directory is let through alone.
const BUDGET: usize = 16 << 20;

// What one frame of entries carries at most, well below the largest frame.
const FRAME: usize = 256 << 10;

const CACHE_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// A walk under way.
#[derive(Debug)]
pub struct Walking {
    output: Arc<Output>,
    exclude: Exclude,
    exclude_caches: bool,
    markers: Vec<Name>,
    one_file_system: bool,
    repository: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Task>,
    working: usize,
    held: HashMap<u64, Vec<Entry>>,
    next: u64,
    weight: usize,
    walked: bool,
    ended: bool,
}

/// A directory to list.
#[derive(Debug)]
struct Task {
    root: Arc<OpenRoot>,
    path: AbsPath,
    // The device of what it is in.
    device: u64,
}

/// A root that is a directory. Everything below it is opened from here, so no path outgrows the system's limit.
#[derive(Debug)]
struct OpenRoot {
    fd: OwnedFd,
    path: AbsPath,
    device: u64,
}

/// A directory's entries, as far as they could be read.
struct Listed {
    entries: Vec<Entry>,
    complete: bool,
    skipped: Option<SkipReason>,
    device: u64,
}

impl Walking {
    /// A walk with these settings.
    pub fn new(walk: &protocol::Walk, output: Arc<Output>) -> Walking {
        Walking {
            output,
            exclude: Exclude::new(&walk.exclude),
            exclude_caches: walk.exclude_caches,
            markers: walk.exclude_if_present.clone(),
            one_file_system: walk.one_file_system,
            repository: walk.repository.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Walks these roots with so many threads.
    pub fn run(&self, roots: Vec<Vec<u8>>, threads: usize) {
        let mut tasks = Vec::new();
        for root in roots {
            let (reply, task) = find_root(&root);
            self.output.send(Reply::Root(reply));
            tasks.extend(task);
        }
        tasks.reverse();
        self.lock().waiting = tasks;
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.work());
            }
        });
        let mut state = self.lock();
        state.walked = true;
        self.end_if_done(&mut state);
    }

    /// Takes the server's verdicts; false when one is about nothing that waits for it.
    pub fn judge(&self, verdicts: &[Verdict]) -> bool {
        let mut state = self.lock();
        for verdict in verdicts {
            let Some(entries) = state.held.remove(&verdict.directory) else { return false };
            match verdict.send {
                true => self.send_entries(verdict.directory, entries),
                false => state.weight -= weight(&entries),
            }
        }
        self.end_if_done(&mut state);
        self.changed.notify_all();
        true
    }

    /// So much of what was held has gone out.
    pub fn written(&self, weight: usize) {
        self.lock().weight -= weight;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // All entries were handed to the output by then, which keeps their order.
    fn end_if_done(&self, state: &mut State) {
        if state.walked && state.held.is_empty() && !state.ended {
            state.ended = true;
            self.output.send(Reply::End);
        }
    }

    fn work(&self) {
        let mut buffer = Vec::new();
        while let Some(task) = self.take() {
            let children = self.list(&task, &mut buffer);
            let mut state = self.lock();
            state.waiting.extend(children);
            state.working -= 1;
            self.changed.notify_all();
        }
    }

    fn take(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            let room = state.weight < BUDGET;
            if let Some(task) = state.waiting.pop_if(|_| room) {
                state.working += 1;
                return Some(task);
            }
            if state.waiting.is_empty() && state.working == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    // Lists a directory and announces it; returns the directories in it.
    fn list(&self, task: &Task, buffer: &mut Vec<u8>) -> Vec<Task> {
        let below = &task.path.as_bytes()[task.root.path.as_bytes().len()..];
        let below = below.strip_prefix(b"/").unwrap_or(below);
        let listed = system::open_below(&task.root.fd, below).and_then(|dir| self.read(task, &dir, buffer));
        match listed {
            Ok(listed) => self.announce(task, listed),
            // It has gone since its parent was listed; the next run sees that.
            Err(Errno::NOENT) => Vec::new(),
            Err(errno) => {
                self.problem(task.path.clone(), errno);
                Vec::new()
            }
        }
    }

    fn read(&self, task: &Task, dir: &OwnedFd, buffer: &mut Vec<u8>) -> Result<Listed, Errno> {
        let device = system::device(&system::stat(dir, c".", false)?);
        if let Some(reason) = self.foreign(task, dir, device) {
            return Ok(Listed { entries: Vec::new(), complete: true, skipped: Some(reason), device });
        }
        let mut listed = Listed { entries: Vec::new(), complete: true, skipped: None, device };
        let mut names = Vec::new();
        if let Err(errno) = system::list(dir, buffer, |name| names.push(CString::from(name))) {
            self.problem(task.path.clone(), errno);
            listed.complete = false;
        }
        for name in names {
            self.read_entry(task, dir, &name, &mut listed);
        }
        listed.entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        self.heed_markers(dir, &mut listed);
        Ok(listed)
    }

    fn read_entry(&self, task: &Task, dir: &OwnedFd, name: &CString, listed: &mut Listed) {
        let path = Name::new(name.as_bytes()).and_then(|name| Some((task.path.join(&name)?, name)));
        let Some((path, checked)) = path else {
            self.problem(task.path.clone(), Errno::NAMETOOLONG);
            listed.complete = false;
            return;
        };
        let stat = match system::stat(dir, name, false) {
            Ok(stat) => stat,
            // Gone since its name was read.
            Err(Errno::NOENT) => return,
            Err(errno) => return self.incomplete(path, errno, listed),
        };
        let kind = system::kind(&stat);
        if self.exclude.leaves_out(&path, name.as_bytes(), kind == Kind::Dir) {
            return;
        }
        let target = if kind == Kind::Symlink { system::read_link(dir, name) } else { Ok(Vec::new()) };
        match target {
            Ok(target) => listed.entries.push(system::entry(checked, &stat, target)),
            Err(Errno::NOENT | Errno::INVAL) => {}
            Err(errno) => self.incomplete(path, errno, listed),
        }
    }

    fn incomplete(&self, path: AbsPath, errno: Errno, listed: &mut Listed) {
        self.problem(path, errno);
        listed.complete = false;
    }

    fn problem(&self, path: AbsPath, errno: Errno) {
        self.output.send(Reply::Problem(Problem { path, errno: errno.raw_os_error() }));
    }

    fn foreign(&self, task: &Task, dir: &OwnedFd, device: u64) -> Option<SkipReason> {
        let is_root = task.path == task.root.path;
        if (is_root || device != task.device) && system::is_kernel_file_system(dir) {
            return Some(SkipReason::KernelFileSystem);
        }
        (self.one_file_system && device != task.root.device).then_some(SkipReason::OtherFileSystem)
    }

    // A directory may say of itself that it is not worth keeping. Then only what says so is listed.
    fn heed_markers(&self, dir: &OwnedFd, listed: &mut Listed) {
        let find = |name: &[u8]| {
            listed.entries.binary_search_by(|entry| entry.name.as_bytes().cmp(name)).ok().map(|at| &listed.entries[at])
        };
        let is_file = |entry: &&Entry| entry.kind == Kind::File;
        let repository = find(b"format").filter(is_file).filter(|_| self.is_repository(dir));
        let cache = find(b"CACHEDIR.TAG").filter(is_file).filter(|_| self.exclude_caches && is_cache(dir));
        let marker = self.markers.iter().find_map(|name| find(name.as_bytes()));
        let (reason, kept) = match (repository, cache, marker) {
            (Some(_), _, _) => (SkipReason::Repository, None),
            (_, Some(tag), _) => (SkipReason::Cache, Some(tag.clone())),
            (_, _, Some(marker)) => (SkipReason::Marker, Some(marker.clone())),
            _ => return,
        };
        listed.entries = kept.into_iter().collect();
        listed.skipped = Some(reason);
    }

    fn is_repository(&self, dir: &OwnedFd) -> bool {
        let id = self.repository.as_bytes();
        !id.is_empty() && beginning(dir, c"format").windows(id.len()).any(|part| part == id)
    }

    fn announce(&self, task: &Task, listed: Listed) -> Vec<Task> {
        let Listed { entries, complete, skipped, device } = listed;
        if let Some(reason) = skipped {
            self.output.send(Reply::Skipped(Skipped { path: task.path.clone(), reason }));
        }
        let children = match skipped {
            None => self.children(task, &entries, device),
            Some(_) => Vec::new(),
        };
        let fingerprint = fingerprint(&entries);
        let count = entries.len() as u64;
        let mut state = self.lock();
        let directory = state.next;
        state.next += 1;
        state.weight += weight(&entries);
        state.held.insert(directory, entries);
        let path = task.path.clone();
        self.output.send(Reply::Directory(Announced { directory, path, fingerprint, entries: count, complete }));
        children
    }

    fn children(&self, task: &Task, entries: &[Entry], device: u64) -> Vec<Task> {
        let directories = entries.iter().rev().filter(|entry| entry.kind == Kind::Dir);
        let task = |entry: &Entry| Some(Task { root: task.root.clone(), path: task.path.join(&entry.name)?, device });
        directories.filter_map(task).collect()
    }

    fn send_entries(&self, directory: u64, entries: Vec<Entry>) {
        let mut rest = entries.into_iter().peekable();
        loop {
            let (mut frame, mut size) = (Vec::new(), 0);
            while let Some(entry) = rest.next_if(|_| frame.len() < MAX_ENTRIES && size < FRAME) {
                size += entry_weight(&entry);
                frame.push(entry);
            }
            let last = rest.peek().is_none();
            self.output.send_weighed(Reply::Entries(Entries { directory, entries: frame, last }), size);
            if last {
                return;
            }
        }
    }
}

fn weight(entries: &[Entry]) -> usize {
    entries.iter().map(entry_weight).sum()
}

fn entry_weight(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.name.as_bytes().len() + entry.target.len()
}

fn is_cache(dir: &OwnedFd) -> bool {
    beginning(dir, c"CACHEDIR.TAG").starts_with(CACHE_TAG)
}

// The first bytes of a file in a directory; none if it can't be read.
fn beginning(dir: &OwnedFd, name: &std::ffi::CStr) -> Vec<u8> {
    use rustix::fs::{Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut buffer = vec![0; 4096];
    let read = openat(dir, name, flags, Mode::empty()).and_then(|file| rustix::io::read(&file, &mut buffer[..]));
    buffer.truncate(read.unwrap_or(0));
    buffer
}

fn find_root(written: &[u8]) -> (Root, Option<Task>) {
    let Some(path) = absolute(written) else { return (Root::Invalid, None) };
    let stat = match system::stat_path(path.as_bytes()) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return (Root::Missing { path }, None),
        Err(errno) => return (Root::Unreadable { path, errno: errno.raw_os_error() }, None),
    };
    let entry = path.split().map(|(_, name)| system::entry(name, &stat, Vec::new()));
    if system::kind(&stat) != Kind::Dir {
        return (Root::Found { path, entry, empty: false }, None);
    }
    match open_root(&path, system::device(&stat)) {
        Ok((task, empty)) => (Root::Found { path, entry, empty }, Some(task)),
        Err(errno) => (Root::Unreadable { path, errno: errno.raw_os_error() }, None),
    }
}

fn open_root(path: &AbsPath, device: u64) -> Result<(Task, bool), Errno> {
    let fd = system::open_root(path.as_bytes())?;
    let mut empty = true;
    system::list(&fd, &mut Vec::new(), |_| empty = false)?;
    rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0))?;
    let root = Arc::new(OpenRoot { fd, path: path.clone(), device });
    Ok((Task { root, path: path.clone(), device }, empty))
}

// The absolute path that a user's way of writing stands for, in its shortest form.
fn absolute(written: &[u8]) -> Option<AbsPath> {
    let home = || std::env::var_os("HOME").map(|home| home.into_encoded_bytes());
    let here = || std::env::current_dir().ok().map(|here| here.into_os_string().into_encoded_bytes());
    let written = match written {
        b"~" => b"",
        written => written.strip_prefix(b"~/").unwrap_or(written),
    };
    let whole = match written {
        [b'/', ..] => written.to_vec(),
        relative => [&home().or_else(here)?[..], b"/", relative].concat(),
    };
    let mut path = Vec::with_capacity(whole.len());
    for part in whole.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && part != b".") {
        if part.len() > MAX_NAME {
            return None;
        }
        path.push(b'/');
        path.extend_from_slice(part);
    }
    AbsPath::new(if path.is_empty() { b"/".to_vec() } else { path })
}
