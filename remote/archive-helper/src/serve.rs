//! One connection: requests in, replies out.

use std::io::{self, BufReader};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use crate::hash::Hashing;
use crate::output::Output;
use crate::read::Reading;
use crate::protocol::{self, Request, VERSION, read_frame};
use crate::walk::Walking;

// More threads than this gain little, and the client has better things to do.
const MOST_THREADS: usize = 4;

/// Serves standard input and output until the input ends. The process ends then, whatever is still under way, so
/// that nothing of it outlives the connection.
pub fn serve() -> ExitCode {
    // Others go first; if the system refuses, it is no less correct.
    let _ = rustix::process::nice(10);
    if protocol::write_greeting(&mut io::stdout().lock()).is_err() {
        return ExitCode::FAILURE;
    }
    let connection = Connection::new();
    match connection.listen() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{VERSION}: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Connection {
    output: Arc<Output>,
    hashing: Option<Arc<Hashing>>,
    reading: Option<Arc<Reading>>,
    walking: Option<Arc<Walking>>,
}

impl Connection {
    fn new() -> Connection {
        Connection { output: Arc::default(), hashing: None, reading: None, walking: None }
    }

    // Hands everything over at once: whoever sends requests must never have to wait for work to be done.
    fn listen(mut self) -> io::Result<()> {
        let mut input = BufReader::with_capacity(64 * 1024, io::stdin().lock());
        while let Some(request) = read_frame(&mut input)? {
            let accepted = match request {
                Request::Walk(walk) => self.walk(walk),
                Request::Verdicts(verdicts) => self.walking.as_ref().is_some_and(|walking| walking.judge(&verdicts)),
                Request::Key(key) => self.hashing().set_key(key),
                Request::Hash(requests) => self.hashing().ask(requests),
                Request::Read(requests) => self.reading().ask(requests),
            };
            if !accepted {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a request that makes no sense"));
            }
        }
        Ok(())
    }

    fn walk(&mut self, walk: protocol::Walk) -> bool {
        if self.walking.is_some() {
            return false;
        }
        let walking = Arc::new(Walking::new(&walk, self.output.clone()));
        self.walking = Some(walking.clone());
        thread::spawn(move || walking.run(walk.roots, threads()));
        true
    }

    fn hashing(&mut self) -> Arc<Hashing> {
        if let Some(hashing) = &self.hashing {
            return hashing.clone();
        }
        let hashing: Arc<Hashing> = Arc::default();
        self.hashing = Some(hashing.clone());
        for _ in 0..threads() {
            let (hashing, output) = (hashing.clone(), self.output.clone());
            thread::spawn(move || hashing.work(&output));
        }
        self.write_if_new();
        hashing
    }

    fn reading(&mut self) -> Arc<Reading> {
        if let Some(reading) = &self.reading {
            return reading.clone();
        }
        let reading: Arc<Reading> = Arc::default();
        for _ in 0..threads() {
            let (reading, output) = (reading.clone(), self.output.clone());
            thread::spawn(move || reading.work(&output));
        }
        self.write_if_new();
        self.reading = Some(reading.clone());
        reading
    }

    fn write(&self, written: impl Fn(usize) + Send + 'static) {
        let output = self.output.clone();
        thread::spawn(move || {
            // The other side is gone.
            let _ = output.run(io::stdout().lock(), written);
            std::process::exit(1);
        });
    }
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS)
}
