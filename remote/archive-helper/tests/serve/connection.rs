//! Beginning and end of a connection, and what breaks it.

use std::process::Stdio;

use archive_helper::protocol::*;

use crate::client::{Helper, command, make, request, temp, walk_of};

#[test]
fn says_its_version() {
    let output = command().arg("--version").output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, format!("{VERSION}\n").as_bytes());
}

#[test]
fn an_unknown_argument_is_refused() {
    let output = command().arg("--help-me").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}

#[test]
fn serve_is_what_no_argument_means() {
    let mut helper = Helper::run(command().arg("serve"));
    helper.input = None;
    assert!(helper.wait().0.success());
}

#[test]
fn silence_is_broken_by_a_sign_of_life() {
    let mut helper = Helper::start();
    let begun = std::time::Instant::now();
    assert_eq!(helper.reply(), Reply::Alive);
    assert_eq!(begun.elapsed().as_secs(), ALIVE_SECONDS);
}

#[test]
fn runs_at_low_priority() {
    let helper = Helper::start();
    let niceness = |pid: u32| -> i32 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // The second field, in brackets, may hold spaces; niceness is the nineteenth.
        let after_name = stat.rsplit(") ").next().unwrap();
        after_name.split(' ').nth(16).unwrap().parse().unwrap()
    };
    // The tests themselves may run at another priority; 19 is the lowest.
    assert_eq!(niceness(helper.child.id()), (niceness(std::process::id()) + 10).min(19));
}

#[test]
fn ends_when_stdin_does_in_the_middle_of_a_walk() {
    let mut helper = Helper::start();
    helper.ask(&Request::Walk(walk_of(&["/usr".as_ref()])));
    helper.reply();
    helper.input = None;
    assert!(helper.wait().0.success());
}

#[test]
fn ends_when_stdin_does_though_nobody_reads() {
    let mut helper = Helper::start();
    helper.ask(&Request::Walk(walk_of(&["/usr".as_ref()])));
    std::thread::sleep(std::time::Duration::from_millis(200));
    helper.input = None;
    assert!(helper.wait().0.success());
}

#[test]
fn ends_quietly_when_stdout_is_closed() {
    let (_temp, top) = temp();
    make(&top, &["a/b"]);
    let command = &mut command();
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let mut input = child.stdin.take().unwrap();
    let _ = write_frame(&mut input, &Request::Walk(walk_of(&[&top])));
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty());
}

#[test]
fn frames_that_break_the_protocol_end_it() {
    let frame = |request: &Request| {
        let mut frame = Vec::new();
        write_frame(&mut frame, request).unwrap();
        frame
    };
    let verdict = frame(&Request::Verdicts(vec![Verdict { directory: 0, send: Wish::All }]));
    let walk = frame(&Request::Walk(Walk::default()));
    let proof = frame(&Request::Hash(vec![request(1, "/etc/passwd".as_ref(), true)]));
    let many = frame(&Request::Hash(vec![request(1, "/etc/passwd".as_ref(), false); MAX_HASHES + 1]));
    let cut = [&100u32.to_le_bytes()[..], b"abc"].concat();
    let table: [(&[u8], &str); 8] = [
        (&[1, 0, 0, 0, 99], "decoded"),
        (&[2, 0, 0, 0, 2, 0], "decoded"),
        (&[3, 0, 0, 0, 1, 0, 0], "longer"),
        (&[0xff, 0xff, 0xff, 0xff], "too large"),
        (&verdict, "verdict"),
        (&walk.repeat(2), "second walk"),
        (&proof, "key"),
        (&many, "too many"),
    ];
    for (bytes, message) in table {
        Helper::start().must_refuse(bytes, message);
    }
    let mut helper = Helper::start();
    helper.write(&cut);
    helper.input = None;
    helper.must_fail("fill whole buffer");
}

#[test]
fn a_verdict_counts_once() {
    let (_temp, top) = temp();
    let mut helper = Helper::start();
    helper.ask(&Request::Walk(walk_of(&[&top])));
    assert!(matches!(helper.reply(), Reply::Root(_)));
    assert!(matches!(helper.reply(), Reply::Directory(_)));
    let verdicts = vec![Verdict { directory: 0, send: Wish::All }; 2];
    helper.ask(&Request::Verdicts(verdicts));
    helper.must_fail("verdict");
    let mut helper = Helper::start();
    helper.ask(&Request::Walk(Walk { all: true, ..walk_of(&[&top]) }));
    helper.ask(&Request::Verdicts(vec![Verdict { directory: 0, send: Wish::All }]));
    helper.must_fail("verdict");
}
