//! Mount points that are remembered: is what is listed there of the file system that was mounted?

use archive_helper::protocol::Announced;

use super::super::Directory;
use super::super::roots::Judge;
use super::Listing;
use crate::entry::DirectoryId;
use crate::error::Result;
use crate::plan::Step;

/// How many of the entries that are remembered of a directory are listed again, and how many are not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Remaining {
    pub(super) present: u64,
    pub(super) gone: u64,
}

impl Remaining {
    pub(super) fn count(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::New { .. } => {}
                Step::Removed { .. } => self.gone += 1,
                _ => self.present += 1,
            }
        }
    }
}

impl Listing<'_> {
    pub(super) fn judge(&self) -> Judge<'_> {
        Judge { source: self.source, remembered: self.remembered }
    }

    // Whether a file system was mounted there before, and the count of what remains if none is now. An unmounted one leaves a
    // directory of the file system above, which is empty, or holds little of what was there: that is known when it was listed.
    pub(super) fn check_mount(
        &mut self,
        announced: &Announced,
        known: Option<DirectoryId>,
    ) -> Result<(bool, Option<Remaining>)> {
        if known.is_none_or(|id| !self.mounts.contains(&id)) {
            return Ok((false, None));
        }
        // An empty disk in the place of another one, or an automount that has expired. With `one_file_system` a person wants it.
        let is_empty = announced.entries == 0 && announced.complete;
        if is_empty && !(announced.border && self.source.settings.one_file_system) {
            self.judge().unmounted(&announced.path, "is empty")?;
        }
        if announced.border {
            self.steps.mount();
            return Ok((true, None));
        }
        Ok((true, Some(Remaining::default())))
    }

    // Refuses what is below a mount point when more entries are gone with the file system than are listed again.
    pub(super) fn check_unmounted(&mut self, directory: &Directory, remaining: Option<Remaining>) -> Result<()> {
        let Some(Remaining { present, gone }) = remaining else { return Ok(()) };
        if directory.listed_whole && present < gone {
            self.judge().unmounted(&directory.path, "holds other files")?;
        }
        self.steps.mount();
        Ok(())
    }
}
