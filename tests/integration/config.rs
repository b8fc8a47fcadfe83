//! The configuration: where it is looked for, what its keys do, what is said of its mistakes.

use crate::support::*;
use std::fs;

#[test]
fn mistakes_are_told_with_line_and_column() {
    let program = Program::new();
    for (text, place, words) in [
        ("repositry = '/x'", "1:1", "unknown key `repositry`"),
        ("[source.a]\npaths = ['/a']\nexlude = []", "3:1", "unknown key `exlude`: did you mean `exclude`?"),
        ("[source.a]\nverify = '1d'", "2:1", "did you mean `verify_age`?"),
        ("[source.a]\nqqq = 1", "2:1", "unknown key `qqq`: archive.toml(5) describes every key"),
        ("[source.a]\npaths = 5", "2:9", "invalid type"),
        ("[source.a]\nhash = 'both'", "2:8", "unknown variant `both`"),
        ("[source.a]\nremote = 'posix'", "2:10", "unknown variant `posix`, expected `helper` or `local`"),
        ("[source.a]\nremote = 'sftp'", "2:10", "unknown variant `sftp`, expected `helper` or `local`"),
        ("[source.a]\nevery = 'soon'", "2:9", "`soon` is no duration"),
        ("[source.a]\nmax_delete = '200%'", "2:14", "is no share"),
        ("[source.a]\ntuning = { writers = 0 }", "2:22", "`0` is not from 1 to 16"),
        ("[source.a.tuning]\nchannels = 17", "2:12", "`17` is not from 1 to 16"),
        (
            "[source.a]\nwriters = 1",
            "2:1",
            "`writers` is a key of the table `tuning` now: write `tuning = { writers = …",
        ),
        ("[defaults]\ngather = false", "2:1", "`gather` is a key of the table `tuning` now"),
        ("[source.a]\ntuning = { writer = 1 }", "2:12", "unknown key `writer`: did you mean `writers`?"),
        ("[source.a]\ntuning = 1", "2:10", "expected a table such as `{ writers = 1 }`"),
        ("[defaults]\nkeep = { dayly = 3 }", "2:10", "unknown key `dayly`"),
        ("[source.a\n", "1:10", ""),
        ("[source.'a/b']\npaths = ['/a']", "1:9", "can't name a source"),
        ("[source.a]\npaths = ['/a', '/a/b']", "1:9", "overlap"),
        ("[source.a]\npaths = []", "1:9", "`paths` is empty"),
    ] {
        let path = program.configured(text);
        let ran = program.run(["--config", &path, "config", "check"]);
        ran.refused(2, &[&format!("{path}:{place}: "), words]);
    }
    program.run(["--config", "/no/such/file", "config", "check"]).refused(2, &["/no/such/file"]);
}

#[test]
fn as_many_threads_write_as_were_asked_for() {
    let (program, client) = (Program::new(), Tree::new([("a", file("a"))]));
    let config = program
        .configured(&format!("[source.a]\npaths = ['{}']\ntuning = {{ writers = 3 }}\n", client.root().display()));
    for (flags, writers) in [(&[][..], 3), (&["--tuning", "writers=2"], 2)] {
        let ran = program.run([&["--config", &config, "pull", "a", "-vv"], flags].concat());
        ran.well();
        assert!(ran.stderr.contains(&format!("writers={writers}")), "{}", ran.stderr);
    }
    for (written, why) in [
        ("writers=0", "`0` is not from 1 to 16"),
        ("writers=many", "invalid type"),
        ("writer=1", "unknown field `writer`"),
        ("copy=scp", "unknown variant `scp`"),
        ("gather", "it has no `=`"),
    ] {
        let ran = program.run(["pull", "--tuning", written, "/x"]);
        ran.refused(2, &[&format!("can't set `{written}`: "), why, "--tuning writers=1"]);
    }
    // Both the file's and the flags' keys count, and those of `defaults`.
    let text = format!(
        "[defaults.tuning]\ngather = false\nwriters = 1\n[source.a]\npaths = ['{}']\ntuning = {{ writers = 3 }}\n",
        client.root().display()
    );
    let shown = program.run(["--config", &program.configured(&text), "config", "show"]).stdout;
    assert!(shown.contains("[source.a.tuning]\ncopy = \"auto\"\nwriters = 3\ngather = false"), "{shown}");
}

#[test]
fn sources_are_pulled_by_name_and_all_at_once() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let (one, two) = (Tree::new([("a", file("a")), ("b.tmp", file("b"))]), Tree::new([("c", file("c"))]));
    let text = format!(
        "repository = '{}'\n[defaults]\nssh_config = '{}'\nexclude = ['*.tmp']\n[source.far]\nhost = 'client'\npaths = ['{}']\n\
         [source.near]\npaths = ['{}']\n[source.lost]\nhost = 'no-such-host.invalid'\npaths = ['/x']\n",
        program.path("by-config").display(),
        sshd.config().display(),
        one.root().display(),
        two.root().display(),
    );
    let config = program.configured(&text);
    program.run(["--config", &config, "pull", "far"]).well();
    assert_eq!(names(&program.snapshot("far", &one.root())), ["a"]);
    let all = program.run(["--json", "--config", &config, "pull", "--all"]);
    let outcomes: Vec<_> = all
        .lines()
        .iter()
        .map(|line| (line["source"].clone(), line["outcome"].clone(), line["remote"].clone()))
        .collect();
    let expected =
        [("far", "ok", "helper".into()), ("lost", "failed", serde_json::Value::Null), ("near", "ok", "local".into())];
    assert_eq!(
        (all.status, outcomes),
        (6, expected.map(|(source, outcome, remote)| (source.into(), outcome.into(), remote)).to_vec())
    );
    archive::repository::Repository::create(&program.path("by-config")).unwrap();
    let listed = std::process::Command::new(env!("CARGO_BIN_EXE_archive"))
        .args(["--config", &config, "pull", "near"])
        .env("HOME", program.path("home"))
        .output()
        .unwrap();
    assert!(
        listed.status.success() && program.path("by-config/snapshot/near").exists(),
        "the configuration's repository is used"
    );
}

#[test]
fn files_are_found_where_they_belong_and_add_up() {
    let program = Program::new();
    let home = program.path("home");
    fs::create_dir_all(home.join(".config/archive/conf.d")).unwrap();
    let main = "[defaults]\nhash = 'server'\n[source.one]\npaths = ['/one']\n";
    fs::write(home.join(".config/archive/archive.toml"), main).unwrap();
    fs::write(home.join(".config/archive/conf.d/more.toml"), "[source.two]\npaths = ['/two']\n").unwrap();
    let shown = program.run(["config", "show"]).stdout;
    assert!(
        shown.contains("[source.one]")
            && shown.contains("[source.two]")
            && shown.matches("hash = \"server\"").count() == 2,
        "{shown}"
    );
    assert!(program.run(["config", "check"]).stdout.contains("ok; 2 sources"));
    let by_variable = program.configured("[source.three]\npaths = ['/three']\n");
    let ran = Ran::of(program.command(["config", "show"]).env("ARCHIVE_CONFIG", by_variable).output().unwrap());
    assert!(ran.stdout.contains("[source.three]") && !ran.stdout.contains("[source.one]"), "{}", ran.stdout);
    fs::write(home.join(".config/archive/conf.d/zz.toml"), "[source.two]\npaths = ['/again']\n").unwrap();
    program.run(["config", "check"]).refused(2, &["both say `[source.two]`"]);
}

#[test]
fn paths_start_at_the_file_that_names_them_or_at_home() {
    let program = Program::new();
    let client = Tree::new([("f", file("f")), ("g.tmp", file("g"))]);
    fs::write(program.path("left-out"), "*.tmp\n").unwrap();
    let text = format!(
        "repository = '~/backup'\n[source.a]\nexclude_from = 'left-out'\npaths = ['{}']\n",
        client.root().display()
    );
    let path = program.configured(&text);
    fs::create_dir(program.path("home")).unwrap();
    for arguments in [&["init"][..], &["pull", "a"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_archive"));
        command
            .env_clear()
            .env("HOME", program.path("home"))
            .current_dir("/")
            .args(["--config", &path])
            .args(arguments);
        Ran::of(command.output().unwrap()).well();
    }
    let root = client.root();
    let snapshot = program.path("home/backup/snapshot/a").join(root.strip_prefix("/").unwrap());
    assert_eq!(names(&snapshot), ["f"]);
}

#[test]
fn a_mistake_in_one_source_does_not_keep_the_others_from_being_pulled() {
    let program = Program::new();
    let client = Tree::new([("f", file("f"))]);
    let text = format!(
        "[source.bad]\npaths = ['/x']\nexclude_from = '/no/such/file'\n[source.settings]\nhash = 'server'\n[source.good]\npaths = ['{}']\n",
        client.root().display()
    );
    let path = program.configured(&text);
    let ran = program.run(["--config", &path, "pull", "--all"]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("`bad`: ") && ran.stderr.contains("/no/such/file"), "{}", ran.stderr);
    assert_same(&client.root(), &program.snapshot("good", &client.root()));
}

#[test]
fn what_is_shown_is_a_configuration_that_says_the_same() {
    let program = Program::new();
    let text = "[source.a]\nhost = 'h'\npaths = ['/a']\nport = 2222\nidentity = '/k'\nexclude = ['x']\nexclude_caches = true\n\
                exclude_if_present = ['.no']\none_file_system = true\nhash = 'server'\narchive = 'all'\nlink = 'exact'\n\
                max_delete = 10\nbwlimit = '1MiB'\nremote = 'helper'\nevery = '1d'\n\
                keep = { last = 1, hourly = 2, daily = 3, weekly = 4, monthly = 5, yearly = 6, within = '30d' }\n";
    let first = program.run(["--config", &program.configured(text), "config", "show"]);
    first.well();
    let second = program.run(["--config", &program.configured(&first.stdout), "config", "show"]);
    assert_eq!(first.stdout, second.stdout);
    for words in [
        "port = 2222",
        "exclude_if_present = [\".no\"]",
        "max_delete = \"10%\"",
        "every = \"1d\"",
        "within = \"30d\"",
        "link = \"exact\"",
    ] {
        assert!(first.stdout.contains(words), "{words}: {}", first.stdout);
    }
    assert!(serde_json::from_str::<serde_json::Value>(&program.run(["--json", "config", "show"]).stdout).is_ok());
}

#[test]
fn a_path_of_a_configured_host_uses_its_settings_and_flags_count_more() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("a", file("same")), ("b", file("same")), ("c.tmp", file("c"))]);
    let text = format!(
        "[source.client]\npaths = ['/elsewhere']\nhost = 'other'\nssh_config = '{}'\nexclude = ['*.tmp']\nlink = 'never'\n",
        sshd.config().display()
    );
    let config = program.configured(&text);
    let target = format!("client:{}", client.root().display());
    program.run(["--config", &config, "pull", &target]).well();
    let snapshot = program.snapshot("client", &client.root());
    assert_eq!(names(&snapshot), ["a", "b"]);
    assert_ne!(inode(&snapshot.join("a")), inode(&snapshot.join("b")));
    client.add([("d", file("same"))]);
    program.run(["--config", &config, "pull", "--link", "content", &target]).well();
    assert_eq!(names(&snapshot), ["a", "b", "d"]);
    assert!(["a", "b"].iter().any(|name| inode(&snapshot.join(name)) == inode(&snapshot.join("d"))));
}

#[test]
fn times_of_the_day_are_checked() {
    let program = Program::new();
    let checked = |keys: &str| {
        program.run([
            "--config",
            &program.configured(&format!("[source.a]\npaths = ['/a']\n{keys}\n")),
            "config",
            "check",
        ])
    };
    checked("every = '1d'\nat = '02:30'").well();
    checked("at = '02:30'").well();
    checked("every = '1d'\nat = '2:30'").refused(2, &["archive.toml:4:", "`2:30` is no time of the day", "`02:30`"]);
    checked("every = '1h'\nat = '02:30'").refused(2, &["`at = \"02:30\"` is not within", "shorter than `every`"]);
    let shown =
        program.run(["--config", &program.configured("[source.a]\nevery = '1w'\nat = '04:05'\n"), "config", "show"]);
    assert!(shown.stdout.contains("at = \"04:05\""), "{}", shown.stdout);
}

#[test]
fn only_what_is_due_is_pulled() {
    let program = Program::new();
    let client = Tree::new([("a", file("a"))]);
    let text = format!(
        "[source.daily]\nevery = '1d'\npaths = ['{0}']\n[source.always]\npaths = ['{0}']\n",
        client.root().display()
    );
    let config = program.configured(&text);
    let due = || {
        program
            .run(["--json", "--config", &config, "pull", "--due"])
            .lines()
            .iter()
            .map(|line| line["source"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!((due(), due()), (vec!["always".into(), "daily".into()], vec!["always".to_owned()]));
    program.change_index("UPDATE run SET started = started - 86400000000000");
    assert_eq!(due(), ["always", "daily"]);
}

#[test]
fn shells_complete_the_names_of_sources() {
    let program = Program::new();
    let client = Tree::new([("f", file("f"))]);
    program.pull_local(&client.root(), &["--name", "pulled"]);
    let config = program
        .configured(&format!("repository = '{}'\n[source.configured]\npaths = ['/etc']\n", program.repo().display()));
    let completed = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_archive"));
        command.args(["--", "archive"]).args(words).env("COMPLETE", "fish").env("ARCHIVE_CONFIG", &config);
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completed(&["verify", ""])[..2], ["configured", "pulled"]);
    assert_eq!(completed(&["pull", "c"]), ["configured"]);
    assert_eq!(completed(&["cat", "p"]), ["pulled:"]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = program.run(["completions", shell]);
        ran.well();
        assert!(ran.stdout.contains("COMPLETE"), "{shell}: {}", ran.stdout);
    }
}

const SOURCE_MISTAKES: [(&str, &str); 9] = [
    ("host = 'h'\nremote = 'local'", "`local` is for this machine, not for a host: leave out `remote`:"),
    ("remote = 'helper'", "`helper` needs a host: leave out `remote`:"),
    ("keep = {}", "`keep` keeps nothing"),
    ("keep = { last = 0, daily = 0 }", "`keep` keeps nothing"),
    ("every = '0d'", "`every` is zero"),
    ("every = '2h'\nat = '02:30'", "`at = \"02:30\"` is not within an `every` of 2"),
    ("exclude_from = '/no/such'", "can't read the exclude patterns `/no/such`: No such file or directory: name"),
    ("host = 'h'\npaths = ['/a/../b']", "the path `/a/../b` has a `..` in it"),
    ("host = 'h'\npaths = ['..']", "the path `..` has a `..` in it"),
];

#[test]
fn mistake_in_one_source_names_it_and_stops_no_other() {
    let client = Tree::new([("f", file("f"))]);
    let root = client.root().display().to_string();
    for (keys, words) in SOURCE_MISTAKES {
        let program = Program::new();
        let paths = if keys.contains("paths") { "" } else { "paths = ['/x']\n" };
        let text = format!("[source.good]\npaths = ['{root}']\nkeep = {{ last = 1 }}\n\n[source.bad]\n{paths}{keys}\n");
        let path = program.configured(&text);
        let says = [format!("{path}:5:9: source `bad`: "), words.to_owned()];
        let says = says.each_ref().map(String::as_str);
        let run = |arguments: &[&str]| program.run([&["--config", &path], arguments].concat());
        run(&["config", "check"]).refused(2, &says);
        for targets in [&["--all"][..], &["--due"], &["bad", "good"], &["good", "bad"]] {
            let ran = run(&[&["pull"], targets].concat());
            assert!(ran.stdout.contains("good: ok"), "{keys} {targets:?}: {}{}", ran.stdout, ran.stderr);
            ran.refused(2, &says);
            run(&["forget", "--yes", "good:/"]).well();
        }
        run(&["pull", "bad"]).refused(2, &says);
        run(&["pull", "good"]).well();
        assert_eq!(run(&["status"]).status, 2);
    }
    let program = Program::new();
    let path = program.configured("[defaults]\nremote = 'local'\n[source.far]\nhost = 'h'\npaths = ['/x']\n");
    program.run(["--config", &path, "config", "check"]).refused(2, &["3:9: source `far`: `local` is for this machine"]);
    program.run(["pull", "--remote", "local", "h:/x"]).refused(2, &["source `h`: ", "leave out `--remote`"]);
    program.run(["pull", "h:/a/../b"]).refused(2, &["the path `/a/../b` has a `..` in it"]);
    program
        .run(["pull", "--exclude-from", "/no/such", "/x"])
        .refused(2, &["patterns `/no/such`: No such file or directory: "]);
}

#[test]
fn prune_without_rules_for_one_source_prunes_the_others() {
    let (program, client) = (Program::new(), Tree::new([("f", file("f"))]));
    let pull = |name: &str| program.pull_local(&client.root(), &["--name", name]);
    let path = program.configured("[defaults]\nkeep = { last = 1 }\n[source.bad]\npaths = ['/x']\nkeep = {}\n");
    let prune = |arguments: &[&str]| program.run([&["--config", &path, "prune"], arguments].concat());
    // There is a configuration, and no source in the repository yet.
    let ran = prune(&[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""));
    assert_eq!(ran.stderr, "archive: notice: the repository holds no source yet, so nothing was pruned\n");
    ["bad", "good"].iter().for_each(|name| drop(pull(name)));
    let ran = prune(&[]);
    assert!(ran.stdout.starts_with("good: dropped 0 versions"), "{}", ran.stdout);
    ran.refused(2, &[&format!("{path}:3:9: source `bad`: `keep` keeps nothing")]);
    prune(&["bad"]).refused(2, &["source `bad`: `keep` keeps nothing"]);
    prune(&["bad", "--keep-last", "1"]).well();
    let path = program.configured("[defaults]\nkeep = {}\n");
    program.run(["--config", &path, "config", "check"]).refused(2, &[&format!("{path}:1:"), "`keep` keeps nothing"]);
}

#[test]
fn source_that_is_named_twice_is_pulled_once() {
    let (program, client) = (Program::new(), Tree::new([("f", file("f"))]));
    let path = program.configured(&format!("[source.laptop]\npaths = ['{}']\n", client.root().display()));
    let ran = program.run(["--config", &path, "pull", "laptop", "laptop"]);
    ran.well();
    assert_eq!(ran.stdout.matches("laptop: ok").count(), 1);
    program.run(["pull"]).refused(2, &["nothing says what to pull", "`--all`"]);
}

#[test]
fn named_repository_is_read_whatever_the_configuration_says() {
    let (program, client) = (Program::new(), Tree::new([("f", file("f"))]));
    program.pull_local(&client.root(), &["--name", "client"]);
    let config = program.configured("[source.client\n");
    let target = format!("client:{}/f", client.root().display());
    for arguments in [&["cat", &target][..], &["ls", "client"], &["log"], &["verify"]] {
        program.run([&["--config", &config], arguments].concat()).well();
    }
    let status = program.run(["--config", &config, "status"]);
    assert!(status.status == 2 && status.stdout.contains("client"), "{} {}", status.status, status.stderr);
    program.run(["--config", &config, "pull", "client"]).refused(2, &["archive.toml"]);
}
