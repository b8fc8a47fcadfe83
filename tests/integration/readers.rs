//! Reading where nothing can be written: read-only media, another user's repository, a write-ahead log that was left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::*;

/// A repository with two runs of `laptop`, and its client: `f` has changed, `gone` was removed.
fn pulled() -> (Program, Tree) {
    let program = Program::new();
    let client =
        Tree::new([("f", at(1_000_000_000, 0, file("first"))), ("gone", file("gone")), ("d", dir([("x", file("x"))]))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    client.put("f", at(1_100_000_000, 0, file("second")));
    client.remove("gone");
    program.pull_local(&client.root(), &["--name", "laptop"]);
    (program, client)
}

/// Every command that only reads, and whether its output is not empty.
fn reading_commands(program: &Program, client: &Tree) -> Vec<Vec<String>> {
    let path = |name: &str| format!("laptop:{}", client.path(name).display());
    let restored = program.path("restored").to_str().unwrap().to_owned();
    let commands = [
        "status",
        "log",
        "ls -lR laptop",
        "history F",
        "cat F",
        "find f",
        "find --same-as F",
        "diff laptop --from 1 --to 2",
        "restore F RESTORED --owner none",
        "verify",
        "verify laptop --sample 50%",
        "index check",
        "index stats",
        "index export",
        "prune laptop --keep-last 1 -n",
        "forget F -n",
    ];
    let word = |word: &str| match word {
        "F" => path("f"),
        "RESTORED" => restored.clone(),
        other => other.to_owned(),
    };
    commands.map(|command| command.split(' ').map(word).collect()).into()
}

/// A directory for copies, which must be empty when all is done.
fn temporary(program: &Program) -> PathBuf {
    let dir = program.path("tmp");
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
    dir
}

/// The program run by somebody else, who may read everything beside the repository.
fn foreign(program: &Program, arguments: &[String]) -> Ran {
    let binary = program.path("archive-binary");
    if !binary.exists() {
        fs::copy(env!("CARGO_BIN_EXE_archive"), &binary).unwrap();
        let own = program.path("");
        fs::set_permissions(own, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let given: Vec<_> = program.command(arguments).get_args().map(ToOwned::to_owned).collect();
    let mut command = Command::new(binary);
    command.args(given).env_clear().env("HOME", "/nonexistent").env("TMPDIR", temporary(program));
    command.env("PATH", "/usr/bin:/bin").uid(65534).gid(65534).current_dir("/");
    Ran::of(command.output().unwrap())
}

fn own(program: &Program, arguments: &[String]) -> Ran {
    Ran::of(program.command(arguments).env("TMPDIR", temporary(program)).output().unwrap())
}

#[track_caller]
fn every_command_reads(program: &Program, client: &Tree, run: &dyn Fn(&Program, &[String]) -> Ran) {
    for arguments in reading_commands(program, client) {
        let _ = fs::remove_dir_all(program.path("restored"));
        let ran = run(program, &arguments);
        assert_eq!(ran.status, 0, "{arguments:?}: {}", ran.stderr);
        assert!(!ran.stdout.is_empty(), "{arguments:?} prints nothing");
        match arguments[0].as_str() {
            "cat" => assert_eq!(ran.stdout, "second"),
            "restore" => assert_eq!(fs::read_to_string(program.path("restored/f")).unwrap(), "second"),
            "verify" => assert!(ran.stderr.contains("is not recorded"), "{}", ran.stderr),
            "log" => assert_eq!(ran.stdout.lines().count(), 2),
            _ => {}
        }
    }
    assert_eq!(names(&temporary(program)), [""; 0], "a copy of the index was left");
}

fn open_to_all(program: &Program) {
    assert!(Command::new("chmod").args(["-R", "a+rX"]).arg(program.repo()).status().unwrap().success());
}

/// Moves the repository to a tmpfs, and leaves it writable.
fn on_tmpfs(program: &Program) -> (Mount, PathBuf) {
    let aside = program.path("aside");
    fs::rename(program.repo(), &aside).unwrap();
    fs::create_dir(program.repo()).unwrap();
    let mount = Mount::tmpfs(&program.repo(), "size=32m,mode=755");
    assert!(Command::new("cp").arg("-aT").arg(&aside).arg(program.repo()).status().unwrap().success());
    (mount, aside)
}

fn mount(options: &str, point: &Path) {
    assert!(Command::new("mount").args(["-o", options]).arg(point).status().unwrap().success());
}

/// Leaves a change in the write-ahead log: the last run counts as partial. It is in the database once the connection ends.
fn leave_in_log(program: &Program) -> rusqlite::Connection {
    let index = program.index();
    index.execute_batch("PRAGMA wal_autocheckpoint = 0; UPDATE run SET outcome = 'partial' WHERE id = 2").unwrap();
    index
}

#[track_caller]
fn shows_what_the_log_has(ran: &Ran) {
    assert!(ran.status == 0 && ran.stdout.contains("partial"), "{}{}", ran.stdout, ran.stderr);
}

const LOG: &[&str] = &["log"];

fn texts(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn read_only_media_can_be_read() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client) = pulled();
    let (_mounted, _) = on_tmpfs(&program);
    mount("remount,ro", &program.repo());
    let before = program.fingerprint();
    every_command_reads(&program, &client, &own);
    assert_eq!(program.fingerprint(), before);
    open_to_all_is_refused(&program);
    every_writing_command_names_the_repository(
        &program,
        &client,
        &own,
        "Read-only file system: mount its file system writable",
    );
}

#[track_caller]
fn every_writing_command_names_the_repository(
    program: &Program,
    client: &Tree,
    run: &dyn Fn(&Program, &[String]) -> Ran,
    cause: &str,
) {
    let path = client.root().display().to_string();
    let plain = program.snapshot("laptop", &client.path("f")).display().to_string();
    let says = format!("can't write to the repository `{}`: {cause}", program.repo().display());
    for arguments in [
        &["pull", "--name", "laptop", &path][..],
        &["accept", "laptop"],
        &["prune", "laptop", "--keep-last", "1"],
        &["forget", "--yes", "laptop:/"],
        &["verify", "--repair"],
        &["index", "update", &plain],
        &["index", "rebuild"],
    ] {
        run(program, &texts(arguments)).refused(1, &[&says]);
    }
}

fn open_to_all_is_refused(program: &Program) {
    let done = Command::new("chmod").args(["-R", "a+rX"]).arg(program.repo()).output().unwrap();
    assert!(!done.status.success(), "the file system is not read-only");
}

#[test]
fn rows_of_a_log_that_was_never_checkpointed_are_seen_on_read_only_media() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    for with_memory in [false, true] {
        let (program, client) = pulled();
        let writer = leave_in_log(&program);
        let (_mounted, aside) = on_tmpfs(&program);
        let memory = program.repo().join("index.sqlite-shm");
        assert!(fs::metadata(program.repo().join("index.sqlite-wal")).unwrap().len() > 0);
        if !with_memory {
            fs::remove_file(memory).unwrap();
        }
        mount("remount,ro", &program.repo());
        shows_what_the_log_has(&own(&program, &texts(LOG)));
        every_command_reads(&program, &client, &own);
        drop((writer, aside));
    }
}

#[test]
fn writers_behind_a_read_only_mount_are_seen() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client) = pulled();
    let (_mounted, _) = on_tmpfs(&program);
    let (writable, point) = (program.path("writable"), program.repo());
    fs::create_dir(&writable).unwrap();
    let _second = Mount::bind(&point, &writable);
    mount("remount,bind,ro", &point);
    every_command_reads(&program, &client, &own);
    let index = rusqlite::Connection::open(writable.join("index.sqlite")).unwrap();
    index.execute_batch("PRAGMA wal_autocheckpoint = 0; UPDATE run SET outcome = 'partial' WHERE id = 2").unwrap();
    shows_what_the_log_has(&own(&program, &texts(LOG)));
    drop(index);
    shows_what_the_log_has(&own(&program, &texts(LOG)));
}

#[test]
fn user_who_may_only_read_can_read_everything() {
    if !is_root() {
        return eprintln!("needs root, for it becomes another user");
    }
    let (program, client) = pulled();
    open_to_all(&program);
    let before = program.fingerprint();
    every_command_reads(&program, &client, &foreign);
    assert_eq!(program.fingerprint(), before);
    let writer = leave_in_log(&program);
    open_to_all(&program);
    shows_what_the_log_has(&foreign(&program, &texts(LOG)));
    every_command_reads(&program, &client, &foreign);
    drop(writer);
    shows_what_the_log_has(&foreign(&program, &texts(LOG)));
    let cause = "Permission denied: run this as the owner of the repository";
    every_writing_command_names_the_repository(&program, &client, &foreign, cause);
    // Only the index is another user's.
    let index = rusqlite::Connection::open(program.repo().join("index.sqlite")).unwrap();
    index.execute_batch("INSERT INTO stopped SELECT id, 2, 'gone', 60, x'', 0 FROM source").unwrap();
    drop(index);
    set_mode(&program.repo(), 0o777);
    foreign(&program, &texts(&["accept", "laptop"])).refused(1, &["can't write the index", "`chown -R`"]);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn denied_permission_is_said_as_such() {
    if !is_root() {
        return eprintln!("needs root, for it becomes another user");
    }
    let (program, client) = pulled();
    let path = |name: &str| format!("laptop:{}", client.path(name).display());
    foreign(&program, &texts(LOG)).refused(1, &["can't open the repository", "Permission denied"]);
    open_to_all(&program);
    let index = program.repo().join("index.sqlite");
    set_mode(&index, 0o600);
    foreign(&program, &texts(LOG)).refused(1, &["can't open the index", "index.sqlite", "Permission denied"]);
    set_mode(&index, 0o644);
    let plain = program.snapshot("laptop", &client.path("f"));
    set_mode(&plain, 0o600);
    let on_disk = format!("snapshot/laptop{}", client.path("f").display());
    foreign(&program, &texts(&["cat", &path("f")])).refused(1, &[&on_disk, "Permission denied"]);
    let restored = foreign(
        &program,
        &texts(&["restore", &path("f"), program.path("restored").to_str().unwrap(), "--owner", "none"]),
    );
    assert!(restored.status == 3 && restored.stderr.contains("Permission denied"), "{}", restored.stderr);
    let verified = foreign(&program, &texts(&["verify"]));
    assert_eq!(verified.status, 1, "{}", verified.stderr);
    assert!(verified.stderr.contains(&format!("`{on_disk}` can't be read: Permission denied")), "{}", verified.stderr);
    set_mode(&plain, 0o644);
    let above = plain.parent().unwrap();
    set_mode(above, 0o700);
    let checked = foreign(&program, &texts(&["index", "check"]));
    assert!(checked.status == 1 && checked.stderr.contains("Permission denied"), "{}", checked.stderr);
    assert!(checked.stderr.contains(&format!("snapshot/laptop{}", client.root().display())), "{}", checked.stderr);
    let pulled = foreign(&program, &texts(&["pull", "/etc/hostname"]));
    assert!(pulled.status == 1 && pulled.stderr.contains("Permission denied"), "{}", pulled.stderr);
}

#[test]
fn interrupted_run_on_read_only_media_is_reported_and_not_touched() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let (program, client) = pulled();
    client.add((0..10).map(|n| (format!("new{n}"), file(format!("{n}")))));
    for step in (1..).step_by(3) {
        let mut command = program.command(["pull", "-q", "--name", "laptop", client.root().to_str().unwrap()]);
        let ran = Ran::of(command.env("ARCHIVE_FAULT", format!("kill:{step}")).output().unwrap());
        assert_ne!(ran.status, 0, "no run was cut off with something pending");
        let pending = "SELECT count(*) FROM pending";
        if program.index().query_row(pending, [], |row| row.get::<_, i64>(0)).unwrap() > 0 {
            break;
        }
    }
    let (_mounted, _) = on_tmpfs(&program);
    mount("remount,ro", &program.repo());
    let ran = own(&program, &texts(&["index", "check"]));
    assert!(ran.stderr.contains("has an interrupted run, which can't be finished"), "{}", ran.stderr);
    mount("remount,rw", &program.repo());
    program.assert_index_is_right();
}

#[test]
fn copy_of_the_index_works_with_any_umask_and_in_another_directory() {
    if !is_root() {
        return eprintln!("needs root, for it becomes another user");
    }
    let (program, _client) = pulled();
    open_to_all(&program);
    foreign(&program, &texts(LOG)).well();
    let run = |umask: &str, tmpdir: &Path| {
        let script = format!("umask {umask}; exec ./archive-binary --repo repo log");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env_clear().env("HOME", "/nonexistent").env("TMPDIR", tmpdir);
        command.env("PATH", "/usr/bin:/bin").uid(65534).gid(65534).current_dir(program.path(""));
        Ran::of(command.output().unwrap())
    };
    let closed = program.path("closed");
    fs::create_dir(&closed).unwrap();
    set_mode(&closed, 0o755);
    for (umask, tmpdir) in
        [("0777", temporary(&program)), ("022", program.path("missing")), ("022", closed), ("022", "/proc".into())]
    {
        let ran = run(umask, &tmpdir);
        assert_eq!((ran.status, ran.stdout.lines().count()), (0, 2), "{}: {}", tmpdir.display(), ran.stderr);
    }
    assert_eq!(names(&temporary(&program)), [""; 0], "a copy of the index was left");
}

#[test]
fn closed_output_leaves_no_copy_of_the_index() {
    if !is_root() {
        return eprintln!("needs root, for it becomes another user");
    }
    let (program, _client) = pulled();
    open_to_all(&program);
    foreign(&program, &texts(LOG)).well();
    for command in ["index export", "log", "find f", "status", "verify"] {
        let words: Vec<_> = command.split(' ').collect();
        let mut command = Command::new(program.path("archive-binary"));
        command.arg("--repo").arg(program.repo()).args(&words).env_clear().env("HOME", "/nonexistent");
        command.env("TMPDIR", temporary(&program)).env("PATH", "/usr/bin:/bin").uid(65534).gid(65534).current_dir("/");
        let ran = Ran::of(command.stdout(closed_pipe()).output().unwrap());
        assert_eq!(ran.status, 0, "{words:?}: {}", ran.stderr);
        assert_eq!(names(&temporary(&program)), [""; 0], "{words:?} left a copy of the index");
    }
}
