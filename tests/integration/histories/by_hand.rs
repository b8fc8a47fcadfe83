//! Trees that somebody changes by hand: unknown files, and what `index update` takes over.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use archive::index;
use archive::source::LinkWhen;

use super::Dice;
use super::client::{self, walk};
use super::steps::Planned;
use super::world::{Listener, SOURCES, World, all_sources};
use crate::support::noise;

impl World {
    // A plain file becomes another one, or goes, and the index is told. What it held is put aside, and found by a repair.
    pub(super) fn update(&mut self, dice: &mut Dice) {
        let files = self.plain_files();
        if files.is_empty() || self.is_old {
            return;
        }
        let file = dice.one_of(&files).unwrap();
        let place = dice.one_of(&file.places).unwrap();
        self.put_aside(&file);
        fs::remove_file(&place).unwrap();
        let words = match dice.below(3) {
            0 => "removed",
            1 => {
                fs::write(&place, noise(77, 1 + dice.below(200) as usize)).unwrap();
                "replaced"
            }
            _ => {
                std::os::unix::fs::symlink("by-hand", &place).unwrap();
                "replaced by a symlink"
            }
        };
        self.tell(format!("{} is {words} by hand", place.display()));
        self.update_paths(std::slice::from_ref(&place));
        if dice.below(2) == 0 {
            let source = dice.one_of(&SOURCES).unwrap().0;
            let planned = Planned::throw(self, source, dice);
            self.pull(&planned);
        }
        self.verify(Some([LinkWhen::Content, LinkWhen::Exact, LinkWhen::Never][dice.below(3) as usize]));
        self.clear_aside();
    }

    // A file that the index does not know is in the trees during a pull, and then is taken over.
    pub(super) fn unknown(&mut self, dice: &mut Dice) {
        if !self.exists() || self.is_old {
            return;
        }
        let mut directories = Vec::new();
        for tree in ["snapshot", "archive"].map(|tree| self.repo().join(tree)) {
            let found = walk(&tree, &tree).into_iter().filter(|(_, seen)| seen.kind == 1);
            let found = found.map(|(path, _)| PathBuf::from(std::ffi::OsStr::from_bytes(&path)));
            // Trees, and what is not a source's.
            directories.extend(found.filter(|path| path.strip_prefix(&tree).unwrap().components().count() > 0));
        }
        let Some(directory) = dice.one_of(&directories) else { return };
        let place = directory.join(std::ffi::OsStr::from_bytes(&dice.one_of(&client::names()).unwrap()));
        if fs::symlink_metadata(&place).is_ok() {
            return;
        }
        fs::write(&place, noise(dice.below(6), 100)).unwrap();
        self.tell(format!("{} is added by hand", place.display()));
        let source = dice.one_of(&SOURCES).unwrap().0;
        let planned = Planned::throw(self, source, dice);
        self.pull(&planned);
        if fs::symlink_metadata(&place).is_ok() {
            self.update_paths(&[place]);
        }
    }

    pub(super) fn update_paths(&mut self, paths: &[PathBuf]) {
        let Some(repository) = self.repository() else { return };
        let listener = Listener::default();
        match index::update(&repository, paths, &listener) {
            Ok(count) => self.tell(format!("index update: {count}")),
            Err(error) => self.find(format!("index update fails: {error}")),
        }
        listener.all().into_iter().for_each(|text| self.tell(format!("    {text}")));
        paths.iter().for_each(|path| self.changed_by_hand(path));
    }

    // A root in the snapshot is no longer what its client held, until it is pulled again.
    fn changed_by_hand(&mut self, place: &Path) {
        let repo = self.repo();
        let mut parts = place.strip_prefix(&repo).unwrap().components();
        let (tree, source) = (parts.next().unwrap(), parts.next().unwrap());
        let source = all_sources().find(|name| source.as_os_str() == *name).unwrap();
        let path = Path::new("/").join(parts.as_path());
        if tree.as_os_str() == "snapshot" {
            let roots = self.client(source).roots().into_iter().filter(|root| path.starts_with(root));
            self.cut_off(source, &roots.collect::<Vec<_>>());
        }
    }

    // A copy in `damaged/` of each source, where a repair looks for lost contents.
    pub(super) fn put_aside(&self, file: &super::damage::Plain) {
        for source in self.known_sources() {
            let aside = self.repo().join("damaged").join(source);
            fs::create_dir_all(&aside).unwrap();
            if !file.is_symlink {
                fs::write(aside.join("aside"), &file.content).unwrap();
            }
        }
    }

    pub(super) fn clear_aside(&self) {
        for source in self.known_sources() {
            let _ = fs::remove_file(self.repo().join("damaged").join(source).join("aside"));
        }
    }
}
