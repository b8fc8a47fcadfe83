//! The keys of a source: as they are written, as they add up, and the settings that they mean.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::values::{AtOnce, Calendar, Percent, Room, Span};
use super::{check_paths, limit, placed, read_patterns};
use crate::error::{Error, Result};
use crate::path::SourceName;
use crate::retention::Keep;
use crate::schedule::{Schedule, TimeOfDay};
use crate::source::{
    ArchiveWhat, ClientKind, CompressWhen, CopyBy, HashWhere, LinkWhen, Settings, Source, Ssh, check_client_kind,
    check_root,
};

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
    pub remote: Option<ClientKind>,
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

impl Keys {
    /// Has the paths among them start at a file's directory.
    pub(super) fn placed(self, file: &Path) -> Keys {
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

    /// Adds the defaults of what is not said anywhere.
    pub(super) fn filled(self) -> Keys {
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
            max_time: self.max_time.or(usual.max_time.map(|time| Span(time, format!("{}d", time.as_secs() / 86400)))),
            retries: self.retries.or(Some(usual.retries)),
            verify_age: self.verify_age.or(Some(Span(usual.verify_age, "30d".to_owned()))),
            ..self
        }
    }

    /// Refuses keys that contradict each other, or mean nothing. Those of the source and of the defaults are taken together.
    pub(super) fn check(&self) -> Result<()> {
        let way = check_client_kind(self.host.is_some(), self.remote);
        way.map_err(|error| error.hint("leave out `remote`: the best way that works is found"))?;
        if self.every.as_ref().is_some_and(|every| every.0.is_zero()) {
            return Err(
                Error::usage("`every` is zero").hint("write it as in `1d`; without it, the source is always due")
            );
        }
        self.paths.iter().flatten().try_for_each(|path| check_root(path.as_bytes()))?;
        self.keep().map(drop)
    }

    /// The rules of `prune`; `None` keeps everything.
    pub(super) fn keep(&self) -> Result<Option<Keep>> {
        match self.keep.as_ref().map(KeepKeys::policy) {
            Some(keep) if keep.is_empty() => Err(Error::usage("`keep` keeps nothing")
                .hint("write it as in `keep = { daily = 14 }`; without it, everything is kept")),
            keep => Ok(keep),
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
            max_time: self.max_time.as_ref().map_or(usual.max_time, |span| limit(span.0)),
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

/// Refuses what no source can have.
pub(super) fn check_source(name: &str, keys: &Keys) -> Result<()> {
    SourceName::new(name)?;
    if let Some(host) = &keys.host {
        Ssh { host: Ssh::plain_host(host), ..Ssh::default() }.check_host()?;
    }
    let paths = keys.paths.as_deref().unwrap_or_default();
    if keys.paths.as_ref().is_some_and(Vec::is_empty) {
        return Err(Error::usage("`paths` is empty").hint("name at least one directory or file"));
    }
    check_paths(paths.iter().map(String::as_bytes))
}
