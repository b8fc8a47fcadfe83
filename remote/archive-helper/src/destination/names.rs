//! Whether a file system takes two names for the same, as those do that ignore case: then what is found under a name may
//! have another one.

use std::collections::HashSet;

use super::Destination;
use crate::protocol::AbsPath;
use crate::system::Errno;

/// The names in a directory, as they were listed last.
pub(super) struct Listed {
    directory: AbsPath,
    names: HashSet<Vec<u8>>,
}

impl Destination {
    /// True if what was found under a name in a directory really has this name.
    pub(super) fn has_exact_name(&mut self, directory: &AbsPath, name: &[u8]) -> Result<bool, Errno> {
        let folder = self.folder(directory)?;
        // Their inode numbers would not tell: FUSE may give each name one of its own.
        let may_be_another = may_stand_for_another(name) || {
            let flipped = other_case(name);
            flipped != name && folder.metadata(&flipped)?.is_some()
        };
        if !may_be_another {
            return Ok(true);
        }
        if self.listed.as_ref().is_some_and(|listed| listed.directory == *directory && listed.names.contains(name)) {
            return Ok(true);
        }
        let names = folder.names()?;
        let has_it = names.contains(name);
        self.listed = Some(Listed { directory: directory.clone(), names });
        Ok(has_it)
    }
}

// The encoding of an accent does not count for some file systems, nor do dots and spaces at the end.
fn may_stand_for_another(name: &[u8]) -> bool {
    !name.is_ascii() || name.ends_with(b".") || name.ends_with(b" ")
}

fn other_case(name: &[u8]) -> Vec<u8> {
    let flip =
        |byte: &u8| if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
    name.iter().map(flip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_stand_for_another_are_known() {
        assert_eq!(other_case(b"aB1.\xc3\xa9"), b"Ab1.\xc3\xa9");
        for name in ["\u{e9}", "a.", "a "] {
            assert!(may_stand_for_another(name.as_bytes()), "{name}");
        }
        assert!(!may_stand_for_another(b"a.b c"));
    }
}
