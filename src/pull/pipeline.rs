//! Joins the stages of a pull: a thread for each, or several, and bounded queues between them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::unbounded;

use super::Run;
use super::applying::apply;
use super::dispatch::Dispatch;
use super::fetching::{Fetcher, Transfers};
use super::hashing::hash;
use super::in_flight::InFlight;
use super::listing::list;
use super::machine::{Event, FileId, Policy};
use super::receiving::{lane, lanes, receive};
use super::routes::{Decider, Routes, resume};
use crate::client::{self, Client, FetchEvent, MAX_DELTA_BYTES, MAX_SMALL_FILE_BYTES};
use crate::entry::Hash;
use crate::error::{Error, Kind, OnServer, Result};
use crate::fault::most_changes;
use crate::queue::{bounded_by_number, bounded_lanes};
use crate::repository::staging::Staging;
use crate::source::{HashWhere, LinkWhen};

// Files that may wait before a stage, and as many again in it; each is a few hundred bytes.
const QUEUE: usize = 2 * 1024;

// What may wait to be applied: more than arrives while a batch is written to the disk, or all would wait for the disk.
const CHANGES: usize = 4 * 1024;

// Bytes of content that may wait for the staging area, and as many again that are about to be written there.
const MOST_ARRIVED: usize = 2 << 20;

/// Runs all stages to their end; the first error of any ends them all.
pub(super) fn run(run: &Run<'_>) -> Result<()> {
    let staging = Arc::new(clear_staging(run)?);
    let policy = policy(run);
    let snapshot = policy.sends_deltas.then(|| run.repository.snapshot(&run.source.name)).transpose()?;
    let (in_flight, transfers) = (InFlight::new(policy), Transfers::default());
    let broken = Failure::new(run.client, &in_flight);
    let (staging, in_flight, transfers, failure) = (&staging, &in_flight, &transfers, &broken);
    thread::scope(|scope| {
        let (hashing, to_hash) = bounded_by_number(QUEUE);
        let (jobs, to_fetch) = bounded_by_number(QUEUE);
        let writers = lanes(run.source.settings.tuning.writers.map(u8::from));
        let (arrived, to_receive) = bounded_lanes(writers, MOST_ARRIVED, FetchEvent::weight, lane);
        let (changes, to_apply) = bounded_by_number(most_changes(CHANGES));
        let (postponed, to_resume) = unbounded();
        let end = postponed.clone();
        let fetcher = Fetcher { jobs, transfers, staging, snapshot: snapshot.as_ref() };
        let routes = Routes { hashing: Some(hashing), fetcher: Some(fetcher), changes: Some(changes), postponed };
        for to_receive in to_receive {
            let decider = Decider::new(run, in_flight, routes.of_receiving());
            let started = stage("receiving")
                .spawn_scoped(scope, move || failure.watch(|| receive(run, staging, &to_receive, transfers, decider)));
            failure.watch(|| started.map(drop).on_server("can't start a thread"));
        }
        let recording = routes.of_recording();
        let describing = Mutex::new(Decider::new(run, in_flight, routes.of_receiving()));
        let hashing = Decider::new(run, in_flight, routes.of_hashing());
        let resuming = Decider::new(run, in_flight, routes.clone());
        let started = [
            stage("applying").spawn_scoped(scope, move || {
                failure.watch(|| apply(run, staging, in_flight, &to_apply, &recording, failure))
            }),
            stage("reading").spawn_scoped(scope, move || {
                let fetch = client::Fetch {
                    jobs: &to_fetch,
                    events: &arrived,
                    is_wanted: &|id, hash, is_in_basis| is_wanted(&describing, transfers, id, hash, is_in_basis),
                    expects_many: run.begins_anew,
                };
                failure.watch(|| run.client.fetch(fetch))
            }),
            stage("hashing").spawn_scoped(scope, move || failure.watch(|| hash(run, &to_hash, hashing, failure))),
            stage("deciding").spawn_scoped(scope, move || failure.watch(|| resume(&to_resume, resuming))),
        ];
        for thread in started {
            failure.watch(|| thread.map(drop).on_server("can't start a thread"));
        }
        failure.watch(|| lead(run, routes, in_flight, staging));
        in_flight.wait_until_finished();
        // What decides about postponed files is the last that could begin anything.
        let _ = end.send(None);
    });
    tell_of_metadata(run, staging);
    match broken.first() {
        Some(error) => Err(error),
        None => {
            staging.clear_partials().on_server("can't clear the staging area").map_err(|error| in_staging(run, error))
        }
    }
}

fn stage(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned())
}

// Whether a file that the client has described must be sent.
pub(super) fn is_wanted(
    decider: &Mutex<Decider<'_>>,
    transfers: &Transfers,
    id: FileId,
    hash: &Hash,
    is_in_basis: bool,
) -> Result<bool> {
    let mut decider = decider.lock().unwrap_or_else(PoisonError::into_inner);
    decider.report(Event::Described { id, hash: *hash, is_in_basis })?;
    let is_wanted = decider.in_flight().look_up(id, |_| ()).is_some();
    if !is_wanted {
        transfers.end(id);
    }
    Ok(is_wanted)
}

pub(super) fn policy(run: &Run<'_>) -> Policy {
    let settings = &run.source.settings;
    let client::Capabilities { sends_small_files, sends_deltas, .. } = run.client.capabilities();
    Policy {
        client_hashes: settings.hash == HashWhere::Client,
        sends_small_files,
        max_small_file_bytes: MAX_SMALL_FILE_BYTES,
        sends_deltas: sends_deltas && !settings.whole_file,
        max_delta_bytes: MAX_DELTA_BYTES,
        links: settings.link != LinkWhen::Never,
        begins_empty: run.begins_empty,
        has_others: run.has_others,
        abilities: *run.repository.base().abilities(),
    }
}

pub(super) fn clear_staging(run: &Run<'_>) -> Result<Staging> {
    let opened = Staging::open(run.repository.staging(&run.source.name)?);
    let staging = opened.on_server("can't open the staging area").map_err(|error| in_staging(run, error))?;
    staging.clear().on_server("can't clear the staging area").map_err(|error| in_staging(run, error))?;
    Ok(staging)
}

/// Names the source's staging area in an error.
pub(super) fn in_staging(run: &Run<'_>, error: Error) -> Error {
    error.at(format_args!("staging/{}", run.source.name))
}

fn tell_of_metadata(run: &Run<'_>, staging: &Staging) {
    if staging.has_refused_owner() {
        let which = "such as those outside the id map of a container";
        run.tally.warn(format_args!("some owners can't be given on the server, {which}; the index has them"));
    }
    let abilities = staging.dir().abilities();
    let kept = [(abilities.modes, "permission bits"), (abilities.symlink_metadata, "times of symlinks")];
    for (_, what) in kept.iter().filter(|(is_kept, _)| !is_kept) {
        run.tally.notice(format_args!("the repository's file system keeps no {what}; the index has them"));
    }
}

// The first two stages: lists, and reports every step.
fn lead(run: &Run<'_>, routes: Routes<'_>, in_flight: &InFlight, staging: &Staging) -> Result<()> {
    let index = run.repository.index()?;
    let remembered = run.remembered(&index, staging);
    let decider = Decider::new(run, in_flight, routes);
    let mut dispatch = Dispatch::new(run, &index, decider, staging);
    let roots = list(run.client, run.source, run.repository.id(), &remembered, run.tally, &mut dispatch)?;
    dispatch.finish(&roots)
}

/// Remembers the first error, and makes every stage end.
pub struct Failure<'a> {
    first: Mutex<Option<Error>>,
    client: &'a dyn Client,
    in_flight: &'a InFlight,
}

impl<'a> Failure<'a> {
    /// Nothing has failed yet.
    pub fn new(client: &'a dyn Client, in_flight: &'a InFlight) -> Failure<'a> {
        Failure { first: Mutex::new(None), client, in_flight }
    }

    /// Runs a stage, or a thread of one; true when it ended well.
    pub fn watch(&self, stage: impl FnOnce() -> Result<()>) -> bool {
        // A panic, too: or the other stages would wait for ever for one that is gone.
        let ended = catch_unwind(AssertUnwindSafe(stage));
        let broken = |_| Error::new(Kind::Failed, "a part of the program broke").hint("please report what it printed");
        let Err(error) = ended.unwrap_or_else(|panic| Err(broken(panic))) else { return true };
        tracing::debug!(%error, "a stage ends early");
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        // Who only finds the next stage gone may be faster than who knows why.
        if first.as_ref().is_none_or(|first| first.kind() == Kind::BrokenOff) {
            *first = Some(error);
        }
        drop(first);
        self.client.hang_up();
        self.in_flight.abort();
        false
    }

    /// The first error.
    pub fn first(self) -> Option<Error> {
        self.first.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next stage is gone: the run has failed, and whoever made it fail has told why.
pub fn aborted<T>(_: T) -> Error {
    Error::new(Kind::BrokenOff, "the run was broken off")
}
