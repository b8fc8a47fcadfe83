//! The index as the last stage has it: what one batch did is written to it while the next one gathers.

use std::thread::{Builder, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::change::aborted;
use super::failure::Failure;
use crate::error::{OnServer, Result};
use crate::repository::index::Index;

/// The index, unless something is being written to it: whoever asks for it waits for that.
pub struct Ledger<'scope> {
    // Nothing while it is being written to, or when that failed.
    index: Option<Index>,
    is_away: bool,
    work: Sender<(Index, Work<'scope>)>,
    back: Receiver<Option<Index>>,
}

type Work<'scope> = Box<dyn FnOnce(&mut Index) -> Result<()> + Send + 'scope>;

impl<'scope> Ledger<'scope> {
    /// Takes the index. What is written to it is written on a thread in `scope`, and what goes wrong there goes to `failure`.
    pub fn new(index: Index, scope: &'scope Scope<'scope, '_>, failure: &'scope Failure<'_>) -> Result<Ledger<'scope>> {
        let (work, to_do) = bounded::<(Index, Work<'scope>)>(1);
        let (done, back) = bounded(1);
        let enter = move || {
            for (mut index, work) in to_do {
                let index = failure.watch(|| work(&mut index)).then_some(index);
                if done.send(index).is_err() {
                    return;
                }
            }
        };
        let started = Builder::new().name("entering".to_owned()).spawn_scoped(scope, enter);
        started.on_server("can't start a thread")?;
        Ok(Ledger { index: Some(index), is_away: false, work, back })
    }

    /// The index, with all that was written to it.
    pub fn index(&mut self) -> Result<&mut Index> {
        if std::mem::take(&mut self.is_away) {
            self.index = self.back.recv().ok().flatten();
        }
        self.index.as_mut().ok_or_else(|| aborted(()))
    }

    /// True while something is being written to it.
    pub fn is_writing(&self) -> bool {
        self.is_away && self.back.is_empty()
    }

    /// Has something written to the index, and does not wait for it.
    pub fn write(&mut self, work: impl FnOnce(&mut Index) -> Result<()> + Send + 'scope) -> Result<()> {
        self.index()?;
        if let Some(index) = self.index.take() {
            self.work.send((index, Box::new(work))).map_err(aborted)?;
            self.is_away = true;
        }
        Ok(())
    }
}
