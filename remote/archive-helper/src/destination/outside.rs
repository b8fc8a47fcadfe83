//! Keeps a restore out of the repository, when that is on this machine and below the destination.

use super::{Destination, Trouble};
use crate::protocol::{AbsPath, Item};
use crate::system::Errno;

impl Destination {
    /// Refuses a directory that is the repository, or is in it. Returns its path.
    pub(super) fn check_itself(&mut self, item: &Item) -> Result<AbsPath, Trouble> {
        let path = item.directory.join(&item.entry.name).ok_or(Errno::NAMETOOLONG)?;
        self.check_outside(&item.directory)?;
        match self.check_outside(&path) {
            Err(Trouble::InRepository) => Err(Trouble::IsRepository),
            checked => checked.map(|()| path),
        }
    }

    /// Refuses what is below a directory that is the repository. Those above the destination were checked when it was opened.
    pub(super) fn check_outside(&mut self, path: &AbsPath) -> Result<(), Trouble> {
        let mut unchecked = Vec::new();
        let mut next = Some(path.clone());
        while let Some(above) = next.filter(|above| !self.outside.starts_with(above)) {
            next = above.split().map(|(parent, _)| parent);
            unchecked.push(above);
        }
        for path in unchecked.into_iter().rev() {
            match self.folder(&path) {
                Ok(folder) if folder.is_repository(self.options.repository.as_bytes())? => {
                    return Err(Trouble::InRepository);
                }
                Ok(_) => self.outside = path,
                // There is nothing yet, or no directory, or one that its owner opens up before anything is made in it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
