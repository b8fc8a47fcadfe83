//! Clients that are at work for ever: signs of life alone keep no run going, and other sources have their turn.

use super::*;

/// A client that has listed its root, and then only says that it is alive.
fn busy() -> Hostile {
    let hostile = Hostile::new();
    hostile.answers(To::Walk, frames(&[root(), directory(0, "/root/data")]));
    hostile.stays_busy();
    hostile
}

#[test]
fn client_that_is_only_alive_is_given_up_and_later_sources_are_pulled() {
    let (hostile, other) = (busy(), Tree::new([("f", file("f"))]));
    let config = hostile.program.configured(&format!(
        "[source.client]\nhost = \"client\"\nssh_config = \"{}\"\npaths = [\"/root/data\"]\nstall_time = \"1s\"\n\
         [source.other]\npaths = [\"{}\"]\n",
        hostile.sshd.config().display(),
        other.root().display()
    ));
    let begun = Instant::now();
    let ran = hostile.program.run(["--config", &config, "pull", "--all"]);
    assert_eq!(ran.status, 6, "{}", ran.stderr);
    assert!(ran.stderr.contains("said for 1s that it is at work"), "{}", ran.stderr);
    assert!(ran.stderr.contains("if it hashes a file for longer than that, raise `stall_time`"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("connects again"), "it would stall again: {}", ran.stderr);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_same(&other.root(), &hostile.program.snapshot("other", &other.root()));
}

/// Pulls a client that says this after it has listed its root, again and again; the time in which it has to do something.
#[track_caller]
fn assert_trickle_is_given_up(says: &[u8], seconds: &str, stall_time: &str, words: &[&str]) {
    let hostile = busy();
    hostile.trickles(says, seconds);
    let begun = Instant::now();
    let ran = hostile.pull(&["-q", "--stall-time", stall_time]);
    assert_eq!(ran.status, 6, "{}", ran.stderr);
    let end = ran.stderr.lines().last().unwrap();
    words.iter().for_each(|word| assert!(end.contains(word), "`{word}` is missing in: {}", ran.stderr));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn client_that_trickles_less_than_the_least_is_given_up() {
    // Eight bytes in two seconds and a half, where 36 in eight seconds are the least: no single wait is too long.
    let problem = frames(&[Reply::Problem(Problem { path: AbsPath::root(), errno: 2 })]);
    assert_eq!(problem.len(), 8);
    let words = ["sent, received and hashed only", "bytes in 8s (stall_time)"];
    assert_trickle_is_given_up(&problem, "2.5", "4s", &words);
}

#[test]
fn client_that_never_ends_a_message_is_given_up() {
    let begun = [&1000_u32.to_le_bytes()[..], &[1]].concat();
    let hostile = busy();
    hostile.answers(To::Walk, [frames(&[root(), directory(0, "/root/data")]), begun].concat());
    hostile.trickles([1], "0.2");
    let ran = hostile.pull(&["-q", "--stall-time", "1s"]);
    ran.refused(6, &["said for 1s that it is at work", "stall_time"]);
}

#[test]
fn restore_to_a_client_that_is_only_alive_is_given_up() {
    let hostile = Hostile::new();
    hostile.answers(To::Restore, frames(&[Reply::Restoring(None)]));
    hostile.stays_busy();
    let client = Tree::new([("f", file("f"))]);
    hostile.program.pull_local(&client.root(), &["--name", "laptop"]);
    let ssh_config = hostile.sshd.config();
    let limit = "stall_time = \"1s\"";
    let config = format!("[source.client]\nhost = \"client\"\nssh_config = \"{}\"\n{limit}\n", ssh_config.display());
    let config = hostile.program.configured(&config);
    let what = format!("laptop:{}", client.root().display());
    let begun = Instant::now();
    let ran = hostile.program.run(["--config", &config, "restore", &what, "client:/root/data"]);
    ran.refused(6, &["said for 1s that it is at work", "raise `stall_time`"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn max_time_bounds_a_busy_client() {
    let hostile = busy();
    let ran = hostile.pull(&["-q", "--max-time", "2s"]);
    ran.refused(4, &["took longer than 2s", "max_time", "the next pull goes on"]);
}

#[test]
fn max_time_bounds_a_pull_of_this_machine_too() {
    let (program, client) = (Program::new(), Tree::new([("f", file(vec![7; 4 << 20]))]));
    let begun = Instant::now();
    let ran = program.run(["pull", "-q", client.root().to_str().unwrap(), "--bwlimit", "10KB", "--max-time", "1s"]);
    ran.refused(4, &["max_time"]);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    program.pull_local(&client.root(), &["--max-time", "0s"]);
    assert_same(&client.root(), &program.snapshot("localhost", &client.root()));
}
