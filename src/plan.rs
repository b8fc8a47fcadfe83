//! What has to be done for one directory: its listing against what the index remembers. Pure.

use crate::entry::{Entry, Kind, Version};

/// What one name asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing is to be done.
    Same,
    /// Only numbers differ that tell nothing of the content, such as the client's device numbers after a reboot.
    Restated {
        /// As listed.
        entry: Entry,
        /// As remembered.
        old: Version,
    },
    /// Kind and size are the same, but times, owner or mode are not: the content decides.
    Touched {
        /// As listed.
        entry: Entry,
        /// As remembered.
        old: Version,
    },
    /// Kind, size or link target differ.
    Changed {
        /// As listed.
        entry: Entry,
        /// As remembered.
        old: Version,
    },
    /// Nothing of that name is remembered.
    New {
        /// As listed.
        entry: Entry,
    },
    /// It is not listed any more.
    Removed {
        /// As remembered.
        old: Version,
    },
}

impl Step {
    /// The version that is removed with everything below it, and what replaces it: nothing, or what is no directory.
    pub fn removed(&self) -> Option<(&Version, Option<&Entry>)> {
        match self {
            Step::Removed { old } => Some((old, None)),
            Step::Changed { entry, old } if old.entry.kind == Kind::Dir && entry.kind != Kind::Dir => {
                Some((old, Some(entry)))
            }
            _ => None,
        }
    }
}

/// Compares entries with current versions; both come sorted by name. Every name yields one step, in order.
pub fn plan(listed: Vec<Entry>, remembered: Vec<Version>, distrust: bool) -> Vec<Step> {
    let mut steps = Vec::with_capacity(listed.len().max(remembered.len()));
    let mut remembered = remembered.into_iter().peekable();
    for entry in listed {
        while let Some(old) = remembered.next_if(|old| old.entry.name < entry.name) {
            steps.push(Step::Removed { old });
        }
        steps.push(match remembered.next_if(|old| old.entry.name == entry.name) {
            Some(old) => compare(entry, old, distrust),
            None => Step::New { entry },
        });
    }
    steps.extend(remembered.map(|old| Step::Removed { old }));
    steps
}

/// Puts the steps of what is listed into this order of places in the listing, unless it is empty, and those of what was
/// removed before them; `None` when that is no order.
pub fn in_order(steps: Vec<Step>, order: &[u16]) -> Option<Vec<Step>> {
    if order.is_empty() {
        return Some(steps);
    }
    let (mut ordered, listed): (Vec<_>, Vec<_>) =
        steps.into_iter().partition(|step| matches!(step, Step::Removed { .. }));
    let mut listed: Vec<_> = listed.into_iter().map(Some).collect();
    if order.len() != listed.len() {
        return None;
    }
    for &place in order {
        ordered.push(listed.get_mut(usize::from(place))?.take()?);
    }
    Some(ordered)
}

fn compare(entry: Entry, old: Version, distrust: bool) -> Step {
    let was = &old.entry;
    if was.kind != entry.kind || was.size != entry.size || was.target != entry.target || was.device != entry.device {
        return Step::Changed { entry, old };
    }
    let untrusted = entry.kind == Kind::File && (distrust || old.is_uncertain());
    if untrusted || was.mtime != entry.mtime || was.ctime != entry.ctime {
        return Step::Touched { entry, old };
    }
    if *was != entry { Step::Restated { entry, old } } else { Step::Same }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{DirectoryId, testing};

    fn entry(name: &str) -> Entry {
        Entry { size: 1, ..testing::file(name) }
    }

    fn version(name: &str, size: u64) -> Version {
        Version {
            id: 1,
            directory: DirectoryId(1),
            entry: Entry { size, ..entry(name) },
            hash: None,
            from_run: 1,
            until_run: None,
            archive_name: None,
            flags: 0,
            relies_on: None,
        }
    }

    fn told(step: &Step) -> String {
        match step {
            Step::New { entry } => format!("new {}", entry.name),
            Step::Changed { entry, .. } => format!("changed {}", entry.name),
            Step::Same => "same".to_owned(),
            Step::Removed { old } => format!("removed {}", old.entry.name),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn steps_come_in_the_order_that_was_asked_for_or_there_is_none() {
        let ordered = |order: &[u16]| {
            let listed = ["a", "c", "d", "f"].map(entry).to_vec();
            let remembered = vec![version("b", 1), version("c", 2), version("d", 1), version("e", 1)];
            let steps = in_order(plan(listed, remembered, false), order);
            steps.map(|steps| steps.iter().map(told).collect::<Vec<_>>().join(", "))
        };
        let in_names = "new a, removed b, changed c, same, removed e, new f";
        assert_eq!(ordered(&[]).as_deref(), Some(in_names));
        let in_inodes = "removed b, removed e, new f, new a, same, changed c";
        assert_eq!(ordered(&[3, 0, 2, 1]).as_deref(), Some(in_inodes));
        for none in [&[0, 1, 2][..], &[0, 1, 2, 2], &[0, 1, 2, 4], &[0, 1, 2, 3, 3]] {
            assert_eq!(ordered(none), None, "{none:?}");
        }
    }
}
