//! The directories of connections: each holds ssh's control socket and its generated configuration.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};

// The longest path of a control directory for which the socket's own still fits (see unix(7)).
const MAX_CONTROL_PATH_BYTES: usize = 55;

const PREFIX: &str = "archive-ssh-";

// Written when the directory is locked, so where it is and no lock, nobody uses the directory any more.
const CONFIG: &str = "config";

// An empty directory that is younger may not be locked yet.
const MIN_EMPTY_AGE: Duration = Duration::from_secs(3600);

// Room for what ssh writes: its log above all, bytes.
const ROOM: usize = 64 * 1024;

// Every one that was made by this process.
static CONTROL_DIRECTORIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A control directory, removed when it is dropped. It is locked as long: for other pulls, and for systemd-tmpfiles(8).
#[derive(Debug)]
pub(super) struct ControlDirectory {
    directory: tempfile::TempDir,
    _lock: File,
}

impl ControlDirectory {
    /// Makes one that holds this configuration, where there is room for it, and removes those of processes that were killed.
    pub(super) fn create(config: &str) -> Result<ControlDirectory> {
        let parents = parents();
        parents.iter().for_each(|parent| sweep(parent));
        let mut first = None;
        for parent in &parents {
            match ControlDirectory::create_in(parent, config) {
                Ok(directory) => return Ok(directory),
                Err(error) => {
                    tracing::debug!(parent = %parent.display(), %error, "can't hold ssh's control socket");
                    first.get_or_insert((parent, error));
                }
            }
        }
        const WHAT: &str = "can't make a directory for ssh's control socket";
        Err(match first {
            Some((parent, error)) => Error::server(format_args!("{WHAT} in `{}`", parent.display()), error),
            None => Error::new(Kind::Failed, format_args!("{WHAT}: no directory takes it")),
        }
        .hint("name another directory by TMPDIR"))
    }

    fn create_in(parent: &Path, config: &str) -> io::Result<ControlDirectory> {
        // Other users may not read ssh's log. The umask may have taken rights away.
        let mode = Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix(PREFIX).permissions(mode.clone()).tempdir_in(parent)?;
        std::fs::set_permissions(directory.path(), mode)?;
        let lock = File::open(directory.path())?;
        lock.lock()?;
        let path = directory.path().join(CONFIG);
        std::fs::write(&path, vec![b'\n'; ROOM])?;
        std::fs::write(&path, config)?;
        CONTROL_DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner).push(directory.path().to_owned());
        Ok(ControlDirectory { directory, _lock: lock })
    }

    /// The configuration in it.
    pub(super) fn config(&self) -> PathBuf {
        self.path().join(CONFIG)
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

// Where a control directory may be, the best first. That of another user may be replaced at any time (`su`, `sudo -E`).
fn parents() -> Vec<PathBuf> {
    let is_ours = |directory: &PathBuf| {
        std::fs::metadata(directory).is_ok_and(|found| found.uid() == nix::unistd::geteuid().as_raw())
    };
    let fits = |directory: &PathBuf| {
        directory.as_os_str().len() + PREFIX.len() + "/XXXXXX".len() <= MAX_CONTROL_PATH_BYTES && directory.is_dir()
    };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(is_ours);
    let usual = ["/tmp", "/var/tmp", "/dev/shm"].map(PathBuf::from);
    let mut parents = Vec::new();
    for parent in runtime.into_iter().chain([std::env::temp_dir()]).chain(usual).filter(fits) {
        if !parents.contains(&parent) {
            parents.push(parent);
        }
    }
    parents
}

fn sockets(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let below = std::fs::read_dir(directory).into_iter().flatten().flatten();
    below.map(|entry| entry.path().join("master")).filter(|socket| socket.exists())
}

/// Ends what listens in the directories of this process, which is about to end, and removes them.
pub(super) fn remove_all() {
    for directory in CONTROL_DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // One that was closed in good order is gone already.
        for socket in sockets(&directory) {
            super::master::exit(&socket);
        }
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
        } else if is_old(&path) {
            // Only if it is empty.
            let _ = std::fs::remove_dir(path);
        }
    }
}

// The lock ends with the process that holds it, however long that runs.
fn is_left_over(path: &Path) -> bool {
    let Ok(found) = std::fs::symlink_metadata(path) else { return false };
    let ours = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && path.join(CONFIG).is_file();
    ours && File::open(path).is_ok_and(|directory| directory.try_lock().is_ok())
}

fn is_old(path: &Path) -> bool {
    let modified = std::fs::symlink_metadata(path).and_then(|found| found.modified());
    modified.is_ok_and(|then| then.elapsed().is_ok_and(|age| age > MIN_EMPTY_AGE))
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
        make("archive-ssh-killed", 0);
        make("archive", 25);
        let without_config = |name: &str, hours: u64| {
            let path = make(name, 0);
            std::fs::remove_file(path.join(CONFIG)).unwrap();
            let then = std::time::SystemTime::now() - Duration::from_secs(hours * 3600);
            File::open(&path).unwrap().set_modified(then).unwrap();
            path
        };
        without_config("archive-ssh-begun", 0);
        without_config("archive-ssh-empty", 2);
        std::fs::write(without_config("archive-ssh-other", 2).join("precious"), "").unwrap();
        sweep(parent.path());
        assert_eq!(left(parent.path()), ["archive", "archive-ssh-begun", "archive-ssh-other"]);
    }

    #[test]
    fn directory_of_a_running_pull_stays_however_old() {
        let parent = tempfile::tempdir().unwrap();
        let directory = ControlDirectory::create_in(parent.path(), "Host *\n").unwrap();
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

    #[test]
    fn control_directory_is_for_its_user_only() {
        let parent = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        let directory = ControlDirectory::create_in(parent.path(), "").unwrap();
        assert_eq!(std::fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o700);
    }
}
