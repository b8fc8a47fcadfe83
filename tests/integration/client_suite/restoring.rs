//! Restoring.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use archive::client::{Client, Overwrite, RestoreItem, RestoreOptions, RestoreOutcome, RestoreRefused, RestoreSession};
use archive::entry::{Entry, Kind};
use archive::path::AbsPath;

use super::listing::{Seen, list_all};
use super::{Reach, abs, lstat, noise, write};
use crate::support::tree::{Tree, at, dir, fifo, file, link, mode};

pub fn options(destination: &Path) -> RestoreOptions {
    RestoreOptions {
        destination: abs(destination).as_bytes().to_vec(),
        overwrite: Overwrite::Refuse,
        owners: false,
        dry_run: false,
        repository: "no such repository".to_owned(),
    }
}

fn open<'a>(client: &'a dyn Client, options: &RestoreOptions) -> Box<dyn RestoreSession + 'a> {
    match client.restore(options) {
        Ok(session) => session,
        Err(RestoreRefused::Destination(errno)) => panic!("the destination is refused: {errno}"),
        Err(RestoreRefused::Client(error)) => panic!("{error}"),
    }
}

// An entry of a tree on the disk, to be restored to the same path below the destination.
fn item(tree: &Tree, path: &Path) -> RestoreItem {
    let below = |path: &Path| abs(Path::new("/").join(path.strip_prefix(tree.root()).unwrap()));
    RestoreItem { directory: below(path.parent().unwrap()), entry: lstat(path), link: None }
}

fn fill(session: &mut dyn RestoreSession, item: RestoreItem, content: &[u8]) -> RestoreOutcome {
    session.begin(item).unwrap();
    session.write(0, b"what is wrong first, and discarded").unwrap();
    session.restart().unwrap();
    for (at, piece) in content.chunks(300_000).enumerate() {
        session.write(300_000 * at as u64, piece).unwrap();
    }
    session.end(true).unwrap();
    let mut filled = session.filled().unwrap();
    assert_eq!(filled.len(), 1);
    filled.remove(0)
}

// What a restore must give back of each entry.
fn comparable(seen: &Seen, below: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let path = |path: &AbsPath| path.as_bytes()[abs(below).as_bytes().len()..].to_vec();
    let entry = |entry: Entry| Entry {
        ctime: 0,
        inode: entry.inode.map(|_| archive::entry::Inode { device: 0, number: 0 }),
        ..entry
    };
    seen.listed().into_iter().map(|(at, found)| (path(&at), entry(found))).collect()
}

pub fn restored_tree_is_as_it_was(reach: &dyn Reach) {
    let tree = Tree::new([
        ("empty", file("")),
        ("small", at(1_700_000_000, 123_456_789, mode(0o640, file("content")))),
        ("large", file(noise(700_000, 1))),
        ("directory", mode(0o750, at(1_600_000_000, 5, dir([("below", file("x"))])))),
        ("link", link("small")),
        ("fifo", fifo()),
        ("to", dir::<&str>([])),
    ]);
    fs::hard_link(tree.path("small"), tree.path("zz")).unwrap();
    let client = reach.connect(&tree.root());
    let to = tree.path("to");
    let mut session = open(&*client, &options(&to));
    let offered = ["directory", "empty", "small", "large", "directory/below", "link", "fifo"];
    let items: Vec<_> = offered.iter().map(|name| item(&tree, &tree.path(name))).collect();
    let outcomes = session.offer(items.clone()).unwrap();
    assert_eq!(outcomes.len(), items.len());
    for (item, outcome) in items.iter().zip(&outcomes) {
        let is_file = item.entry.kind == Kind::File;
        let expected = if is_file { RestoreOutcome::ContentWanted } else { RestoreOutcome::Made };
        assert_eq!(*outcome, expected, "{:?}", item.entry.name);
    }
    for (name, item) in offered.iter().zip(&items).filter(|(_, item)| item.entry.kind == Kind::File) {
        let content = fs::read(tree.path(name)).unwrap();
        assert_eq!(fill(&mut *session, item.clone(), &content), RestoreOutcome::Made, "{name}");
    }
    let first = Some(AbsPath::new("/small").unwrap());
    let further = RestoreItem { link: first, ..item(&tree, &tree.path("zz")) };
    assert_eq!(session.offer(vec![further]).unwrap(), [RestoreOutcome::Made]);
    assert_eq!(session.finish(vec![items[0].clone()]).unwrap(), [RestoreOutcome::Made]);
    // The same again changes nothing.
    let again: Vec<_> = session.offer(items).unwrap();
    assert_eq!(again, vec![RestoreOutcome::Unchanged; offered.len()]);
    drop(session);
    let (original, restored) = (list_all(&*client, &tree.root()), list_all(&*client, &to));
    let mut expected = comparable(&original, &tree.root());
    expected.retain(|path, _| !path.starts_with(b"/to"));
    // Owners were not asked for.
    let own = |entries: BTreeMap<Vec<u8>, Entry>| {
        entries.into_iter().map(|(path, entry)| (path, Entry { uid: 0, gid: 0, ..entry })).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(own(comparable(&restored, &to)), own(expected));
    client.disconnect();
}

pub fn other_things_stay_unless_overwritten(reach: &dyn Reach) {
    let tree = Tree::new([
        ("a", at(2_000_000_000, 0, file("restored"))),
        ("to", dir([("a", at(1_000_000_000, 0, file("present")))])),
    ]);
    let client = reach.connect(&tree.root());
    let wanted = item(&tree, &tree.path("a"));
    for (overwrite, expected) in [
        (Overwrite::Refuse, RestoreOutcome::Exists),
        (Overwrite::Never, RestoreOutcome::Left),
        (Overwrite::Older, RestoreOutcome::ContentWanted),
        (Overwrite::Always, RestoreOutcome::ContentWanted),
    ] {
        let mut session = open(&*client, &RestoreOptions { overwrite, ..options(&tree.path("to")) });
        assert_eq!(session.offer(vec![wanted.clone()]).unwrap(), [expected], "{overwrite:?}");
    }
    let mut session = open(&*client, &RestoreOptions { overwrite: Overwrite::Older, ..options(&tree.path("to")) });
    assert_eq!(fill(&mut *session, wanted, b"restored"), RestoreOutcome::Made);
    drop(session);
    assert_eq!(list_all(&*client, &tree.path("to")).listed()[&abs(tree.path("to/a"))].size, 8);
    client.disconnect();
}

pub fn dry_run_makes_nothing(reach: &dyn Reach) {
    let tree = Tree::new([("a", file("a")), ("d", dir::<&str>([])), ("to", dir::<&str>([]))]);
    let client = reach.connect(&tree.root());
    let mut session = open(&*client, &RestoreOptions { dry_run: true, ..options(&tree.path("to")) });
    let items = ["a", "d"].map(|name| item(&tree, &tree.path(name))).to_vec();
    assert_eq!(session.offer(items).unwrap(), [RestoreOutcome::Made, RestoreOutcome::Made]);
    drop(session);
    assert!(list_all(&*client, &tree.path("to")).listed().is_empty());
    client.disconnect();
}

pub fn file_that_is_not_kept_leaves_nothing(reach: &dyn Reach) {
    let tree = Tree::new([("a", file(noise(400_000, 1))), ("to", dir::<&str>([]))]);
    let client = reach.connect(&tree.root());
    let mut session = open(&*client, &options(&tree.path("to")));
    let wanted = item(&tree, &tree.path("a"));
    assert_eq!(session.offer(vec![wanted.clone()]).unwrap(), [RestoreOutcome::ContentWanted]);
    session.begin(wanted).unwrap();
    session.write(0, b"a part").unwrap();
    session.end(false).unwrap();
    assert!(matches!(session.filled().unwrap()[..], [RestoreOutcome::Failed(_)]));
    drop(session);
    assert!(list_all(&*client, &tree.path("to")).listed().is_empty());
    client.disconnect();
}

pub fn destination_that_is_a_file_is_refused(reach: &dyn Reach) {
    let tree = Tree::new([("a", file("a"))]);
    write(&tree.path("to"), b"a file");
    let client = reach.connect(&tree.root());
    match client.restore(&options(&tree.path("to"))) {
        Err(RestoreRefused::Destination(errno)) => assert_eq!(errno, nix::errno::Errno::ENOTDIR as i32),
        Err(RestoreRefused::Client(error)) => panic!("{error}"),
        Ok(_) => panic!("it restores into a file"),
    }
    client.disconnect();
}
