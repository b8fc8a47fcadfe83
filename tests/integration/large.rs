//! Large files that changed, and what is compressed: little is sent, and what comes of it is the same.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::support::*;

// Of so large a file groups of chunks are told of first.
const SIZE: usize = 12 << 20;

fn text(lines: usize) -> String {
    (0..lines).map(|n| format!("line {n} of a text that says much the same again and again, {}\n", n * 7919)).collect()
}

/// What may happen to a large file, and how many of its bytes must come at the most.
type Edit = (&'static str, fn(Vec<u8>) -> Vec<u8>, u64);

const EDITS: [Edit; 7] = [
    ("a byte before it", |was| [b"x".to_vec(), was].concat(), 150_000),
    ("more behind it", |was| [was, noise(2, 100_000)].concat(), 250_000),
    ("less in the middle", |was| [&was[..3_000_000], &was[4_000_000..]].concat(), 150_000),
    ("its halves swapped", |was| [&was[SIZE / 2..], &was[..SIZE / 2]].concat(), 300_000),
    ("a part twice", |was| [&was[..], &was[1_000_000..2_000_000]].concat(), 300_000),
    ("ten bytes overwritten", overwrite, 1_500_000),
    ("shorter", |was| was[..SIZE / 3].to_vec(), 150_000),
];

fn overwrite(mut bytes: Vec<u8>) -> Vec<u8> {
    (0..10).for_each(|n| bytes[n * 800_000 + 5] ^= 1);
    bytes
}

#[test]
fn only_what_is_new_in_a_large_file_comes() {
    let sshd = Sshd::new();
    for (what, edit, most) in EDITS {
        let program = Program::new();
        let client = Tree::new([("f", at(1_000_000_000, 0, file(noise(1, SIZE))))]);
        program.pull_well(&sshd, &client.root(), &[]);
        fs::write(client.path("f"), edit(noise(1, SIZE))).unwrap();
        let summary = program.pull_well(&sshd, &client.root(), &[]);
        let copied = summary["bytes_copied"].as_u64().unwrap();
        assert!(copied <= most, "{what}: {copied} bytes came");
        assert!(summary["bytes_received"].as_u64().unwrap() <= most + 100_000, "{what}: {summary}");
        assert_eq!((&summary["changed"], &summary["copied"], &summary["archived"]), (&1.into(), &1.into(), &1.into()));
        assert_same(&client.root(), &program.snapshot("client", &client.root()));
        let old = program.archive("client", &client.path("f.20010909T014640Z"));
        assert!(fs::read(old).unwrap() == noise(1, SIZE), "{what}: the earlier version is as it was");
        program.assert_index_is_right();
        program.run(["verify"]).well();
    }
}

#[test]
fn blocks_of_an_earlier_version_are_shared_where_the_file_system_can() {
    let knows_xfs = fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("xfs"));
    if !is_root() || !knows_xfs {
        return eprintln!("needs root, for it mounts a file system that can, and a kernel that has one");
    }
    let (sshd, program) = (Sshd::new(), Program::without_repository());
    let disk = Disk::xfs(&program.path("disk"), &program.path("mounted"), 400 << 20);
    std::os::unix::fs::symlink("mounted/repo", program.repo()).unwrap();
    fs::create_dir(program.path("mounted/repo")).unwrap();
    program.init();
    let was = |n: usize| noise(n as u64 + 10, SIZE);
    let client = Tree::new((0..EDITS.len()).map(|n| (n.to_string(), at(1_000_000_000, 0, file(was(n))))));
    program.pull_well(&sshd, &client.root(), &[]);
    let before = disk.used();
    for (n, (_, edit, _)) in EDITS.iter().enumerate() {
        fs::write(client.path(n.to_string()), edit(was(n))).unwrap();
    }
    program.pull_well(&sshd, &client.root(), &[]);
    // Whatever is not where it was is copied: in three of the seven files nearly all, or two thirds, and little in the others.
    let more = disk.used() - before;
    assert!(more < 40_000_000, "{more} bytes more are in use");
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    for n in 0..EDITS.len() {
        let old = program.archive("client", &client.path(format!("{n}.20010909T014640Z")));
        assert!(fs::read(old).unwrap() == was(n), "the earlier version of {n} is as it was");
    }
    program.assert_index_is_right();
    program.run(["verify"]).well();
}

#[test]
fn a_large_file_comes_whole_where_that_is_asked_for() {
    let sshd = Sshd::new();
    for flags in [&["--whole-file"][..], &["--tuning", "copy=sftp"], &["--bwlimit", "200MB"]] {
        let program = Program::new();
        let client = Tree::new([("f", file(noise(1, SIZE))), ("small", file("small"))]);
        program.pull_well(&sshd, &client.root(), flags);
        fs::write(client.path("f"), overwrite(noise(1, SIZE))).unwrap();
        let summary = program.pull_well(&sshd, &client.root(), flags);
        assert_eq!(summary["bytes_copied"], SIZE, "{flags:?}");
        assert_same(&client.root(), &program.snapshot("client", &client.root()));
        program.assert_index_is_right();
    }
}

#[test]
fn an_earlier_version_that_is_rotten_or_gone_spoils_nothing() {
    let sshd = Sshd::new();
    for spoil in [rot, cut, remove] {
        let program = Program::new();
        let client = Tree::new([("f", file(noise(1, SIZE)))]);
        program.pull_well(&sshd, &client.root(), &[]);
        spoil(&program.snapshot("client", &client.path("f")));
        fs::write(client.path("f"), [b"x".to_vec(), noise(1, SIZE)].concat()).unwrap();
        let ran = program.pull(&sshd, [&format!("client:{}", client.root().display())]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert_same(&client.root(), &program.snapshot("client", &client.root()));
    }
}

#[test]
fn what_has_rotted_comes_again_where_a_file_was_only_touched() {
    let sshd = Sshd::new();
    // The smaller one is decided over before anything of it comes, the larger one begins to come before.
    for size in [SIZE, 24 << 20] {
        let program = Program::new();
        let client = Tree::new([("f", at(1_000_000_000, 0, file(noise(1, size))))]);
        program.pull_well(&sshd, &client.root(), &[]);
        let place = program.snapshot("client", &client.path("f"));
        rot(&place);
        filetime::set_file_mtime(&place, filetime::FileTime::from_unix_time(1_000_000_000, 0)).unwrap();
        filetime::set_file_mtime(client.path("f"), filetime::FileTime::from_unix_time(1_000_000_001, 0)).unwrap();
        let ran = program.pull(&sshd, [&format!("client:{}", client.root().display())]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let told = format!("snapshot copy of `{}` was corrupt; fetched it again", client.path("f").display());
        assert_eq!(ran.stderr.matches(&told).count(), 1, "{}", ran.stderr);
        assert!(fs::read(&place).unwrap() == noise(1, size), "the snapshot is right");
        program.assert_index_is_right();
        // The corrupt copy is kept as what it is, and the version that it was taken for has its content again.
        program.run(["verify"]).well();
        assert_eq!(program.archived("client", &client.root()).len(), 2);
    }
}

fn rot(path: &std::path::Path) {
    fs::File::options().write(true).open(path).unwrap().write_all_at(&[0; 5000], 2_000_000).unwrap();
}

fn cut(path: &std::path::Path) {
    fs::File::options().write(true).open(path).unwrap().set_len(SIZE as u64 / 2).unwrap();
}

fn remove(path: &std::path::Path) {
    fs::remove_file(path).unwrap();
}

#[test]
fn text_is_compressed_when_that_is_asked_for() {
    let sshd = Sshd::new();
    let client = Tree::new((0..50).map(|n| (format!("f{n}"), file(text(1000 + n)))));
    client.add([("large", file(text(20_000))), ("noise", file(noise(3, 300_000)))]);
    let received = |flag: &str| {
        let program = Program::new();
        let summary = program.pull_well(&sshd, &client.root(), &[flag]);
        assert_same(&client.root(), &program.snapshot("client", &client.root()));
        program.assert_index_is_right();
        summary["bytes_received"].as_u64().unwrap()
    };
    let (plain, packed) = (received("--compress=never"), received("-z"));
    // Of noise there is nothing to save.
    let (packed, plain) = (packed - 300_000, plain - 300_000);
    assert!(packed * 6 < plain, "{packed} bytes, {plain} without");
    assert!(received("--compress=auto") > plain, "this line is not slow");
}

#[test]
fn what_comes_over_a_line_that_turns_out_slow_is_compressed() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new((0..200).map(|n| (format!("f{n}"), file(text(500 + n)))));
    client.add([("large", file(text(20_000)))]);
    // At most 64 KiB are on their way at a time: about 1 MB a second.
    sshd.delay_line(60);
    let summary = program.pull_well(&sshd, &client.root(), &[]);
    let [copied, received] = ["bytes_copied", "bytes_received"].map(|count| summary[count].as_u64().unwrap());
    // What was asked for before it was known comes as it is, on a busy machine some 5 MB.
    assert!(received * 3 < copied * 2, "{received} bytes came, of files of {copied}");
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn many_medium_files_are_compared_at_a_time() {
    let sshd = Sshd::new();
    let sizes = [140_000, 200_000, 700_000, 2_000_000];
    let all = (0..200).map(|n| (format!("f{n:03}"), noise(n, sizes[n as usize % 4])));
    // When bytes count more than questions, chunks are shorter, and come in groups.
    for (flags, most) in [(&[][..], 4_000_000), (&["-z"], 1_500_000)] {
        let program = Program::new();
        let client = Tree::new(all.clone().map(|(name, content)| (name, at(1_000_000_000, 0, file(content)))));
        program.pull_well(&sshd, &client.root(), &[]);
        for (n, (name, mut content)) in all.clone().enumerate() {
            let middle = content.len() / 2;
            match n % 3 {
                0 => content[middle] ^= 1,
                1 => content.insert(middle, 0),
                _ => content.truncate(content.len() - 5000),
            }
            fs::write(client.path(name), content).unwrap();
        }
        let summary = program.pull_well(&sshd, &client.root(), flags);
        assert_eq!((&summary["changed"], &summary["copied"]), (&200.into(), &200.into()));
        assert!(summary["bytes_received"].as_u64().unwrap() < most, "{summary}");
        assert_same(&client.root(), &program.snapshot("client", &client.root()));
        program.assert_index_is_right();
    }
}

#[test]
fn what_is_compared_need_not_come_when_it_is_here() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let (one, other) = (noise(1, 3_000_000), noise(2, 3_000_000));
    let of = |content: &[u8]| at(1_000_000_000, 0, file(content));
    let client = Tree::new([("a", of(&one)), ("b", of(&other)), ("c", of(&one[1..])), ("d", of(&other[1..]))]);
    let targets = ["client", "other"].map(|host| format!("{host}:{}", client.root().display()));
    targets.iter().for_each(|target| program.pull(&sshd, [target]).well());
    // Only touched; with the content of another; two with the same new content.
    fs::write(client.path("a"), &one).unwrap();
    fs::write(client.path("b"), &one).unwrap();
    let new = noise(3, 3_000_000);
    ["c", "d"].iter().for_each(|name| fs::write(client.path(name), &new).unwrap());
    let ran = program.pull(&sshd, [&targets[0]]);
    ran.well();
    let summary = ran.summary();
    assert_eq!((&summary["touched"], &summary["changed"]), (&1.into(), &3.into()));
    assert_eq!((&summary["bytes_copied"], &summary["linked"]), (&new.len().into(), &2.into()));
    assert!(summary["bytes_received"].as_u64().unwrap() < new.len() as u64 + 200_000, "{summary}");
    let assert_contents = |host: &str| {
        for name in ["a", "b", "c", "d"] {
            let kept = fs::read(program.snapshot(host, &client.path(name))).unwrap();
            assert!(kept == fs::read(client.path(name)).unwrap(), "{host}: {name}");
        }
    };
    assert_contents("client");
    // The other client has all of that too, and shows it.
    let ran = program.pull(&sshd, [&targets[1]]);
    ran.well();
    let summary = ran.summary();
    assert_eq!((&summary["bytes_copied"], &summary["copied"]), (&0.into(), &0.into()), "{summary}");
    assert_contents("other");
    let place = |host: &str| inode(&program.snapshot(host, &client.path("d")));
    assert_eq!(place("client"), place("other"));
    program.assert_index_is_right();
}

#[test]
fn what_grew_or_shrank_too_much_comes_whole() {
    let sshd = Sshd::new();
    for (before, after, is_compared) in [
        (4 << 20, 200_000, false),
        (200_000, 4 << 20, false),
        (1 << 20, 300_000, true),
        (300_000, 4 << 20, true),
        (0, 200_000, false),
    ] {
        let program = Program::new();
        let client = Tree::new([("f", at(1_000_000_000, 0, file(&noise(1, 4 << 20)[..before])))]);
        program.pull_well(&sshd, &client.root(), &[]);
        let content = [b"x", &noise(1, 4 << 20)[..after - 1]].concat();
        fs::write(client.path("f"), content).unwrap();
        let summary = program.pull_well(&sshd, &client.root(), &[]);
        let copied = summary["bytes_copied"].as_u64().unwrap();
        let saved = if is_compared { before.min(after) as u64 - 60_000 } else { 0 };
        assert!(copied <= after as u64 - saved, "{before} to {after}: {copied} bytes came");
        assert!(is_compared || copied == after as u64, "{before} to {after}: {copied} bytes came");
        assert_same(&client.root(), &program.snapshot("client", &client.root()));
        program.assert_index_is_right();
    }
}

// So large that it is put together before the client has told of all of it.
const AHEAD: usize = 40 << 20;

/// With something changed near its beginning, in its middle and at its end, which moves what is behind.
fn edited(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[1_000_000..1_050_000].fill(0);
    bytes.insert(20_000_000, b'x');
    bytes.drain(30_000_000..30_100_000);
    bytes.extend(noise(9, 100_000));
    bytes
}

#[test]
fn a_file_that_is_put_together_meanwhile_comes_right_and_is_linked_where_it_is_here() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let (was, new) = (noise(1, AHEAD), edited(noise(1, AHEAD)));
    let of = |content: &[u8]| at(1_000_000_000, 0, file(content));
    let client = Tree::new([("f", of(&was)), ("g", of(&was))]);
    let target = |host: &str| format!("{host}:{}", client.root().display());
    ["client", "other"].iter().for_each(|host| program.pull(&sshd, [&target(host)]).well());
    let pull = |host: &str, names: &[&str], content: &[u8], mtime: i64| {
        names.iter().for_each(|name| client.put(name, at(mtime, 0, file(content))));
        let ran = program.pull(&sshd, [&target(host)]);
        ran.well();
        for name in names {
            assert!(fs::read(program.snapshot(host, &client.path(name))).unwrap() == content);
        }
        let summary = ran.summary();
        assert!(summary["bytes_received"].as_u64().unwrap() < 1_200_000, "{summary}");
        // It began to come before it was known that it need not.
        assert!(summary["bytes_copied"].as_u64().unwrap() > 50_000, "{summary}");
        let staging: Vec<_> = fs::read_dir(program.repo().join("staging").join(host)).unwrap().collect();
        assert!(staging.is_empty(), "{staging:?}");
        (summary["copied"].as_u64().unwrap(), summary["linked"].as_u64().unwrap())
    };
    // Two with the same new content: one of them stays.
    assert_eq!(pull("client", &["f", "g"], &new, 1_000_000_100), (1, 1));
    // As it was before, and as it was after that: both are in the archive.
    assert_eq!(pull("client", &["f"], &was, 1_000_000_200), (0, 1));
    assert_eq!(pull("client", &["f"], &new, 1_000_000_300), (0, 1));
    // Another client proves that it has it.
    assert_eq!(pull("other", &["f", "g"], &new, 1_000_000_300), (0, 2));
    let place = |host: &str| inode(&program.snapshot(host, &client.path("f")));
    assert_eq!(place("client"), place("other"));
    program.assert_index_is_right();
    program.run(["verify"]).well();
}

#[test]
fn of_large_files_of_one_size_those_with_one_content_are_linked_in_the_first_run_too() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let (size, one) = (2_000_000, noise(1, 2_000_000));
    // Samples don't look there.
    let mut like_one = one.clone();
    like_one[300_000] ^= 1;
    let contents = [&one, &noise(2, size), &noise(3, size), &one, &like_one, &noise(2, size), &like_one];
    let client = Tree::new(
        contents.iter().enumerate().map(|(n, content)| (format!("f{n}"), at(1_000_000_000, n as u32, file(content)))),
    );
    let summary = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!((&summary["copied"], &summary["linked"]), (&4.into(), &3.into()));
    assert_eq!(summary["bytes_copied"], 4 * size);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn a_large_file_of_several_names_is_compared_once() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("a", at(1_000_000_000, 0, file(noise(1, 2_000_000))))]);
    client.hard_link("a", "b");
    client.hard_link("a", "c");
    program.pull_well(&sshd, &client.root(), &[]);
    let file = fs::File::options().write(true).open(client.path("a")).unwrap();
    file.write_all_at(b"changed", 1_000_000).unwrap();
    let summary = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!((&summary["changed"], &summary["copied"], &summary["linked"]), (&3.into(), &1.into(), &2.into()));
    assert!(summary["bytes_received"].as_u64().unwrap() < 100_000, "{summary}");
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    let place = |name: &str| inode(&program.snapshot("client", &client.path(name)));
    assert_eq!((place("a"), place("a")), (place("b"), place("c")));
    program.assert_index_is_right();
}

#[test]
fn what_is_said_to_be_here_and_is_not_comes_whole() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new([("f", at(1_000_000_000, 0, file(noise(1, SIZE))))]);
    program.pull_well(&sshd, &client.root(), &[]);
    fs::remove_file(program.snapshot("client", &client.path("f"))).unwrap();
    fs::write(client.path("f"), noise(1, SIZE)).unwrap();
    let summary = program.pull_well(&sshd, &client.root(), &[]);
    assert_eq!(summary["bytes_copied"], SIZE);
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
}

#[test]
fn on_a_slow_line_of_small_files_too_only_what_is_new_comes() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let client = Tree::new((0..50).map(|n| (format!("f{n}"), at(1_000_000_000, 0, file(noise(n, 40_000))))));
    program.pull_well(&sshd, &client.root(), &[]);
    for n in 0..50 {
        let mut content = noise(n, 40_000);
        content[20_000] ^= 1;
        fs::write(client.path(format!("f{n}")), content).unwrap();
    }
    // Compressing says that the line is slow.
    let summary = program.pull_well(&sshd, &client.root(), &["-z"]);
    assert_eq!(summary["copied"], 50);
    assert!(summary["bytes_received"].as_u64().unwrap() < 250_000, "{summary}");
    assert_same(&client.root(), &program.snapshot("client", &client.root()));
    program.assert_index_is_right();
}
