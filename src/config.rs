//! The configuration file: `archive.toml` and the `conf.d` beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, OnServer, Result};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::source::Source;

mod keys;
mod values;

pub use keys::{KeepKeys, Keys};
pub use values::{AtOnce, Calendar, Percent, Room, Span};

use keys::check_source;

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
