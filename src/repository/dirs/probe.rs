//! Finds out what a file system can do, by trying it in a directory of its own.

use std::fs::File;
use std::io::Write;

use filetime::FileTime;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;

use super::abilities::{Abilities, number, syncs};
use super::{Dir, change_mode, change_owner, metadata_of, set_file_mtime};
use crate::entry::{Kind, Time};
use crate::fault::{self, lacks};
use crate::path::Name;

/// The names of directories that a probe works in begin so.
pub(in crate::repository) const PREFIX: &str = ".probe-";

// A directory of a probe that is older than the newest by this much, in nanoseconds, was left by a process that was killed.
const MAX_AGE: i64 = 600 * 1_000_000_000;

// An mtime with a digit in each unit down to the nanosecond: 2001-09-09 and some.
const SECONDS: i64 = 1_000_000_001;
const NANOSECONDS: u32 = 123_456_789;
const MTIME: i64 = SECONDS * 1_000_000_000 + NANOSECONDS as i64;

// What file systems may keep as their oldest and newest mtimes, in seconds: all, those of 64 bits of nanoseconds, those of
// 32 bits.
const OLDEST: [i64; 3] = [i64::MIN, i64::MIN / 1_000_000_000, i32::MIN as i64];
const NEWEST: [i64; 4] = [i64::MAX, i64::MAX / 1_000_000_000, u32::MAX as i64, i32::MAX as i64];

// Another one, for what must not change.
const OTHER: FileTime = FileTime::from_unix_time(1_100_000_000, 0);

/// Why a file system can't hold a repository.
#[derive(Debug)]
pub enum Unfit {
    /// What it does or lacks, and what helps.
    Lacks(&'static str, &'static str),
    /// A step of the probe failed.
    Failed(Errno),
}

const OTHER_LOCKS: &str = "keep it on another file system, or mount this one with locks that all its users share";
const OTHER_FILE_SYSTEM: &str = "keep it on another file system, such as ext4, XFS or btrfs";

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Unfit {
        Unfit::Failed(errno)
    }
}

impl From<std::io::Error> for Unfit {
    fn from(error: std::io::Error) -> Unfit {
        Unfit::Failed(Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)))
    }
}

impl Dir {
    /// Finds out what the file system of this directory can do, in a directory `.probe-SUFFIX`. All directories that were opened
    /// by way of the same base act accordingly then. Removes what earlier probes left.
    pub fn probe(&self, suffix: &str) -> Result<(), Unfit> {
        fault::step()?;
        let name = name(&format!("{PREFIX}{suffix}"));
        self.create_dir(&name, 0o700)?;
        let found = self.open(name.as_bytes()).map_err(Unfit::from).and_then(|dir| Probe { dir: &dir }.all());
        self.clear_probes(&name);
        self.file_system.learn(found?);
        Ok(())
    }

    // What can't be removed is left to a later probe.
    fn clear_probes(&self, own: &Name) {
        let Ok(names) = self.names() else { return };
        let newest = self.stat(own).map_or(i64::MIN, |found| found.mtime.clamped());
        for name in names.iter().filter(|name| name.as_bytes().starts_with(PREFIX.as_bytes())) {
            let is_old = || self.stat(name).is_ok_and(|found| found.mtime.clamped() < newest.saturating_sub(MAX_AGE));
            if name == own || is_old() {
                let _ = self
                    .open(name.as_bytes())
                    .and_then(|dir| dir.names()?.iter().try_for_each(|inner| dir.unlink(inner)));
                let _ = self.remove_dir(name);
            }
        }
    }

    /// What identifies the file system of this directory until it is mounted again, as text.
    pub fn file_system_key(&self) -> nix::Result<String> {
        let (device, kind) = (fstat(self)?.st_dev, number(fstatfs(self)?.filesystem_type()));
        let lacking = if lacks("local") { " lacking" } else { "" };
        Ok(format!("device {device}\ntype {kind:#x}{lacking}\n"))
    }

    /// What was recorded of the file system under this key; false when that is something else.
    pub fn recall(&self, record: &str, key: &str) -> bool {
        let Some(abilities) = record.strip_prefix(key).and_then(Abilities::from_text) else { return false };
        self.file_system.learn(abilities);
        true
    }

    /// True when the file system was probed or its record was recalled.
    pub fn is_probed(&self) -> bool {
        self.file_system.is_known()
    }
}

struct Probe<'a> {
    dir: &'a Dir,
}

impl Probe<'_> {
    fn all(&self) -> Result<Abilities, Unfit> {
        self.locks()?;
        self.names()?;
        self.symlinks()?;
        let file = self.create("file")?;
        let (links, inodes) = self.links(&file)?;
        Ok(Abilities {
            moves: self.moves()?,
            links,
            symlink_links: links && self.symlink_links()?,
            symlink_metadata: self.symlink_metadata()?,
            modes: self.modes(&file)?,
            owners: self.owners(&file)?,
            inodes,
            syncs: syncs(number(fstatfs(self.dir)?.filesystem_type())),
            mtime_unit: self.mtime_unit(&file)?,
            oldest_mtime: self.kept_second(&file, &OLDEST, |found| found <= 0)?,
            newest_mtime: self.kept_second(&file, &NEWEST, |found| found > SECONDS)?,
        })
    }

    fn create(&self, text: &str) -> Result<File, Unfit> {
        let mut file = self.dir.create_file(&name(text))?;
        file.write_all(text.as_bytes())?;
        Ok(file)
    }

    // Names of a client that differ in case alone, or in how an accent is encoded, must not share a file.
    fn names(&self) -> Result<(), Unfit> {
        const PAIRS: [(&str, &str, &str); 2] = [
            ("case", "CASE", "takes names for the same that differ in case alone"),
            ("\u{e9}", "e\u{301}", "takes names for the same that differ in the encoding of an accent alone"),
        ];
        for (one, other, why) in PAIRS {
            match self.create(one) {
                Ok(_) if self.dir.stat(&name(other)).is_ok() || lacks(one) => {
                    return Err(Unfit::Lacks(why, OTHER_FILE_SYSTEM));
                }
                // One that takes no such names takes none for another.
                Ok(_) | Err(Unfit::Failed(Errno::EILSEQ | Errno::EINVAL)) => {}
                Err(unfit) => return Err(unfit),
            }
        }
        Ok(())
    }

    fn symlinks(&self) -> Result<(), Unfit> {
        let made = nix::unistd::symlinkat("target", self.dir, name("any-symlink").as_bytes());
        match if lacks("symlinks") { Err(Errno::EPERM) } else { made } {
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {
                Err(Unfit::Lacks("has no symlinks", OTHER_FILE_SYSTEM))
            }
            other => Ok(other?),
        }
    }

    // Without its flag some FUSE clients carry out the rename: what counts is that both names remain.
    fn moves(&self) -> Result<bool, Unfit> {
        let (one, other) = (name("one"), name("other"));
        drop((self.create("one")?, self.create("other")?));
        let is_refused = self.dir.rename_if_free(&one, self.dir, &other) == Err(Errno::EEXIST);
        let remain = self.dir.stat(&one).is_ok() && self.dir.stat(&other).is_ok_and(|other| other.size == 5);
        let is_done = self.dir.rename_if_free(&one, self.dir, &name("free")).is_ok();
        Ok(is_refused && remain && is_done && self.dir.stat(&name("free")).is_ok())
    }

    // Whether links work, and whether inode numbers and ctimes tell files apart. SFTP knows neither counts nor ctimes, and
    // a FUSE client without links to go by may give each name a number of its own.
    fn links(&self, file: &File) -> Result<(bool, bool), Unfit> {
        let (first, second) = (name("file"), name("link"));
        if self.dir.link_name(&first, self.dir, &second).is_err() {
            return Ok((false, false));
        }
        // By a fresh look at each name.
        let (one, other) = (self.dir.stat(&first)?, self.dir.stat(&second)?);
        let are_one = one.inode == other.inode && (one.links, other.links) == (2, 2);
        filetime::set_file_handle_times(file, None, Some(OTHER))?;
        let changed = self.dir.stat(&first)?;
        let is_own = changed.ctime != changed.mtime.clamped() && changed.inode == one.inode;
        Ok((are_one, are_one && is_own))
    }

    fn symlink_links(&self) -> Result<bool, Unfit> {
        let (link, second) = (name("symlink-one"), name("symlink-two"));
        if nix::unistd::symlinkat("file", self.dir, link.as_bytes()).is_err() {
            return Ok(false);
        }
        let linked = self.dir.link_name(&link, self.dir, &second);
        // Another one is what a server made that followed the symlink.
        Ok(linked.is_ok() && self.dir.stat(&second)?.kind == Kind::Symlink)
    }

    // Whether a symlink has an mtime of its own. SFTP's call follows it: a client's symlinks would change files of the server.
    fn symlink_metadata(&self) -> Result<bool, Unfit> {
        let (target, link) = (name("target"), name("symlink"));
        filetime::set_file_handle_times(&self.create("target")?, None, Some(OTHER))?;
        let before = self.dir.stat(&target)?.mtime;
        if nix::unistd::symlinkat("target", self.dir, link.as_bytes()).is_err() {
            return Ok(false);
        }
        let set = self.dir.set_mtime(&link, MTIME.into());
        let is_kept =
            self.dir.stat(&link)?.mtime.clamped().div_euclid(2_000_000_000) == MTIME.div_euclid(2_000_000_000);
        Ok(set.is_ok() && is_kept && self.dir.stat(&target)?.mtime == before)
    }

    fn modes(&self, file: &File) -> Result<bool, Unfit> {
        for mode in [0o640, 0o755, 0o600] {
            if change_mode(file, mode).is_err() || metadata_of(&fstat(file)?).mode != mode {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn owners(&self, file: &File) -> Result<bool, Unfit> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(true);
        }
        let found = change_owner(file, 1, 1).is_ok() && fstat(file)?.st_uid == 1;
        // What the process has no right to any more, it could not remove.
        let _ = change_owner(file, 0, 0);
        Ok(found)
    }

    fn mtime_unit(&self, file: &File) -> Result<i64, Unfit> {
        filetime::set_file_handle_times(file, None, Some(FileTime::from_unix_time(SECONDS, NANOSECONDS)))?;
        // The open file may know better than the server.
        let found = self.dir.stat(&name("file"))?.mtime.clamped();
        const UNITS: [i64; 8] =
            [1, 100, 1_000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000, 86_400_000_000_000];
        let keeps = |unit: &&i64| found.div_euclid(**unit) == MTIME.div_euclid(**unit);
        Ok(UNITS.iter().find(keeps).copied().unwrap_or(i64::MAX))
    }

    // The mtime that the file system makes of the first of these that it takes, in seconds. It must keep that one unchanged:
    // Linux sets the nearest that the file system can hold since version 5.4, but a server may keep other bits of it.
    fn kept_second(&self, file: &File, wanted: &[i64], is_likely: impl Fn(i64) -> bool) -> Result<i64, Unfit> {
        let set = |second| -> Result<Option<i64>, Unfit> {
            match set_file_mtime(file, Time::new(second, 0)) {
                Ok(()) => Ok(Some(self.dir.stat(&name("file"))?.mtime.seconds())),
                Err(_) => Ok(None),
            }
        };
        for second in wanted {
            if let Some(found) = set(*second)?.filter(|found| is_likely(*found))
                && set(found)? == Some(found)
            {
                return Ok(found);
            }
        }
        // Nothing is known of it: it gets what the client has.
        Ok(wanted[0])
    }

    fn locks(&self) -> Result<(), Unfit> {
        let first = self.create("lock")?;
        let second = self.dir.open_file_to_write(&name("lock"))?;
        let lock = |file: &File| take_records(file, nix::libc::F_WRLCK, false);
        let both = (lock(&first), lock(&second));
        match both {
            (Ok(()), Err(Errno::EAGAIN | Errno::EACCES)) => {}
            (Ok(()), Ok(())) => return Err(Unfit::Lacks("grants one lock to two holders", OTHER_LOCKS)),
            _ => return Err(Unfit::Lacks("has no record locks, which the index needs", OTHER_LOCKS)),
        }
        drop((first, second));
        let open = || self.dir.open_file_to_write(&name("lock"));
        let (first, second) = (lock_file(open()?), open()?);
        match first {
            Ok(_held) => match lock_file(second) {
                Err(Errno::EWOULDBLOCK) => Ok(()),
                Ok(_) => Err(Unfit::Lacks("grants one lock to two holders", OTHER_LOCKS)),
                Err(errno) => Err(errno.into()),
            },
            // Record locks take its place: see `FileLock`.
            Err(errno) if is_without_flock(errno) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// True for what `flock` says where there is none.
pub(in crate::repository) fn is_without_flock(errno: Errno) -> bool {
    matches!(errno, Errno::ENOLCK | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EINVAL)
}

/// Takes a record lock of a whole file, `F_WRLCK` or `F_RDLCK`; fails with `EAGAIN` or waits while another holds it. It ends
/// when the file is closed.
pub(in crate::repository) fn take_records(file: &File, kind: i32, waits: bool) -> nix::Result<()> {
    if lacks("record-locks") {
        return Err(Errno::ENOLCK);
    }
    if lacks("exclusion") {
        return Ok(());
    }
    let whole = nix::libc::flock {
        l_type: kind as nix::libc::c_short,
        l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let how = if waits { FcntlArg::F_OFD_SETLKW(&whole) } else { FcntlArg::F_OFD_SETLK(&whole) };
    fcntl(file, how).map(drop)
}

fn lock_file(file: File) -> nix::Result<Flock<File>> {
    if lacks("flock") {
        return Err(Errno::ENOLCK);
    }
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name of a probe is one")
}
