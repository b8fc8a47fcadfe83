//! Cutting content where it says so itself, by FastCDC (Xia and others, "FastCDC", USENIX ATC 2016, and its sequel of 2020),
//! so that what was inserted or overwritten somewhere leaves the chunks elsewhere as they were.

use fastcdc::v2020::FastCDC;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::protocol::{Chunk, MAX_AVERAGE, MIN_AVERAGE};

/// How many chunks a file has at most, about: each takes memory.
pub const CHUNKS: u64 = 65_536;

// Of a file whose chunks are shorter than this, each is told of, which takes eleven bytes. So there should be no more of
// them than what a change costs weighs up, which is a chunk or two. Of other files groups are told of first.
const SHORT: u64 = 16 * 1024;

// From how many chunks on groups take fewer bytes.
const WORTH_GROUPS: u64 = 64;

// A group of chunks ends with one at whose end the stirred gear hash begins with so many zero bits: it has 32 of them, about.
const GROUP_BITS: u32 = 5;
const STIR: u64 = 0x9e37_79b9_7f4a_7c15;

/// How many chunks a group has at most.
pub const MOST_GROUPED: usize = 128;

// How much is read at once, in bytes.
const READ: usize = 1 << 20;

/// How a file is cut into chunks, and how they are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutting {
    /// The average length of a chunk, in bytes.
    pub average: u32,
    /// Whether groups are told of first, which takes one question more.
    pub grouped: bool,
}

impl Cutting {
    /// For a file of this size; `sparing` where bytes count more than questions.
    pub fn of(size: u64, sparing: bool) -> Cutting {
        let most = |average: u64| {
            if sparing {
                CHUNKS.min(average * 8)
            } else if average < SHORT {
                average / 8
            } else {
                CHUNKS
            }
        };
        let mut average = MIN_AVERAGE;
        while average < MAX_AVERAGE && size / u64::from(average) > most(average.into()) {
            average *= 2;
        }
        let is_worth_it = size / u64::from(average) > WORTH_GROUPS;
        Cutting { average, grouped: if sparing { is_worth_it } else { u64::from(average) >= SHORT } }
    }
}

/// A piece of content, between two places where it is cut.
pub struct Cut<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    // The gear hash at its end.
    gear: u64,
}

impl Cut<'_> {
    /// What is told of it.
    pub fn chunk(&self) -> Chunk {
        Chunk { length: self.bytes.len() as u32, sum: xxh3_64(self.bytes).to_le_bytes() }
    }

    // Bits of the gear hash are zero where it is cut, so it is stirred.
    fn ends_group(&self) -> bool {
        self.gear.wrapping_mul(STIR).leading_zeros() >= GROUP_BITS
    }
}

/// Cuts all that `read` gives, which says 0 at the end, into chunks of this average length. `buffer` is memory to be used
/// again.
pub fn cut<E>(
    average: u32,
    buffer: &mut Vec<u8>,
    mut read: impl FnMut(&mut [u8]) -> Result<usize, E>,
    mut each: impl FnMut(&Cut<'_>),
) -> Result<(), E> {
    let average = average as usize;
    let (least, most) = (average / 4, average * 4);
    if buffer.len() < most + READ {
        buffer.resize(most + READ, 0);
    }
    let (mut filled, mut ended) = (0, false);
    while !ended || filled > 0 {
        while !ended && filled < buffer.len() {
            match read(&mut buffer[filled..])? {
                0 => ended = true,
                count => filled += count,
            }
        }
        let mut done = 0;
        for found in FastCDC::new(&buffer[..filled], least, average, most) {
            // What follows could still belong to it.
            if !ended && filled - found.offset < most {
                break;
            }
            let bytes = &buffer[found.offset..found.offset + found.length];
            each(&Cut { bytes, gear: found.hash });
            done = found.offset + found.length;
        }
        buffer.copy_within(done..filled, 0);
        filled -= done;
    }
    Ok(())
}

/// Puts chunks that follow each other together. Where a group ends is told by its last chunk, so groups are found again as
/// chunks are, and a list of them is short.
#[derive(Default)]
pub struct Grouping {
    sum: Xxh3Default,
    count: usize,
    length: u32,
}

impl Grouping {
    /// Takes the next chunk; returns the group that it ends.
    pub fn add(&mut self, cut: &Cut<'_>) -> Option<Chunk> {
        self.sum.update(cut.bytes);
        self.count += 1;
        self.length += cut.bytes.len() as u32;
        if cut.ends_group() || self.count == MOST_GROUPED { self.end() } else { None }
    }

    /// The last group, if it has not ended yet.
    pub fn end(&mut self) -> Option<Chunk> {
        if self.count == 0 {
            return None;
        }
        let group = Chunk { length: self.length, sum: self.sum.digest().to_le_bytes() };
        self.sum.reset();
        (self.count, self.length) = (0, 0);
        Some(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::convert::Infallible;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    /// Chunks, and groups of them.
    fn told(mut content: &[u8], at_once: usize) -> (Vec<Chunk>, Vec<Chunk>) {
        let (mut chunks, whole) = (Vec::new(), content);
        let read = |buffer: &mut [u8]| {
            let count = buffer.len().min(content.len()).min(at_once);
            buffer[..count].copy_from_slice(&content[..count]);
            content = &content[count..];
            Ok::<_, Infallible>(count)
        };
        let mut grouping = Grouping::default();
        let mut groups = Vec::new();
        cut(16 * 1024, &mut Vec::new(), read, |cut| {
            chunks.push(cut.chunk());
            groups.extend(grouping.add(cut));
        })
        .unwrap();
        groups.extend(grouping.end());
        assert_eq!(grouping.end(), None);
        for told in [&chunks, &groups] {
            let mut rest = whole;
            for Chunk { length, sum } in told {
                let (bytes, behind) = rest.split_at(*length as usize);
                assert_eq!(*sum, xxh3_64(bytes).to_le_bytes());
                rest = behind;
            }
            assert!(rest.is_empty(), "they are the content");
        }
        (chunks, groups)
    }

    fn chunks(content: &[u8], at_once: usize) -> Vec<Chunk> {
        told(content, at_once).0
    }

    fn groups(content: &[u8]) -> Vec<Chunk> {
        told(content, usize::MAX).1
    }

    #[test]
    fn chunks_don_t_depend_on_how_it_is_read() {
        let content = noise(5_000_000);
        let all = chunks(&content, usize::MAX);
        assert_eq!(all, chunks(&content, 1000));
        assert!((150..600).contains(&all.len()), "{}", all.len());
        assert_eq!(chunks(&[], 1), []);
        assert_eq!(chunks(b"x", 1).len(), 1);
    }

    #[test]
    fn what_is_inserted_changes_the_chunks_around_it_only() {
        let content = noise(5_000_000);
        let before: HashSet<Chunk> = chunks(&content, usize::MAX).into_iter().collect();
        let inserted = [b"new", &content[..]].concat();
        let other = chunks(&inserted, usize::MAX).into_iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(other <= 3, "{other}");
    }

    #[test]
    fn groups_make_it_up_and_are_found_again() {
        let content = noise(20_000_000);
        let before = groups(&content);
        assert_eq!(before.iter().map(|group| u64::from(group.length)).sum::<u64>(), 20_000_000);
        assert!((20..80).contains(&before.len()), "{}", before.len());
        let before: HashSet<Chunk> = before.into_iter().collect();
        let inserted = [&content[..10_000_000], b"new", &content[10_000_000..]].concat();
        let other = groups(&inserted).into_iter().filter(|group| !before.contains(group)).count();
        assert!((1..=2).contains(&other), "{other}");
    }

    #[test]
    fn a_group_has_an_end_where_no_chunk_ends_it() {
        let mut grouping = Grouping::default();
        let endless = Cut { bytes: b"endless", gear: u64::MAX };
        assert!(!endless.ends_group());
        let groups: Vec<usize> = (1..=300).filter(|_| grouping.add(&endless).is_some()).collect();
        assert_eq!(groups, [MOST_GROUPED, 2 * MOST_GROUPED]);
    }

    #[test]
    fn a_part_that_begins_and_ends_with_chunks_is_cut_as_in_the_whole() {
        let content = noise(5_000_000);
        let whole = chunks(&content, usize::MAX);
        let length = |chunks: &[Chunk]| chunks.iter().map(|chunk| chunk.length as usize).sum::<usize>();
        let (from, to) = (length(&whole[..50]), length(&whole[..117]));
        assert_eq!(chunks(&content[from..to], 1000), whole[50..117]);
    }

    #[test]
    fn larger_files_have_larger_chunks() {
        let of = |size: u64, sparing: bool| Cutting::of(size, sparing).average;
        let sizes = [0, 32 << 10, 100 << 10, 512 << 10, 1 << 20, 4 << 20, 16 << 20, 1 << 30, 3 << 30, 1 << 40];
        let averages = [512, 512, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 16 << 10, 64 << 10, MAX_AVERAGE];
        assert_eq!(sizes.map(|size| of(size, false)), averages);
        let averages = [512, 512, 512, 512, 512, 1 << 10, 2 << 10, 16 << 10, 64 << 10, MAX_AVERAGE];
        assert_eq!(sizes.map(|size| of(size, true)), averages);
        assert_eq!(of((1 << 30) + (16 << 10), false), 32 << 10);
        let grouped = |size: u64| [false, true].map(|sparing| Cutting::of(size, sparing).grouped);
        assert_eq!([32 << 10, 100 << 10, 12 << 20].map(grouped), [[false, false], [false, true], [true, true]]);
    }
}
