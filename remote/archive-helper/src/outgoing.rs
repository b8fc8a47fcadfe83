//! What waits to be written to the server: whole frames, and answers that one frame can bundle.

use std::io::{self, Write};
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::pack::Packer;
use crate::protocol::{self, ALIVE_SECONDS, Hashed, Reply};

// How many bytes may wait before who sends more has to wait too.
const LIMIT: usize = 1024 * 1024;
// From how many bytes on it is worth a write at any time.
const ENOUGH: usize = 32 * 1024;
// How long after a write the next smaller one may come: a stream of small frames makes few packets so.
const PAUSE: Duration = Duration::from_millis(1);
// How long there may be nothing to write before the server is told that we live.
const SILENCE: Duration = Duration::from_secs(ALIVE_SECONDS);
// How many answers a frame bundles.
const BUNDLE: usize = 256;
// What an answer weighs, in bytes.
const ANSWER: usize = 48;

/// The queue in front of the one thread that writes.
#[derive(Default)]
pub struct Outgoing {
    queue: Mutex<Queue>,
    filled: Condvar,
    room: Condvar,
}

#[derive(Default)]
struct Queue {
    frames: Vec<u8>,
    answers: Vec<Hashed>,
    answered: u64,
    writer: Writer,
    senders_waiting: usize,
    packs: bool,
}

// What the writing thread is to be woken for.
#[derive(Clone, Copy, Default, PartialEq)]
enum Writer {
    #[default]
    Busy,
    Lingers,
    Idle,
}

impl Outgoing {
    /// Queues a reply. Waits while too much is queued.
    pub fn send(&self, reply: &Reply) {
        let mut frame = Vec::new();
        protocol::write_frame(&mut frame, reply).expect("every reply is made to fit a frame");
        self.push(&frame);
    }

    /// Queues a whole frame. Waits while too much is queued.
    pub fn push(&self, frame: &[u8]) {
        let mut queue = self.lock();
        while queue.frames.len() > LIMIT {
            queue.senders_waiting += 1;
            queue = self.room.wait(queue).expect(UNPOISONED);
            queue.senders_waiting -= 1;
        }
        queue.frames.extend_from_slice(frame);
        self.wake_writer(queue);
    }

    /// Queues an answer to a hash request. Never waits: the number of requests is limited.
    pub fn answer(&self, hashed: Hashed) {
        let mut queue = self.lock();
        queue.answers.push(hashed);
        self.wake_writer(queue);
    }

    /// From now on, what is written is compressed.
    pub fn pack(&self) {
        self.lock().packs = true;
    }

    /// How many answers are being written or have been: what the server may know of.
    pub fn answered(&self) -> u64 {
        self.lock().answered
    }

    /// Writes what is queued, for ever, or until `output` fails.
    pub fn write_to(&self, output: &mut impl Write) -> io::Result<()> {
        let mut frames = Vec::new();
        let (mut last_write, mut packer) = (None, None);
        loop {
            frames.clear();
            let answers = self.take(&mut frames, last_write);
            if frames.is_empty() && answers.is_empty() {
                protocol::write_frame(&mut frames, &Reply::Alive)?;
            }
            for bundle in answers.chunks(BUNDLE) {
                protocol::write_frame(&mut frames, &Reply::Hashed(bundle.to_vec()))?;
            }
            if self.lock().packs {
                let packer = match &mut packer {
                    Some(packer) => packer,
                    none => none.insert(Packer::new()?),
                };
                packer.pack(&mut frames)?;
            }
            output.write_all(&frames)?;
            output.flush()?;
            last_write = Some(Instant::now());
        }
    }

    // Waits for something to write, though not for ever; what was queued lands in `frames`, which must be empty.
    fn take(&self, frames: &mut Vec<u8>, last_write: Option<Instant>) -> Vec<Hashed> {
        let mut queue = self.lock();
        queue.writer = Writer::Idle;
        queue = self.filled.wait_timeout_while(queue, SILENCE, |queue| queue.weight() == 0).expect(UNPOISONED).0;
        if queue.weight() == 0 {
            queue.writer = Writer::Busy;
            return Vec::new();
        }
        while let Some(pause) = last_write.and_then(|last| PAUSE.checked_sub(last.elapsed())) {
            if queue.weight() >= ENOUGH {
                break;
            }
            queue.writer = Writer::Lingers;
            queue = self.filled.wait_timeout(queue, pause).expect(UNPOISONED).0;
        }
        queue.writer = Writer::Busy;
        mem::swap(&mut queue.frames, frames);
        queue.answered += queue.answers.len() as u64;
        if queue.senders_waiting > 0 {
            self.room.notify_all();
        }
        mem::take(&mut queue.answers)
    }

    // A call that wakes nobody costs a system call all the same.
    fn wake_writer(&self, mut queue: MutexGuard<'_, Queue>) {
        let wakes = match queue.writer {
            Writer::Busy => false,
            Writer::Lingers => queue.weight() >= ENOUGH,
            Writer::Idle => true,
        };
        if wakes {
            queue.writer = Writer::Busy;
            drop(queue);
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect(UNPOISONED)
    }
}

impl Queue {
    fn weight(&self) -> usize {
        self.frames.len() + self.answers.len() * ANSWER
    }
}

/// Why locking can't fail.
pub const UNPOISONED: &str = "no thread panics while it holds a lock";
