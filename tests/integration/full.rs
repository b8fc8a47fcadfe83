//! A full disk: everything can be read, and room can be made.

use std::fs;
use std::io::Write;
use std::process::Command;

use crate::support::*;

/// A small disk with six runs of `laptop`, filled to the last byte by somebody else.
fn full_disk() -> (Program, Tree, Mount) {
    let program = Program::without_repository();
    fs::create_dir(program.repo()).unwrap();
    let mounted = Mount::tmpfs(&program.repo(), "size=8m");
    program.init();
    let client = Tree::new((0..40).map(|n| (format!("f{n}"), file(format!("{n}")))));
    for run in 0..6 {
        client.put("large", file(vec![run; 200_000]));
        client.put("changes", at(1_000_000_000 + i64::from(run), 0, file(format!("run {run}"))));
        program.pull_local(&client.root(), &["--name", "laptop"]);
    }
    fill(&program);
    (program, client, mounted)
}

fn fill(program: &Program) {
    let mut ballast = fs::File::create(program.repo().join("ballast")).unwrap();
    for size in [65_536, 4096, 1] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn full_disk_can_be_read() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client, _mounted) = full_disk();
    let f = format!("laptop:{}/f1", client.root().display());
    let restored = program.path("restored");
    for arguments in [
        &["status"][..],
        &["log"],
        &["ls", "laptop"],
        &["history", &f],
        &["find", "f1"],
        &["diff", "laptop"],
        &["verify"],
        &["index", "check"],
        &["index", "stats"],
        &["restore", &f, restored.to_str().unwrap()],
        &["prune", "-n", "laptop", "--keep-last", "1"],
        &["forget", "-n", &f],
    ] {
        program.run(arguments).well();
    }
    assert_eq!(program.run(["cat", &f]).stdout, "1");
    // The file system for temporary files may be full as well.
    let small = program.path("tmp");
    fs::create_dir(&small).unwrap();
    let _small = Mount::tmpfs(&small, "size=4k");
    Ran::of(program.command(["log"]).env("TMPDIR", &small).output().unwrap()).well();
}

#[test]
fn prune_makes_room_on_a_full_disk() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client, mounted) = full_disk();
    program
        .run(["pull", "-q", "--name", "laptop", client.root().to_str().unwrap()])
        .refused(5, &["no space left on device"]);
    let ran = program.run(["--json", "prune", "laptop", "--keep-last", "1"]);
    ran.well();
    assert!(ran.lines()[0]["bytes_freed"].as_u64() >= Some(1_000_000), "{}", ran.stdout);
    program.assert_index_is_right();
    program.run(["verify"]).well();
    program.pull_local(&client.root(), &["--name", "laptop"]);
    drop(mounted);
}

/// A disk that is full to the last byte, without a copy of the index that could be removed.
fn full_disk_without_copies() -> (Program, Tree, Disk) {
    let program = Program::without_repository();
    let disk = Disk::ext4(&program.path("image"), &program.repo(), 100 << 20);
    program.init();
    let client = Tree::new((0..40).map(|n| (format!("d{n}"), dir::<&str>([]))));
    for run in 0..4 {
        client.put("changes", at(1_000_000_000 + i64::from(run), 0, file(vec![run; 50_000])));
        for n in 0..3000 {
            client.put(format!("d{}/f{n}", n % 40), file(format!("{run} {n}")));
        }
        program.pull_local(&client.root(), &["--name", "laptop"]);
    }
    for name in names(&program.repo()).iter().filter(|name| name.starts_with("index-")) {
        fs::remove_file(program.repo().join(name)).unwrap();
    }
    fill(&program);
    (program, client, disk)
}

#[test]
fn reserve_lets_a_full_disk_be_pruned_without_a_copy_of_the_index() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client, _disk) = full_disk_without_copies();
    let reserve = program.repo().join("reserve");
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 4 << 20);
    program.run(["prune", "laptop", "--keep-last", "1"]).well();
    assert!(!reserve.exists());
    program.assert_index_is_right();
    fs::remove_file(program.repo().join("ballast")).unwrap();
    program.pull_local(&client.root(), &["--name", "laptop"]);
    assert!(reserve.exists(), "the next pull makes it again");
    let (program, _client, _disk) = full_disk_without_copies();
    program.run(["forget", "--yes", "laptop:/"]).well();
    program.assert_index_is_right();
    assert!(!program.repo().join("snapshot/laptop").exists());
}

#[test]
fn reserve_is_made_only_where_there_is_room() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, _client, _mounted) = full_disk();
    assert!(!program.repo().join("reserve").exists());
}

#[test]
fn forget_makes_room_on_a_full_disk() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client, _mounted) = full_disk();
    program.run(["forget", "--yes", &format!("laptop:{}/large", client.root().display())]).well();
    program.assert_index_is_right();
    let (program, _client, _mounted) = full_disk();
    program.run(["forget", "--yes", "laptop:/"]).well();
    assert_eq!(names(&program.repo().join("snapshot")), [""; 0]);
    program.assert_index_is_right();
}

#[test]
fn index_is_rebuilt_on_a_full_disk() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client, _mounted) = full_disk();
    let large = program.archive("laptop", &client.root());
    let archived = names(&large).into_iter().find(|name| name.starts_with("large")).unwrap();
    fs::remove_file(large.join(&archived)).unwrap();
    fill(&program);
    program.run(["index", "update", large.join(&archived).to_str().unwrap()]).well();
    program.run(["index", "rebuild"]).well();
    // What was removed by hand is lost, and said to be.
    let check = program.run(["index", "check"]);
    assert_eq!(check.status, 1, "{}", check.stderr);
    assert!(
        check.stderr.contains("differ in 1 place") && check.stderr.contains("has no plain file"),
        "{}",
        check.stderr
    );
}

#[test]
fn pruning_of_a_full_disk_may_be_killed_at_every_step() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    for step in (1..).step_by(4) {
        let (program, client, _mounted) = full_disk();
        let mut command = program.command(["prune", "laptop", "--keep-last", "1"]);
        let ran = Ran::of(command.env("ARCHIVE_FAULT", format!("kill:{step}")).output().unwrap());
        if ran.status == 0 {
            assert!(step > 8, "only {step} steps could be killed");
            return;
        }
        program.run(["log"]).well();
        program.run(["prune", "laptop", "--keep-last", "1"]).well();
        program.assert_index_is_right();
        assert_same(&client.root(), &program.snapshot("laptop", &client.root()));
    }
}

#[test]
fn copy_of_the_index_comes_back_with_the_next_pull() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client, _mounted) = full_disk();
    program.run(["prune", "laptop", "--keep-last", "1"]).well();
    assert!(Command::new("rm").arg(program.repo().join("ballast")).status().unwrap().success());
    client.put("f1", file("changed"));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    assert!(names(&program.repo()).iter().any(|name| name.starts_with("index-")));
}

#[test]
fn used_up_quota_is_reported_and_room_is_made_below_it() {
    let knows_btrfs = fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("btrfs"));
    if !is_root() || !knows_btrfs || !std::path::Path::new("/usr/sbin/mkfs.btrfs").exists() {
        return eprintln!("needs root, btrfs and btrfs-progs, for it mounts one");
    }
    let program = Program::without_repository();
    let disk = Disk::btrfs(&program.path("image"), &program.repo());
    disk.run_btrfs(&["quota", "enable"]);
    disk.run_btrfs(&["qgroup", "limit", "30M"]);
    program.init();
    let client = Tree::new([("f", file("f"))]);
    let root = client.root();
    let pull = ["pull", "-q", "--name", "laptop", "--min-free", "0", root.to_str().unwrap()];
    for run in 0..4 {
        client.put("large", at(1_000_000_000 + run, 0, file(noise(run as u64, 1_000_000))));
        program.run(pull).well();
    }
    let reserve = program.repo().join("reserve");
    assert!(reserve.exists());
    fill(&program);
    client.put("large", file("another"));
    let full = program.run(pull);
    assert_eq!(full.status, 5, "{}", full.stderr);
    assert!(
        full.stderr.to_lowercase().contains("quota exceeded") && !full.stderr.contains("tracing"),
        "{}",
        full.stderr
    );
    program.run(["ls", "laptop"]).well();
    program.run(["prune", "laptop", "--keep-last", "1"]).well();
    assert!(!reserve.exists());
    program.assert_index_is_right();
    program.run(["verify"]).well();
}
