//! Reads files over SFTP version 3 (draft-ietf-secsh-filexfer-02), hundreds at a time on one connection.
//!
//! A file costs three round trips: LSTAT, OPEN, then READ, FSTAT and CLOSE together. LSTAT, because a server that opens what
//! is a fifo by now does nothing else any more. The client is not trusted: what breaks the
//! protocol ends the connection, and what a file says of itself after its last byte must be what was listed.

mod file;
mod incoming;
mod packet;
#[cfg(test)]
mod tests;
mod transfers;

use std::io::{self, ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::pace::Pace;
use crate::client::{FetchEvent, FetchJob, ReadError};
use crate::error::{self, Error, Kind};
use crate::queue::{Nothing, Receiver, Sender};
use incoming::Incoming;
use packet::Answer;
use transfers::{Limits, Transfers};

// What every server can do: the draft's example of a packet, and a modest number of files for a process.
const DEFAULT_LIMITS: Limits = Limits { read_bytes: 32 * 1024, handles: 200 };
const MAX_HANDLES: u64 = 256;
// Handles of the server's that are not ours to use up.
const RESERVED_HANDLES: u64 = 16;

// Files that may get a server stuck. Each keeps a session of the client's sshd, of which a connection has few
// (MAX_SESSIONS).
const MAX_STUCK_OPENS: usize = 3;

/// How to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How many bytes of files to ask for per second; `None` or 0 for as many as possible.
    pub bytes_per_second: Option<u64>,
}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The stream fails.
    #[error("the SFTP connection failed: {0}")]
    Io(#[source] io::Error),
    /// The stream ended before a server said anything.
    #[error("sshd starts no SFTP server (`Subsystem sftp` in sshd_config)")]
    Missing,
    /// The stream ended while answers were to come.
    #[error("the SFTP server closed the connection")]
    Closed,
    /// The stream's time-out went by.
    #[error("the SFTP server gave no answer for {0} s")]
    Silent(u64),
    /// It went by while a file was being opened: that one, those that are still wanted, and the time.
    #[error("the SFTP server gave no answer for {2} s, when it had to open `{path}`", path = .0.path)]
    Stuck(Box<FetchJob>, Vec<FetchJob>, u64),
    /// Something prints text before the server starts, and this is its first line.
    #[error("the account's login shell prints `{0}` before an SFTP server starts")]
    Chatter(String),
    /// The server does what no SFTP server does.
    #[error("the SFTP server breaks the protocol: {0}")]
    Protocol(&'static str),
    /// The receiver of [`FetchEvent`] is gone.
    #[error("nobody takes the files that arrive")]
    Unwanted,
    /// It broke in an earlier call.
    #[error("the SFTP connection is broken")]
    Already,
}

impl Broken {
    fn from_io(error: io::Error, since: Instant) -> Broken {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Broken::Silent(since.elapsed().as_secs_f64().round() as u64),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Broken::Closed,
            _ => Broken::Io(error),
        }
    }
}

/// Reads files as [`Sftp::read_files`] does, over connections that `start` starts. A file that a server can't open, and can't
/// refuse to open either, counts as one that can't be read, and the others are read over another connection.
///
/// The inner error says why there is no usable server: then nothing was taken from `wanted`.
pub fn read_files<R: Read, W: Write>(
    start: impl Fn() -> error::Result<(R, W)>,
    options: Options,
    wanted: &Receiver<FetchJob>,
    arrived: &Sender<FetchEvent>,
) -> error::Result<Result<(), Broken>> {
    let lost = |error: Broken| match error {
        Broken::Unwanted => Error::new(Kind::BrokenOff, error),
        error => Error::new(Kind::Unreachable, format_args!("the SFTP connection broke: {error}")),
    };
    let begin = || start().map(|(input, output)| Sftp::start(input, output, options));
    let (mut reader, mut first) = match begin()? {
        Ok(reader) => (reader, Vec::new()),
        Err(Broken::Closed) => return Ok(Err(Broken::Missing)),
        Err(broken) => return Ok(Err(broken)),
    };
    for _ in 0..MAX_STUCK_OPENS {
        let (stuck, left, seconds) = match reader.read_first(first, wanted, arrived) {
            Err(Broken::Stuck(stuck, left, seconds)) => (stuck, left, seconds),
            done => return done.map(Ok).map_err(lost),
        };
        // If the client answers at all, it is the file's fault.
        reader = begin()?.map_err(lost)?;
        let error = ReadError::Refused(format!("opening it takes longer than {seconds} s"));
        arrived.send(FetchEvent::Failed { id: stuck.id, error }).map_err(|_| lost(Broken::Unwanted))?;
        first = left;
    }
    reader.read_first(first, wanted, arrived).map(Ok).map_err(lost)
}

/// A connection to an SFTP server.
///
/// The streams block. Give them time-outs: a request that is not answered in time breaks the connection.
#[derive(Debug)]
pub struct Sftp<R, W> {
    input: Incoming<R>,
    output: W,
    limits: Limits,
    options: Options,
    next_id: u32,
    is_usable: bool,
}

impl<R: Read, W: Write> Sftp<R, W> {
    /// Greets the server and learns its limits.
    pub fn start(input: R, output: W, options: Options) -> Result<Sftp<R, W>, Broken> {
        let input = Incoming::new(input);
        let mut sftp = Sftp { input, output, limits: DEFAULT_LIMITS, options, next_id: 0, is_usable: true };
        let mut request = Vec::new();
        packet::init(&mut request);
        sftp.send(&request)?;
        if sftp.learn_version()? {
            sftp.learn_limits()?;
        }
        Ok(sftp)
    }

    /// Reads the files that come in through `wanted`, until it is closed and everything is answered.
    ///
    /// Files overlap, so what `arrived` gets of one is mixed with others. It is waited for when it is full. What
    /// is `Err` leaves files unanswered and the connection useless.
    pub fn read_files(&mut self, wanted: &Receiver<FetchJob>, arrived: &Sender<FetchEvent>) -> Result<(), Broken> {
        self.read_first(Vec::new(), wanted, arrived)
    }

    // Reads some files before those that come in.
    fn read_first(
        &mut self,
        mut first: Vec<FetchJob>,
        wanted: &Receiver<FetchJob>,
        arrived: &Sender<FetchEvent>,
    ) -> Result<(), Broken> {
        if !self.is_usable {
            return Err(Broken::Already);
        }
        self.is_usable = false;
        let pace = Pace::new(self.options.bytes_per_second, Instant::now());
        let mut transfers = Transfers::new(self.limits, pace, self.next_id, arrived);
        let mut is_open = true;
        loop {
            transfers.ask();
            while transfers.has_room()
                && let Some(wanted) = first.pop()
            {
                transfers.begin(wanted);
            }
            while is_open && transfers.has_room() {
                match next(wanted, transfers.is_idle()) {
                    Ok(wanted) => transfers.begin(wanted),
                    Err(Nothing::Yet) => break,
                    Err(Nothing::More) => is_open = false,
                }
            }
            if transfers.is_idle() {
                break;
            }
            match self.exchange(&mut transfers) {
                Err(Broken::Silent(seconds)) => {
                    let Some((stuck, left)) = transfers.abandon()? else { return Err(Broken::Silent(seconds)) };
                    first.extend(left);
                    return Err(Broken::Stuck(Box::new(stuck), first, seconds));
                }
                done => done?,
            }
        }
        self.next_id = transfers.next_id;
        self.is_usable = true;
        Ok(())
    }

    // Sends what there is to ask and takes what has arrived. With nothing to come, it is the pace that is waited for.
    fn exchange(&mut self, transfers: &mut Transfers<'_>) -> Result<(), Broken> {
        if !transfers.is_waiting() {
            thread::sleep(transfers.delay().clamp(Duration::from_millis(1), Duration::from_secs(1)));
            return Ok(());
        }
        if let Some(requests) = transfers.take_output() {
            self.send(&requests)?;
        }
        self.input.fill()?;
        while let Some(packet) = self.input.packet()? {
            transfers.answer(packet)?;
        }
        Ok(())
    }

    // True when the server knows about limits.
    fn learn_version(&mut self) -> Result<bool, Broken> {
        let version = self.wait().and_then(|packet| packet::decode_version(packet).map_err(Broken::Protocol));
        match (version, self.input.text()) {
            (Err(Broken::Protocol(_)), Some(text)) => Err(Broken::Chatter(text)),
            (version, _) => version,
        }
    }

    fn learn_limits(&mut self) -> Result<(), Broken> {
        let mut request = Vec::new();
        packet::limits(&mut request, self.next_id);
        self.send(&request)?;
        let asked = self.next_id;
        self.next_id += 1;
        let (id, answer) = packet::decode(self.wait()?).map_err(Broken::Protocol)?;
        self.limits = match answer {
            _ if id != asked => return Err(Broken::Protocol("an answer to what was not asked")),
            Answer::Extended(body) => limits_to_keep(packet::decode_limits(body).map_err(Broken::Protocol)?),
            Answer::Status { code, .. } if code != packet::OK => DEFAULT_LIMITS,
            _ => return Err(Broken::Protocol("an answer to a question for limits is of the wrong type")),
        };
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let asked = Instant::now();
        let written = self.output.write_all(bytes).and_then(|()| self.output.flush());
        written.map_err(|error| Broken::from_io(error, asked))
    }

    fn wait(&mut self) -> Result<&[u8], Broken> {
        while !self.input.has_packet()? {
            self.input.fill()?;
        }
        self.input.packet()?.ok_or(Broken::Closed)
    }
}

fn next(wanted: &Receiver<FetchJob>, is_idle: bool) -> Result<FetchJob, Nothing> {
    if is_idle { wanted.recv().ok_or(Nothing::More) } else { wanted.try_recv() }
}

// Without a limit of its own, a server gets ours; one that allows next to nothing gets what every server can do.
fn limits_to_keep(told: packet::Limits) -> Limits {
    let read_bytes = match usize::try_from(told.read_bytes).unwrap_or(packet::MAX_READ) {
        0 => DEFAULT_LIMITS.read_bytes,
        bytes => bytes.clamp(4096, packet::MAX_READ),
    };
    let handles = match told.handles {
        0 => DEFAULT_LIMITS.handles,
        handles => handles.saturating_sub(RESERVED_HANDLES).clamp(1, MAX_HANDLES) as usize,
    };
    Limits { read_bytes, handles }
}
