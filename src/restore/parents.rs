//! What leads to a path that keeps its whole path at the destination.

use nix::errno::Errno;

use super::target::open_session;
use super::{Task, Walk, is_in_the_way};
use crate::client::{Overwrite, RestoreItem, RestoreOptions, RestoreOutcome};
use crate::entry::{Kind, unknown_directory};
use crate::error::{self, Error, Result};
use crate::path::{AbsPath, Escaped, Name};

impl Walk<'_> {
    /// Makes the directories down to `path` that are missing at the destination, with the metadata that is known of them:
    /// a file must not be open to more people than it was. Those that exist stay unchanged.
    pub(super) fn make_parents(&mut self, path: &AbsPath, directories: &mut Vec<Task>) -> Result<()> {
        // What would go into the repository is refused later, when it is known what it is.
        if path.is_root() || self.own.iter().any(|own| path.starts_with(own)) {
            return Ok(());
        }
        // Looks, and changes nothing.
        let looking = RestoreOptions { dry_run: true, overwrite: Overwrite::Never, ..self.shared.asked.clone() };
        let mut looking = open_session(self.shared.to, &looking)?;
        for (to, name) in lineage(path) {
            let item = RestoreItem { directory: to.clone(), entry: unknown_directory(name.clone()), link: None };
            match looking.offer(vec![item])?.as_slice() {
                [RestoreOutcome::Made] => self.make_parent(to, &name, directories)?,
                [RestoreOutcome::Unchanged | RestoreOutcome::Differs] => {}
                [RestoreOutcome::IsRepository | RestoreOutcome::InRepository] => return Ok(()),
                outcomes => return Err(self.not_a_directory(&to, &name, outcomes)),
            }
        }
        Ok(())
    }

    // One above the roots is not known; it is made with what is in it.
    fn make_parent(&mut self, to: AbsPath, name: &Name, directories: &mut Vec<Task>) -> Result<()> {
        let Some(path) = to.join(name) else { return Ok(()) };
        let mut found = self.past.at(&path, self.shared.options.run)?.into_iter().filter_map(|child| child.version);
        let Some(version) = found.find(|version| version.entry.kind == Kind::Dir) else { return Ok(()) };
        let task = Task { path, to, version, link: None };
        directories.extend(self.offer(vec![task])?.into_iter().map(|(task, _)| task));
        Ok(())
    }

    fn not_a_directory(&self, to: &AbsPath, name: &Name, outcomes: &[RestoreOutcome]) -> Error {
        let why = match outcomes {
            [RestoreOutcome::Failed(errno)] if !is_in_the_way(*errno) => Errno::from_raw(*errno).desc(),
            _ => "it is no directory, and symlinks are not followed",
        };
        let target = self.shared.target_path(to, name);
        Error::new(error::Kind::Failed, format_args!("can't restore below `{}`: {why}", Escaped(&target)))
            .hint("name the directory to restore into, without `--in-place`")
    }
}

// Each directory from below the root down to a path: the directory that it is in, and its name.
fn lineage(path: &AbsPath) -> Vec<(AbsPath, Name)> {
    let mut found: Vec<_> = std::iter::successors(path.split(), |(above, _)| above.split()).collect();
    found.reverse();
    found
}
