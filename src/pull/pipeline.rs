//! Joins the stages of a pull: a thread for each, or several, and bounded queues between them.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver as Unbounded, unbounded};

use super::Run;
use super::applying::apply;
use super::comparing::Comparing;
use super::contents::{Contents, Released};
use super::dispatch::{Dispatch, Onward, Ways};
use super::failure::Failure;
use super::fetching::{Expected, Fetch};
use super::hashing::{Deciding, hash, rejoin};
use super::listing::list;
use super::receiving::{lane, lanes, receive};
use super::sizes::Sizes;
use crate::error::{Error, OnServer, Result};
use crate::fault::most_changes;
use crate::queue::{bounded_by_number, bounded_lanes};
use crate::remote::helper::Conversation;
use crate::remote::{Arrived, Files};
use crate::repository::journal::recover;
use crate::repository::staging::Staging;

// Files that may wait before a stage, and as many again in it; each is a few hundred bytes.
const QUEUE: usize = 2 * 1024;

// What may wait to be applied: more than arrives while a batch is written to the disk, or all would wait for the disk.
const CHANGES: usize = 4 * 1024;

// Bytes of content that may wait for the staging area, and as many again that are about to be written there.
const MOST_ARRIVED: usize = 2 << 20;

/// Runs all stages to their end; the first error of any ends them all.
pub(super) fn run(run: &Run<'_>) -> Result<()> {
    finish_interrupted(run)?;
    let staging = Arc::new(clear_staging(run)?);
    let (contents, sizes, expected) = (Contents::default(), Sizes::default(), Expected::default());
    let broken = Failure::new(run.client, &contents);
    let uses_old = run.client.streams() && !run.source.settings.whole_file;
    let snapshot = uses_old.then(|| run.repository.snapshot(&run.source.name)).transpose()?;
    let (staging, contents, expected, failure) = (&staging, &contents, &expected, &broken);
    // Before reading begins, which takes all channels that it gets.
    let lister = run.client.converse()?;
    thread::scope(|scope| {
        let (hashing, tasks) = bounded_by_number(QUEUE);
        let (wanted, to_read) = bounded_by_number(QUEUE);
        let (compared, to_compare) = bounded_by_number(QUEUE);
        let writers = lanes(run.source.settings.writers);
        tracing::debug!(writers, "writes what arrives");
        let (arrived, to_receive) = bounded_lanes(writers, MOST_ARRIVED, Arrived::weight, lane);
        let (changes, to_apply) = bounded_by_number(most_changes(CHANGES));
        // Holds what waits for others, and what needs a proof after all.
        let (released, to_rejoin) = unbounded();
        let end = released.clone();
        let fetch = Fetch { wanted, compared: compared.clone(), expected, staging, snapshot: snapshot.as_ref() };
        let onward = Onward { fetch, changes, contents, sizes: &sizes, released: released.clone() };
        let ways = Ways { onward: onward.clone(), hashing };

        let ways_on = (onward.changes.clone(), released.clone());
        let comparing = Arc::new(Comparing::new(run, expected, contents, ways_on));
        let rejoin_ways = ways.clone();
        let stage = |name: &str| thread::Builder::new().name(name.to_owned());
        for to_receive in to_receive {
            let comparing = Arc::clone(&comparing);
            let started = stage("receiving")
                .spawn_scoped(scope, move || failure.watch(|| receive(run, staging, &to_receive, &comparing)));
            failure.watch(|| started.map(drop).on_server("can't start a thread"));
        }
        let started = [
            stage("applying").spawn_scoped(scope, move || {
                failure.watch(|| apply(run, staging, contents, &to_apply, &released, failure))
            }),
            stage("reading").spawn_scoped(scope, move || {
                let files = Files {
                    wanted: &to_read,
                    compared: (compared, to_compare),
                    arrived: &arrived,
                    is_wanted: &|id, hash, is_here| comparing.is_wanted(id, hash, is_here),
                    are_many: run.begins_anew,
                };
                failure.watch(|| run.client.read_files(files))
            }),
            stage("hashing").spawn_scoped(scope, move || {
                failure.watch(|| deciding(run, onward).and_then(|deciding| hash(&tasks, deciding, failure)))
            }),
            stage("deciding").spawn_scoped(scope, move || failure.watch(|| decide_again(run, rejoin_ways, &to_rejoin))),
        ];
        for thread in started {
            failure.watch(|| thread.map(drop).on_server("can't start a thread"));
        }
        failure.watch(|| lead(run, lister, ways));
        contents.wait_until_finished();
        // Whoever decides again over tasks that waited is the last that could begin anything.
        let _ = end.send(Released::End);
    });
    tell_of_metadata(run, staging);
    match broken.first() {
        Some(error) => Err(error),
        None => {
            staging.clear_partials().on_server("can't clear the staging area").map_err(|error| in_staging(run, error))
        }
    }
}

// An earlier attempt may have been broken off.
fn finish_interrupted(run: &Run<'_>) -> Result<()> {
    let recovered = recover(run.repository, &mut run.repository.index()?, &run.source.name)?;
    recovered.found.warnings().for_each(|warning| run.tally.warn(warning));
    Ok(())
}

fn clear_staging(run: &Run<'_>) -> Result<Staging> {
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

// The first two stages: list, and send every step on its way.
fn lead(run: &Run<'_>, lister: Conversation, ways: Ways<'_>) -> Result<()> {
    let index = run.repository.index()?;
    let remembered = run.remembered(&index, ways.onward.fetch.staging);
    let mut dispatch = Dispatch::new(run, &index, ways);
    let roots = list(lister, run.source, run.repository.id(), &remembered, run.tally, &mut dispatch)?;
    dispatch.finish(&roots)
}

fn deciding<'a>(run: &'a Run<'a>, onward: Onward<'a>) -> Result<Deciding<'a>> {
    Ok(Deciding { run, index: run.repository.index()?, onward })
}

fn decide_again<'a>(run: &'a Run<'a>, ways: Ways<'a>, released: &Unbounded<Released>) -> Result<()> {
    let deciding = deciding(run, ways.onward.clone())?;
    rejoin(released, &deciding, &ways)
}
