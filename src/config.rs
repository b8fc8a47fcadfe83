//! The configuration file: `archive.toml` and the `conf.d` beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Spanned, Table};

use crate::error::{Error, Result};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::retention::Keep;
use crate::source::{BYTE_ORDER_MARK, Settings, Source, Ssh, refuse_overlap};

mod files;
mod mistakes;
mod tables;

/// What all files together say.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
    /// Where the repository is.
    pub repository: Option<PathBuf>,
    /// Where helpers for other machine types are.
    pub helper_dir: Option<PathBuf>,
    /// Why files of `conf.d` don't count: one line for each.
    pub mistakes: Vec<String>,
    /// Files in `conf.d` that are neither read nor what editors and package managers leave.
    pub ignored: Vec<PathBuf>,
    // For sources that don't say otherwise, configured or not.
    defaults: Table,
    sources: BTreeMap<String, Table>,
    // What flags say instead of the files.
    flags: Table,
    // Where each source begins: file, line and column.
    positions: BTreeMap<String, String>,
    // Sources of two files: neither counts, for which of them is meant is not known.
    contested: BTreeSet<String>,
}

/// One file, with the keys of sources as settings, or as they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File<Keys> {
    repository: Option<PathBuf>,
    helper_dir: Option<PathBuf>,
    defaults: Option<Spanned<Keys>>,
    #[serde(default = "BTreeMap::new")]
    source: BTreeMap<Spanned<String>, Keys>,
}

/// The text of a file, and what it says.
struct Parsed<'a> {
    // Positions refer to it.
    text: &'a str,
    settings: File<Settings>,
    written: File<Table>,
}

impl Parsed<'_> {
    fn new<'a>(path: &Path, text: &'a str) -> Result<Parsed<'a>> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let wrong = |error: toml::de::Error| mistakes::describe(path, text, &error);
        let settings = toml::from_str(text).map_err(wrong)?;
        Ok(Parsed { text, settings, written: toml::from_str(text).map_err(wrong)? })
    }

    // A key of the main file only: a source must not be pulled without what another file says of it, even if that file
    // can't be read.
    fn key_for_all(&self) -> Option<&'static str> {
        let keys = [
            ("repository", self.settings.repository.is_some()),
            ("helper_dir", self.settings.helper_dir.is_some()),
            ("[defaults]", self.settings.defaults.is_some()),
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
        config.add(&main, Parsed::new(&main, &text)?)?;
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
            Ok(text) => Parsed::new(path, text),
            Err(error) => Err(files::not_utf8(path, error)),
        };
        if let Ok(parsed) = &parsed
            && let Some(key) = parsed.key_for_all()
        {
            let main = self.files.first().map_or("archive.toml".into(), |main| main.display().to_string());
            return Err(Error::usage(format_args!(
                "`{}` has `{key}`, which only the main file may have",
                path.display()
            ))
            .hint(format_args!("move it to `{main}`")));
        }
        match parsed.and_then(|parsed| self.add(path, parsed)) {
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
        config.add(path, Parsed::new(path, text)?)?;
        Ok(config)
    }

    // Nothing of a file with a mistake counts, nor does a source that another file has too.
    fn add(&mut self, path: &Path, Parsed { text, settings, written }: Parsed<'_>) -> Result<()> {
        let (mut sources, mut positions) = (BTreeMap::new(), BTreeMap::new());
        for ((name, settings), table) in settings.source.into_iter().zip(written.source.into_values()) {
            let position = mistakes::position(path, text, name.span());
            let name = name.into_inner();
            check_source(&name, &settings).map_err(|error| Error::usage(format_args!("{position}: {error}")))?;
            if self.sources.remove(&name).is_some() || self.contested.contains(&name) {
                let error = self.twice(path, &format!("[source.{name}]"));
                self.contested.insert(name);
                return Err(error);
            }
            positions.insert(name.clone(), position);
            sources.insert(name, tables::placed(path, table)?);
        }
        if let (Some(defaults), Some(table)) = (settings.defaults, written.defaults) {
            let position = mistakes::position(path, text, defaults.span());
            let checked = defaults.get_ref().keep().map(drop);
            checked.map_err(|error| Error::usage(format_args!("{position}: {error}")))?;
            self.defaults = tables::placed(path, table.into_inner())?;
        }
        let at = |written: PathBuf| tables::place(path, &written);
        self.repository = settings.repository.map(at).or(self.repository.take());
        self.helper_dir = settings.helper_dir.map(at).or(self.helper_dir.take());
        self.sources.extend(sources);
        self.positions.extend(positions);
        self.files.push(path.to_owned());
        Ok(())
    }

    /// Has the flags among these count more than what the files say. A flag that was not given is left out or false.
    pub fn override_with(&mut self, flags: &impl Serialize) {
        let flags = Table::try_from(flags).expect("flags can be written as TOML");
        tables::merge(&mut self.flags, flags.into_iter().filter(|(_, value)| *value != toml::Value::Boolean(false)));
    }

    /// As [`override_with`](Config::override_with), with one of the keys of `tuning`: `KEY=VALUE`, as the file has it.
    pub fn tune(&mut self, written: &str) -> Result<()> {
        let wrong = |why: &dyn std::fmt::Display| {
            let text = format_args!("can't set `{}`: {why}", Escaped(written.as_bytes()));
            Error::usage(text)
                .hint("write it as in `--tuning writers=1`; archive.toml(5) describes the keys of `tuning`")
        };
        let (key, value) = written.split_once('=').ok_or_else(|| wrong(&"it has no `=`"))?;
        let quoted = || toml::Value::String(value.to_owned());
        let value = value.parse::<i64>().map(Into::into).or_else(|_| value.parse::<bool>().map(Into::into));
        let tuning = Table::from_iter([(key.to_owned(), value.unwrap_or_else(|_| quoted()))]);
        let flags = Table::from_iter([("tuning".to_owned(), toml::Value::Table(tuning))]);
        flags.clone().try_into::<Settings>().map_err(|error| wrong(&error.message()))?;
        tables::merge(&mut self.flags, flags);
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

    /// The settings of a source, or of one that no file configures.
    pub fn settings(&self, name: &str) -> Settings {
        self.merged(self.sources.get(name).into_iter().chain([&self.flags]))
    }

    // The defaults, and what counts more, in order.
    fn merged<'a>(&self, tables: impl Iterator<Item = &'a Table>) -> Settings {
        let mut merged = self.defaults.clone();
        tables.for_each(|table| tables::merge(&mut merged, table.clone()));
        merged.try_into().expect("each key was checked when it was read")
    }

    /// What counts for the repository that is used, and for every source.
    pub fn effective(&self, repository: &Path) -> Effective {
        let source = self.sources.iter().map(|(name, table)| (name.clone(), self.merged([table].into_iter())));
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
        if !self.sources.contains_key(name) {
            return Ok(None);
        }
        let settings = self.settings(name);
        let source = settings.check().and_then(|()| Source::new(SourceName::new(name)?, settings));
        source.map(Some).map_err(|error| self.mistake(name, &error))
    }

    /// What `prune` keeps of a source, which need not be configured.
    pub fn keep(&self, name: &str) -> Result<Option<Keep>> {
        self.settings(name).keep().map(|keep| keep.cloned()).map_err(|error| self.mistake(name, &error))
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
    source: BTreeMap<String, Settings>,
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

// Refuses what no source can have.
fn check_source(name: &str, settings: &Settings) -> Result<()> {
    SourceName::new(name)?;
    if let Some(host) = &settings.host {
        Ssh { host: Ssh::plain_host(host), ..Ssh::default() }.check_host()?;
    }
    let paths = settings.paths.as_deref().unwrap_or_default();
    if settings.paths.as_ref().is_some_and(Vec::is_empty) {
        return Err(Error::usage("`paths` is empty").hint("name at least one directory or file"));
    }
    check_paths(paths.iter().map(String::as_bytes))
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
