//! The columns of the table `version`: one list for reading, entering, refreshing and decoding a row.
//!
//! A new column is one line here, a line in `schema.sql`, and a step in `migration.rs`. The build then demands the value that
//! is entered for it, whether a refresh changes it, and the field that it is decoded to; a test compares it with the schema.

use std::sync::LazyLock;

use rusqlite::Row;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::{NewVersion, attributes, kind_of, name_of};
use crate::entry::{DirectoryId, Entry, Inode, Time, Version};

macro_rules! columns {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// A column, in the order of [`COLUMNS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Column { $($variant),+ }

        impl Column {
            pub(super) const ALL: &[Column] = &[$(Column::$variant),+];

            pub(super) fn name(self) -> &'static str {
                match self { $(Column::$variant => $name),+ }
            }
        }

        /// What to select for [`version_of`]: every column, and the text of the attributes.
        pub(super) const COLUMNS: &str = concat!(
            $("version.", $name, ", ",)+
            "CASE WHEN version.attributes IS NULL THEN NULL ",
            "ELSE (SELECT value FROM attributes WHERE id = version.attributes) END"
        );
    };
}

columns! {
    Id = "id",
    Directory = "directory",
    Name = "name",
    Kind = "kind",
    Size = "size",
    Mtime = "mtime",
    Ctime = "ctime",
    Mode = "mode",
    Uid = "uid",
    Gid = "gid",
    Target = "target",
    Device = "device",
    InodeDevice = "inode_device",
    InodeNumber = "inode_number",
    Hash = "hash",
    FromRun = "from_run",
    UntilRun = "until_run",
    ArchiveName = "archive_name",
    Flags = "flags",
    Attributes = "attributes",
    ReliesOn = "relies_on",
}

// Selected behind the columns.
const ATTRIBUTES_TEXT: usize = Column::ALL.len();

/// Where a query that selects more than [`COLUMNS`] has the first of it.
pub(super) const FURTHER: usize = ATTRIBUTES_TEXT + 1;

/// Enters a row: [`Column::value`] of every column, in order.
pub(super) static INSERT: LazyLock<String> = LazyLock::new(|| {
    let names = Column::ALL.iter().map(|column| column.name()).collect::<Vec<_>>().join(", ");
    let values = (1..=Column::ALL.len()).map(|number| format!("?{number}")).collect::<Vec<_>>().join(", ");
    format!("INSERT INTO version ({names}) VALUES ({values})")
});

/// Refreshes a row: its number, then [`Column::value`] of every column that [`Column::is_refreshed`].
pub(super) static REFRESH: LazyLock<String> = LazyLock::new(|| {
    let set = (2..).zip(Column::refreshed()).map(|(number, column)| format!("{} = ?{number}", column.name()));
    format!("UPDATE version SET {} WHERE id = ?1", set.collect::<Vec<_>>().join(", "))
});

/// A version to enter, or to refresh another one with.
pub(super) struct NewRow<'a> {
    pub(super) version: &'a NewVersion<'a>,
    /// The run that found it gone; `None` for a current version.
    pub(super) until_run: Option<i64>,
    /// The number of its set of attributes.
    pub(super) attributes: Option<i64>,
}

impl Column {
    /// The columns that get another value when a version is listed again with other metadata.
    pub(super) fn refreshed() -> impl Iterator<Item = Column> {
        Column::ALL.iter().copied().filter(|column| column.is_refreshed())
    }

    fn is_refreshed(self) -> bool {
        match self {
            Column::Size
            | Column::Mtime
            | Column::Ctime
            | Column::Mode
            | Column::Uid
            | Column::Gid
            | Column::InodeDevice
            | Column::InodeNumber
            | Column::Hash
            | Column::Flags
            | Column::Attributes => true,
            Column::Id
            | Column::Directory
            | Column::Name
            | Column::Kind
            | Column::Target
            | Column::Device
            | Column::FromRun
            | Column::UntilRun
            | Column::ArchiveName
            | Column::ReliesOn => false,
        }
    }

    /// What a row has in this column.
    pub(super) fn value<'a>(self, row: &NewRow<'a>) -> ToSqlOutput<'a> {
        let NewVersion { directory, entry, hash, run, archive_name, flags } = row.version;
        let Entry { name, kind, size, mtime, ctime, mode, uid, gid, inode, device, target, attributes: _ } = *entry;
        let number = |number: Option<i64>| number.map_or(ToSqlOutput::from(rusqlite::types::Null), ToSqlOutput::from);
        let bytes = |bytes: Option<&'a [u8]>| ToSqlOutput::Borrowed(bytes.map_or(ValueRef::Null, ValueRef::Blob));
        match self {
            // SQLite gives it one.
            Column::Id => number(None),
            Column::Directory => directory.0.into(),
            Column::Name => bytes(Some(name.as_bytes())),
            Column::Kind => kind.number().into(),
            Column::Size => (*size as i64).into(),
            Column::Mtime => mtime.clamped().into(),
            Column::Ctime => (*ctime).into(),
            Column::Mode => (*mode).into(),
            Column::Uid => (*uid).into(),
            Column::Gid => (*gid).into(),
            Column::Target => bytes(Some(&target[..]).filter(|target| !target.is_empty())),
            Column::Device => number((*device != 0).then_some(*device as i64)),
            Column::InodeDevice => number(inode.map(|inode| inode.device as i64)),
            Column::InodeNumber => number(inode.map(|inode| inode.number as i64)),
            Column::Hash => bytes(hash.as_ref().map(|hash| &hash[..])),
            Column::FromRun => (*run).into(),
            Column::UntilRun => number(row.until_run),
            Column::ArchiveName => bytes(archive_name.map(|name| name.as_bytes())),
            Column::Flags => (*flags).into(),
            Column::Attributes => number(row.attributes),
            // A later version takes the plain file over, if one does.
            Column::ReliesOn => number(None),
        }
    }

    fn get<T: rusqlite::types::FromSql>(self, row: &Row<'_>) -> rusqlite::Result<T> {
        row.get(self as usize)
    }
}

/// The version that a query for [`COLUMNS`] found.
pub(super) fn version_of(row: &Row<'_>) -> rusqlite::Result<Version> {
    let (attributes, far) = match row.get_ref(ATTRIBUTES_TEXT)? {
        ValueRef::Null => (None, None),
        value => attributes::decode(value.as_str()?).ok_or(rusqlite::Error::InvalidQuery)?,
    };
    let clamped: i64 = Column::Mtime.get(row)?;
    let mtime = far.unwrap_or_else(|| Time::from(clamped));
    if mtime.clamped() != clamped {
        return Err(rusqlite::Error::InvalidQuery);
    }
    let inode = match (Column::InodeDevice.get(row)?, Column::InodeNumber.get(row)?) {
        (Some::<i64>(device), Some::<i64>(number)) => Some(Inode { device: device as u64, number: number as u64 }),
        _ => None,
    };
    let entry = Entry {
        name: name_of(row.get_ref(Column::Name as usize)?)?,
        kind: kind_of(Column::Kind.get(row)?),
        size: Column::Size.get::<i64>(row)? as u64,
        mtime,
        ctime: Column::Ctime.get(row)?,
        mode: Column::Mode.get(row)?,
        uid: Column::Uid.get(row)?,
        gid: Column::Gid.get(row)?,
        inode,
        device: Column::Device.get::<Option<i64>>(row)?.unwrap_or(0) as u64,
        target: Column::Target.get::<Option<Vec<u8>>>(row)?.unwrap_or_default(),
        attributes,
    };
    Ok(Version {
        id: Column::Id.get(row)?,
        directory: DirectoryId(Column::Directory.get(row)?),
        entry,
        hash: Column::Hash.get(row)?,
        from_run: Column::FromRun.get(row)?,
        until_run: Column::UntilRun.get(row)?,
        archive_name: match row.get_ref(Column::ArchiveName as usize)? {
            ValueRef::Null => None,
            value => Some(name_of(value)?),
        },
        flags: Column::Flags.get(row)?,
        relies_on: Column::ReliesOn.get(row)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::index::Index;

    #[test]
    fn columns_are_those_of_the_schema() {
        let scratch = tempfile::tempdir().unwrap();
        let index = Index::open(scratch.path()).unwrap();
        let sql = "SELECT name FROM pragma_table_info('version')";
        let mut stored: Vec<String> = index.all(sql, [], |row| row.get(0)).unwrap();
        let mut listed: Vec<&str> = Column::ALL.iter().map(|column| column.name()).collect();
        stored.sort();
        listed.sort();
        assert_eq!(stored, listed);
    }
}
