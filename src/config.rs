//! The configuration file: `archive.toml` and the `conf.d` beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, cause};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::retention::Keep;
use crate::source::{Source, refuse_overlap};

mod files;
mod keys;
mod mistakes;
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
    /// Why files of `conf.d` don't count: one line for each.
    pub mistakes: Vec<String>,
    /// Files in `conf.d` that are neither read nor what editors and package managers leave.
    pub ignored: Vec<PathBuf>,
    sources: BTreeMap<String, Keys>,
    // Where each source begins: file, line and column.
    positions: BTreeMap<String, String>,
    // Sources of two files: neither counts, for which of them is meant is not known.
    contested: BTreeSet<String>,
}

/// One file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    repository: Option<PathBuf>,
    helper_dir: Option<PathBuf>,
    defaults: Option<toml::Spanned<Keys>>,
    #[serde(default)]
    source: BTreeMap<toml::Spanned<String>, Keys>,
}

impl File {
    // Also returns the text to which positions in the file refer.
    fn parse<'a>(path: &Path, text: &'a str) -> Result<(File, &'a str)> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let file = toml::from_str(text).map_err(|error| mistakes::describe(path, text, &error))?;
        Ok((file, text))
    }

    // A key of the main file only: a source must not be pulled without what another file says of it, even if that file
    // can't be read.
    fn key_for_all(&self) -> Option<&'static str> {
        let keys = [
            ("repository", self.repository.is_some()),
            ("helper_dir", self.helper_dir.is_some()),
            ("[defaults]", self.defaults.is_some()),
        ];
        keys.into_iter().find_map(|(key, is_said)| is_said.then_some(key))
    }
}

impl Config {
    /// Reads the file that was named, or else the first that exists of the usual paths; none is a configuration too.
    pub fn load(explicit: Option<&Path>) -> Result<Config> {
        let named = explicit.map(Path::to_owned).or_else(|| std::env::var_os("ARCHIVE_CONFIG").map(PathBuf::from));
        let Some(main) = named.or_else(files::usual) else {
            return Ok(Config::default());
        };
        let mut config = Config::default();
        let text = files::read(&main)?;
        let (file, text) = File::parse(&main, &text)?;
        config.add(&main, file, text)?;
        let beside = files::beside(&main)?;
        for path in beside.read {
            config.add_beside(&path)?;
        }
        config.ignored = beside.ignored;
        Ok(config)
    }

    // A mistake in a file of one source must not keep the others from being pulled, nor must a file that can't be read.
    fn add_beside(&mut self, path: &Path) -> Result<()> {
        let bytes = match files::read_bytes(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.mistakes.push(error.hint("make it readable, or move it out of `conf.d`").to_string());
                return Ok(());
            }
        };
        let parsed = match std::str::from_utf8(&bytes) {
            Ok(text) => File::parse(path, text),
            Err(error) => Err(files::not_utf8(path, error)),
        };
        if let Ok((file, _)) = &parsed
            && let Some(key) = file.key_for_all()
        {
            let main = self.files.first().map_or("archive.toml".into(), |main| main.display().to_string());
            return Err(Error::usage(format_args!(
                "`{}` has `{key}`, which only the main file may have",
                path.display()
            ))
            .hint(format_args!("move it to `{main}`")));
        }
        match parsed.and_then(|(file, text)| self.add(path, file, text)) {
            Err(error) if files::may_count_for_all(&bytes) => Err(error),
            Err(error) => {
                self.mistakes.push(error.to_string());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Reads a configuration from text; `path` is where it stands.
    pub fn parse(path: &Path, text: &str) -> Result<Config> {
        let mut config = Config::default();
        let (file, text) = File::parse(path, text)?;
        config.add(path, file, text)?;
        Ok(config)
    }

    // Nothing of a file with a mistake counts, nor does a source that another file has too.
    fn add(&mut self, path: &Path, file: File, text: &str) -> Result<()> {
        let (mut sources, mut positions) = (BTreeMap::new(), BTreeMap::new());
        for (name, keys) in file.source {
            let position = mistakes::position(path, text, name.span());
            let name = name.into_inner();
            let keys = keys.placed(path);
            check_source(&name, &keys).map_err(|error| Error::usage(format_args!("{position}: {error}")))?;
            if self.sources.remove(&name).is_some() || self.contested.contains(&name) {
                let error = self.twice(path, &format!("[source.{name}]"));
                self.contested.insert(name);
                return Err(error);
            }
            positions.insert(name.clone(), position);
            sources.insert(name, keys);
        }
        let defaults = file.defaults.map(|defaults| {
            let position = mistakes::position(path, text, defaults.span());
            let keys = defaults.into_inner().placed(path);
            let checked = keys.keep().map(|_| keys);
            checked.map_err(|error| Error::usage(format_args!("{position}: {error}")))
        });
        self.defaults = defaults.transpose()?.unwrap_or_else(|| std::mem::take(&mut self.defaults));
        self.repository = placed(path, file.repository).or(self.repository.take());
        self.helper_dir = placed(path, file.helper_dir).or(self.helper_dir.take());
        self.sources.extend(sources);
        self.positions.extend(positions);
        self.files.push(path.to_owned());
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

    /// Refuses a source that no file configures while files don't count that may do so.
    pub fn check_known(&self, name: &str) -> Result<()> {
        if self.mistakes.is_empty() || self.sources.contains_key(name) {
            return Ok(());
        }
        Err(Error::usage(format_args!(
            "the settings of `{}` may be in a file that doesn't count",
            Escaped(name.as_bytes())
        ))
        .hint("correct the configuration first; `archive config check` lists the mistakes"))
    }

    /// A source with its settings; an error names the source, and where it stands.
    pub fn source(&self, name: &str) -> Result<Option<Source>> {
        let Some(keys) = self.keys(name) else { return Ok(None) };
        let source = keys.check().and_then(|()| keys.source(SourceName::new(name)?));
        source.map(Some).map_err(|error| self.mistake(name, &error))
    }

    /// What `prune` keeps of a source, which need not be configured.
    pub fn keep(&self, name: &str) -> Result<Option<Keep>> {
        let keys = self.keys(name).unwrap_or_else(|| self.defaults.clone());
        keys.keep().map_err(|error| self.mistake(name, &error))
    }

    fn mistake(&self, name: &str, error: &Error) -> Error {
        let position = self.positions.get(name).map_or(String::new(), |position| format!("{position}: "));
        Error::new(error.kind(), format_args!("{position}source `{name}`: {error}"))
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
    let bytes = std::fs::read(path).map_err(|error| {
        let text = format_args!("can't read the exclude patterns `{}`: {}", path.display(), cause(&error));
        Error::usage(text).hint("name a file of exclude patterns")
    })?;
    if bytes.contains(&0) {
        let text = format_args!("the exclude patterns `{}` are not plain text, but UTF-16 or binary", path.display());
        return Err(Error::usage(text).hint("save the file as UTF-8"));
    }
    // Editors of other systems begin a file with a byte order mark, and end each line with a carriage return.
    let text = bytes.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(&bytes);
    let is_foreign =
        text.len() < bytes.len() || text.split_inclusive(|&byte| byte == b'\n').all(|line| line.ends_with(b"\r\n"));
    let lines = text.split(|&byte| byte == b'\n');
    Ok(lines.map(|line| line.strip_suffix(b"\r").filter(|_| is_foreign).unwrap_or(line).to_vec()).collect())
}

// Editors of other systems begin UTF-8 text with it.
const BYTE_ORDER_MARK: &str = "\u{feff}";

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

/// Refuses paths of which one lies within another, as far as that shows before the client was asked.
pub fn check_paths<'a>(paths: impl Iterator<Item = &'a [u8]>) -> Result<()> {
    let paths: Vec<AbsPath> = paths.filter_map(tidied).collect();
    refuse_overlap(paths.iter())
}

fn tidied(path: &[u8]) -> Option<AbsPath> {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let joined = [b"/", &parts.collect::<Vec<_>>().join(&b'/')[..]].concat();
    AbsPath::new(joined).filter(|_| path.starts_with(b"/"))
}
