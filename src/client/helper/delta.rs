//! Large files through the helper: all of a file in pieces, or, against a basis, only the chunks that the basis does not have.
//! A file that changes while it is read goes through SFTP.

mod assembly;
mod basis;

use std::collections::{HashMap, VecDeque};

use archive_helper::chunks::{CHUNKS, Cutting, MOST_GROUPED};
use archive_helper::protocol::{
    Chunk, ChunkRequest, Chunks, HashOutcome, MAX_EXTENTS, MAX_STREAMS, Piece, Reply, Request, StreamOutcome,
    StreamRequest, Streamed,
};

use self::assembly::{Assembly, Part};
use self::basis::{Basis, Missed, Open, Shift, Span, count_of_chunks};
use super::conversation::Conversation;
use super::wire;
use crate::client::{
    FetchEvent, FetchJob, FileState, IsWanted, ReadError, connection_lost, protocol_violation, receiver_gone,
};
use crate::entry::{Extent, Hash};
use crate::error::Result;
use crate::queue::{Nothing, Receiver, Sender};

// Files under way: enough that no connection waits for a question.
const MAX_FILES: usize = MAX_STREAMS / 2;

// Chunks, about, of the files that are compared with bases, before another one begins: each takes up to 100 bytes of memory.
const MAX_COMPARED_CHUNKS: u64 = 2 * CHUNKS;

// A file is assembled before the client has described all of it if at most this part of it, one in so many bytes, has changed.
const MAX_SPECULATIVE_PART: u64 = 8;

// Unanswered requests of a file, of each kind, before another one is made of all that has gathered meanwhile. Either few files have
// many of them, or many have one, so together they are no more than the helper takes.
const MAX_FILE_REQUESTS: usize = 16;

// Bytes that the client has to describe before a file is evaluated again.
const EVALUATION_BYTES: u64 = 4 << 20;

const NOT_THE_FILE: &str = "the chunks of a file don't make it up";

/// Reads files until the jobs are closed and everything is answered; files that have changed since they were listed go to `full`.
pub(super) fn read_files(
    conversation: Conversation,
    jobs: &Receiver<FetchJob>,
    events: &Sender<FetchEvent>,
    full: &Sender<FetchJob>,
    is_wanted: &IsWanted<'_>,
) -> Result<()> {
    let (under_way, order, questions) = (HashMap::new(), VecDeque::new(), HashMap::new());
    let (next_question, memory) = (0, Vec::new());
    Reader { conversation, events, full, is_wanted, under_way, order, questions, next_question, memory }.read(jobs)
}

struct Reader<'a> {
    conversation: Conversation,
    events: &'a Sender<FetchEvent>,
    full: &'a Sender<FetchJob>,
    is_wanted: &'a IsWanted<'a>,
    under_way: HashMap<u64, Transfer>,
    // The file of each unanswered request for pieces, in the order of their answers: one file after the other, so that few are open.
    order: VecDeque<u64>,
    // What the client was asked about chunks.
    questions: HashMap<u64, Question>,
    next_question: u64,
    memory: Vec<u8>,
}

/// A file under way.
struct Transfer {
    job: FetchJob,
    basis: Option<Basis>,
    assembly: Assembly,
    cutting: Cutting,
    // Unanswered questions about chunks, and requests for pieces.
    questions: usize,
    requests: usize,
    // What the client says of the whole.
    hash: Option<Hash>,
    // Bytes that the client has described, those of them that are in the basis, and those that were evaluated.
    described: u64,
    found: u64,
    evaluated: u64,
    progress: Progress,
    // Why what arrives is of no use.
    void: Option<StreamOutcome>,
}

/// Whether a file is assembled.
#[derive(Clone, Copy, PartialEq)]
enum Progress {
    // Not before it is known whether it is wanted.
    Undecided,
    // It is like its basis but differs, so that hardly any other file on the server has its content: whether it is wanted is decided
    // when it is complete.
    Speculative,
    // It is wanted.
    Decided,
}

/// What the client was asked about the chunks of a file.
struct Question {
    file: u64,
    grouped: bool,
    // About all of the file that is wanted: then the answer has its hash.
    is_about_all: bool,
    // Spans that are not described yet, after the one that was described last.
    spans: VecDeque<Span>,
    missed: Missed,
}

impl Reader<'_> {
    fn read(&mut self, jobs: &Receiver<FetchJob>) -> Result<()> {
        loop {
            while self.has_room() {
                let next = if self.under_way.is_empty() { jobs.recv().ok_or(Nothing::More) } else { jobs.try_recv() };
                let Ok(job) = next else { break };
                self.begin(job)?;
            }
            if self.conversation.replies.turns_out_slow() {
                self.conversation.requests.send(&Request::Pack)?;
            }
            self.conversation.requests.flush()?;
            if self.under_way.is_empty() {
                return Ok(());
            }
            self.hear()?;
        }
    }

    fn has_room(&self) -> bool {
        let compared = |transfer: &Transfer| {
            let basis = transfer.job.basis.as_ref()?;
            Some(count_of_chunks(transfer.job.size, basis, transfer.cutting))
        };
        let chunks: u64 = self.under_way.values().filter_map(compared).sum();
        self.under_way.len() < MAX_FILES && chunks <= MAX_COMPARED_CHUNKS
    }

    fn begin(&mut self, job: FetchJob) -> Result<()> {
        let sparing = self.conversation.replies.is_slow();
        let id = job.id;
        let mut transfer = Transfer::new(job, sparing);
        if transfer.basis.is_some() {
            let FetchJob { offset, size, .. } = transfer.job;
            let extent = Extent { offset, length: size - offset };
            let span = Span { extent, before: Shift::default(), after: transfer.end_shift() };
            self.question(&mut transfer, vec![span].into(), true)?;
        } else {
            let ranges = transfer.assembly.ask_for_bytes();
            // A file of which nothing has to be sent is asked for, too: it may not be what was listed any more.
            if ranges.is_empty() {
                self.request(&mut transfer, Vec::new())?;
            }
            self.request_all(&mut transfer, &ranges)?;
        }
        self.under_way.insert(id, transfer);
        Ok(())
    }

    // Asks for bytes.
    fn request_all(&mut self, transfer: &mut Transfer, ranges: &[Extent]) -> Result<()> {
        ranges.chunks(MAX_EXTENTS).try_for_each(|ranges| self.request(transfer, ranges.to_vec()))
    }

    fn request(&mut self, transfer: &mut Transfer, ranges: Vec<Extent>) -> Result<()> {
        let FetchJob { id, path, size, mtime, uid, .. } = transfer.job.clone();
        let (path, mtime, ranges) = (wire::to_path(path), wire::to_time(mtime), wire::to_extents(ranges));
        let request = StreamRequest { id, path, size, mtime, uid, ranges, as_found: false };
        self.conversation.requests.send(&Request::Stream(request))?;
        transfer.requests += 1;
        self.order.push_back(id);
        self.conversation.requests.flush()
    }

    // Asks about chunks.
    fn question(&mut self, transfer: &mut Transfer, spans: VecDeque<Span>, is_about_all: bool) -> Result<()> {
        let FetchJob { id, path, size, mtime, uid, .. } = transfer.job.clone();
        let Cutting { average, grouped } = transfer.cutting;
        let (ranges, grouped) = (spans.iter().map(|span| span.extent).collect(), grouped && is_about_all);
        let (path, mtime, ranges) = (wire::to_path(path), wire::to_time(mtime), wire::to_extents(ranges));
        let request = ChunkRequest { id: self.next_question, path, size, mtime, uid, average, ranges, grouped };
        self.conversation.requests.send(&Request::Chunk(request))?;
        transfer.questions += 1;
        let question = Question { file: id, grouped, is_about_all, spans, missed: Missed::default() };
        self.questions.insert(self.next_question, question);
        self.next_question += 1;
        self.conversation.requests.flush()
    }

    fn hear(&mut self) -> Result<()> {
        // Not while the client reads a file only to describe its chunks.
        let is_sent = |transfer: &Transfer| transfer.requests > 0 && transfer.void.is_none();
        let owes = self.under_way.values().any(is_sent) && self.questions.is_empty();
        self.conversation.replies.owes_much(owes);
        match self.conversation.replies.receive()?.ok_or_else(connection_lost)? {
            Reply::Chunks(chunks) => self.chunks(chunks),
            Reply::Piece(piece) => self.piece(piece),
            Reply::Streamed(streamed) => self.streamed(streamed),
            Reply::Alive => Ok(()),
            _ => Err(protocol_violation("an answer came that nobody asked for")),
        }
    }

    fn chunks(&mut self, Chunks { id, chunks, end }: Chunks) -> Result<()> {
        let question =
            self.questions.get_mut(&id).ok_or_else(|| protocol_violation("chunks came that nobody asked for"))?;
        let transfer = self.under_way.get_mut(&question.file).ok_or_else(connection_lost)?;
        let replies = &self.conversation.replies;
        if transfer.void.is_none() {
            transfer.add(&chunks, question, &mut self.memory, &|| replies.is_over())?;
        }
        let file = question.file;
        if let Some(outcome) = end {
            transfer.answered(question, outcome)?;
            self.questions.remove(&id);
        } else if chunks.is_empty() {
            return Err(protocol_violation("it has nothing to tell"));
        } else if transfer.described < transfer.evaluated + EVALUATION_BYTES {
            return Ok(());
        }
        transfer.evaluated = transfer.described;
        if transfer.is_worth_starting() && !replies.is_slow() {
            transfer.progress = Progress::Speculative;
            self.events.send(FetchEvent::Speculative { id: file }).map_err(receiver_gone)?;
        }
        self.go_on(file)
    }

    // Does for a file what can be done by now.
    fn go_on(&mut self, id: u64) -> Result<()> {
        let Some(mut transfer) = self.under_way.remove(&id) else { return Err(connection_lost()) };
        if transfer.void.is_none() {
            if let (Progress::Undecided, Some(hash)) = (transfer.progress, &transfer.hash) {
                if !(self.is_wanted)(id, hash, transfer.found == transfer.described)? {
                    return Ok(());
                }
                transfer.progress = Progress::Decided;
            }
            if transfer.progress != Progress::Undecided {
                self.assemble(&mut transfer)?;
            }
        }
        match transfer.questions + transfer.requests {
            0 => self.end(transfer),
            _ => {
                self.under_way.insert(id, transfer);
                Ok(())
            }
        }
    }

    // Hands on the parts that are in the basis, and asks for the others.
    fn assemble(&mut self, transfer: &mut Transfer) -> Result<()> {
        transfer.advance(self.events)?;
        let is_described = transfer.hash.is_some();
        if transfer.questions < MAX_FILE_REQUESTS {
            let spans = transfer.assembly.ask_about_rough(is_described, transfer.end_shift());
            for spans in spans.chunks(MAX_EXTENTS) {
                self.question(transfer, spans.to_vec().into(), false)?;
            }
        }
        if transfer.requests < MAX_FILE_REQUESTS {
            let ranges = transfer.assembly.ask_for_bytes();
            self.request_all(transfer, &ranges)?;
        }
        if is_described && transfer.questions == 0 {
            // Takes memory, and is not needed any more.
            transfer.basis = None;
        }
        Ok(())
    }

    fn piece(&mut self, piece: Piece) -> Result<()> {
        let id = piece.id;
        let is_next = self.order.front() == Some(&id);
        let transfer = self.under_way.get_mut(&id).filter(|_| is_next);
        let transfer = transfer.ok_or_else(|| protocol_violation("bytes came that nobody asked for"))?;
        if transfer.void.is_some() {
            return Ok(());
        }
        transfer.advance(self.events)?;
        if !transfer.assembly.take(&piece) {
            return Err(protocol_violation("other bytes came than were asked for"));
        }
        self.events.send(FetchEvent::Data { id, bytes: piece.bytes.into_vec() }).map_err(receiver_gone)
    }

    fn streamed(&mut self, Streamed { id, outcome }: Streamed) -> Result<()> {
        let is_next = self.order.front() == Some(&id);
        let transfer = self.under_way.get_mut(&id).filter(|_| is_next);
        let transfer = transfer.ok_or_else(|| protocol_violation("a file ended that nobody asked for"))?;
        self.order.pop_front();
        transfer.requests -= 1;
        if outcome != StreamOutcome::Done {
            transfer.spoil(outcome);
        }
        self.go_on(id)
    }

    fn end(&mut self, transfer: Transfer) -> Result<()> {
        let Transfer { job, assembly, hash, progress, void, .. } = transfer;
        let id = job.id;
        let failed = |error| FetchEvent::Failed { id, error };
        let arrival = match void {
            None | Some(StreamOutcome::Done) if !assembly.is_empty() => {
                return Err(protocol_violation("a file ended before its end"));
            }
            None | Some(StreamOutcome::Done) => {
                let FetchJob { size, mtime, uid, offset, .. } = job;
                // The hash of its end alone says nothing of the whole, whose hash was known before.
                let claimed = hash.filter(|_| offset == 0);
                FetchEvent::End { id, state: FileState { size, mtime, uid }, consistent: true, claimed }
            }
            Some(StreamOutcome::Changed(_)) => {
                // SFTP's reader can read a file that keeps changing. There was no event of a file that was only compared.
                if progress != Progress::Undecided {
                    self.events.send(FetchEvent::Restart { id }).map_err(receiver_gone)?;
                }
                let job = FetchJob { offset: 0, basis: None, data: None, ..job };
                return self.full.send(job).map_err(receiver_gone);
            }
            Some(StreamOutcome::Failed(errno)) => failed(ReadError::from_errno(errno)),
            Some(StreamOutcome::Vanished) => failed(ReadError::Vanished),
        };
        self.events.send(arrival).map_err(receiver_gone)
    }
}

impl Transfer {
    fn new(job: FetchJob, sparing: bool) -> Transfer {
        let cutting = Cutting::of(job.size, sparing);
        let basis = job.basis.clone().map(|basis| Basis::new(basis, cutting, sparing));
        let assembly = if basis.is_some() { Assembly::unknown(&job) } else { Assembly::full(&job) };
        // A file whose beginning is on the server was decided over before.
        let is_decided = basis.is_none() || job.offset > 0;
        let progress = if is_decided { Progress::Decided } else { Progress::Undecided };
        let (questions, requests, hash, described, found, evaluated, void) = (0, 0, None, 0, 0, 0, None);
        Transfer {
            job,
            basis,
            assembly,
            cutting,
            questions,
            requests,
            hash,
            described,
            found,
            evaluated,
            progress,
            void,
        }
    }

    // The distance between bytes of the file and of the basis that follow each other up to the end of both.
    fn end_shift(&self) -> Shift {
        Shift::between(self.job.size, self.job.basis.as_ref().map_or(0, |basis| basis.size))
    }

    fn spoil(&mut self, outcome: StreamOutcome) {
        self.void.get_or_insert(outcome);
    }

    // True when it is worth assembling before all of it is described. A file without changes may only have been touched.
    fn is_worth_starting(&self) -> bool {
        let changed = self.described - self.found;
        self.progress == Progress::Undecided
            && self.hash.is_none()
            && (1..=self.described / MAX_SPECULATIVE_PART).contains(&changed)
    }

    // The last answer to a question.
    fn answered(&mut self, question: &Question, outcome: HashOutcome) -> Result<()> {
        self.questions -= 1;
        match outcome {
            HashOutcome::Done { .. } if self.void.is_none() && !question.is_described() => {
                return Err(protocol_violation(NOT_THE_FILE));
            }
            HashOutcome::Done { hash, .. } if question.is_about_all => self.hash = Some(hash),
            HashOutcome::Done { .. } => {}
            HashOutcome::Sampled { .. } => return Err(protocol_violation("a sample came that nobody asked for")),
            HashOutcome::Changed => self.spoil(StreamOutcome::Changed(None)),
            HashOutcome::Vanished => self.spoil(StreamOutcome::Vanished),
            HashOutcome::Failed(errno) => self.spoil(StreamOutcome::Failed(errno)),
        }
        Ok(())
    }

    // Hands on parts that are on the server, up to the next one that has to be sent.
    fn advance(&mut self, events: &Sender<FetchEvent>) -> Result<()> {
        while let Some(next) = self.assembly.next(self.job.id) {
            events.send(next).map_err(receiver_gone)?;
        }
        Ok(())
    }

    // The next chunks, or groups of them, of the spans that were asked about. A basis that can't be opened has none.
    fn add(
        &mut self,
        chunks: &[Chunk],
        question: &mut Question,
        memory: &mut Vec<u8>,
        is_over: &dyn Fn() -> bool,
    ) -> Result<()> {
        let file = if chunks.is_empty() { None } else { self.basis.as_ref().and_then(Basis::open) };
        let mut open = file.as_ref().map(|file| Open::new(file, memory, is_over));
        for chunk in chunks {
            let (at, span) = question.next(chunk, self.cutting).ok_or_else(|| protocol_violation(NOT_THE_FILE))?;
            let place = match (&self.basis, &mut open) {
                (Some(basis), Some(open)) => basis.find(chunk, &span, &question.missed, open),
                _ => None,
            };
            let length = u64::from(chunk.length);
            self.described += length;
            match place {
                Some(place) => {
                    self.assembly.put(at, Part::Basis(Extent { offset: place, length }));
                    self.found += length;
                    question.found(at, place);
                }
                None => {
                    let missed =
                        if question.grouped { Part::Rough(length, span.before) } else { Part::Missing(length) };
                    self.assembly.put(at, missed);
                    question.missed.add(at, *chunk);
                    if let Some(open) = &mut open {
                        self.look_again(question, open);
                    }
                }
            }
        }
        Ok(())
    }

    // Cuts the basis where much was missed: the missing chunks may be anywhere in it.
    fn look_again(&mut self, question: &mut Question, open: &mut Open<'_>) {
        let Some(basis) = self.basis.as_mut().filter(|basis| basis.is_to_be_cut(&question.missed)) else {
            return;
        };
        basis.cut(open);
        for (at, chunk) in std::mem::take(&mut question.missed).chunks {
            match basis.find_cut(&chunk) {
                Some(offset) => {
                    let found = Extent { offset, length: chunk.length.into() };
                    self.found += if self.assembly.mark_found(at, found) { found.length } else { 0 };
                    question.found(at, offset);
                }
                None => question.missed.add(at, chunk),
            }
        }
    }
}

impl Question {
    // Where the next chunk is, and the span from there on.
    fn next(&mut self, chunk: &Chunk, cutting: Cutting) -> Option<(u64, Span)> {
        if self.spans.front()?.extent.length == 0 {
            self.spans.pop_front();
            self.missed = Missed::default();
        }
        let span = self.spans.front_mut()?;
        let (length, left) = (u64::from(chunk.length), span.extent.length);
        // Only the last one may be short.
        let average = u64::from(cutting.average);
        let longest = average * 4 * if self.grouped { MOST_GROUPED as u64 } else { 1 };
        if length == 0 || !(left.min(average / 4)..=left.min(longest)).contains(&length) {
            return None;
        }
        let here = *span;
        span.extent = Extent { offset: here.extent.offset + length, length: left - length };
        Some((here.extent.offset, here))
    }

    // A chunk after one that was found is looked for behind it.
    fn found(&mut self, at: u64, place: u64) {
        self.missed = Missed::default();
        if let Some(span) = self.spans.front_mut() {
            span.before = Shift::between(at, place);
        }
    }

    fn is_described(&self) -> bool {
        self.spans.iter().all(|span| span.extent.length == 0)
    }
}
