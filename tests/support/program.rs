//! The program under test, in an environment of its own.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::Sshd;

/// The program with a repository, and nothing of the user's configuration.
pub struct Program {
    dir: tempfile::TempDir,
    lacks: String,
}

/// What came of running it.
pub struct Ran {
    /// The exit status; -1 when a signal ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Program {
    /// A program with an empty repository.
    pub fn new() -> Program {
        let program = Program::without_repository();
        program.init();
        program
    }

    /// Creates the repository, in this process: that is faster than a start of the program.
    pub fn init(&self) {
        archive::repository::Repository::create(&self.repo()).unwrap();
    }

    /// A program whose repository does not exist yet.
    pub fn without_repository() -> Program {
        let dir = tempfile::Builder::new().prefix("archive-test").tempdir_in("/tmp").unwrap();
        Program { dir, lacks: String::new() }
    }

    /// A program with a repository on a file system that lacks something: see `fault::lacks`.
    pub fn lacking(what: &str) -> Program {
        let program = Program::lacking_without_repository(what);
        program.run(["init"]).well();
        program
    }

    /// The same, before its repository is created.
    pub fn lacking_without_repository(what: &str) -> Program {
        Program { lacks: what.to_owned(), ..Program::without_repository() }
    }

    /// A path beside the repository.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The repository.
    pub fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    /// Where the snapshot of a source has a client's path.
    pub fn snapshot(&self, source: &str, path: &Path) -> PathBuf {
        self.repo().join("snapshot").join(source).join(path.strip_prefix("/").unwrap())
    }

    /// Where the archive of a source has a client's directory.
    pub fn archive(&self, source: &str, path: &Path) -> PathBuf {
        self.repo().join("archive").join(source).join(path.strip_prefix("/").unwrap())
    }

    /// The names in the archive of a client's directory, sorted; none if it is not there.
    pub fn archived(&self, source: &str, path: &Path) -> Vec<String> {
        super::names(&self.archive(source, path))
    }

    /// The command line with these arguments, ready to be run.
    pub fn command<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archive"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.dir.path())
            .env("ARCHIVE_LACKS", &self.lacks);
        command.arg("--repo").arg(self.repo()).args(arguments).stdin(Stdio::null()).current_dir(self.dir.path());
        command
    }

    /// Writes a configuration; returns where it is.
    pub fn configured(&self, text: &str) -> String {
        let path = self.path("archive.toml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The repository's index, opened without the program.
    pub fn index(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.repo().join("index.sqlite")).unwrap()
    }

    /// Changes the index behind the program's back.
    pub fn change_index(&self, sql: &str) {
        self.index().execute_batch(sql).unwrap();
    }

    /// Runs it with these arguments.
    pub fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Pulls through an sshd; `arguments` are targets such as `client:/dir`, and flags.
    pub fn pull<I: AsRef<OsStr>>(&self, sshd: &Sshd, arguments: impl IntoIterator<Item = I>) -> Ran {
        let mut command = self.command(["--json", "pull", "-F"]);
        Ran::of(command.arg(sshd.config()).args(arguments).output().unwrap())
    }

    /// Pulls a path through an sshd, which must go well; returns the summary.
    pub fn pull_well(&self, sshd: &Sshd, path: &Path, flags: &[&str]) -> Value {
        let target = format!("client:{}", path.to_str().unwrap());
        let ran = self.pull(sshd, [&[target.as_str()], flags].concat());
        ran.well();
        ran.summary()
    }

    /// Pulls a path of this machine, which must go well; returns the summary.
    pub fn pull_local(&self, path: &Path, flags: &[&str]) -> Value {
        let ran = self.run([&["--json", "pull", path.to_str().unwrap()], flags].concat());
        ran.well();
        ran.summary()
    }

    /// The index agrees with the trees.
    #[track_caller]
    pub fn assert_index_is_right(&self) {
        let ran = self.run(["index", "check"]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    }

    /// The places of a content, as `find --same-as` lists them, sorted.
    pub fn places(&self, source: &str, path: &Path) -> Vec<String> {
        let ran = self.run(["find", "--same-as", &format!("{source}:{}", path.to_str().unwrap())]);
        let mut places: Vec<_> = ran.stdout.lines().map(str::to_owned).collect();
        places.sort();
        places
    }

    /// Everything in the repository, with kinds, times and contents: equal texts mean that nothing was changed.
    pub fn fingerprint(&self) -> String {
        let script =
            "find . -printf '%p %y %m %T@ %s %l\\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum";
        let output = Command::new("sh").args(["-c", script]).current_dir(self.repo()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Ran {
    /// What a finished process left.
    pub fn of(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { status: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// It went well.
    #[track_caller]
    pub fn well(&self) {
        assert_eq!(self.status, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
    }

    /// It failed with this status, and one line on standard error that has all these words in it.
    #[track_caller]
    pub fn refused(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "one line is wanted:\n{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is missing in: {}", self.stderr);
        }
    }

    /// Its arguments were refused, in words that hold all of these.
    #[track_caller]
    pub fn refused_usage(&self, words: &[&str]) {
        assert_eq!(self.status, 2, "{}", self.stderr);
        words.iter().for_each(|word| assert!(self.stderr.contains(word), "`{word}` is missing in: {}", self.stderr));
    }

    /// The JSON of the last line: a pull's summary.
    #[track_caller]
    pub fn summary(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_else(|| panic!("no summary; stderr: {}", self.stderr));
        serde_json::from_str(line).unwrap()
    }

    /// All lines as JSON.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The writing end of a pipe whose reader has ended, as `| head -1` leaves it.
pub fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}
