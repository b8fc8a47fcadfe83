//! Keeps to a number of bytes per second.

use std::time::{Duration, Instant};

// Seconds' worth of bytes that may be caught up with after a pause.
const BURST: f64 = 0.5;
// A limited reader asks for no more at a time than comes in this many seconds, or the flow would be lumpy.
const SLICE: f64 = 1.0 / 32.0;
const MIN_SLICE_BYTES: usize = 1024;

/// A token bucket that may run into debt: bytes are allowed while the balance is not negative.
#[derive(Debug)]
pub(super) struct Pace {
    bucket: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    bytes_per_second: f64,
    balance: f64,
    filled: Instant,
}

impl Pace {
    /// A pace of so many bytes per second; none, or 0, is no limit.
    pub(super) fn new(bytes_per_second: Option<u64>, now: Instant) -> Pace {
        let limit = bytes_per_second.filter(|&limit| limit > 0);
        let bucket = |limit| Bucket { bytes_per_second: limit as f64, balance: 0.0, filled: now };
        Pace { bucket: limit.map(bucket) }
    }

    /// True when there is a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.bucket.is_some()
    }

    /// How many bytes to ask for at a time: `longest`, or less to keep the flow even.
    pub(super) fn slice(&self, longest: usize) -> usize {
        match &self.bucket {
            None => longest,
            Some(bucket) => ((bucket.bytes_per_second * SLICE) as usize).clamp(MIN_SLICE_BYTES.min(longest), longest),
        }
    }

    /// How long to wait before the next bytes; zero when they may come now.
    pub(super) fn delay(&mut self) -> Duration {
        self.bucket.as_mut().map_or(Duration::ZERO, |bucket| bucket.delay(Instant::now()))
    }

    /// Counts bytes that were asked for.
    pub(super) fn spend(&mut self, bytes: usize) {
        if let Some(bucket) = &mut self.bucket {
            bucket.balance -= bytes as f64;
        }
    }
}

impl Bucket {
    fn delay(&mut self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.balance = (self.balance + since * self.bytes_per_second).min(self.bytes_per_second * BURST);
        if self.balance < 0.0 {
            Duration::try_from_secs_f64(-self.balance / self.bytes_per_second).unwrap_or(Duration::MAX)
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_seconds_bring_a_hundred_seconds_worth() {
        let start = Instant::now();
        let mut bucket = Bucket { bytes_per_second: 1000.0, balance: 0.0, filled: start };
        let (mut now, mut bytes) = (start, 0);
        while now < start + Duration::from_secs(100) {
            match bucket.delay(now) {
                Duration::ZERO => (bucket.balance, bytes) = (bucket.balance - 125.0, bytes + 125),
                delay => now += delay + Duration::from_millis(40),
            }
        }
        assert!((99_000..=101_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_pause_is_not_saved_up() {
        let start = Instant::now();
        let mut bucket = Bucket { bytes_per_second: 1000.0, balance: 0.0, filled: start };
        assert_eq!(bucket.delay(start + Duration::from_secs(1000)), Duration::ZERO);
        assert_eq!(bucket.balance, 500.0);
    }

    #[test]
    fn slices_are_small_only_where_a_limit_is() {
        let now = Instant::now();
        assert_eq!(Pace::new(None, now).slice(261_120), 261_120);
        assert_eq!(Pace::new(Some(0), now).slice(261_120), 261_120);
        assert_eq!(Pace::new(Some(320_000), now).slice(261_120), 10_000);
        assert_eq!(Pace::new(Some(1), now).slice(261_120), 1024);
        assert_eq!(Pace::new(Some(u64::MAX), now).slice(261_120), 261_120);
    }
}
