//! The helper's hashes: which files are asked for, and what is done with the answers.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use archive_helper::protocol::{HashOutcome, HashRequest, Hashed, MAX_HASHES, Reply, Request, Wants};
use crossbeam_channel::Receiver as Unbounded;

use super::Run;
use super::change::{Change, aborted};
use super::contents::{Claim, FileTask, Key, Released, Sampling, Turn};
use super::dispatch::{Onward, Ways, hash_of_nothing};
use super::failure::Failure;
use super::fetching::path_of;
use super::possession::proven;
use crate::entry::Entry;
use crate::error::Result;
use crate::queue::Receiver;
use crate::remote::helper::{Conversation, Replies, gone, nonsense};
use crate::repository::index::Index;

// How many files one request names, some with another one: with the longest paths they fit a frame.
const BATCH: usize = 128;

// Below the helper's own limit, so that no request is ever refused.
const MOST_UNDER_WAY: usize = MAX_HASHES / 2;

/// Decides over claimed contents: link, fetch, or wait.
pub struct Deciding<'a> {
    /// The run.
    pub run: &'a Run<'a>,
    /// An index of its own, to be used by one thread.
    pub index: Index,
    /// Where to send files.
    pub onward: Onward<'a>,
}

/// Asks the helper to hash the files that come in, until there are no more, and decides over the answers.
pub fn hash(tasks: &Receiver<FileTask>, deciding: Deciding<'_>, failure: &Failure<'_>) -> Result<()> {
    let run = deciding.run;
    // No helper is started for a run that hashes nothing.
    if !tasks.is_fed() {
        return Ok(());
    }
    let Conversation { replies, mut requests } = run.client.converse()?;
    requests.send(&Request::Key(run.key))?;
    let asked = Asked::default();
    let asked = &asked;
    std::thread::scope(|scope| {
        // Whoever could still ask would else never hear that nobody answers any more.
        let answers = scope.spawn(move || {
            let answered = failure.watch(|| answer(replies, asked, deciding));
            asked.end();
            answered
        });
        let mut ask = |task: FileTask| -> Result<()> {
            let more = std::iter::from_fn(|| tasks.try_recv().ok()).take(BATCH - 1);
            let batch: Vec<FileTask> = std::iter::once(task).chain(more).collect();
            requests.send(&Request::Hash(asked.add(batch, run.has_others)?))?;
            requests.flush()
        };
        let sent = tasks.iter().try_for_each(&mut ask);
        // The helper ends with its input, when the last answer is out.
        let drained = if sent.is_ok() { asked.wait_for(0).map(drop) } else { Ok(()) };
        drop(requests);
        // Why the answers ended tells more than that nobody could be asked any more, and is told already.
        let answered = answers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if answered { sent.and(drained) } else { Ok(()) }
    })
}

/// The files that the helper was asked about, by number.
#[derive(Default)]
struct Asked {
    under_way: Mutex<UnderWay>,
    answered: Condvar,
}

#[derive(Default)]
struct UnderWay {
    tasks: HashMap<u64, FileTask>,
    next: u64,
    // Nobody takes answers any more.
    ended: bool,
}

impl Asked {
    // Waits until there is room for so many files; returns what to ask.
    fn add(&self, tasks: Vec<FileTask>, proof: bool) -> Result<Vec<HashRequest>> {
        let mut under_way = self.wait_for(MOST_UNDER_WAY - BATCH)?;
        let mut requests = Vec::with_capacity(tasks.len());
        for task in tasks {
            let id = under_way.next;
            requests.extend(request(id, &task, proof));
            under_way.tasks.insert(id, task);
            under_way.next += 1;
        }
        Ok(requests)
    }

    // Waits until no more than so many are under way.
    fn wait_for(&self, most: usize) -> Result<MutexGuard<'_, UnderWay>> {
        let too_many = |under_way: &mut UnderWay| under_way.tasks.len() > most && !under_way.ended;
        let under_way = self.answered.wait_while(self.lock(), too_many).unwrap_or_else(PoisonError::into_inner);
        if under_way.ended { Err(aborted(())) } else { Ok(under_way) }
    }

    // The tasks of these answers.
    fn take(&self, answers: Vec<Hashed>) -> Result<Vec<(FileTask, HashOutcome)>> {
        let mut under_way = self.lock();
        let task = |Hashed { id, outcome }| Some((under_way.tasks.remove(&id)?, outcome));
        let taken: Option<Vec<_>> = answers.into_iter().map(task).collect();
        drop(under_way);
        self.answered.notify_all();
        taken.ok_or_else(|| nonsense("a hash came that nobody asked for"))
    }

    fn end(&self) {
        self.lock().ended = true;
        self.answered.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request(id: u64, task: &FileTask, proof: bool) -> Option<HashRequest> {
    let path = task.directory.path.join(&task.entry.name)?;
    let Entry { size, mtime, uid, .. } = task.entry;
    let wants = match &task.sampling {
        Sampling::Wanted { first } => Wants::Sample { other: first.clone() },
        _ if proof => Wants::Proof,
        _ => Wants::Hash,
    };
    Some(HashRequest { id, path, size, mtime, uid, wants })
}

fn answer(mut replies: Replies, asked: &Asked, deciding: Deciding<'_>) -> Result<()> {
    while let Some(reply) = replies.receive()? {
        let answers = match reply {
            Reply::Hashed(answers) => answers,
            Reply::Alive => continue,
            _ => return Err(nonsense("an answer came that nobody asked for")),
        };
        for (task, outcome) in asked.take(answers)? {
            deciding.run.client.line().progress(task.entry.size);
            deciding.answered(task, outcome)?;
        }
    }
    if asked.lock().tasks.is_empty() { Ok(()) } else { Err(gone()) }
}

/// Decides anew over tasks that waited for others, until there are no more.
pub fn rejoin(released: &Unbounded<Released>, deciding: &Deciding<'_>, ways: &Ways<'_>) -> Result<()> {
    for mut released in released {
        released.task().into_iter().for_each(|task| ways.onward.contents.resume(task));
        match released {
            Released::Known(task, hash) => deciding.onward.change(Change::Known(task, hash))?,
            Released::Claimed(task, claim) => deciding.decide(task, claim)?,
            Released::Unproven(task) => ways.hashing.send(task).map_err(aborted)?,
            Released::Missing(task) => deciding.onward.fetch.want(FileTask { whole: true, ..task })?,
            Released::Unknown(task) => ways.file(deciding.run, &deciding.index, task)?,
            Released::End => return Ok(()),
        }
    }
    Ok(())
}

impl Deciding<'_> {
    fn answered(&self, task: FileTask, outcome: HashOutcome) -> Result<()> {
        match outcome {
            // Bytes there are, so this is not their hash.
            HashOutcome::Done { hash, .. } if hash == hash_of_nothing() => self.onward.fetch.want(task),
            HashOutcome::Done { hash, proof } => self.decide(task, Claim { hash, proof }),
            HashOutcome::Sampled { sample, other } => self.sampled(task, sample, other),
            // Reading it tells better what has become of it; it is compared with nothing, or that could go on for ever.
            HashOutcome::Changed => self.onward.fetch.want(FileTask { whole: true, ..task }),
            HashOutcome::Vanished => self.vanished(task),
            HashOutcome::Failed(errno) => self.unread(task, errno),
        }
    }

    fn sampled(&self, task: FileTask, sample: u64, of_first: Option<u64>) -> Result<()> {
        if !matches!(task.sampling, Sampling::Wanted { .. }) {
            return Err(nonsense("a sample came that nobody asked for"));
        }
        let (size, sampling) = (task.entry.size, Sampling::Is(sample));
        let task = FileTask { sampling, ..task };
        if self.onward.sizes.is_other(size, sample, of_first) {
            self.onward.fetch.want(self.onward.contents.lead(task, Key::Sample(size, sample)))
        } else {
            self.onward.release(Released::Unproven(task))
        }
    }

    fn vanished(&self, task: FileTask) -> Result<()> {
        self.onward.change(Change::Unread(task, true))
    }

    fn unread(&self, task: FileTask, errno: i32) -> Result<()> {
        let why = nix::errno::Errno::from_raw(errno).desc();
        self.run.tally.unread(format_args!("can't read `{}` on the client: {why}", path_of(&task)));
        self.onward.change(Change::Unread(task, false))
    }

    fn decide(&self, task: FileTask, claim: Claim) -> Result<()> {
        if task.old.as_ref().is_some_and(|old| old.hash == Some(claim.hash)) {
            return self.onward.change(Change::Known(task, claim.hash));
        }
        let source = self.run.source_id;
        let known = || self.index.source_sent(source, &claim.hash);
        match self.onward.contents.lead_claim(task, claim, known)? {
            Turn::Wait => Ok(()),
            Turn::Known(task, hash) => self.onward.change(Change::Known(task, hash)),
            Turn::Lead(mut task) => {
                if self.run.has_others {
                    task.possession = proven(self.run, &self.index, &task, claim)?.map(Box::new);
                }
                match task.possession {
                    Some(_) => self.onward.change(Change::Known(task, claim.hash)),
                    None => self.onward.fetch.want(task),
                }
            }
        }
    }
}
