//! Mtimes of other centuries: all that a client can have is recorded and given back. `/dev/shm` holds each of them, the file
//! system of `/tmp` the nearest that it can.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use filetime::{FileTime, set_symlink_file_times};
use tempfile::TempDir;

use crate::support::*;

const YEAR_3000: i64 = 32_503_680_000;
const YEAR_1336: i64 = -20_000_000_000;
/// Beyond the year 9999, where calendars end.
const YEAR_33658: i64 = 1_000_000_000_000;

fn in_memory() -> TempDir {
    tempfile::Builder::new().prefix("archive-times").tempdir_in("/dev/shm").unwrap()
}

fn set(path: &Path, seconds: i64, nanoseconds: u32) {
    let time = FileTime::from_unix_time(seconds, nanoseconds);
    set_symlink_file_times(path, time, time).unwrap();
}

fn mtime(path: &Path) -> (i64, i64) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.mtime(), found.mtime_nsec())
}

/// A client whose entries have far mtimes, one of them a file that does not come in one frame.
fn client(place: &TempDir) -> std::path::PathBuf {
    let root = place.path().join("data");
    fs::create_dir_all(root.join("dir")).unwrap();
    fs::write(root.join("future"), "future").unwrap();
    fs::write(root.join("large"), noise(7, 300_000)).unwrap();
    fs::write(root.join("past"), "past").unwrap();
    fs::write(root.join("beyond"), "beyond").unwrap();
    symlink("future", root.join("link")).unwrap();
    set(&root.join("future"), YEAR_3000, 1);
    set(&root.join("large"), YEAR_3000, 999_999_999);
    set(&root.join("past"), YEAR_1336, 5);
    set(&root.join("beyond"), YEAR_33658, 7);
    set(&root.join("link"), YEAR_3000, 3);
    set(&root.join("dir"), YEAR_1336, 250_000_000);
    root
}

const NAMES: [&str; 6] = ["beyond", "dir", "future", "large", "link", "past"];

fn mtimes(root: &Path) -> BTreeMap<&'static str, (i64, i64)> {
    NAMES.into_iter().map(|name| (name, mtime(&root.join(name)))).collect()
}

/// A program with a repository that holds every mtime.
fn program(place: &TempDir) -> Program {
    let program = Program::without_repository();
    let repo = place.path().join("repo");
    archive::repository::Repository::create(&repo).unwrap();
    symlink(repo, program.repo()).unwrap();
    program
}

/// What `ls --json` says of the mtimes, in nanoseconds and exactly.
fn listed(program: &Program, root: &Path) -> BTreeMap<String, (i64, String)> {
    let ran = program.run(["--json", "ls", &format!("client:{}", root.display())]);
    ran.well();
    let lines = ran.lines().into_iter().map(|line| {
        let name = line["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        (name, (line["mtime"].as_i64().unwrap(), line["mtime_exact"].as_str().unwrap_or_default().to_owned()))
    });
    lines.collect()
}

fn assert_listed(program: &Program, root: &Path) {
    let listed = listed(program, root);
    for (name, seconds) in [
        ("beyond", "1000000000000.000000007"),
        ("dir", "-19999999999.750000000"),
        ("future", "32503680000.000000001"),
        ("large", "32503680000.999999999"),
        ("past", "-19999999999.999999995"),
    ] {
        let nearest = if seconds.starts_with('-') { i64::MIN } else { i64::MAX };
        assert_eq!(listed[name], (nearest, seconds.to_owned()), "{name}");
    }
}

#[test]
fn far_mtimes_are_recorded_and_restored() {
    let (sshd, place, repo) = (Sshd::new(), in_memory(), in_memory());
    let (root, program) = (client(&place), program(&repo));
    for flags in [&[][..], &["--hash", "client"]] {
        let summary = program.pull_well(&sshd, &root, flags);
        let is_first = summary["run"] == 1;
        assert_eq!((&summary["copied"], summary["warnings"].as_u64()), (&if is_first { 4 } else { 0 }.into(), Some(0)));
        assert_eq!(summary["archived"], 0, "{summary}");
    }
    program.assert_index_is_right();
    assert_listed(&program, &root);
    let snapshot = program.snapshot("client", &root);
    let files = |root: &Path| mtimes(root).into_iter().filter(|(name, _)| *name != "dir").collect::<Vec<_>>();
    assert_eq!(files(&snapshot), files(&root));

    let target = format!("client:{}", root.display());
    let (here, there) = (place.path().join("here"), place.path().join("there"));
    program.run(["restore", &target, here.to_str().unwrap()]).well();
    let config = sshd.config();
    program.run(["restore", "-F", config.to_str().unwrap(), &target, &format!("client:{}", there.display())]).well();
    for restored in [here, there] {
        assert_eq!(mtimes(&restored.join("data")), mtimes(&root));
    }
    let plain = program.run(["ls", "-l", &target]);
    assert!(plain.stdout.contains("  @1000000000000  /") && plain.stdout.contains("3000-01-01"), "{}", plain.stdout);
}

#[test]
fn far_mtimes_are_no_change_over_sftp() {
    let (sshd, place, repo) = (Sshd::new(), in_memory(), in_memory());
    let (root, program) = (client(&place), program(&repo));
    // With a limit all content comes over SFTP, whose times have 32 bits of seconds.
    for copied in [4, 0] {
        let summary = program.pull_well(&sshd, &root, &["--bwlimit", "100MB"]);
        let counts = (&summary["copied"], &summary["warnings"], &summary["archived"]);
        assert_eq!(counts, (&copied.into(), &0.into(), &0.into()), "{summary}");
    }
    assert_listed(&program, &root);
}

#[test]
fn far_mtimes_come_back_in_a_rebuild() {
    let (place, repo) = (in_memory(), in_memory());
    let (root, program) = (client(&place), program(&repo));
    program.pull_local(&root, &["--name", "client"]);
    fs::remove_file(program.repo().join("index.sqlite")).unwrap();
    program.run(["index", "rebuild"]).well();
    let listed = listed(&program, &root);
    assert_eq!(listed["future"].1, "32503680000.000000001");
    assert_eq!(listed["past"].1, "-19999999999.999999995");
    let again = program.pull_local(&root, &["--name", "client"]);
    assert_eq!((&again["copied"], &again["archived"]), (&0.into(), &0.into()), "{again}");
    assert_listed(&program, &root);
}

#[test]
fn change_of_far_mtime_is_another_version() {
    let (place, repo) = (in_memory(), in_memory());
    let (root, program) = (client(&place), program(&repo));
    program.pull_local(&root, &["--name", "client"]);
    set(&root.join("future"), YEAR_3000 + 86_400, 1);
    set(&root.join("past"), YEAR_1336, 6);
    set(&root.join("beyond"), YEAR_33658 + 1, 7);
    let summary = program.pull_local(&root, &["--name", "client"]);
    assert_eq!((&summary["touched"], &summary["archived"], &summary["copied"]), (&3.into(), &3.into(), &0.into()));
    let archived = program.archived("client", &root);
    assert_eq!(archived, ["beyond.99991231T235959Z", "future.30000101T000000Z", "past.13360323T122640Z"]);
    assert_eq!(mtime(&program.archive("client", &root).join(&archived[1])), (YEAR_3000, 1));
    program.assert_index_is_right();
    let history = program.run(["--json", "history", &format!("client:{}", root.join("past").display())]).lines();
    let mut exact: Vec<_> = history.iter().map(|line| line["mtime_exact"].as_str().unwrap()).collect();
    exact.sort();
    assert_eq!(exact, ["-19999999999.999999994", "-19999999999.999999995"]);
}

#[test]
fn far_mtimes_are_recorded_where_the_file_system_holds_the_nearest() {
    let (place, program) = (in_memory(), Program::new());
    let root = client(&place);
    program.pull_local(&root, &["--name", "client"]);
    let snapshot = program.snapshot("client", &root);
    let inodes = || NAMES.map(|name| fs::symlink_metadata(snapshot.join(name)).unwrap().ino());
    let before = inodes();
    for flags in [&[][..], &["--link", "exact"]] {
        // Another ctime alone has the content compared.
        fs::set_permissions(root.join("future"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::set_permissions(root.join("future"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let again = program.pull_local(&root, &[&["--name", "client"], flags].concat());
        assert_eq!((&again["copied"], &again["archived"]), (&0.into(), &0.into()), "{again}");
    }
    assert_eq!(inodes(), before);
    program.assert_index_is_right();
    assert_listed(&program, &root);
    let target = format!("client:{}", root.display());
    program.run(["restore", &target, place.path().join("here").to_str().unwrap()]).well();
    assert_eq!(mtimes(&place.path().join("here/data")), mtimes(&root));
}

#[test]
fn restore_reports_mtimes_that_the_file_system_can_not_hold() {
    let (place, repo) = (in_memory(), in_memory());
    let (root, program) = (client(&place), program(&repo));
    program.pull_local(&root, &["--name", "client"]);
    let to = program.path("to");
    let ran = program.run(["restore", &format!("client:{}", root.display()), to.to_str().unwrap()]);
    if mtimes(&to.join("data")) == mtimes(&root) {
        return ran.well();
    }
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    let why = "mtimes were not kept by the destination's file system";
    assert!(ran.stderr.lines().count() == 1 && ran.stderr.contains(why), "{}", ran.stderr);
    assert_eq!(fs::read(to.join("data/future")).unwrap(), b"future");
}

#[test]
fn rounded_mtimes_are_reported_once_and_are_no_difference() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, sshd) = (Program::new(), Sshd::new());
    let client =
        Tree::new([("dir", dir([("a", at(1_000_000_001, 5, file("a")))])), ("b", at(1_000_000_001, 0, file("b")))]);
    client.add([("link", at(1_000_000_003, 7, link("b")))]);
    set(&client.path("dir"), 1_000_000_003, 7);
    set(&client.root(), 1_000_000_003, 7);
    let target = format!("client:{}", client.root().display());
    program.pull_local(&client.root(), &["--name", "client"]);
    let point = program.path("coarse");
    let _disk = Disk::with_small_inodes(&program.path("image"), &point, 8 << 20);
    let (here, there) = (point.join("here"), point.join("there"));
    let (config, over_ssh) = (sshd.config(), format!("client:{}", there.display()));
    for (to, flags) in [(here.to_str().unwrap(), vec![]), (&over_ssh, vec!["-F", config.to_str().unwrap()])] {
        // The second time everything is there, and a symlink's mtime is no difference.
        for (restored, rounded) in [(5, 4), (0, 3)] {
            let ran = program.run([&["--json", "restore", &target, to], &flags[..]].concat());
            ran.well();
            let done = &ran.lines()[0];
            assert_eq!((&done["restored"], &done["rounded_mtimes"]), (&restored.into(), &rounded.into()), "{done}");
            assert_eq!(done["unchanged"], 5 - restored, "{done}");
            let says = format!("{rounded} mtimes were rounded by the destination's file system\n");
            assert!(ran.stderr.ends_with(&says) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
        }
    }
    // Another file of the same size is none that was rounded.
    let other = here.join(client.root().file_name().unwrap()).join("dir/a");
    fs::write(&other, "A").unwrap();
    set(&other, 1_000_000_000, 0);
    let ran = program.run(["restore", &target, here.to_str().unwrap()]);
    assert!(ran.status == 3 && ran.stderr.contains("something else is there"), "{}", ran.stderr);
}

#[test]
fn pull_reports_mtimes_that_the_repository_has_rounded() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let program = Program::without_repository();
    let _disk = Disk::with_small_inodes(&program.path("image"), &program.repo(), 32 << 20);
    program.init();
    let client = Tree::new([("a", at(1_000_000_001, 5, file("a"))), ("b", at(1_000_000_001, 0, file("b")))]);
    client.add([("far", file("far"))]);
    set(&client.path("far"), YEAR_3000, 0);
    let pull = || program.run(["pull", client.root().to_str().unwrap()]);
    let ran = pull();
    ran.well();
    let says = "the repository's file system can't hold 2 mtimes exactly; the index can\n";
    assert!(ran.stderr.contains(says), "{}", ran.stderr);
    let again = pull();
    again.well();
    assert!(!again.stderr.contains("mtimes are kept"), "{}", again.stderr);
}

#[test]
fn mtime_that_an_older_program_replaced_is_corrected() {
    let (place, repo) = (in_memory(), in_memory());
    let (root, program) = (client(&place), program(&repo));
    program.pull_local(&root, &["--name", "client"]);
    program.change_index(
        "UPDATE version SET attributes = NULL; UPDATE directory SET fingerprint = NULL; DELETE FROM listed; \
         PRAGMA user_version = 5",
    );
    assert_eq!(listed(&program, &root)["future"], (i64::MAX, String::new()));
    let summary = program.pull_local(&root, &["--name", "client"]);
    assert_eq!((&summary["copied"], &summary["errors"]), (&0.into(), &0.into()), "{summary}");
    assert_listed(&program, &root);
    program.assert_index_is_right();
}
