//! How a fake client restores: into its machine's tree.

use std::cmp::Ordering;
use std::sync::Arc;

use nix::errno::Errno;

use super::machine::{Node, State};
use super::{Call, FakeClient};
use crate::client::{Overwrite, RestoreItem, RestoreOptions, RestoreOutcome, RestoreRefused, RestoreSession};
use crate::entry::{Entry, Kind};
use crate::error::Result;
use crate::path::AbsPath;

/// A session of a restore.
pub(super) struct Session<'a> {
    client: &'a FakeClient,
    options: RestoreOptions,
    destination: AbsPath,
    // The file that is being filled.
    filling: Option<(RestoreItem, Vec<u8>)>,
    filled: Vec<RestoreOutcome>,
}

impl<'a> Session<'a> {
    pub(super) fn open(
        client: &'a FakeClient,
        options: &RestoreOptions,
    ) -> std::result::Result<Session<'a>, RestoreRefused> {
        client.event(Call::Restore, 0)?;
        let written = &options.destination;
        let state = client.state();
        let absolute =
            if written.starts_with(b"/") { written.clone() } else { [state.home.as_bytes(), b"/", written].concat() };
        let trimmed: Vec<u8> = absolute.strip_suffix(b"/").unwrap_or(&absolute).to_vec();
        let destination = if trimmed.is_empty() { Some(AbsPath::root()) } else { AbsPath::new(trimmed) };
        let destination = destination.ok_or(RestoreRefused::Destination(Errno::EINVAL as i32))?;
        if state.node(&destination).is_some_and(|node| node.entry.kind != Kind::Dir) {
            return Err(RestoreRefused::Destination(Errno::ENOTDIR as i32));
        }
        Ok(Session { client, options: options.clone(), destination, filling: None, filled: Vec::new() })
    }

    // A path below the destination.
    fn place(&self, path: &AbsPath) -> Option<AbsPath> {
        if path.is_root() {
            return Some(self.destination.clone());
        }
        let above = if self.destination.is_root() { b"" } else { self.destination.as_bytes() };
        AbsPath::new([above, path.as_bytes()].concat())
    }

    fn offer_one(&self, item: &RestoreItem) -> RestoreOutcome {
        let Some(directory) = self.place(&item.directory) else {
            return RestoreOutcome::Failed(Errno::ENAMETOOLONG as i32);
        };
        let Some(path) = directory.join(&item.entry.name) else {
            return RestoreOutcome::Failed(Errno::ENAMETOOLONG as i32);
        };
        let mut state = self.client.state();
        let link = item.link.as_ref().and_then(|link| state.node(&self.place(link)?).cloned());
        if let Some(present) = state.node(&path)
            && let Some(outcome) = self.keep(&state, &path, present, item, link.as_ref())
        {
            return outcome;
        }
        if self.options.dry_run {
            return RestoreOutcome::Made;
        }
        match (&item.link, item.entry.kind) {
            (Some(first), _) => {
                let first = self.place(first);
                if !first.is_some_and(|first| state.link(&first, &directory, item.entry.name.clone())) {
                    return RestoreOutcome::Failed(Errno::ENOENT as i32);
                }
            }
            (None, Kind::File) => return RestoreOutcome::ContentWanted,
            (None, _) => {
                let node = state.new_node(self.owned(&item.entry), Arc::from([]));
                state.put(&directory, node);
            }
        }
        RestoreOutcome::Made
    }

    // The outcome for what stays at a path; `None` if it is replaced.
    fn keep(
        &self,
        state: &State,
        path: &AbsPath,
        present: &Node,
        item: &RestoreItem,
        link: Option<&Node>,
    ) -> Option<RestoreOutcome> {
        let wanted = &item.entry;
        let is_same_kind = present.entry.kind == wanted.kind;
        let is_link = link.is_some_and(|link| link.inode == present.inode);
        if is_link || is_same_kind && self.is_alike(&present.entry, wanted) && item.link.is_none() {
            return Some(RestoreOutcome::Unchanged);
        }
        let is_older = present.entry.mtime.cmp(&wanted.mtime) == Ordering::Less;
        let replaces = match self.options.overwrite {
            Overwrite::Refuse | Overwrite::Never => false,
            Overwrite::Older => is_older,
            Overwrite::Always => true,
        };
        let is_directory = present.entry.kind == Kind::Dir;
        match (is_directory && is_same_kind, replaces) {
            (true, true) => Some(RestoreOutcome::Made),
            (true, false) => Some(RestoreOutcome::Differs),
            (false, true) if state.directories.get(path).is_some_and(|below| !below.is_empty()) => {
                Some(RestoreOutcome::NotEmpty)
            }
            (false, true) => None,
            (false, false) if self.options.overwrite == Overwrite::Refuse => Some(RestoreOutcome::Exists),
            (false, false) => Some(RestoreOutcome::Left),
        }
    }

    fn is_alike(&self, present: &Entry, wanted: &Entry) -> bool {
        let owner = !self.options.owners || (present.uid, present.gid) == (wanted.uid, wanted.gid);
        let metadata = present.mode == wanted.mode || wanted.kind == Kind::Symlink;
        let content = match wanted.kind {
            Kind::File => present.size == wanted.size && present.mtime == wanted.mtime,
            Kind::Symlink => present.target == wanted.target,
            _ => present.device == wanted.device,
        };
        owner && metadata && content && self.options.overwrite != Overwrite::Always
    }

    // Everything belongs to root, unless owners are restored.
    fn owned(&self, entry: &Entry) -> Entry {
        let (uid, gid) = if self.options.owners { (entry.uid, entry.gid) } else { (0, 0) };
        Entry { uid, gid, inode: None, ..entry.clone() }
    }

    fn finish_one(&self, item: &RestoreItem) -> RestoreOutcome {
        let path = self.place(&item.directory).and_then(|directory| directory.join(&item.entry.name));
        let entry = self.owned(&item.entry);
        let is_present = path.is_some_and(|path| self.client.machine.edit(&path, |node| node.entry = entry));
        if is_present || self.options.dry_run {
            RestoreOutcome::Made
        } else {
            RestoreOutcome::Failed(Errno::ENOENT as i32)
        }
    }

    fn event(&self, bytes: usize) -> Result<()> {
        self.client.event(Call::Restore, bytes)
    }
}

impl RestoreSession for Session<'_> {
    fn offer(&mut self, items: Vec<RestoreItem>) -> Result<Vec<RestoreOutcome>> {
        items.iter().map(|item| self.event(0).map(|()| self.offer_one(item))).collect()
    }

    fn finish(&mut self, directories: Vec<RestoreItem>) -> Result<Vec<RestoreOutcome>> {
        directories.iter().map(|item| self.event(0).map(|()| self.finish_one(item))).collect()
    }

    fn begin(&mut self, item: RestoreItem) -> Result<()> {
        self.event(0)?;
        self.filling = Some((item, Vec::new()));
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.event(bytes.len())?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some((_, content)) = &mut self.filling {
            let end = offset.saturating_add(bytes.len());
            content.resize(content.len().max(end), 0);
            content[offset..end].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.event(0)?;
        self.filling.iter_mut().for_each(|(_, content)| content.clear());
        Ok(())
    }

    fn end(&mut self, keep: bool) -> Result<()> {
        self.event(0)?;
        let outcome = match self.filling.take() {
            Some((item, mut content)) if keep => {
                content.resize(usize::try_from(item.entry.size).unwrap_or(usize::MAX), 0);
                let entry = self.owned(&item.entry);
                match self.place(&item.directory) {
                    Some(directory) => {
                        self.client.machine.put(&directory, entry, content);
                        RestoreOutcome::Made
                    }
                    None => RestoreOutcome::Failed(Errno::ENAMETOOLONG as i32),
                }
            }
            Some(_) => RestoreOutcome::Failed(Errno::ECANCELED as i32),
            None => RestoreOutcome::Failed(Errno::EINVAL as i32),
        };
        self.filled.push(outcome);
        Ok(())
    }

    fn filled(&mut self) -> Result<Vec<RestoreOutcome>> {
        Ok(std::mem::take(&mut self.filled))
    }
}
