//! The way back: what is restored equals what the client was, says rsync.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::*;

/// Everything that rsync would do to make one directory equal the other, directory times and all modes included.
fn every_difference(one: &Path, other: &Path) -> Vec<String> {
    let slashed = |path: &Path| format!("{}/", path.to_str().unwrap());
    let devices = if is_root() { "-D" } else { "--no-devices" };
    let output = Command::new("rsync")
        .args(["-naicH", "--numeric-ids", "--delete", devices, &slashed(one), &slashed(other)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Both directories are equal in all that rsync compares.
#[track_caller]
pub fn assert_exact(one: &Path, other: &Path) {
    assert_eq!([every_difference(one, other), every_difference(other, one)].concat(), [""; 0]);
}

/// A copy of a client as it is now.
pub fn kept(client: &Tree) -> tempfile::TempDir {
    let aside = tempfile::tempdir_in("/tmp").unwrap();
    assert!(Command::new("cp").arg("-a").arg(client.root()).arg(aside.path()).status().unwrap().success());
    aside
}

fn ugly() -> Tree {
    let client = Tree::new([
        ("plain", at(1_000_000_000, 123_456_789, file("content"))),
        ("same", at(1_100_000_000, 987, mode(0o640, file("content")))),
        ("empty", at(-1_000_000_000, 1, file(""))),
        ("setuid", mode(0o4755, file("runs as its owner"))),
        ("unreadable", mode(least_mode(), file("by anyone"))),
        ("d", at(1_200_000_000, 5, mode(0o1750, dir([("inner", dir([("deep", file(vec![3; 300_000]))]))])))),
        ("dangling", at(1_300_000_000, 7, link("/no/such/place"))),
        ("pipe", at(1_400_000_000, 9, mode(0o620, fifo()))),
        ("new\nline \x1b", file("name")),
    ]);
    client.add([(b"not utf-8 \xff".as_slice(), file("bytes"))]);
    client.hard_link("plain", "linked");
    if is_root() {
        std::os::unix::fs::lchown(client.path("same"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::lchown(client.path("dangling"), Some(99), Some(98)).unwrap();
    }
    client
}

#[test]
fn every_run_comes_back_exactly() {
    let program = Program::new();
    let client = ugly();
    let mut was = Vec::new();
    for round in 0..4 {
        program.pull_local(&client.root(), &["--name", "laptop"]);
        was.push(kept(&client));
        match round {
            0 => client.put("plain", at(1_500_000_000, 3, file("other content"))),
            1 => {
                client.rename("d", "moved");
                fs::set_permissions(client.path("same"), fs::Permissions::from_mode(0o600)).unwrap();
            }
            _ => {
                client.remove("moved");
                client.put("dangling", dir([("now", file("a directory"))]));
            }
        }
    }
    for (run, was) in was.iter().enumerate() {
        let place = tempfile::tempdir_in("/tmp").unwrap();
        let at = (run + 1).to_string();
        let target = format!("laptop:{}", client.root().display());
        program.run(["restore", "--privileged", &target, place.path().to_str().unwrap(), "--at", &at]).well();
        assert_exact(&was.path().join("data"), &place.path().join("data"));
    }
}

#[test]
fn everything_a_directory_or_a_file_can_be_asked_for_and_again() {
    let program = Program::new();
    let client = ugly();
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let to = place.path().join("all");
    let restore = |what: &str, flags: &[&str]| {
        let ran = program.run([&["--json", "restore", "--privileged", what, to.to_str().unwrap()], flags].concat());
        ran.well();
        ran.summary()
    };
    let dry = restore("laptop", &["-n"]);
    assert!(!to.exists(), "nothing was made");
    let first = restore("laptop", &[]);
    assert_eq!((&dry["restored"], &first["unchanged"]), (&first["restored"], &0.into()));
    let below = to.join(client.root().strip_prefix("/").unwrap());
    assert_exact(&client.root(), &below);
    fs::remove_file(below.join("plain")).unwrap();
    let again = restore("laptop", &[]);
    assert_eq!(again["restored"], 1, "only what was missing");
    assert_exact(&client.root(), &below);
    let one = format!("laptop:{}", client.path("same").display());
    restore(&one, &[]);
    assert_eq!(fs::read(to.join("same")).unwrap(), b"content");
}

#[test]
fn nothing_is_written_over_nor_through_a_symlink() {
    let program = Program::new();
    let client = Tree::new([("d", dir([("f", file("f"))])), ("g", file("from the backup")), ("h", file("h"))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let (to, canary) = (place.path().join("data"), place.path().join("canary"));
    fs::create_dir(&to).unwrap();
    fs::create_dir(&canary).unwrap();
    fs::write(to.join("g"), "mine").unwrap();
    symlink(&canary, to.join("d")).unwrap();
    let target = format!("laptop:{}", client.root().display());
    let ran = program.run(["restore", &target, place.path().to_str().unwrap()]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("something else is there").count(), 2, "{}", ran.stderr);
    assert_eq!(fs::read(to.join("g")).unwrap(), b"mine");
    assert!(names(&canary).is_empty() && names(&to) == ["d", "g", "h"]);
}

#[test]
fn a_rotten_copy_is_passed_over_for_a_good_one() {
    let program = Program::new();
    let client = Tree::new([("a", file("content")), ("b", at(1_000_000_000, 0, file("content")))]);
    program.pull_local(&client.root(), &["--name", "laptop", "--link", "never"]);
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let spoil = |name: &str| fs::write(program.snapshot("laptop", &client.path(name)), "cOntent").unwrap();
    let target = format!("laptop:{}", client.path("a").display());
    spoil("b");
    program.run(["restore", &target, place.path().to_str().unwrap()]).well();
    assert_eq!(fs::read(place.path().join("a")).unwrap(), b"content");
    fs::remove_file(place.path().join("a")).unwrap();
    spoil("a");
    let ran = program.run(["restore", &target, place.path().to_str().unwrap()]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("every copy of "), "{}", ran.stderr);
    assert!(names(place.path()).is_empty());
}

fn dress(client: &Tree) {
    let run = |program: &str, arguments: &[&str], name: &str| {
        assert!(Command::new(program).args(arguments).arg(client.path(name)).status().unwrap().success());
    };
    run("setfattr", &["-n", "user.comment", "-v", "0x00ff"], "plain");
    run("setfattr", &["-n", "user.of a dir", "-v", "x"], "d");
    run("setfacl", &["-m", "u:1234:rw,g:4321:r"], "same");
    run("setfacl", &["-d", "-m", "u:1234:rwx"], "d");
    if is_root() {
        run("setfattr", &["-h", "-n", "trusted.of_link", "-v", "t"], "dangling");
        run("setcap", &["cap_net_raw=ep"], "setuid");
        assert!(Command::new("mknod").arg(client.path("zero")).args(["c", "1", "5"]).status().unwrap().success());
    }
    let sparse = fs::File::create(client.path("sparse")).unwrap();
    sparse.set_len(1 << 28).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 1 << 27).unwrap();
}

fn blocks(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap())
}

#[test]
fn attributes_and_holes_come_back_here_and_on_a_host() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = ugly();
    dress(&client);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let place = tempfile::tempdir_in("/tmp").unwrap();
    // What is made there would be born with a list of its own.
    let acl = ["-d", "-m", "u:77:rwx", place.path().to_str().unwrap()];
    assert!(Command::new("setfacl").args(acl).status().unwrap().success());
    let target = format!("laptop:{}", client.root().display());
    let (here, there) = (place.path().join("here"), place.path().join("there"));
    program.run(["restore", "--privileged", &target, here.to_str().unwrap()]).well();
    let host = format!("client:{}", there.display());
    let config = sshd.config();
    let to_host = ["--json", "restore", "-F", config.to_str().unwrap(), &target, &host];
    let first = program.run(to_host);
    first.well();
    for restored in [&here, &there] {
        oracle::assert_exact(&client.root(), &restored.join("data"));
        let (is, was) = (blocks(&restored.join("data/sparse")), blocks(&client.path("sparse")));
        assert!(is <= was + 64, "{is} blocks, {was} on the client");
    }
    // Again: nothing is left to do, on the host neither.
    let again = program.run(to_host);
    again.well();
    assert_eq!((&again.summary()["restored"], &again.summary()["errors"]), (&0.into(), &0.into()));
    assert!(!names(&there.join("data")).iter().any(|name| name.starts_with(".restoring")));
}

#[test]
fn a_host_that_can_t_be_written_to_says_so() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("a", file("a"))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let config = sshd.config();
    let target = format!("laptop:{}", client.root().display());
    let ran = program.run(["restore", "-F", config.to_str().unwrap(), &target, "client:/proc/nowhere"]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("can't restore to `client:/proc/nowhere`"), "{}", ran.stderr);
}

#[test]
fn overwriting_is_as_asked_for() {
    let program = Program::new();
    let old = |node| at(1_000_000_000, 0, node);
    let client = Tree::new([
        ("newer", old(file("backup"))),
        ("older", at(1_500_000_000, 0, file("backup"))),
        ("spoilt", old(file("backup"))),
        ("kind", old(dir([("inner", file("backup"))]))),
        ("link", link("backup")),
        ("filled", old(file("backup"))),
    ]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let target = format!("laptop:{}", client.root().display());
    // What is there, whether the overwriting `which` replaces it, and the exit status.
    for (which, replaced, status) in [
        (None, &[][..], 3),
        (Some("never"), &[], 0),
        (Some("older"), &["older"], 0),
        (Some("always"), &["newer", "older", "spoilt", "kind", "link"], 3),
    ] {
        let place = Tree::new([
            ("newer", at(1_700_000_000, 0, file("mine"))),
            ("older", at(1_400_000_000, 0, file("mine"))),
            ("spoilt", old(file("bAckup"))),
            ("kind", at(1_700_000_000, 0, file("mine"))),
            ("filled", dir([("mine", file("mine"))])),
        ]);
        symlink("mine", place.path("link")).unwrap();
        let destination = place.root().parent().unwrap().to_owned();
        let flags = which.map_or(vec![], |which| vec!["--overwrite", which]);
        let ran = program.run([&["--json", "restore", &target, destination.to_str().unwrap()], &flags[..]].concat());
        assert_eq!(ran.status, status, "{which:?}: {}", ran.stderr);
        let is = |name: &str, like: &str| fs::read(place.path(name)).is_ok_and(|content| content == like.as_bytes());
        let done = [
            ("newer", is("newer", "backup")),
            ("older", is("older", "backup")),
            ("spoilt", is("spoilt", "backup")),
            ("kind", is("kind/inner", "backup")),
            ("link", fs::read_link(place.path("link")).unwrap() == Path::new("backup")),
        ];
        let done: Vec<&str> = done.iter().filter(|(_, done)| *done).map(|(name, _)| *name).collect();
        assert_eq!(done, replaced, "{which:?}: {}", ran.stderr);
        assert_eq!(fs::read(place.path("filled/mine")).unwrap(), b"mine", "{which:?}");
        if which.is_none() {
            assert_eq!(ran.stderr.matches("something else is there").count(), 5, "{}", ran.stderr);
        }
    }
}

#[test]
fn owners_are_the_client_s_numbers_names_or_none() {
    if !is_root() {
        return;
    }
    use std::os::unix::fs::{MetadataExt, lchown};
    let program = Program::new();
    let client = Tree::new([
        ("etc", dir([("passwd", file("bin:x:5555:6:::\nnobodyhere:x:7777:8:::\n")), ("group", file("bin:x:6666:\n"))])),
        ("f", mode(0o6755, file("f"))),
    ]);
    lchown(client.path("f"), Some(5555), Some(6666)).unwrap();
    fs::set_permissions(client.path("f"), fs::Permissions::from_mode(0o6755)).unwrap();
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let restored = |flags: &[&str]| {
        let place = tempfile::tempdir_in("/tmp").unwrap();
        let target = format!("laptop:{}", client.path("f").display());
        let ran = program.run([&["restore", &target, place.path().to_str().unwrap()], flags].concat());
        let found = place.path().join("f").metadata();
        (ran, found.map(|found| (found.uid(), found.gid(), found.mode() & 0o7777)).ok())
    };
    assert_eq!(restored(&["--privileged"]).1, Some((5555, 6666, 0o6755)));
    assert_eq!(restored(&[]).1, Some((5555, 6666, 0o755)));
    assert_eq!(
        restored(&["--privileged", "--owner", "none"]).1,
        Some((0, 0, 0o755)),
        "what ran as another must not run as root"
    );
    let (ran, found) = restored(&["--owner", "names"]);
    assert_eq!((ran.status, found), (1, None));
    assert!(ran.stderr.contains("`/etc/passwd` is not kept"), "{}", ran.stderr);
}

#[test]
fn the_destination_is_any_directory_a_person_would_write() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", file("f"))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let place = tempfile::tempdir_in("/tmp").unwrap();
    fs::create_dir(place.path().join("here")).unwrap();
    let target = format!("laptop:{}", client.path("f").display());
    for (written, is) in
        [(".", "here/f"), ("../beside", "beside/f"), ("new/er/", "here/new/er/f"), ("./a:b", "here/a:b/f")]
    {
        let ran =
            program.command(["restore", &target, written]).current_dir(place.path().join("here")).output().unwrap();
        assert!(ran.status.success(), "{written}: {}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(fs::read(place.path().join(is)).unwrap(), b"f", "{written}");
    }
    let config = sshd.config();
    let to_host = |written: &str| program.run(["restore", "-F", config.to_str().unwrap(), &target, written]);
    to_host(&format!("client:{}/there/", place.path().display())).well();
    assert_eq!(fs::read(place.path().join("there/f")).unwrap(), b"f");
    to_host("client:restored here").well();
    assert_eq!(fs::read(sshd.home().join("restored here/f")).unwrap(), b"f");
    program.run(["restore", &target, ""]).refused(2, &["empty destination"]);
}

#[test]
fn further_names_never_lead_to_somebody_elses_file() {
    let program = Program::new();
    let client = Tree::new([("a", file("ours")), ("d", dir([("inner", file("x"))]))]);
    client.hard_link("a", "b");
    client.hard_link("a", "d/c");
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let what = format!("laptop:{}", client.root().display());
    for (flags, status) in [(&[][..], 3), (&["--overwrite", "never"], 0), (&["--overwrite", "older"], 0)] {
        for is_link in [false, true] {
            let place = tempfile::tempdir_in("/tmp").unwrap();
            let to = place.path().join("data");
            fs::create_dir(&to).unwrap();
            fs::write(place.path().join("secret"), "a secret").unwrap();
            if is_link {
                symlink("../secret", to.join("a")).unwrap()
            } else {
                fs::write(to.join("a"), "a foreign file").unwrap()
            }
            for _ in 0..2 {
                let ran = program.run([&["restore", &what, place.path().to_str().unwrap()], flags].concat());
                assert_eq!(ran.status, status, "{}", ran.stderr);
                assert_ne!(fs::read(to.join("a")).unwrap(), b"ours");
                assert_eq!(fs::read(to.join("b")).unwrap(), b"ours");
                assert_eq!(fs::read(to.join("d/c")).unwrap(), b"ours");
                assert_eq!(inode(&to.join("b")), inode(&to.join("d/c")), "they are still one file");
            }
        }
    }
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn hard_links_of_every_kind_come_back() {
    let program = Program::new();
    let client = Tree::new([("l", link("nowhere")), ("p", fifo())]);
    client.hard_link("l", "l2");
    client.hard_link("p", "p2");
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let what = format!("laptop:{}", client.root().display());
    program.run(["restore", &what, place.path().to_str().unwrap()]).well();
    assert_exact(&client.root(), &place.path().join("data"));
    for name in ["l", "p"] {
        let data = place.path().join("data");
        assert_eq!(inode(&data.join(name)), inode(&data.join(format!("{name}2"))));
    }
}

#[test]
fn directories_that_are_there_keep_their_looks_unless_told_otherwise() {
    let program = Program::new();
    let client = Tree::new([("d", mode(0o755, dir([("f", file("f"))])))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let what = format!("laptop:{}", client.path("d").display());
    let mode_of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for (flags, status, expected) in [
        (&[][..], 3, 0o711),
        (&["--overwrite", "never"], 0, 0o711),
        (&["-n", "--overwrite", "always"], 0, 0o711),
        (&["--overwrite", "always"], 0, 0o755),
    ] {
        let place = tempfile::tempdir_in("/tmp").unwrap();
        let there = place.path().join("d");
        fs::create_dir(&there).unwrap();
        fs::set_permissions(&there, fs::Permissions::from_mode(0o711)).unwrap();
        let ran = program.run([&["restore", &what, place.path().to_str().unwrap()], flags].concat());
        assert_eq!((ran.status, mode_of(&there)), (status, expected), "{flags:?} {}", ran.stderr);
        assert_eq!(there.join("f").exists(), flags.first() != Some(&"-n"), "{flags:?}");
        if status == 3 {
            assert!(ran.stderr.contains("another owner, mode or extended attributes"), "{}", ran.stderr);
        }
    }
}

#[test]
fn what_differs_in_its_looks_only_is_told() {
    let program = Program::new();
    let client = Tree::new([("f", mode(0o640, file("f"))), ("g", file("g")), ("p", fifo())]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let (what, to) = (format!("laptop:{}", client.root().display()), place.path().to_str().unwrap());
    program.run(["restore", &what, to]).well();
    let data = place.path().join("data");
    fs::set_permissions(data.join("f"), fs::Permissions::from_mode(0o777)).unwrap();
    setfattr("user.x", &data.join("g"));
    let again = program.run(["restore", &what, to]);
    assert_eq!(again.status, 3);
    assert_eq!(again.stderr.matches("another owner, mode or extended attributes").count(), 2, "{}", again.stderr);
    let left = program.run(["--json", "restore", &what, to, "--overwrite", "never"]);
    left.well();
    assert_eq!(left.summary()["left"], 2);
    program.run(["restore", &what, to, "--overwrite", "always"]).well();
    assert_exact(&client.root(), &data);
    program.run(["restore", &what, to]).well();
}

fn setfattr(name: &str, path: &Path) {
    assert!(Command::new("setfattr").args(["-n", name, "-v", "x"]).arg(path).status().unwrap().success());
}

#[test]
fn what_is_made_below_a_default_acl_does_not_inherit_it() {
    let program = Program::new();
    let client = Tree::new([("d", dir([("f", file("f")), ("e", dir([("g", file("g"))]))]))]);
    let acl = |path: &Path| {
        assert!(Command::new("setfacl").args(["-d", "-m", "u:1234:rwx"]).arg(path).status().unwrap().success());
    };
    acl(&client.path("d"));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let (what, to) = (format!("laptop:{}", client.root().display()), place.path().to_str().unwrap());
    program.run(["restore", &what, to]).well();
    let data = place.path().join("data");
    fs::remove_file(data.join("d/f")).unwrap();
    fs::remove_dir_all(data.join("d/e")).unwrap();
    program.run(["restore", &what, to]).well();
    let getfacl = |path: &Path| {
        let mut command = Command::new("getfacl");
        String::from_utf8(command.args(["-cpR", "."]).current_dir(path).output().unwrap().stdout).unwrap()
    };
    let lines = |path: &Path| {
        let listed = getfacl(path);
        let mut blocks: Vec<String> = listed.split("\n\n").map(str::to_owned).collect();
        blocks.sort();
        blocks
    };
    assert_eq!(lines(&client.root()), lines(&data));
    assert_exact(&client.root(), &data);
}

#[test]
fn a_dry_run_lists_what_a_restore_would_do() {
    let program = Program::new();
    let client = Tree::new([("d", dir([("f", file("f"))])), ("g", file("g")), ("h", file("h"))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let (what, to) = (format!("laptop:{}", client.root().display()), place.path().to_str().unwrap());
    let data = place.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("d"), "in the way").unwrap();
    fs::create_dir_all(data.join("g/full")).unwrap();
    let flags = ["--overwrite", "always"];
    let told = |more: &[&str]| {
        let ran = program.run([&["--json", "restore", &what, to], &flags[..], more].concat());
        let done = ran.summary();
        (ran.status, done["restored"].clone(), done["errors"].clone(), ran.lines().len())
    };
    let listed = program.run([&["restore", "-n", &what, to][..], &flags].concat());
    for (name, bytes) in [("d", "0 B"), ("d/f", "1 B"), ("h", "1 B")] {
        let end = format!("{bytes}  {}", data.join(name).display());
        assert!(listed.stdout.lines().any(|line| line.ends_with(&end)), "{}", listed.stdout);
    }
    assert!(
        listed.stdout.contains(&format!("would restore 3 entries (2 B) to `{}`", data.display())),
        "{}",
        listed.stdout
    );
    let json = program.run([&["--json", "restore", "-n", &what, to][..], &flags].concat()).lines();
    let line = json.iter().find(|line| line["path"] == client.path("d/f").to_str().unwrap()).unwrap();
    assert_eq!((&line["to"], &line["bytes"]), (&data.join("d/f").to_str().unwrap().into(), &1.into()));
    let (dry, wet) = (told(&["-n"]), told(&[]));
    assert_eq!((&dry.0, &dry.1, &dry.2), (&wet.0, &wet.1, &wet.2));
    assert_eq!((dry.3 as u64, wet.3), (dry.1.as_u64().unwrap() + 1, 1));
}

#[test]
fn messages_name_target_and_way_out() {
    let program = Program::new();
    let client = Tree::new([("f", file("from the backup"))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let place = Tree::new([("f", file("mine"))]);
    let what = format!("laptop:{}", client.path("f").display());
    let ran = program.command(["restore", &what, "."]).current_dir(place.root()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    let line = format!(
        "can't restore `{}` to `{}`: something else is there: `--overwrite older`",
        client.path("f").display(),
        place.path("f").display()
    );
    assert!(said.contains(&line), "{said}");
}

#[test]
fn what_an_interrupted_restore_left_is_finished_by_the_next() {
    let program = Program::new();
    let client =
        Tree::new((0..40).map(|number| (format!("d{number}"), dir([("f", file(vec![number as u8; 3_000_000]))]))));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGKILL] {
        let place = tempfile::tempdir_in("/tmp").unwrap();
        let (what, to) = (format!("laptop:{}", client.root().display()), place.path().to_str().unwrap());
        let data = place.path().join("data");
        let mut child = program.command(["-q", "restore", &what, to]).spawn().unwrap();
        while fs::read_dir(&data).map_or(0, Iterator::count) < 5 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = child.wait().unwrap();
        if signal == nix::sys::signal::Signal::SIGINT && !status.success() {
            assert_eq!(status.code(), Some(130));
            let partial = Command::new("find").arg(&data).args(["-name", ".restoring*"]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&partial.stdout), "", "nothing half made is left");
        }
        program.run(["restore", &what, to]).well();
        assert_exact(&client.root(), &data);
    }
}

#[test]
fn names_are_of_one_file_only_if_all_about_them_is_the_same() {
    let program = Program::new();
    let pair = |content: &str, node: Node| (dir([("first", node)]), content.to_owned());
    let same = || at(1_000_000_000, 0, mode(0o640, file("content")));
    // Whatever differs, the inode's number is said to be the same.
    let others = [
        pair("content", same()),
        pair("CONTENT", at(1_000_000_000, 0, mode(0o640, file("CONTENT")))),
        pair("longer content", at(1_000_000_000, 0, mode(0o640, file("longer content")))),
        pair("content", at(1_100_000_000, 0, mode(0o640, file("content")))),
        pair("content", at(1_000_000_000, 0, mode(0o600, file("content")))),
        pair("content", at(1_000_000_000, 0, mode(0o640, file("content")))),
    ];
    let names = ["0", "1", "2", "3", "4", "5"];
    let (nodes, contents): (Vec<_>, Vec<_>) = others.into_iter().unzip();
    let client = Tree::new(names.into_iter().zip(nodes));
    setfattr("user.x", &client.path("5/first"));
    for name in names {
        client.hard_link(&format!("{name}/first"), &format!("{name}/second"));
    }
    program.pull_local(&client.root(), &["--name", "laptop"]);
    program.change_index("UPDATE version SET inode_device = 1, inode_number = 7 WHERE inode_number IS NOT NULL");
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let what = format!("laptop:{}", client.root().display());
    program.run(["restore", &what, place.path().to_str().unwrap()]).well();
    assert_exact(&client.root(), &place.path().join("data"));
    for (name, content) in names.iter().zip(contents) {
        let restored = |file: &str| place.path().join("data").join(name).join(file);
        assert_eq!(fs::read_to_string(restored("second")).unwrap(), content);
        assert_eq!(inode(&restored("first")), inode(&restored("second")));
    }
}

#[test]
fn an_inode_number_that_was_used_again_mixes_nothing_up() {
    let program = Program::new();
    let client = Tree::new([("a", dir([("x", file("of a"))])), ("b", dir([("other", file("other"))]))]);
    client.hard_link("a/x", "a/x2");
    program.pull_local(&client.path("a"), &["--name", "laptop"]);
    let was = inode(&client.path("a/x"));
    client.remove("a/x");
    client.remove("a/x2");
    for number in 0..500 {
        client.add([(format!("b/y{number}"), file("in b"))]);
        client.hard_link(&format!("b/y{number}"), &format!("b/z{number}"));
        if inode(&client.path(format!("b/y{number}"))) == was {
            break;
        }
    }
    program.pull_local(&client.path("b"), &["--name", "laptop"]);
    let place = tempfile::tempdir_in("/tmp").unwrap();
    program.run(["restore", "laptop", place.path().to_str().unwrap()]).well();
    let restored = place.path().join(client.root().strip_prefix("/").unwrap());
    assert_exact(&client.path("b"), &restored.join("b"));
    for name in ["x", "x2"] {
        assert_eq!(fs::read_to_string(restored.join("a").join(name)).unwrap(), "of a");
    }
}

#[test]
fn nothing_is_restored_into_the_repository() {
    let program = Program::new();
    let client = Tree::new([("f", file("f")), ("repo", dir([("snapshot", file("s"))]))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    // But for the time of the repository itself, in which SQLite makes files and removes them.
    let fingerprint = || program.fingerprint().split_once('\n').unwrap().1.to_owned();
    let before = fingerprint();
    let plain = program.snapshot("laptop", client.root().parent().unwrap());
    symlink(program.repo(), program.path("way")).unwrap();
    symlink(&plain, program.path("deep")).unwrap();
    let below = program.repo().join("snapshot/laptop/new/er");
    let places = [program.repo(), plain.clone(), below, program.path("way/archive"), program.path("deep")];
    let what = format!("laptop:{}", client.root().display());
    let refused = |place: &Path| {
        for flags in [&["--overwrite", "always"][..], &["-n"], &[]] {
            let ran = program.run([&["restore", &what, place.to_str().unwrap()], flags].concat());
            ran.refused(2, &["is in the repository", "name a directory outside of it"]);
        }
    };
    places.iter().for_each(|place| refused(place));
    fs::create_dir(program.path("new")).unwrap();
    let relative = program.command(["restore", &what, "new/../repo/snapshot"]).output().unwrap();
    assert_eq!(relative.status.code(), Some(2), "{}", String::from_utf8_lossy(&relative.stderr));
    if is_root() {
        for bound in [program.repo(), program.repo().join("snapshot"), plain] {
            let point = program.path("a bound place");
            fs::create_dir_all(&point).unwrap();
            let mounted = Command::new("mount").arg("--bind").args([&bound, &point]).status().unwrap();
            assert!(mounted.success());
            let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                refused(&point);
                refused(&point.join("new"));
            }));
            assert!(Command::new("umount").arg(&point).status().unwrap().success());
            refused.unwrap();
        }
    }
    assert_eq!(fingerprint(), before);
    if is_root() {
        nothing_is_restored_into_a_bind_mount_below_the_destination(&program, &client);
    }
    assert_eq!(fingerprint(), before);
    // What is above the repository may be named, but nothing goes into it.
    let above = program.path("");
    let what = format!("laptop:{}", client.path("repo").display());
    let ran = program.run(["restore", &what, above.to_str().unwrap(), "--overwrite", "always"]);
    ran.well();
    assert!(ran.stderr.contains("is where the repository is"), "{}", ran.stderr);
    assert_eq!(fingerprint(), before);
    program.pull_local(&client.path("repo/snapshot"), &["--name", "other"]);
    let before = fingerprint();
    let other = format!("other:{}", client.path("repo").display());
    let ran = program.run(["restore", &other, above.to_str().unwrap(), "--overwrite", "always"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("it would be written into the repository"), "{}", ran.stderr);
    assert_eq!(fingerprint(), before);
}

fn nothing_is_restored_into_a_bind_mount_below_the_destination(program: &Program, client: &Tree) {
    let (to, what) = (program.path("to"), format!("laptop:{}", client.path("repo").display()));
    let point = to.join("repo/snapshot");
    fs::create_dir_all(&point).unwrap();
    let bound = program.repo().join("snapshot/laptop");
    assert!(Command::new("mount").arg("--bind").args([&bound, &point]).status().unwrap().success());
    let ran = program.run(["restore", &what, to.to_str().unwrap(), "--overwrite", "always"]);
    assert!(Command::new("umount").arg(&point).status().unwrap().success());
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("it would be written into the repository"), "{}", ran.stderr);
}

#[test]
fn what_could_give_rights_here_is_only_restored_when_asked_for() {
    if !is_root() {
        return;
    }
    let program = Program::new();
    let client = ugly();
    client.add([("shared", mode(0o2775, dir([("setgid", mode(0o2755, file("x")))])))]);
    dress(&client);
    assert!(Command::new("mknod").arg(client.path("shared/block")).args(["b", "7", "200"]).status().unwrap().success());
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let (what, to) = (format!("laptop:{}", client.root().display()), place.path().to_str().unwrap());
    let data = place.path().join("data");
    let told =
        ["devices (2)", "setuid and setgid bits of files (2)", "file capabilities (1)", "`trusted` attributes (1)"];
    for flags in [&["-n"][..], &[], &[]] {
        let ran = program.run([&["restore", &what, to], flags].concat());
        ran.well();
        for kind in told {
            assert_eq!(ran.stderr.matches(&format!("left out {kind}: `--privileged`")).count(), 1, "{}", ran.stderr);
            assert!(ran.stdout.lines().last().unwrap().contains(kind), "{}", ran.stdout);
        }
    }
    let mode_of = |name: &str| fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode_of("setuid"), mode_of("shared"), mode_of("shared/setgid")], [0o755, 0o2775, 0o755]);
    assert_eq!(names(&data.join("shared")), ["setgid"]);
    assert!(!data.join("zero").exists());
    let getfattr = |name: &str| {
        let ran = Command::new("getfattr").args(["-hd", "-m", "-"]).arg(data.join(name)).output().unwrap();
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    assert!(!getfattr("setuid").contains("capability") && !getfattr("dangling").contains("trusted"));
    assert!(getfattr("plain").contains("user.comment"), "{}", getfattr("plain"));
    let json = program.run(["--json", "restore", &what, to]).summary();
    let expected = serde_json::json!({ "devices": 2, "setuid": 2, "capabilities": 1, "trusted": 1 });
    assert_eq!((&json["left_out"], &json["restored"]), (&expected, &0.into()));
    let ran = program.run(["restore", "--privileged", "--overwrite", "always", &what, to]);
    ran.well();
    assert!(!ran.stderr.contains("left out") && !ran.stdout.contains("left out"), "{}", ran.stderr);
    oracle::assert_exact(&client.root(), &data);
}

#[test]
fn restore_to_the_repository_through_its_own_sshd_is_refused() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", file("kept"))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let kept = program.snapshot("laptop", &client.root());
    fs::write(client.path("f"), "other").unwrap();
    let what = format!("laptop:{}/f", client.root().display());
    for destination in [kept.clone(), kept.join("new/below"), program.repo()] {
        let to = format!("client:{}", destination.display());
        let ran = program.run(["restore", "-F", sshd.config().to_str().unwrap(), "--overwrite", "always", &what, &to]);
        ran.refused(2, &["is in the repository", "name a directory outside of it"]);
    }
    if is_root() {
        let elsewhere = Tree::new([("bound", dir::<&str>([]))]);
        let _mount = Mount::bind(&kept, &elsewhere.path("bound"));
        let to = format!("client:{}", elsewhere.path("bound").display());
        let ran = program.run(["restore", "-F", sshd.config().to_str().unwrap(), "--overwrite", "always", &what, &to]);
        ran.refused(2, &["is in the repository", "name a directory outside of it"]);
    }
    assert_eq!(fs::read_to_string(kept.join("f")).unwrap(), "kept");
    assert!(!kept.join("new").exists());
}

#[test]
fn restore_to_a_host_leaves_out_the_repository_below_the_destination() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client =
        Tree::new([("f", file("f")), ("repo", dir([("snapshot", dir([("s", file("s"))])), ("new", file("n"))]))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    program.pull_local(&client.path("repo/snapshot"), &["--name", "other"]);
    let fingerprint = || program.fingerprint().split_once('\n').unwrap().1.to_owned();
    let before = fingerprint();
    let restore = |what: &str, place: &Path, flags: &[&str]| {
        let to = format!("client:{}", place.display());
        let always =
            ["restore", "-F", sshd.config().to_str().unwrap(), "--overwrite", "always", what, &to].map(str::to_owned);
        program.run(always.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())))
    };
    let above = program.path("");
    let what = format!("laptop:{}", client.path("repo").display());
    for flags in [&["-n"][..], &[]] {
        let ran = restore(&what, &above, flags);
        ran.refused(0, &["is where the repository is"]);
        assert_eq!(fingerprint(), before);
    }
    // `repo` leads to a root, and is no entry of its own.
    let what = format!("other:{}", client.path("repo").display());
    let ran = restore(&what, &above, &[]);
    ran.refused(3, &["can't restore", "it would be written into the repository"]);
    assert_eq!(fingerprint(), before);
    let own = program.snapshot("laptop", &client.path("repo/snapshot"));
    program.pull_local(&own, &["--name", "inner"]);
    let before = fingerprint();
    for flags in [&["--in-place", "-n"][..], &["--in-place"]] {
        let ran = restore(&format!("inner:{}", own.display()), Path::new("/"), flags);
        ran.refused(3, &["can't restore", "it would be written into the repository"]);
        assert_eq!(fingerprint(), before);
    }
}

#[test]
fn directories_that_their_owner_may_not_read_are_restored_again() {
    use std::os::unix::process::CommandExt;
    if !is_root() {
        return eprintln!("needs root, for it becomes another user");
    }
    let program = Program::without_repository();
    let client = Tree::new([("d", dir([("f", file("f"))]))]);
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&program.path(""), 0o777);
    let binary = program.path("archive-binary");
    fs::copy(env!("CARGO_BIN_EXE_archive"), &binary).unwrap();
    program.init();
    mode(&client.path("d"), 0o300);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    Command::new("chmod").args(["-R", "a+rX"]).arg(program.repo()).status().unwrap();
    for _ in 0..2 {
        let mut command = Command::new(&binary);
        let what = format!("laptop:{}", client.path("d").display());
        command.arg("--repo").arg(program.repo()).args(["restore", "-q", &what, "restored"]).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("HOME", program.path("")).env("TMPDIR", program.path(""));
        Ran::of(command.uid(65534).gid(65534).current_dir(program.path("")).output().unwrap()).well();
        let restored = program.path("restored/d");
        assert_eq!(fs::metadata(&restored).unwrap().permissions().mode() & 0o7777, 0o300);
        assert_eq!(fs::read_to_string(restored.join("f")).unwrap(), "f");
    }
}
