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
