//! Opens the index to read it only: where it is, or, where SQLite can't open it there, as a private copy.
//!
//! SQLite needs the files of the write-ahead log beside a database, and creates them. On read-only media, for a user who may
//! only read, and on a full disk it can't.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tempfile::TempDir;

use super::opening::{has_write_ahead_log, settle};
use super::{FILE_NAME, Index, OnIndex, PATIENCE, USER_VERSION, create_schema, migration};
use crate::error::{Error, Kind as ErrorKind, OnServer, Result, raw_errno};
use crate::repository::dirs::is_on_local_disk;

// What belongs to a database: itself, its write-ahead log, its rollback journal.
const PARTS: [&str; 3] = ["", "-wal", "-journal"];

// Files that have not changed for so long are copied: the time of a change is that of the kernel's last tick.
const SETTLED: Duration = Duration::from_millis(100);

// How long to wait until a writer pauses for long enough to copy what it writes.
const COPY_PATIENCE: Duration = Duration::from_secs(60);

// File systems that nothing but this machine's kernel writes to; a read-only one of them does not change.
const LOCAL: [&str; 12] =
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "iso9660", "udf", "squashfs", "erofs", "vfat", "tmpfs"];

const PREFIX: &str = "archive-index-";

// A directory of that name without a lock is one of a process that was killed, unless it was created just now.
const STALE: Duration = Duration::from_secs(60);

/// A private copy of the index, once one was needed. It is removed with the last that uses it.
pub type Copied = Mutex<Option<Arc<PrivateCopy>>>;

/// A directory with a copy of the index, locked while it is in use.
#[derive(Debug)]
pub struct PrivateCopy {
    dir: TempDir,
    _lock: Flock<File>,
}

/// Opens the index in a repository to read it only; `None` when it does not exist.
pub fn open(repository: &Path, copied: &Copied) -> Result<Option<Index>> {
    let path = repository.join(FILE_NAME);
    let what = format!("can't open the index `{}`", path.display());
    match File::open(&path) {
        Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::server(what, error)),
        Ok(_) => {}
    }
    let mut copied = copied.lock().unwrap_or_else(PoisonError::into_inner);
    if copied.is_none() {
        // Whoever may write carries a write-ahead log over that this file system is no place for.
        if has_write_ahead_log(repository) && !is_on_local_disk(repository) {
            let _ = Index::open(repository);
        }
        match open_in_place(&path) {
            Ok(index) if is_up_to_date(&index)? => return Ok(Some(index)),
            Ok(index) if index.is_writable() => match Index::open(repository) {
                Ok(_) => return open_in_place(&path).on_index(&what).map(Some),
                Err(error) if error.kind() == ErrorKind::Full => {}
                Err(error) => return Err(error),
            },
            Ok(_) => {}
            Err(error) if needs_copy(&error) => tracing::debug!("{what}: {error}; copies it"),
            Err(error) => return Err(error).on_index(&what),
        }
        *copied = Some(Arc::new(copy(repository)?));
    }
    let copy = copied.as_ref().expect("it was just made");
    let connection = Connection::open(copy.dir.path().join(FILE_NAME)).on_index(&what)?;
    prepare(&connection).on_index(&what)?;
    Ok(Some(Index { connection, copy: Some(Arc::clone(copy)) }))
}

// An older one must be brought up to date to be understood.
fn is_up_to_date(index: &Index) -> Result<bool> {
    let added = "SELECT count(*) FROM sqlite_master WHERE name IN ('attributes', 'listed', 'examined', 'verification')";
    match index.format()? {
        USER_VERSION => Ok(index.count(added)? == 4),
        older if older < USER_VERSION => Ok(false),
        version => Err(migration::newer(version)),
    }
}

// Others may write meanwhile, so all locks are taken. The files of the write-ahead log go with the last that has the
// database open, if that may write.
fn open_in_place(path: &Path) -> rusqlite::Result<Index> {
    let is_constant =
        is_on_read_only_media(path) && PARTS[1..].iter().all(|part| is_missing_or_empty(&beside(path, part)));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}{}", percent_encoded(path), if is_constant { "?immutable=1" } else { "" });
    let connection = Connection::open_with_flags(uri, flags)?;
    prepare(&connection)?;
    // The first that reads.
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    Ok(Index { connection, copy: None })
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "query_only", true)?;
    connection.busy_timeout(PATIENCE)?;
    settle(connection)
}

fn needs_copy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    code.is_some_and(|code| {
        matches!(
            code,
            ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
        )
    })
}

fn copy(repository: &Path) -> Result<PrivateCopy> {
    let mut first = None;
    for place in [std::env::temp_dir(), PathBuf::from("/dev/shm"), PathBuf::from("/var/tmp")] {
        let error = match copy_to(repository, &place) {
            Ok(copy) => return Ok(copy),
            Err(NoCopy::Unsuitable(error)) => error,
            Err(NoCopy::Failed(error)) if error.kind() == ErrorKind::Full => error,
            Err(NoCopy::Failed(error)) => return Err(error),
        };
        first = first.or(Some(error));
    }
    Err(first.expect("there are candidates").hint("set TMPDIR to a directory with room that you may write to"))
}

/// Why there is no copy of the index in a directory.
enum NoCopy {
    /// Nothing can be created there.
    Unsuitable(Error),
    /// The index can't be read, or the copy can't be completed.
    Failed(Error),
}

impl From<Error> for NoCopy {
    fn from(error: Error) -> NoCopy {
        NoCopy::Failed(error)
    }
}

fn copy_to(repository: &Path, place: &Path) -> std::result::Result<PrivateCopy, NoCopy> {
    let what = format!("can't copy the index to `{}`", place.display());
    remove_stale(place, STALE);
    let dir = private_dir(place).map_err(|error| NoCopy::Unsuitable(Error::server(&what, error)))?;
    let lock = File::open(dir.path()).on_server(&what)?;
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).on_server(&what)?;
    let deadline = Instant::now() + COPY_PATIENCE;
    while !copy_settled(repository, dir.path(), &what)? {
        if Instant::now() >= deadline {
            let text = format_args!("{what}: another process keeps writing to it");
            return Err(Error::new(ErrorKind::Failed, text).hint("repeat it when no pull is running").into());
        }
        std::thread::sleep(SETTLED);
    }
    // Takes over what the log has, or takes back what the journal says, so that each reader finds a database alone.
    let connection = Connection::open(dir.path().join(FILE_NAME)).on_index(&what)?;
    let mode = connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0));
    mode.on_index(&what)?;
    let index = Index { connection, copy: None };
    match index.format()? {
        0 => drop(create_schema(index.connection)?),
        1..=USER_VERSION => drop(migration::bring_up_to_date(index)?),
        version => return Err(migration::newer(version).into()),
    }
    Ok(PrivateCopy { dir, _lock: lock })
}

// Other users may not read the index: it has the names of all files.
fn private_dir(place: &Path) -> std::io::Result<TempDir> {
    let mode = fs::Permissions::from_mode(0o700);
    let dir = tempfile::Builder::new().prefix(PREFIX).permissions(mode.clone()).tempdir_in(place).map_err(plain)?;
    // The umask may have taken rights away.
    fs::set_permissions(dir.path(), mode)?;
    Ok(dir)
}

// The errors of `tempfile` name a path that nobody knows.
fn plain(error: std::io::Error) -> std::io::Error {
    raw_errno(&error).map_or(error, std::io::Error::from_raw_os_error)
}

fn create_private(path: &Path) -> std::io::Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

// What can't be removed is another user's, or in use.
fn remove_stale(place: &Path, age: Duration) {
    let uid = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(found) = entry.metadata() else { continue };
        let is_old =
            found.modified().is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|old| old >= age));
        if found.is_dir()
            && found.uid() == uid
            && is_old
            && let Ok(dir) = File::open(entry.path())
            && Flock::lock(dir, FlockArg::LockExclusiveNonblock).is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

// False when a writer was at work: then the parts may not belong together.
fn copy_settled(repository: &Path, to: &Path, what: &str) -> Result<bool> {
    let path = repository.join(FILE_NAME);
    let unreadable = |path: &Path| format!("can't read the index `{}`", path.display());
    let before = stamps(&path).on_server(unreadable(&path))?;
    let Some(before) = before else { return Ok(false) };
    for part in PARTS {
        let (from, to) = (beside(&path, part), beside(&to.join(FILE_NAME), part));
        match File::open(&from) {
            Ok(mut from) => {
                let mut to = create_private(&to).on_server(what)?;
                std::io::copy(&mut from, &mut to).on_server(what)?;
            }
            Err(error) if error.kind() == IoKind::NotFound => match fs::remove_file(to) {
                Err(error) if error.kind() != IoKind::NotFound => return Err(Error::server(what, error)),
                _ => {}
            },
            Err(error) => return Err(Error::server(unreadable(&from), error)),
        }
    }
    Ok(stamps(&path).on_server(unreadable(&path))?.as_ref() == Some(&before))
}

// What changes with each part; `None` while one has just been changed.
type Stamp = Option<(u64, u64, i64, i64, i64, i64)>;

fn stamps(path: &Path) -> std::io::Result<Option<Vec<Stamp>>> {
    let mut stamps = Vec::new();
    for part in PARTS {
        match fs::metadata(beside(path, part)) {
            Ok(found) => {
                let times = (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec());
                stamps.push(Some((found.ino(), found.size(), times.0, times.1, times.2, times.3)));
                // A clock that differs from the file system's makes a change look old or yet to come.
                if SystemTime::now().duration_since(found.modified()?).is_ok_and(|age| age < SETTLED) {
                    return Ok(None);
                }
            }
            Err(error) if error.kind() == IoKind::NotFound => stamps.push(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(stamps))
}

fn beside(path: &Path, part: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(part);
    PathBuf::from(name)
}

fn is_missing_or_empty(path: &Path) -> bool {
    fs::metadata(path).map_or_else(|error| error.kind() == IoKind::NotFound, |found| found.len() == 0)
}

// The file system itself must be read-only: where it is just mounted so, others may write by another mount.
fn is_on_read_only_media(path: &Path) -> bool {
    let (Ok(found), Ok(mounts)) = (fs::metadata(path), fs::read_to_string("/proc/self/mountinfo")) else {
        return false;
    };
    let (major, minor) = (nix::sys::stat::major(found.dev()), nix::sys::stat::minor(found.dev()));
    mounts.lines().any(|line| is_read_only_mount_of(line, &format!("{major}:{minor}")))
}

// See proc_pid_mountinfo(5): the options of the file system are the last field.
fn is_read_only_mount_of(line: &str, device: &str) -> bool {
    let Some((mount, file_system)) = line.split_once(" - ") else { return false };
    let mut fields = file_system.split(' ');
    let is_local = fields.next().is_some_and(|kind| LOCAL.contains(&kind));
    let is_read_only = fields.nth(1).is_some_and(|options| options.split(',').any(|option| option == "ro"));
    mount.split(' ').nth(2) == Some(device) && is_local && is_read_only
}

fn percent_encoded(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let encode = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") };
    path.as_os_str().as_bytes().iter().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_system_that_is_read_only_itself_counts_as_such() {
        let is = |line: &str| is_read_only_mount_of(line, "7:3");
        assert!(is("36 35 7:3 / /mnt ro,relatime shared:1 - iso9660 /dev/sr0 ro,nojoliet"));
        // Mounted read-only, and writable by another mount.
        assert!(!is("36 35 7:3 / /mnt ro,relatime - ext4 /dev/loop3 rw"));
        assert!(!is("36 35 7:4 / /mnt ro,relatime - ext4 /dev/loop4 ro"));
        assert!(!is("36 35 7:3 / /mnt ro,relatime - nfs4 server:/x ro,vers=4.2"));
        assert!(!is("36 35 7:3 / /mnt ro,relatime"));
    }

    #[test]
    fn only_copies_of_processes_that_have_ended_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let (used, left, other) = ("archive-index-used", "archive-index-left", "archive-other");
        [used, left, other].iter().for_each(|name| fs::create_dir(place.path().join(name)).unwrap());
        fs::write(place.path().join(left).join(FILE_NAME), "index").unwrap();
        let dir = File::open(place.path().join(used)).unwrap();
        let _lock = Flock::lock(dir, FlockArg::LockExclusive).unwrap();
        remove_stale(place.path(), STALE);
        assert!(place.path().join(left).exists(), "it was created just now");
        remove_stale(place.path(), Duration::ZERO);
        let remain = [used, left, other].map(|name| place.path().join(name).exists());
        assert_eq!(remain, [true, false, true]);
    }

    #[test]
    fn copy_is_not_taken_while_the_index_changes() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join(FILE_NAME), "index").unwrap();
        assert!(!copy_settled(from.path(), to.path(), "").unwrap());
        std::thread::sleep(SETTLED * 2);
        assert!(copy_settled(from.path(), to.path(), "").unwrap());
        fs::write(beside(&from.path().join(FILE_NAME), "-wal"), "log").unwrap();
        assert!(!copy_settled(from.path(), to.path(), "").unwrap());
    }

    #[test]
    fn copy_is_for_its_user_only() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop(Index::open(from.path()).unwrap());
        std::thread::sleep(SETTLED * 2);
        let copy = copy_to(from.path(), to.path()).unwrap_or_else(|_| panic!("it can be copied"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(copy.dir.path()), 0o700);
        for entry in fs::read_dir(copy.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
        assert!(copy.dir.path().join(FILE_NAME).exists());
    }
}
