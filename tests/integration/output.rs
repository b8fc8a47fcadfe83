//! What is printed and logged, for people and for programs.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const FIELDS: [&str; 24] = [
    "type",
    "source",
    "run",
    "outcome",
    "exit",
    "remote",
    "listed",
    "unchanged",
    "new",
    "changed",
    "touched",
    "removed",
    "copied",
    "linked",
    "archived",
    "skipped",
    "excluded",
    "bytes_copied",
    "bytes_linked",
    "bytes_sent",
    "bytes_received",
    "warnings",
    "errors",
    "seconds",
];

#[test]
fn the_summary_has_exactly_its_fields_in_order() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", file("12345")), ("d", dir([("g", file("12345"))]))]);
    let ran = program.pull(&sshd, [format!("client:{}", client.root().display())]);
    let line = ran.stdout.lines().last().unwrap();
    let at: Vec<_> = FIELDS
        .iter()
        .map(|field| line.find(&format!("\"{field}\":")).unwrap_or_else(|| panic!("{field}: {line}")))
        .collect();
    assert!(at.windows(2).all(|pair| pair[0] < pair[1]), "{line}");
    let summary = ran.summary();
    assert_eq!(summary.as_object().unwrap().len(), FIELDS.len());
    assert_eq!(
        (&summary["listed"], &summary["new"], &summary["bytes_copied"], &summary["bytes_linked"]),
        (&4.into(), &4.into(), &5.into(), &5.into())
    );
    assert!(summary["bytes_received"].as_u64().unwrap() > 5 && summary["bytes_sent"].as_u64().unwrap() > 0);
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
}

#[test]
fn a_dry_run_tells_file_by_file_and_changes_nothing() {
    let (sshd, program) = (Sshd::new(), Program::without_repository());
    let client = Tree::new([
        ("same", file("same")),
        ("edit", at(1_000_000_000, 0, file("first"))),
        ("touch", at(1_000_000_000, 0, file("t"))),
        ("gone", dir([("x", file("x"))])),
    ]);
    let target = format!("client:{}", client.root().display());
    let fresh = program.command(["pull", "-n", "-F"]).arg(sshd.config()).arg(&target).output().unwrap();
    assert_eq!((Ran::of(fresh).stdout.matches("new      /").count(), program.repo().exists()), (6, false));
    program.init();
    program.pull_well(&sshd, &client.root(), &[]);
    client.put("edit", at(1_100_000_000, 0, file("tsrif")));
    client.put("touch", at(1_100_000_000, 0, file("t")));
    client.remove("gone");
    client.add([("fresh", file("fresh"))]);
    // But for the time of the repository itself, in which SQLite makes files and removes them.
    let fingerprint = || program.fingerprint().split_once('\n').unwrap().1.to_owned();
    let before = fingerprint();
    let ran = Ran::of(program.command(["pull", "-n", "-F"]).arg(sshd.config()).arg(&target).output().unwrap());
    ran.well();
    let mut told: Vec<_> = ran
        .stdout
        .lines()
        .filter(|line| line.contains(" /"))
        .map(|line| line.replace(client.root().to_str().unwrap(), ""))
        .collect();
    told.sort();
    assert_eq!(
        told,
        ["changed  /edit", "new      /fresh", "removed  /gone", "removed  /gone/x", "touched  ", "touched  /touch"]
    );
    assert_eq!(fingerprint(), before);
}

#[test]
fn people_get_three_lines_and_no_progress_in_a_file() {
    let program = Program::new();
    let client = Tree::new([("f", file("f"))]);
    let ran = program.run(["pull", client.root().to_str().unwrap()]);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!((lines.len(), ran.stderr.as_str()), (3, ""));
    assert!(lines[0].starts_with("localhost: ok, run 1 in ") && lines[0].ends_with(" (local)"), "{}", lines[0]);
    assert_eq!(lines[1], "  0 of 2 entries unchanged: 2 new, 0 changed, 0 touched, 0 removed");
    assert!(lines[2].starts_with("  copied 1 file (1 B), linked 0 (0 B), archived 0; sent "), "{}", lines[2]);
    let verbose = program.run(["-v", "pull", client.root().to_str().unwrap(), "--name", "other"]);
    assert!(verbose.stdout.contains(&format!("new      {}/f", client.root().display())), "{}", verbose.stdout);
    assert_eq!(program.run(["-q", "pull", client.root().to_str().unwrap()]).stdout, "");
}

#[test]
fn a_terminal_shows_one_line_of_progress_that_is_gone_in_the_end() {
    let program = Program::new();
    let client = Tree::new([("f", file(vec![1; 1_000_000]))]);
    let line = format!(
        "{} --repo {} pull --bwlimit 700KB {}",
        env!("CARGO_BIN_EXE_archive"),
        program.repo().display(),
        client.root().display()
    );
    // script(1) gives it a terminal.
    let output = std::process::Command::new("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("localhost: copying at ") && shown.contains("/s"), "{shown:?}");
    let last = shown.rfind("/s").unwrap();
    // The line is erased before the summary comes.
    assert!(shown[last..].contains("\x1b[2K") && shown[last..].contains("copied 1 file "), "{shown:?}");
    assert!(shown.trim_end().ends_with("received 0 B") || shown.contains("archived 0"), "{shown:?}");
}

#[test]
fn colours_come_only_when_asked_for() {
    let program = Program::new();
    let client = Tree::new([("f", file("f"))]);
    let root = client.root();
    assert!(!program.run(["pull", root.to_str().unwrap()]).stdout.contains('\x1b'));
    assert!(program.run(["--color", "always", "pull", root.to_str().unwrap()]).stdout.contains("\x1b[32mok"));
}

#[test]
fn names_that_are_no_text_come_escaped_and_whole() {
    let program = Program::new();
    let client = Tree::new([(&b"caf\xe9\x1b[31m"[..], file("x"))]);
    let ran = program.run(["--json", "-v", "pull", client.root().to_str().unwrap()]);
    let line = ran.lines().into_iter().find(|line| line["path_b64"].is_string()).unwrap();
    assert!(line["path"].as_str().unwrap().ends_with("/caf\\xe9\\x1b[31m"), "{line}");
    let plain = program.run(["-v", "pull", client.root().to_str().unwrap(), "--name", "again"]);
    assert!(!plain.stdout.contains('\x1b') && plain.stdout.contains("caf\\xe9\\x1b[31m"));
}

#[test]
fn the_log_has_time_source_and_run() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", file("f"))]);
    program.pull_well(&sshd, &client.root(), &[]);
    program.pull(&sshd, ["client:/no/such/place"]);
    let log = std::fs::read_to_string(program.repo().join("log/archive.log")).unwrap();
    let lines: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert!(lines.iter().all(|(time, _)| time.len() == 20 && time.ends_with('Z')), "{log}");
    assert_eq!(lines[0].1, "INFO client run 1: begins");
    assert!(lines[1].1.starts_with("INFO client run 1: ends ok after ") && lines[1].1.contains("copied=1"), "{log}");
    assert!(
        lines.iter().any(|(_, text)| text.starts_with("ERROR client run 2: `/no/such/place` does not exist")),
        "{log}"
    );
}

#[test]
fn a_reader_that_leaves_early_is_no_trouble() {
    let program = Program::new();
    let client = Tree::new((0..2000).map(|n| (format!("f{n}"), file("x"))));
    program.pull_local(&client.root(), &[]);
    let script = format!(
        "'{}' --repo '{}' index export | head -1; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_archive"),
        program.repo().display()
    );
    let ran = Ran::of(std::process::Command::new("bash").args(["-c", &script]).output().unwrap());
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    serde_json::from_str::<Value>(ran.stdout.trim()).unwrap();
}

#[test]
fn writing_commands_go_on_when_nobody_reads_their_output() {
    let program = Program::new();
    let client = Tree::new((0..20).map(|n| (format!("f{n}"), file(format!("first {n}")))));
    let root = client.root().to_str().unwrap().to_owned();
    let run = |arguments: &[&str]| {
        let ran = Ran::of(program.command(arguments).stdout(closed_pipe()).output().unwrap());
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{arguments:?}");
    };
    run(&["pull", "-v", "--name", "laptop", &root]);
    client.add((0..20).map(|n| (format!("f{n}"), at(1_600_000_000, 0, file(format!("second {n}"))))));
    run(&["--json", "pull", "-v", "--name", "laptop", &root]);
    let export = || program.run(["index", "export"]).stdout;
    assert_eq!(export().lines().filter(|line| line.contains("\"until_run\":2")).count(), 20);
    run(&["restore", "-v", "laptop", program.path("back").to_str().unwrap()]);
    assert_same(&client.root(), &program.path("back").join(client.root().strip_prefix("/").unwrap()));
    // SQLite makes files in the directory while it reads.
    let state = || program.fingerprint().split_once('\n').unwrap().1.to_owned();
    let before = state();
    run(&["prune", "-n", "laptop", "--keep-last", "1"]);
    run(&["forget", "-n", &format!("laptop:{root}")]);
    assert!(state() == before, "a dry run changed something");
    run(&["prune", "-v", "laptop", "--keep-last", "1"]);
    assert!(!export().contains("\"until_run\":2"), "it stopped in the middle");
    run(&["verify", "--repair"]);
    run(&["-q", "index", "rebuild"]);
    run(&["forget", "-v", "--yes", &format!("laptop:{root}")]);
    assert!(!export().contains("/f1\""), "it stopped in the middle");
    program.assert_index_is_right();
}

#[test]
fn closed_standard_error_ends_nothing() {
    let program = Program::new();
    let client = Tree::new([("f", file("f"))]);
    let mut command =
        program.command(["pull", "-vv", "--name", "laptop", client.root().to_str().unwrap(), "--exclude", "/x"]);
    let ran = Ran::of(command.stderr(closed_pipe()).output().unwrap());
    assert_eq!(ran.status, 0);
    let mut command = program.command(["ls", "nobody"]);
    assert_eq!(Ran::of(command.stderr(closed_pipe()).output().unwrap()).status, 2);
}

#[test]
fn usage_is_told_and_completions_are_printed() {
    let program = Program::new();
    assert_eq!(program.run::<&str>([]).status, 2);
    assert_eq!(program.run(["pull"]).status, 2);
    assert_eq!(program.run(["--version"]).stdout, format!("archive {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        assert!(program.run(["completions", shell]).stdout.contains("archive"));
    }
}

#[test]
fn a_dry_run_reads_a_repository_that_can_t_be_written_to() {
    if !is_root() {
        return;
    }
    let program = Program::new();
    let client = Tree::new([("f", file("f"))]);
    program.pull_local(&client.root(), &[]);
    client.add([("g", file("g"))]);
    let repo = program.repo();
    let before = names(&repo);
    let mount = |arguments: &[&str]| {
        let mounted = std::process::Command::new("mount").args(arguments).arg(&repo).status().unwrap();
        assert!(mounted.success());
    };
    mount(&["--bind", repo.to_str().unwrap()]);
    mount(&["-o", "remount,bind,ro"]);
    let ran = program.run(["pull", "-n", client.root().to_str().unwrap()]);
    assert!(std::process::Command::new("umount").arg(&repo).status().unwrap().success());
    ran.well();
    let new: Vec<_> = ran.stdout.lines().filter(|line| line.starts_with("new ")).collect();
    assert!(new.len() == 1 && new[0].ends_with("/g"), "{}", ran.stdout);
    assert_eq!(names(&repo), before);
}

/// Runs a pull that signals end, on a terminal of 40 columns; returns what the terminal shows between
/// the sequences that erase the line.
fn progress_until(signals: &[Signal]) -> Vec<String> {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new((0..40).map(|n| (format!("f{n}"), file(vec![n as u8; 100_000]))));
    let pid = program.path("pid");
    let line = format!(
        "stty cols 40 rows 20; echo $$ >{pid}; exec {archive} --repo {repo} pull --bwlimit 400KB -F {config} client:{root}",
        pid = pid.display(),
        archive = env!("CARGO_BIN_EXE_archive"),
        repo = program.repo().display(),
        config = sshd.config().display(),
        root = client.root().display(),
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env_clear().env("PATH", "/usr/bin:/bin").env("TERM", "xterm");
    command.env("HOME", program.path("home")).stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    while !fs::read_to_string(&pid).is_ok_and(|number| number.ends_with('\n')) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(2000));
    let number = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    signals.iter().for_each(|signal| kill(Pid::from_raw(number), *signal).unwrap());
    let shown = String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned();
    shown.split("\x1b[2K").map(|text| text.replace('\r', "")).collect()
}

#[test]
fn progress_line_fits_the_terminal_and_is_erased_at_the_end() {
    for signals in [&[Signal::SIGINT][..], &[Signal::SIGINT, Signal::SIGTERM]] {
        let shown = progress_until(signals);
        let lines: Vec<_> = shown.iter().filter(|text| text.contains("client: cop")).collect();
        assert!(lines.len() > 3, "{shown:?}");
        for line in lines {
            // There is room for the `^C` that the terminal echoes, and the line is in the row that is erased.
            let row = line.rsplit('\n').next().unwrap();
            assert!(row.contains("client: cop") && row.chars().count() <= 37, "{line:?}");
        }
        assert!(!shown.last().unwrap().contains("client: cop"), "{shown:?}");
    }
}
