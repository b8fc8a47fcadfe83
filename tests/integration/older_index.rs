//! An older index that is put back: nothing believes it, and nothing carries out what it has pending.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::crash::wait_for_stop;
use crate::support::*;

const OLDER: &str = "the index is older than the trees";

fn keep_index(program: &Program) -> PathBuf {
    let kept = program.path("kept");
    let _ = fs::create_dir(&kept);
    copy_index(&program.repo(), &kept);
    kept
}

fn copy_tree(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Three runs, and the index of the first one put back.
fn with_index_of_first_run() -> (Program, Tree) {
    let (program, client) = (Program::new(), Tree::new([("f", file("v1")), ("note", file("note"))]));
    program.pull_local(&client.root(), &[]);
    let kept = keep_index(&program);
    for (version, new) in [("v2", "n2"), ("v3", "n3")] {
        client.put("f", file(version));
        client.put(new, file(new));
        program.pull_local(&client.root(), &[]);
    }
    copy_index(&kept, &program.repo());
    (program, client)
}

#[test]
fn index_update_refuses_an_older_index() {
    let (program, client) = with_index_of_first_run();
    let root = client.root();
    let note = program.snapshot("localhost", &client.path("by-hand"));
    fs::write(&note, "by hand").unwrap();
    for command in [&["index", "update", note.to_str().unwrap()][..], &["pull", root.to_str().unwrap()], &["verify"]] {
        program.run(command).refused(1, &[OLDER, "archive index rebuild"]);
    }
    program.run(["index", "rebuild"]).well();
    program.assert_index_is_right();
}

#[test]
fn index_update_makes_no_index() {
    let program = Program::new();
    let client = Tree::new([("f", file("f")), ("g", file("g"))]);
    program.pull_local(&client.root(), &[]);
    fs::remove_file(program.repo().join("index.sqlite")).unwrap();
    let snapshot = program.snapshot("localhost", &client.path("f"));
    program.run(["index", "update", snapshot.to_str().unwrap()]).refused(1, &["has no index", "index rebuild"]);
    assert!(!program.repo().join("index.sqlite").exists());
}

#[test]
fn broken_off_rebuild_leaves_an_older_index_old() {
    let program = Program::new();
    let client = Tree::new((0..4).map(|n| (format!("f{n}"), file("v1"))));
    let root = client.root();
    let pull = |name: &str| program.pull_local(&root, &["--name", name]);
    for name in ["a", "b"] {
        pull(name);
    }
    let kept = keep_index(&program);
    (0..4).for_each(|n| client.put(format!("f{n}"), file(format!("v2 of {n}"))));
    for name in ["a", "b"] {
        pull(name);
    }
    copy_index(&kept, &program.repo());
    let old = program.path("old");
    copy_tree(&program.repo(), &old);
    let mut was_finished = false;
    for step in 1.. {
        copy_tree(&old, &program.repo());
        let rebuilt = program.command(["index", "rebuild"]).env("ARCHIVE_FAULT", format!("kill:{step}")).output();
        if rebuilt.unwrap().status.success() {
            break;
        }
        for name in ["a", "b"] {
            let ran = program.run(["pull", "--name", name, root.to_str().unwrap()]);
            // Only the last steps are behind the one that makes the index new.
            was_finished |= ran.status == 0;
            if !was_finished {
                ran.refused(1, &[OLDER]);
            }
            let ran = program.run(["index", "check"]);
            assert_eq!(ran.status == 0, was_finished, "kill:{step}: {}", ran.stderr);
        }
    }
    program.assert_index_is_right();
}

/// A source whose removal of `d` was cut off before its first change to the trees, and the index then.
fn with_cut_off_removal() -> (Program, Tree, PathBuf) {
    let program = Program::new();
    let client = Tree::new([("d", dir([("a", file("a")), ("b", file("b"))])), ("f", file("f"))]);
    program.pull_local(&client.root(), &[]);
    client.rename("d", "aside");
    let before = program.path("before");
    copy_tree(&program.repo(), &before);
    for step in 1..40 {
        copy_tree(&before, &program.repo());
        let mut pull = program.command(["pull", client.root().to_str().unwrap()]);
        pull.env("ARCHIVE_FAULT", format!("kill:{step}")).output().unwrap();
        let pending: i64 = program.index().query_row("SELECT count(*) FROM pending", [], |row| row.get(0)).unwrap();
        if pending > 0 {
            let kept = keep_index(&program);
            return (program, client, kept);
        }
    }
    panic!("no step leaves anything pending");
}

#[test]
fn pending_batch_of_an_older_index_is_never_carried_out() {
    for command in [&["index", "check"][..], &["verify"], &["verify", "--repair"], &["index", "rebuild"]] {
        let (program, client, kept) = with_cut_off_removal();
        program.pull_local(&client.root(), &[]);
        client.rename("aside", "d");
        program.pull_local(&client.root(), &[]);
        program.run(["prune", "--keep-last", "1"]).well();
        copy_index(&kept, &program.repo());
        let ran = program.run(command);
        assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
        match command {
            ["index", "rebuild"] => ran.well(),
            _ => assert!(ran.status == 1 && ran.stderr.contains(OLDER), "{command:?}: {}", ran.stderr),
        }
        program.run(["index", "rebuild"]).well();
        program.run(["verify"]).well();
        program.pull_local(&client.root(), &[]);
        assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
    }
}

#[test]
fn index_that_was_copied_within_a_run_is_older_after_the_next_batch() {
    let (program, before) = (Program::new(), Program::new());
    let client = Tree::new((0..12).map(|n| (format!("f{n}"), file(format!("v1 of {n}")))));
    before.pull_local(&client.root(), &[]);
    (0..12).for_each(|n| client.put(format!("f{n}"), file(format!("v2 of {n}"))));
    let (mut older, mut pending) = (0, 0);
    for step in (1..).step_by(15) {
        copy_tree(&before.repo(), &program.repo());
        let mut pull = program.command(["pull", "-q", client.root().to_str().unwrap()]);
        let mut pull = pull.env("ARCHIVE_BATCH", "3").env("ARCHIVE_FAULT", format!("stop:{step}")).spawn().unwrap();
        if wait_for_stop(&mut pull) {
            break;
        }
        let kept = keep_index(&program);
        kill(Pid::from_raw(pull.id() as i32), Signal::SIGCONT).unwrap();
        assert!(pull.wait().unwrap().success());
        copy_index(&kept, &program.repo());
        pending += program.index().query_row("SELECT count(*) FROM pending", [], |row| row.get::<_, u32>(0)).unwrap();
        let ran = program.run(["index", "check"]);
        assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
        if ran.status != 0 {
            assert!(ran.stderr.contains(OLDER), "stop:{step}: {}", ran.stderr);
            program.run(["pull", client.root().to_str().unwrap()]).refused(1, &[OLDER]);
            program.run(["index", "rebuild"]).well();
            older += 1;
        }
        program.assert_index_is_right();
        program.run(["verify"]).well();
    }
    assert!(older > 1 && pending > 1, "{older} of the copies are older, {pending} have something pending");
}

#[test]
fn directory_that_is_back_is_listed_after_a_rebuild_of_an_older_index() {
    let (program, client) = (Program::new(), Tree::new([("stays", file("s")), ("d", dir([("f", file("v1"))]))]));
    program.pull_local(&client.root(), &[]);
    // A rebuilt index knows of no directory whether it was listed.
    program.run(["index", "rebuild"]).well();
    client.remove("d");
    program.pull_local(&client.root(), &[]);
    let kept = keep_index(&program);
    client.put("d", dir([("f", file("v2"))]));
    program.pull_local(&client.root(), &[]);
    copy_index(&kept, &program.repo());
    program.run(["index", "rebuild"]).well();
    program.assert_index_is_right();
    assert_eq!(checker::check(&program.repo()), [""; 0]);
    let listed = program.run(["ls", &format!("localhost:{}", client.root().display())]).stdout;
    assert!(listed.contains("d\n") || listed.contains("d/\n"), "{listed}");
    client.remove("d");
    program.pull_local(&client.root(), &[]);
    program.assert_index_is_right();
    assert!(!program.snapshot("localhost", &client.path("d")).exists());
}

#[test]
fn each_version_takes_a_file_of_its_own_after_a_rebuild_of_an_older_index() {
    // The archive shortens the long name, so that a rebuild can't tell whose file that is.
    let long = "y".repeat(255);
    let one = || at(1_000_000_000, 0, file("one content"));
    // The long one first: rows are made in the order of inode numbers.
    let (program, client) = (Program::new(), Tree::new([(long.as_str(), one()), ("a", one())]));
    program.pull_local(&client.root(), &[]);
    let kept = keep_index(&program);
    client.remove(&long);
    client.put("a", file("another content"));
    program.pull_local(&client.root(), &["--max-delete", "100"]);
    copy_index(&kept, &program.repo());
    program.run(["index", "rebuild"]).well();
    assert_eq!(checker::check(&program.repo()), [""; 0]);
    program.assert_index_is_right();
    for name in ["a", &long] {
        let ran = program.run(["cat", &format!("localhost:{}", client.path(name).display()), "--at", "1"]);
        assert_eq!(ran.stdout, "one content", "{name}: {}", ran.stderr);
    }
}
