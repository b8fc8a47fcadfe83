//! Names, targets and machine types that would steer a terminal, wherever they are shown.

use std::fs;

use archive_helper::protocol::*;

use super::{directory, entries, entry, harmless, listing, once_honest, path, root, shown_plainly, sized, untouchable};
use crate::support::hostile::{To, frames};
use crate::support::*;

/// Escapes, a bell, a carriage return, controls of eight bits as a byte and as text, and marks that turn text around.
const UGLY: [&[u8]; 6] =
    [b"\x1b]0;x\x07", b"a\rb\nc", b"\x9b31m", "\u{9b}31m".as_bytes(), "a\u{202e}b".as_bytes(), b"\x7f\x08"];

#[test]
fn every_verb_shows_names_plainly() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    let mut list = vec![sized("kept", 4)];
    list.extend(UGLY.iter().map(|name| Entry { target: name.to_vec(), ..entry(name, Kind::Symlink) }));
    list.sort_by(|one, other| one.name.cmp(&other.name));
    let files = list.iter().map(|entry| match entry.kind {
        Kind::Symlink => Entry { kind: Kind::File, target: Vec::new(), ..entry.clone() },
        _ => entry.clone(),
    });
    hostile.answers(To::Walk, listing(files.collect()));
    let ran = hostile.pull(&["-v"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    hostile.answers(To::Walk, listing(list));
    let ran = hostile.pull(&["-v"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    harmless(&hostile, &before, &kept, &ran, "a pull");
    let at = "client:/root/data";
    let bad = format!("{at}/{}", String::from_utf8_lossy(UGLY[0]));
    let verbs: [&[&str]; 8] = [
        &["ls", at],
        &["ls", "-l", at],
        &["log", "client"],
        &["history", &bad],
        &["cat", &bad],
        &["find", "--hash", &blake3::hash(b"").to_hex()],
        &["find", "--same-as", "client:/root/data/kept"],
        &["index", "check"],
    ];
    for verb in verbs {
        for json in [false, true] {
            let ran = hostile.program.run(json.then_some(&"--json").into_iter().chain(verb));
            assert_ne!(ran.status, 2, "{verb:?}: {}", ran.stderr);
            shown_plainly(&ran.stdout, &format!("{verb:?} {json}"));
            shown_plainly(&ran.stderr, &format!("{verb:?} {json}"));
        }
    }
}

#[test]
fn a_root_below_an_ugly_home_is_shown_plainly() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    for ugly in UGLY {
        let at = path([b"/home/", ugly, b"/data"].concat());
        let found = Root::Found { path: at.clone(), entry: Some(entry("data", Kind::Dir)), empty: false };
        let listed = [directory(0, at.as_bytes()), entries(0, vec![]), Reply::End];
        for (root, status) in
            [(Root::Missing { path: at.clone() }, 1), (Root::Unreadable { path: at.clone(), errno: 13 }, 1), (found, 0)]
        {
            hostile.answers(To::Walk, frames([Reply::Root(root)].iter().chain(&listed)));
            let ran = hostile.program.pull(&hostile.sshd, ["client:data", "--retries", "0", "--timeout", "3s", "-v"]);
            assert_eq!(ran.status, status, "{}", ran.stderr);
            harmless(&hostile, &before, &kept, &ran, "a root");
        }
    }
}

#[test]
fn a_problem_with_an_ugly_path_is_told_plainly() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    for ugly in UGLY {
        let at = path([b"/root/data/", ugly].concat());
        let told = [
            Reply::Problem(Problem { path: at.clone(), errno: 13 }),
            Reply::Problem(Problem { path: at.clone(), errno: 2 }),
            Reply::Skipped(Skipped { path: at.clone(), reason: SkipReason::Repository }),
            Reply::Skipped(Skipped { path: at, reason: SkipReason::Cache }),
        ];
        let listed = [root(), directory(0, "/root/data"), entries(0, vec![sized("kept", 4)])];
        hostile.answers(To::Walk, frames(listed.iter().chain(&told).chain(&[Reply::End])));
        let ran = hostile.pull(&["-vv"]);
        assert_eq!(ran.status, 3, "{}", ran.stderr);
        harmless(&hostile, &before, &kept, &ran, "a problem");
    }
}

#[test]
fn what_a_probe_finds_is_shown_plainly() {
    let sshd = Sshd::new();
    let program = Program::new();
    let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
    let said = sshd.path("said");
    fs::write(sshd.path("sshd_config"), format!("{config}ForceCommand cat {}; cat >/dev/null\n", said.display()))
        .unwrap();
    for ugly in UGLY {
        let found = [b"\nARCHIVE-FOUND /tmp/", ugly, b"\nARCHIVE-AT /tmp/", ugly].concat();
        fs::write(
            &said,
            [&found[..], b"\nARCHIVE-PROBE ", ugly, b"x y", ugly, b"\nARCHIVE-REMOVED ", ugly, b"\n"].concat(),
        )
        .unwrap();
        let config = sshd.config();
        for verb in ["status", "install", "remove"] {
            for format in [&[][..], &["--json"]] {
                let arguments = [format, &["helper", verb, "client", "-F", config.to_str().unwrap()]].concat();
                let ran = program.run(arguments);
                assert!((0..=6).contains(&ran.status), "{verb}: {} {}", ran.status, ran.stderr);
                shown_plainly(&ran.stdout, verb);
                shown_plainly(&ran.stderr, verb);
            }
        }
    }
}
