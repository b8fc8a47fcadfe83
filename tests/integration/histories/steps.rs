//! What is done to a repository: pulls of every kind, and everything else that a user, an accident or a disk does.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use archive::client::{self, connect};
use archive::pull::{self, Options};
use archive::report::{Summary, Tee};
use archive::repository::Repository;
use archive::restore::{self, To, restore};
use archive::source::{ArchiveWhat, HashWhere, LinkWhen, MinFree, Settings, Source, Tuning};

use super::Dice;
use super::client::Change;
use super::lying;
use super::world::{LIAR, Listener, SOURCES, World, abs, name};

/// One step of a history.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Client(Change),
    Pull,
    PullSeveral,
    Crowd,
    Prune,
    Forget,
    Rebuild,
    Damage,
    Overwrite,
    KeepIndex,
    PutIndexBack,
    Kill,
    Full,
    Restore,
    Lie,
    ReuseInodes,
    Update,
    Unknown,
    Stop,
    DryRun,
}

/// How often each occurs, beside changes of the client.
pub const STEPS: [(Step, u64); 19] = [
    (Step::Pull, 24),
    (Step::PullSeveral, 5),
    (Step::Crowd, 2),
    (Step::Prune, 6),
    (Step::Forget, 2),
    (Step::Rebuild, 1),
    (Step::Damage, 4),
    (Step::Overwrite, 3),
    (Step::KeepIndex, 2),
    (Step::PutIndexBack, 2),
    (Step::Kill, 5),
    (Step::Full, 1),
    (Step::Restore, 4),
    (Step::Lie, 4),
    (Step::ReuseInodes, 2),
    (Step::Update, 2),
    (Step::Unknown, 2),
    (Step::Stop, 4),
    (Step::DryRun, 3),
];

const FILES_OF_A_CROWD: u64 = 60;

/// How a pull is made.
pub(super) struct How {
    link: usize,
    hash: usize,
    archive: usize,
    checksum: bool,
    gather: bool,
}

impl How {
    fn throw(dice: &mut Dice) -> How {
        How {
            link: [0, 0, 1, 2][dice.below(4) as usize],
            hash: dice.below(2) as usize,
            archive: usize::from(dice.below(4) == 0),
            checksum: dice.below(8) == 0,
            gather: dice.below(4) > 0,
        }
    }

    fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec!["--link", ["content", "exact", "never"][self.link]];
        flags.extend(["--hash", ["client", "server"][self.hash]]);
        flags.extend(["--archive", ["replaced", "all"][self.archive]]);
        flags.extend(self.checksum.then_some("--checksum"));
        flags.extend((!self.gather).then_some("--tuning=gather=false"));
        flags
    }

    fn settings(&self, is_guarded: bool) -> Settings {
        Settings {
            link: [LinkWhen::Content, LinkWhen::Exact, LinkWhen::Never][self.link],
            hash: [HashWhere::Client, HashWhere::Server][self.hash],
            archive: [ArchiveWhat::Replaced, ArchiveWhat::All][self.archive],
            tuning: Tuning { gather: self.gather, ..Tuning::default() },
            max_delete: if is_guarded { Settings::default().max_delete } else { 100 },
            min_free: MinFree::Bytes(0),
            retries: 0,
            ..Settings::default()
        }
    }
}

/// One pull that is to be made.
pub(super) struct Planned {
    pub(super) source: &'static str,
    pub(super) roots: Vec<PathBuf>,
    pub(super) how: How,
    /// With the guards that others are made without.
    pub(super) is_guarded: bool,
    pub(super) is_dry: bool,
}

impl Planned {
    pub(super) fn throw(world: &World, source: &'static str, dice: &mut Dice) -> Planned {
        let all = world.client(source).roots();
        let mut roots = all.clone();
        if dice.below(2) == 0 {
            roots.retain(|_| dice.below(2) == 0);
        }
        // One that was never there is an error.
        let state = &world.states[source];
        let was_there = |root: &PathBuf| state.get(root).cloned().flatten().is_some_and(|walk| !walk.is_empty());
        roots.retain(|root| root.exists() || was_there(root));
        if roots.is_empty() {
            roots.push(all[0].clone());
        }
        Planned { source, roots, how: How::throw(dice), is_guarded: false, is_dry: false }
    }

    pub(super) fn words(&self) -> String {
        let roots: Vec<_> = self.roots.iter().map(|root| root.file_name().unwrap().to_string_lossy()).collect();
        let guards = if self.is_guarded { " with guards" } else { "" };
        format!("pull {} {} {}{guards}", self.source, roots.join(","), self.how.flags().join(" "))
    }

    /// Carries it out with a repository of its own, for a thread among others.
    pub(super) fn pull_into(&self, repo: &Path) -> (Summary, Listener) {
        let listener = Listener::default();
        let summary = self.carry_out(&Repository::open(repo).unwrap(), &listener);
        (summary, listener)
    }

    pub(super) fn carry_out(&self, repository: &Repository, report: &Listener) -> Summary {
        let paths = self.roots.iter().map(|root| root.as_os_str().as_bytes().to_vec()).collect();
        let source = Source {
            name: name(self.source),
            ssh: None,
            paths,
            schedule: None,
            settings: self.how.settings(self.is_guarded),
        };
        let options = Options {
            checksum: self.how.checksum,
            allow_missing: !self.is_guarded,
            dry_run: self.is_dry,
            lock_wait: Duration::from_secs(10),
            ..Options::default()
        };
        pull::pull(Some(repository), &source, &options, report)
    }

    pub(super) fn command(&self, world: &World) -> std::process::Command {
        let mut command = world.program(&["pull", "-q", "--name", self.source]);
        command.args(["--lock-wait", "10s", "--max-delete", "100", "--allow-missing", "--retries", "0"]);
        command.args(["--min-free", "0"]).args(self.how.flags()).args(&self.roots);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

fn no_ssh() -> client::Options {
    let Settings { tuning, compress, timeout, stall_time, .. } = Settings::default();
    client::Options {
        kind: None,
        helper_dir: None,
        bytes_per_second: None,
        copy: tuning.copy,
        compress,
        timeout,
        stall_time,
        channels: Some(1),
        reads: false,
        keeps_helper: true,
        readers: None,
        stop: Default::default(),
    }
}

impl World {
    /// Carries out a step, and checks what must hold afterwards.
    pub fn step(&mut self, step: Step, dice: &mut Dice) {
        match step {
            Step::Client(change) => {
                let client = dice.below(2) as usize;
                let words = self.clients[client].change(change, dice);
                return self.tell(format!("client {client}: {words}"));
            }
            Step::Pull => {
                let source = dice.one_of(&SOURCES).unwrap().0;
                let planned = Planned::throw(self, source, dice);
                self.pull(&planned);
            }
            Step::PullSeveral => {
                let mut planned: Vec<_> =
                    SOURCES.iter().map(|(source, _)| Planned::throw(self, source, dice)).collect();
                if dice.below(2) == 0 {
                    planned.remove(dice.below(3) as usize);
                }
                self.pull_several(&planned, dice.below(4) == 0);
            }
            Step::Crowd => self.crowd(dice),
            Step::Prune if dice.below(4) == 0 => self.prune_between(dice),
            Step::Prune => self.prune(dice),
            Step::Forget => self.forget(dice),
            Step::Rebuild => self.rebuild(),
            Step::Damage => self.damage(dice),
            Step::Overwrite => self.overwrite_amid_pull(dice),
            Step::KeepIndex => return self.keep_index(),
            Step::PutIndexBack => self.put_index_back(dice),
            Step::Kill => self.fault("kill", dice),
            Step::Full => self.fault("ENOSPC", dice),
            Step::Restore => self.restore(dice),
            Step::Lie => self.lie(dice),
            Step::ReuseInodes => self.reuse_inodes(dice),
            Step::Update => self.update(dice),
            Step::Unknown => self.unknown(dice),
            Step::Stop => self.stop(dice),
            Step::DryRun => self.dry_run(dice),
        }
        self.check(dice);
    }

    pub(super) fn pull(&mut self, planned: &Planned) -> bool {
        let Some(repository) = self.repository() else { return false };
        let listener = Listener::default();
        let summary = planned.carry_out(&repository, &listener);
        self.pull_ended(planned, &summary, &listener)
    }

    pub(super) fn pull_ended(&mut self, planned: &Planned, summary: &Summary, listener: &Listener) -> bool {
        let run = summary.run;
        self.tell(format!("{} -> run {run:?}, {}", planned.words(), summary.exit));
        for text in listener.all() {
            self.tell(format!("    {text}"));
        }
        if let Some(run) = run.filter(|run| *run <= self.last_run) {
            self.find(format!("run number {run} is used twice"));
        }
        match (summary.exit, run) {
            (0, Some(run)) => {
                self.pulled(planned.source, &planned.roots, run);
                true
            }
            (exit, _) => {
                self.cut_off(planned.source, &planned.roots);
                if !self.is_old {
                    self.find(format!("a pull of {} ends with {exit}: {:?}", planned.source, listener.all()));
                }
                false
            }
        }
    }

    fn pull_several(&mut self, planned: &[Planned], as_processes: bool) {
        if as_processes {
            return self.pull_several_processes(planned);
        }
        let repo = self.repo();
        let ended: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = planned.iter().map(|planned| scope.spawn(|| planned.pull_into(&repo))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        self.tell("at once:");
        for (planned, (summary, listener)) in planned.iter().zip(ended) {
            self.pull_ended(planned, &summary, &listener);
        }
    }

    fn pull_several_processes(&mut self, planned: &[Planned]) {
        let children: Vec<_> = planned.iter().map(|planned| planned.command(self).spawn().unwrap()).collect();
        self.tell("at once, in processes:");
        for (planned, child) in planned.iter().zip(children) {
            let output = child.wait_with_output().unwrap();
            self.tell(format!("{} -> {}", planned.words(), output.status));
            self.cut_off(planned.source, &planned.roots);
            if !output.status.success() {
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                self.find(format!("a pull of {} ends with {}: {errors}", planned.source, output.status));
            } else if let Some(run) = self.newest_run(planned.source) {
                self.pulled(planned.source, &planned.roots, run);
            }
        }
    }

    pub(super) fn newest_run(&self, source: &str) -> Option<i64> {
        let sql = "SELECT max(run.id) FROM run JOIN source ON source.id = run.source WHERE source.name = ?1";
        self.index().query_row(sql, [source], |row| row.get(0)).ok()
    }

    // Many files of one size: those of one source become others while another source gets what they were.
    fn crowd(&mut self, dice: &mut Dice) {
        let seed = self.crowds;
        self.crowds += 2;
        self.tell(format!("a crowd from {seed}"));
        self.clients[1].crowd(seed, FILES_OF_A_CROWD);
        let pull = |world: &World, source, dice: &mut Dice| Planned {
            roots: world.client(source).roots()[..2].to_vec(),
            ..Planned::throw(world, source, dice)
        };
        let three = pull(self, "three", dice);
        if self.pull(&three) {
            self.clients[1].crowd(seed + 1, FILES_OF_A_CROWD);
            self.clients[0].crowd(seed, FILES_OF_A_CROWD);
            let planned = ["three", "one"].map(|source| pull(self, source, dice));
            self.pull_several(&planned, dice.below(2) == 0);
        }
        self.check(dice);
        for client in &self.clients {
            let _ = fs::remove_dir_all(client.roots()[0].join("crowd"));
        }
    }

    // The real program dies, or gets no more space, at some step.
    fn fault(&mut self, fault: &str, dice: &mut Dice) {
        let source = dice.one_of(&SOURCES).unwrap().0;
        let planned = Planned::throw(self, source, dice);
        let most = [20, 60, 200][dice.below(3) as usize];
        let at = 1 + dice.below(most);
        let kinds = if super::is_left_out("Rebuild") { 5 } else { 6 };
        let kinds = if self.exists() { kinds } else { 1 };
        let (mut command, words) = match dice.below(kinds) {
            0..=3 => (planned.command(self), planned.words()),
            4 => {
                let keep = ["--keep-last", ["1", "2"][dice.below(2) as usize]];
                self.has_dropped = true;
                (self.program(&["prune", source, keep[0], keep[1], "-q"]), format!("prune {source} {keep:?}"))
            }
            _ => (self.program(&["index", "rebuild", "-q"]), "index rebuild".to_owned()),
        };
        command.env("ARCHIVE_FAULT", format!("{fault}:{at}")).stderr(Stdio::piped()).stdout(Stdio::null());
        let output = command.output().unwrap();
        self.tell(format!("{words} with {fault}:{at} -> {}", output.status));
        if words.starts_with("pull") {
            self.cut_off(planned.source, &planned.roots);
        }
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_expected = match (output.status.code(), fault) {
            (Some(0), _) => true,
            (code, "kill") => code.is_none(),
            (code, _) => code == Some(5),
        };
        if !is_expected && !errors.contains("is no source") && !errors.contains("no source") {
            self.find(format!("{words} with {fault}:{at} ends with {}: {errors}", output.status));
        }
        if self.exists() {
            self.finish_cut_off();
        }
    }

    // A client whose helper lies, of which nobody knows what it holds: it harms neither others nor what is kept of it.
    fn lie(&mut self, dice: &mut Dice) {
        if !self.exists() {
            return;
        }
        let planned = Planned::throw(self, LIAR, dice);
        let script = self.path("liar");
        lying::write_script(&script, dice.next());
        let mut command = planned.command(self);
        let output = command.env("ARCHIVE_HELPER_PROGRAM", &script).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        self.tell(format!("{} with lies -> {} {errors}", planned.words(), output.status));
        self.cut_off(LIAR, &planned.roots);
        if output.status.code().is_none_or(|code| ![0, 1, 3, 4, 6].contains(&code)) || errors.contains("panicked") {
            self.find(format!("a pull of a client that lies ends with {}: {errors}", output.status));
        }
        if output.status.success() {
            self.clear_staging(LIAR);
        } else {
            // Its last batch may wait for the next locked operation.
            self.finish_cut_off();
        }
    }

    // The next locked operation makes everything right.
    fn finish_cut_off(&mut self) {
        let Some(repository) = self.repository() else { return };
        let listener = Listener::default();
        match archive::index::check(&repository, &listener) {
            Ok(0) => {}
            Ok(_) if super::is_left_out("Program") => {}
            Ok(count) => self.find(format!("index check finds {count} after a fault: {:?}", listener.errors())),
            Err(error) => self.find(format!("index check fails after a fault: {error}")),
        }
        for source in super::world::all_sources() {
            self.clear_staging(source);
        }
    }

    // What a run that was cut off received, and never placed, goes with the next run.
    pub(super) fn clear_staging(&self, source: &str) {
        for entry in fs::read_dir(self.repo().join("staging").join(source)).into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().starts_with("partial-") {
                let _ = super::client::remove(&entry.path());
            }
        }
    }

    fn restore(&mut self, dice: &mut Dice) {
        let known = if self.exists() { self.known_runs() } else { Vec::new() };
        let runs: Vec<i64> = self.moments.keys().copied().filter(|run| known.contains(run)).collect();
        if let Some(run) = dice.one_of(&runs) {
            let wants_whole = dice.below(2) == 0;
            self.restore_run(run, wants_whole, dice);
        }
    }

    // Linked files of one root go, others in another root get their inode numbers, and only that one is pulled again.
    fn reuse_inodes(&mut self, dice: &mut Dice) {
        let source = dice.one_of(&SOURCES).unwrap().0;
        let all = self.client(source).roots();
        if !all.iter().all(|root| root.exists()) {
            return;
        }
        let mut newest = None;
        for roots in [all.clone(), vec![all[dice.below(2) as usize].clone()]] {
            let words = self.client(source).change(Change::Churn, dice);
            self.tell(format!("{source}: {words}"));
            let planned = Planned { roots, ..Planned::throw(self, source, dice) };
            if !self.pull(&planned) {
                return;
            }
            newest = self.newest_run(source);
        }
        newest.into_iter().for_each(|run| self.restore_run(run, true, dice));
    }

    fn restore_run(&mut self, run: i64, wants_whole: bool, dice: &mut Dice) {
        let Some((source, state)) = self.moments.get(&run).cloned() else { return };
        let Some(repository) = self.repository() else { return };
        let certain: Vec<PathBuf> =
            state.iter().filter(|(_, walk)| walk.is_some()).map(|(root, _)| root.clone()).collect();
        let whole = wants_whole && certain.len() == state.len() && !super::is_left_out("Whole");
        let Some(root) = dice.one_of(&certain) else { return };
        // A root that was removed as a whole is no path of that moment.
        if !whole && state[&root].as_ref().is_none_or(|walk| walk.is_empty()) {
            return;
        }
        let to = self.path("restored");
        let _ = fs::remove_dir_all(&to);
        fs::create_dir(&to).unwrap();
        let path = if whole { Path::new("/") } else { &root };
        let is_host = dice.below(3) == 0;
        let there = if is_host { " to a host" } else { "" };
        self.tell(format!("restore {source} {} --at {run}{there}", path.display()));
        let listener = Listener::default();
        let options = restore::Options {
            run,
            dry_run: false,
            in_place: false,
            overwrite: restore::Overwrite::Never,
            owners: None,
            privileged: true,
            stop: Default::default(),
        };
        // This machine, as itself and as a host.
        let client = connect(None, &no_ssh(), &Tee(Vec::new())).unwrap();
        let directory = to.as_os_str().as_bytes();
        let place = if is_host {
            To::There { client: &*client, directory, written: directory }
        } else {
            To::Here { client: &*client, path: &to }
        };
        let restored = restore(&repository, &name(source), &abs(path), place, &options, &listener);
        client.disconnect();
        match restored {
            Ok(restored) if restored.errors == 0 && listener.errors().is_empty() => {}
            Ok(restored) => self.find(format!("restore of run {run}: {restored:?} {:?}", listener.errors())),
            Err(error) => self.find(format!("restore of run {run} fails: {error}")),
        }
        for root in if whole { certain } else { vec![root] } {
            let at = if whole { to.join(root.strip_prefix("/").unwrap()) } else { to.join(root.file_name().unwrap()) };
            let wanted = state[&root].clone().unwrap();
            self.compare_restored(&root, &at, &wanted);
        }
        let _ = fs::remove_dir_all(&to);
    }

    fn compare_restored(&mut self, root: &Path, at: &Path, wanted: &super::client::Walk) {
        let found = super::client::walk(at, root);
        let mut groups = std::collections::HashMap::new();
        for (path, seen) in wanted {
            let shown = path.escape_ascii();
            let Some(found) = found.get(path) else {
                self.find(format!("restore left out {shown}"));
                continue;
            };
            if (found.kind, &found.content) != (seen.kind, &seen.content) {
                self.find(format!("restore gave {shown} another content or kind"));
            } else if (found.mode & 0o777, found.mtime) != (seen.mode & 0o777, seen.mtime) {
                self.find(format!("restore gave {shown} another mode or time"));
            }
            let linked = seen.kind == 0 && seen.links > 1;
            if linked && *groups.entry(seen.inode).or_insert(found.inode) != found.inode {
                self.find(format!("restore made {shown} no name of its file"));
            }
            if !linked && seen.kind == 0 && found.links > 1 {
                self.find(format!("restore made {shown} a name of another file"));
            }
        }
        for path in found.keys().filter(|path| !wanted.contains_key(*path)) {
            self.find(format!("restore made {}, which was not there", path.escape_ascii()));
        }
    }
}
