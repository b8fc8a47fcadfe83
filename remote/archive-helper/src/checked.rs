//! A file opened for the server: only as long as it is what was listed.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::protocol::AbsPath;
use crate::system;

/// An open file that had the listed size and mtime when it was opened.
#[derive(Debug)]
pub struct Checked {
    file: OwnedFd,
    size: u64,
    mtime: i64,
}

/// Why a file is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Size, mtime or kind are no longer as listed.
    Changed,
    /// It is gone.
    Vanished,
    /// It can't be read: the system's error number.
    Failed(i32),
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Unfit {
        match errno {
            Errno::NOENT | Errno::NOTDIR => Unfit::Vanished,
            // A link or a socket has taken its place.
            Errno::LOOP | Errno::NXIO => Unfit::Changed,
            errno => Unfit::Failed(errno.raw_os_error()),
        }
    }
}

impl Checked {
    /// Opens a file that was listed with this size and mtime (nanoseconds).
    pub fn open(path: &AbsPath, size: u64, mtime: i64) -> Result<Checked, Unfit> {
        let checked = Checked { file: system::open_file(path.as_bytes())?, size, mtime };
        checked.check()?;
        Ok(checked)
    }

    /// Reads it to its end, calling `each` with every piece; it must still be what was listed then.
    pub fn read(&self, buffer: &mut [u8], mut each: impl FnMut(&[u8])) -> Result<(), Unfit> {
        let mut size = 0;
        loop {
            let count = rustix::io::read(&self.file, &mut *buffer)?;
            each(&buffer[..count]);
            size += count as u64;
            // A short read of a regular file is its end; another would only say so again.
            if count < buffer.len() || size > self.size {
                break;
            }
        }
        if size == self.size { self.check() } else { Err(Unfit::Changed) }
    }

    fn check(&self) -> Result<(), Unfit> {
        let stat = rustix::fs::fstat(&self.file)?;
        let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
        let mtime = stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64);
        let as_listed = is_file && stat.st_size as u64 == self.size && mtime == self.mtime;
        if as_listed { Ok(()) } else { Err(Unfit::Changed) }
    }
}
