//! The files in `conf.d`: which are read, and what a mistake in one of them stops.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::*;

/// A configuration with a source `good` in `conf.d`, whose client is given back.
fn configured(program: &Program, main: &str) -> (String, Tree) {
    let client = Tree::new([("a", file("a"))]);
    let config = program.configured(main);
    fs::create_dir(program.path("conf.d")).unwrap();
    put(program, "good.toml", &format!("[source.good]\npaths = ['{}']\n", client.root().display()));
    (config, client)
}

fn put(program: &Program, name: &str, text: &str) {
    fs::write(program.path("conf.d").join(name), text).unwrap();
}

#[test]
fn files_that_editors_leave_in_conf_d_are_ignored() {
    let program = Program::new();
    let (config, _client) = configured(&program, "");
    // Emacs's lock file is a symlink to nowhere.
    symlink("anna@server.1234:5678", program.path("conf.d/.#good.toml")).unwrap();
    for name in
        [".good.toml.swp", "good.toml~", "good.toml.bak", "good.toml.orig", "good.toml.dpkg-old", ".hidden.toml"]
    {
        put(&program, name, "[source.good]\npaths = ['/else']\n");
    }
    program.run(["--config", &config, "pull", "--all"]).well();
    let checked = program.run(["--config", &config, "config", "check"]);
    checked.well();
    assert_eq!(checked.stderr, "");
    put(&program, "other.conf", "");
    let checked = program.run(["--config", &config, "config", "check"]);
    checked.well();
    assert!(checked.stderr.contains("other.conf`: its name does not end in `.toml`"), "{}", checked.stderr);
}

#[test]
fn mistake_in_one_file_of_conf_d_stops_no_other_source_but_prune() {
    let program = Program::new();
    let (config, client) = configured(&program, "[defaults]\nkeep = { last = 1 }\n");
    program.run(["--config", &config, "pull", "--all"]).well();
    client.put("a", file("other"));
    let run = |arguments: &[&str]| program.run([&["--config", config.as_str()], arguments].concat());
    for (text, says) in [
        ("[source.bad\n", "bad.toml:1:12: "),
        ("[source.bad]\npath = ['/x']\n", "did you mean `paths`?"),
        ("[source.bad]\npaths = ['/x', '/x/y']\n[source.too]\npaths = ['/too']\n", "overlap"),
    ] {
        put(&program, "bad.toml", text);
        client.put("a", file(format!("changed, {says}")));
        for pull in [&["pull", "--all"][..], &["pull", "good"]] {
            let ran = run(pull);
            assert_eq!(ran.status, 2, "{}", ran.stderr);
            assert!(ran.stderr.contains(says), "{}", ran.stderr);
            assert!(ran.stdout.starts_with("good: ok") && !ran.stdout.contains("too"), "{}", ran.stdout);
        }
        let kept = fs::read(program.snapshot("good", &client.path("a"))).unwrap();
        assert_eq!(kept, format!("changed, {says}").into_bytes());
        for command in [&["config", "check"][..], &["config", "show"], &["status"]] {
            let ran = run(command);
            assert_eq!(ran.status, 2, "{command:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(says), "{}", ran.stderr);
        }
        let before = program.fingerprint();
        for prune in [&["prune"][..], &["prune", "good"], &["prune", "--keep-last", "1"]] {
            let ran = run(prune);
            assert_eq!(ran.status, 2, "{}", ran.stderr);
            assert!(ran.stderr.contains("can't prune: the configuration has a mistake"), "{}", ran.stderr);
        }
        assert_eq!(program.fingerprint(), before);
        run(&["ls", "good"]).well();
    }
    fs::remove_file(program.path("conf.d/bad.toml")).unwrap();
    run(&["prune"]).well();
}

#[test]
fn file_of_conf_d_that_cannot_be_read_stops_no_other_source_but_prune() {
    let program = Program::new();
    let (config, client) = configured(&program, "[defaults]\nkeep = { last = 1 }\n");
    let run = |arguments: &[&str]| program.run([&["--config", config.as_str()], arguments].concat());
    // Neither can be read as a file, not even by root.
    symlink("nowhere", program.path("conf.d/lost.toml")).unwrap();
    fs::create_dir(program.path("conf.d/dir.toml")).unwrap();
    let says = ["lost.toml`: No such file or directory: make it readable", "dir.toml`: Is a directory: "];
    for pull in [&["pull", "--all"][..], &["pull", "good"]] {
        client.put("a", file(format!("{pull:?}")));
        let ran = run(pull);
        assert!(ran.status == 2 && says.iter().all(|says| ran.stderr.contains(says)), "{}", ran.stderr);
        assert!(ran.stdout.starts_with("good: ok"), "{}", ran.stdout);
    }
    for refused in [&["pull", "bad"][..], &["config", "check"], &["status"]] {
        assert_eq!(run(refused).status, 2, "{refused:?}");
    }
    let pruned = run(&["prune"]);
    assert!(pruned.status == 2 && pruned.stderr.contains("can't prune: "), "{}", pruned.stderr);
}

#[test]
fn file_of_conf_d_says_nothing_that_counts_for_every_source() {
    let program = Program::new();
    let (config, _client) = configured(&program, "");
    let elsewhere = program.path("elsewhere");
    for (key, text) in [
        ("[defaults]", "[defaults]\nexclude = ['a']\n".to_owned()),
        ("[defaults]", "[\"\\u0064efaults\"]\n".to_owned()),
        ("repository", format!("repository = '{}'\n", elsewhere.display())),
        ("helper_dir", "helper_dir = '/tmp'\n[source.more]\npaths = ['/more']\n".to_owned()),
    ] {
        put(&program, "all.toml", &text);
        let says = format!("all.toml` has `{key}`, which only the main file may have: move it to `{config}`");
        for command in [&["pull", "--all"][..], &["pull", "good"], &["config", "check"]] {
            program.run([&["--config", &config], command].concat()).refused(2, &[&says]);
        }
        // The repository is named, and can be read.
        let status = program.run(["--config", &config, "status"]);
        assert!(status.status == 2 && status.stderr.contains(&says), "{}", status.stderr);
    }
    assert!(!program.repo().join("snapshot/good").exists());
}

#[test]
fn conf_d_that_leads_nowhere_is_reported() {
    let program = Program::new();
    let config = program.configured("[source.a]\npaths = ['/etc/hostname']\n");
    for target in ["nowhere", "archive.toml"] {
        symlink(target, program.path("conf.d")).unwrap();
        program
            .run(["--config", &config, "pull", "--all"])
            .refused(1, &["can't list the configuration in ", "conf.d`: "]);
        fs::remove_file(program.path("conf.d")).unwrap();
    }
    program.run(["--config", &config, "pull", "--all"]).well();
    let home = program.path("home/.config/archive");
    fs::create_dir_all(&home).unwrap();
    symlink("nowhere", home.join("archive.toml")).unwrap();
    program.run(["config", "check"]).refused(2, &["archive.toml`: No such file or directory"]);
}

#[test]
fn byte_order_mark_begins_a_configuration() {
    let program = Program::new();
    let (config, _client) = configured(&program, "\u{feff}[defaults]\nkeep = { last = 1 }\n");
    let good = fs::read_to_string(program.path("conf.d/good.toml")).unwrap();
    put(&program, "good.toml", &format!("\u{feff}{good}"));
    program.run(["--config", &config, "pull", "--all"]).well();
    put(&program, "bad.toml", "\u{feff}repository =\n");
    program.run(["--config", &config, "pull", "--all"]).refused(2, &["bad.toml:1:13: "]);
}

#[test]
fn source_of_two_files_is_not_pulled_and_the_others_are() {
    let program = Program::new();
    let (config, client) = configured(&program, "");
    let fine = Tree::new([("b", file("b"))]);
    put(&program, "fine.toml", &format!("[source.fine]\npaths = ['{}']\n", fine.root().display()));
    for name in ["again.toml", "later.toml", "third.toml"] {
        put(&program, name, &format!("[source.good]\npaths = ['{}']\n", client.path("a").display()));
    }
    let ran = program.run(["--config", &config, "pull", "--all"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("both say `[source.good]`").count(), 3, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("fine: ok") && !ran.stdout.contains("good"), "{}", ran.stdout);
    assert_eq!(program.run(["--config", &config, "pull", "good"]).status, 2);
}

#[test]
fn nothing_runs_without_settings_that_a_file_with_a_mistake_may_hold() {
    let program = Program::new();
    let (config, client) = configured(&program, "");
    let run = |arguments: &[&str]| program.run([&["--config", config.as_str()], arguments].concat());
    let path = client.root().to_str().unwrap().to_owned();
    put(&program, "bad.toml", "[source.bad]\nexlude = ['*']\n");
    let ran = run(&["pull", &path, "--name", "bad"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("the settings of `bad` may be in a file that doesn't count"), "{}", ran.stderr);
    for text in ["[defaults]\nexlude = ['*']\n", "repository = '/elsewhere'\n[source.", "[source.x\n[ defaults ]\n"] {
        put(&program, "bad.toml", text);
        for command in [&["pull", "--all"][..], &["pull", "good"]] {
            run(command).refused(2, &["bad.toml:"]);
        }
    }
    assert!(!program.repo().join("snapshot/bad").exists() && !program.repo().join("snapshot/good").exists());
}
