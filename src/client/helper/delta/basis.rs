//! Which chunks of a file are in its basis, and where.
//!
//! Most chunks are where they were, counted from the beginning or from the end, or as far from there as their neighbours. Those
//! places are tried first: reading and hashing take a fraction of the time that cutting a file into chunks takes. Only where much
//! is not found in this way, the basis is cut as the client has cut the file.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use archive_helper::chunks::{CHUNKS, Cutting, Grouping, cut};
use archive_helper::protocol::Chunk;
use xxhash_rust::xxh3::Xxh3Default;

use crate::client::BasisRef;
use crate::entry::Extent;

// Known chunks of a basis: each takes some 40 bytes of memory.
const MAX_KNOWN_CHUNKS: usize = 4 * CHUNKS as usize;

// One in so many bytes of a basis may be missed in a row before it is cut. On a slow connection none may.
const MAX_MISSED_PART: u64 = 32;

// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// How far apart a place in a file and that in its basis are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift(u64);

impl Shift {
    /// Between an offset in the file and one in its basis.
    pub fn between(here: u64, basis: u64) -> Shift {
        Shift(basis.wrapping_sub(here))
    }

    fn of(self, offset: u64) -> u64 {
        offset.wrapping_add(self.0)
    }
}

/// A part of a file whose chunks are searched, from the first that is not described yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where in the file.
    pub extent: Extent,
    /// As far as what comes before it is from its place in the basis, the next chunk may be, too.
    pub before: Shift,
    /// The same for what follows.
    pub after: Shift,
}

/// Chunks that follow each other and were not found in the basis, with their offsets.
#[derive(Debug, Default)]
pub struct Missed {
    /// With their offsets in the file.
    pub chunks: Vec<(u64, Chunk)>,
    bytes: u64,
}

impl Missed {
    /// Adds one.
    pub fn add(&mut self, at: u64, chunk: Chunk) {
        self.chunks.push((at, chunk));
        self.bytes += u64::from(chunk.length);
    }
}

/// A basis.
pub struct Basis {
    file: BasisRef,
    cutting: Cutting,
    patience: u64,
    // Where chunks, and groups of them, are: offsets. Once it was cut.
    known: Option<HashMap<Chunk, u64>>,
}

/// A basis while it is open.
pub struct Open<'a> {
    file: &'a File,
    memory: &'a mut Vec<u8>,
    is_over: &'a dyn Fn() -> bool,
}

impl<'a> Open<'a> {
    /// Reads it into `memory`, until `is_over`.
    pub fn new(file: &'a File, memory: &'a mut Vec<u8>, is_over: &'a dyn Fn() -> bool) -> Open<'a> {
        Open { file, memory, is_over }
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        if (self.is_over)() { Err(io::ErrorKind::Interrupted.into()) } else { self.file.read_at(buffer, at) }
    }
}

impl Basis {
    /// One that is compared with a file that is cut so; `sparing` where bytes count more than time.
    pub fn new(file: BasisRef, cutting: Cutting, sparing: bool) -> Basis {
        let patience = if sparing { 0 } else { file.size / MAX_MISSED_PART };
        Basis { file, cutting, patience, known: None }
    }

    /// The file, if it is there.
    pub fn open(&self) -> Option<File> {
        self.file.open().ok()
    }

    /// Where the next chunk of a span is.
    pub fn find(&self, chunk: &Chunk, span: &Span, missed: &Missed, open: &mut Open<'_>) -> Option<u64> {
        let places = [span.before, span.after].map(|shift| shift.of(span.extent.offset));
        let places = if places[0] == places[1] { &places[1..] } else { &places };
        // What was not there for long is somewhere else, or nowhere.
        let is_near = self.known.is_none() || missed.bytes <= self.patience;
        let near = places.iter().copied().find(|place| is_near && self.has(chunk, *place, open));
        near.or_else(|| self.find_cut(chunk))
    }

    /// Where a chunk is that it was cut into.
    pub fn find_cut(&self, chunk: &Chunk) -> Option<u64> {
        self.known.as_ref()?.get(chunk).copied()
    }

    /// True when so much is missed that it is worth while.
    pub fn is_to_be_cut(&self, missed: &Missed) -> bool {
        missed.bytes > self.patience && self.known.is_none()
    }

    /// Cuts it. Of what can't be read nothing is known then.
    pub fn cut(&mut self, open: &mut Open<'_>) {
        self.known = Some(chunks_of(self.cutting, open).unwrap_or_default());
    }

    fn has(&self, chunk: &Chunk, place: u64, open: &mut Open<'_>) -> bool {
        let Some(end) = place.checked_add(chunk.length.into()).filter(|end| *end <= self.file.size) else {
            return false;
        };
        let (mut at, mut sum) = (place, Xxh3Default::new());
        let mut buffer = std::mem::take(open.memory);
        if buffer.len() < READ_BYTES {
            buffer.resize(READ_BYTES, 0);
        }
        while at < end {
            let most = READ_BYTES.min((end - at) as usize);
            match open.read(&mut buffer[..most], at) {
                Ok(count @ 1..) => {
                    sum.update(&buffer[..count]);
                    at += count as u64;
                }
                _ => break,
            }
        }
        *open.memory = buffer;
        at == end && sum.digest().to_le_bytes() == chunk.sum
    }
}

/// Of how many chunks a file of this size and its basis are together, about.
pub fn count_of_chunks(size: u64, basis: &BasisRef, cutting: Cutting) -> u64 {
    size.saturating_add(basis.size) / u64::from(cutting.average)
}

fn chunks_of(cutting: Cutting, open: &mut Open<'_>) -> io::Result<HashMap<Chunk, u64>> {
    let (mut chunks, mut at) = (HashMap::new(), 0);
    let (mut grouping, mut offset, mut group_offset) = (Grouping::default(), 0, 0);
    let mut buffer = std::mem::take(open.memory);
    let read = |buffer: &mut [u8]| {
        let count = open.read(buffer, at)?;
        at += count as u64;
        Ok::<_, io::Error>(count)
    };
    let cut = cut(cutting.average, &mut buffer, read, |cut| {
        if chunks.len() < MAX_KNOWN_CHUNKS {
            chunks.entry(cut.chunk()).or_insert(offset);
        }
        offset += cut.bytes.len() as u64;
        if let Some(group) = cutting.grouped.then(|| grouping.add(cut)).flatten() {
            chunks.entry(group).or_insert(group_offset);
            group_offset = offset;
        }
    });
    *open.memory = buffer;
    cut?;
    chunks.extend(grouping.end().map(|group| (group, group_offset)));
    Ok(chunks)
}
