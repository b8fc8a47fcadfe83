//! Asks the client for hashes, and reports them to the state machine.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use archive_helper::protocol::{HashOutcome, HashRequest, Hashed, MAX_HASHES, Reply, Request, Wants};
use crossbeam_channel::Receiver as Unbounded;

use super::Run;
use super::change::aborted;
use super::failure::Failure;
use super::machine::{Claim, Event, FileTask, HashKind, HashOrder};
use super::routes::Decider;
use crate::error::Result;
use crate::queue::Receiver;
use crate::remote::ReadError;
use crate::remote::helper::{Conversation, Replies, gone, nonsense};

// Files that one request names, some with another one: with the longest paths they fit a frame.
const BATCH: usize = 128;

// Files that are asked about at a time: below the helper's own limit, so that it refuses no request.
const MAX_UNDER_WAY: usize = MAX_HASHES / 2;

/// Asks the helper to hash the files of the queue, until it ends, and reports the answers.
pub fn hash(run: &Run<'_>, orders: &Receiver<HashOrder>, decider: Decider<'_>, failure: &Failure<'_>) -> Result<()> {
    // A run that hashes nothing starts no helper for it.
    if !orders.is_fed() {
        return Ok(());
    }
    let Conversation { replies, mut requests } = run.client.converse()?;
    requests.send(&Request::Key(run.key))?;
    let asked = Asked::default();
    let asked = &asked;
    std::thread::scope(|scope| {
        // Ends the exchange, or what still asks would wait for ever.
        let answers = scope.spawn(move || {
            let answered = failure.watch(|| answer(run, replies, asked, decider));
            asked.end();
            answered
        });
        let mut ask = |order: HashOrder| -> Result<()> {
            let more = std::iter::from_fn(|| orders.try_recv().ok()).take(BATCH - 1);
            let batch: Vec<HashOrder> = std::iter::once(order).chain(more).collect();
            asked.add(&batch)?;
            requests.send(&Request::Hash(batch.into_iter().map(request).collect()))?;
            requests.flush()
        };
        let sent = orders.iter().try_for_each(&mut ask);
        // The helper ends with its input, after the last answer.
        let drained = if sent.is_ok() { asked.wait_for(0).map(drop) } else { Ok(()) };
        drop(requests);
        // Why the answers ended is reported already, and says more than that nobody answers.
        let answered = answers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if answered { sent.and(drained) } else { Ok(()) }
    })
}

/// The sizes of the files that the helper was asked about, by number.
#[derive(Default)]
struct Asked {
    under_way: Mutex<UnderWay>,
    answered: Condvar,
}

#[derive(Default)]
struct UnderWay {
    sizes: HashMap<u64, u64>,
    // Nobody takes answers any more.
    ended: bool,
}

impl Asked {
    // Waits until there is room for more files.
    fn add(&self, orders: &[HashOrder]) -> Result<()> {
        let mut under_way = self.wait_for(MAX_UNDER_WAY - BATCH)?;
        under_way.sizes.extend(orders.iter().map(|order| (order.id, order.size)));
        Ok(())
    }

    // Waits until at most this many files are under way.
    fn wait_for(&self, most: usize) -> Result<MutexGuard<'_, UnderWay>> {
        let too_many = |under_way: &mut UnderWay| under_way.sizes.len() > most && !under_way.ended;
        let under_way = self.answered.wait_while(self.lock(), too_many).unwrap_or_else(PoisonError::into_inner);
        if under_way.ended { Err(aborted(())) } else { Ok(under_way) }
    }

    // The sizes of the files of these answers, bytes.
    fn take(&self, answers: &[Hashed]) -> Result<u64> {
        let mut under_way = self.lock();
        let sizes: Option<Vec<u64>> = answers.iter().map(|answer| under_way.sizes.remove(&answer.id)).collect();
        drop(under_way);
        self.answered.notify_all();
        Ok(sizes.ok_or_else(|| nonsense("a hash came that nobody asked for"))?.iter().sum())
    }

    fn end(&self) {
        self.lock().ended = true;
        self.answered.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request(HashOrder { id, path, size, mtime, uid, kind }: HashOrder) -> HashRequest {
    let wants = match kind {
        HashKind::Plain => Wants::Hash,
        HashKind::Keyed => Wants::Proof,
        HashKind::Sample(other) => Wants::Sample { other },
    };
    HashRequest { id, path, size, mtime, uid, wants }
}

fn answer(run: &Run<'_>, mut replies: Replies, asked: &Asked, mut decider: Decider<'_>) -> Result<()> {
    while let Some(reply) = replies.receive()? {
        let answers = match reply {
            Reply::Hashed(answers) => answers,
            Reply::Alive => continue,
            _ => return Err(nonsense("an answer came that nobody asked for")),
        };
        run.client.line().progress(asked.take(&answers)?);
        answers.into_iter().try_for_each(|answer| decider.report(event(answer)))?;
    }
    if asked.lock().sizes.is_empty() { Ok(()) } else { Err(gone()) }
}

fn event(Hashed { id, outcome }: Hashed) -> Event {
    match outcome {
        HashOutcome::Done { hash, proof } => Event::Hashed { id, claim: Claim { hash, proof } },
        HashOutcome::Sampled { sample, other } => Event::Sampled { id, sample, of_first: other },
        HashOutcome::Changed => Event::ChangedBeforeHash { id },
        HashOutcome::Vanished => Event::HashFailed { id, error: ReadError::Vanished },
        HashOutcome::Failed(errno) => {
            let why = nix::errno::Errno::from_raw(errno).desc();
            Event::HashFailed { id, error: ReadError::Refused(why.to_owned()) }
        }
    }
}

/// Decides again about postponed files, until their end.
pub fn resume(postponed: &Unbounded<Option<Box<FileTask>>>, mut decider: Decider<'_>) -> Result<()> {
    postponed.iter().map_while(|file| file).try_for_each(|file| decider.report(Event::Resumed(file)))
}
