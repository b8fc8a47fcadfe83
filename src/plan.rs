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
