//! Hashing files for the server, several at a time.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use rustix::io::Errno;

use crate::output::Output;
use crate::protocol::{Hash, HashOutcome, HashRequest, Hashed, MAX_HASHES, Reply};
use crate::system;

// How many files a worker takes at a time, and answers in one frame.
const BATCH: usize = 64;
const BUFFER: usize = 256 * 1024;

/// Files that wait to be hashed.
#[derive(Debug, Default)]
pub struct Hashing {
    queue: Mutex<VecDeque<HashRequest>>,
    filled: Condvar,
    key: OnceLock<Hash>,
}

impl Hashing {
    /// Sets the run's key; false when it was set before.
    pub fn set_key(&self, key: Hash) -> bool {
        self.key.set(key).is_ok()
    }

    /// Queues requests; false when there are too many, or when a proof is wanted and no key was sent.
    pub fn ask(&self, requests: Vec<HashRequest>) -> bool {
        if self.key.get().is_none() && requests.iter().any(|request| request.proof) {
            return false;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.extend(requests);
        self.filled.notify_all();
        queue.len() <= MAX_HASHES
    }

    /// Hashes for ever; several threads may.
    pub fn work(&self, output: &Output) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let batch = self.take();
            let answers = batch.into_iter().map(|request| self.answer(&request, &mut buffer)).collect();
            output.send(Reply::Hashed(answers));
        }
    }

    // Large files are taken alone, so that no small one waits for them.
    fn take(&self) -> Vec<HashRequest> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queue = self.filled.wait_while(queue, |queue| queue.is_empty()).unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH && bytes < 1 << 20 {
            let Some(request) = queue.pop_front() else { break };
            bytes += request.size;
            batch.push(request);
        }
        batch
    }

    fn answer(&self, request: &HashRequest, buffer: &mut [u8]) -> Hashed {
        let outcome = self.hash(request, buffer).unwrap_or_else(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => HashOutcome::Vanished,
            Errno::LOOP | Errno::NXIO => HashOutcome::Changed,
            errno => HashOutcome::Failed(errno.raw_os_error()),
        });
        Hashed { id: request.id, outcome }
    }

    fn hash(&self, request: &HashRequest, buffer: &mut [u8]) -> Result<HashOutcome, Errno> {
        let file = system::open_file(request.path.as_bytes())?;
        if !is_as_asked(&file, request)? {
            return Ok(HashOutcome::Changed);
        }
        let mut plain = blake3::Hasher::new();
        let mut keyed = self.key.get().filter(|_| request.proof).map(blake3::Hasher::new_keyed);
        let mut size = 0;
        loop {
            let count = rustix::io::read(&file, &mut *buffer)?;
            plain.update(&buffer[..count]);
            if let Some(keyed) = &mut keyed {
                keyed.update(&buffer[..count]);
            }
            size += count as u64;
            // A short read of a regular file is its end; another would only say so again.
            if count < buffer.len() || size > request.size {
                break;
            }
        }
        if size != request.size || !is_as_asked(&file, request)? {
            return Ok(HashOutcome::Changed);
        }
        let proof = keyed.map(|keyed| *keyed.finalize().as_bytes());
        Ok(HashOutcome::Done { hash: *plain.finalize().as_bytes(), proof })
    }
}

fn is_as_asked(file: &OwnedFd, request: &HashRequest) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(file)?;
    let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
    let mtime = stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64);
    Ok(is_file && stat.st_size as u64 == request.size && mtime == request.mtime)
}
