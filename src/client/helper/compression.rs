//! Compression of what a helper sends: decompressing it, and finding out whether it is worth while.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use archive_helper::protocol::{PACK_WINDOW, Reply, read_frame};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::source::CompressWhen;

// Bytes that one compressed frame may decompress to: more than a helper has waiting at a time.
const MAX_UNPACKED_BYTES: usize = 8 << 20;

// Bytes that are decompressed at once.
const STEP_BYTES: usize = 256 * 1024;

// Connections slower than this, in bytes a second, are worth compressing for.
const MAX_SLOW_RATE: f64 = 12e6;

// A connection that has delivered this many bytes without stalling is fast.
const MIN_FAST_BYTES: u64 = 384 * 1024;

// A wait this long for fewer bytes means that the connection is slow. A hiccup is shorter, or the bytes after it make up for it.
const MIN_SLOW_WAIT: Duration = Duration::from_millis(500);

/// Frames from a Zstandard stream.
pub struct Unpacker {
    decoder: Decoder<'static>,
    bytes: Vec<u8>,
    taken: usize,
}

impl Unpacker {
    /// Begins with the stream.
    pub fn new() -> io::Result<Unpacker> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(PACK_WINDOW))?;
        Ok(Unpacker { decoder, bytes: Vec::new(), taken: 0 })
    }

    /// Unpacks the next bytes of the stream. `InvalidData` is what no helper sends.
    pub fn add(&mut self, packed: &[u8]) -> io::Result<()> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        let mut input = InBuffer::around(packed);
        loop {
            let start = self.bytes.len();
            if start > MAX_UNPACKED_BYTES {
                return Err(invalid("a compressed frame is too large"));
            }
            self.bytes.resize(start + STEP_BYTES, 0);
            let mut output = OutBuffer::around(&mut self.bytes[start..]);
            let done = self.decoder.run(&mut input, &mut output).map_err(|_| invalid("compressed data is corrupt"));
            let count = output.pos();
            self.bytes.truncate(start + count);
            done?;
            if count < STEP_BYTES && input.pos() == packed.len() {
                return Ok(());
            }
        }
    }

    /// The next whole frame, if all of it is there.
    pub fn next(&mut self) -> io::Result<Option<Reply>> {
        if !self.has_frame() {
            return Ok(None);
        }
        let mut rest = &self.bytes[self.taken..];
        let before = rest.len();
        let reply = read_frame(&mut rest)?;
        self.taken += before - rest.len();
        match reply {
            // Nothing is packed twice.
            Some(Reply::Packed(_)) => Err(invalid("what is compressed is compressed again")),
            reply => Ok(reply),
        }
    }

    /// True when a whole frame is there.
    pub fn has_frame(&self) -> bool {
        let rest = &self.bytes[self.taken..];
        let length = rest.first_chunk().map(|length| u32::from_le_bytes(*length) as usize);
        length.is_some_and(|length| rest.len() - 4 >= length)
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// What the streams of a client have found out about its line: all of them compress, or none.
#[derive(Debug)]
pub struct LineSpeed {
    is_slow: AtomicBool,
    is_fast: AtomicBool,
}

impl LineSpeed {
    /// Nothing is known yet, unless it is settled.
    pub fn new(compress: CompressWhen) -> LineSpeed {
        LineSpeed { is_slow: AtomicBool::new(compress == CompressWhen::Always), is_fast: AtomicBool::default() }
    }

    /// True when it is slower than a compressor.
    pub fn is_slow(&self) -> bool {
        self.is_slow.load(Ordering::Relaxed)
    }
}

/// How fast the connection is, as one stream measures it.
#[derive(Debug)]
pub struct Line {
    judges: bool,
    speed: Arc<LineSpeed>,
    asked: bool,
    before: Option<u64>,
    waited: Duration,
    is_judged: bool,
    // Below how many bytes a second of this stream the line is slow.
    slow: f64,
}

impl Line {
    /// Nothing need be found out if it is settled; `speed` is what all streams of a client share.
    pub fn new(compress: CompressWhen, speed: Arc<LineSpeed>) -> Line {
        let judges = compress == CompressWhen::Auto;
        Line {
            judges,
            speed,
            asked: false,
            before: None,
            waited: Duration::ZERO,
            is_judged: !judges,
            slow: MAX_SLOW_RATE,
        }
    }

    /// So many streams have the line together.
    pub fn share(&mut self, streams: usize) {
        self.slow = MAX_SLOW_RATE / streams as f64;
    }

    /// So many bytes have come altogether, the last of them after so long a wait; `owed` when there was much to come, so
    /// that it was the line that was waited for.
    pub fn add(&mut self, received: u64, waited: Duration, owed: bool) {
        let Some(before) = self.before.filter(|_| owed && self.judges) else {
            self.before = owed.then_some(received);
            self.waited = Duration::ZERO;
            return;
        };
        self.waited += waited;
        let bytes = received - before;
        let looks_slow = (bytes as f64) < self.waited.as_secs_f64() * self.slow;
        if looks_slow && self.waited >= MIN_SLOW_WAIT {
            self.speed.is_slow.store(true, Ordering::Relaxed);
        }
        if !looks_slow && bytes >= MIN_FAST_BYTES {
            self.is_judged = true;
            // What is fast for one stream alone is fast for all.
            if bytes as f64 >= self.waited.as_secs_f64() * MAX_SLOW_RATE {
                self.speed.is_fast.store(true, Ordering::Relaxed);
            }
            (self.before, self.waited) = (Some(received), Duration::ZERO);
        }
    }

    /// True when it is slower than a compressor.
    pub fn is_slow(&self) -> bool {
        self.speed.is_slow()
    }

    /// True when that is known.
    pub fn is_judged(&self) -> bool {
        self.is_judged || self.speed.is_fast.load(Ordering::Relaxed) || self.is_slow()
    }

    /// True once, when it is slower than a compressor.
    pub fn turns_out_slow(&mut self) -> bool {
        let turns_out = self.judges && !self.asked && self.is_slow();
        self.asked |= turns_out;
        turns_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use archive_helper::protocol::{Bytes, write_frame};

    fn packed(frames: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(frames, 3).unwrap()
    }

    fn frames(replies: &[Reply]) -> Vec<u8> {
        let mut frames = Vec::new();
        replies.iter().for_each(|reply| write_frame(&mut frames, reply).unwrap());
        frames
    }

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let replies = vec![Reply::End, Reply::Packed(Bytes::new(&b"x"[..]).unwrap()), Reply::Alive];
        let stream = packed(&frames(&[Reply::End, Reply::Hashed(Vec::new()), Reply::Alive]));
        for step in [1, 3, 1000] {
            let mut unpacker = Unpacker::new().unwrap();
            let mut got = Vec::new();
            for piece in stream.chunks(step) {
                unpacker.add(piece).unwrap();
                while let Some(reply) = unpacker.next().unwrap() {
                    got.push(reply);
                }
            }
            assert_eq!(got, [Reply::End, Reply::Hashed(Vec::new()), Reply::Alive]);
        }
        let mut twice = Unpacker::new().unwrap();
        twice.add(&packed(&frames(&replies))).unwrap();
        assert_eq!(twice.next().unwrap(), Some(Reply::End));
        assert!(twice.next().is_err(), "nothing is packed twice");
    }

    #[test]
    fn what_no_helper_sends_is_refused() {
        assert!(Unpacker::new().unwrap().add(b"no such stream").is_err());
        // A small stream that becomes a large one.
        assert!(Unpacker::new().unwrap().add(&packed(&vec![0; 64 << 20])).is_err());
    }

    #[test]
    fn a_line_is_slow_when_its_bytes_are_waited_for() {
        let judged = |milliseconds: u64, when, owed| {
            let mut line = Line::new(when, Arc::new(LineSpeed::new(when)));
            let mut slow = 0;
            // The first frame may be late for other reasons.
            line.add(0, Duration::from_secs(9), owed);
            for frame in 1..=100 {
                line.add(frame * 100_000, Duration::from_millis(milliseconds), owed);
                slow += u64::from(line.turns_out_slow());
            }
            (slow, line.is_judged())
        };
        assert_eq!(judged(80, CompressWhen::Auto, true), (1, true));
        assert_eq!(judged(10, CompressWhen::Auto, true), (1, true), "10 MB/s");
        assert_eq!(judged(6, CompressWhen::Auto, true), (0, true), "17 MB/s");
        assert_eq!(judged(1, CompressWhen::Auto, true), (0, true));
        assert_eq!(judged(80, CompressWhen::Auto, false), (0, false), "nothing was asked for");
        assert_eq!(judged(80, CompressWhen::Never, true), (0, true));
        assert_eq!(judged(80, CompressWhen::Always, true), (0, true));
    }

    #[test]
    fn what_one_stream_finds_out_all_know() {
        let judged = |milliseconds: u64| {
            // Each has its part of it, but what one finds out of its part says nothing of the others'.
            let speed = Arc::new(LineSpeed::new(CompressWhen::Auto));
            let (mut one, other) = [(); 2].map(|()| Line::new(CompressWhen::Auto, speed.clone())).into();
            assert!(!other.is_judged());
            one.share(5);
            (0..10).for_each(|frame| one.add(frame * 100_000, Duration::from_millis(milliseconds), true));
            (other.is_judged(), other.is_slow())
        };
        assert_eq!(judged(1), (true, false));
        assert_eq!(judged(10), (false, false), "10 MB/s may be all that there is");
        assert_eq!(judged(80), (true, true));
    }

    #[test]
    fn a_hiccup_makes_no_line_slow() {
        let mut line = Line::new(CompressWhen::Auto, Arc::new(LineSpeed::new(CompressWhen::Auto)));
        line.add(0, Duration::ZERO, true);
        let mut received = 0;
        for frame in 0..2000 {
            received += 40_000;
            line.add(received, Duration::from_millis(if frame % 200 == 100 { 250 } else { 1 }), true);
        }
        assert!(!line.is_slow());
        assert!(line.is_judged());
    }
}
