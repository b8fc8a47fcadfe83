//! Checked byte paths: of clients, and of places in the repository.

use std::fmt;

use crate::error::{Error, Result};

pub use archive_helper::ground::{AbsPath, MAX_NAME, MAX_PATH, Name, escape, is_unprintable};

/// The name of a source: also a directory's name in both trees, so it is checked like one, and it is text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(String);

impl SourceName {
    /// Checks `text`: 1 to 100 letters, digits, `.`, `_`, `-` and `@`, not starting with `.` or `-`.
    pub fn new(text: &str) -> Result<SourceName> {
        let plain = text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@'));
        if text.is_empty() || text.len() > 100 || text.starts_with(['.', '-']) || !plain {
            return Err(Error::usage(format_args!("`{}` can't name a source", Escaped(text.as_bytes())))
                .hint("use letters, digits, `.`, `_`, `-` and `@`, or give another name with `--name`"));
        }
        Ok(SourceName(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as that of a directory in the trees.
    pub fn to_name(&self) -> Name {
        Name::new(self.0.as_bytes()).expect("a source's name is checked to be a directory's name")
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes shown to a person: see [`escape`].
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(self.0, f)
    }
}
