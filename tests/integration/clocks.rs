//! Clocks that jump: runs are ordered by their numbers, and a run with a date that can't be right drives nothing.

use crate::support::*;

/// A source pulled so many times, an hour apart and the last time just now; `f` holds the number of the run.
fn hourly_runs(count: i64) -> (Program, Tree) {
    let program = Program::new();
    let client = Tree::new([("f", file(""))]);
    for run in 1..=count {
        client.put("f", at(1_500_000_000 + run, 0, file(run.to_string())));
        program.pull_local(&client.root(), &["--name", "laptop"]);
    }
    program.change_index(&format!("UPDATE run SET started = started - 3600000000000 * ({count} - id)"));
    (program, client)
}

/// Dates a run so many days after its right date, or before it.
fn misdate(program: &Program, run: i64, days: i64) {
    program.change_index(&format!("UPDATE run SET started = started + 86400000000000 * {days} WHERE id = {run}"));
}

const YEARS: i64 = 12 * 365;

fn kept_runs(program: &Program) -> Vec<i64> {
    program.run(["--json", "log", "laptop"]).lines().iter().rev().map(|run| run["run"].as_i64().unwrap()).collect()
}

fn content_at(program: &Program, client: &Tree, when: &str) -> String {
    let ran = program.run(["cat", &format!("laptop:{}", client.path("f").display()), "--at", when]);
    ran.well();
    ran.stdout
}

/// The time of a run, as `--at` takes it.
fn time_of(program: &Program, run: i64) -> String {
    let runs = program.run(["--json", "log", "laptop"]).lines();
    runs.iter().find(|line| line["run"] == run).unwrap()["started"].as_str().unwrap().to_owned()
}

#[test]
fn run_with_a_wrong_date_is_kept_by_prune_and_drops_nothing() {
    for (run, days) in [(3, YEARS), (6, YEARS), (3, -YEARS), (6, -YEARS), (3, -56 * 365), (6, 1)] {
        let (program, client) = hourly_runs(6);
        misdate(&program, run, days);
        for rules in [&["--keep-within", "30d"][..], &["--keep-last", "5"]] {
            let ran = program.run([&["prune", "-n", "--json"], rules].concat());
            ran.well();
            let line = ran.lines().pop().unwrap();
            let counts = (line["kept_runs"].as_u64(), line["misdated_runs"].as_u64(), line["runs"].as_u64());
            assert_eq!(counts, (Some(6), Some(1), Some(0)), "run {run} {days} {rules:?}: {line}");
            let told = format!("the clock was wrong for 1 run of `laptop` ({run})");
            assert!(ran.stderr.contains(&told), "{}", ran.stderr);
        }
        program.run(["prune", "--keep-last", "2"]).well();
        let expected = match run {
            6 => vec![4, 5, 6],
            _ => vec![run, 5, 6],
        };
        assert_eq!(kept_runs(&program), expected, "run {run} {days}");
        for kept in expected {
            assert_eq!(content_at(&program, &client, &kept.to_string()), kept.to_string());
        }
        program.assert_index_is_right();
    }
}

#[test]
fn run_with_a_wrong_date_answers_no_question_about_a_time() {
    for days in [YEARS, -YEARS] {
        let (program, client) = hourly_runs(6);
        let (second, fourth) = (time_of(&program, 2), time_of(&program, 4));
        misdate(&program, 4, days);
        assert_eq!(content_at(&program, &client, &second), "2", "{days}");
        assert_eq!(content_at(&program, &client, &fourth), "3", "{days}");
        assert_eq!(content_at(&program, &client, "now"), "6");
        assert_eq!(content_at(&program, &client, "4"), "4");
        let log = program.run(["log", "laptop"]).stdout;
        let told: Vec<_> = log.lines().filter(|line| line.ends_with("  the clock was wrong")).collect();
        assert!(told.len() == 1 && told[0].starts_with("4  "), "{log}");
        // The newest state is the newest, whatever its date.
        misdate(&program, 6, days);
        for when in ["now", "today", "2099-01-01"] {
            assert_eq!(content_at(&program, &client, when), "6", "{days} {when}");
        }
        program.run(["diff", "laptop", "--from", "5", "--to", "now"]).well();
    }
}

#[test]
fn run_with_a_wrong_date_is_no_recent_pull() {
    let (program, client) = hourly_runs(3);
    let config = program.configured(&format!(
        "[source.laptop]\nevery = '1d'\npaths = ['{}']\n[source.other]\npaths = ['{0}']\nevery = '1d'\n",
        client.root().display()
    ));
    let due = || {
        let lines = program.run(["--json", "--config", &config, "pull", "--due"]).lines();
        lines.iter().map(|line| line["source"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    program.change_index("UPDATE run SET started = started - 2 * 86400000000000");
    for days in [YEARS, -YEARS] {
        misdate(&program, 3, days);
        let ran = program.run(["--config", &config, "status", "laptop", "--max-age", "1d"]);
        assert_eq!(ran.status, 1);
        for words in
            ["last successful pull of `laptop` is older than 24 h", "the clock was wrong for run 3 of `laptop`"]
        {
            assert!(ran.stderr.contains(words), "{}", ran.stderr);
        }
        let line = &program.run(["--json", "--config", &config, "status", "laptop"]).lines()[0];
        assert_eq!(line["misdated"], true);
        assert!((2 * 86_400..2 * 86_400 + 4000).contains(&(line["age"].as_i64().unwrap() - 3600)), "{line}");
        misdate(&program, 3, -days);
    }
    misdate(&program, 3, YEARS);
    assert_eq!(due(), ["laptop", "other"]);
    assert_eq!(due(), [""; 0]);
    program.run(["--config", &config, "status", "--max-age", "1d"]).well();
}

#[test]
fn index_copies_of_a_clock_that_was_ahead_do_not_stay_for_ever() {
    let (program, client) = hourly_runs(1);
    let copies = || {
        let mut names = names(&program.repo());
        names.retain(|name| name.starts_with("index-"));
        names
    };
    let today = copies().remove(0);
    std::fs::remove_file(program.repo().join(&today)).unwrap();
    for ahead in ["index-20980119.sqlite", "index-20980120.sqlite"] {
        std::fs::write(program.repo().join(ahead), "").unwrap();
    }
    client.put("f", file("other"));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    assert_eq!(copies(), [today, "index-20980120.sqlite".to_owned()]);
}

#[test]
fn files_that_were_verified_by_a_clock_that_was_ahead_are_sampled_again() {
    let program = Program::new();
    let client = Tree::new((0..10).map(|n| (format!("f{n}"), file(format!("content {n}")))));
    program.pull_local(&client.root(), &["--name", "laptop"]);
    program.run(["verify", "-q"]).well();
    let ahead = "UPDATE examined SET ended = ended + 86400000000000 * 4000 WHERE version % 2 = 0";
    program.change_index(ahead);
    program.run(["verify", "-q", "--sample", "50%"]).well();
    let left = "SELECT count(*) FROM examined WHERE ended > (SELECT ended FROM verification)";
    assert_eq!(program.index().query_row(left, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}
