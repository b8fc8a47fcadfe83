//! Giving back: entries as they were at the end of a run, below a directory of this machine or of a host.
//!
//! One thread goes through the index and makes the directories; several make what is in them. Further names of a
//! file come when it is there, the metadata of directories when everything is. What is there already as it should be
//! is left alone, so that a restore can be repeated. Each content is checked against its hash before it gets its name.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::errno::Errno;

use crate::client::{RestoreItem, RestoreOptions, RestoreOutcome, RestoreSession, Stop};
use crate::entry::{Attributes, Entry, Kind, Version};
use crate::error::{Error, Result};
use crate::history::{Child, Past};
use crate::path::{AbsPath, Escaped, Name, SourceName};
use crate::report::{Report, Restoration, grouped};
use crate::repository::Repository;
use crate::repository::stored::encode_entry;

mod filling;
mod inside;
mod owners;
mod parents;
mod privileges;
mod target;

pub use crate::client::Overwrite;
pub use owners::{Accounts, Owners};
pub use privileges::LeftOut;
pub use target::{To, target_of};

use filling::Filler;
use target::{TargetPaths, open_session};

// How many things are offered at once, and how many bytes of attributes they may have together.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 * 1024;

// How many directories are listed before those in them are made.
const LISTED: usize = 64;

// Batches that may wait for a thread.
const QUEUE: usize = 16;

// More ways than this rarely write faster, and sshd allows no more than ten.
const MOST_WAYS: usize = 4;

// Why something is not made.
const IN_REPOSITORY: &str = "it would be written into the repository";

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Entries that were made, or would be made.
    pub restored: u64,
    /// Entries that were there as they should be.
    pub unchanged: u64,
    /// Entries that were left out, for something else was there and was not to be overwritten.
    pub left: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Entries that could not be restored.
    pub errors: u64,
    /// Entries whose mtimes the destination's file system has rounded, by less than two seconds.
    pub rounded_mtimes: u64,
    /// Entries whose mtimes it can't hold, so that they have other ones; they count as errors, too.
    pub other_mtimes: u64,
    /// What was left out, for it could give rights on this machine.
    pub left_out: LeftOut,
}

impl Restored {
    fn tell_mtimes(&mut self, report: &dyn Report) {
        let times =
            |count: u64| if count == 1 { "1 mtime was".to_owned() } else { format!("{} mtimes were", grouped(count)) };
        if self.rounded_mtimes > 0 {
            report.warn(format_args!("{} rounded by the destination's file system", times(self.rounded_mtimes)));
        }
        if self.other_mtimes > 0 {
            self.errors += self.other_mtimes;
            report.error(format_args!("{} not kept by the destination's file system", times(self.other_mtimes)));
        }
    }
}

/// How to restore.
#[derive(Clone, Debug)]
pub struct Options {
    /// As it was at the end of this run.
    pub run: i64,
    /// Only list what would be made.
    pub dry_run: bool,
    /// Keep the whole path below the destination, instead of its last component.
    pub in_place: bool,
    /// What to do about something else that is there.
    pub overwrite: Overwrite,
    /// To whom things belong; `None` for whoever restores them.
    pub owners: Option<Owners>,
    /// On this machine, make what could give rights on it, too. A host gets its own back, whatever that is.
    pub privileged: bool,
    /// How to stop it.
    pub stop: Stop,
}

/// Restores a path of a source with all below it to a destination: under its last component, as `cp -a` would, or, in
/// place, under its whole path. What fails is reported, counted and left out.
pub fn restore(
    repository: &Repository,
    source: &SourceName,
    path: &AbsPath,
    to: To<'_>,
    options: &Options,
    report: &dyn Report,
) -> Result<Restored> {
    let past = Past::open(repository, source)?;
    let asked = ask(repository, &to, options);
    let paths = &TargetPaths::below(&to, &asked);
    let (target, own) = open(repository, to, &asked)?;
    let (done, first_names) = (Mutex::default(), Mutex::default());
    let shared = Shared { repository, source, to, options, asked, paths, report, done, first_names };
    thread::scope(|scope| {
        let (tasks, to_do) = bounded::<Vec<Task>>(QUEUE);
        let ways = thread::available_parallelism().map_or(1, usize::from).clamp(2, MOST_WAYS);
        let begin = |to_do: Receiver<Vec<Task>>| {
            let shared = &shared;
            scope.spawn(move || work(shared, &to_do))
        };
        let workers: Vec<_> = (0..ways).map(|_| begin(to_do.clone())).collect();
        // So that the walk ends when they all have.
        drop(to_do);
        let walk = Walk {
            shared: &shared,
            past: &past,
            target,
            own,
            tasks: Some(tasks),
            links: Vec::new(),
            first_names: HashMap::new(),
        };
        let walked = walk.run(path, || {
            // Whoever waits for more to do must not wait for a walk that has ended.
            let join = |worker: thread::ScopedJoinHandle<'_, Result<()>>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(join).collect::<Result<Vec<()>>>().map(drop)
        });
        let mut done = *shared.done();
        done.left_out.tell(report);
        done.tell_mtimes(report);
        options.stop.asked().map_or(walked, Err).map(|()| done)
    })
}

// Also returns where the repository is below the destination.
fn open<'a>(
    repository: &Repository,
    to: To<'a>,
    asked: &RestoreOptions,
) -> Result<(Box<dyn RestoreSession + 'a>, Vec<AbsPath>)> {
    let here = match to {
        To::Here { path, .. } => Some(path),
        // The helper knows the repository by its own directory, and not a bind mount of what is in that.
        To::There { client, directory, .. } if client.is_this_machine() && directory.starts_with(b"/") => {
            Some(Path::new(OsStr::from_bytes(directory)))
        }
        To::There { .. } => None,
    };
    here.map_or(Ok(()), |path| inside::refuse(repository, path))?;
    let target = open_session(to, asked)?;
    Ok((target, here.map_or_else(Vec::new, |path| inside::own_paths(repository, path))))
}

fn ask(repository: &Repository, to: &To<'_>, options: &Options) -> RestoreOptions {
    let destination = match to {
        To::Here { path, .. } => std::path::absolute(path)
            .map_or_else(|_| path.as_os_str().as_bytes().to_vec(), |path| path.as_os_str().as_bytes().to_vec()),
        To::There { directory, .. } => directory.to_vec(),
    };
    let (overwrite, owners, dry_run) = (options.overwrite, options.owners.is_some(), options.dry_run);
    RestoreOptions { destination, overwrite, owners, dry_run, repository: repository.id().to_owned() }
}

/// What all threads know.
struct Shared<'a> {
    repository: &'a Repository,
    source: &'a SourceName,
    to: To<'a>,
    options: &'a Options,
    asked: RestoreOptions,
    paths: &'a TargetPaths,
    report: &'a dyn Report,
    done: Mutex<Restored>,
    // Where files with several names are that are as they should be: what further names may lead to.
    first_names: Mutex<HashSet<AbsPath>>,
}

/// A version, and where it goes.
struct Task {
    // On the client.
    path: AbsPath,
    // The directory at the destination.
    to: AbsPath,
    version: Version,
    link: Option<AbsPath>,
}

impl Shared<'_> {
    fn done(&self) -> std::sync::MutexGuard<'_, Restored> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn item(&self, task: &Task) -> RestoreItem {
        let mut entry = task.version.entry.clone();
        if let Some(owners) = &self.options.owners {
            (entry.uid, entry.gid) = owners.there(entry.uid, entry.gid);
        }
        RestoreItem { directory: task.to.clone(), entry, link: task.link.clone() }
    }

    // False when nothing is left to be made.
    fn take_rights(&self, task: &mut Task) -> bool {
        let keeps = self.options.privileged || matches!(self.to, To::There { .. });
        keeps || self.done().left_out.take(&mut task.version.entry)
    }

    // The path of something at the destination.
    fn target_path(&self, directory: &AbsPath, name: &Name) -> Vec<u8> {
        directory.join(name).map_or_else(Vec::new, |path| self.paths.of(&path))
    }

    fn failed(&self, task: &Task, why: impl std::fmt::Display) {
        self.done().errors += 1;
        let target = self.target_path(&task.to, &task.version.entry.name);
        self.report.error(format_args!("can't restore `{}` to `{}`: {why}", task.path, Escaped(&target)));
    }

    // Tells and counts what became of something; true when it is there now.
    fn note(&self, task: &Task, outcome: &RestoreOutcome) -> bool {
        let version = &task.version;
        match outcome {
            RestoreOutcome::Made
            | RestoreOutcome::WithoutXattrs(_)
            | RestoreOutcome::WithoutRights(_)
            | RestoreOutcome::OtherTime
            | RestoreOutcome::RoundedTime => {
                let bytes = if task.link.is_none() { version.entry.size } else { 0 };
                let mut done = self.done();
                done.restored += 1;
                done.bytes += bytes;
                drop(done);
                let target = &self.target_path(&task.to, &version.entry.name);
                self.report.restored(&Restoration { path: &task.path, target, bytes });
                self.note_lacks(task, outcome);
            }
            RestoreOutcome::Unchanged => self.done().unchanged += 1,
            RestoreOutcome::UnchangedRoundedTime => {
                self.done().unchanged += 1;
                self.note_lacks(task, outcome);
            }
            RestoreOutcome::Left => self.done().left += 1,
            RestoreOutcome::Differs if self.options.overwrite != Overwrite::Refuse => self.done().left += 1,
            RestoreOutcome::Differs => self.failed(
                task,
                "it is there with another owner, mode or extended attributes: `--overwrite always` replaces them",
            ),
            RestoreOutcome::Exists => self.failed(
                task,
                "something else is there: `--overwrite older` replaces what is older, `--overwrite always` all",
            ),
            RestoreOutcome::OtherName => self.failed(
                task,
                "the destination's file system takes this name and another entry's for the same: restore it to another directory",
            ),
            RestoreOutcome::NotEmpty => self.failed(task, "a directory is there that is not empty"),
            RestoreOutcome::Failed(errno) if is_in_the_way(*errno) => {
                self.failed(task, "a directory above it is no directory there, and symlinks are not followed");
            }
            RestoreOutcome::Failed(errno) => self.failed(task, Errno::from_raw(*errno).desc()),
            RestoreOutcome::ContentWanted => self.failed(task, "it was not made"),
            RestoreOutcome::IsRepository => self.leave_out_repository(task),
            RestoreOutcome::InRepository => self.failed(task, IN_REPOSITORY),
        }
        let is_there = matches!(
            outcome,
            RestoreOutcome::Made
                | RestoreOutcome::WithoutXattrs(_)
                | RestoreOutcome::WithoutRights(_)
                | RestoreOutcome::OtherTime
                | RestoreOutcome::RoundedTime
                | RestoreOutcome::Unchanged
                | RestoreOutcome::UnchangedRoundedTime
        );
        if is_there && version.entry.inode.is_some() && task.link.is_none() {
            self.first_names().extend(task.to.join(&version.entry.name));
        }
        is_there
    }

    fn leave_out_repository(&self, task: &Task) {
        self.report.notice(format_args!("`{}` is where the repository is, and was left out", task.path));
    }

    // What something that is there lacks. Mtimes are counted and reported together, for there may be as many as files.
    fn note_lacks(&self, task: &Task, outcome: &RestoreOutcome) {
        if let RestoreOutcome::WithoutXattrs(errno) | RestoreOutcome::WithoutRights(errno) = outcome {
            let what = if matches!(outcome, RestoreOutcome::WithoutXattrs(_)) {
                "all of its extended attributes"
            } else {
                "its owner or mode"
            };
            let why = Errno::from_raw(*errno).desc();
            self.failed(task, format_args!("it is there, but without {what}: {why}"));
        }
        let mut done = self.done();
        done.rounded_mtimes +=
            u64::from(matches!(outcome, RestoreOutcome::RoundedTime | RestoreOutcome::UnchangedRoundedTime));
        done.other_mtimes += u64::from(*outcome == RestoreOutcome::OtherTime);
    }

    fn first_names(&self) -> std::sync::MutexGuard<'_, HashSet<AbsPath>> {
        self.first_names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Makes what is in a batch; returns which of it is there now.
    fn make(
        &self,
        target: &mut dyn RestoreSession,
        filler: &mut Filler<'_>,
        batch: Vec<Task>,
    ) -> Result<Vec<(Task, bool)>> {
        self.options.stop.asked().map_or(Ok(()), Err)?;
        let items = batch.iter().map(|task| self.item(task)).collect();
        let outcomes = target.offer(items)?;
        let (mut made, mut filled) = (Vec::with_capacity(batch.len()), Vec::new());
        for (task, outcome) in batch.into_iter().zip(outcomes) {
            if outcome == RestoreOutcome::ContentWanted {
                let is_good = filler.fill(target, self.item(&task), &task.path, &task.version)?;
                filled.push((task, is_good));
            } else {
                let is_there = self.note(&task, &outcome);
                made.push((task, is_there));
            }
        }
        for ((task, is_good), outcome) in filled.into_iter().zip(target.filled()?) {
            let is_there = if is_good { self.note(&task, &outcome) } else { false };
            self.done().errors += u64::from(!is_good);
            made.push((task, is_there));
        }
        Ok(made)
    }
}

/// The thread that goes through the index.
struct Walk<'a> {
    shared: &'a Shared<'a>,
    past: &'a Past<'a>,
    target: Box<dyn RestoreSession + 'a>,
    // Where the repository is below the destination.
    own: Vec<AbsPath>,
    tasks: Option<Sender<Vec<Task>>>,
    links: Vec<Task>,
    // Where the first name of a file with several is restored to, if it can be.
    first_names: HashMap<Identity, AbsPath>,
}

impl Walk<'_> {
    fn run(mut self, path: &AbsPath, join: impl FnOnce() -> Result<()>) -> Result<()> {
        let made = self.make(path);
        self.tasks = None;
        // What went wrong with one of the ways explains what went wrong here.
        let worked = join();
        let directories = worked.and(made)?;
        self.make_links()?;
        // Those below come after those above.
        let finish: Vec<Task> = directories.into_iter().rev().collect();
        for batch in batches(finish) {
            let items = batch.iter().map(|task| self.shared.item(task)).collect();
            for (task, outcome) in batch.iter().zip(self.target.finish(items)?) {
                match outcome {
                    RestoreOutcome::Made
                    | RestoreOutcome::WithoutXattrs(_)
                    | RestoreOutcome::WithoutRights(_)
                    | RestoreOutcome::OtherTime
                    | RestoreOutcome::RoundedTime => self.shared.note_lacks(task, &outcome),
                    _ => drop(self.shared.note(task, &outcome)),
                }
            }
        }
        Ok(())
    }

    // Where the first name could not be made, or belongs to something else, the next one becomes the first.
    fn make_links(&mut self) -> Result<()> {
        let links = std::mem::take(&mut self.links);
        let is_there = |task: &Task| task.link.as_ref().is_some_and(|first| self.shared.first_names().contains(first));
        let (links, others): (Vec<Task>, Vec<Task>) = links.into_iter().partition(is_there);
        for batch in batches(links) {
            self.offer(batch)?;
        }
        let mut filler = None;
        let mut firsts: HashMap<AbsPath, AbsPath> = HashMap::new();
        for mut task in others {
            let Some(lost) = task.link.take() else { continue };
            task.link = firsts.get(&lost).cloned();
            let filler = match &mut filler {
                Some(filler) => filler,
                none => none.insert(Filler::open(self.shared)?),
            };
            for (task, is_there) in self.shared.make(&mut *self.target, filler, vec![task])? {
                if is_there && task.link.is_none() {
                    firsts.extend(task.to.join(&task.version.entry.name).map(|first| (lost.clone(), first)));
                }
            }
        }
        Ok(())
    }

    // Everything but further names; returns the directories that are there now, each after what holds it.
    fn make(&mut self, path: &AbsPath) -> Result<Vec<Task>> {
        let run = self.shared.options.run;
        let (mut waiting, mut directories) = (Vec::new(), Vec::new());
        match path.split() {
            Some((parent, _)) => {
                let found = self.past.at(path, run)?;
                let to = if self.shared.options.in_place { parent.clone() } else { AbsPath::root() };
                self.make_parents(&to, &mut directories)?;
                let found = sort(found, &parent, &to, &mut waiting);
                self.take(found, &mut waiting, &mut directories)?;
            }
            None => waiting.push((path.clone(), AbsPath::root())),
        }
        while !waiting.is_empty() {
            let mut found = Vec::new();
            for (path, to) in waiting.split_off(waiting.len().saturating_sub(LISTED)) {
                found.extend(sort(self.past.list(&path, run)?, &path, &to, &mut waiting));
            }
            self.take(found, &mut waiting, &mut directories)?;
        }
        Ok(directories)
    }

    fn take(
        &mut self,
        found: Vec<Task>,
        waiting: &mut Vec<(AbsPath, AbsPath)>,
        directories: &mut Vec<Task>,
    ) -> Result<()> {
        let may_be_made = |task: &mut Task| !self.is_own(task) && self.shared.take_rights(task);
        let found = found.into_iter().filter_map(|mut task| may_be_made(&mut task).then_some(task));
        let (below, others): (Vec<Task>, Vec<Task>) = found.partition(|task| task.version.entry.kind == Kind::Dir);
        for batch in batches(below) {
            for (task, outcome) in self.offer(batch)? {
                waiting.extend(task.to.join(&task.version.entry.name).map(|to| (task.path.clone(), to)));
                if outcome != RestoreOutcome::Differs {
                    directories.push(task);
                }
            }
        }
        let first_names: Vec<Task> = others.into_iter().filter_map(|task| self.first_name(task)).collect();
        for batch in batches(first_names) {
            let sent = self.tasks.as_ref().is_some_and(|tasks| tasks.send(batch).is_ok());
            if !sent {
                return Err(Error::new(crate::error::Kind::Failed, "nobody restores any more"));
            }
        }
        Ok(())
    }

    // True for what would go to where the repository is.
    fn is_own(&self, task: &Task) -> bool {
        let Some(to) = task.to.join(&task.version.entry.name).filter(|_| !self.own.is_empty()) else { return false };
        let is_own = self.own.iter().any(|own| to.starts_with(own));
        if is_own && self.own.contains(&to) && task.version.entry.kind == Kind::Dir {
            self.shared.leave_out_repository(task);
        } else if is_own {
            self.shared.failed(task, IN_REPOSITORY);
        }
        is_own
    }

    // Keeps a further name of a file for later, and what can't be made at all.
    fn first_name(&mut self, mut task: Task) -> Option<Task> {
        if task.version.entry.kind == Kind::Socket {
            self.shared.report.notice(format_args!("`{}` is a socket, which only a program can make", task.path));
            return None;
        }
        let Some(identity) = identity(&task.version) else { return Some(task) };
        let to = task.to.join(&task.version.entry.name)?;
        match self.first_names.get(&identity) {
            Some(first) => {
                task.link = Some(first.clone());
                self.links.push(task);
                None
            }
            None => {
                self.first_names.insert(identity, to);
                Some(task)
            }
        }
    }

    // Returns what is there now, be it as it should be or not.
    fn offer(&mut self, batch: Vec<Task>) -> Result<Vec<(Task, RestoreOutcome)>> {
        self.shared.options.stop.asked().map_or(Ok(()), Err)?;
        let items = batch.iter().map(|task| self.shared.item(task)).collect();
        let outcomes = self.target.offer(items)?;
        let there = |(task, outcome): &(Task, RestoreOutcome)| {
            self.shared.note(task, outcome)
                || *outcome == RestoreOutcome::Differs && task.version.entry.kind == Kind::Dir
        };
        Ok(batch.into_iter().zip(outcomes).filter(there).collect())
    }
}

// True when a directory above something is no directory.
fn is_in_the_way(errno: i32) -> bool {
    matches!(Errno::from_raw(errno), Errno::ELOOP | Errno::ENOTDIR)
}

/// BLAKE3 of all that the names of one file have in common.
type Identity = [u8; 32];

// `None` for what has one name. The inode's number alone says nothing: it was listed at different times, and the client
// may have used it for something else between them.
fn identity(version: &Version) -> Option<Identity> {
    let Version { entry, hash, .. } = version;
    entry.inode?;
    if entry.kind == Kind::File && hash.is_none() {
        return None;
    }
    // The ctime is not restored, and becomes another with every name.
    let common = Entry { name: Name::new("name").expect("it is a name"), ctime: 0, ..entry.clone() };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&encode_entry(&common)).update(hash.as_ref().map_or(&[], |hash| hash));
    Some(*hasher.finalize().as_bytes())
}

// What is to be made of what was in a directory. A directory that only leads to roots is made when something in it is, for
// nothing is known of it but its name.
fn sort(children: Vec<Child>, path: &AbsPath, to: &AbsPath, waiting: &mut Vec<(AbsPath, AbsPath)>) -> Vec<Task> {
    let mut tasks = Vec::with_capacity(children.len());
    for Child { name, version } in children {
        let Some(path) = path.join(&name) else { continue };
        match version {
            Some(version) => tasks.push(Task { path, to: to.clone(), version, link: None }),
            None => waiting.extend(to.join(&name).map(|to| (path, to))),
        }
    }
    tasks
}

fn batches(tasks: Vec<Task>) -> Vec<Vec<Task>> {
    let (mut batches, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for task in tasks {
        bytes += weight(&task);
        batch.push(task);
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

// About what it takes on the wire.
fn weight(task: &Task) -> usize {
    let entry = &task.version.entry;
    let attributes = entry.attributes.as_deref().map_or(0, Attributes::weight);
    attributes + task.to.as_bytes().len() + entry.target.len() + entry.name.as_bytes().len()
}

// One of the threads that make what is in directories.
fn work(shared: &Shared<'_>, to_do: &Receiver<Vec<Task>>) -> Result<()> {
    // What it takes to open another way is only spent when there is something to do.
    let Ok(first) = to_do.recv() else { return Ok(()) };
    let mut target = open_session(shared.to, &shared.asked)?;
    let mut filler = Filler::open(shared)?;
    for batch in std::iter::once(first).chain(to_do.iter()) {
        shared.make(&mut *target, &mut filler, batch)?;
    }
    Ok(())
}
