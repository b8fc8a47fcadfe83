//! Ends of a pull before it is done: a kill at any step, a disk that fails, and power that is cut.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use crate::fault::Plan;

const TREES: [&str; 3] = ["snapshot", "archive", "staging"];

/// The process was killed: nothing that it would have done at its end is done.
pub struct Killed;

impl Killed {
    /// Kills.
    pub fn now() -> ! {
        resume_unwind(Box::new(Killed))
    }

    /// Returns `None` if `work` was killed.
    pub fn catch<T>(work: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(done) => Some(done),
            Err(payload) if payload.is::<Killed>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// A copy of a repository as it was when everything was on the disk.
pub struct Synced {
    repository: PathBuf,
    copy: PathBuf,
}

impl Synced {
    /// Copies the repository now, and after each sync until the plan of this thread is replaced.
    pub fn follow(repository: &Path, copy: &Path) -> (Rc<RefCell<Synced>>, Plan) {
        let synced = Synced { repository: repository.to_owned(), copy: copy.to_owned() };
        synced.update();
        let synced = Rc::new(RefCell::new(synced));
        let follower = Rc::clone(&synced);
        let plan = Plan { on_sync: Some(Box::new(move || follower.borrow().update())), ..Plan::default() };
        (synced, plan)
    }

    fn update(&self) {
        let _ = std::fs::remove_dir_all(&self.copy);
        std::fs::create_dir(&self.copy).expect("the copy's directory can be made");
        for name in TREES {
            copy(&self.repository.join(name), &self.copy.join(name));
        }
    }

    /// Puts everything but the index back to the last sync. The index has synced its commits by itself.
    pub fn cut_power(&self) {
        for name in TREES {
            let tree = self.repository.join(name);
            let _ = std::fs::remove_dir_all(&tree);
            std::fs::rename(self.copy.join(name), &tree).expect("the copy can be moved back");
        }
    }
}

// Files keep their inodes: no file of the trees is ever written to again.
fn copy(from: &Path, to: &Path) {
    assert!(
        Command::new("cp").args(["-a", "-l", "-T"]).arg(from).arg(to).status().is_ok_and(|status| status.success())
    );
}
