//! What the repository's file system can do: found out once, and recorded in the file `file-system`.
//!
//! The record counts while the file system has the same device number and type, that is until it is mounted again or the
//! repository is moved. It can be removed at any time.

use std::io::{Read, Write};
use std::path::Path;

use jiff::Timestamp;
use nix::errno::Errno;

use super::dirs::{Dir, PROBE_PREFIX, Unfit};
use super::{Repository, random_key};
use crate::error::{Error, Kind, Result};
use crate::path::Name;
use crate::time::clamped_nanoseconds;

/// The record's name in the repository.
pub(super) const FILE_NAME: &[u8] = b"file-system";

// A probe takes milliseconds: what is older than this was left by one that was killed.
const STALE_NANOSECONDS: i64 = 60_000_000_000;

// The first line of a record; one of a program that looked for other things is not understood.
const HEADER: &str = "probe 2\n";

// A record is a good deal shorter.
const MAX_BYTES: u64 = 4096;

impl Repository {
    /// Takes over what is on record; without a record, what is usual for the type of the file system counts.
    pub(super) fn recall_file_system(&self) {
        // A record that can't be read is no record.
        let _ = recall(&self.base);
    }

    /// Finds out what the file system can do, unless that is on record. Refuses one that can't hold a repository.
    pub(super) fn probe_file_system(&self) -> Result<()> {
        if self.base.is_probed() { Ok(()) } else { probe(&self.path, &self.base) }
    }
}

/// Finds out what the file system of a repository can do, whose base is open, and records it.
pub(super) fn probe(path: &Path, base: &Dir) -> Result<()> {
    let probed = base.open_or_create(b"staging").map_err(Unfit::from).and_then(|staging| {
        remove_stale(&staging);
        let suffix = random_key().map_err(|_| Errno::EIO)?;
        staging.probe(&blake3::Hash::from_bytes(suffix).to_hex()[..8])
    });
    match probed {
        Ok(()) => {
            // Without a record the next run probes again.
            let _ = record(base);
            Ok(())
        }
        Err(Unfit::Lacks(why, hint)) => {
            let what = format_args!("can't keep a repository in `{}`: its file system {why}", path.display());
            Err(Error::new(Kind::Failed, what).hint(hint))
        }
        // A full disk, for example: what is usual for its type counts, and what is to be done next reports the error.
        Err(Unfit::Failed(_)) => Ok(()),
    }
}

// Removes the directories of probes that were killed. What can't be removed is in nobody's way.
fn remove_stale(staging: &Dir) {
    let oldest = clamped_nanoseconds(Timestamp::now()).saturating_sub(STALE_NANOSECONDS);
    for name in staging.names().unwrap_or_default().iter().filter(|name| is_probe(name)) {
        if staging.metadata(name).is_ok_and(|found| found.mtime.clamped() < oldest)
            && let Ok(probe) = staging.open(name.as_bytes())
        {
            let names = probe.names().unwrap_or_default();
            let _ = names.iter().try_for_each(|inside| probe.unlink(inside).or_else(|_| probe.remove_dir(inside)));
            let _ = staging.remove_dir(name);
        }
    }
}

/// True for a directory of staging that a probe works in.
pub(super) fn is_probe(name: &Name) -> bool {
    name.as_bytes().starts_with(PROBE_PREFIX.as_bytes())
}

fn recall(base: &Dir) -> nix::Result<()> {
    let mut text = String::new();
    let read = base.open_file(&name())?.take(MAX_BYTES).read_to_string(&mut text);
    read.map_err(|_| Errno::EIO)?;
    if let Some(record) = text.strip_prefix(HEADER) {
        base.recall(record, &base.open(b"staging")?.file_system_key()?);
    }
    Ok(())
}

fn record(base: &Dir) -> nix::Result<()> {
    let text = format!("{HEADER}{}{}", base.open(b"staging")?.file_system_key()?, base.abilities().to_text());
    match base.unlink(&name()) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    // Another process that records the same at this moment may have been faster.
    base.create_file(&name())?.write_all(text.as_bytes()).map_err(|_| Errno::EIO)
}

fn name() -> Name {
    Name::new(FILE_NAME).expect("it is a name")
}
