//! Spreads jobs over several channels, where the window of a single one is too small for the connection.
//!
//! OpenSSH lets 2 MiB of a channel be under way, which is all that comes in a round trip: 40 MB/s at 50 ms.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use crate::client::FetchJob;
use crate::error::Result;
use crate::queue::{self, Nothing, Receiver, Sender};

// CHAN_SES_WINDOW_DEFAULT of OpenSSH's channels.h, bytes.
const CHANNEL_WINDOW_BYTES: u128 = 2 << 20;

// Round trips shorter than this need one channel only, even if one of them was late.
const MIN_FAR_ROUND_TRIP: Duration = Duration::from_millis(30);

// The fastest connection that channels are opened for, bytes a second.
const MAX_RATE: u128 = 200_000_000;

// Channels that are opened without being asked for: half of the sessions of a connection.
const MAX_CHANNELS: u128 = super::MAX_SESSIONS as u128 / 2;

// Files that may wait for a channel: its window's worth of small ones.
const MAX_WAITING_FILES: usize = 1024;

/// How many channels fill a fast connection with this round trip.
pub(super) fn channels(round_trip: Duration) -> usize {
    if round_trip < MIN_FAR_ROUND_TRIP {
        return 1;
    }
    let under_way = round_trip.as_micros() * MAX_RATE / 1_000_000;
    under_way.div_ceil(CHANNEL_WINDOW_BYTES).clamp(1, MAX_CHANNELS) as usize
}

/// Jobs of which the first was taken from the queue already.
pub(super) struct Jobs<'a> {
    /// The first job, if it was taken.
    pub first: Option<FetchJob>,
    /// The others.
    pub rest: &'a Receiver<FetchJob>,
}

impl Jobs<'_> {
    /// Takes the next job, or waits for it; `None` when no more follows.
    pub fn recv(&mut self) -> Option<FetchJob> {
        if self.first.is_some() { self.first.take() } else { self.rest.recv() }
    }

    /// Takes the next job, if there is one.
    pub fn try_recv(&mut self) -> std::result::Result<FetchJob, Nothing> {
        if self.first.is_some() { self.first.take().ok_or(Nothing::Yet) } else { self.rest.try_recv() }
    }
}

/// Lets each of `readers` read its share of the jobs on a thread of its own, except those that `divert` keeps; or a single one all
/// of them on this thread. Without readers, nothing is read. Returns the result of each.
pub(super) fn over<'scope, R>(
    scope: &'scope Scope<'scope, '_>,
    jobs: Jobs<'_>,
    divert: impl Fn(FetchJob) -> Option<FetchJob>,
    mut readers: Vec<R>,
) -> Vec<Result<()>>
where
    R: FnOnce(Jobs<'_>) -> Result<()> + Send + 'scope,
{
    if readers.len() < 2 {
        return readers.pop().map(|reader| reader(jobs)).into_iter().collect();
    }
    let start = |reader: R| {
        let (share, shares) = queue::bounded_by_number(MAX_WAITING_FILES);
        (share, scope.spawn(move || reader(Jobs { first: None, rest: &shares })))
    };
    let (shares, threads): (Vec<_>, Vec<_>) = readers.into_iter().map(start).unzip();
    deal(jobs, divert, &shares);
    drop(shares);
    let joined = |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
    threads.into_iter().map(joined).collect()
}

/// Has `read` done; should it fail, by an error or a panic, `give_up` is called: whoever waits for a reader that is gone would
/// wait for ever.
pub(super) fn or_give_up<T>(read: impl FnOnce() -> Result<T>, give_up: impl Fn()) -> Result<T> {
    let ended = catch_unwind(AssertUnwindSafe(read));
    if !matches!(ended, Ok(Ok(_))) {
        give_up();
    }
    ended.unwrap_or_else(|panic| resume_unwind(panic))
}

// Each file goes where the fewest bytes went. A share that nobody takes is one whose reader tells why.
fn deal(mut jobs: Jobs<'_>, divert: impl Fn(FetchJob) -> Option<FetchJob>, shares: &[Sender<FetchJob>]) {
    let mut dealt = vec![0_u64; shares.len()];
    while let Some(job) = jobs.recv() {
        let Some(job) = divert(job) else { continue };
        let least = (0..dealt.len()).min_by_key(|at| dealt[*at]).expect("there is a reader");
        // A small file costs more than its bytes.
        dealt[least] = dealt[least].saturating_add(job.size + 1024);
        if shares[least].send(job).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Time;
    use crate::error::{Error, Kind};
    use crate::path::AbsPath;

    fn wanted(id: u64, size: u64) -> FetchJob {
        FetchJob {
            id,
            path: AbsPath::root(),
            size,
            mtime: Time::default(),
            uid: 0,
            offset: 0,
            dedup: true,
            data: None,
            basis: None,
        }
    }

    #[test]
    fn a_near_line_has_one_channel_and_none_has_many() {
        let channels = [0, 1, 10, 15, 28, 50, 300, 100_000].map(|ms| channels(Duration::from_millis(ms)));
        assert_eq!(channels, [1, 1, 1, 1, 1, 5, 5, 5]);
    }

    #[test]
    fn every_file_is_read_once_and_the_bytes_are_shared() {
        let (sender, receiver) = queue::bounded_by_number(100);
        for id in 0..90 {
            sender.send(wanted(id, if id == 0 { 1 << 20 } else { 20_000 })).unwrap();
        }
        drop(sender);
        let read = std::sync::Mutex::new(Vec::new());
        let readers: Vec<_> = (0..3)
            .map(|_| {
                |mut share: Jobs<'_>| {
                    let share: Vec<FetchJob> = std::iter::from_fn(|| share.recv()).collect();
                    read.lock().unwrap().push(share);
                    Ok(())
                }
            })
            .collect();
        let ended = std::thread::scope(|scope| over(scope, Jobs { first: None, rest: &receiver }, Some, readers));
        assert!(ended.len() == 3 && ended.iter().all(Result::is_ok));
        let shares = read.into_inner().unwrap();
        let bytes = |share: &Vec<FetchJob>| share.iter().map(|wanted| wanted.size).sum::<u64>();
        assert!(shares.iter().all(|share| (500_000..1_200_000).contains(&bytes(share))));
        let mut ids: Vec<u64> = shares.iter().flatten().map(|wanted| wanted.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..90).collect::<Vec<_>>());
    }

    #[test]
    fn whoever_fails_or_panics_gives_up() {
        let gives_up = |read: fn() -> Result<()>| {
            let given_up = std::cell::Cell::new(false);
            let ended = catch_unwind(AssertUnwindSafe(|| or_give_up(read, || given_up.set(true)).is_ok()));
            (ended.ok(), given_up.get())
        };
        assert_eq!(gives_up(|| Ok(())), (Some(true), false));
        assert_eq!(gives_up(|| Err(Error::new(Kind::Unreachable, "broken"))), (Some(false), true));
        assert_eq!(gives_up(|| panic!("on purpose")), (None, true));
    }

    #[test]
    fn a_reader_that_fails_holds_nobody_up() {
        let (sender, receiver) = queue::bounded_by_number(10_000);
        for id in 0..9000 {
            sender.send(wanted(id, 10)).unwrap();
        }
        drop(sender);
        type Read = fn(Jobs<'_>) -> Result<()>;
        let broken: Read = |_| Err(Error::new(Kind::Unreachable, "broken"));
        let well: Read = |mut share| {
            while share.recv().is_some() {}
            Ok(())
        };
        let readers = vec![broken, well];
        let ended = std::thread::scope(|scope| over(scope, Jobs { first: None, rest: &receiver }, Some, readers));
        assert!(ended[0].is_err() && ended[1].is_ok());
    }
}
