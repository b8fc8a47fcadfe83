//! What must hold for any bytes at all, for the fuzzer and for the test of its seeds.

use std::io::{Cursor, sink};
use std::path::Path;

use archive::client::sftp::{Options, Sftp};
use archive::client::{FetchEvent, FetchJob};
use archive::config::Config;
use archive::path::AbsPath;
use archive::queue::bounded_by_number;
use archive_helper::protocol::{Reply, Request, read_frame, write_frame};

/// Frames decode to an error, or to something that encodes to what decodes to the same.
pub fn frames(bytes: &[u8]) {
    let mut input = bytes;
    while let Ok(Some(reply)) = read_frame::<Reply>(&mut input) {
        let mut again = Vec::new();
        write_frame(&mut again, &reply).unwrap();
        assert_eq!(read_frame::<Reply>(&mut &again[..]).unwrap(), Some(reply));
    }
    let mut input = bytes;
    while let Ok(Some(request)) = read_frame::<Request>(&mut input) {
        let mut again = Vec::new();
        write_frame(&mut again, &request).unwrap();
        assert_eq!(read_frame::<Request>(&mut &again[..]).unwrap(), Some(request));
    }
}

/// Whatever an SFTP server says, each file gets no more than was asked for, in pieces of bounded size.
pub fn sftp(bytes: &[u8]) {
    let (want, wanted) = bounded_by_number(1 << 20);
    let (arrive, arrived) = bounded_by_number(1 << 20);
    let sizes = [10, 40_000, 0, 300_000];
    for (id, size) in (0..).zip(sizes) {
        let path = AbsPath::new(format!("/f{id}").as_bytes()).unwrap();
        want.send(FetchJob {
            id,
            path,
            size,
            mtime: 1_000_000_000.into(),
            uid: 7,
            offset: 0,
            dedup: false,
            data: None,
            basis: None,
        })
        .unwrap();
    }
    drop(want);
    if let Ok(mut reader) = Sftp::start(Cursor::new(bytes), sink(), Options::default()) {
        let _ = reader.read_files(&wanted, &arrive);
    }
    drop(arrive);
    let mut got = 0;
    for arrival in arrived.iter() {
        if let FetchEvent::Data { bytes, .. } = arrival {
            assert!(!bytes.is_empty() && bytes.len() <= 256 * 1024);
            got += bytes.len();
        }
    }
    assert!(got <= bytes.len());
}

/// A configuration is refused in one line, or shown as one that says the same.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(Path::new("/nowhere/archive.toml"), text) {
        Err(error) => {
            let said = error.to_string();
            assert!(!said.chars().any(char::is_control), "{said:?}");
        }
        Ok(config) => {
            let shown = config.effective(Path::new("/repository")).to_toml();
            let again = Config::parse(Path::new("/nowhere/archive.toml"), &shown).unwrap();
            assert_eq!(again.effective(Path::new("/repository")).to_toml(), shown);
        }
    }
}
