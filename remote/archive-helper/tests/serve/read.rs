//! Small files sent whole.

use std::fs;

use archive_helper::protocol::*;

use crate::client::{Helper, make, request, temp};

#[test]
fn small_files_come_whole_and_others_say_why_not() {
    let (_temp, top) = temp();
    make(&top, &["small", "empty", "largest", "gone", "longer"]);
    fs::write(top.join("empty"), "").unwrap();
    fs::write(top.join("largest"), vec![b'x'; MAX_BUNDLED as usize]).unwrap();
    let names = ["small", "empty", "largest", "gone", "longer"];
    let requests: Vec<_> = names.iter().zip(0..).map(|(name, id)| request(id, &top.join(name), false)).collect();
    let requests = requests.into_iter().map(|HashRequest { id, path, size, mtime, uid, .. }| ReadRequest {
        id,
        path,
        size,
        mtime,
        uid,
        once: false,
    });
    let requests = requests.collect();
    fs::remove_file(top.join("gone")).unwrap();
    fs::write(top.join("longer"), "longer than it was").unwrap();
    let mut helper = Helper::start();
    helper.ask(&Request::Read(requests));
    let mut answers = Vec::new();
    while answers.len() < names.len() {
        let Reply::Read(more) = helper.reply() else { panic!("files only") };
        answers.extend(more);
    }
    answers.sort_by_key(|answer| answer.id);
    let content = |name| ReadOutcome::Content(Bytes::new(fs::read(top.join(name)).unwrap()).unwrap());
    let expected =
        [content("small"), content("empty"), content("largest"), ReadOutcome::Vanished, ReadOutcome::Changed];
    assert_eq!(answers.into_iter().map(|answer| answer.outcome).collect::<Vec<_>>(), expected);
}

#[test]
fn too_large_a_file_breaks_the_protocol() {
    let path = AbsPath::new("/etc/passwd").unwrap();
    let mut frame = Vec::new();
    let requests =
        vec![ReadRequest { id: 0, path, size: MAX_BUNDLED + 1, mtime: Time::default(), uid: 0, once: false }];
    write_frame(&mut frame, &Request::Read(requests)).unwrap();
    Helper::start().must_refuse(&frame, "too large");
}
