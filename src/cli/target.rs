//! What a pull's arguments name: a configured source, a host's path, or a path of this machine.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use crate::config::{Config, Keys};
use crate::error::{Error, Result};
use crate::path::{Escaped, SourceName};
use crate::source::{Source, Ssh, name_of_host};

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
                let mut source = config.source(&known)?.ok_or_else(|| unknown(&known, config))?;
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
                let mut source = keys(config, &name).source(SourceName::new(&name)?)?;
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
                let mut source = keys(config, name).source(SourceName::new(name)?)?;
                (source.ssh, source.paths) = (None, vec![path]);
                Ok(source)
            }
        }
    }
}

fn keys(config: &Config, name: &str) -> Keys {
    let mut keys = config.keys(name).unwrap_or_else(|| config.defaults.clone());
    if keys.host.is_none() {
        // Ssh's settings count for hosts that are named on the command line, too.
        keys.host = Some(String::new());
    }
    keys
}

fn host_and_path(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let bracket = bytes.iter().position(|&byte| byte == b'[').filter(|&at| at == 0 || bytes[at - 1] == b'@');
    let colon =
        match bracket.and_then(|at| bytes[at..].windows(2).position(|pair| pair == b"]:").map(|end| at + end + 1)) {
            Some(colon) => colon,
            None => bytes.iter().position(|&byte| byte == b':')?,
        };
    let (host, path) = (&bytes[..colon], &bytes[colon + 1..]);
    (bracket.is_some() || !host.contains(&b'/')).then_some((host, path))
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
    let wrong = |error: std::io::Error| Error::usage(error).hint("name a directory or a file");
    let expanded = match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.to_owned(),
    };
    let climbs = expanded.components().any(|part| part == Component::ParentDir);
    let found = if climbs { fs_err::canonicalize(&expanded) } else { std::path::absolute(&expanded) };
    // Without a slash at its end.
    let plain = found.map_err(wrong)?.components().collect::<PathBuf>();
    Ok(OsString::from(plain).into_vec())
}

fn unknown(name: &str, config: &Config) -> Error {
    let known: Vec<_> = config.source_names().collect();
    let error = Error::usage(format_args!("there is no source `{name}` in the configuration"));
    match known.is_empty() {
        true => error.hint(format_args!("write `{name}:/PATH` for a host, or `./{name}` for a directory")),
        false => error.hint(format_args!("it has `{}`; for a directory write `./{name}`", known.join("`, `"))),
    }
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
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
