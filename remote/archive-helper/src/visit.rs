//! One visit to one directory: what is in it, what of that is left out, and what lies below.

use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::exclude::{Excludes, Filter};
use crate::listing::{Listing, Unsorted};
use crate::protocol::{AbsPath, Entry, Kind, MAX_EXCLUDED_NAMED, MAX_PATH, Mounted, Name, SkipReason, Skipped};
use crate::repository;
use crate::stack::{Names, Place, Siblings};
use crate::system::{Directory, Errno, Listed, Metadata};

// How many bytes of a directory are read at once.
const READ_BUFFER: usize = 64 * 1024;
// How much memory the names of one directory may leave to those of the next, in bytes.
const KEPT: usize = 1024 * 1024;
// What makes a `CACHEDIR.TAG` valid: see <https://bford.info/cachedir/>.
const TAG: &[u8] = b"CACHEDIR.TAG";
const TAG_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// What to leave out.
pub struct Options {
    /// Entries that match are left out.
    pub excludes: Excludes,
    /// Leave out what stands beside a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out what stands beside a file of one of these names.
    pub exclude_if_present: Vec<Name>,
    /// Do not enter other file systems.
    pub one_file_system: bool,
    /// The id of the repository, which is left out; empty for none.
    pub repository: Vec<u8>,
    /// The directory that the helper itself was installed in, which is left out as if an exclude matched it.
    pub own: Option<Metadata>,
    /// Name what is excluded.
    pub names_excluded: bool,
}

/// What a visit found.
#[derive(Default)]
pub struct Found {
    /// The directory's own inode number; 0 when it was not entered.
    pub inode: u64,
    /// The entries.
    pub listing: Listing,
    /// False when some could not be read.
    pub complete: bool,
    /// Why the directory was not entered, if it was not.
    pub skipped: Option<SkipReason>,
    /// Entries that are not listed: files whose content the kernel makes up, and some of those that are excluded.
    pub left_out: Vec<Skipped>,
    /// How many entries are excluded.
    pub excluded: u64,
    /// What is mounted on the directory.
    pub mounted: Mounted,
    /// Its subdirectories.
    pub below: Vec<Siblings>,
}

/// Visits directories, one at a time.
pub struct Visitor<'a> {
    options: &'a Options,
    report: &'a dyn Fn(AbsPath, Errno),
    buffer: Vec<u8>,
    items: Items,
    entries: Unsorted,
}

impl<'a> Visitor<'a> {
    /// A visitor that reports to `report` what it can't list.
    pub fn new(options: &'a Options, report: &'a dyn Fn(AbsPath, Errno)) -> Visitor<'a> {
        let buffer = Vec::with_capacity(READ_BUFFER);
        Visitor { options, report, buffer, items: Items::default(), entries: Unsorted::default() }
    }

    /// Visits a directory. An error is one of opening it.
    pub fn visit(&mut self, place: &Place) -> Result<Found, Errno> {
        if let Some(reason) = self.barrier(place)? {
            let is_other = reason == SkipReason::OtherFileSystem;
            let mounted = if is_other { Mounted::Lasting } else { Mounted::Nothing };
            return Ok(Found { complete: true, skipped: Some(reason), mounted, ..Found::default() });
        }
        let directory = place.root.directory.open_below(place.relative())?;
        let mounted = if place.border { directory.mounted() } else { Mounted::Nothing };
        let mut visit = Visit::new(self, place, &directory);
        visit.read(&mut self.buffer, &mut self.items);
        let skipped = visit.mark(&mut self.items);
        // In the order of inodes a disk reads fewest blocks; of the names of one inode, the first counts.
        let Items { names, list } = &mut self.items;
        list.sort_unstable_by_key(|item| (item.inode, item.name(names)));
        for item in &self.items.list {
            visit.add(item, self.items.name(item), &mut self.entries);
        }
        self.items.clear();
        let (complete, excluded) = (visit.complete, visit.excluded);
        let left_out = std::mem::take(&mut visit.left_out);
        let below = if skipped.is_some() { Vec::new() } else { visit.below() };
        let listing = self.entries.sort();
        Ok(Found { inode: directory.inode()?, listing, complete, skipped, left_out, excluded, mounted, below })
    }

    // What keeps out of a directory before it is opened, for that alone could mount something.
    fn barrier(&self, place: &Place) -> Result<Option<SkipReason>, Errno> {
        if !place.border {
            return Ok(None);
        }
        if place.root.directory.is_made_up_below(place.relative())? {
            return Ok(Some(SkipReason::KernelFileSystem));
        }
        let is_other = self.options.one_file_system && place.device != place.root.device;
        Ok(is_other.then_some(SkipReason::OtherFileSystem))
    }
}

#[derive(Default)]
struct Items {
    names: Vec<u8>,
    list: Vec<Item>,
}

struct Item {
    // Where its name starts.
    start: usize,
    length: u16,
    kind: Option<Kind>,
    inode: u64,
}

impl Items {
    fn push(&mut self, listed: &Listed<'_>) {
        // The system's own record of a name has no more than 16 bits for its length.
        let length = listed.name.len() as u16;
        self.list.push(Item { start: self.names.len(), length, kind: listed.kind, inode: listed.inode });
        self.names.extend_from_slice(listed.name);
    }

    fn name(&self, item: &Item) -> &[u8] {
        item.name(&self.names)
    }

    fn has(&self, name: &[u8]) -> bool {
        self.list.iter().any(|item| self.name(item) == name)
    }

    fn retain_only(&mut self, name: &[u8]) {
        let names = &self.names;
        self.list.retain(|item| item.name(names) == name);
    }

    // Empties it; what memory it keeps is little.
    fn clear(&mut self) {
        self.names.clear();
        self.list.clear();
        if self.names.capacity() + self.list.capacity() * size_of::<Item>() > KEPT {
            *self = Items::default();
        }
    }
}

impl Item {
    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        &names[self.start..self.start + usize::from(self.length)]
    }
}

struct Visit<'a> {
    place: &'a Place,
    directory: &'a Directory,
    options: &'a Options,
    report: &'a dyn Fn(AbsPath, Errno),
    filter: Filter<'a>,
    complete: bool,
    left_out: Vec<Skipped>,
    excluded: u64,
    below: Names,
    borders: Vec<(Name, u64)>,
}

impl<'a> Visit<'a> {
    fn new(visitor: &Visitor<'a>, place: &'a Place, directory: &'a Directory) -> Visit<'a> {
        let Visitor { options, report, .. } = *visitor;
        let filter = options.excludes.within(&place.path);
        let (left_out, below, borders) = (Vec::new(), Names::default(), Vec::new());
        Visit { place, directory, options, report, filter, complete: true, left_out, excluded: 0, below, borders }
    }

    fn read(&mut self, buffer: &mut Vec<u8>, items: &mut Items) {
        let buffer: &mut [MaybeUninit<u8>] = buffer.spare_capacity_mut();
        if let Err(errno) = self.directory.read(buffer, |listed| items.push(&listed)) {
            self.problem(None, errno);
        }
    }

    // What keeps out of a directory by being in it; the items that are left are what is listed all the same.
    fn mark(&self, items: &mut Items) -> Option<SkipReason> {
        if items.has(repository::FORMAT) && self.is_repository() {
            items.list.clear();
            return Some(SkipReason::Repository);
        }
        if self.options.exclude_caches && items.has(TAG) && self.is_cache() {
            items.retain_only(TAG);
            return Some(SkipReason::Cache);
        }
        let marker = self.options.exclude_if_present.iter().map(Name::as_bytes).find(|name| self.marks(items, name))?;
        items.retain_only(marker);
        Some(SkipReason::Marker)
    }

    fn is_repository(&self) -> bool {
        let id = &self.options.repository;
        let head = || self.directory.head(repository::FORMAT, repository::FORMAT_HEAD);
        !id.is_empty() && head().is_some_and(|head| repository::is_repository(&head, id))
    }

    fn is_cache(&self) -> bool {
        self.directory.head(TAG, TAG_SIGNATURE.len()).is_some_and(|head| head == TAG_SIGNATURE)
    }

    fn marks(&self, items: &Items, name: &[u8]) -> bool {
        items.has(name) && self.directory.metadata(name).is_ok_and(|metadata| metadata.kind != Some(Kind::Dir))
    }

    fn add(&mut self, item: &Item, bytes: &[u8], entries: &mut Unsorted) {
        if item.kind.is_some_and(|kind| self.filter.excludes(bytes, kind == Kind::Dir)) {
            return self.exclude(bytes);
        }
        // Some file systems of others have names of more than 255 bytes.
        let Some(name) = Name::new(bytes) else { return self.problem(None, Errno::NAMETOOLONG) };
        if self.place.path.as_bytes().len() + 1 + bytes.len() > MAX_PATH {
            return self.problem(None, Errno::NAMETOOLONG);
        }
        match self.describe(&name) {
            Ok((entry, _)) if item.kind != Some(entry.kind) && self.is_excluded(&entry) => self.exclude(bytes),
            Ok((_, metadata)) if self.is_own(&metadata) => self.exclude(bytes),
            Ok((entry, metadata)) if self.is_made_up(&entry, &metadata) => {
                self.leave_out(&entry.name, SkipReason::KernelFileSystem);
            }
            Ok((entry, metadata)) => self.keep(entry, &metadata, entries),
            Err(Errno::NOENT) => {}
            Err(errno) => self.problem(Some(&name), errno),
        }
    }

    fn describe(&self, name: &Name) -> Result<(Entry, Metadata), Errno> {
        let metadata = self.directory.metadata(name.as_bytes())?;
        let kind = metadata.kind.ok_or(Errno::INVAL)?;
        let target = match kind {
            Kind::Symlink => self.directory.read_link(name.as_bytes())?,
            _ => Vec::new(),
        };
        Ok((metadata.entry(name.clone(), kind, target), metadata))
    }

    fn exclude(&mut self, name: &[u8]) {
        self.excluded += 1;
        if self.options.names_excluded
            && self.excluded <= MAX_EXCLUDED_NAMED
            && let Some(name) = Name::new(name)
        {
            self.leave_out(&name, SkipReason::Excluded);
        }
    }

    fn leave_out(&mut self, name: &Name, reason: SkipReason) {
        self.left_out.extend(self.place.path.join(name).map(|path| Skipped { path, reason }));
    }

    fn is_own(&self, metadata: &Metadata) -> bool {
        self.options.own.as_ref().is_some_and(|own| own.is_same_inode(metadata))
    }

    // True for a file that is mounted there from proc or its like: it has a size of 0, whatever it holds.
    fn is_made_up(&self, entry: &Entry, metadata: &Metadata) -> bool {
        let may_be = entry.kind == Kind::File && entry.size == 0 && metadata.device != self.place.device;
        may_be && self.directory.has_made_up(entry.name.as_bytes())
    }

    fn is_excluded(&self, entry: &Entry) -> bool {
        self.filter.excludes(entry.name.as_bytes(), entry.kind == Kind::Dir)
    }

    fn keep(&mut self, entry: Entry, metadata: &Metadata, entries: &mut Unsorted) {
        entries.push(&entry, metadata.may_have_holes());
        if entry.kind != Kind::Dir {
            return;
        }
        if metadata.device == self.place.device {
            self.below.push(&entry.name);
        } else {
            self.borders.push((entry.name, metadata.device));
        }
    }

    fn below(self) -> Vec<Siblings> {
        let siblings = |names, device, border| {
            let (root, parent) = (Arc::clone(&self.place.root), self.place.path.clone());
            Siblings { root, parent, device, border, names }
        };
        let mut below: Vec<Siblings> = Vec::new();
        for (name, device) in &self.borders {
            let mut names = Names::default();
            names.push(name);
            below.push(siblings(names, *device, true));
        }
        if !self.below.is_empty() {
            below.push(siblings(self.below, self.place.device, false));
        }
        below
    }

    // Of the entry of this name, else of the directory itself.
    fn problem(&mut self, name: Option<&Name>, errno: Errno) {
        self.complete = false;
        let path = name.and_then(|name| self.place.path.join(name)).unwrap_or_else(|| self.place.path.clone());
        (self.report)(path, errno);
    }
}
