//! What becomes of things that change: kinds, times, modes, names.

use crate::support::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn make_a(kind: &str) -> Node {
    match kind {
        "file" => file("content"),
        "empty" => file(""),
        "dir" => dir([("inside", file("below"))]),
        "link" => link("target"),
        "fifo" => fifo(),
        _ => unreachable!(),
    }
}

#[test]
fn every_kind_can_turn_into_every_other() {
    let program = Program::new();
    let kinds = ["file", "empty", "dir", "link", "fifo"];
    let pairs: Vec<_> = kinds.iter().flat_map(|from| kinds.map(|to| (*from, to))).collect();
    let name = |(from, to): &(&str, &str)| format!("{from}-to-{to}");
    let client = Tree::new(pairs.iter().map(|pair| (name(pair), make_a(pair.0))));
    program.pull_local(&client.root(), &["--link", "exact"]);
    for pair in &pairs {
        client.put(name(pair), make_a(pair.1));
    }
    program.pull_local(&client.root(), &["--link", "exact"]);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
    program.assert_index_is_right();
    let archived = program.archived("localhost", &client.root());
    assert!(archived.iter().any(|name| name.starts_with("file-to-dir.")), "{archived:?}");
    assert_eq!(program.archived("localhost", &client.path("dir-to-file")).len(), 1, "the directory's file is archived");
    let again = program.pull_local(&client.root(), &[]);
    assert_eq!((&again["unchanged"], &again["copied"]), (&again["listed"], &0.into()));
}

#[test]
fn of_a_large_directory_only_what_is_new_is_told() {
    // More than digests are sent of, and fewer.
    for (count, most) in [(17_000, u64::MAX), (3000, 4000)] {
        let (sshd, program) = (Sshd::new(), Program::new());
        let client = Tree::new((0..count).map(|n| (format!("file-{n:05}"), file(""))));
        program.pull_well(&sshd, &client.root(), &[]);
        client.put("file-00007", file("more"));
        client.remove("file-00100");
        client.put("file-01000x", fifo());
        fs::set_permissions(client.path("file-02999"), fs::Permissions::from_mode(0o600)).unwrap();
        let summary = program.pull_well(&sshd, &client.root(), &[]);
        let counts = ["new", "changed", "touched", "removed", "copied"].map(|name| summary[name].as_u64().unwrap());
        assert_eq!(counts, [1, 1, 2, 1, 1], "with the root: {summary}");
        assert_eq!(summary["unchanged"], count - 3, "{summary}");
        let received = summary["bytes_received"].as_u64().unwrap();
        assert!(received < most, "{received} bytes came");
        assert_same(&client.root(), &program.snapshot("client", &client.root()));
        program.assert_index_is_right();
        let again = program.pull_well(&sshd, &client.root(), &[]);
        assert_eq!(again["unchanged"], again["listed"]);
        // What the first change left is a base for the next.
        client.put("file-00007", file("more still"));
        client.remove("file-00000");
        let summary = program.pull_well(&sshd, &client.root(), &[]);
        assert_eq!((&summary["changed"], &summary["removed"]), (&1.into(), &1.into()), "{summary}");
        program.assert_index_is_right();
    }
}

#[test]
fn another_mtime_is_another_version_that_costs_no_copy() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", at(1_000_000_000, 7, file("same"))), ("g", file("other"))]);
    program.pull_well(&sshd, &client.root(), &[]);
    client.put("f", at(1_100_000_000, 7, file("same")));
    let summary = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!((&summary["bytes_copied"], &summary["archived"]), (&0.into(), &1.into()));
    assert_eq!(program.archived("client", &client.root()), ["f.20010909T014640Z"]);
    let (now, then) =
        (program.snapshot("client", &client.path("f")), program.archive("client", &client.path("f.20010909T014640Z")));
    assert_eq!(inode(&now), inode(&then), "both versions share the inode");
    program.assert_index_is_right();
}

#[test]
fn another_mode_changes_the_plain_file_unless_it_is_shared() {
    let program = Program::new();
    let client = Tree::new([
        ("alone", mode(0o644, file("one"))),
        ("a", mode(0o644, file("two"))),
        ("b", mode(0o644, file("two"))),
    ]);
    program.pull_local(&client.root(), &[]);
    for name in ["alone", "a"] {
        fs::set_permissions(client.path(name), fs::Permissions::from_mode(0o640)).unwrap();
    }
    let summary = program.pull_local(&client.root(), &[]);
    assert_eq!((&summary["touched"], &summary["archived"], &summary["copied"]), (&2.into(), &0.into(), &0.into()));
    let bits = |name: &str| {
        fs::metadata(program.snapshot("localhost", &client.path(name))).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((bits("alone"), bits("b")), (0o640, 0o644), "the inode that b has too is left alone");
    let known: Vec<_> = program.run(["index", "export"]).lines();
    let modes: Vec<_> = known
        .iter()
        .filter(|row| row["path"].as_str().unwrap().ends_with("/a"))
        .map(|row| row["mode"].clone())
        .collect();
    assert_eq!(modes, ["0644", "0640"], "the index has both versions");
}

#[test]
fn setuid_setgid_and_sticky_are_in_the_index_only() {
    let program = Program::new();
    let client = Tree::new([("tool", mode(0o4755, file("x"))), ("shared", mode(0o1777, dir([("f", file("y"))])))]);
    program.pull_local(&client.root(), &[]);
    let bits = |name: &str| {
        fs::metadata(program.snapshot("localhost", &client.path(name))).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!((bits("tool"), bits("shared")), (0o755, 0o777));
    let exported = program.run(["index", "export"]).stdout;
    assert!(exported.contains("\"mode\":\"4755\"") && exported.contains("\"mode\":\"1777\""), "{exported}");
}

#[test]
fn files_without_any_mode_stay_readable_on_the_server() {
    let program = Program::new();
    let client =
        Tree::new([("secret", mode(least_mode(), file("x"))), ("closed", mode(0o500, dir([("f", file("y"))])))]);
    program.pull_local(&client.root(), &[]);
    let bits = |name: &str| {
        fs::metadata(program.snapshot("localhost", &client.path(name))).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!((bits("secret"), bits("closed")), (0o600, 0o700));
}

#[test]
fn versions_of_one_mtime_get_numbers() {
    let program = Program::new();
    let client = Tree::new([("f", at(1_000_000_000, 0, file("first")))]);
    for (content, more) in [("second!", 1), ("third!!!", 2), ("fourth!!!!", 3)] {
        program.pull_local(&client.root(), &[]);
        client.put("f", at(1_000_000_000, more, file(content)));
    }
    program.pull_local(&client.root(), &[]);
    let expected = ["f.20010909T014640Z", "f.20010909T014640Z-2", "f.20010909T014640Z-3"];
    assert_eq!(program.archived("localhost", &client.root()), expected);
    let content = |name: &str| fs::read_to_string(program.archive("localhost", &client.path(name))).unwrap();
    assert_eq!(expected.map(content), ["first", "second!", "third!!!"]);
}

#[test]
fn what_the_index_does_not_know_is_moved_away_never_overwritten() {
    let program = Program::new();
    let client = Tree::new([("a", file("a"))]);
    program.pull_local(&client.root(), &[]);
    let snapshot = program.snapshot("localhost", &client.root());
    fs::write(snapshot.join("new"), "mine").unwrap();
    fs::create_dir(snapshot.join("other")).unwrap();
    fs::write(snapshot.join("other/kept"), "mine too").unwrap();
    client.add([("new", file("from the client")), ("other", file("a file now"))]);
    let ran = program.run(["pull", client.root().to_str().unwrap()]);
    assert_eq!((ran.status, ran.stderr.matches("held something unknown").count()), (0, 2), "{}", ran.stderr);
    assert_same(&client.root(), &snapshot);
    let archive = program.archive("localhost", &client.root());
    let found = std::process::Command::new("grep").args(["-rl", "mine"]).arg(&archive).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout).lines().count(), 2, "both are in the archive");
    program.assert_index_is_right();
    let hash = blake3::hash(b"mine too").to_hex().to_string();
    assert_eq!(program.run(["find", "--hash", &hash]).stdout.lines().count(), 1, "and can be found");
}

#[test]
fn a_directory_in_the_place_of_a_symlink_is_filled_when_it_is_there() {
    let many = |prefix: &'static str| (0..12).map(move |n| (format!("{prefix}{n}"), file(format!("{prefix} {n}"))));
    let program = Program::new();
    let client = Tree::new([("target", dir(many("t"))), ("p", link("target"))]);
    program.pull_local(&client.root(), &[]);
    client.put("p", dir(many("in").chain([("d".to_owned(), dir(many("deep")))])));
    let ran = program.run(["pull", client.root().to_str().unwrap()]);
    assert!(ran.status == 0 && !ran.stderr.contains("unknown"), "{}", ran.stderr);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
    assert_eq!(program.archived("localhost", &client.root()).len(), 1, "the symlink, once");
    program.assert_index_is_right();
    assert_eq!(program.run(["history", &format!("localhost:{}/p", client.root().display())]).stdout.lines().count(), 2);
}

#[test]
fn owners_are_kept_when_the_server_may_give_files_away() {
    if !is_root() {
        return eprintln!("needs root, for it gives files to others");
    }
    use std::os::unix::fs::{MetadataExt, lchown};
    let program = Program::new();
    let client = Tree::new([("f", file("f")), ("d", dir([("g", file("g"))])), ("l", link("f"))]);
    let own =
        |uid: u32| ["f", "d", "d/g", "l"].map(|name| lchown(client.path(name), Some(uid), Some(uid + 1)).unwrap());
    for (uid, link) in [(1234, "content"), (4321, "exact")] {
        own(uid);
        program.pull_local(&client.root(), &["--link", link]);
        assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
        let exported = program.run(["index", "export"]).stdout;
        assert_eq!(exported.matches(&format!("\"uid\":{uid}")).count(), 4, "{exported}");
        let owner = |name| fs::symlink_metadata(program.snapshot("localhost", &client.path(name))).unwrap();
        assert!(["d", "d/g", "l"].iter().all(|name| owner(name).uid() == uid && owner(name).gid() == uid + 1));
    }
}

#[test]
fn a_symlink_that_was_removed_here_is_made_anew() {
    let program = Program::new();
    let client = Tree::new([("l", link("target"))]);
    program.pull_local(&client.root(), &[]);
    fs::remove_file(program.snapshot("localhost", &client.path("l"))).unwrap();
    client.put("l", link("another"));
    program.pull_local(&client.root(), &[]);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
}

#[test]
fn with_archive_all_everything_is_in_the_archive_at_once() {
    let program = Program::new();
    let client = Tree::new([("f", at(1_000_000_000, 0, file("first"))), ("l", at(1_000_000_000, 0, link("f")))]);
    program.pull_local(&client.root(), &["--archive", "all"]);
    assert_eq!(program.archived("localhost", &client.root()), ["f.20010909T014640Z", "l.20010909T014640Z"]);
    client.put("f", at(1_100_000_000, 0, file("second")));
    program.pull_local(&client.root(), &["--archive", "all"]);
    let expected = ["f.20010909T014640Z", "f.20041109T113320Z", "l.20010909T014640Z"];
    assert_eq!(program.archived("localhost", &client.root()), expected);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn a_directory_called_like_an_archived_file_is_no_obstacle() {
    let program = Program::new();
    let client = Tree::new([
        ("a", at(1_000_000_000, 0, file("a"))),
        ("a.20010909T014640Z", dir([("x", file("x")), ("y", dir([("z", file("z"))]))])),
        ("b", at(1_000_000_000, 0, file("b"))),
    ]);
    // Everything goes to the archive in one batch, whichever comes first.
    program.pull_local(&client.root(), &["--archive", "all"]);
    program.assert_index_is_right();
    client.put("b", dir([("c", file("c"))]));
    client.put("a.20010909T014640Z", file("a file now"));
    client.put("a", at(1_000_000_000, 0, file("another a of that time")));
    program.pull_local(&client.root(), &["--archive", "all"]);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
    program.assert_index_is_right();
    let cat = |name: &str, at: &str| {
        let ran = program.run(["cat", &format!("localhost:{}", client.path(name).display()), "--at", at]);
        ran.stdout
    };
    assert_eq!((cat("a", "1"), cat("a", "2")), ("a".into(), "another a of that time".into()));
    assert_eq!((cat("a.20010909T014640Z/y/z", "1"), cat("b", "1")), ("z".into(), "b".into()));
}
