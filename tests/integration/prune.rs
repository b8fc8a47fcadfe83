//! Retention: what no rule keeps goes, and nothing else; whatever cuts it off.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::*;

/// A source pulled six times, another file changed each time, one removed, a directory removed; and what the client
/// held at each run, by run.
fn six_runs() -> (Program, Tree, tempfile::TempDir) {
    let program = Program::new();
    let aside = tempfile::tempdir_in("/tmp").unwrap();
    let many = (0..10).map(|n| (format!("f{n}"), file(format!("first {n}"))));
    let client =
        Tree::new([("d", dir(many)), ("twice", file("same content")), ("gone", dir([("below", file("below"))]))]);
    for run in 1..=6 {
        program.pull_local(&client.root(), &["--name", "laptop"]);
        let copied = Command::new("cp").arg("-a").arg(client.root()).arg(aside.path().join(run.to_string())).status();
        assert!(copied.unwrap().success());
        let changed = format!("d/f{run}");
        client.put(&changed, at(1_500_000_000 + run, 5, file(format!("changed in {run}"))));
        client.put("always", at(1_500_000_000 + run, 6, file(vec![run as u8; 1000])));
        match run {
            2 => client.remove("gone"),
            3 => client.put("other", file("same content")),
            4 => client.remove("twice"),
            _ => {}
        }
    }
    (program, client, aside)
}

#[track_caller]
fn assert_restores(program: &Program, client: &Tree, aside: &Path, run: i64) {
    let back = tempfile::tempdir_in("/tmp").unwrap();
    let what = format!("laptop:{}", client.root().display());
    program.run(["restore", "-q", &what, back.path().to_str().unwrap(), "--at", &run.to_string()]).well();
    let restored = back.path().join(client.root().file_name().unwrap());
    let slashed = |path: &Path| format!("{}/", path.display());
    let (from, to) = (slashed(&restored), slashed(&aside.join(run.to_string())));
    let output = Command::new("rsync").args(["-naicH", "--delete", &from, &to]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "run {run}");
    assert!(output.status.success());
}

/// Everything in the repository but the time of its own directory, in which SQLite makes files while it reads.
fn state(program: &Program) -> String {
    program.fingerprint().split_once('\n').unwrap().1.to_owned()
}

/// Bytes on the disk, each inode once.
fn bytes_held(program: &Program) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut inodes = BTreeMap::new();
    let mut waiting = vec![program.repo().join("snapshot"), program.repo().join("archive")];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else {
                inodes.insert(metadata.ino(), metadata.blocks() * 512);
            }
        }
    }
    inodes.values().sum()
}

#[test]
fn what_no_rule_keeps_goes_and_nothing_else() {
    let (program, client, aside) = six_runs();
    let before = (state(&program), bytes_held(&program));
    let would = program.run(["prune", "-n", "laptop", "--keep-last", "2", "--json"]);
    would.well();
    assert_eq!((state(&program), bytes_held(&program)), before, "a dry run changes nothing");
    let dropped = program.run(["prune", "laptop", "--keep-last", "2", "--json", "-v"]);
    dropped.well();
    assert_eq!(would.stdout, dropped.stdout);
    let said = dropped.lines().pop().unwrap();
    assert_eq!((said["kept_runs"].as_u64(), said["runs"].as_u64()), (Some(2), Some(4)));
    assert_eq!(before.1 - bytes_held(&program), said["bytes_freed"].as_u64().unwrap());
    for going in dropped.lines() {
        let gone = going["on_disk"].as_str().map(|place| program.repo().join(place));
        assert!(gone.is_none_or(|gone| !gone.exists()), "{going}");
    }
    program.assert_index_is_right();
    for run in [5, 6] {
        assert_restores(&program, &client, aside.path(), run);
    }
    program.run(["ls", "laptop", "--at", "3"]).refused(2, &["has no run 3: its runs are 5 to 6"]);
    assert!(!program.archive("laptop", &client.path("gone")).exists(), "an empty directory stays in the archive");
    program.run(["prune", "laptop", "--keep-last", "2"]).well();
    assert_eq!(program.pull_local(&client.root(), &["--name", "laptop"])["changed"], 2);
}

#[test]
fn the_snapshot_is_never_touched() {
    let (program, client, _aside) = six_runs();
    client.put("other", file("not the content of anything else"));
    let pulled = program.pull_local(&client.root(), &["--name", "laptop", "--archive", "all"]);
    assert_eq!(pulled["exit"], 0);
    program.run(["prune", "--keep-last", "1"]).well();
    oracle::assert_same(&client.root(), &program.snapshot("laptop", &client.root()));
    program.assert_index_is_right();
    let again = program.pull_local(&client.root(), &["--name", "laptop"]);
    assert_eq!((again["copied"].as_u64(), again["changed"].as_u64()), (Some(0), Some(0)));
}

#[test]
fn killed_at_any_step_it_is_finished_by_the_next() {
    for step in 1.. {
        let (program, client, aside) = six_runs();
        let mut command = program.command(["prune", "laptop", "--keep-last", "1"]);
        let ran = Ran::of(command.env("ARCHIVE_FAULT", format!("kill:{step}")).output().unwrap());
        assert_restores(&program, &client, aside.path(), 6);
        if ran.status == 0 {
            assert!(step > 10, "only {step} steps could be killed");
            return;
        }
        match step % 2 {
            0 => drop(program.pull_local(&client.root(), &["--name", "laptop"])),
            _ => program.run(["prune", "laptop", "--keep-last", "1"]).well(),
        }
        program.run(["prune", "laptop", "--keep-last", "1"]).well();
        program.assert_index_is_right();
        let left = program.run(["history", &format!("laptop:{}", client.path("always").display())]);
        assert_eq!(left.stdout.lines().count(), 1, "{}", left.stdout);
    }
}

#[test]
fn without_a_rule_nothing_goes() {
    let (program, _client, _aside) = six_runs();
    let before = state(&program);
    program.run(["prune"]).refused(2, &["nothing says what to keep", "--keep-daily 14"]);
    program.run(["prune", "laptop", "--keep-last", "0"]).refused(2, &["nothing says what to keep"]);
    program.run(["prune", "nobody", "--keep-last", "1"]).refused(2, &["no source `nobody`", "it has `laptop`"]);
    program.run(["prune", "--keep-last", "-1"]).refused_usage(&["unexpected argument"]);
    assert_eq!(state(&program), before);
}

#[test]
fn the_rules_may_stand_in_the_configuration() {
    let (program, _client, _aside) = six_runs();
    let config = program.path("archive.toml");
    fs::write(&config, "[source.laptop]\nkeep = { last = 3 }\n").unwrap();
    let ran = program.run(["--config", config.to_str().unwrap(), "prune", "--json"]);
    ran.well();
    assert_eq!(ran.lines().pop().unwrap()["kept_runs"], 3);
}

/// Has the program run as a user whom the file system may refuse something, and own the repository.
pub fn as_ordinary_user(program: &Program, arguments: &[&str]) -> Ran {
    if is_root() {
        let owned = Command::new("chown").args(["-R", "65534:65534"]).arg(program.path("")).status().unwrap();
        assert!(owned.success());
    }
    as_ordinary_user_now(program, arguments)
}

/// The same, and leaves the owners in the repository as they are.
pub fn as_ordinary_user_now(program: &Program, arguments: &[&str]) -> Ran {
    use std::os::unix::process::CommandExt;
    let mut command = program.command(arguments);
    if is_root() {
        let binary = program.path("archive-binary");
        if !binary.exists() {
            fs::copy(env!("CARGO_BIN_EXE_archive"), &binary).unwrap();
        }
        let given: Vec<_> = command.get_args().map(|argument| argument.to_owned()).collect();
        command = Command::new(binary);
        command.args(given).env_clear().env("HOME", program.path("home")).env("TMPDIR", "/tmp");
        command.uid(65534).gid(65534).current_dir(program.path(""));
    }
    Ran::of(command.output().unwrap())
}

#[test]
fn unreadable_version_is_kept_by_prune_and_forget() {
    use std::os::unix::fs::PermissionsExt;
    let (program, client, _) = six_runs();
    let name = program.archived("laptop", &client.root()).into_iter().find(|name| name.starts_with("always")).unwrap();
    let file = program.archive("laptop", &client.root()).join(name);
    let set_mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0);
    let rows = |sql: &str| program.index().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let kept = "SELECT count(*) FROM version WHERE archive_name LIKE 'always%'";
    let pruned = as_ordinary_user(&program, &["prune", "laptop", "--keep-last", "1"]);
    pruned.well();
    assert!(pruned.stderr.contains("can't read `archive/laptop/"), "{}", pruned.stderr);
    assert!(file.exists());
    assert_eq!(rows(kept), 1, "the other four are gone");
    let always = format!("laptop:{}/always", client.root().display());
    let forgotten = as_ordinary_user(&program, &["forget", &always, "--yes"]);
    forgotten.refused(1, &["can't read `archive/laptop/", "Permission denied", "check its permissions"]);
    assert!(file.exists());
    assert_eq!(rows(kept), 1);
    set_mode(0o644);
    as_ordinary_user(&program, &["prune", "laptop", "--keep-last", "1"]).well();
    assert_eq!(rows(kept), 0);
    assert!(!file.exists());
}

#[test]
fn rebuild_takes_no_place_of_a_pull() {
    for rule in [&["--keep-last", "1"][..], &["--keep-daily", "14"]] {
        let (program, client) = (Program::new(), Tree::new([("f", file("f"))]));
        let pulled = program.pull_local(&client.root(), &["--name", "laptop"])["run"].as_i64().unwrap();
        program.run(["index", "rebuild"]).well();
        program.run([&["prune", "laptop"], rule].concat()).well();
        let runs: Vec<_> =
            program.run(["--json", "log", "laptop"]).lines().iter().map(|run| run["run"].clone()).collect();
        assert!(runs.contains(&pulled.into()), "{rule:?}: {runs:?}");
        program.run(["status", "laptop", "--max-age", "26h"]).well();
    }
}
