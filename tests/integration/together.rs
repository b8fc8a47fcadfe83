//! Several at once: pulls of different sources, readers, rebuilds, and somebody who swaps directories for symlinks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::*;

fn many(prefix: &str) -> Tree {
    Tree::new((0..8).map(|d| {
        let files = (0..60).map(|n| (format!("f{n}"), file(format!("{prefix} {d} {n}").repeat(50))));
        (format!("d{d}"), dir(files))
    }))
}

fn begin(program: &Program, client: &Tree, source: &str) -> Child {
    let mut command = program.command(["pull", "-q", "--name", source]);
    command.arg(client.root()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn different_sources_are_pulled_at_the_same_time_and_read_meanwhile() {
    let program = Program::new();
    let clients: Vec<_> = (0..4).map(|n| (format!("source{n}"), many(&format!("client {n}")))).collect();
    // One after the other makes the repository.
    program.pull_local(&clients[0].1.path("d0"), &["--name", "first"]);
    let pulls: Vec<_> = clients.iter().map(|(source, client)| begin(&program, client, source)).collect();
    for _ in 0..5 {
        program.run(["index", "stats"]).well();
        let found = program.run(["find", "--hash", "00000000"]).status;
        assert!(matches!(found, 0 | 1), "{found}");
    }
    for pull in pulls {
        Ran::of(pull.wait_with_output().unwrap()).well();
    }
    for (source, client) in &clients {
        assert_same(&client.root(), &program.snapshot(source, &client.root()));
    }
    program.assert_index_is_right();
}

#[test]
fn a_rebuild_and_a_pull_keep_out_of_each_others_way() {
    let program = Program::new();
    let client = many("client");
    program.pull_local(&client.root(), &[]);
    let mut command = program.command(["pull", "-q", "--bwlimit", "100KB", "--name", "slow"]);
    let other = many("other");
    let mut slow = command.arg(other.root()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    program.run(["index", "rebuild"]).refused(11, &["the repository is in use"]);
    slow.kill().unwrap();
    slow.wait().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while program.run(["index", "rebuild"]).status == 11 {
        assert!(std::time::Instant::now() < deadline);
    }
    program.assert_index_is_right();
}

#[test]
fn who_swaps_directories_for_symlinks_leads_nobody_outside() {
    let program = Program::new();
    let canary = program.path("canary");
    fs::create_dir(&canary).unwrap();
    for d in 0..8 {
        fs::create_dir(canary.join(format!("d{d}"))).unwrap();
    }
    fs::write(canary.join("d0/f0"), "must stay").unwrap();
    let client = many("first");
    program.pull_local(&client.root(), &[]);
    let trees = [program.snapshot("localhost", &client.root()), program.archive("localhost", &client.root())];
    let before = listed(&canary);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                let name = format!("d{}", round % 8);
                for tree in &trees {
                    let (at, aside) = (tree.join(&name), tree.join(format!("aside{round}")));
                    if fs::rename(&at, &aside).is_ok() && symlink(canary.join(&name), &at).is_ok() {
                        std::thread::yield_now();
                        // What the pull made of it meanwhile stays as it is.
                        if fs::symlink_metadata(&at).is_ok_and(|found| found.is_symlink()) {
                            let _ = fs::remove_file(&at);
                            let _ = fs::rename(&aside, &at);
                        }
                    }
                }
                if over.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        for round in 0..6 {
            for d in 0..8 {
                for n in 0..20 {
                    client.put(format!("d{d}/f{n}"), file(format!("round {round} {d} {n}")));
                }
                client.remove(format!("d{d}/f{}", 20 + round));
            }
            // Whether it ends well is not the question.
            program.run(["pull", "-q", "--max-delete", "100", client.root().to_str().unwrap()]);
        }
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(listed(&canary), before);
    assert_eq!(fs::read(canary.join("d0/f0")).unwrap(), b"must stay");
}

fn listed(dir: &std::path::Path) -> String {
    let output = std::process::Command::new("find").arg(dir).args(["-printf", "%p %y %s %T@ %m\n"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_repository_that_others_may_look_into_is_warned_of() {
    let program = Program::new();
    let client = Tree::new([("f", file("f"))]);
    program.pull_local(&client.root(), &[]);
    assert_eq!(fs::metadata(program.repo()).unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(program.repo(), fs::Permissions::from_mode(0o755)).unwrap();
    let ran = program.run(["pull", client.root().to_str().unwrap()]);
    assert!(ran.status == 0 && ran.stderr.contains("others may look into"), "{}", ran.stderr);
}

#[test]
fn several_sources_are_pulled_at_the_same_time_each_for_itself() {
    let program = Program::new();
    let clients: Vec<Tree> = (0..6)
        .map(|client| {
            Tree::new(
                (0..200).map(move |n| (format!("f{n}"), at(1_000_000_000, 0, file(format!("{n} of {}", client % 3))))),
            )
        })
        .collect();
    let mut config = String::new();
    for (number, client) in clients.iter().enumerate() {
        config += &format!("[source.s{number}]\npaths = ['{}']\n", client.root().display());
    }
    config += "[source.gone]\npaths = ['/no/such/path']\n";
    let path = program.path("archive.toml");
    fs::write(&path, config).unwrap();
    for _ in 0..2 {
        let ran = program.run(["--json", "--config", path.to_str().unwrap(), "pull", "--all", "--jobs", "4"]);
        assert_eq!(ran.status, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("archive: gone: error: `/no/such/path` does not exist"), "{}", ran.stderr);
        assert_eq!(ran.lines().len(), 7);
        for (number, client) in clients.iter().enumerate() {
            assert_same(&client.root(), &program.snapshot(&format!("s{number}"), &client.root()));
        }
        program.assert_index_is_right();
    }
    program.run(["pull", "--jobs", "0", "/tmp"]).refused_usage(&["0"]);
}
