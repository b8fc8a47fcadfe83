//! Against OpenSSH's sftp-server.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use super::*;
use crate::queue::bounded_by_number;

const SERVER: &str = "/usr/lib/openssh/sftp-server";

struct Server {
    process: Child,
    stream: Option<UnixStream>,
}

impl Server {
    fn start() -> Server {
        assert!(Path::new(SERVER).exists(), "{SERVER} is missing: install Debian's package openssh-sftp-server");
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let process = Command::new(SERVER)
            .stdin(OwnedFd::from(theirs.try_clone().unwrap()))
            .stdout(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        Server { process, stream: Some(ours) }
    }

    fn sftp(&mut self, options: Options) -> Sftp<UnixStream, UnixStream> {
        let stream = self.stream.take().unwrap();
        Sftp::start(stream.try_clone().unwrap(), stream, options).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stream = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(files: Vec<FetchJob>, see: impl FnMut(&FetchEvent)) -> HashMap<u64, Got> {
    let mut server = Server::start();
    let mut sftp = server.sftp(Options::default());
    let (result, got) = collect(files, see, |wanted, arrived| sftp.read_files(wanted, arrived));
    result.unwrap();
    got
}

fn write(path: &Path, bytes: &[u8]) -> Vec<u8> {
    fs::write(path, bytes).unwrap();
    bytes.to_vec()
}

#[test]
fn five_thousand_small_files_and_some_large_ones_arrive_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let large = [0, 1, 32_767, 32_768, 261_119, 261_120, 261_121, 5 * 1024 * 1024 + 1, 40_000_000];
    let sizes = large.into_iter().chain((0..5000).map(|number| number * 7 % 8192));
    let mut files = Vec::new();
    let mut contents = Vec::new();
    for (number, size) in sizes.enumerate() {
        let path = directory.path().join(number.to_string());
        contents.push(write(&path, &noise(size)));
        files.push(listed(number as u64, &path));
    }
    let got = read(files.clone(), |_| ());
    assert_eq!(got.len(), files.len());
    for (wanted, bytes) in files.iter().zip(&contents) {
        assert_read(&got[&wanted.id], wanted, bytes);
    }
}

#[test]
fn names_are_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let names: [&[u8]; 4] = [b"new\nline", b"\xff\xfe latin \xe4", b"-rf *", &[b'x'; 255]];
    let mut files = Vec::new();
    for (number, name) in names.into_iter().enumerate() {
        let path = directory.path().join(OsStr::from_bytes(name));
        write(&path, name);
        files.push(listed(number as u64, &path));
    }
    let got = read(files.clone(), |_| ());
    for (wanted, name) in files.iter().zip(names) {
        assert_read(&got[&wanted.id], wanted, name);
    }
}

#[test]
fn a_connection_serves_several_calls() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    write(&path, b"content");
    let mut server = Server::start();
    let mut sftp = server.sftp(Options::default());
    for _ in 0..3 {
        let wanted = listed(7, &path);
        let (result, got) = collect(vec![wanted.clone()], |_| (), |wanted, arrived| sftp.read_files(wanted, arrived));
        result.unwrap();
        assert_read(&got[&7], &wanted, b"content");
    }
}

#[test]
fn a_file_that_comes_late_does_not_wait_for_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    write(&path, b"content");
    let mut server = Server::start();
    let mut sftp = server.sftp(Options::default());
    let (wanted, to_read) = bounded_by_number(1);
    let (to_collect, arrived) = bounded_by_number(1);
    thread::scope(|scope| {
        let reading = scope.spawn(move || sftp.read_files(&to_read, &to_collect));
        for id in 0..3 {
            wanted.send(listed(id, &path)).unwrap();
            assert!(matches!(arrived.recv_timeout(Duration::from_secs(20)), Ok(FetchEvent::Data { .. })));
            assert!(matches!(arrived.recv_timeout(Duration::from_secs(20)), Ok(FetchEvent::End { .. })));
        }
        drop(wanted);
        reading.join().unwrap().unwrap();
    });
}

#[test]
fn nobody_there_to_take_files_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    write(&path, b"content");
    let mut server = Server::start();
    let mut sftp = server.sftp(Options::default());
    let (wanted, to_read) = bounded_by_number(1);
    let (to_collect, _) = bounded_by_number(1);
    wanted.send(listed(0, &path)).unwrap();
    assert!(matches!(sftp.read_files(&to_read, &to_collect), Err(Broken::Unwanted)));
}

#[test]
fn what_is_not_as_listed_is_read_again_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let bytes = write(&path, &noise(300_000));
    let truth = listed(0, &path);
    let files = vec![
        FetchJob { id: 0, size: 10, ..truth.clone() },
        FetchJob { id: 1, size: 900_000, ..truth.clone() },
        FetchJob { id: 2, size: 0, ..truth.clone() },
        FetchJob { id: 3, uid: truth.uid + 1, ..truth.clone() },
        FetchJob { id: 4, mtime: Time::from(truth.mtime.clamped() - 1_000_000_000), ..truth.clone() },
    ];
    let got = read(files, |_| ());
    let whole_seconds = Time::new(truth.mtime.seconds(), 0);
    for id in [0, 1, 2, 4] {
        let mtime = if id == 4 { whole_seconds } else { truth.mtime };
        assert_eq!(got[&id].end, Some(Ok((FileState { mtime, ..state(&truth) }, true))), "{id}");
        assert_eq!(got[&id].restarts, 1, "{id}");
        assert!(got[&id].bytes == bytes, "{id}");
    }
    assert!(matches!(&got[&3].end, Some(Err(ReadError::Refused(why))) if why.contains("owner")));
}

#[test]
fn times_of_other_centuries_are_no_change() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (id, seconds) in [-315_619_200, -1, 0, 4_102_444_800, 5_000_000_000, 12_000_000_000].into_iter().enumerate() {
        let path = directory.path().join(id.to_string());
        write(&path, b"x");
        filetime::set_file_mtime(&path, filetime::FileTime::from_unix_time(seconds, 123_456_789)).unwrap();
        files.push(listed(id as u64, &path));
    }
    let got = read(files.clone(), |_| ());
    for wanted in &files {
        assert_read(&got[&wanted.id], wanted, b"x");
    }
}

#[test]
fn a_file_that_keeps_growing_ends_inconsistent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("growing");
    write(&path, &noise(30_000_000));
    let wanted = listed(0, &path);
    let grow = |_: &FetchEvent| {
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"more").unwrap();
    };
    let got = read(vec![wanted], grow);
    assert_eq!(got[&0].restarts, 2);
    assert!(matches!(got[&0].end, Some(Ok((FileState { size, .. }, false))) if size > 30_000_000), "{:?}", got[&0].end);
    assert!(got[&0].bytes.len() >= 30_000_000);
}

#[test]
fn a_shrunken_file_is_read_again_in_its_new_size() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shrinking");
    let bytes = write(&path, &noise(30_000_000));
    let wanted = listed(0, &path);
    let mut is_first = true;
    let cut = |_: &FetchEvent| {
        if std::mem::take(&mut is_first) {
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(20_000_000).unwrap();
        }
    };
    let got = read(vec![wanted], cut);
    assert_eq!(got[&0].restarts, 1);
    assert!(matches!(got[&0].end, Some(Ok((FileState { size: 20_000_000, .. }, true)))));
    assert!(got[&0].bytes == bytes[..20_000_000]);
}

#[test]
fn what_cannot_be_read_says_why_and_the_others_arrive() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("good");
    write(&path, b"content");
    let good = listed(0, &path);
    let at = |name: &str| AbsPath::new(directory.path().join(name).as_os_str().as_bytes()).unwrap();
    fs::create_dir(directory.path().join("directory")).unwrap();
    let closed = directory.path().join("closed");
    write(&closed, b"secret");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let files = vec![
        FetchJob { id: 1, path: at("gone"), ..good.clone() },
        FetchJob { id: 2, path: at("directory"), ..good.clone() },
        FetchJob { id: 3, path: at("good/below"), ..good.clone() },
        listed(4, &closed),
        FetchJob { id: 5, path: at("directory"), size: 0, ..good.clone() },
        good.clone(),
    ];
    let got = read(files, |_| ());
    let refused = |why: &str| Some(Err(ReadError::Refused(why.to_owned())));
    assert_eq!(got[&1].end, Some(Err(ReadError::Vanished)));
    assert_eq!(got[&2].end, refused("is no longer a regular file"));
    assert!(matches!(got[&3].end, Some(Err(_))));
    let is_root = fs::read(&closed).is_ok();
    assert!(is_root || got[&4].end == refused("Permission denied"));
    assert_eq!(got[&5].end, refused("is no longer a regular file"));
    assert_read(&got[&0], &good, b"content");
}

#[test]
fn the_bandwidth_limit_is_kept_and_used() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (id, size) in [3_000_000, 500_000, 500_000].into_iter().enumerate() {
        let path = directory.path().join(id.to_string());
        write(&path, &noise(size));
        files.push(listed(id as u64, &path));
    }
    let mut server = Server::start();
    let mut sftp = server.sftp(Options { bytes_per_second: Some(2_000_000) });
    let start = Instant::now();
    let (result, got) = collect(files, |_| (), |wanted, arrived| sftp.read_files(wanted, arrived));
    let seconds = start.elapsed().as_secs_f64();
    result.unwrap();
    assert_eq!(got.values().map(|got| got.bytes.len()).sum::<usize>(), 4_000_000);
    eprintln!("4 MB at 2 MB/s took {seconds:.3} s");
    // A busy machine may be late, never early.
    assert!((1.9..3.0).contains(&seconds), "{seconds} s");
}
