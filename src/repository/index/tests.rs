//! The index as several see it at once, and the bytes in its columns.

use super::*;
use crate::entry::{Entry, Inode, Time, testing};

fn sources(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| format!("source-{number:06}-{}", "x".repeat(80))).collect()
}

fn enter(repository: &Path, names: &[String]) {
    let mut index = Index::open(repository).unwrap();
    let write = index.write().unwrap();
    for name in names {
        write.transaction.execute("INSERT INTO source (name, layout) VALUES (?1, 2)", [name]).unwrap();
    }
    write.commit().unwrap();
}

#[test]
fn a_reader_is_right_while_others_write_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    enter(place.path(), &sources(0..2000));
    let reader = open_to_read(place.path(), &Copied::default()).unwrap().unwrap();
    assert_eq!(reader.source_names().unwrap().len(), 2000);
    for round in 1..4 {
        enter(place.path(), &sources(round * 2000..(round + 1) * 2000));
        assert_eq!(reader.source_names().unwrap(), sources(0..(round + 1) * 2000), "round {round}");
    }
    assert!(reader.connection.execute("DELETE FROM source", []).is_err(), "it only reads");
    drop(reader);
    let left: Vec<_> = fs_err::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [FILE_NAME]);
}

#[test]
fn fingerprint_and_digests_of_a_directory_are_stored_in_these_bytes() {
    // Other bytes need a new format of the index, which forgets the fingerprints.
    let place = tempfile::tempdir().unwrap();
    let mut index = Index::open(place.path()).unwrap();
    let source = index.enter_source(&SourceName::new("host").unwrap()).unwrap();
    let inode = Some(Inode { device: 2049, number: 77 });
    let mtime = Time::new(32_503_680_000, 1);
    let entries = [
        Entry { kind: Kind::Block, device: 0x0801, uid: 7, gid: u32::MAX, ..testing::file("block") },
        Entry { size: 1 << 40, mtime, ctime: -2, mode: 0o4755, inode, ..testing::file("file") },
        Entry { kind: Kind::Symlink, target: b"to".to_vec(), ..testing::file("link") },
    ];
    let write = index.write().unwrap();
    let directory = write.enter_directory(source, &AbsPath::root()).unwrap();
    for entry in &entries {
        write.insert(&NewVersion { directory, entry, hash: None, run: 1, archive_name: None, flags: 0 }).unwrap();
    }
    write.remember_fingerprint(directory, None, 9).unwrap();
    write.commit().unwrap();
    let sql = "SELECT hex(fingerprint), hex(digests) FROM directory JOIN listed ON directory = id";
    let stored = index.one(sql, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap().unwrap();
    assert_eq!(
        stored,
        ("F0C54B566A6BF8FE154A0E79A13D71E0".to_owned(), "08DA827C179507930100F1D3B496BD30534A3FA1EE96D2B8".to_owned())
    );
}
