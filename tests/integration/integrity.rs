//! Bytes are never lost, mixed up or believed without proof: each case was once a fault.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::support::*;

/// Makes the runs of a repository lie days apart, the first one the longest ago.
fn spread_runs(program: &Program, days_apart: i64) {
    let day = 86_400_000_000_000_i64 * days_apart;
    let sql = format!("UPDATE run SET started = started - {day} * ((SELECT max(id) FROM run) - id)");
    program.change_index(&sql);
}

fn cat(program: &Program, path: &Path, run: i64) -> String {
    let ran = program.run(["cat", &format!("localhost:{}", path.display()), "--at", &run.to_string()]);
    ran.well();
    ran.stdout
}

/// What changes nothing but metadata of `f`.
const METADATA_ONLY: [&[&str]; 4] = [
    &["chmod", "600", "f"],
    &["chown", "7:7", "f"],
    &["setfattr", "-n", "user.note", "-v", "1", "f"],
    &["ln", "f", "g"],
];

#[test]
fn prune_keeps_content_that_kept_version_shares_with_its_successor() {
    for change in METADATA_ONLY.iter().filter(|change| is_root() || change[0] != "chown") {
        let program = Program::new();
        let client = Tree::new([("f", at(1_000_000_000, 0, file("precious")))]);
        program.pull_local(&client.root(), &[]);
        assert!(Command::new(change[0]).args(&change[1..]).current_dir(client.root()).status().unwrap().success());
        program.pull_local(&client.root(), &[]);
        client.remove("g");
        client.put("f", file("something else"));
        program.pull_local(&client.root(), &[]);
        spread_runs(&program, 2);
        // Runs 2 and 3 are of other days than run 1, and one of them is to go.
        program.change_index("UPDATE run SET started = (SELECT started FROM run WHERE id = 3) - 1 WHERE id = 2");
        program.run(["prune", "--keep-daily", "14"]).well();
        assert_eq!(cat(&program, &client.path("f"), 1), "precious", "{change:?}");
        program.assert_index_is_right();
        program.run(["verify"]).well();
    }
}

#[test]
fn every_kept_night_gives_back_its_documents() {
    let program = Program::new();
    let documents: Vec<String> = (0..20).map(|n| format!("d{n}")).collect();
    let client = Tree::new(documents.iter().map(|name| (name, mode(0o644, file(format!("content of {name}"))))));
    client.add([("stays", file("stays"))]);
    for night in 1..=12 {
        match night {
            6 => documents.iter().for_each(|name| {
                fs::set_permissions(client.path(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap()
            }),
            7 => documents.iter().for_each(|name| client.remove(name)),
            _ => {}
        }
        program.pull_local(&client.root(), &[]);
    }
    spread_runs(&program, 5);
    program.run(["prune", "--keep-daily", "3", "--keep-weekly", "3", "--keep-monthly", "3"]).well();
    let mut kept = 0;
    for run in program.run(["--json", "log", "localhost"]).lines() {
        let run = run["run"].as_i64().unwrap();
        if run < 7 {
            kept += 1;
            for name in &documents {
                assert_eq!(cat(&program, &client.path(name), run), format!("content of {name}"), "run {run}");
            }
        }
    }
    assert!(kept > 0, "no run before the deletion was kept");
    program.assert_index_is_right();
}

#[test]
fn directories_of_similar_names_never_share_one_in_the_archive() {
    let program = Program::new();
    let photo = |text: &str| dir([("p.jpg", at(1_000_000_000, 0, file(text)))]);
    let client = Tree::new([
        ("top", dir([("photos", photo("one")), ("photos~", photo("two"))])),
        ("x.20010909T014640Z", photo("three")),
        ("x.20010909T014640Z~", photo("four")),
        ("x", at(1_000_000_000, 0, file("five"))),
        ("stays", file("stays")),
    ]);
    // Those with a mark first, so that they are there when the others are archived.
    program.pull_local(&client.root(), &[]);
    client.remove("x");
    client.remove("top/photos~");
    client.remove("x.20010909T014640Z~");
    program.pull_local(&client.root(), &["--max-delete", "100"]);
    client.remove("top");
    client.remove("x.20010909T014640Z");
    program.pull_local(&client.root(), &["--max-delete", "100"]);
    for (path, text) in [
        ("top/photos/p.jpg", "one"),
        ("top/photos~/p.jpg", "two"),
        ("x.20010909T014640Z/p.jpg", "three"),
        ("x.20010909T014640Z~/p.jpg", "four"),
        ("x", "five"),
    ] {
        assert_eq!(cat(&program, &client.path(path), 1), text, "{path}");
    }
    program.assert_index_is_right();
    program.run(["prune", "--keep-last", "2"]).well();
    assert_eq!(cat(&program, &client.path("top/photos/p.jpg"), 2), "one");
    program.assert_index_is_right();
    program.run(["verify"]).well();
}

#[test]
fn new_file_is_not_linked_to_what_replaced_its_content() {
    let text = |what: &str, n: u32| format!("{n} is {what}");
    let many = |what: &'static str| (0..4).map(move |n| (format!("f{n}"), file(text(what, n))));
    let (one, two) = (Tree::new([("stays", file("stays"))]), Tree::new(many("old")));
    let template = Program::new();
    // One had the same once, so that nobody asks whether it may have it.
    one.add(many("old"));
    template.pull_local(&one.root(), &["--name", "one"]);
    (0..4).for_each(|n| one.remove(format!("f{n}")));
    template.pull_local(&one.root(), &["--name", "one"]);
    template.pull_local(&two.root(), &["--name", "two", "--link", "never"]);
    // One gets what two had, while two gets something else of the same size.
    two.add(many("new"));
    one.add(many("old"));
    let mut linked = 0;
    for step in 1.. {
        let program = Program::new();
        assert!(
            Command::new("cp").args(["-a", "-T"]).arg(template.repo()).arg(program.repo()).status().unwrap().success()
        );
        let mut command = program.command(["pull", "-q", "--name", "two", two.root().to_str().unwrap()]);
        let mut stopped = command.env("ARCHIVE_FAULT", format!("stop:{step}")).spawn().unwrap();
        let has_ended = crate::crash::wait_for_stop(&mut stopped);
        // Two is amid its batch: somewhere between the trees and the index.
        let mut command = program.command(["pull", "-q", "--name", "one", one.root().to_str().unwrap()]);
        let mut pull = command.spawn().unwrap();
        // Where two holds the index, one waits.
        let is_done = (0..150).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            pull.try_wait().unwrap().is_some()
        });
        pull.kill().unwrap();
        pull.wait().unwrap();
        stopped.kill().unwrap();
        stopped.wait().unwrap();
        linked += u32::from(is_done);
        for n in 0..4 {
            let path = program.snapshot("one", &one.path(format!("f{n}")));
            assert!(!is_done || fs::read_to_string(&path).unwrap() == text("old", n), "f{n} at step {step}");
        }
        if has_ended {
            assert!(step > 10 && linked > 5, "{linked} of {step} pulls were through");
            return;
        }
    }
}

#[test]
fn corrupt_file_is_not_linked_to_new_path() {
    let program = Program::new();
    let client = Tree::new([("f", file("precious bytes"))]);
    program.pull_local(&client.root(), &[]);
    let place = program.snapshot("localhost", &client.path("f"));
    let time = filetime::FileTime::from_last_modification_time(&fs::metadata(&place).unwrap());
    fs::write(&place, "PRECIOUS bytes").unwrap();
    filetime::set_file_mtime(&place, time).unwrap();
    client.add([("copy", file("precious bytes"))]);
    let ran = program.run(["--json", "pull", client.root().to_str().unwrap()]);
    ran.well();
    assert!(ran.stderr.contains("is corrupt and was not linked to"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(program.snapshot("localhost", &client.path("copy"))).unwrap(), "precious bytes");
    program.run(["verify", "--repair"]);
    program.run(["verify"]).well();
}

#[test]
fn decayed_file_is_read_before_it_is_linked_to_once_it_is_old_enough() {
    for (age, copied) in [("1s", 1), ("30d", 0)] {
        let program = Program::new();
        let client = Tree::new([("f", file("precious bytes"))]);
        let source = format!("[source.localhost]\npaths = ['{}']\nverify_age = '{age}'\n", client.root().display());
        let config = program.configured(&source);
        let pull = || program.run(["--config", &config, "--json", "pull", "localhost"]);
        pull().well();
        // As if the disk had changed a bit: no time tells.
        let place = program.snapshot("localhost", &client.path("f"));
        let before = fs::metadata(&place).unwrap();
        fs::write(&place, "precious bits!").unwrap();
        let time = filetime::FileTime::from_last_modification_time(&before);
        filetime::set_file_mtime(&place, time).unwrap();
        let now = fs::metadata(&place).unwrap();
        program.change_index(&format!(
            "UPDATE inode SET ctime = {}, read = read - 3000000000 WHERE number = {}",
            now.ctime() * 1_000_000_000 + now.ctime_nsec(),
            now.ino()
        ));
        client.add([("copy", file("precious bytes"))]);
        let ran = pull();
        ran.well();
        assert_eq!(ran.summary()["copied"], copied, "{age}: {}", ran.stderr);
    }
}

#[test]
fn older_index_is_refused_until_trees_are_taken_in() {
    let program = Program::new();
    let client = Tree::new([("f", file("v1 of 3")), ("g", file("stays"))]);
    program.pull_local(&client.root(), &[]);
    let aside = program.path("older.sqlite");
    fs::copy(program.repo().join("index.sqlite"), &aside).unwrap();
    for version in ["v2 of 3", "v3 of 3"] {
        client.put("f", file(version));
        program.pull_local(&client.root(), &[]);
    }
    client.put("new", file("v1 of 3"));
    for beside in ["-wal", "-shm"] {
        let _ = fs::remove_file(program.repo().join(format!("index.sqlite{beside}")));
    }
    fs::copy(&aside, program.repo().join("index.sqlite")).unwrap();
    let root = client.root();
    for command in [&["pull", root.to_str().unwrap()][..], &["prune", "--keep-last", "1"], &["index", "check"]] {
        let ran = program.run(command);
        assert_eq!(ran.status, 1, "{command:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("the index is older than the trees"), "{command:?}: {}", ran.stderr);
    }
    program.run(["index", "rebuild"]).well();
    program.assert_index_is_right();
    program.run(["verify"]).well();
    let summary = program.pull_local(&root, &[]);
    assert_eq!((&summary["exit"], summary["run"].as_i64() > Some(3)), (&0.into(), true), "{summary}");
    for name in ["f", "g", "new"] {
        let snapshot = fs::read(program.snapshot("localhost", &client.path(name))).unwrap();
        assert_eq!(snapshot, fs::read(client.path(name)).unwrap(), "{name}");
    }
    assert_eq!(cat(&program, &client.path("f"), 1), "v1 of 3");
    program.assert_index_is_right();
}

#[test]
fn inode_that_is_used_again_within_a_walk_is_read_again() {
    use archive_helper::protocol::{Bytes, ReadAnswer, ReadOutcome, Reply};
    for flags in [&["-q"][..], &["-q", "--checksum"]] {
        let hostile = hostile::Hostile::new();
        let (one, two) = (crate::hostile::linked("one", 1), crate::hostile::linked("two", 2));
        hostile.answers(hostile::To::Walk, crate::hostile::listing(vec![one, two]));
        let content = |id, bytes: &[u8]| ReadAnswer { id, outcome: ReadOutcome::Content(Bytes::new(bytes).unwrap()) };
        let answers = Reply::Read(vec![content(0, b"first"), content(1, b"other")]);
        hostile.answers(hostile::To::Read, hostile::frames(&[answers]));
        hostile.pull(flags).well();
        let place = |name: &str| hostile.program.snapshot("client", Path::new("/root/data").join(name).as_ref());
        let read = |name: &str| fs::read(place(name)).unwrap();
        assert_eq!((read("one"), read("two")), (b"first".to_vec(), b"other".to_vec()), "{flags:?}");
    }
}

#[test]
fn content_in_damaged_or_unknown_files_is_put_back() {
    for tree in ["damaged", "archive"] {
        let program = Program::new();
        let client = Tree::new([("f", at(1_000_000_000, 0, file("precious"))), ("stays", file("stays"))]);
        program.pull_local(&client.root(), &[]);
        client.put("f", file("second"));
        program.pull_local(&client.root(), &[]);
        let archived = program.archive("localhost", &client.root()).join("f.20010909T014640Z");
        let aside = program.repo().join(tree).join("localhost/somewhere");
        fs::create_dir_all(&aside).unwrap();
        fs::rename(&archived, aside.join("file")).unwrap();
        let ran = program.run(["verify", "--repair"]);
        assert!(ran.stderr.contains("is repaired"), "{tree}: {}", ran.stderr);
        assert_eq!(cat(&program, &client.path("f"), 1), "precious", "{tree}");
        program.run(["verify"]).well();
    }
}

#[test]
fn rebuild_keeps_what_is_right_in_the_index() {
    let program = Program::new();
    let client = Tree::new([("f", mode(0o4755, file("content"))), ("pipe", fifo()), ("d", dir([("g", file("g"))]))]);
    program.pull_local(&client.root(), &[]);
    client.put("f", file("second"));
    program.pull_local(&client.root(), &[]);
    let rows = || {
        let lines = program.run(["index", "export"]).lines();
        lines
            .iter()
            .map(|line| format!("{} {} {} {}", line["path"], line["mode"], line["mtime"], line["flags"]))
            .collect::<Vec<_>>()
    };
    let before = rows();
    program.run(["index", "rebuild"]).well();
    assert_eq!(rows(), before);
    program.assert_index_is_right();
    assert_eq!(cat(&program, &client.path("f"), 1), "content");
}

#[test]
fn directory_that_moves_to_name_of_file_replaces_it() {
    let program = Program::new();
    let same = || at(1_000_000_000, 0, file("one of a kind"));
    let client = Tree::new([
        ("d", dir([("a", at(1_000_000_000, 0, file("the file")))])),
        ("d~", dir([("a", same()), ("b", dir([("a", same())]))])),
        ("stays", file("stays")),
    ]);
    program.pull_local(&client.root(), &[]);
    client.remove("d/a");
    client.rename("d~", "d/a");
    let ran = program.run(["--json", "pull", client.root().to_str().unwrap()]);
    ran.well();
    assert_eq!(ran.summary()["warnings"], 0, "{}", ran.stderr);
    assert_eq!(ran.summary()["copied"], 0, "{}", ran.stderr);
    assert_eq!(cat(&program, &client.path("d/a"), 1), "the file");
    for path in ["d/a/a", "d/a/b/a"] {
        assert_eq!(cat(&program, &client.path(path), 2), "one of a kind");
    }
    program.assert_index_is_right();
    program.run(["verify"]).well();
}

#[test]
fn files_of_directory_that_replaced_another_are_read_whatever_their_times_say() {
    let program = Program::new();
    let client = Tree::new([("stays", file("stays"))]);
    let ctime = |name: &str| {
        let found = fs::metadata(client.path(name)).unwrap();
        (found.ctime(), found.ctime_nsec())
    };
    // Files that are made at once often have one ctime, for clocks of file systems tick slowly.
    let is_alike = (0..2000).any(|_| {
        client.put("d", dir([("a", at(1_000_000_000, 0, file("one")))]));
        client.put("d~", dir([("a", at(1_000_000_000, 0, file("two")))]));
        ctime("d/a") == ctime("d~/a")
    });
    if !is_alike {
        return eprintln!("two files never have one ctime here");
    }
    program.pull_local(&client.root(), &[]);
    client.remove("d~");
    client.rename("d", "d~");
    program.pull_local(&client.root(), &[]);
    assert_eq!(fs::read_to_string(program.snapshot("localhost", &client.path("d~/a"))).unwrap(), "one");
    assert_eq!(cat(&program, &client.path("d~/a"), 1), "two");
    program.assert_index_is_right();
}

#[test]
fn directory_without_entry_is_reported_and_goes_when_client_has_it_no_more() {
    let program = Program::new();
    let client = Tree::new([("d", dir([("f", file("f"))])), ("pipes", dir([("p", fifo())])), ("stays", file("stays"))]);
    program.pull_local(&client.root(), &[]);
    // What an older program and a lying client could leave: nothing lists the directories, and one is not even on the disk.
    program.change_index("DELETE FROM version WHERE kind = 1 AND name IN (x'64', x'7069706573')");
    program.change_index("UPDATE run SET outcome = NULL, ended = NULL");
    fs::remove_dir(program.snapshot("localhost", &client.path("pipes"))).unwrap();
    let ran = program.run(["index", "check"]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    for name in ["d", "pipes"] {
        let told = format!("`{}` of `localhost` holds something and is in no directory", client.path(name).display());
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    }
    client.remove("d");
    client.remove("pipes");
    program.pull_local(&client.root(), &[]);
    assert_eq!(names(&program.snapshot("localhost", &client.root())), ["stays"]);
    assert_eq!(cat(&program, &client.path("d/f"), 1), "f");
    program.assert_index_is_right();
}

#[test]
fn rebuild_finds_directories_whose_names_are_shortened_in_the_archive() {
    for removes_directory in [false, true] {
        let program = Program::new();
        let long = format!("{}.20010909T014640Z", "x".repeat(238));
        let client = Tree::new([(long.as_str(), dir([("f", file("f")), ("g", file("g"))])), ("stays", file("stays"))]);
        program.pull_local(&client.root(), &[]);
        client.remove(if removes_directory { long.clone() } else { format!("{long}/f") });
        program.pull_local(&client.root(), &[]);
        fs::remove_file(program.repo().join("index.sqlite")).unwrap();
        program.run(["index", "rebuild"]).well();
        program.assert_index_is_right();
        let found = checker::check(&program.repo());
        assert!(found.is_empty(), "{found:#?}");
        program.pull_local(&client.root(), &[]);
        program.assert_index_is_right();
    }
}

#[test]
fn repair_does_not_link_to_file_that_was_replaced_meanwhile() {
    let (old, new) = ("what both sources had", "what two has got now.");
    let template = Program::new();
    let (one, two) = (Tree::new([("f", file(old))]), Tree::new([("f", file(old))]));
    template.pull_local(&one.root(), &["--name", "one"]);
    template.pull_local(&two.root(), &["--name", "two"]);
    fs::remove_file(template.snapshot("one", &one.path("f"))).unwrap();
    two.put("f", file(new));
    let mut repaired = 0;
    for step in 1.. {
        let program = Program::without_repository();
        assert!(Command::new("cp").arg("-a").arg(template.repo()).arg(program.repo()).status().unwrap().success());
        let mut command = program.command(["verify", "--repair", "-q", "one"]);
        let mut stopped = command.env("ARCHIVE_FAULT", format!("stop:{step}")).spawn().unwrap();
        let has_ended = crate::crash::wait_for_stop(&mut stopped);
        let mut command = program.command(["pull", "-q", "--name", "two", two.root().to_str().unwrap()]);
        let mut pull = command.spawn().unwrap();
        // Where the repair holds the index, the pull waits.
        let _ = (0..150).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            pull.try_wait().unwrap().is_some()
        });
        if !has_ended {
            let pid = nix::unistd::Pid::from_raw(stopped.id() as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
            stopped.wait().unwrap();
        }
        pull.wait().unwrap();
        if let Ok(found) = fs::read_to_string(program.snapshot("one", &one.path("f"))) {
            assert_eq!(found, old, "at step {step}");
            repaired += 1;
        }
        if has_ended {
            assert!(step > 3 && repaired > 0, "{repaired} of {step}");
            return;
        }
    }
}

#[test]
fn file_in_the_place_of_a_symlink_is_kept() {
    if !is_root() {
        return eprintln!("needs root, for it changes an owner");
    }
    let program = Program::new();
    let client = Tree::new([("l", link("target"))]);
    program.pull_local(&client.root(), &[]);
    let place = program.snapshot("localhost", &client.path("l"));
    fs::remove_file(&place).unwrap();
    fs::write(&place, "somebody's only copy").unwrap();
    std::os::unix::fs::lchown(client.path("l"), Some(7), Some(7)).unwrap();
    program.pull_local(&client.root(), &[]);
    assert_eq!(fs::read_link(&place).unwrap(), Path::new("target"));
    let kept = Command::new("grep").args(["-r", "-l", "somebody's only copy"]).arg(program.repo()).output().unwrap();
    assert!(String::from_utf8_lossy(&kept.stdout).contains("/archive/localhost/"), "{kept:?}");
}

#[test]
fn copy_is_as_old_as_what_it_was_made_of() {
    let age = "SELECT (unixepoch() - max(read) / 1000000000) / 86400 FROM inode WHERE size = 8";
    for flags in [["--link", "exact"], ["--link", "never"]] {
        let program = Program::new();
        let client = Tree::new([("f", at(1_000_000_000, 0, file("precious")))]);
        program.pull_local(&client.root(), &flags);
        program.change_index("UPDATE inode SET read = read - 20 * 86400 * 1000000000");
        client.put("f", at(1_000_000_001, 0, file("precious")));
        client.put("g", at(1_000_000_002, 0, file("precious")));
        program.pull_local(&client.root(), &flags);
        let days: i64 = program.index().query_row(age, [], |row| row.get(0)).unwrap();
        assert_eq!(days, 20, "{flags:?}");
    }
}
