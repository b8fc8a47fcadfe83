//! Hashing over a connection.

use std::fs;
use std::os::unix::fs::symlink;

use archive_helper::protocol::*;
use rustix::fs::{CWD, Mode};

use crate::client::{Helper, command, make, request, temp};

const KEY: Hash = [42; 32];

#[test]
fn hashes_are_those_of_blake3_and_proofs_keyed() {
    let (_temp, top) = temp();
    make(&top, &["small", "empty"]);
    fs::write(top.join("empty"), "").unwrap();
    fs::write(top.join("large"), vec![b'x'; 5_000_000]).unwrap();
    let names = ["small", "empty", "large"];
    let mut helper = Helper::start();
    helper.ask(&Request::Key(KEY));
    for proof in [false, true] {
        let requests = names.iter().zip(1..).map(|(name, id)| request(id, &top.join(name), proof)).collect();
        for (name, hashed) in names.iter().zip(helper.hash(requests)) {
            let content = fs::read(top.join(name)).unwrap();
            let hash = blake3::hash(&content).into();
            let proof = proof.then(|| blake3::keyed_hash(&KEY, &content).into());
            assert_eq!(hashed.outcome, HashOutcome::Done { hash, proof }, "{name}");
        }
    }
}

#[test]
fn as_many_threads_hash_as_the_environment_says() {
    let (_temp, top) = temp();
    make(&top, &["small"]);
    let threads = |told: &str| {
        let mut helper = Helper::run(command().env(THREADS_VARIABLE, told));
        helper.hash(vec![request(1, &top.join("small"), false)]);
        fs::read_dir(format!("/proc/{}/task", helper.child.id())).unwrap().count()
    };
    assert_eq!((threads("5"), threads("16")), (threads("1") + 4, threads("1") + 15));
    assert_eq!((threads("0"), threads("17")), (threads("none"), threads("none")));
}

#[test]
fn what_became_something_else_is_told_apart() {
    let (_temp, top) = temp();
    let names = ["gone", "longer", "touched", "fifo", "link", "dir", "gone/below"];
    make(&top, &names[..6]);
    let listed: Vec<_> = names[..6].iter().zip(0..).map(|(name, id)| request(id, &top.join(name), false)).collect();
    let below = HashRequest { id: 6, path: crate::client::abs(&top.join("longer/below")), ..listed[1].clone() };
    names[..6]
        .iter()
        .filter(|name| !["longer", "touched"].contains(name))
        .for_each(|name| fs::remove_file(top.join(name)).unwrap());
    fs::write(top.join("longer"), "longer than it was").unwrap();
    fs::File::options().write(true).open(top.join("touched")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    rustix::fs::mkfifoat(CWD, top.join("fifo"), Mode::RWXU).unwrap();
    symlink("longer", top.join("link")).unwrap();
    fs::create_dir(top.join("dir")).unwrap();
    let answers = Helper::start().hash(listed.into_iter().chain([below]).collect());
    let outcomes: Vec<_> = answers.into_iter().map(|hashed| hashed.outcome).collect();
    use HashOutcome::{Changed, Vanished};
    assert_eq!(outcomes, [Vanished, Changed, Changed, Changed, Changed, Changed, Vanished]);
}

#[test]
fn an_answer_makes_room_for_a_request() {
    let (_temp, top) = temp();
    make(&top, &["file"]);
    let file = request(0, &top.join("file"), false);
    let mut helper = Helper::start();
    let requests = |count| (0..count as u64).map(|id| HashRequest { id, ..file.clone() }).collect();
    helper.ask(&Request::Hash(requests(MAX_HASHES)));
    let mut asked = MAX_HASHES;
    let mut answered = 0;
    while answered < asked {
        let Reply::Hashed(answers) = helper.reply() else { panic!("hashes only") };
        answered += answers.len();
        // As many as were answered, at once: the helper must not count what the server knows to be done.
        if asked < 40_000 {
            helper.ask(&Request::Hash(requests(answers.len())));
            asked += answers.len();
        }
    }
}

#[test]
fn hashing_goes_on_beside_a_walk() {
    let (_temp, top) = temp();
    make(&top, &["file"]);
    let mut helper = Helper::start();
    helper.ask(&Request::Walk(crate::client::walk_of(&[&top])));
    assert!(matches!(helper.reply(), Reply::Root(_)));
    assert!(matches!(helper.reply(), Reply::Directory(_)));
    assert!(matches!(helper.hash(vec![request(5, &top.join("file"), false)])[0].outcome, HashOutcome::Done { .. }));
}
