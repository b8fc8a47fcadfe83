//! All files under way: which requests to send next, what an answer means, what the consumer gets.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::Broken;
use super::file::{Delivered, File, Need, Outcome, Piece};
use super::packet::{self, Answer};
use crate::client::pace::Pace;
use crate::client::read_attempt::Verdict;
use crate::client::{FetchEvent, FetchJob, ReadError};
use crate::queue::Sender;

const MAX_REQUESTS: usize = 512;
// Large files must leave room for the requests of small ones.
const MAX_READS: usize = MAX_REQUESTS / 2;
const MAX_HELD: u64 = 16 * 1024 * 1024;
// What fits into a socket's buffer twice: so writing never waits for a server that waits for its answers to be read.
// The kernel counts several hundred bytes for each write besides, which is why few and large ones are made of many.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
const MAX_WRITES: usize = 8;
const LONGEST_REQUEST: usize = 4096 + 64;

/// The files under way on one connection.
pub(super) struct Transfers<'a> {
    options: Limits,
    pace: Pace,
    arrived: &'a Sender<FetchEvent>,
    // Requests that were not yet sent.
    output: Vec<u8>,
    /// The id of the next request.
    pub(super) next_id: u32,
    requests: HashMap<u32, Request>,
    // Bytes of the unanswered requests, and how many of them are READs.
    request_bytes: usize,
    reads: usize,
    files: HashMap<u64, File>,
    next_file: u64,
    // Bytes that were asked for and not yet delivered.
    held: u64,
    // Queues of files: to be opened (again), to go on at once, to read new ranges.
    openings: VecDeque<u64>,
    urgent: VecDeque<u64>,
    hungry: VecDeque<u64>,
}

/// What the server allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of one READ.
    pub(super) read_bytes: usize,
    /// Files that may be open.
    pub(super) handles: usize,
}

struct Request {
    file: u64,
    bytes: usize,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Look,
    Open,
    Read { range: u64, length: usize },
    Examine,
    Close,
}

impl<'a> Transfers<'a> {
    pub(super) fn new(limits: Limits, pace: Pace, next_id: u32, arrived: &'a Sender<FetchEvent>) -> Transfers<'a> {
        Transfers {
            options: limits,
            pace,
            arrived,
            output: Vec::new(),
            next_id,
            requests: HashMap::new(),
            request_bytes: 0,
            reads: 0,
            files: HashMap::new(),
            next_file: 0,
            held: 0,
            openings: VecDeque::new(),
            urgent: VecDeque::new(),
            hungry: VecDeque::new(),
        }
    }

    /// True when no file is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.files.is_empty()
    }

    /// True when an answer is to come.
    pub(super) fn is_waiting(&self) -> bool {
        !self.requests.is_empty()
    }

    /// True when another file may be begun. Those that were begun go first: call [`Transfers::ask`] before.
    pub(super) fn has_room(&self) -> bool {
        self.has_slot() && self.files.len() < self.options.handles
    }

    /// Takes the requests to send now: none while they are few beside those that are under way.
    pub(super) fn take_output(&mut self) -> Option<Vec<u8>> {
        let under_way = self.request_bytes - self.output.len();
        let is_worth_it = !self.output.is_empty() && self.output.len() >= under_way / MAX_WRITES;
        is_worth_it.then(|| std::mem::take(&mut self.output))
    }

    /// How long to wait until the bandwidth limit allows more.
    pub(super) fn delay(&mut self) -> Duration {
        self.pace.delay()
    }

    /// Takes up a file.
    pub(super) fn begin(&mut self, wanted: FetchJob) {
        let serial = self.next_file;
        self.next_file += 1;
        self.files.insert(serial, File::new(wanted));
        self.look(serial);
    }

    /// Writes as many requests for the files under way as the limits allow.
    pub(super) fn ask(&mut self) {
        while self.has_slot() {
            if let Some(serial) = self.urgent.pop_front() {
                self.go_on(serial);
            } else if let Some(serial) = self.openings.pop_front() {
                self.look(serial);
            } else if !self.hungry.is_empty() && self.may_read() {
                self.feed();
            } else {
                break;
            }
        }
    }

    fn has_slot(&self) -> bool {
        self.requests.len() < MAX_REQUESTS && self.request_bytes + LONGEST_REQUEST <= MAX_REQUEST_BYTES
    }

    fn may_read(&mut self) -> bool {
        self.reads < MAX_READS && self.held < MAX_HELD && self.pace.delay() == Duration::ZERO
    }

    fn look(&mut self, serial: u64) {
        if let Some(file) = self.files.get(&serial) {
            let start = self.output.len();
            packet::lstat(&mut self.output, self.next_id, file.wanted.path.as_bytes());
            self.sent(serial, What::Look, start);
        }
    }

    fn open(&mut self, serial: u64) {
        if let Some(file) = self.files.get_mut(&serial) {
            file.opening();
            let start = self.output.len();
            packet::open(&mut self.output, self.next_id, file.wanted.path.as_bytes());
            self.sent(serial, What::Open, start);
        }
    }

    fn go_on(&mut self, serial: u64) {
        let Some(file) = self.files.get_mut(&serial) else { return };
        file.is_urgent = false;
        match file.need() {
            Need::Opening => self.open(serial),
            Need::Rest => self.read_rest(serial),
            Need::Examination => self.examine(serial),
            Need::Closing => self.close(serial),
            Need::Nothing | Need::Bytes => {}
        }
        self.enqueue(serial);
    }

    fn feed(&mut self) {
        let Some(serial) = self.hungry.pop_front() else { return };
        let Some(file) = self.files.get_mut(&serial) else { return };
        file.is_hungry = false;
        if file.need() == Need::Bytes
            && let Some(piece) = file.next_range(self.pace.slice(self.options.read_bytes))
        {
            self.held += piece.length as u64;
            self.pace.spend(piece.length);
            self.read(serial, &piece);
        }
        self.enqueue(serial);
    }

    fn enqueue(&mut self, serial: u64) {
        let Some(file) = self.files.get_mut(&serial) else { return };
        match file.need() {
            Need::Nothing => {}
            Need::Bytes if file.is_hungry => {}
            Need::Bytes => {
                file.is_hungry = true;
                self.hungry.push_back(serial);
            }
            Need::Opening | Need::Rest | Need::Examination | Need::Closing if file.is_urgent => {}
            Need::Opening | Need::Rest | Need::Examination | Need::Closing => {
                file.is_urgent = true;
                self.urgent.push_back(serial);
            }
        }
    }

    fn read_rest(&mut self, serial: u64) {
        if let Some(piece) = self.files.get_mut(&serial).and_then(File::rest) {
            self.read(serial, &piece);
        }
    }

    fn read(&mut self, serial: u64, piece: &Piece) {
        if let Some(file) = self.files.get(&serial) {
            let start = self.output.len();
            packet::read(&mut self.output, self.next_id, &file.handle, piece.offset, piece.length);
            self.reads += 1;
            self.sent(serial, What::Read { range: piece.range, length: piece.length }, start);
        }
    }

    fn examine(&mut self, serial: u64) {
        if let Some(file) = self.files.get_mut(&serial) {
            let start = self.output.len();
            packet::fstat(&mut self.output, self.next_id, &file.handle);
            file.examining();
            self.sent(serial, What::Examine, start);
        }
    }

    fn close(&mut self, serial: u64) {
        if let Some(file) = self.files.get_mut(&serial) {
            let start = self.output.len();
            packet::close(&mut self.output, self.next_id, &file.handle);
            file.closing();
            self.sent(serial, What::Close, start);
        }
    }

    fn sent(&mut self, serial: u64, what: What, start: usize) {
        let bytes = self.output.len() - start;
        self.request_bytes += bytes;
        self.requests.insert(self.next_id, Request { file: serial, bytes, what });
        self.next_id = self.next_id.wrapping_add(1);
        if let Some(file) = self.files.get_mut(&serial) {
            file.requests += 1;
        }
    }

    /// Takes an answer, and hands out what it completes; waits while the consumer is busy.
    pub(super) fn answer(&mut self, packet: &[u8]) -> Result<(), Broken> {
        let (id, answer) = packet::decode(packet).map_err(Broken::Protocol)?;
        let request = self.requests.remove(&id).ok_or(Broken::Protocol("an answer to what was not asked"))?;
        self.request_bytes -= request.bytes;
        self.reads -= usize::from(matches!(request.what, What::Read { .. }));
        let file = self.files.get_mut(&request.file).expect("a file stays while its requests are unanswered");
        file.requests -= 1;
        let held = file.held();
        match request.what {
            What::Look => looked(file, answer)?,
            What::Open => opened(file, answer)?,
            What::Read { range, length } => read(file, answer, range, length)?,
            What::Examine => examined(file, answer)?,
            What::Close => closed(file, answer)?,
        }
        let id = file.wanted.id;
        while let Some(delivered) = file.deliver() {
            let arrived = match delivered {
                Delivered::Data(bytes) => FetchEvent::Data { id, bytes },
                Delivered::Hole(length) => FetchEvent::Hole { id, length },
            };
            send(self.arrived, arrived)?;
        }
        self.held -= held - file.held();
        if file.is_over() {
            self.conclude(request.file)
        } else {
            self.enqueue(request.file);
            Ok(())
        }
    }

    /// Gives up when the server says nothing any more: if it was opening a file, as far as is known, that one is returned,
    /// and all others that are still wanted. What was handed out of those is void.
    pub(super) fn abandon(&mut self) -> Result<Option<(FetchJob, Vec<FetchJob>)>, Broken> {
        // A server works through requests one by one, so it is at the oldest.
        let oldest = self.requests.iter().max_by_key(|(id, _)| self.next_id.wrapping_sub(**id));
        let Some((_, Request { file: serial, what: What::Open, .. })) = oldest else { return Ok(None) };
        let Some(stuck) = self.files.remove(serial) else { return Ok(None) };
        let mut left = Vec::new();
        for (_, file) in self.files.drain() {
            let (wanted, is_begun) = file.abandon();
            if is_begun {
                send(self.arrived, FetchEvent::Restart { id: wanted.id })?;
            }
            left.push(wanted);
        }
        Ok(Some((stuck.abandon().0, left)))
    }

    fn conclude(&mut self, serial: u64) -> Result<(), Broken> {
        let Some(mut file) = self.files.remove(&serial) else { return Ok(()) };
        let id = file.wanted.id;
        match file.outcome() {
            Outcome::Short => self.reopen(serial, file, File::reopen),
            Outcome::Judged(Verdict::OtherOwner) => {
                self.held -= file.held();
                send(self.arrived, FetchEvent::Failed { id, error: ReadError::other_owner() })?;
            }
            Outcome::Judged(Verdict::Again) => {
                send(self.arrived, FetchEvent::Restart { id })?;
                self.reopen(serial, file, File::restart);
            }
            Outcome::Judged(Verdict::Consistent(state)) => {
                send(self.arrived, FetchEvent::End { id, state, consistent: true, claimed: None })?;
            }
            Outcome::Judged(Verdict::Inconsistent(state)) => {
                self.held -= file.held();
                if let Some(bytes) = file.deliver_remains() {
                    send(self.arrived, FetchEvent::Data { id, bytes })?;
                }
                send(self.arrived, FetchEvent::End { id, state, consistent: false, claimed: None })?;
            }
            Outcome::Failed(error) => {
                self.held -= file.held();
                send(self.arrived, FetchEvent::Failed { id, error })?;
            }
        }
        Ok(())
    }

    fn reopen(&mut self, serial: u64, mut file: File, prepare: fn(&mut File)) {
        let held = file.held();
        prepare(&mut file);
        self.held -= held - file.held();
        self.files.insert(serial, file);
        self.openings.push_back(serial);
    }
}

fn send(arrived: &Sender<FetchEvent>, what: FetchEvent) -> Result<(), Broken> {
    arrived.send(what).map_err(|_| Broken::Unwanted)
}

fn looked(file: &mut File, answer: Answer<'_>) -> Result<(), Broken> {
    match answer {
        Answer::Attributes(attributes) if attributes.is_irregular() => {
            file.fail(ReadError::irregular());
            file.closed();
        }
        Answer::Attributes(_) | Answer::Status { code: packet::OP_UNSUPPORTED, .. } => file.looked(),
        Answer::Status { code, message } if !matches!(code, packet::OK | packet::EOF) => {
            file.fail(if code == packet::NO_SUCH_FILE { ReadError::Vanished } else { refused(code, message) });
            file.closed();
        }
        _ => return Err(Broken::Protocol("an answer to LSTAT is of the wrong type")),
    }
    Ok(())
}

fn opened(file: &mut File, answer: Answer<'_>) -> Result<(), Broken> {
    match answer {
        Answer::Handle(handle) => file.opened(handle),
        Answer::Status { code: packet::NO_SUCH_FILE, .. } => {
            file.fail(ReadError::Vanished);
            file.closed();
        }
        Answer::Status { code, message } if !matches!(code, packet::OK | packet::EOF) => {
            file.fail(refused(code, message));
            file.closed();
        }
        _ => return Err(Broken::Protocol("an answer to OPEN is of the wrong type")),
    }
    Ok(())
}

fn read(file: &mut File, answer: Answer<'_>, range: u64, length: usize) -> Result<(), Broken> {
    match answer {
        Answer::Data([]) => return Err(Broken::Protocol("a DATA holds no data")),
        Answer::Data(bytes) if bytes.len() > length => {
            return Err(Broken::Protocol("a DATA is longer than what was asked for"));
        }
        Answer::Data(bytes) => file.arrived(range, bytes),
        Answer::Status { code: packet::EOF, .. } => file.stop(range),
        Answer::Status { code, message } if code != packet::OK => {
            file.stop(range);
            file.fail(refused(code, message));
        }
        _ => return Err(Broken::Protocol("an answer to READ is of the wrong type")),
    }
    Ok(())
}

fn examined(file: &mut File, answer: Answer<'_>) -> Result<(), Broken> {
    match answer {
        Answer::Attributes(attributes) => file.examined(attributes),
        Answer::Status { code, message } if code != packet::OK => file.fail(refused(code, message)),
        _ => return Err(Broken::Protocol("an answer to FSTAT is of the wrong type")),
    }
    Ok(())
}

// Whatever it says, the handle is gone.
fn closed(file: &mut File, answer: Answer<'_>) -> Result<(), Broken> {
    match answer {
        Answer::Status { .. } => file.closed(),
        _ => return Err(Broken::Protocol("an answer to CLOSE is of the wrong type")),
    }
    Ok(())
}

fn refused(code: u32, message: &[u8]) -> ReadError {
    ReadError::Refused(packet::explain(code, message))
}
