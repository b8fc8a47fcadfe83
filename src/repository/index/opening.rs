//! Opening the index to write.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::{CACHE_KIB, FILE_NAME, PATIENCE, error_on_index};
use crate::error::Error;
use crate::repository::dirs::{Dir, is_on_local_disk};

// Pages of 4 KiB that the write-ahead log gathers before they are carried over.
const CHECKPOINT_PAGES: i64 = 8192;

// Bytes that SQLite needs at least to open the index: the memory that processes share.
const OPENING_BYTES: u64 = 64 << 10;

/// The error for an index that is read-only. Nothing is opened to find the cause: closing the file again would drop SQLite's
/// locks.
pub(super) fn not_writable(path: &Path) -> Error {
    use nix::unistd::{AccessFlags, access};
    let errno = access(path, AccessFlags::W_OK).err().unwrap_or(nix::errno::Errno::EACCES);
    Error::server(format_args!("can't write the index `{}`", path.display()), errno.into()).at(path.display())
}

/// The error for an index that can't be opened. SQLite reports a used-up quota as a file that it can't open.
pub(super) fn not_opened(failed: &str, repository: &Path, error: rusqlite::Error) -> Error {
    let is_unopened = error.sqlite_error_code() == Some(rusqlite::ErrorCode::CannotOpen);
    let dir = Dir::open_base(repository).ok().filter(|_| is_unopened);
    match dir.map(|dir| dir.check_has_room_for(OPENING_BYTES)) {
        Some(Err(errno)) => Error::server(failed, errno.into()),
        Some(Ok(())) | None => error_on_index(failed, error),
    }
}

/// Waits for others that open a new index at the same time: SQLite does not wait for them where the log is made.
pub(super) fn patiently<T>(mut work: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match work() {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// Sets up a connection that writes.
pub(super) fn configure(connection: &Connection, repository: &Path) -> rusqlite::Result<()> {
    if is_on_local_disk(repository) {
        connection.pragma_update(None, "journal_mode", "WAL")?
    } else {
        leave_write_ahead_log(connection, repository)?
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "FILE")?;
    // The library is built to check foreign keys at every insert; here they tell a reader what belongs together.
    connection.pragma_update(None, "foreign_keys", "OFF")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    settle(connection)
}

// The write-ahead log needs memory that processes share. A process that has the database for itself does without, so that one
// of a repository that was moved can still be carried over.
fn leave_write_ahead_log(connection: &Connection, repository: &Path) -> rusqlite::Result<()> {
    if has_write_ahead_log(repository) {
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "DELETE")?;
        connection.pragma_update(None, "locking_mode", "NORMAL")?;
        // The lock ends with the next reading.
        return connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    }
    connection.pragma_update(None, "journal_mode", "DELETE")
}

/// True for a database with a write-ahead log, as its header says:
/// <https://www.sqlite.org/fileformat2.html#file_format_version_numbers>
pub(super) fn has_write_ahead_log(repository: &Path) -> bool {
    use std::io::Read;
    let mut header = [0; 20];
    let read = std::fs::File::open(repository.join(FILE_NAME)).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok() && header[18..20] == [2, 2]
}

/// Sets up any connection. Without the guarantee of stable plans, statements would be compiled again for every set of
/// parameters.
pub(super) fn settle(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}
