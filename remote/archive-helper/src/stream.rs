//! Large files: their chunks, for a server that has an earlier version, and their bytes in pieces.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use blake3::Hasher;

use crate::chunks::{self, Cut, Grouping};
use crate::outgoing::{Outgoing, UNPOISONED};
use crate::protocol::{
    ChunkRequest, Chunks, Extent, HashOutcome, Kind, MAX_BUNDLED, Reply, StreamOutcome, StreamRequest, StreamState,
    Streamed,
};
use crate::system::{Errno, File, Metadata};
use crate::walk;

// How many chunks a frame tells of, and of how many bytes, about: the server puts the file together meanwhile.
const CHUNKS: usize = 4096;
const TELL: usize = 16 << 20;

// The number of `Reply::Piece` among its enum's variants.
const PIECE: u32 = 12;

// What its frame has before the bytes, at most.
const PIECE_HEAD: usize = 32;

/// The threads that chunk and that stream, and the queues in front of them.
pub struct Streamers {
    chunking: Jobs<ChunkRequest>,
    streaming: Jobs<StreamRequest>,
    outgoing: Arc<Outgoing>,
}

/// Requests that wait for a thread.
struct Jobs<T> {
    queue: Mutex<VecDeque<T>>,
    filled: Condvar,
}

impl<T> Jobs<T> {
    fn new() -> Jobs<T> {
        Jobs { queue: Mutex::default(), filled: Condvar::new() }
    }

    // Before the first that is less urgent. Returns how many wait.
    fn add(&self, job: T, is_less_urgent: impl Fn(&T) -> bool) -> usize {
        let mut queue = self.queue.lock().expect(UNPOISONED);
        let at = queue.iter().position(is_less_urgent).unwrap_or(queue.len());
        queue.insert(at, job);
        self.filled.notify_one();
        queue.len()
    }

    fn next(&self) -> T {
        let mut queue = self.queue.lock().expect(UNPOISONED);
        loop {
            if let Some(job) = queue.pop_front() {
                return job;
            }
            queue = self.filled.wait(queue).expect(UNPOISONED);
        }
    }
}

impl Streamers {
    /// Starts the threads.
    pub fn start(outgoing: Arc<Outgoing>) -> io::Result<Arc<Streamers>> {
        let streamers = Arc::new(Streamers { chunking: Jobs::new(), streaming: Jobs::new(), outgoing });
        for _ in 0..walk::threads() {
            let chunker = Arc::clone(&streamers);
            thread::Builder::new().spawn(move || chunker.chunk_on())?;
        }
        let streamer = Arc::clone(&streamers);
        // One alone: pieces of several files at a time would not come any faster.
        thread::Builder::new().spawn(move || streamer.stream_on())?;
        Ok(streamers)
    }

    /// Queues a request for chunks; returns how many wait.
    pub fn chunk(&self, request: ChunkRequest) -> usize {
        // What is asked about a part puts an end to a file that was begun.
        let is_partial = !is_about_all(&request);
        self.chunking.add(request, |other| is_partial && is_about_all(other))
    }

    /// Queues a request for pieces; returns how many wait.
    pub fn stream(&self, request: StreamRequest) -> usize {
        self.streaming.add(request, |_| false)
    }

    fn chunk_on(&self) {
        let mut buffer = Vec::new();
        loop {
            let request = self.chunking.next();
            let (mut waiting, mut hasher) = (Vec::new(), Hasher::new());
            let mut grouping = Grouping::default();
            let mut untold = 0;
            let each = |cut: &Cut<'_>| {
                waiting.extend(if request.grouped { grouping.add(cut) } else { Some(cut.chunk()) });
                untold += cut.bytes.len();
                if waiting.len() == CHUNKS || untold >= TELL && !waiting.is_empty() {
                    untold = 0;
                    let chunks = std::mem::take(&mut waiting);
                    self.outgoing.send(&Reply::Chunks(Chunks { id: request.id, chunks, end: None }));
                }
            };
            let outcome = chunk(&request, &mut buffer, &mut hasher, each);
            waiting.extend(grouping.end());
            let end = match outcome {
                Ok(true) => HashOutcome::Done { hash: hasher.finalize().into(), proof: None },
                Ok(false) | Err(Errno::LOOP | Errno::NXIO) => HashOutcome::Changed,
                Err(Errno::NOENT | Errno::NOTDIR) => HashOutcome::Vanished,
                Err(errno) => HashOutcome::Failed(errno.raw_os_error()),
            };
            self.outgoing.send(&Reply::Chunks(Chunks { id: request.id, chunks: waiting, end: Some(end) }));
        }
    }

    fn stream_on(&self) {
        loop {
            let request = self.streaming.next();
            let outcome = match self.pieces(&request) {
                Ok(outcome) => outcome,
                Err(Errno::LOOP | Errno::NXIO) => StreamOutcome::Changed(None),
                Err(Errno::NOENT | Errno::NOTDIR) => StreamOutcome::Vanished,
                Err(errno) => StreamOutcome::Failed(errno.raw_os_error()),
            };
            self.outgoing.send(&Reply::Streamed(Streamed { id: request.id, outcome }));
        }
    }

    fn pieces(&self, request: &StreamRequest) -> Result<StreamOutcome, Errno> {
        let StreamRequest { id, path, size, mtime, uid, ranges, as_found } = request;
        let file = File::open(path)?;
        let is_as_listed = |found: &Metadata| found.is_file_as_listed(*size, *mtime, *uid);
        let found = file.metadata()?;
        let is_sent = is_as_listed(&found) || *as_found && is_file_of(&found, *uid);
        let is_whole = is_sent && self.ranges(&file, *id, ranges, *as_found)?;
        let found = file.metadata()?;
        Ok(if is_whole && is_as_listed(&found) { StreamOutcome::Done } else { changed(&found) })
    }

    // False if the file ends before they do. The rest of its last piece is sent only on demand.
    fn ranges(&self, file: &File, id: u64, ranges: &[Extent], sends_rest: bool) -> Result<bool, Errno> {
        for Extent { offset, length } in ranges {
            let mut left = *length;
            while left > 0 {
                let (count, at) = (left.min(MAX_BUNDLED), *offset + *length - left);
                let Some(frame) = read_piece(file, id, at, count as usize)? else {
                    let rest = file.metadata()?.size.saturating_sub(at).min(count);
                    if sends_rest && rest > 0 {
                        read_piece(file, id, at, rest as usize)?
                            .into_iter()
                            .for_each(|frame| self.outgoing.push(frame));
                    }
                    return Ok(false);
                };
                self.outgoing.push(frame);
                left -= count;
            }
        }
        Ok(true)
    }
}

fn is_file_of(found: &Metadata, uid: u32) -> bool {
    found.kind == Some(Kind::File) && found.uid == uid
}

fn changed(found: &Metadata) -> StreamOutcome {
    let state = StreamState { size: found.size, mtime: found.mtime, uid: found.uid };
    StreamOutcome::Changed(Some(state).filter(|_| found.kind == Some(Kind::File)))
}

fn is_about_all(request: &ChunkRequest) -> bool {
    request.ranges == [Extent { offset: 0, length: request.size }]
}

// False if the file is not as it was listed, before or after it was read.
fn chunk(
    request: &ChunkRequest,
    memory: &mut Vec<u8>,
    hasher: &mut Hasher,
    mut each: impl FnMut(&Cut<'_>),
) -> Result<bool, Errno> {
    let ChunkRequest { path, size, mtime, uid, average, ranges, .. } = request;
    let file = File::open(path)?;
    if !file.metadata()?.is_file_as_listed(*size, *mtime, *uid) {
        return Ok(false);
    }
    for range in ranges {
        let mut at = range.offset;
        let read = |buffer: &mut [u8]| {
            let left = usize::try_from(range.end() - at).unwrap_or(usize::MAX);
            let most = buffer.len().min(left);
            let count = file.read_at(&mut buffer[..most], at)?;
            // All at once: of pieces as short as chunks, several could not be hashed side by side.
            hasher.update(&buffer[..count]);
            at += count as u64;
            Ok::<_, Errno>(count)
        };
        chunks::cut(*average, memory, read, &mut each)?;
        if at != range.end() {
            return Ok(false);
        }
    }
    Ok(file.metadata()?.is_file_as_listed(*size, *mtime, *uid))
}

// A frame with bytes of a file, as `Reply::Piece` would be written; `None` if the file ends before.
fn read_piece(file: &File, id: u64, offset: u64, count: usize) -> Result<Option<Vec<u8>>, Errno> {
    let mut frame = Vec::with_capacity(count + PIECE_HEAD);
    frame.extend_from_slice(&[0; 4]);
    let mut frame = postcard::to_extend(&(PIECE, id, count), frame).expect("numbers always encode into memory");
    let whole = file.read_onto_at(&mut frame, count, offset)? == count;
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(whole.then_some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{self, AbsPath, Bytes, Piece};
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_piece_is_what_the_protocol_would_write() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temp.path(), b"some content").unwrap();
        let file = File::open(&AbsPath::new(temp.path().as_os_str().as_bytes()).unwrap()).unwrap();
        let frame = read_piece(&file, 300, 5, 7).unwrap();
        let mut expected = Vec::new();
        let bytes = Bytes::new(&b"content"[..]).unwrap();
        protocol::write_frame(&mut expected, &Reply::Piece(Piece { id: 300, bytes })).unwrap();
        assert_eq!(frame, Some(expected));
        assert_eq!(read_piece(&file, 300, 6, 7).unwrap(), None);
        // What comes after it in the file is none of it.
        assert!(read_piece(&file, 300, 5, 4).unwrap().is_some_and(|frame| frame.ends_with(b"cont")));
    }
}
