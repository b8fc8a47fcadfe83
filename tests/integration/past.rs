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
    cat("d/f", &[]).refused(1, &["no longer has", "d/f` from run 1 until before run 3", "`--at 1`"]);
    cat("neww", &[]).refused(1, &["had no", "the nearest that it has is", "/new`"]);
    cat("d/ff/x", &["--at", "1"]).refused(1, &["had no", "/d/f`"]);
    cat("no/such/thing", &[])
        .refused(1, &["had no", &format!("the nearest that it has is `{}`", client.root().display())]);
    cat("d", &["--at", "1"]).refused(1, &["is a dir", "name a file"]);
    cat("a", &["--at", "2001-01-01"]).refused(2, &["has no run then", "its first is run 1"]);
    cat("a", &["--at", "99"]).refused(2, &["has no run 99: its runs are 1 to 3"]);
    cat("a", &["--at", "soon"]).refused_usage(&["`soon` is no time"]);
    program.run(["cat", "nobody:/x"]).refused(2, &["no source `nobody`", "it has `laptop`"]);
    program.run(["cat", "laptop"]).refused(2, &["write `SOURCE:/PATH`"]);
}

#[test]
fn repository_without_sources_says_so() {
    let program = Program::new();
    program.run(["index", "rebuild"]).well();
    let none = "there is no source `nobody` in the repository: it holds no source yet: `archive pull` adds one\n";
    for command in [&["ls", "nobody"][..], &["log", "nobody"], &["verify", "nobody"], &["forget", "--yes", "nobody:/"]]
    {
        program.run(command).refused(2, &[none]);
    }
    program.run(["status", "nobody"]).refused(2, &["in the repository or in the configuration: neither has one"]);
}

#[test]
fn a_content_that_rotted_is_said() {
    let (program, client) = three_runs();
    let plain = program.snapshot("laptop", &client.path("a"));
    std::fs::write(plain, "sEcond").unwrap();
    let ran = program.run(["cat", &at_path(&client, "a")]);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "nothing wrong is printed");
    assert!(ran.stderr.contains("is corrupt"), "{}", ran.stderr);
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
    assert!(log.lines().next().unwrap().contains("1 new  0 changed"), "{log}");
}

#[test]
fn the_state_of_each_source_is_told_and_can_be_watched() {
    let (program, _client) = three_runs();
    let config = program.path("archive.toml");
    std::fs::write(
        &config,
        "[source.laptop]\npaths = ['/x']\nevery = '1d'\n[source.forgotten]\npaths = ['/y']\nevery = '1w'\n",
    )
    .unwrap();
    let config = config.to_str().unwrap();
    let ran = program.run(["--config", config, "status"]);
    ran.well();
    let words = |line: usize| {
        let line = ran.stdout.lines().nth(line).unwrap();
        line.split("  ").map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words(0), ["SOURCE", "LAST RUN", "OUTCOME", "LAST SUCCESS", "FILES", "SIZE", "DUE", "VERIFIED"]);
    assert_eq!(words(1), ["forgotten", "never", "not pulled", "never", "now"]);
    let laptop = words(2);
    assert!(laptop[0] == "laptop" && laptop[1].starts_with("20") && laptop[2] == "ok", "{laptop:?}");
    assert!(laptop[3].ends_with(" s ago") && laptop[4] == "2" && laptop[6].starts_with("20"), "{laptop:?}");
    assert_eq!(program.run(["--config", config, "status", "laptop"]).stdout.lines().count(), 2);
    let unknown = program.run(["--config", config, "status", "nobody"]);
    unknown.refused(2, &["there is no source `nobody`", "they have `forgotten`, `laptop`"]);
    let due = &program.run(["--config", config, "--json", "status", "forgotten"]).lines()[0]["due"];
    assert!(due.is_string(), "a source that never ran is due");
    program.run(["status", "--max-age", "1h"]).well();
    let late = program.run(["--config", config, "status", "--max-age", "1h"]);
    late.refused(1, &["`forgotten` was never reached: `archive pull forgotten` shows why, or `", "log/archive.log`"]);
    assert!(!late.stderr.contains("laptop"), "{}", late.stderr);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(program.run(["status", "--max-age", "1s"]).status, 1);
    assert_eq!(program.run(["--json", "status"]).lines()[0]["outcome"], "ok");
}

#[test]
fn reason_of_a_failure_is_in_the_log() {
    let program = Program::new();
    let client = Tree::new([("f", file("f"))]);
    let pull = || program.run(["pull", client.root().to_str().unwrap(), "--name", "laptop"]);
    pull().well();
    let away = client.root().with_file_name("away");
    std::fs::rename(client.root(), &away).unwrap();
    let failed = pull();
    assert_eq!(failed.status, 4);
    assert_eq!(failed.stdout.lines().count(), 1, "no lines of zeros: {}", failed.stdout);
    std::fs::rename(&away, client.root()).unwrap();
    let reason = failed.stderr.trim().strip_prefix("archive: error: ").unwrap();
    let log = program.run(["log"]).stdout;
    let words: Vec<_> =
        log.lines().next().unwrap().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(words[2..], ["stopped", "laptop", reason]);
    let runs = program.run(["--json", "log"]).lines();
    assert_eq!((runs[0]["error"].as_str(), &runs[1]["error"]), (Some(reason), &serde_json::Value::Null));
    assert!(runs[0]["counts"].get("error").is_none());
    let written = std::fs::read_to_string(program.repo().join("log/archive.log")).unwrap();
    let end = written.lines().last().unwrap();
    assert!(end.contains("ends stopped") && end.ends_with("errors=1") && !end.contains("=0"), "{end}");
}

#[test]
fn reason_of_a_partial_run_is_its_first_error() {
    let program = Program::new();
    let client = Tree::new([("a", file("a")), ("b", file("b"))]);
    let ran = program.run(["pull", client.root().to_str().unwrap(), "--name", "laptop", "--max-file-size", "4"]);
    ran.well();
    program.change_index("UPDATE run SET outcome = 'partial', summary = json_set(summary, '$.exit', 3, '$.errors', 1)");
    let config =
        program.configured(&format!("[source.laptop]\nevery = '1d'\npaths = ['{}']\n", client.root().display()));
    let with = |arguments: &[&str]| program.run([&["--config", &config], arguments].concat());
    assert_eq!(with(&["pull", "--due"]).stdout, "", "a partial run is the one of its day");
    let status = with(&["status", "--max-age", "1h"]);
    assert_eq!(
        (status.status, status.stderr.contains("last successful pull of `laptop`, run 1, was partial: 1 error")),
        (0, true)
    );
    assert!(status.stdout.contains(" s ago, partial"), "{}", status.stdout);
    // One that lost the client is not.
    program.change_index("UPDATE run SET summary = json_set(summary, '$.exit', 6)");
    assert_eq!(with(&["status", "--max-age", "1h"]).status, 1);
    assert!(with(&["pull", "--due"]).stdout.contains("laptop: ok, run 2"));
}

#[test]
fn nearest_version_of_a_path_that_is_not_there_is_named() {
    let program = Program::new();
    let client = Tree::new([("f", file("1")), ("stays", file("stays"))]);
    let pull = || program.pull_local(&client.root(), &["--name", "laptop"]);
    pull();
    client.remove("f");
    (2..=5).for_each(|_| drop(pull()));
    client.add([("f", file("2"))]);
    pull();
    let cat = |run: &str| program.run(["cat", &at_path(&client, "f"), "--at", run]);
    cat("2").refused(1, &["from run 1 until before run 2, as of `--at 1`"]);
    cat("5").refused(1, &["from run 6 until now, as of `--at 6`"]);
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

#[test]
fn a_plain_file_s_path_is_as_good_as_the_client_s() {
    let program = Program::new();
    let client = Tree::new([("d", dir([("f", at(1_000_000_000, 0, file("first")))]))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    client.put("d/f", at(1_100_000_000, 0, file("second")));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let now = program.snapshot("laptop", &client.path("d/f"));
    let past = program.archive("laptop", &client.path("d/f.20010909T014640Z"));
    let printed = |path: &std::path::Path| path.strip_prefix(program.repo()).unwrap().to_str().unwrap().to_owned();
    for (path, content) in [(&now, "second"), (&past, "first")] {
        for name in [path.to_str().unwrap().to_owned(), printed(path)] {
            let ran = program.run(["cat", &name]);
            ran.well();
            assert_eq!(ran.stdout, content, "{name}");
            let history = program.run(["history", "--json", &name]);
            assert_eq!(history.lines().len(), 2, "{name}: {}", history.stderr);
            let same = program.run(["find", "--json", "--same-as", &name]).lines();
            assert_eq!(same[0]["size"], content.len(), "{same:?}");
        }
        let place = tempfile::tempdir_in("/tmp").unwrap();
        program.run(["restore", path.to_str().unwrap(), place.path().to_str().unwrap()]).well();
        assert_eq!(std::fs::read(place.path().join("f")).unwrap(), content.as_bytes());
    }
    let listed = program.run(["ls", now.parent().unwrap().to_str().unwrap()]);
    assert_eq!(listed.stdout.trim_end(), client.path("d/f").to_str().unwrap());
    program.run(["cat", "/etc/passwd"]).refused(2, &["in none of the repository's trees"]);
    program.run(["history", "laptop"]).refused(2, &["names no path of a source"]);
    program.run(["forget", "--yes", past.to_str().unwrap()]).well();
    assert!(!now.exists() && !past.exists());
}

#[test]
fn tables_are_aligned_and_coloured_as_asked_for() {
    let program = Program::new();
    let client = Tree::new([("f", file("f")), ("d", dir([("x", mode(0o755, file("x")))]))]);
    program.pull_local(&client.root(), &["--name", "a"]);
    program.pull_local(&client.root(), &["--name", "much-longer"]);
    for command in [&["log"][..], &["status"]] {
        let plain = program.run(command);
        plain.well();
        let columns: Vec<_> = plain.stdout.lines().filter_map(|line| line.find("  ok  ")).collect();
        assert_eq!(columns, [columns[0]; 2], "{}", plain.stdout);
        assert!(!plain.stdout.contains('\x1b'), "no terminal, no colours");
        let painted = program.run([&["--color", "always"], command].concat());
        assert!(painted.stdout.contains("\x1b[32mok\x1b[0m"), "{}", painted.stdout);
        let output = program.command(command).env("NO_COLOR", "1").output().unwrap();
        assert!(!output.stdout.contains(&0x1b));
    }
    let listed = program.run(["--color", "always", "ls", "-R", "a"]).stdout;
    let shown = |name: &str| client.path(name).display().to_string();
    assert!(listed.contains(&format!("\x1b[1;34m{}\x1b[0m/", shown("d"))), "{listed}");
    assert!(listed.contains(&format!("\x1b[32m{}\x1b[0m\n", shown("d/x"))), "{listed}");
    assert!(listed.contains(&format!("\n{}\n", shown("f"))), "{listed}");
}

#[test]
fn run_that_does_not_exist_is_named_with_those_that_do() {
    let program = Program::new();
    let client = Tree::new([("f", file("f"))]);
    let pull = |name: &str| program.pull_local(&client.root(), &["--name", name]);
    ["laptop", "laptop", "laptop", "other"].iter().for_each(|name| drop(pull(name)));
    let what = format!("laptop:{}", client.path("f").display());
    let refused = |arguments: &[&str], words: &str| program.run(arguments).refused(2, &[words]);
    refused(&["cat", &what, "--at", "99"], "`laptop` has no run 99: its runs are 1 to 3\n");
    refused(&["ls", "laptop", "--at", "0"], "`laptop` has no run 0: its runs are 1 to 3\n");
    refused(&["diff", "laptop", "--from", "99"], "`laptop` has no run 99: its runs are 1 to 3\n");
    refused(&["ls", "other", "--at", "3"], "`other` has no run 3: its only run is 4\n");
    let words = "`laptop` has no run 2020: its runs are 1 to 3; a time is written as in `2020-12-31`\n";
    refused(&["cat", &what, "--at", "2020"], words);
    pull("laptop");
    refused(&["ls", "laptop", "--at", "4"], "`laptop` has no run 4: the nearest are 3 and 5\n");
    refused(&["ls", "laptop", "--at", "9"], "`laptop` has no run 9: its first run is 1, its last 5\n");
    program.run(["history", "laptop:/"]).refused(1, &["`archive find '/**'` lists what is below it"]);
}

#[test]
fn hint_names_no_path_that_is_gone() {
    let program = Program::new();
    let client = Tree::new([("d", dir([("gone", file("gone")), ("stays", file("stays"))]))]);
    let pull = || program.pull_local(&client.root(), &["--name", "laptop"]);
    pull();
    client.remove("d/gone");
    pull();
    let ls = |path: &str, flags: &[&str]| {
        program.run([&["ls", &format!("laptop:{}", client.path(path).display())], flags].concat())
    };
    let ran = ls("d/gon", &[]);
    assert!(
        ran.stderr.contains("had no") && !ran.stderr.contains("/gone") && !ran.stderr.contains("then"),
        "{}",
        ran.stderr
    );
    ls("d/gon", &["--at", "1"]).refused(1, &["/d/gon` in run 1: ", "/d/gone`"]);
    ls("d/gone", &[]).refused(1, &["no longer has", "from run 1 until before run 2"]);
}
