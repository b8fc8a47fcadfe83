//! The checker sees each kind of damage, and nothing where there is none.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::{archive_component, archive_directory, check};

// As archive-tree(5) has them, as far as the checker reads them.
const SCHEMA: &str = "
    PRAGMA user_version = 6;
    CREATE TABLE source (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE run (id INTEGER PRIMARY KEY, source INTEGER);
    CREATE TABLE directory (id INTEGER PRIMARY KEY, source INTEGER, path BLOB, fingerprint BLOB);
    CREATE TABLE version (id INTEGER PRIMARY KEY, directory INTEGER, name BLOB, kind INTEGER, size INTEGER, mtime INTEGER,
        target BLOB, hash BLOB, from_run INTEGER, until_run INTEGER, archive_name BLOB, flags INTEGER, relies_on INTEGER);
    CREATE TABLE pending (source INTEGER PRIMARY KEY, format INTEGER, batch BLOB);
    CREATE TABLE inode (number INTEGER PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, hash BLOB);
    INSERT INTO source VALUES (1, 's');
    INSERT INTO run VALUES (1, 1), (2, 1), (3, 1);
    INSERT INTO directory VALUES (1, 1, '/', x'00'), (2, 1, '/r', x'00'), (3, 1, '/r/d', x'00');
    UPDATE directory SET path = CAST(path AS BLOB);";

/// A repository with a root `/r` that holds a file of each kind of history.
struct Sample {
    dir: tempfile::TempDir,
}

struct Row<'a> {
    directory: i64,
    name: &'a str,
    kind: i64,
    content: &'a str,
    runs: (i64, Option<i64>),
    archive_name: Option<&'a str>,
    relies_on: Option<i64>,
}

impl Sample {
    fn new() -> Sample {
        let sample = Sample { dir: tempfile::tempdir().unwrap() };
        for directory in ["snapshot/s/r/d", "archive/s/r/d", "staging/s"] {
            fs::create_dir_all(sample.path(directory)).unwrap();
        }
        sample.sql(SCHEMA);
        let row = |id, directory, name, kind, content, runs, archive_name, relies_on| {
            sample.insert(id, &Row { directory, name, kind, content, runs, archive_name, relies_on });
        };
        row(1, 1, "r", 1, "", (1, None), None, None);
        row(2, 2, "d", 1, "", (1, None), None, None);
        row(3, 3, "f", 0, "now", (2, None), None, None);
        row(4, 3, "f", 0, "then", (1, Some(2)), Some("f.20010909T014640Z"), None);
        // Only its mode changed, before its content did.
        row(5, 2, "m", 0, "first", (1, Some(2)), None, Some(6));
        row(6, 2, "m", 0, "first", (2, Some(3)), Some("m.20010909T014640Z"), None);
        row(7, 2, "l", 2, "target", (1, None), None, None);
        row(8, 2, "pipe", 3, "", (1, None), None, None);
        sample.write("snapshot/s/r/d/f", "now");
        sample.write("archive/s/r/d/f.20010909T014640Z", "then");
        sample.write("archive/s/r/m.20010909T014640Z", "first");
        symlink("target", sample.path("snapshot/s/r/l")).unwrap();
        sample
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("repo").join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    fn index(&self) -> Connection {
        Connection::open(self.path("index.sqlite")).unwrap()
    }

    fn sql(&self, sql: &str) {
        self.index().execute_batch(sql).unwrap();
    }

    fn insert(&self, id: i64, row: &Row<'_>) {
        let hash = (row.kind == 0).then(|| blake3::hash(row.content.as_bytes()).as_bytes().to_vec());
        let target = (row.kind == 2).then_some(row.content.as_bytes());
        let values = params![
            id,
            row.directory,
            row.name.as_bytes(),
            row.kind,
            row.content.len() as i64,
            target,
            hash,
            row.runs.0,
            row.runs.1,
            row.archive_name.map(str::as_bytes),
            row.relies_on,
        ];
        let sql = "INSERT INTO version VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9, ?10, 0, ?11)";
        self.index().execute(sql, values).unwrap();
    }

    #[track_caller]
    fn finds(&self, words: &str) {
        let found = check(&self.path(""));
        assert!(found.iter().any(|line| line.contains(words)), "`{words}` is not in {found:#?}");
    }
}

#[test]
fn nothing_is_found_where_all_is_well() {
    let sample = Sample::new();
    assert_eq!(check(&sample.path("")), [""; 0]);
    // What a large file was received of may wait for the rest.
    sample.write("staging/s/partial-0", "");
    assert_eq!(check(&sample.path("")), [""; 0]);
}

#[test]
fn plain_files_that_are_not_what_the_index_says_are_found() {
    for (place, words) in [
        ("snapshot/s/r/d/f", "at `snapshot/s/r/d/f` has other bytes"),
        ("archive/s/r/d/f.20010909T014640Z", "at `archive/s/r/d/f.20010909T014640Z` has other bytes"),
    ] {
        let sample = Sample::new();
        let size = fs::read(sample.path(place)).unwrap().len();
        sample.write(place, &"x".repeat(size));
        sample.finds(words);
        sample.write(place, "longer than it was");
        sample.finds("has another size");
        fs::remove_file(sample.path(place)).unwrap();
        sample.finds("is missing");
        fs::create_dir(sample.path(place)).unwrap();
        sample.finds("is of kind 1 instead of 0");
    }
    let sample = Sample::new();
    fs::remove_file(sample.path("snapshot/s/r/l")).unwrap();
    symlink("elsewhere", sample.path("snapshot/s/r/l")).unwrap();
    sample.finds("leads elsewhere");
}

#[test]
fn what_no_row_tells_of_is_found() {
    let sample = Sample::new();
    sample.write("archive/s/r/stray", "");
    sample.finds("`archive/s/r/stray` is unknown");
    fs::create_dir(sample.path("snapshot/s/r/d/unlisted")).unwrap();
    sample.finds("`snapshot/s/r/d/unlisted` is unknown");
    sample.write("staging/s/7", "");
    sample.finds("staging/s/7` is left in staging");
    sample.sql("INSERT INTO pending VALUES (1, 3, x'')");
    sample.finds("a batch of source 1 is pending");
}

#[test]
fn names_that_two_rows_claim_are_found() {
    let sample = Sample::new();
    sample.sql(
        "INSERT INTO version SELECT 9, directory, x'67', kind, size, mtime, target, hash, 1, 2, archive_name, 0, NULL \
                FROM version WHERE id = 4",
    );
    sample.finds("versions 4 and 9 both claim `archive/s/r/d/f.20010909T014640Z`");
    let sample = Sample::new();
    sample.sql(
        "INSERT INTO version SELECT 9, directory, name, kind, size, mtime, target, hash, 3, NULL, NULL, 0, NULL \
                FROM version WHERE id = 3",
    );
    sample.finds("versions 3 and 9 both claim `snapshot/s/r/d/f`");
    sample.finds("versions 3 and 9 (/r/d/f) are of one time");
}

#[test]
fn wrong_references_are_found() {
    for (sql, words) in [
        ("UPDATE version SET relies_on = 77 WHERE id = 5", "relies on 77, which is not there"),
        ("UPDATE version SET relies_on = 4 WHERE id = 5", "relies on 4, which is another name"),
        (
            "UPDATE version SET archive_name = NULL, relies_on = 5 WHERE id = 6",
            "relies on 6, which has no file of its own",
        ),
        ("UPDATE version SET mtime = 1 WHERE id = 5", "which is another content, kind or time"),
        ("UPDATE version SET relies_on = 4 WHERE id = 3", "needs nothing to rely on"),
        ("UPDATE version SET relies_on = NULL WHERE id = 5", "past version 5 (/r/m) has no plain file"),
        ("UPDATE version SET relies_on = NULL WHERE id = 5", "run 1 shows version 5 (/r/m), whose content is nowhere"),
    ] {
        let sample = Sample::new();
        sample.sql(sql);
        sample.finds(words);
    }
}

#[test]
fn a_version_that_a_kept_run_shows_must_have_its_content() {
    let sample = Sample::new();
    fs::remove_file(sample.path("archive/s/r/m.20010909T014640Z")).unwrap();
    sample.finds("run 1 shows version 5 (/r/m), whose content is nowhere");
    sample.sql("DELETE FROM run WHERE id = 1");
    assert!(!check(&sample.path("")).iter().any(|line| line.contains("version 5 (/r/m), whose")));
}

#[test]
fn wrong_records_of_inodes_are_found() {
    let sample = Sample::new();
    let path = sample.path("snapshot/s/r/d/f");
    let record = |path: &Path, content: &str| {
        let found = fs::metadata(path).unwrap();
        let [mtime, ctime] = [(found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec())]
            .map(|(seconds, rest)| seconds * 1_000_000_000 + rest);
        let hash = blake3::hash(content.as_bytes()).as_bytes().to_vec();
        let values = params![found.ino() as i64, found.size() as i64, mtime, ctime, hash];
        sample.index().execute("REPLACE INTO inode VALUES (?1, ?2, ?3, ?4, ?5)", values).unwrap();
    };
    record(&path, "now");
    assert_eq!(check(&sample.path("")), [""; 0]);
    record(&path, "new");
    sample.finds("is recorded with a wrong hash");
    // One that is not of the file as it is says nothing.
    sample.sql("UPDATE inode SET ctime = 0");
    assert_eq!(check(&sample.path("")), [""; 0]);
}

#[test]
fn a_directory_that_the_one_above_does_not_list_is_found() {
    let sample = Sample::new();
    sample.sql("UPDATE version SET until_run = 3 WHERE id = 2");
    sample.finds("`/r/d` of source 1 has current versions, but none itself");
    // Those that lead to a root need none.
    let sample = Sample::new();
    sample.sql("DELETE FROM version WHERE id = 1");
    assert!(!check(&sample.path("")).iter().any(|line| line.contains("but none itself")));
}

#[test]
fn another_format_is_found() {
    let sample = Sample::new();
    sample.sql("PRAGMA user_version = 4");
    sample.finds("the index has format 4");
}

#[test]
fn directories_of_the_archive_keep_their_names_unless_they_look_like_ours() {
    for plain in
        ["d", "d~", "x.20010909T014640", "20010909T014640Z", "x.20010909T014640Z-", "x.20010909T014640Z.d", "~"]
    {
        assert_eq!(archive_component(plain.as_bytes()), plain.as_bytes());
    }
    for stamped in ["x.20010909T014640Z", "x.20010909T014640Z~~", ".20010909T014640Z", "x.20010909T014640Z-17"] {
        assert_eq!(archive_component(stamped.as_bytes()), [stamped.as_bytes(), b"~"].concat());
    }
    let long = [&[b'x'; 238][..], b".20010909T014640Z"].concat();
    let short = archive_component(&long);
    assert!(short.len() == 255 && short.starts_with(&[b'x'; 221]) && short.ends_with(b"~"));
    assert_ne!(archive_component(&short), short);
    assert_eq!(archive_directory(b"/a/x.20010909T014640Z/b"), b"a/x.20010909T014640Z~/b");
    assert_eq!(archive_directory(b"/"), b"");
}
