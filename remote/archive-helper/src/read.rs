//! Sending small files whole, many in a frame: one question and one answer instead of SFTP's several for each.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::checked::{Checked, Unfit};
use crate::output::Output;
use crate::protocol::{Bytes, MAX_BUNDLED, MAX_READING, ReadAnswer, ReadOutcome, ReadRequest, Reply};

// About how many bytes of files go into a frame.
const FRAME: u64 = 128 * 1024;

// How many files go into a frame, however small.
const MOST_FILES: usize = 128;

/// Files that wait to be sent.
#[derive(Debug, Default)]
pub struct Reading {
    queue: Mutex<VecDeque<ReadRequest>>,
    filled: Condvar,
}

impl Reading {
    /// Queues requests; false when they are for files too large, or for too much.
    pub fn ask(&self, requests: Vec<ReadRequest>) -> bool {
        if requests.iter().any(|request| request.size > MAX_BUNDLED) {
            return false;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.extend(requests);
        self.filled.notify_all();
        queue.iter().map(|request| request.size).sum::<u64>() <= MAX_READING
    }

    /// Reads and sends for ever; several threads may.
    pub fn work(&self, output: &Output) {
        // One byte more than any file has, so that a file that grew is noticed.
        let mut buffer = vec![0; MAX_BUNDLED as usize + 1];
        loop {
            let answers = self.take().iter().map(|request| answer(request, &mut buffer)).collect();
            output.send(Reply::Read(answers));
        }
    }

    fn take(&self) -> Vec<ReadRequest> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queue = self.filled.wait_while(queue, |queue| queue.is_empty()).unwrap_or_else(PoisonError::into_inner);
        let mut size = 0;
        let mut batch = Vec::new();
        while batch.len() < MOST_FILES && size < FRAME {
            let Some(request) = queue.pop_front() else { break };
            size += request.size;
            batch.push(request);
        }
        batch
    }
}

fn answer(request: &ReadRequest, buffer: &mut [u8]) -> ReadAnswer {
    let outcome = match read(request, buffer) {
        Ok(content) => ReadOutcome::Content(content),
        Err(Unfit::Changed) => ReadOutcome::Changed,
        Err(Unfit::Vanished) => ReadOutcome::Vanished,
        Err(Unfit::Failed(errno)) => ReadOutcome::Failed(errno),
    };
    ReadAnswer { id: request.id, outcome }
}

fn read(request: &ReadRequest, buffer: &mut [u8]) -> Result<Bytes, Unfit> {
    let file = Checked::open(&request.path, request.size, request.mtime)?;
    let mut content = Vec::with_capacity(request.size as usize);
    file.read(buffer, |piece| content.extend_from_slice(piece))?;
    Bytes::new(content).ok_or(Unfit::Changed)
}
