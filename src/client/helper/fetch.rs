//! How the content of files is fetched: which way each file takes, and what runs at the same time.

use std::thread::ScopedJoinHandle;

use super::channels::{self, Jobs};
use super::{HelperClient, Way, delta, small_files, whole};
use crate::client::{Fetch, FetchEvent, FetchJob, MAX_SMALL_FILE_BYTES, connection_lost, local, sftp, ssh::Session};
use crate::error::{Error, Kind, Result};
use crate::queue::{self, Receiver, Sender};
use crate::source::CopyBy;

// Files that may wait for SFTP.
const MAX_WAITING_FULL: usize = 1024;

// Files that may wait to be compared with their bases.
const MAX_WAITING_DELTAS: usize = 2 * 1024;

/// Fetches files until the jobs are closed and the last event was sent.
pub(super) fn fetch(client: &HelperClient, fetch: Fetch<'_>) -> Result<()> {
    match &client.way {
        Way::Ssh { session, .. } if client.streams() => fetch_all_ways(client, session, fetch),
        // Nothing is started for a run that fetches nothing.
        _ if !fetch.expects_many && !fetch.jobs.is_fed() => Ok(()),
        Way::Ssh { session, .. } => fetch_full(client, session, fetch.jobs, fetch.events),
        Way::Local { .. } => {
            local::read_files(fetch.jobs, fetch.events, client.options.bytes_per_second, &client.traffic);
            if client.traffic.is_shut_down() { Err(connection_lost()) } else { Ok(()) }
        }
    }
}

// Small files through a helper or more, changed ranges of large ones through another, and files that are sent in full or do not
// keep still through SFTP, all at the same time. What is not needed is not started.
fn fetch_all_ways(client: &HelperClient, session: &Session, fetch: Fetch<'_>) -> Result<()> {
    let Fetch { jobs, events, is_wanted, expects_many } = fetch;
    let (deltas, to_compare) = queue::bounded_by_number(MAX_WAITING_DELTAS);
    let (full, to_send) = queue::bounded_by_number(MAX_WAITING_FULL);
    // A sender that waits for room must not wait for a reader that has given up.
    let closers = [jobs.closer(), to_compare.closer(), to_send.closer()];
    let give_up = &move || closers.iter().for_each(queue::Closer::close);
    std::thread::scope(|scope| {
        let changed = full.clone();
        let by_sftp = scope.spawn(move || {
            let read = || if to_send.is_fed() { fetch_full(client, session, &to_send, events) } else { Ok(()) };
            channels::or_give_up(read, give_up)
        });
        let by_delta = scope.spawn(move || {
            let read = || {
                if to_compare.is_fed() {
                    client.converse().and_then(|talk| delta::read_files(talk, &to_compare, events, &full, is_wanted))
                } else {
                    Ok(())
                }
            };
            let read = channels::or_give_up(read, give_up);
            drop(full);
            read
        });
        let first = if expects_many { None } else { first_small(jobs, &deltas) };
        let conversations = if expects_many || first.is_some() {
            channels::or_give_up(|| client.converse_enough(), give_up)
        } else {
            Ok(Vec::new())
        };
        let may_repeat = conversations.as_ref().is_ok_and(|all| all.len() > 1);
        let reader = |conversation| {
            let routes = small_files::Routes { deltas: deltas.clone(), full: changed.clone() };
            move |share: Jobs<'_>| {
                let read = || small_files::read_files(conversation, share, events, routes, may_repeat);
                channels::or_give_up(read, give_up)
            }
        };
        let readers = conversations.map(|all| all.into_iter().map(reader).collect());
        drop(changed);
        let jobs = Jobs { first, rest: jobs };
        let small = match readers {
            Ok(readers) => channels::over(scope, jobs, |job| divert(job, &deltas), readers),
            Err(error) => vec![Err(error)],
        };
        drop(deltas);
        let joined = |thread: ScopedJoinHandle<'_, Result<()>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let (by_delta, by_sftp) = (joined(by_delta), joined(by_sftp));
        let ended = [by_sftp, by_delta].into_iter().chain(small);
        let mut errors: Vec<Error> = ended.filter_map(Result::err).collect();
        // A part that only finds that nobody takes its files knows least.
        errors.sort_by_key(|error| error.kind() == Kind::BrokenOff);
        errors.into_iter().next().map_or(Ok(()), Err)
    })
}

/// True for a file that goes through the conversation for deltas, whatever the connection is like.
pub(super) fn is_large_delta(job: &FetchJob) -> bool {
    job.basis.is_some() && job.size > MAX_SMALL_FILE_BYTES
}

// Returns a file that is none for the conversation for deltas. A queue that nobody takes from is one whose reader reports why.
fn divert(job: FetchJob, deltas: &Sender<FetchJob>) -> Option<FetchJob> {
    if is_large_delta(&job) { deltas.send(job).ok().and(None) } else { Some(job) }
}

// The first file for which a channel is needed, so that none is opened before.
fn first_small(jobs: &Receiver<FetchJob>, deltas: &Sender<FetchJob>) -> Option<FetchJob> {
    jobs.iter().find_map(|job| divert(job, deltas))
}

// Files that are sent in full and those that change: over SFTP, or through a helper where there is no SFTP server.
fn fetch_full(
    client: &HelperClient,
    session: &Session,
    jobs: &Receiver<FetchJob>,
    events: &Sender<FetchEvent>,
) -> Result<()> {
    let start = || {
        let (mut input, output) = session.subsystem("sftp")?;
        input.greeted();
        Ok((input, output))
    };
    let bytes_per_second = client.options.bytes_per_second;
    let Err(cause) = sftp::read_files(start, sftp::Options { bytes_per_second }, jobs, events)? else {
        return Ok(());
    };
    if client.traffic.is_shut_down() {
        return Err(connection_lost());
    }
    if client.options.copy == CopyBy::Sftp {
        return Err(Error::new(Kind::Failed, format_args!("can't use SFTP on the client: {cause}"))
            .hint("allow the helper to send content: leave out `--tuning copy=sftp`"));
    }
    // What looks like a missing server may be a lost connection: then this fails.
    let conversation = client.converse()?;
    let _ = client.without_sftp.set(cause.to_string());
    whole::read_files(conversation, jobs, events, bytes_per_second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::BasisRef;
    use crate::entry::Time;
    use crate::path::AbsPath;

    fn job(id: u64, size: u64, has_basis: bool) -> FetchJob {
        let basis = has_basis.then(|| BasisRef::new(size, || Err(std::io::ErrorKind::NotFound.into())));
        let (path, mtime) = (AbsPath::root(), Time::default());
        FetchJob { id, path, size, mtime, uid: 0, offset: 0, dedup: false, data: None, basis }
    }

    #[test]
    fn large_files_with_a_basis_open_no_channel() {
        let (sender, jobs) = queue::bounded_by_number(10);
        let large = MAX_SMALL_FILE_BYTES + 1;
        for job in [job(0, large, true), job(1, large, true), job(2, MAX_SMALL_FILE_BYTES, true), job(3, large, true)] {
            sender.send(job).unwrap();
        }
        drop(sender);
        let (deltas, to_compare) = queue::bounded_by_number(10);
        assert_eq!(first_small(&jobs, &deltas).map(|job| job.id), Some(2));
        assert_eq!(first_small(&jobs, &deltas).map(|job| job.id), None);
        drop(deltas);
        assert_eq!(to_compare.iter().map(|job| job.id).collect::<Vec<_>>(), [0, 1, 3]);
    }
}
