//! The byte streams to and from a client's processes: sockets with a time-out, counted.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{OnServer, Result};

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
        let input = Input { socket: self.input, received: 0, traffic: traffic.clone() };
        Ok((input, Output { socket: self.output, traffic }))
    }
}

impl Traffic {
    /// For streams that fail when the other side stays silent longer than `timeout`; zero is for ever.
    pub fn new(timeout: Duration) -> Traffic {
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        Traffic { timeout, shut_down: AtomicBool::new(false), sent, received, open: Mutex::default() }
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

/// What a client's process says.
#[derive(Debug)]
pub struct Input {
    socket: UnixStream,
    received: u64,
    traffic: Arc<Traffic>,
}

/// What a client's process is told. Dropping it ends the process's standard input.
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

    /// True when it was ended from this side.
    pub fn is_over(&self) -> bool {
        self.traffic.is_shut_down()
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(buffer)?;
        self.received += count as u64;
        self.traffic.received.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.socket.write(bytes)?;
        self.traffic.sent.fetch_add(count as u64, Ordering::Relaxed);
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
