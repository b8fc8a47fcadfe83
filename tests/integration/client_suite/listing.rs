//! Listings.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use archive::client::list::{
    AnnouncedDirectory, Changes, EntriesPage, ListRequest, ListSink, Problem, Root, SkipReason, Skipped, Wanted,
};
use archive::entry::{Digests, Entry, Kind};
use archive::error::{Error, Result};
use archive::path::AbsPath;

use super::{Reach, abs, lstat, noise, write};
use crate::support::tree::{Tree, at, dir, fifo, file, link, mode};

/// What a listing said.
#[derive(Default)]
pub struct Seen {
    pub roots: Vec<Root>,
    pub directories: Vec<AnnouncedDirectory>,
    pub pages: Vec<EntriesPage>,
    pub changes: Vec<Changes>,
    pub problems: Vec<Problem>,
    pub skipped: Vec<Skipped>,
    /// What is wanted of directories; all of others.
    pub wanted: BTreeMap<AbsPath, Wanted>,
}

impl ListSink for Seen {
    fn roots(&mut self, roots: Vec<Root>) -> Result<()> {
        assert!(self.roots.is_empty() && self.directories.is_empty(), "the roots are reported first");
        self.roots = roots;
        Ok(())
    }

    fn directory(&mut self, directory: AnnouncedDirectory) -> Result<Wanted> {
        assert_eq!(directory.number, self.directories.len() as u64);
        let wanted = self.wanted.get(&directory.path).cloned().unwrap_or(Wanted::All);
        self.directories.push(directory);
        Ok(wanted)
    }

    fn entries(&mut self, page: EntriesPage) -> Result<()> {
        assert!(page.entries.len() <= 4096 && page.entries.windows(2).all(|pair| pair[0].name < pair[1].name));
        self.pages.push(page);
        Ok(())
    }

    fn changes(&mut self, changes: Changes) -> Result<()> {
        self.changes.push(changes);
        Ok(())
    }

    fn problem(&mut self, problem: Problem) -> Result<()> {
        self.problems.push(problem);
        Ok(())
    }

    fn skipped(&mut self, skipped: Skipped) {
        self.skipped.push(skipped);
    }
}

impl Seen {
    /// Every listed entry without its attributes, by path.
    pub fn listed(&self) -> BTreeMap<AbsPath, Entry> {
        let of_page = |page: &EntriesPage| {
            let directory = self.directories[page.directory as usize].path.clone();
            let entries = page.entries.iter().cloned();
            entries
                .map(move |entry| (directory.join(&entry.name).unwrap(), Entry { attributes: None, ..entry }))
                .collect::<Vec<_>>()
        };
        self.pages.iter().flat_map(of_page).collect()
    }

    pub fn announced(&self, path: &Path) -> &AnnouncedDirectory {
        self.directories.iter().find(|directory| directory.path == abs(path)).unwrap()
    }
}

pub fn request(root: &Path) -> ListRequest {
    ListRequest { roots: vec![abs(root).as_bytes().to_vec()], ..ListRequest::default() }
}

/// Lists all of a directory.
pub fn list_all(client: &dyn archive::client::Client, root: &Path) -> Seen {
    let mut seen = Seen::default();
    client.list(&request(root), &mut seen).unwrap();
    seen
}

fn on_disk(directory: &Path, found: &mut BTreeMap<AbsPath, Entry>) {
    for below in fs::read_dir(directory).unwrap() {
        let path = below.unwrap().path();
        let entry = lstat(&path);
        if entry.kind == Kind::Dir {
            on_disk(&path, found);
        }
        found.insert(abs(&path), entry);
    }
}

pub fn every_kind_of_entry_is_listed(reach: &dyn Reach) {
    let tree = Tree::new([
        ("empty", file("")),
        ("file", at(1_700_000_000, 123_456_789, file("content"))),
        ("old", at(-1, 5, mode(0o4755, file("1969")))),
        ("directory", dir([("below", dir([("deep", file("x"))])), ("none", dir::<&str>([]))])),
        ("link", link("no/such/target")),
        ("fifo", fifo()),
    ]);
    fs::hard_link(tree.path("file"), tree.path("further")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path("socket")).unwrap();
    let client = reach.connect(&tree.root());
    let seen = list_all(&*client, &tree.root());
    let mut expected = BTreeMap::new();
    on_disk(&tree.root(), &mut expected);
    assert_eq!(seen.listed(), expected);
    assert!(matches!(&seen.roots[..], [Root::Found { path, entry: Some(entry), empty: false }]
        if *path == abs(tree.root()) && entry.kind == Kind::Dir));
    for directory in &seen.directories {
        let mut digests = Digests::default();
        let path = &directory.path;
        let below = expected.iter().filter(|(below, _)| below.split().is_some_and(|(parent, _)| parent == *path));
        let mut below: Vec<_> = below.map(|(_, entry)| entry).collect();
        below.sort_by(|one, other| one.name.cmp(&other.name));
        below.iter().for_each(|entry| digests.add(entry));
        assert_eq!(directory.fingerprint, digests.fingerprint(), "{path}");
        assert_eq!(directory.entries, below.len() as u64, "{path}");
        assert!(directory.complete);
    }
    assert!(seen.problems.is_empty() && seen.skipped.is_empty());
    client.disconnect();
}

pub fn only_changes_are_listed_where_they_are_asked_for(reach: &dyn Reach) {
    let tree = Tree::new((0..200).map(|number| (format!("f{number:03}"), file("x"))));
    let before = {
        let client = reach.connect(&tree.root());
        let seen = list_all(&*client, &tree.root());
        client.disconnect();
        seen
    };
    let mut known = Digests::default();
    before.listed().values().for_each(|entry| known.add(entry));
    write(&tree.path("f007"), b"changed");
    write(&tree.path("new"), b"new");
    fs::remove_file(tree.path("f100")).unwrap();
    let client = reach.connect(&tree.root());
    let wanted = BTreeMap::from([(abs(tree.root()), Wanted::Changes(known.clone()))]);
    let mut seen = Seen { wanted, ..Seen::default() };
    client.list(&request(&tree.root()), &mut seen).unwrap();
    let [Changes { directory: 0, differences, entries }] = &seen.changes[..] else { panic!("{:?}", seen.changes) };
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_bytes()).collect();
    assert_eq!(names, [&b"f007"[..], b"new"]);
    let mut added = Digests::default();
    entries.iter().for_each(|entry| added.add(entry));
    let (now, gone) = known.changed(differences, &added).unwrap();
    assert_eq!((now.fingerprint(), gone.len()), (seen.announced(&tree.root()).fingerprint, 2));
    assert!(seen.pages.is_empty());
    client.disconnect();
}

pub fn unwanted_directories_send_no_entries(reach: &dyn Reach) {
    let tree = Tree::new([("a", dir([("x", file("x")), ("below", dir([("y", file("y"))]))])), ("b", file("b"))]);
    let client = reach.connect(&tree.root());
    let wanted = BTreeMap::from([(abs(tree.path("a")), Wanted::Nothing)]);
    let mut seen = Seen { wanted, ..Seen::default() };
    client.list(&request(&tree.root()), &mut seen).unwrap();
    // What is below it is announced all the same.
    let listed: Vec<_> = seen.listed().into_keys().collect();
    assert_eq!(listed, [tree.path("a"), tree.path("a/below/y"), tree.path("b")].map(abs));
    client.disconnect();
}

pub fn large_directory_is_listed_in_ordered_pages(reach: &dyn Reach) {
    let tree = Tree::new::<&str>([]);
    (0..9000).for_each(|number| drop(fs::File::create(tree.path(format!("f{number}"))).unwrap()));
    let client = reach.connect(&tree.root());
    let seen = list_all(&*client, &tree.root());
    assert!(seen.pages.len() > 1);
    let names: Vec<_> = seen.pages.iter().flat_map(|page| &page.entries).map(|entry| &entry.name).collect();
    assert!(names.len() == 9000 && names.is_sorted());
    let last: Vec<_> = seen.pages.iter().map(|page| page.last).collect();
    assert_eq!(last.iter().filter(|last| **last).count(), 1);
    assert_eq!(last.last(), Some(&true));
    client.disconnect();
}

pub fn missing_root_is_reported_in_its_place(reach: &dyn Reach) {
    let tree = Tree::new([("a", file("a"))]);
    let client = reach.connect(&tree.root());
    let roots = [tree.path("none"), tree.root()].map(|path| abs(path).as_bytes().to_vec());
    let request = ListRequest { roots: [&roots[..], &[b"/a/../b".to_vec()]].concat(), ..ListRequest::default() };
    let mut seen = Seen::default();
    client.list(&request, &mut seen).unwrap();
    let [Root::Missing { path }, Root::Found { .. }, Root::Invalid] = &seen.roots[..] else {
        panic!("{:?}", seen.roots)
    };
    assert_eq!(*path, abs(tree.path("none")));
    assert_eq!(seen.listed().len(), 1);
    client.disconnect();
}

pub fn root_that_is_a_file_has_no_directory(reach: &dyn Reach) {
    let tree = Tree::new([("a", file("content"))]);
    let client = reach.connect(&tree.root());
    let seen = list_all(&*client, &tree.path("a"));
    assert!(matches!(&seen.roots[..], [Root::Found { entry: Some(entry), .. }]
        if (entry.kind, entry.size) == (Kind::File, 7)));
    assert!(seen.directories.is_empty());
    client.disconnect();
}

pub fn excluded_entries_are_counted_and_named(reach: &dyn Reach) {
    let tree = Tree::new([("a.o", file("x")), ("b", file("x")), ("cache", dir([("c", file("x"))]))]);
    let client = reach.connect(&tree.root());
    let exclude = vec![b"*.o".to_vec(), b"cache/".to_vec()];
    let mut seen = Seen::default();
    client.list(&ListRequest { exclude, names_excluded: true, ..request(&tree.root()) }, &mut seen).unwrap();
    assert_eq!(seen.listed().into_keys().collect::<Vec<_>>(), [abs(tree.path("b"))]);
    assert_eq!(seen.announced(&tree.root()).excluded, 2);
    seen.skipped.sort_by(|one, other| one.path.cmp(&other.path));
    let expected = ["a.o", "cache"].map(|name| Skipped { path: abs(tree.path(name)), reason: SkipReason::Excluded });
    assert_eq!(seen.skipped, expected);
    client.disconnect();
}

/// Fails at the first directory.
struct Failing;

impl ListSink for Failing {
    fn roots(&mut self, _: Vec<Root>) -> Result<()> {
        Ok(())
    }

    fn directory(&mut self, _: AnnouncedDirectory) -> Result<Wanted> {
        Err(Error::usage("enough"))
    }

    fn entries(&mut self, _: EntriesPage) -> Result<()> {
        unreachable!("nothing was asked for")
    }

    fn changes(&mut self, _: Changes) -> Result<()> {
        unreachable!("nothing was asked for")
    }

    fn problem(&mut self, _: Problem) -> Result<()> {
        Ok(())
    }

    fn skipped(&mut self, _: Skipped) {}
}

pub fn error_of_the_sink_ends_the_listing(reach: &dyn Reach) {
    let tree = Tree::new([("a", dir([("b", file("b"))]))]);
    let client = reach.connect(&tree.root());
    let error = client.list(&request(&tree.root()), &mut Failing).unwrap_err();
    assert_eq!(error.to_string(), "enough");
    client.disconnect();
}

/// Lists everything once more at the first directory.
struct Twice<'a> {
    client: &'a dyn archive::client::Client,
    root: &'a Path,
    outer: Seen,
    inner: Option<Seen>,
}

impl ListSink for Twice<'_> {
    fn roots(&mut self, roots: Vec<Root>) -> Result<()> {
        self.outer.roots(roots)
    }

    fn directory(&mut self, directory: AnnouncedDirectory) -> Result<Wanted> {
        self.inner.get_or_insert_with(|| list_all(self.client, self.root));
        self.outer.directory(directory)
    }

    fn entries(&mut self, page: EntriesPage) -> Result<()> {
        self.outer.entries(page)
    }

    fn changes(&mut self, changes: Changes) -> Result<()> {
        self.outer.changes(changes)
    }

    fn problem(&mut self, problem: Problem) -> Result<()> {
        self.outer.problem(problem)
    }

    fn skipped(&mut self, skipped: Skipped) {
        self.outer.skipped(skipped);
    }
}

pub fn second_listing_runs_inside_the_first(reach: &dyn Reach) {
    let tree = Tree::new([("a", dir([("b", file(noise(10, 1)))])), ("c", file("c"))]);
    let client = reach.connect(&tree.root());
    let mut twice = Twice { client: &*client, root: &tree.root(), outer: Seen::default(), inner: None };
    client.list(&request(&tree.root()), &mut twice).unwrap();
    let Twice { outer, inner, .. } = twice;
    assert_eq!(outer.listed(), inner.unwrap().listed());
    assert_eq!(outer.listed().len(), 3);
    client.disconnect();
}
