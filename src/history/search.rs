//! Versions by name.

use archive_helper::exclude::Excludes;

use super::Past;
use crate::entry::{Kind, Version};
use crate::error::Result;
use crate::path::AbsPath;

impl Past<'_> {
    /// Calls `each` with every version, past ones too, whose path fits a pattern in the manner of gitignore: without a
    /// slash it is for names, at any depth; with one at its beginning it is for whole paths.
    pub fn find(&self, pattern: &[u8], each: &mut dyn FnMut(&AbsPath, &Version) -> Result<()>) -> Result<()> {
        let patterns = Excludes::new(&[pattern]);
        for (id, directory) in self.index.directories_below(self.id, &AbsPath::root())? {
            let filter = patterns.within(&directory);
            let mut versions = self.index.versions_in(id)?;
            versions.retain(|version| filter.excludes(version.entry.name.as_bytes(), version.entry.kind == Kind::Dir));
            versions.sort_by(|one, other| (&one.entry.name, one.from_run).cmp(&(&other.entry.name, other.from_run)));
            for version in versions {
                if let Some(path) = directory.join(&version.entry.name) {
                    each(&path, &version)?;
                }
            }
        }
        Ok(())
    }
}
