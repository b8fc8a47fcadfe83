//! An independent checker of a repository at rest: the invariants of archive-tree(5), with none of the program's code.
//!
//! Reads a copy of the index and both trees, each inode once. Everything here is written a second time on purpose, so
//! that a mistake in the program is not repeated.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row};

const FILE: i64 = 0;
const DIR: i64 = 1;
const SYMLINK: i64 = 2;

const REBUILT: i64 = 4;

const TREES: [&str; 2] = ["snapshot", "archive"];

/// A path in the repository: tree, source and the rest, joined by slashes.
type Place = Vec<u8>;

/// A row of `version`.
#[derive(Clone, Debug)]
struct Version {
    id: i64,
    directory: i64,
    name: Vec<u8>,
    kind: i64,
    size: i64,
    mtime: i64,
    target: Option<Vec<u8>>,
    hash: Option<Vec<u8>>,
    from_run: i64,
    until_run: Option<i64>,
    archive_name: Option<Vec<u8>>,
    flags: i64,
    relies_on: Option<i64>,
}

/// A row of `directory`, with the name of its source.
struct Directory {
    source: i64,
    source_name: Vec<u8>,
    path: Vec<u8>,
    // Its listing counts until something is known to have changed.
    has_fingerprint: bool,
}

/// A row of `inode`.
struct Recorded {
    size: i64,
    mtime: i64,
    ctime: i64,
    hash: Vec<u8>,
}

/// The rows of an index.
struct Index {
    sources: BTreeSet<Vec<u8>>,
    runs: Vec<(i64, i64)>,
    directories: BTreeMap<i64, Directory>,
    versions: BTreeMap<i64, Version>,
    inodes: HashMap<i64, Recorded>,
    findings: Vec<String>,
}

/// Something on the disk.
struct Found {
    kind: i64,
    size: i64,
    mtime: i64,
    ctime: i64,
    inode: u64,
    target: Vec<u8>,
    hash: Option<Vec<u8>>,
}

/// Compares a repository at rest with its index; returns what is wrong, one line each, or nothing.
pub fn check(repo: &Path) -> Vec<String> {
    let index = match Index::read(repo) {
        Ok(index) => index,
        Err(error) => return vec![format!("the index can't be read: {error}")],
    };
    let disk = match read_trees(repo) {
        Ok(disk) => disk,
        Err(error) => return vec![format!("the trees can't be read: {error}")],
    };
    let mut checking =
        Checking { findings: index.findings.clone(), index: &index, disk: &disk, claims: BTreeMap::new() };
    checking.staging(repo);
    checking.claims();
    checking.plain_files();
    checking.references();
    checking.unknown();
    checking.inodes();
    checking.directories();
    checking.spans();
    checking.runs();
    checking.findings
}

/// The path below `archive/SOURCE` of a client's directory.
pub fn archive_directory(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
    parts.map(archive_component).collect::<Vec<_>>().join(&b'/')
}

fn archive_component(name: &[u8]) -> Vec<u8> {
    let tildes = name.iter().rev().take_while(|&&byte| byte == b'~').count();
    let looks_stamped = ends_in_stamp(&name[..name.len() - tildes]);
    if !looks_stamped && !looks_shortened(name) {
        return name.to_vec();
    }
    if name.len() < 255 {
        return [name, b"~"].concat();
    }
    let hash = blake3::hash(name).to_hex();
    [&name[..255 - 34], b"~", &hash.as_bytes()[..32], b"~"].concat()
}

// As in `.20261123T125400Z` or `.20261123T125400Z-2`.
fn ends_in_stamp(name: &[u8]) -> bool {
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let numbered = digits > 0 && name[..name.len() - digits].ends_with(b"-");
    let stamped = if numbered { &name[..name.len() - digits - 1] } else { name };
    let Some(stamp) = stamped.len().checked_sub(17).map(|at| &stamped[at..]) else { return false };
    stamp.iter().zip(b".00000000T000000Z").all(|(byte, like)| match like {
        b'0' => byte.is_ascii_digit(),
        other => byte == other,
    })
}

fn looks_shortened(name: &[u8]) -> bool {
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.len() == 255 && name[221] == b'~' && name[254] == b'~' && name[222..254].iter().all(is_hex)
}

impl Index {
    fn read(repo: &Path) -> Result<Index, String> {
        let (_copy, connection) = open_copy(repo)?;
        Index::of(&connection).map_err(|error| error.to_string())
    }

    fn of(connection: &Connection) -> rusqlite::Result<Index> {
        let mut findings = Vec::new();
        let format: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if format != 6 {
            findings.push(format!("the index has format {format}"));
        }
        for text in all(connection, "PRAGMA integrity_check", |row| row.get::<_, String>(0))? {
            if text != "ok" {
                findings.push(format!("SQLite finds: {text}"));
            }
        }
        for (table, row) in all(connection, "PRAGMA foreign_key_check", |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (table, row): (String, Option<i64>) = (table, row);
            findings.push(format!("row {row:?} of `{table}` refers to a row that is not there"));
        }
        for source in all(connection, "SELECT source FROM pending", |row| row.get::<_, i64>(0))? {
            findings.push(format!("a batch of source {source} is pending"));
        }
        let names: Vec<(i64, String)> =
            all(connection, "SELECT id, name FROM source", |row| Ok((row.get(0)?, row.get(1)?)))?;
        let names: BTreeMap<_, _> = names.into_iter().map(|(id, name)| (id, name.into_bytes())).collect();
        let directories = all(connection, "SELECT id, source, path, fingerprint IS NOT NULL FROM directory", |row| {
            let source: i64 = row.get(1)?;
            let source_name = names.get(&source).cloned().unwrap_or_default();
            let (path, has_fingerprint) = (row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, Directory { source, source_name, path, has_fingerprint }))
        })?;
        let sql = "SELECT id, directory, name, kind, size, mtime, target, hash, from_run, until_run, archive_name, flags, \
                   relies_on FROM version";
        let versions = all(connection, sql, Version::of)?.into_iter().map(|version| (version.id, version)).collect();
        let inodes = all(connection, "SELECT number, size, mtime, ctime, hash FROM inode", |row| {
            let recorded = Recorded { size: row.get(1)?, mtime: row.get(2)?, ctime: row.get(3)?, hash: row.get(4)? };
            Ok((row.get(0)?, recorded))
        })?;
        Ok(Index {
            sources: names.into_values().collect(),
            runs: all(connection, "SELECT id, source FROM run ORDER BY id", |row| Ok((row.get(0)?, row.get(1)?)))?,
            directories: directories.into_iter().collect(),
            versions,
            inodes: inodes.into_iter().collect(),
            findings,
        })
    }
}

impl Version {
    fn of(row: &Row<'_>) -> rusqlite::Result<Version> {
        Ok(Version {
            id: row.get(0)?,
            directory: row.get(1)?,
            name: row.get(2)?,
            kind: row.get(3)?,
            size: row.get(4)?,
            mtime: row.get(5)?,
            target: row.get(6)?,
            hash: row.get(7)?,
            from_run: row.get(8)?,
            until_run: row.get(9)?,
            archive_name: row.get(10)?,
            flags: row.get(11)?,
            relies_on: row.get(12)?,
        })
    }

    fn is_plain(&self) -> bool {
        matches!(self.kind, FILE | SYMLINK)
    }

    // The run after the last one that shows it.
    fn end(&self) -> i64 {
        self.until_run.unwrap_or(i64::MAX)
    }

    fn has_own_file(&self) -> bool {
        self.until_run.is_none() || self.archive_name.is_some()
    }
}

// A copy, so that no log and no lock of ours is left beside the index.
fn open_copy(repo: &Path) -> Result<(tempfile::TempDir, Connection), String> {
    let open = || -> std::io::Result<(tempfile::TempDir, Connection)> {
        let copy = tempfile::tempdir_in(repo.parent().unwrap_or(repo))?;
        for name in ["index.sqlite", "index.sqlite-wal"] {
            if repo.join(name).exists() {
                fs::copy(repo.join(name), copy.path().join(name))?;
            }
        }
        let connection = Connection::open(copy.path().join("index.sqlite")).map_err(std::io::Error::other)?;
        Ok((copy, connection))
    };
    open().map_err(|error| error.to_string())
}

fn all<T>(
    connection: &Connection,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare(sql)?.query_map([], read)?.collect()
}

fn read_trees(repo: &Path) -> std::io::Result<BTreeMap<Place, Found>> {
    let mut disk = BTreeMap::new();
    let mut hashes = HashMap::new();
    let mut waiting: Vec<PathBuf> = TREES.map(PathBuf::from).to_vec();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(repo.join(&directory))? {
            let place = directory.join(entry?.file_name());
            let found = look(&repo.join(&place), &mut hashes)?;
            if found.kind == DIR {
                waiting.push(place.clone());
            }
            disk.insert(place.into_os_string().into_encoded_bytes(), found);
        }
    }
    Ok(disk)
}

fn look(path: &Path, hashes: &mut HashMap<(u64, u64), Vec<u8>>) -> std::io::Result<Found> {
    let metadata = fs::symlink_metadata(path)?;
    let nanoseconds = |seconds: i64, rest: i64| seconds * 1_000_000_000 + rest;
    let mut found = Found {
        kind: -1,
        size: metadata.size() as i64,
        mtime: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        ctime: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
        target: Vec::new(),
        hash: None,
    };
    if metadata.is_dir() {
        found.kind = DIR;
    } else if metadata.is_symlink() {
        found.kind = SYMLINK;
        found.target = fs::read_link(path)?.into_os_string().into_encoded_bytes();
    } else if metadata.is_file() {
        found.kind = FILE;
        let number = (metadata.dev(), metadata.ino());
        if let Some(known) = hashes.get(&number) {
            found.hash = Some(known.clone());
        } else {
            let hash = blake3::hash(&fs::read(path)?).as_bytes().to_vec();
            hashes.insert(number, hash.clone());
            found.hash = Some(hash);
        }
    }
    Ok(found)
}

/// One comparison under way.
struct Checking<'a> {
    index: &'a Index,
    disk: &'a BTreeMap<Place, Found>,
    // The version that each place belongs to.
    claims: BTreeMap<Place, i64>,
    findings: Vec<String>,
}

impl Checking<'_> {
    fn find(&mut self, text: String) {
        self.findings.push(text);
    }

    // Only parts of large files may stay there.
    fn staging(&mut self, repo: &Path) {
        let Ok(sources) = fs::read_dir(repo.join("staging")) else { return };
        // A probe of the file system that was killed is removed a minute later.
        let is_probe = |name: &std::ffi::OsStr| name.as_bytes().starts_with(b".probe-");
        for source in sources.flatten().filter(|source| !is_probe(&source.file_name())) {
            for entry in fs::read_dir(source.path()).into_iter().flatten().flatten() {
                if !entry.file_name().as_bytes().starts_with(b"partial-") {
                    self.find(format!("`{}` is left in staging", entry.path().display()));
                }
            }
        }
    }

    fn snapshot_place(&self, version: &Version) -> Option<Place> {
        let directory = self.index.directories.get(&version.directory)?;
        let below = directory.path.strip_prefix(b"/").unwrap_or(&directory.path);
        Some(join(&[b"snapshot", &directory.source_name, below, &version.name]))
    }

    fn archive_place(&self, version: &Version) -> Option<Place> {
        let directory = self.index.directories.get(&version.directory)?;
        let name = version.archive_name.as_ref()?;
        Some(join(&[b"archive", &directory.source_name, &archive_directory(&directory.path), name]))
    }

    // 5: no two rows claim one name.
    fn claims(&mut self) {
        for version in self.index.versions.values() {
            let is_on_disk = version.until_run.is_none() && matches!(version.kind, FILE | DIR | SYMLINK);
            let snapshot = self.snapshot_place(version).filter(|_| is_on_disk);
            for place in [snapshot, self.archive_place(version)].into_iter().flatten() {
                if let Some(other) = self.claims.insert(place.clone(), version.id) {
                    self.find(format!("versions {other} and {} both claim `{}`", version.id, show(&place)));
                }
            }
        }
        let mut mapped: BTreeMap<(i64, Vec<u8>), &[u8]> = BTreeMap::new();
        let mut shared = Vec::new();
        for directory in self.index.directories.values() {
            let key = (directory.source, archive_directory(&directory.path));
            if let Some(other) = mapped.insert(key, &directory.path) {
                shared.push(format!(
                    "`{}` and `{}` share a directory of the archive",
                    show(other),
                    show(&directory.path)
                ));
            }
        }
        self.findings.extend(shared);
    }

    // 1, 2 and 3: each version has the plain files that it should, and they have its content.
    fn plain_files(&mut self) {
        for version in self.index.versions.values() {
            let is_on_disk = matches!(version.kind, FILE | DIR | SYMLINK);
            if version.kind == FILE && version.hash.as_ref().is_none_or(|hash| hash.len() != 32) {
                self.find(format!("version {} ({}) has no hash", version.id, self.path(version)));
            }
            if version.until_run.is_none()
                && is_on_disk
                && let Some(place) = self.snapshot_place(version)
            {
                self.content(version, &place);
            }
            if let Some(place) = self.archive_place(version) {
                self.content(version, &place);
            }
            if version.archive_name.is_some() && !version.is_plain() {
                self.find(format!("version {} ({}) is in the archive, but no file", version.id, self.path(version)));
            }
            let is_past = version.until_run.is_some() && version.is_plain();
            if is_past && version.archive_name.is_none() && version.relies_on.is_none() && self.is_shown(version) {
                self.find(format!("past version {} ({}) has no plain file", version.id, self.path(version)));
            }
        }
    }

    fn content(&mut self, version: &Version, place: &Place) {
        if let Err(why) = self.holds(version, place) {
            self.find(format!("version {} at `{}` {why}", version.id, show(place)));
        }
    }

    fn holds(&self, version: &Version, place: &Place) -> Result<(), String> {
        let Some(found) = self.disk.get(place) else { return Err("is missing".into()) };
        if found.kind != version.kind {
            return Err(format!("is of kind {} instead of {}", found.kind, version.kind));
        }
        if version.kind == FILE && found.hash != version.hash {
            let what = if found.size == version.size { "has other bytes" } else { "has another size" };
            return Err(what.into());
        }
        if version.kind == FILE && found.size != version.size {
            return Err("has the content, but the index another size".into());
        }
        if version.kind == SYMLINK && Some(&found.target) != version.target.as_ref() {
            return Err("leads elsewhere".into());
        }
        Ok(())
    }

    // 4: a version relies on one that has its content, under its name, and a file of its own.
    fn references(&mut self) {
        for version in self.index.versions.values() {
            let Some(relied) = version.relies_on else { continue };
            let shown = format!("version {} ({}) relies on {relied}", version.id, self.path(version));
            if !version.is_plain() || version.has_own_file() {
                self.find(format!("{shown}, but needs nothing to rely on"));
            }
            let Some(other) = self.index.versions.get(&relied) else {
                self.find(format!("{shown}, which is not there"));
                continue;
            };
            if (other.directory, &other.name) != (version.directory, &version.name) {
                self.find(format!("{shown}, which is another name"));
            }
            if !other.has_own_file() || other.relies_on.is_some() {
                self.find(format!("{shown}, which has no file of its own"));
            }
            let same = |version: &Version| (version.kind, version.mtime, version.hash.clone(), version.target.clone());
            if same(other) != same(version) {
                self.find(format!("{shown}, which is another content, kind or time"));
            }
        }
    }

    // 6: every plain file belongs to a version, and every directory below one of the client's is in the index. Others may stay
    // empty when a run was cut off.
    fn unknown(&mut self) {
        let mut known: BTreeSet<Place> = BTreeSet::new();
        for source in &self.index.sources {
            known.extend(TREES.map(|tree| join(&[tree.as_bytes(), source])));
        }
        for directory in self.index.directories.values() {
            let below = directory.path.strip_prefix(b"/").unwrap_or(&directory.path).to_vec();
            for (tree, below) in [("snapshot", below), ("archive", archive_directory(&directory.path))] {
                let mut place = join(&[tree.as_bytes(), &directory.source_name, &below]);
                while known.insert(place.clone()) {
                    let Some(slash) = place.iter().rposition(|&byte| byte == b'/') else { break };
                    place.truncate(slash);
                }
            }
        }
        for (place, found) in self.disk {
            let is_directory = found.kind == DIR && (known.contains(place) || !self.is_listed(parent(place)));
            let is_known = self.claims.contains_key(place) || is_directory;
            if !is_known {
                self.find(format!("`{}` is unknown to the index", show(place)));
            }
        }
    }

    // A directory of the snapshot whose entries are all known.
    fn is_listed(&self, place: &[u8]) -> bool {
        self.claims.get(place).is_some_and(|id| self.index.versions[id].kind == DIR)
    }

    // 7: what is recorded of an inode that nobody changed since is right.
    fn inodes(&mut self) {
        let mut seen = BTreeSet::new();
        for (place, found) in self.disk.iter().filter(|(_, found)| found.kind == FILE) {
            let Some(recorded) = self.index.inodes.get(&(found.inode as i64)) else { continue };
            let is_unchanged =
                (recorded.size, recorded.mtime, recorded.ctime) == (found.size, found.mtime, found.ctime);
            if is_unchanged && Some(&recorded.hash) != found.hash.as_ref() && seen.insert(found.inode) {
                self.find(format!("inode {} at `{}` is recorded with a wrong hash", found.inode, show(place)));
            }
        }
    }

    // 8: a directory with current versions has one itself, or nothing above it does: then it only holds a root. What a rebuild
    // took from the snapshot does not count, for it can't tell what is above the roots; nor does what is to be listed anew.
    fn directories(&mut self) {
        let directories = self.index.directories.values().filter(|directory| directory.has_fingerprint);
        let with_fingerprint: BTreeSet<_> =
            directories.map(|directory| (directory.source, directory.path.as_slice())).collect();
        let mut current = BTreeSet::new();
        let mut listed = BTreeSet::new();
        let mut holders = BTreeSet::new();
        for version in self.index.versions.values().filter(|version| version.until_run.is_none()) {
            let Some(directory) = self.index.directories.get(&version.directory) else { continue };
            holders.insert((directory.source, directory.path.clone()));
            if version.kind == DIR {
                listed.extend(
                    (version.flags & REBUILT == 0).then(|| (directory.source, child(&directory.path, &version.name))),
                );
                current.insert((directory.source, child(&directory.path, &version.name)));
            }
        }
        for (source, path) in holders {
            let is_listed = |path: &[u8]| listed.contains(&(source, path.to_vec()));
            let above = ancestors(&path).find(|path| is_listed(path));
            let counts = above.is_some_and(|path| with_fingerprint.contains(&(source, path)));
            if counts && !current.contains(&(source, path.clone())) {
                self.find(format!("`{}` of source {source} has current versions, but none itself", show(&path)));
            }
        }
    }

    // No moment has two versions of one path.
    fn spans(&mut self) {
        let mut spans: BTreeMap<(i64, &[u8]), Vec<&Version>> = BTreeMap::new();
        for version in self.index.versions.values().filter(|version| version.from_run < version.end()) {
            spans.entry((version.directory, &version.name)).or_default().push(version);
        }
        for mut versions in spans.into_values() {
            versions.sort_by_key(|version| version.from_run);
            for pair in versions.windows(2).filter(|pair| pair[0].end() > pair[1].from_run) {
                let (one, two) = (pair[0].id, pair[1].id);
                self.find(format!("versions {one} and {two} ({}) are of one time", self.path(pair[0])));
            }
        }
    }

    // One that was past from the beginning belongs to the run that found it.
    fn is_shown(&self, version: &Version) -> bool {
        let source = self.index.directories.get(&version.directory).map(|directory| directory.source);
        let shown = version.from_run..version.end().max(version.from_run + 1);
        self.index.runs.iter().any(|(run, of)| Some(*of) == source && shown.contains(run))
    }

    // 9: what a run shows can be given back.
    fn runs(&mut self) {
        for version in self.index.versions.values().filter(|version| version.is_plain()) {
            let Some(directory) = self.index.directories.get(&version.directory) else { continue };
            let shows =
                |run: &&(i64, i64)| run.1 == directory.source && version.from_run <= run.0 && run.0 < version.end();
            let Some((run, _)) = self.index.runs.iter().find(shows) else { continue };
            if !self.can_be_restored(version) {
                let (id, path) = (version.id, self.path(version));
                self.find(format!("run {run} shows version {id} ({path}), whose content is nowhere"));
            }
        }
    }

    fn can_be_restored(&self, version: &Version) -> bool {
        let own = |version: &Version| {
            let snapshot = self.snapshot_place(version).filter(|_| version.until_run.is_none());
            [snapshot, self.archive_place(version)]
                .into_iter()
                .flatten()
                .any(|place| self.holds(version, &place).is_ok())
        };
        own(version) || version.relies_on.and_then(|id| self.index.versions.get(&id)).is_some_and(own)
    }

    fn path(&self, version: &Version) -> String {
        let path = self.index.directories.get(&version.directory).map_or(&b"?"[..], |directory| &directory.path);
        show(&child(path, &version.name))
    }
}

fn join(parts: &[&[u8]]) -> Place {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(&b'/')
}

fn child(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory == b"/" { [b"/", name].concat() } else { [directory, b"/", name].concat() }
}

fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&byte| byte == b'/').unwrap_or(0)]
}

// Those above a path, the nearest first, without `/`.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    (1..path.len()).rev().filter(|&at| path[at] == b'/').map(|at| &path[..at])
}

fn show(bytes: &[u8]) -> String {
    OsStr::from_bytes(bytes).to_string_lossy().escape_debug().to_string()
}

/// What an index says of the past.
pub struct History {
    /// The runs that are kept, each with its source.
    pub runs: Vec<(i64, String)>,
    versions: Vec<(String, Vec<u8>, i64, i64, Shown)>,
}

/// A version, as far as it must be given back.
pub struct Shown {
    /// As in the index.
    pub kind: i64,
    /// Of a file its hash, of a symlink its target.
    pub content: Vec<u8>,
    /// In bytes.
    pub size: i64,
    /// All twelve bits.
    pub mode: i64,
    /// In nanoseconds since 1970.
    pub mtime: i64,
    /// User and group.
    pub owner: (i64, i64),
}

/// Reads what the index of a repository at rest says of the past.
pub fn history(repo: &Path) -> Result<History, String> {
    let (_copy, connection) = open_copy(repo)?;
    let runs = "SELECT run.id, source.name FROM run JOIN source ON source.id = run.source";
    let versions = "SELECT source.name, path, version.name, kind, coalesce(hash, target, x''), size, mode, mtime, uid, gid, \
                    from_run, coalesce(until_run, 9223372036854775807) FROM version \
                    JOIN directory ON directory.id = version.directory JOIN source ON source.id = directory.source";
    let version = |row: &Row<'_>| {
        let path = child(&row.get::<_, Vec<u8>>(1)?, &row.get::<_, Vec<u8>>(2)?);
        let shown = Shown {
            kind: row.get(3)?,
            content: row.get(4)?,
            size: row.get(5)?,
            mode: row.get(6)?,
            mtime: row.get(7)?,
            owner: (row.get(8)?, row.get(9)?),
        };
        Ok((row.get(0)?, path, row.get(10)?, row.get(11)?, shown))
    };
    let read = || -> rusqlite::Result<History> {
        let runs = all(&connection, runs, |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(History { runs, versions: all(&connection, versions, version)? })
    };
    read().map_err(|error| error.to_string())
}

impl History {
    /// What a run of a source shows, by path.
    pub fn at(&self, source: &str, run: i64) -> BTreeMap<&[u8], &Shown> {
        let is_shown = |(of, _, from, until, _): &&(String, Vec<u8>, i64, i64, Shown)| {
            of == source && *from <= run && run < *until
        };
        self.versions.iter().filter(is_shown).map(|(_, path, _, _, shown)| (path.as_slice(), shown)).collect()
    }
}

#[cfg(test)]
#[path = "checker/tests.rs"]
mod tests;
