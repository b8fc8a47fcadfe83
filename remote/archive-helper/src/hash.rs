//! Hashing files: requests wait in one queue for threads that read.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use blake3::Hasher;
use xxhash_rust::xxh3::Xxh3Default;

use crate::outgoing::{Outgoing, UNPOISONED};
use crate::protocol::{AbsPath, Hash, HashOutcome, HashRequest, Hashed, SAMPLE_PIECE, Wants};
use crate::system::{Errno, File, Metadata};
use crate::walk;

// How much is read at once, in bytes.
const BUFFER: usize = 256 * 1024;

/// The threads that hash, and the queue in front of them.
pub struct Hashers {
    queue: Mutex<Queue>,
    filled: Condvar,
    outgoing: Arc<Outgoing>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
}

struct Job {
    request: HashRequest,
    key: Option<Hash>,
}

impl Hashers {
    /// Starts the threads.
    pub fn start(outgoing: Arc<Outgoing>) -> io::Result<Arc<Hashers>> {
        let hashers = Arc::new(Hashers { queue: Mutex::default(), filled: Condvar::new(), outgoing });
        for _ in 0..walk::threads() {
            let hashers = Arc::clone(&hashers);
            thread::Builder::new().spawn(move || hashers.work())?;
        }
        Ok(hashers)
    }

    /// Queues requests; `key` is for those that want a proof.
    pub fn add(&self, requests: Vec<HashRequest>, key: Option<Hash>) {
        let mut queue = self.queue.lock().expect(UNPOISONED);
        queue.jobs.extend(requests.into_iter().map(|request| {
            let key = key.filter(|_| request.wants == Wants::Proof);
            Job { request, key }
        }));
        if queue.idle > 0 {
            self.filled.notify_all();
        }
    }

    fn work(&self) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let Job { request, key } = self.next();
            let outcome = hash(&request, key.as_ref(), &mut buffer);
            self.outgoing.answer(Hashed { id: request.id, outcome });
        }
    }

    fn next(&self) -> Job {
        let mut queue = self.queue.lock().expect(UNPOISONED);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return job;
            }
            queue.idle += 1;
            queue = self.filled.wait(queue).expect(UNPOISONED);
            queue.idle -= 1;
        }
    }
}

fn hash(request: &HashRequest, key: Option<&Hash>, buffer: &mut [u8]) -> HashOutcome {
    let done = match &request.wants {
        Wants::Sample { other } => sample(request, other.as_ref(), buffer),
        Wants::Hash | Wants::Proof => {
            read(request, key, buffer).map(|sums| sums.map(|Sums { hash, proof }| HashOutcome::Done { hash, proof }))
        }
    };
    match done {
        Ok(Some(outcome)) => outcome,
        Ok(None) | Err(Errno::LOOP | Errno::NXIO) => HashOutcome::Changed,
        Err(Errno::NOENT | Errno::NOTDIR) => HashOutcome::Vanished,
        Err(errno) => HashOutcome::Failed(errno.raw_os_error()),
    }
}

struct Sums {
    hash: Hash,
    proof: Option<Hash>,
}

// `None` if the file is not as it was listed, before or after it was read.
fn read(request: &HashRequest, key: Option<&Hash>, buffer: &mut [u8]) -> Result<Option<Sums>, Errno> {
    let file = File::open(&request.path)?;
    if !is_as_listed(&file.metadata()?, request) {
        return Ok(None);
    }
    let sums = if request.size < buffer.len() as u64 {
        read_at_once(&file, request.size as usize, key, buffer)?
    } else {
        read_in_pieces(&file, request.size, key, buffer)?
    };
    Ok(sums.filter(|_| file.metadata().is_ok_and(|metadata| is_as_listed(&metadata, request))))
}

// `None` if the file is not as it was listed, before or after it was read.
fn sample(request: &HashRequest, other: Option<&AbsPath>, buffer: &mut [u8]) -> Result<Option<HashOutcome>, Errno> {
    let (file, size) = (File::open(&request.path)?, request.size);
    if !is_as_listed(&file.metadata()?, request) {
        return Ok(None);
    }
    let Some(sample) = sample_of(&file, size, buffer)? else { return Ok(None) };
    let mut of_other = |path| {
        let other = File::open(path)?;
        if other.metadata()?.size == size { sample_of(&other, size, buffer) } else { Ok(None) }
    };
    let other = other.and_then(|path| of_other(path).unwrap_or_default());
    Ok(is_as_listed(&file.metadata()?, request).then_some(HashOutcome::Sampled { sample, other }))
}

fn sample_of(file: &File, size: u64, buffer: &mut [u8]) -> Result<Option<u64>, Errno> {
    let length = size.min(SAMPLE_PIECE);
    let mut sum = Xxh3Default::new();
    for piece in 0..4 {
        let at = u128::from(size - length) * piece / 3;
        let bytes = &mut buffer[..length as usize];
        if file.read_at(bytes, at as u64)? != bytes.len() {
            return Ok(None);
        }
        sum.update(bytes);
    }
    Ok(Some(sum.digest()))
}

fn is_as_listed(metadata: &Metadata, request: &HashRequest) -> bool {
    metadata.is_file_as_listed(request.size, request.mtime, request.uid)
}

// A small file needs neither a second read nor a hasher's state. It is not asked for its end: fstat tells.
fn read_at_once(file: &File, size: usize, key: Option<&Hash>, buffer: &mut [u8]) -> Result<Option<Sums>, Errno> {
    let length = file.read(&mut buffer[..size])?;
    let content = &buffer[..size];
    let sums =
        || Sums { hash: blake3::hash(content).into(), proof: key.map(|key| blake3::keyed_hash(key, content).into()) };
    Ok((length == size).then(sums))
}

fn read_in_pieces(file: &File, size: u64, key: Option<&Hash>, buffer: &mut [u8]) -> Result<Option<Sums>, Errno> {
    let mut plain = Hasher::new();
    let mut keyed = key.map(Hasher::new_keyed);
    let mut total = 0;
    loop {
        let length = file.read(buffer)?;
        total += length as u64;
        // What still grows would never come to an end.
        if length == 0 || total > size {
            break;
        }
        plain.update(&buffer[..length]);
        if let Some(keyed) = &mut keyed {
            keyed.update(&buffer[..length]);
        }
    }
    let sums = || Sums { hash: plain.finalize().into(), proof: keyed.map(|keyed| keyed.finalize().into()) };
    Ok((total == size).then(sums))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{AbsPath, Time};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    const KEY: Hash = [7; 32];

    fn request(path: &Path) -> HashRequest {
        let path = AbsPath::new(path.as_os_str().as_bytes()).unwrap();
        let metadata = Metadata::of(&path).unwrap();
        HashRequest { id: 1, path, size: metadata.size, mtime: metadata.mtime, uid: metadata.uid, wants: Wants::Proof }
    }

    fn outcome(request: &HashRequest) -> HashOutcome {
        hash(request, Some(&KEY), &mut vec![0; BUFFER])
    }

    #[test]
    fn sizes_around_the_buffer_hash_as_blake3_says() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        for size in [0, 1, 1024, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER, 3 * BUFFER + 5] {
            let content: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            std::fs::write(&path, &content).unwrap();
            let hash = blake3::hash(&content).into();
            let proof = Some(blake3::keyed_hash(&KEY, &content).into());
            assert_eq!(outcome(&request(&path)), HashOutcome::Done { hash, proof }, "{size} bytes");
        }
    }

    #[test]
    fn samples_tell_files_apart_where_they_look() {
        let temp = tempfile::tempdir().unwrap();
        let (one, two) = (temp.path().join("one"), temp.path().join("two"));
        let content: Vec<u8> = (0..100_000).map(|index| (index % 251) as u8).collect();
        std::fs::write(&one, &content).unwrap();
        let other = Some(AbsPath::new(one.as_os_str().as_bytes()).unwrap());
        let samples = || {
            let wants = Wants::Sample { other: other.clone() };
            match outcome(&HashRequest { wants, ..request(&two) }) {
                HashOutcome::Sampled { sample, other } => (sample, other),
                outcome => panic!("{outcome:?}"),
            }
        };
        let mut changed = |at: usize| {
            let mut content = content.clone();
            content[at] ^= 1;
            std::fs::write(&two, &content).unwrap();
            let (sample, other) = samples();
            other != Some(sample)
        };
        assert!([0, 32_000, 64_000, 99_999].into_iter().all(&mut changed));
        assert!(!changed(20_000));
        std::fs::write(&two, &content[1..]).unwrap();
        assert_eq!(samples().1, None, "another size");
        std::fs::write(&two, b"").unwrap();
        samples();
    }

    #[test]
    fn what_is_not_as_listed_has_changed() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        for size in [10, BUFFER as u64 + 10] {
            std::fs::write(&path, vec![b'x'; size as usize]).unwrap();
            let listed = request(&path);
            for (size, mtime) in
                [(size - 1, listed.mtime), (size + 1, listed.mtime), (size, Time::from(listed.mtime.clamped() + 1))]
            {
                assert_eq!(outcome(&HashRequest { size, mtime, ..listed.clone() }), HashOutcome::Changed);
            }
        }
    }
}
