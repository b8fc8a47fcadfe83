//! The main job: what was on the client is in the snapshot, what was removed or replaced is in the archive.

use crate::support::*;

#[test]
fn a_first_pull_brings_everything_and_a_second_nothing() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([
        ("a", file("one")),
        ("d", dir([("b", file("two")), ("e", dir([("c", file("three"))]))])),
        ("l", link("a")),
    ]);
    let first = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!((&first["new"], &first["copied"], &first["remote"]), (&7.into(), &3.into(), &"helper".into()));
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    let second = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!((&second["unchanged"], &second["copied"], &second["new"]), (&7.into(), &0.into(), &0.into()));
    program.assert_index_is_right();
}

#[test]
fn what_is_replaced_or_removed_goes_to_the_archive_under_its_stamp() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let noon = 1_795_438_440;
    let client = Tree::new([
        ("kept", file("same")),
        ("old", at(noon, 5, file("first"))),
        ("gone", at(noon + 1, 0, file("bye"))),
    ]);
    program.pull_well(&sshd, &client.root(), &[]);
    client.put("old", file("second"));
    client.remove("gone");
    let summary = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!((&summary["changed"], &summary["removed"], &summary["archived"]), (&1.into(), &1.into(), &2.into()));
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    assert_eq!(program.archived("client", &client.root()), ["gone.20261123T125401Z", "old.20261123T125400Z"]);
    let old = program.archive("client", &client.root()).join("old.20261123T125400Z");
    assert_eq!(std::fs::read(old).unwrap(), b"first");
    program.assert_index_is_right();
}

/// A directory of everything, with files below it.
fn of_all_kinds(files: usize) -> Node {
    // Equal files of several directories share a plain file, and so a time: it must not depend on when they were created.
    let of = |content: String| at(1_000_000_000, 0, file(content));
    let files = (0..files).map(|n| (format!("f{n:03}"), of(format!("content {n}"))));
    let below = dir([("x", of("below".to_owned()))]);
    let others = [("empty", file("")), ("link", link("target")), ("fifo", fifo()), ("below", below)];
    let others = others.map(|(name, node)| (name.to_owned(), node));
    dir(files.chain(others))
}

#[test]
fn a_renamed_directory_is_neither_listed_nor_hashed() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("before", of_all_kinds(400)), ("x", file("x"))]);
    client.hard_link("before/f001", "before/f001-too");
    let listed = program.pull_well(&sshd, &client.root(), &[]);
    for (from, to) in [("before", "after"), ("after", "before")] {
        client.rename(from, to);
        let would = program.pull_well(&sshd, &client.root(), &["-n", "--max-delete", "100"]);
        assert_eq!(
            (&would["new"], &would["removed"]),
            (&would["removed"], &would["listed"].as_u64().map(|n| n - 2).into())
        );
        let summary = program.pull_well(&sshd, &client.root(), &["--max-delete", "100"]);
        assert_eq!((&summary["bytes_copied"], &summary["listed"]), (&0.into(), &listed["listed"]));
        let received = summary["bytes_received"].as_u64().unwrap();
        assert!(received < 2500, "{received} bytes came: the entries take ten times as many");
        assert_same(&client.root(), &program.snapshot("client", &client.root()));
        program.assert_index_is_right();
        let again = program.pull_well(&sshd, &client.root(), &[]);
        assert_eq!(
            (&again["unchanged"], &again["bytes_sent"].as_u64().is_some_and(|sent| sent < 500)),
            (&again["listed"], &true)
        );
    }
}

#[test]
fn what_is_no_longer_the_same_directory_is_listed() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("one", of_all_kinds(9)), ("two", of_all_kinds(7)), ("three", of_all_kinds(5))]);
    program.pull_well(&sshd, &client.root(), &[]);
    // Two change places; one was renamed, and something in it changed since.
    client.rename("one", "none");
    client.rename("two", "one");
    client.rename("none", "two");
    client.rename("three", "four");
    client.put("four/f001", file("CONTENT 1"));
    program.pull_well(&sshd, &client.root(), &["--max-delete", "100"]);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
    // Asked to trust nothing, it trusts no inode number.
    client.rename("four", "five");
    let summary = program.pull_well(&sshd, &client.root(), &["--checksum", "--max-delete", "100"]);
    assert!(summary["bytes_received"].as_u64().unwrap() > 2500, "{summary}");
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
}

#[test]
fn what_takes_the_place_of_a_renamed_directory_is_not_taken_for_it() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let alike = |content: &str, numbers: std::ops::Range<u32>| {
        let name = |n| format!("f{n:04}");
        dir(numbers.map(|n| (name(n), at(1_000_000_000, 0, file(format!("{content} {n:04}"))))).collect::<Vec<_>>())
    };
    let client = Tree::new([("before", alike("one", 0..2000))]);
    program.pull_well(&sshd, &client.root(), &[]);
    client.rename("before", "beyond");
    // Of the same names, sizes and times, and in place before the last of the renamed ones are looked for.
    client.add([("before", alike("two", 1990..2000))]);
    let mut pull = program.command(["--json", "pull", "--max-delete", "100", "-F"]);
    pull.arg(sshd.config()).arg(format!("client:{}", client.root().display())).env("ARCHIVE_BATCH", "20");
    Ran::of(pull.output().unwrap()).well();
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn a_renamed_directory_sends_no_content() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let files = (0..50).map(|n| (format!("f{n}"), file(format!("content {n}"))));
    let client = Tree::new([("before", dir(files)), ("x", file("x"))]);
    program.pull_well(&sshd, &client.root(), &[]);
    client.rename("before", "after");
    let summary = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!((&summary["bytes_copied"], &summary["linked"]), (&0.into(), &50.into()));
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
}
