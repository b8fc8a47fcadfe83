use super::*;

fn base() -> (tempfile::TempDir, Dir) {
    let place = tempfile::tempdir().unwrap();
    let dir = Dir::open_base(place.path()).unwrap();
    (place, dir)
}

fn with(change: impl FnOnce(&mut Abilities)) -> (tempfile::TempDir, Dir) {
    let (place, dir) = base();
    let mut abilities = Abilities { moves: false, ..*dir.abilities() };
    change(&mut abilities);
    dir.file_system.learn(abilities);
    (place, dir)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

// All ways to move something without `RENAME_NOREPLACE`.
fn ways() -> Vec<(tempfile::TempDir, Dir)> {
    vec![
        with(|_| ()),
        with(|abilities| abilities.symlink_links = false),
        with(|abilities| (abilities.links, abilities.symlink_links) = (false, false)),
    ]
}

#[test]
fn probe_finds_all_that_a_local_disk_can_do() {
    let (place, dir) = base();
    dir.probe("x").unwrap();
    assert!(dir.is_probed());
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "the probe leaves nothing");
    let abilities = *dir.abilities();
    assert!(abilities.moves && abilities.links && abilities.symlink_links && abilities.symlink_metadata);
    assert!(abilities.modes && abilities.owners && abilities.inodes && abilities.syncs);
    assert_eq!(abilities.mtime_unit, 1);
    assert!(abilities.oldest_mtime < 0 && abilities.newest_mtime >= i64::from(i32::MAX));
}

#[test]
fn file_symlink_and_directory_are_moved_in_steps() {
    for (place, dir) in ways() {
        std::fs::create_dir_all(place.path().join("d/inner")).unwrap();
        std::fs::write(place.path().join("f"), "content").unwrap();
        std::os::unix::fs::symlink("target", place.path().join("l")).unwrap();
        for one in ["f", "l", "d"] {
            dir.rename(&name(one), &dir, &name(&format!("{one}-moved"))).unwrap();
            assert_eq!(dir.metadata(&name(one)), Err(Errno::ENOENT), "{one}");
        }
        assert_eq!(std::fs::read(place.path().join("f-moved")).unwrap(), b"content");
        assert_eq!(dir.read_symlink(&name("l-moved")).unwrap(), b"target");
        assert!(place.path().join("d-moved/inner").is_dir());
    }
}

#[test]
fn move_in_steps_overwrites_nothing() {
    for (place, dir) in ways() {
        std::fs::create_dir(place.path().join("d")).unwrap();
        std::fs::create_dir(place.path().join("there-dir")).unwrap();
        for file in ["f", "there", "there-empty"] {
            std::fs::write(place.path().join(file), if file == "there-empty" { "" } else { file }).unwrap();
        }
        std::os::unix::fs::symlink("target", place.path().join("l")).unwrap();
        for one in ["f", "l", "d"] {
            for there in ["there", "there-dir", "there-empty"] {
                let before = dir.metadata(&name(there)).unwrap();
                assert_eq!(dir.rename(&name(one), &dir, &name(there)), Err(Errno::EEXIST), "{one} to {there}");
                assert_eq!(dir.metadata(&name(there)).unwrap().inode, before.inode);
                assert!(dir.metadata(&name(one)).is_ok());
            }
        }
        assert_eq!(std::fs::read(place.path().join("there")).unwrap(), b"there");
    }
}

#[test]
fn failed_move_leaves_no_reserved_name() {
    let (place, dir) = with(|abilities| abilities.links = false);
    std::fs::create_dir_all(place.path().join("d/inner")).unwrap();
    let inner = dir.open(b"d/inner").unwrap();
    assert!(dir.rename(&name("d"), &inner, &name("loop")).is_err());
    assert_eq!(inner.names().unwrap(), []);
    assert_eq!(dir.rename(&name("missing"), &dir, &name("x")), Err(Errno::ENOENT));
    assert_eq!(dir.names().unwrap().len(), 1);
}

#[test]
fn move_that_was_cut_off_is_completed() {
    let (place, dir) = with(|_| ());
    std::fs::write(place.path().join("f"), "content").unwrap();
    std::fs::hard_link(place.path().join("f"), place.path().join("moved")).unwrap();
    std::fs::write(place.path().join("other"), "content").unwrap();
    assert!(!dir.complete_move(&name("f"), &dir, &name("other")).unwrap());
    assert!(dir.complete_move(&name("f"), &dir, &name("moved")).unwrap());
    assert!(!place.path().join("f").exists() && place.path().join("moved").exists());
    assert!(!dir.complete_move(&name("f"), &dir, &name("moved")).unwrap());
}

#[test]
fn changed_directories_wait_for_sync_where_syncfs_does_not_suffice() {
    let (place, dir) = with(|abilities| abilities.syncs = false);
    std::fs::create_dir(place.path().join("d")).unwrap();
    std::fs::write(place.path().join("f"), "").unwrap();
    let below = dir.open(b"d").unwrap();
    assert!(!dir.file_system.waits_for(&dir.fd) && !dir.file_system.waits_for(&below.fd));
    dir.rename(&name("f"), &below, &name("f")).unwrap();
    assert!(dir.file_system.waits_for(&dir.fd) && dir.file_system.waits_for(&below.fd));
    dir.sync_file_system().unwrap();
    assert!(!dir.file_system.waits_for(&dir.fd) && !dir.file_system.waits_for(&below.fd));
    let changes: [&dyn Fn() -> nix::Result<()>; 6] = [
        &|| below.create_dir(&name("made"), 0o700),
        &|| below.remove_dir(&name("made")),
        &|| below.create_symlink(&name("l"), b"target", Time::from(1)),
        &|| below.link(&name("f"), &below, &name("g")),
        &|| below.unlink(&name("g")),
        &|| below.set_own_mode(0o700),
    ];
    for (number, change) in changes.iter().enumerate() {
        change().unwrap();
        assert!(dir.file_system.waits_for(&below.fd), "change {number}");
        dir.sync_file_system().unwrap();
    }
}

#[test]
fn file_is_recognised_by_size_and_mtime_where_numbers_do_not_last() {
    let (place, dir) = with(|abilities| abilities.inodes = false);
    std::fs::write(place.path().join("f"), "content").unwrap();
    std::fs::write(place.path().join("g"), "longer content").unwrap();
    let before = dir.metadata(&name("f")).unwrap();
    std::fs::rename(place.path().join("f"), place.path().join("moved")).unwrap();
    assert!(dir.metadata(&name("moved")).unwrap().is_inode(before.inode));
    assert!(!dir.metadata(&name("g")).unwrap().is_inode(before.inode));
}

#[test]
fn record_proves_nothing_where_inode_numbers_do_not_last() {
    use crate::repository::index::Record;
    for lasts in [true, false] {
        let (place, dir) = with(|abilities| abilities.inodes = lasts);
        std::fs::write(place.path().join("f"), "content").unwrap();
        let found = dir.metadata(&name("f")).unwrap();
        assert_eq!(Record::of(&found, [0; 32], 0).fits(&found), lasts);
    }
}

#[test]
fn name_that_was_reserved_by_a_move_that_was_cut_off_is_taken() {
    let (place, dir) = with(|abilities| abilities.links = false);
    std::fs::write(place.path().join("f"), "content").unwrap();
    std::fs::write(place.path().join("reserved"), "").unwrap();
    std::fs::write(place.path().join("somebody's"), "x").unwrap();
    assert!(!dir.complete_move(&name("f"), &dir, &name("somebody's")).unwrap());
    assert!(dir.complete_move(&name("f"), &dir, &name("reserved")).unwrap());
    assert_eq!(std::fs::read(place.path().join("reserved")).unwrap(), b"content");
    assert_eq!(std::fs::read(place.path().join("somebody's")).unwrap(), b"x");
}
