//! Sizes of the large files of a run: files of one size may have the same content.
//!
//! Only hashes tell, for which the client has to read the files. Where the server has no content of the size yet, samples
//! are compared first: nearly always they show that the files differ.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::path::AbsPath;

// Smallest file of which a sample is compared, bytes: a smaller file is read as fast.
const MIN_SAMPLED_BYTES: u64 = 1 << 20;

// First files of a size whose paths are kept.
const MAX_FIRST_FILES: usize = 32 * 1024;

// Longest path that is kept, bytes.
const MAX_PATH_BYTES: usize = 512;

// Samples that are kept.
const MAX_SAMPLES: usize = 32 * 1024;

/// The sizes that a run has met.
#[derive(Debug, Default)]
pub struct Sizes {
    sizes: HashMap<u64, Met>,
    // First files whose paths are kept.
    firsts: usize,
    // Samples of all sizes.
    samples: usize,
}

#[derive(Debug)]
enum Met {
    // Files of this size are hashed.
    Hashed,
    // Files of this size are sampled. There are few such sizes.
    Sampled(Box<Samples>),
}

#[derive(Debug)]
struct Samples {
    // The first file, until it is sampled.
    first: Option<AbsPath>,
    known: HashSet<u64>,
}

/// How to find out whether a file's content is in place or under way.
#[derive(Debug, PartialEq)]
pub enum Meeting {
    /// It is not: no other content has its size.
    First,
    /// By a sample of the file, and one of the first file of its size if that is named.
    Sample(Option<AbsPath>),
    /// By its hash.
    Hash,
}

impl Sizes {
    /// Adds a file of this size; `is_in_place` says whether the server has a content of this size.
    pub fn meet(&mut self, path: AbsPath, size: u64, is_in_place: impl FnOnce() -> Result<bool>) -> Result<Meeting> {
        let Sizes { sizes, firsts, .. } = self;
        let is_sampled =
            size >= MIN_SAMPLED_BYTES && *firsts < MAX_FIRST_FILES && path.as_bytes().len() <= MAX_PATH_BYTES;
        match sizes.entry(size) {
            Slot::Occupied(met) => Ok(match met.get() {
                Met::Hashed => Meeting::Hash,
                Met::Sampled(samples) => Meeting::Sample(samples.first.clone()),
            }),
            Slot::Vacant(new) if is_in_place()? => {
                new.insert(Met::Hashed);
                Ok(Meeting::Hash)
            }
            Slot::Vacant(new) => {
                *firsts += usize::from(is_sampled);
                let sampled = || Met::Sampled(Box::new(Samples { first: Some(path), known: HashSet::new() }));
                new.insert(if is_sampled { sampled() } else { Met::Hashed });
                Ok(Meeting::First)
            }
        }
    }

    /// Adds a file of this size that is not sampled.
    pub fn meet_other(&mut self, size: u64) {
        if let Some(Met::Sampled(samples)) = self.sizes.insert(size, Met::Hashed) {
            self.firsts -= usize::from(samples.first.is_some());
            self.samples -= samples.known.len();
        }
    }

    /// True if a sample, and that of the first file of the size, show that no other file of the size has the content.
    pub fn is_other(&mut self, size: u64, sample: u64, of_first: Option<u64>) -> bool {
        let Sizes { sizes, firsts, samples: count } = self;
        let Some(Met::Sampled(samples)) = sizes.get_mut(&size) else { return false };
        let Samples { first, known } = &mut **samples;
        if let Some(of_first) = of_first.filter(|_| first.is_some()) {
            (*first, *firsts) = (None, *firsts - 1);
            *count += usize::from(known.insert(of_first));
        }
        let is_other = first.is_none() && *count < MAX_SAMPLES && known.insert(sample);
        *count += usize::from(is_other);
        is_other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> AbsPath {
        AbsPath::new(format!("/{name}")).unwrap()
    }

    #[test]
    fn files_of_one_size_are_told_apart_by_samples_and_others_by_hashes() {
        let (mut sizes, size) = (Sizes::default(), 5 << 20);
        let meet = |sizes: &mut Sizes, name: &str, size| sizes.meet(path(name), size, || Ok(false)).unwrap();
        assert_eq!(meet(&mut sizes, "a", size), Meeting::First);
        assert_eq!(meet(&mut sizes, "b", size), Meeting::Sample(Some(path("a"))));
        assert!(!sizes.is_other(size, 2, None), "nothing is known of the first");
        assert!(!sizes.is_other(size, 1, Some(1)));
        assert!(sizes.is_other(size, 2, Some(1)));
        assert_eq!(meet(&mut sizes, "c", size), Meeting::Sample(None));
        assert!(!sizes.is_other(size, 2, None));
        assert!(sizes.is_other(size, 3, None));
        sizes.meet_other(size);
        assert_eq!(meet(&mut sizes, "d", size), Meeting::Hash);
        assert!(!sizes.is_other(size, 4, None));
        let small = MIN_SAMPLED_BYTES - 1;
        assert_eq!([meet(&mut sizes, "e", small), meet(&mut sizes, "f", small)], [Meeting::First, Meeting::Hash]);
        let mut here = || sizes.meet(path("g"), 6 << 20, || Ok(true)).unwrap();
        assert_eq!([here(), here()], [Meeting::Hash, Meeting::Hash]);
    }
}
