//! What goes wrong in calls of a fake client, and when.

use crate::client::{connection_lost, protocol_violation};
use crate::error::{Error, Kind};

/// A call of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// A root, a directory, a page of entries, changes, a problem: an event each.
    List,
    /// An outcome is an event.
    Hash,
    /// An event of a file is one.
    Fetch,
    /// Each item, and each piece of content, is an event.
    Restore,
    /// Reading the accounts is one event.
    Accounts,
}

/// Something that goes wrong, once.
#[derive(Clone, Debug)]
pub struct Fault {
    /// In which call; `None` for any.
    pub call: Option<Call>,
    /// After so many events of such calls, counted from now on.
    pub after_events: u64,
    /// What.
    pub kind: FaultKind,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The connection is lost: the call fails, and every other call of the client.
    Disconnect,
    /// The client works without progress until it is given up; then as if the connection was lost.
    Stall,
    /// The client says what can't be.
    Nonsense,
    /// The call fails for another reason.
    Fail(Kind),
}

impl FaultKind {
    /// The error of the call.
    pub fn error(self) -> Error {
        match self {
            FaultKind::Disconnect => connection_lost(),
            FaultKind::Stall => Error::new(Kind::Unreachable, "the client stopped answering"),
            FaultKind::Nonsense => protocol_violation("a fault was asked for"),
            FaultKind::Fail(kind) => Error::new(kind, "a fault was asked for"),
        }
    }
}

/// Faults to come, and how many events there were.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    planned: Vec<Fault>,
    /// Events of all calls so far: a count to plan faults by.
    pub events: u64,
}

impl Faults {
    /// Plans a fault.
    pub fn plan(&mut self, fault: Fault) {
        self.planned.push(fault);
    }

    /// Forgets those that did not happen.
    pub fn clear(&mut self) {
        self.planned.clear();
    }

    /// Counts an event; returns what goes wrong instead of it.
    pub fn next(&mut self, call: Call) -> Option<FaultKind> {
        self.events += 1;
        let mut due = None;
        self.planned.retain_mut(|fault| {
            if fault.call.is_some_and(|planned| planned != call) || due.is_some() {
                return true;
            }
            let is_due = fault.after_events == 0;
            if is_due {
                due = Some(fault.kind);
            }
            fault.after_events = fault.after_events.saturating_sub(1);
            !is_due
        });
        due
    }
}
