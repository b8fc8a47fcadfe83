//! How a fake client lists: each directory, then its entries, then the directories in it by name.

use std::collections::BTreeMap;

use super::machine::{Node, State};
use super::{Call, FakeClient};
use crate::client::list::{
    AnnouncedDirectory, Changes, EntriesPage, ListRequest, ListSink, Mounted, Problem, Root, SkipReason, Skipped,
    Wanted,
};
use crate::entry::{Differences, Digests, Entry, Kind};
use crate::error::Result;
use crate::exclude::Excludes;
use crate::path::{AbsPath, Name};

// The name that excluded entries are reported up to, of each directory.
const MAX_EXCLUDED_NAMED: usize = 1024;

/// Lists what is asked for. Excludes and file systems are heeded, marker files are not.
pub(super) fn list(client: &FakeClient, request: &ListRequest, sink: &mut dyn ListSink) -> Result<()> {
    let mut roots = Vec::with_capacity(request.roots.len());
    for asked in &request.roots {
        client.event(Call::List, 0)?;
        roots.push(root(&client.state(), asked));
    }
    let is_directory = |entry: &Option<Entry>| entry.as_ref().is_none_or(|entry| entry.kind == Kind::Dir);
    let below = roots.iter().filter_map(|root| match root {
        Root::Found { path, entry, .. } if is_directory(entry) => Some(path.clone()),
        _ => None,
    });
    // The last one is walked first.
    let mut waiting: Vec<AbsPath> = below.collect();
    waiting.reverse();
    sink.roots(roots)?;
    let mut walk = Walk { client, request, excludes: Excludes::new(&request.exclude), next: 0 };
    while let Some(path) = waiting.pop() {
        waiting.extend(walk.directory(path, sink)?.into_iter().rev());
    }
    Ok(())
}

fn root(state: &State, asked: &[u8]) -> Root {
    let at_home = if asked == b"~" { Some(&b""[..]) } else { asked.strip_prefix(b"~/") };
    let asked = at_home.unwrap_or(asked);
    let start = if asked.starts_with(b"/") { AbsPath::root() } else { state.home.clone() };
    let mut path = start;
    for part in asked.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        let joined = Name::new(part).and_then(|name| path.join(&name));
        let Some(joined) = joined.filter(|_| part != b"..") else { return Root::Invalid };
        path = joined;
    }
    let empty = state.directories.get(&path).is_some_and(BTreeMap::is_empty);
    if path.is_root() {
        return Root::Found { path, entry: None, empty };
    }
    match state.node(&path) {
        None => Root::Missing { path },
        Some(Node { errno: Some(errno), .. }) => Root::Unreadable { path, errno: *errno },
        Some(node) => Root::Found { path, entry: Some(node.entry.clone()), empty },
    }
}

struct Walk<'a> {
    client: &'a FakeClient,
    request: &'a ListRequest,
    excludes: Excludes,
    next: u64,
}

/// The entries of a directory.
struct Found {
    entries: Vec<Entry>,
    excluded: Vec<AbsPath>,
    below: Vec<AbsPath>,
    inode: u64,
    mounted: Mounted,
}

impl Walk<'_> {
    // Returns the directories in it.
    fn directory(&mut self, path: AbsPath, sink: &mut dyn ListSink) -> Result<Vec<AbsPath>> {
        self.client.event(Call::List, 0)?;
        let found = match self.look(&path) {
            Ok(found) => found,
            Err(errno) => return sink.problem(Problem { path, errno }).map(|()| Vec::new()),
        };
        let is_root = found.mounted == Mounted::Nothing || self.next == 0;
        if self.request.one_file_system && !is_root {
            sink.skipped(Skipped { path, reason: SkipReason::OtherFileSystem });
            return Ok(Vec::new());
        }
        let mut now = Digests::default();
        found.entries.iter().for_each(|entry| now.add(entry));
        let number = self.next;
        self.next += 1;
        let wanted = sink.directory(AnnouncedDirectory {
            number,
            path,
            inode: if self.client.capabilities.inodes { found.inode } else { 0 },
            fingerprint: now.fingerprint(),
            entries: found.entries.len() as u64,
            complete: true,
            mounted: found.mounted,
            excluded: found.excluded.len() as u64,
        })?;
        if self.request.names_excluded {
            let named = found.excluded.into_iter().take(MAX_EXCLUDED_NAMED);
            named.for_each(|path| sink.skipped(Skipped { path, reason: SkipReason::Excluded }));
        }
        match wanted {
            Wanted::Changes(known) if !self.request.all => self.changes(number, &known, &now, found.entries, sink)?,
            Wanted::Nothing if !self.request.all => {}
            _ => self.pages(number, found.entries, sink)?,
        }
        Ok(found.below)
    }

    fn look(&self, path: &AbsPath) -> std::result::Result<Found, i32> {
        let state = self.client.state();
        let node = state.node(path);
        if let Some(errno) = node.and_then(|node| node.errno) {
            return Err(errno);
        }
        let Some(held) = state.directories.get(path) else { return Err(nix::errno::Errno::ENOENT as i32) };
        let (inode, mounted) = node.map_or((1, Mounted::Nothing), |node| (node.inode, node.mounted));
        let filter = self.excludes.within(path);
        let (mut entries, mut excluded, mut below) = (Vec::with_capacity(held.len()), Vec::new(), Vec::new());
        for node in held.values() {
            let is_directory = node.entry.kind == Kind::Dir;
            let Some(path) = path.join(&node.entry.name) else { continue };
            if filter.excludes(node.entry.name.as_bytes(), is_directory) {
                excluded.push(path);
                continue;
            }
            entries.push(node.listed_entry().clone());
            below.extend(Some(path).filter(|_| is_directory));
        }
        Ok(Found { entries, excluded, below, inode, mounted })
    }

    fn pages(&self, directory: u64, mut entries: Vec<Entry>, sink: &mut dyn ListSink) -> Result<()> {
        loop {
            self.client.event(Call::List, 0)?;
            let rest = entries.split_off(self.client.page_entries.clamp(1, entries.len().max(1)).min(entries.len()));
            let last = rest.is_empty();
            sink.entries(EntriesPage { directory, entries, last, order: Vec::new() })?;
            if last {
                return Ok(());
            }
            entries = rest;
        }
    }

    fn changes(
        &self,
        directory: u64,
        known: &Digests,
        now: &Digests,
        entries: Vec<Entry>,
        sink: &mut dyn ListSink,
    ) -> Result<()> {
        self.client.event(Call::List, 0)?;
        let differences = differences(known, now);
        let mut places = differences.added.iter().peekable();
        let is_added = |(place, entry): (u32, Entry)| places.next_if_eq(&&place).map(|_| entry);
        let entries = (0..).zip(entries).filter_map(is_added).collect();
        sink.changes(Changes { directory, differences, entries })
    }
}

// What became of known digests. What stays keeps its order, as names do.
fn differences(known: &Digests, now: &Digests) -> Differences {
    let each = |digests: &Digests| digests.as_bytes().chunks_exact(8).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (known, now) = (each(known), each(now));
    let (mut gone, mut added, mut at) = (Vec::new(), Vec::new(), 0);
    for (place, digest) in (0..).zip(&now) {
        match known[at..].iter().position(|other| other == digest) {
            Some(skipped) => {
                gone.extend((at..at + skipped).map(|place| place as u32));
                at += skipped + 1;
            }
            None => added.push(place),
        }
    }
    gone.extend((at..known.len()).map(|place| place as u32));
    Differences { gone, added }
}
