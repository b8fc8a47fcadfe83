//! What a power cut leaves, made by hand: no other way to lose what a file system was not told to keep.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::entry::{Attributes, Extent, Inode, Kind, Xattr, testing};
use crate::repository::dirs::Dir;
use crate::repository::staging::Tray;
use crate::repository::stored::Damaged;

struct Repo {
    _place: TempDir,
    repository: Repository,
    index: Index,
    name: SourceName,
    source: SourceId,
    staging: Arc<Staging>,
}

impl Repo {
    fn new() -> Repo {
        let place = tempfile::tempdir().unwrap();
        let repository = Repository::create(&place.path().join("repo")).unwrap();
        let mut index = repository.index().unwrap();
        let name = SourceName::new("host").unwrap();
        let source = index.enter_source(&name).unwrap();
        let staging = Arc::new(Staging::open(repository.staging(&name).unwrap()).unwrap());
        Repo { _place: place, repository, index, name, source, staging }
    }

    // One new file, received and named so.
    fn batch(&self, name: &str) -> Batch {
        let entry = testing::file(name);
        let (staged, _) = self.staging.create().unwrap();
        let change =
            Deed::Change { directory: 0, name: entry.name.clone(), old: Old::None, new: New::Staged(staged.into()) };
        let begin =
            Row::Begin { directory: 0, entry: Box::new(entry), hash: Some([7; 32]), archive_name: None, flags: 0 };
        let directories = vec![AbsPath::new(&b"/d"[..]).unwrap()];
        Batch { run: 1, directories, deeds: vec![change], rows: vec![begin], ..Batch::default() }
    }

    // The same in a tray, which becomes the directory.
    fn tray_batch(&self, name: &str) -> Batch {
        let mut batch = self.batch(name);
        std::fs::create_dir_all(self.placed("")).unwrap();
        let (tray, own) = (Tray::default(), Name::new(name).unwrap());
        let (staged, _) = self.staging.put(&tray, &own, Dir::create_file).unwrap();
        let change = Deed::Change { directory: 0, name: own, old: Old::None, new: New::Staged(staged) };
        batch.deeds = vec![Deed::Fill { directory: 0, tray: tray.close(1).unwrap() }, change];
        batch
    }

    fn carry_out(&mut self, batch: Batch, then: Then) -> Batch {
        self.do_all(batch, then).batch
    }

    fn do_all(&mut self, batch: Batch, then: Then) -> Done {
        let mut journal =
            Journal::open(&self.repository, (self.source, &self.name), Arc::clone(&self.staging)).unwrap();
        let done = journal.carry_out(&mut self.index, batch, then).unwrap();
        done.settle(&mut self.index, |_| Ok(())).unwrap();
        done
    }

    // A file below a tree of the source, and what was proved of it.
    fn proved_file(&self, tree: &str, name: &str) -> (PathBuf, ProvedFile) {
        let dir = self.repository.dir().join(tree).join("host/d");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), b"the first content").unwrap();
        let found = Dir::open_base(&dir).unwrap().metadata(&Name::new(name).unwrap()).unwrap();
        (dir.join(name), ProvedFile::of(&found))
    }

    fn in_d(deed: Deed) -> Batch {
        Batch { run: 1, directories: vec![AbsPath::new(&b"/d"[..]).unwrap()], deeds: vec![deed], ..Batch::default() }
    }

    // What a power cut may do to a move.
    fn put_back(&self, batch: &Batch, name: &str) {
        let Deed::Change { new: New::Staged(staged), .. } = &batch.deeds[0] else { panic!("no file") };
        let staged = self.repository.dir().join("staging/host").join(staged.name.to_string());
        std::fs::rename(self.placed(name), staged).unwrap();
    }

    fn placed(&self, name: &str) -> PathBuf {
        self.repository.dir().join("snapshot/host/d").join(name)
    }

    fn versions(&self) -> usize {
        self.index.versions_with(&[7; 32], 9).unwrap().len()
    }
}

#[test]
fn a_move_that_a_power_cut_undid_is_done_again_and_its_row_is_not() {
    let mut repo = Repo::new();
    let batch = repo.carry_out(repo.batch("f"), Then::More);
    repo.put_back(&batch, "f");
    assert_eq!(recover(&repo.repository, &mut repo.index, &repo.name).unwrap().changes, 0);
    assert!(repo.placed("f").exists());
    assert_eq!(repo.versions(), 1);
    assert!(repo.index.pending(repo.source).unwrap().is_none());
}

#[test]
fn a_tray_that_a_power_cut_put_back_is_moved_again() {
    let mut repo = Repo::new();
    let batch = repo.carry_out(repo.tray_batch("f"), Then::More);
    let Deed::Fill { tray, .. } = &batch.deeds[0] else { panic!("no tray") };
    let tray = repo.repository.dir().join("staging/host").join(tray.to_string());
    assert!(repo.placed("f").exists() && !tray.exists());
    std::fs::rename(repo.placed("f").parent().unwrap(), tray).unwrap();
    let _ = recover(&repo.repository, &mut repo.index, &repo.name).unwrap();
    assert!(repo.placed("f").exists());
    assert_eq!(repo.versions(), 1);
}

#[test]
fn where_something_is_each_file_of_a_tray_finds_its_own_place() {
    let mut repo = Repo::new();
    let stray = repo.placed("stray");
    std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
    std::fs::write(&stray, b"somebody's").unwrap();
    repo.carry_out(repo.tray_batch("f"), Then::Nothing);
    assert!(repo.placed("f").exists());
    assert_eq!(std::fs::read(stray).unwrap(), b"somebody's");
}

#[test]
fn a_directory_that_inherited_an_access_control_list_keeps_it() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    // Version 2, and `user::rwx`, `group::r-x`, `other::---`: see the kernel's posix_acl_xattr.h.
    let list = [2, 0, 0, 0]
        .into_iter()
        .chain(
            [(1, 7), (4, 5), (0x20, 0)].into_iter().flat_map(|(tag, rights)| [tag, 0, rights, 0, 255, 255, 255, 255]),
        )
        .collect::<Vec<u8>>();
    let mut repo = Repo::new();
    let batch = repo.tray_batch("f");
    let (directory, name) = (repo.placed(""), "system.posix_acl_default");
    setxattr(&directory, name, &list, XattrFlags::empty()).unwrap();
    repo.carry_out(batch, Then::Nothing);
    assert!(repo.placed("f").exists());
    let mut kept = [0; 64];
    let length = getxattr(&directory, name, &mut kept[..]).unwrap();
    assert_eq!(kept[..length], list);
}

#[test]
fn what_was_placed_is_not_cleared_away_when_it_is_done_again() {
    let mut repo = Repo::new();
    let root = repo.repository.dir().join("snapshot/host");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("d"), b"somebody's").unwrap();
    let mut batch = repo.batch("f");
    let name = Name::new("d").unwrap();
    let looks = Some(Looks { mode: 0o700, owner: None });
    batch.directories.push(AbsPath::root());
    batch.deeds.insert(0, Deed::Change { directory: 1, name, old: Old::Clear, new: New::Directory(looks) });
    repo.carry_out(batch, Then::More);
    assert!(repo.placed("f").exists());
    assert_eq!(recover(&repo.repository, &mut repo.index, &repo.name).unwrap().changes, 0);
    assert!(repo.placed("f").exists());
    assert_eq!(repo.versions(), 1);
}

#[test]
fn what_is_found_in_the_way_only_then_gets_its_row() {
    let mut repo = Repo::new();
    let batch = repo.carry_out(repo.batch("f"), Then::More);
    repo.put_back(&batch, "f");
    std::fs::write(repo.placed("f"), b"somebody's").unwrap();
    let _ = recover(&repo.repository, &mut repo.index, &repo.name).unwrap();
    let hash = *blake3::hash(b"somebody's").as_bytes();
    assert_eq!(repo.index.versions_with(&hash, 9).unwrap().len(), 1);
    assert_eq!(repo.versions(), 1);
}

// Other bytes of the same size in the same inode.
fn overwrite(path: &std::path::Path) {
    std::thread::sleep(std::time::Duration::from_millis(20));
    std::fs::write(path, b"the other content").unwrap();
}

#[test]
fn archived_file_is_deleted_unless_it_changed_since_it_was_proved() {
    for changes in [false, true] {
        let mut repo = Repo::new();
        let (path, file) = repo.proved_file("archive", "old");
        let directory = AbsPath::new(&b"/d"[..]).unwrap();
        let batch = Repo::in_d(Deed::Delete { directory, name: Name::new("old").unwrap(), file });
        if changes {
            overwrite(&path);
        }
        let done = repo.do_all(batch, Then::Nothing);
        let warnings: Vec<_> = done.found.warnings().collect();
        assert_eq!((path.exists(), warnings.len()), (changes, usize::from(changes)));
        assert!(warnings.iter().all(|text| text.contains("changed `archive/host/d/old`, which was not removed")));
    }
}

#[test]
fn file_that_changed_since_it_was_proved_moves_from_the_snapshot_to_the_archive() {
    for is_replaced in [false, true] {
        let mut repo = Repo::new();
        let (path, file) = repo.proved_file("snapshot", "f");
        let mut batch = repo.batch("f");
        let Deed::Change { old, new, .. } = &mut batch.deeds[0] else { panic!("no change") };
        *old = Old::Delete { file };
        if !is_replaced {
            *new = New::None;
            batch.rows.clear();
        }
        overwrite(&path);
        let done = repo.do_all(batch, Then::Nothing);
        assert_eq!((path.exists(), done.found.strays.len()), (is_replaced, 1));
        let hash = *blake3::hash(b"the other content").as_bytes();
        assert_eq!(repo.index.versions_with(&hash, 9).unwrap().len(), 1);
    }
}

#[test]
fn metadata_is_set_on_a_file_only_while_it_is_as_it_was_proved() {
    use std::os::unix::fs::PermissionsExt;
    for changes in [false, true] {
        let mut repo = Repo::new();
        let (path, file) = repo.proved_file("snapshot", "f");
        let mtime = std::fs::metadata(&path).unwrap().modified().unwrap();
        let since_1970 = mtime.duration_since(std::time::UNIX_EPOCH).unwrap();
        let mtime = Time::new(since_1970.as_secs() as i64, i64::from(since_1970.subsec_nanos()));
        let (looks, name) = (Looks { mode: 0o400, owner: None }, Name::new("f").unwrap());
        let mut batch = repo.batch("f");
        let hash = *blake3::hash(b"the first content").as_bytes();
        let Row::Begin { entry, .. } = &mut batch.rows[0] else { panic!("no row") };
        (entry.size, entry.mtime) = (17, mtime);
        batch.deeds =
            vec![Deed::Change { directory: 0, name, old: Old::None, new: New::Restate { looks, mtime, file } }];
        batch.known = vec![Known { at: At::Row(0), hash, read: 1, file: Some(file) }];
        if changes {
            overwrite(&path);
        }
        let done = repo.do_all(batch, Then::Nothing);
        let found = Dir::open_base(path.parent().unwrap()).unwrap().metadata(&Name::new("f").unwrap()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode == 0o400, done.found.changed.is_empty()), (!changes, !changes));
        assert_eq!(repo.index.record(&found).unwrap().is_none(), changes);
    }
}

#[test]
fn file_that_changed_since_it_was_proved_is_archived_and_reported() {
    for (changes, is_replaced) in [(false, false), (true, false), (true, true)] {
        let mut repo = Repo::new();
        let (path, file) = repo.proved_file("snapshot", "f");
        let (name, archived) = (Name::new("f").unwrap(), Name::new("f.20240102T030405Z").unwrap());
        let old = Old::Retire { name: archived, file };
        let batch = Repo::in_d(Deed::Change { directory: 0, name, old, new: New::None });
        if is_replaced {
            std::fs::write(path.with_extension("new"), b"somebody's").unwrap();
            std::fs::rename(path.with_extension("new"), &path).unwrap();
        } else if changes {
            overwrite(&path);
        }
        let done = repo.do_all(batch, Then::Nothing);
        let archived = repo.repository.dir().join("archive/host/d/f.20240102T030405Z");
        assert_eq!((path.exists(), archived.exists(), done.found.changed.len()), (false, true, usize::from(changes)));
    }
}

#[test]
fn changed_file_is_kept_when_a_batch_is_carried_out_after_a_crash() {
    let mut repo = Repo::new();
    let (path, file) = repo.proved_file("snapshot", "f");
    let name = Name::new("f").unwrap();
    let batch = Repo::in_d(Deed::Change { directory: 0, name, old: Old::Delete { file }, new: New::None });
    batch.record(&mut repo.index, repo.source).unwrap();
    overwrite(&path);
    let _ = recover(&repo.repository, &mut repo.index, &repo.name).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"the other content");
}

#[test]
fn file_that_changed_since_it_was_proved_gets_no_record() {
    for changes in [false, true] {
        let mut repo = Repo::new();
        let (path, file) = repo.proved_file("archive", "old");
        let (at, hash) = (At::Archive(0, Name::new("old").unwrap()), *blake3::hash(b"the first content").as_bytes());
        let mut batch = repo.batch("g");
        batch.known = vec![Known { at, hash, read: 1, file: Some(file) }];
        if changes {
            overwrite(&path);
        }
        repo.carry_out(batch, Then::Nothing);
        let found = Dir::open_base(path.parent().unwrap()).unwrap().metadata(&Name::new("old").unwrap()).unwrap();
        assert_eq!(repo.index.record(&found).unwrap().is_none(), changes);
    }
}

#[test]
fn a_copy_of_the_index_has_nothing_pending() {
    let mut repo = Repo::new();
    repo.carry_out(repo.batch("f"), Then::More);
    let copy = repo.repository.dir().join("copy");
    std::fs::create_dir(&copy).unwrap();
    repo.index.copy_to(&copy.join(crate::repository::index::FILE_NAME)).unwrap();
    let copied = Index::open(&copy).unwrap();
    assert!(copied.pending(repo.source).unwrap().is_none() && repo.index.pending(repo.source).unwrap().is_some());
    assert_eq!(copied.versions_with(&[7; 32], 9).unwrap().len(), 1);
}

#[test]
fn a_batch_of_which_the_index_knows_nothing_is_finished_with_its_rows() {
    let mut repo = Repo::new();
    let batch = repo.batch("f");
    batch.record(&mut repo.index, repo.source).unwrap();
    assert_eq!(recover(&repo.repository, &mut repo.index, &repo.name).unwrap().changes, 1);
    assert!(repo.placed("f").exists());
    assert_eq!(repo.versions(), 1);
}

#[test]
fn after_the_last_batch_nothing_is_pending() {
    let mut repo = Repo::new();
    for (name, then, pending) in [("f", Then::More, true), ("g", Then::Nothing, false)] {
        repo.carry_out(repo.batch(name), then);
        assert_eq!(repo.index.pending(repo.source).unwrap().is_some(), pending);
    }
}

// A batch with every kind of deed and row, and every kind of value in them.
fn batch_of_everything() -> Batch {
    let name = |name: &str| Name::new(name).unwrap();
    let path = |path: &str| AbsPath::new(path).unwrap();
    let (looks, inode) = (Looks { mode: 0o644, owner: Some((1000, 100)) }, (0xfe01, 131_074));
    let change = |old, new| Deed::Change { directory: 1, name: name("n"), old, new };
    let staged = |tray: Option<&str>| StagedName { tray: tray.map(name), name: name("7") };
    let entry = |kind| {
        let xattrs = vec![Xattr { name: b"user.a".to_vec(), value: vec![0, 255] }];
        let attributes = Attributes { xattrs, data: Some(vec![Extent { offset: 4096, length: 10 }]) };
        let is_file = kind == Kind::File;
        Box::new(Entry {
            kind,
            size: if is_file { 1 << 40 } else { 0 },
            mtime: if is_file { Time::new(32_503_680_000, 1) } else { Time::new(-1, 999_999_999) },
            ctime: -2,
            mode: 0o4755,
            uid: 1000,
            gid: u32::MAX,
            inode: is_file.then_some(Inode { device: 2049, number: 77 }),
            device: if kind == Kind::Block { 0x0801 } else { 0 },
            target: if kind == Kind::Symlink { b"to".to_vec() } else { Vec::new() },
            attributes: is_file.then(|| Box::new(attributes)),
            ..testing::file("e")
        })
    };
    let deeds = vec![
        Deed::Fill { directory: 0, tray: name("t1") },
        change(Old::None, New::Staged(staged(None))),
        change(Old::Archive { name: name("n.20240102T030405Z"), inode }, New::Staged(staged(Some("t1")))),
        change(Old::Remove { inode }, New::Directory(Some(looks))),
        change(Old::Clear, New::Directory(None)),
        change(Old::None, New::Restated { looks: Looks { owner: None, ..looks }, mtime: Time::from(5) }),
        change(Old::Clear, New::None),
        Deed::Keep { directory: 1, staged: name("8"), name: name("n.20240102T030405Z-2") },
        Deed::Drop { directory: path("/d"), name: name("gone"), inode },
    ];
    let kinds = [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::Char, Kind::Block];
    let mut rows: Vec<Row> = kinds
        .into_iter()
        .map(|kind| Row::Begin {
            directory: 1,
            entry: entry(kind),
            hash: Some([7; 32]),
            archive_name: Some(name("a")),
            flags: 1,
        })
        .collect();
    rows.extend([
        Row::End { id: 300, archive_name: None },
        Row::Stray { directory: path("/"), entry: entry(Kind::Dir), hash: None, archive_name: name("s") },
        Row::Refresh { id: 1, entry: entry(Kind::Fifo), hash: None, flags: 4 },
        Row::Flag { id: 2 },
        Row::Gone { directory: path("/d") },
        Row::Forget { id: 3 },
        Row::Continue {
            id: 4,
            directory: 0,
            entry: entry(Kind::Symlink),
            hash: Some([8; 32]),
            archive_name: None,
            flags: 0,
        },
    ]);
    Batch { run: 9, directories: vec![path("/d"), path("/d/e")], deeds, rows, ..Batch::default() }
}

#[test]
fn batch_is_stored_in_the_bytes_of_its_format() {
    // A change of these bytes, by whatever type they are made of, needs a new number of the format.
    let golden: String = include_str!("format_3.hex").split_whitespace().collect();
    let stored = encode_batch(&batch_of_everything());
    let hex: String = stored.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
    assert_eq!(decode_batch(&stored), Ok(batch_of_everything()));
}

#[test]
fn deeds_on_proved_files_are_stored_in_these_bytes() {
    let repo = Repo::new();
    let (path, _) = repo.proved_file("archive", "old");
    std::fs::File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(5, 6)).unwrap();
    let mut found = Dir::open_base(path.parent().unwrap()).unwrap().metadata(&Name::new("old").unwrap()).unwrap();
    found.inode = (0xfe01, 131_074);
    let file = ProvedFile::of(&found);
    let (directory, name) = (AbsPath::new(&b"/d"[..]).unwrap(), Name::new("n").unwrap());
    let change = |old, new| Deed::Change { directory: 0, name: name.clone(), old, new };
    let restate = New::Restate { looks: Looks { mode: 0o644, owner: None }, mtime: Time::new(5, 6), file };
    let batch = Batch {
        deeds: vec![
            change(Old::Delete { file }, New::None),
            change(Old::Retire { name: name.clone(), file }, restate),
            Deed::Delete { directory, name: name.clone(), file },
        ],
        ..Repo::in_d(Deed::Fill { directory: 0, tray: Name::new("t").unwrap() })
    };
    let stored = encode_batch(&batch);
    let hex: String = stored.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "0201022f64030100016e04828008118cc8afa025000100016e05016e828008118cc8afa02504a403008cc8afa025828008118cc8afa02504022f64016e828008118cc8afa02500"
    );
    assert_eq!(decode_batch(&stored), Ok(batch));
}

#[test]
fn damaged_batch_is_refused() {
    let batch = Repo::in_d(Deed::Fill { directory: 0, tray: Name::new("tray").unwrap() });
    let stored = encode_batch(&batch);
    assert_eq!(stored, b"\x02\x01\x02/d\x01\x00\x00\x04tray\x00");
    assert_eq!(decode_batch(&stored), Ok(batch));
    for damaged in [
        &b"\x02\x01\x02xd\x01\x00\x00\x04tray\x00"[..],
        b"\x02\x01\x02/d\x01\x00\x01\x04tray\x00",
        b"\x02\x01\x02/d\x01\x05\x00\x04tray\x00",
        b"\x02\x01\x02/d\x01\x00\x00\x04t/ay\x00",
        b"\x02\x01\x02/d\x01\x00\x00\x04tray",
        b"\x02\x01\x02/d\x01\x00\x00\xfftray\x00",
        b"",
    ] {
        assert_eq!(decode_batch(damaged), Err(Damaged), "{}", damaged.escape_ascii());
    }
    let row = |directory| Row::Begin {
        directory,
        entry: Box::new(testing::file("f")),
        hash: None,
        archive_name: None,
        flags: 0,
    };
    let with_row =
        |directory| Batch { directories: vec![AbsPath::root()], rows: vec![row(directory)], ..Batch::default() };
    assert!(decode_batch(&encode_batch(&with_row(0))).is_ok());
    assert_eq!(decode_batch(&encode_batch(&with_row(1))), Err(Damaged));
}
