//! Files that are compared with their earlier versions: once their hashes are known, some need not come after all, or have
//! come in vain.
//!
//! The client reads such a file once, for its chunks and its hash. Were it hashed before, as others are, it would have to
//! read it twice.

use std::sync::{Mutex, PoisonError};

use crossbeam_channel::Sender as Unbounded;

use super::Run;
use super::change::{Change, aborted};
use super::contents::{Claim, Contents, FileTask, Key, Released, Turn};
use super::dispatch::hash_of_nothing;
use super::fetching::Expected;
use crate::entry::Hash;
use crate::error::Result;
use crate::queue::Sender;
use crate::repository::index::Index;
use crate::source::HashWhere;

/// Decides over them.
pub struct Comparing<'a> {
    run: &'a Run<'a>,
    /// Files that were asked for.
    pub expected: &'a Expected,
    /// Whose contents come.
    pub contents: &'a Contents,
    /// Where those go that are here.
    pub changes: Sender<Change>,
    /// Where those go that have to come another way.
    pub released: Unbounded<Released>,
    // Opened when there is something to decide.
    index: Mutex<Option<Index>>,
}

impl<'a> Comparing<'a> {
    /// Hands on what need not come.
    pub fn new(
        run: &'a Run<'a>,
        expected: &'a Expected,
        contents: &'a Contents,
        (changes, released): (Sender<Change>, Unbounded<Released>),
    ) -> Comparing<'a> {
        Comparing { run, expected, contents, changes, released, index: Mutex::default() }
    }

    /// True when a file has still to come that has this hash, as the client says. If not, nothing must come of it. `is_here`
    /// when all of it was found in the earlier version.
    pub fn is_wanted(&self, id: u64, hash: &Hash, is_here: bool) -> Result<bool> {
        self.expected.reconsider(id, |task| self.decide(task, *hash, is_here))
    }

    /// Returns the task if it has still to come, or is wanted now that it has.
    pub fn decide(&self, mut task: FileTask, hash: Hash, is_here: bool) -> Result<Option<FileTask>> {
        // Bytes there are, so that is not their hash; and the server may be the one to hash.
        if hash == hash_of_nothing() || self.run.source.settings.hash == HashWhere::Server {
            return Ok(Some(task));
        }
        // What was hashed before was decided over then.
        if task.leads.iter().any(|key| matches!(key, Key::Hash(_))) {
            return Ok(Some(task));
        }
        if task.old.as_ref().is_some_and(|old| old.hash == Some(hash)) {
            if !is_here {
                // What the earlier version should have had and has not comes again.
                task.basis_corrupt = true;
                return Ok(Some(task));
            }
            return self.known(task, hash);
        }
        match self.turn(task, hash)? {
            Some(Turn::Lead(task)) => Ok(Some(task)),
            Some(Turn::Known(task, hash)) => self.known(task, hash),
            Some(Turn::Wait) | None => Ok(None),
        }
    }

    // `None` when another source has it: the client has to prove that it does.
    fn turn(&self, mut task: FileTask, hash: Hash) -> Result<Option<Turn>> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match &mut *index {
            Some(index) => index,
            none => none.insert(self.run.repository.index()?),
        };
        let is_sent = || index.source_sent(self.run.source_id, &hash);
        if self.run.has_others && !is_sent()? && !index.versions_with(&hash, 1)?.is_empty() {
            self.contents.wait(&mut task);
            self.released.send(Released::Unproven(task)).map_err(aborted)?;
            return Ok(None);
        }
        self.contents.lead_claim(task, Claim { hash, proof: None }, is_sent).map(Some)
    }

    fn known(&self, task: FileTask, hash: Hash) -> Result<Option<FileTask>> {
        self.changes.send(Change::Known(task, hash)).map_err(aborted)?;
        Ok(None)
    }
}
