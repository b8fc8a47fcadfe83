//! Looking at the past: runs, directories and files as they were.

use crate::support::*;

/// A source whose file was replaced and whose directory was removed, in three runs.
fn three_runs() -> (Program, Tree) {
    let program = Program::new();
    let client =
        Tree::new([("a", at(1_000_000_000, 0, file("first"))), ("d", dir([("f", file("in d")), ("l", link("f"))]))]);
    let pull = || program.pull_local(&client.root(), &["--name", "laptop"]);
    pull();
    client.put("a", at(1_100_000_000, 0, file("second")));
    pull();
    client.remove("d");
    client.add([("new", file("new"))]);
    pull();
    (program, client)
}

fn at_path(client: &Tree, name: &str) -> String {
    format!("laptop:{}", client.path(name).display())
}

#[test]
fn a_file_is_printed_as_it_was() {
    let (program, client) = three_runs();
    let cat = |name: &str, when: &[&str]| program.run([&["cat", &at_path(&client, name)], when].concat());
    assert_eq!(cat("a", &[]).stdout, "second");
    assert_eq!(cat("a", &["--at", "1"]).stdout, "first");
    assert_eq!(cat("d/f", &["--at", "2"]).stdout, "in d");
    cat("d/f", &[]).refused(1, &["had no", "d/f` from run 1 until before run 3", "`--at 1`"]);
    cat("neww", &[]).refused(1, &["had no", "the nearest that it has is", "/new`"]);
    cat("d/ff/x", &["--at", "1"]).refused(1, &["had no", "/d/f`"]);
    cat("no/such/thing", &[])
        .refused(1, &["had no", &format!("the nearest that it has is `{}`", client.root().display())]);
    cat("d", &["--at", "1"]).refused(1, &["is a dir", "name a file"]);
    cat("a", &["--at", "2001-01-01"]).refused(2, &["has no run then", "its first is run 1"]);
    cat("a", &["--at", "99"]).refused(2, &["has no run then"]);
    cat("a", &["--at", "soon"]).refused_usage(&["`soon` is no time"]);
    program.run(["cat", "nobody:/x"]).refused(2, &["no source `nobody`", "it has `laptop`"]);
    program.run(["cat", "laptop"]).refused(2, &["write `SOURCE:/PATH`"]);
}

#[test]
fn a_content_that_rotted_is_said() {
    let (program, client) = three_runs();
    let plain = program.snapshot("laptop", &client.path("a"));
    std::fs::write(plain, "sEcond").unwrap();
    let ran = program.run(["cat", &at_path(&client, "a")]);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, "sEcond"));
    assert!(ran.stderr.contains("rotten"), "{}", ran.stderr);
}

#[test]
fn directories_are_listed_as_they_were() {
    let (program, client) = three_runs();
    let root = client.root().display().to_string();
    let ls = |arguments: &[&str]| {
        let ran = program.run([&["ls"], arguments].concat());
        ran.well();
        ran.stdout.replace(&format!("{root}/"), "")
    };
    let target = format!("laptop:{root}");
    assert_eq!(ls(&[&target]), "a\nnew\n");
    assert_eq!(ls(&[&target, "--at", "1", "-R"]), "a\nd/\nd/f\nd/l\n");
    assert_eq!(ls(&[&target, "--at", "now"]), "a\nnew\n");
    let long = ls(&[&target, "--at", "2", "-R", "-l"]);
    assert!(long.contains("symlink") && long.contains("d/l -> f"), "{long}");
    assert_eq!(ls(&[&at_path(&client, "a")]), format!("{root}/a\n").replace(&format!("{root}/"), ""));
    // Above the roots there is the way down to them.
    assert_eq!(program.run(["ls", "laptop"]).stdout, "/tmp/\n");
    assert!(program.run(["ls", "-R", "laptop"]).stdout.ends_with("/data/new\n"));
    program.run(["ls", "laptop:/no/such"]).refused(1, &["had no `/no/such`"]);
    let lines = program.run(["--json", "ls", &target]).lines();
    assert_eq!((&lines[0]["type"], &lines[0]["size"], &lines[0]["from_run"]), (&"entry".into(), &6.into(), &2.into()));
}

#[test]
fn versions_and_runs_are_listed() {
    let (program, client) = three_runs();
    let history = program.run(["--json", "history", &at_path(&client, "a")]).lines();
    let spans: Vec<_> = history.iter().map(|line| (line["from_run"].clone(), line["until_run"].clone())).collect();
    assert_eq!(spans, [(1.into(), 2.into()), (2.into(), serde_json::Value::Null)]);
    let shown = program.run(["history", &at_path(&client, "d/f")]).stdout;
    assert!(shown.contains("from run 1 until before run 3"), "{shown}");
    program.run(["history", "laptop:/nothing"]).refused(1, &["had no `/nothing`"]);
    let runs = program.run(["--json", "log", "laptop"]).lines();
    let numbers: Vec<_> = runs.iter().map(|run| (run["run"].clone(), run["outcome"].clone())).collect();
    assert_eq!(numbers, [3, 2, 1].map(|number| (number.into(), "ok".into())));
    assert_eq!(runs[0]["counts"]["removed"], 3);
    let log = program.run(["log"]).stdout;
    assert_eq!(log.lines().count(), 3);
    assert!(log.lines().next().unwrap().contains("1 new, 0 changed"), "{log}");
}

#[test]
fn the_state_of_each_source_is_told_and_can_be_watched() {
    let (program, _client) = three_runs();
    let config = program.path("archive.toml");
    std::fs::write(&config, "[source.laptop]\npaths = ['/x']\nevery = '1d'\n[source.forgotten]\npaths = ['/y']\n")
        .unwrap();
    let config = config.to_str().unwrap();
    let ran = program.run(["--config", config, "status"]);
    ran.well();
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines[0], "forgotten: last never, not pulled, never good");
    assert!(
        lines[1].starts_with("laptop: last 20") && lines[1].contains(", ok, good 0.") && lines[1].contains(", due 20"),
        "{}",
        lines[1]
    );
    program.run(["status", "--max-age", "1h"]).well();
    let late = program.run(["--config", config, "status", "--max-age", "1h"]);
    assert_eq!(late.status, 1);
    assert!(late.stderr.contains("`forgotten`") && !late.stderr.contains("laptop"), "{}", late.stderr);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(program.run(["status", "--max-age", "1s"]).status, 1);
    assert_eq!(program.run(["--json", "status"]).lines()[0]["outcome"], "ok");
}

#[test]
fn differences_tell_what_moved_by_its_content() {
    let program = Program::new();
    let client = Tree::new([
        ("changed", at(1_000_000_000, 0, file("first"))),
        ("touched", mode(0o600, file("touched"))),
        ("stays", file("stays")),
        ("turned", file("a file")),
        ("empty", file("")),
        ("d", dir([("moved", file("moved")), ("gone", file("gone"))])),
    ]);
    let pull = || program.pull_local(&client.root(), &["--name", "laptop"]);
    pull();
    client.put("changed", at(1_100_000_000, 0, file("second")));
    client.put("touched", mode(0o644, file("touched")));
    client.rename("d/moved", "elsewhere");
    client.remove("d/gone");
    client.remove("empty");
    client.put("turned", link("stays"));
    client.add([("new", file("new")), ("empty too", file(""))]);
    pull();
    pull();
    let root = client.root().display().to_string();
    let diff = |arguments: &[&str]| {
        let ran = program.run([&["diff"], arguments].concat());
        ran.well();
        let plain = ran.stdout.replace(&format!("{root}/"), "");
        plain.lines().filter(|line| !line.ends_with("/data") && *line != "T d").map(str::to_owned).collect::<Vec<_>>()
    };
    let then =
        ["M changed", "- d/gone", "R d/moved -> elsewhere", "- empty", "+ empty too", "+ new", "T touched", "M turned"];
    assert_eq!(diff(&["laptop", "--from", "1", "--to", "2"]), then);
    assert_eq!(diff(&["laptop", "--from", "1"]), then);
    assert_eq!(diff(&["laptop"]), [""; 0]);
    let back =
        ["M changed", "+ d/gone", "R elsewhere -> d/moved", "+ empty", "- empty too", "- new", "T touched", "M turned"];
    assert_eq!(diff(&["laptop", "--from", "2", "--to", "1"]), back);
    assert_eq!(diff(&[&format!("laptop:{root}/d"), "--from", "1"]), ["- d/gone", "- d/moved"]);
    let json = program.run(["--json", "diff", "laptop", "--from", "1", "--to", "2"]).lines();
    let moved = json.iter().find(|line| line["change"] == "moved").unwrap();
    assert_eq!(moved["from"], format!("{root}/d/moved"));
    program.run(["diff", "laptop", "--to", "1"]).refused(2, &["before run 1 there is none"]);
}

#[test]
fn versions_are_found_by_name() {
    let (program, client) = three_runs();
    let root = client.root().display().to_string();
    let find = |pattern: &str| {
        let ran = program.run(["find", pattern]);
        let short = ran.stdout.replace(&format!("laptop:{root}/"), "");
        short.lines().map(|line| line.rsplit("  ").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(find("a"), ["a", "a"]);
    assert_eq!(find("[fl]"), ["d/f", "d/l"]);
    assert_eq!(find(&format!("{root}/n*")), ["new"]);
    assert_eq!(find("n*"), ["new"]);
    let ran = program.run(["find", "--json", "d/"]);
    assert_eq!((ran.lines()[0]["kind"].as_str(), ran.lines()[0]["source"].as_str()), (Some("dir"), Some("laptop")));
    assert_eq!(program.run(["find", "nothing"]).status, 1);
}
