//! Sizes of large files that a run has come across: what has the size of another one may have its content, too.
//!
//! Only its hash tells, for which the client has to read all of it. Where no content of the size is here yet, a sample of
//! each is compared first: nearly always it shows that they differ.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::path::AbsPath;

// From which size on samples are compared: a smaller file is read as fast as a sample is told.
const SAMPLED: u64 = 1 << 20;

// Of so many files the paths are kept, if they are not longer than this, in bytes, and so many samples of a size.
const MOST_FIRST: usize = 32 * 1024;
const LONGEST: usize = 512;
const MOST_SAMPLES: usize = 32 * 1024;

/// What this run has come across.
#[derive(Debug, Default)]
pub struct Sizes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sizes: HashMap<u64, Met>,
    // How many files are named.
    firsts: usize,
}

#[derive(Debug)]
enum Met {
    // Files of this size have to be hashed.
    Hashed,
    // Few are, and all sizes are kept.
    Sampled(Box<Samples>),
}

#[derive(Debug)]
struct Samples {
    // The first file, while it is not sampled.
    first: Option<AbsPath>,
    known: HashSet<u64>,
}

/// How to tell whether a file's content is here or under way.
#[derive(Debug, PartialEq)]
pub enum Meeting {
    /// It is not: nothing has its size.
    First,
    /// By a sample; the first file of its size is to be sampled, too, if that is named.
    Sample(Option<AbsPath>),
    /// By its hash.
    Hash,
}

impl Sizes {
    /// A file was come across; `is_here` tells whether a content of its size is.
    pub fn meet(&self, path: AbsPath, size: u64, is_here: impl FnOnce() -> Result<bool>) -> Result<Meeting> {
        let State { sizes, firsts } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_sampled = size >= SAMPLED && *firsts < MOST_FIRST && path.as_bytes().len() <= LONGEST;
        match sizes.entry(size) {
            Slot::Occupied(met) => Ok(match met.get() {
                Met::Hashed => Meeting::Hash,
                Met::Sampled(samples) => Meeting::Sample(samples.first.clone()),
            }),
            Slot::Vacant(new) if is_here()? => {
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

    /// A file of this size comes of which there will be no sample.
    pub fn meet_other(&self, size: u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Met::Sampled(samples)) = state.sizes.insert(size, Met::Hashed) {
            state.firsts -= usize::from(samples.first.is_some());
        }
    }

    /// Whether a file's content is another one than that of all others of its size, by its sample and, if that was not known,
    /// that of the first.
    pub fn is_other(&self, size: u64, sample: u64, of_first: Option<u64>) -> bool {
        let State { sizes, firsts } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Met::Sampled(samples)) = sizes.get_mut(&size) else { return false };
        let Samples { first, known } = &mut **samples;
        if let Some(of_first) = of_first.filter(|_| first.is_some()) {
            (*first, *firsts) = (None, *firsts - 1);
            known.insert(of_first);
        }
        first.is_none() && known.len() < MOST_SAMPLES && known.insert(sample)
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
        let (sizes, size) = (Sizes::default(), 5 << 20);
        let meet = |name: &str, size| sizes.meet(path(name), size, || Ok(false)).unwrap();
        assert_eq!(meet("a", size), Meeting::First);
        assert_eq!(meet("b", size), Meeting::Sample(Some(path("a"))));
        assert!(!sizes.is_other(size, 2, None), "nothing is known of the first");
        assert!(!sizes.is_other(size, 1, Some(1)));
        assert!(sizes.is_other(size, 2, Some(1)));
        assert_eq!(meet("c", size), Meeting::Sample(None));
        assert!(!sizes.is_other(size, 2, None));
        assert!(sizes.is_other(size, 3, None));
        sizes.meet_other(size);
        assert_eq!(meet("d", size), Meeting::Hash);
        assert!(!sizes.is_other(size, 4, None));
        let small = SAMPLED - 1;
        assert_eq!([meet("e", small), meet("f", small)], [Meeting::First, Meeting::Hash]);
        let here = || sizes.meet(path("g"), 6 << 20, || Ok(true)).unwrap();
        assert_eq!([here(), here()], [Meeting::Hash, Meeting::Hash]);
    }
}
