//! Mount points that are remembered: is what is listed there of the file system that was mounted?

use super::super::roots::Judge;
use super::Listing;
use crate::client::list::{AnnouncedDirectory, Mounted};
use crate::entry::DirectoryId;
use crate::error::Result;

impl Listing<'_> {
    pub(super) fn judge(&self) -> Judge<'_> {
        Judge { source: self.source, remembered: self.remembered }
    }

    // Whether a file system was mounted there before. An unmounted one leaves a directory of the file system above, which is
    // empty, or holds other files: that is known when all below it was listed.
    pub(super) fn check_mount(&mut self, listed: &AnnouncedDirectory, known: Option<DirectoryId>) -> Result<bool> {
        if known.is_none_or(|id| !self.mounts.contains(&id)) {
            return Ok(false);
        }
        // Was remembered before it was known that such a file system comes and goes.
        if listed.mounted == Mounted::Passing {
            self.steps.mount();
            return Ok(true);
        }
        let is_mount = listed.mounted == Mounted::Lasting;
        // An empty disk in the place of another one, or an automount that has expired. With `one_file_system` a person wants it.
        let is_empty = listed.entries == 0 && listed.complete;
        if is_empty && !(is_mount && self.source.settings.one_file_system) {
            self.judge().refuse_empty_mount(&listed.path)?;
        }
        if is_mount {
            self.steps.mount();
        } else {
            self.steps.unmounted(&listed.path);
        }
        Ok(true)
    }
}
