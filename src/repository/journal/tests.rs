//! What a power cut leaves, made by hand: no other way to lose what a file system was not told to keep.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::entry::testing;
use crate::repository::dirs::Dir;
use crate::repository::staging::Tray;

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
        let mut journal =
            Journal::open(&self.repository, (self.source, &self.name), Arc::clone(&self.staging)).unwrap();
        let done = journal.carry_out(&mut self.index, batch, then).unwrap();
        done.settle(&mut self.index, |_| Ok(())).unwrap();
        done.batch
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
    assert_eq!(recover(&repo.repository, &mut repo.index, &repo.name).unwrap(), 0);
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
    recover(&repo.repository, &mut repo.index, &repo.name).unwrap();
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
    assert_eq!(recover(&repo.repository, &mut repo.index, &repo.name).unwrap(), 0);
    assert!(repo.placed("f").exists());
    assert_eq!(repo.versions(), 1);
}

#[test]
fn what_is_found_in_the_way_only_then_gets_its_row() {
    let mut repo = Repo::new();
    let batch = repo.carry_out(repo.batch("f"), Then::More);
    repo.put_back(&batch, "f");
    std::fs::write(repo.placed("f"), b"somebody's").unwrap();
    recover(&repo.repository, &mut repo.index, &repo.name).unwrap();
    let hash = *blake3::hash(b"somebody's").as_bytes();
    assert_eq!(repo.index.versions_with(&hash, 9).unwrap().len(), 1);
    assert_eq!(repo.versions(), 1);
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
    assert_eq!(recover(&repo.repository, &mut repo.index, &repo.name).unwrap(), 1);
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
