//! Judges whether a file stayed what it was while it was read, and how often reading it may start over.

use std::sync::Arc;

use crate::client::{FetchJob, FileState};
use crate::entry::{Extent, Time};

const ATTEMPTS: u8 = 3;

/// Reading one file: what it is expected to be, and which of three attempts this is.
#[derive(Debug)]
pub(super) struct ReadAttempt {
    expected: FileState,
    left: u8,
    // Where it has data; nothing is known of the holes of a file that changed.
    data: Option<Arc<[Extent]>>,
}

/// What an open file's metadata says, as far as it was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) size: u64,
    pub(super) mtime: Mtime,
    pub(super) uid: Option<u32>,
}

/// A time, as precisely as it was told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mtime {
    /// To the nanosecond.
    Exact(Time),
    /// Seconds since 1970, of which 32 bits are left: 1960 and 2096 look alike.
    Seconds(u32),
}

/// What becomes of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What was read is the file as it was in this state.
    Consistent(FileState),
    /// The file changed: read it again, expecting what was found.
    Again,
    /// It is another user's file than was listed. A path may have been made to lead elsewhere: nothing of it is kept.
    OtherOwner,
    /// The file changed on the last attempt too.
    Inconsistent(FileState),
}

impl ReadAttempt {
    /// The first attempt, which expects the file as it was listed.
    pub(super) fn first(wanted: &FetchJob) -> ReadAttempt {
        let expected = FileState { size: wanted.size, mtime: wanted.mtime, uid: wanted.uid };
        ReadAttempt { expected, left: ATTEMPTS - 1, data: wanted.data.clone() }
    }

    /// What the file is expected to be.
    pub(super) fn expected(&self) -> FileState {
        self.expected
    }

    /// How many bytes there should be to read.
    pub(super) fn size(&self) -> u64 {
        self.expected.size
    }

    /// The next piece of data at or after `offset`; `None` when there is none up to the end.
    pub(super) fn data_after(&self, offset: u64) -> Option<Extent> {
        let (from, until) = match &self.data {
            None => (offset, self.size()),
            Some(data) => {
                let next = data.get(data.partition_point(|extent| extent.end() <= offset))?;
                (next.offset.max(offset), next.end().min(self.size()))
            }
        };
        (from < until).then(|| Extent { offset: from, length: until - from })
    }

    /// True when no change was found yet.
    pub(super) fn is_first(&self) -> bool {
        self.left == ATTEMPTS - 1
    }

    /// True when a change found now could not lead to another attempt.
    pub(super) fn is_last(&self) -> bool {
        self.left == 0
    }

    /// True when the file is what it is expected to be, as far as was told.
    pub(super) fn agrees(&self, found: &Found) -> bool {
        self.state(found) == self.expected
    }

    /// Decides at the file's end; `whole` tells whether exactly [`ReadAttempt::size`] bytes were there to read.
    pub(super) fn judge(&mut self, found: &Found, whole: bool) -> Verdict {
        let state = self.state(found);
        if state.uid != self.expected.uid {
            return Verdict::OtherOwner;
        }
        if whole && state == self.expected {
            return Verdict::Consistent(state);
        }
        if self.is_last() {
            return Verdict::Inconsistent(state);
        }
        self.expected = state;
        self.left -= 1;
        self.data = None;
        Verdict::Again
    }

    // What was not told, the nanoseconds among it, is taken to be as expected.
    fn state(&self, found: &Found) -> FileState {
        let mtime = match found.mtime {
            Mtime::Exact(time) => time,
            Mtime::Seconds(seconds) if may_mean(seconds, self.expected.mtime) => self.expected.mtime,
            Mtime::Seconds(seconds) => Time::new(seconds.into(), 0),
        };
        FileState { size: found.size, mtime, uid: found.uid.unwrap_or(self.expected.uid) }
    }
}

// True when an SFTP server may say it of a file with this mtime. Of the seconds 32 bits are left: of times outside 1970 to 2106
// some servers cut off what is above, others say the first or the last that they can.
fn may_mean(seconds: u32, mtime: Time) -> bool {
    let whole = mtime.seconds();
    seconds == whole as u32 || i64::from(seconds) == whole.clamp(0, u32::MAX.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::AbsPath;

    fn wanted(mtime: impl Into<Time>) -> FetchJob {
        FetchJob {
            id: 0,
            path: AbsPath::root(),
            size: 10,
            mtime: mtime.into(),
            uid: 7,
            offset: 0,
            dedup: false,
            data: None,
            basis: None,
        }
    }

    fn attempt(mtime: impl Into<Time>) -> ReadAttempt {
        ReadAttempt::first(&wanted(mtime))
    }

    fn found(size: u64, mtime: Mtime) -> Found {
        Found { size, mtime, uid: Some(7) }
    }

    #[test]
    fn holes_count_until_the_file_changes() {
        let wanted = FetchJob {
            data: Some([(2, 3), (7, 9)].map(|(offset, length)| Extent { offset, length }).into()),
            ..wanted(5)
        };
        let mut attempt = ReadAttempt::first(&wanted);
        let after = |attempt: &ReadAttempt, offset| attempt.data_after(offset).map(|data| (data.offset, data.length));
        for (offset, data) in [(0, Some((2, 3))), (2, Some((2, 3))), (4, Some((4, 1))), (5, Some((7, 3))), (10, None)] {
            assert_eq!(after(&attempt, offset), data, "{offset}");
        }
        attempt.judge(&found(11, Mtime::Exact(Time::from(5))), true);
        assert_eq!((after(&attempt, 0), after(&attempt, 11)), (Some((0, 11)), None));
    }

    #[test]
    fn whole_seconds_agree_with_nanoseconds_of_any_year() {
        for (mtime, wire) in [
            (Time::new(1_700_000_000, 999_999_999), 1_700_000_000),
            (Time::from(-1), u32::MAX),
            (Time::from(-315_619_200_000_000_001), (-315_619_201_i64) as u32),
            (Time::new(4_102_444_800, 500_000_000), 4_102_444_800),
            // The years 1901 and 2200, of servers that cut nothing off.
            (Time::new(-2_177_452_800, 0), 0),
            (Time::new(7_258_118_400, 0), u32::MAX),
            // 1336 and 3000, of servers that cut off bits and of those that say the first or the last.
            (Time::new(-20_000_000_000, 5), (-20_000_000_000_i64) as u32),
            (Time::new(-20_000_000_000, 5), 0),
            (Time::new(32_503_680_000, 5), 32_503_680_000_i64 as u32),
            (Time::new(32_503_680_000, 5), u32::MAX),
        ] {
            let state = FileState { size: 10, mtime, uid: 7 };
            let verdict = attempt(mtime).judge(&found(10, Mtime::Seconds(wire)), true);
            assert_eq!(verdict, Verdict::Consistent(state), "{mtime}");
        }
    }

    #[test]
    fn every_difference_counts() {
        let same = found(10, Mtime::Exact(Time::from(5)));
        assert!(attempt(5).agrees(&same));
        assert!(!attempt(5).agrees(&found(11, same.mtime)));
        assert!(!attempt(5).agrees(&found(10, Mtime::Exact(Time::from(6)))));
        assert!(!attempt(5).agrees(&found(10, Mtime::Seconds(1))));
        assert!(!attempt(5).agrees(&found(10, Mtime::Seconds(u32::MAX))));
        assert!(!attempt(Time::new(-5, 0)).agrees(&found(10, Mtime::Seconds(1))));
        assert!(!attempt(Time::new(32_503_680_000, 0)).agrees(&found(10, Mtime::Seconds(1))));
        assert!(!attempt(5).agrees(&Found { uid: Some(8), ..same }));
        assert!(attempt(5).agrees(&Found { uid: None, ..same }));
        assert_eq!(attempt(5).judge(&same, false), Verdict::Again);
        assert_eq!(attempt(5).judge(&Found { uid: Some(8), ..same }, true), Verdict::OtherOwner);
    }

    #[test]
    fn the_third_attempt_is_the_last_and_each_expects_what_was_found() {
        let mut attempt = attempt(5);
        assert_eq!(attempt.judge(&found(11, Mtime::Exact(Time::from(5))), true), Verdict::Again);
        assert_eq!(attempt.size(), 11);
        assert_eq!(attempt.judge(&found(12, Mtime::Exact(Time::from(5))), true), Verdict::Again);
        assert!(attempt.is_last());
        let state = FileState { size: 13, mtime: Time::from(5), uid: 7 };
        assert_eq!(attempt.judge(&found(13, Mtime::Exact(Time::from(5))), true), Verdict::Inconsistent(state));
    }
}
