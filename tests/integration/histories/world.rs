//! A repository, its clients, and what the repository must be able to give back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use archive::path::{AbsPath, SourceName};
use archive::report::{Change as Told, Level, Progress, Report, Summary};
use archive::repository::Repository;

use super::Dice;
use super::client::{Client, Walk, walk};
use crate::support::checker;

/// The sources, each with its client.
pub const SOURCES: [(&str, usize); 3] = [("one", 0), ("two", 0), ("three", 1)];

/// A source whose client lies, and holds what that of `three` holds.
pub const LIAR: &str = "liar";

/// The names of all sources.
pub fn all_sources() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(source, _)| *source).chain([LIAR])
}

/// What the roots of one source hold; `None` where nobody knows, for a pull was cut off.
pub type State = BTreeMap<PathBuf, Option<Arc<Walk>>>;

/// A repository with its clients, while a history happens to them.
pub struct World {
    dir: tempfile::TempDir,
    disk: PathBuf,
    pub clients: Vec<Client>,
    /// What was done so far.
    pub told: Vec<String>,
    /// What is wrong.
    pub findings: Vec<String>,
    /// By source, as its last pull left it.
    pub states: BTreeMap<&'static str, State>,
    /// As each run left its source.
    pub moments: BTreeMap<i64, (&'static str, State)>,
    pub last_run: i64,
    /// A copy of the index, and whether it was put back without a rebuild since.
    pub has_copy: bool,
    pub is_old: bool,
    /// Versions were dropped since the copy of the index was made.
    pub has_dropped: bool,
    /// An index is in use that shows versions which were dropped: they are reported, and nothing more is checked.
    pub is_over: bool,
    // How many seeds there were for a crowd.
    pub crowds: u64,
}

impl World {
    /// An empty one. The repository is made in `place`, the clients on `disk`.
    pub fn new(place: &Path, disk: &Path) -> World {
        let dir = tempfile::Builder::new().prefix("world").tempdir_in(place).unwrap();
        let disk = disk.join(dir.path().file_name().unwrap());
        Repository::create(&dir.path().join("repo")).unwrap();
        let clients = ["c0", "c1"].map(|name| Client::new(disk.join(name))).into_iter().collect();
        World {
            dir,
            disk,
            clients,
            told: Vec::new(),
            findings: Vec::new(),
            states: all_sources().map(|source| (source, State::new())).collect(),
            moments: BTreeMap::new(),
            last_run: 0,
            has_copy: false,
            is_old: false,
            has_dropped: false,
            is_over: false,
            crowds: 0,
        }
    }

    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn exists(&self) -> bool {
        self.repo().join("index.sqlite").exists()
    }

    /// Opens the index, behind the program's back.
    pub fn index(&self) -> rusqlite::Connection {
        let index = rusqlite::Connection::open(self.repo().join("index.sqlite")).unwrap();
        index.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        index
    }

    /// The sources that the index knows.
    pub fn known_sources(&self) -> Vec<&'static str> {
        let index = self.index();
        let mut statement = index.prepare("SELECT name FROM source").unwrap();
        let known: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        all_sources().filter(|source| known.iter().any(|name| name == source)).collect()
    }

    pub fn find(&mut self, text: impl Into<String>) {
        self.findings.push(text.into());
    }

    pub fn tell(&mut self, text: impl Into<String>) {
        self.told.push(text.into());
    }

    pub fn client(&self, source: &str) -> &Client {
        let client = SOURCES.iter().find(|(name, _)| *name == source).map_or(1, |(_, client)| *client);
        &self.clients[client]
    }

    /// The real program, in an environment of its own.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archive"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.dir.path()).env("TMPDIR", "/tmp");
        if let Some(batch) = std::env::var_os("ARCHIVE_BATCH") {
            command.env("ARCHIVE_BATCH", batch);
        }
        command.arg("--repo").arg(self.repo()).args(arguments).stdin(std::process::Stdio::null());
        command
    }

    pub fn repository(&mut self) -> Option<Repository> {
        match Repository::open(&self.repo()) {
            Ok(repository) => Some(repository),
            Err(error) => {
                self.find(format!("the repository can't be opened: {error}"));
                None
            }
        }
    }

    /// These roots were pulled, in this run, which went well.
    pub fn pulled(&mut self, source: &'static str, roots: &[PathBuf], run: i64) {
        let state = self.states.get_mut(source).unwrap();
        for root in roots {
            state.insert(root.clone(), Some(Arc::new(walk(root, root))));
        }
        self.moments.insert(run, (source, state.clone()));
    }

    /// A pull of these roots was cut off: each has changed, or not.
    pub fn cut_off(&mut self, source: &'static str, roots: &[PathBuf]) {
        let state = self.states.get_mut(source).unwrap();
        roots.iter().for_each(|root| drop(state.insert(root.clone(), None)));
    }

    /// The index was made from the trees: of earlier moments it knows nothing, and some metadata is lost.
    pub fn rebuilt(&mut self) {
        self.moments.clear();
        for state in self.states.values_mut() {
            state.values_mut().for_each(|walk| *walk = None);
        }
    }

    /// What `goes` says is forgotten, with all that it ever was.
    pub fn forgotten(&mut self, source: &str, goes: impl Fn(&[u8]) -> bool) {
        let moments = self.moments.values_mut().filter(|(of, _)| *of == source).map(|(_, state)| state);
        for state in moments.chain(self.states.get_mut(source)) {
            for walk in state.values_mut().flatten() {
                if walk.keys().any(|path| goes(path)) {
                    Arc::make_mut(walk).retain(|path, _| !goes(path));
                }
            }
        }
    }

    /// Everything that must hold after each step.
    pub fn check(&mut self, dice: &mut Dice) {
        if !self.exists() || self.is_old || self.is_over {
            return;
        }
        let repo = self.repo();
        self.findings.extend(checker::check(&repo));
        match checker::history(&repo) {
            Ok(history) => self.compare(&history),
            Err(error) => self.find(format!("the index can't be read: {error}")),
        }
        if dice.below(3) == 0 && !super::is_left_out("Program") {
            self.ask_program(dice.below(3) == 0);
        }
    }

    // What the program itself says of a repository in which all is well.
    fn ask_program(&mut self, verify: bool) {
        let Some(repository) = self.repository() else { return };
        let listener = Listener::default();
        match archive::index::check(&repository, &listener) {
            Ok(0) => {}
            Ok(_) => {
                let found: Vec<_> = listener.errors().into_iter().map(|text| format!("index check: {text}")).collect();
                if found.iter().any(|text| text.contains("wrong fingerprint")) {
                    self.tell_versions();
                }
                self.findings.extend(found);
            }
            Err(error) => self.find(format!("index check fails: {error}")),
        }
        if !verify {
            return;
        }
        for source in self.known_sources() {
            match archive::verify::verify(&repository, &name(source), Default::default(), &listener) {
                Ok(verified) if verified.bad == 0 => {}
                Ok(_) => self.findings.extend(listener.errors().into_iter().map(|text| format!("verify: {text}"))),
                Err(error) => self.find(format!("verify fails: {error}")),
            }
        }
    }

    // What the index holds of the directories that have fingerprints, for a reader of the findings.
    fn tell_versions(&mut self) {
        let sql = "SELECT format('%s of source %d: version %d, kind %d, size %d, mtime %d, ctime %d, mode %o, inode %s:%s, \
                   runs %d to %s, flags %d, fingerprint %s', directory.path || '/' || name, source, version.id, kind, \
                   size, mtime, ctime, mode, inode_device, inode_number, from_run, until_run, flags, hex(fingerprint)) \
                   FROM version JOIN directory ON directory.id = directory WHERE fingerprint IS NOT NULL";
        let index = self.index();
        let rows: rusqlite::Result<Vec<String>> =
            index.prepare(sql).and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect());
        self.told.extend(rows.unwrap_or_else(|error| vec![error.to_string()]));
    }

    // Each run that is kept shows what the client held.
    fn compare(&mut self, history: &checker::History) {
        self.last_run = history.runs.iter().map(|(run, _)| *run).chain([self.last_run]).max().unwrap_or(0);
        let kept: BTreeSet<i64> = history.runs.iter().map(|(run, _)| *run).collect();
        let mut found = Vec::new();
        for (run, (source, state)) in self.moments.iter().filter(|(run, _)| kept.contains(run)) {
            let shown = history.at(source, *run);
            for (root, walk) in state.iter().filter_map(|(root, walk)| Some((root, walk.as_ref()?))) {
                let is_below = |path: &[u8]| Path::new(std::ffi::OsStr::from_bytes(path)).starts_with(root);
                for (path, seen) in walk.iter() {
                    let Some(version) = shown.get(path.as_slice()) else {
                        found.push(format!("run {run} of {source} does not show {}", path.escape_ascii()));
                        continue;
                    };
                    if let Some(what) = version.differs(seen) {
                        found.push(format!("run {run} of {source} shows {} with another {what}", path.escape_ascii()));
                    }
                }
                let more = shown.keys().filter(|path| is_below(path) && !walk.contains_key(**path));
                found.extend(
                    more.map(|path| {
                        format!("run {run} of {source} shows {}, which was not there", path.escape_ascii())
                    }),
                );
            }
        }
        found.truncate(20);
        self.findings.extend(found);
    }
}

impl checker::Shown {
    fn differs(&self, seen: &super::client::Seen) -> Option<&'static str> {
        if self.kind != seen.kind {
            return Some("kind");
        }
        if self.content != seen.content || (seen.kind == 0 && self.size as u64 != seen.size) {
            return Some("content");
        }
        if self.mode != i64::from(seen.mode) {
            return Some("mode");
        }
        if self.mtime != seen.mtime {
            return Some("mtime");
        }
        (self.owner != (i64::from(seen.owner.0), i64::from(seen.owner.1))).then_some("owner")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.disk);
    }
}

/// A source's name.
pub fn name(source: &str) -> SourceName {
    SourceName::new(source).unwrap()
}

/// A checked path.
pub fn abs(path: &Path) -> AbsPath {
    AbsPath::new(path.as_os_str().as_bytes()).unwrap()
}

/// Keeps what it is told.
#[derive(Default)]
pub struct Listener(Mutex<Vec<(Level, String)>>);

impl Listener {
    /// All messages.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(_, text)| text.clone()).collect()
    }

    /// The errors among them.
    pub fn errors(&self) -> Vec<String> {
        let messages = self.0.lock().unwrap();
        messages.iter().filter(|(level, _)| *level == Level::Error).map(|(_, text)| text.clone()).collect()
    }
}

impl Report for Listener {
    fn begin(&self, _: &SourceName, _: Option<i64>) {}
    fn message(&self, level: Level, text: &dyn std::fmt::Display) {
        self.0.lock().unwrap().push((level, text.to_string()));
    }
    fn change(&self, _: Told, _: &AbsPath) {}
    fn progress(&self, _: &Progress) {}
    fn summary(&self, _: &Summary) {}
}
