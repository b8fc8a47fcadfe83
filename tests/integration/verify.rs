//! Verification: whatever happened to a plain file is found, and where a good copy is, is said.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::support::*;

/// A repository with `kept` and `old` in the snapshot and `old` in the archive; another source has the same contents
/// when there are to be copies.
struct Kept {
    program: Program,
    client: Tree,
}

impl Kept {
    fn new(with_copies: bool) -> Kept {
        let program = Program::new();
        let client = Tree::new([
            ("kept", at(1_000_000_000, 0, file("what is in the snapshot"))),
            ("other", file("what is elsewhere......")),
            ("old", at(1_000_000_000, 0, file("what is in the archive."))),
        ]);
        program.pull_local(&client.root(), &["--name", "laptop"]);
        client.put("old", at(1_100_000_000, 0, file("what came after")));
        program.pull_local(&client.root(), &["--name", "laptop"]);
        if with_copies {
            let copies =
                Tree::new([("one", file("what is in the snapshot")), ("two", file("what is in the archive."))]);
            program.pull_local(&copies.root(), &["--name", "copies", "--link", "never"]);
        }
        Kept { program, client }
    }

    fn in_snapshot(&self) -> PathBuf {
        self.program.snapshot("laptop", &self.client.path("kept"))
    }

    fn in_archive(&self) -> PathBuf {
        self.program.archive("laptop", &self.client.path("old.20010909T014640Z"))
    }

    fn verify(&self, more: &[&str]) -> Ran {
        self.program.run([&["verify", "laptop"], more].concat())
    }

    #[track_caller]
    fn finds(&self, bad: &[(&Path, &str)], copies: bool) {
        let ran = self.verify(&["--json"]);
        assert_eq!(ran.status, 1, "{}", ran.stderr);
        for (path, what) in bad {
            let place = path.strip_prefix(self.program.repo()).unwrap().display().to_string();
            let said = ran.stderr.lines().find(|line| line.contains(&format!("`{place}` {what}")));
            let said = said.unwrap_or_else(|| panic!("{place} {what}: {}", ran.stderr));
            if !what.contains("unknown") {
                assert_eq!(said.contains("`snapshot/copies/"), copies, "{said}");
            }
        }
        assert_eq!(ran.lines()[0]["bad"], bad.len(), "{}", ran.stderr);
        let status = self.program.run(["status", "--json"]);
        let laptop = status.lines().into_iter().find(|line| line["source"] == "laptop").unwrap();
        assert_eq!(laptop["bad"], bad.len());
    }
}

#[test]
fn a_symlink_that_leads_elsewhere_is_told_and_repaired() {
    let program = Program::new();
    let client = Tree::new([("l", link("here")), ("f", file("f"))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let plain = program.snapshot("laptop", &client.path("l"));
    fs::remove_file(&plain).unwrap();
    std::os::unix::fs::symlink("there", &plain).unwrap();
    let told = program.run(["verify"]);
    assert_eq!(told.status, 1);
    assert!(told.stderr.contains("data/l` leads elsewhere than the index says"), "{}", told.stderr);
    program.run(["verify", "--repair"]).well();
    assert_eq!(fs::read_link(&plain).unwrap(), Path::new("here"));
    program.run(["verify"]).well();
}

#[test]
fn a_swapped_pair_without_other_copies_is_put_right() {
    let program = Program::new();
    let client = Tree::new([("one", file("content one")), ("two", file("content two")), ("three", file("3"))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let [one, two] = ["one", "two"].map(|name| program.snapshot("laptop", &client.path(name)));
    let aside = program.path("aside");
    for (from, to) in [(&one, &aside), (&two, &one), (&aside, &two)] {
        fs::rename(from, to).unwrap();
    }
    let told = program.run(["verify"]);
    assert_eq!(told.stderr.matches("a good copy is at").count(), 2, "{}", told.stderr);
    program.run(["verify", "--repair"]).well();
    assert_eq!((fs::read(&one).unwrap(), fs::read(&two).unwrap()), (b"content one".to_vec(), b"content two".to_vec()));
    program.run(["verify"]).well();
}

#[test]
fn a_good_copy_is_found_behind_any_number_of_bad_names() {
    let program = Program::new();
    let single = Tree::new([("good", file("the content of many"))]);
    program.pull_local(&single.root(), &["--name", "single"]);
    let client = Tree::new((0..300).map(|number| (format!("f{number}"), file("the content of many"))));
    program.pull_local(&client.root(), &["--name", "laptop", "--link", "content"]);
    let good = program.snapshot("single", &single.path("good"));
    let bytes = fs::read(&good).unwrap();
    fs::remove_file(&good).unwrap();
    fs::write(&good, &bytes).unwrap();
    flip(&program.snapshot("laptop", &client.path("f7")));
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let what = format!("laptop:{}", client.path("f9").display());
    program.run(["restore", &what, place.path().to_str().unwrap()]).well();
    let printed = program.run(["cat", &what]);
    printed.well();
    assert_eq!(printed.stdout, "the content of many");
    program.run(["verify", "laptop", "--repair"]).well();
    assert_eq!(fs::read(program.snapshot("laptop", &client.path("f299"))).unwrap(), bytes);
    program.run(["verify"]).well();
}

#[test]
fn samples_come_to_every_file_however_many_are_bad() {
    let program = Program::new();
    let client = Tree::new((0..20).map(|number| (format!("f{number:02}"), file(format!("content {number:02}")))));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    // They come in the order in which they were entered.
    let index = program.index();
    let mut entered = index.prepare("SELECT CAST(name AS TEXT) FROM version WHERE kind = 0 ORDER BY id").unwrap();
    let entered: Vec<String> = entered.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for number in [0, 1, 2, 19] {
        flip(&program.snapshot("laptop", &client.path(&entered[number])));
    }
    let known = |program: &Program| program.run(["status", "--json"]).lines()[0]["bad"].clone();
    for bad in [2, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4] {
        program.run(["-q", "verify", "--sample", "10%"]);
        assert_eq!(known(&program), bad);
    }
}

/// Another byte at the fifth place of a plain file, of the same size and times.
fn flip(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mtime = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 5).unwrap();
    file.set_modified(mtime).unwrap();
}

fn places(kept: &Kept) -> [PathBuf; 2] {
    [kept.in_snapshot(), kept.in_archive()]
}

#[test]
fn what_is_as_it_was_is_well() {
    let kept = Kept::new(true);
    let ran = kept.verify(&["--json"]);
    ran.well();
    let line = &ran.lines()[0];
    assert_eq!((line["files"].as_u64(), line["bad"].as_u64()), (Some(4), Some(0)));
    assert_eq!(kept.program.run(["status", "--json"]).lines()[1]["bad"], 0);
    kept.program.run(["verify", "nobody"]).refused(2, &["no source `nobody`"]);
}

#[test]
fn a_flipped_bit_is_found() {
    for copies in [false, true] {
        for at in 0..2 {
            let kept = Kept::new(copies);
            let place = places(&kept)[at].clone();
            let file = fs::File::options().read(true).write(true).open(&place).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 5).unwrap();
            file.write_all_at(&[byte[0] ^ 4], 5).unwrap();
            kept.finds(&[(&place, "is corrupt")], copies);
        }
    }
}

#[test]
fn a_cut_file_is_found() {
    for copies in [false, true] {
        for at in 0..2 {
            let kept = Kept::new(copies);
            let place = places(&kept)[at].clone();
            fs::File::options().write(true).open(&place).unwrap().set_len(7).unwrap();
            kept.finds(&[(&place, "has another size")], copies);
        }
    }
}

#[test]
fn a_removed_file_is_found() {
    for copies in [false, true] {
        for at in 0..2 {
            let kept = Kept::new(copies);
            let place = places(&kept)[at].clone();
            fs::remove_file(&place).unwrap();
            kept.finds(&[(&place, "is missing")], copies);
        }
    }
}

#[test]
fn an_added_file_is_found() {
    for at in 0..2 {
        let kept = Kept::new(false);
        let place = places(&kept)[at].with_file_name("added");
        fs::write(&place, "from nowhere").unwrap();
        kept.finds(&[(&place, "is unknown")], false);
    }
}

#[test]
fn a_swapped_pair_is_found() {
    for copies in [false, true] {
        let kept = Kept::new(copies);
        let [one, other] = places(&kept);
        let aside = kept.program.path("aside");
        fs::rename(&one, &aside).unwrap();
        fs::rename(&other, &one).unwrap();
        fs::rename(&aside, &other).unwrap();
        kept.finds(&[(&one, "is corrupt"), (&other, "is corrupt")], copies);
    }
}

#[test]
fn an_inode_is_read_once_under_all_its_names() {
    let program = Program::new();
    let client = Tree::new((0..20).map(|n| (format!("f{n}"), file("one content for all of them"))));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let ran = program.run(["verify", "--json"]);
    ran.well();
    assert_eq!((ran.lines()[0]["files"].as_u64(), ran.lines()[0]["inodes"].as_u64()), (Some(20), Some(1)));
    fs::write(program.snapshot("laptop", &client.path("f3")), "one cOntent for all of them").unwrap();
    let ran = program.run(["verify", "--json"]);
    assert_eq!((ran.status, ran.lines()[0]["bad"].as_u64()), (1, Some(20)));
}

#[test]
fn status_says_how_much_of_a_source_was_verified() {
    let program = Program::new();
    let client = Tree::new((0..20).map(|n| (format!("f{n}"), file(format!("content {n}")))));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let verified = || program.run(["status", "laptop"]).stdout.lines().nth(1).unwrap().trim_end().to_owned();
    program.run(["verify", "-q", "--sample", "10%"]).well();
    assert!(verified().ends_with(", 2 of 20 files"), "{}", verified());
    let line = program.run(["status", "--json"]).lines().remove(0);
    assert_eq!((line["verified_files"].as_u64(), line["verifiable_files"].as_u64()), (Some(2), Some(20)));
    program.run(["verify", "-q"]).well();
    assert!(!verified().contains(" of "), "{}", verified());
    // What came since was not verified.
    client.add([("new", file("new"))]);
    program.pull_local(&client.root(), &["--name", "laptop"]);
    assert!(verified().ends_with(", 20 of 21 files"), "{}", verified());
}

#[test]
fn samples_take_turns() {
    let program = Program::new();
    let client = Tree::new((0..10).map(|n| (format!("f{n}"), file(format!("content {n}")))));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    fs::write(program.snapshot("laptop", &client.path("f7")), "Content 7").unwrap();
    let mut found = 0;
    for _ in 0..4 {
        let ran = program.run(["verify", "--json", "--sample", "30%"]);
        assert_eq!(ran.lines()[0]["files"], 3);
        found += u64::from(ran.status == 1);
    }
    // What is bad has its turn like all else, and is not forgotten meanwhile.
    assert_eq!(found, 1);
    assert_eq!(program.run(["status", "--json"]).lines()[0]["bad"], 1);
    program.run(["verify", "--sample", "101%"]).refused_usage(&["is no share"]);
}

/// What can happen to a plain file.
const DAMAGES: [fn(&Path); 4] = [
    |path| fs::File::options().write(true).open(path).unwrap().write_all_at(b"X", 5).unwrap(),
    |path| fs::File::options().write(true).open(path).unwrap().set_len(7).unwrap(),
    |path| fs::remove_file(path).unwrap(),
    |path| {
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("elsewhere", path).unwrap();
    },
];

fn damaged(program: &Program) -> Vec<PathBuf> {
    let (mut found, mut waiting) = (Vec::new(), vec![program.repo().join("damaged")]);
    while let Some(path) = waiting.pop() {
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => {
                waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            Ok(_) => found.push(path),
            Err(_) => {}
        }
    }
    found
}

#[test]
fn a_good_copy_takes_the_place_of_what_was_damaged() {
    for (number, damage) in DAMAGES.iter().enumerate() {
        for at in 0..2 {
            let kept = Kept::new(true);
            let place = places(&kept)[at].clone();
            let good = fs::read(&place).unwrap();
            damage(&place);
            let bad = fs::read(&place).ok();
            let ran = kept.verify(&["--repair", "--json"]);
            ran.well();
            assert_eq!((&ran.lines()[0]["bad"], &ran.lines()[0]["repaired"]), (&0.into(), &1.into()), "{}", ran.stderr);
            assert!(ran.stderr.contains("is repaired, from `snapshot/copies/"), "{}", ran.stderr);
            assert_eq!(fs::read(&place).unwrap(), good);
            assert_eq!(fs::metadata(&place).unwrap().nlink(), 1, "a file of another source was linked");
            kept.verify(&[]).well();
            let aside = damaged(&kept.program);
            assert_eq!(aside.len(), usize::from(number != 2), "{aside:?}");
            assert_eq!(aside.first().and_then(|aside| fs::read(aside).ok()), bad, "not a byte of it is deleted");
        }
    }
}

#[test]
fn what_has_no_good_copy_is_fetched_again() {
    for damage in DAMAGES {
        let kept = Kept::new(false);
        let [snapshot, archive] = places(&kept);
        damage(&snapshot);
        let ran = kept.verify(&["--repair"]);
        assert_eq!(ran.status, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("will be fetched by the next pull"), "{}", ran.stderr);
        let summary = kept.program.pull_local(&kept.client.root(), &["--name", "laptop"]);
        assert_eq!(summary["copied"], 1, "{summary}");
        assert_eq!(fs::read(&snapshot).unwrap(), b"what is in the snapshot");
        kept.verify(&[]).well();
        // The client has no past: what is rotten there stays, for it is better than nothing.
        damage(&archive);
        let is = fs::read(&archive).ok();
        assert_eq!(kept.verify(&["--repair"]).status, 1);
        assert_eq!(fs::read(&archive).ok(), is);
    }
}

#[test]
fn a_swapped_pair_is_repaired() {
    let kept = Kept::new(true);
    let [one, other] = places(&kept);
    let aside = kept.program.path("aside");
    fs::rename(&one, &aside).unwrap();
    fs::rename(&other, &one).unwrap();
    fs::rename(&aside, &other).unwrap();
    let ran = kept.verify(&["--repair", "--json"]);
    ran.well();
    assert_eq!(ran.lines()[0]["repaired"], 2, "{}", ran.stderr);
    assert_eq!(fs::read(&one).unwrap(), b"what is in the snapshot");
    assert_eq!(fs::read(&other).unwrap(), b"what is in the archive.");
    kept.verify(&[]).well();
}

#[test]
fn a_repair_waits_for_nobody() {
    let kept = Kept::new(true);
    let lock = fs::File::options().write(true).open(kept.program.repo().join("lock/laptop.lock")).unwrap();
    let _held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    kept.verify(&[]).well();
    kept.verify(&["--repair"]).refused(11, &["is in use by another run"]);
}

#[test]
fn repair_does_not_wait_for_its_own_lock() {
    let kept = Kept::new(true);
    let is_quick = || {
        let begun = std::time::Instant::now();
        kept.verify(&["--repair"]).well();
        // What waits for a lock waits for a second.
        begun.elapsed() < std::time::Duration::from_millis(900)
    };
    assert!((0..3).any(|_| is_quick()));
}

#[test]
fn sample_says_how_many_of_all_files_were_read() {
    let program = Program::new();
    let client = Tree::new((0..5).map(|n| (format!("f{n}"), file(format!("{n}")))));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    let verify = |arguments: &[&str]| program.run([&["verify"], arguments].concat());
    assert_eq!(verify(&["--sample", "1%"]).stdout, "laptop: 1 of 5 files read (1 B), 0 bad, 0 repaired\n");
    assert_eq!(verify(&[]).stdout, "laptop: 5 files, 5 of them read (5 B), 0 bad, 0 repaired\n");
    verify(&["--sample", "0"]).refused_usage(&["a sample of 0 % reads nothing"]);
}
