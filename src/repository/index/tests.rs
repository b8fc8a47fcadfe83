//! The index as several see it at once.

use super::*;

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
