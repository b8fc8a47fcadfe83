//! Times as names and messages show them.

use jiff::Timestamp;

/// The stamp that an archived version carries: its mtime (nanoseconds) in UTC, as in `20261123T125400Z`.
pub fn stamp(mtime: i64) -> String {
    let second = Timestamp::from_second(mtime.div_euclid(1_000_000_000)).expect("jiff knows every time of an i64 of nanoseconds");
    second.strftime("%Y%m%dT%H%M%SZ").to_string()
}
