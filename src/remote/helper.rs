//! A conversation with a running helper: requests out, replies in.

use std::io::{BufReader, BufWriter, Read, Write};

use archive_helper::protocol::{MAGIC, MAX_CHATTER, Reply, Request, VERSION, read_frame, write_frame};

use super::stream::{Input, Output};
use crate::error::{Error, Kind, Result};

const BUFFER: usize = 256 * 1024;

/// A helper that greeted us. Its two halves may be used by different threads.
pub struct Conversation {
    /// What it says.
    pub replies: Replies,
    /// What it is told.
    pub requests: Requests,
}

/// The replies of a helper.
pub struct Replies {
    input: BufReader<Input>,
}

/// The way to a helper's standard input.
pub struct Requests {
    output: BufWriter<Output>,
}

impl Conversation {
    /// Waits for the greeting of a helper that was just started.
    pub(super) fn begin((input, output): (Input, Output)) -> Result<Conversation> {
        let mut input = BufReader::with_capacity(BUFFER, input);
        skip_chatter(&mut input)?;
        check_version(&mut input)?;
        let output = BufWriter::with_capacity(BUFFER, output);
        Ok(Conversation { replies: Replies { input }, requests: Requests { output } })
    }
}

impl Replies {
    /// The next reply; `None` when the helper is gone.
    pub fn receive(&mut self) -> Result<Option<Reply>> {
        read_frame(&mut self.input).map_err(lost)
    }

    /// True when the next reply may have to be waited for.
    pub fn is_drained(&self) -> bool {
        self.input.buffer().is_empty()
    }
}

impl Requests {
    /// Queues a request.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        write_frame(&mut self.output, request).map_err(lost)
    }

    /// Sends what is queued.
    pub fn flush(&mut self) -> Result<()> {
        self.output.flush().map_err(lost)
    }
}

/// The error of a conversation that broke off.
pub fn gone() -> Error {
    Error::new(Kind::Unreachable, "the connection to the client was lost")
}

/// The error of a client that says what no helper says.
pub fn nonsense(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Unreachable, format_args!("the client breaks the protocol: {what}"))
}

fn lost(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => nonsense(error),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            Error::new(Kind::Unreachable, "the client stopped answering")
        }
        _ => gone(),
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
    Err(nonsense("no greeting came"))
}

fn check_version(input: &mut impl Read) -> Result<()> {
    let mut length = [0];
    input.read_exact(&mut length).map_err(lost)?;
    let mut version = vec![0; length[0] as usize];
    input.read_exact(&mut version).map_err(lost)?;
    match version == VERSION.as_bytes() {
        true => Ok(()),
        false => Err(nonsense("its helper is of another version").hint("remove it with `archive helper remove HOST`")),
    }
}
