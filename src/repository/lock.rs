//! Locks: one writer for each source, and some work that wants the whole repository for itself.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Repository;
use super::dirs::{is_without_flock, take_records};
use crate::error::{Error, Kind, OnServer, Result};
use crate::fault::lacks;
use crate::path::{Name, SourceName};

const RETRY: Duration = Duration::from_millis(100);

/// A lock that is held until it is dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    _held: Vec<FileLock>,
}

impl Lock {
    /// Locks one source for writing. Waits at most `patience` for another holder.
    pub fn source(repository: &Repository, source: &SourceName, patience: Duration) -> Result<Lock> {
        let deadline = Instant::now() + patience;
        let all = acquire(repository, &whole(), FlockArg::LockSharedNonblock, deadline, "the repository")?;
        let name = Name::new(format!("{source}.lock")).expect("a source's name is short");
        let one = acquire(repository, &name, FlockArg::LockExclusiveNonblock, deadline, &format!("source `{source}`"))?;
        Lock { _held: vec![all, one] }.signed()
    }

    /// Locks the whole repository for writing.
    pub fn repository(repository: &Repository, patience: Duration) -> Result<Lock> {
        let deadline = Instant::now() + patience;
        let all = acquire(repository, &whole(), FlockArg::LockExclusiveNonblock, deadline, "the repository")?;
        Lock { _held: vec![all] }.signed()
    }

    // Writes who holds it into the innermost lock file, for the message to whoever comes second.
    fn signed(mut self) -> Result<Lock> {
        let file = self._held.last_mut().expect("a lock holds a file").file();
        let text =
            format!("pid {} since {}\n", std::process::id(), jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ"));
        let written = file
            .rewind()
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| file.set_len(text.len() as u64))
            .on_server("can't write the lock file");
        match written {
            // On a full disk it is held unsigned, so that room can be made.
            Err(error) if error.kind() == Kind::Full => Ok(self),
            other => other.map(|()| self),
        }
    }
}

/// A locked file: by `flock`, or where the file system has no `flock` by a record lock of the whole file.
#[derive(Debug)]
pub(super) enum FileLock {
    Flock(Flock<File>),
    Records(File),
}

impl FileLock {
    /// Locks a file that is open to read and write; gives it back with `EWOULDBLOCK` when another holds it.
    pub(super) fn take(file: File, how: FlockArg) -> std::result::Result<FileLock, (File, Errno)> {
        let locked = if lacks("flock") { Err((file, Errno::ENOLCK)) } else { Flock::lock(file, how) };
        match locked {
            Ok(lock) => Ok(FileLock::Flock(lock)),
            Err((file, errno)) if is_without_flock(errno) => FileLock::take_records(file, how),
            Err(failed) => Err(failed),
        }
    }

    fn take_records(file: File, how: FlockArg) -> std::result::Result<FileLock, (File, Errno)> {
        let is_shared = matches!(how, FlockArg::LockShared | FlockArg::LockSharedNonblock);
        let waits = matches!(how, FlockArg::LockShared | FlockArg::LockExclusive);
        match take_records(&file, if is_shared { nix::libc::F_RDLCK } else { nix::libc::F_WRLCK }, waits) {
            Ok(()) => Ok(FileLock::Records(file)),
            Err(Errno::EACCES) => Err((file, Errno::EWOULDBLOCK)),
            Err(errno) => Err((file, errno)),
        }
    }

    /// The file.
    pub(super) fn file(&mut self) -> &mut File {
        match self {
            FileLock::Flock(lock) => lock,
            FileLock::Records(file) => file,
        }
    }
}

fn whole() -> Name {
    Name::new("repository").expect("it is a name")
}

fn acquire(repository: &Repository, name: &Name, how: FlockArg, deadline: Instant, what: &str) -> Result<FileLock> {
    repository.check_is_writable()?;
    repository.probe_file_system()?;
    let locks = repository.locks()?;
    let mut file = open(&locks, name).on_server("can't open the lock file").map_err(|error| error.at(shown(name)))?;
    loop {
        match FileLock::take(file, how) {
            Ok(lock) => return Ok(lock),
            Err((returned, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                file = returned;
                std::thread::sleep(RETRY);
            }
            // Holders that share a lock don't sign it: what stands there is of an earlier one.
            Err((_, Errno::EWOULDBLOCK)) if *name == whole() && how == FlockArg::LockExclusiveNonblock => {
                return Err(locked(what, &mut std::io::empty()));
            }
            Err((mut held, Errno::EWOULDBLOCK)) => return Err(locked(what, &mut held)),
            Err((_, errno)) => return Err(Error::server("can't lock", errno.into()).at(shown(name))),
        }
    }
}

fn shown(name: &Name) -> String {
    format!("lock/{}", crate::path::Escaped(name.as_bytes()))
}

fn open(locks: &super::dirs::Dir, name: &Name) -> nix::Result<File> {
    match locks.create_file(name) {
        Err(Errno::EEXIST) => locks.open_file_to_write(name),
        other => other,
    }
}

fn locked(what: &str, held: &mut impl Read) -> Error {
    let mut holder = String::new();
    let said = held.take(200).read_to_string(&mut holder);
    let holder = match said {
        Ok(_) if !holder.trim().is_empty() => format!(" ({})", holder.trim()),
        _ => String::new(),
    };
    Error::new(Kind::Locked, format_args!("{what} is in use by another run{holder}"))
        .hint("wait for it to end, or give `--lock-wait 10m`")
}
