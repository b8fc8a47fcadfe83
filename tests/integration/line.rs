//! Lines that break, stall or are hung up: the pull notices, keeps what it has, and goes on.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::*;

/// A client with small files, which come through the helper, and larger ones, which come by SFTP.
fn client() -> Tree {
    let small = (0..200).map(|n| (format!("small{n}"), file(format!("small {n}").repeat(200))));
    let large = (0..4).map(|n| (format!("large{n}"), file(vec![n as u8 + 1; 700_000])));
    Tree::new(small.chain(large))
}

/// What came of a pull whose line breaks after so many bytes from the client; `once` lets a second connection live.
fn broken_after(bytes: u64, how: Break, once: bool, flags: &[&str]) -> (Ran, Program, Tree, Sshd) {
    let (sshd, program, client) = (Sshd::new(), Program::new(), client());
    sshd.break_line(bytes, how, once);
    let target = format!("client:{}", client.root().display());
    let ran = program.pull(&sshd, [&[target.as_str()], flags].concat());
    (ran, program, client, sshd)
}

/// After whatever happened, a pull over a sound line ends with the client's state.
fn recovers(program: &Program, client: &Tree, sshd: &Sshd) {
    sshd.configure_client("");
    program.assert_index_is_right();
    program.pull_well(sshd, &client.root(), &["--lock-wait", "10s"]);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
    assert_eq!(program.archived("client", &client.root()), [""; 0]);
}

#[test]
fn a_line_that_breaks_at_any_point_costs_nothing_that_came() {
    for bytes in (4_000..3_000_000).step_by(330_007) {
        let (ran, program, client, sshd) = broken_after(bytes, Break::Cut, false, &["--retries", "0"]);
        assert_eq!(ran.status, 6, "after {bytes} bytes: {}", ran.stderr);
        recovers(&program, &client, &sshd);
    }
}

#[test]
fn line_that_breaks_before_the_helper_runs_is_lost_and_no_forced_command() {
    for bytes in (2_500..6_500).step_by(400) {
        let (ran, ..) = broken_after(bytes, Break::Cut, false, &["--retries", "0"]);
        assert_eq!(ran.status, 6, "after {bytes} bytes: {}", ran.stderr);
    }
}

#[test]
fn after_a_break_the_same_run_goes_on() {
    let (ran, program, client, sshd) = broken_after(1_500_000, Break::Cut, true, &[]);
    ran.well();
    let summary = ran.summary();
    assert!(ran.stderr.contains("connects again"), "{}", ran.stderr);
    assert_eq!((&summary["run"], &summary["outcome"]), (&1.into(), &"ok".into()));
    let sum: u64 = ["unchanged", "new", "changed", "touched"].iter().map(|name| summary[name].as_u64().unwrap()).sum();
    assert_eq!(summary["listed"], sum);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    recovers(&program, &client, &sshd);
}

#[test]
fn a_line_that_breaks_for_good_ends_partial_with_6() {
    let (ran, program, client, sshd) = broken_after(1_200_000, Break::Cut, false, &["--retries", "1"]);
    assert_eq!(ran.status, 6, "{}", ran.stderr);
    assert_eq!(ran.summary()["outcome"], "partial");
    assert_eq!(ran.stderr.matches("connects again").count(), 1, "{}", ran.stderr);
    let there = names(&program.snapshot("client", &client.root()));
    assert!(!there.is_empty(), "what came is in place");
    recovers(&program, &client, &sshd);
}

#[test]
fn a_line_that_freezes_is_noticed_in_time() {
    for bytes in [5_000, 1_200_000] {
        let begun = Instant::now();
        let (ran, program, client, sshd) =
            broken_after(bytes, Break::Freeze, false, &["--retries", "0", "--timeout", "2s"]);
        assert_eq!(ran.status, 6, "{}", ran.stderr);
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
        recovers(&program, &client, &sshd);
    }
}

fn slow_pull(sshd: &Sshd, program: &Program, client: &Tree) -> Child {
    let mut command = program.command(["pull", "--bwlimit", "400KB", "-F"]);
    let target = format!("client:{}", client.root().display());
    command.arg(sshd.config()).arg(target).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

#[test]
fn a_signal_ends_the_pull_in_good_order_and_in_time() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let (sshd, program, client) = (Sshd::new(), Program::new(), client());
        let child = slow_pull(&sshd, &program, &client);
        std::thread::sleep(Duration::from_millis(1500));
        let asked = Instant::now();
        send(&child, signal);
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        assert_eq!(ran.status, status, "{}", ran.stderr);
        assert!(ran.stderr.contains("stopped by a signal"), "{}", ran.stderr);
        assert!(!names(&program.snapshot("client", &client.root())).is_empty(), "what came is in place");
        let exported = program.run(["index", "export"]).stdout;
        assert!(exported.contains("small"), "and in the index");
        recovers(&program, &client, &sshd);
    }
}

/// An sshd that speaks ssh, but never gets to authentication; returns the file with the number of its process.
fn never_lets_in(sshd: &Sshd) -> std::path::PathBuf {
    let (script, pid) = (sshd.path("silent"), sshd.path("silent-pid"));
    let text =
        format!("echo $$ >{pid}.new; mv {pid}.new {pid}; echo SSH-2.0-silent; exec sleep 300\n", pid = pid.display());
    std::fs::write(&script, text).unwrap();
    sshd.configure_client(&format!("Host client\n  ProxyCommand /bin/sh {}\n", script.display()));
    pid
}

/// The process whose number is in a file has ended, now or in a moment.
#[track_caller]
fn assert_gone(pid: &std::path::Path) {
    let number = std::fs::read_to_string(pid).unwrap().trim().to_owned();
    // Whether anybody has taken note of its end is another matter.
    let has_ended = || {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
    };
    let wait = || std::thread::sleep(Duration::from_millis(20));
    assert!(
        (0..50).any(|_| has_ended() || {
            wait();
            false
        }),
        "{number} survives"
    );
}

#[test]
fn authentication_that_never_ends_is_given_up() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let pid = never_lets_in(&sshd);
    let begun = Instant::now();
    let ran = program.pull(&sshd, ["client:/etc", "-q", "--timeout", "1s"]);
    ran.refused(6, &["can't reach `client`", "did not let us in within 2s", "ssh -v ", " client true` waits"]);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_gone(&pid);
}

#[test]
fn signal_while_connecting_ends_ssh_too() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        for arguments in [&["pull", "client:/etc"][..], &["helper", "status", "client"]] {
            let (sshd, program) = (Sshd::new(), Program::new());
            let pid = never_lets_in(&sshd);
            let mut command = program.command(arguments);
            command.arg("-F").arg(sshd.config()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = command.spawn().unwrap();
            let begun = (0..500).any(|_| {
                pid.exists() || {
                    std::thread::sleep(Duration::from_millis(20));
                    false
                }
            });
            assert!(begun, "ssh was not started");
            send(&child, signal);
            let asked = Instant::now();
            let ran = Ran::of(child.wait_with_output().unwrap());
            assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
            assert_eq!(ran.status, status, "{}", ran.stderr);
            assert!(ran.stderr.contains("stopped by a signal"), "{}", ran.stderr);
            assert_gone(&pid);
        }
    }
}

#[test]
fn a_second_signal_ends_it_at_once_and_that_is_safe() {
    let (sshd, program, client) = (Sshd::new(), Program::new(), client());
    let child = slow_pull(&sshd, &program, &client);
    std::thread::sleep(Duration::from_millis(1000));
    send(&child, Signal::SIGTERM);
    send(&child, Signal::SIGTERM);
    let asked = Instant::now();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(ran.status, 143);
    recovers(&program, &client, &sshd);
}

#[test]
fn room_is_left_on_the_disk() {
    let program = Program::new();
    let client = Tree::new([("f", file("f"))]);
    let root = client.root();
    let root = root.to_str().unwrap();
    program.run(["pull", "-q", "--min-free", "100%", root]).refused(5, &["less than min_free", "--min-free"]);
    assert!(names(&program.snapshot("localhost", &client.root())).is_empty());
    program.run(["pull", "-q", "--min-free", "900PiB", root]).refused(5, &["less than min_free"]);
    program.run(["pull", "-q", "--min-free", "much", root]).refused_usage(&["`much` is no room"]);
    program.pull_local(&client.root(), &["--min-free", "0%"]);
}

#[test]
fn inodes_are_left_on_the_disk_and_copies_count() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let empty = |n: u32| (format!("f{n}"), file(""));
    let equal = |n: u32| (format!("f{n}"), file(vec![7; 2_000_000]));
    let flags = ["--link", "never", "--min-free", "40%"];
    for (options, client) in [
        ("size=100m,nr_inodes=3000", Tree::new((0..2800).map(empty))),
        ("size=100m,nr_inodes=3000", Tree::new((0..2800).map(|n| (format!("d{n}"), dir::<&str>([]))))),
        ("size=100m", Tree::new((0..60).map(equal))),
    ] {
        let program = Program::without_repository();
        std::fs::create_dir(program.repo()).unwrap();
        let _mounted = Mount::tmpfs(&program.repo(), options);
        program.init();
        let ran = program.run([&["pull", "-q", client.root().to_str().unwrap()], &flags[..]].concat());
        ran.refused(5, &["less than min_free"]);
    }
}

#[test]
fn a_disk_is_not_filled_to_the_brim() {
    if !is_root() {
        return eprintln!("needs root, for it mounts a file system");
    }
    let program = Program::without_repository();
    std::fs::create_dir(program.repo()).unwrap();
    let _mounted = Mount::tmpfs(&program.repo(), "size=100m");
    program.init();
    let client = Tree::new((0..60).map(|n| (format!("f{n}"), file(vec![n as u8; 2_000_000]))));
    let ran = program.run(["pull", "-q", "--min-free", "40%", client.root().to_str().unwrap()]);
    ran.refused(5, &["less than min_free"]);
    let held = names(&program.snapshot("localhost", &client.root())).len();
    // Of 50 that there would be room for, 30 fit above what has to stay free; it is looked at every 16 MiB.
    assert!((8..=38).contains(&held), "{held} files are in place");
    program.assert_index_is_right();
}

#[test]
fn files_that_are_too_large_are_left_out_and_stay_as_they_were() {
    let program = Program::new();
    let client = Tree::new([("grows", file("small")), ("large", file(vec![1; 5000])), ("small", file("s"))]);
    let summary = program.pull_local(&client.root(), &["--max-file-size", "4KB"]);
    assert_eq!((&summary["new"], &summary["skipped"]), (&3.into(), &1.into()));
    client.put("grows", file(vec![2; 6000]));
    let ran = program.run(["pull", "--max-file-size", "4KB", client.root().to_str().unwrap()]);
    ran.well();
    assert!(ran.stderr.contains("left out 2 files"), "{}", ran.stderr);
    assert_eq!(std::fs::read(program.snapshot("localhost", &client.path("grows"))).unwrap(), b"small");
    program.pull_local(&client.root(), &[]);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
}

/// A large file of which a pull that ended early left a part: killed, or with its line cut.
fn begun(killed: bool) -> (Sshd, Program, Tree) {
    let (sshd, program) = (Sshd::new(), Program::new());
    let noise: Vec<u8> =
        (0..6_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2..].to_vec()).collect();
    let client = Tree::new([("large", file(noise))]);
    if killed {
        let mut child = slow_large_pull(&sshd, &program, &client);
        std::thread::sleep(Duration::from_millis(2500));
        child.kill().unwrap();
        child.wait().unwrap();
    } else {
        sshd.break_line(7_000_000, Break::Cut, false);
        let ran = program.pull(&sshd, ["--retries", "0", &format!("client:{}", client.root().display())]);
        assert_eq!(ran.status, 6, "{}", ran.stderr);
        sshd.configure_client("");
    }
    assert!(!program.snapshot("client", &client.path("large")).exists());
    (sshd, program, client)
}

fn slow_large_pull(sshd: &Sshd, program: &Program, client: &Tree) -> Child {
    let mut command = program.command(["pull", "--bwlimit", "3MB", "-q", "-F"]);
    let target = format!("client:{}", client.root().display());
    command.arg(sshd.config()).arg(target).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn parts(program: &Program) -> Vec<std::path::PathBuf> {
    let staging = program.repo().join("staging/client");
    names(&staging).iter().filter(|name| name.starts_with("partial-")).map(|name| staging.join(name)).collect()
}

#[test]
fn a_large_file_that_broke_off_is_carried_on() {
    for killed in [true, false] {
        let (sshd, program, client) = begun(killed);
        let part = std::fs::metadata(&parts(&program)[0]).unwrap().len();
        assert!(part > 1_000_000, "{part}");
        let summary = program.pull_well(&sshd, &client.root(), &["--lock-wait", "10s"]);
        assert_eq!(summary["bytes_copied"], 12_000_000 - part, "the rest only");
        assert_same(&client.root(), &program.snapshot("client", &client.root()));
        assert!(parts(&program).is_empty());
        program.assert_index_is_right();
    }
}

#[test]
fn what_is_left_of_a_file_that_broke_off_is_compared_with_its_earlier_version() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let was = noise(1, 12_000_000);
    let client = Tree::new([("large", at(1_000_000_000, 0, file(was.clone())))]);
    program.pull_well(&sshd, &client.root(), &[]);
    // Too much is new for it to be put together ahead; with a limit nothing is compared.
    client.put("large", file([&noise(2, 6_000_000), &was[6_000_000..]].concat()));
    let mut child = slow_large_pull(&sshd, &program, &client);
    std::thread::sleep(Duration::from_millis(1500));
    child.kill().unwrap();
    child.wait().unwrap();
    let part = std::fs::metadata(&parts(&program)[0]).unwrap().len();
    assert!((500_000..5_500_000).contains(&part), "{part}");
    let summary = program.pull_well(&sshd, &client.root(), &["--lock-wait", "10s"]);
    let copied = summary["bytes_copied"].as_u64().unwrap();
    assert!((5_900_000..6_300_000).contains(&(copied + part)), "{copied} bytes came, {part} were here");
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    assert!(parts(&program).is_empty());
    program.assert_index_is_right();
}

#[test]
fn a_part_that_was_spoilt_is_found_by_its_hash() {
    let (sshd, program, client) = begun(true);
    let part = parts(&program).remove(0);
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    program.pull_well(&sshd, &client.root(), &["--lock-wait", "10s"]);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn a_part_of_another_version_is_not_carried_on() {
    let (sshd, program, client) = begun(true);
    client.put("large", file(vec![7; 5_000_000]));
    let summary = program.pull_well(&sshd, &client.root(), &["--lock-wait", "10s"]);
    assert_eq!(summary["bytes_copied"], 5_000_000);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    assert!(parts(&program).is_empty(), "and goes in the end");
}

#[test]
fn a_directory_that_is_as_it_was_before_a_broken_run_is_looked_at_all_the_same() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("d", dir::<&str>([])), ("f", file("f"))]);
    program.pull_well(&sshd, &client.root(), &[]);
    client.add([("d/a", file("small")), ("d/b", file(vec![1; 3_000_000]))]);
    let child = slow_pull(&sshd, &program, &client);
    std::thread::sleep(Duration::from_millis(1500));
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert_eq!(names(&program.snapshot("client", &client.path("d"))), ["a"], "one came, the other did not");
    client.remove("d/a");
    client.remove("d/b");
    program.pull_well(&sshd, &client.root(), &["--lock-wait", "10s"]);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn a_directory_whose_own_entry_a_broken_run_did_not_reach_is_not_forgotten() {
    let program = Program::new();
    let client = Tree::new([("d", dir([("e", dir([("f", file("f"))]))])), ("g", file("g"))]);
    program.pull_local(&client.root(), &[]);
    // As a run leaves it that was cut off between a directory's entries and its own.
    let cut = "DELETE FROM version WHERE name IN (x'64', x'65'); UPDATE run SET outcome = NULL; \
               UPDATE directory SET fingerprint = NULL WHERE CAST(path AS TEXT) LIKE '%/d%'";
    program.change_index(cut);
    client.remove("d");
    program.pull_local(&client.root(), &[]);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
    assert_eq!(program.archived("localhost", &client.path("d/e")).len(), 1);
    program.assert_index_is_right();
}
