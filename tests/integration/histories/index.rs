//! Rebuilds of the index, and older copies of it that are put back.

use std::fs;
use std::process::Stdio;

use archive::index;

use super::Dice;
use super::steps::Planned;
use super::world::{Listener, SOURCES, World};
use crate::support::{checker, copy_index};

impl World {
    pub(super) fn rebuild(&mut self) {
        if !self.exists() {
            return;
        }
        let Some(repository) = self.repository() else { return };
        let listener = Listener::default();
        self.tell("index rebuild");
        match index::rebuild(&repository, &listener) {
            Ok(_) if !self.is_old => {}
            Ok(_) => {
                self.rebuilt();
                self.is_old = false;
            }
            Err(error) => self.find(format!("index rebuild fails: {error}")),
        }
    }

    pub(super) fn keep_index(&mut self) {
        if self.exists() && !self.is_old {
            let _ = fs::remove_dir_all(self.path("copy"));
            fs::create_dir(self.path("copy")).unwrap();
            copy_index(&self.repo(), &self.path("copy"));
            (self.has_copy, self.has_dropped) = (true, false);
            self.tell("a copy of the index is kept");
        }
    }

    // A pull must not believe an older index: it refuses until the trees were taken in.
    pub(super) fn put_index_back(&mut self, dice: &mut Dice) {
        if !self.has_copy {
            return;
        }
        copy_index(&self.path("copy"), &self.repo());
        self.tell("the copy of the index is put back");
        self.is_old = true;
        // Runs that only the lost index knew of can't be asked for.
        let known = self.known_runs();
        self.moments.retain(|run, _| known.contains(run));
        let is_refused = self.index_is_refused();
        if is_refused && dice.below(2) == 0 {
            self.kill_rebuild(dice);
        }
        let is_still_refused = self.index_is_refused();
        let planned = Planned::throw(self, dice.one_of(&SOURCES).unwrap().0, dice);
        if self.pull(&planned) {
            // Then nothing had changed since, or the rebuild was through.
            self.is_old = false;
            if is_still_refused {
                self.find("a pull believes an index that is older than the trees");
            }
            if is_refused {
                self.is_over = self.has_dropped;
            }
        } else {
            self.rebuild();
            self.is_over = self.has_dropped;
        }
    }

    fn index_is_refused(&mut self) -> bool {
        let Some(repository) = self.repository() else { return false };
        let index = repository.index().unwrap();
        repository.check_index_is_newest(&index).is_err()
    }

    // What was taken in by half must not pass for the newest index.
    fn kill_rebuild(&mut self, dice: &mut Dice) {
        let fault = format!("kill:{}", 1 + dice.below(12));
        let mut command = self.program(&["index", "rebuild", "-q"]);
        let output = command.env("ARCHIVE_FAULT", &fault).stderr(Stdio::piped()).output().unwrap();
        self.tell(format!("index rebuild with {fault} -> {}", output.status));
        if self.index_is_refused() {
            return;
        }
        self.rebuilt();
        if !self.has_dropped {
            self.findings.extend(checker::check(&self.repo()));
        }
    }

    pub(super) fn known_runs(&self) -> Vec<i64> {
        let index = self.index();
        let mut statement = index.prepare("SELECT id FROM run").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }
}
