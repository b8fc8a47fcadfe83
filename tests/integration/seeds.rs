//! What the fuzzer began with, and what it found, as a plain test.

use std::fs;
use std::path::Path;

use archive_helper::protocol::{Reply, Request, Walk, read_frame, write_frame};

#[path = "../fuzz/judge.rs"]
mod judge;

fn each(target: &str, judge: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut count = 0;
    for seed in fs::read_dir(dir).unwrap() {
        let bytes = fs::read(seed.unwrap().path()).unwrap();
        judge(&bytes);
        // Cut short anywhere, too.
        (0..bytes.len()).step_by(1 + bytes.len() / 64).for_each(|length| judge(&bytes[..length]));
        count += 1;
    }
    assert!(count > 0, "{target} has no seeds");
}

#[test]
fn every_seed_is_taken_or_refused_in_good_order() {
    each("frames", judge::frames);
    each("sftp", judge::sftp);
    each("config", judge::config);
}

#[test]
fn what_the_judges_ask_for_can_be_had() {
    let mut frame = Vec::new();
    write_frame(&mut frame, &Request::Walk(Walk { roots: vec![b"/etc".to_vec()], ..Walk::default() })).unwrap();
    judge::frames(&frame);
    judge::config(b"[source.a]\npaths = ['/a']\n");
}

/// Those of other names were found by the fuzzer, and may be anything.
#[test]
fn seeds_made_by_hand_are_of_the_protocol_as_it_is() {
    fn decodes<Message: serde::de::DeserializeOwned>(mut bytes: &[u8]) -> bool {
        while let Ok(Some(_)) = read_frame::<Message>(&mut bytes) {}
        bytes.is_empty()
    }
    let seed =
        |name| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds/frames").join(name)).unwrap();
    assert!(decodes::<Request>(&seed("walk")));
    assert!(decodes::<Reply>(&seed("listing")) && decodes::<Reply>(&seed("hashed")));
}
