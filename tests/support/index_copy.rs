//! Copies of an index, as a careful administrator makes them: while nothing is written to it.

use std::fs;
use std::path::Path;

/// Copies an index with its write-ahead log from one directory to another, where nothing of an index remains.
pub fn copy_index(from: &Path, to: &Path) {
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = fs::remove_file(to.join(name));
    }
    for name in ["index.sqlite", "index.sqlite-wal"] {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}
