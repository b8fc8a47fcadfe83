//! Sending small files whole, many in a frame: one question and one answer instead of SFTP's several for each.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use xxhash_rust::xxh3::xxh3_64;

use crate::outgoing::{Outgoing, UNPOISONED};
use crate::protocol::{Bytes, MAX_SENT, ReadAnswer, ReadOutcome, ReadRequest, Reply};
use crate::system::{Errno, File, Metadata};
use crate::walk;

// From how many bytes of files on a frame is full.
const FRAME: u64 = 128 * 1024;

// How many files go into a frame, however small.
const MOST_FILES: usize = 256;

/// The threads that read, and the queue in front of them.
pub struct Readers {
    queue: Mutex<VecDeque<ReadRequest>>,
    filled: Condvar,
    outgoing: Arc<Outgoing>,
    // Contents that went out and were wanted once, by their XXH3-64. What is taken for another by it is said to
    // have the BLAKE3 that it has, which the server does not know then: it asks again.
    sent: Mutex<HashSet<u64>>,
}

/// A file that was read, and the XXH3-64 of a content that is wanted once.
struct Read {
    answer: ReadAnswer,
    mark: Option<u64>,
}

impl Readers {
    /// Starts the threads.
    pub fn start(outgoing: Arc<Outgoing>) -> io::Result<Arc<Readers>> {
        let readers =
            Arc::new(Readers { queue: Mutex::default(), filled: Condvar::new(), outgoing, sent: Mutex::default() });
        for _ in 0..walk::threads() {
            let readers = Arc::clone(&readers);
            thread::Builder::new().spawn(move || readers.work())?;
        }
        Ok(readers)
    }

    /// Queues requests; returns how many bytes of files wait now.
    pub fn add(&self, requests: Vec<ReadRequest>) -> u64 {
        let mut queue = self.queue.lock().expect(UNPOISONED);
        queue.extend(requests);
        self.filled.notify_all();
        queue.iter().map(|request| request.size).sum()
    }

    // What is sent waits for room in the queue of outgoing frames, so beside it no more than a frame a thread is in memory.
    fn work(&self) {
        loop {
            let files: Vec<Read> = self.next().iter().map(read_one).collect();
            self.send(files);
        }
    }

    // What counts as sent goes out before whoever refers to it: the lock is held until it is queued.
    fn send(&self, files: Vec<Read>) {
        let mut sent = self.sent.lock().expect(UNPOISONED);
        let answers = files.into_iter().map(|file| without_repetition(file, &mut sent)).collect();
        self.outgoing.send_large(&Reply::Read(answers));
    }

    fn next(&self) -> Vec<ReadRequest> {
        let queue = self.queue.lock().expect(UNPOISONED);
        let mut queue = self.filled.wait_while(queue, |queue| queue.is_empty()).expect(UNPOISONED);
        let (mut batch, mut size) = (Vec::new(), 0);
        while batch.len() < MOST_FILES && size < FRAME {
            let Some(request) = queue.pop_front() else { break };
            size += request.size;
            batch.push(request);
        }
        batch
    }
}

fn without_repetition(Read { mut answer, mark }: Read, sent: &mut HashSet<u64>) -> ReadAnswer {
    if let (Some(mark), ReadOutcome::Content(content)) = (mark, &answer.outcome) {
        if sent.contains(&mark) {
            answer.outcome = ReadOutcome::Sent(blake3::hash(content.as_bytes()).into());
        } else if sent.len() < MAX_SENT {
            sent.insert(mark);
        }
    }
    answer
}

fn read_one(request: &ReadRequest) -> Read {
    let answer = answer(request);
    let mark = match &answer.outcome {
        ReadOutcome::Content(content) if request.once => Some(xxh3_64(content.as_bytes())),
        _ => None,
    };
    Read { answer, mark }
}

fn answer(request: &ReadRequest) -> ReadAnswer {
    let outcome = match read(request) {
        Ok(Some(content)) => ReadOutcome::Content(content),
        Ok(None) | Err(Errno::LOOP | Errno::NXIO) => ReadOutcome::Changed,
        Err(Errno::NOENT | Errno::NOTDIR) => ReadOutcome::Vanished,
        Err(errno) => ReadOutcome::Failed(errno.raw_os_error()),
    };
    ReadAnswer { id: request.id, outcome }
}

// `None` if the file is not as it was listed, before or after it was read.
fn read(request: &ReadRequest) -> Result<Option<Bytes>, Errno> {
    let file = File::open(&request.path)?;
    if !is_as_listed(&file.metadata()?, request) {
        return Ok(None);
    }
    let (mut content, size) = (Vec::new(), request.size as usize);
    let whole = file.read_onto(&mut content, size)? == size && is_as_listed(&file.metadata()?, request);
    Ok(Bytes::new(content).filter(|_| whole))
}

fn is_as_listed(metadata: &Metadata, request: &ReadRequest) -> bool {
    metadata.is_file_as_listed(request.size, request.mtime, request.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{AbsPath, Time};
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_file_is_sent_only_as_it_was_listed() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, b"content").unwrap();
        let path = AbsPath::new(path.as_os_str().as_bytes()).unwrap();
        let Metadata { mtime, uid, .. } = Metadata::of(&path).unwrap();
        let listed = ReadRequest { id: 1, path, size: 7, mtime, uid, once: false };
        let outcome = |request: &ReadRequest| answer(request).outcome;
        assert_eq!(outcome(&listed), ReadOutcome::Content(Bytes::new(&b"content"[..]).unwrap()));
        for (size, mtime) in [(6, mtime), (8, mtime), (7, Time::from(mtime.clamped() + 1))] {
            assert_eq!(outcome(&ReadRequest { size, mtime, ..listed.clone() }), ReadOutcome::Changed);
        }
        assert_eq!(outcome(&ReadRequest { uid: uid + 1, ..listed.clone() }), ReadOutcome::Changed);
        let gone = AbsPath::new(&b"/nothing/here"[..]).unwrap();
        assert_eq!(outcome(&ReadRequest { path: gone, ..listed }), ReadOutcome::Vanished);
    }
}
