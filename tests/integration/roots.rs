//! What can be pulled: directories, files, several at once, and what must not be lost when one is missing.

use crate::support::*;
use std::fs;

#[test]
fn several_roots_make_one_source() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let (one, two) = (Tree::new([("a", file("a"))]), Tree::new([("b", file("b"))]));
    let targets = [&one, &two].map(|tree| format!("client:{}", tree.root().display()));
    program.pull(&sshd, &targets).well();
    assert_same(&one.root(), &program.snapshot("client", &one.root()));
    assert_same(&two.root(), &program.snapshot("client", &two.root()));
    two.remove("b");
    two.add([("c", file("c"))]);
    program.pull_well(&sshd, &one.root(), &[]);
    assert_eq!(names(&program.snapshot("client", &two.root())), ["b"], "a root that is not pulled stays as it is");
}

#[test]
fn a_file_can_be_a_root() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("conf", file("one")), ("other", file("two"))]);
    program.pull_well(&sshd, &client.path("conf"), &[]);
    assert_eq!(names(&program.snapshot("client", &client.root())), ["conf"]);
    client.put("conf", file("changed"));
    program.pull_well(&sshd, &client.path("conf"), &[]);
    assert_eq!(fs::read_to_string(program.snapshot("client", &client.path("conf"))).unwrap(), "changed");
    assert_eq!(program.archived("client", &client.root()).len(), 1);
}

#[test]
fn a_relative_root_starts_at_home() {
    let (sshd, program) = (Sshd::new(), Program::new());
    fs::create_dir_all(sshd.home().join("docs")).unwrap();
    fs::write(sshd.home().join("docs/letter"), "dear").unwrap();
    program.pull(&sshd, ["client:docs/"]).well();
    let snapshot = program.snapshot("client", &sshd.home().join("docs"));
    assert_eq!(fs::read_to_string(snapshot.join("letter")).unwrap(), "dear");
}

#[test]
fn a_root_that_is_a_symlink_is_followed_and_nothing_below_is() {
    let program = Program::new();
    let client = Tree::new([("real", dir([("f", file("f")), ("out", link("/etc"))])), ("root", link("real"))]);
    program.pull_local(&client.path("root"), &[]);
    let snapshot = program.snapshot("localhost", &client.path("root"));
    assert_eq!(names(&snapshot), ["f", "out"]);
    assert_eq!(fs::read_link(snapshot.join("out")).unwrap().to_str(), Some("/etc"));
}

#[test]
fn an_emptied_or_missing_root_changes_nothing() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("a", file("a")), ("d", dir([("b", file("b"))]))]);
    program.pull_well(&sshd, &client.root(), &[]);
    let target = format!("client:{}", client.root().display());
    let trees = || names(&program.snapshot("client", &client.root()));
    client.remove("a");
    client.remove("d");
    let emptied = program.pull(&sshd, [&target]);
    emptied.refused(4, &["is empty on the client", "mounted"]);
    assert_eq!((trees(), emptied.summary()["outcome"].clone()), (vec!["a".into(), "d".into()], "stopped".into()));
    fs::remove_dir(client.root()).unwrap();
    program.pull(&sshd, [&target]).refused(4, &["does not exist on the client", "nothing was changed"]);
    assert_eq!(trees(), ["a", "d"]);
    let missing = program.pull(&sshd, [&target, "--allow-missing"]);
    assert_eq!((missing.status, missing.summary()["removed"].clone()), (0, 4.into()), "{}", missing.stderr);
    assert_eq!(program.archived("client", &client.root()).len(), 2, "a's version, and d");
    assert!(!program.snapshot("client", &client.root()).exists());
    fs::create_dir(client.root()).unwrap();
    program.pull_well(&sshd, &client.root(), &[]);
    client.add([("c", file("c"))]);
    program.pull_well(&sshd, &client.root(), &[]);
    client.remove("c");
    program.pull(&sshd, [&target]).refused(4, &["--allow-missing"]);
    program.pull_well(&sshd, &client.root(), &["--allow-missing"]);
    assert!(trees().is_empty());
    program.assert_index_is_right();
    program.pull(&sshd, ["client:/no/such/place"]).refused(1, &["`/no/such/place` does not exist", "check the path"]);
}

#[test]
fn many_removals_at_once_stop_the_pull() {
    let program = Program::new();
    let client = Tree::new((0..150).map(|n| (format!("f{n}"), file(format!("{n}")))));
    program.pull_local(&client.root(), &[]);
    (0..100).for_each(|n| client.remove(format!("f{n}")));
    let path = client.root();
    // What is new does not make up for what is gone, and a dry run says the same.
    client.add((0..150).map(|n| (format!("g{n}"), file(format!("g{n}")))));
    for dry in [&["-n"][..], &[]] {
        let ran = program.run([&["pull", path.to_str().unwrap(), "-q"], dry].concat());
        ran.refused(4, &["100 of 150 files are gone", "--max-delete 100"]);
        // A dry run leaves nothing to accept.
        let first = "if the files are meant to be gone, run it, then `archive accept localhost`";
        assert_eq!(ran.stderr.contains(first), !dry.is_empty(), "{}", ran.stderr);
        assert_eq!(program.run(["accept", "localhost"]).status == 0, dry.is_empty());
        program.run(["pull", "-q", "-n", path.to_str().unwrap(), "--max-delete", "100"]).well();
    }
    let old = names(&program.snapshot("localhost", &path)).into_iter().filter(|name| name.starts_with('f'));
    assert_eq!(old.count(), 150);
    program.pull_local(&path, &["--max-delete", "100"]);
    assert_eq!(names(&program.snapshot("localhost", &path)).len(), 200);
    assert_eq!(program.archived("localhost", &path).len(), 100);
    program.assert_index_is_right();
}

#[test]
fn a_repository_does_not_back_itself_up() {
    let program = Program::new();
    fs::create_dir(program.path("home")).unwrap();
    fs::write(program.path("home/f"), "f").unwrap();
    let base = program.path("");
    let base = base.to_str().unwrap().trim_end_matches('/');
    program.pull_local(base.as_ref(), &[]);
    let ran = program.run(["pull", base]);
    assert!(ran.stderr.contains("is the repository itself"), "{}", ran.stderr);
    assert!(names(&program.snapshot("localhost", &program.repo())).is_empty());
}

#[test]
fn a_root_below_a_symlink_of_the_snapshot_is_refused() {
    let program = Program::new();
    let client = Tree::new([("real", dir([("f", file("f"))])), ("link", link("real"))]);
    program.pull_local(&client.root(), &[]);
    let below = client.path("link/f");
    program.run(["pull", "-q", below.to_str().unwrap()]).refused(1, &["can't hold", "where that leads to"]);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
}

#[test]
fn roots_of_different_depth_are_listed_and_restored_whole() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([
        ("home", dir([("anna", dir([("letter", file("dear"))])), ("bert", file("not pulled"))])),
        ("etc", dir([("conf", file("conf"))])),
        ("srv", dir([("one", dir([("list", file("a root that is a file"))]))])),
    ]);
    let [home, etc, list] = ["home/anna", "etc", "srv/one/list"].map(|name| client.path(name).display().to_string());
    let config = program.configured(&format!("[source.laptop]\npaths = ['{home}', '{etc}']\n"));
    program.run(["pull", "--config", &config, "laptop"]).well();
    program.run(["pull", "--name", "laptop", &list]).well();
    let base = client.root().display().to_string();
    let ls = |arguments: &[&str]| {
        let ran = program.run([&["ls"], arguments].concat());
        ran.well();
        ran.stdout.replace(&format!("{base}/"), "")
    };
    let all = "etc/\netc/conf\nhome/\nhome/anna/\nhome/anna/letter\nsrv/\nsrv/one/\nsrv/one/list\n";
    assert!(ls(&["-R", "laptop"]).ends_with(&format!("\n\n{all}")), "{}", ls(&["-R", "laptop"]));
    let above = format!("laptop:{base}");
    assert_eq!(ls(&[&above]), "etc/\nhome/\nsrv/\n");
    assert_eq!(ls(&[&above, "--at", "1"]), "etc/\nhome/\n", "what leads to nothing then is not shown");
    let json = program.run(["--json", "ls", "-R", &above]).lines();
    assert_eq!(json.len(), all.lines().count(), "{json:?}");
    let config = sshd.config();
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let [here, there] = ["here", "there"].map(|name| place.path().join(name));
    program.run(["restore", "laptop", here.to_str().unwrap()]).well();
    let host = format!("client:{}", there.display());
    program.run(["restore", "-F", config.to_str().unwrap(), "laptop", &host]).well();
    client.remove("home/bert");
    for place in [here, there] {
        let restored = place.join(client.root().strip_prefix("/").unwrap());
        assert_same(&client.root(), &restored);
        assert!(!place.join("home").exists());
    }
    let then = place.path().join("then");
    program.run(["restore", "laptop", then.to_str().unwrap(), "--at", "1"]).well();
    assert_eq!(names(&then.join(client.root().strip_prefix("/").unwrap())), ["etc", "home"]);
}

#[test]
fn what_is_above_the_roots_can_be_named() {
    let program = Program::new();
    let client = Tree::new([
        ("home", dir([("anna", dir([("letter", file("dear"))]))])),
        ("srv", dir([("list", file("a root that is a file"))])),
    ]);
    for name in ["home/anna", "srv/list"] {
        program.pull_local(&client.path(name), &["--name", "laptop"]);
    }
    let [home, srv] = ["home", "srv"].map(|name| format!("laptop:{}", client.path(name).display()));
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let to = place.path().to_str().unwrap();
    for what in [&home, &srv] {
        program.run(["restore", what, to]).well();
    }
    assert_same(&client.root(), place.path());
    program.run(["restore", &srv, to, "--at", "1"]).refused(1, &["had no"]);
    program.run(["ls", &srv, "--at", "1"]).refused(1, &["had no"]);
    let find = format!("archive find '{}/**'", client.path("home").display());
    program.run(["history", &home]).refused(1, &["never pulled itself", &find]);
    program.run(["cat", &home]).refused(1, &["never pulled itself"]);
    let found = program.run(["find", &format!("{}/**", client.path("home").display())]);
    assert_eq!(found.stdout.lines().count(), 2, "{}", found.stdout);
    fs::write(client.path("home/anna/new"), "new").unwrap();
    program.pull_local(&client.path("home/anna"), &["--name", "laptop"]);
    let told = program.run(["diff", &home]);
    assert!(told.stdout.contains(client.path("home/anna/new").to_str().unwrap()), "{}", told.stdout);
    program.run(["diff", "laptop:/no/such"]).refused(1, &["had no `/no/such`"]);
    program.run(["forget", "--yes", &srv]).well();
    program.run(["ls", &srv]).refused(1, &["had no"]);
    assert_eq!(program.run(["ls", "-R", "laptop"]).stdout.matches("/home/anna/").count(), 3);
    program.assert_index_is_right();
}

#[test]
fn what_led_to_a_root_goes_with_the_directory_that_is_pulled_above_it() {
    let program = Program::new();
    let client = Tree::new([("d", dir([("e", dir([("root", dir([("f", file("f"))]))]))])), ("g", file("g"))]);
    program.pull_local(&client.path("d/e/root"), &["--name", "laptop"]);
    client.remove("d");
    program.pull_local(&client.root(), &["--name", "laptop"]);
    assert_same(&client.root(), &program.snapshot("laptop", &client.root()));
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let what = format!("laptop:{}", client.root().display());
    program.run(["restore", &what, place.path().to_str().unwrap()]).well();
    assert_same(&client.root(), &place.path().join("data"));
    program.assert_index_is_right();
}

#[test]
fn a_directory_that_led_to_a_root_can_become_a_root_that_is_a_file() {
    let program = Program::new();
    let client = Tree::new([("d", dir([("root", dir([("f", file("f"))]))]))]);
    program.pull_local(&client.path("d/root"), &["--name", "laptop"]);
    client.put("d", file("a file"));
    program.pull_local(&client.path("d"), &["--name", "laptop"]);
    assert_same(&client.root(), &program.snapshot("laptop", &client.root()));
    let listed = program.run(["ls", "-R", &format!("laptop:{}", client.root().display())]);
    assert_eq!(listed.stdout.trim_end(), client.path("d").to_str().unwrap());
    let place = tempfile::tempdir_in("/tmp").unwrap();
    program.run(["restore", "laptop", place.path().to_str().unwrap(), "--at", "1"]).well();
    let then = place.path().join(client.path("d/root/f").strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(then).unwrap(), "f");
    program.assert_index_is_right();
}

/// Everything in the trees but directories: those of the archive are made before it is certain that something comes there.
fn everything(program: &Program) -> String {
    let script = "find snapshot archive ! -type d -printf '%p %y %i %T@ %s\\n' | sort";
    let output = std::process::Command::new("sh").args(["-c", script]).current_dir(program.repo()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn photos(count: u32) -> Tree {
    Tree::new([
        ("photos", dir((0..count).map(|n| (format!("p{n}"), file(format!("photo number {n}")))))),
        ("stays", file("stays")),
    ])
}

#[test]
fn stopped_pull_changes_nothing_until_a_person_accepts_it() {
    let program = Program::new();
    let client = photos(150);
    let path = client.root();
    program.pull_local(&path, &[]);
    (0..120).for_each(|n| client.remove(format!("photos/p{n}")));
    client.put("photos/new", file("new"));
    client.put("newdir", dir((0..20).map(|n| (format!("n{n}"), file(format!("new file number {n}"))))));
    client.put("stays", file("changed"));
    let before = everything(&program);
    let pull = || program.run(["pull", path.to_str().unwrap(), "-q"]);
    for _ in 0..3 {
        pull().refused(4, &["120 of 151 files are gone", "nothing was changed", "`archive accept localhost`"]);
        assert!(everything(&program) == before, "the trees have changed");
    }
    let accepted = program.run(["accept", "localhost"]);
    accepted.well();
    assert_eq!(accepted.stdout, "the next pull of localhost may remove 120 files\n");
    pull().well();
    assert_eq!(names(&program.snapshot("localhost", &path.join("photos"))).len(), 31);
    assert_eq!(names(&program.snapshot("localhost", &path.join("newdir"))).len(), 20);
    program.assert_index_is_right();
    program.run(["accept", "localhost"]).refused(1, &["no guard has stopped a pull of `localhost`"]);
    program.run(["accept", "nobody"]).refused(2, &["no source `nobody`"]);
}

#[test]
fn acceptance_covers_only_what_was_reported() {
    let program = Program::new();
    let client = photos(500);
    let path = client.root();
    program.pull_local(&path, &["--max-delete", "10"]);
    (0..120).for_each(|n| client.remove(format!("photos/p{n}")));
    let pull = || program.run(["pull", path.to_str().unwrap(), "-q", "--max-delete", "10"]);
    pull().refused(4, &["120 of 501"]);
    program.run(["accept", "localhost"]).well();
    client.remove("photos");
    pull().refused(4, &["380 of 381 files are gone on the client besides the 120 that were accepted"]);
    assert_eq!(names(&program.snapshot("localhost", &path.join("photos"))).len(), 500);
    let accepted = program.run(["accept", "localhost"]);
    assert_eq!(accepted.stdout, "the next pull of localhost may remove 500 files\n");
    pull().well();
    assert!(!program.snapshot("localhost", &path.join("photos")).exists());
}

#[test]
fn acceptance_is_for_these_files() {
    for batch in ["3", "1000"] {
        let program = Program::new();
        let many = || dir((0..150).map(|n| (format!("f{n}"), file(format!("file {n}")))));
        let client = Tree::new([("a", many()), ("b", many()), ("c", many())]);
        let path = client.root();
        let pull = |flags: &[&str]| {
            let given = [&["pull", path.to_str().unwrap(), "-q", "--max-delete", "10"], flags].concat();
            // A dry run forgets the removals that are too many for its memory.
            let batch = if flags.is_empty() { batch } else { "1000" };
            Ran::of(program.command(given).env("ARCHIVE_BATCH", batch).output().unwrap())
        };
        pull(&[]).well();
        let before = everything(&program);
        client.remove("a");
        pull(&[]).refused(4, &["150 of 450 files are gone"]);
        program.run(["accept", "localhost"]).well();
        // As many other files.
        client.put("a", many());
        client.remove("b");
        for dry in [&["-n"][..], &[]] {
            pull(dry).refused(4, &["150 of 450 files are gone"]);
            assert!(everything(&program) == before, "the trees have changed");
        }
        // Others besides the accepted ones, and too many.
        client.put("b", many());
        client.remove("a");
        client.remove("b");
        pull(&[]).refused(4, &["300 of 450 files are gone"]);
        program.run(["accept", "localhost"]).well();
        (0..120).for_each(|n| client.remove(format!("c/f{n}")));
        pull(&[]).refused(4, &["120 of 150 files are gone on the client besides the 300 that were accepted"]);
        (0..40).for_each(|n| client.put(format!("c/f{n}"), file(format!("file {n}"))));
        // Fewer of them.
        client.put("a", dir((0..50).map(|n| (format!("f{n}"), file(format!("file {n}"))))));
        program.run(["accept", "localhost"]).well();
        pull(&["-n"]).well();
        pull(&[]).well();
        let kept = ["a", "c"].map(|name| names(&program.snapshot("localhost", &path.join(name))).len());
        assert_eq!((kept, program.snapshot("localhost", &path.join("b")).exists()), ([50, 70], false));
        program.run(["accept", "localhost"]).refused(1, &["no guard has stopped a pull"]);
        program.assert_index_is_right();
    }
}

#[test]
fn files_that_moved_are_not_accepted_as_removed() {
    let program = Program::new();
    let client = photos(400);
    let path = client.root();
    let pull = || program.run(["pull", path.to_str().unwrap(), "-q", "--max-delete", "10"]);
    pull().well();
    // Some were moved: these were not accepted, and count when they are gone from there as well.
    client.put("new", dir((0..200).map(|n| (format!("p{n}"), file(format!("photo number {n}"))))));
    (0..350).for_each(|n| client.remove(format!("photos/p{n}")));
    pull().refused(4, &["150 of 401 files are gone"]);
    program.run(["accept", "localhost"]).well();
    client.remove("new");
    pull().refused(4, &["200 of 251 files are gone on the client besides the 150 that were accepted"]);
    client.put("new", dir((0..200).map(|n| (format!("p{n}"), file(format!("photo number {n}"))))));
    program.run(["accept", "localhost"]).well();
    pull().well();
    let kept = ["photos", "new"].map(|name| names(&program.snapshot("localhost", &path.join(name))).len());
    assert_eq!(kept, [50, 200]);
    program.assert_index_is_right();
}

#[test]
fn stop_remains_until_a_pull_of_what_was_stopped() {
    let program = Program::new();
    let many = || dir((0..150).map(|n| (format!("f{n}"), file("a"))));
    let client = Tree::new([("a", many()), ("b", many()), ("c", dir([("f", file("c"))]))]);
    let pull = |name: &str| program.run(["pull", "-q", "--name", "x", client.path(name).to_str().unwrap()]);
    ["a", "b", "c"].iter().for_each(|name| pull(name).well());
    (0..120).for_each(|n| client.remove(format!("a/f{n}")));
    pull("a").refused(4, &["120 of 150 files are gone"]);
    pull("c").well();
    program.run(["accept", "x"]).well();
    // It was not accepted for others.
    (0..110).for_each(|n| client.remove(format!("b/f{n}")));
    pull("c").well();
    pull("b").refused(4, &["110 of 150 files are gone"]);
    program.run(["accept", "x"]).well();
    pull("a").well();
    pull("b").well();
    program.run(["accept", "x"]).refused(1, &["no guard has stopped a pull of `x`"]);
    client.remove("c");
    pull("c").refused(4, &["does not exist on the client"]);
    pull("a").well();
    program.run(["accept", "x"]).well();
    pull("b").well();
    pull("c").well();
    assert!(!program.snapshot("x", &client.path("c")).exists());
    program.assert_index_is_right();
}

#[test]
fn missing_roots_are_accepted_together() {
    let program = Program::new();
    let client = Tree::new([
        ("a", dir((0..150).map(|n| (format!("f{n}"), file("a"))))),
        ("b", dir([("f", file("b"))])),
        ("c", dir([("f", file("c"))])),
    ]);
    let roots = ["a", "b", "c"].map(|name| client.path(name).to_str().unwrap().to_owned());
    let pull = || {
        program.run([&["pull".to_owned(), "-q".to_owned(), "--name".to_owned(), "x".to_owned()], &roots[..]].concat())
    };
    pull().well();
    client.remove("a");
    client.remove("b/f");
    let before = everything(&program);
    let (a, b) = (format!("`{}`", client.path("a").display()), format!("`{}`", client.path("b").display()));
    pull().refused(4, &["`archive accept x`", "is it mounted there?", &a, &b]);
    assert!(everything(&program) == before, "the trees have changed");
    let accepted = program.run(["accept", "x"]);
    accepted.well();
    assert_eq!(accepted.stdout, format!("the next pull of x may remove 151 files, with all of {a}, {b}\n"));
    pull().well();
    assert!(!program.snapshot("x", &client.path("a")).exists());
    assert!(names(&program.snapshot("x", &client.path("b"))).is_empty());
    // It was for one pull.
    client.put("a", dir([("f", file("a"))]));
    client.remove("c/f");
    pull().refused(4, &["`archive accept x`"]);
}

#[test]
fn moved_files_do_not_count_as_removed() {
    for how in [
        "mv photos pictures",
        "cp -r photos pictures; rm -r photos",
        "mkdir new; for f in photos/*; do mv $f new/m${f#photos/}; done",
    ] {
        let program = Program::new();
        let client = photos(150);
        let path = client.root();
        program.pull_local(&path, &[]);
        let done = std::process::Command::new("sh").args(["-c", how]).current_dir(&path).status().unwrap();
        assert!(done.success());
        for dry in [&["-n"][..], &[]] {
            program.run([&["pull", path.to_str().unwrap(), "-q"], dry].concat()).well();
        }
        program.assert_index_is_right();
    }
}

#[test]
fn guard_decides_before_too_many_changes_wait() {
    // Batches of three: changes can't be held back until the listing ends, and are counted ahead.
    let program = Program::new();
    let client = photos(300);
    let path = client.root();
    let pull =
        || Ran::of(program.command(["pull", path.to_str().unwrap(), "-q"]).env("ARCHIVE_BATCH", "3").output().unwrap());
    pull().well();
    client.put("a", dir((0..50).map(|n| (format!("n{n}"), file(format!("new file number {n}"))))));
    (0..200).for_each(|n| client.remove(format!("photos/p{n}")));
    let before = everything(&program);
    pull().refused(4, &["200 of 301"]);
    assert!(everything(&program) == before, "the trees have changed");
    (0..100).for_each(|n| client.put(format!("photos/p{n}"), file(format!("photo number {n}"))));
    pull().well();
    assert_eq!(names(&program.snapshot("localhost", &path.join("photos"))).len(), 200);
    assert_eq!(names(&program.snapshot("localhost", &path.join("a"))).len(), 50);
    program.assert_index_is_right();
}

#[test]
fn guard_decides_over_another_connection_where_sessions_are_few() {
    // The listing and the reading of new files use both sessions of the connection.
    let (sshd, program) = (Sshd::with("MaxSessions 2"), Program::new());
    let client = photos(300);
    let path = client.root();
    program.pull_local(&path, &["--name", "client"]);
    client.put("a", dir((0..50_usize).map(|n| (format!("n{n}"), file("x".repeat(1000 + n))))));
    let target = format!("client:{}", path.display());
    let pull = |flags: &[&str]| {
        let config = sshd.config();
        let given = ["pull", "-q", "-F", config.to_str().unwrap(), "--retries", "0", &target];
        Ran::of(program.command([&given[..], flags].concat()).env("ARCHIVE_BATCH", "3").output().unwrap())
    };
    (0..200).for_each(|n| client.remove(format!("photos/p{n}")));
    pull(&[]).refused(4, &["200 of 301"]);
    (50..200).for_each(|n| client.put(format!("photos/p{n}"), file(format!("photo number {n}"))));
    pull(&[]).well();
    assert_eq!(names(&program.snapshot("client", &path.join("a"))).len(), 50);
    program.assert_index_is_right();
}

#[test]
fn unmounted_file_system_below_a_root_stops_the_pull() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let program = Program::new();
    let client = Tree::new([("a", dir([("f", file("f"))])), ("z", dir([("g", file("g"))])), ("m", dir::<&str>([]))]);
    let path = client.root();
    let pull = |flags: &[&str]| program.run([&["pull", path.to_str().unwrap(), "-q"], flags].concat());
    let mounted = || {
        let mount = Mount::disk(&client.path("m"));
        fs::write(client.path("m/one"), "on the disk").unwrap();
        mount
    };
    let disk = mounted();
    pull(&[]).well();
    drop(disk);
    client.put("a/new", file("new"));
    client.put("z/new", file("new"));
    let before = everything(&program);
    for flags in [&[][..], &["-n"], &["--max-delete", "100"]] {
        pull(flags).refused(4, &["m` was a mount point and is empty now", "`archive accept localhost`"]);
        assert!(everything(&program) == before, "the trees have changed");
    }
    let disk = mounted();
    pull(&[]).well();
    assert!(program.snapshot("localhost", &client.path("a/new")).exists());
    drop(disk);
    pull(&[]).refused(4, &["was a mount point"]);
    program.run(["accept", "localhost"]).well();
    pull(&[]).well();
    assert!(!program.snapshot("localhost", &client.path("m/one")).exists());
    // A directory that was accepted as one is none of a disk any more.
    client.put("m/two", file("two"));
    pull(&[]).well();
    client.remove("m/two");
    pull(&[]).well();
    program.assert_index_is_right();
}

#[test]
fn mount_point_that_vanishes_with_its_directory_stops_the_pull() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    for batch in ["1", "1000"] {
        let program = Program::new();
        let client =
            Tree::new([("a", dir([("f", file("f"))])), ("media", dir([("u", dir([("disk", dir::<&str>([]))]))]))]);
        let path = client.root();
        let pull = |flags: &[&str]| {
            let arguments = [&["pull", path.to_str().unwrap(), "-q"], flags].concat();
            Ran::of(program.command(arguments).env("ARCHIVE_BATCH", batch).output().unwrap())
        };
        let disk = Mount::disk(&client.path("media/u/disk"));
        fs::write(client.path("media/u/disk/one"), "on the disk").unwrap();
        pull(&[]).well();
        drop(disk);
        client.remove("media/u");
        client.put("a/new", file("new"));
        let before = everything(&program);
        for flags in [&["-n"][..], &["--max-delete", "100"], &[]] {
            pull(flags)
                .refused(4, &["media/u/disk` was a mount point and does not exist on the client", "--allow-missing"]);
            assert!(everything(&program) == before, "the trees have changed");
        }
        let accepted = program.run(["accept", "localhost"]);
        let says = format!("may remove 1 file, with all of `{}/media/u/disk`\n", path.display());
        assert!(accepted.stdout.ends_with(&says), "{}", accepted.stdout);
        pull(&[]).well();
        assert_same(&path, &program.snapshot("localhost", &path));
        client.remove("media");
        pull(&[]).well();
        program.assert_index_is_right();
    }
}

#[test]
fn nested_mount_points_are_accepted_together() {
    if !is_root() {
        return eprintln!("needs root, for it mounts file systems");
    }
    let (program, client) = (Program::new(), Tree::new([("f", file("f")), ("m", dir::<&str>([]))]));
    let path = client.root();
    let pull = || program.run(["pull", path.to_str().unwrap(), "-q"]);
    let outer = Mount::disk(&client.path("m"));
    client.put("m/inner", dir::<&str>([]));
    let inner = Mount::disk(&client.path("m/inner"));
    fs::write(client.path("m/inner/one"), "on the inner disk").unwrap();
    pull().well();
    drop(inner);
    drop(outer);
    pull().refused(4, &["m` was a mount point and is empty now"]);
    program.run(["accept", "localhost"]).well();
    pull().well();
    assert_same(&path, &program.snapshot("localhost", &path));
    program.assert_index_is_right();
}

#[test]
fn disk_that_is_mounted_elsewhere_stops_no_pull() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client) = (Program::new(), Tree::new([("f", file("f")), ("media", dir::<&str>([]))]));
    let path = client.root();
    let (image, before, after) =
        (program.repo().with_extension("image"), client.path("media/A"), client.path("media/B"));
    let disk = Disk::ext4(&image, &before, 8 << 20);
    (0..150).for_each(|n| fs::write(before.join(format!("f{n}")), format!("file {n}")).unwrap());
    program.pull_local(&path, &[]);
    fs::create_dir(&after).unwrap();
    let disk = disk.again_at(&after);
    fs::remove_dir(&before).unwrap();
    for dry in [&["-n"][..], &[]] {
        program.run([&["pull", path.to_str().unwrap(), "-q"], dry].concat()).well();
    }
    assert_eq!(names(&program.snapshot("localhost", &client.path("media"))), ["B"]);
    // It is guarded at its new path.
    drop(disk);
    program.run(["pull", path.to_str().unwrap(), "-q"]).refused(4, &["media/B` was a mount point and is empty now"]);
    program.assert_index_is_right();
}

#[test]
fn stale_copy_below_an_unmounted_file_system_does_not_hide_that() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    for batch in ["1", "1000"] {
        // A directory of the disk's name is on the file system above, too, with most of its files.
        let hidden = dir([("data", dir([("one", file("old")), ("two", file("old")), ("new", file("new"))]))]);
        let (program, client) = (Program::new(), Tree::new([("f", file("f")), ("m", hidden)]));
        let path = client.root();
        let pull = |flags: &[&str]| {
            let arguments = [&["pull", path.to_str().unwrap(), "-q"], flags].concat();
            Ran::of(program.command(arguments).env("ARCHIVE_BATCH", batch).output().unwrap())
        };
        let disk = Mount::disk(&client.path("m"));
        client.put("m/data", dir(["one", "two", "three"].map(|name| (name, file(name)))));
        pull(&[]).well();
        drop(disk);
        let before = everything(&program);
        for flags in [&["-n"][..], &["--max-delete", "100"], &["--checksum"], &[]] {
            pull(flags).refused(
                4,
                &["m` was a mount point; nothing is mounted there and files below it are gone", "is it mounted there?"],
            );
            assert!(everything(&program) == before, "the trees have changed");
        }
        let accepted = program.run(["accept", "localhost"]);
        assert!(accepted.stdout.contains("may remove 1 file, with all of `"), "{}", accepted.stdout);
        pull(&[]).well();
        assert_same(&path, &program.snapshot("localhost", &path));
        program.assert_index_is_right();
    }
}

#[test]
fn excluded_mount_point_is_removed() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client) = (Program::new(), Tree::new([("f", file("f")), ("d", dir([("m", dir::<&str>([]))]))]));
    let _disk = Mount::disk(&client.path("d/m"));
    fs::write(client.path("d/m/one"), "one").unwrap();
    program.pull_local(&client.root(), &[]);
    program.pull_local(&client.root(), &["--exclude", "d/"]);
    assert_eq!(names(&program.snapshot("localhost", &client.root())), ["f"]);
}

#[test]
fn file_below_an_unmounted_file_system_does_not_hide_that() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    for batch in ["1", "1000"] {
        let program = Program::new();
        let client = Tree::new([("a", dir([("f", file("f"))])), ("m", dir([(".not-mounted", file("hidden"))]))]);
        let path = client.root();
        let pull = |flags: &[&str]| {
            let arguments = [&["pull", path.to_str().unwrap(), "-q"], flags].concat();
            Ran::of(program.command(arguments).env("ARCHIVE_BATCH", batch).output().unwrap())
        };
        let disk = Mount::disk(&client.path("m"));
        ["one", "two"].iter().for_each(|name| fs::write(client.path("m").join(name), name).unwrap());
        pull(&[]).well();
        drop(disk);
        client.put("a/new", file("new"));
        let before = everything(&program);
        for flags in [&["-n"][..], &["--max-delete", "100"], &["--checksum"], &[]] {
            pull(flags).refused(
                4,
                &["m` was a mount point; nothing is mounted there and files below it are gone", "is it mounted there?"],
            );
            assert!(everything(&program) == before, "the trees have changed");
        }
        // The names that were on the disk are in the directory now.
        ["one", "two"].iter().for_each(|name| client.put(format!("m/{name}"), file(format!("{name} is here now"))));
        pull(&[]).well();
        assert_same(&path, &program.snapshot("localhost", &path));
        ["m/one", "m/two"].iter().for_each(|name| client.remove(name));
        pull(&[]).well();
        program.assert_index_is_right();
    }
}

#[test]
fn file_systems_that_come_and_go_stop_no_pull() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client) = (Program::new(), Tree::new([("f", file("f")), ("user", dir([("1000", dir::<&str>([]))]))]));
    let session = Mount::tmpfs(&client.path("user/1000"), "size=1m");
    fs::write(client.path("user/1000/socket"), "of a session").unwrap();
    program.pull_local(&client.root(), &[]);
    // An earlier version took it for one that lasts.
    let remember = "INSERT INTO mount SELECT id FROM directory WHERE CAST(path AS TEXT) LIKE '%/user/1000'";
    assert_eq!(program.index().execute(remember, []).unwrap(), 1);
    fs::remove_file(client.path("user/1000/socket")).unwrap();
    program.pull_local(&client.root(), &[]);
    drop(session);
    client.remove("user/1000");
    program.pull_local(&client.root(), &[]);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
}

#[test]
fn root_that_is_no_mount_point_any_more_stops_the_pull() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client) = (Program::new(), Tree::new([("disk", dir([(".not-mounted", file("hidden"))]))]));
    let path = client.path("disk");
    let pull = || program.run(["pull", path.to_str().unwrap(), "-q", "--max-delete", "100"]);
    let disk = Mount::disk(&path);
    ["one", "two"].iter().for_each(|name| fs::write(path.join(name), name).unwrap());
    pull().well();
    drop(disk);
    let before = everything(&program);
    pull().refused(4, &["disk` was a mount point; nothing is mounted there and files below it are gone"]);
    // Nor does an empty disk in the place of the other one pass.
    let blank = Mount::disk(&path);
    pull().refused(4, &["disk` is empty on the client"]);
    drop(blank);
    assert!(everything(&program) == before, "the trees have changed");
    program.run(["accept", "localhost"]).well();
    pull().well();
    assert_same(&path, &program.snapshot("localhost", &path));
}

#[test]
fn one_look_alike_does_not_stand_for_many_removed_files() {
    let program = Program::new();
    let client = photos(150);
    let path = client.root();
    client.add([(
        "same",
        dir((0..150).map(|n| (format!("d{n}"), dir([("README", at(1_000_000_000 + n, 0, file(format!("{n:06}"))))])))),
    )]);
    program.pull_local(&path, &["--max-delete", "10"]);
    client.remove("same");
    client.put("new", dir([("README", file("look!!"))]));
    program
        .run(["pull", "-q", "--max-delete", "10", path.to_str().unwrap()])
        .refused(4, &["149 of 301 files are gone"]);
}

#[test]
fn acceptances_add_up_until_the_pull_goes_through() {
    if !is_root() {
        return eprintln!("needs root, for it mounts file systems");
    }
    let program = Program::new();
    let client = photos(300);
    client.add([("m1", dir::<&str>([])), ("m2", dir::<&str>([]))]);
    let path = client.root();
    let mounts = ["m1", "m2"].map(|name| {
        let mount = Mount::disk(&client.path(name));
        (0..80).for_each(|n| fs::write(client.path(format!("{name}/f{n}")), format!("{name} {n}")).unwrap());
        mount
    });
    let pull = || program.run(["pull", path.to_str().unwrap(), "-q", "--max-delete", "10"]);
    pull().well();
    drop(mounts);
    (0..200).for_each(|n| client.remove(format!("photos/p{n}")));
    let mut stops = 0;
    while pull().status == 4 {
        stops += 1;
        assert!(stops <= 3, "acceptance does not suffice");
        program.run(["accept", "localhost"]).well();
    }
    assert_eq!(names(&program.snapshot("localhost", &path.join("photos"))).len(), 100);
    program.assert_index_is_right();
}

#[test]
fn root_below_a_listed_directory_is_missed_when_it_is_gone() {
    let program = Program::new();
    let client = Tree::new([("top", dir([("mid", dir([("f", file("f"))]))]))]);
    let pull = |path: &str| program.pull_local(&client.path(path), &["--name", "laptop"]);
    pull("top");
    client.add([("top/mid/new", dir([("deep", dir([("g", file("g"))]))]))]);
    pull("top/mid/new/deep");
    // Nothing has told that `mid` holds `new`.
    client.remove("top/mid/new");
    pull("top");
    program.assert_index_is_right();
    assert_same(&client.path("top"), &program.snapshot("laptop", &client.path("top")));
    let listed = program.run(["ls", "-R", "laptop"]);
    assert!(!listed.stdout.contains("deep"), "{}", listed.stdout);
}

#[test]
fn root_that_the_account_may_not_read_has_advice_of_its_own() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if !is_root() {
        return eprintln!("needs root, for it becomes another user");
    }
    let program = Program::without_repository();
    let client = Tree::new([("d", dir([("root", dir([("f", file("f"))]))]))]);
    let mode = |path: &std::path::Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    [program.path("").as_path(), &client.root()].iter().for_each(|path| mode(path, 0o777));
    let binary = program.path("archive-binary");
    fs::copy(env!("CARGO_BIN_EXE_archive"), &binary).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&binary);
        command.arg("--repo").arg(program.repo()).args(arguments).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("HOME", program.path("")).env("TMPDIR", program.path("")).uid(65534).gid(65534).current_dir("/");
        Ran::of(command.output().unwrap())
    };
    let root = client.path("d/root");
    let pull = ["pull", "-q", "--name", "laptop", root.to_str().unwrap()];
    run(&["init"]).well();
    mode(&client.path("d"), 0o700);
    let says = ["can't be read on the client: Permission denied: ", "let the account read it"];
    run(&pull).refused(1, &says);
    mode(&client.path("d"), 0o755);
    run(&pull).well();
    mode(&client.path("d"), 0o700);
    let ran = run(&pull);
    ran.refused(4, &says);
    assert!(!ran.stderr.contains("accept") && !ran.stderr.contains("--allow-missing"), "{}", ran.stderr);
    run(&["accept", "laptop"]).refused(1, &["no guard has stopped a pull"]);
}

#[test]
fn stopped_pull_counts_nothing_that_was_not_done() {
    let program = Program::new();
    let client = Tree::new((0..150).map(|n| (format!("f{n}"), file(format!("{n}")))));
    program.pull_local(&client.root(), &[]);
    (0..149).for_each(|n| client.remove(format!("f{n}")));
    client.add([("new", file("new"))]);
    let ran = program.run(["pull", client.root().to_str().unwrap()]);
    assert_eq!((ran.status, ran.stdout.lines().count()), (4, 1), "{}", ran.stdout);
    let log = program.run(["log"]).stdout;
    let line = log.lines().next().unwrap();
    assert!(line.contains("stopped") && !line.contains(" new") && !line.contains("touched"), "{line}");
    let ran = program.run(["pull", "-n", client.root().to_str().unwrap()]);
    assert_eq!(ran.status, 4);
    assert!(ran.stdout.contains("1 new"), "a dry run lists what would be done: {}", ran.stdout);
}

#[test]
fn root_that_is_something_else_now_stops_the_pull_until_it_is_accepted() {
    let was_dir = || dir([("f", file("f")), ("g", file("g"))]);
    for (before, after, what) in [
        (was_dir(), file("a file"), "was a directory, and is none any more"),
        (was_dir(), fifo(), "was a directory, and is none any more"),
        (was_dir(), dir::<&str>([]), "is empty on the client"),
        (file("a file"), dir::<&str>([]), "was a file, and is an empty directory now"),
    ] {
        let (program, client) = (Program::new(), Tree::new([("root", before)]));
        let root = client.path("root");
        program.pull_local(&root, &["--name", "client"]);
        client.put("root", after);
        let state = || names(&program.snapshot("client", &client.root()));
        let held = state();
        let pull = ["pull", "-q", "--name", "client", root.to_str().unwrap()];
        for _ in 0..2 {
            let ran = program.run(pull);
            assert_eq!(ran.status, 4, "{what}: {}", ran.stderr);
            assert!(ran.stderr.contains(what), "{}", ran.stderr);
        }
        assert_eq!(state(), held);
        program.run(["accept", "client"]).well();
        program.run(pull).well();
        program.assert_index_is_right();
    }
}

#[test]
fn root_that_is_a_file_may_become_a_full_directory() {
    let (program, client) = (Program::new(), Tree::new([("root", file("a file"))]));
    program.pull_local(&client.path("root"), &[]);
    client.put("root", dir([("f", file("f"))]));
    program.pull_local(&client.path("root"), &[]);
    program.assert_index_is_right();
}

#[test]
fn root_below_a_directory_that_was_listed_without_it_is_no_damage() {
    let (program, client) = (Program::new(), Tree::new([("a", dir([("f", file("f"))]))]));
    let pull = |path: &str| program.pull_local(&client.path(path), &["--name", "client"]);
    pull("a");
    client.add([("a/b", dir([("c", dir([("f", file("f"))]))]))]);
    pull("a/b/c");
    program.run(["index", "check"]).well();
    assert_eq!(checker::check(&program.repo()), [""; 0]);
    pull("a");
    program.assert_index_is_right();
    client.remove("a/b");
    pull("a");
    program.assert_index_is_right();
    assert_eq!(names(&program.snapshot("client", &client.path("a"))), ["f"]);
}
