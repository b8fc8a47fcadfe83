//! The property of roots: whatever sets of them were pulled together or one after the other, at whatever depth, what was
//! pulled is listed and restored as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::support::*;

// Directories and files, some of them within others, and names that sort between a directory and what is in it.
const ROOTS: [&str; 10] = ["a", "a-b", "a/b", "a/b/c", "a/b/c/d/e", "b/c/d", "b/f", "f", "b!/c/x/y", "b/c/d/f"];
const FILES: [&str; 13] = [
    "a/f",
    // What was a directory above a root may become a file.
    "a/b",
    "b/c",
    "a/b/f",
    "a/b/c/f",
    "a/b/c/d/e/f",
    "a-b/f",
    "b/c/d/f",
    "b/f",
    "f",
    "b!/c/x/y/f",
    "b!/c/x/y/z/f",
    "a/b/c/d/e/g",
];

#[derive(Clone, Debug)]
enum Deed {
    Write(usize, u8),
    Remove(usize),
    // With all that is in it.
    RemoveRoot(usize),
}

#[derive(Clone, Debug)]
struct Step {
    deeds: Vec<Deed>,
    roots: Vec<usize>,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0..FILES.len(), any::<u8>()).prop_map(|(which, content)| Deed::Write(which, content)),
        1 => (0..FILES.len()).prop_map(Deed::Remove),
        1 => (0..ROOTS.len()).prop_map(Deed::RemoveRoot),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let roots = prop::collection::vec(0..ROOTS.len(), 1..4);
    let step = (prop::collection::vec(deed(), 1..8), roots).prop_map(|(deeds, roots)| Step { deeds, roots });
    prop::collection::vec(step, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: super::cases() / 2,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_roots_were_pulled_are_listed_and_come_back(steps in steps()) {
        tell(&steps);
    }
}

/// What was pulled: a file's content, or `None` for a directory; and its mode and time.
type Known = BTreeMap<PathBuf, (Option<Vec<u8>>, u32, i64)>;

fn tell(steps: &[Step]) {
    let program = Program::new();
    let client = Tree::new(FILES.iter().filter(|path| !path.contains('/')).map(|path| (path, file("at first"))));
    FILES.iter().for_each(|path| write(&client, path, b"at first"));
    let (mut known, mut moments) = (Known::new(), Vec::new());
    for step in steps {
        step.deeds.iter().for_each(|deed| carry_out(&client, deed));
        let roots = apart(&client, &step.roots);
        let paths = roots.iter().map(|root| client.path(root).to_str().unwrap().to_owned());
        let flags = ["--json", "pull", "--name", "laptop", "--max-delete", "100", "--allow-missing"].map(str::to_owned);
        let ran = program.run(flags.into_iter().chain(paths));
        if roots.is_empty() || ran.status != 0 {
            // A root in what the snapshot has as a file can't be pulled before that file's directory is.
            assert!(roots.is_empty() || ran.stderr.contains("can't hold"), "{}", ran.stderr);
            continue;
        }
        for root in roots {
            known.retain(|path, _| !path.starts_with(root));
            known.extend(walk(&client.root(), Path::new(root)));
        }
        moments.push((ran.summary()["run"].to_string(), known.clone()));
    }
    let mut before: Option<&(String, Known)> = None;
    for moment in &moments {
        assert_listed(&program, &client, moment);
        assert_restored(&program, &client, moment);
        if let Some(before) = before {
            assert_told_apart(&program, &client, before, moment);
        }
        before = Some(moment);
    }
    let Some(last) = before else { return };
    assert_found(&program, &client, &last.1);
    program.assert_index_is_right();
    program.run(["verify", "laptop"]).well();
    program.run(["prune", "--keep-last", "1", "laptop"]).well();
    assert_listed(&program, &client, last);
    assert_restored(&program, &client, last);
    assert_forgotten(&program, &client, last);
}

// Those that are there, and of those that lie within each other only one.
fn apart<'a>(client: &Tree, chosen: &[usize]) -> Vec<&'a str> {
    let mut roots: Vec<&str> = Vec::new();
    for root in chosen.iter().map(|&which| ROOTS[which]) {
        let within = |other: &&str| Path::new(other).starts_with(root) || Path::new(root).starts_with(other);
        if fs::symlink_metadata(client.path(root)).is_ok() && !roots.iter().any(within) {
            roots.push(root);
        }
    }
    roots
}

fn carry_out(client: &Tree, deed: &Deed) {
    match deed {
        Deed::Write(which, content) => write(client, FILES[*which], &vec![b'a' + content % 26; usize::from(*content)]),
        Deed::Remove(which) => client.remove(FILES[*which]),
        Deed::RemoveRoot(which) => client.remove(ROOTS[*which]),
    }
}

// What is in the way goes.
fn write(client: &Tree, path: &str, content: &[u8]) {
    let path = Path::new(path);
    for above in path.ancestors().skip(1).filter(|above| client.root().join(above).is_file()) {
        client.remove(above.to_str().unwrap());
    }
    fs::create_dir_all(client.root().join(path.parent().unwrap())).unwrap();
    client.put(path.to_str().unwrap(), file(content));
}

// What there is at and below a path, by its path below `base`.
fn walk(base: &Path, path: &Path) -> Known {
    let (mut found, mut waiting) = (Known::new(), vec![path.to_owned()]);
    while let Some(path) = waiting.pop() {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = fs::symlink_metadata(base.join(&path)) else { continue };
        let content = metadata.is_file().then(|| fs::read(base.join(&path)).unwrap());
        if content.is_none() {
            waiting.extend(names(&base.join(&path)).iter().map(|name| path.join(name)));
        }
        let time = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
        found.insert(path, (content, metadata.mode() & 0o7777, time));
    }
    found
}

// The directories of which nothing is known but that they lead to something.
fn leading(known: &Known) -> BTreeSet<PathBuf> {
    let above = known.keys().flat_map(|path| path.ancestors().skip(1));
    above.filter(|above| !known.contains_key(*above) && !above.as_os_str().is_empty()).map(Path::to_owned).collect()
}

fn assert_listed(program: &Program, client: &Tree, (run, known): &(String, Known)) {
    let expected: BTreeSet<PathBuf> = known.keys().cloned().chain(leading(known)).collect();
    for what in ["laptop".to_owned(), format!("laptop:{}", client.root().parent().unwrap().display())] {
        let ran = program.run(["--json", "ls", "-R", &what, "--at", run]);
        ran.well();
        let path = |line: &serde_json::Value| super::path(line, "path").strip_prefix(client.root()).map(Path::to_owned);
        let listed: Vec<PathBuf> = ran.lines().iter().filter_map(|line| path(line).ok()).collect();
        let listed: Vec<PathBuf> = listed.into_iter().filter(|path| !path.as_os_str().is_empty()).collect();
        assert_eq!(listed.len(), expected.len(), "run {run}: {listed:?}");
        assert_eq!(BTreeSet::from_iter(listed), expected, "run {run}");
    }
}

fn assert_restored(program: &Program, client: &Tree, (run, known): &(String, Known)) {
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let whole = place.path().join("whole");
    program.run(["restore", "laptop", whole.to_str().unwrap(), "--at", run]).well();
    assert_is(&whole.join(client.root().strip_prefix("/").unwrap()), known);
    let part = place.path().join("part");
    let what = format!("laptop:{}", client.root().display());
    program.run(["restore", &what, part.to_str().unwrap(), "--at", run]).well();
    assert_is(&part.join("data"), known);
}

fn assert_is(restored: &Path, known: &Known) {
    let mut found = walk(restored, Path::new(""));
    assert!(found.remove(Path::new("")).is_some());
    for above in leading(known) {
        let (content, ..) = found.remove(&above).unwrap_or_else(|| panic!("{} is missing", above.display()));
        assert_eq!(content, None);
    }
    assert_eq!(&found, known);
}

fn assert_told_apart(program: &Program, client: &Tree, from: &(String, Known), to: &(String, Known)) {
    let ran = program.run(["--json", "diff", "laptop", "--from", &from.0, "--to", &to.0]);
    ran.well();
    let mut told = BTreeSet::new();
    for line in ran.lines() {
        let below = |key: &str| super::path(&line, key).strip_prefix(client.root()).unwrap().to_owned();
        told.insert(below("path"));
        if line["change"] == "moved" {
            told.insert(below("from"));
        }
    }
    let all: BTreeSet<&PathBuf> = from.1.keys().chain(to.1.keys()).collect();
    let differs = |path: &&PathBuf| from.1.get(*path) != to.1.get(*path);
    let expected: BTreeSet<PathBuf> = all.into_iter().filter(differs).cloned().collect();
    // A directory's own time is not looked at by itself: what is in it changed.
    assert!(told.is_superset(&expected), "{expected:?} differ, told were {told:?}");
}

// By name, content, and as rows of the index.
fn assert_found(program: &Program, client: &Tree, known: &Known) {
    for (path, (content, ..)) in known {
        let what = format!("laptop:{}", client.root().join(path).display());
        let ran = program.run(["cat", &what]);
        match content {
            Some(content) => assert_eq!((ran.status, ran.stdout.as_bytes()), (0, &content[..]), "{}", ran.stderr),
            None => assert_eq!(ran.status, 1, "{}", ran.stderr),
        }
        program.run(["history", &what]).well();
    }
    for command in [&["--json", "find", "*"][..], &["index", "export"]] {
        let is_now = |line: &serde_json::Value| line["until_run"].is_null();
        let below =
            |line: &serde_json::Value| super::path(line, "path").strip_prefix(client.root()).unwrap().to_owned();
        let found: BTreeSet<PathBuf> =
            program.run(command).lines().iter().filter(|line| is_now(line)).map(below).collect();
        assert_eq!(found, known.keys().cloned().collect(), "{command:?}");
    }
}

// Everything below one name goes, and nothing else.
fn assert_forgotten(program: &Program, client: &Tree, (run, known): &(String, Known)) {
    let what = format!("laptop:{}", client.path("a").display());
    let ran = program.run(["forget", "--yes", &what]);
    let is_there = known.keys().any(|path| path.starts_with("a"));
    assert_eq!(ran.status, i32::from(!is_there), "{}", ran.stderr);
    let left: Known =
        known.iter().filter(|(path, _)| !path.starts_with("a")).map(|(path, is)| (path.clone(), is.clone())).collect();
    if !left.is_empty() {
        assert_listed(program, client, &(run.clone(), left));
    }
}
