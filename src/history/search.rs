//! Versions by name.

use super::Past;
use crate::entry::{Kind, Version};
use crate::error::Result;
use crate::exclude::Excludes;
use crate::path::{AbsPath, Name};

impl Past<'_> {
    /// Calls `each` with every version, past ones too, whose path fits a pattern in the manner of gitignore: without a
    /// slash it is for names, at any depth; with one at its beginning it is for whole paths.
    pub fn find(&self, pattern: &[u8], each: &mut dyn FnMut(&AbsPath, &Version) -> Result<()>) -> Result<()> {
        let patterns = Excludes::new(&[pattern]);
        for (id, directory) in self.index.directories_below(self.id, &AbsPath::root())? {
            let filter = patterns.within(&directory);
            let fits = |name: &Name, is_dir| filter.excludes(name.as_bytes(), is_dir);
            // Names first, for an index has them at hand; versions only of those that may fit.
            for name in self.index.names_in(id)?.iter().filter(|name| fits(name, false) || fits(name, true)) {
                let Some(path) = directory.join(name) else { continue };
                let versions = self.index.versions_at(self.id, &path)?;
                let fitting = versions.iter().filter(|version| fits(name, version.entry.kind == Kind::Dir));
                fitting.into_iter().try_for_each(|version| each(&path, version))?;
            }
        }
        Ok(())
    }
}
