//! File systems that are mounted for one test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs; it is gone with this value.
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Mounts an empty tmpfs on a directory, which only root may do; `options` as for `mount -o`.
    pub fn tmpfs(point: &Path, options: &str) -> Mount {
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(point).status().unwrap();
        assert!(done.success(), "can't mount on {}", point.display());
        Mount { point: point.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, for a test that failed may have left something open.
        let _ = Command::new("umount").arg("-l").arg(&self.point).status();
    }
}
