//! Notices a client that is at work for ever: one that says only that it is alive, or that sends next to nothing.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::stop::shown;

/// The least work of a client in an hour, in bytes that pass in either direction or that the client hashes. A list of 160
/// entries, or of 400 unchanged directories, is that long: the slowest honest client does more.
const MIN_BYTES_PER_HOUR: u64 = 16 * 1024;

/// Why a client counts as stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stalled {
    /// It sent nothing but signs of life for so long.
    #[error("the client said for {} that it is at work, and sent nothing (stall_time)", shown(*.0))]
    Silent(Duration),
    /// It did no more than so many bytes of work in so long.
    #[error("the client sent, received and hashed only {bytes} bytes in {time} (stall_time)", time = shown(*.0), bytes = .1)]
    Slow(Duration, u64),
}

impl From<Stalled> for io::Error {
    fn from(stalled: Stalled) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, stalled)
    }
}

/// The progress of all streams of one client.
#[derive(Debug)]
pub(super) struct Progress {
    limit: Option<Duration>,
    since: Instant,
    // When anything but a sign of life last passed, in milliseconds after `since`.
    last: AtomicU64,
    // When the current period began, and the work since then. It is twice as long as the limit, for a hash that takes all of
    // the limit counts when it ends.
    period: AtomicU64,
    work: AtomicU64,
    stalled: AtomicBool,
}

impl Progress {
    /// For a client that may work as long as `limit` without any progress, and has to do a minimum of work in twice that time.
    pub(super) fn new(limit: Option<Duration>) -> Progress {
        let [last, period, work] = [0; 3].map(AtomicU64::new);
        Progress { limit, since: Instant::now(), last, period, work, stalled: AtomicBool::new(false) }
    }

    /// Notes so many bytes of work.
    pub(super) fn add(&self, bytes: u64) {
        self.add_at(self.milliseconds(), bytes);
    }

    fn add_at(&self, now: u64, bytes: u64) {
        self.last.fetch_max(now, Ordering::Relaxed);
        self.work.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether the client has stalled; it counts as that from then on.
    pub(super) fn check(&self) -> Option<Stalled> {
        self.check_at(self.milliseconds())
    }

    fn check_at(&self, now: u64) -> Option<Stalled> {
        let limit = self.limit?;
        let period = self.period.load(Ordering::Relaxed);
        let is_longer = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) > limit.as_millis();
        let longer = limit.saturating_mul(2);
        let stalled = if is_longer(self.last.load(Ordering::Relaxed), limit) {
            Some(Stalled::Silent(limit))
        } else if is_longer(period, longer)
            && self.period.compare_exchange(period, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let work = self.work.swap(0, Ordering::Relaxed);
            let least = (longer.as_secs_f64() / 3600.0 * MIN_BYTES_PER_HOUR as f64) as u64;
            (work < least).then_some(Stalled::Slow(longer, work))
        } else {
            None
        };
        if stalled.is_some() {
            self.stalled.store(true, Ordering::Relaxed);
        }
        stalled
    }

    /// True when the client has stalled: connecting again would be in vain.
    pub(super) fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    fn milliseconds(&self) -> u64 {
        self.since.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn progress() -> Progress {
        Progress::new(Some(Duration::from_secs(6 * 3600)))
    }

    #[test]
    fn silence_is_a_stall() {
        let progress = progress();
        progress.add_at(HOUR, 1 << 20);
        assert_eq!(progress.check_at(7 * HOUR), None);
        assert_eq!(progress.check_at(7 * HOUR + 1), Some(Stalled::Silent(Duration::from_secs(6 * 3600))));
        assert!(progress.has_stalled());
    }

    #[test]
    fn trickle_is_a_stall() {
        let progress = progress();
        let ended = (1..100).find_map(|hour| {
            progress.add_at(hour * HOUR, 1000);
            progress.check_at(hour * HOUR).map(|stalled| (hour, stalled))
        });
        assert_eq!(ended, Some((13, Stalled::Slow(Duration::from_secs(12 * 3600), 13_000))));
    }

    #[test]
    fn slow_client_that_does_the_least_goes_on() {
        let progress = progress();
        // A short listing in an hour, one hash of a terabyte in nearly six, then a listing of one entry in 20 seconds.
        progress.add_at(HOUR, 1000);
        assert_eq!(progress.check_at(6 * HOUR + 1), None);
        progress.add_at(7 * HOUR - 1, 1 << 40);
        assert_eq!(progress.check_at(12 * HOUR + 1), None);
        for second in (0..200 * 3600).step_by(20) {
            progress.add_at(12 * HOUR + second * 1000, 100);
            assert_eq!(progress.check_at(12 * HOUR + second * 1000), None, "after {second} s");
        }
        assert!(!progress.has_stalled());
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!(Progress::new(None).check_at(u64::MAX), None);
    }
}
