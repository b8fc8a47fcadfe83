//! Random histories: whatever happens to clients and repository, in any order, an independent checker finds every
//! invariant of archive-tree(5) to hold, and each kept run shows and gives back what its client held.
//!
//! `make histories` runs many of them. `HISTORIES` says how many, `HISTORIES_SEED` the first one's seed, `HISTORIES_OPS` how
//! many steps each has, and `HISTORIES_WITHOUT` what is left out, as in `Crowd,PutIndexBack`. All workers end after
//! `HISTORIES_FAILURES` histories that fail, each of which is shortened for `HISTORIES_PATIENCE` seconds.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::support::*;

#[path = "histories/by_hand.rs"]
mod by_hand;
#[path = "histories/client.rs"]
mod client;
#[path = "histories/damage.rs"]
mod damage;
#[path = "histories/dropping.rs"]
mod dropping;
#[path = "histories/guards.rs"]
mod guards;
#[path = "histories/index.rs"]
mod index;
#[path = "histories/liar.rs"]
mod lying;
#[path = "histories/steps.rs"]
mod steps;
#[path = "histories/world.rs"]
mod world;

use steps::{STEPS, Step};
use world::World;

const HISTORIES: u64 = 24;
const OPS: u64 = 40;

// How many changes are enough for a batch; a seed's history has that at `seed % 3`.
const BATCHES: [&str; 3] = ["3", "11", "2560"];

// Histories after which a worker says how far it is.
const REPORTED_EVERY: usize = 250;

// Seconds that may go by in search of a shorter history that fails.
const PATIENCE: u64 = 15;

// Histories that fail, of all workers, before they end.
const MAX_FAILURES: u64 = 9;

/// Numbers that look random, the same ones for the same seed (xorshift, Marsaglia 2003).
pub struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        // Never 0, for that stays 0; mixed, for seeds are small.
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            dice.next();
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        if all.is_empty() { None } else { all.get(self.below(all.len() as u64) as usize).cloned() }
    }

    fn weighted<T: Copy>(&mut self, all: &[(T, u64)]) -> T {
        let mut at = self.below(all.iter().map(|(_, weight)| weight).sum());
        for (one, weight) in all {
            if at < *weight {
                return *one;
            }
            at -= weight;
        }
        unreachable!("the weights have this sum")
    }
}

/// Steps, each with a seed of its own, so that leaving one out does not change the others.
type History = Vec<(Step, u64)>;

fn history(seed: u64, ops: u64) -> History {
    let mut dice = Dice::new(seed);
    (0..ops)
        .map(|_| {
            let is_change = dice.below(100) < 55;
            let change = dice.weighted(&client::CHANGES);
            let step = dice.weighted(&STEPS);
            (if is_change { Step::Client(change) } else { step }, dice.next())
        })
        .filter(|(step, _)| !is_left_out(&format!("{step:?}")))
        .collect()
}

// As `HISTORIES_WITHOUT` says: steps, or `Names` for those that are prone to be mixed up.
fn is_left_out(what: &str) -> bool {
    std::env::var("HISTORIES_WITHOUT").is_ok_and(|without| without.split(',').any(|name| name == what))
}

/// What went wrong, and after what.
struct Failure {
    told: Vec<String>,
    findings: Vec<String>,
    /// Steps that were carried out.
    steps: usize,
}

fn tell(history: &[(Step, u64)], place: &Path, disk: &Path) -> Option<Failure> {
    let mut world = World::new(place, disk);
    for (at, (step, seed)) in history.iter().enumerate() {
        let result = catch_unwind(AssertUnwindSafe(|| world.step(*step, &mut Dice::new(*seed))));
        if let Err(panic) = result {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            world.find(format!("{step:?} panics: {}", text.unwrap_or_default()));
        }
        // What was dropped and is shown by an older index is reported for ever, and rightly.
        if world.is_over {
            return None;
        }
        if !world.findings.is_empty() {
            let (told, findings) = (std::mem::take(&mut world.told), std::mem::take(&mut world.findings));
            return Some(Failure { told, findings, steps: at + 1 });
        }
    }
    None
}

// Leaves out steps as long as the rest fails, too: long stretches first.
fn shrink(mut history: History, mut failure: Failure, place: &Path, disk: &Path) -> Failure {
    let (begun, patience) = (Instant::now(), Duration::from_secs(number("HISTORIES_PATIENCE", PATIENCE)));
    history.truncate(failure.steps);
    let mut length = (history.len() / 2).max(1);
    loop {
        let (mut at, mut has_shrunk) = (0, false);
        while at < history.len() && begun.elapsed() < patience {
            let mut shorter = history.clone();
            shorter.drain(at..(at + length).min(history.len()));
            match tell(&shorter, place, disk) {
                Some(still) => {
                    shorter.truncate(still.steps);
                    (history, failure, has_shrunk) = (shorter, still, true);
                }
                None => at += length,
            }
        }
        if begun.elapsed() >= patience || (length == 1 && !has_shrunk) {
            return failure;
        }
        length = (length / 2).max(1);
    }
}

fn report(seed: u64, failure: &Failure) -> String {
    let mut text = format!("HISTORY FAILS: seed {seed}, {} steps:\n", failure.steps);
    failure.told.iter().for_each(|line| writeln!(text, "  {line}").unwrap());
    failure.findings.iter().take(12).for_each(|line| writeln!(text, "  FOUND: {line}").unwrap());
    text
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

// A real file system for the clients, for a tmpfs uses no inode number twice: small, so that ext4 does so at once.
fn disk(place: &Path) -> (Option<Disk>, PathBuf) {
    let point = place.join("disk");
    if !is_root() {
        std::fs::create_dir(&point).unwrap();
        return (None, point);
    }
    (Some(Disk::ext4(&place.join("image"), &point, 64 << 20)), point)
}

#[test]
#[ignore = "the helper of a client that lies, which a test build of the program starts"]
fn liar() {
    lying::run();
}

#[test]
#[ignore = "one of the processes that the next test starts"]
fn worker() {
    let Ok(share) = std::env::var("HISTORIES_WORKER") else { return };
    let (own, of) = share.split_once('/').unwrap();
    let (own, of): (u64, u64) = (own.parse().unwrap(), of.parse().unwrap());
    let (count, first, ops) =
        (number("HISTORIES", HISTORIES), number("HISTORIES_SEED", 1), number("HISTORIES_OPS", OPS));
    let place = tempfile::Builder::new().prefix("histories").tempdir_in("/dev/shm").unwrap();
    let (_disk, disk) = disk(place.path());
    let failed = PathBuf::from(std::env::var_os("HISTORIES_FAILED").unwrap());
    let mut failures = 0;
    for (told, seed) in (first..first + count).filter(|seed| seed % of == own).enumerate() {
        if told > 0 && told % REPORTED_EVERY == 0 {
            println!("HISTORIES: worker {own} has told {told}, up to seed {seed}");
        }
        if std::fs::read_dir(&failed).unwrap().count() as u64 >= number("HISTORIES_FAILURES", MAX_FAILURES) {
            break;
        }
        let history = history(seed, ops);
        if let Some(failure) = tell(&history, place.path(), &disk) {
            failures += 1;
            std::fs::write(failed.join(seed.to_string()), "").unwrap();
            println!("{}", report(seed, &shrink(history, failure, place.path(), &disk)));
        }
    }
    assert_eq!(failures, 0, "histories failed");
}

#[test]
fn every_invariant_holds_after_every_step_of_random_histories() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    // A multiple of three, so that each has one size of batches.
    let workers = BATCHES.len() as u64 * number("HISTORIES_PROCESSES", cores.div_ceil(2)).max(1);
    // One file for each seed whose history fails.
    let failed = tempfile::tempdir().unwrap();
    let begin = |own: u64| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["histories::worker", "--exact", "--ignored", "--nocapture", "--test-threads", "1"]);
        command.env("HISTORIES_WORKER", format!("{own}/{workers}")).env("HISTORIES_FAILED", failed.path());
        command.env("ARCHIVE_BATCH", BATCHES[(own % BATCHES.len() as u64) as usize]);
        // Each finding is printed at once: a run of hours that is interrupted must not lose it.
        command.stdin(Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = (0..workers).map(begin).collect();
    let ended: Vec<_> = children.into_iter().map(|mut child| child.wait().unwrap()).collect();
    assert!(ended.iter().all(ExitStatus::success), "workers end with {ended:?}");
}
