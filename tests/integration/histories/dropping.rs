//! What is dropped: by prune, as if the runs had been at other times, and by forget.

use archive::prune;
use archive::retention::Keep;
use jiff::ToSpan;

use super::Dice;
use super::client::Change;
use super::steps::Planned;
use super::world::{Listener, SOURCES, World, name};

const HOUR: i64 = 3_600_000_000_000;

// Nanoseconds since 1970: around noon of a day in 2020.
const FIRST_RUN: i64 = 1_600_000_000_000_000_000;

/// Whether a path is forgotten.
type Goes = Box<dyn Fn(&[u8]) -> bool>;

impl World {
    pub(super) fn prune(&mut self, dice: &mut Dice) {
        if !self.exists() {
            return;
        }
        let source = dice.one_of(&SOURCES).unwrap().0;
        self.move_runs_anywhere(source, dice);
        let mut some = |of: u64| (dice.below(of) == 0).then(|| 1 + dice.below(3) as u32);
        let mut keep = Keep {
            last: some(2),
            hourly: some(4),
            daily: some(2),
            weekly: some(4),
            monthly: some(5),
            yearly: some(6),
            within: None,
        };
        keep.within = (dice.below(4) == 0).then(|| (dice.below(5) as i64).days().fieldwise());
        if keep.is_empty() {
            keep.daily = Some(2);
        }
        self.prune_by(source, &keep);
    }

    // Files get another mode, and then another content. The versions of the first run rely on those of the second, which is
    // then the only one that is dropped.
    pub(super) fn prune_between(&mut self, dice: &mut Dice) {
        let source = dice.one_of(&SOURCES).unwrap().0;
        let roots = self.client(source).roots();
        if !roots.iter().all(|root| root.exists()) {
            return;
        }
        // The same numbers choose the same files.
        let seeds = [dice.next(), dice.next(), dice.next()];
        for change in [None, Some(Change::Chmod), Some(Change::Append)] {
            for (change, seed) in change.into_iter().flat_map(|change| seeds.map(|seed| (change, seed))) {
                let words = self.client(source).change(change, &mut Dice::new(seed));
                self.tell(format!("client of {source}: {words}"));
            }
            let planned = Planned { roots: roots.clone(), ..Planned::throw(self, source, dice) };
            if !self.pull(&planned) {
                return;
            }
        }
        // The last two are of one day.
        let runs = self.runs_of(source);
        let day = |at: usize| if at + 1 < runs.len() { 24 * at as i64 } else { 24 * at as i64 - 23 };
        self.move_runs(&runs, |at| FIRST_RUN + day(at) * HOUR);
        self.prune_by(source, &Keep { daily: Some(2 + dice.below(3) as u32), ..Keep::default() });
    }

    fn prune_by(&mut self, source: &'static str, keep: &Keep) {
        self.tell(format!("prune {source} {keep:?}"));
        let Some(repository) = self.repository() else { return };
        let listener = Listener::default();
        let pruned = prune::Prune::new(&repository, false, jiff::ZonedDateTime::now(), &listener).source(
            &name(source),
            keep,
            &mut |_| Ok(()),
        );
        match pruned {
            Ok(pruned) => {
                self.has_dropped |= pruned.versions > 0;
                self.tell(format!("    {pruned:?}"));
            }
            Err(error) => self.find(format!("prune fails: {error}")),
        }
    }

    // As if the runs had been at other times: hours, days or weeks apart, backwards, or in the future.
    fn move_runs_anywhere(&mut self, source: &str, dice: &mut Dice) {
        let step = [HOUR, 24 * HOUR, 24 * HOUR, 7 * 24 * HOUR, 40 * 24 * HOUR, -24 * HOUR, 0][dice.below(7) as usize];
        let base = [FIRST_RUN, 1_795_000_000_000_000_000, 4_000_000_000_000_000_000][dice.below(3) as usize];
        self.move_runs(&self.runs_of(source), |at| base + step * at as i64 + dice.below(HOUR as u64 / 2) as i64);
        self.tell(format!("runs of {source} are {} h apart from {base}", step / HOUR));
    }

    fn runs_of(&self, source: &str) -> Vec<i64> {
        let sql = "SELECT run.id FROM run JOIN source ON source.id = run.source WHERE source.name = ?1 ORDER BY 1";
        let index = self.index();
        let mut statement = index.prepare(sql).unwrap();
        statement.query_map([source], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn move_runs(&self, runs: &[i64], mut started: impl FnMut(usize) -> i64) {
        let index = self.index();
        for (at, run) in runs.iter().enumerate() {
            let sql = "UPDATE run SET started = ?2, ended = iif(ended IS NULL, NULL, ?2 + 1) WHERE id = ?1";
            index.execute(sql, [*run, started(at)]).unwrap();
        }
    }

    pub(super) fn forget(&mut self, dice: &mut Dice) {
        if !self.exists() {
            return;
        }
        let source = dice.one_of(&SOURCES).unwrap().0;
        let paths: Vec<Vec<u8>> =
            self.states[source].values().flatten().flat_map(|walk| walk.keys().cloned()).collect();
        let Some(path) = dice.one_of(&paths) else { return };
        let (what, goes): (_, Goes) = if dice.below(3) == 0 {
            let pattern = [&b"a"[..], b"b", b"d~"][dice.below(3) as usize];
            self.tell(format!("forget {source} {}", pattern.escape_ascii()));
            // What is above the roots has none of these names.
            let goes = move |path: &[u8]| path.split(|&byte| byte == b'/').any(|part| part == pattern);
            (prune::forget::What::Pattern(pattern.to_vec()), Box::new(goes))
        } else {
            self.tell(format!("forget {source} {}", path.escape_ascii()));
            let checked = archive::path::AbsPath::new(path.clone()).unwrap();
            let goes = move |other: &[u8]| other == path || other.starts_with(&[&path[..], b"/"].concat());
            (prune::forget::What::Path(checked), Box::new(goes))
        };
        let Some(repository) = self.repository() else { return };
        let listener = Listener::default();
        match prune::forget::forget(&repository, &name(source), &what, (false, &listener), &mut |_| Ok(())) {
            Ok(_) => {
                self.has_dropped = true;
                self.forgotten(source, goes);
            }
            Err(error) => self.find(format!("forget fails: {error}")),
        }
    }
}
