//! The index as the last stage has it: what one batch did is written to it while the next one gathers.

use std::thread::{Builder, Scope, ScopedJoinHandle};

use super::change::aborted;
use super::failure::Failure;
use crate::error::{OnServer, Result};
use crate::repository::index::Index;

/// The index, unless something is being written to it: whoever asks for it waits for that.
pub struct Ledger<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    failure: &'env Failure<'env>,
    // Nothing while it is being written to, or when that failed.
    index: Option<Index>,
    writing: Option<ScopedJoinHandle<'scope, Option<Index>>>,
}

impl<'scope, 'env> Ledger<'scope, 'env> {
    /// Takes the index. What is written to it is written in `scope`, and what goes wrong there goes to `failure`.
    pub fn new(scope: &'scope Scope<'scope, 'env>, failure: &'env Failure<'env>, index: Index) -> Ledger<'scope, 'env> {
        Ledger { scope, failure, index: Some(index), writing: None }
    }

    /// The index, with all that was written to it.
    pub fn index(&mut self) -> Result<&mut Index> {
        if let Some(writing) = self.writing.take() {
            self.index = writing.join().ok().flatten();
        }
        self.index.as_mut().ok_or_else(|| aborted(()))
    }

    /// True while something is being written to it.
    pub fn is_writing(&self) -> bool {
        self.writing.as_ref().is_some_and(|writing| !writing.is_finished())
    }

    /// Has something written to the index, and does not wait for it.
    pub fn write(&mut self, work: impl FnOnce(&mut Index) -> Result<()> + Send + 'scope) -> Result<()> {
        self.index()?;
        let (index, failure) = (self.index.take(), self.failure);
        let write = move || index.and_then(|mut index| failure.watch(|| work(&mut index)).then_some(index));
        let writing = Builder::new().name("entering".to_owned()).spawn_scoped(self.scope, write);
        self.writing = Some(writing.on_server("can't start a thread")?);
        Ok(())
    }
}
