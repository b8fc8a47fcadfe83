//! Compares `archive pull` with `rsync -aH` over the same sshd, ssh configuration and cipher: `make bench`.
//!
//! Both pull the same files, in turn, each into a fresh file system, for one that was just emptied is slow and would
//! falsify everything. What comes of every pull is checked. Settings, all by environment variables:
//!
//! - `BENCH_QUICK=1`: a hundredth of the data, to see whether it works;
//! - `BENCH_LONG=1`: also a million files;
//! - `BENCH_ONLY`: one of `small`, `large`, `renamed` and `million`;
//! - `BENCH_ROUNDS`: how often everything is done, 3 unless set; medians are shown;
//! - `BENCH_FS=ext4`: targets on ext4 in image files below `BENCH_DIR` (the temporary directory), instead of tmpfs.

mod data;
mod place;
mod sshd;
mod table;
mod tools;

use std::path::Path;

use anyhow::{Result, ensure};

use place::{Place, Places};
use table::Table;
use tools::Tools;

/// What a bench works with.
struct Bench {
    places: Places,
    tools: Tools,
    table: Table,
    rounds: usize,
    /// A hundredth of everything.
    quick: bool,
}

type Workload = fn(&mut Bench) -> Result<()>;

fn main() -> Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("this compares with rsync; run it by `make bench`");
        return Ok(());
    }
    if let Some(status) = place::in_own_mount_namespace()? {
        std::process::exit(status);
    }
    let quick = is_set("BENCH_QUICK");
    let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let places = Places::new()?;
    let tools = Tools::start(&places.scratch)?;
    let mut bench =
        Bench { places, tools, table: Table::default(), rounds: rounds.unwrap_or(if quick { 1 } else { 3 }), quick };
    println!("{} on {}", bench.tools.versions()?, bench.places.description());
    bench.run()?;
    println!("\n{}", bench.table);
    Ok(())
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

impl Bench {
    fn run(&mut self) -> Result<()> {
        let only = std::env::var("BENCH_ONLY").unwrap_or_default();
        let workloads: [(&str, Workload, bool); 4] = [
            ("small", Bench::small_files, true),
            ("large", Bench::large_files, true),
            ("renamed", Bench::renamed_directory, true),
            ("million", Bench::million_files, is_set("BENCH_LONG")),
        ];
        for (name, workload, usual) in workloads {
            if name == only || (usual && only.is_empty()) {
                workload(self)?;
            }
        }
        Ok(())
    }

    fn scaled(&self, count: u64) -> u64 {
        if self.quick { count / 100 } else { count }
    }

    fn small_files(&mut self) -> Result<()> {
        let count = self.scaled(100_000);
        let client = self.places.for_client()?;
        let bytes = data::small_files(client.path(), count)?;
        let what = format!("{} files, {} MB", grouped(count), bytes / 1_000_000);
        for round in 0..self.rounds {
            let targets = self.targets()?;
            self.compare(&format!("first pull of {what}"), Some(1.2), round, &client, &targets)?;
            let summary = self.compare("the same, nothing changed", Some(1.0), round, &client, &targets)?;
            ensure!(summary.count("copied") + summary.count("new") + summary.count("changed") == 0, "it saw changes");
            let changed = data::change_some(client.path(), count, round as u64)?;
            let summary = self.compare("the same, 1 % changed", None, round, &client, &targets)?;
            ensure!(summary.count("copied") == changed, "it copied {}, not {changed} files", summary.count("copied"));
        }
        Ok(())
    }

    fn large_files(&mut self) -> Result<()> {
        let size = self.scaled(1 << 30);
        let client = self.places.for_client()?;
        data::large_files(client.path(), 2, size)?;
        for round in 0..self.rounds {
            let targets = self.targets()?;
            self.compare(&format!("first pull of 2 files of {} MiB", size >> 20), None, round, &client, &targets)?;
        }
        Ok(())
    }

    fn renamed_directory(&mut self) -> Result<()> {
        let (count, size) = (self.scaled(10_000), 1 << 30);
        let client = self.places.for_client()?;
        data::even_files(&client.path().join("before"), count, size / 10_000)?;
        let what = format!("a directory of {} files, {} MiB, renamed", grouped(count), self.scaled(size) >> 20);
        let names = ["before", "after"];
        for round in 0..self.rounds {
            let targets = self.targets()?;
            self.tools.rsync(client.path(), targets.rsync.path())?;
            self.tools.archive(client.path(), targets.archive.path())?;
            let (from, to) = (names[round % 2], names[(round + 1) % 2]);
            std::fs::rename(client.path().join(from), client.path().join(to))?;
            let summary = self.compare(&what, Some(0.3), round, &client, &targets)?;
            ensure!(summary.count("copied") == 0 && summary.count("bytes_copied") == 0, "it copied what it had");
            ensure!(summary.count("linked") == count, "it linked {} files", summary.count("linked"));
        }
        Ok(())
    }

    // One tool after the other, for three such trees at a time are too much for many a machine's memory.
    fn million_files(&mut self) -> Result<()> {
        let count = self.scaled(1_000_000);
        let client = self.places.for_client()?;
        data::even_files(client.path(), count, 1024)?;
        let first = format!("first pull of {} files of 1 KiB", grouped(count));
        let again = "the same, nothing changed".to_owned() + " ";
        {
            let target = self.places.fresh()?;
            for row in [&first, &again] {
                let ran = self.tools.rsync(client.path(), target.path())?;
                self.table.rsync(row, None, ran.seconds);
            }
        }
        let target = self.places.fresh()?;
        for row in [&first, &again] {
            let ran = self.tools.archive(client.path(), target.path())?;
            self.tools.check(client.path(), target.path(), false)?;
            self.table.archive(row, &ran);
        }
        Ok(())
    }

    fn targets(&self) -> Result<Targets> {
        Ok(Targets { rsync: self.places.fresh()?, archive: self.places.fresh()? })
    }

    /// Lets both pull, in an order that changes from round to round; returns what `archive` says of its pull.
    fn compare(
        &mut self,
        row: &str,
        aim: Option<f64>,
        round: usize,
        client: &Place,
        targets: &Targets,
    ) -> Result<tools::Ran> {
        let pull_by_rsync = || self.tools.rsync(client.path(), targets.rsync.path());
        let pull_by_archive = || self.tools.archive(client.path(), targets.archive.path());
        let (by_rsync, by_archive) = if round.is_multiple_of(2) {
            let by_rsync = pull_by_rsync()?;
            (by_rsync, pull_by_archive()?)
        } else {
            let by_archive = pull_by_archive()?;
            (pull_by_rsync()?, by_archive)
        };
        let times = format!("rsync {:.2} s, archive {:.2} s", by_rsync.seconds, by_archive.seconds);
        eprintln!("round {}: {row}: {times}", round + 1);
        // Comparing contents takes longer than all pulls; once will do.
        self.tools.check(client.path(), targets.archive.path(), round == 0)?;
        self.table.rsync(row, aim, by_rsync.seconds);
        self.table.archive(row, &by_archive);
        Ok(by_archive)
    }
}

/// Where the two put what they pull.
struct Targets {
    rsync: Place,
    archive: Place,
}

/// A number with commas between the thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// Fails with the command's name and what it said, unless it succeeded.
fn succeeded(what: &str, output: &std::process::Output) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}: {}", output.status, said.trim());
    Ok(())
}

/// The first file of this name in PATH and where daemons are.
fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|directory| Path::new(directory).join(name)).find(|program| program.is_file())
}
