//! `index update`: takes over what was changed by hand, and forgets nothing that a kept run shows.

use std::fs;
use std::path::Path;

use crate::support::*;

fn cat(program: &Program, path: &Path, run: i64) -> Ran {
    program.run(["cat", &format!("localhost:{}", path.display()), "--at", &run.to_string()])
}

fn update(program: &Program, path: &Path) -> Ran {
    let ran = program.run(["index", "update", path.to_str().unwrap()]);
    ran.well();
    ran
}

/// Puts a file into `damaged/`, where a repair looks for lost contents.
fn put_aside(program: &Program, content: &str) {
    let aside = program.repo().join("damaged/localhost");
    fs::create_dir_all(&aside).unwrap();
    fs::write(aside.join("f"), content).unwrap();
}

#[test]
fn version_whose_file_was_overwritten_remains_and_is_repaired() {
    let program = Program::new();
    let client = Tree::new([("f", at(1_000_000_000, 0, file("precious")))]);
    program.pull_local(&client.root(), &[]);
    let snapshot = program.snapshot("localhost", &client.path("f"));
    fs::write(&snapshot, "Precious").unwrap();
    let ran = update(&program, &snapshot);
    assert!(ran.stderr.contains("verify --repair"), "{}", ran.stderr);
    let checked = program.run(["index", "check"]);
    assert!(checked.status == 1 && checked.stderr.contains("has no plain file"), "{}", checked.stderr);
    put_aside(&program, "precious");
    let repaired = program.run(["--json", "verify", "--repair"]);
    assert_eq!(repaired.lines().last().unwrap()["repaired"], 1, "{} {}", repaired.stdout, repaired.stderr);
    assert_eq!(cat(&program, &client.path("f"), 1).stdout, "precious");
    program.assert_index_is_right();
    let to = program.path("restored");
    program.run(["restore", "localhost", to.to_str().unwrap(), "--at", "1"]).well();
    let restored = to.join(client.path("f").strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(restored).unwrap(), "precious");
    program.pull_local(&client.root(), &[]);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn version_whose_file_was_removed_remains_and_is_repaired() {
    for tree in ["snapshot", "archive"] {
        let program = Program::new();
        let client = Tree::new([("f", at(1_000_000_000, 0, file("precious"))), ("stays", file("stays"))]);
        program.pull_local(&client.root(), &[]);
        let mut place = program.snapshot("localhost", &client.path("f"));
        if tree == "archive" {
            client.put("f", file("second"));
            program.pull_local(&client.root(), &[]);
            place = program.archive("localhost", &client.root()).join("f.20010909T014640Z");
        }
        fs::remove_file(&place).unwrap();
        update(&program, &place);
        let checked = program.run(["index", "check"]);
        assert!(checked.status == 1 && checked.stderr.contains("has no plain file"), "{tree}: {}", checked.stderr);
        put_aside(&program, "precious");
        program.run(["verify", "--repair"]);
        assert_eq!(cat(&program, &client.path("f"), 1).stdout, "precious", "{tree}");
        program.assert_index_is_right();
    }
}

#[test]
fn version_takes_an_archived_file_that_was_put_back_by_hand() {
    let program = Program::new();
    let client = Tree::new([("f", at(1_000_000_000, 0, file("precious")))]);
    program.pull_local(&client.root(), &[]);
    client.put("f", file("second"));
    program.pull_local(&client.root(), &[]);
    let archived = program.archive("localhost", &client.root()).join("f.20010909T014640Z");
    fs::remove_file(&archived).unwrap();
    update(&program, &archived);
    let by_hand = archived.with_file_name("f.by-hand");
    fs::write(&by_hand, "precious").unwrap();
    update(&program, &by_hand);
    assert_eq!(cat(&program, &client.path("f"), 1).stdout, "precious");
    program.assert_index_is_right();
    program.run(["verify"]).well();
}

#[test]
fn earlier_version_with_the_same_content_is_reported_too() {
    let program = Program::new();
    let client = Tree::new([("f", at(1_000_000_000, 0, mode(0o644, file("precious"))))]);
    program.pull_local(&client.root(), &[]);
    client.put("f", at(1_000_000_000, 0, mode(0o600, file("precious"))));
    program.pull_local(&client.root(), &[]);
    let snapshot = program.snapshot("localhost", &client.path("f"));
    fs::write(&snapshot, "other").unwrap();
    update(&program, &snapshot);
    let checked = program.run(["index", "check"]);
    assert_eq!(checked.stderr.matches("has no plain file").count(), 2, "{}", checked.stderr);
    put_aside(&program, "precious");
    program.run(["verify", "--repair"]);
    for run in [1, 2] {
        assert_eq!(cat(&program, &client.path("f"), run).stdout, "precious", "{run}");
    }
    program.assert_index_is_right();
}

#[test]
fn removed_directory_takes_all_below_it() {
    let program = Program::new();
    let below = dir([("f", file("f")), ("deeper", dir([("g", file("g"))]))]);
    let client = Tree::new([("d", below), ("stays", file("stays"))]);
    program.pull_local(&client.root(), &[]);
    let snapshot = program.snapshot("localhost", &client.path("d"));
    for turns in [false, true] {
        fs::remove_dir_all(&snapshot).unwrap();
        if turns {
            fs::write(&snapshot, "a file now").unwrap();
        }
        update(&program, &snapshot);
        let checked = program.run(["index", "check"]);
        assert_eq!(checked.stderr.matches("has no plain file").count(), 2, "{}", checked.stderr);
        assert_eq!(checked.stderr.lines().count(), 3, "nothing else: {}", checked.stderr);
        program.pull_local(&client.root(), &[]);
        assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
        // The versions of run 1 are those that lost their files, and their contents are in the snapshot again.
        program.run(["verify", "--repair"]);
        program.assert_index_is_right();
        assert_eq!(cat(&program, &client.path("d/deeper/g"), 1).stdout, "g");
    }
}

#[test]
fn entry_that_is_in_the_index_only_remains() {
    let program = Program::new();
    let client = Tree::new([("pipe", fifo()), ("f", file("f"))]);
    program.pull_local(&client.root(), &[]);
    let ran = update(&program, &program.snapshot("localhost", &client.path("pipe")));
    assert_eq!(ran.stdout, "updated 0\n");
    assert!(program.run(["ls", &format!("localhost:{}", client.root().display())]).stdout.contains("pipe"));
    assert_eq!(program.pull_local(&client.root(), &[])["new"], 0);
}

#[test]
fn archived_file_in_a_directory_with_another_name_is_found() {
    let program = Program::new();
    let client = Tree::new([("d.20010909T014640Z", dir([("f", at(1_000_000_000, 0, file("first")))]))]);
    program.pull_local(&client.root(), &[]);
    client.put("d.20010909T014640Z/f", file("second"));
    program.pull_local(&client.root(), &[]);
    let archived = program.archive("localhost", &client.path("d.20010909T014640Z~")).join("f.20010909T014640Z");
    fs::write(&archived, "by hand").unwrap();
    assert_eq!(update(&program, &archived).stdout, "updated 1\n");
    assert!(program.run(["index", "check"]).stderr.contains("has no plain file"));
    let hash = blake3::hash(b"by hand").to_hex();
    assert!(program.run(["find", "--hash", &hash]).stdout.contains("d.20010909T014640Z~/f.20010909T014640Z"));
}

#[test]
fn file_in_the_archive_gets_a_name_that_no_directory_has_there() {
    for rebuilds in [false, true] {
        let program = Program::new();
        let client = Tree::new([("stays", file("stays")), ("d", dir([("f", file("f"))]))]);
        program.pull_local(&client.root(), &[]);
        client.put("stays", file("stays longer"));
        program.pull_local(&client.root(), &[]);
        // The archive's directory for `d` does not exist yet.
        let by_hand = program.archive("localhost", &client.root()).join("d");
        fs::write(&by_hand, "by hand").unwrap();
        filetime::set_file_mtime(&by_hand, filetime::FileTime::from_unix_time(1_000_000_000, 0)).unwrap();
        if rebuilds {
            program.run(["index", "rebuild"]).well();
        } else {
            let ran = update(&program, &by_hand);
            assert!(ran.stderr.contains("in the archive to `archive/localhost"), "{}", ran.stderr);
        }
        assert!(!by_hand.exists() && by_hand.with_file_name("d.20010909T014640Z").exists());
        assert_eq!(checker::check(&program.repo()), [""; 0]);
        client.put("d/f", file("another f"));
        program.pull_local(&client.root(), &[]);
        assert_eq!(checker::check(&program.repo()), [""; 0]);
        assert!(by_hand.is_dir(), "the version of `f` is in it");
        program.assert_index_is_right();
    }
}

#[test]
fn repair_that_was_killed_leaves_no_unknown_file() {
    for step in 1.. {
        let program = Program::new();
        let client = Tree::new([("f", file("f")), ("copy", file("f")), ("empty", file("")), ("l", link("f"))]);
        program.pull_local(&client.root(), &[]);
        for name in ["f", "empty", "l"] {
            let snapshot = program.snapshot("localhost", &client.path(name));
            fs::remove_file(&snapshot).unwrap();
            update(&program, &snapshot);
        }
        let mut command = program.command(["verify", "--repair"]);
        let ran = Ran::of(command.env("ARCHIVE_FAULT", format!("kill:{step}")).output().unwrap());
        program.run(["verify", "--repair"]);
        program.assert_index_is_right();
        assert_eq!(checker::check(&program.repo()), [""; 0], "killed at {step}");
        if ran.status == 0 {
            assert!(step > 8, "only {step} steps could be killed");
            return;
        }
    }
}
