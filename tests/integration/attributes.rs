//! What `stat` does not tell of: extended attributes, ACLs, capabilities and holes, from the client to the index.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use crate::support::*;

fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status().unwrap();
    assert!(status.success(), "{program} {arguments:?} {}", path.display());
}

fn set(name: &str, value: &str, path: &Path) {
    run("setfattr", &["-h", "-n", name, "-v", value], path);
}

/// What the index has as attributes of each current path, by the path's end.
fn exported(program: &Program) -> std::collections::BTreeMap<String, String> {
    let lines = program.run(["index", "export"]).lines();
    let current = lines.iter().filter(|line| line["until_run"].is_null());
    let has = current.filter_map(|line| Some((line["path"].as_str()?, line["attributes"].as_str()?)));
    has.map(|(path, attributes)| (path.rsplit('/').next().unwrap().to_owned(), attributes.to_owned())).collect()
}

#[test]
fn what_getfattr_shows_is_in_the_index() {
    for over_ssh in [false, true] {
        let (sshd, program) = (Sshd::new(), Program::new());
        let client = Tree::new([
            ("file", file("content")),
            ("none", file("content")),
            ("acl", file("content")),
            ("d", dir([("inner", file("x"))])),
        ]);
        set("user.comment", "0x00ff0a", &client.path("file"));
        set("user.=odd\\name", "v", &client.path("file"));
        set("user.empty", "", &client.path("d"));
        run("setfacl", &["-m", "u:1234:rw,g:4321:r"], &client.path("acl"));
        run("setfacl", &["-d", "-m", "u:1234:rwx"], &client.path("d"));
        if is_root() {
            set("trusted.secret", "t", &client.path("none"));
            run("setcap", &["cap_net_raw=ep"], &client.path("d/inner"));
        }
        let pull = || {
            if over_ssh {
                program.pull_well(&sshd, &client.root(), &[])
            } else {
                program.pull_local(&client.root(), &["--name", "client"])
            }
        };
        pull();
        let found = exported(&program);
        assert_eq!(found["file"], "user.\\075odd\\134name=0sdg==\nuser.comment=0sAP8K\n");
        assert!(found["acl"].starts_with("system.posix_acl_access=0sAgAAA"), "{found:?}");
        assert!(found["d"].starts_with("system.posix_acl_default=0sAgAAA"), "{found:?}");
        assert!(found["d"].ends_with("user.empty=0s\n"), "{found:?}");
        if is_root() {
            assert_eq!(found["none"], "trusted.secret=0sdA==\n");
            assert!(found["inner"].starts_with("security.capability=0sA"), "{found:?}");
        }
        let again = pull();
        assert_eq!((&again["unchanged"], &again["listed"]), (&again["listed"], &again["unchanged"]));
    }
}

#[test]
fn a_change_of_only_an_attribute_is_a_touched_version() {
    let program = Program::new();
    let client = Tree::new([("file", file("content")), ("d", dir([("inner", file("x"))])), ("l", link("file"))]);
    let pull = || program.pull_local(&client.root(), &["--name", "client"]);
    pull();
    for (name, value) in [("file", "one"), ("file", "two"), ("d", "one"), ("d/inner", "one")] {
        set("user.comment", value, &client.path(name));
        let summary = pull();
        assert_eq!((&summary["touched"], &summary["changed"], &summary["new"]), (&1.into(), &0.into(), &0.into()));
        assert_eq!((&summary["copied"], &summary["archived"]), (&0.into(), &0.into()), "{name} {summary}");
        let path = format!("client:{}", client.path(name).display());
        let versions = program.run(["history", &path, "--json"]).lines();
        assert!(versions.len() >= 2, "{versions:?}");
    }
    set("user.comment", "two", &client.path("d/inner"));
    run("setfattr", &["-x", "user.comment"], &client.path("file"));
    pull();
    assert_eq!(exported(&program).keys().collect::<Vec<_>>(), ["d", "inner"]);
    program.assert_index_is_right();
}

#[test]
fn attributes_stand_in_the_index_once_and_go_with_the_last_version() {
    let program = Program::new();
    let client = Tree::new((0..20).map(|number| (format!("f{number}"), file(format!("{number}")))));
    (0..20).for_each(|number| set("user.comment", "the same", &client.path(format!("f{number}"))));
    let pull = || program.pull_local(&client.root(), &["--name", "client"]);
    pull();
    let count = || {
        let index = program.index();
        index.query_row("SELECT count(*) FROM attributes", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(count(), 1);
    (0..20).for_each(|number| set("user.comment", "another", &client.path(format!("f{number}"))));
    pull();
    assert_eq!(count(), 2);
    program.run(["prune", "--keep-last", "1"]).well();
    assert_eq!(count(), 1);
}

fn sparse(path: &Path, size: u64, pieces: &[(u64, &[u8])]) {
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    pieces.iter().for_each(|(offset, bytes)| file.write_all_at(bytes, *offset).unwrap());
}

#[test]
fn permission_bits_are_the_clients_whatever_the_umask() {
    let modes = [0o400, 0o600, 0o644, 0o666, 0o777];
    // Several of each, for what comes of one is remembered, and large ones, which come another way.
    let kinds = ["1", "2", "3", "large"].iter().flat_map(|kind| modes.map(|mode| (*kind, mode)));
    let files: Vec<_> = kinds.map(|(kind, mode)| (format!("{mode:o}-{kind}"), mode)).collect();
    let content = |name: &str| if name.ends_with("large") { "large".repeat(100_000) } else { name.to_owned() };
    let client =
        Tree::new(files.iter().map(|(name, mode)| (name.clone(), crate::support::mode(*mode, file(content(name))))));
    for umask in ["0", "022", "077"] {
        let (sshd, program) = (Sshd::new(), Program::new());
        let mut command = Command::new("sh");
        command.args(["-c", "umask \"$0\"; exec \"$@\"", umask]).arg(env!("CARGO_BIN_EXE_archive"));
        command.arg("--repo").arg(program.repo()).args(["pull", "--link", "exact", "-F"]).arg(sshd.config());
        let ran = Ran::of(command.arg(format!("client:{}", client.root().display())).output().unwrap());
        ran.well();
        for (name, mode) in &files {
            let copy = program.snapshot("client", &client.path(name)).metadata().unwrap();
            assert_eq!(copy.mode() & 0o7777, mode | 0o600, "{name} by umask {umask}");
        }
    }
}

#[test]
fn holes_cost_nothing_on_the_wire_and_on_disk() {
    // Once with offsets that take more than 32 bits.
    for (over_ssh, size) in [(false, 1 << 29), (true, 9 << 29)] {
        let (sshd, program) = (Sshd::new(), Program::new());
        let client = Tree::new([("none", file("x"))]);
        let noise = vec![7; 1 << 20];
        sparse(&client.path("big"), size, &[(1 << 20, b"begin"), (size - (1 << 27), &noise)]);
        sparse(&client.path("ends"), 1 << 28, &[(0, b"first"), ((1 << 28) - 4, b"last")]);
        sparse(&client.path("hollow"), 1 << 28, &[]);
        sparse(&client.path("small"), 100_000, &[(50_000, b"middle")]);
        let summary = if over_ssh {
            program.pull_well(&sshd, &client.root(), &[])
        } else {
            program.pull_local(&client.root(), &["--name", "client"])
        };
        assert_eq!(summary["exit"], 0);
        assert!(summary["bytes_received"].as_u64().unwrap() < 2 << 20, "{summary}");
        for name in ["big", "ends", "hollow", "small"] {
            let (is, copy) = (client.path(name), program.snapshot("client", &client.path(name)));
            let (is_blocks, copy_blocks) = (is.metadata().unwrap().blocks(), copy.metadata().unwrap().blocks());
            assert!(copy_blocks <= is_blocks + 64, "{name}: {copy_blocks} blocks, {is_blocks} on the client");
            assert!(Command::new("cmp").args([is, copy]).status().unwrap().success());
        }
        let found = exported(&program);
        assert_eq!(found["hollow"], "# data:\n");
        assert!(found["big"].starts_with("# data: 1048576+4096 "), "{found:?}");
        program.run(["verify"]).well();
    }
}

#[test]
fn a_sparse_file_that_changes_while_it_is_read_is_right_in_the_end() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("none", file("x"))]);
    sparse(&client.path("big"), 1 << 28, &[(1 << 20, b"begin")]);
    program.pull_well(&sshd, &client.root(), &[]);
    fs::OpenOptions::new().write(true).open(client.path("big")).unwrap().write_all_at(b"in a hole", 1 << 27).unwrap();
    program.pull_well(&sshd, &client.root(), &[]);
    let copy = program.snapshot("client", &client.path("big"));
    assert!(Command::new("cmp").args([client.path("big"), copy]).status().unwrap().success());
}
