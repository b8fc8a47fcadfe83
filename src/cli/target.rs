//! What a pull's arguments name: a configured source, a host's path, or a path of this machine.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::named::{split, without_brackets};
use crate::config::Config;
use crate::error::{Error, Result, cause};
use crate::path::{Escaped, SourceName};
use crate::source::{Settings, Source, Ssh, name_of_host};

/// The source's name of this machine, when no configuration gives it another.
const THIS_MACHINE: &str = "localhost";

/// What one argument names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A source of the configuration.
    Source(String),
    /// A path on a host.
    Remote {
        /// `[USER@]HOST`.
        host: String,
        /// Absolute, or relative to the account's home.
        path: Vec<u8>,
    },
    /// A path of this machine, absolute.
    Local(Vec<u8>),
}

impl Target {
    /// Reads an argument.
    pub fn parse(text: &OsStr) -> Result<Target> {
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err(Error::usage("an empty target").hint("name a source, `[USER@]HOST:PATH`, or a local path"));
        }
        if matches!(bytes[0], b'/' | b'.' | b'~') {
            return local(Path::new(text)).map(Target::Local);
        }
        refuse_bad_address(bytes)?;
        match host_and_path(bytes) {
            Some((host, path)) => remote(host, path),
            None if bytes.contains(&b'/') => local(Path::new(text)).map(Target::Local),
            None => Ok(Target::Source(Escaped(bytes).to_string())),
        }
    }

    /// The source that this target is of, with the settings that the configuration has for it.
    pub fn source(self, config: &Config, name: Option<&str>) -> Result<Source> {
        match self {
            Target::Source(known) => {
                // A user before the address would count for nothing.
                let name_known = if known.starts_with('[') { without_brackets(&known) } else { known.clone() };
                let mut source = config.source(&name_known)?.ok_or_else(|| unknown(&known, config))?;
                if source.paths.is_empty() {
                    return Err(Error::usage(format_args!("source `{known}` has no `paths`"))
                        .hint("list them in the configuration"));
                }
                if let Some(name) = name {
                    source.name = SourceName::new(name)?;
                }
                Ok(source)
            }
            Target::Remote { host, path } => {
                let own_name = name_of_host(&host);
                let name = name.map_or(own_name.clone(), str::to_owned);
                let mut source = Source::new(SourceName::new(&name)?, settings(config, &name))?;
                let configured = source.ssh.take().unwrap_or_default();
                // A configured host says how the source is reached; a user named here counts more.
                let known = !configured.host.is_empty() && !host.contains('@') && own_name == name;
                let host = if known { configured.host.clone() } else { host };
                source.ssh = Some(Ssh { host, ..configured });
                source.paths = vec![path];
                Ok(source)
            }
            Target::Local(path) => {
                let name = name.unwrap_or(THIS_MACHINE);
                let mut source = Source::new(SourceName::new(name)?, settings(config, name))?;
                (source.ssh, source.paths) = (None, vec![path]);
                Ok(source)
            }
        }
    }
}

fn settings(config: &Config, name: &str) -> Settings {
    let mut settings = config.settings(name);
    // Ssh's settings count for hosts that are named on the command line, too.
    settings.host.get_or_insert_default();
    settings
}

fn host_and_path(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (host, path) = split(bytes);
    path.filter(|_| is_in_brackets(host) || !host.contains(&b'/')).map(|path| (host, path))
}

fn without_user(host: &[u8]) -> &[u8] {
    host.iter().position(|&byte| byte == b'@').map_or(host, |at| &host[at + 1..])
}

fn is_in_brackets(host: &[u8]) -> bool {
    without_user(host).starts_with(b"[")
}

// An IPv6 address has colons, so that it needs brackets, and those need a colon and a path behind them.
fn refuse_bad_address(bytes: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(bytes);
    let host = text.split_once(":/").map_or(&*text, |(host, _)| host).trim_end_matches('/');
    let (user, bare) = host.rsplit_once('@').map_or(("", host), |(user, _)| host.split_at(user.len() + 1));
    let shown = Escaped(bytes);
    if is_address(bare) {
        return Err(Error::usage(format_args!("`{shown}` has an IPv6 address without brackets"))
            .hint(format_args!("write `{}`", Escaped(format!("{user}[{bare}]:/PATH").as_bytes()))));
    }
    match bare.strip_prefix('[').map(|bare| bare.split_once(']')) {
        Some(Some((address, rest))) if is_address(address) && !rest.is_empty() && !rest.starts_with(':') => {
            Err(Error::usage(format_args!("`{shown}` has no colon between address and path"))
                .hint(format_args!("write `{}`", Escaped(format!("{user}[{address}]:/PATH").as_bytes()))))
        }
        Some(None) if bare.contains(':') => Err(Error::usage(format_args!("`{shown}` has no `]` behind its address"))
            .hint("write an IPv6 address as in `[::1]:/PATH`")),
        _ => Ok(()),
    }
}

// With or without a zone, as in `fe80::1%eth0`.
fn is_address(text: &str) -> bool {
    text.split('%').next().is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

fn remote(host: &[u8], path: &[u8]) -> Result<Target> {
    let shown = Escaped(host).to_string();
    let host = Ssh::plain_host(std::str::from_utf8(host).unwrap_or_default());
    if (Ssh { host: host.clone(), ..Ssh::default() }).check_host().is_err() {
        return Err(Error::usage(format_args!("`{shown}` is no host")).hint("write `[USER@]HOST:PATH`"));
    }
    if path.is_empty() {
        return Err(Error::usage(format_args!("`{shown}:` names no path"))
            .hint(format_args!("write `{shown}:/` for all of it, or `{shown}:/home`")));
    }
    Ok(Target::Remote { host, path: path.to_vec() })
}

fn local(path: &Path) -> Result<Vec<u8>> {
    let wrong = |error: std::io::Error| {
        let text = format_args!("can't find `{}`: {}", Escaped(path.as_os_str().as_bytes()), cause(&error));
        Error::usage(text).hint("name a directory or a file")
    };
    let expanded = match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.to_owned(),
    };
    let climbs = expanded.components().any(|part| part == Component::ParentDir);
    let found = if climbs { std::fs::canonicalize(&expanded) } else { std::path::absolute(&expanded) };
    // Without a slash at its end.
    let plain = found.map_err(wrong)?.components().collect::<PathBuf>();
    Ok(OsString::from(plain).into_vec())
}

fn unknown(name: &str, config: &Config) -> Error {
    let known: Vec<_> = config.source_names().collect();
    let has = if known.is_empty() { String::new() } else { format!("it has `{}`; ", known.join("`, `")) };
    Error::usage(format_args!("there is no source `{name}` in the configuration"))
        .hint(format_args!("{has}write `{name}:/PATH` for a host, or `./{name}` for a directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Target> {
        Target::parse(OsStr::new(text))
    }

    fn far(host: &str, path: &str) -> Target {
        Target::Remote { host: host.to_owned(), path: path.as_bytes().to_vec() }
    }

    #[test]
    fn targets_are_told_apart() {
        assert_eq!(parsed("laptop").unwrap(), Target::Source("laptop".to_owned()));
        assert_eq!(parsed("laptop:/home").unwrap(), far("laptop", "/home"));
        assert_eq!(parsed("anna@laptop:docs").unwrap(), far("anna@laptop", "docs"));
        assert_eq!(parsed("[::1]:/x").unwrap(), far("::1", "/x"));
        assert_eq!(parsed("anna@[fe80::1]:/x:y").unwrap(), far("anna@fe80::1", "/x:y"));
        assert_eq!(parsed("[fe80::1%eth0]:/x").unwrap(), far("fe80::1%eth0", "/x"));
        assert_eq!(parsed("[laptop]:x").unwrap(), far("laptop", "x"));
        assert!(matches!(parsed("[a/c").unwrap(), Target::Local(_)));
        assert_eq!(parsed("a[b]/c").unwrap_or_else(|error| panic!("{error}")), parsed("./a[b]/c").unwrap());
        assert_eq!(parsed("/srv/a:b").unwrap(), Target::Local(b"/srv/a:b".to_vec()));
        assert_eq!(parsed("/srv/./x/").unwrap(), Target::Local(b"/srv/x".to_vec()));
    }

    #[test]
    fn what_names_nothing_is_refused_with_a_hint() {
        for (text, says) in [
            ("host:", "names no path"),
            (":/x", "is no host"),
            ("-oProxyCommand=x:/y", "is no host"),
            ("anna@-oProxyCommand=x:/y", "is no host"),
            ("", "empty"),
            ("[::1]:", "`[::1]:` names no path: write `[::1]:/` "),
            ("::1", "`::1` has an IPv6 address without brackets: write `[::1]:/PATH`"),
            ("fe80::1:/x", "without brackets: write `[fe80::1]:/PATH`"),
            ("anna@fe80::1%eth0", "write `anna@[fe80::1%eth0]:/PATH`"),
            ("[::1", "`[::1` has no `]` behind its address"),
            ("anna@[::1:/x", "has no `]`"),
            ("[::1]/x", "has no colon between address and path: write `[::1]:/PATH`"),
            ("anna@[::1]x", "write `anna@[::1]:/PATH`"),
            ("[]:/x", "is no host"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
    #[test]
    fn address_in_brackets_without_a_path_names_its_source() {
        let config = Config::parse(Path::new("archive.toml"), "[source.0--1]\nhost = '::1'\npaths = ['/x']\n").unwrap();
        let source = |text: &str| parsed(text)?.source(&config, None);
        assert_eq!(source("[::1]").unwrap().name.as_str(), "0--1");
        assert!(source("anna@[::1]").unwrap_err().to_string().contains("write `anna@[::1]:/PATH` for a host"));
        assert_eq!(
            source("[::2]").unwrap_err().to_string(),
            "there is no source `[::2]` in the configuration: it has `0--1`; write `[::2]:/PATH` for a host, or `./[::2]` \
             for a directory"
        );
    }
}
