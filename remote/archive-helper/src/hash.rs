//! Hashing files for the server, several at a time.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use crate::checked::{Checked, Unfit};
use crate::output::Output;
use crate::protocol::{Hash, HashOutcome, HashRequest, Hashed, MAX_HASHES, Reply};

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
        let outcome = match self.hash(request, buffer) {
            Ok(done) => done,
            Err(Unfit::Changed) => HashOutcome::Changed,
            Err(Unfit::Vanished) => HashOutcome::Vanished,
            Err(Unfit::Failed(errno)) => HashOutcome::Failed(errno),
        };
        Hashed { id: request.id, outcome }
    }

    fn hash(&self, request: &HashRequest, buffer: &mut [u8]) -> Result<HashOutcome, Unfit> {
        let file = Checked::open(&request.path, request.size, request.mtime)?;
        let mut plain = blake3::Hasher::new();
        let mut keyed = self.key.get().filter(|_| request.proof).map(blake3::Hasher::new_keyed);
        file.read(buffer, |piece| {
            plain.update(piece);
            if let Some(keyed) = &mut keyed {
                keyed.update(piece);
            }
        })?;
        let proof = keyed.map(|keyed| *keyed.finalize().as_bytes());
        Ok(HashOutcome::Done { hash: *plain.finalize().as_bytes(), proof })
    }
}
