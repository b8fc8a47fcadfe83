//! Faults made on purpose: a test build dies, stops or gets an error at the Nth step that changes the repository.
//!
//! `ARCHIVE_FAULT` says which, as in `kill:17`, `stop:17` or `ENOSPC:17`; `ARCHIVE_BATCH` makes batches small, so that
//! there are several. `ARCHIVE_HELPER_PROGRAM` names a program that is started for the helper of a source without a host;
//! its argument is the helper's path. `ARCHIVE_LACKS` names calls that the repository's file system is to lack, separated by
//! commas: see [`lacks`]. Release builds have none of this.

#[cfg(not(debug_assertions))]
use std::os::fd::RawFd;
#[cfg(not(debug_assertions))]
use std::process::Command;

/// Stands before everything that changes the repository's disk.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn step() -> nix::Result<()> {
    Ok(())
}

/// How many changes are enough for a batch, and how many wait for it.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn most_changes(usual: usize) -> usize {
    usual
}

/// True when the repository's file system is to behave as one without something, for a test.
///
/// `renameat2` (EINVAL for flags), `refusal` (`RENAME_NOREPLACE` is ignored), `links`, `link-count` (ENOSPC at the fifth
/// name), `symlink-links`, `symlink-times`, `symlink-targets` (times of a symlink are set on its target), `syncfs`, `nanoseconds`,
/// `owners`, `modes`, `inodes` (another number at every look), `holes`, `xattrs`, `flock`, `record-locks`, `exclusion` (locks are
/// granted to everyone), `local` (shared memory), `case` (names that differ in it are the same), `symlinks`.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn lacks(_what: &str) -> bool {
    false
}

/// The command that starts the helper which is open as this descriptor.
#[cfg(not(debug_assertions))]
pub fn helper(program: RawFd) -> Command {
    Command::new(format!("/proc/self/fd/{program}"))
}

#[cfg(debug_assertions)]
pub use made::{helper, lacks, most_changes, step};

/// Called after everything written so far has come to be on the disk.
#[cfg(not(test))]
#[inline(always)]
pub fn synced() {}

#[cfg(test)]
pub use planned::{Plan, synced};

/// Faults of one thread, for a simulation that runs many histories in one process.
#[cfg(test)]
mod planned {
    use std::cell::RefCell;

    use nix::Result;
    use nix::errno::Errno;

    thread_local! {
        static PLAN: RefCell<Plan> = RefCell::default();
    }

    /// What happens to the disk of this thread's repository.
    #[derive(Default)]
    pub struct Plan {
        /// After so many steps every step fails with this.
        pub failure: Option<(u64, Errno)>,
        /// Called instead of the step with this number; does not return.
        pub kill: Option<(u64, fn() -> !)>,
        /// Called after each sync.
        pub on_sync: Option<Box<dyn FnMut()>>,
        /// How many steps there were.
        pub steps: u64,
    }

    impl Plan {
        /// Replaces the plan of this thread; returns the one before.
        pub fn set(self) -> Plan {
            PLAN.replace(self)
        }
    }

    pub(super) fn step() -> Result<()> {
        PLAN.with_borrow_mut(|plan| {
            plan.steps += 1;
            match (plan.kill, plan.failure) {
                // What unwinds may have something to drop.
                (Some((at, kill)), _) if plan.steps >= at && !std::thread::panicking() => Some(kill),
                (_, Some((at, errno))) if plan.steps > at => return Err(errno),
                _ => None,
            }
            .map_or(Ok(()), |kill| kill())
        })
    }

    /// Calls what the plan has for a sync.
    pub fn synced() {
        // The callback may look at the repository by the same calls.
        let callback = PLAN.with_borrow_mut(|plan| plan.on_sync.take());
        if let Some(mut callback) = callback {
            callback();
            PLAN.with_borrow_mut(|plan| plan.on_sync = Some(callback));
        }
    }
}

#[cfg(debug_assertions)]
mod made {
    use std::os::fd::RawFd;
    use std::process::Command;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::Result;
    use nix::errno::Errno;
    use nix::sys::signal::{Signal, raise};

    static FAULT: OnceLock<Option<(Fault, u64)>> = OnceLock::new();
    static STEPS: AtomicU64 = AtomicU64::new(1);

    #[derive(Clone, Copy)]
    enum Fault {
        Kill,
        Stop,
        Fail(Errno),
    }

    /// True when the repository's file system is to behave as one without something.
    pub fn lacks(what: &str) -> bool {
        static LACKS: OnceLock<Option<String>> = OnceLock::new();
        let lacks = LACKS.get_or_init(|| std::env::var("ARCHIVE_LACKS").ok());
        lacks.as_ref().is_some_and(|lacks| lacks.split(',').any(|one| one == what))
    }

    /// The command that starts the helper which is open as this descriptor.
    pub fn helper(program: RawFd) -> Command {
        match std::env::var_os("ARCHIVE_HELPER_PROGRAM") {
            None => Command::new(format!("/proc/self/fd/{program}")),
            Some(other) => {
                let mut command = Command::new(other);
                command.arg(format!("/proc/{}/fd/{program}", std::process::id()));
                command
            }
        }
    }

    /// How many changes are enough for a batch, and how many wait for it.
    pub fn most_changes(usual: usize) -> usize {
        std::env::var("ARCHIVE_BATCH").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
    }

    /// Stands before everything that changes the repository's disk.
    pub fn step() -> Result<()> {
        #[cfg(test)]
        super::planned::step()?;
        let Some((fault, at)) = FAULT.get_or_init(asked_for) else { return Ok(()) };
        let step = STEPS.fetch_add(1, Ordering::Relaxed);
        match fault {
            Fault::Kill if step == *at => raise(Signal::SIGKILL),
            Fault::Stop if step == *at => raise(Signal::SIGSTOP),
            // A full disk stays full.
            Fault::Fail(errno) if step >= *at => Err(*errno),
            _ => Ok(()),
        }
    }

    fn asked_for() -> Option<(Fault, u64)> {
        let text = std::env::var("ARCHIVE_FAULT").ok()?;
        let (what, at) = text.split_once(':')?;
        let fault = match what {
            "kill" => Fault::Kill,
            "stop" => Fault::Stop,
            "ENOSPC" => Fault::Fail(Errno::ENOSPC),
            "EDQUOT" => Fault::Fail(Errno::EDQUOT),
            "EIO" => Fault::Fail(Errno::EIO),
            "EROFS" => Fault::Fail(Errno::EROFS),
            _ => return None,
        };
        Some((fault, at.parse().ok()?))
    }
}
