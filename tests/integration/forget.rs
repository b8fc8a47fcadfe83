//! Forgetting: out of both trees and the index, for all time, and nothing else.

use std::fs;

use crate::support::*;

/// `secret` in two versions and a removed one below `d/secret`, among what is to stay.
fn with_secrets() -> (Program, Tree) {
    let program = Program::new();
    let client = Tree::new([
        ("secret", at(1_000_000_000, 0, file("first secret"))),
        ("stays", file("stays, and is nobody's copy")),
        ("copy", at(1_100_000_000, 0, file("last secret"))),
        (
            "d",
            dir([
                ("secret", dir([("below", dir([("x", file("x"))])), ("l", link("x")), ("pipe", fifo())])),
                ("other", file("other")),
                ("gone", at(1_000_000_000, 5, file("gone"))),
            ]),
        ),
    ]);
    let pull = || program.pull_local(&client.root(), &["--name", "laptop"]);
    pull();
    client.put("secret", at(1_100_000_000, 0, file("last secret")));
    client.remove("d/gone");
    pull();
    (program, client)
}

fn everything(program: &Program) -> Vec<String> {
    let found = std::process::Command::new("find")
        .args(["snapshot", "archive", "-printf", "%P\n"])
        .current_dir(program.repo())
        .output()
        .unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_path_goes_with_all_that_it_was() {
    let (program, client) = with_secrets();
    let what = format!("laptop:{}", client.path("d").display());
    let before = everything(&program);
    let would = program.run(["forget", "-n", "--json", &what]);
    would.well();
    assert_eq!(everything(&program), before);
    assert!(program.archive("laptop", &client.path("d")).exists());
    let done = program.run(["forget", "--yes", "--json", &what]);
    done.well();
    assert_eq!(would.lines().last(), done.lines().last());
    assert_eq!(done.lines()[0]["files"], 4);
    assert!(!everything(&program).iter().any(|path| path.contains("/d/") || path.ends_with("/d")));
    program.assert_index_is_right();
    program.run(["history", &what]).refused(1, &["had no"]);
    program.run(["forget", "--yes", &what]).refused(1, &["nothing fits", "archive find"]);
    // What is still on the client comes back with the next pull, whole, unless it is excluded.
    let excluded = program.pull_local(&client.root(), &["--name", "laptop", "--exclude", "d/"]);
    assert_eq!((excluded["new"].as_u64(), excluded["errors"].as_u64()), (Some(0), Some(0)));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    oracle::assert_same(&client.root(), &program.snapshot("laptop", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn a_pattern_goes_everywhere() {
    let (program, client) = with_secrets();
    let done = program.run(["forget", "--yes", "--json", "laptop:secret"]);
    done.well();
    assert!(!everything(&program).iter().any(|path| path.contains("secret")), "{:?}", everything(&program));
    assert_eq!(fs::read(program.snapshot("laptop", &client.path("copy"))).unwrap(), b"last secret");
    assert_eq!(fs::read(program.snapshot("laptop", &client.path("d/other"))).unwrap(), b"other");
    program.assert_index_is_right();
    program.pull_local(&client.root(), &["--name", "laptop"]);
    oracle::assert_same(&client.root(), &program.snapshot("laptop", &client.root()));
}

#[test]
fn source_is_removed_with_everything_that_it_holds() {
    let (program, client) = with_secrets();
    let other = Tree::new([("f", file("f"))]);
    program.pull_local(&other.root(), &["--name", "other"]);
    let before = everything(&program);
    let would = program.run(["forget", "-n", "--json", "laptop:/"]);
    would.well();
    assert_eq!(everything(&program), before);
    let done = program.run(["forget", "--yes", "--json", "laptop:/"]);
    done.well();
    assert_eq!(would.lines().last(), done.lines().last());
    let told = done.lines().pop().unwrap();
    assert_eq!((&told["sources"], &told["runs"]), (&1.into(), &2.into()));
    assert!(!everything(&program).iter().any(|path| path.starts_with("laptop")), "{:?}", everything(&program));
    assert!(!names(&program.repo().join("staging")).contains(&"laptop".to_owned()));
    assert!(!program.run(["status"]).stdout.contains("laptop"));
    program.run(["status", "--max-age", "1h"]).well();
    program.run(["log", "laptop"]).refused(2, &["no source `laptop`"]);
    program.assert_index_is_right();
    assert_same(&other.root(), &program.snapshot("other", &other.root()));
    program.run(["index", "rebuild"]).well();
    assert!(!program.run(["status"]).stdout.contains("laptop"));
    // Its name can be used again, and run numbers are not.
    let again = program.pull_local(&client.root(), &["--name", "laptop"]);
    assert!(again["run"].as_i64() > Some(3), "{again}");
    assert_same(&client.root(), &program.snapshot("laptop", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn source_without_versions_is_removed() {
    let (program, client) = with_secrets();
    program.change_index(
        "INSERT INTO source (name, layout) VALUES ('latpop', 2); INSERT INTO run (source, started) VALUES (2, unixepoch() * 1000000000)",
    );
    program.run(["status", "--max-age", "1h"]).refused(1, &["`latpop`"]);
    program.run(["forget", "latpop:/"]).refused(2, &["`--yes`"]);
    program.run(["forget", "--yes", "latpop:/"]).well();
    program.run(["status", "--max-age", "1h"]).well();
    program.assert_index_is_right();
    assert_same(&client.root(), &program.snapshot("laptop", &client.root()));
}

#[test]
fn source_stays_while_its_trees_hold_unknown_files() {
    let (program, client) = with_secrets();
    fs::write(program.snapshot("laptop", &client.path("stray")), "in the snapshot").unwrap();
    let unknown = program.archive("laptop", &client.path("unknown"));
    fs::write(&unknown, "in the archive").unwrap();
    let forget = |warning: &str| {
        let ran = program.run(["forget", "--yes", "--json", "laptop:/"]);
        ran.well();
        assert_eq!(ran.lines()[0]["sources"], 0);
        assert!(ran.stderr.contains(warning), "{}", ran.stderr);
        assert_eq!(fs::read_to_string(&unknown).unwrap(), "in the archive");
        assert!(program.run(["status"]).stdout.contains("laptop"));
    };
    forget("`laptop` stays: files that the index did not know are in its archive now");
    let stray = program.archived("laptop", &client.root()).into_iter().find(|name| name.starts_with("stray"));
    let stray = program.archive("laptop", &client.root()).join(stray.unwrap());
    assert_eq!(fs::read_to_string(stray).unwrap(), "in the snapshot");
    forget("`archive/laptop` holds what the index does not know");
    fs::remove_file(&unknown).unwrap();
    program.run(["forget", "--yes", "laptop:/"]).well();
    assert!(!program.run(["status"]).stdout.contains("laptop"));
    program.assert_index_is_right();
}

#[test]
fn removal_of_a_source_may_be_killed_at_any_step() {
    for step in 1.. {
        let (program, _client) = with_secrets();
        let mut command = program.command(["forget", "--yes", "laptop:/"]);
        let ran = Ran::of(command.env("ARCHIVE_FAULT", format!("kill:{step}")).output().unwrap());
        if ran.status == 0 {
            assert!(step > 12, "only {step} steps could be killed");
            return;
        }
        program.assert_index_is_right();
        if program.run(["status"]).stdout.contains("laptop") {
            program.run(["forget", "--yes", "laptop:/"]).well();
        }
        assert!(everything(&program).iter().all(String::is_empty), "{:?}", everything(&program));
        program.assert_index_is_right();
    }
}

#[test]
fn nothing_goes_unasked() {
    let (program, client) = with_secrets();
    let before = everything(&program);
    let what = format!("laptop:{}", client.path("secret").display());
    program.run(["forget", &what]).refused(2, &["stdin is not a terminal", "`--yes`"]);
    program.run(["forget", "--yes", "laptop:"]).refused(2, &["names nothing"]);
    program.run(["forget", "--yes", "laptop:!x"]).refused(2, &["names nothing"]);
    program.run(["forget", "--yes", "laptop"]).refused(2, &["names nothing"]);
    program.run(["forget", "--yes", "nobody:/x"]).refused(2, &["no source `nobody`"]);
    program.run(["forget", "--yes", "laptop:/no/such"]).refused(1, &["nothing fits"]);
    assert_eq!(everything(&program), before);
    program.assert_index_is_right();
}

#[test]
fn killed_at_any_step_it_is_finished_by_the_next() {
    for step in 1.. {
        let (program, client) = with_secrets();
        let mut command = program.command(["forget", "--yes", "laptop:secret"]);
        let ran = Ran::of(command.env("ARCHIVE_FAULT", format!("kill:{step}")).output().unwrap());
        assert_eq!(fs::read(program.snapshot("laptop", &client.path("copy"))).unwrap(), b"last secret");
        if ran.status == 0 {
            assert!(step > 8, "only {step} steps could be killed");
            return;
        }
        program.assert_index_is_right();
        let again = program.run(["forget", "--yes", "laptop:secret"]);
        assert!(matches!(again.status, 0 | 1), "{}", again.stderr);
        assert!(!everything(&program).iter().any(|path| path.contains("secret")), "{:?}", everything(&program));
        program.assert_index_is_right();
    }
}

#[test]
fn a_pattern_takes_roots_that_nothing_but_paths_lead_to() {
    let program = Program::new();
    let client =
        Tree::new([("y", dir([("z", dir([("v", dir([("w", dir([("f", file("f"))]))]))]))])), ("x", file("x"))]);
    program.pull_local(&client.path("y/z/v/w"), &["--name", "laptop"]);
    program.pull_local(&client.root(), &["--name", "laptop", "--exclude", "z/"]);
    program.run(["forget", "--yes", "laptop:y/"]).well();
    let left = program.run(["ls", "-R", "laptop"]).stdout;
    assert!(left.ends_with("/data/x\n") && !left.contains("/y"), "{left}");
    program.assert_index_is_right();
}
