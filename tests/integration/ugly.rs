//! Everything that a tree can hold.

use crate::support::*;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

fn round_trip(client: &Tree) -> (Sshd, Program) {
    let (sshd, program) = (Sshd::new(), Program::new());
    program.pull_well(&sshd, &client.root(), &[]);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    let again = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!((&again["unchanged"], &again["copied"]), (&again["listed"], &0.into()));
    program.assert_index_is_right();
    (sshd, program)
}

#[test]
fn names_are_bytes() {
    let long = [b'x'; 255];
    let names: Vec<&[u8]> = vec![
        b"with space",
        b" leading",
        b"trailing ",
        b"new\nline",
        b"tab\t",
        b"-rf",
        b"--",
        b"'quotes\"`",
        b"$(touch x)",
        b"a;b|c&d",
        b"back\\slash",
        b"*?[a]",
        b"caf\xe9",
        b"\xff\xfe",
        b"\x1b[31mred",
        b"\xc3\xa4\xe2\x82\xac",
        b"#",
        b"!",
        b"~",
        &long,
    ];
    let client = Tree::new(names.iter().map(|name| (*name, file(name))));
    client.add([(&b"dir\n\xe9"[..], dir(names.iter().map(|name| (*name, file("x")))))]);
    let (sshd, program) = round_trip(&client);
    names.iter().for_each(|name| client.put(name, file([name, &b"changed"[..]].concat())));
    client.remove(b"dir\n\xe9");
    program.pull_well(&sshd, &client.root(), &[]);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    let archived = std::fs::read_dir(program.archive("client", &client.root())).unwrap();
    assert!(archived.map(|entry| entry.unwrap().file_name().len()).all(|length| length <= 255));
    program.assert_index_is_right();
}

#[test]
fn links_empty_things_and_times_of_all_kinds() {
    let client = Tree::new([
        ("empty", file("")),
        ("void", dir::<&str>([])),
        ("dangling", link("nowhere")),
        ("absolute", link("/etc/passwd")),
        ("loop", link("loop")),
        ("up", link("../../..")),
        ("newline", link("a\nb")),
        ("old", at(-315_619_200, 1, file("1960"))),
        ("far", at(4_102_444_800, 999_999_999, file("2100"))),
        ("exact", at(1_700_000_000, 123_456_789, file("ns"))),
    ]);
    client.add([("d", dir([("deep", dir([("empty", file(""))]))]))]);
    let (sshd, program) = round_trip(&client);
    for name in ["old", "far", "exact"] {
        client.put(name, file("now"));
    }
    program.pull_well(&sshd, &client.root(), &[]);
    let archived = program.archived("client", &client.root());
    assert_eq!(archived, ["exact.20231114T221320Z", "far.21000101T000000Z", "old.19600101T000000Z"]);
}

#[test]
fn fifos_sockets_and_devices_are_in_the_index_only() {
    let client = Tree::new([("pipe", fifo()), ("f", file("f"))]);
    let _socket = std::os::unix::net::UnixListener::bind(client.path("sock")).unwrap();
    if is_root() {
        let made = std::process::Command::new("mknod").arg(client.path("null")).args(["c", "1", "3"]).status().unwrap();
        assert!(made.success());
    }
    let (_sshd, program) = round_trip(&client);
    assert_eq!(names(&program.snapshot("client", &client.root())), ["f"]);
    let rows = program.run(["index", "export"]).lines();
    let kinds: Vec<_> = rows.iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"fifo") && kinds.contains(&"socket"), "{kinds:?}");
    assert!(!is_root() || rows.iter().any(|row| row["kind"] == "char" && row["device"] == 259), "{rows:?}");
}

#[test]
fn hard_links_of_the_client_are_fetched_once_in_both_hash_modes() {
    for mode in ["client", "server"] {
        let (sshd, program) = (Sshd::new(), Program::new());
        let client = Tree::new([("one", file("shared content")), ("d", dir::<&str>([]))]);
        client.hard_link("one", "two");
        client.hard_link("one", "d/three");
        let summary = program.pull_well(&sshd, &client.root(), &["--hash", mode]);
        assert_eq!((&summary["copied"], &summary["bytes_copied"]), (&1.into(), &14.into()), "{mode}");
        assert_same(&client.root(), &program.snapshot("client", &client.root()));
        let rows = program.run(["index", "export"]).lines();
        assert_eq!(rows.iter().filter(|row| row["inode"].is_array()).count(), 3, "the index knows the group");
    }
}

#[test]
fn two_hundred_levels_deep() {
    let client = Tree::new([("f", file("top"))]);
    let deep: String = (0..200).map(|level| format!("level-{level}/")).collect();
    fs::create_dir_all(client.path(&deep)).unwrap();
    fs::write(client.path(format!("{deep}bottom")), "found").unwrap();
    let (sshd, program) = round_trip(&client);
    fs::write(client.path(format!("{deep}bottom")), "changed").unwrap();
    program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!(program.archived("client", &client.path(&deep)).len(), 1);
}

#[test]
fn a_directory_of_a_hundred_thousand_files() {
    let client = Tree::new([("d", dir::<&str>([]))]);
    (0..100_000).for_each(|n| fs::write(client.path(format!("d/{n}")), format!("{}", n % 1000)).unwrap());
    let program = Program::new();
    let first = program.pull_local(&client.root(), &[]);
    assert_eq!((&first["new"], &first["copied"].as_u64().unwrap().min(1001)), (&100_002.into(), &1000));
    client.remove("d/77777");
    let second = program.pull_local(&client.root(), &[]);
    assert_eq!((&second["removed"], &second["new"]), (&1.into(), &0.into()));
}

#[test]
fn a_file_over_four_gibibytes() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("big", file("begin"))]);
    let big = fs::OpenOptions::new().write(true).open(client.path("big")).unwrap();
    let end = (4u64 << 30) + 12_345;
    big.write_all_at(b"the end", end).unwrap();
    let summary = program.pull_well(&sshd, &client.root(), &[]);
    // What is a hole on the client neither comes nor takes room.
    assert!(summary["bytes_copied"].as_u64().unwrap() < 100_000, "{summary}");
    let copy = fs::File::open(program.snapshot("client", &client.path("big"))).unwrap();
    let mut tail = [0; 7];
    copy.read_exact_at(&mut tail, end).unwrap();
    assert_eq!((copy.metadata().unwrap().len(), &tail), (end + 7, b"the end"));
    assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn a_thousand_open_files_are_enough() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new((0..700).map(|n| {
        let size = if n % 2 == 0 { 140_000 } else { 10 };
        (format!("d{n}"), dir([("f", file(vec![n as u8; size + n]))]))
    }));
    let pull = |round: u32| {
        let line = format!(
            "ulimit -n 1024; exec {} --repo {} pull -q -F {} client:{}",
            env!("CARGO_BIN_EXE_archive"),
            program.repo().display(),
            sshd.config().display(),
            client.root().display()
        );
        let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        assert!(output.status.success(), "{round}: {}", String::from_utf8_lossy(&output.stderr));
    };
    pull(1);
    (0..700).for_each(|n| client.put(format!("d{n}/f"), file(format!("another {n}"))));
    pull(2);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
}
