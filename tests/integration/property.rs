//! One property of the whole: whatever becomes of a client, a pull leaves the snapshot, the archive and the index that
//! a naive model expects.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use base64::Engine;
use filetime::FileTime;
use proptest::prelude::*;

use crate::support::*;

#[path = "property/model.rs"]
mod model;
#[path = "property/restoring.rs"]
mod restoring;
#[path = "property/roots.rs"]
mod roots;

use model::{Metadata, Model, What, walk};

/// Something that is done to a client. Numbers choose among what there is when it is done.
#[derive(Clone, Debug)]
enum Deed {
    Write(Spot, u8),
    Append(u8),
    /// Some bytes more, less or others in the middle.
    Edit(u8, u8),
    /// Another content of any size, under the same mtime.
    Sneak(u8, u8),
    Touch(u8, u8),
    Chmod(u8, u8),
    Chown(u8, u8),
    Xattr(u8, u8),
    Rename(u8, Spot),
    Remove(u8),
    HardLink(u8, Spot),
    /// One name of a file goes that has others.
    Unlink(u8),
    Copy(u8, Spot, bool),
    Symlink(Spot, u8),
    Mkdir(Spot),
    Fifo(Spot),
}

/// A directory that there is, and a name in it.
type Spot = (u8, u8);

/// How a pull is made.
#[derive(Clone, Debug)]
struct How {
    other_source: bool,
    hash_on_server: bool,
    archive_all: bool,
    // Without what only makes it faster.
    plain: bool,
    // As if the line were slow.
    packed: bool,
    // Only the last run is kept afterwards.
    prunes: bool,
}

#[derive(Clone, Debug)]
struct History {
    link: &'static str,
    over_ssh: bool,
    steps: Vec<(Vec<Deed>, How)>,
}

// The second could be mistaken for an archived version of the first, the last is no text.
const NAMES: [&[u8]; 5] = [b"a", b"a.20010909T014640Z", b"b", b"c d", b"\xff"];
// Three of one second, for names that collide in the archive.
const TIMES: [(i64, u32); 4] = [(1_000_000_000, 0), (1_000_000_000, 1), (1_000_000_000, 2), (-5, 999_999_999)];
const MODES: [u32; 5] = [0o644, 0o600, 0o700, 0o755, 0o4755];
// Around the sizes from which on files are not sent whole with their hash, and compared with what they were, 128 KiB; and are
// told apart by samples, 1 MiB.
const SIZES: [usize; 7] = [0, 1, 1, 5, 70_000, 140_000, 1_100_000];

fn content(number: u8) -> Vec<u8> {
    let (size, seed) = (SIZES[usize::from(number) % SIZES.len()], number % 3);
    if size > 100_000 { noise(seed.into(), size) } else { vec![b'a' + seed; size] }
}

fn deed() -> impl Strategy<Value = Deed> {
    let n = || any::<u8>();
    let spot = || (any::<u8>(), any::<u8>());
    prop_oneof![
        4 => (spot(), n()).prop_map(|(spot, content)| Deed::Write(spot, content)),
        1 => n().prop_map(Deed::Append),
        2 => (n(), n()).prop_map(|(which, how)| Deed::Edit(which, how)),
        1 => (n(), n()).prop_map(|(which, content)| Deed::Sneak(which, content)),
        2 => (n(), n()).prop_map(|(which, time)| Deed::Touch(which, time)),
        1 => (n(), n()).prop_map(|(which, mode)| Deed::Chmod(which, mode)),
        1 => (n(), n()).prop_map(|(which, owner)| Deed::Chown(which, owner)),
        1 => (n(), n()).prop_map(|(which, value)| Deed::Xattr(which, value)),
        1 => n().prop_map(Deed::Unlink),
        2 => (n(), spot()).prop_map(|(which, spot)| Deed::Rename(which, spot)),
        1 => n().prop_map(Deed::Remove),
        1 => (n(), spot()).prop_map(|(which, spot)| Deed::HardLink(which, spot)),
        2 => (n(), spot(), any::<bool>()).prop_map(|(which, spot, times)| Deed::Copy(which, spot, times)),
        1 => (spot(), n()).prop_map(|(spot, target)| Deed::Symlink(spot, target)),
        2 => spot().prop_map(Deed::Mkdir),
        1 => spot().prop_map(Deed::Fifo),
    ]
}

fn history() -> impl Strategy<Value = History> {
    let [rarely, now_and_then] = [0.2, 0.3].map(prop::bool::weighted);
    let how = (rarely, prop::bool::weighted(0.4), now_and_then, now_and_then, now_and_then, rarely);
    let how = how.prop_map(|(other_source, hash_on_server, archive_all, plain, packed, prunes)| How {
        other_source,
        hash_on_server,
        archive_all,
        plain,
        packed,
        prunes,
    });
    let steps = prop::collection::vec((prop::collection::vec(deed(), 1..20), how), 1..6);
    let link = prop::sample::select(vec!["content", "content", "exact", "never"]);
    (link, prop::bool::weighted(0.3), steps).prop_map(|(link, over_ssh, steps)| History { link, over_ssh, steps })
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|number| number.parse().ok()).unwrap_or(24)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_history_leaves_what_the_model_expects(history in history()) {
        tell(&history);
    }
}

/// Carries a history out, and checks everything after each pull.
fn tell(history: &History) {
    let program = Program::new();
    let sshd = history.over_ssh.then(Sshd::new);
    // Something must stay: a root that is emptied is not believed.
    let client = Tree::new([("stays", file("here"))]);
    let mut models = BTreeMap::from([("one", Model::default()), ("two", Model::default())]);
    for (at, (deeds, how)) in history.steps.iter().enumerate() {
        deeds.iter().for_each(|deed| carry_out(&client, deed));
        let name = if how.other_source { "two" } else { "one" };
        let model = models.get_mut(name).unwrap();
        pull(&program, sshd.as_ref(), &client, history.link, how);
        model.pulled(walk(&client.root()), how.archive_all);
        if how.prunes {
            program.run(["prune", "-q", name, "--keep-last", "1"]).well();
            model.pruned();
        }
        let has_pruned = history.steps[..=at].iter().any(|(_, how)| how.prunes);
        let metadata = match history.link {
            "content" if has_pruned => Metadata::None,
            "content" => Metadata::OfSingleNames,
            _ => Metadata::All,
        };
        model.assert_snapshot(&program.snapshot(name, &client.root()), metadata);
        model.assert_archive(&program.archive(name, &client.root()));
        assert_eq!(rows(&program, name, &client), model.rows(), "the index");
        program.assert_index_is_right();
        assert_eq!(checker::check(&program.repo()), [""; 0]);
    }
    for content in models.values().flat_map(Model::contents) {
        let hash = blake3::hash(content).to_string();
        let found = program.run(["find", "--json", "--hash", &hash]).lines();
        let place = |line: &serde_json::Value| program.repo().join(path(line, "on_disk"));
        assert!(found.iter().any(|line| fs::read(place(line)).is_ok_and(|bytes| bytes == *content)), "{hash} is lost");
    }
}

fn pull(program: &Program, sshd: Option<&Sshd>, client: &Tree, link: &str, how: &How) {
    let name = if how.other_source { "two" } else { "one" };
    let hash = if how.hash_on_server { "server" } else { "client" };
    let archive = if how.archive_all { "all" } else { "replaced" };
    let mut flags = vec!["--name", name, "--link", link, "--hash", hash, "--archive", archive, "--max-delete", "100"];
    if how.plain {
        flags.extend(["--tuning=copy=sftp", "--whole-file", "--tuning=gather=false", "--tuning=writers=1"]);
    }
    flags.push(if how.packed { "--compress=always" } else { "--compress=auto" });
    for again in [false, true] {
        let summary = match sshd {
            Some(sshd) => program.pull_well(sshd, &client.root(), &flags),
            None => program.pull_local(&client.root(), &flags),
        };
        if again {
            assert_eq!((&summary["unchanged"], &summary["copied"]), (&summary["listed"], &0.into()), "a second pull");
        }
    }
}

// The current versions below the root, as the index has them.
fn rows(program: &Program, source: &str, client: &Tree) -> BTreeMap<Vec<u8>, String> {
    let mut rows = BTreeMap::new();
    for line in program.run(["index", "export"]).lines() {
        let path = path(&line, "path");
        let Ok(path) = path.strip_prefix(client.root()) else { continue };
        if line["source"] != source || !line["until_run"].is_null() || path.as_os_str().is_empty() {
            continue;
        }
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let size = if line["kind"] == "file" { &line["size"] } else { &serde_json::Value::from(0) };
        let metadata = format!("{} {} {} {} {}", line["mtime"], text("mode"), line["uid"], line["gid"], text("hash"));
        rows.insert(path.as_os_str().as_bytes().to_vec(), format!("{} {size} {metadata}", text("kind")));
    }
    rows
}

fn path(line: &serde_json::Value, key: &str) -> PathBuf {
    match line[format!("{key}_b64")].as_str() {
        Some(whole) => {
            OsStr::from_bytes(&base64::engine::general_purpose::STANDARD.decode(whole).unwrap()).to_owned().into()
        }
        None => line[key].as_str().unwrap().into(),
    }
}

fn carry_out(client: &Tree, deed: &Deed) {
    match deed {
        Deed::Write(spot, number) => put(client, *spot, file(content(*number))),
        Deed::Append(which) => append(client, *which),
        Deed::Edit(which, how) => edit(client, *which, *how),
        Deed::Sneak(which, number) => sneak(client, *which, &content(*number)),
        Deed::Touch(which, time) => touch(client, *which, *time),
        Deed::Chmod(which, mode) => chmod(client, *which, *mode),
        Deed::Chown(which, owner) => chown(client, *which, *owner),
        Deed::Xattr(which, value) => xattr(client, *which, *value),
        Deed::Unlink(which) => unlink(client, *which),
        Deed::Rename(which, spot) => rename(client, *which, *spot),
        Deed::Remove(which) => remove(client, *which),
        Deed::HardLink(which, spot) => hard_link(client, *which, *spot),
        Deed::Copy(which, spot, times) => copy(client, *which, *spot, *times),
        Deed::Symlink(spot, target) => put(client, *spot, link(NAMES[usize::from(*target) % 3])),
        Deed::Mkdir(spot) => put(client, *spot, dir::<&str>([])),
        Deed::Fifo(spot) => put(client, *spot, fifo()),
    }
}

/// What there is and is of the kind that is asked for.
fn choose(client: &Tree, which: u8, fits: impl Fn(&What) -> bool) -> Option<Vec<u8>> {
    let there = walk(&client.root()).into_iter().filter(|(path, seen)| path != b"stays" && fits(&seen.what));
    let there: Vec<_> = there.map(|(path, _)| path).collect();
    there.get(usize::from(which).checked_rem(there.len())?).cloned()
}

fn choose_file(client: &Tree, which: u8) -> Option<Vec<u8>> {
    choose(client, which, |what| matches!(what, What::File(_)))
}

fn spot(client: &Tree, (parent, name): Spot) -> Vec<u8> {
    let name = NAMES[usize::from(name) % NAMES.len()];
    let parent = if parent % 3 == 0 { None } else { choose(client, parent, |what| *what == What::Dir) };
    parent.map_or(name.to_vec(), |parent| [&parent, &b"/"[..], name].concat())
}

fn put(client: &Tree, at: Spot, node: Node) {
    client.put(spot(client, at), node);
}

fn append(client: &Tree, which: u8) {
    let Some(path) = choose_file(client, which) else { return };
    let longer = [fs::read(client.path(&path)).unwrap(), b"+".to_vec()].concat();
    // In place, so that further names of the inode see it.
    fs::write(client.path(&path), longer).unwrap();
}

fn edit(client: &Tree, which: u8, how: u8) {
    let Some(path) = choose_file(client, which) else { return };
    let mut content = fs::read(client.path(&path)).unwrap();
    let (middle, length) = (content.len() / 2, (content.len() / 4).min(usize::from(how) * 100));
    match how % 3 {
        0 => drop(content.splice(middle..middle, noise(how.into(), length))),
        1 => drop(content.splice(middle..middle + length, noise(how.into(), length))),
        _ => drop(content.drain(middle..middle + length)),
    }
    fs::write(client.path(&path), content).unwrap();
}

fn sneak(client: &Tree, which: u8, content: &[u8]) {
    let Some(path) = choose_file(client, which) else { return };
    let time = FileTime::from_last_modification_time(&fs::metadata(client.path(&path)).unwrap());
    fs::write(client.path(&path), content).unwrap();
    filetime::set_file_mtime(client.path(&path), time).unwrap();
}

fn touch(client: &Tree, which: u8, time: u8) {
    let Some(path) = choose(client, which, |what| *what != What::Fifo) else { return };
    let (seconds, nanoseconds) = TIMES[usize::from(time) % TIMES.len()];
    let time = FileTime::from_unix_time(seconds, nanoseconds);
    filetime::set_symlink_file_times(client.path(&path), time, time).unwrap();
}

fn chmod(client: &Tree, which: u8, mode: u8) {
    use std::os::unix::fs::PermissionsExt;
    let Some(path) = choose(client, which, |what| !matches!(what, What::Link(_))) else { return };
    let is_dir = client.path(&path).is_dir();
    let bits = MODES[usize::from(mode) % MODES.len()] | if is_dir { 0o700 } else { 0 };
    fs::set_permissions(client.path(&path), fs::Permissions::from_mode(bits)).unwrap();
}

// Only root can, and not every file system keeps attributes of everything.
fn chown(client: &Tree, which: u8, owner: u8) {
    let Some(path) = choose(client, which, |_| true) else { return };
    let owner = u32::from(owner % 3);
    let _ = std::os::unix::fs::lchown(client.path(path), Some(owner), Some(owner + 1));
}

fn xattr(client: &Tree, which: u8, value: u8) {
    let Some(path) = choose_file(client, which) else { return };
    let none = rustix::fs::XattrFlags::empty();
    let _ = rustix::fs::lsetxattr(client.path(path), "user.p", &[value % 3], none);
}

fn unlink(client: &Tree, which: u8) {
    let there = walk(&client.root()).into_iter();
    let there = there.filter(|(_, seen)| matches!(seen.what, What::File(_)) && seen.links > 1);
    let there: Vec<_> = there.map(|(path, _)| path).collect();
    if let Some(at) = usize::from(which).checked_rem(there.len()) {
        client.remove(&there[at]);
    }
}

/// Two paths of which neither lies within the other, so that clearing the second leaves the first.
fn apart(client: &Tree, from: Option<Vec<u8>>, to: Spot) -> Option<(Vec<u8>, Vec<u8>)> {
    let (from, to) = (from?, spot(client, to));
    let within = |inner: &[u8], outer: &[u8]| [inner, b"/"].concat().starts_with(&[outer, b"/"].concat());
    (!within(&from, &to) && !within(&to, &from)).then_some((from, to))
}

fn rename(client: &Tree, which: u8, to: Spot) {
    let Some((from, to)) = apart(client, choose(client, which, |_| true), to) else { return };
    client.remove(&to);
    fs::rename(client.path(from), client.path(to)).unwrap();
}

fn remove(client: &Tree, which: u8) {
    if let Some(path) = choose(client, which, |_| true) {
        client.remove(path);
    }
}

fn hard_link(client: &Tree, which: u8, to: Spot) {
    let Some((from, to)) = apart(client, choose(client, which, |seen| *seen != What::Dir), to) else { return };
    client.remove(&to);
    fs::hard_link(client.path(from), client.path(to)).unwrap();
}

fn copy(client: &Tree, which: u8, to: Spot, times: bool) {
    let Some((from, to)) = apart(client, choose_file(client, which), to) else { return };
    client.remove(&to);
    fs::copy(client.path(&from), client.path(&to)).unwrap();
    if times {
        let time = FileTime::from_last_modification_time(&fs::metadata(client.path(&from)).unwrap());
        filetime::set_file_mtime(client.path(&to), time).unwrap();
    }
}
