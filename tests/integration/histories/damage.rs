//! Damage to plain files: it must be found, repaired where the bytes exist, and nothing else may change.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use archive::source::LinkWhen;
use archive::verify::{self, Options};
use filetime::FileTime;

use super::Dice;
use super::client::walk;
use super::world::{Listener, World, name};
use crate::support::{checker, noise};

/// An inode of the trees.
struct Plain {
    places: Vec<PathBuf>,
    content: Vec<u8>,
}

impl World {
    pub(super) fn damage(&mut self, dice: &mut Dice) {
        let files = self.plain_files();
        if files.is_empty() || self.is_old {
            return;
        }
        let at = dice.below(files.len() as u64) as usize;
        let file = &files[at];
        let kind = dice.below(4);
        let place = dice.one_of(&file.places).unwrap();
        let aside = self.path("aside");
        let mtime = FileTime::from_last_modification_time(&fs::metadata(&place).unwrap());
        let copies = files.iter().enumerate().any(|(other, found)| other != at && found.content == file.content);
        let has_copy = copies || (kind >= 2 && file.places.len() > 1);
        match kind {
            0 => overwrite(&place, &other_bytes(&file.content)),
            1 => overwrite(&place, &file.content[..file.content.len() / 2]),
            _ => fs::rename(&place, &aside).unwrap(),
        }
        if kind == 3 {
            fs::write(&place, other_bytes(&file.content)).unwrap();
            filetime::set_file_mtime(&place, mtime).unwrap();
        }
        let words = ["overwritten", "cut", "removed", "replaced"][kind as usize];
        self.tell(format!("{} is {words}; a copy: {has_copy}", place.display()));
        if checker::check(&self.repo()).is_empty() {
            self.find("the checker is blind");
        }
        if !self.verify(None) {
            self.find(format!("verify is satisfied although {} is {words}", place.display()));
        }
        if has_copy {
            if dice.below(3) == 0 {
                self.kill_repair(dice);
            }
            self.verify(Some([LinkWhen::Content, LinkWhen::Exact, LinkWhen::Never][dice.below(3) as usize]));
        } else {
            // Nobody could know: as it was.
            match kind {
                0 | 1 => {
                    overwrite(&place, &file.content);
                    filetime::set_file_mtime(&place, mtime).unwrap();
                }
                _ => fs::rename(&aside, &place).unwrap(),
            }
        }
        let _ = fs::remove_file(&aside);
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
    fn verify(&mut self, repair: Option<LinkWhen>) -> bool {
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

    fn plain_files(&self) -> Vec<Plain> {
        let mut inodes: HashMap<u64, Plain> = HashMap::new();
        for tree in ["snapshot", "archive"].map(|tree| self.repo().join(tree)) {
            for (path, seen) in walk(&tree, &tree) {
                if seen.kind != 0 || seen.size == 0 {
                    continue;
                }
                use std::os::unix::ffi::OsStringExt;
                let path = PathBuf::from(std::ffi::OsString::from_vec(path));
                let number = fs::metadata(&path).unwrap().ino();
                let none = || Plain { places: Vec::new(), content: fs::read(&path).unwrap() };
                inodes.entry(number).or_insert_with(none).places.push(path);
            }
        }
        let mut files: Vec<_> = inodes.into_values().collect();
        files.sort_by(|one, other| one.places.cmp(&other.places));
        files
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
