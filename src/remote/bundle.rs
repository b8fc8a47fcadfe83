//! Small files through the helper, many in a frame. Larger ones, and those that change, go other ways.

use std::collections::HashMap;

use archive_helper::protocol::{MAX_BUNDLED, MAX_READING, ReadAnswer, ReadOutcome, ReadRequest, Reply, Request};

use super::helper::{Conversation, gone, nonsense};
use super::{Arrived, FileState, ReadError, Wanted};
use crate::error::{Error, Kind, Result};
use crate::queue::{Nothing, Receiver, Sender};

// Half of what the helper allows: enough to fill a long line, and never refused.
const WINDOW: u64 = MAX_READING / 2;

// As much until it is known how fast the line is: what is asked for by then comes as it is.
const FIRST_WINDOW: u64 = 512 * 1024;

// How many files may be under way, however small.
const MOST_FILES: usize = 4096;

// How many files one request names.
const BATCH: usize = 128;

/// Reads small files until `wanted` is closed and everything is answered. When the line is slow, what is large or can be
/// compared with an earlier version goes to `large`; else what is large, and always what has changed since it was listed,
/// to `others`.
pub fn read_files(
    conversation: Conversation,
    wanted: &Receiver<Wanted>,
    arrived: &Sender<Arrived>,
    (large, others): (&Sender<Wanted>, &Sender<Wanted>),
) -> Result<()> {
    let mut bundles =
        Bundles { conversation, arrived, large, others, under_way: HashMap::new(), bytes: 0, batch: Vec::new() };
    while bundles.ask(wanted)? {
        bundles.hear()?;
    }
    Ok(())
}

struct Bundles<'a> {
    conversation: Conversation,
    arrived: &'a Sender<Arrived>,
    large: &'a Sender<Wanted>,
    others: &'a Sender<Wanted>,
    under_way: HashMap<u64, Wanted>,
    bytes: u64,
    batch: Vec<ReadRequest>,
}

impl Bundles<'_> {
    // Asks for as much as there is room for; false when all is done. Waits for files only when nothing is under way.
    fn ask(&mut self, wanted: &Receiver<Wanted>) -> Result<bool> {
        if self.conversation.replies.turns_out_slow() {
            self.conversation.requests.send(&Request::Pack)?;
        }
        let window = if self.conversation.replies.is_judged() { WINDOW } else { FIRST_WINDOW };
        while self.bytes < window && self.under_way.len() < MOST_FILES {
            let next = if self.under_way.is_empty() { wanted.recv().ok_or(Nothing::More) } else { wanted.try_recv() };
            match next {
                Ok(wanted) => self.take(wanted)?,
                Err(_) => break,
            }
        }
        self.send()?;
        self.conversation.requests.flush()?;
        Ok(!self.under_way.is_empty())
    }

    fn take(&mut self, wanted: Wanted) -> Result<()> {
        let is_large = wanted.size > MAX_BUNDLED;
        // On a slow line bytes count more than questions, and what is large has to be compressed.
        if self.conversation.replies.is_slow() && (is_large || wanted.base.is_some()) {
            return self.large.send(wanted).map_err(unwanted);
        }
        if is_large {
            // SFTP is the faster way for what comes whole.
            return self.others.send(wanted).map_err(unwanted);
        }
        let Wanted { id, ref path, size, mtime, uid, once, .. } = wanted;
        self.batch.push(ReadRequest { id, path: path.clone(), size, mtime, uid, once });
        self.bytes += size;
        self.under_way.insert(id, wanted);
        if self.batch.len() >= BATCH { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            Ok(())
        } else {
            self.conversation.requests.send(&Request::Read(std::mem::take(&mut self.batch)))
        }
    }

    fn hear(&mut self) -> Result<()> {
        self.conversation.replies.owes_much(self.bytes >= FIRST_WINDOW / 2);
        match self.conversation.replies.receive()?.ok_or_else(gone)? {
            Reply::Read(answers) => answers.into_iter().try_for_each(|answer| self.answered(answer)),
            Reply::Alive => Ok(()),
            _ => Err(nonsense("an answer came that nobody asked for")),
        }
    }

    fn answered(&mut self, ReadAnswer { id, outcome }: ReadAnswer) -> Result<()> {
        let wanted = self.under_way.remove(&id).ok_or_else(|| nonsense("a file came that nobody asked for"))?;
        self.bytes -= wanted.size;
        let failed = |error| Arrived::Failed { id, error };
        let arrival = match outcome {
            ReadOutcome::Content(bytes) => whole(wanted, bytes.into_vec())?,
            ReadOutcome::Sent(hash) if wanted.once => Arrived::Same { id, hash },
            ReadOutcome::Sent(_) => return Err(nonsense("a file that was to come did not")),
            // SFTP's reader knows what to do with a file that does not keep still.
            ReadOutcome::Changed => return self.others.send(wanted).map_err(unwanted),
            ReadOutcome::Vanished => failed(ReadError::Vanished),
            ReadOutcome::Failed(errno) => {
                failed(ReadError::Refused(nix::errno::Errno::from_raw(errno).desc().to_owned()))
            }
        };
        self.arrived.send(arrival).map_err(unwanted)
    }
}

fn whole(wanted: Wanted, bytes: Vec<u8>) -> Result<Arrived> {
    let Wanted { id, size, mtime, uid, .. } = wanted;
    if bytes.len() as u64 == size {
        let hash = *blake3::hash(&bytes).as_bytes();
        Ok(Arrived::Whole { id, bytes, hash, state: FileState { size, mtime, uid } })
    } else {
        Err(nonsense("a file has another size than the client said"))
    }
}

fn unwanted<T>(_: T) -> Error {
    Error::new(Kind::BrokenOff, "nobody takes the files that arrive")
}
