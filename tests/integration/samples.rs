//! Repositories that earlier builds wrote, healthy, damaged, and of every format (tests/samples/README.md): they are upgraded,
//! what can be repaired is, and the rest is reported.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::*;

/// A sample, unpacked where it was made; each is used by one test only.
struct Sample {
    dir: PathBuf,
    program: Program,
}

impl Sample {
    fn unpack(name: &str) -> Sample {
        let all = Path::new("/tmp/archive-samples");
        let dir = all.join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(all).unwrap();
        // Another user may run the tests as well.
        let _ = fs::set_permissions(all, fs::Permissions::from_mode(0o1777));
        fs::create_dir(&dir).unwrap();
        let packed = format!("{}/tests/samples/{name}.tar.gz", env!("CARGO_MANIFEST_DIR"));
        let xattrs = if is_root() { "--xattrs" } else { "--no-xattrs" };
        let done = Command::new("tar").args([xattrs, "-xzf", &packed, "-C"]).arg(&dir).status().unwrap();
        assert!(done.success(), "{packed} can't be unpacked");
        let program = Program::without_repository();
        std::os::unix::fs::symlink(dir.join("repo"), program.repo()).unwrap();
        Sample { dir, program }
    }

    fn client(&self) -> PathBuf {
        self.dir.join("client")
    }

    fn findings(&self) -> Vec<String> {
        checker::check(&self.dir.join("repo"))
    }

    fn check(&self) -> Ran {
        self.program.run(["index", "check"])
    }

    fn repair(&self, source: &str) -> Ran {
        self.program.run(["verify", "--repair", source])
    }

    fn pull(&self, source: &str, paths: &[PathBuf]) {
        let mut command = self.program.command(["pull", "-q", "--name", source, "--max-delete", "100"]);
        Ran::of(command.args(paths).output().unwrap()).well();
    }

    // As it is now, when `run` is empty.
    fn at(&self, source: &str, path: &str, run: &str) -> Ran {
        let path = format!("{source}:{}", self.client().join(path).display());
        if run.is_empty() { self.program.run(["cat", &path]) } else { self.program.run(["cat", &path, "--at", run]) }
    }

    // Somewhere in the trees.
    fn holds(&self, content: &str) -> bool {
        let mut waiting = ["snapshot", "archive"].map(|tree| self.dir.join("repo").join(tree)).to_vec();
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    waiting.push(entry.path());
                } else if kind.is_file() && fs::read(entry.path()).unwrap() == content.as_bytes() {
                    return true;
                }
            }
        }
        false
    }

    #[track_caller]
    fn gives_back(&self, source: &str, path: &str, run: &str, content: &str) {
        let ran = self.at(source, path, run);
        ran.well();
        assert_eq!(ran.stdout, content, "{path}");
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Each version, as text.
fn told(program: &Program) -> Vec<String> {
    let index = program.index();
    let sql = "SELECT source.name, hex(path), hex(version.name), kind, size, mtime, mode, uid, gid, hex(target), hex(hash), \
               from_run, until_run, flags, attributes FROM version JOIN directory ON directory.id = version.directory \
               JOIN source ON source.id = directory.source ORDER BY 1, 2, 3, 12, 13";
    let mut statement = index.prepare(sql).unwrap();
    let text = |row: &rusqlite::Row<'_>| -> rusqlite::Result<String> {
        (0..15).map(|at| row.get_ref(at).map(|value| format!("{value:?}"))).collect()
    };
    statement.query_map([], text).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_healthy_repository_is_taken_over_as_it_is() {
    let sample = Sample::unpack("healthy");
    let before = told(&sample.program);
    assert_eq!(before.len(), 62, "versions");
    sample.check().well();
    assert_eq!(sample.findings(), [""; 0]);
    assert_eq!(told(&sample.program), before);
    sample.program.run(["verify"]).well();
    for (path, run, content) in [
        ("chmod", "1", "first content of chmod\n"),
        ("setfattr", "3", "first content of setfattr\n"),
        ("setfattr", "5", "second content of setfattr\n"),
        ("linked-too", "3", "first content of linked\n"),
        ("stamps/x.20260101T000000Z/below", "1", "below\n"),
        ("x.20260101T000000Z~/below", "3", "below, too\n"),
        ("d~/other-name", "7", "in d with a tilde\n"),
    ] {
        sample.gives_back("one", path, run, content);
    }
    sample.gives_back("two", "other/file", "4", "of the other root\n");
    let to = sample.program.path("restored");
    let source = format!("one:{}", sample.client().display());
    sample.program.run(["restore", "--at", "1", &source, to.to_str().unwrap()]).well();
    assert_eq!(fs::read(restored(&to, "chmod")).unwrap(), b"first content of chmod\n");
    sample.pull("one", &[sample.client()]);
    sample.pull("two", &[sample.client().join("other"), sample.client().join("deep")]);
    sample.check().well();
    assert_eq!(sample.findings(), [""; 0]);
}

#[test]
fn versions_whose_bytes_were_pruned_are_repaired_or_reported() {
    let sample = Sample::unpack("pruned");
    let check = sample.check();
    assert_eq!(check.status, 1, "{}", check.stderr);
    for name in ["lost-chmod", "lost-link", "copied", "saved"] {
        assert!(check.stderr.contains(name), "{name} is missing in: {}", check.stderr);
    }
    let repair = sample.repair("one");
    sample.gives_back("one", "copied", "1", "first content of copied\n");
    sample.gives_back("one", "saved", "1", "first content of saved\n");
    for name in ["lost-chmod", "lost-link"] {
        assert!(repair.stderr.contains(name), "{name} is missing in: {}", repair.stderr);
        assert_ne!(sample.at("one", name, "1").status, 0);
    }
    let findings = sample.findings();
    assert!(findings.iter().all(|line| line.contains("/lost-")), "{findings:#?}");
    assert_ne!(sample.check().status, 0, "what is lost stays reported");
}

// Kills the first command of the new program at every step, each time with a fresh copy, until it is through.
fn killed_while_taken_over(name: &str, judge: impl Fn(&Sample)) {
    for step in 1.. {
        let sample = Sample::unpack(name);
        let mut command = sample.program.command(["index", "check"]);
        let ran = Ran::of(command.env("ARCHIVE_FAULT", format!("kill:{step}")).output().unwrap());
        judge(&sample);
        if ran.status >= 0 {
            assert!(step > 3, "only {step} steps could be killed");
            return;
        }
    }
}

#[test]
fn directories_that_shared_one_of_the_archive_get_their_files_wherever_the_upgrade_is_killed() {
    killed_while_taken_over("merged", |sample| {
        sample.repair("one");
        sample.gives_back("one", "top/photos/p.jpg", "1", "one picture\n");
        sample.gives_back("one", "top/photos~/p.jpg", "1", "another picture\n");
        sample.gives_back("one", "top/plain/p.jpg", "1", "a third picture\n");
        sample.check().well();
        assert_eq!(sample.findings(), [""; 0]);
        sample.program.run(["verify"]).well();
    });
}

#[test]
fn bytes_of_another_source_are_reported_and_fetched_again() {
    let sample = Sample::unpack("mixed");
    let verify = sample.program.run(["verify"]);
    assert_eq!(verify.status, 1, "{}", verify.stderr);
    assert!(verify.stderr.contains("two/mixed`") && verify.stderr.contains("mixed-past."), "{}", verify.stderr);
    sample.repair("two");
    sample.pull("two", &[sample.client().join("two")]);
    sample.gives_back("two", "two/mixed", "", "of two: mixed\n");
    sample.gives_back("one", "one/mixed", "1", "of one: mixed\n");
    let findings = sample.findings();
    assert!(!findings.is_empty() && findings.iter().all(|line| line.contains("mixed-past")), "{findings:#?}");
}

#[test]
fn what_a_killed_repair_put_aside_is_found_again() {
    let sample = Sample::unpack("repair-cut");
    sample.repair("one");
    sample.gives_back("one", "a", "1", "content of a\n");
    sample.gives_back("one", "b", "1", "content of b\n");
    sample.check().well();
    assert_eq!(sample.findings(), [""; 0]);
}

#[test]
fn a_batch_that_an_older_build_left_pending_is_finished() {
    for name in ["pending-3", "pending-4"] {
        let sample = Sample::unpack(name);
        sample.check().well();
        let findings = sample.findings();
        assert!(findings.iter().all(|line| line.ends_with("is left in staging")), "{findings:#?}");
        sample.pull("one", &[sample.client()]);
        assert_eq!(sample.findings(), [""; 0]);
        for number in 1..=6 {
            sample.gives_back("one", &format!("changed{number}"), "1", &format!("first content {number}\n"));
            sample.gives_back("one", &format!("gone/file{number}"), "1", &format!("goes {number}\n"));
            sample.gives_back("one", &format!("new/file{number}"), "", &format!("new {number}\n"));
        }
        sample.check().well();
    }
}

#[test]
fn index_of_every_format_is_upgraded_pulled_into_and_restored_from() {
    for format in [1, 2, 3, 5, 6] {
        let sample = Sample::unpack(&format!("index-{format}"));
        sample.check().well();
        assert_eq!(sample.findings(), [""; 0], "format {format}");
        sample.program.run(["verify"]).well();
        let to = sample.program.path("restored");
        for (run, flags, path, content) in [
            ("1", ["--at", "1"].as_slice(), "changed", "first content\n"),
            ("1", &["--at", "1"], "moved", "content that moves\n"),
            ("1", &["--at", "1"], "gone/file", "goes\n"),
            ("2", &[], "changed", "second content\n"),
            ("2", &[], "d/moved", "content that moves\n"),
            ("2", &[], "d/linked", "stays\n"),
            ("2", &[], "new/file", "new\n"),
        ] {
            let (to, source) = (to.join(run), format!("one:{}", sample.client().display()));
            if !to.exists() {
                sample.program.run([&["restore", &source, to.to_str().unwrap()], flags].concat()).well();
            }
            let restored = restored(&to, path);
            assert_eq!(fs::read_to_string(&restored).unwrap(), content, "format {format}: {}", restored.display());
        }
        let mode = fs::metadata(restored(&to.join("2"), "chmod")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "format {format}");
        assert_eq!(fs::read_link(restored(&to.join("2"), "link")).unwrap(), Path::new("d/same"), "format {format}");
        fs::write(sample.client().join("changed"), "third content\n").unwrap();
        sample.pull("one", &[sample.client()]);
        sample.gives_back("one", "changed", "", "third content\n");
        sample.gives_back("one", "changed", "2", "second content\n");
        sample.check().well();
        assert_eq!(sample.findings(), [""; 0], "format {format}");
    }
}

// What `restore` made of the client's directory.
fn restored(to: &Path, path: &str) -> PathBuf {
    let below = to.join("client");
    if below.exists() { below.join(path) } else { to.join(path) }
}

#[test]
fn batch_of_every_journal_format_is_finished_or_refused_and_nothing_is_lost() {
    for (format, is_known) in [(1, false), (2, false), (6, true)] {
        let sample = Sample::unpack(&format!("pending-{format}"));
        if is_known {
            sample.check().well();
        } else {
            let pull = sample.program.run(["pull", "--name", "one", sample.client().to_str().unwrap()]);
            pull.refused(1, &["an interrupted run of `one` can't be finished", "archive index rebuild"]);
            sample.program.run(["index", "rebuild"]).well();
        }
        sample.pull("one", &[sample.client()]);
        sample.gives_back("one", "changed", "", "second content\n");
        sample.gives_back("one", "d/moved", "", "content that moves\n");
        sample.gives_back("one", "new/file", "", "new\n");
        for content in ["first content\n", "goes\n"] {
            assert!(sample.holds(content), "format {format}: {content:?} is lost");
        }
        sample.check().well();
        assert_eq!(sample.findings(), [""; 0], "format {format}");
        sample.program.run(["verify"]).well();
    }
}
