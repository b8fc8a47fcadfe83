use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::super::child::Helper;
use super::super::compression::LineSpeed;
use super::*;
use crate::client::stream::Traffic;
use crate::client::testing::{Got, assert_read, collect, listed, noise, state};
use crate::entry::Time;
use crate::source::CompressWhen;

/// Has a helper of this machine send these files.
fn read(files: Vec<FetchJob>, bytes_per_second: Option<u64>, see: impl FnMut(&FetchEvent)) -> HashMap<u64, Got> {
    let helper = Helper::new(None);
    let streams = helper.run(Arc::new(Traffic::new(Duration::from_secs(20), None))).unwrap();
    let (compress, speed) = (CompressWhen::Never, Arc::new(LineSpeed::new(CompressWhen::Never)));
    let conversation = Conversation::begin(streams, compress, speed).unwrap();
    let (result, got) =
        collect(files, see, |wanted, arrived| read_files(conversation, wanted, arrived, bytes_per_second));
    result.unwrap();
    helper.close();
    got
}

fn write(path: &Path, bytes: &[u8]) -> FetchJob {
    fs::write(path, bytes).unwrap();
    listed(0, path)
}

fn append(path: &Path, bytes: &[u8]) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn files_of_every_size_arrive_unchanged_with_and_without_a_limit() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (id, size) in [5_000_001, 0, 1, 131_071, 131_072, 131_073, 2_000_000].into_iter().enumerate() {
        let wanted = write(&directory.path().join(id.to_string()), &noise(size));
        files.push(FetchJob { id: id as u64, ..wanted });
    }
    for rate in [None, Some(20_000_000)] {
        let got = read(files.clone(), rate, |_| ());
        for wanted in &files {
            assert_read(&got[&wanted.id], wanted, &noise(wanted.size as usize));
        }
    }
}

#[test]
fn limit_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = write(&directory.path().join("file"), &noise(600_000));
    let began = Instant::now();
    read(vec![wanted], Some(400_000), |_| ());
    assert!((1.0..4.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
}

#[test]
fn rest_of_a_file_with_holes_arrives_at_its_offset() {
    let directory = tempfile::tempdir().unwrap();
    let content = [noise(200_000), vec![0; 300_000], noise(100_000), vec![0; 50_000]].concat();
    let whole = write(&directory.path().join("file"), &content);
    let data = [(0, 200_000), (500_000, 100_000)].map(|(offset, length)| Extent { offset, length });
    let wanted = FetchJob { offset: 150_000, data: Some(Arc::from(data)), ..whole };
    let mut holes = Vec::new();
    let got = read(vec![wanted.clone()], None, |arrived| {
        if let FetchEvent::Hole { length, .. } = arrived {
            holes.push(*length);
        }
    });
    assert_read(&got[&0], &wanted, &content[150_000..]);
    assert_eq!(holes, [300_000, 50_000]);
}

#[test]
fn file_that_is_not_as_listed_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let truth = write(&directory.path().join("file"), &noise(300_000));
    let files = vec![
        FetchJob { id: 0, size: 10, ..truth.clone() },
        FetchJob { id: 1, size: 900_000, ..truth.clone() },
        FetchJob { id: 2, mtime: Time::from(truth.mtime.clamped() - 1), ..truth.clone() },
        FetchJob { id: 3, uid: truth.uid + 1, ..truth.clone() },
    ];
    let got = read(files, None, |_| ());
    for id in 0..3 {
        assert_eq!(got[&id].end, Some(Ok((state(&truth), true))), "{id}");
        assert_eq!(got[&id].restarts, 1, "{id}");
        assert!(got[&id].bytes == noise(300_000), "{id}");
    }
    assert!(matches!(&got[&3].end, Some(Err(ReadError::Refused(why))) if why.contains("owner")));
}

#[test]
fn file_that_keeps_growing_ends_inconsistent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("growing");
    let wanted = write(&path, &noise(20_000_000));
    let got = read(vec![wanted], None, |_| append(&path, b"more"));
    assert_eq!(got[&0].restarts, 2);
    assert!(matches!(got[&0].end, Some(Ok((FileState { size, .. }, false))) if size > 20_000_000));
    assert!(got[&0].bytes.len() >= 20_000_000);
}

#[test]
fn file_that_keeps_shrinking_ends_with_what_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shrinking");
    let wanted = write(&path, &noise(30_000_000));
    let (mut attempts, mut cut) = (0, false);
    let got = read(vec![wanted], None, |arrived| match arrived {
        FetchEvent::Restart { .. } => (attempts, cut) = (attempts + 1, false),
        FetchEvent::Data { .. } if !cut => {
            fs::File::options().write(true).open(&path).unwrap().set_len(20_000_000 - attempts * 5_000_001).unwrap();
            cut = true;
        }
        _ => {}
    });
    assert_eq!(got[&0].restarts, 2);
    let left = 9_999_998;
    assert!(matches!(got[&0].end, Some(Ok((FileState { size, .. }, false))) if size == left), "{:?}", got[&0].end);
    assert!(got[&0].bytes == noise(30_000_000)[..left as usize]);
}

#[test]
fn vanished_or_replaced_file_is_reported_and_delays_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let file = write(&at("file"), b"content");
    let mut files = vec![FetchJob { id: 9, ..file.clone() }];
    for (id, name) in ["gone", "link", "fifo", "directory"].into_iter().enumerate() {
        let wanted = write(&at(name), b"x");
        fs::remove_file(at(name)).unwrap();
        files.push(FetchJob { id: id as u64, ..wanted });
    }
    std::os::unix::fs::symlink("file", at("link")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    fs::create_dir(at("directory")).unwrap();
    let got = read(files, None, |_| ());
    assert_eq!(got[&0].end, Some(Err(ReadError::Vanished)));
    for id in 1..4 {
        assert_eq!(got[&id].end, Some(Err(ReadError::irregular())), "{id}");
    }
    assert_read(&got[&9], &FetchJob { id: 9, ..file }, b"content");
}
