//! Large files through the helper: all of a file in pieces, or, where an earlier version of it is here, only the chunks
//! that it does not have. What does not keep still goes through SFTP.

use std::collections::{HashMap, VecDeque};

use archive_helper::chunks::{CHUNKS, Cutting, MOST_GROUPED};
use archive_helper::protocol::{
    Chunk, ChunkRequest, Chunks, Extent, HashOutcome, MAX_EXTENTS, MAX_STREAMS, Piece, Reply, Request, StreamOutcome,
    StreamRequest, Streamed,
};

use super::earlier::{Earlier, Known, count_of_chunks};
use super::helper::{Conversation, gone, nonsense};
use super::{Arrived, FileState, IsWanted, ReadError, Wanted};
use crate::entry::Hash;
use crate::error::{Error, Kind, Result};
use crate::queue::{Nothing, Receiver, Sender};

// How many files may be under way: enough that no line waits for a question.
const MOST_FILES: usize = MAX_STREAMS / 2;

// Of how many chunks, about, those may be that are compared with earlier versions, before the last one: each chunk takes some
// 30 bytes of memory.
const MOST_COMPARED: u64 = 2 * CHUNKS;

// Of how many chunks a file may be: the shortest is a quarter of the average.
const MOST_CHUNKS: usize = 4 * CHUNKS as usize + 1;

const NOT_MADE_UP: &str = "the chunks of a file don't make it up";

/// Up to which size a file may be compared with an earlier version, in bytes: of larger ones there were too many chunks.
pub const MOST_COMPARED_BYTES: u64 = 256 << 30;

/// Reads files until `wanted` is closed and everything is answered; what has changed since it was listed goes to `others`.
pub fn read_files(
    conversation: Conversation,
    wanted: &Receiver<Wanted>,
    (arrived, others): (&Sender<Arrived>, &Sender<Wanted>),
    is_wanted: &IsWanted<'_>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (under_way, order, earlier) = (HashMap::new(), VecDeque::new(), Earlier::start(scope));
        Large { conversation, arrived, others, is_wanted, under_way, order, earlier }.read(wanted)
    })
}

struct Large<'a> {
    conversation: Conversation,
    arrived: &'a Sender<Arrived>,
    others: &'a Sender<Wanted>,
    is_wanted: &'a IsWanted<'a>,
    under_way: HashMap<u64, Transfer>,
    // Whose pieces come next, and after that, for each request: one file after the other, so that few are open.
    order: VecDeque<u64>,
    earlier: Earlier,
}

/// A file under way.
struct Transfer {
    wanted: Wanted,
    // What is in the earlier version, once the client has told of the first chunks.
    known: Option<Known>,
    // What the file consists of, from where on nothing has been handed on yet.
    parts: VecDeque<Part>,
    // What follows, while the client is asked about its chunks, or first about groups of them.
    rough: VecDeque<Part>,
    cutting: Cutting,
    // How many parts of it the client is to tell of, and how many chunks it has told of.
    asked: usize,
    chunks: usize,
    // Requests for pieces that are not answered.
    requests: usize,
    // What the client says of the whole.
    hash: Option<Hash>,
    // Why what comes is in vain.
    void: Option<StreamOutcome>,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    // Zeros.
    Hole(u64),
    // In the earlier version, at an offset.
    Here(Extent),
    // Not known yet.
    Rough(u64),
    // Bytes to come.
    Comes(u64),
}

impl Large<'_> {
    fn read(&mut self, wanted: &Receiver<Wanted>) -> Result<()> {
        loop {
            while self.has_room() {
                let next = match self.under_way.is_empty() {
                    true => wanted.recv().ok_or(Nothing::More),
                    false => wanted.try_recv(),
                };
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
            let base = transfer.wanted.base.as_ref()?;
            Some(count_of_chunks(transfer.wanted.size, base, transfer.cutting))
        };
        let chunks: u64 = self.under_way.values().filter_map(compared).sum();
        self.under_way.len() < MOST_FILES && chunks <= MOST_COMPARED
    }

    fn begin(&mut self, wanted: Wanted) -> Result<()> {
        let cutting = Cutting::of(wanted.size, self.conversation.replies.is_slow());
        let mut transfer = Transfer::new(wanted, cutting);
        match transfer.wanted.base.clone() {
            Some(base) => {
                let Wanted { id, size, .. } = transfer.wanted;
                transfer.rough.push_back(Part::Rough(size));
                self.ask_for_chunks(&mut transfer)?;
                self.earlier.order(id, base, cutting);
            }
            None => {
                transfer.plan_whole();
                self.ask(&mut transfer)?;
            }
        }
        self.under_way.insert(transfer.wanted.id, transfer);
        Ok(())
    }

    // Asks for what is to come.
    fn ask(&mut self, transfer: &mut Transfer) -> Result<()> {
        let Wanted { id, path, size, mtime, uid, .. } = &transfer.wanted;
        let ranges = transfer.ranges(|part| matches!(part, Part::Comes(_)));
        // A file of which nothing has to come must be looked at all the same: is it still what was listed?
        let batches = if ranges.is_empty() { vec![&[][..]] } else { ranges.chunks(MAX_EXTENTS).collect() };
        for ranges in batches {
            self.conversation.requests.send(&Request::Stream(StreamRequest {
                id: *id,
                path: path.clone(),
                size: *size,
                mtime: *mtime,
                uid: *uid,
                ranges: ranges.to_vec(),
            }))?;
            transfer.requests += 1;
            self.order.push_back(*id);
        }
        self.conversation.requests.flush()
    }

    // Asks what the parts consist of that are not known yet, or the first of them.
    fn ask_for_chunks(&mut self, transfer: &mut Transfer) -> Result<()> {
        let mut ranges = transfer.ranges(|part| matches!(part, Part::Rough(_)));
        ranges.truncate(MAX_EXTENTS);
        transfer.asked = ranges.len();
        let Wanted { id, path, size, mtime, uid, .. } = transfer.wanted.clone();
        let Cutting { average, grouped } = transfer.cutting;
        let request = ChunkRequest { id, path, size, mtime, uid, average, ranges, grouped };
        self.conversation.requests.send(&Request::Chunk(request))?;
        self.conversation.requests.flush()
    }

    fn hear(&mut self) -> Result<()> {
        // Not while the client reads a file only to tell of its chunks.
        let is_sent = |transfer: &Transfer| transfer.requests > 0 && transfer.void.is_none();
        let owes = self.under_way.values().any(is_sent) && !self.under_way.values().any(Transfer::is_to_be_cut);
        self.conversation.replies.owes_much(owes);
        match self.conversation.replies.receive()?.ok_or_else(gone)? {
            Reply::Chunks(chunks) => self.chunks(chunks),
            Reply::Piece(piece) => self.piece(piece),
            Reply::Streamed(streamed) => self.streamed(streamed),
            Reply::Alive => Ok(()),
            _ => Err(nonsense("an answer came that nobody asked for")),
        }
    }

    fn chunks(&mut self, Chunks { id, chunks, end }: Chunks) -> Result<()> {
        let transfer = self.under_way.get_mut(&id).filter(|transfer| transfer.is_to_be_cut());
        let transfer = transfer.ok_or_else(|| nonsense("chunks came that nobody asked for"))?;
        if transfer.known.is_none() && !chunks.is_empty() {
            transfer.known = Some(self.earlier.take(id));
        }
        chunks.iter().try_for_each(|chunk| transfer.add(chunk))?;
        match end {
            None => Ok(()),
            Some(HashOutcome::Done { .. }) if transfer.asked > 0 => Err(nonsense(NOT_MADE_UP)),
            Some(HashOutcome::Done { hash, .. }) => self.cut(id, hash),
            Some(HashOutcome::Changed) => self.end(id, StreamOutcome::Changed),
            Some(HashOutcome::Vanished) => self.end(id, StreamOutcome::Vanished),
            Some(HashOutcome::Failed(errno)) => self.end(id, StreamOutcome::Failed(errno)),
        }
    }

    // All that was asked about was told.
    fn cut(&mut self, id: u64, hash: Hash) -> Result<()> {
        let mut transfer = self.under_way.remove(&id).ok_or_else(gone)?;
        // The first answer is about the whole.
        if transfer.hash.is_none() && !(self.is_wanted)(id, &hash)? {
            return Ok(());
        }
        transfer.hash.get_or_insert(hash);
        if transfer.is_still_rough() {
            self.ask_for_chunks(&mut transfer)?;
        } else {
            transfer.known = None;
            self.ask(&mut transfer)?;
        }
        self.under_way.insert(id, transfer);
        Ok(())
    }

    fn piece(&mut self, Piece { id, bytes }: Piece) -> Result<()> {
        let is_next = self.order.front() == Some(&id);
        let transfer = self.under_way.get_mut(&id).filter(|_| is_next);
        let transfer = transfer.ok_or_else(|| nonsense("bytes came that nobody asked for"))?;
        let bytes = bytes.into_vec();
        if transfer.void.is_some() {
            return Ok(());
        }
        transfer.advance(self.arrived)?;
        match transfer.parts.front_mut() {
            Some(Part::Comes(left)) if !bytes.is_empty() && bytes.len() as u64 <= *left => {
                *left -= bytes.len() as u64;
                if *left == 0 {
                    transfer.parts.pop_front();
                }
            }
            _ => return Err(nonsense("other bytes came than were asked for")),
        }
        self.arrived.send(Arrived::Data { id, bytes }).map_err(unwanted)
    }

    fn streamed(&mut self, Streamed { id, outcome }: Streamed) -> Result<()> {
        let is_next = self.order.front() == Some(&id);
        let transfer = self.under_way.get_mut(&id).filter(|_| is_next);
        let transfer = transfer.ok_or_else(|| nonsense("a file ended that nobody asked for"))?;
        self.order.pop_front();
        transfer.requests -= 1;
        if outcome != StreamOutcome::Done {
            transfer.void.get_or_insert(outcome);
        }
        match transfer.void {
            _ if transfer.requests > 0 => Ok(()),
            Some(void) => self.end(id, void),
            None => {
                transfer.advance(self.arrived)?;
                match transfer.parts.is_empty() {
                    true => self.end(id, StreamOutcome::Done),
                    false => Err(nonsense("a file ended before its end")),
                }
            }
        }
    }

    fn end(&mut self, id: u64, outcome: StreamOutcome) -> Result<()> {
        let Some(Transfer { wanted, hash, known, .. }) = self.under_way.remove(&id) else { return Ok(()) };
        let was_cut = hash.is_some() || known.is_some();
        if wanted.base.is_some() && !was_cut {
            self.earlier.forget(id);
        }
        let failed = |error| Arrived::Failed { id, error };
        let arrival = match outcome {
            StreamOutcome::Done => {
                let Wanted { size, mtime, uid, .. } = wanted;
                Arrived::End { id, state: FileState { size, mtime, uid }, consistent: true, claimed: hash }
            }
            StreamOutcome::Changed => {
                // SFTP's reader knows what to do with a file that does not keep still. Of one that was only cut nothing came.
                if wanted.base.is_none() || hash.is_some() {
                    self.arrived.send(Arrived::Restart { id }).map_err(unwanted)?;
                }
                let wanted = Wanted { offset: 0, base: None, data: None, ..wanted };
                return self.others.send(wanted).map_err(unwanted);
            }
            StreamOutcome::Vanished => failed(ReadError::Vanished),
            StreamOutcome::Failed(errno) => {
                failed(ReadError::Refused(nix::errno::Errno::from_raw(errno).desc().to_owned()))
            }
        };
        self.arrived.send(arrival).map_err(unwanted)
    }
}

impl Transfer {
    fn new(wanted: Wanted, cutting: Cutting) -> Transfer {
        Transfer {
            wanted,
            known: None,
            parts: VecDeque::new(),
            rough: VecDeque::new(),
            cutting,
            asked: 0,
            chunks: 0,
            requests: 0,
            hash: None,
            void: None,
        }
    }

    fn is_to_be_cut(&self) -> bool {
        self.asked > 0
    }

    // Hands on what is here already, up to what is to come.
    fn advance(&mut self, arrived: &Sender<Arrived>) -> Result<()> {
        let id = self.wanted.id;
        while let Some(Part::Hole(_) | Part::Here(_)) = self.parts.front() {
            let known = match self.parts.pop_front() {
                Some(Part::Hole(length)) => Arrived::Hole { id, length },
                Some(Part::Here(Extent { offset, length })) => Arrived::Here { id, offset, length },
                _ => break,
            };
            arrived.send(known).map_err(unwanted)?;
        }
        Ok(())
    }

    // From where on it is wanted, with holes where the listing told of them.
    fn plan_whole(&mut self) {
        let Wanted { size, offset, data, .. } = &self.wanted;
        let whole = [Extent { offset: 0, length: *size }];
        let mut at = *offset;
        for extent in data.as_deref().unwrap_or(&whole).iter().filter(|extent| extent.end() > *offset) {
            let from = extent.offset.max(at);
            if from > at {
                self.parts.push_back(Part::Hole(from - at));
            }
            self.parts.push_back(Part::Comes(extent.end() - from));
            at = extent.end();
        }
        if *size > at {
            self.parts.push_back(Part::Hole(size - at));
        }
    }

    // The next chunk, or group of them, of the parts that were asked about.
    fn add(&mut self, chunk: &Chunk) -> Result<()> {
        self.settle();
        let Some(Part::Rough(left)) = self.rough.front_mut().filter(|_| self.asked > 0) else {
            return Err(nonsense(NOT_MADE_UP));
        };
        let length = u64::from(chunk.length);
        // Only the last one may be short, and there are not more of them than fit into memory.
        let average = u64::from(self.cutting.average);
        let longest = average * 4 * if self.cutting.grouped { MOST_GROUPED as u64 } else { 1 };
        self.chunks += 1;
        let is_fit = ((*left).min(average / 4)..=(*left).min(longest)).contains(&length);
        if chunk.length == 0 || !is_fit || self.chunks > MOST_CHUNKS {
            return Err(nonsense(NOT_MADE_UP));
        }
        *left -= length;
        if *left == 0 {
            self.rough.pop_front();
            self.asked -= 1;
        }
        let part = match self.known.as_ref().and_then(|known| known.get(chunk)) {
            Some(offset) => Part::Here(Extent { offset: *offset, length }),
            None if self.cutting.grouped => Part::Rough(length),
            None => Part::Comes(length),
        };
        self.append(part);
        Ok(())
    }

    // Leaves at the front of what is rough what has to be asked about.
    fn settle(&mut self) {
        while let Some(part) = self.rough.front().copied().filter(|part| !matches!(part, Part::Rough(_))) {
            self.rough.pop_front();
            self.append(part);
        }
    }

    // Whether there is more to ask about: other parts, or what groups consist of.
    fn is_still_rough(&mut self) -> bool {
        self.settle();
        if self.rough.is_empty() && std::mem::take(&mut self.cutting.grouped) {
            self.chunks = 0;
            std::mem::swap(&mut self.rough, &mut self.parts);
            self.settle();
        }
        !self.rough.is_empty()
    }

    fn append(&mut self, part: Part) {
        match (part, self.parts.back_mut()) {
            (Part::Here(next), Some(Part::Here(here))) if here.end() == next.offset => here.length += next.length,
            (Part::Rough(length), Some(Part::Rough(before))) => *before += length,
            (Part::Comes(length), Some(Part::Comes(before))) => *before += length,
            _ => self.parts.push_back(part),
        }
    }

    // Where in the file such parts are.
    fn ranges(&self, are_wanted: impl Fn(&Part) -> bool) -> Vec<Extent> {
        let mut offset = self.wanted.offset;
        let mut ranges = Vec::new();
        for part in self.parts.iter().chain(&self.rough) {
            let (Part::Hole(length) | Part::Rough(length) | Part::Comes(length) | Part::Here(Extent { length, .. })) =
                *part;
            if are_wanted(part) {
                ranges.push(Extent { offset, length });
            }
            offset += length;
        }
        ranges
    }
}

fn unwanted<T>(_: T) -> Error {
    Error::new(Kind::BrokenOff, "nobody takes the files that arrive")
}
