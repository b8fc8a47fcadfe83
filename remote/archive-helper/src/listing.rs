//! A directory's entries as the wire has them: encoded once, for the digests and for sending.

use serde::Serialize;

use crate::protocol::{Attributes, Differences, Digests, Entry, MAX_ENTRIES};

// How many bytes of entries a frame has at most, but for its last entry.
const CHUNK: usize = 256 * 1024;
// How much memory one directory may leave to the next, in bytes.
const KEPT: usize = 1024 * 1024;
// What a listing weighs besides its bytes: the place it takes in tables and queues.
const OVERHEAD: usize = 256;
// The numbers of `Reply::Entries` and `Reply::Changes` among their enum's variants.
const ENTRIES: u32 = 2;
const CHANGES: u32 = 15;

/// Entries in the order of their inodes' numbers, without attributes.
#[derive(Default)]
pub struct Unsorted {
    encoded: Vec<u8>,
    spans: Vec<Span>,
}

// Where an entry's bytes are, and how long its name is. Small, for a directory may have millions.
struct Span {
    start: usize,
    place: u32,
    length: u16,
    name: u8,
    sparse: bool,
}

impl Span {
    fn entry<'a>(&self, encoded: &'a [u8]) -> &'a [u8] {
        &encoded[self.start..self.start + usize::from(self.length)]
    }

    fn name<'a>(&self, encoded: &'a [u8]) -> &'a [u8] {
        name_of(self.entry(encoded), usize::from(self.name))
    }
}

// The name comes first, after its length in one byte, or from 128 on in two.
fn name_of(entry: &[u8], length: usize) -> &[u8] {
    &entry[1 + usize::from(length > 127)..][..length]
}

impl Unsorted {
    /// Adds an entry, which has no attributes yet; `sparse` says that it may have holes.
    pub fn push(&mut self, entry: &Entry, sparse: bool) {
        let (start, place) = (self.encoded.len(), self.spans.len() as u32);
        let encoded = std::mem::take(&mut self.encoded);
        self.encoded = postcard::to_extend(entry, encoded).expect("an entry always encodes into memory");
        // Name and target, the long parts, come to 4350 bytes at most.
        let length = (self.encoded.len() - start) as u16;
        self.spans.push(Span { start, place, length, name: entry.name.as_bytes().len() as u8, sparse });
    }

    /// Sorts the entries by name, drops all but one of equal names, and leaves `self` empty.
    pub fn sort(&mut self) -> Listing {
        let Unsorted { encoded, spans } = self;
        spans.sort_unstable_by(|a, b| a.name(encoded).cmp(b.name(encoded)));
        spans.dedup_by(|b, a| a.name(encoded) == b.name(encoded));
        let mut listing =
            Listing { encoded: Vec::with_capacity(encoded.len()), items: Vec::with_capacity(spans.len()) };
        for Span { place, length, name, sparse, .. } in spans.iter() {
            listing.items.push(Item { place: *place, length: *length, name: *name, sparse: *sparse });
        }
        spans.iter().for_each(|span| listing.encoded.extend_from_slice(span.entry(encoded)));
        self.clear();
        listing
    }

    // Empties it; what memory it keeps is little.
    fn clear(&mut self) {
        self.encoded.clear();
        self.spans.clear();
        if self.encoded.capacity() + self.spans.capacity() * size_of::<Span>() > KEPT {
            *self = Unsorted::default();
        }
    }
}

/// Entries in the order of their names.
#[derive(Default)]
pub struct Listing {
    encoded: Vec<u8>,
    items: Vec<Item>,
}

// One entry: its place by its inode's number; how many bytes it takes, and how many of them its name; and whether it may
// have holes.
struct Item {
    place: u32,
    length: u16,
    name: u8,
    sparse: bool,
}

impl Listing {
    /// How many entries there are.
    pub fn entries(&self) -> u64 {
        self.items.len() as u64
    }

    /// What tells the entries from any others.
    pub fn digests(&self) -> Digests {
        let mut digests = Digests::default();
        self.each().for_each(|(_, entry)| digests.add_encoded(entry));
        digests
    }

    fn each(&self) -> impl Iterator<Item = (&Item, &[u8])> {
        let mut rest = &self.encoded[..];
        self.items.iter().map(move |item| {
            let entry;
            (entry, rest) = rest.split_at(usize::from(item.length));
            (item, entry)
        })
    }

    /// What it counts against the limit of memory, in bytes.
    pub fn weight(&self) -> usize {
        OVERHEAD + self.encoded.capacity() + self.items.capacity() * size_of::<Item>()
    }

    /// Hands over the frames that carry the entries, each as
    /// [`protocol::write_frame`](crate::protocol::write_frame) would write it; a directory without entries has one
    /// frame too. `attributes` is asked what an entry of this name has of them, and whether that may be holes.
    pub fn each_frame(
        &self,
        directory: u64,
        mut attributes: impl FnMut(&[u8], bool) -> Option<Box<Attributes>>,
        mut each: impl FnMut(Vec<u8>),
    ) {
        let (mut body, mut first) = (Vec::new(), 0);
        for (at, (item, entry)) in self.each().enumerate() {
            if body.len() >= CHUNK || at - first == MAX_ENTRIES {
                each(frame(directory, &self.items[first..at], &body, false));
                body.clear();
                first = at;
            }
            body = item.add(entry, body, &mut attributes);
        }
        each(frame(directory, &self.items[first..], &body, true));
    }

    /// The frame that tells how the entries differ from those that have these digests; `None` when all of them take
    /// little more.
    pub fn changes(
        &self,
        directory: u64,
        known: &Digests,
        mut attributes: impl FnMut(&[u8], bool) -> Option<Box<Attributes>>,
    ) -> Option<Vec<u8>> {
        let differences = known.compare(&self.digests());
        let Differences { gone, added } = &differences;
        if added.len() > self.items.len() / 2 || added.len() > MAX_ENTRIES || gone.len() > MAX_ENTRIES {
            return None;
        }
        let (mut body, mut places) = (Vec::new(), added.iter().peekable());
        for (at, (item, entry)) in (0..).zip(self.each()) {
            if places.next_if_eq(&&at).is_some() {
                body = item.add(entry, body, &mut attributes);
            }
            if body.len() >= CHUNK {
                return None;
            }
        }
        Some(framed(&(CHANGES, directory, &differences, added.len()), &body, &[]))
    }
}

impl Item {
    // Adds an entry's bytes to others, with its attributes.
    fn add(
        &self,
        entry: &[u8],
        mut to: Vec<u8>,
        attributes: &mut impl FnMut(&[u8], bool) -> Option<Box<Attributes>>,
    ) -> Vec<u8> {
        let has = attributes(name_of(entry, usize::from(self.name)), self.sparse);
        // An entry without attributes ends with the byte that says so.
        to.extend_from_slice(&entry[..entry.len() - 1]);
        postcard::to_extend(&has, to).expect("attributes always encode into memory")
    }
}

// The fields of `protocol::Entries`, in their order; the entries are encoded already.
fn frame(directory: u64, items: &[Item], entries: &[u8], last: bool) -> Vec<u8> {
    let end = postcard::to_stdvec(&(last, order(items))).expect("numbers always encode into memory");
    framed(&(ENTRIES, directory, items.len()), entries, &end)
}

// In which order to read what a frame carries: places in it, of which there are `MAX_ENTRIES` at most.
fn order(items: &[Item]) -> Vec<u16> {
    if items.is_sorted_by_key(|item| item.place) {
        return Vec::new();
    }
    let mut order: Vec<u16> = (0..items.len() as u16).collect();
    order.sort_unstable_by_key(|at| items[usize::from(*at)].place);
    order
}

fn framed(head: &impl Serialize, entries: &[u8], end: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(entries.len() + 32);
    frame.extend_from_slice(&[0; 4]);
    frame = postcard::to_extend(head, frame).expect("numbers always encode into memory");
    frame.extend_from_slice(entries);
    frame.extend_from_slice(end);
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        self, Changes, Entries, Extent, Kind, MAX_EXTENTS, MAX_FRAME, MAX_XATTRS, Name, Reply, Time, Xattr,
    };

    fn entry(name: &[u8], target: usize) -> Entry {
        Entry {
            name: Name::new(name).unwrap(),
            kind: if target > 0 { Kind::Symlink } else { Kind::File },
            size: if target > 0 { 0 } else { name.len() as u64 * 1000 },
            mtime: Time::from(-1),
            ctime: i64::MAX,
            mode: 0o7777,
            uid: u32::MAX,
            gid: 0,
            inode: None,
            device: 0,
            target: vec![b't'; target],
            attributes: None,
        }
    }

    fn listing(entries: &[Entry]) -> Listing {
        let mut unsorted = Unsorted::default();
        entries.iter().for_each(|entry| unsorted.push(entry, false));
        unsorted.sort()
    }

    fn frames(listing: &Listing) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        listing.each_frame(7, |_, _| None, |frame| frames.push(frame));
        frames
    }

    fn decoded(frame: &[u8]) -> Entries {
        match protocol::read_frame(&mut &frame[..]).unwrap() {
            Some(Reply::Entries(entries)) => entries,
            other => panic!("{other:?}"),
        }
    }

    fn decode(listing: &Listing) -> Vec<Entries> {
        frames(listing).iter().map(|frame| decoded(frame)).collect()
    }

    #[test]
    fn frames_are_what_the_protocol_would_write() {
        let entries = vec![entry(b"a", 0), entry(&[b'b'; 127], 3), entry(&[b'c'; 128], 0), entry(&[0xff; 255], 4095)];
        let reply = Reply::Entries(Entries { directory: 7, entries: entries.clone(), last: true, order: Vec::new() });
        let mut expected = Vec::new();
        protocol::write_frame(&mut expected, &reply).unwrap();
        assert_eq!(frames(&listing(&entries)), [expected]);
    }

    #[test]
    fn entries_come_sorted_without_duplicates() {
        let long = [b'b'; 130];
        let listing = listing(&[entry(b"b", 0), entry(&long, 0), entry(b"a", 1), entry(b"b", 0), entry(b"B", 0)]);
        let Entries { entries: sent, order, .. } = decode(&listing).remove(0);
        assert_eq!(sent, [entry(b"B", 0), entry(b"a", 1), entry(b"b", 0), entry(&long, 0)]);
        assert!(order == [2, 3, 1, 0] || order == [3, 1, 2, 0], "either `b` may be kept: {order:?}");
        assert_eq!(listing.entries(), 4);
        assert_eq!(listing.digests().fingerprint(), protocol::fingerprint(&sent));
    }

    #[test]
    fn changes_are_what_the_protocol_would_write() {
        let entry = |name: &[u8]| entry(name, 0);
        let before = listing(&[entry(b"a"), entry(b"c"), entry(b"d"), entry(b"e")]);
        let now = listing(&[entry(b"a"), entry(b"b"), entry(b"d"), entry(b"e"), entry(&[b'f'; 200])]);
        let frame = now.changes(7, &before.digests(), |_, _| None).unwrap();
        let differences = Differences { gone: vec![1], added: vec![1, 4] };
        let entries = vec![entry(b"b"), entry(&[b'f'; 200])];
        let mut expected = Vec::new();
        let reply = Reply::Changes(Changes { directory: 7, differences, entries });
        protocol::write_frame(&mut expected, &reply).unwrap();
        assert_eq!(frame, expected);
    }

    #[test]
    fn where_most_is_new_or_much_all_is_sent() {
        let few = listing(&[entry(b"a", 0), entry(b"b", 0), entry(b"c", 0)]);
        assert!(few.changes(7, &listing(&[entry(b"a", 0)]).digests(), |_, _| None).is_none());
        let numbered =
            |count: u32| listing(&(0..count).map(|n| entry(format!("{n:05}").as_bytes(), 9)).collect::<Vec<_>>());
        let (some, many) = (numbered(6000), numbered(12_000 - MAX_ENTRIES as u32));
        assert!(numbered(12_000).changes(7, &some.digests(), |_, _| None).is_none());
        assert!(some.changes(7, &numbered(12_000).digests(), |_, _| None).is_none());
        assert!(numbered(12_000).changes(7, &many.digests(), |_, _| None).is_some());
        let value = Attributes { xattrs: vec![Xattr { name: b"user.x".to_vec(), value: vec![1; 60_000] }], data: None };
        let large = |_: &[u8], _| value.clone().some();
        assert!(numbered(100).changes(7, &numbered(95).digests(), large).is_none());
    }

    #[test]
    fn nothing_is_one_last_frame() {
        let listing = listing(&[]);
        assert_eq!(decode(&listing), [Entries { directory: 7, entries: Vec::new(), last: true, order: Vec::new() }]);
        assert_eq!(listing.digests().fingerprint(), protocol::fingerprint(&[]));
    }

    #[test]
    fn many_or_long_entries_take_several_frames() {
        let many: Vec<Entry> = (0..10_000).map(|number| entry(format!("{number:05}").as_bytes(), 0)).collect();
        let long: Vec<Entry> = (0..300).map(|number| entry(format!("{number:0255}").as_bytes(), 4095)).collect();
        for entries in [many, long] {
            let listing = listing(&entries);
            assert!(frames(&listing).iter().all(|frame| frame.len() < MAX_FRAME));
            let sent = decode(&listing);
            let last = sent.len() - 1;
            assert!(last > 0 && sent.iter().enumerate().all(|(index, frame)| frame.last == (index == last)));
            assert!(sent.iter().all(|frame| frame.entries.len() <= MAX_ENTRIES));
            assert_eq!(sent.into_iter().flat_map(|frame| frame.entries).collect::<Vec<_>>(), entries);
            assert_eq!(listing.digests().fingerprint(), protocol::fingerprint(&entries));
        }
    }

    #[test]
    fn each_frame_has_the_order_of_its_own_entries() {
        let backwards: Vec<Entry> = (0..5000).rev().map(|number| entry(format!("{number:05}").as_bytes(), 0)).collect();
        let orders: Vec<_> = decode(&listing(&backwards)).into_iter().map(|frame| frame.order).collect();
        let down = |count: u16| (0..count).rev().collect::<Vec<u16>>();
        assert_eq!(orders, [down(4096), down(904)]);
    }

    #[test]
    fn attributes_go_with_their_entries_and_not_into_the_fingerprint() {
        let mut unsorted = Unsorted::default();
        let names = [vec![b'c'; 200], b"a".to_vec(), b"b".to_vec()];
        names.iter().for_each(|name| unsorted.push(&Entry { size: 1 << 40, ..entry(name, 0) }, name == b"b"));
        let listing = unsorted.sort();
        let extents = (0..MAX_EXTENTS as u64).map(|number| Extent { offset: number << 20, length: 1 }).collect();
        let xattr = Xattr { name: b"user.x".to_vec(), value: vec![b'v'; MAX_XATTRS - 6] };
        let all = Attributes { xattrs: vec![xattr], data: Some(extents) };
        let mut frames = Vec::new();
        let has = |name: &[u8], sparse| {
            assert_eq!(sparse, name == b"b");
            if name == b"a" { None } else { all.clone().some() }
        };
        listing.each_frame(7, has, |frame| frames.push(frame));
        assert!(frames.iter().all(|frame| frame.len() < MAX_FRAME));
        let sent: Vec<Entry> = frames.iter().flat_map(|frame| decoded(frame).entries).collect();
        let found: Vec<_> = sent.iter().map(|entry| (entry.name.as_bytes().len(), entry.attributes.clone())).collect();
        assert_eq!(found, [(1, None), (1, all.clone().some()), (200, all.some())]);
        assert_eq!(listing.digests().fingerprint(), protocol::fingerprint(&sent));
    }
}
