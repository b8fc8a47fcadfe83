//! Large files through the helper: all of a file in pieces, or, where a basis of it is on the server, only the chunks
//! that it does not have. What does not keep still goes through SFTP.

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

// How many files may be under way: enough that no line waits for a question.
const MOST_FILES: usize = MAX_STREAMS / 2;

// Of how many chunks, about, those may be that are compared with bases, before the last one: each chunk takes up to
// 100 bytes of memory.
const MOST_COMPARED: u64 = 2 * CHUNKS;

// What part of a file may be new, at most, if it is put together before the client has told of all of it.
const NEW: u64 = 8;

// How many requests of a file may be under way before more are made, of each kind: what gathers meanwhile makes one. Either
// there are few files with many of them, or many with one, so together they are no more than the helper takes.
const MOST_REQUESTS: usize = 16;

// After how many bytes that were told of it is looked at what can be done.
const WORTH_A_LOOK: u64 = 4 << 20;

const NOT_MADE_UP: &str = "the chunks of a file don't make it up";

/// Reads files until `wanted` is closed and everything is answered; what has changed since it was listed goes to `others`.
pub fn read_files(
    conversation: Conversation,
    wanted: &Receiver<FetchJob>,
    (arrived, others): (&Sender<FetchEvent>, &Sender<FetchJob>),
    is_wanted: &IsWanted<'_>,
) -> Result<()> {
    let (under_way, order, questions) = (HashMap::new(), VecDeque::new(), HashMap::new());
    let (next_question, memory) = (0, Vec::new());
    Large { conversation, arrived, others, is_wanted, under_way, order, questions, next_question, memory }.read(wanted)
}

struct Large<'a> {
    conversation: Conversation,
    arrived: &'a Sender<FetchEvent>,
    others: &'a Sender<FetchJob>,
    is_wanted: &'a IsWanted<'a>,
    under_way: HashMap<u64, Transfer>,
    // Whose pieces come next, and after that, for each request: one file after the other, so that few are open.
    order: VecDeque<u64>,
    // What the client was asked about chunks.
    questions: HashMap<u64, Question>,
    next_question: u64,
    memory: Vec<u8>,
}

/// A file under way.
struct Transfer {
    wanted: FetchJob,
    basis: Option<Basis>,
    assembly: Assembly,
    cutting: Cutting,
    // Questions about chunks, and requests for pieces, that are not answered.
    questions: usize,
    requests: usize,
    // What the client says of the whole.
    hash: Option<Hash>,
    // Bytes that the client has told of, and how many of them are here.
    told: u64,
    here: u64,
    // Of so many it was looked at what can be done.
    seen: u64,
    progress: Progress,
    // Why what comes is in vain.
    void: Option<StreamOutcome>,
}

/// Whether a file is put together.
#[derive(Clone, Copy, PartialEq)]
enum Progress {
    // It has to be known first whether it is wanted.
    Undecided,
    // It is like its basis and none the less another, so it hardly is one that is here: whether it is wanted is
    // decided when it has come.
    Ahead,
    // It is wanted.
    Decided,
}

/// What the client was asked about the chunks of a file.
struct Question {
    file: u64,
    grouped: bool,
    // All that is wanted of it: then the answer has its hash.
    is_about_all: bool,
    // What is not told of yet, and before it the one that was told of last.
    spans: VecDeque<Span>,
    missed: Missed,
}

impl Large<'_> {
    fn read(&mut self, wanted: &Receiver<FetchJob>) -> Result<()> {
        loop {
            while self.has_room() {
                let next =
                    if self.under_way.is_empty() { wanted.recv().ok_or(Nothing::More) } else { wanted.try_recv() };
                let Ok(wanted) = next else { break };
                self.begin(wanted)?;
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
            let basis = transfer.wanted.basis.as_ref()?;
            Some(count_of_chunks(transfer.wanted.size, basis, transfer.cutting))
        };
        let chunks: u64 = self.under_way.values().filter_map(compared).sum();
        self.under_way.len() < MOST_FILES && chunks <= MOST_COMPARED
    }

    fn begin(&mut self, wanted: FetchJob) -> Result<()> {
        let sparing = self.conversation.replies.is_slow();
        let id = wanted.id;
        let mut transfer = Transfer::new(wanted, sparing);
        if transfer.basis.is_some() {
            let FetchJob { offset, size, .. } = transfer.wanted;
            let extent = Extent { offset, length: size - offset };
            let span = Span { extent, before: Shift::default(), after: transfer.end_shift() };
            self.question(&mut transfer, vec![span].into(), true)?;
        } else {
            let ranges = transfer.assembly.ask_for_bytes();
            // A file of which nothing has to come must be looked at all the same: is it still what was listed?
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
        let FetchJob { id, path, size, mtime, uid, .. } = transfer.wanted.clone();
        let (path, mtime, ranges) = (wire::to_path(path), wire::to_time(mtime), wire::to_extents(ranges));
        let request = StreamRequest { id, path, size, mtime, uid, ranges, as_found: false };
        self.conversation.requests.send(&Request::Stream(request))?;
        transfer.requests += 1;
        self.order.push_back(id);
        self.conversation.requests.flush()
    }

    // Asks about chunks.
    fn question(&mut self, transfer: &mut Transfer, spans: VecDeque<Span>, is_about_all: bool) -> Result<()> {
        let FetchJob { id, path, size, mtime, uid, .. } = transfer.wanted.clone();
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
        // Not while the client reads a file only to tell of its chunks.
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
            transfer.add(&chunks, question, (&mut self.memory, &|| replies.is_over()))?;
        }
        let file = question.file;
        if let Some(outcome) = end {
            transfer.answered(question, outcome)?;
            self.questions.remove(&id);
        } else if chunks.is_empty() {
            return Err(protocol_violation("it has nothing to tell"));
        } else if transfer.told < transfer.seen + WORTH_A_LOOK {
            return Ok(());
        }
        transfer.seen = transfer.told;
        if transfer.is_to_be_begun() && !replies.is_slow() {
            transfer.progress = Progress::Ahead;
            self.arrived.send(FetchEvent::Speculative { id: file }).map_err(receiver_gone)?;
        }
        self.go_on(file)
    }

    // Does for a file what can be done by now.
    fn go_on(&mut self, id: u64) -> Result<()> {
        let Some(mut transfer) = self.under_way.remove(&id) else { return Err(connection_lost()) };
        if transfer.void.is_none() {
            if let (Progress::Undecided, Some(hash)) = (transfer.progress, &transfer.hash) {
                if !(self.is_wanted)(id, hash, transfer.here == transfer.told)? {
                    return Ok(());
                }
                transfer.progress = Progress::Decided;
            }
            if transfer.progress != Progress::Undecided {
                self.put_together(&mut transfer)?;
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

    // Hands on what is here, and asks for what is not.
    fn put_together(&mut self, transfer: &mut Transfer) -> Result<()> {
        transfer.advance(self.arrived)?;
        let is_all_told = transfer.hash.is_some();
        if transfer.questions < MOST_REQUESTS {
            let spans = transfer.assembly.ask_about_rough(is_all_told, transfer.end_shift());
            for spans in spans.chunks(MAX_EXTENTS) {
                self.question(transfer, spans.to_vec().into(), false)?;
            }
        }
        if transfer.requests < MOST_REQUESTS {
            let ranges = transfer.assembly.ask_for_bytes();
            self.request_all(transfer, &ranges)?;
        }
        if is_all_told && transfer.questions == 0 {
            // What is known of it takes memory.
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
        transfer.advance(self.arrived)?;
        if !transfer.assembly.take(&piece) {
            return Err(protocol_violation("other bytes came than were asked for"));
        }
        self.arrived.send(FetchEvent::Data { id, bytes: piece.bytes.into_vec() }).map_err(receiver_gone)
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
        let Transfer { wanted, assembly, hash, progress, void, .. } = transfer;
        let id = wanted.id;
        let failed = |error| FetchEvent::Failed { id, error };
        let arrival = match void {
            None | Some(StreamOutcome::Done) if !assembly.is_empty() => {
                return Err(protocol_violation("a file ended before its end"));
            }
            None | Some(StreamOutcome::Done) => {
                let FetchJob { size, mtime, uid, offset, .. } = wanted;
                // That of its end only says nothing of the whole, whose hash was known before.
                let claimed = hash.filter(|_| offset == 0);
                FetchEvent::End { id, state: FileState { size, mtime, uid }, consistent: true, claimed }
            }
            Some(StreamOutcome::Changed(_)) => {
                // SFTP's reader knows what to do with a file that does not keep still. Of one that was only cut nothing came.
                if progress != Progress::Undecided {
                    self.arrived.send(FetchEvent::Restart { id }).map_err(receiver_gone)?;
                }
                let wanted = FetchJob { offset: 0, basis: None, data: None, ..wanted };
                return self.others.send(wanted).map_err(receiver_gone);
            }
            Some(StreamOutcome::Failed(errno)) => failed(ReadError::from_errno(errno)),
            Some(StreamOutcome::Vanished) => failed(ReadError::Vanished),
        };
        self.arrived.send(arrival).map_err(receiver_gone)
    }
}

impl Transfer {
    fn new(wanted: FetchJob, sparing: bool) -> Transfer {
        let cutting = Cutting::of(wanted.size, sparing);
        let basis = wanted.basis.clone().map(|basis| Basis::new(basis, cutting, sparing));
        let assembly = if basis.is_some() { Assembly::unknown(&wanted) } else { Assembly::whole(&wanted) };
        // What is carried on was decided over before.
        let is_decided = basis.is_none() || wanted.offset > 0;
        let progress = if is_decided { Progress::Decided } else { Progress::Undecided };
        let (questions, requests, hash, told, here, seen, void) = (0, 0, None, 0, 0, 0, None);
        Transfer { wanted, basis, assembly, cutting, questions, requests, hash, told, here, seen, progress, void }
    }

    // How far from their places those bytes are that follow each other up to the end of both versions.
    fn end_shift(&self) -> Shift {
        Shift::between(self.wanted.size, self.wanted.basis.as_ref().map_or(0, |basis| basis.size))
    }

    fn spoil(&mut self, outcome: StreamOutcome) {
        self.void.get_or_insert(outcome);
    }

    // True when it is worth while to put it together before all of it is known. What is not new may have been touched only.
    fn is_to_be_begun(&self) -> bool {
        let new = self.told - self.here;
        self.progress == Progress::Undecided && self.hash.is_none() && (1..=self.told / NEW).contains(&new)
    }

    // All was told that was asked.
    fn answered(&mut self, question: &Question, outcome: HashOutcome) -> Result<()> {
        self.questions -= 1;
        match outcome {
            HashOutcome::Done { .. } if self.void.is_none() && !question.is_told() => {
                return Err(protocol_violation(NOT_MADE_UP));
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

    // Hands on what is here already, up to what is to come.
    fn advance(&mut self, arrived: &Sender<FetchEvent>) -> Result<()> {
        while let Some(here) = self.assembly.next(self.wanted.id) {
            arrived.send(here).map_err(receiver_gone)?;
        }
        Ok(())
    }

    // The next chunks, or groups of them, of the spans that were asked about. A basis that can't be opened has none.
    fn add(
        &mut self,
        chunks: &[Chunk],
        question: &mut Question,
        (memory, is_over): (&mut Vec<u8>, &dyn Fn() -> bool),
    ) -> Result<()> {
        let file = if chunks.is_empty() { None } else { self.basis.as_ref().and_then(Basis::open) };
        let mut open = file.as_ref().map(|file| Open::new(file, memory, is_over));
        for chunk in chunks {
            let (at, span) = question.next(chunk, self.cutting).ok_or_else(|| protocol_violation(NOT_MADE_UP))?;
            let place = match (&self.basis, &mut open) {
                (Some(basis), Some(open)) => basis.find(chunk, &span, &question.missed, open),
                _ => None,
            };
            let length = u64::from(chunk.length);
            self.told += length;
            match place {
                Some(place) => {
                    self.assembly.put(at, Part::Here(Extent { offset: place, length }));
                    self.here += length;
                    question.found(at, place);
                }
                None => {
                    let missed = if question.grouped { Part::Rough(length, span.before) } else { Part::Comes(length) };
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

    // Where much is missed: it may be anywhere.
    fn look_again(&mut self, question: &mut Question, open: &mut Open<'_>) {
        let Some(basis) = self.basis.as_mut().filter(|basis| basis.is_to_be_cut(&question.missed)) else {
            return;
        };
        basis.cut(open);
        for (at, chunk) in std::mem::take(&mut question.missed).chunks {
            match basis.find_cut(&chunk) {
                Some(offset) => {
                    let found = Extent { offset, length: chunk.length.into() };
                    self.here += if self.assembly.mark_here(at, found) { found.length } else { 0 };
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

    // What follows a chunk that was found is looked for behind it.
    fn found(&mut self, at: u64, place: u64) {
        self.missed = Missed::default();
        if let Some(span) = self.spans.front_mut() {
            span.before = Shift::between(at, place);
        }
    }

    fn is_told(&self) -> bool {
        self.spans.iter().all(|span| span.extent.length == 0)
    }
}
