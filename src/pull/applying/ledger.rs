//! The index as the batch writer has it: one batch is written to it while the next one gathers.

use std::thread::{Builder, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::super::pipeline::{Failure, aborted};
use crate::error::{OnServer, Result};
use crate::repository::index::Index;

/// The index, except while something is written to it: the caller waits for that.
pub struct Ledger<'scope> {
    // `None` while it is written to, or when that failed.
    index: Option<Index>,
    is_away: bool,
    // `None` if the caller writes.
    writer: Option<Writer<'scope>>,
}

struct Writer<'scope> {
    work: Sender<(Index, Work<'scope>)>,
    back: Receiver<Option<Index>>,
}

type Work<'scope> = Box<dyn FnOnce(&mut Index) -> Result<()> + Send + 'scope>;

impl<'scope> Ledger<'scope> {
    /// Writes on a thread in `scope`; `failure` learns of errors there.
    pub fn new(index: Index, scope: &'scope Scope<'scope, '_>, failure: &'scope Failure<'_>) -> Result<Ledger<'scope>> {
        let (work, to_do) = bounded::<(Index, Work<'scope>)>(1);
        let (done, back) = bounded(1);
        let write = move || {
            for (mut index, work) in to_do {
                let index = failure.watch(|| work(&mut index)).then_some(index);
                if done.send(index).is_err() {
                    return;
                }
            }
        };
        let started = Builder::new().name("entering".to_owned()).spawn_scoped(scope, write);
        started.on_server("can't start a thread")?;
        Ok(Ledger { index: Some(index), is_away: false, writer: Some(Writer { work, back }) })
    }

    /// Writes on the caller's thread, so that the order of all work is the caller's.
    #[cfg(test)]
    pub fn of_one_thread(index: Index) -> Ledger<'scope> {
        Ledger { index: Some(index), is_away: false, writer: None }
    }

    /// The index, with everything that was written to it.
    pub fn index(&mut self) -> Result<&mut Index> {
        if std::mem::take(&mut self.is_away) {
            self.index = self.writer.as_ref().and_then(|writer| writer.back.recv().ok().flatten());
        }
        self.index.as_mut().ok_or_else(|| aborted(()))
    }

    /// True while something is written to it.
    pub fn is_writing(&self) -> bool {
        self.is_away && self.writer.as_ref().is_some_and(|writer| writer.back.is_empty())
    }

    /// Has something written to the index, and does not wait for it.
    pub fn write(&mut self, work: impl FnOnce(&mut Index) -> Result<()> + Send + 'scope) -> Result<()> {
        self.index()?;
        let Some(mut index) = self.index.take() else { return Ok(()) };
        match &self.writer {
            Some(writer) => {
                writer.work.send((index, Box::new(work))).map_err(aborted)?;
                self.is_away = true;
            }
            None => {
                work(&mut index)?;
                self.index = Some(index);
            }
        }
        Ok(())
    }
}
