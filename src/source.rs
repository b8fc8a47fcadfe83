//! What is pulled and how: a source and its settings. Every key, its default and its documentation stand here.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::retention::Keep;
use crate::schedule::{Schedule, TimeOfDay};

mod patterns;
mod values;

pub use patterns::{BYTE_ORDER_MARK, read_patterns};
pub use values::{AtOnce, Percent, Size, Span};

/// Where new and changed content is hashed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashWhere {
    /// On the client: what the server has is not sent, except small files that changed
    #[default]
    Client,
    /// On the server, after it was copied
    Server,
}

/// What goes into the archive, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchiveWhat {
    /// Removed and replaced files
    #[default]
    Replaced,
    /// Every file, the moment it is received
    All,
}

/// When files of equal content share an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkWhen {
    /// Whenever their content is equal
    #[default]
    Content,
    /// Only when owner, mode and mtime agree too
    Exact,
    /// Never
    Never,
}

/// How a client is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientKind {
    /// The helper, through ssh
    Helper,
    /// The helper, on this machine
    Local,
}

impl ClientKind {
    /// The word for it, in settings and output.
    pub fn word(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Refuses a kind of client that is not for this machine or not for a host, whichever is to be reached.
pub fn check_client_kind(is_host: bool, kind: Option<ClientKind>) -> Result<()> {
    let Some(kind) = kind else { return Ok(()) };
    if kind == ClientKind::Local && is_host {
        return Err(Error::usage("`local` is for this machine, not for a host"));
    }
    if kind != ClientKind::Local && !is_host {
        return Err(Error::usage(format_args!("`{}` needs a host", kind.word())));
    }
    Ok(())
}

// The longest path of a root, bytes.
const MAX_ROOT_BYTES: usize = 4095;

/// Refuses what no client can take for a root.
pub fn check_root(path: &[u8]) -> Result<()> {
    let what = if path.split(|&byte| byte == b'/').any(|part| part == b"..") {
        "has a `..` in it"
    } else if path.len() > MAX_ROOT_BYTES {
        "is longer than 4095 bytes"
    } else {
        return Ok(());
    };
    Err(Error::usage(format_args!("the path `{}` {what}", Escaped(path))).hint("write the path that it stands for"))
}

/// How content comes from a client with a helper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyBy {
    /// The helper sends it.
    #[default]
    Auto,
    /// Through SFTP alone.
    Sftp,
}

/// When what the helper sends is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompressWhen {
    /// When the connection is slower than the compressor
    #[default]
    Auto,
    /// From the beginning
    Always,
    /// Never.
    Never,
}

/// How much room must stay on the repository's file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    /// This share of its bytes, and of its inodes, in percent.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
}

/// How ssh finds the client; what is `None` is left to ssh's own configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ssh {
    /// `[USER@]HOST` or an `ssh://` URI's worth of it; an alias of `ssh_config(5)` serves too.
    pub host: String,
    /// A configuration file instead of `~/.ssh/config`.
    pub config: Option<PathBuf>,
    /// The port.
    pub port: Option<u16>,
    /// The private key.
    pub identity: Option<PathBuf>,
}

impl Ssh {
    /// A host as ssh takes it: an address without the brackets that keep it apart from a path. A URI keeps them.
    pub fn plain_host(host: &str) -> String {
        let (user, bare) = host.rsplit_once('@').map_or(("", host), |(user, _)| host.split_at(user.len() + 1));
        let inner = bare.strip_prefix('[').and_then(|bare| bare.strip_suffix(']'));
        inner.map_or_else(|| host.to_owned(), |inner| format!("{user}{inner}"))
    }

    /// Refuses what is no host. Neither the host nor the user may begin as an option does: ssh, and the commands that a
    /// configuration names for it (ProxyCommand), get both on their command lines.
    pub fn check_host(&self) -> Result<()> {
        let bare = self.host.strip_prefix("ssh://").unwrap_or(&self.host);
        let (user, host) = bare.rsplit_once('@').map_or((None, bare), |(user, host)| (Some(user), host));
        let is_word = |word: &str| !word.is_empty() && !word.starts_with('-');
        let is_uri = self.host.starts_with("ssh://");
        let has_brackets = self.host.contains(['[', ']']) && !is_uri;
        let plain = !has_brackets && !self.host.chars().any(|c| c.is_control() || c.is_whitespace());
        if plain && is_word(host) && user.is_none_or(is_word) {
            return Ok(());
        }
        Err(Error::usage(format_args!("`{}` is no host", Escaped(self.host.as_bytes())))
            .hint("write `[USER@]HOST`, and a path after a colon"))
    }
}

/// The name that a host's source has without another: without the user, an IPv6 address in its shortest form with `-` for its
/// colons (`fe80--1_eth0`, `0--1`), and `_` for what can't be in a name.
pub fn name_of_host(host: &str) -> String {
    let host = Ssh::plain_host(host);
    let bare = host.rsplit('@').next().unwrap_or(&host);
    let (address, zone) = bare.find('%').map_or((bare, ""), |at| bare.split_at(at));
    let bare = match address.parse::<std::net::Ipv6Addr>() {
        Ok(address) => {
            let text = address.to_string().replace(':', "-");
            let zero = if text.starts_with('-') { "0" } else { "" };
            format!("{zero}{text}{zone}")
        }
        Err(_) => bare.to_owned(),
    };
    let plain = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    bare.chars().map(plain).collect::<String>().trim_start_matches(['.', '-']).to_owned()
}

/// One named client and its set of roots, with the settings that a pull of it obeys.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name: the directory in both trees.
    pub name: SourceName,
    /// How to reach it; `None` for this machine.
    pub ssh: Option<Ssh>,
    /// The roots, as written.
    pub paths: Vec<Vec<u8>>,
    /// When `--due` pulls it; `None` makes it always due.
    pub schedule: Option<Schedule>,
    /// How it is pulled.
    pub settings: Settings,
}

impl Source {
    /// The source that these settings describe.
    pub fn new(name: SourceName, mut settings: Settings) -> Result<Source> {
        if let Some(path) = settings.exclude_from.take() {
            settings.exclude.extend(read_patterns(&path)?);
        }
        let schedule = Schedule::new(settings.every.take(), settings.at.take())?;
        let paths = settings.paths.take().unwrap_or_default().into_iter().map(String::into_bytes).collect();
        let (config, port, identity) = (settings.ssh_config.take(), settings.port.take(), settings.identity.take());
        let ssh = settings.host.take().map(|host| Ssh { host: Ssh::plain_host(&host), config, port, identity });
        Ok(Source { name, ssh, paths, schedule, settings })
    }
}

/// The keys of a source, as `archive.toml` has them. A new one is a field here, its default below, a flag in `cli::pull` if it
/// is to have one, and a paragraph in archive.toml(5).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The client; `None` is this machine. A [`Source`] has it in its `ssh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The roots. A [`Source`] has them in its `paths`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// A configuration file for ssh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_config: Option<PathBuf>,
    /// The port of the client's sshd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<PathBuf>,
    /// Patterns of gitignore(5).
    #[serde(with = "values::patterns", skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Vec<u8>>,
    /// A file with more of them. Those of a [`Source`] are in its `exclude`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_from: Option<PathBuf>,
    /// Leave out what stands beside a `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out what stands beside a file of one of these names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_if_present: Vec<String>,
    /// Do not enter other file systems.
    pub one_file_system: bool,
    /// Where content is hashed first.
    pub hash: HashWhere,
    /// What goes into the archive.
    pub archive: ArchiveWhat,
    /// When inodes are shared.
    pub link: LinkWhen,
    /// The largest share of files that a pull may remove, in percent.
    #[serde(with = "values::percent")]
    pub max_delete: u8,
    /// The room that a pull leaves free.
    pub min_free: MinFree,
    /// Larger files are left out, in bytes; `None` is no limit.
    #[serde(with = "values::size_limit", skip_serializing_if = "Option::is_none")]
    pub max_file_size: Option<u64>,
    /// How long the client may stay silent when it owes an answer.
    #[serde(with = "values::duration")]
    pub timeout: Duration,
    /// How long the client may say that it is at work without sending anything; `None` is no limit.
    #[serde(with = "values::time_limit")]
    pub stall_time: Option<Duration>,
    /// How long a whole pull may take; `None` is no limit.
    #[serde(with = "values::time_limit")]
    pub max_time: Option<Duration>,
    /// How often to connect again when the line is lost.
    pub retries: u32,
    /// The most bytes a second to read from the client; `None` is no limit.
    #[serde(with = "values::size_limit", skip_serializing_if = "Option::is_none")]
    pub bwlimit: Option<u64>,
    /// Send changed files whole, whatever of them is on the server.
    pub whole_file: bool,
    /// When what the helper sends is compressed.
    pub compress: CompressWhen,
    /// How to reach the client; `None` takes the best that works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<ClientKind>,
    /// How long a plain file counts as intact after it was read: an older one is read before anything is linked to it.
    #[serde(with = "values::duration")]
    pub verify_age: Duration,
    /// How long a period is in which it is pulled once. A [`Source`] has it in its `schedule`.
    #[serde(with = "values::some_duration", skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
    /// From when on in each period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<TimeOfDay>,
    /// Switches for measurements, which nobody should need.
    pub tuning: Tuning,
    /// What `prune` keeps; `None` is everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            host: None,
            paths: None,
            ssh_config: None,
            port: None,
            identity: None,
            exclude: Vec::new(),
            exclude_from: None,
            exclude_caches: false,
            exclude_if_present: Vec::new(),
            one_file_system: false,
            hash: HashWhere::default(),
            archive: ArchiveWhat::default(),
            link: LinkWhen::default(),
            max_delete: 50,
            min_free: MinFree::Percent(1),
            max_file_size: None,
            timeout: Duration::from_secs(60),
            // One file of two terabytes, read at 100 MB/s, and nothing to send until its hash is known.
            stall_time: Some(Duration::from_secs(6 * 3600)),
            // A busy client must not keep others, and `prune`, waiting for ever. What was received by then is in place.
            max_time: Some(Duration::from_secs(7 * 24 * 3600)),
            retries: 2,
            bwlimit: None,
            whole_file: false,
            compress: CompressWhen::default(),
            remote: None,
            verify_age: Duration::from_secs(30 * 24 * 3600),
            every: None,
            at: None,
            tuning: Tuning::default(),
            keep: None,
        }
    }
}

/// The keys of `tuning`: for measurements, and for machines that the choices made automatically do not fit.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tuning {
    /// How content is received.
    pub copy: CopyBy,
    /// Over how many channels small files are received; `None` takes as many as fill the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<AtOnce>,
    /// How many threads of the helper read on the client; `None` takes as many as it has processors, but not too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readers: Option<AtOnce>,
    /// How many threads write what is received; `None` takes as many as there are processors, but not too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writers: Option<AtOnce>,
    /// Move the files of a new directory into the snapshot together.
    pub gather: bool,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { copy: CopyBy::default(), channels: None, readers: None, writers: None, gather: true }
    }
}

impl Settings {
    /// Refuses settings that contradict each other, or mean nothing.
    pub fn check(&self) -> Result<()> {
        let way = check_client_kind(self.host.is_some(), self.remote);
        way.map_err(|error| error.hint("leave out `remote`: the best way that works is found"))?;
        if self.every.is_some_and(|every| every.is_zero()) {
            return Err(
                Error::usage("`every` is zero").hint("write it as in `1d`; without it, the source is always due")
            );
        }
        self.paths.iter().flatten().try_for_each(|path| check_root(path.as_bytes()))?;
        self.keep().map(drop)
    }

    /// The rules of `prune`; `None` keeps everything.
    pub fn keep(&self) -> Result<Option<&Keep>> {
        match &self.keep {
            Some(keep) if keep.is_empty() => Err(Error::usage("`keep` keeps nothing")
                .hint("write it as in `keep = { daily = 14 }`; without it, everything is kept")),
            keep => Ok(keep.as_ref()),
        }
    }
}

/// Refuses roots of which one lies within another.
pub fn refuse_overlap<'a>(roots: impl Iterator<Item = &'a AbsPath> + Clone) -> Result<()> {
    for (at, one) in roots.clone().enumerate() {
        for other in roots.clone().skip(at + 1) {
            if one.starts_with(other) || other.starts_with(one) {
                return Err(Error::usage(format_args!("`{one}` and `{other}` overlap")).hint("name only the outer one"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_that_ssh_would_take_for_an_option_is_refused() {
        let check = |host: &str| Ssh { host: host.to_owned(), ..Ssh::default() }.check_host();
        assert_eq!(Ssh::plain_host("anna@[fe80::1%eth0]"), "anna@fe80::1%eth0");
        assert_eq!(Ssh::plain_host("ssh://[::1]:22"), "ssh://[::1]:22");
        for host in
            ["laptop", "anna@laptop", "ssh://[::1]:22", "fe80::1%eth0", "ssh://laptop", "ssh://anna@laptop:22", "a-b"]
        {
            check(host).unwrap();
        }
        for host in [
            "",
            "-V",
            "[::1",
            "a]b",
            "ssh://-V",
            "ssh://",
            "anna@-V",
            "-V@laptop",
            "ssh://-V@laptop",
            "ssh://a@-V:2",
            "a b",
            "a\nb",
        ] {
            assert_eq!(check(host).unwrap_err().kind(), crate::error::Kind::Usage, "{host}");
        }
    }

    #[test]
    fn source_is_named_after_its_host() {
        for (host, name) in [
            ("anna@laptop.lan", "laptop.lan"),
            ("[::1]", "0--1"),
            ("0:0:0:0:0:0:0:1", "0--1"),
            ("anna@[fe80::1%eth0]", "fe80--1_eth0"),
            ("192.168.1.5", "192.168.1.5"),
            ("a b", "a_b"),
        ] {
            assert_eq!(name_of_host(host), name, "{host}");
        }
    }
}
