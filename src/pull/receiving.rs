//! Files on their way from the client: written into staging and hashed as they arrive.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use super::Run;
use super::arriving::{Arriving, Part, Received, Target};
use super::change::{Change, aborted};
use super::comparing::Comparing;
use super::contents::{Claim, FileTask, Key, Released, Turn};
use super::fetching::{Asked, path_of};
use super::pipeline::in_staging;
use super::possession::{proof_of, proven};
use crate::entry::{Extent, Hash};
use crate::error::{OnServer, Result};
use crate::queue::Receiver;
use crate::remote::{Arrived, FileState, ReadError};
use crate::repository::index::Index;
use crate::repository::staging::{Staged, Staging};
use crate::source::LinkWhen;

const WHAT: &str = "can't write into the staging area";

// How many threads write at most.
const MOST_LANES: usize = 4;

/// How many threads write at once what arrives: unless told otherwise as there are processors, but one file system takes
/// only so many at a time.
pub fn lanes(writers: Option<u8>) -> usize {
    let usual = || std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST_LANES));
    writers.map_or_else(usual, usize::from)
}

/// Which of them takes something: the same one for all of a file, and for all of one content, so that whoever hears of
/// a content that has come finds it.
pub fn lane(arrived: &Arrived) -> usize {
    match arrived {
        Arrived::Whole { hash, .. } | Arrived::Same { hash, .. } => usize::from(hash[0]),
        other => other.id() as usize,
    }
}

/// Writes what arrives into staging, until nothing more comes.
pub fn receive(run: &Run<'_>, staging: &Staging, arrived: &Receiver<Arrived>, comparing: &Comparing<'_>) -> Result<()> {
    let mut inbox = Inbox { run, staging, comparing, receiving: HashMap::new(), index: None };
    arrived.iter().try_for_each(|arrival| inbox.take(arrival)).map_err(|error| in_staging(run, error))
}

struct Inbox<'a> {
    run: &'a Run<'a>,
    staging: &'a Staging,
    comparing: &'a Comparing<'a>,
    receiving: HashMap<u64, Arriving>,
    // Opened when something has come that may be here already.
    index: Option<Index>,
}

impl Inbox<'_> {
    fn take(&mut self, arrival: Arrived) -> Result<()> {
        match arrival {
            Arrived::Data { id, bytes } => self.data(id, &bytes),
            Arrived::Ahead { id } => self.ahead(id),
            Arrived::Hole { id, length } => {
                let run = self.run;
                self.begun(id)?.skip(length, run)
            }
            Arrived::Here { id, offset, length } => self.here(id, Extent { offset, length }),
            Arrived::Whole { id, bytes, hash, state } => self.whole(id, (&bytes, hash), state),
            Arrived::Same { id, hash } => {
                let claim = Claim { hash, proof: None };
                self.release(Released::Claimed(self.comparing.expected.take(id), claim))
            }
            Arrived::Restart { id } => self.restart(id),
            Arrived::End { id, state, consistent, claimed } => self.end(id, state, consistent, claimed),
            Arrived::Failed { id, error } => {
                self.discard(id)?;
                self.hand_on(failed(self.run, self.comparing.expected.take(id), &error))
            }
        }
    }

    fn begun(&mut self, id: u64) -> Result<&mut Arriving> {
        match self.receiving.entry(id) {
            Slot::Occupied(begun) => Ok(begun.into_mut()),
            Slot::Vacant(free) => {
                let base = self.comparing.expected.base(id);
                let begun = Arriving::begin(self.staging, self.comparing.expected.target(id), base.as_ref())?;
                Ok(free.insert(limited(self.run, begun)))
            }
        }
    }

    fn ahead(&mut self, id: u64) -> Result<()> {
        self.begun(id)?.is_ahead = true;
        Ok(())
    }

    fn count(&self, bytes: u64) {
        self.run.tally.progress.bytes_copied.add(bytes);
        self.run.tally.report.progress(&self.run.tally.progress);
    }

    fn data(&mut self, id: u64, bytes: &[u8]) -> Result<()> {
        self.run.room.take(bytes.len() as u64)?;
        self.count(bytes.len() as u64);
        self.begun(id)?.add(bytes)
    }

    fn here(&mut self, id: u64, extent: Extent) -> Result<()> {
        self.run.room.take(extent.length)?;
        let (base, run) = (self.comparing.expected.base(id), self.run);
        self.begun(id)?.copy(base, extent, run)
    }

    fn whole(&mut self, id: u64, (bytes, hash): (&[u8], Hash), state: FileState) -> Result<()> {
        self.run.room.take(bytes.len() as u64)?;
        let Asked { mut task, once, .. } = self.comparing.expected.take_asked(id);
        self.count(bytes.len() as u64);
        // Several helpers may have sent it, and another file may have had it before.
        let has_changed = task.old.is_some() && self.run.source.settings.link != LinkWhen::Never;
        if once && (has_changed || self.run.client.is_far()) {
            let Some(first) = self.first_of(task, (bytes, hash))? else { return Ok(()) };
            task = first;
        }
        let content = Received::whole((bytes, hash), &task, self.staging)?;
        self.comparing.contents.lead_arrived(&mut task, hash);
        self.hand_on(finish(self.run, task, content, state, true, self.staging)?)
    }

    // A content may be here already, or under way to be: then this copy of it counts for nothing, and `None` comes back. It
    // may be another source's: that the client has it is proven by what it sent.
    fn first_of(&mut self, task: FileTask, (bytes, hash): (&[u8], Hash)) -> Result<Option<FileTask>> {
        let index = match &self.index {
            Some(index) => index,
            None => self.index.insert(self.run.repository.index()?),
        };
        let is_here = || index.source_sent(self.run.source_id, &hash);
        let possession = |task: &FileTask| {
            if self.run.has_others {
                proven(self.run, index, task, Claim { hash, proof: Some(proof_of(self.run, bytes)) })
            } else {
                Ok(None)
            }
        };
        match self.comparing.contents.lead_claim(task, Claim { hash, proof: None }, is_here)? {
            Turn::Lead(mut task) => {
                task.possession = possession(&task)?.map(Box::new);
                if task.possession.is_none() {
                    return Ok(Some(task));
                }
                self.hand_on(Change::Known(task, hash)).map(|()| None)
            }
            Turn::Wait => Ok(None),
            Turn::Known(task, hash) => self.hand_on(Change::Known(task, hash)).map(|()| None),
        }
    }

    fn restart(&mut self, id: u64) -> Result<()> {
        self.discard(id)?;
        let target = match self.comparing.expected.target(id) {
            Target::Part(part) => Target::Part(Part { size: 0, ..part }),
            new => new,
        };
        let begun = limited(self.run, Arriving::begin(self.staging, target, None)?);
        self.receiving.insert(id, begun);
        Ok(())
    }

    fn end(&mut self, id: u64, state: FileState, consistent: bool, claimed: Option<Hash>) -> Result<()> {
        let begun = match self.receiving.remove(&id) {
            Some(begun) => begun,
            None => Arriving::begin(self.staging, self.comparing.expected.target(id), None)?,
        };
        let (mut task, is_carried_on, is_ahead) =
            (self.comparing.expected.take(id), begun.is_carried_on, begun.is_ahead);
        if let Some(trouble) = begun.trouble {
            begun.discard(self.staging)?;
            if let Some(words) = trouble.words() {
                return self.hand_on(failed(self.run, task, &ReadError::Refused(words.to_owned())));
            }
            task.whole = true;
            return self.release(Released::Missing(task));
        }
        let mut content = begun.end()?;
        let is_other = claimed.is_some_and(|claimed| claimed != content.hash);
        if is_other || is_carried_on && !is_as_claimed(&task, &content.hash) {
            // What was here of it was spoilt, or of another file: all of it is fetched.
            self.staging.unlink(&content.name).on_server(WHAT)?;
            task.whole = true;
            return self.release(Released::Missing(task));
        }
        if is_ahead {
            // Where it is decided that it must come another time, it may begin to before this copy is gone.
            content.name = self.staging.set_aside(&content.name).on_server(WHAT)?;
            let Some(wanted) = self.comparing.decide(task, content.hash, false)? else {
                return self.staging.unlink(&content.name).on_server(WHAT);
            };
            task = wanted;
        }
        self.staging.permit(&content.file, &task.entry).on_server(WHAT)?;
        self.hand_on(finish(self.run, task, content, state, consistent, self.staging)?)
    }

    fn discard(&mut self, id: u64) -> Result<()> {
        self.receiving.remove(&id).map_or(Ok(()), |begun| begun.discard(self.staging))
    }

    fn hand_on(&self, change: Change) -> Result<()> {
        self.comparing.changes.send(change).map_err(aborted)
    }

    fn release(&self, mut released: Released) -> Result<()> {
        released.task().into_iter().for_each(|task| self.comparing.contents.wait(task));
        self.comparing.released.send(released).map_err(aborted)
    }
}

// What was listed as larger is left out already.
fn limited(run: &Run<'_>, mut begun: Arriving) -> Arriving {
    begun.limit = run.source.settings.max_file_size.unwrap_or(u64::MAX);
    begun
}

fn finish(
    run: &Run<'_>,
    mut task: FileTask,
    content: Received,
    state: FileState,
    consistent: bool,
    staging: &Staging,
) -> Result<Change> {
    let Received { name, file, hash, size } = content;
    // What was read counts, not what was listed. Its ctime is not known then, so the next run looks at it again.
    let as_listed = state.size == task.entry.size && size == task.entry.size && state.mtime == task.entry.mtime;
    (task.entry.size, task.entry.mtime) = (size, state.mtime);
    let consistent = consistent && (is_as_claimed(&task, &hash) || !as_listed);
    task.deviates = !as_listed || !consistent;
    if !consistent {
        run.tally
            .warn(format_args!("`{}` kept changing while it was read; its copy may be inconsistent", path_of(&task)));
    }
    staging.dress(&file, &task.entry).on_server(WHAT)?;
    run.tally.progress.copied.add(1);
    Ok(Change::Received(task, Staged { name, hash, size, consistent }))
}

fn is_as_claimed(task: &FileTask, hash: &Hash) -> bool {
    task.leads.iter().all(|key| !matches!(key, Key::Hash(claimed) if claimed != hash))
}

fn failed(run: &Run<'_>, task: FileTask, error: &ReadError) -> Change {
    let path = path_of(&task);
    match error {
        ReadError::Vanished => {
            run.tally.notice(format_args!("`{path}` vanished before it was read"));
            run.tally.progress.skipped.add(1);
            Change::Unread(task, true)
        }
        ReadError::Refused(why) => {
            run.tally.unread(format_args!("can't read `{path}` on the client: {why}"));
            Change::Unread(task, false)
        }
    }
}
