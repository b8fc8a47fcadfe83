//! Tables of keys as they are written, before they become settings: where their paths start, and which key counts.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use toml::map::Entry;
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::path::Escaped;

// Keys whose values are paths of this machine.
const PATHS: [&str; 3] = ["ssh_config", "identity", "exclude_from"];

// A list that adds up, so that a source can take a pattern back with `!`.
const LIST: &str = "exclude";

// A table whose keys count one by one.
const TABLE: &str = "tuning";

/// Adds what counts more.
pub(super) fn merge(into: &mut Table, over: impl IntoIterator<Item = (String, Value)>) {
    for (key, value) in over {
        match into.entry(&key) {
            Entry::Vacant(free) => drop(free.insert(value)),
            Entry::Occupied(mut known) => match (known.get_mut(), value) {
                (Value::Array(first), Value::Array(then)) if key == LIST => first.extend(then),
                (Value::Table(first), Value::Table(then)) if key == TABLE => merge(first, then),
                (known, value) => *known = value,
            },
        }
    }
}

/// Has the paths among the keys start at a file's directory.
pub(super) fn placed(file: &Path, mut table: Table) -> Result<Table> {
    for (_, value) in table.iter_mut().filter(|(key, _)| PATHS.contains(&key.as_str())) {
        if let Value::String(path) = value {
            let placed = place(file, Path::new(path)).into_os_string().into_string();
            *path = placed.map_err(|placed| {
                Error::usage(format_args!("the path `{}` is not UTF-8", Escaped(placed.as_bytes())))
                    .hint("move the configuration to a directory with a plainer name")
            })?;
        }
    }
    Ok(table)
}

/// A path in a configuration file: it starts at that file's directory, or with `~/` at home.
pub(super) fn place(file: &Path, path: &Path) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let start = || std::path::absolute(file).ok().and_then(|file| Some(file.parent()?.to_owned())).unwrap_or_default();
    match (path.strip_prefix("~"), home) {
        (Ok(below), Some(home)) => home.join(below),
        _ => start().join(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(first: &str, then: &str) -> Table {
        let mut merged = first.parse().unwrap();
        merge(&mut merged, then.parse::<Table>().unwrap());
        merged
    }

    #[test]
    fn later_keys_count_excludes_add_up_and_tuning_is_merged() {
        let first = "hash = 'client'\nretries = 3\nexclude = ['a']\nexclude_if_present = ['a']\n\
                     keep = { last = 1 }\ntuning = { gather = false, writers = 1 }";
        let then = "hash = 'server'\nexclude = ['!a']\nexclude_if_present = ['b']\nkeep = { daily = 2 }\n\
                    tuning = { writers = 2 }";
        let expected = "hash = 'server'\nretries = 3\nexclude = ['a', '!a']\nexclude_if_present = ['b']\n\
                        keep = { daily = 2 }\ntuning = { gather = false, writers = 2 }";
        assert_eq!(merged(first, then), expected.parse().unwrap());
        assert_eq!(merged("", then), then.parse().unwrap());
    }

    #[test]
    fn paths_start_at_the_file() {
        let table = placed(Path::new("/etc/archive.toml"), "identity = 'key'\nhost = 'h'".parse().unwrap());
        assert_eq!(table.unwrap(), "identity = '/etc/key'\nhost = 'h'".parse().unwrap());
    }
}
