//! Whole pulls in one process and one thread, in an order that a seed decides.

use std::time::{Duration, Instant};

mod faults;
mod history;
mod random;
mod workers;

use history::History;

// Steps of a history: changes of clients and pulls.
const STEPS: u64 = 12;

// How long `make test` simulates at most, and how many histories: the same ones on every machine that is fast enough.
const DURATION: Duration = Duration::from_secs(8);
const HISTORIES: u64 = 100;

/// `SIMULATE_SEED` and `SIMULATE_STEPS` say where to begin and how many steps to do, over as many histories as that takes.
#[test]
fn simulated_histories_lose_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, steps) = (number("SIMULATE_SEED"), number("SIMULATE_STEPS"));
    let started = Instant::now();
    let (mut histories, mut pulls) = (0, 0);
    for seed in seed.unwrap_or(1).. {
        let is_enough = match steps {
            Some(steps) => histories * STEPS >= steps,
            None => histories >= HISTORIES || started.elapsed() >= DURATION,
        };
        if is_enough {
            break;
        }
        pulls += History::new(seed).run(STEPS).unwrap_or_else(|finding| {
            panic!("{finding}\nagain: make simulate SEED={seed} STEPS={STEPS}");
        });
        histories += 1;
        if histories % 1000 == 0 {
            let seconds = started.elapsed().as_secs();
            println!("{histories} histories, {pulls} pulls in {seconds} s, up to seed {seed}");
        }
    }
    println!("{histories} histories with {pulls} pulls");
    assert!(pulls > 0);
}

#[test]
fn history_is_decided_by_its_seed() {
    let run = |seed| {
        let mut history = History::new(seed);
        history.run(STEPS).unwrap();
        history.log().to_owned()
    };
    for seed in 1000..1004 {
        assert_eq!(run(seed), run(seed));
    }
    assert_ne!(run(1000), run(1001));
}
