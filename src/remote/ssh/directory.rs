//! The directories of connections: each holds ssh's control socket and its generated configuration.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::{OnServer, Result};

// The longest path of a control directory for which the socket's own still fits (see unix(7)).
const MAX_CONTROL_PATH_BYTES: usize = 55;

const PREFIX: &str = "archive-ssh-";

// A directory that is younger may not be locked yet.
const MIN_LEFT_OVER_AGE: Duration = Duration::from_secs(24 * 3600);

// Every one that was made by this process.
static CONTROL_DIRECTORIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A control directory, removed when it is dropped. It is locked as long: for other pulls, and for systemd-tmpfiles(8).
#[derive(Debug)]
pub(super) struct ControlDirectory {
    directory: tempfile::TempDir,
    _lock: File,
}

impl ControlDirectory {
    /// Makes one, and removes those of processes that were killed.
    pub(super) fn create() -> Result<ControlDirectory> {
        let mut preferred =
            std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).into_iter().chain([std::env::temp_dir()]);
        let fits = |directory: &PathBuf| {
            directory.as_os_str().len() + PREFIX.len() + "/XXXXXX".len() <= MAX_CONTROL_PATH_BYTES && directory.is_dir()
        };
        let parent = preferred.find(fits).unwrap_or_else(|| PathBuf::from("/tmp"));
        sweep(&parent);
        ControlDirectory::create_in(&parent)
    }

    fn create_in(parent: &Path) -> Result<ControlDirectory> {
        const WHAT: &str = "can't make a directory for ssh's control socket";
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).on_server(WHAT)?;
        CONTROL_DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner).push(directory.path().to_owned());
        let lock = File::open(directory.path()).on_server(WHAT)?;
        lock.lock().on_server(WHAT)?;
        Ok(ControlDirectory { directory, _lock: lock })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes all directories of this process, which is about to end.
pub(super) fn remove_all() {
    for directory in CONTROL_DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // One that was closed in good order is gone already.
        let _ = std::fs::remove_dir_all(directory);
    }
}

// What a process that was killed could not remove. Its ssh is gone by then.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let path = entry.path();
        if is_left_over(&path) {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

// The lock ends with the process that holds it, however long that runs.
fn is_left_over(path: &Path) -> bool {
    let Ok(found) = std::fs::symlink_metadata(path) else { return false };
    let old = found.modified().is_ok_and(|then| then.elapsed().is_ok_and(|age| age > MIN_LEFT_OVER_AGE));
    let ours = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && path.join("config").is_file();
    old && ours && File::open(path).is_ok_and(|directory| directory.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(path: &Path, hours: u64) {
        std::fs::write(path.join("config"), "").unwrap();
        let then = std::time::SystemTime::now() - Duration::from_secs(hours * 3600);
        File::open(path).unwrap().set_modified(then).unwrap();
    }

    fn left(parent: &Path) -> Vec<std::ffi::OsString> {
        let mut left: Vec<_> = std::fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        left
    }

    #[test]
    fn only_what_killed_processes_left_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, hours: u64| {
            let path = parent.path().join(name);
            std::fs::create_dir(&path).unwrap();
            age(&path, hours);
            path
        };
        make("archive-ssh-old", 25);
        make("archive-ssh-young", 23);
        std::fs::remove_file(make("archive-ssh-other", 25).join("config")).unwrap();
        age(&parent.path().join("archive-ssh-young"), 23);
        let other = parent.path().join("archive-ssh-other");
        let then = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
        File::open(&other).unwrap().set_modified(then).unwrap();
        make("archive", 25);
        sweep(parent.path());
        assert_eq!(left(parent.path()), ["archive", "archive-ssh-other", "archive-ssh-young"]);
    }

    #[test]
    fn directory_of_a_running_pull_stays_however_old() {
        let parent = tempfile::tempdir().unwrap();
        let directory = ControlDirectory::create_in(parent.path()).unwrap();
        age(directory.path(), 100);
        sweep(parent.path());
        assert!(directory.path().is_dir());
        let path = directory.path().to_owned();
        // As after a kill: the lock is gone, the directory remains.
        let ControlDirectory { directory, _lock } = directory;
        drop((directory.keep(), _lock));
        sweep(parent.path());
        assert!(!path.exists());
    }
}
