//! Removes a source itself, once it holds no version any more.

use nix::errno::Errno;

use crate::entry::Kind;
use crate::error::{OnServer, Result};
use crate::path::{AbsPath, Escaped, Name, SourceName};
use crate::report::Report;
use crate::repository::Repository;
use crate::repository::dirs::Dir;
use crate::repository::index::{Index, SourceId};
use crate::repository::place::Tree;
use crate::repository::staging::Staging;

/// Removes a source, its runs and its directories; false when files are left in its trees that the index did not know: then
/// the source stays. The source must be locked, and nothing of it pending.
pub(super) fn remove_source(
    repository: &Repository,
    index: &mut Index,
    (id, source): (SourceId, &SourceName),
    report: &dyn Report,
) -> Result<bool> {
    // Unknown files of the snapshot were moved to the archive, and are known now.
    if index.holds_versions(id)? {
        report.warn(format_args!("`{source}` stays: files that the index did not know are in its archive now"));
        return Ok(false);
    }
    let mut is_empty = true;
    for tree in [Tree::Snapshot, Tree::Archive] {
        if !remove_tree(repository, tree, source)? {
            is_empty = false;
            report.warn(format_args!("`{}/{source}` holds what the index does not know, and stays", tree.name()));
        }
    }
    if !is_empty {
        return Ok(false);
    }
    remove_staging(repository, source)?;
    let write = index.write()?;
    write.remove_source(id)?;
    write.commit()?;
    Ok(true)
}

// The directories of a source in one tree; false when something else is in them.
fn remove_tree(repository: &Repository, tree: Tree, source: &SourceName) -> Result<bool> {
    let Some(base) = repository.tree_to_read(tree, source)? else { return Ok(true) };
    let mut is_empty = true;
    let mut waiting = vec![(AbsPath::root(), false)];
    while let Some((path, is_searched)) = waiting.pop() {
        let on_disk = [tree.name().as_bytes(), b"/", source.as_str().as_bytes(), path.as_bytes()].concat();
        let what = format!("can't remove `{}`", Escaped(on_disk.strip_suffix(b"/").unwrap_or(&on_disk)));
        if is_searched {
            let removed = match path.split() {
                Some((parent, name)) => base.open(parent.below_root()).and_then(|parent| parent.remove_dir(&name)),
                None => remove_own(repository, tree.name(), source),
            };
            match removed {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => is_empty = false,
                other => other.on_server(&what)?,
            }
            continue;
        }
        let dir = base.open(path.below_root()).on_server(&what)?;
        let is_dir = |name: &Name| dir.metadata(name).is_ok_and(|found| found.kind == Kind::Dir);
        let children: Vec<_> = dir.names().on_server(&what)?.into_iter().filter(is_dir).collect();
        waiting.push((path.clone(), true));
        waiting.extend(children.iter().filter_map(|name| Some((path.join(name)?, false))));
    }
    Ok(is_empty)
}

fn remove_staging(repository: &Repository, source: &SourceName) -> Result<()> {
    let what = format!("can't clear `staging/{source}`");
    let staging = Staging::open(repository.staging(source)?).on_server(&what)?;
    staging.clear().and_then(|()| staging.clear_partials()).on_server(&what)?;
    remove_own(repository, "staging", source).on_server(&what)
}

fn remove_own(repository: &Repository, tree: &str, source: &SourceName) -> nix::Result<()> {
    let parent: Dir = repository.base().open(tree.as_bytes())?;
    parent.remove_dir(&Name::new(source.as_str()).ok_or(Errno::EINVAL)?)
}
