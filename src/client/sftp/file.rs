//! One file on its way: which of its bytes were asked for, which arrived, and what is to be done next.

use std::collections::VecDeque;

use super::packet::Attributes;
use crate::client::read_attempt::{Found, Mtime, ReadAttempt, Verdict};
use crate::client::{FetchJob, ReadError};
use crate::entry::Extent;

// More than a channel's 2 MiB window is of no use to one file, and others shall have their share.
const MAX_HELD: u64 = 4 * 1024 * 1024;

/// A file from its LSTAT until its last answer.
#[derive(Debug)]
pub(super) struct File {
    /// What was asked for.
    pub(super) wanted: FetchJob,
    /// How many requests for it are unanswered.
    pub(super) requests: usize,
    /// Waits in the queue of those that can go on at once.
    pub(super) is_urgent: bool,
    /// Waits in the queue of those that want more bytes.
    pub(super) is_hungry: bool,
    /// What the server calls it while it is open.
    pub(super) handle: Vec<u8>,
    attempt: ReadAttempt,
    phase: Phase,
    ranges: VecDeque<Range>,
    // Sum of the ranges' lengths.
    held: u64,
    // Where the next range begins.
    asked: u64,
    delivered: u64,
    // An answer was shorter than asked, so the rest is read before the handle is closed.
    patient: bool,
    // Nothing more can be read.
    stopped: bool,
    found: Option<Attributes>,
    error: Option<ReadError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Looking,
    Looked,
    Opening,
    Reading,
    Examined,
    Closing,
    Closed,
}

// Bytes that were asked for and not yet delivered. At most one request for it is under way.
#[derive(Debug)]
struct Range {
    offset: u64,
    length: usize,
    bytes: Vec<u8>,
    is_asked: bool,
}

impl Range {
    fn is_complete(&self) -> bool {
        self.bytes.len() == self.length
    }
}

/// What a file waits for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Answers, or the consumer.
    Nothing,
    /// OPEN.
    Opening,
    /// The rest of a range: READ again.
    Rest,
    /// A new range.
    Bytes,
    /// FSTAT.
    Examination,
    /// CLOSE.
    Closing,
}

/// What a file hands out.
#[derive(Debug)]
pub(super) enum Delivered {
    /// Bytes.
    Data(Vec<u8>),
    /// So many zeros.
    Hole(u64),
}

/// Where to read, and how many bytes.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) range: u64,
    pub(super) offset: u64,
    pub(super) length: usize,
}

/// What came of a file whose last answer has come.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It can't be read.
    Failed(ReadError),
    /// Bytes are missing that must be there: open it again and go on.
    Short,
    /// It was read.
    Judged(Verdict),
}

impl File {
    pub(super) fn new(wanted: FetchJob) -> File {
        let offset = wanted.offset;
        File {
            attempt: ReadAttempt::first(&wanted),
            wanted,
            requests: 0,
            is_urgent: false,
            is_hungry: false,
            handle: Vec::new(),
            phase: Phase::Looking,
            ranges: VecDeque::new(),
            held: 0,
            asked: offset,
            delivered: offset,
            patient: false,
            stopped: false,
            found: None,
            error: None,
        }
    }

    /// Bytes that were asked for and not yet delivered.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// What is to be done next.
    pub(super) fn need(&self) -> Need {
        match self.phase {
            Phase::Looking | Phase::Opening | Phase::Closing | Phase::Closed => Need::Nothing,
            Phase::Looked => Need::Opening,
            Phase::Examined => Need::Closing,
            Phase::Reading if self.stopped => Need::Examination,
            Phase::Reading => self.need_of_bytes(),
        }
    }

    fn need_of_bytes(&self) -> Need {
        if self.patient && self.ranges.iter().any(|range| !range.is_asked && !range.is_complete()) {
            return Need::Rest;
        }
        match self.attempt.data_after(self.asked) {
            Some(_) if self.held < MAX_HELD => Need::Bytes,
            Some(_) => Need::Nothing,
            None if self.patient && !self.ranges.is_empty() => Need::Nothing,
            None => Need::Examination,
        }
    }

    /// Takes up the next range, at most `longest` bytes of it.
    pub(super) fn next_range(&mut self, longest: usize) -> Option<Piece> {
        let Extent { offset, length } = self.attempt.data_after(self.asked)?;
        let length = usize::try_from(length).map_or(longest, |length| length.min(longest));
        self.ranges.push_back(Range { offset, length, bytes: Vec::new(), is_asked: true });
        self.held += length as u64;
        self.asked = offset + length as u64;
        Some(Piece { range: offset, offset, length })
    }

    /// Takes up the rest of the first range that was answered in part.
    pub(super) fn rest(&mut self) -> Option<Piece> {
        let range = self.ranges.iter_mut().find(|range| !range.is_asked && !range.is_complete())?;
        range.is_asked = true;
        let had = range.bytes.len();
        Some(Piece { range: range.offset, offset: range.offset + had as u64, length: range.length - had })
    }

    /// It is a regular file: a server that opened a fifo would wait for ever, and so would all other files.
    pub(super) fn looked(&mut self) {
        self.phase = Phase::Looked;
    }

    pub(super) fn opening(&mut self) {
        self.phase = Phase::Opening;
    }

    pub(super) fn opened(&mut self, handle: &[u8]) {
        self.handle = handle.to_vec();
        self.phase = Phase::Reading;
    }

    pub(super) fn examining(&mut self) {
        self.phase = Phase::Examined;
    }

    pub(super) fn examined(&mut self, attributes: Attributes) {
        self.found = Some(attributes);
    }

    pub(super) fn closing(&mut self) {
        self.phase = Phase::Closing;
    }

    pub(super) fn closed(&mut self) {
        self.phase = Phase::Closed;
    }

    pub(super) fn fail(&mut self, error: ReadError) {
        self.error.get_or_insert(error);
    }

    /// Takes bytes of the range that begins at `start`; drops them when it is no longer wanted.
    pub(super) fn arrived(&mut self, start: u64, bytes: &[u8]) {
        let Ok(index) = self.find(start) else { return };
        let range = &mut self.ranges[index];
        range.is_asked = false;
        range.bytes.extend_from_slice(bytes);
        self.patient |= !range.is_complete();
    }

    /// Nothing more can be read from the range that begins at `start`, nor of those after it.
    pub(super) fn stop(&mut self, start: u64) {
        self.stopped = true;
        let Ok(index) = self.find(start) else { return };
        self.held -= self.ranges.drain(index + 1..).map(|range| range.length as u64).sum::<u64>();
        let range = &mut self.ranges[index];
        self.held -= (range.length - range.bytes.len()) as u64;
        range.length = range.bytes.len();
        range.is_asked = false;
    }

    /// What comes next, when it is there: data, or the hole before it.
    pub(super) fn deliver(&mut self) -> Option<Delivered> {
        while self.error.is_none() && self.ranges.front().is_some_and(Range::is_complete) {
            if let Some(hole) = self.hole_until(self.ranges.front()?.offset) {
                return Some(hole);
            }
            let bytes = self.pop();
            if !bytes.is_empty() {
                return Some(Delivered::Data(bytes));
            }
        }
        let is_at_last_hole =
            self.ranges.is_empty() && !self.stopped && self.attempt.data_after(self.delivered).is_none();
        let is_open = self.error.is_none() && !matches!(self.phase, Phase::Looking | Phase::Looked | Phase::Opening);
        if is_open && is_at_last_hole { self.hole_until(self.attempt.size()) } else { None }
    }

    fn hole_until(&mut self, offset: u64) -> Option<Delivered> {
        let length = offset.checked_sub(self.delivered).filter(|length| *length > 0)?;
        self.delivered = offset;
        Some(Delivered::Hole(length))
    }

    fn pop(&mut self) -> Vec<u8> {
        let range = self.ranges.pop_front().expect("the caller saw a range");
        self.held -= range.length as u64;
        self.delivered += range.bytes.len() as u64;
        range.bytes
    }

    /// What is left of the last attempt: bytes in order that their range's end never followed.
    pub(super) fn deliver_remains(&mut self) -> Option<Vec<u8>> {
        self.ranges.front()?;
        Some(self.pop()).filter(|bytes| !bytes.is_empty())
    }

    /// True when no answer is to come any more.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Closed && self.requests == 0
    }

    /// What came of it. Call it once, when the file is over.
    pub(super) fn outcome(&mut self) -> Outcome {
        let attributes = self.found.unwrap_or_default();
        if attributes.is_irregular() {
            return Outcome::Failed(ReadError::irregular());
        }
        if let Some(error) = self.error.take() {
            return Outcome::Failed(error);
        }
        let (Some(size), Some(mtime)) = (attributes.size, attributes.mtime) else {
            return Outcome::Failed(ReadError::Refused("its size and time are not told".to_owned()));
        };
        let found = Found { size, mtime: Mtime::Seconds(mtime), uid: attributes.uid };
        let whole = self.delivered == self.attempt.size();
        if !whole && !self.stopped && self.attempt.agrees(&found) {
            return Outcome::Short;
        }
        Outcome::Judged(self.attempt.judge(&found, whole))
    }

    /// What is still wanted when its connection is lost; and true when something of it was handed out, which is void then.
    pub(super) fn abandon(self) -> (FetchJob, bool) {
        let is_begun = self.delivered != self.wanted.offset || !self.attempt.is_first();
        let offset = if is_begun { 0 } else { self.wanted.offset };
        (FetchJob { offset, ..self.wanted }, is_begun)
    }

    /// Goes back to LSTAT, to read the ranges that are incomplete.
    pub(super) fn reopen(&mut self) {
        self.phase = Phase::Looking;
        self.found = None;
    }

    /// Goes back to LSTAT, to read everything again.
    pub(super) fn restart(&mut self) {
        self.reopen();
        self.ranges.clear();
        (self.held, self.asked, self.delivered) = (0, 0, 0);
        (self.patient, self.stopped) = (false, false);
    }

    fn find(&self, start: u64) -> Result<usize, usize> {
        self.ranges.binary_search_by_key(&start, |range| range.offset)
    }
}
