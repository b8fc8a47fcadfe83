//! Trays: directories of the staging area in which the files of one new directory gather under their own names, so that
//! all of it can be moved into the snapshot at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::Staging;
use crate::path::Name;
use crate::repository::dirs::Dir;

// How many trays are kept open.
const MOST_OPEN: usize = 64;

/// The tray of one client directory. It takes files until it is closed.
#[derive(Debug, Default)]
pub struct Tray(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    // Its name in staging, once it is made.
    name: Option<Name>,
    // How many it ever took.
    files: u64,
    is_closed: bool,
}

impl Tray {
    /// One that takes nothing.
    pub fn closed() -> Tray {
        Tray(Mutex::new(State { is_closed: true, ..State::default() }))
    }

    /// Takes no more files from now on. Returns its name in staging, the first time, if `files` are all that it ever took.
    pub fn close(&self, files: u64) -> Option<Name> {
        let mut state = self.state();
        let was_closed = std::mem::replace(&mut state.is_closed, true);
        state.name.clone().filter(|_| !was_closed && state.files == files)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of something in staging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedName {
    /// The tray that it is in; `None` for what is in the area itself.
    pub tray: Option<Name>,
    /// Its name there: a number, or in a tray the one that it is to have.
    pub name: Name,
}

impl From<Name> for StagedName {
    fn from(name: Name) -> StagedName {
        StagedName { tray: None, name }
    }
}

/// Trays that are held open.
pub(super) type OpenTrays = Mutex<HashMap<Name, Dir>>;

impl Staging {
    /// Has something made in a tray under its own name, or else in the area under a number.
    pub fn put<T>(
        &self,
        tray: &Tray,
        name: &Name,
        make: impl Fn(&Dir, &Name) -> nix::Result<T>,
    ) -> nix::Result<(StagedName, T)> {
        let mut state = tray.state();
        if !state.is_closed {
            let tray = self.made(&mut state)?;
            match make(&self.tray(&tray)?, name) {
                // Of two attempts at one file the first is there still.
                Err(Errno::EEXIST) => {}
                made => {
                    let made = made?;
                    state.files += 1;
                    return Ok((StagedName { tray: Some(tray), name: name.clone() }, made));
                }
            }
        }
        drop(state);
        let number = self.free_name();
        let made = make(&self.dir, &number)?;
        Ok((number.into(), made))
    }

    fn made(&self, state: &mut State) -> nix::Result<Name> {
        if let Some(name) = &state.name {
            return Ok(name.clone());
        }
        let name = self.free_name();
        self.dir.create_dir(&name, 0o700)?;
        state.name = Some(name.clone());
        Ok(name)
    }

    /// The directory that something is in.
    pub fn directory_of(&self, staged: &StagedName) -> nix::Result<Dir> {
        staged.tray.as_ref().map_or(Ok(self.dir.clone()), |tray| self.tray(tray))
    }

    /// Opens a tray.
    pub fn tray(&self, name: &Name) -> nix::Result<Dir> {
        let mut open = self.open_trays();
        if let Some(tray) = open.get(name) {
            return Ok(tray.clone());
        }
        let tray = self.dir.open(name.as_bytes())?;
        if open.len() >= MOST_OPEN {
            open.clear();
        }
        open.insert(name.clone(), tray.clone());
        Ok(tray)
    }

    /// Moves a tray to where nothing is, or an empty directory.
    pub fn move_tray(&self, name: &Name, to: &Dir, to_name: &Name) -> nix::Result<()> {
        self.dir.rename_directory(name, to, to_name)?;
        self.open_trays().remove(name);
        Ok(())
    }

    /// Removes what is left of a tray whose files have all been taken out, or that was moved.
    pub fn clear_tray(&self, tray: Tray) -> nix::Result<()> {
        let Some(name) = tray.0.into_inner().unwrap_or_else(PoisonError::into_inner).name else { return Ok(()) };
        self.open_trays().remove(&name);
        match self.dir.remove_dir(&name) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn open_trays(&self) -> MutexGuard<'_, HashMap<Name, Dir>> {
        self.open_trays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staging() -> (tempfile::TempDir, Staging) {
        let place = tempfile::tempdir().unwrap();
        let staging = Staging::open(Dir::open_base(place.path()).unwrap()).unwrap();
        (place, staging)
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn a_tray_is_moved_with_all_that_it_took_or_not_at_all() {
        let (place, staging) = staging();
        let (whole, part) = (Tray::default(), Tray::default());
        for tray in [&whole, &part] {
            staging.put(tray, &name("a"), Dir::create_file).unwrap();
            staging.put(tray, &name("b"), Dir::create_file).unwrap();
        }
        assert_eq!(part.close(1), None);
        let moved = whole.close(2).unwrap();
        std::fs::create_dir(place.path().join("empty")).unwrap();
        staging.move_tray(&moved, staging.dir(), &name("empty")).unwrap();
        assert!(place.path().join("empty/a").exists() && place.path().join("empty/b").exists());
    }

    #[test]
    fn a_closed_tray_takes_nothing_and_a_taken_name_gets_a_number() {
        let (_place, staging) = staging();
        let tray = Tray::default();
        let (first, _) = staging.put(&tray, &name("a"), Dir::create_file).unwrap();
        assert_eq!(first.name, name("a"));
        let (again, _) = staging.put(&tray, &name("a"), Dir::create_file).unwrap();
        assert_eq!(again.tray, None);
        assert!(tray.close(1).is_some());
        let (late, _) = staging.put(&tray, &name("b"), Dir::create_file).unwrap();
        assert_eq!(late.tray, None);
        assert_eq!(tray.close(1), None);
    }

    #[test]
    fn a_tray_is_moved_over_nothing() {
        let (place, staging) = staging();
        let tray = Tray::default();
        staging.put(&tray, &name("a"), Dir::create_file).unwrap();
        let moved = tray.close(1).unwrap();
        std::fs::create_dir(place.path().join("full")).unwrap();
        std::fs::write(place.path().join("full/x"), b"somebody's").unwrap();
        std::fs::write(place.path().join("file"), b"somebody's").unwrap();
        for there in ["full", "file"] {
            assert!(staging.move_tray(&moved, staging.dir(), &name(there)).is_err());
        }
        assert_eq!(std::fs::read(place.path().join("full/x")).unwrap(), b"somebody's");
        assert_eq!(std::fs::read(place.path().join("file")).unwrap(), b"somebody's");
    }

    #[test]
    fn what_a_crash_left_of_trays_is_cleared() {
        let (place, staging) = staging();
        staging.put(&Tray::default(), &name("a"), Dir::create_file).unwrap();
        staging.create().unwrap();
        staging.clear().unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
