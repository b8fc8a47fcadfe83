//! A running helper, and what a server does with one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use archive_helper::protocol::*;
use tempfile::TempDir;

pub struct Helper {
    pub child: Child,
    pub input: Option<ChildStdin>,
    pub output: BufReader<ChildStdout>,
}

pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_archive-helper"))
}

impl Helper {
    pub fn start() -> Helper {
        Helper::run(&mut command())
    }

    /// Starts `command` and reads the greeting.
    pub fn run(command: &mut Command) -> Helper {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut greeting = vec![0; MAGIC.len() + 1 + VERSION.len()];
        output.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, [&MAGIC[..], &[VERSION.len() as u8], VERSION.as_bytes()].concat());
        Helper { child, input, output }
    }

    pub fn ask(&mut self, request: &Request) {
        let mut frame = Vec::new();
        write_frame(&mut frame, request).unwrap();
        self.write(&frame);
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.input.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub fn reply(&mut self) -> Reply {
        read_frame(&mut self.output).unwrap().expect("the helper has more to say")
    }

    /// Asks for a walk, answers what is announced by `wants` unless all was asked for, and gathers what comes until the end.
    pub fn walk(&mut self, walk: Walk, mut wants: impl FnMut(&Announced) -> bool) -> Walked {
        let all = walk.all;
        self.ask(&Request::Walk(walk));
        let mut walked = Walked::default();
        loop {
            match self.reply() {
                Reply::Root(root) => walked.roots.push(root),
                Reply::Directory(announced) => {
                    let verdict = Verdict {
                        directory: announced.directory,
                        send: if wants(&announced) { Wish::All } else { Wish::Nothing },
                    };
                    if !all {
                        self.ask(&Request::Verdicts(vec![verdict]));
                    }
                    walked.announced.push(announced);
                }
                Reply::Entries(entries) => walked.frames.push(entries),
                Reply::Problem(problem) => walked.problems.push(problem),
                Reply::Skipped(skipped) => walked.skipped.push(skipped),
                Reply::End => return walked,
                other => panic!("nobody asked for {other:?}"),
            }
        }
    }

    /// Asks for hashes and waits for all answers, in the order of ids.
    pub fn hash(&mut self, requests: Vec<HashRequest>) -> Vec<Hashed> {
        let count = requests.len();
        self.ask(&Request::Hash(requests));
        let mut answers = Vec::new();
        while answers.len() < count {
            match self.reply() {
                Reply::Hashed(hashed) => answers.extend(hashed),
                other => panic!("{other:?}"),
            }
        }
        answers.sort_by_key(|hashed| hashed.id);
        answers
    }

    /// Waits for the end; the exit status, and what it said on stderr.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut message = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
                return (status, message);
            }
            assert!(start.elapsed() < Duration::from_secs(10), "the helper does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a frame that breaks the protocol; the helper must say so and fail.
    pub fn must_refuse(mut self, bytes: &[u8], message: &str) {
        self.write(bytes);
        self.must_fail(message);
    }

    pub fn must_fail(self, message: &str) {
        let (status, said) = self.wait();
        assert_eq!(status.code(), Some(1));
        assert!(said.contains(message) && said.lines().count() == 1, "{said:?}");
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Default)]
pub struct Walked {
    pub roots: Vec<Root>,
    pub announced: Vec<Announced>,
    pub frames: Vec<Entries>,
    pub problems: Vec<Problem>,
    pub skipped: Vec<Skipped>,
}

impl Walked {
    pub fn directory(&self, path: &Path) -> &Announced {
        let found = self.announced.iter().find(|announced| announced.path == abs(path));
        found.unwrap_or_else(|| panic!("{path:?} was not announced"))
    }

    /// The entries that were sent, each by its path; checks frames, order and fingerprints on the way.
    pub fn entries(&self) -> BTreeMap<AbsPath, Entry> {
        let mut all = BTreeMap::new();
        for announced in &self.announced {
            let frames: Vec<_> = self.frames.iter().filter(|frame| frame.directory == announced.directory).collect();
            let Some(last) = frames.len().checked_sub(1) else { continue };
            assert!(frames.iter().enumerate().all(|(index, frame)| frame.last == (index == last)));
            let entries: Vec<_> = frames.iter().flat_map(|frame| frame.entries.clone()).collect();
            assert!(entries.is_sorted_by(|a, b| a.name < b.name), "sorted, and no name twice");
            assert_eq!(entries.len() as u64, announced.entries);
            assert_eq!(fingerprint(&entries), announced.fingerprint);
            all.extend(entries.into_iter().map(|entry| (announced.path.join(&entry.name).unwrap(), entry)));
        }
        all
    }

    /// The sent entries' paths below `top`, in order.
    pub fn names(&self, top: &Path) -> Vec<String> {
        let below = |path: &AbsPath| format!("{path}").strip_prefix(&format!("{}/", abs(top))).unwrap().to_owned();
        self.entries().keys().map(below).collect()
    }

    /// Numbers count up, and a parent comes before its children.
    pub fn check_order(&self) {
        for (index, announced) in self.announced.iter().enumerate() {
            assert_eq!(announced.directory, index as u64);
            let parent = announced.path.split().map(|(parent, _)| parent);
            let place = self.announced.iter().position(|other| Some(&other.path) == parent.as_ref());
            assert!(place.is_none_or(|place| place < index), "{} comes before its parent", announced.path);
        }
    }
}

/// A temporary directory, and its path without symlinks.
pub fn temp() -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().canonicalize().unwrap();
    (temp, path)
}

/// Makes files, and for names that end in a slash directories, each holding its own name.
pub fn make(top: &Path, names: &[&str]) {
    for name in names {
        let path = top.join(name);
        fs::create_dir_all(if name.ends_with('/') { &path } else { path.parent().unwrap() }).unwrap();
        if !name.ends_with('/') {
            fs::write(path, name).unwrap();
        }
    }
}

pub fn abs(path: &Path) -> AbsPath {
    AbsPath::new(path.as_os_str().as_bytes()).unwrap()
}

pub fn walk_of(roots: &[&Path]) -> Walk {
    Walk { roots: roots.iter().map(|root| root.as_os_str().as_bytes().to_vec()).collect(), ..Walk::default() }
}

/// A request to hash `path` as it is now.
pub fn request(id: u64, path: &Path, proof: bool) -> HashRequest {
    let metadata = fs::symlink_metadata(path).unwrap();
    let mtime = Time::new(metadata.mtime(), metadata.mtime_nsec());
    HashRequest {
        id,
        path: abs(path),
        size: metadata.size(),
        mtime,
        uid: metadata.uid(),
        wants: if proof { Wants::Proof } else { Wants::Hash },
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
