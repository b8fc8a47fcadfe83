//! Questions to the index: what was when, where a content is, what the index holds.

use std::fs::File;
use std::io::Seek;

use jiff::Timestamp;
use nix::errno::Errno;
use serde::Serialize;

use crate::entry::{Hash, Time, Version, hash_content, hash_hex, kind_name};
use crate::error::{Error, Kind, OnServer, Result};
use crate::path::{AbsPath, Escaped, Name, SourceName};
use crate::repository::Repository;
use crate::repository::index::{Index, Located, RunRow, SourceId, Stats, Verification, attributes_text, misdated};
use crate::repository::place::{self, Copies};
use crate::time::{When, show_time};

mod children;
mod diff;
mod search;

pub use children::Child;
pub use diff::Difference;

// Names as much alike as this, of 1, are worth a hint; and so many of them.
const ALIKE: f64 = 0.8;
const MOST_HINTS: usize = 3;

/// One place that holds a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The source's name.
    pub source: String,
    /// The client's path.
    pub path: AbsPath,
    /// The plain file, relative to the repository.
    pub on_disk: Vec<u8>,
    /// BLAKE3 of the content.
    pub hash: Hash,
    /// Bytes.
    pub size: u64,
    /// The version's mtime.
    pub mtime: Time,
    /// Whether it is in the snapshot.
    pub current: bool,
}

/// One version, as `index export` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct ExportRow {
    /// The source's name.
    pub source: String,
    /// The client's path.
    #[serde(skip)]
    pub path: AbsPath,
    /// `file`, `dir`, `symlink`, `fifo`, `socket`, `char` or `block`.
    pub kind: &'static str,
    /// Bytes of a file.
    pub size: u64,
    /// Nanoseconds since 1970 UTC, or the nearest that 64 bits can hold.
    pub mtime: i64,
    /// Seconds with nine decimal places, where `mtime` is another time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtime_exact: Option<String>,
    /// Nanoseconds since 1970 UTC.
    pub ctime: i64,
    /// Permission bits, octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Target of a symlink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Extended attributes as getfattr dumps them, and where data is between holes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<String>,
    /// Number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
    /// The client's device and inode, of a file with several names there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<(u64, u64)>,
    /// BLAKE3 of a file's content, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// The run that found it.
    pub from_run: i64,
    /// The run that found it gone or replaced; null while it is current.
    pub until_run: Option<i64>,
    /// Where its plain file is, relative to the repository; several for one that is in both trees.
    pub places: Vec<String>,
    /// Among `inconsistent`, `unreadable`, `rebuilt`.
    pub flags: Vec<&'static str>,
}

/// Calls `each` with every place of the contents whose hash begins with these hexadecimal digits.
pub fn find_hash(repository: &Repository, hex_prefix: &str, each: &mut dyn FnMut(Place) -> Result<()>) -> Result<()> {
    let (from, to) = hash_range(hex_prefix).ok_or_else(|| {
        Error::usage(format_args!("`{}` is no hash", Escaped(hex_prefix.as_bytes())))
            .hint("give 4 to 64 hexadecimal digits of a BLAKE3 hash")
    })?;
    each_place(repository, &from, &to, each)
}

/// Calls `each` with every place that has the content of a path's version at the end of a run; of its newest without one.
pub fn same_as(
    repository: &Repository,
    source: &SourceName,
    (path, run): (&AbsPath, Option<i64>),
    each: &mut dyn FnMut(Place) -> Result<()>,
) -> Result<()> {
    let index = repository.known_index()?;
    let id = known(&index, source)?;
    let versions = index.versions_at(id, path)?;
    let is_meant = |version: &&Version| run.is_none_or(|run| was_there(version, run));
    let newest = versions.iter().rev().find(is_meant).ok_or_else(|| {
        Error::new(Kind::Failed, format_args!("`{source}` never had `{path}`")).hint("check the path")
    })?;
    let hash = content_hash(path, newest)?;
    each_place(repository, &hash, &hash, each)
}

/// The hash of a version's content; only files have one.
pub fn content_hash(path: &AbsPath, version: &Version) -> Result<Hash> {
    version.hash.ok_or_else(|| {
        let kind = kind_name(version.entry.kind);
        Error::new(Kind::Failed, format_args!("`{path}` is a {kind}, and only files have content")).hint("name a file")
    })
}

/// A source's runs and versions, as questions about the past need them.
pub struct Past<'a> {
    repository: &'a Repository,
    index: Index,
    source: SourceName,
    id: SourceId,
}

impl<'a> Past<'a> {
    /// Opens the past of a source.
    pub fn open(repository: &'a Repository, source: &SourceName) -> Result<Past<'a>> {
        let index = repository.known_index()?;
        let id = known(&index, source)?;
        Ok(Past { repository, index, source: source.clone(), id })
    }

    /// Its runs, newest first.
    pub fn runs(&self) -> Result<Vec<RunRow>> {
        self.index.runs(self.id)
    }

    /// How many files the source has now, and their bytes.
    pub fn current_size(&self) -> Result<(u64, u64)> {
        self.index.current_size(self.id)
    }

    /// How its last verification ended.
    pub fn verification(&self) -> Result<Option<Verification>> {
        self.index.verification(self.id)
    }

    /// How many of the plain files that the source has now a verification read that ended then, and how many there are.
    pub fn verified_share(&self, ended: Timestamp) -> Result<(u64, u64)> {
        Ok((self.index.examined_at(self.id, ended)?, self.index.plain_files(self.id)?))
    }

    /// The run whose end a moment shows: the newest that had begun by then, as far as dates can be believed at `now`. The
    /// newest of all without a moment, and for one that is not past.
    pub fn run_at(&self, when: Option<When>, now: Timestamp) -> Result<i64> {
        let runs = self.runs()?;
        let found = match when {
            None | Some(When::Now) => runs.first(),
            Some(When::Run(number)) => runs.iter().find(|run| run.id == number),
            Some(When::At(time)) if time >= now => runs.first(),
            Some(When::At(time)) => {
                let misdated = misdated(&runs, now);
                runs.iter().find(|run| run.started <= time && !misdated.contains(&run.id))
            }
        };
        found.map(|run| run.id).ok_or_else(|| match (when, runs.last()) {
            (_, None) => Error::usage(format_args!("`{}` has no run", self.source)).hint("it was never pulled"),
            (Some(When::Run(number)), _) => self.no_run(number, &runs),
            (_, Some(first)) => Error::usage(format_args!("`{}` has no run then", self.source)).hint(format_args!(
                "its first is run {}, of {}",
                first.id,
                show_time(first.started)
            )),
        })
    }

    // `runs` are in descending order.
    fn no_run(&self, number: i64, runs: &[RunRow]) -> Error {
        let ids: Vec<_> = runs.iter().rev().map(|run| run.id).collect();
        let (first, last) = (ids.first().copied().unwrap_or(0), ids.last().copied().unwrap_or(0));
        let below = ids.iter().rfind(|id| **id < number);
        let above = ids.iter().find(|id| **id > number);
        let known = match (below, above) {
            (Some(below), Some(above)) => format!("the nearest are {below} and {above}"),
            _ if first == last => format!("its only run is {first}"),
            _ if last - first + 1 == ids.len() as i64 => format!("its runs are {first} to {last}"),
            _ => format!("its first run is {first}, its last {last}"),
        };
        let is_year = (1970..=2999).contains(&number);
        let year = if is_year { format!("; a time is written as in `{number}-12-31`") } else { String::new() };
        Error::usage(format_args!("`{}` has no run {number}", self.source)).hint(format_args!("{known}{year}"))
    }

    /// Every version of a path, oldest first.
    pub fn versions(&self, path: &AbsPath) -> Result<Vec<Version>> {
        let versions = self.index.versions_at(self.id, path)?;
        if versions.is_empty() { Err(self.unknown(path, None)) } else { Ok(versions) }
    }

    /// The version of a path as it was at the end of a run.
    pub fn version(&self, path: &AbsPath, run: i64) -> Result<Version> {
        let versions = self.index.versions_at(self.id, path)?;
        let found = versions.into_iter().find(|version| was_there(version, run));
        found.ok_or_else(|| self.unknown(path, Some(run)))
    }

    /// The version whose plain file is at a path of the archive, and the path that it had on the client.
    pub fn archived(&self, path: &AbsPath) -> Result<Option<(AbsPath, Version)>> {
        let Some((parent, name)) = path.split() else { return Ok(None) };
        let Some((directory, _)) = self.index.directory(self.id, &parent)? else { return Ok(None) };
        let versions = self.index.versions_in(directory)?;
        let found = versions.into_iter().find(|version| version.archive_name.as_ref() == Some(&name));
        Ok(found.and_then(|version| Some((parent.join(&version.entry.name)?, version))))
    }

    /// A plain file that holds a version's content, as reading it just told: its own, or else any other.
    pub fn content(&self, path: &AbsPath, version: &Version) -> Result<File> {
        let hash = content_hash(path, version)?;
        let mut found = false;
        let mut is_good = |file: &mut File| {
            found = true;
            let read = hash_content(&mut *file, blake3::Hasher::new());
            read.is_ok_and(|read| read == hash) && file.rewind().is_ok()
        };
        let directory = path.split().map(|(directory, _)| directory).unwrap_or_else(AbsPath::root);
        let own = Located { source: self.source.clone(), directory, version: version.clone() };
        let mut denied = None;
        for place in place::Place::all_of(&own) {
            match place.open(self.repository) {
                Ok(mut file) => {
                    if is_good(&mut file) {
                        return Ok(file);
                    }
                }
                Err(errno @ (Errno::EACCES | Errno::EPERM)) => denied = Some((place.on_disk(), errno)),
                Err(_) => {}
            }
        }
        for copy in self.copies(hash) {
            let mut file = copy?;
            if is_good(&mut file) {
                return Ok(file);
            }
        }
        if let Some((on_disk, errno)) = denied {
            return Err(errno).on_server(format_args!("can't read `{}`", Escaped(&on_disk)));
        }
        Err(if found {
            Error::new(Kind::Failed, format_args!("every copy of the content of `{path}` is corrupt"))
        } else {
            Error::new(Kind::Failed, format_args!("no place holds the content of `{path}` any more"))
        }
        .hint("`archive verify` lists what else is corrupt"))
    }

    /// The plain files that should hold a content, each inode once.
    pub fn copies(&self, hash: Hash) -> impl Iterator<Item = Result<File>> + '_ {
        Copies::of(self.repository, &self.index, hash).map(|copy| copy.map(|(_, file)| file))
    }

    // `run` is the one that was asked for.
    fn unknown(&self, path: &AbsPath, run: Option<i64>) -> Error {
        let versions = self.index.versions_at(self.id, path).unwrap_or_default();
        let is_newest = |run| self.runs().is_ok_and(|runs| runs.first().is_none_or(|newest| newest.id == run));
        let source = &self.source;
        let what = match run {
            Some(run) if !is_newest(run) => format!("`{source}` had no `{path}` in run {run}"),
            Some(_) if !versions.is_empty() => format!("`{source}` no longer has `{path}`"),
            _ => format!("`{source}` had no `{path}`"),
        };
        let error = Error::new(Kind::Failed, what);
        if let Some(nearest) = versions.iter().min_by_key(|version| distance(version, run.unwrap_or(i64::MAX))) {
            let until = nearest.until_run.map_or("now".to_owned(), |until| format!("before run {until}"));
            let from = nearest.from_run;
            return error.hint(format_args!(
                "the nearest that it has is `{path}` from run {from} until {until}, as of `--at {from}`"
            ));
        }
        match self.alike(path, run).unwrap_or_default().as_slice() {
            [] if self.index.knows_below(self.id, path).unwrap_or_default() => error.hint(format_args!(
                "it was never pulled itself; `archive find '{}/**'` lists what is below it",
                if path.is_root() { String::new() } else { path.to_string() }
            )),
            [] => error.hint("check the path; `archive find` looks for names"),
            nearest => error.hint(format_args!("the nearest that it has is `{}`", nearest.join("`, `"))),
        }
    }

    // Paths that a person may have meant, of a run or else of any time: names like this one in the lowest known directory above
    // it, or else that directory.
    fn alike(&self, path: &AbsPath, run: Option<i64>) -> Result<Vec<String>> {
        if self.index.knows_below(self.id, path)? {
            return Ok(Vec::new());
        }
        let Some((parent, name)) = path.split() else { return Ok(Vec::new()) };
        let Some((directory, _)) = self.index.directory(self.id, &parent)? else { return self.alike(&parent, run) };
        let wanted = name.to_string();
        let mut versions = self.index.versions_in(directory)?;
        versions.retain(|version| run.is_none_or(|run| was_there(version, run)));
        if versions.is_empty() {
            return self.alike(&parent, run);
        }
        let mut names: Vec<Name> = versions.into_iter().map(|version| version.entry.name).collect();
        names.sort();
        names.dedup();
        let likeness = |name: &Name| strsim::jaro_winkler(&wanted, &name.to_string());
        let mut alike: Vec<_> =
            names.iter().map(|name| (likeness(name), name)).filter(|(much, _)| *much > ALIKE).collect();
        alike.sort_by(|one, other| other.0.total_cmp(&one.0));
        let alike: Vec<_> = alike.iter().take(MOST_HINTS).filter_map(|(_, name)| parent.join(name)).collect();
        Ok(if alike.is_empty() { vec![parent.to_string()] } else { alike.iter().map(AbsPath::to_string).collect() })
    }
}

/// True when a version was current at the end of a run.
fn was_there(version: &Version, run: i64) -> bool {
    version.from_run <= run && version.until_run.is_none_or(|until| until > run)
}

// Counts the runs between one and those that show a version.
fn distance(version: &Version, run: i64) -> u64 {
    let last = version.until_run.map_or(i64::MAX, |until| until - 1);
    run.abs_diff(run.clamp(version.from_run, last.max(version.from_run)))
}

fn known(index: &Index, source: &SourceName) -> Result<SourceId> {
    index.source_id(source)?.ok_or_else(|| unknown_source(index, source.as_str()))
}

/// The error for a name that is no source's in the repository.
pub fn unknown_source(index: &Index, name: &str) -> Error {
    let error = Error::usage(format_args!("there is no source `{}` in the repository", Escaped(name.as_bytes())));
    match index.source_names() {
        Ok(known) if known.is_empty() => error.hint("it holds no source yet: `archive pull` adds one"),
        Ok(known) => error.hint(format_args!("it has `{}`", known.join("`, `"))),
        Err(_) => error,
    }
}

/// Calls `each` with every version that the index holds.
pub fn export(repository: &Repository, each: &mut dyn FnMut(ExportRow) -> Result<()>) -> Result<()> {
    repository.known_index()?.each_version(&mut |located| match export_row(&located) {
        Some(row) => each(row),
        None => Ok(()),
    })
}

/// Totals over the whole repository.
pub fn stats(repository: &Repository) -> Result<Stats> {
    repository.known_index()?.stats()
}

fn each_place(
    repository: &Repository,
    from: &Hash,
    to: &Hash,
    each: &mut dyn FnMut(Place) -> Result<()>,
) -> Result<()> {
    repository.known_index()?.each_with_hash(from, to, &mut |located| {
        for place in place::Place::all_of(&located) {
            let version = &located.version;
            let (Some(path), Some(hash)) = (located.directory.join(&version.entry.name), version.hash) else {
                continue;
            };
            each(Place {
                source: located.source.to_string(),
                path,
                on_disk: place.on_disk(),
                hash,
                size: version.entry.size,
                mtime: version.entry.mtime,
                current: place.tree == place::Tree::Snapshot,
            })?;
        }
        Ok(())
    })
}

// The lowest and the highest hash that begin with these digits.
fn hash_range(hex: &str) -> Option<(Hash, Hash)> {
    if !(4..=64).contains(&hex.len()) {
        return None;
    }
    let padded = |fill: &str| blake3::Hash::from_hex(format!("{hex}{}", fill.repeat(64 - hex.len()))).ok();
    Some((*padded("0")?.as_bytes(), *padded("f")?.as_bytes()))
}

fn export_row(located: &Located) -> Option<ExportRow> {
    use crate::entry::flags::{INCONSISTENT, REBUILT, UNREADABLE};
    let version = &located.version;
    let entry = &version.entry;
    let words = [(INCONSISTENT, "inconsistent"), (UNREADABLE, "unreadable"), (REBUILT, "rebuilt")];
    Some(ExportRow {
        source: located.source.to_string(),
        path: located.directory.join(&entry.name)?,
        kind: kind_name(entry.kind),
        size: entry.size,
        mtime: entry.mtime.clamped(),
        mtime_exact: entry.mtime.is_far().then(|| entry.mtime.to_string()),
        ctime: entry.ctime,
        mode: format!("{:04o}", entry.mode),
        uid: entry.uid,
        gid: entry.gid,
        target: (!entry.target.is_empty()).then(|| Escaped(&entry.target).to_string()),
        attributes: entry.attributes.as_deref().map(attributes_text),
        device: (entry.device != 0).then_some(entry.device),
        inode: entry.inode.map(|inode| (inode.device, inode.number)),
        hash: version.hash.as_ref().map(hash_hex),
        from_run: version.from_run,
        until_run: version.until_run,
        places: place::Place::all_of(located).iter().map(|place| Escaped(&place.on_disk()).to_string()).collect(),
        flags: words.iter().filter(|(flag, _)| version.has(*flag)).map(|(_, word)| *word).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_a_hash_covers_a_range() {
        let (from, to) = hash_range("abcd").unwrap();
        assert_eq!((from[0], from[1], from[2], from[31]), (0xab, 0xcd, 0, 0));
        assert_eq!((to[0], to[1], to[2], to[31]), (0xab, 0xcd, 0xff, 0xff));
        assert!(hash_range("abc").is_none());
        assert!(hash_range("wxyz").is_none());
    }
}
