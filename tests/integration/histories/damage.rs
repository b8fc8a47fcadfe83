//! Damage to plain files: it must be found, repaired where the bytes exist, and nothing else may change.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use archive::repository::Repository;
use archive::source::LinkWhen;
use archive::verify::{self, Options};
use filetime::FileTime;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Dice;
use super::client::walk;
use super::steps::Planned;
use super::world::{Listener, SOURCES, World, name};
use crate::crash::wait_for_stop;
use crate::support::{checker, noise};

/// An inode of the trees: a file with something in it, or a symlink.
#[derive(Clone)]
pub(super) struct Plain {
    pub(super) places: Vec<PathBuf>,
    /// A symlink's target.
    pub(super) content: Vec<u8>,
    pub(super) is_symlink: bool,
}

impl World {
    pub(super) fn damage(&mut self, dice: &mut Dice) {
        let files = self.plain_files();
        if files.is_empty() || self.is_old {
            return;
        }
        let at = dice.below(files.len() as u64) as usize;
        let file = &files[at];
        let place = dice.one_of(&file.places).unwrap();
        let copies = files.iter().enumerate().any(|(other, found)| {
            other != at && !found.is_symlink && !file.is_symlink && found.content == file.content
        });
        // A symlink's target is in the index. In place, all names of a file are damaged.
        let (words, is_in_place) = harm(&place, file, dice);
        let has_copy = file.is_symlink || copies || (!is_in_place && file.places.len() > 1);
        self.tell(format!("{} is {words}; a copy: {has_copy}", place.display()));
        if checker::check(&self.repo()).is_empty() {
            self.find("the checker is blind");
        }
        if !self.verify(None) {
            self.find(format!("verify is satisfied although {} is {words}", place.display()));
        }
        if dice.below(2) == 0 {
            self.pull_over_damage(dice);
        }
        if !has_copy {
            self.put_aside(file);
        }
        if dice.below(3) == 0 {
            self.kill_repair(dice);
        }
        let link = [LinkWhen::Content, LinkWhen::Exact, LinkWhen::Never][dice.below(3) as usize];
        if dice.below(3) == 0 {
            self.repair_during_pull(&place, link, dice);
        }
        self.verify(Some(link));
        self.clear_aside();
        // A pull may have given the version another place: then the damaged file is nobody's.
        let wrong = checker::check(&self.repo());
        if !wrong.is_empty() && wrong.iter().all(|wrong| is_unknown(wrong)) {
            let places: Vec<_> =
                file.places.iter().filter(|place| fs::symlink_metadata(place).is_ok()).cloned().collect();
            self.update_paths(&places);
        }
    }

    /// Overwrites a plain file while a pull is stopped amid its changes. The pull may report it and fail, but must not take the
    /// other bytes for what was there.
    pub(super) fn overwrite_amid_pull(&mut self, dice: &mut Dice) {
        let files: Vec<_> = self.plain_files().into_iter().filter(|file| !file.is_symlink).collect();
        let Some(file) = dice.one_of(&files).filter(|_| !self.is_old) else { return };
        let place = dice.one_of(&file.places).unwrap();
        let planned = Planned::throw(self, dice.one_of(&SOURCES).unwrap().0, dice);
        let most = [10, 40, 120][dice.below(3) as usize];
        let at = 1 + dice.below(most);
        let mut command = planned.command(self);
        let mut pull = command.env("ARCHIVE_FAULT", format!("stop:{at}")).spawn().unwrap();
        let has_ended = wait_for_stop(&mut pull);
        // The pull may have moved it.
        let is_there = fs::read(&place).is_ok_and(|bytes| bytes == file.content);
        if is_there {
            overwrite(&place, &other_bytes(&file.content));
        }
        if !has_ended {
            kill(Pid::from_raw(pull.id() as i32), Signal::SIGCONT).unwrap();
        }
        let output = pull.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let words = if is_there { format!("{} overwritten", place.display()) } else { "nothing changed".to_owned() };
        self.tell(format!("{} with {words} at step {at} -> {} {errors}", planned.words(), output.status));
        self.cut_off(planned.source, &planned.roots);
        match output.status.code() {
            Some(0) => {
                let run = self.newest_run(planned.source);
                run.into_iter().for_each(|run| self.pulled(planned.source, &planned.roots, run));
            }
            Some(1) if is_there => {}
            _ => self.find(format!("a pull ends with {}: {errors}", output.status)),
        }
        let is_reported = self.verify(None);
        self.clear_staging(planned.source);
        let wrong = checker::check(&self.repo());
        if wrong.iter().any(|wrong| wrong.contains("recorded with a wrong hash") || !is_reported && !is_unknown(wrong))
        {
            self.findings.extend(wrong.into_iter().map(|wrong| format!("verify: {is_reported}: {wrong}")));
        }
        self.put_aside(&file);
        let link = [LinkWhen::Content, LinkWhen::Exact, LinkWhen::Never][dice.below(3) as usize];
        self.verify(Some(link));
        self.clear_aside();
        self.take_in_unknown();
    }

    // Has the index take in what it does not know.
    fn take_in_unknown(&mut self) {
        let wrong = checker::check(&self.repo());
        let path = |wrong: &String| Some(self.repo().join(wrong.strip_prefix('`')?.split('`').next()?));
        let unknown = wrong.iter().filter(|wrong| is_unknown(wrong)).filter_map(path);
        let unknown: Vec<_> = unknown.filter(|path| fs::symlink_metadata(path).is_ok()).collect();
        self.update_paths(&unknown);
    }

    // A pull may meet the damage: content that it loses or believes wrongly must be reported.
    fn pull_over_damage(&mut self, dice: &mut Dice) {
        let planned = Planned::throw(self, dice.one_of(&SOURCES).unwrap().0, dice);
        self.pull(&planned);
        let wrong = checker::check(&self.repo());
        if !self.verify(None) {
            self.findings.extend(wrong.into_iter().map(|wrong| format!("verify does not report: {wrong}")));
        }
    }

    // Repairs the source that has a place, while others are pulled.
    fn repair_during_pull(&mut self, place: &Path, link: LinkWhen, dice: &mut Dice) {
        let repo = self.repo();
        let of = place.strip_prefix(&repo).unwrap().iter().nth(1).unwrap().to_str().unwrap();
        let others: Vec<_> = SOURCES.iter().map(|(source, _)| *source).filter(|source| *source != of).collect();
        let planned: Vec<_> = others.into_iter().map(|source| Planned::throw(self, source, dice)).collect();
        let ended: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = planned.iter().map(|planned| scope.spawn(|| planned.pull_into(&repo))).collect();
            let repository = Repository::open(&repo).unwrap();
            let options = Options { sample: None, repair: Some(link) };
            let verified = verify::verify(&repository, &name(of), options, &Listener::default());
            self.tell(format!("verify --repair {of} {link:?} -> {verified:?}, meanwhile:"));
            if let Err(error) = verified {
                self.find(format!("verify of {of} fails: {error}"));
            }
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (planned, (summary, listener)) in planned.iter().zip(ended) {
            self.pull_ended(planned, &summary, &listener);
        }
    }

    fn kill_repair(&mut self, dice: &mut Dice) {
        for source in self.known_sources() {
            let fault = format!("kill:{}", 1 + dice.below(12));
            let mut command = self.program(&["verify", "--repair", "-q", source]);
            let output = command.env("ARCHIVE_FAULT", &fault).stderr(Stdio::piped()).output().unwrap();
            self.tell(format!("verify --repair {source} with {fault} -> {}", output.status));
        }
    }

    // Returns true when something is bad.
    pub(super) fn verify(&mut self, repair: Option<LinkWhen>) -> bool {
        let Some(repository) = self.repository() else { return true };
        let mut is_bad = false;
        for source in self.known_sources() {
            let listener = Listener::default();
            match verify::verify(&repository, &name(source), Options { sample: None, repair }, &listener) {
                Ok(verified) => {
                    is_bad |= verified.bad > 0;
                    self.tell(format!("verify {source}, repair {repair:?}: {verified:?}"));
                    listener.all().into_iter().for_each(|text| self.tell(format!("    {text}")));
                }
                Err(error) => self.find(format!("verify of {source} fails: {error}")),
            }
        }
        is_bad
    }

    pub(super) fn plain_files(&self) -> Vec<Plain> {
        let mut inodes: HashMap<u64, Plain> = HashMap::new();
        for tree in ["snapshot", "archive"].map(|tree| self.repo().join(tree)) {
            for (path, seen) in walk(&tree, &tree) {
                let is_symlink = seen.kind == 2;
                if !is_symlink && (seen.kind != 0 || seen.size == 0) {
                    continue;
                }
                use std::os::unix::ffi::OsStringExt;
                let path = PathBuf::from(std::ffi::OsString::from_vec(path));
                let number = fs::symlink_metadata(&path).unwrap().ino();
                let content = || if is_symlink { seen.content.clone() } else { fs::read(&path).unwrap() };
                let none = || Plain { places: Vec::new(), content: content(), is_symlink };
                inodes.entry(number).or_insert_with(none).places.push(path.clone());
            }
        }
        let mut files: Vec<_> = inodes.into_values().collect();
        files.sort_by(|one, other| one.places.cmp(&other.places));
        files
    }
}

fn is_unknown(wrong: &str) -> bool {
    wrong.contains("is unknown to the index")
}

// Returns a word for it, and whether all names of the inode are harmed.
fn harm(place: &Path, file: &Plain, dice: &mut Dice) -> (&'static str, bool) {
    if file.is_symlink {
        fs::remove_file(place).unwrap();
        if dice.below(2) == 0 {
            return ("removed", false);
        }
        std::os::unix::fs::symlink("elsewhere", place).unwrap();
        return ("redirected", false);
    }
    let mtime = FileTime::from_last_modification_time(&fs::metadata(place).unwrap());
    match dice.below(4) {
        0 => {
            overwrite(place, &other_bytes(&file.content));
            ("overwritten", true)
        }
        1 => {
            overwrite(place, &file.content[..file.content.len() / 2]);
            ("cut", true)
        }
        2 => {
            fs::remove_file(place).unwrap();
            ("removed", false)
        }
        _ => {
            fs::remove_file(place).unwrap();
            fs::write(place, other_bytes(&file.content)).unwrap();
            filetime::set_file_mtime(place, mtime).unwrap();
            ("replaced", false)
        }
    }
}

// In place, as a bad disk would.
fn overwrite(path: &Path, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).truncate(true).open(path).unwrap();
    std::io::Write::write_all(&mut &file, bytes).unwrap();
}

fn other_bytes(bytes: &[u8]) -> Vec<u8> {
    let other = noise(99, bytes.len());
    if other == bytes { noise(98, bytes.len()) } else { other }
}
