//! One entry that can't be done is an error of that entry: its old version stays, and everything else is pulled.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use archive_helper::protocol::{AbsPath, Announced, Entries, Entry, Kind, Mounted, Name, Reply, Root, Time};

use crate::support::hostile::{Hostile, To, frames};
use crate::support::*;

const LISTED: i64 = 1_000_000_000;

/// The listing of a directory of this machine by a helper that calls everything in it a file of so many bytes.
fn listing(root: &std::path::Path, files: &[(&str, u64)]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let entry = |name: &str, kind, size| Entry {
        name: Name::new(name.as_bytes()).unwrap(),
        kind,
        size,
        mtime: Time::new(LISTED, 0),
        ctime: 1,
        mode: 0o644,
        uid: 0,
        gid: 0,
        inode: None,
        device: 0,
        target: Vec::new(),
        attributes: None,
    };
    let path = AbsPath::new(root.as_os_str().as_bytes()).unwrap();
    let entries = files.iter().map(|(name, size)| entry(name, Kind::File, *size)).collect();
    frames(&[
        Reply::Root(Root::Found { path: path.clone(), entry: Some(entry("data", Kind::Dir, 0)), empty: false }),
        Reply::Directory(Announced {
            directory: 0,
            path,
            inode: 0,
            fingerprint: [1; 16],
            entries: files.len() as u64,
            complete: true,
            mounted: Mounted::Nothing,
            excluded: 0,
        }),
        Reply::Entries(Entries { directory: 0, entries, last: true, order: Vec::new() }),
        Reply::End,
    ])
}

#[test]
fn file_that_became_a_fifo_stops_nothing() {
    if !is_root() {
        return eprintln!("needs root, for the listing says that root owns the files");
    }
    let hostile = Hostile::new();
    let client = Tree::new([
        ("a", at(LISTED, 0, file(vec![1; 300_000]))),
        ("pipe", fifo()),
        ("z", at(LISTED, 0, file(vec![2; 400_000]))),
    ]);
    let files = [("a", 300_000), ("pipe", 350_000), ("z", 400_000)];
    hostile.answers(To::Walk, listing(&client.root(), &files));
    let target = format!("client:{}", client.root().display());
    let begun = Instant::now();
    let ran = hostile.program.pull(&hostile.sshd, [target.as_str(), "-q", "--retries", "0", "--timeout", "3s"]);
    ran.refused(3, &["pipe", "is no longer a regular file"]);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for name in ["a", "z"] {
        let copy = hostile.program.snapshot("client", &client.path(name));
        assert!(fs::read(copy).unwrap() == fs::read(client.path(name)).unwrap(), "{name}");
    }
}

#[test]
fn file_with_more_holes_than_can_be_hashed_is_refused() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system with files as large as that");
    }
    let program = Program::without_repository();
    let client = program.path("client");
    fs::create_dir(&client).unwrap();
    fs::create_dir(program.repo()).unwrap();
    // The repository's could hold it, too: ext4 would refuse it.
    let _mounted = [(&client, "size=10m"), (&program.repo(), "size=200m")].map(|(at, size)| Mount::tmpfs(at, size));
    program.init();
    fs::write(client.join("huge"), "small still").unwrap();
    fs::write(client.join("z"), "z").unwrap();
    let root = client.to_str().unwrap();
    program.pull_local(&client, &[]);
    fs::File::options().write(true).open(client.join("huge")).unwrap().set_len(7 << 60).unwrap();
    fs::write(client.join("z"), "changed").unwrap();
    let ran = program.run(["pull", "-q", root, "--max-time", "60s"]);
    ran.refused(3, &["huge", "more than 16 TiB of it are holes"]);
    assert_eq!(fs::read(program.snapshot("localhost", &client.join("huge"))).unwrap(), b"small still");
    assert_eq!(fs::read(program.snapshot("localhost", &client.join("z"))).unwrap(), b"changed");
    program.assert_index_is_right();
}

#[test]
fn symlink_target_that_the_file_system_can_not_hold_stops_nothing() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system that holds targets of 1,023 bytes");
    }
    let program = Program::without_repository();
    let _disk = Disk::xfs(&program.path("disk"), &program.path("mounted"), 400 << 20);
    std::os::unix::fs::symlink("mounted/repo", program.repo()).unwrap();
    fs::create_dir(program.path("mounted/repo")).unwrap();
    program.init();
    let client = Tree::new([("short", link("here")), ("f", file("f"))]);
    program.pull_local(&client.root(), &[]);
    let long = |length| link("x".repeat(length));
    for name in ["short", "new"] {
        client.put(name, long(1500));
    }
    client.put("fits", long(1023));
    client.put("z", file("z"));
    for _ in 0..2 {
        let ran = program.run(["pull", "-q", client.root().to_str().unwrap()]);
        assert_eq!((ran.status, ran.stderr.lines().count()), (3, 2), "{}", ran.stderr);
        for name in ["short", "new"] {
            assert!(ran.stderr.contains(client.path(name).to_str().unwrap()), "{}", ran.stderr);
        }
        assert!(ran.stderr.contains("can't hold a symlink target of 1500 bytes"), "{}", ran.stderr);
    }
    let there = |name: &str| program.snapshot("localhost", &client.path(name));
    assert_eq!(fs::read_link(there("short")).unwrap().to_str(), Some("here"));
    assert_eq!(fs::read_link(there("fits")).unwrap().as_os_str().len(), 1023);
    assert!(there("z").exists() && fs::symlink_metadata(there("new")).is_err());
    program.assert_index_is_right();
    client.put("short", link("there"));
    client.put("new", link("anywhere"));
    program.pull_local(&client.root(), &[]);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
}

#[test]
fn owners_outside_the_id_map_are_no_error() {
    use std::os::unix::fs::lchown;
    let namespace = ["--user", "--map-root-user"];
    if !is_root() || !Command::new("unshare").args(namespace).arg("true").status().is_ok_and(|done| done.success()) {
        return eprintln!("needs root, and user namespaces");
    }
    let program = Program::new();
    let client = Tree::new([
        ("d", dir([("f", file("f")), ("l", link("f")), ("empty", file("")), ("e", dir([("g", file("g"))]))])),
        ("z", file("z")),
    ]);
    fs::set_permissions(client.root(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["d", "d/f", "d/l", "d/empty", "d/e", "d/e/g"] {
        lchown(client.path(name), Some(1000), Some(1000)).unwrap();
    }
    let pull = || {
        let plain = program.command(["pull", "-q", client.root().to_str().unwrap()]);
        let mut command = Command::new("unshare");
        command.args(namespace).arg(plain.get_program()).args(plain.get_args()).env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ran::of(command.current_dir(program.path("")).stdin(Stdio::null()).output().unwrap())
    };
    let told = |ran: &Ran| {
        ran.well();
        assert_eq!(ran.stderr.lines().count(), 1, "once a run: {}", ran.stderr);
        assert!(ran.stderr.contains("owners"), "{}", ran.stderr);
    };
    told(&pull());
    for (name, bits) in [("d", 0o775), ("d/f", 0o640 | 0o4)] {
        fs::set_permissions(client.path(name), std::os::unix::fs::PermissionsExt::from_mode(bits)).unwrap();
    }
    client.put("d/new", file("new"));
    lchown(client.path("d/new"), Some(1000), Some(1000)).unwrap();
    told(&pull());
    for name in ["d/f", "d/new", "d/empty", "d/e/g", "z"] {
        let copy = program.snapshot("localhost", &client.path(name));
        assert_eq!(fs::read(copy).unwrap(), fs::read(client.path(name)).unwrap(), "{name}");
    }
    let pending: i64 = program.index().query_row("SELECT count(*) FROM pending", [], |row| row.get(0)).unwrap();
    assert_eq!(pending, 0);
}

#[test]
fn file_that_grows_beyond_max_file_size_is_refused() {
    let program = Program::new();
    let client = Tree::new([("grows", file(vec![1; 300_000])), ("z", file("z"))]);
    let target = client.root();
    let flags = ["--bwlimit", "300KB", "--max-file-size", "500KB"];
    let mut command = program.command([&["pull", "-q", target.to_str().unwrap()], &flags[..]].concat());
    let pull = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let mut growing = fs::File::options().append(true).open(client.path("grows")).unwrap();
    std::io::Write::write_all(&mut growing, &[2; 600_000]).unwrap();
    let ran = Ran::of(pull.wait_with_output().unwrap());
    ran.refused(3, &["grows", "larger than max_file_size by now"]);
    assert_eq!(names(&program.snapshot("localhost", &client.root())), ["z"]);
    program.assert_index_is_right();
}
