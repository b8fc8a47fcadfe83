//! Roots: how they are asked for, and what the client tells of them.

use nix::errno::Errno;

use super::listing::Remembered;
use crate::client::list::{ListRequest, Root, SkipReason, Skipped};
use crate::client::protocol_violation;
use crate::entry::{Entry, Kind, Version};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::path::{AbsPath, Escaped, Name};
use crate::repository::index::Stop;
use crate::source::Source;

/// The request to list a source's roots; for all entries of every directory with `all`.
pub fn list_request(source: &Source, repository_id: &str, all: bool, names_excluded: bool) -> Result<ListRequest> {
    let settings = &source.settings;
    let markers = settings.exclude_if_present.iter().map(|name| {
        Name::new(name.as_bytes()).ok_or_else(|| {
            Error::usage(format_args!("`{}` is no file name", Escaped(name.as_bytes())))
                .hint("`exclude_if_present` takes names, not paths")
        })
    });
    Ok(ListRequest {
        roots: source.paths.clone(),
        exclude: settings.exclude.clone(),
        exclude_caches: settings.exclude_caches,
        exclude_if_present: markers.collect::<Result<_>>()?,
        one_file_system: settings.one_file_system,
        repository: repository_id.to_owned(),
        all,
        names_excluded,
    })
}

/// True when a root that the client tells of is the one that was asked for. A relative root starts at the account's home, of
/// which only the client knows.
pub fn is_what_was_asked(written: &[u8], root: &Root) -> bool {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        parts.map(<[u8]>::to_vec).collect()
    };
    match root {
        Root::Invalid => true,
        Root::Found { path, .. } | Root::Missing { path } | Root::Unreadable { path, .. } => {
            let at_home = if written == b"~" { Some(&b""[..]) } else { written.strip_prefix(b"~/") };
            let (asked, told) = (parts(at_home.unwrap_or(written)), parts(path.as_bytes()));
            if written.starts_with(b"/") { told == asked } else { told.ends_with(&asked) }
        }
    }
}

/// A root that is a file whose content the kernel makes up: there is nothing of it to store.
pub fn made_up_file(root: &Root) -> Option<Skipped> {
    match root {
        Root::Found { path, entry: Some(entry), empty: true } if entry.kind == Kind::File => {
            Some(Skipped { path: path.clone(), reason: SkipReason::KernelFileSystem })
        }
        _ => None,
    }
}

/// Decides whether a run may go on with the roots that the client has.
pub struct Judge<'a> {
    /// Whose roots they are.
    pub source: &'a Source,
    /// What was there before.
    pub remembered: &'a Remembered<'a>,
}

impl Judge<'_> {
    /// Judges every root before anything is done to any: what it is now, or an error.
    pub fn all(&self, roots: Vec<Root>) -> Result<Vec<(AbsPath, Option<Entry>)>> {
        let (mut found, mut stop, mut first) = (Vec::new(), Stop::default(), None);
        for root in roots {
            let path = match &root {
                Root::Found { path, .. } | Root::Missing { path } => Some(path.clone()),
                Root::Unreadable { .. } | Root::Invalid => None,
            };
            match (self.one(root), path) {
                (Ok(root), _) => found.push(root),
                (Err(error), Some(path)) if error.kind() == ErrorKind::Guard => {
                    stop.removed += self.count_files(&path)?;
                    stop.paths.push(path);
                    first.get_or_insert(error);
                }
                (Err(error), _) => return Err(error),
            }
        }
        let Some(error) = first else { return Ok(found) };
        let named = stop.paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>();
        let is_one = named.len() == 1;
        self.remembered.consent.note(stop);
        if is_one {
            return Err(error);
        }
        Err(self.missing(format_args!("{} are missing or empty on the client", named.join(", "))))
    }

    /// Refuses an empty directory on which a file system was mounted that held something.
    pub fn refuse_empty_mount(&self, path: &AbsPath) -> Result<()> {
        if self.remembered.consent.allows_missing(path) || !self.holds_below(path)? {
            return Ok(());
        }
        self.remembered.consent.note(Stop {
            removed: self.count_files(path)?,
            paths: vec![path.clone()],
            roots: Vec::new(),
        });
        Err(self.missing(format_args!("`{path}` was a mount point and is empty now on the client")))
    }

    fn count_files(&self, path: &AbsPath) -> Result<u64> {
        let Some((index, source)) = self.remembered.index else { return Ok(0) };
        index.count_files_below(source, path, None)
    }

    fn one(&self, root: Root) -> Result<(AbsPath, Option<Entry>)> {
        match root {
            Root::Found { path, entry, empty } => self.found(path, entry, empty),
            Root::Missing { path } if self.remembered.consent.allows_missing(&path) && self.is_held(&path)? => {
                Ok((path, None))
            }
            Root::Missing { path } => Err(self.bad_root(&path, "does not exist on the client")),
            Root::Unreadable { path, errno } => Err(self.unreadable(&path, errno)),
            Root::Invalid => {
                Err(Error::usage("a path can't be pulled").hint("write it without `..`, and at most 4095 bytes long"))
            }
        }
    }

    fn found(&self, path: AbsPath, entry: Option<Entry>, empty: bool) -> Result<(AbsPath, Option<Entry>)> {
        let name = path.split().map(|(_, name)| name);
        if entry.as_ref().map(|entry| &entry.name) != name.as_ref() {
            return Err(protocol_violation("a root has another name than asked for"));
        }
        if !self.remembered.consent.allows_missing(&path)
            && let Some(what) = self.loss(&path, entry.as_ref(), empty)?
        {
            return Err(self.missing(format_args!("`{path}` {what}")));
        }
        let is_made_up = empty && entry.as_ref().is_some_and(|entry| entry.kind == Kind::File);
        Ok((path, entry.filter(|_| !is_made_up)))
    }

    // Returns why a root looks as if its disk, or the part of one that a container shows, were missing.
    fn loss(&self, path: &AbsPath, entry: Option<&Entry>, empty: bool) -> Result<Option<&'static str>> {
        let is_dir = entry.is_none_or(|entry| entry.kind == Kind::Dir);
        if empty && is_dir && self.holds_below(path)? {
            return Ok(Some("is empty on the client, but not in the snapshot"));
        }
        // A directory that only led to another root is no old version.
        let was = self.held(path)?.map(|old| old.entry.kind);
        if !is_dir && was == Some(Kind::Dir) && self.holds_below(path)? {
            return Ok(Some("was a directory, and is none any more on the client"));
        }
        // Docker makes such a directory of a file that is not there.
        let was_file = is_dir && empty && was == Some(Kind::File);
        Ok(was_file.then_some("was a file, and is an empty directory now on the client"))
    }

    fn bad_root(&self, path: &AbsPath, what: &str) -> Error {
        match self.is_held(path) {
            Err(error) => error,
            Ok(true) => self.missing(format_args!("`{path}` {what}")),
            Ok(false) => Error::new(ErrorKind::Failed, format_args!("`{path}` {what}")).hint("check the path"),
        }
    }

    // It may be as full as ever, so that there is nothing to accept.
    fn unreadable(&self, path: &AbsPath, errno: i32) -> Error {
        let kind = match self.is_held(path) {
            Err(error) => return error,
            Ok(true) => ErrorKind::Guard,
            Ok(false) => ErrorKind::Failed,
        };
        let unchanged = if kind == ErrorKind::Guard { "nothing was changed; " } else { "" };
        let advice = match Errno::from_raw(errno) {
            Errno::EACCES | Errno::EPERM => "let the account read it, or log in to another account",
            _ => "is it mounted there?",
        };
        let cause = errno_text(errno);
        Error::new(kind, format_args!("`{path}` can't be read on the client: {cause}"))
            .hint(format_args!("{unchanged}{advice}"))
    }

    fn missing(&self, what: std::fmt::Arguments<'_>) -> Error {
        self.remembered.consent.missing(self.source, what)
    }

    fn is_held(&self, path: &AbsPath) -> Result<bool> {
        self.held(path).map(|version| version.is_some())
    }

    fn held(&self, path: &AbsPath) -> Result<Option<Version>> {
        let Some((index, source)) = self.remembered.index else { return Ok(None) };
        index.current_at(source, path)
    }

    fn holds_below(&self, path: &AbsPath) -> Result<bool> {
        let Some((index, source)) = self.remembered.index else { return Ok(false) };
        let Some((directory, _)) = index.directory(source, path)? else { return Ok(false) };
        Ok(!index.current_after(directory, None, 1)?.is_empty())
    }
}

/// What an error number of the client means.
pub fn errno_text(errno: i32) -> String {
    Errno::from_raw(errno).desc().to_owned()
}
