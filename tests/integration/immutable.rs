//! What in the repository can't be changed: it is reported by name, and holds up nothing else.

use crate::support::*;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A repository on an ext4 of its own, where files can be made immutable; they no longer are when this is dropped.
struct Repository {
    program: Program,
    _disk: Disk,
}

impl Repository {
    fn new() -> Option<Repository> {
        if !is_root() {
            eprintln!("needs root, for it mounts a file system");
            return None;
        }
        let program = Program::without_repository();
        let disk = Disk::ext4(&program.path("disk"), &program.path("mounted"), 64 << 20);
        std::os::unix::fs::symlink("mounted/repo", program.repo()).unwrap();
        fs::create_dir(program.path("mounted/repo")).unwrap();
        program.init();
        Some(Repository { program, _disk: disk })
    }

    fn snapshot(&self, path: &Path) -> std::path::PathBuf {
        self.program.snapshot("localhost", path)
    }
}

fn chattr(flag: &str, path: &Path) {
    let done =
        Command::new("chattr").arg(flag).arg(path).env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin").status().unwrap();
    assert!(done.success(), "chattr {flag} {}", path.display());
}

fn pull(program: &Program, client: &Tree) -> Ran {
    program.run(["--json", "pull", "--max-delete", "100", client.root().to_str().unwrap()])
}

#[test]
fn immutable_file_in_the_snapshot_holds_up_nothing_else() {
    let Some(repository) = Repository::new() else { return };
    let program = &repository.program;
    let old = |n: u32| at(1_000_000_000, n, file(format!("old {n}")));
    let client = Tree::new([
        ("d", dir([("changed", old(1)), ("gone", old(2)), ("other", old(3))])),
        ("f", old(4)),
        ("e", dir([("x", old(5))])),
    ]);
    pull(program, &client).well();
    for name in ["d/changed", "d/gone", "e"] {
        chattr("+i", &repository.snapshot(&client.path(name)));
    }
    for name in ["d/changed", "d/other", "f", "e/new"] {
        fs::write(client.path(name), "new").unwrap();
    }
    fs::remove_file(client.path("d/gone")).unwrap();
    for _ in 0..2 {
        let ran = pull(program, &client);
        assert_eq!(ran.status, 3, "{}", ran.stderr);
        for name in ["d/changed", "d/gone", "e/new"] {
            let shown = format!("can't change `snapshot/localhost{}`", client.path(name).display());
            assert!(ran.stderr.contains(&shown) && ran.stderr.contains("chattr"), "{}", ran.stderr);
        }
        let content = |name: &str| fs::read_to_string(repository.snapshot(&client.path(name))).unwrap();
        assert_eq!(["d/other", "f", "d/changed", "d/gone"].map(content), ["new", "new", "old 1", "old 2"]);
        program.run(["verify"]).well();
    }
    // A directory that holds it stays, too.
    fs::remove_dir_all(client.path("d")).unwrap();
    let ran = pull(program, &client);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert_eq!(names(&repository.snapshot(&client.path("d"))), ["changed", "gone"]);
    for name in ["d/changed", "d/gone", "e"] {
        chattr("-i", &repository.snapshot(&client.path(name)));
    }
    pull(program, &client).well();
    assert_same(&client.root(), &repository.snapshot(&client.root()));
    program.assert_index_is_right();
}

#[test]
fn immutable_file_in_the_archive_holds_up_no_prune() {
    let Some(repository) = Repository::new() else { return };
    let program = &repository.program;
    let client = Tree::new([("f", at(1_000_000_000, 0, file("one"))), ("g", at(1_000_000_000, 0, file("two")))]);
    pull(program, &client).well();
    for n in 0..2 {
        fs::write(client.path("f"), format!("more {n}")).unwrap();
        fs::write(client.path("g"), format!("much more {n}")).unwrap();
        pull(program, &client).well();
    }
    let kept = program.archive("localhost", &client.path("f.20010909T014640Z"));
    chattr("+i", &kept);
    let ran = program.run(["prune", "--keep-last", "1"]);
    ran.well();
    assert!(ran.stderr.contains("f.20010909T014640Z`, which is immutable"), "{}", ran.stderr);
    assert_eq!(program.archived("localhost", &client.root()), ["f.20010909T014640Z"]);
    chattr("-i", &kept);
    program.run(["prune", "--keep-last", "1"]).well();
    assert_eq!(program.archived("localhost", &client.root()), [""; 0]);
    program.assert_index_is_right();
}

#[test]
fn immutable_directory_of_the_archive_holds_up_nothing_else() {
    let Some(repository) = Repository::new() else { return };
    let program = &repository.program;
    let old = |n: u32| at(1_000_000_000, n, file(format!("old {n}")));
    let client = Tree::new([("d", dir([("f", old(1))])), ("e", dir([("f", old(2))]))]);
    pull(program, &client).well();
    for name in ["d/f", "e/f"] {
        fs::write(client.path(name), "new").unwrap();
    }
    pull(program, &client).well();
    let blocked = program.archive("localhost", &client.path("d"));
    chattr("+i", &blocked);
    for name in ["d/f", "e/f"] {
        fs::write(client.path(name), "newest").unwrap();
    }
    for _ in 0..2 {
        let ran = pull(program, &client);
        assert_eq!(ran.status, 3, "{}", ran.stderr);
        let directory = format!("`archive/localhost{}` or a directory above is immutable", client.path("d").display());
        assert!(ran.stderr.contains(&directory), "{}", ran.stderr);
        let content = |name: &str| fs::read_to_string(repository.snapshot(&client.path(name))).unwrap();
        assert_eq!(["d/f", "e/f"].map(content), ["new", "newest"]);
    }
    chattr("-i", &blocked);
    pull(program, &client).well();
    assert_same(&client.root(), &repository.snapshot(&client.root()));
    program.assert_index_is_right();
}

#[test]
fn immutable_file_is_not_forgotten_and_nothing_stays_pending() {
    let Some(repository) = Repository::new() else { return };
    let program = &repository.program;
    let client = Tree::new([("f", at(1_000_000_000, 0, file("one"))), ("g", file("g"))]);
    pull(program, &client).well();
    fs::write(client.path("f"), "two").unwrap();
    pull(program, &client).well();
    let archived = program.archive("localhost", &client.path("f.20010909T014640Z"));
    for kept in [archived, repository.snapshot(&client.path("f")), repository.snapshot(&client.root())] {
        chattr("+i", &kept);
        let what = format!("localhost:{}", client.path("f").display());
        let ran = program.run(["forget", "--yes", &what]);
        ran.refused(1, &["can't remove `", "it or its directory is immutable", "chattr -ia"]);
        chattr("-i", &kept);
        program.assert_index_is_right();
        pull(program, &client).well();
    }
    program.run(["forget", "--yes", &format!("localhost:{}", client.path("f").display())]).well();
    pull(program, &client).well();
    program.assert_index_is_right();
}

#[test]
fn immutable_corrupt_file_holds_up_no_repair() {
    let Some(repository) = Repository::new() else { return };
    let program = &repository.program;
    let client = Tree::new(["f", "g", "h", "i"].map(|name| (name, file("the same"))));
    let pull = || program.run(["pull", "-q", "--link", "never", client.root().to_str().unwrap()]);
    pull().well();
    let corrupt = ["f", "g"].map(|name| repository.snapshot(&client.path(name)));
    corrupt.iter().for_each(|path| fs::write(path, "not same").unwrap());
    chattr("+i", &corrupt[0]);
    let ran = program.run(["verify", "--repair"]);
    assert!(ran.stderr.contains("can't repair `snapshot/localhost"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(&corrupt[1]).unwrap(), "the same");
    chattr("-i", &corrupt[0]);
    program.run(["verify", "--repair"]);
    assert_eq!(fs::read_to_string(&corrupt[0]).unwrap(), "the same");
    program.assert_index_is_right();
}

#[test]
fn repository_that_another_user_wrote_to_is_named_with_what_helps() {
    if !is_root() {
        return eprintln!("needs root, for it runs the program as two users");
    }
    let (program, client) = (Program::without_repository(), Tree::new([("f", file("one"))]));
    Command::new("chmod").args(["-R", "a+rX"]).arg(client.root().parent().unwrap()).status().unwrap();
    let as_nobody = || {
        let run = program.command(["pull", "--init", client.root().to_str().unwrap()]);
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(program.path("archive-binary"))
            .args(run.get_args());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", program.path("home")).env("TMPDIR", "/tmp");
        Ran::of(command.current_dir("/").output().unwrap())
    };
    std::os::unix::fs::chown(program.path(""), Some(65_534), Some(65_534)).unwrap();
    // Where it was built, others may not look.
    let binary = program.path("archive-binary");
    fs::copy(env!("CARGO_BIN_EXE_archive"), &binary).unwrap();
    as_nobody().well();
    for (name, directory) in [("lock/localhost.lock", "lock"), ("staging/localhost", "staging")] {
        let path = program.repo().join(name);
        let owner = |uid: u32| std::os::unix::fs::chown(&path, Some(uid), Some(uid)).unwrap();
        owner(0);
        fs::set_permissions(
            &path,
            std::os::unix::fs::PermissionsExt::from_mode(if path.is_dir() { 0o700 } else { 0o600 }),
        )
        .unwrap();
        let ran = as_nobody();
        ran.refused(1, &[directory, "Permission denied", "chown -R"]);
        assert!(!ran.stderr.contains("os error"), "{}", ran.stderr);
        owner(65_534);
    }
    fs::write(client.path("f"), "two").unwrap();
    let directory = program.snapshot("localhost", &client.root());
    std::os::unix::fs::chown(&directory, Some(0), Some(0)).unwrap();
    fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    as_nobody().refused(1, &["snapshot/localhost", "Permission denied", "chown -R"]);
}

#[test]
fn immutable_index_is_named_with_its_cause() {
    let Some(repository) = Repository::new() else { return };
    let program = &repository.program;
    let client = Tree::new([("f", file("f"))]);
    pull(program, &client).well();
    let index = program.repo().join("index.sqlite");
    chattr("+i", &index);
    let says = format!("can't write the index `{}`: Operation not permitted: is it immutable", index.display());
    for arguments in [
        &["pull", client.root().to_str().unwrap()][..],
        &["prune", "localhost", "--keep-last", "1"],
        &["forget", "--yes", "localhost:/"],
        &["index", "rebuild"],
    ] {
        let ran = program.run(arguments);
        assert!(ran.status == 1 && ran.stderr.contains(&says), "{arguments:?}: {}", ran.stderr);
    }
    program.run(["status"]).well();
    chattr("-i", &index);
    pull(program, &client).well();
}

#[test]
fn immutable_note_of_the_newest_run_is_named_before_a_run_begins() {
    let Some(repository) = Repository::new() else { return };
    let (program, client) = (&repository.program, Tree::new([("f", file("f"))]));
    pull(program, &client).well();
    let note = program.repo().join("newest-run");
    chattr("+i", &note);
    let runs = || program.run(["--json", "log"]).lines().len();
    let before = runs();
    for command in [&["pull", "-q", client.root().to_str().unwrap()][..], &["index", "rebuild"]] {
        let ran = program.run(command);
        assert_eq!(ran.status, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("newest-run") && ran.stderr.contains("chattr"), "{}", ran.stderr);
    }
    assert_eq!(runs(), before);
    chattr("-i", &note);
    pull(program, &client).well();
}

#[test]
fn pull_goes_on_without_a_log() {
    let Some(repository) = Repository::new() else { return };
    let (program, client) = (&repository.program, Tree::new([("f", file("f"))]));
    pull(program, &client).well();
    chattr("+i", &program.repo().join("log/archive.log"));
    fs::write(client.path("f"), "changed").unwrap();
    let ran = pull(program, &client);
    ran.well();
    assert!(ran.stderr.contains("log/archive.log") && ran.stderr.contains("chattr"), "{}", ran.stderr);
    assert_eq!(fs::read(repository.snapshot(&client.path("f"))).unwrap(), b"changed");
    chattr("-i", &program.repo().join("log/archive.log"));
}

#[test]
fn snapshot_file_that_may_not_be_read_or_changed_holds_up_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("changed", |path| fs::write(path, "other content").unwrap()),
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("chmod", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o604)).unwrap()),
        ("replaced", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    let owners: &[bool] = if is_root() { &[true, false] } else { &[true] };
    for (is_own, archive) in owners.iter().flat_map(|is_own| ["replaced", "all"].map(|archive| (*is_own, archive))) {
        for (what, change) in changes {
            let (program, client) = (Program::new(), Tree::new([("f", file("first content")), ("g", file("g"))]));
            Command::new("chmod").args(["-R", "a+rX"]).arg(client.root().parent().unwrap()).status().unwrap();
            let root = client.root();
            let pull =
                ["pull", "-q", "--name", "client", "--max-delete", "100", "--archive", archive, root.to_str().unwrap()];
            crate::prune::as_ordinary_user(&program, &pull).well();
            let run = |arguments: &[&str]| crate::prune::as_ordinary_user_now(&program, arguments);
            let snapshot = program.snapshot("client", &client.path("f"));
            set_mode(&snapshot, if is_own { 0 } else { 0o600 });
            if !is_own {
                // As one pull by root leaves it.
                std::os::unix::fs::chown(&snapshot, Some(1), Some(1)).unwrap();
            }
            change(&client.path("f"));
            fs::write(client.path("g"), "changed as well").unwrap();
            let ran = run(&pull);
            ran.well();
            let context = format!("{what}, own: {is_own}, {archive}: {}", ran.stderr);
            assert_eq!(
                fs::read(program.snapshot("client", &client.path("g"))).unwrap(),
                b"changed as well",
                "{context}"
            );
            // What its owner forbade itself is readable again.
            assert!(!is_own || ran.stderr.is_empty(), "{context}");
            let again = run(&pull);
            again.well();
            assert!(again.stderr.is_empty(), "{context}{}", again.stderr);
            run(&["index", "check"]).well();
            if what != "chmod" {
                let archived = program.archived("client", &root);
                let name = archived.iter().find(|name| name.starts_with("f.")).unwrap();
                let kept = fs::read(program.archive("client", &root).join(name)).unwrap();
                assert_eq!(kept, b"first content", "{context}");
                assert!(is_own || ran.stderr.contains("archived unread"), "{context}");
            }
            run(&["index", "rebuild"]).well();
            run(&["index", "check"]).well();
            run(&["prune", "-q", "client", "--keep-last", "1"]).well();
        }
    }
}

#[test]
fn corrupt_file_that_only_its_record_calls_good_is_fetched_again() {
    for link in ["exact", "never"] {
        let (program, client) = (Program::new(), Tree::new([("f", file("first content"))]));
        let pull = || program.run(["pull", "-q", "--link", link, client.root().to_str().unwrap()]);
        pull().well();
        let snapshot = program.snapshot("localhost", &client.path("f"));
        // Bit rot: the bytes change, and nothing of the inode does.
        let found = fs::metadata(&snapshot).unwrap();
        fs::write(&snapshot, "wrong content").unwrap();
        filetime::set_file_mtime(&snapshot, filetime::FileTime::from_last_modification_time(&found)).unwrap();
        let rotten = fs::metadata(&snapshot).unwrap();
        use std::os::unix::fs::MetadataExt;
        let ctime = rotten.ctime() * 1_000_000_000 + rotten.ctime_nsec();
        program.change_index(&format!("UPDATE inode SET ctime = {ctime} WHERE number = {}", rotten.ino()));
        filetime::set_file_mtime(client.path("f"), filetime::FileTime::from_unix_time(1_700_000_000, 0)).unwrap();
        pull().well();
        assert_eq!(fs::read(&snapshot).unwrap(), b"first content", "{link}");
        pull().well();
    }
}
