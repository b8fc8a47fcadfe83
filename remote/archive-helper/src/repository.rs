//! The server's repository, where the client is the server itself: it is neither listed nor restored into.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The file of a repository that holds its id, and how much of it is searched for that, in bytes.
pub const FORMAT: &[u8] = b"format";
/// See [`FORMAT`].
pub const FORMAT_HEAD: usize = 4096;

/// True when the head of a file of the name [`FORMAT`] says that its directory is the repository with this id; never for an
/// empty one.
pub fn is_repository(head: &[u8], id: &[u8]) -> bool {
    !id.is_empty() && head.windows(id.len()).any(|window| window == id)
}

/// True when a directory, or the nearest above it that exists, is in the repository with this id.
pub fn is_in_repository(path: &[u8], id: &[u8]) -> bool {
    let path = Path::new(OsStr::from_bytes(path));
    let Some(place) = path.ancestors().find_map(|above| above.canonicalize().ok()) else { return false };
    let holds = |directory: &Path| {
        let format = directory.join(OsStr::from_bytes(FORMAT));
        // Opening a fifo would wait.
        if !format.metadata().is_ok_and(|found| found.is_file()) {
            return false;
        }
        let mut head = Vec::new();
        let opened = std::fs::File::open(&format);
        let read = opened.and_then(|file| file.take(FORMAT_HEAD as u64).read_to_end(&mut head));
        read.is_ok() && is_repository(&head, id)
    };
    place.ancestors().any(holds)
}
