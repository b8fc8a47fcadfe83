//! The way out: one thread writes all replies, flushing whenever it has nothing more to write.

use std::collections::VecDeque;
use std::io::{BufWriter, Write};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::protocol::{Reply, write_frame};

const BUFFER: usize = 256 * 1024;

/// A queue of replies. Nothing waits to put one in; what bounds it is what the server asks for.
#[derive(Debug, Default)]
pub struct Output {
    queue: Mutex<VecDeque<(Reply, usize)>>,
    filled: Condvar,
}

impl Output {
    /// Queues a reply.
    pub fn send(&self, reply: Reply) {
        self.send_weighed(reply, 0);
    }

    /// Queues a reply and, with it, the number of bytes that [`run`](Output::run) reports when it is written.
    pub fn send_weighed(&self, reply: Reply, weight: usize) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back((reply, weight));
        self.filled.notify_one();
    }

    /// Writes replies until the other side is gone; calls `written` with the weight of each.
    pub fn run(&self, output: impl Write, written: impl Fn(usize)) -> std::io::Result<()> {
        let mut output = BufWriter::with_capacity(BUFFER, output);
        loop {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.is_empty() {
                drop(queue);
                output.flush()?;
                queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                queue = self.filled.wait_while(queue, |queue| queue.is_empty()).unwrap_or_else(PoisonError::into_inner);
            }
            let batch = std::mem::take(&mut *queue);
            drop(queue);
            for (reply, weight) in batch {
                write_frame(&mut output, &reply)?;
                if weight > 0 {
                    written(weight);
                }
            }
        }
    }
}
