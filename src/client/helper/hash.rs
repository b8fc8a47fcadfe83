//! Hashing through a helper: jobs are sent in batches by the caller's thread, another one hands on the outcomes.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use archive_helper::protocol::{HashRequest, Hashed, MAX_HASHES, Reply, Request};

use super::HelperClient;
use super::conversation::{Conversation, Replies, Requests};
use super::wire;
use crate::client::stream::Traffic;
use crate::client::{HashJob, HashKind, HashOutcome, HashSink, connection_lost, protocol_violation};
use crate::entry::Hash;
use crate::error::Result;
use crate::queue::Receiver;

// Files that one request names, some with another one: with the longest paths they fit a frame.
const MAX_BATCH_FILES: usize = 128;

// Files under way, below the helper's own limit, so that no request is ever refused.
const MAX_FILES: usize = MAX_HASHES / 2;

/// Has the helper hash what comes in, until nothing more does.
pub(super) fn hash(
    client: &HelperClient,
    key: &Hash,
    jobs: &Receiver<HashJob>,
    sink: &mut (dyn HashSink + Send),
) -> Result<()> {
    // No helper is started for a run that hashes nothing.
    if !jobs.is_fed() {
        return Ok(());
    }
    let Conversation { replies, requests } = client.converse()?;
    let (asked, waiting, interrupter) = (Asked::default(), jobs.closer(), requests.interrupter()?);
    let asked = &asked;
    std::thread::scope(|scope| {
        let answers = scope.spawn(move || {
            let answered = catch_unwind(AssertUnwindSafe(|| answer(replies, asked, &client.traffic, sink)));
            // A caller that could still ask would wait for ever for more jobs, or for a helper that is not heard any more.
            if !matches!(answered, Ok(Ok(()))) {
                waiting.close();
                interrupter.interrupt();
            }
            asked.end();
            answered.unwrap_or_else(|panic| resume_unwind(panic))
        });
        let mut asking = Asking { asked, requests };
        let sent = asking.all(key, jobs);
        // The helper ends with its input, when the last answer is out.
        let drained = if sent.is_ok() { asked.complete() } else { Ok(()) };
        drop(asking);
        // Why the answers ended explains why nothing could be asked any more.
        answers.join().unwrap_or_else(|panic| resume_unwind(panic)).and(sent).and(drained)
    })
}

/// The caller's side.
struct Asking<'a> {
    asked: &'a Asked,
    requests: Requests,
}

impl Asking<'_> {
    fn all(&mut self, key: &Hash, jobs: &Receiver<HashJob>) -> Result<()> {
        self.requests.send(&Request::Key(*key))?;
        while let Some(job) = jobs.recv() {
            let more = std::iter::from_fn(|| jobs.try_recv().ok()).take(MAX_BATCH_FILES - 1);
            let batch: Vec<HashJob> = std::iter::once(job).chain(more).collect();
            let batch = self.asked.add(batch)?;
            self.requests.send(&Request::Hash(batch))?;
            self.requests.flush()?;
        }
        Ok(())
    }
}

fn answer(mut replies: Replies, asked: &Asked, traffic: &Traffic, sink: &mut (dyn HashSink + Send)) -> Result<()> {
    while let Some(reply) = replies.receive()? {
        let answers = match reply {
            Reply::Hashed(answers) => answers,
            Reply::Alive => continue,
            _ => return Err(protocol_violation("an answer came that nobody asked for")),
        };
        for (id, size, outcome) in asked.take(answers)? {
            traffic.progress(size);
            sink.hashed(id, outcome)?;
        }
    }
    // One that ends while more may be asked is lost, whether or not it owes an answer.
    if asked.lock().is_complete { Ok(()) } else { Err(connection_lost()) }
}

/// The files that the helper was asked about.
#[derive(Default)]
struct Asked {
    under_way: Mutex<UnderWay>,
    answered: Condvar,
}

#[derive(Default)]
struct UnderWay {
    // By the caller's number.
    files: HashMap<u64, File>,
    // Nothing is asked any more, and every answer was taken.
    is_complete: bool,
    // Nobody takes answers any more.
    has_ended: bool,
}

struct File {
    size: u64,
    is_sampled: bool,
}

impl Asked {
    // Waits until there is room for so many files; returns what to ask.
    fn add(&self, jobs: Vec<HashJob>) -> Result<Vec<HashRequest>> {
        let mut under_way = self.wait_for(MAX_FILES - MAX_BATCH_FILES)?;
        for job in &jobs {
            let is_sampled = matches!(job.kind, HashKind::Sample { .. });
            under_way.files.insert(job.id, File { size: job.size, is_sampled });
        }
        drop(under_way);
        Ok(jobs.into_iter().map(wire::hash_request).collect())
    }

    // Waits until no more than so many are under way.
    fn wait_for(&self, most: usize) -> Result<MutexGuard<'_, UnderWay>> {
        let too_many = |under_way: &mut UnderWay| under_way.files.len() > most && !under_way.has_ended;
        let under_way = self.answered.wait_while(self.lock(), too_many).unwrap_or_else(PoisonError::into_inner);
        if under_way.has_ended { Err(connection_lost()) } else { Ok(under_way) }
    }

    // Waits for every answer, after the last question.
    fn complete(&self) -> Result<()> {
        self.wait_for(0)?.is_complete = true;
        Ok(())
    }

    // The numbers, sizes and outcomes of these answers.
    fn take(&self, answers: Vec<Hashed>) -> Result<Vec<(u64, u64, HashOutcome)>> {
        let mut under_way = self.lock();
        let taken = answers.into_iter().map(|Hashed { id, outcome }| {
            let file = under_way.files.remove(&id);
            let file = file.ok_or_else(|| protocol_violation("a hash came that nobody asked for"))?;
            match wire::hash_outcome(outcome) {
                HashOutcome::Sampled { .. } if !file.is_sampled => {
                    Err(protocol_violation("a sample came that nobody asked for"))
                }
                outcome => Ok((id, file.size, outcome)),
            }
        });
        let taken = taken.collect();
        drop(under_way);
        self.answered.notify_all();
        taken
    }

    fn end(&self) {
        self.lock().has_ended = true;
        self.answered.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
