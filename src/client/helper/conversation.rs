//! A conversation with a running helper: requests out, replies in.

use std::io::{BufReader, BufWriter, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use archive_helper::protocol::{MAGIC, MAX_CHATTER, Reply, Request, VERSION, read_frame_into, write_frame};

use super::compression::{Line, LineSpeed, Unpacker};
use crate::client::stall::Stalled;
use crate::client::stream::{Input, Interrupter, Output};
use crate::client::{connection_lost, protocol_violation};
use crate::error::{Error, Kind, Result};
use crate::source::CompressWhen;

const BUFFER: usize = 256 * 1024;

/// A helper that greeted us. Its two halves may be used by different threads.
pub(super) struct Conversation {
    /// What it says.
    pub replies: Replies,
    /// What the server asks of it.
    pub requests: Requests,
}

/// The replies of a helper.
pub(super) struct Replies {
    input: BufReader<Input>,
    // Memory of the last one.
    frame: Vec<u8>,
    unpacker: Option<Unpacker>,
    line: Line,
    owes: bool,
}

/// The way to a helper's standard input.
pub(super) struct Requests {
    output: BufWriter<Output>,
}

impl Conversation {
    /// Waits for the greeting of a helper that was just started.
    pub(super) fn begin(
        (input, output): (Input, Output),
        compress: CompressWhen,
        line_speed: Arc<LineSpeed>,
    ) -> Result<Conversation> {
        let mut input = BufReader::with_capacity(BUFFER, input);
        skip_chatter(&mut input)?;
        check_version(&mut input)?;
        input.get_mut().greeted();
        input.get_mut().expect_alive();
        let mut requests = Requests { output: BufWriter::with_capacity(BUFFER, output) };
        if compress == CompressWhen::Always {
            requests.send(&Request::Pack)?;
        }
        let line = Line::new(compress, line_speed);
        let replies = Replies { input, frame: Vec::new(), unpacker: None, line, owes: false };
        Ok(Conversation { replies, requests })
    }
}

impl Replies {
    /// The next reply; `None` when the helper is gone. Signs of life alone, and next to nothing, are an error after a while.
    pub fn receive(&mut self) -> Result<Option<Reply>> {
        let reply = self.next()?;
        let position = self.position();
        self.input.get_mut().note(position, !matches!(reply, Some(Reply::Alive))).map_err(stalled)?;
        Ok(reply)
    }

    // Bytes of the stream that have been read from it.
    fn position(&self) -> u64 {
        self.input.get_ref().received() - self.input.buffer().len() as u64
    }

    fn next(&mut self) -> Result<Option<Reply>> {
        loop {
            if let Some(reply) = self.unpacker.as_mut().map_or(Ok(None), Unpacker::next).map_err(lost)? {
                return Ok(Some(reply));
            }
            let started = Instant::now();
            let reply = read_frame_into(&mut self.input, &mut self.frame).map_err(lost)?;
            let received = self.position();
            self.line.add(received, started.elapsed(), self.owes);
            let Some(Reply::Packed(bytes)) = reply else { return Ok(reply) };
            let unpacker = match &mut self.unpacker {
                Some(unpacker) => unpacker,
                none => none.insert(Unpacker::new().map_err(lost)?),
            };
            unpacker.add(bytes.as_bytes()).map_err(lost)?;
        }
    }

    /// True when the next reply may have to be waited for.
    pub fn is_drained(&self) -> bool {
        self.input.buffer().is_empty() && self.unpacker.as_ref().is_none_or(|unpacker| !unpacker.has_frame())
    }

    /// Tells that so many conversations have the line together.
    pub fn share_line(&mut self, conversations: usize) {
        self.line.share(conversations);
    }

    /// Tells whether much was asked for that has not come, so that whoever waits now waits for the line.
    pub fn owes_much(&mut self, owes: bool) {
        self.owes = owes;
    }

    /// True once, when it has shown that compressing is worth it: then send [`Request::Pack`].
    pub fn turns_out_slow(&mut self) -> bool {
        self.line.turns_out_slow()
    }

    /// True when compressing is worth it.
    pub fn is_slow(&self) -> bool {
        self.line.is_slow()
    }

    /// True when all is to end, and nobody waits for what comes.
    pub fn is_over(&self) -> bool {
        self.input.get_ref().is_over()
    }

    /// True when it is known whether compressing is worth it.
    pub fn is_judged(&self) -> bool {
        self.line.is_judged()
    }
}

impl Requests {
    /// What makes sending fail from another thread.
    pub fn interrupter(&self) -> Result<Interrupter> {
        self.output.get_ref().interrupter()
    }

    /// Queues a request.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        write_frame(&mut self.output, request).map_err(lost)
    }

    /// Sends what is queued.
    pub fn flush(&mut self) -> Result<()> {
        self.output.flush().map_err(lost)
    }
}

fn stalled(stalled: Stalled) -> Error {
    let hint = match stalled {
        Stalled::Silent(_) => {
            "if it hashes a file for longer than that, raise `stall_time`; else look for a disk of the client that hangs"
        }
        Stalled::Slow(..) => "if its connection or its disk is as slow as that, raise `stall_time`",
    };
    Error::new(Kind::Unreachable, stalled).hint(hint)
}

fn lost(error: std::io::Error) -> Error {
    if let Some(why) = error.get_ref().and_then(|why| why.downcast_ref::<Stalled>()) {
        return stalled(*why);
    }
    match error.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => protocol_violation(error),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            Error::new(Kind::Unreachable, "the client stopped answering")
        }
        _ => connection_lost(),
    }
}

// A login shell may print before the helper greets.
fn skip_chatter(input: &mut impl Read) -> Result<()> {
    let mut window = [0; MAGIC.len()];
    let mut byte = [0];
    for _ in 0..MAX_CHATTER {
        input.read_exact(&mut byte).map_err(lost)?;
        window.rotate_left(1);
        window[MAGIC.len() - 1] = byte[0];
        if window == MAGIC {
            return Ok(());
        }
    }
    Err(protocol_violation("no greeting came"))
}

fn check_version(input: &mut impl Read) -> Result<()> {
    let mut length = [0];
    input.read_exact(&mut length).map_err(lost)?;
    let mut version = vec![0; length[0] as usize];
    input.read_exact(&mut version).map_err(lost)?;
    if version == VERSION.as_bytes() {
        Ok(())
    } else {
        Err(protocol_violation("its helper is of another version").hint("remove it with `archive helper remove HOST`"))
    }
}
