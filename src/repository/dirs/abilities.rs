//! What a file system can do, as far as the repository depends on it.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::sys::statfs::{FsType, fstatfs, statfs};
use nix::unistd::fsync;

use crate::entry::Time;
use crate::fault::lacks;

/// What was found out about a file system, by [`probe`](super::probe::probe) or from its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// `renameat2` with `RENAME_NOREPLACE` works and does refuse.
    pub moves: bool,
    /// Hard links work, and all names of an inode report the same number and the right count.
    pub links: bool,
    /// Symlinks can be hard-linked.
    pub symlink_links: bool,
    /// Symlinks have an mtime of their own, and setting it does not change what they point at.
    pub symlink_metadata: bool,
    /// Permission bits are kept.
    pub modes: bool,
    /// Owners are kept.
    pub owners: bool,
    /// An inode number and a ctime together identify a content: see [`Metadata::identifies`](super::Metadata::identifies).
    pub inodes: bool,
    /// `syncfs` waits until everything is on the disk, and not only until it was handed to a server.
    pub syncs: bool,
    /// The unit of mtimes, in nanoseconds.
    pub mtime_unit: i64,
    /// The oldest mtime that is kept, in seconds since 1970.
    pub oldest_mtime: i64,
    /// The newest.
    pub newest_mtime: i64,
}

/// Every ability that is yes or no, with its name in the repository's record.
type Named = (&'static str, fn(&mut Abilities) -> &mut bool);

const NAMED: [Named; 8] = [
    ("moves", |abilities| &mut abilities.moves),
    ("links", |abilities| &mut abilities.links),
    ("symlink-links", |abilities| &mut abilities.symlink_links),
    ("symlink-metadata", |abilities| &mut abilities.symlink_metadata),
    ("modes", |abilities| &mut abilities.modes),
    ("owners", |abilities| &mut abilities.owners),
    ("inodes", |abilities| &mut abilities.inodes),
    ("syncs", |abilities| &mut abilities.syncs),
];

const MTIME_UNIT: &str = "mtime-unit";
const OLDEST_MTIME: &str = "oldest-mtime";
const NEWEST_MTIME: &str = "newest-mtime";

impl Abilities {
    /// Those of a file system with this type until it is probed: a local one has all, any other none.
    pub(crate) fn assumed(kind: i64) -> Abilities {
        let mut abilities = Abilities {
            moves: true,
            links: true,
            symlink_links: true,
            symlink_metadata: true,
            modes: true,
            owners: true,
            inodes: true,
            syncs: true,
            mtime_unit: 1,
            oldest_mtime: i64::MIN,
            newest_mtime: i64::MAX,
        };
        if !is_local(kind) {
            NAMED.iter().for_each(|(_, field)| *field(&mut abilities) = false);
        }
        abilities
    }

    /// The nearest to an mtime of those that the file system keeps, not yet rounded to its unit.
    pub fn nearest(&self, mtime: Time) -> Time {
        mtime.clamp(Time::new(self.oldest_mtime, 0), Time::new(self.newest_mtime, 999_999_999))
    }

    /// True for an mtime that the file system keeps unchanged.
    pub fn keeps_exactly(&self, mtime: Time) -> bool {
        let is_edge = [self.oldest_mtime, self.newest_mtime].contains(&mtime.seconds()) && mtime.nanoseconds() > 0;
        self.nearest(mtime) == mtime && i128::from(mtime).rem_euclid(self.mtime_unit.into()) == 0 && !is_edge
    }

    /// True when `found` is what the file system makes of the mtime `wanted`.
    pub fn keeps(&self, found: Time, wanted: Time) -> bool {
        let kept = self.nearest(wanted);
        // The kernel clears the nanoseconds of the first and the last second.
        if [self.oldest_mtime, self.newest_mtime].contains(&kept.seconds()) {
            return found.seconds() == kept.seconds();
        }
        let units = |time: Time| i128::from(time).div_euclid(self.mtime_unit.into());
        units(found) == units(kept)
    }

    /// As lines of text.
    pub(in crate::repository) fn to_text(mut self) -> String {
        let line = |(name, field): &Named| format!("{name} {}\n", if *field(&mut self) { "yes" } else { "no" });
        let lines: String = NAMED.iter().map(line).collect();
        let Abilities { mtime_unit, oldest_mtime, newest_mtime, .. } = self;
        format!("{lines}{MTIME_UNIT} {mtime_unit}\n{OLDEST_MTIME} {oldest_mtime}\n{NEWEST_MTIME} {newest_mtime}\n")
    }

    /// From lines of text; `None` when one is missing or not understood.
    pub(super) fn from_text(text: &str) -> Option<Abilities> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let mut abilities = Abilities::assumed(0);
        for (name, field) in NAMED {
            *field(&mut abilities) = match value(name)? {
                "yes" => true,
                "no" => false,
                _ => return None,
            };
        }
        abilities.mtime_unit = value(MTIME_UNIT)?.parse().ok().filter(|unit| *unit > 0)?;
        abilities.oldest_mtime = value(OLDEST_MTIME)?.parse().ok().filter(|oldest| *oldest <= 0)?;
        abilities.newest_mtime = value(NEWEST_MTIME)?.parse().ok().filter(|newest| *newest > 0)?;
        Some(abilities)
    }
}

/// The file system of a repository, shared by all of its open directories.
#[derive(Debug)]
pub(super) struct FileSystem {
    known: OnceLock<Abilities>,
    assumed: Abilities,
    // Directories that changed since the last sync, by their descriptors; only where `syncfs` does not suffice.
    unsynced: Mutex<HashMap<i32, Arc<OwnedFd>>>,
    // Mtimes that were set, of which it has kept other ones.
    inexact_mtimes: AtomicU64,
}

// Directories that are held open to be synced later.
const MAX_UNSYNCED: usize = 64;

impl FileSystem {
    pub(super) fn of(directory: &OwnedFd) -> FileSystem {
        let assumed = Abilities::assumed(fstatfs(directory.as_fd()).map_or(0, |found| number(found.filesystem_type())));
        FileSystem { known: OnceLock::new(), assumed, unsynced: Mutex::default(), inexact_mtimes: AtomicU64::new(0) }
    }

    pub(super) fn abilities(&self) -> &Abilities {
        self.known.get().unwrap_or(&self.assumed)
    }

    pub(super) fn is_known(&self) -> bool {
        self.known.get().is_some()
    }

    pub(super) fn learn(&self, abilities: Abilities) {
        // Two threads that probe at once find the same.
        let _ = self.known.set(abilities);
    }

    /// Returns the mtime to set, and counts it if it is not kept exactly.
    pub(super) fn mtime_to_set(&self, mtime: Time) -> Time {
        let abilities = self.abilities();
        if !abilities.keeps_exactly(mtime) {
            self.inexact_mtimes.fetch_add(1, Ordering::Relaxed);
        }
        abilities.nearest(mtime)
    }

    /// How many mtimes were not kept exactly since this was asked last.
    pub(super) fn take_inexact_mtimes(&self) -> u64 {
        self.inexact_mtimes.swap(0, Ordering::Relaxed)
    }

    /// Notes that a directory has changed, so that the next [`sync`](FileSystem::sync) waits for it.
    pub(super) fn has_changed(&self, directory: &Arc<OwnedFd>) -> nix::Result<()> {
        if self.abilities().syncs {
            return Ok(());
        }
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        unsynced.insert(directory.as_raw_fd(), Arc::clone(directory));
        if unsynced.len() < MAX_UNSYNCED { Ok(()) } else { sync_all(&mut unsynced) }
    }

    /// Waits until the directories that have changed are on the disk.
    pub(super) fn sync(&self) -> nix::Result<()> {
        // Held until the end: another thread may be syncing what this one has to wait for.
        sync_all(&mut self.unsynced.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg(test)]
    pub(super) fn waits_for(&self, directory: &OwnedFd) -> bool {
        self.unsynced.lock().is_ok_and(|unsynced| unsynced.contains_key(&directory.as_raw_fd()))
    }
}

fn sync_all(directories: &mut HashMap<i32, Arc<OwnedFd>>) -> nix::Result<()> {
    directories.drain().try_for_each(|(_, directory)| match fsync(directory.as_fd()) {
        // A directory that is gone, or a file system that has no such call for directories.
        Err(Errno::ENOENT | Errno::ESTALE | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(()),
        other => other,
    })
}

/// True for a path on a file system of this machine alone, where processes share memory maps of a file, as SQLite's
/// write-ahead log needs it.
pub fn is_on_local_disk(path: &std::path::Path) -> bool {
    statfs(path).is_ok_and(|found| is_local(number(found.filesystem_type())))
}

/// True for a file system whose `syncfs` waits for the disk.
pub(super) fn syncs(kind: i64) -> bool {
    const NFS: i64 = 0x6969;
    const CEPH: i64 = 0x00c3_6400;
    // The kernel's clients of both have the server write everything to its disk; a FUSE server is not even asked.
    !lacks("syncfs") && (is_local(kind) || [NFS, CEPH].contains(&kind))
}

fn is_local(kind: i64) -> bool {
    // From linux/magic.h and the file systems' own headers.
    const LOCAL: [i64; 17] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // XFS
        0x9123_683e, // btrfs
        0x2fc1_2fc1, // ZFS
        0xf2f5_2010, // F2FS
        0xca45_1a4e, // bcachefs
        0x0102_1994, // tmpfs
        0x8584_58f6, // ramfs
        0x794c_7630, // overlayfs
        0x3153_464a, // JFS
        0x5265_4973, // ReiserFS
        0x3434,      // NILFS2
        0x2405_1905, // UBIFS
        0x4d44,      // FAT
        0x2011_bab0, // exFAT
        0x7366_746e, // NTFS, the kernel's
        0x482b,      // HFS+
    ];
    !lacks("local") && LOCAL.contains(&kind)
}

/// The type's number, which has 32 bits.
pub(super) fn number(kind: FsType) -> i64 {
    #[allow(clippy::unnecessary_cast)]
    let number = kind.0 as i64;
    number & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_gives_back_what_was_written() {
        let all = Abilities::assumed(0xef53);
        let few = Abilities {
            links: false,
            syncs: false,
            mtime_unit: 1_000_000_000,
            oldest_mtime: 0,
            newest_mtime: 9,
            ..all
        };
        for abilities in [all, few, Abilities::assumed(0)] {
            assert_eq!(Abilities::from_text(&abilities.to_text()), Some(abilities));
        }
    }

    #[test]
    fn damaged_record_is_not_believed() {
        let text = Abilities::assumed(0xef53).to_text();
        for damaged in [
            "",
            "moves yes\n",
            &text.replace("yes", "maybe"),
            &text.replace("unit 1", "unit 0"),
            &text.replace("newest-mtime ", "newest-mtime -"),
        ] {
            assert_eq!(Abilities::from_text(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn mtime_is_kept_within_the_unit() {
        let seconds = Abilities { mtime_unit: 1_000_000_000, ..Abilities::assumed(0) };
        let keeps = |abilities: Abilities, found: i64, wanted: i64| abilities.keeps(found.into(), wanted.into());
        assert!(keeps(seconds, 5_000_000_000, 5_999_999_999) && keeps(seconds, -1_000_000_000, -1));
        assert!(!keeps(seconds, 5_000_000_000, 6_000_000_000));
        assert!(!keeps(Abilities::assumed(0), 5_000_000_000, 5_000_000_001));
    }

    #[test]
    fn mtime_beyond_the_range_is_kept_as_the_nearest() {
        // Those of ext4.
        let (oldest, newest) = (-2_147_483_648, 15_032_385_535);
        let ext4 = Abilities { oldest_mtime: oldest, newest_mtime: newest, ..Abilities::assumed(0) };
        let year_3000 = Time::new(32_503_680_000, 5);
        assert!(
            ext4.keeps(Time::new(newest, 0), year_3000) && ext4.keeps(Time::new(oldest, 0), Time::new(i64::MIN, 0))
        );
        assert!(ext4.keeps(Time::new(newest, 0), Time::new(newest, 7)));
        assert!(!ext4.keeps(year_3000, year_3000) && !ext4.keeps(Time::new(newest - 1, 0), year_3000));
        assert!(!ext4.keeps(Time::new(5, 0), Time::new(5, 1)));
        assert!(ext4.keeps_exactly(Time::new(5, 1)) && ext4.keeps_exactly(Time::new(newest, 0)));
        assert!(!ext4.keeps_exactly(Time::new(newest, 7)) && !ext4.keeps_exactly(year_3000));
        let fat = Abilities { mtime_unit: 2_000_000_000, ..ext4 };
        assert!(fat.keeps_exactly(Time::new(4, 0)) && fat.keeps_exactly(Time::new(-4, 0)));
        assert!(!fat.keeps_exactly(Time::new(5, 0)) && !fat.keeps_exactly(Time::new(4, 1)));
        assert_eq!(ext4.nearest(Time::new(5, 1)), Time::new(5, 1));
        assert!(Abilities::assumed(0).keeps(year_3000, year_3000));
        assert!(!Abilities::assumed(0).keeps(year_3000, Time::new(32_503_680_000, 6)));
    }
}
