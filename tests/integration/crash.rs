//! What a crash leaves: the process is killed, or the disk fails, at every step that changes the repository.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::*;

// Changes in one batch, so that a pull has several.
const BATCH: &str = "25";

/// A client before and after a day of work, with something of every kind of change.
pub struct Days {
    pub client: Tree,
    // What the client held before, beside it.
    before: tempfile::TempDir,
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args(["-a", "-T"]).arg(from).arg(to).status().unwrap().success());
}

impl Days {
    pub fn new() -> Days {
        let many = |prefix: &'static str| (0..12).map(move |n| (format!("{prefix}{n}"), file(format!("{prefix} {n}"))));
        let client = Tree::new([
            ("kept", file("stays as it is")),
            ("changed", at(1_000_000_000, 1, file("first"))),
            ("touched", at(1_000_000_000, 2, file("same content, another time"))),
            ("chmod", at(1_000_000_000, 7, mode(0o600, file("only the mode changes")))),
            ("removed", file("goes")),
            ("file-to-dir", file("a file")),
            ("dir-to-file", dir(many("below"))),
            ("link", link("kept")),
            ("link-to-file", link("changed")),
            ("moved", dir(many("moved"))),
            ("gone", dir([("deep", dir(many("deep"))), ("l", link("x"))])),
            ("pipe", fifo()),
            ("empty", file("")),
            ("shared", file("stays as it is")),
            ("owned", at(1_000_000_000, 3, file("only the owner changes"))),
            ("dressed", at(1_000_000_000, 4, file("only an attribute changes"))),
            ("linked", at(1_000_000_000, 5, file("gets another name"))),
            ("unlinked", at(1_000_000_000, 6, file("loses a name"))),
        ]);
        client.hard_link("kept", "hard-link");
        client.hard_link("unlinked", "unlinked-too");
        let before = tempfile::tempdir_in("/tmp").unwrap();
        copy(&client.root(), &before.path().join("data"));
        client.put("changed", at(1_100_000_000, 1, file("second")));
        client.put("touched", at(1_100_000_000, 2, file("same content, another time")));
        fs::set_permissions(client.path("chmod"), fs::Permissions::from_mode(0o644)).unwrap();
        let _ = std::os::unix::fs::lchown(client.path("owned"), Some(7), Some(8));
        let none = rustix::fs::XattrFlags::empty();
        let _ = rustix::fs::lsetxattr(client.path("dressed"), "user.one", b"1", none);
        client.hard_link("linked", "linked-too");
        client.remove("unlinked-too");
        client.remove("removed");
        client.put("file-to-dir", dir(many("inside")));
        client.put("dir-to-file", file("a file now"));
        client.put("link", link("empty"));
        client.put("link-to-file", file("no link any more"));
        client.rename("moved", "renamed");
        client.remove("gone");
        client.remove("pipe");
        client.add([("new", file("new")), ("copy", file("goes")), ("new-dir", dir(many("new")))]);
        Days { client, before }
    }

    /// A repository that holds the day before, and the flags to pull with.
    fn pulled(&self, flags: &[&str]) -> Program {
        self.pulled_by(Program::new(), flags)
    }

    pub fn pulled_by(&self, program: Program, flags: &[&str]) -> Program {
        let (root, aside) = (self.client.root(), self.before.path().join("after"));
        fs::rename(&root, &aside).unwrap();
        fs::rename(self.before.path().join("data"), &root).unwrap();
        program.pull_local(&root, flags);
        // Another source has the same contents.
        program.pull_local(&root, &[flags, &["--name", "another"]].concat());
        fs::rename(&root, self.before.path().join("data")).unwrap();
        fs::rename(&aside, &root).unwrap();
        program
    }
}

/// The hashes of all contents in both trees, read from the disk.
pub fn contents(program: &Program) -> BTreeSet<String> {
    let script = "find snapshot archive -type f -exec sha256sum {} + | cut -c1-64 | sort -u";
    let output = Command::new("sh").args(["-c", script]).current_dir(program.repo()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Both trees: kinds, names and contents.
fn trees(program: &Program) -> String {
    let script = "find snapshot archive -printf '%y %p %l\\n' | sort; find snapshot archive -type f -print0 | sort -z | xargs -0r sha256sum";
    let output = Command::new("sh").args(["-c", script]).current_dir(program.repo()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Pulls with a fault at every `stride`th step until a run is through untouched, each time from the same state;
/// returns how many faults there were.
fn at_every_step(flags: &[&str], fault: &str, stride: usize, judge: impl FnMut(&Ran, usize)) -> usize {
    at_every_step_lacking("", flags, fault, stride, judge)
}

/// The same on a file system that lacks something.
fn at_every_step_lacking(
    lacks: &str,
    flags: &[&str],
    fault: &str,
    stride: usize,
    mut judge: impl FnMut(&Ran, usize),
) -> usize {
    let days = Days::new();
    let template = days.pulled_by(Program::lacking(lacks), flags);
    let root = days.client.root();
    let pull = [&["--json", "pull", "--lock-wait", "10s", root.to_str().unwrap()], flags].concat();
    let before = contents(&template);
    let untouched = Program::lacking(lacks);
    copy(&template.repo(), &untouched.repo());
    untouched.run(&pull).well();
    let untouched_trees = trees(&untouched);
    for (faults, step) in (1..).step_by(stride).enumerate() {
        let program = Program::lacking(lacks);
        copy(&template.repo(), &program.repo());
        let mut command = program.command(&pull);
        let fault_at = format!("{fault}:{step}");
        let ran = Ran::of(command.env("ARCHIVE_FAULT", fault_at).env("ARCHIVE_BATCH", BATCH).output().unwrap());
        if ran.status == 0 {
            return faults;
        }
        judge(&ran, step);
        let check = program.run(["index", "check"]);
        assert_eq!(check.status, 0, "after {fault} at step {step}: {}", check.stderr);
        let lost: Vec<_> = before.difference(&contents(&program)).cloned().collect();
        assert!(lost.is_empty(), "after {fault} at step {step} {lost:?} are lost");
        program.run(&pull).well();
        assert_same_but_links(&root, &program.snapshot("localhost", &root));
        assert_eq!(trees(&program), untouched_trees, "after {fault} at step {step}");
        program.assert_index_is_right();
        assert_eq!(checker::check(&program.repo()), [""; 0], "after {fault} at step {step}");
    }
    unreachable!("the numbers have no end");
}

// Equal contents share an inode here, so only one of them can have its own time and mode.
#[track_caller]
fn assert_same_but_links(client: &Path, snapshot: &Path) {
    let linked = |line: &String| line.starts_with(".f") || line.starts_with("hf");
    let lines: Vec<_> = oracle::differences(client, snapshot).into_iter().filter(|line| !linked(line)).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

fn killed(ran: &Ran, step: usize) {
    assert_eq!(ran.status, -1, "at step {step}: {}", ran.stderr);
}

#[test]
fn killed_at_every_step_nothing_is_lost_and_the_next_pull_goes_on() {
    let faults = at_every_step(&[], "kill", 1, killed);
    assert!(faults >= 200, "{faults}");
}

#[test]
fn move_in_two_steps_may_be_killed_at_every_step() {
    let faults = at_every_step_lacking("renameat2", &[], "kill", 4, killed);
    assert!(faults >= 60, "{faults}");
}

#[test]
fn move_over_reserved_name_may_be_killed_at_every_step() {
    let faults = at_every_step_lacking("renameat2,links,symlink-links", &[], "kill", 5, killed);
    assert!(faults >= 50, "{faults}");
}

#[test]
fn full_disk_between_the_steps_of_a_move_leaves_a_usable_repository() {
    at_every_step_lacking("renameat2", &[], "ENOSPC", 13, |ran, step| {
        assert_eq!(ran.status, 5, "at step {step}: {}", ran.stderr);
    });
}

#[test]
fn so_with_everything_in_the_archive_at_once() {
    let faults = at_every_step(&["--archive", "all"], "kill", 3, killed);
    assert!(faults >= 40, "{faults}");
}

#[test]
fn so_with_exact_links_and_hashes_on_the_server() {
    let faults = at_every_step(&["--link", "exact", "--hash", "server"], "kill", 3, killed);
    assert!(faults >= 30, "{faults}");
}

#[test]
fn a_full_disk_at_any_step_stops_the_run_with_5() {
    at_every_step(&[], "ENOSPC", 5, |ran, step| {
        assert_eq!(ran.status, 5, "at step {step}: {}", ran.stderr);
        assert!(ran.stderr.contains("No space left"), "{}", ran.stderr);
    });
}

#[test]
fn a_failing_disk_at_any_step_stops_the_run_with_1() {
    for fault in ["EIO", "EROFS"] {
        at_every_step(&[], fault, 17, |ran, step| assert_eq!(ran.status, 1, "at step {step}: {}", ran.stderr));
    }
}

/// Waits until a process stops itself, or ends; true when it ended.
pub fn wait_for_stop(child: &mut std::process::Child) -> bool {
    loop {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn a_power_cut_at_any_step_loses_nothing_that_was_committed() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let days = Days::new();
    let template = days.pulled(&[]);
    let root = days.client.root();
    let before = contents(&template);
    let untouched = Program::new();
    copy(&template.repo(), &untouched.repo());
    untouched.pull_local(&root, &[]);
    for step in (1..).step_by(9) {
        let program = Program::without_repository();
        let disk = Disk::ext4(&program.path("disk"), &program.path("mounted"), 64 << 20);
        copy(&template.repo(), &program.path("mounted/repo"));
        std::os::unix::fs::symlink("mounted/repo", program.repo()).unwrap();
        assert!(Command::new("sync").arg("-f").arg(program.repo()).status().unwrap().success());
        let mut command = program.command(["pull", "-q", root.to_str().unwrap()]);
        let fault = format!("stop:{step}");
        let mut pull = command.env("ARCHIVE_FAULT", fault).env("ARCHIVE_BATCH", BATCH).spawn().unwrap();
        if wait_for_stop(&mut pull) {
            assert!(step > 100, "{step}");
            return;
        }
        disk.cut_power();
        pull.kill().unwrap();
        pull.wait().unwrap();
        let _disk = disk.again();
        let check = program.run(["index", "check"]);
        assert_eq!(check.status, 0, "after a cut at step {step}: {}", check.stderr);
        let lost: Vec<_> = before.difference(&contents(&program)).cloned().collect();
        assert!(lost.is_empty(), "after a cut at step {step} {lost:?} are lost");
        program.pull_local(&root, &[]);
        assert_eq!(trees(&program), trees(&untouched), "after a cut at step {step}");
        assert_same_but_links(&root, &program.snapshot("localhost", &root));
        program.assert_index_is_right();
    }
}

#[test]
fn files_gather_unless_they_are_not_to() {
    let client = Tree::new((0..9).map(|n| (format!("f{n}"), file(format!("content {n}")))));
    let gathered = |key: &str, flags: &[&str]| {
        (1..40).step_by(3).any(|step| {
            let program = Program::new();
            let source = format!("[source.localhost]\npaths = ['{}']\n{key}\n", client.root().display());
            let config = program.configured(&source);
            let mut command = program.command(["--config", &config, "pull", "localhost"]);
            command.args(flags).env("ARCHIVE_FAULT", format!("kill:{step}")).output().unwrap();
            let staged = fs::read_dir(program.repo().join("staging/localhost")).into_iter().flatten();
            staged.flatten().any(|staged| staged.path().is_dir())
        })
    };
    assert!(gathered("", &[]) && gathered("tuning = { gather = true }", &[]));
    assert!(!gathered("", &["--tuning", "gather=false"]) && !gathered("tuning = { gather = false }", &[]));
}

#[test]
fn no_batch_ends_amid_a_directory_that_could_be_moved_as_a_whole() {
    // Each of its own size, so that none is hashed before it comes.
    let files = |n: usize| dir((0..60).map(move |k| (format!("f{k}"), file(vec![b'x'; 1 + n * 60 + k]))));
    let client = Tree::new((0..10).map(|n| (format!("d{n}"), files(n))));
    let root = client.root();
    // How many steps change the repository.
    let steps = |batch: &str| {
        let survives = |step: usize| {
            let program = Program::new();
            let mut command = program.command(["pull", root.to_str().unwrap()]);
            command.env("ARCHIVE_FAULT", format!("kill:{step}")).env("ARCHIVE_BATCH", batch);
            Ran::of(command.output().unwrap()).status == 0
        };
        let (mut dies, mut lives) = (1_usize, 4000);
        while lives - dies > 8 {
            let middle = dies.midpoint(lives);
            if survives(middle) { lives = middle } else { dies = middle }
        }
        lives
    };
    let few = steps("1000");
    // On a busy machine a batch may end early, for it has waited long enough.
    let moves_whole = |_| steps("150") < few + 200;
    assert!((0..3).any(moves_whole), "small batches take many steps more than {few}");
}

#[test]
fn a_first_pull_may_be_killed_at_every_step() {
    let client = Tree::new((0..20).map(|n| (format!("f{n}"), file(format!("content {n}")))));
    let root = client.root();
    for step in (1..).step_by(4) {
        let program = Program::new();
        let mut command = program.command(["pull", root.to_str().unwrap()]);
        // Every other time so that a batch ends amid the directory.
        let batch = if step % 8 == 1 { "7" } else { "1000" };
        let fault = format!("kill:{step}");
        let ran = Ran::of(command.env("ARCHIVE_FAULT", fault).env("ARCHIVE_BATCH", batch).output().unwrap());
        // A child that was about to start may hold the lock for a moment longer.
        program.pull_local(&root, &["--lock-wait", "10s"]);
        assert_same(&root, &program.snapshot("localhost", &root));
        program.assert_index_is_right();
        assert_eq!(program.archived("localhost", &root), [""; 0], "step {step}");
        assert_eq!(fs::read_dir(program.repo().join("staging/localhost")).unwrap().count(), 0, "step {step}");
        if ran.status == 0 {
            assert!(step > 40, "{step}");
            return;
        }
    }
}

#[test]
fn a_file_system_that_is_full_in_truth_stops_the_run_and_keeps_the_rest() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    for options in ["size=3m", "size=64m,nr_inodes=60"] {
        let program = Program::without_repository();
        fs::create_dir(program.repo()).unwrap();
        let _mounted = Mount::tmpfs(&program.repo(), options);
        program.init();
        let client = Tree::new([("f", file("fits"))]);
        program.pull_local(&client.root(), &[]);
        client.add((0..100).map(|n| (format!("big{n}"), file(vec![n as u8; 60_000]))));
        let ran = program.run(["pull", "-q", client.root().to_str().unwrap()]);
        assert_eq!(ran.status, 5, "{}", ran.stderr);
        assert_eq!(fs::read(program.snapshot("localhost", &client.path("f"))).unwrap(), b"fits");
        // Somebody makes room.
        let larger =
            Command::new("mount").args(["-o", "remount,size=64m,nr_inodes=10000"]).arg(program.repo()).status();
        assert!(larger.unwrap().success());
        program.pull_local(&client.root(), &[]);
        assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
        program.assert_index_is_right();
    }
}

#[test]
fn pull_that_was_suspended_goes_on() {
    use nix::sys::signal::{Signal, kill};
    let client = Tree::new((0..20).map(|n| (format!("f{n}"), file(format!("content {n}")))));
    let (sshd, root) = (Sshd::new(), client.root());
    for over_ssh in [false, true] {
        for step in [3, 10, 30] {
            let program = Program::new();
            let mut command = program.command(["pull", "-q", "--name", "client", "--retries", "0"]);
            if over_ssh {
                command.arg("-F").arg(sshd.config()).arg(format!("client:{}", root.display()));
            } else {
                command.arg(&root);
            }
            let mut pull = command.env("ARCHIVE_FAULT", format!("stop:{step}")).spawn().unwrap();
            if !wait_for_stop(&mut pull) {
                std::thread::sleep(std::time::Duration::from_millis(100));
                kill(nix::unistd::Pid::from_raw(pull.id() as i32), Signal::SIGCONT).unwrap();
            }
            assert!(pull.wait().unwrap().success(), "over ssh: {over_ssh}, step {step}");
            assert_same(&root, &program.snapshot("client", &root));
        }
    }
}
