//! What a walk leaves out.

use std::fs;
use std::path::Path;

use archive_helper::protocol::*;

use crate::client::{Helper, Walked, abs, make, temp, walk_of};

const SIGNATURE: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# more";

fn walk(top: &Path, change: impl FnOnce(&mut Walk)) -> Walked {
    let mut walk = walk_of(&[top]);
    change(&mut walk);
    Helper::start().walk(walk, |_| true)
}

fn skipped(walked: &Walked, path: &Path) -> Option<SkipReason> {
    walked.skipped.iter().find(|skipped| skipped.path == abs(path)).map(|skipped| skipped.reason)
}

#[test]
fn excluded_entries_are_neither_listed_nor_walked() {
    let (_temp, top) = temp();
    make(&top, &["a.tmp", "b", "cache/x", "sub/cache/y", "sub/a.tmp", "keep.tmp"]);
    let anchored = format!("{}/cache/", top.display());
    let exclude = ["*.tmp", &anchored, "!keep.tmp"].map(|pattern| pattern.as_bytes().to_vec());
    let walked = walk(&top, |walk| walk.exclude = exclude.to_vec());
    assert_eq!(walked.names(&top), ["b", "keep.tmp", "sub", "sub/cache", "sub/cache/y"]);
    assert_eq!(walked.announced.len(), 3);
}

#[test]
fn excluded_entries_are_counted_and_some_are_named() {
    let (_temp, top) = temp();
    make(&top, &["a", "sub/b"]);
    (0..1500).for_each(|n| fs::write(top.join(format!("{n}.tmp")), "").unwrap());
    fs::write(top.join("sub/c.tmp"), "").unwrap();
    for names_excluded in [false, true] {
        let walked = walk(&top, |walk| {
            walk.exclude = vec![b"*.tmp".to_vec()];
            walk.names_excluded = names_excluded;
        });
        let excluded = |path: &Path| walked.directory(path).excluded;
        assert_eq!((excluded(&top), excluded(&top.join("sub"))), (1500, 1));
        let named = walked.skipped.iter().filter(|skipped| skipped.reason == SkipReason::Excluded).count();
        assert_eq!(named as u64, if names_excluded { MAX_EXCLUDED_NAMED + 1 } else { 0 });
        assert_eq!(walked.names(&top), ["a", "sub", "sub/b"]);
    }
}

#[test]
fn a_root_is_never_excluded() {
    let (_temp, top) = temp();
    make(&top, &["cache/x", "cache/a.tmp"]);
    let walked = walk(&top.join("cache"), |walk| walk.exclude = vec![b"cache".to_vec(), b"*.tmp".to_vec()]);
    assert_eq!(walked.names(&top), ["cache/x"]);
}

#[test]
fn what_is_beside_a_valid_tag_is_left_out() {
    let (_temp, top) = temp();
    make(&top, &["cache/x", "cache/sub/y", "fake/CACHEDIR.TAG", "fake/z", "dir/CACHEDIR.TAG/w"]);
    fs::write(top.join("cache/CACHEDIR.TAG"), SIGNATURE).unwrap();
    let walked = walk(&top, |walk| walk.exclude_caches = true);
    assert_eq!(skipped(&walked, &top.join("cache")), Some(SkipReason::Cache));
    assert_eq!(walked.skipped.len(), 1);
    let expected = [
        "cache",
        "cache/CACHEDIR.TAG",
        "dir",
        "dir/CACHEDIR.TAG",
        "dir/CACHEDIR.TAG/w",
        "fake",
        "fake/CACHEDIR.TAG",
        "fake/z",
    ];
    assert_eq!(walked.names(&top), expected);
    assert!(walked.directory(&top.join("cache")).complete);
    assert_eq!(walk(&top, |_| {}).skipped, []);
}

#[test]
fn what_is_beside_a_marker_is_left_out() {
    let (_temp, top) = temp();
    make(&top, &["a/.nobackup", "a/x", "a/sub/y", "b/.skip", "b/z", "c/.nobackup/w"]);
    let names = [".nobackup", ".skip"].map(|name| Name::new(name).unwrap());
    let walked = walk(&top, |walk| walk.exclude_if_present = names.to_vec());
    assert_eq!(skipped(&walked, &top.join("a")), Some(SkipReason::Marker));
    assert_eq!(skipped(&walked, &top.join("b")), Some(SkipReason::Marker));
    let expected = ["a", "a/.nobackup", "b", "b/.skip", "c", "c/.nobackup", "c/.nobackup/w"];
    assert_eq!(walked.names(&top), expected);
}

#[test]
fn the_repository_is_not_entered() {
    let (_temp, top) = temp();
    make(&top, &["repo/snapshot/x", "other/format", "other/y"]);
    fs::write(top.join("repo/format"), "archive 1\nid 0123456789abcdef\n").unwrap();
    let walked = walk(&top, |walk| walk.repository = "0123456789abcdef".to_owned());
    assert_eq!(skipped(&walked, &top.join("repo")), Some(SkipReason::Repository));
    assert_eq!(walked.names(&top), ["other", "other/format", "other/y", "repo"]);
    assert_eq!(walk(&top, |_| {}).names(&top).len(), 7);
}

#[test]
fn kernel_file_systems_are_not_entered() {
    let walked = walk("/".as_ref(), |walk| {
        walk.exclude = ["/*", "!/proc", "!/sys"].map(|pattern| pattern.as_bytes().to_vec()).to_vec();
    });
    for path in ["/proc", "/sys"] {
        assert_eq!(skipped(&walked, path.as_ref()), Some(SkipReason::KernelFileSystem), "{path}");
        let announced = walked.directory(path.as_ref());
        assert!(announced.complete && announced.entries == 0);
    }
    assert!(matches!(&walked.roots[..], [Root::Found { entry: None, empty: false, .. }]));
}

#[test]
fn other_file_systems_are_not_entered_if_so_wanted() {
    // Whatever is mounted here and is not made up by the kernel.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let is_shm = |line: &&str| line.split(' ').nth(1) == Some("/dev/shm");
    if mounts.lines().find(is_shm).is_none() {
        return eprintln!("not tested: nothing is mounted at /dev/shm");
    }
    let walk = |one_file_system| {
        let walk = Walk { one_file_system, ..walk_of(&["/dev".as_ref()]) };
        Helper::start().walk(walk, |_| false)
    };
    assert_eq!(skipped(&walk(true), "/dev/shm".as_ref()), Some(SkipReason::OtherFileSystem));
    assert_eq!(skipped(&walk(false), "/dev/shm".as_ref()), None);
}
