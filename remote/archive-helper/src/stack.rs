//! Directories still to be walked: a stack that several walkers share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::outgoing::UNPOISONED;
use crate::protocol::{AbsPath, Name};
use crate::root::RootDir;

/// One directory to walk.
pub struct Place {
    /// The root that it lies below.
    pub root: Arc<RootDir>,
    /// Its path, as the server knows it.
    pub path: AbsPath,
    /// The device number of its file system, as it was listed.
    pub device: u64,
    /// True for a root, and where another file system begins.
    pub border: bool,
}

impl Place {
    /// Its path relative to its root.
    pub fn relative(&self) -> &[u8] {
        let below = &self.path.as_bytes()[self.root.path.as_bytes().len()..];
        match below.strip_prefix(b"/").unwrap_or(below) {
            b"" => b".",
            below => below,
        }
    }
}

/// Subdirectories of one directory, on one file system. Names only: a path each would take too much memory.
pub struct Siblings {
    /// The root that they lie below.
    pub root: Arc<RootDir>,
    /// Their parent.
    pub parent: AbsPath,
    /// The device number of their file system.
    pub device: u64,
    /// True if that is not their parent's.
    pub border: bool,
    /// Their names.
    pub names: Names,
}

/// Names in one piece of memory.
#[derive(Default)]
pub struct Names {
    // A slash, which no name has, ends each.
    bytes: Vec<u8>,
    next: usize,
}

impl Names {
    /// Adds a name.
    pub fn push(&mut self, name: &Name) {
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'/');
    }

    /// True if none is left.
    pub fn is_empty(&self) -> bool {
        self.next == self.bytes.len()
    }

    // Takes the first name out.
    fn take(&mut self) -> Option<Name> {
        let rest = &self.bytes[self.next..];
        let name = &rest[..rest.iter().position(|&byte| byte == b'/')?];
        self.next += name.len() + 1;
        Name::new(name)
    }
}

/// The stack.
#[derive(Default)]
pub struct Stack {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    roots: Vec<Place>,
    siblings: Vec<Siblings>,
    busy: usize,
    idle: usize,
}

impl Stack {
    /// A stack with these roots.
    pub fn new(mut roots: Vec<Place>) -> Stack {
        roots.reverse();
        Stack { state: Mutex::new(State { roots, ..State::default() }), ..Stack::default() }
    }

    /// Adds subdirectories of the place that the caller took.
    pub fn push(&self, siblings: Siblings) {
        let mut state = self.lock();
        state.siblings.push(siblings);
        self.wake(&state);
    }

    /// Takes a place, or waits for one; `None` when all is walked. Whoever takes one calls [`Stack::done`] after it.
    pub fn take(&self) -> Option<Place> {
        let mut state = self.lock();
        loop {
            if let Some(place) = state.take() {
                state.busy += 1;
                return Some(place);
            }
            if state.busy == 0 {
                return None;
            }
            state.idle += 1;
            state = self.changed.wait(state).expect(UNPOISONED);
            state.idle -= 1;
        }
    }

    /// A place that was taken is walked, its subdirectories pushed.
    pub fn done(&self) {
        let mut state = self.lock();
        state.busy -= 1;
        if state.busy == 0 {
            self.wake(&state);
        }
    }

    fn wake(&self, state: &State) {
        if state.idle > 0 {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }
}

impl State {
    fn take(&mut self) -> Option<Place> {
        while let Some(siblings) = self.siblings.last_mut() {
            if let Some(place) = siblings.take() {
                return Some(place);
            }
            self.siblings.pop();
        }
        self.roots.pop()
    }
}

impl Siblings {
    fn take(&mut self) -> Option<Place> {
        let path = self.parent.join(&self.names.take()?)?;
        Some(Place { root: Arc::clone(&self.root), path, device: self.device, border: self.border })
    }
}
