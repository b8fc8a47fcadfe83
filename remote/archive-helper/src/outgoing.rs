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
// Up to how many bytes frames are put together, to be written at once: copying a larger one costs more than its write.
const TOGETHER: usize = 64 * 1024;
// How many frames' memory is kept for others once they are written: what may wait, if it is made of them.
const MOST_SPARE: usize = 8;

/// The queue in front of the one thread that writes.
#[derive(Default)]
pub struct Outgoing {
    queue: Mutex<Queue>,
    filled: Condvar,
    room: Condvar,
    // Memory of written frames, once it is known that somebody has a use for it: fresh memory costs more than to write to it.
    spare: Mutex<Option<Vec<Vec<u8>>>>,
}

#[derive(Default)]
struct Queue {
    frames: Frames,
    answers: Vec<Hashed>,
    answered: u64,
    writer: Writer,
    senders_waiting: usize,
    packs: bool,
}

/// Whole frames, small ones put together.
#[derive(Default)]
struct Frames {
    pieces: Vec<Vec<u8>>,
    bytes: usize,
}

impl Frames {
    fn push(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len();
        match self.pieces.last_mut() {
            Some(last) if last.len() + frame.len() <= TOGETHER => last.extend_from_slice(&frame),
            _ => self.pieces.push(frame),
        }
    }
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
        self.send_in(reply, Vec::new());
    }

    /// As [`send`](Outgoing::send), for one that fills a frame.
    pub fn send_large(&self, reply: &Reply) {
        let spare = self.spare.lock().expect(UNPOISONED).get_or_insert_default().pop();
        self.send_in(reply, spare.unwrap_or_default());
    }

    fn send_in(&self, reply: &Reply, memory: Vec<u8>) {
        self.push(protocol::encode(reply, memory).expect("every reply is made to fit a frame"));
    }

    /// Queues a whole frame. Waits while too much is queued.
    pub fn push(&self, frame: Vec<u8>) {
        let mut queue = self.lock();
        while queue.frames.bytes > LIMIT {
            queue.senders_waiting += 1;
            queue = self.room.wait(queue).expect(UNPOISONED);
            queue.senders_waiting -= 1;
        }
        queue.frames.push(frame);
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
        let (mut last_write, mut packer) = (None, None);
        loop {
            let (mut frames, answers) = self.take(last_write);
            if frames.bytes == 0 && answers.is_empty() {
                frames.push(protocol::encode(&Reply::Alive, Vec::new())?);
            }
            for bundle in answers.chunks(BUNDLE) {
                frames.push(protocol::encode(&Reply::Hashed(bundle.to_vec()), Vec::new())?);
            }
            let mut pieces = frames.pieces;
            if self.lock().packs {
                let packer = match &mut packer {
                    Some(packer) => packer,
                    none => none.insert(Packer::new()?),
                };
                pieces = packer.pack(&pieces)?;
            }
            pieces.iter().try_for_each(|piece| output.write_all(piece))?;
            output.flush()?;
            last_write = Some(Instant::now());
            if let Some(spare) = &mut *self.spare.lock().expect(UNPOISONED) {
                spare.extend(pieces.into_iter().filter(|piece| piece.len() > TOGETHER));
                spare.truncate(MOST_SPARE);
            }
        }
    }

    // Waits for something to write, though not for ever.
    fn take(&self, last_write: Option<Instant>) -> (Frames, Vec<Hashed>) {
        let mut queue = self.lock();
        queue.writer = Writer::Idle;
        queue = self.filled.wait_timeout_while(queue, SILENCE, |queue| queue.weight() == 0).expect(UNPOISONED).0;
        if queue.weight() == 0 {
            queue.writer = Writer::Busy;
            return Default::default();
        }
        while let Some(pause) = last_write.and_then(|last| PAUSE.checked_sub(last.elapsed())) {
            if queue.weight() >= ENOUGH {
                break;
            }
            queue.writer = Writer::Lingers;
            queue = self.filled.wait_timeout(queue, pause).expect(UNPOISONED).0;
        }
        queue.writer = Writer::Busy;
        queue.answered += queue.answers.len() as u64;
        if queue.senders_waiting > 0 {
            self.room.notify_all();
        }
        (mem::take(&mut queue.frames), mem::take(&mut queue.answers))
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
        self.frames.bytes + self.answers.len() * ANSWER
    }
}

/// Why locking can't fail.
pub const UNPOISONED: &str = "no thread panics while it holds a lock";
