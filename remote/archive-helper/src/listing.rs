//! A directory's entries as the wire has them: encoded once, for the fingerprint and for sending.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_128;

use crate::protocol::{Entry, Fingerprint, MAX_ENTRIES};

// How many bytes of entries a frame has at most, unless a single one is longer.
const CHUNK: usize = 256 * 1024;
// How much memory one directory may leave to the next, in bytes.
const KEPT: usize = 1024 * 1024;
// What a listing weighs besides its bytes: the place it takes in tables and queues.
const OVERHEAD: usize = 256;
// The number of `Reply::Entries` among its enum's variants.
const ENTRIES: u32 = 2;

/// Entries in the order in which they were found.
#[derive(Default)]
pub struct Unsorted {
    encoded: Vec<u8>,
    spans: Vec<Span>,
}

// Where an entry's bytes are, and how long its name is. Small, for a directory may have millions.
struct Span {
    start: usize,
    length: u16,
    name: u8,
}

impl Span {
    fn entry<'a>(&self, encoded: &'a [u8]) -> &'a [u8] {
        &encoded[self.start..self.start + usize::from(self.length)]
    }

    // The name comes first, after its length in one byte, or from 128 on in two.
    fn name<'a>(&self, encoded: &'a [u8]) -> &'a [u8] {
        let start = self.start + 1 + usize::from(self.name > 127);
        &encoded[start..start + usize::from(self.name)]
    }
}

impl Unsorted {
    /// Adds an entry.
    pub fn push(&mut self, entry: &Entry) {
        let start = self.encoded.len();
        let encoded = std::mem::take(&mut self.encoded);
        self.encoded = postcard::to_extend(entry, encoded).expect("an entry always encodes into memory");
        // Name and target, the long parts, come to 4350 bytes at most.
        let length = (self.encoded.len() - start) as u16;
        self.spans.push(Span { start, length, name: entry.name.as_bytes().len() as u8 });
    }

    /// Sorts the entries by name, drops all but one of equal names, and leaves `self` empty.
    pub fn sort(&mut self) -> Listing {
        let Unsorted { encoded, spans } = self;
        spans.sort_unstable_by(|a, b| a.name(encoded).cmp(b.name(encoded)));
        spans.dedup_by(|b, a| a.name(encoded) == b.name(encoded));
        let mut listing = Listing { encoded: Vec::with_capacity(encoded.len()), chunks: Vec::new() };
        for span in spans.iter() {
            listing.push(span.entry(encoded));
        }
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
    chunks: Vec<Chunk>,
}

// What goes into one frame.
struct Chunk {
    bytes: Range<usize>,
    entries: usize,
}

impl Listing {
    fn push(&mut self, entry: &[u8]) {
        let start = self.encoded.len();
        self.encoded.extend_from_slice(entry);
        let end = self.encoded.len();
        match self.chunks.last_mut() {
            Some(chunk) if chunk.entries < MAX_ENTRIES && end - chunk.bytes.start <= CHUNK => {
                chunk.bytes.end = end;
                chunk.entries += 1;
            }
            _ => self.chunks.push(Chunk { bytes: start..end, entries: 1 }),
        }
    }

    /// How many entries there are.
    pub fn entries(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.entries as u64).sum()
    }

    /// As [`protocol::fingerprint`](crate::protocol::fingerprint) has it.
    pub fn fingerprint(&self) -> Fingerprint {
        xxh3_128(&self.encoded).to_le_bytes()
    }

    /// What it counts against the limit of memory, in bytes.
    pub fn weight(&self) -> usize {
        OVERHEAD + self.encoded.capacity() + self.chunks.capacity() * size_of::<Chunk>()
    }

    /// The frames that carry the entries, each as [`protocol::write_frame`](crate::protocol::write_frame)
    /// would write it; a directory without entries has one frame too.
    pub fn frames(&self, directory: u64) -> impl Iterator<Item = Vec<u8>> {
        let empty = self.chunks.is_empty().then(|| frame(directory, 0, &[], true));
        let last = self.chunks.len().saturating_sub(1);
        let chunks = self.chunks.iter().enumerate();
        empty.into_iter().chain(chunks.map(move |(index, chunk)| {
            frame(directory, chunk.entries, &self.encoded[chunk.bytes.clone()], index == last)
        }))
    }
}

// The fields of `protocol::Entries`, in their order; the entries are encoded already.
fn frame(directory: u64, count: usize, entries: &[u8], last: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(entries.len() + 32);
    frame.extend_from_slice(&[0; 4]);
    frame = postcard::to_extend(&(ENTRIES, directory, count), frame).expect("numbers always encode into memory");
    frame.extend_from_slice(entries);
    frame.push(u8::from(last));
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{self, Entries, Kind, MAX_FRAME, Name, Reply};

    fn entry(name: &[u8], target: usize) -> Entry {
        Entry {
            name: Name::new(name).unwrap(),
            kind: if target > 0 { Kind::Symlink } else { Kind::File },
            size: if target > 0 { 0 } else { name.len() as u64 * 1000 },
            mtime: -1,
            ctime: i64::MAX,
            mode: 0o7777,
            uid: u32::MAX,
            gid: 0,
            inode: None,
            device: 0,
            target: vec![b't'; target],
        }
    }

    fn listing(entries: &[Entry]) -> Listing {
        let mut unsorted = Unsorted::default();
        entries.iter().for_each(|entry| unsorted.push(entry));
        unsorted.sort()
    }

    fn decode(listing: &Listing) -> Vec<Entries> {
        let decode = |frame: Vec<u8>| match protocol::read_frame(&mut &frame[..]).unwrap() {
            Some(Reply::Entries(entries)) => entries,
            other => panic!("{other:?}"),
        };
        listing.frames(7).map(decode).collect()
    }

    #[test]
    fn frames_are_what_the_protocol_would_write() {
        let entries = vec![entry(b"a", 0), entry(&[b'b'; 127], 3), entry(&[b'c'; 128], 0), entry(&[0xff; 255], 4095)];
        let reply = Reply::Entries(Entries { directory: 7, entries: entries.clone(), last: true });
        let mut expected = Vec::new();
        protocol::write_frame(&mut expected, &reply).unwrap();
        assert_eq!(listing(&entries).frames(7).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn entries_come_sorted_without_duplicates() {
        let long = [b'b'; 130];
        let listing = listing(&[entry(b"b", 0), entry(&long, 0), entry(b"a", 1), entry(b"b", 0), entry(b"B", 0)]);
        let sent = decode(&listing).remove(0).entries;
        assert_eq!(sent, [entry(b"B", 0), entry(b"a", 1), entry(b"b", 0), entry(&long, 0)]);
        assert_eq!(listing.entries(), 4);
        assert_eq!(listing.fingerprint(), protocol::fingerprint(&sent));
    }

    #[test]
    fn nothing_is_one_last_frame() {
        let listing = listing(&[]);
        assert_eq!(decode(&listing), [Entries { directory: 7, entries: Vec::new(), last: true }]);
        assert_eq!(listing.fingerprint(), protocol::fingerprint(&[]));
    }

    #[test]
    fn many_or_long_entries_take_several_frames() {
        let many: Vec<Entry> = (0..10_000).map(|number| entry(format!("{number:05}").as_bytes(), 0)).collect();
        let long: Vec<Entry> = (0..300).map(|number| entry(format!("{number:0255}").as_bytes(), 4095)).collect();
        for entries in [many, long] {
            let listing = listing(&entries);
            assert!(listing.frames(u64::MAX).all(|frame| frame.len() < MAX_FRAME));
            let sent = decode(&listing);
            let last = sent.len() - 1;
            assert!(last > 0 && sent.iter().enumerate().all(|(index, frame)| frame.last == (index == last)));
            assert!(sent.iter().all(|frame| frame.entries.len() <= MAX_ENTRIES));
            assert_eq!(sent.into_iter().flat_map(|frame| frame.entries).collect::<Vec<_>>(), entries);
            assert_eq!(listing.fingerprint(), protocol::fingerprint(&entries));
        }
    }
}
