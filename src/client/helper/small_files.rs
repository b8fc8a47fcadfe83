//! Small files through the helper, many in a frame. Large files, and those that change, go other ways.

use std::collections::HashMap;

use archive_helper::protocol::{MAX_READING, ReadAnswer, ReadOutcome, ReadRequest, Reply, Request};

use super::channels::Jobs;
use super::conversation::Conversation;
use super::fetch::is_large_delta;
use super::wire;
use crate::client::{
    FetchEvent, FetchJob, FileState, MAX_SMALL_FILE_BYTES, ReadError, connection_lost, protocol_violation,
    receiver_gone,
};
use crate::error::Result;
use crate::queue::{Nothing, Sender};

// Bytes under way, half of what the helper allows: enough to fill a connection with a long round trip, and never refused.
const MAX_BYTES: u64 = MAX_READING / 2;

// Bytes under way until it is known how fast the connection is: what was asked for by then is not compressed.
const MAX_FIRST_BYTES: u64 = 512 * 1024;

// Files under way, however small.
const MAX_FILES: usize = 4096;

// Files that one request names.
const MAX_BATCH_FILES: usize = 128;

/// Where files go that are not for this reader.
pub(super) struct Routes {
    /// To the conversation for deltas: large files with a basis, and on a slow connection large files and those with a basis.
    pub deltas: Sender<FetchJob>,
    /// To SFTP: large files on a fast connection, and files that have changed since they were listed.
    pub full: Sender<FetchJob>,
}

/// Reads small files until the jobs are closed and everything is answered. With `may_repeat`, other channels read some, too.
pub(super) fn read_files(
    conversation: Conversation,
    mut jobs: Jobs<'_>,
    events: &Sender<FetchEvent>,
    routes: Routes,
    may_repeat: bool,
) -> Result<()> {
    let (under_way, bytes, batch) = (HashMap::new(), 0, Vec::new());
    let mut reader = Reader { conversation, events, routes, may_repeat, under_way, bytes, batch };
    while reader.ask(&mut jobs)? {
        reader.hear()?;
    }
    Ok(())
}

struct Reader<'a> {
    conversation: Conversation,
    events: &'a Sender<FetchEvent>,
    routes: Routes,
    may_repeat: bool,
    under_way: HashMap<u64, FetchJob>,
    bytes: u64,
    batch: Vec<ReadRequest>,
}

impl Reader<'_> {
    // Asks for as much as there is room for; false when all is done. Waits for files only when nothing is under way.
    fn ask(&mut self, jobs: &mut Jobs<'_>) -> Result<bool> {
        if self.conversation.replies.turns_out_slow() {
            self.conversation.requests.send(&Request::Pack)?;
        }
        let most = if self.conversation.replies.is_judged() { MAX_BYTES } else { MAX_FIRST_BYTES };
        while self.bytes < most && self.under_way.len() < MAX_FILES {
            let next = if self.under_way.is_empty() { jobs.recv().ok_or(Nothing::More) } else { jobs.try_recv() };
            match next {
                Ok(job) => self.take(job)?,
                Err(_) => break,
            }
        }
        self.send()?;
        self.conversation.requests.flush()?;
        Ok(!self.under_way.is_empty())
    }

    fn take(&mut self, job: FetchJob) -> Result<()> {
        let is_large = job.size > MAX_SMALL_FILE_BYTES;
        // On a slow connection bytes count more than questions, and a large file has to be compressed.
        let is_for_deltas = self.conversation.replies.is_slow() && (is_large || job.basis.is_some());
        if is_for_deltas || is_large_delta(&job) {
            return self.routes.deltas.send(job).map_err(receiver_gone);
        }
        if is_large {
            // SFTP is the faster way for a file that is sent in full.
            return self.routes.full.send(job).map_err(receiver_gone);
        }
        let FetchJob { id, ref path, size, mtime, uid, dedup, .. } = job;
        let (path, mtime) = (wire::to_path(path.clone()), wire::to_time(mtime));
        self.batch.push(ReadRequest { id, path, size, mtime, uid, once: dedup });
        self.bytes += size;
        self.under_way.insert(id, job);
        if self.batch.len() >= MAX_BATCH_FILES { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            Ok(())
        } else {
            self.conversation.requests.send(&Request::Read(std::mem::take(&mut self.batch)))
        }
    }

    fn hear(&mut self) -> Result<()> {
        self.conversation.replies.owes_much(self.bytes >= MAX_FIRST_BYTES / 2);
        match self.conversation.replies.receive()?.ok_or_else(connection_lost)? {
            Reply::Read(answers) => answers.into_iter().try_for_each(|answer| self.answered(answer)),
            Reply::Alive => Ok(()),
            _ => Err(protocol_violation("an answer came that nobody asked for")),
        }
    }

    fn answered(&mut self, ReadAnswer { id, outcome }: ReadAnswer) -> Result<()> {
        let job = self.under_way.remove(&id);
        let job = job.ok_or_else(|| protocol_violation("a file came that nobody asked for"))?;
        self.bytes -= job.size;
        let failed = |error| FetchEvent::Failed { id, error };
        let event = match outcome {
            ReadOutcome::Content(bytes) => self.full(job, bytes.into_vec())?,
            ReadOutcome::Sent(hash) if job.dedup => FetchEvent::AlreadySent { id, hash },
            ReadOutcome::Sent(_) => return Err(protocol_violation("a file that was to come did not")),
            // SFTP's reader can read a file that keeps changing.
            ReadOutcome::Changed => return self.routes.full.send(job).map_err(receiver_gone),
            ReadOutcome::Vanished => failed(ReadError::Vanished),
            ReadOutcome::Failed(errno) => failed(ReadError::from_errno(errno)),
        };
        self.events.send(event).map_err(receiver_gone)
    }

    fn full(&self, FetchJob { id, size, mtime, uid, .. }: FetchJob, bytes: Vec<u8>) -> Result<FetchEvent> {
        if bytes.len() as u64 != size {
            return Err(protocol_violation("a file has another size than the client said"));
        }
        let hash = *blake3::hash(&bytes).as_bytes();
        let state = FileState { size, mtime, uid };
        Ok(FetchEvent::Full { id, bytes, hash, state, may_repeat: self.may_repeat })
    }
}
