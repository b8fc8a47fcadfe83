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
