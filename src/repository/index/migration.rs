//! Bringing an index of an older format up to date, in one transaction: what is cut off is done again.

use rusqlite::{Connection, Transaction};

use super::{ADDITIONS, CONTENTS, Index, OnIndex, USER_VERSION, contents};
use crate::error::{Error, Kind, Result};

// What the second format has that the first had not. Nothing is known of attributes yet: everything is listed again.
const TO_FORMAT_2: &str = "ALTER TABLE version ADD COLUMN attributes INTEGER REFERENCES attributes; \
                           UPDATE directory SET fingerprint = NULL";

// The third computes fingerprints in another way.
const TO_FORMAT_3: &str = "UPDATE directory SET fingerprint = NULL";

// The fourth has tables for what was found by two indexes of `version`.
const TO_FORMAT_4: &str = "DROP INDEX version_by_hash; DROP INDEX version_by_size";

// The fifth says which version's plain file a version relies on, and what is known of the inodes of plain files.
const TO_FORMAT_5: &str = include_str!("format_5.sql");

// The sixth has mtimes of years that 64 bits of nanoseconds can't hold, among the attributes. What it knew of them before is
// the nearest time; the next pull finds them changed.

// A version that relies on one that relies on a third relies on the third.
const FLATTEN: &str = "UPDATE version SET relies_on = \
                       (SELECT other.relies_on FROM version AS other WHERE other.id = version.relies_on) \
                       WHERE relies_on IN (SELECT id FROM version WHERE relies_on IS NOT NULL)";

// Nothing relies on a version without a plain file.
const DROP_BASELESS: &str = "UPDATE version SET relies_on = NULL WHERE relies_on IN \
                             (SELECT id FROM version WHERE until_run IS NOT NULL AND archive_name IS NULL)";

/// Brings an index up to date.
pub(super) fn bring_up_to_date(mut index: Index) -> Result<Index> {
    let done = (|| {
        let transaction = index.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // Another process may have been faster.
        let found = format_of(&transaction)?;
        for format in found + 1..=USER_VERSION {
            step_to(&transaction, format)?;
        }
        transaction.execute_batch(ADDITIONS)?;
        transaction.pragma_update(None, "user_version", USER_VERSION)?;
        transaction.commit()
    })();
    done.on_index("can't open the index").map(|()| index)
}

fn format_of(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn step_to(transaction: &Transaction<'_>, format: i64) -> rusqlite::Result<()> {
    match format {
        2 => transaction.execute_batch(TO_FORMAT_2),
        3 => transaction.execute_batch(TO_FORMAT_3),
        4 => {
            transaction.execute_batch(CONTENTS)?;
            contents::FROM_VERSIONS.iter().try_for_each(|sql| transaction.execute_batch(sql))?;
            transaction.execute_batch(TO_FORMAT_4)
        }
        5 => {
            // Names the table `attributes`, which the first format had not.
            transaction.execute_batch(ADDITIONS)?;
            transaction.execute_batch(TO_FORMAT_5)?;
            while transaction.execute(FLATTEN, [])? > 0 {}
            transaction.execute(DROP_BASELESS, []).map(drop)
        }
        _ => Ok(()),
    }
}

/// The error for an index of a format that this program does not know.
pub(super) fn newer(format: i64) -> Error {
    Error::new(Kind::Failed, format_args!("the index has format {format}, newer than this program knows"))
        .hint("use the newer `archive` that wrote it")
}
