//! Whole files through the helper, and files that change while they are read: the way that needs no SFTP server.
//!
//! The promises are those of [`sftp`](crate::client::sftp): a file that changed is read again as it is by then, three times at most.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use archive_helper::protocol::{
    MAX_EXTENTS, MAX_STREAMS, Piece, Reply, Request, StreamOutcome, StreamRequest, StreamState, Streamed,
};

use super::conversation::Conversation;
use super::wire;
use crate::client::pace::Pace;
use crate::client::read_attempt::{Found, Mtime, ReadAttempt, Verdict};
use crate::client::{FetchEvent, FetchJob, FileState, ReadError, connection_lost, protocol_violation, receiver_gone};
use crate::entry::Extent;
use crate::error::Result;
use crate::queue::{Nothing, Receiver, Sender};

// Requests that may be unanswered: half of what the helper allows.
const MAX_REQUESTS: usize = MAX_STREAMS / 2;

// Longest part of a file in one request where a pace is kept, bytes.
const MAX_PACED_BYTES: usize = 256 * 1024;

// Longest sleep before the reader looks whether it is to end.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// Reads files until `wanted` is closed and everything is answered.
pub(super) fn read_files(
    conversation: Conversation,
    wanted: &Receiver<FetchJob>,
    arrived: &Sender<FetchEvent>,
    bytes_per_second: Option<u64>,
) -> Result<()> {
    let pace = Pace::new(bytes_per_second, Instant::now());
    let (files, asking, requests) = (HashMap::new(), VecDeque::new(), VecDeque::new());
    Whole { conversation, arrived, pace, files, asking, has_ended: false, requests }.read(wanted)
}

struct Whole<'a> {
    conversation: Conversation,
    arrived: &'a Sender<FetchEvent>,
    pace: Pace,
    files: HashMap<u64, File>,
    // Files of which more has to be asked for, the next one first.
    asking: VecDeque<u64>,
    // Nothing more is wanted.
    has_ended: bool,
    // Unanswered requests, oldest first: the file, and how many of its bytes are still to come.
    requests: VecDeque<(u64, u64)>,
}

/// A file from its first request until its last answer.
struct File {
    wanted: FetchJob,
    attempt: ReadAttempt,
    // Parts that were asked for and have not arrived.
    ranges: VecDeque<Extent>,
    // Everything before was asked for; `None` before the first request of an attempt.
    asked: Option<u64>,
    // Everything before was handed on.
    delivered: u64,
    requests: usize,
    // Why the attempt is void.
    void: Option<StreamOutcome>,
}

impl Whole<'_> {
    fn read(&mut self, wanted: &Receiver<FetchJob>) -> Result<()> {
        loop {
            self.ask(wanted)?;
            if self.conversation.replies.turns_out_slow() {
                self.conversation.requests.send(&Request::Pack)?;
            }
            self.conversation.requests.flush()?;
            match (self.requests.is_empty(), self.files.is_empty()) {
                (false, _) => self.hear()?,
                (true, true) if self.has_ended => return Ok(()),
                (true, _) if self.conversation.replies.is_over() => return Err(connection_lost()),
                // The pace is waited for.
                (true, _) => std::thread::sleep(self.pace.delay().min(MAX_SLEEP)),
            }
        }
    }

    // Asks for as much as may be under way.
    fn ask(&mut self, wanted: &Receiver<FetchJob>) -> Result<()> {
        while self.requests.len() < MAX_REQUESTS && self.pace.delay().is_zero() {
            if self.asking.is_empty() {
                let next = if self.files.is_empty() { wanted.recv().ok_or(Nothing::More) } else { wanted.try_recv() };
                let wanted = match next {
                    Ok(wanted) => wanted,
                    Err(nothing) => {
                        self.has_ended = nothing == Nothing::More;
                        return Ok(());
                    }
                };
                self.asking.push_back(wanted.id);
                self.files.insert(wanted.id, File::new(wanted));
            }
            self.request()?;
        }
        Ok(())
    }

    fn request(&mut self) -> Result<()> {
        let Some(id) = self.asking.front().copied() else { return Ok(()) };
        let file = self.files.get_mut(&id).ok_or_else(connection_lost)?;
        let most = if self.pace.is_limited() { self.pace.slice(MAX_PACED_BYTES) as u64 } else { u64::MAX };
        let ranges = file.next_ranges(most);
        let bytes = ranges.iter().map(|range| range.length).sum();
        self.pace.spend(usize::try_from(bytes).unwrap_or(usize::MAX));
        let FileState { size, mtime, uid } = file.attempt.expected();
        let (path, as_found) = (file.wanted.path.clone(), file.attempt.is_last());
        let (path, mtime, ranges) = (wire::to_path(path), wire::to_time(mtime), wire::to_extents(ranges));
        let request = StreamRequest { id, path, size, mtime, uid, ranges, as_found };
        self.requests.push_back((id, bytes));
        if file.is_asked() {
            self.asking.pop_front();
        }
        self.conversation.requests.send(&Request::Stream(request))
    }

    fn hear(&mut self) -> Result<()> {
        self.conversation.replies.owes_much(true);
        match self.conversation.replies.receive()?.ok_or_else(connection_lost)? {
            Reply::Piece(piece) => self.piece(piece),
            Reply::Streamed(streamed) => self.streamed(streamed),
            Reply::Alive => Ok(()),
            _ => Err(protocol_violation("an answer came that nobody asked for")),
        }
    }

    fn piece(&mut self, Piece { id, bytes }: Piece) -> Result<()> {
        let length = bytes.as_bytes().len() as u64;
        let next = self.requests.front_mut().filter(|(file, left)| *file == id && (1..=*left).contains(&length));
        let (_, left) = next.ok_or_else(|| protocol_violation("bytes came that nobody asked for"))?;
        *left -= length;
        let file = self.files.get_mut(&id).ok_or_else(connection_lost)?;
        if file.void.is_some() {
            return Ok(());
        }
        let offset = file.take(length).ok_or_else(|| protocol_violation("other bytes came than were asked for"))?;
        send_hole(self.arrived, id, offset - file.delivered)?;
        file.delivered = offset + length;
        send(self.arrived, FetchEvent::Data { id, bytes: bytes.into_vec() })
    }

    fn streamed(&mut self, Streamed { id, outcome }: Streamed) -> Result<()> {
        let next = self.requests.pop_front().filter(|(file, _)| *file == id);
        let (_, left) = next.ok_or_else(|| protocol_violation("a file ended that nobody asked for"))?;
        let file = self.files.get_mut(&id).ok_or_else(connection_lost)?;
        file.requests -= 1;
        match outcome {
            StreamOutcome::Done if left > 0 && file.void.is_none() => {
                return Err(protocol_violation("a file ended before its end"));
            }
            StreamOutcome::Done => {}
            outcome => {
                file.void.get_or_insert(outcome);
                // What was not asked for is not wanted of this attempt.
                self.asking.retain(|other| *other != id);
            }
        }
        let is_over = file.requests == 0 && (file.void.is_some() || file.is_asked());
        if is_over { self.conclude(id) } else { Ok(()) }
    }

    fn conclude(&mut self, id: u64) -> Result<()> {
        let mut file = self.files.remove(&id).ok_or_else(connection_lost)?;
        let failed = |error| FetchEvent::Failed { id, error };
        let arrival = match file.void {
            None | Some(StreamOutcome::Done) => {
                let state = file.attempt.expected();
                send_hole(self.arrived, id, state.size.saturating_sub(file.delivered))?;
                FetchEvent::End { id, state, consistent: true, claimed: None }
            }
            Some(StreamOutcome::Vanished) => failed(ReadError::Vanished),
            Some(StreamOutcome::Failed(errno)) => failed(ReadError::from_errno(errno)),
            Some(StreamOutcome::Changed(None)) => failed(ReadError::irregular()),
            Some(StreamOutcome::Changed(Some(state))) => match file.attempt.judge(&found(state), false) {
                Verdict::Again => {
                    send(self.arrived, FetchEvent::Restart { id })?;
                    file.restart();
                    self.files.insert(id, file);
                    self.asking.push_back(id);
                    return Ok(());
                }
                Verdict::OtherOwner => failed(ReadError::other_owner()),
                Verdict::Consistent(state) | Verdict::Inconsistent(state) => {
                    FetchEvent::End { id, state, consistent: false, claimed: None }
                }
            },
        };
        send(self.arrived, arrival)
    }
}

impl File {
    fn new(wanted: FetchJob) -> File {
        let (attempt, delivered) = (ReadAttempt::first(&wanted), wanted.offset);
        File { wanted, attempt, ranges: VecDeque::new(), asked: None, delivered, requests: 0, void: None }
    }

    fn restart(&mut self) {
        self.ranges.clear();
        (self.asked, self.delivered, self.void) = (None, 0, None);
        self.wanted.offset = 0;
    }

    // The next parts to ask for, of so many bytes altogether. The first request of an attempt may have none: it says whether
    // the file is as listed.
    fn next_ranges(&mut self, most_bytes: u64) -> Vec<Extent> {
        let (mut ranges, mut left) = (Vec::new(), most_bytes);
        let mut at = self.asked.unwrap_or(self.wanted.offset);
        while let Some(data) = self.attempt.data_after(at).filter(|_| left > 0 && ranges.len() < MAX_EXTENTS) {
            let range = Extent { length: data.length.min(left), ..data };
            (at, left) = (range.end(), left - range.length);
            ranges.push(range);
        }
        self.asked = Some(at);
        self.ranges.extend(&ranges);
        self.requests += 1;
        ranges
    }

    fn is_asked(&self) -> bool {
        self.asked.is_some_and(|asked| self.attempt.data_after(asked).is_none())
    }

    // Takes the next bytes, which may not go beyond the end of a part; returns their offset.
    fn take(&mut self, length: u64) -> Option<u64> {
        let range = self.ranges.front_mut().filter(|range| length <= range.length)?;
        let offset = range.offset;
        (range.offset, range.length) = (offset + length, range.length - length);
        if range.length == 0 {
            self.ranges.pop_front();
        }
        Some(offset)
    }
}

fn found(StreamState { size, mtime, uid }: StreamState) -> Found {
    Found { size, mtime: Mtime::Exact(wire::from_time(mtime)), uid: Some(uid) }
}

fn send_hole(arrived: &Sender<FetchEvent>, id: u64, length: u64) -> Result<()> {
    if length > 0 { send(arrived, FetchEvent::Hole { id, length }) } else { Ok(()) }
}

fn send(arrived: &Sender<FetchEvent>, arrival: FetchEvent) -> Result<()> {
    arrived.send(arrival).map_err(receiver_gone)
}

#[cfg(test)]
mod tests;
