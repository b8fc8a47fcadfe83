//! What is sent and what is linked: hashes, links, and who may have what.

use crate::support::*;
use std::fs;
use std::os::unix::fs::MetadataExt;

#[test]
fn known_content_is_linked_not_sent() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let sizes = [1, 1000, 131_071, 131_072, 131_073, 262_145, 1 << 20];
    let content = |size: usize| (0..size).map(|n| (n % 251) as u8).collect::<Vec<u8>>();
    let client = Tree::new(sizes.iter().map(|size| (format!("{size}"), file(content(*size)))));
    let first = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!(first["bytes_copied"], sizes.iter().sum::<usize>());
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    for size in sizes {
        fs::copy(client.path(format!("{size}")), client.path(format!("copy of {size}"))).unwrap();
    }
    let second = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!((&second["bytes_copied"], &second["linked"]), (&0.into(), &sizes.len().into()));
    assert_eq!(program.places("client", &client.path("1000")).len(), 2);
    program.assert_index_is_right();
}

#[test]
fn a_content_is_fetched_once_even_in_the_first_pull() {
    for size in [5000, 200_000] {
        let (sshd, program) = (Sshd::new(), Program::new());
        let client = Tree::new((0..20).map(|n| (format!("f{n}"), file(vec![b'x'; size]))));
        let summary = program.pull_well(&sshd, &client.root(), &[]);
        assert_eq!(
            (&summary["copied"], &summary["bytes_copied"], &summary["linked"]),
            (&1.into(), &size.into(), &19.into())
        );
        let inodes: Vec<_> =
            (0..20).map(|n| inode(&program.snapshot("client", &client.path(format!("f{n}"))))).collect();
        assert!(inodes.iter().all(|inode| *inode == inodes[0]));
    }
}

#[test]
fn little_that_has_changed_comes_and_is_linked_if_it_was_here() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let first = Tree::new([("a", at_time("known"))]);
    program.pull_well(&sshd, &first.root(), &["--name", "first"]);
    let large = || at_time(&"e".repeat(20_000));
    let second = Tree::new(["a", "b", "c", "d"].map(|name| (name, at_time(name))).into_iter().chain([("e", large())]));
    program.pull_well(&sshd, &second.root(), &["--name", "second"]);
    for (name, content) in [("a", "known"), ("b", "known"), ("c", "changed"), ("d", "changed")] {
        second.put(name, at_time(content));
    }
    second.add([("e+", large())]);
    let summary = program.pull_well(&sshd, &second.root(), &["--name", "second"]);
    assert_eq!((&summary["copied"], &summary["linked"]), (&1.into(), &4.into()), "{summary}");
    assert_eq!(summary["bytes_copied"], "known".len() + "changed".len(), "what is not little is known by its hash");
    let inode_of = |name: &str| inode(&program.snapshot("second", &second.path(name)));
    assert_eq!([inode_of("a"), inode_of("b")], [inode(&program.snapshot("first", &first.path("a"))); 2]);
    assert_eq!((inode_of("c"), inode_of("e")), (inode_of("d"), inode_of("e+")));
    assert_same(&second.root(), &program.snapshot("second", &second.root()));
    program.assert_index_is_right();
}

#[test]
fn little_that_has_changed_is_not_taken_for_what_another_should_have() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let (first, second) = (Tree::new([("a", file("known"))]), Tree::new([("b", file("b"))]));
    program.pull_well(&sshd, &first.root(), &["--name", "first"]);
    program.pull_well(&sshd, &second.root(), &["--name", "second"]);
    fs::write(program.snapshot("first", &first.path("a")), "spoil").unwrap();
    second.put("b", file("known"));
    let summary = program.pull_well(&sshd, &second.root(), &["--name", "second"]);
    assert_eq!((&summary["copied"], &summary["linked"], &summary["warnings"]), (&1.into(), &0.into(), &1.into()));
    assert_same(&second.root(), &program.snapshot("second", &second.root()));
}

#[test]
fn hashing_on_the_server_ends_with_the_same_trees() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("a", file("same")), ("b", file("same")), ("c", file("other")), ("e", file(""))]);
    let first = program.pull_well(&sshd, &client.root(), &["--hash", "server"]);
    assert_eq!((&first["copied"], &first["linked"]), (&3.into(), &1.into()));
    let at = |name: &str| inode(&program.snapshot("client", &client.path(name)));
    assert_eq!(at("a"), at("b"));
    client.rename("c", "d");
    let second = program.pull_well(&sshd, &client.root(), &["--hash", "server"]);
    assert_eq!((&second["copied"], &second["linked"]), (&1.into(), &1.into()), "it was copied, then found here");
    let archived = program.archive("client", &client.root()).join(&program.archived("client", &client.root())[0]);
    assert_eq!(at("d"), inode(&archived));
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn inodes_are_shared_as_told() {
    for (link, shared) in [("content", true), ("exact", false), ("never", false)] {
        let program = Program::new();
        let client = Tree::new([
            ("a", at(1_000_000_000, 1, file("same"))),
            ("b", at(1_100_000_000, 2, mode(0o600, file("same")))),
            ("c", at(1_000_000_000, 1, file("same"))),
            ("e", file("")),
            ("f", file("")),
        ]);
        for _ in 0..2 {
            program.pull_local(&client.root(), &["--link", link]);
        }
        let at = |name: &str| fs::metadata(program.snapshot("localhost", &client.path(name))).unwrap();
        assert_eq!(at("a").ino() == at("b").ino(), shared, "{link}");
        assert_eq!(at("a").ino() == at("c").ino(), link != "never", "{link}");
        assert_ne!(at("e").ino(), at("f").ino(), "empty files are never linked");
        if !shared {
            assert_eq!(
                (at("b").mtime(), at("b").mode() & 0o777),
                (1_100_000_000, 0o600),
                "{link} keeps each file's own"
            );
            assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
        }
        program.assert_index_is_right();
    }
}

#[test]
fn exact_links_keep_metadata_exact_through_changes() {
    let program = Program::new();
    let client = Tree::new([
        ("a", at(1_000_000_000, 1, mode(0o644, file("same")))),
        ("b", at(1_000_000_000, 1, mode(0o644, file("same")))),
    ]);
    let snapshot = program.snapshot("localhost", &client.root());
    program.pull_local(&client.root(), &["--link", "exact"]);
    assert_eq!(inode(&snapshot.join("a")), inode(&snapshot.join("b")));
    client.put("a", at(1_000_000_000, 1, mode(0o640, file("same"))));
    program.pull_local(&client.root(), &["--link", "exact"]);
    assert_same(&client.root(), &snapshot);
    client.put("b", at(1_200_000_000, 1, mode(0o644, file("same"))));
    program.pull_local(&client.root(), &["--link", "exact"]);
    assert_same(&client.root(), &snapshot);
    program.assert_index_is_right();
}

#[test]
fn a_second_client_proves_what_it_has_and_sends_nothing() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("small", file("some text")), ("large", file(vec![7; 300_000]))]);
    let target = |host: &str| format!("{host}:{}", client.root().display());
    program.pull(&sshd, [target("client")]).well();
    let second = program.pull(&sshd, [target("other")]);
    second.well();
    assert_eq!((&second.summary()["bytes_copied"], &second.summary()["linked"]), (&0.into(), &2.into()));
    let at = |source: &str, name: &str| inode(&program.snapshot(source, &client.path(name)));
    assert_eq!((at("client", "small"), at("client", "large")), (at("other", "small"), at("other", "large")));
    assert_eq!(program.places("other", &client.path("small")).len(), 2);
}

#[test]
fn a_spoilt_copy_is_not_linked_for_another_client() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", file("precious bytes"))]);
    program.pull(&sshd, [format!("client:{}", client.root().display())]).well();
    fs::write(program.snapshot("client", &client.path("f")), "PRECIOUS bytes").unwrap();
    let second = program.pull(&sshd, [format!("other:{}", client.root().display())]);
    assert_eq!((second.status, &second.summary()["copied"], &second.summary()["warnings"]), (0, &1.into(), &1.into()));
    assert!(second.stderr.contains("is not what the client has"), "{}", second.stderr);
    assert_eq!(fs::read_to_string(program.snapshot("other", &client.path("f"))).unwrap(), "precious bytes");
}

#[test]
fn content_whose_places_are_gone_is_fetched_again() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", file("content"))]);
    program.pull_well(&sshd, &client.root(), &[]);
    fs::remove_file(program.snapshot("client", &client.path("f"))).unwrap();
    client.add([("g", file("content"))]);
    let summary = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!(summary["copied"], 1);
    assert_eq!(fs::read_to_string(program.snapshot("client", &client.path("g"))).unwrap(), "content");
}

#[test]
fn checksum_finds_what_size_and_times_hide() {
    let program = Program::new();
    let client = Tree::new([("f", file("content")), ("g", file("other"))]);
    program.pull_local(&client.root(), &[]);
    let rows = || program.run(["index", "export"]).lines().len();
    let before = rows();
    // As if the disk had lied: the index says something else than what the client has, under the same times.
    let sql = "UPDATE version SET hash = (SELECT hash FROM version WHERE name = x'67') WHERE name = x'66'";
    assert_eq!(program.index().execute(sql, []).unwrap(), 1);
    assert_eq!(program.pull_local(&client.root(), &[])["changed"], 0);
    assert_eq!(program.pull_local(&client.root(), &["--checksum"])["changed"], 1);
    // What was there in truth is a version of its own.
    assert_eq!(rows(), before + 2);
}

#[test]
fn an_inode_that_takes_no_further_link_is_copied() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system that has such a limit");
    }
    let program = Program::without_repository();
    let _disk = Disk::ext4(&program.path("disk"), &program.path("mounted"), 200 << 20);
    std::os::unix::fs::symlink("mounted/repo", program.repo()).unwrap();
    fs::create_dir(program.path("mounted/repo")).unwrap();
    program.init();
    let client = Tree::new([("f", file("popular")), ("many", dir::<&str>([]))]);
    program.pull_local(&client.root(), &[]);
    let (snapshot, pile) = (program.snapshot("localhost", &client.path("f")), program.path("mounted/pile"));
    fs::create_dir(&pile).unwrap();
    let full = (0..70_000).any(|n| fs::hard_link(&snapshot, pile.join(n.to_string())).is_err());
    assert!(full, "ext4 takes 65,000 links");
    (0..3).for_each(|n| fs::write(client.path(format!("many/{n}")), "popular").unwrap());
    let summary = program.pull_local(&client.root(), &[]);
    assert_eq!((&summary["copied"], &summary["linked"]), (&0.into(), &3.into()));
    let at = |n: u32| inode(&program.snapshot("localhost", &client.path(format!("many/{n}"))));
    assert!(inode(&snapshot) != at(0), "a full inode gets a copy beside it");
    assert_same(&client.path("many"), &program.snapshot("localhost", &client.path("many")));
    // A version that stays in place can't get its name in the archive by a link either.
    client.put("f", at_time("popular"));
    program.pull_local(&client.root(), &["--archive", "all"]);
    assert_eq!(program.archived("localhost", &client.root()).len(), 2);
    program.assert_index_is_right();
}

fn at_time(content: &str) -> Node {
    at(1_000_000_000, 0, file(content))
}

#[test]
fn what_changes_or_vanishes_while_it_is_read_is_told_and_looked_at_again() {
    let (sshd, program) = (Sshd::new(), Program::new());
    // So slow that there is time to meddle; listed first, read in the order of their names.
    let client = Tree::new([
        ("a-first", file(vec![1; 600_000])),
        ("b-grows", file(vec![2; 300_000])),
        ("c-vanishes", file(vec![3; 300_000])),
    ]);
    let mut command = program.command(["pull", "--json", "--bwlimit", "400KB", "-F"]);
    command.arg(sshd.config()).arg(format!("client:{}", client.root().display()));
    let pull = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    client.put("b-grows", file(vec![4; 350_000]));
    client.remove("c-vanishes");
    let ran = Ran::of(pull.wait_with_output().unwrap());
    ran.well();
    let grown = fs::read(program.snapshot("client", &client.path("b-grows"))).unwrap();
    assert!(grown == vec![4; 350_000] || grown == vec![2; 300_000], "one state or the other");
    program.pull_well(&sshd, &client.root(), &[]);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn the_rate_is_limited() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", file(vec![1; 1 << 20]))]);
    let began = std::time::Instant::now();
    program.pull_well(&sshd, &client.root(), &["--bwlimit", "512KiB"]);
    let seconds = began.elapsed().as_secs_f64();
    // A busy machine may be late, never early.
    assert!((1.8..15.0).contains(&seconds), "1 MiB at 512 KiB/s took {seconds} s");
}
