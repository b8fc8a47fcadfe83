//! Which runs have dates that can be right: runs are ordered by their numbers, and clocks jump.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use jiff::Timestamp;

/// Seconds since 1970 of 2020-01-01. No release of this program is older: a clock that shows less was never set.
const EARLIEST_START_SECONDS: i64 = 1_577_836_800;

/// Returns the numbers of the runs whose start can't be right: later than `now`, older than this program, or not in the
/// order of the numbers. Where dates contradict each other, as few runs as possible are blamed, and among equally many the
/// ones with the lower numbers, which are dated later than a run that followed them.
pub fn misdated(runs: impl IntoIterator<Item = (i64, Timestamp)>, now: Timestamp) -> BTreeSet<i64> {
    let mut newest_first: Vec<_> = runs.into_iter().collect();
    newest_first.sort_by_key(|(run, _)| Reverse(*run));
    let (possible, mut misdated): (Vec<_>, Vec<_>) = newest_first
        .into_iter()
        .partition(|(_, started)| *started <= now && started.as_second() >= EARLIEST_START_SECONDS);
    if !possible.is_sorted_by(|newer, older| newer.1 >= older.1) {
        let dates: Vec<_> = possible.iter().map(|(_, started)| *started).collect();
        let ordered = longest_descent(&dates);
        misdated.extend((0..).zip(possible).filter(|(at, _)| !ordered.contains(at)).map(|(_, run)| run));
    }
    misdated.into_iter().map(|(run, _)| run).collect()
}

/// Returns the numbers of the runs whose dates contradict those of misdated ones, all of them possible by themselves. Which
/// side the clock was wrong on is a guess, so neither may lose anything by it.
pub fn contradicting(
    runs: impl IntoIterator<Item = (i64, Timestamp)>,
    misdated: &BTreeSet<i64>,
    now: Timestamp,
) -> BTreeSet<i64> {
    let is_possible = |started: &Timestamp| *started <= now && started.as_second() >= EARLIEST_START_SECONDS;
    let possible: Vec<_> = runs.into_iter().filter(|(_, started)| is_possible(started)).collect();
    let blamed: Vec<_> = possible.iter().filter(|(run, _)| misdated.contains(run)).collect();
    let contradicts = |(run, started): &(i64, Timestamp)| {
        blamed.iter().any(|(other, at)| if other < run { at > started } else { at < started })
    };
    possible.iter().filter(|run| contradicts(run)).map(|(run, _)| *run).collect()
}

// The indices of the longest subsequence in which no date is later than the one before it; among equally long ones, that
// with the lowest indices. Patience sorting: pile `n` holds the ends of subsequences of `n + 1` dates, and the dates in a
// pile rise.
fn longest_descent(dates: &[Timestamp]) -> BTreeSet<usize> {
    let mut piles: Vec<Vec<usize>> = Vec::new();
    let mut previous = vec![None; dates.len()];
    for (at, date) in dates.iter().enumerate() {
        let pile = piles.partition_point(|pile| pile.last().is_some_and(|top| dates[*top] >= *date));
        if let Some(below) = pile.checked_sub(1).and_then(|below| piles.get(below)) {
            previous[at] = below.get(below.partition_point(|other| dates[*other] < *date)).copied();
        }
        match piles.get_mut(pile) {
            Some(pile) => pile.push(at),
            None => piles.push(vec![at]),
        }
    }
    let last = piles.last().and_then(|pile| pile.first().copied());
    std::iter::successors(last, |at| previous[*at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;
    const NOW: i64 = 1_795_000_000;

    // Runs by their ages in days, the oldest run first.
    fn blamed(ages: &[i64]) -> Vec<i64> {
        let runs = (1..).zip(ages).map(|(run, age)| (run, Timestamp::from_second(NOW - age * DAY).unwrap()));
        misdated(runs, Timestamp::from_second(NOW).unwrap()).into_iter().collect()
    }

    #[test]
    fn runs_in_order_are_believed() {
        assert_eq!(blamed(&[]), [0; 0]);
        assert_eq!(blamed(&[0]), [0; 0]);
        assert_eq!(blamed(&[400, 3, 3, 2, 0]), [0; 0]);
    }

    #[test]
    fn run_dated_later_than_now_is_blamed() {
        assert_eq!(blamed(&[3, 2, -4000, 1]), [3]);
        assert_eq!(blamed(&[3, 2, 1, -4000]), [4]);
        assert_eq!(blamed(&[-1, -2]), [1, 2]);
    }

    #[test]
    fn run_dated_later_than_one_with_a_higher_number_is_blamed() {
        assert_eq!(blamed(&[1, 3]), [1]);
        assert_eq!(blamed(&[10, 1, 5]), [2]);
        assert_eq!(blamed(&[10, 9, 1, 8, 7, 6]), [3]);
        assert_eq!(blamed(&[10, 2, 1, 5, 4]), [2, 3]);
    }

    #[test]
    fn clock_that_jumped_back_for_one_run_does_not_blame_all_runs_before_it() {
        assert_eq!(blamed(&[9, 8, 7, 2000, 5, 4]), [4]);
        assert_eq!(blamed(&[9, 8, 7, 2000]), [4]);
    }

    #[test]
    fn other_side_of_a_contradiction_is_found() {
        let now = Timestamp::from_second(NOW).unwrap();
        let found = |ages: &[i64]| {
            let runs: Vec<_> =
                (1..).zip(ages).map(|(run, age)| (run, Timestamp::from_second(NOW - age * DAY).unwrap())).collect();
            contradicting(runs.clone(), &misdated(runs, now), now).into_iter().collect::<Vec<i64>>()
        };
        assert_eq!(found(&[12, 11, 10, 707, 706, 705, 704, 703, 1]), [4, 5, 6, 7, 8]);
        assert_eq!(found(&[9, 8, 7, 2000, 5, 4]), [1, 2, 3]);
        assert_eq!(found(&[3, 2, -4000, 1]), [0; 0]);
        assert_eq!(found(&[3, 2, 1]), [0; 0]);
    }

    #[test]
    fn clock_that_was_never_set_is_blamed_however_often_it_was_used() {
        let since_1970 = NOW / DAY;
        assert_eq!(blamed(&[9, since_1970 - 1, since_1970 - 2, since_1970 - 3, 1]), [2, 3, 4]);
        assert_eq!(blamed(&[since_1970; 3]), [1, 2, 3]);
    }

    #[test]
    fn believed_runs_are_in_order_and_no_larger_set_is() {
        // A generator with a fixed seed makes each failure reproducible.
        let mut state = 1_u64;
        for _ in 0..3000 {
            let mut next = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % below
            };
            let ages: Vec<i64> = (0..next(9)).map(|_| next(9) as i64 - 1).collect();
            let wrong = blamed(&ages);
            let believed: Vec<i64> =
                (1..).zip(&ages).filter(|(run, _)| !wrong.contains(run)).map(|(_, age)| *age).collect();
            let is_right =
                |ages: &[i64]| ages.is_sorted_by(|older, newer| older >= newer) && ages.iter().all(|age| *age >= 0);
            assert!(is_right(&believed), "{ages:?}: {wrong:?}");
            let largest = (0..1_u32 << ages.len())
                .map(|chosen| (0..ages.len()).filter(|at| chosen >> at & 1 == 1).map(|at| ages[at]).collect::<Vec<_>>())
                .filter(|chosen| is_right(chosen))
                .map(|chosen| chosen.len())
                .max();
            assert_eq!(Some(believed.len()), largest, "{ages:?}: {wrong:?}");
        }
    }
}
