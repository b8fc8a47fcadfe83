//! Repositories on file systems that lack calls: each lack is injected, and everything has to work, or be refused at once.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::crash::{Days, contents};
use crate::support::*;

// What differs between a client and its snapshot beyond links, where the file system can't keep some metadata: marks of
// `rsync --itemize-changes`.
fn assert_same_but(marks: &str, client: &Path, snapshot: &Path) {
    let is_worse = |line: &String| {
        let linked = line.starts_with(".f") || line.starts_with("hf");
        let differs: Vec<_> = line.chars().skip(2).take(9).filter(|mark| *mark != '.').collect();
        !(linked || line.starts_with('.') && differs.iter().all(|mark| marks.contains(*mark)))
    };
    let lines: Vec<_> = oracle::differences(client, snapshot).into_iter().filter(is_worse).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

fn counts(summary: &serde_json::Value) -> (u64, u64, u64) {
    let count = |name: &str| summary[name].as_u64().unwrap();
    (count("copied"), count("changed"), count("archived"))
}

fn assert_sound(program: &Program, marks: &str, root: &Path) {
    program.assert_index_is_right();
    assert_eq!(checker::check(&program.repo()), [""; 0]);
    assert_same_but(marks, root, &program.snapshot("localhost", root));
}

// Two days of a client, then everything else that changes a repository.
fn live_through(lacks: &str, flags: &[&str], marks: &str) {
    let days = Days::new();
    let program = days.pulled_by(Program::lacking(lacks), flags);
    let (root, before) = (days.client.root(), contents(&program));
    program.pull_local(&root, flags);
    let lost: Vec<_> = before.difference(&contents(&program)).cloned().collect();
    assert!(lost.is_empty(), "{lost:?} are lost");
    assert_sound(&program, marks, &root);
    assert_eq!(counts(&program.pull_local(&root, flags)), (0, 0, 0), "an unchanged client looks changed");

    let snapshot = |name: &str| program.snapshot("localhost", &days.client.path(name));
    fs::remove_file(snapshot("new")).unwrap();
    fs::remove_file(snapshot("renamed/moved3")).unwrap();
    fs::write(snapshot("renamed/moved3"), "corrupt").unwrap();
    program.run(["verify", "localhost", "--repair"]);
    program.pull_local(&root, flags);
    program.run(["verify"]).well();
    assert_eq!(fs::read(snapshot("renamed/moved3")).unwrap(), b"moved 3");
    assert_eq!(fs::read(snapshot("new")).unwrap(), b"new");
    assert_sound(&program, marks, &root);

    let place = tempfile::tempdir_in("/tmp").unwrap();
    let target = format!("localhost:{}", root.display());
    program.run(["restore", &target, place.path().to_str().unwrap()]).well();
    oracle::assert_same(&root, &place.path().join(root.file_name().unwrap()));

    program.run(["prune", "localhost", "--keep-last", "1"]).well();
    assert_sound(&program, marks, &root);
    fs::remove_file(program.repo().join("index.sqlite")).unwrap();
    program.run(["index", "rebuild"]).well();
    let copied = program.pull_local(&root, flags)["copied"].as_u64().unwrap();
    assert!(copied <= 1, "{copied} files are fetched again after a rebuild");
    assert_sound(&program, marks, &root);
}

#[test]
fn repository_lives_without_flags_of_renameat2() {
    live_through("renameat2", &[], "");
    live_through("renameat2", &["--archive", "all"], "");
}

#[test]
fn nothing_is_overwritten_where_the_flag_is_ignored() {
    live_through("refusal", &[], "");
    let program = Program::lacking("refusal");
    let client = Tree::new([("f", file("first"))]);
    program.pull_local(&client.root(), &[]);
    client.add([("new", file("the client's"))]);
    fs::write(program.snapshot("localhost", &client.path("new")), "somebody's").unwrap();
    program.pull_local(&client.root(), &[]);
    let contents = contents(&program);
    for content in ["the client's", "somebody's"] {
        let hash = sha256(content);
        assert!(contents.contains(&hash), "`{content}` was overwritten");
    }
}

fn sha256(content: &str) -> String {
    let place = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    fs::write(place.path(), content).unwrap();
    let output = std::process::Command::new("sha256sum").arg(place.path()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
fn repository_lives_without_hard_links() {
    live_through("links", &[], "");
    live_through("renameat2,links", &[], "");
    live_through("renameat2,links", &["--archive", "all", "--link", "exact"], "");
    live_through("renameat2,symlink-links", &[], "");
}

#[test]
fn repository_lives_with_few_links_to_a_file() {
    live_through("link-count", &["--archive", "all"], "");
    live_through("renameat2,link-count", &["--archive", "all"], "");
    let client = Tree::new((0..20).map(|n| (format!("f{n}"), file("of many names"))));
    let program = Program::lacking("link-count");
    program.pull_local(&client.root(), &[]);
    let links = |name: &str| fs::metadata(program.snapshot("localhost", &client.path(name))).unwrap().nlink();
    assert!((0..20).all(|n| links(&format!("f{n}")) <= 4), "the limit is not injected");
    assert!((0..20).any(|n| links(&format!("f{n}")) > 1), "nothing is linked");
}

#[test]
fn repository_lives_without_times_of_symlinks() {
    live_through("symlink-times", &[], "t");
    live_through("symlink-times,renameat2", &[], "t");
}

#[test]
fn times_of_a_symlink_never_change_its_target() {
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let victim = place.path().join("victim");
    fs::write(&victim, "").unwrap();
    let before = (fs::metadata(&victim).unwrap().mtime(), fs::metadata(&victim).unwrap().uid());
    let client = Tree::new([("l", at(1_000_000_000, 0, link(victim.to_str().unwrap())))]);
    let _ = std::os::unix::fs::lchown(client.path("l"), Some(7), Some(8));
    let program = Program::lacking("symlink-targets");
    program.pull_local(&client.root(), &[]);
    assert_eq!((fs::metadata(&victim).unwrap().mtime(), fs::metadata(&victim).unwrap().uid()), before);
    assert_eq!(fs::read_link(program.snapshot("localhost", &client.path("l"))).unwrap(), victim);
}

#[test]
fn repository_lives_where_syncfs_does_not_reach_the_disk() {
    live_through("syncfs", &[], "");
    live_through("syncfs,renameat2", &["--archive", "all"], "");
}

#[test]
fn repository_lives_with_mtimes_in_whole_seconds() {
    live_through("nanoseconds", &[], "");
    live_through("nanoseconds", &["--link", "exact", "--hash", "server"], "");
    let client = Tree::new([("f", at(1_000_000_000, 123_456_789, file("content")))]);
    let program = Program::lacking("nanoseconds");
    program.pull_local(&client.root(), &["--link", "exact"]);
    let inode = || fs::metadata(program.snapshot("localhost", &client.path("f"))).unwrap().ino();
    let before = inode();
    // Another ctime alone has the content compared.
    fs::set_permissions(client.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(client.path("f"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(counts(&program.pull_local(&client.root(), &["--link", "exact"])), (0, 0, 0));
    assert_eq!(inode(), before);
}

#[test]
fn repository_lives_where_owners_or_modes_are_not_kept() {
    live_through("owners", &[], "og");
    live_through("modes", &[], "p");
}

#[test]
fn repository_lives_where_inode_numbers_do_not_last() {
    live_through("inodes", &[], "");
    live_through("inodes,renameat2", &["--archive", "all"], "");
}

#[test]
fn repository_lives_without_holes_and_attributes() {
    live_through("holes", &["--link", "never"], "");
    live_through("xattrs", &[], "");
}

#[test]
fn record_locks_take_the_place_of_flock() {
    live_through("flock", &[], "");
    let program = Program::lacking("flock");
    let client = Tree::new([("f", file("content"))]);
    program.pull_local(&client.root(), &[]);
    client.add([("g", file("more"))]);
    let mut command = program.command(["pull", "-q", client.root().to_str().unwrap()]);
    let mut first = command.env("ARCHIVE_FAULT", "stop:5").spawn().unwrap();
    assert!(!super::crash::wait_for_stop(&mut first));
    let second = program.run(["pull", client.root().to_str().unwrap()]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(second.status, 11, "{}", second.stderr);
    program.pull_local(&client.root(), &["--lock-wait", "10s"]);
}

#[test]
fn file_system_without_locks_is_refused_before_anything_is_fetched() {
    let client = Tree::new([("f", file("content"))]);
    for (lacks, why) in [("record-locks", "has no record locks"), ("exclusion", "grants one lock to two holders")] {
        let program = Program::lacking_without_repository(lacks);
        let ran = program.run(["pull", "--init", client.root().to_str().unwrap()]);
        ran.refused(1, &["can't keep a repository in", why]);
        assert!(!program.repo().join("format").exists(), "a repository was created");
        assert_eq!(names(&program.repo().join("staging")), [""; 0]);
    }
    // One that was moved there remains as it is.
    let here = Program::new();
    here.pull_local(&client.root(), &[]);
    client.add([("g", file("more"))]);
    let there = Program::lacking_without_repository("record-locks");
    assert!(std::process::Command::new("cp").arg("-a").arg(here.repo()).arg(there.repo()).status().unwrap().success());
    fs::remove_file(there.repo().join("file-system")).unwrap();
    there.run(["pull", "-q", client.root().to_str().unwrap()]).refused(1, &["has no record locks"]);
    here.run(["verify"]).well();
    assert_eq!(names(&there.snapshot("localhost", &client.root())), ["f"]);
}

#[test]
fn file_system_that_confuses_names_or_has_no_symlinks_is_refused_before_anything_is_fetched() {
    let client = Tree::new([("a", file("small")), ("A", file("large"))]);
    for (lacks, why) in
        [("case", "takes names for the same that differ in case alone"), ("symlinks", "has no symlinks")]
    {
        for command in [&["init"][..], &["pull", "--init", client.root().to_str().unwrap()]] {
            let program = Program::lacking_without_repository(lacks);
            program.run(command).refused(1, &["can't keep a repository in", why, "on another file system"]);
            assert!(!program.repo().join("format").exists(), "a repository was created");
            assert_eq!(names(&program.repo().join("staging")), [""; 0]);
        }
        // One that was copied there, with the record of a program that did not ask.
        let here = Program::new();
        here.pull_local(&client.root(), &[]);
        let there = Program::lacking_without_repository(lacks);
        assert!(
            std::process::Command::new("cp").arg("-a").arg(here.repo()).arg(there.repo()).status().unwrap().success()
        );
        let record = fs::read_to_string(there.repo().join("file-system")).unwrap();
        fs::write(there.repo().join("file-system"), record.replace("probe 2\n", "probe 1\n")).unwrap();
        there.run(["pull", "-q", client.root().to_str().unwrap()]).refused(1, &["can't keep a repository in", why]);
        there.run(["ls", "localhost"]).well();
    }
}

fn ignoring_case(program: &Program) -> Option<Disk> {
    let disk = is_root().then(|| Disk::ignoring_case(&program.path("image"), &program.path("disk"))).flatten();
    if disk.is_none() {
        eprintln!("needs root, and a kernel with FAT or the packages exfatprogs and exfat-fuse");
    }
    disk
}

#[test]
fn repository_on_a_file_system_that_ignores_case_is_refused() {
    let program = Program::without_repository();
    let Some(_disk) = ignoring_case(&program) else { return };
    let repo = program.path("disk/repo");
    let mut command = program.command(["pull", "--init", "/etc/hostname", "--repo"]);
    Ran::of(command.arg(&repo).output().unwrap()).refused(1, &["can't keep a repository in", "its file system "]);
    assert!(!repo.join("format").exists());
}

/// Asserts that everything in a directory has what the client has under exactly this name.
fn assert_is_of_client(restored: &Path, client: &Path) {
    for name in names(restored) {
        let (restored, client) = (restored.join(&name), client.join(&name));
        if restored.is_dir() {
            assert_is_of_client(&restored, &client)
        } else {
            assert_eq!(fs::read(restored).unwrap(), fs::read(&client).unwrap(), "{}", client.display())
        }
    }
}

#[test]
fn restore_replaces_no_file_by_one_whose_name_differs_in_case() {
    let program = Program::new();
    let Some(_disk) = ignoring_case(&program) else { return };
    let even = |content: &str| at(1_000_000_000, 0, file(content));
    let client = Tree::new([
        ("a", file("small")),
        ("A", file("large one")),
        ("d", dir([("x", even("1"))])),
        ("D", dir([("x", even("2"))])),
    ]);
    client.add([("e", even("3")), ("E", even("4")), ("other", even("5"))]);
    program.pull_local(&client.root(), &["--name", "client"]);
    let (target, to) = (format!("client:{}", client.root().display()), program.path("disk/to"));
    for flags in [&[][..], &[], &["--overwrite", "older"], &["--overwrite", "always"]] {
        let ran = program.run([&["restore", "--owner", "none", &target, to.to_str().unwrap()], flags].concat());
        assert_eq!(ran.status, 3, "{}", ran.stderr);
        assert_eq!(ran.stderr.matches("takes this name and another entry's for the same").count(), 3, "{}", ran.stderr);
        let restored = to.join(client.root().file_name().unwrap());
        assert_eq!(names(&restored).len(), 4);
        assert_is_of_client(&restored, &client.root());
    }
}

#[test]
fn content_is_restored_where_owners_and_modes_are_not_kept() {
    let program = Program::new();
    let Some(_disk) = ignoring_case(&program) else { return };
    let client = Tree::new([("f", file("content"))]);
    std::os::unix::fs::chown(client.path("f"), Some(12345), Some(12345)).unwrap();
    program.pull_local(&client.root(), &["--name", "client"]);
    let (target, to) = (format!("client:{}", client.root().display()), program.path("disk/to"));
    let ran = program.run(["restore", &target, to.to_str().unwrap()]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("/f`: it is there, but without its owner or mode: "), "{}", ran.stderr);
    assert_eq!(fs::read(to.join(client.root().file_name().unwrap()).join("f")).unwrap(), b"content");
}

#[test]
fn write_ahead_log_is_left_where_memory_is_not_shared() {
    let client = Tree::new([("f", file("content"))]);
    let header = |program: &Program| fs::read(program.repo().join("index.sqlite")).unwrap()[18..20].to_vec();
    let here = Program::new();
    here.pull_local(&client.root(), &[]);
    assert_eq!(header(&here), [2, 2]);
    for command in [&["status"][..], &["pull", "-q", client.root().to_str().unwrap()]] {
        let there = Program::lacking_without_repository("local");
        assert!(
            std::process::Command::new("cp").arg("-a").arg(here.repo()).arg(there.repo()).status().unwrap().success()
        );
        there.run(command).well();
        assert_eq!(header(&there), [1, 1]);
        there.run(["verify"]).well();
        assert!(!there.repo().join("index.sqlite-shm").exists());
    }
    live_through("local", &[], "");
}

#[test]
fn record_of_another_file_system_is_not_believed() {
    let client = Tree::new([("f", file("content"))]);
    let program = Program::new();
    program.pull_local(&client.root(), &[]);
    let record = program.repo().join("file-system");
    let written = fs::read_to_string(&record).unwrap();
    assert!(written.contains("moves yes\n"), "{written}");
    let device = fs::metadata(program.repo()).unwrap().dev();
    let elsewhere = written.replace(&format!("device {device}\n"), "device 1\n").replace("yes", "no");
    for other in [elsewhere.as_str(), "", "probe 0\n", "rubbish"] {
        fs::write(&record, other).unwrap();
        program.run(["status"]).well();
        assert_eq!(fs::read_to_string(&record).unwrap(), other, "reading changes nothing");
        program.pull_local(&client.root(), &[]);
        assert_eq!(fs::read_to_string(&record).unwrap(), written);
    }
    let before = fs::metadata(&record).unwrap().ino();
    program.pull_local(&client.root(), &[]);
    assert_eq!(fs::metadata(&record).unwrap().ino(), before, "it is probed once");
}
