//! What the tests of all ways to read files share: files as listings have them, and what came of them.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use crate::client::{FetchEvent, FetchJob, FileState, ReadError};
use crate::entry::Time;
use crate::path::AbsPath;
use crate::queue::{Receiver, Sender, bounded_by_number};

/// What came of one file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Got {
    pub(super) bytes: Vec<u8>,
    pub(super) restarts: usize,
    pub(super) end: Option<Result<(FileState, bool), ReadError>>,
}

impl Got {
    fn take(&mut self, arrived: FetchEvent) {
        assert_eq!(self.end, None, "nothing comes after the end");
        match arrived {
            FetchEvent::Data { bytes, .. } => {
                assert!((1..=262_144).contains(&bytes.len()));
                self.bytes.extend(bytes);
            }
            FetchEvent::Hole { length, .. } => self.bytes.resize(self.bytes.len() + length as usize, 0),
            FetchEvent::Restart { .. } => {
                self.restarts += 1;
                self.bytes.clear();
            }
            FetchEvent::End { state, consistent, .. } => self.end = Some(Ok((state, consistent))),
            FetchEvent::Failed { error, .. } => self.end = Some(Err(error)),
            FetchEvent::Full { .. }
            | FetchEvent::AlreadySent { .. }
            | FetchEvent::FromBasis { .. }
            | FetchEvent::Speculative { .. } => {
                panic!("only the helper sends files so")
            }
        }
    }
}

/// Runs `read` with these files, all of which wait for it, and collects what comes; `see` sees each piece first.
pub(super) fn collect<T: Send>(
    files: Vec<FetchJob>,
    mut see: impl FnMut(&FetchEvent),
    read: impl FnOnce(&Receiver<FetchJob>, &Sender<FetchEvent>) -> T + Send,
) -> (T, HashMap<u64, Got>) {
    let (wanted, to_read) = bounded_by_number(files.len().max(1));
    files.into_iter().for_each(|file| wanted.send(file).unwrap());
    drop(wanted);
    let (to_collect, arrived) = bounded_by_number(16);
    thread::scope(|scope| {
        let reading = scope.spawn(move || read(&to_read, &to_collect));
        let mut got = HashMap::<u64, Got>::new();
        for arrived in arrived.iter() {
            see(&arrived);
            got.entry(arrived.id()).or_default().take(arrived);
        }
        (reading.join().unwrap(), got)
    })
}

/// The file as a listing would have it.
pub(super) fn listed(id: u64, path: &Path) -> FetchJob {
    let metadata = path.symlink_metadata().unwrap();
    let mtime = Time::new(metadata.mtime(), metadata.mtime_nsec());
    let path = AbsPath::new(path.as_os_str().as_bytes()).unwrap();
    FetchJob {
        id,
        path,
        size: metadata.len(),
        mtime,
        uid: metadata.uid(),
        offset: 0,
        dedup: false,
        data: None,
        basis: None,
    }
}

/// Bytes that differ everywhere, so that no misplaced one goes unseen.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u32 | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// The state that the listing tells of.
pub(super) fn state(wanted: &FetchJob) -> FileState {
    FileState { size: wanted.size, mtime: wanted.mtime, uid: wanted.uid }
}

/// Checks that a file came at once, whole, and in the state that it was listed in.
pub(super) fn assert_read(got: &Got, wanted: &FetchJob, bytes: &[u8]) {
    assert_eq!(got.end, Some(Ok((state(wanted), true))), "{wanted:?}");
    assert_eq!(got.restarts, 0, "{wanted:?}");
    assert!(got.bytes == bytes, "{wanted:?}: other bytes");
}
