//! Reads files of this machine, with the same promises as over SFTP.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::Instant;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::client::pace::Pace;
use crate::client::read_attempt::{Found, Mtime, ReadAttempt, Verdict};
use crate::client::stream::Traffic;
use crate::client::{FetchEvent, FetchJob, ReadError};
use crate::entry::{Extent, Time};
use crate::queue::{Closed, Receiver, Sender};

const CHUNK: usize = 256 * 1024;

/// Reads the files that come in through `wanted`, one after the other, until it is closed or nobody takes what arrives.
///
/// Breaks off when the line is shut down; what is read is progress of the client. `bytes_per_second` limits the reading;
/// `None` and 0 do not.
pub fn read_files(
    wanted: &Receiver<FetchJob>,
    arrived: &Sender<FetchEvent>,
    bytes_per_second: Option<u64>,
    line: &Traffic,
) {
    let mut pace = Pace::new(bytes_per_second, Instant::now());
    for wanted in wanted.iter() {
        let mut reader = Reader { wanted: &wanted, arrived, pace: &mut pace, line };
        if line.is_shut_down() || reader.read().is_err() {
            break;
        }
    }
}

// Reads one file. What is `Err` is that nobody wants it any more.
struct Reader<'a> {
    wanted: &'a FetchJob,
    arrived: &'a Sender<FetchEvent>,
    pace: &'a mut Pace,
    line: &'a Traffic,
}

type Sent<T> = Result<T, Closed>;

impl Reader<'_> {
    fn read(&mut self) -> Sent<()> {
        let id = self.wanted.id;
        let mut attempt = ReadAttempt::first(self.wanted);
        let mut offset = self.wanted.offset;
        loop {
            let verdict = match self.attempt(&mut attempt, offset)? {
                Ok(verdict) => verdict,
                Err(error) => return self.arrived.send(FetchEvent::Failed { id, error }),
            };
            match verdict {
                Verdict::OtherOwner => {
                    return self.arrived.send(FetchEvent::Failed { id, error: ReadError::other_owner() });
                }
                Verdict::Again => {
                    offset = 0;
                    self.arrived.send(FetchEvent::Restart { id })?;
                }
                Verdict::Consistent(state) => {
                    return self.arrived.send(FetchEvent::End { id, state, consistent: true, claimed: None });
                }
                Verdict::Inconsistent(state) => {
                    return self.arrived.send(FetchEvent::End { id, state, consistent: false, claimed: None });
                }
            }
        }
    }

    fn attempt(&mut self, attempt: &mut ReadAttempt, offset: u64) -> Sent<Result<Verdict, ReadError>> {
        let (file, before) = match open(self.wanted) {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        if !attempt.agrees(&before) && !attempt.is_last() {
            return Ok(Ok(attempt.judge(&before, false)));
        }
        let mut at = offset;
        while let Some(data) = attempt.data_after(at) {
            self.hole(data.offset - at)?;
            let end = match self.data(&file, data)? {
                Ok(end) => end,
                Err(errno) => return Ok(Err(refused(errno))),
            };
            at = end;
            if at < data.end() {
                return Ok(examine(&file).map(|after| attempt.judge(&after, false)));
            }
        }
        self.hole(attempt.size().saturating_sub(at))?;
        Ok(examine(&file).map(|after| attempt.judge(&after, true)))
    }

    // Sends a piece of data; returns where it really ended.
    fn data(&mut self, file: &OwnedFd, data: Extent) -> Sent<Result<u64, Errno>> {
        let mut at = data.offset;
        if let Err(errno) = rustix::fs::seek(file, SeekFrom::Start(at)) {
            return Ok(Err(errno));
        }
        while at < data.end() {
            if self.line.is_shut_down() {
                return Err(Closed);
            }
            match self.next_bytes(file, data.end() - at) {
                Ok(bytes) if bytes.is_empty() => break,
                Ok(bytes) => {
                    at += bytes.len() as u64;
                    // No stream of the helper brings them.
                    self.line.progress(bytes.len() as u64);
                    self.arrived.send(FetchEvent::Data { id: self.wanted.id, bytes })?;
                }
                Err(errno) => return Ok(Err(errno)),
            }
        }
        Ok(Ok(at))
    }

    fn hole(&self, length: u64) -> Sent<()> {
        if length > 0 { self.arrived.send(FetchEvent::Hole { id: self.wanted.id, length }) } else { Ok(()) }
    }

    fn next_bytes(&mut self, file: &OwnedFd, left: u64) -> Result<Vec<u8>, Errno> {
        thread::sleep(self.pace.delay());
        let length = usize::try_from(left).map_or(CHUNK, |left| left.min(self.pace.slice(CHUNK)));
        self.pace.spend(length);
        let mut bytes = Vec::with_capacity(length);
        rustix::io::retry_on_intr(|| rustix::io::read(file, rustix::buffer::spare_capacity(&mut bytes)))?;
        Ok(bytes)
    }
}

// Not blocking, so that a fifo in the file's place is no trap.
fn open(wanted: &FetchJob) -> Result<(OwnedFd, Found), ReadError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(wanted.path.as_bytes(), flags, Mode::empty()) {
        Ok(file) => examine(&file).map(|found| (file, found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Err(ReadError::Vanished),
        Err(Errno::LOOP | Errno::NXIO) => Err(ReadError::irregular()),
        Err(errno) => Err(refused(errno)),
    }
}

fn examine(file: &OwnedFd) -> Result<Found, ReadError> {
    let stat = rustix::fs::fstat(file).map_err(refused)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ReadError::irregular());
    }
    let mtime = Mtime::Exact(Time::new(stat.st_mtime, stat.st_mtime_nsec as i64));
    Ok(Found { size: stat.st_size as u64, mtime, uid: Some(stat.st_uid) })
}

fn refused(errno: Errno) -> ReadError {
    ReadError::from_errno(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use rustix::fs::CWD;

    use super::*;
    use crate::client::FileState;
    use crate::client::stream::Ends;
    use crate::client::testing::{Got, assert_read, collect, listed, noise, state};

    fn line() -> Traffic {
        Traffic::new(Duration::ZERO, None)
    }

    fn read(files: Vec<FetchJob>, see: impl FnMut(&FetchEvent)) -> HashMap<u64, Got> {
        collect(files, see, |wanted, arrived| read_files(wanted, arrived, None, &line())).1
    }

    fn write(path: &Path, bytes: &[u8]) -> FetchJob {
        fs::write(path, bytes).unwrap();
        listed(0, path)
    }

    #[test]
    fn files_of_every_size_arrive_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for (id, size) in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5_000_001].into_iter().enumerate() {
            let wanted = write(&directory.path().join(id.to_string()), &noise(size));
            files.push(FetchJob { id: id as u64, ..wanted });
        }
        let got = read(files.clone(), |_| ());
        for wanted in &files {
            assert_read(&got[&wanted.id], wanted, &noise(wanted.size as usize));
        }
    }

    #[test]
    fn what_is_not_as_listed_is_read_again_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let truth = write(&directory.path().join("file"), &noise(300_000));
        let files = vec![
            FetchJob { id: 0, size: 10, ..truth.clone() },
            FetchJob { id: 1, size: 900_000, ..truth.clone() },
            FetchJob { id: 2, mtime: Time::from(truth.mtime.clamped() - 1), ..truth.clone() },
            FetchJob { id: 3, uid: truth.uid + 1, ..truth.clone() },
        ];
        let got = read(files, |_| ());
        for id in 0..3 {
            assert_eq!(got[&id].end, Some(Ok((state(&truth), true))), "{id}");
            assert_eq!(got[&id].restarts, 1, "{id}");
            assert!(got[&id].bytes == noise(300_000), "{id}");
        }
        assert!(matches!(&got[&3].end, Some(Err(ReadError::Refused(why))) if why.contains("owner")));
    }

    #[test]
    fn reading_is_progress_of_the_client() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = write(&directory.path().join("file"), &noise(100_000));
        let line = Arc::new(Traffic::new(Duration::ZERO, Some(Duration::from_millis(300))));
        let (mut idle, _output) = Ends::new().unwrap().0.counted(Arc::clone(&line)).unwrap();
        thread::sleep(Duration::from_millis(400));
        collect(vec![wanted], |_| (), |wanted, arrived| read_files(wanted, arrived, None, &line));
        // A helper that waits for something to hash says that it is alive.
        assert!(idle.note(0, false).is_ok());
        thread::sleep(Duration::from_millis(400));
        assert!(idle.note(0, false).is_err());
    }

    #[test]
    fn a_file_that_keeps_growing_ends_inconsistent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("growing");
        let wanted = write(&path, &noise(20_000_000));
        let got = read(vec![wanted], |_| {
            fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        });
        assert_eq!(got[&0].restarts, 2);
        assert!(matches!(got[&0].end, Some(Ok((FileState { size, .. }, false))) if size > 20_000_000));
        assert!(got[&0].bytes.len() >= 20_000_000);
    }

    #[test]
    fn what_is_no_file_any_more_says_so_and_hangs_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let good = write(&at("good"), b"content");
        fs::create_dir(at("directory")).unwrap();
        symlink("good", at("symlink")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let files = ["directory", "symlink", "fifo", "socket"].into_iter().zip(1..);
        let files = files.map(|(name, id)| FetchJob { path: listed(id, &at(name)).path, id, ..good.clone() });
        let gone = FetchJob { id: 5, path: listed(0, &at("good")).path, ..good.clone() };
        let gone = FetchJob { path: gone.path.join(&crate::path::Name::new("below").unwrap()).unwrap(), ..gone };
        let got = read(files.chain([gone, good.clone()]).collect(), |_| ());
        for id in 1..5 {
            let irregular = Err(ReadError::Refused("is no longer a regular file".to_owned()));
            assert_eq!(got[&id].end, Some(irregular), "{id}");
        }
        assert_eq!(got[&5].end, Some(Err(ReadError::Vanished)));
        assert_read(&got[&0], &good, b"content");
    }

    #[test]
    fn the_bandwidth_limit_is_kept_and_used() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = write(&directory.path().join("file"), &noise(2_000_000));
        let start = Instant::now();
        collect(vec![wanted], |_| (), |wanted, arrived| read_files(wanted, arrived, Some(2_000_000), &line()));
        let seconds = start.elapsed().as_secs_f64();
        // A busy machine may be late, never early.
        assert!((0.95..2.0).contains(&seconds), "{seconds} s");
    }
}
