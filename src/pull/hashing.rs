//! The helper's hashes: which files are asked for, and what is done with the answers.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use archive_helper::protocol::{HashOutcome, HashRequest, Hashed, MAX_HASHES, Reply, Request};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::Run;
use super::change::{Change, aborted};
use super::contents::{Claim, FileTask, Released, Turn};
use super::dispatch::{Onward, Ways, hash_of_nothing};
use super::failure::Failure;
use crate::entry::{Entry, Hash, hash_content};
use crate::error::Result;
use crate::remote::helper::{Conversation, Replies, gone, nonsense};
use crate::repository::index::Index;
use crate::repository::place::Place;

// How many files one request names.
const BATCH: usize = 256;

// Below the helper's own limit, so that no request is ever refused.
const MOST_UNDER_WAY: usize = MAX_HASHES / 2;

// Places of a content that are looked at before it counts as lost.
const MOST_PLACES: u32 = 16;

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
    let Ok(first) = tasks.recv() else { return Ok(()) };
    let Conversation { replies, mut requests } = run.client.converse()?;
    requests.send(&Request::Key(run.key))?;
    let asked = Mutex::new(HashMap::new());
    // One token for each file under way.
    let (take, give) = bounded(MOST_UNDER_WAY);
    let asked = &asked;
    std::thread::scope(|scope| {
        // Whoever could still ask would else never hear that nobody answers any more.
        let answers = scope.spawn(move || failure.watch(|| answer(replies, asked, give, deciding)));
        let mut next = 0;
        let mut ask = |task: FileTask| -> Result<()> {
            let mut batch = Vec::with_capacity(BATCH);
            let more = tasks.try_iter().take(BATCH - 1);
            for task in std::iter::once(task).chain(more) {
                take.send(()).map_err(aborted)?;
                batch.extend(request(next, &task, run.has_others));
                asked.lock().unwrap_or_else(PoisonError::into_inner).insert(next, task);
                next += 1;
            }
            requests.send(&Request::Hash(batch))?;
            requests.flush()
        };
        let sent = ask(first).and_then(|()| tasks.iter().try_for_each(&mut ask));
        // The helper ends with its input, when the last answer is out.
        let drained = wait_for_answers(&take, sent.is_ok());
        drop(requests);
        // Why the answers ended tells more than that nobody could be asked any more, and is told already.
        let answered = answers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if answered { sent.and(drained) } else { Ok(()) }
    })
}

// Every token can be taken only when no file is under way; the answering thread's end makes it fail.
fn wait_for_answers(take: &Sender<()>, sent: bool) -> Result<()> {
    let all = if sent { MOST_UNDER_WAY } else { 0 };
    (0..all).try_for_each(|_| take.send(()).map_err(aborted))
}

fn request(id: u64, task: &FileTask, proof: bool) -> Option<HashRequest> {
    let path = task.directory.path.join(&task.entry.name)?;
    let Entry { size, mtime, uid, .. } = task.entry;
    Some(HashRequest { id, path, size, mtime, uid, proof })
}

fn answer(
    mut replies: Replies,
    asked: &Mutex<HashMap<u64, FileTask>>,
    give: Receiver<()>,
    deciding: Deciding<'_>,
) -> Result<()> {
    while let Some(reply) = replies.receive()? {
        let answers = match reply {
            Reply::Hashed(answers) => answers,
            Reply::Alive => continue,
            _ => return Err(nonsense("an answer came that nobody asked for")),
        };
        for Hashed { id, outcome } in answers {
            let task = asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            let task = task.ok_or_else(|| nonsense("a hash came that nobody asked for"))?;
            deciding.answered(task, outcome)?;
            give.recv().map_err(aborted)?;
        }
    }
    match asked.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
        true => Ok(()),
        false => Err(gone()),
    }
}

/// Decides anew over tasks that waited for others, until there are no more.
pub fn rejoin(released: &Receiver<Released>, deciding: &Deciding<'_>, ways: &Ways<'_>) -> Result<()> {
    for released in released {
        match released {
            Released::Known(task, hash) => deciding.onward.change(Change::Known(task, hash))?,
            Released::Claimed(task, claim) => deciding.decide(task, claim)?,
            Released::Missing(task) => deciding.onward.fetch.want(task)?,
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
            // Reading it tells better what has become of it.
            HashOutcome::Changed => self.onward.fetch.want(task),
            HashOutcome::Vanished => self.vanished(task),
            HashOutcome::Failed(errno) => self.unread(task, errno),
        }
    }

    fn vanished(&self, task: FileTask) -> Result<()> {
        self.onward.change(Change::Unread(task, true))
    }

    fn unread(&self, task: FileTask, errno: i32) -> Result<()> {
        let path = task.directory.path.join(&task.entry.name);
        let why = nix::errno::Errno::from_raw(errno).desc();
        self.run.tally.unread(format_args!("can't read `{}` on the client: {why}", shown(&path)));
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
            Turn::Lead(task) if self.run.has_others && self.is_proven(&task, claim)? => {
                self.onward.change(Change::Known(task, claim.hash))
            }
            Turn::Lead(task) => self.onward.fetch.want(task),
        }
    }

    // A client that names the hash of another source's content could be after that content. It gets a link only when
    // it shows that it has the content itself.
    fn is_proven(&self, task: &FileTask, claim: Claim) -> Result<bool> {
        let Some(proof) = claim.proof else { return Ok(false) };
        for located in self.index.versions_with(&claim.hash, MOST_PLACES)? {
            for place in Place::all_of(&located) {
                let Ok(found) = self.keyed_hash_at(&place) else { continue };
                if found == proof {
                    return Ok(true);
                }
                let path = task.directory.path.join(&task.entry.name);
                let on_disk = crate::path::Escaped(&place.on_disk()).to_string();
                self.run.tally.warn(format_args!(
                    "`{}` was copied, for `{on_disk}` is not what the client has: run `archive index check`",
                    shown(&path)
                ));
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn keyed_hash_at(&self, place: &Place) -> io::Result<Hash> {
        let dir = place.open_directory(self.run.repository)?;
        let file = dir.open_file(&place.name)?;
        hash_content(file, blake3::Hasher::new_keyed(&self.run.key))
    }
}

fn shown(path: &Option<crate::path::AbsPath>) -> String {
    path.as_ref().map(ToString::to_string).unwrap_or_default()
}
