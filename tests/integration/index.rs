//! The index: kept by every pull, made anew from the trees, held against them.

use crate::support::*;
use std::fs;

fn hash_of(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

#[test]
fn a_hash_leads_to_every_place_of_all_sources() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("a", at(1_000_000_000, 0, file("shared"))), ("b", file("alone"))]);
    program.pull_well(&sshd, &client.root(), &[]);
    program.pull(&sshd, [format!("other:{}", client.root().display())]).well();
    client.rename("a", "moved");
    program.pull_well(&sshd, &client.root(), &[]);
    let below = client.root().display().to_string();
    let expected = [
        format!("archive/client{below}/a.20010909T014640Z"),
        format!("snapshot/client{below}/moved"),
        format!("snapshot/other{below}/a"),
    ];
    assert_eq!(program.places("client", &client.path("moved")), expected);
    for digits in [64, 12, 4] {
        let mut found: Vec<_> =
            program.run(["find", "--hash", &hash_of(b"shared")[..digits]]).stdout.lines().map(str::to_owned).collect();
        found.sort();
        assert_eq!(found, expected, "{digits} digits");
    }
    assert_eq!(program.run(["find", "--hash", &hash_of(b"nowhere")]).status, 1);
    program.run(["find", "--hash", "xyzw"]).refused(2, &["is no hash", "hexadecimal"]);
    program.run(["find", "--same-as", "client:/no"]).refused(1, &["never had `/no`"]);
    program.run(["find", "--same-as", "nobody:/no"]).refused(2, &["no source `nobody`", "`client`, `other`"]);
}

#[test]
fn a_rebuilt_index_copies_nothing_again() {
    for mode in ["client", "server"] {
        let (sshd, program) = (Sshd::new(), Program::new());
        let client = Tree::new([
            ("a", at(1_000_000_000, 5, file("one"))),
            ("b", at(1_200_000_000, 6, file("two two"))),
            ("d", dir([("c", at(1_300_000_000, 7, file("three"))), ("l", link("c")), ("e", file(""))])),
            ("pipe", fifo()),
        ]);
        program.pull_well(&sshd, &client.root(), &["--hash", mode]);
        client.put("b", at(1_250_000_000, 6, file("two again")));
        program.pull_well(&sshd, &client.root(), &["--hash", mode]);
        fs::remove_file(program.repo().join("index.sqlite")).unwrap();
        let rebuilt = program.run(["--json", "index", "rebuild"]);
        rebuilt.well();
        assert_eq!((&rebuilt.lines()[0]["files"], &rebuilt.lines()[0]["inodes"]), (&5.into(), &5.into()));
        program.assert_index_is_right();
        let pulled = program.pull_well(&sshd, &client.root(), &["--hash", mode]);
        assert_eq!((&pulled["bytes_copied"], &pulled["archived"]), (&0.into(), &0.into()), "{mode}");
        assert_same(&client.root(), &program.snapshot("client", &client.root()));
        let next = program.pull_well(&sshd, &client.root(), &["--hash", mode]);
        assert_eq!(next["unchanged"], next["listed"], "{mode}");
        assert_eq!(program.archived("client", &client.root()), ["b.20080110T212000Z"]);
        assert!(program.run(["find", "--hash", &hash_of(b"two two")]).stdout.contains("/b.20080110T212000Z"));
        program.assert_index_is_right();
    }
}

#[test]
fn a_rebuild_reads_shared_inodes_once_and_survives_their_other_times() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new((0..5).map(|n| (format!("f{n}"), at(1_000_000_000 + n, 0, file("same")))));
    program.pull_well(&sshd, &client.root(), &[]);
    fs::remove_file(program.repo().join("index.sqlite")).unwrap();
    let rebuilt = program.run(["--json", "index", "rebuild"]).lines();
    assert_eq!((&rebuilt[0]["files"], &rebuilt[0]["inodes"], &rebuilt[0]["bytes"]), (&5.into(), &1.into(), &4.into()));
    let pulled = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!((&pulled["bytes_copied"], &pulled["archived"], &pulled["touched"]), (&0.into(), &0.into(), &6.into()));
    assert_eq!(program.pull_well(&sshd, &client.root(), &[])["unchanged"], 6);
}

#[test]
fn a_check_finds_what_is_missing_added_cut_or_of_another_kind_in_both_trees() {
    let program = Program::new();
    let names = ["gone", "cut", "turned", "well"];
    let client = Tree::new(names.map(|name| (name, at(1_000_000_000, 0, file(format!("content of {name}"))))));
    program.pull_local(&client.root(), &[]);
    names.iter().for_each(|name| client.put(name, file("now")));
    program.pull_local(&client.root(), &["--link", "never"]);
    program.assert_index_is_right();
    for (tree, suffix) in [("snapshot", ""), ("archive", ".20010909T014640Z")] {
        let base = program.repo().join(tree).join("localhost").join(client.root().strip_prefix("/").unwrap());
        let place = |name: &str| base.join(format!("{name}{suffix}"));
        fs::remove_file(place("gone")).unwrap();
        fs::write(place("cut"), "c").unwrap();
        fs::remove_file(place("turned")).unwrap();
        std::os::unix::fs::symlink("x", place("turned")).unwrap();
        fs::write(base.join("added"), "").unwrap();
        let ran = program.run(["index", "check"]);
        let told = |name: &str, what: &str| {
            assert!(ran.stderr.lines().any(|line| line.contains(name) && line.contains(what)), "{name}: {}", ran.stderr)
        };
        assert_eq!(ran.status, 1);
        told(&format!("{tree}/localhost{}/gone", client.root().display()), "is missing");
        told("/cut", "another size");
        told("/turned", "another kind");
        told("/added", "unknown to the index");
        assert!(!ran.stderr.lines().any(|line| line.contains(&format!("/well{suffix}` is"))));
    }
}

#[test]
fn single_files_changed_by_hand_are_taken_over() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("a", file("first")), ("b", file("second"))]);
    program.pull_well(&sshd, &client.root(), &[]);
    let snapshot = program.snapshot("client", &client.root());
    fs::write(snapshot.join("a"), "by hand").unwrap();
    fs::remove_file(snapshot.join("b")).unwrap();
    fs::write(snapshot.join("c"), "added").unwrap();
    assert_eq!(program.run(["index", "check"]).status, 1);
    let paths = ["a", "b", "c"].map(|name| snapshot.join(name).to_str().unwrap().to_owned());
    let ran = program.run(["index", "update", &paths[0], &paths[1], &paths[2]]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "updated 3\n"), "{}", ran.stderr);
    let checked = program.run(["index", "check"]);
    assert_eq!(checked.stderr.matches("from run 1 has no plain file").count(), 2, "{}", checked.stderr);
    assert!(program.run(["find", "--hash", &hash_of(b"by hand")]).stdout.contains("/a\n"));
    program.run(["index", "update", "/etc/passwd"]).refused(2, &["in neither tree", "snapshot/SOURCE"]);
    program.pull_well(&sshd, &client.root(), &[]);
    assert_same(&client.root(), &snapshot);
    assert_eq!(program.archived("client", &client.root()).len(), 2, "what was put there by hand is kept");
    // The client had what the first run shows, so it is in the snapshot again.
    program.run(["verify", "--repair"]);
    program.assert_index_is_right();
}

#[test]
fn a_copy_of_the_index_is_kept() {
    let program = Program::new();
    let client = Tree::new([("a", file("a"))]);
    for old in ["index-20200101.sqlite", "index-20200102.sqlite", "index-20200103.sqlite"] {
        program.pull_local(&client.root(), &[]);
        fs::write(program.repo().join(old), "").unwrap();
    }
    let today: Vec<_> = names(&program.repo())
        .into_iter()
        .filter(|name| name.starts_with("index-2") && !name.starts_with("index-2020"))
        .collect();
    assert_eq!(today.len(), 1);
    fs::remove_file(program.repo().join(&today[0])).unwrap();
    program.pull_local(&client.root(), &[]);
    assert!(!program.repo().join(&today[0]).exists(), "nothing had changed");
    client.add([("b", file("b"))]);
    program.pull_local(&client.root(), &[]);
    let copies: Vec<_> = names(&program.repo()).into_iter().filter(|name| name.starts_with("index-")).collect();
    assert_eq!(copies, ["index-20200103.sqlite".to_owned(), today[0].clone()]);
}

#[test]
fn every_version_is_exported() {
    let program = Program::new();
    let client = Tree::new([("f", at(1_000_000_000, 42, file("first"))), ("l", link("f"))]);
    program.pull_local(&client.root(), &[]);
    client.put("f", file("second"));
    program.pull_local(&client.root(), &[]);
    let rows = program.run(["index", "export"]).lines();
    let of_f: Vec<_> = rows.iter().filter(|row| row["path"].as_str().unwrap().ends_with("/f")).collect();
    assert_eq!(
        (of_f.len(), &of_f[0]["mtime"], &of_f[0]["hash"]),
        (2, &1_000_000_000_000_000_042_i64.into(), &hash_of(b"first").into())
    );
    assert_eq!(
        (&of_f[0]["from_run"], &of_f[0]["until_run"], &of_f[1]["until_run"]),
        (&1.into(), &2.into(), &serde_json::Value::Null)
    );
    assert!(of_f[0]["places"][0].as_str().unwrap().starts_with("archive/localhost/"));
    assert!(rows.iter().any(|row| row["kind"] == "symlink" && row["target"] == "f"));
    let stats = &program.run(["--json", "index", "stats"]).lines()[0];
    assert_eq!(
        (&stats["sources"], &stats["runs"], &stats["contents"], &stats["bytes"]),
        (&1.into(), &2.into(), &2.into(), &11.into())
    );
}

#[test]
fn a_pull_that_was_killed_is_made_up_for_by_the_next() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new((0..60).map(|n| (format!("f{n}"), file(vec![n as u8; 20_000 + n]))));
    program.pull_well(&sshd, &client.root(), &["--exclude", "f[1-5]*"]);
    (0..10).for_each(|n| client.put(format!("f{n}"), file(vec![99; 30_000 + n])));
    for millis in [100, 400, 1500] {
        let mut pull = program.command(["pull", "--bwlimit", "400KB", "-F"]);
        let target = format!("client:{}", client.root().display());
        let mut pull = pull.arg(sshd.config()).arg(target).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(millis));
        pull.kill().unwrap();
        pull.wait().unwrap();
    }
    program.pull_well(&sshd, &client.root(), &[]);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    assert!(names(&program.repo().join("staging/client")).is_empty());
    for n in [0_u8, 6, 9] {
        let old = vec![n; 20_000 + usize::from(n)];
        assert!(!program.run(["find", "--hash", &hash_of(&old)]).stdout.is_empty(), "f{n}'s first content is kept");
    }
    program.assert_index_is_right();
}

#[test]
fn a_batch_that_can_not_be_read_is_said_and_a_rebuild_gets_over_it() {
    let program = Program::new();
    let client = Tree::new([("f", file("content"))]);
    program.pull_local(&client.root(), &[]);
    let spoil = "INSERT INTO pending VALUES (1, 1, x'ffffffff')";
    program.change_index(spoil);
    let root = client.root();
    program.run(["pull", "-q", root.to_str().unwrap()]).refused(1, &["can't be finished", "archive index rebuild"]);
    program.run(["index", "rebuild"]).well();
    program.pull_local(&client.root(), &[]);
    program.assert_index_is_right();
}

#[test]
fn a_lost_index_is_asked_for_not_made_up() {
    let program = Program::new();
    let client = Tree::new([("f", file("content"))]);
    let root = client.root();
    let root = root.to_str().unwrap();
    program.pull_local(&client.root(), &[]);
    std::fs::remove_file(program.repo().join("index.sqlite")).unwrap();
    for question in [&["index", "check"][..], &["index", "stats"], &["index", "export"], &["find", "--hash", "abcd"]] {
        program.run(question).refused(1, &["has no index", "archive index rebuild"]);
    }
    for pull in [&["pull", root][..], &["pull", "-n", root]] {
        program.run(pull).refused(1, &["knows nothing of what is in `snapshot/localhost`", "archive index rebuild"]);
    }
    assert_eq!(program.archived("localhost", &client.root()), [""; 0]);
    program.run(["index", "rebuild"]).well();
    assert_eq!(program.pull_local(&client.root(), &[])["copied"], 0);
}

// What the third format had instead of tables of contents and sizes.
const AS_FORMAT_3: &str = "DROP INDEX version_archived; DROP INDEX version_relies_on; DROP TABLE inode; \
                           ALTER TABLE version DROP COLUMN relies_on; ALTER TABLE source DROP COLUMN layout; DROP TABLE content; DROP TABLE new_content; DROP TABLE size; \
                           CREATE INDEX version_by_hash ON version (substr(hash, 1, 8)) WHERE kind = 0; \
                           CREATE INDEX version_by_size ON version (size) WHERE kind = 0; PRAGMA user_version = 3";

#[test]
fn contents_of_an_older_index_are_found() {
    let program = Program::new();
    let client = Tree::new([("a", file("content")), ("b", file("other")), ("below", dir([("c", file(""))]))]);
    program.pull_local(&client.root(), &[]);
    program.change_index(AS_FORMAT_3);
    // Another program may look first, and may only look.
    let hash = blake3::hash(b"content").to_hex();
    let found = program.run(["find", "--hash", &hash]);
    found.well();
    assert!(found.stdout.contains("/a"), "{}", found.stdout);
    program.assert_index_is_right();
    client.put("copy", file("content"));
    let summary = program.pull_local(&client.root(), &[]);
    assert_eq!((&summary["copied"], &summary["linked"]), (&0.into(), &1.into()), "{summary}");
    program.assert_index_is_right();
}

#[test]
fn a_content_that_would_not_be_found_is_told() {
    let (program, client) = (Program::new(), Tree::new([("a", file("a")), ("b", file("b"))]));
    program.pull_local(&client.root(), &[]);
    program.change_index("DELETE FROM content; DELETE FROM new_content");
    let ran = program.run(["index", "check"]);
    assert!(
        ran.status == 1 && ran.stderr.contains("2 entries of the index's list of contents"),
        "{} {}",
        ran.status,
        ran.stderr
    );
    program.run(["index", "check"]).well();
    client.put("copy", file("a"));
    assert_eq!(program.pull_local(&client.root(), &[])["linked"], 1);
}

#[test]
fn an_index_with_other_fingerprints_is_brought_up_to_date() {
    let (program, client) = (Program::new(), Tree::new([("a", file("a")), ("below", dir([("b", file("b"))]))]));
    program.pull_local(&client.root(), &[]);
    program.change_index(AS_FORMAT_3);
    program.change_index("UPDATE directory SET fingerprint = randomblob(16); PRAGMA user_version = 2");
    program.assert_index_is_right();
    client.put("below/b", file("changed"));
    let summary = program.pull_local(&client.root(), &[]);
    assert_eq!((&summary["changed"], &summary["copied"]), (&1.into(), &1.into()), "{summary}");
    program.assert_index_is_right();
    let again = program.pull_local(&client.root(), &[]);
    assert_eq!(again["unchanged"], again["listed"]);
}

#[test]
fn a_fingerprint_that_is_not_of_what_is_there_is_found() {
    let (program, client) = (Program::new(), Tree::new([("a", file("a"))]));
    program.pull_local(&client.root(), &[]);
    program.change_index("UPDATE directory SET fingerprint = randomblob(16) WHERE fingerprint IS NOT NULL");
    let ran = program.run(["index", "check"]);
    assert!(ran.status == 1 && ran.stderr.contains("wrong fingerprint"), "{} {}", ran.status, ran.stderr);
    // What it advises helps.
    program.pull_local(&client.root(), &["--checksum"]);
    program.assert_index_is_right();
}

#[test]
fn what_is_no_source_s_is_told_and_ends_nothing() {
    let program = Program::new();
    let client = Tree::new([("f", file("f"))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    fs::create_dir(program.repo().join("snapshot/lost+found")).unwrap();
    fs::create_dir(program.repo().join("snapshot/.hidden")).unwrap();
    fs::write(program.repo().join("archive/note"), "not a directory").unwrap();
    let strays = ["snapshot/lost+found", "snapshot/.hidden", "archive/note"];
    let check = || {
        let ran = program.run(["index", "check"]);
        assert_eq!(ran.status, 1, "{}", ran.stderr);
        for stray in strays {
            assert!(ran.stderr.contains(&format!("`{stray}` is no source's")), "{}", ran.stderr);
        }
        ran.stderr
    };
    assert_eq!(check().matches("unknown to the index").count(), strays.len());
    fs::remove_file(program.snapshot("laptop", &client.path("f"))).unwrap();
    let told = check();
    assert!(told.contains("/data/f"), "the sources are looked at all the same: {told}");
    fs::remove_file(program.repo().join("index.sqlite")).unwrap();
    let rebuilt = program.run(["index", "rebuild"]);
    rebuilt.well();
    assert_eq!(rebuilt.stderr.matches("is no source's, and is left alone").count(), 3, "{}", rebuilt.stderr);
    program.run(["ls", "laptop"]).well();
}
