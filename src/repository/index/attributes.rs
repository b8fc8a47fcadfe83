//! Attributes in the index: each set of them once, as text that `setfattr --restore` reads.
//!
//! A line `NAME=0sBASE64` for each extended attribute, as getfattr(1) dumps it; then, for a file with holes, a line
//! `# data: OFFSET+LENGTH …`, which says where it has data; then, for an mtime that 64 bits of nanoseconds can't hold, a line
//! `# mtime: SECONDS.NANOSECONDS`.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::params;

use super::{CANT_WRITE, OnIndex, Write};
use crate::entry::{Attributes, Entry, Extent, Time, Xattr};
use crate::error::Result;

const DATA: &str = "# data:";
const MTIME: &str = "# mtime: ";
const BASE64: &str = "0s";

impl Write<'_> {
    /// The number of a set of attributes, as [`stored`] writes it, which is given one if it has none.
    pub(super) fn enter_attributes(&self, text: &str) -> Result<i64> {
        let digest = blake3::hash(text.as_bytes());
        let sql = "INSERT INTO attributes (digest, value) VALUES (?1, ?2) \
                   ON CONFLICT (digest) DO UPDATE SET digest = digest RETURNING id";
        let id = self
            .transaction
            .prepare_cached(sql)
            .and_then(|mut insert| insert.query_row(params![&digest.as_bytes()[..16], text], |row| row.get(0)));
        id.on_index(CANT_WRITE)
    }

    /// Forgets attributes that no version has any more.
    pub fn drop_unused_attributes(&self) -> Result<()> {
        let sql = "DELETE FROM attributes WHERE NOT EXISTS \
                   (SELECT 1 FROM version WHERE version.attributes = attributes.id)";
        self.execute(sql, params![])
    }
}

/// What the index has of an entry besides its columns; `None` for nothing.
pub(super) fn stored(entry: &Entry) -> Option<String> {
    let attributes = entry.attributes.as_deref().map(encode);
    if !entry.mtime.is_far() {
        return attributes;
    }
    Some(format!("{}{MTIME}{}\n", attributes.unwrap_or_default(), entry.mtime))
}

/// Attributes as text: lines as getfattr dumps them, and one that tells where data is between holes.
pub fn encode(attributes: &Attributes) -> String {
    let mut text = String::new();
    for Xattr { name, value } in &attributes.xattrs {
        for &byte in name {
            // What setfattr would take for something else, and what is no plain character, is an octal number.
            if byte.is_ascii_graphic() && !matches!(byte, b'=' | b'\\' | b'#') {
                text.push(char::from(byte))
            } else {
                write!(text, "\\{byte:03o}").expect("a string takes everything")
            }
        }
        writeln!(text, "={BASE64}{}", STANDARD.encode(value)).expect("a string takes everything");
    }
    if let Some(data) = &attributes.data {
        text.push_str(DATA);
        for Extent { offset, length } in data {
            write!(text, " {offset}+{length}").expect("a string takes everything");
        }
        text.push('\n');
    }
    text
}

/// Attributes and a far mtime from what [`stored`] wrote; `None` if it is damaged.
pub(super) fn decode(text: &str) -> Option<(Option<Box<Attributes>>, Option<Time>)> {
    let (mut attributes, mut mtime) = (Attributes::default(), None);
    for line in text.lines() {
        if let Some(time) = line.strip_prefix(MTIME) {
            mtime = Some(time.parse().ok().filter(|time: &Time| time.is_far())?);
            continue;
        }
        match line.strip_prefix(DATA) {
            Some(data) => attributes.data = Some(data.split_whitespace().map(extent).collect::<Option<_>>()?),
            None => attributes.xattrs.push(xattr(line)?),
        }
    }
    let attributes = attributes.some();
    (attributes.is_some() || mtime.is_some()).then_some((attributes, mtime))
}

fn extent(text: &str) -> Option<Extent> {
    let (offset, length) = text.split_once('+')?;
    Some(Extent { offset: offset.parse().ok()?, length: length.parse().ok()? })
}

fn xattr(line: &str) -> Option<Xattr> {
    let (name, value) = line.split_once('=')?;
    Some(Xattr { name: unescape(name)?, value: STANDARD.decode(value.strip_prefix(BASE64)?).ok()? })
}

fn unescape(name: &str) -> Option<Vec<u8>> {
    let mut parts = name.split('\\');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..3)?, 8).ok()?);
        bytes.extend_from_slice(part.get(3..)?.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::testing;
    use archive_helper::protocol::ACCESS_ACL;
    use proptest::prelude::*;

    #[test]
    fn text_is_what_getfattr_dumps() {
        let xattr = |name: &[u8], value: &[u8]| Xattr { name: name.to_vec(), value: value.to_vec() };
        let xattrs = vec![xattr(ACCESS_ACL, &[2, 0, 0, 0]), xattr("user.a=b\\ ü".as_bytes(), b"hello")];
        let data = Some(vec![Extent { offset: 4096, length: 4096 }, Extent { offset: 1 << 40, length: 1 }]);
        let text = "system.posix_acl_access=0sAgAAAA==\nuser.a\\075b\\134\\040\\303\\274=0saGVsbG8=\n\
                    # data: 4096+4096 1099511627776+1\n";
        let attributes = Attributes { xattrs, data };
        assert_eq!(encode(&attributes), text);
        assert_eq!(decode(text), Some((Some(Box::new(attributes)), None)));
    }

    #[test]
    fn far_mtime_is_stored_with_attributes_and_without() {
        let (near, far) = (Time::from(i64::MAX), Time::new(-20_000_000_000, 5));
        let xattrs = vec![Xattr { name: b"user.a".to_vec(), value: Vec::new() }];
        let attributes = Attributes { xattrs, data: None }.some();
        let entry = |mtime, attributes| Entry { mtime, attributes, ..testing::file("f") };
        assert_eq!(stored(&entry(near, None)), None);
        assert_eq!(stored(&entry(far, None)).as_deref(), Some("# mtime: -19999999999.999999995\n"));
        assert_eq!(decode("# mtime: -19999999999.999999995\n"), Some((None, Some(far))));
        let both = stored(&entry(far, attributes.clone())).unwrap();
        assert_eq!(both, "user.a=0s\n# mtime: -19999999999.999999995\n");
        assert_eq!(decode(&both), Some((attributes, Some(far))));
    }

    #[test]
    fn a_damaged_text_is_none() {
        for text in [
            "user.a",
            "user.a=x",
            "user.a=0s!",
            "user.\\9=0s",
            "user.\\07=0s",
            "# data: 1",
            "# data: 1+x",
            "# mtime: 1",
            "# mtime: 1.000000000",
            "",
        ] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_set_comes_back(
            xattrs in proptest::collection::vec(("(user|trusted)\\.", any::<Vec<u8>>(), any::<Vec<u8>>()), 0..4),
            data in proptest::option::of(proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4)),
        ) {
            let xattrs = xattrs.into_iter().map(|(space, name, value)| Xattr { name: [space.as_bytes(), &name].concat(), value });
            let data = data.map(|data| data.into_iter().map(|(offset, length)| Extent { offset, length }).collect());
            let attributes = Attributes { xattrs: xattrs.collect(), data }.some();
            let decoded = attributes.as_deref().map(|attributes| decode(&encode(attributes)));
            prop_assert_eq!(decoded, attributes.is_some().then_some(Some((attributes, None))));
        }
    }
}
