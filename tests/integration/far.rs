//! A client at the end of a long line, where one channel's window holds too little.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;

use crate::support::*;

/// Four hundred files, 101 of them with the content of another, which comes over another channel, for files are dealt in
/// turn. Those of one content are of one time, for they share an inode.
fn client() -> Tree {
    let content = |n: u32| at(1_000_000_000, 0, file(format!("content {} ", n % 299).repeat(300)));
    Tree::new((0..400).map(|n| (format!("file{n}"), content(n))))
}

fn pull(sshd: &Sshd, client: &Tree) -> (Program, Ran) {
    sshd.delay_line(25);
    let program = Program::new();
    let ran = program.pull(sshd, [format!("client:{}", client.root().display()).as_str(), "-vv"]);
    ran.well();
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
    (program, ran)
}

#[test]
fn small_files_come_over_several_channels_and_each_content_is_kept_once() {
    let (sshd, client) = (Sshd::new(), client());
    let (program, ran) = pull(&sshd, &client);
    assert!(ran.stderr.contains("channels=5"), "{}", ran.stderr);
    let summary = ran.summary();
    assert_eq!((&summary["copied"], &summary["linked"]), (&299.into(), &101.into()));
    let snapshot = program.snapshot("client", &client.root());
    let inode = |name: &String| snapshot.join(name).metadata().unwrap().ino();
    let inodes: HashSet<u64> = names(&snapshot).iter().map(inode).collect();
    assert_eq!(inodes.len(), 299);
}

/// How many shells were started that wait for the helper's path: one that is always there, and one for each channel.
fn waiting(ran: &Ran) -> usize {
    ran.stderr.matches("IFS= read -r").count()
}

#[test]
fn channels_are_opened_early_only_when_much_will_come() {
    let (sshd, client, program) = (Sshd::new(), client(), Program::new());
    sshd.delay_line(25);
    let target = format!("client:{}", client.root().display());
    let pull = |program: &Program| {
        let ran = program.pull(&sshd, [target.as_str(), "-vvv"]);
        ran.well();
        ran
    };
    assert_eq!(waiting(&pull(&program)), 5);
    assert_eq!(waiting(&pull(&program)), 1, "nothing is new");
    sshd.delay_line(0);
    assert_eq!(waiting(&pull(&Program::new())), 1, "it is near");
}

#[test]
fn three_sessions_are_enough_for_small_files_at_the_first_attempt() {
    let (sshd, client) = (Sshd::with("MaxSessions 3"), client());
    sshd.delay_line(25);
    let target = format!("client:{}", client.root().display());
    // The second finds the helper there.
    for _ in 0..2 {
        Program::new().pull(&sshd, [target.as_str(), "--hash", "server", "--retries", "0"]).well();
    }
}

#[test]
fn there_are_as_many_channels_as_were_asked_for() {
    let (sshd, client) = (Sshd::new(), client());
    for (line, channels) in [(25, "1"), (0, "3")] {
        sshd.delay_line(line);
        let target = format!("client:{}", client.root().display());
        let ran = Program::new().pull(&sshd, [target.as_str(), "-vv", &format!("--tuning=channels={channels}")]);
        ran.well();
        assert!(ran.stderr.contains(&format!("channels={channels}")), "{}", ran.stderr);
    }
}

#[test]
fn a_server_that_opens_few_channels_is_read_over_those() {
    let (sshd, client) = (Sshd::with("MaxSessions 4"), client());
    let (_, ran) = pull(&sshd, &client);
    assert!(ran.stderr.contains("channels=3"), "{}", ran.stderr);
}

#[test]
fn many_channels_leave_some_for_what_else_there_is() {
    let (sshd, client) = (Sshd::new(), client());
    client.put("large", file(vec![7; 300_000]));
    let target = format!("client:{}", client.root().display());
    Program::new().pull(&sshd, [target.as_str(), "--tuning", "channels=16", "--retries", "0"]).well();
}

#[test]
fn a_server_that_opens_two_or_one_is_enough_for_what_needs_no_more() {
    let client = client();
    let target = format!("client:{}", client.root().display());
    let two = Sshd::with("MaxSessions 2");
    Program::new().pull(&two, [target.as_str(), "--tuning", "copy=sftp", "--hash", "server", "--retries", "0"]).well();
    let (one, program) = (Sshd::with("MaxSessions 1"), Program::new());
    program.pull_local(&client.root(), &["--name", "client"]);
    // The second finds the helper there.
    for _ in 0..2 {
        program.pull(&one, [target.as_str(), "--retries", "0"]).well();
    }
}

#[test]
fn who_needs_a_channel_gets_it_in_the_next_attempt() {
    // Listing and small files take all that there are, and a large file comes by SFTP.
    let (sshd, client) = (Sshd::with("MaxSessions 4"), client());
    client.put("large", file(vec![7; 300_000]));
    let (_, ran) = pull(&sshd, &client);
    // Unless one of them is done by then.
    assert!(!ran.stderr.contains("connects again") || ran.stderr.contains("channels=1"), "{}", ran.stderr);
}
