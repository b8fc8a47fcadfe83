//! The byte streams to and from a client's processes: sockets with a time-out, counted.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::stall::{Progress, Stalled};
use crate::error::{OnServer, Result};

// How long a process may take for its greeting, or for the whole answer of a script: one that sends a byte now and then is
// never silent for long. It has to be enough for the upload of a helper.
const MAX_GREETING_TIME: Duration = Duration::from_secs(600);

/// Our ends of a remote process's standard input and output.
#[derive(Debug)]
pub struct Ends {
    input: UnixStream,
    output: UnixStream,
}

/// What passed through all streams of one client.
#[derive(Debug)]
pub struct Traffic {
    timeout: Duration,
    progress: Progress,
    shut_down: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    open: Mutex<Vec<UnixStream>>,
}

impl Ends {
    /// Makes a pair of sockets for a process; returns our ends, and its standard input and output.
    pub fn new() -> Result<(Ends, OwnedFd, OwnedFd)> {
        const WHAT: &str = "can't make a socket pair";
        let (output, stdin) = UnixStream::pair().on_server(WHAT)?;
        let (input, stdout) = UnixStream::pair().on_server(WHAT)?;
        Ok((Ends { input, output }, stdin.into(), stdout.into()))
    }

    /// Turns the ends into streams that are counted, and that fail when the other side stays silent too long.
    pub fn counted(self, traffic: Arc<Traffic>) -> Result<(Input, Output)> {
        const WHAT: &str = "can't set up a socket";
        let timeout = Some(traffic.timeout).filter(|timeout| !timeout.is_zero());
        self.input.set_read_timeout(timeout).on_server(WHAT)?;
        self.output.set_write_timeout(timeout).on_server(WHAT)?;
        let copies = [self.input.try_clone().on_server(WHAT)?, self.output.try_clone().on_server(WHAT)?];
        traffic.open.lock().unwrap_or_else(PoisonError::into_inner).extend(copies);
        if traffic.is_shut_down() {
            traffic.shut_down();
        }
        let until = Instant::now() + MAX_GREETING_TIME;
        // A process that is just starting has all its patience before it.
        traffic.progress(0);
        let input =
            Input { socket: self.input, received: 0, noted: None, until: Some(until), traffic: traffic.clone() };
        Ok((input, Output { socket: self.output, traffic }))
    }
}

impl Traffic {
    /// For streams that fail when the other side stays silent longer than `timeout` (zero is for ever), or says nothing but
    /// that it is alive for longer than `stall_time`, or next to nothing for longer than twice that.
    pub fn new(timeout: Duration, stall_time: Option<Duration>) -> Traffic {
        Traffic {
            timeout,
            progress: Progress::new(stall_time),
            shut_down: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }

    /// Notes that work goes on: so many bytes were hashed by the client, or read by the server for what it receives or sends.
    pub fn progress(&self, bytes: u64) {
        self.progress.add(bytes);
    }

    /// True when the client worked without progress for longer than it may: connecting again would be in vain.
    pub fn has_stalled(&self) -> bool {
        self.progress.has_stalled()
    }

    /// How long the other side may stay silent; zero is for ever.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// True when all streams were ended from this side.
    pub fn is_shut_down(&self) -> bool {
        self.shut_down.load(Ordering::SeqCst)
    }

    /// Bytes sent and received.
    pub fn totals(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// Ends all streams: readers see their end, processes see the end of their input.
    pub fn shut_down(&self) {
        self.shut_down.store(true, Ordering::SeqCst);
        for socket in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A socket whose other end is gone can't be shut down, and need not be.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Ends the standard input of a client's process while another thread may be writing to it.
#[derive(Debug)]
pub struct Interrupter(UnixStream);

impl Interrupter {
    /// Makes the write that is under way, and every later one, fail.
    pub fn interrupt(&self) {
        // A socket whose other end is gone can't be shut down, and need not be.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// What a client's process says.
#[derive(Debug)]
pub struct Input {
    socket: UnixStream,
    received: u64,
    // Of the bytes received, those that were noted as progress or as signs of life, when the reader notes them: none is
    // progress by itself.
    noted: Option<u64>,
    // A process that was just started must have said all of its greeting, or of its answer, by then.
    until: Option<Instant>,
    traffic: Arc<Traffic>,
}

/// The standard input of a client's process, which ends when this is dropped.
#[derive(Debug)]
pub struct Output {
    socket: UnixStream,
    traffic: Arc<Traffic>,
}

impl Input {
    /// Bytes that this stream has brought so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The process has greeted us: from now on only its silence is bounded.
    pub fn greeted(&mut self) {
        self.until = None;
    }

    /// Stops counting bytes as progress by themselves, for some only say that the other side is alive: the reader calls
    /// [`note`](Input::note) from now on.
    pub fn expect_alive(&mut self) {
        self.noted = Some(self.received);
    }

    /// All bytes before `position` of what was received are progress, or signs of life.
    pub fn note(&mut self, position: u64, is_progress: bool) -> std::result::Result<(), Stalled> {
        let bytes = position.saturating_sub(self.noted.unwrap_or(position));
        self.noted = Some(position);
        if is_progress {
            self.traffic.progress(bytes);
        }
        self.traffic.progress.check().map_or(Ok(()), Err)
    }

    /// From now on a read fails after this time without a byte, or after the usual one if that is shorter.
    pub fn expect_within(&self, silence: Duration) -> Result<()> {
        let usual = Some(self.traffic.timeout).filter(|timeout| !timeout.is_zero());
        let bound = Some(silence).filter(|silence| *silence < Duration::MAX);
        let timeout = [usual, bound].into_iter().flatten().min();
        self.socket.set_read_timeout(timeout).on_server("can't set up a socket")
    }

    /// True when it was ended from this side.
    pub fn is_over(&self) -> bool {
        self.traffic.is_shut_down()
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A process that is stopped and continued is interrupted where it waits with a time-out: signal(7).
        let count = retry_on_interrupt(|| self.socket.read(buffer))?;
        // The reader notes nothing of a message that trickles in, for it never has all of it.
        let is_within_message = self.noted.is_some_and(|noted| noted < self.received);
        self.received += count as u64;
        self.traffic.received.fetch_add(count as u64, Ordering::Relaxed);
        if self.noted.is_none() {
            self.traffic.progress(count as u64);
        }
        if self.noted.is_none() || is_within_message {
            self.traffic.progress.check().map_or(Ok(()), Err)?;
        }
        Ok(count)
    }
}

impl Output {
    /// What makes writes fail from another thread.
    pub fn interrupter(&self) -> Result<Interrupter> {
        self.socket.try_clone().map(Interrupter).on_server("can't set up a socket")
    }
}

fn retry_on_interrupt(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = retry_on_interrupt(|| self.socket.write(bytes))?;
        self.traffic.sent.fetch_add(count as u64, Ordering::Relaxed);
        self.traffic.progress(count as u64);
        self.traffic.progress.check().map_or(Ok(()), Err)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // The copy that `Traffic` keeps would hold the stream open.
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greeting_that_never_ends_is_cut_off() {
        let (ends, _stdin, stdout) = Ends::new().unwrap();
        let (mut input, _output) = ends.counted(Arc::new(Traffic::new(Duration::from_secs(9), None))).unwrap();
        UnixStream::from(stdout).write_all(b"abcd").unwrap();
        let mut byte = [0];
        assert_eq!(input.read(&mut byte).unwrap(), 1);
        input.until = Some(Instant::now());
        assert_eq!(input.read(&mut byte).unwrap_err().kind(), io::ErrorKind::TimedOut);
        input.greeted();
        assert_eq!(input.read(&mut byte).unwrap(), 1);
    }

    #[test]
    fn message_that_trickles_in_is_cut_off() {
        let traffic = Arc::new(Traffic::new(Duration::ZERO, Some(Duration::from_millis(100))));
        let (ends, _stdin, stdout) = Ends::new().unwrap();
        let (mut input, _output) = ends.counted(traffic.clone()).unwrap();
        input.expect_alive();
        let mut client = UnixStream::from(stdout);
        let mut read = || {
            client.write_all(b"x").unwrap();
            input.read(&mut [0])
        };
        assert_eq!(read().unwrap(), 1);
        assert_eq!(read().unwrap(), 1);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(read().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(traffic.has_stalled());
    }

    #[test]
    fn client_that_takes_next_to_nothing_is_given_up() {
        let traffic = Arc::new(Traffic::new(Duration::ZERO, Some(Duration::from_secs(1))));
        let (ends, stdin, _stdout) = Ends::new().unwrap();
        let (_input, mut output) = ends.counted(traffic.clone()).unwrap();
        // Five bytes in two seconds, of at least nine.
        let error = (0..9).find_map(|_| {
            std::thread::sleep(Duration::from_millis(400));
            output.write(b"x").err()
        });
        assert_eq!(error.unwrap().kind(), io::ErrorKind::TimedOut);
        assert!(traffic.has_stalled());
        drop(stdin);
    }

    #[test]
    fn signs_of_life_alone_are_no_progress() {
        let traffic = Arc::new(Traffic::new(Duration::ZERO, Some(Duration::from_millis(100))));
        let (ends, _stdin, stdout) = Ends::new().unwrap();
        let (mut input, mut output) = ends.counted(traffic.clone()).unwrap();
        let mut client = UnixStream::from(stdout);
        let mut hear = |input: &mut Input| {
            std::thread::sleep(Duration::from_millis(200));
            client.write_all(b"x").unwrap();
            input.read_exact(&mut [0]).unwrap();
            input.noted.is_some_and(|_| input.note(input.received(), false).is_err())
        };
        assert!(!hear(&mut input), "bytes are progress");
        input.expect_alive();
        assert!(hear(&mut input), "but not those of a helper");
        assert!(traffic.has_stalled());
        output.write_all(b"x").unwrap();
        assert!(input.note(input.received(), false).is_ok(), "a request begins it again");
    }
}
