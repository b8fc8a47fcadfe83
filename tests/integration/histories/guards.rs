//! Pulls that a guard stops until a person accepts it, and dry runs: neither changes anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use archive::prune;
use archive::retention::Keep;

use super::Dice;
use super::client::{Walk, walk};
use super::steps::Planned;
use super::world::{Listener, SOURCES, World, name};

// More than are ever allowed to go at once, and more than a client has of others.
const GUARDED_FILES: u64 = 160;

/// A part of a repository: paths in it, and tables of its index.
struct Part {
    holds: fn(&[u8]) -> bool,
    has_table: fn(&str) -> bool,
}

// SQLite makes and removes files beside the index.
const ALL: Part = Part { holds: |path| path != b"/" && !path.starts_with(b"/index.sqlite"), has_table: |_| true };

// A pull that is stopped has a lock, and is recorded.
const TREES: Part = Part {
    holds: |path| [&b"/snapshot"[..], b"/archive", b"/damaged"].iter().any(|tree| path.starts_with(tree)),
    has_table: |table| ["version", "directory"].contains(&table),
};

/// What a part of a repository is at a moment.
struct Moment {
    files: Walk,
    rows: Vec<String>,
}

impl World {
    fn moment(&self, part: &Part) -> Moment {
        let mut files = walk(&self.repo(), Path::new("/"));
        files.retain(|path, _| (part.holds)(path));
        Moment { files, rows: self.rows(part) }
    }

    fn rows(&self, part: &Part) -> Vec<String> {
        let index = self.index();
        let mut tables = index.prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1").unwrap();
        let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let mut rows = Vec::new();
        for table in tables.into_iter().filter(|table| (part.has_table)(table)) {
            let mut statement = index.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = statement.column_count();
            let text = |row: &rusqlite::Row<'_>| {
                let values = (0..columns).map(|column| format!("{:?}", row.get_ref(column).unwrap()));
                Ok(format!("{table}: {}", values.collect::<Vec<_>>().join(", ")))
            };
            rows.extend(statement.query_map([], text).unwrap().map(Result::unwrap));
        }
        rows.sort();
        rows
    }

    fn must_be_unchanged(&mut self, what: &str, before: &Moment, part: &Part) {
        let after = self.moment(part);
        for path in before.files.keys().chain(after.files.keys()) {
            if before.files.get(path) != after.files.get(path) {
                return self.find(format!("{what} changes {}", path.escape_ascii()));
            }
        }
        if let Some(row) = before.rows.iter().find(|row| !after.rows.contains(row)) {
            self.find(format!("{what} changes a row of the index: {row}"));
        }
        if let Some(row) = after.rows.iter().find(|row| !before.rows.contains(row)) {
            self.find(format!("{what} adds a row to the index: {row}"));
        }
    }

    /// What lists what would be done does nothing.
    pub(super) fn dry_run(&mut self, dice: &mut Dice) {
        if !self.exists() || self.is_old {
            return;
        }
        let before = self.moment(&ALL);
        let source = dice.one_of(&SOURCES).unwrap().0;
        let listener = Listener::default();
        let Some(repository) = self.repository() else { return };
        let (words, failed) = match dice.below(5) {
            0 => {
                let keep = Keep { last: Some(1), ..Keep::default() };
                let mut prune = prune::Prune::new(&repository, true, jiff::ZonedDateTime::now(), &listener);
                (format!("prune -n {source}"), prune.source(&name(source), &keep, &mut |_| Ok(())).err())
            }
            1 => {
                let what = prune::forget::What::Pattern(b"a".to_vec());
                let forgot =
                    prune::forget::forget(&repository, &name(source), &what, (true, &listener), &mut |_| Ok(()));
                (format!("forget -n {source} a"), forgot.err())
            }
            _ => {
                let planned = Planned { is_dry: true, ..Planned::throw(self, source, dice) };
                let summary = planned.carry_out(&repository, &listener);
                let failed = (summary.exit != 0)
                    .then(|| archive::error::Error::usage(format_args!("exit {}, {:?}", summary.exit, listener.all())));
                (format!("{} -n", planned.words()), failed)
            }
        };
        self.tell(&*words);
        // One that no run is known of has nothing to be pruned or forgotten.
        let knows = self.known_sources().contains(&source);
        if let Some(error) = failed.filter(|_| knows || words.starts_with("pull")) {
            self.find(format!("{words} fails: {error}"));
        }
        self.must_be_unchanged(&words, &before, &ALL);
    }

    /// Something is gone that a guard watches. The pull stops, until it is there again or a person has accepted it.
    pub(super) fn stop(&mut self, dice: &mut Dice) {
        if !self.exists() || self.is_old {
            return;
        }
        let source = dice.one_of(&SOURCES).unwrap().0;
        let mut planned = Planned { is_guarded: true, ..Planned::throw(self, source, dice) };
        // What the snapshot holds of others is not certain, so nobody knows whether a guard has to stop.
        planned.roots.retain(|root| root.exists() && self.held(source, root).is_some_and(|walk| !walk.is_empty()));
        if dice.below(3) == 0 {
            self.remove_crowd(planned, dice);
        } else {
            self.hide_root(planned, dice);
        }
    }

    fn held(&self, source: &str, root: &PathBuf) -> Option<&Walk> {
        self.states[source].get(root)?.as_deref()
    }

    fn hide_root(&mut self, planned: Planned, dice: &mut Dice) {
        let holds_something = |root: &PathBuf| {
            self.held(planned.source, root).is_some_and(|walk| root.is_file() || root.is_dir() && walk.len() > 1)
        };
        let hideable: Vec<PathBuf> = planned.roots.iter().filter(|root| holds_something(root)).cloned().collect();
        let Some(root) = dice.one_of(&hideable) else { return };
        let aside = root.parent().unwrap().join("hidden");
        let is_empty = root.is_dir() && dice.below(2) == 0;
        fs::rename(&root, &aside).unwrap();
        if is_empty {
            fs::create_dir(&root).unwrap();
        }
        self.tell(format!("{} is {}", root.display(), if is_empty { "empty" } else { "missing" }));
        self.stopped_pull(&planned);
        let accepts = dice.below(2) == 0;
        if accepts {
            self.accept(&planned);
        }
        super::client::remove(&root).unwrap();
        fs::rename(&aside, &root).unwrap();
        if accepts || !planned.roots.iter().any(|root| self.is_emptied(planned.source, root)) {
            self.tell(format!("{} is as it was", root.display()));
            self.pull(&Planned { is_guarded: !accepts, ..planned });
        }
    }

    fn is_emptied(&self, source: &str, root: &PathBuf) -> bool {
        let is_empty = fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none());
        is_empty && self.held(source, root).is_some_and(|walk| walk.len() > 1)
    }

    // More files go than may.
    fn remove_crowd(&mut self, planned: Planned, dice: &mut Dice) {
        let client = SOURCES.iter().find(|(source, _)| *source == planned.source).unwrap().1;
        let root = self.clients[client].roots()[0].clone();
        if !planned.roots.contains(&root) {
            return;
        }
        let planned = Planned { roots: vec![root.clone()], ..planned };
        let seed = self.crowds;
        self.crowds += 1;
        self.clients[client].crowd(seed, GUARDED_FILES);
        self.tell(format!("a guarded crowd from {seed}"));
        let directory = root.join("crowd");
        if self.pull(&planned) {
            if dice.below(2) == 0 {
                fs::remove_dir_all(&directory).unwrap();
            } else {
                fs::read_dir(&directory).unwrap().for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
            }
            self.tell("it is gone");
            self.stopped_pull(&planned);
            if dice.below(2) == 0 {
                self.accept(&planned);
            } else {
                self.clients[client].crowd(seed, GUARDED_FILES);
                self.tell("it is there again");
                self.pull(&planned);
            }
        }
        // A later step with guards must not meet a removal that nobody accepted.
        if fs::remove_dir_all(&directory).is_ok() {
            self.tell("the crowd goes for good");
            self.pull(&Planned { is_guarded: false, ..planned });
        }
    }

    fn stopped_pull(&mut self, planned: &Planned) {
        let before = self.moment(&TREES);
        let Some(repository) = self.repository() else { return };
        let listener = Listener::default();
        let summary = planned.carry_out(&repository, &listener);
        self.tell(format!("{} -> run {:?}, {}", planned.words(), summary.run, summary.exit));
        if summary.exit != 4 {
            self.find(format!("no guard stops a pull of {}: {:?}", planned.source, listener.all()));
            return self.cut_off(planned.source, &planned.roots);
        }
        self.must_be_unchanged("a stopped pull", &before, &TREES);
    }

    // The stopped pull is accepted, and repeated.
    fn accept(&mut self, planned: &Planned) {
        let output = self.program(&["accept", planned.source, "-q"]).stderr(Stdio::piped()).output().unwrap();
        self.tell(format!("accept {} -> {}", planned.source, output.status));
        if !output.status.success() {
            self.find(format!("accept fails: {}", String::from_utf8_lossy(&output.stderr)));
        }
        self.pull(planned);
    }
}
