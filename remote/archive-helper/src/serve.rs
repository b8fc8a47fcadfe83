//! One connection: reads requests from stdin, hands them to who does the work, ends when stdin does.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::process;
use std::sync::Arc;
use std::thread;

use crate::destination::Destination;
use crate::hash::Hashers;
use crate::outgoing::Outgoing;
use crate::protocol::{
    self, ChunkRequest, Extent, Fill, Hash, HashRequest, MAX_AVERAGE, MAX_BUNDLED, MAX_HASHES, MAX_READING,
    MAX_STREAMS, MIN_AVERAGE, Outcome, ReadRequest, Reply, Request, Restore, StreamRequest, Verdict, Wants,
};
use crate::read::Readers;
use crate::stream::Streamers;
use crate::system;
use crate::walk::Walking;

const INPUT_BUFFER: usize = 64 * 1024;

/// Serves one connection on stdin and stdout.
///
/// Returns when stdin ends, whatever is still under way: the process is to end then. `InvalidData` is a
/// request that breaks the protocol. A stdout that nobody reads any more ends the process at once.
pub fn serve() -> io::Result<()> {
    system::be_modest();
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut input = BufReader::with_capacity(INPUT_BUFFER, File::from(io::stdin().as_fd().try_clone_to_owned()?));
    let outgoing = Arc::new(Outgoing::default());
    let writer = Arc::clone(&outgoing);
    protocol::write_greeting(&mut output).unwrap_or_else(|_| process::exit(1));
    thread::Builder::new().spawn(move || {
        writer.write_to(&mut output).unwrap_or_else(|_| process::exit(1));
    })?;
    let mut connection = Connection {
        outgoing,
        walking: None,
        hashers: None,
        readers: None,
        streamers: None,
        destination: None,
        key: None,
        asked: 0,
    };
    while let Some(request) = protocol::read_frame(&mut input)? {
        connection.take(request)?;
    }
    Ok(())
}

struct Connection {
    outgoing: Arc<Outgoing>,
    walking: Option<Arc<Walking>>,
    hashers: Option<Arc<Hashers>>,
    readers: Option<Arc<Readers>>,
    streamers: Option<Arc<Streamers>>,
    destination: Option<Destination>,
    key: Option<Hash>,
    asked: u64,
}

impl Connection {
    fn take(&mut self, request: Request) -> io::Result<()> {
        match request {
            Request::Walk(walk) => self.walk(walk),
            Request::Verdicts(verdicts) => self.judge(verdicts),
            Request::Key(key) => {
                self.key = Some(key);
                Ok(())
            }
            Request::Hash(requests) => self.hash(requests),
            Request::Read(requests) => self.read(requests),
            Request::Restore(options) => self.restore(options),
            Request::Offer(items) => self.put_back(|to| Some(items.iter().map(|item| to.offer(item)).collect())),
            Request::Fill(fill) => self.put_back(|to| fill_in(to, fill)),
            Request::Finish(items) => self.put_back(|to| Some(items.iter().map(|item| to.finish(item)).collect())),
            Request::Chunk(request) => self.chunk(request),
            Request::Stream(request) => self.stream(request),
            Request::Pack => {
                self.outgoing.pack();
                Ok(())
            }
        }
    }

    fn walk(&mut self, walk: protocol::Walk) -> io::Result<()> {
        if self.walking.is_some() {
            return Err(breach("a second walk was asked for"));
        }
        self.walking = Some(Walking::start(walk, Arc::clone(&self.outgoing))?);
        Ok(())
    }

    fn judge(&mut self, verdicts: Vec<Verdict>) -> io::Result<()> {
        let known = self.walking.as_ref().is_some_and(|walking| walking.judge(verdicts));
        if known { Ok(()) } else { Err(breach("a verdict is on a directory that does not wait for one")) }
    }

    fn restore(&mut self, options: Restore) -> io::Result<()> {
        if self.destination.is_some() {
            return Err(breach("a second destination was named"));
        }
        let opened = Destination::open(options);
        self.outgoing.send(&Reply::Restoring(opened.as_ref().err().copied()));
        self.destination = opened.ok();
        Ok(())
    }

    // Here, not in another thread: who restores does nothing else in a connection.
    fn put_back(&mut self, work: impl FnOnce(&mut Destination) -> Option<Vec<Outcome>>) -> io::Result<()> {
        let destination = self.destination.as_mut().ok_or_else(|| breach("no destination was named"))?;
        if let Some(outcomes) = work(destination) {
            self.outgoing.send(&Reply::Outcomes(outcomes));
        }
        Ok(())
    }

    fn hash(&mut self, requests: Vec<HashRequest>) -> io::Result<()> {
        self.asked += requests.len() as u64;
        if self.asked - self.outgoing.answered() > MAX_HASHES as u64 {
            return Err(breach("too many hash requests are under way"));
        }
        if self.key.is_none() && requests.iter().any(|request| request.wants == Wants::Proof) {
            return Err(breach("a proof was asked for without a key"));
        }
        let hashers = match self.hashers.take() {
            Some(hashers) => hashers,
            None => Hashers::start(Arc::clone(&self.outgoing))?,
        };
        self.hashers.insert(hashers).add(requests, self.key);
        Ok(())
    }

    fn read(&mut self, requests: Vec<ReadRequest>) -> io::Result<()> {
        if requests.iter().any(|request| request.size > MAX_BUNDLED) {
            return Err(breach("a file is too large to be sent whole"));
        }
        let readers = match self.readers.take() {
            Some(readers) => readers,
            None => Readers::start(Arc::clone(&self.outgoing))?,
        };
        let waiting = self.readers.insert(readers).add(requests);
        if waiting <= MAX_READING { Ok(()) } else { Err(breach("too much was asked for at a time")) }
    }

    fn chunk(&mut self, request: ChunkRequest) -> io::Result<()> {
        if !request.average.is_power_of_two() || !(MIN_AVERAGE..=MAX_AVERAGE).contains(&request.average) {
            return Err(breach("no file is cut into chunks of that length"));
        }
        check_ranges(&request.ranges, request.size)?;
        let waiting = self.streamers()?.chunk(request);
        if waiting <= MAX_STREAMS { Ok(()) } else { Err(breach("too many files were asked for at a time")) }
    }

    fn stream(&mut self, request: StreamRequest) -> io::Result<()> {
        check_ranges(&request.ranges, request.size)?;
        let waiting = self.streamers()?.stream(request);
        if waiting <= MAX_STREAMS { Ok(()) } else { Err(breach("too many files were asked for at a time")) }
    }

    fn streamers(&mut self) -> io::Result<&Streamers> {
        let streamers = match self.streamers.take() {
            Some(streamers) => streamers,
            None => Streamers::start(Arc::clone(&self.outgoing))?,
        };
        Ok(self.streamers.insert(streamers))
    }
}

fn fill_in(destination: &mut Destination, fill: Fill) -> Option<Vec<Outcome>> {
    match fill {
        Fill::Begin(item) => destination.begin(*item),
        Fill::Data { offset, bytes } => destination.write(offset, bytes.as_bytes()),
        Fill::Again => destination.again(),
        Fill::End { keep } => return Some(vec![destination.end(keep)]),
    }
    None
}

fn check_ranges(ranges: &[Extent], size: u64) -> io::Result<()> {
    if ranges.iter().all(|range| range.end() <= size) {
        Ok(())
    } else {
        Err(breach("what is behind the end of a file was asked for"))
    }
}

fn breach(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
