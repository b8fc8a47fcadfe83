//! Names and paths, checked bytes. Decoding one checks it.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name of a directory entry, in bytes.
pub const MAX_NAME: usize = 255;

/// The longest path, in bytes, as Linux's `PATH_MAX` less its terminating NUL.
pub const MAX_PATH: usize = 4095;

/// The name of a directory entry: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// Checks `bytes`; `None` when they are no name.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Name> {
        let bytes = bytes.into();
        let fits = (1..=MAX_NAME).contains(&bytes.len());
        let plain = !bytes.iter().any(|byte| matches!(byte, 0 | b'/'));
        (fits && plain && bytes != b"." && bytes != b"..").then_some(Name(bytes))
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// An absolute path: starts with `/`, every part a [`Name`], at most [`MAX_PATH`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbsPath(Vec<u8>);

impl AbsPath {
    /// Checks `bytes`; `None` when they are no absolute path in its shortest form.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<AbsPath> {
        let bytes = bytes.into();
        let parts_ok = match bytes.split_first() {
            Some((b'/', [])) => true,
            Some((b'/', rest)) => rest.split(|&byte| byte == b'/').all(is_name),
            _ => false,
        };
        (parts_ok && bytes.len() <= MAX_PATH).then_some(AbsPath(bytes))
    }

    /// The root directory, `/`.
    pub fn root() -> AbsPath {
        AbsPath(vec![b'/'])
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True for `/`.
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The path of `name` in this directory; `None` when it would be longer than [`MAX_PATH`].
    pub fn join(&self, name: &Name) -> Option<AbsPath> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        bytes.extend_from_slice(&self.0);
        if !self.is_root() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(&name.0);
        (bytes.len() <= MAX_PATH).then_some(AbsPath(bytes))
    }

    /// The parent directory and the name in it; `None` for `/`.
    pub fn split(&self) -> Option<(AbsPath, Name)> {
        if self.is_root() {
            return None;
        }
        let slash = self.0.iter().rposition(|&byte| byte == b'/')?;
        let parent = if slash == 0 { AbsPath::root() } else { AbsPath(self.0[..slash].to_vec()) };
        Some((parent, Name(self.0[slash + 1..].to_vec())))
    }

    /// True when `self` is `ancestor` or lies below it.
    pub fn starts_with(&self, ancestor: &AbsPath) -> bool {
        ancestor.is_root()
            || self.0.strip_prefix(&ancestor.0[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// The path below `/`, without the leading slash: empty for `/`.
    pub fn below_root(&self) -> &[u8] {
        &self.0[1..]
    }
}

fn is_name(part: &[u8]) -> bool {
    (1..=MAX_NAME).contains(&part.len()) && !part.contains(&0) && part != b"." && part != b".."
}

/// Writes bytes for a person: control characters, backslashes and what is not UTF-8 as `\xNN`.
pub fn escape(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_unprintable(character) || character == '\\' {
                character.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?
            } else {
                write!(f, "{character}")?
            }
        }
        chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
    }
    Ok(())
}

/// True for control characters, and for what steers text without being seen and could disguise a name: Unicode's marks of
/// direction (Bidi_Control), separators of lines, and invisible format characters. Joiners (U+200C, U+200D) are not among
/// them: Persian and emoji need them.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

macro_rules! checked_bytes {
    ($type:ident, $expecting:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                escape(&self.0, f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{self}\"")
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Checked;
                impl Visitor<'_> for Checked {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<$type, E> {
                        $type::new(bytes).ok_or_else(|| E::custom($expecting))
                    }
                }
                deserializer.deserialize_bytes(Checked)
            }
        }
    };
}

pub(crate) use checked_bytes;

checked_bytes!(Name, "a name of 1 to 255 bytes");
checked_bytes!(AbsPath, "an absolute path of at most 4095 bytes");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_text_is_escaped() {
        // Bidi_Control of Unicode's PropList.txt, and some that are not seen.
        let bidi = ['\u{61c}', '\u{200e}', '\u{200f}'].into_iter().chain('\u{202a}'..='\u{202e}');
        let bidi = bidi.chain('\u{2066}'..='\u{2069}');
        for character in bidi.chain(['\0', '\x1b', '\x7f', '\u{85}', '\u{2028}', '\u{200b}', '\u{2060}', '\u{e0041}']) {
            let name = Name::new(format!("a{character}b").into_bytes());
            let shown = name.map_or_else(|| "a\\x00b".to_owned(), |name| name.to_string());
            assert!(shown.starts_with("a\\x") && shown.is_ascii(), "{:x}: {shown}", character as u32);
        }
        for text in ["é", "日本", "می\u{200c}خواهم", "👩\u{200d}👧", "שלום"] {
            assert_eq!(Name::new(text.as_bytes()).unwrap().to_string(), text);
        }
    }
}
