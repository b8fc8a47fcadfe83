//! The configuration file: `archive.toml` and the `conf.d` beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SpanFieldwise;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Kind, OnServer, Result};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::retention::Keep;
use crate::schedule::{Schedule, TimeOfDay};
use crate::source::{
    ArchiveWhat, CompressWhen, CopyBy, HashWhere, LinkWhen, MinFree, RemoteKind, Settings, Source, Ssh,
};
use crate::time::{parse_calendar_span, parse_duration};

/// What all files together say.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
    /// Where the repository is.
    pub repository: Option<PathBuf>,
    /// Where helpers for other machine types are.
    pub helper_dir: Option<PathBuf>,
    /// For sources that don't say otherwise, configured or not.
    pub defaults: Keys,
    sources: BTreeMap<String, Keys>,
}

/// One file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    repository: Option<PathBuf>,
    helper_dir: Option<PathBuf>,
    defaults: Option<Keys>,
    #[serde(default)]
    source: BTreeMap<toml::Spanned<String>, Keys>,
}

/// The keys of a source.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // archive.toml(5) documents them.
pub struct Keys {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_config: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_from: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_caches: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_if_present: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_file_system: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashWhere>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveWhat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkWhen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delete: Option<Percent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_free: Option<Room>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_file_size: Option<bytesize::ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_time: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_time: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bwlimit: Option<bytesize::ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_file: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compress: Option<CompressWhen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<AtOnce>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readers: Option<AtOnce>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writers: Option<AtOnce>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gather: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_age: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<TimeOfDay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<KeepKeys>,
}

/// The keys of `keep`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // archive.toml(5) documents them.
pub struct KeepKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hourly: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekly: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monthly: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yearly: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Calendar>,
}

/// A stretch of the calendar, as `--keep-within` takes it, and as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendar(pub SpanFieldwise, String);

impl<'de> Deserialize<'de> for Calendar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Calendar, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_calendar_span(&text).map(|span| Calendar(span, text)).map_err(de::Error::custom)
    }
}

impl Serialize for Calendar {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.1)
    }
}

/// A share in percent: `50`, or `"50%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u8);

impl std::str::FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Percent, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
        let percent = number.filter(|number| *number <= 100).map(Percent);
        percent.ok_or_else(|| format!("`{}` is no share: write it as in `50%`", Escaped(text.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Percent, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a share such as 50 or \"50%\"")]
        enum Written {
            Number(i64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}%", self.0))
    }
}

/// How many of something work at once: from 1 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "i64", into = "u8")]
pub struct AtOnce(pub u8);

impl TryFrom<i64> for AtOnce {
    type Error = String;

    fn try_from(number: i64) -> std::result::Result<AtOnce, String> {
        let count = u8::try_from(number).ok().filter(|count| (1..=16).contains(count)).map(AtOnce);
        count.ok_or_else(|| format!("`{number}` is not from 1 to 16"))
    }
}

impl std::str::FromStr for AtOnce {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<AtOnce, String> {
        let number = text.parse::<i64>().map_err(|_| format!("`{}` is no number", Escaped(text.as_bytes())))?;
        number.try_into()
    }
}

impl From<AtOnce> for u8 {
    fn from(count: AtOnce) -> u8 {
        count.0
    }
}

/// Room on a file system: `"5%"`, or `"10GiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room(pub MinFree);

impl std::str::FromStr for Room {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Room, String> {
        if text.ends_with('%') {
            return text.parse().map(|Percent(percent)| Room(MinFree::Percent(percent)));
        }
        let size = text.parse::<bytesize::ByteSize>().map(|size| Room(MinFree::Bytes(size.as_u64())));
        size.map_err(|_| format!("`{}` is no room: write it as in `5%` or `10GiB`", Escaped(text.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for Room {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Room, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Room {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&match self.0 {
            MinFree::Percent(percent) => format!("{percent}%"),
            MinFree::Bytes(bytes) => bytesize::ByteSize(bytes).to_string(),
        })
    }
}

/// A duration, with the text that it was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span(Duration, String);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(|duration| Span(duration, text)).map_err(de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.1)
    }
}

impl Config {
    /// Reads the file that was named, or else the first of the usual places; none there is a configuration too.
    pub fn load(explicit: Option<&Path>) -> Result<Config> {
        let named = explicit.map(Path::to_owned).or_else(|| std::env::var_os("ARCHIVE_CONFIG").map(PathBuf::from));
        let Some(main) = named.or_else(|| usual_places().into_iter().find(|path| path.is_file())) else {
            return Ok(Config::default());
        };
        let mut config = Config::default();
        for path in std::iter::once(main.clone()).chain(beside(&main)?) {
            let text = fs_err::read_to_string(&path)
                .map_err(|error| Error::usage(error).hint("name a configuration file with `--config FILE`"))?;
            config.add(&path, &text)?;
        }
        Ok(config)
    }

    /// Reads a configuration from text; `path` is where it stands.
    pub fn parse(path: &Path, text: &str) -> Result<Config> {
        let mut config = Config::default();
        config.add(path, text)?;
        Ok(config)
    }

    fn add(&mut self, path: &Path, text: &str) -> Result<()> {
        let file: File = toml::from_str(text).map_err(|error| wrong(path, text, &error))?;
        self.set_once(path, "repository", |config| &mut config.repository, placed(path, file.repository))?;
        self.set_once(path, "helper_dir", |config| &mut config.helper_dir, placed(path, file.helper_dir))?;
        if let Some(defaults) = file.defaults {
            let defaults = defaults.placed(path);
            if self.defaults != Keys::default() {
                return Err(self.twice(path, "[defaults]"));
            }
            self.defaults = defaults;
        }
        for (name, keys) in file.source {
            let place = place(path, text, name.span());
            let name = name.into_inner();
            let keys = keys.placed(path);
            check_source(&name, &keys).map_err(|error| Error::usage(format_args!("{place}: {error}")))?;
            if self.sources.insert(name.clone(), keys).is_some() {
                return Err(self.twice(path, &format!("[source.{name}]")));
            }
        }
        self.files.push(path.to_owned());
        Ok(())
    }

    fn set_once(
        &mut self,
        path: &Path,
        what: &str,
        slot: fn(&mut Config) -> &mut Option<PathBuf>,
        value: Option<PathBuf>,
    ) -> Result<()> {
        if value.is_some() && slot(self).is_some() {
            return Err(self.twice(path, what));
        }
        let slot = slot(self);
        *slot = value.or(slot.take());
        Ok(())
    }

    fn twice(&self, path: &Path, what: &str) -> Error {
        let earlier = self.files.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(" or ");
        Error::usage(format_args!("`{}` and {earlier} both say `{what}`", path.display())).hint("say it in one of them")
    }

    /// The names of all sources.
    pub fn source_names(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// The keys of a source, those of `defaults` filled in.
    pub fn keys(&self, name: &str) -> Option<Keys> {
        self.sources.get(name).map(|keys| keys.clone().or(&self.defaults))
    }

    /// What counts for the repository that is used, and for every source.
    pub fn effective(&self, repository: &Path) -> Effective {
        let source = self.sources.iter().map(|(name, keys)| (name.clone(), keys.clone().or(&self.defaults).filled()));
        Effective { repository: repository.to_owned(), helper_dir: self.helper_dir.clone(), source: source.collect() }
    }

    /// A source with its settings.
    pub fn source(&self, name: &str) -> Result<Option<Source>> {
        self.keys(name).map(|keys| keys.source(SourceName::new(name)?)).transpose()
    }
}

/// All that counts, ready to be shown.
#[derive(Debug, Serialize)]
pub struct Effective {
    repository: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    helper_dir: Option<PathBuf>,
    source: BTreeMap<String, Keys>,
}

impl Effective {
    /// As a configuration file that says the same.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("what was read as TOML can be written as TOML")
    }

    /// As one JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("what was read as TOML can be written as JSON")
    }
}

impl Keys {
    fn placed(self, file: &Path) -> Keys {
        Keys {
            ssh_config: placed(file, self.ssh_config),
            identity: placed(file, self.identity),
            exclude_from: placed(file, self.exclude_from),
            ..self
        }
    }

    /// Takes from `defaults` what is not said here. Excludes add up, so that a source can take one back with `!`.
    pub fn or(self, defaults: &Keys) -> Keys {
        let defaults = defaults.clone();
        let exclude = match (defaults.exclude, self.exclude) {
            (Some(first), Some(then)) => Some([first, then].concat()),
            (first, then) => then.or(first),
        };
        Keys {
            host: self.host.or(defaults.host),
            paths: self.paths.or(defaults.paths),
            ssh_config: self.ssh_config.or(defaults.ssh_config),
            port: self.port.or(defaults.port),
            identity: self.identity.or(defaults.identity),
            exclude,
            exclude_from: self.exclude_from.or(defaults.exclude_from),
            exclude_caches: self.exclude_caches.or(defaults.exclude_caches),
            exclude_if_present: self.exclude_if_present.or(defaults.exclude_if_present),
            one_file_system: self.one_file_system.or(defaults.one_file_system),
            hash: self.hash.or(defaults.hash),
            archive: self.archive.or(defaults.archive),
            link: self.link.or(defaults.link),
            max_delete: self.max_delete.or(defaults.max_delete),
            min_free: self.min_free.or(defaults.min_free),
            max_file_size: self.max_file_size.or(defaults.max_file_size),
            timeout: self.timeout.or(defaults.timeout),
            stall_time: self.stall_time.or(defaults.stall_time),
            max_time: self.max_time.or(defaults.max_time),
            retries: self.retries.or(defaults.retries),
            bwlimit: self.bwlimit.or(defaults.bwlimit),
            copy: self.copy.or(defaults.copy),
            whole_file: self.whole_file.or(defaults.whole_file),
            compress: self.compress.or(defaults.compress),
            channels: self.channels.or(defaults.channels),
            readers: self.readers.or(defaults.readers),
            writers: self.writers.or(defaults.writers),
            gather: self.gather.or(defaults.gather),
            remote: self.remote.or(defaults.remote),
            verify_age: self.verify_age.or(defaults.verify_age),
            every: self.every.or(defaults.every),
            at: self.at.or(defaults.at),
            keep: self.keep.or(defaults.keep),
        }
    }

    // What is not said anywhere, as it is without saying.
    fn filled(self) -> Keys {
        let usual = Settings::default();
        Keys {
            exclude_caches: self.exclude_caches.or(Some(usual.exclude_caches)),
            one_file_system: self.one_file_system.or(Some(usual.one_file_system)),
            hash: self.hash.or(Some(usual.hash)),
            copy: self.copy.or(Some(usual.copy)),
            whole_file: self.whole_file.or(Some(usual.whole_file)),
            compress: self.compress.or(Some(usual.compress)),
            gather: self.gather.or(Some(usual.gather)),
            archive: self.archive.or(Some(usual.archive)),
            link: self.link.or(Some(usual.link)),
            max_delete: self.max_delete.or(Some(Percent(usual.max_delete))),
            min_free: self.min_free.or(Some(Room(usual.min_free))),
            timeout: self.timeout.or(Some(Span(usual.timeout, format!("{}s", usual.timeout.as_secs())))),
            stall_time: self
                .stall_time
                .or(usual.stall_time.map(|time| Span(time, format!("{}h", time.as_secs() / 3600)))),
            retries: self.retries.or(Some(usual.retries)),
            verify_age: self.verify_age.or(Some(Span(usual.verify_age, "30d".to_owned()))),
            ..self
        }
    }

    /// The source that these keys describe.
    pub fn source(self, name: SourceName) -> Result<Source> {
        let settings = self.settings()?;
        let host = self.host.map(|host| Ssh::plain_host(&host));
        let ssh = host.map(|host| Ssh { host, config: self.ssh_config, port: self.port, identity: self.identity });
        let paths = self.paths.unwrap_or_default().into_iter().map(String::into_bytes).collect();
        Ok(Source { name, ssh, paths, settings })
    }

    fn settings(&self) -> Result<Settings> {
        let usual = Settings::default();
        let mut exclude: Vec<Vec<u8>> = self.exclude.iter().flatten().map(|line| line.clone().into_bytes()).collect();
        if let Some(path) = &self.exclude_from {
            exclude.extend(read_patterns(path)?);
        }
        Ok(Settings {
            exclude,
            exclude_caches: self.exclude_caches.unwrap_or(usual.exclude_caches),
            exclude_if_present: self.exclude_if_present.clone().unwrap_or_default(),
            one_file_system: self.one_file_system.unwrap_or(usual.one_file_system),
            hash: self.hash.unwrap_or_default(),
            archive: self.archive.unwrap_or_default(),
            link: self.link.unwrap_or_default(),
            max_delete: self.max_delete.map_or(usual.max_delete, |percent| percent.0),
            min_free: self.min_free.map_or(usual.min_free, |room| room.0),
            max_file_size: self.max_file_size.map(|size| size.as_u64()).filter(|limit| *limit > 0),
            timeout: self.timeout.as_ref().map_or(usual.timeout, |span| span.0),
            stall_time: self.stall_time.as_ref().map_or(usual.stall_time, |span| limit(span.0)),
            max_time: self.max_time.as_ref().and_then(|span| limit(span.0)),
            retries: self.retries.unwrap_or(usual.retries),
            bwlimit: self.bwlimit.map(|size| size.as_u64()).filter(|limit| *limit > 0),
            copy: self.copy.unwrap_or_default(),
            whole_file: self.whole_file.unwrap_or(usual.whole_file),
            compress: self.compress.unwrap_or_default(),
            channels: self.channels.map(|count| count.0),
            readers: self.readers.map(|count| count.0),
            writers: self.writers.map(|count| count.0),
            gather: self.gather.unwrap_or(usual.gather),
            remote: self.remote,
            verify_age: self.verify_age.as_ref().map_or(usual.verify_age, |span| span.0),
            schedule: Schedule::new(self.every.as_ref().map(|span| span.0), self.at)?,
            keep: self.keep.as_ref().map(KeepKeys::policy),
        })
    }
}

impl KeepKeys {
    /// What they mean.
    pub fn policy(&self) -> Keep {
        let KeepKeys { last, hourly, daily, weekly, monthly, yearly, within } = self.clone();
        Keep { last, hourly, daily, weekly, monthly, yearly, within: within.map(|span| span.0) }
    }
}

/// The lines of a file of exclude patterns.
pub fn read_patterns(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = fs_err::read(path).map_err(|error| Error::usage(error).hint("name a file of exclude patterns"))?;
    // Editors of other systems begin a file with a byte order mark, and end each line with a carriage return.
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let is_foreign =
        text.len() < bytes.len() || text.split_inclusive(|&byte| byte == b'\n').all(|line| line.ends_with(b"\r\n"));
    let lines = text.split(|&byte| byte == b'\n');
    Ok(lines.map(|line| line.strip_suffix(b"\r").filter(|_| is_foreign).unwrap_or(line).to_vec()).collect())
}

// In UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A limit of time, for which 0 is none.
pub fn limit(length: Duration) -> Option<Duration> {
    Some(length).filter(|length| !length.is_zero())
}

// A path in a configuration file starts at that file's directory, or with `~/` at home.
fn placed(file: &Path, path: Option<PathBuf>) -> Option<PathBuf> {
    let path = path?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let start = || std::path::absolute(file).ok().and_then(|file| Some(file.parent()?.to_owned())).unwrap_or_default();
    Some(match (path.strip_prefix("~"), home) {
        (Ok(below), Some(home)) => home.join(below),
        _ => start().join(path),
    })
}

fn usual_places() -> Vec<PathBuf> {
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let own = own.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    own.into_iter().chain([PathBuf::from("/etc")]).map(|place| place.join("archive/archive.toml")).collect()
}

fn beside(main: &Path) -> Result<Vec<PathBuf>> {
    let directory = main.parent().unwrap_or(Path::new(".")).join("conf.d");
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let listing = fs_err::read_dir(&directory).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let mut files: Vec<_> =
        listing.on_server("can't read the configuration")?.iter().map(fs_err::DirEntry::path).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

fn check_source(name: &str, keys: &Keys) -> Result<()> {
    SourceName::new(name)?;
    if let Some(host) = &keys.host {
        Ssh { host: Ssh::plain_host(host), ..Ssh::default() }.check_host()?;
    }
    let paths = keys.paths.as_deref().unwrap_or_default();
    if keys.paths.as_ref().is_some_and(Vec::is_empty) {
        return Err(Error::usage("`paths` is empty").hint("name at least one directory or file"));
    }
    refuse_overlap(paths.iter().map(String::as_bytes))
}

/// Refuses paths of which one lies within another, as far as that shows before the client was asked.
pub fn refuse_overlap<'a>(paths: impl Iterator<Item = &'a [u8]>) -> Result<()> {
    let paths: Vec<AbsPath> = paths.filter_map(tidied).collect();
    for (at, one) in paths.iter().enumerate() {
        for other in &paths[at + 1..] {
            if one.starts_with(other) || other.starts_with(one) {
                return Err(Error::usage(format_args!("`{one}` and `{other}` overlap")).hint("name only the outer one"));
            }
        }
    }
    Ok(())
}

fn tidied(path: &[u8]) -> Option<AbsPath> {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let joined = [b"/", &parts.collect::<Vec<_>>().join(&b'/')[..]].concat();
    AbsPath::new(joined).filter(|_| path.starts_with(b"/"))
}

fn wrong(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    let place = place(path, text, error.span().unwrap_or_default());
    Error::new(Kind::Usage, format_args!("{place}: {}", Escaped(message.as_bytes())))
        .hint("archive.toml(5) tells of every key")
}

fn place(path: &Path, text: &str, span: std::ops::Range<usize>) -> String {
    let before = &text[..span.start.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    format!("{}:{line}:{column}", path.display())
}
