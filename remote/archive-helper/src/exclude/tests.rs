//! The patterns against a table, and the table against git.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;

// Patterns, a path below the anchor (a directory if it ends in a slash), whether it is left out.
const TABLE: [(&[&str], &str, bool); 96] = [
    (&["foo"], "foo", true),
    (&["foo"], "a/foo", true),
    (&["foo"], "foo/bar", true),
    (&["foo"], "foobar", false),
    (&["foo"], "Foo", false),
    (&["/foo"], "foo", true),
    (&["/foo"], "a/foo", false),
    (&["a/foo"], "a/foo", true),
    (&["a/foo"], "b/a/foo", false),
    (&["/a/foo"], "a/foo", true),
    (&["foo/"], "foo/", true),
    (&["foo/"], "foo", false),
    (&["foo/"], "a/foo/", true),
    (&["foo/"], "foo/x", true),
    (&["/foo/"], "a/foo/", false),
    (&["a/foo/"], "a/foo/", true),
    (&["*.tmp"], "x.tmp", true),
    (&["*.tmp"], "a/b/x.tmp", true),
    (&["*.tmp"], ".tmp", true),
    (&["*.tmp"], "x.tmp.bak", false),
    (&["*"], ".hidden", true),
    (&["f*o*r"], "foobar", true),
    (&["f*o*r"], "foobaz", false),
    (&["*a*a*b"], "aaab", true),
    (&["?oo"], "foo", true),
    (&["?oo"], "oo", false),
    (&["a/*"], "a/b", true),
    (&["a/*"], "a/", false),
    (&["a/*/c"], "a/b/c", true),
    (&["a/*/c"], "a/b/b/c", false),
    (&["a?c"], "a/c", false),
    (&["*/foo"], "a/foo", true),
    (&["*/foo"], "foo", false),
    (&["*/foo"], "a/b/foo", false),
    (&["**/foo"], "foo", true),
    (&["**/foo"], "a/b/foo", true),
    (&["**/a/foo"], "b/a/foo", true),
    (&["a/**"], "a/b", true),
    (&["a/**"], "a/b/c", true),
    (&["a/**"], "a/", false),
    (&["a/**/b"], "a/b", true),
    (&["a/**/b"], "a/x/b", true),
    (&["a/**/b"], "a/x/y/b", true),
    (&["a/**/b"], "x/a/b", false),
    (&["a/**/b/**/c"], "a/1/b/2/3/c", true),
    (&["a/**/b/**/c"], "a/1/c/2/b", false),
    (&["**/x/**"], "a/x/b", true),
    (&["**/x/**"], "a/x/", false),
    (&["**"], "a", true),
    (&["/**"], "a/b", true),
    (&["a/**/**/b"], "a/b", true),
    (&["a/**/**"], "a/b", true),
    (&["a/b**"], "a/bcd", true),
    (&["a/b**"], "a/b/c", true),
    (&["a/b**d"], "a/b/d", false),
    (&["[abc]"], "b", true),
    (&["[abc]"], "d", false),
    (&["[a-c]x"], "bx", true),
    (&["[!a-c]"], "b", false),
    (&["[!a-c]"], "d", true),
    (&["[^a-c]"], "d", true),
    (&["[]]"], "]", true),
    (&["[]-a]"], "^", true),
    (&["[!]a]"], "b", true),
    (&["[a-]"], "-", true),
    (&["[-a]"], "-", true),
    (&["[a-c-e]"], "d", false),
    (&["[a-c-e]"], "-", true),
    (&["[\\]x]"], "]", true),
    (&["[\\-x]"], "-", true),
    (&["[[:digit:]]"], "7", true),
    (&["[[:digit:]]"], "x", false),
    (&["[[:alpha:]_]*"], "_9", true),
    (&["[![:space:]]"], "x", true),
    (&["[[:nope:]]"], "n", false),
    (&["[[:digit]"], ":", true),
    (&["[[:x]"], "[", true),
    (&["a[x/]b"], "a/b", false),
    (&["[abc"], "[abc", false),
    (&["\\*"], "*", true),
    (&["\\*"], "x", false),
    (&["\\#x"], "#x", true),
    (&["#x"], "#x", false),
    (&["\\!x"], "!x", true),
    (&["x\\"], "x\\", false),
    (&["\\a\\b"], "ab", true),
    (&["x  "], "x", true),
    (&["x\\ "], "x ", true),
    (&["x\\  "], "x ", true),
    (&["", "  ", "!", "/"], "x", false),
    (&["{a,b}"], "a", false),
    (&["{a,b}"], "{a,b}", true),
    (&["*.tmp", "!keep.tmp"], "keep.tmp", false),
    (&["!keep.tmp", "*.tmp"], "keep.tmp", true),
    (&["a/", "!a/b"], "a/b", true),
    (&["/*", "!/a"], "a/b", false),
];

// As a walk does it: what lies in an excluded directory is left out too.
fn is_left_out(patterns: &[&str], path: &[u8]) -> bool {
    let excludes = Excludes::new(patterns);
    let is_dir = path.ends_with(b"/");
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
    ends.chain([path.len()]).any(|end| {
        let (directory, name) = AbsPath::new([b"/", &path[..end]].concat()).unwrap().split().unwrap();
        excludes.within(&directory).excludes(name.as_bytes(), is_dir || end < path.len())
    })
}

#[test]
fn patterns_match_as_the_table_says() {
    for (patterns, path, expected) in TABLE {
        assert_eq!(is_left_out(patterns, path.as_bytes()), expected, "{patterns:?} on {path:?}");
    }
}

#[test]
fn git_agrees_with_the_table() {
    let temp = tempfile::tempdir().unwrap();
    if git(temp.path(), &["init", "--quiet"]) != Some(0) {
        return eprintln!("not tested: there is no git");
    }
    for (index, (patterns, path, expected)) in TABLE.iter().enumerate() {
        let top = temp.path().join(format!("{index}"));
        let file = top.join(path);
        fs::create_dir_all(if path.ends_with('/') { &file } else { file.parent().unwrap() }).unwrap();
        if !path.ends_with('/') {
            fs::write(&file, "").unwrap();
        }
        fs::write(top.join(".gitignore"), patterns.join("\n")).unwrap();
        let path = format!("./{}", path.trim_end_matches('/'));
        let ignored = git(&top, &["check-ignore", "--no-index", "--quiet", "--", &path]);
        assert_eq!(ignored, Some(if *expected { 0 } else { 1 }), "{patterns:?} on {path:?}");
    }
}

// The exit status.
fn git(directory: &Path, arguments: &[&str]) -> Option<i32> {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(directory);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.env_remove("GIT_DIR").output().ok()?.status.code()
}

#[test]
fn names_are_bytes() {
    let excludes = Excludes::new(&[&b"caf\xe9"[..], b"[\xf0-\xff]x", b"?\xfe"]);
    let filter = excludes.within(&AbsPath::root());
    for (name, expected) in [(&b"caf\xe9"[..], true), (b"\xf8x", true), (b"\x80x", false), (b"\xff\xfe", true)] {
        assert_eq!(filter.excludes(name, false), expected, "{}", name.escape_ascii());
    }
}

#[test]
fn a_carriage_return_belongs_to_the_line_end() {
    assert!(Excludes::new(&["x\r"]).within(&AbsPath::root()).excludes(b"x", false));
}

#[test]
fn no_pattern_takes_long() {
    let stars = "*a".repeat(2000) + "b";
    let dirs = "/**/a".repeat(500) + "/**/b";
    let classes = "*[a-z]*[!b]".repeat(500) + "_";
    let deep = AbsPath::new(b"/a".repeat(2000)).unwrap();
    let start = Instant::now();
    for pattern in [stars, dirs, classes] {
        assert!(!Excludes::new(&[pattern]).within(&deep).excludes(&[b'a'; 255], false));
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
