//! Compares `archive pull` with `rsync -aH` over the same sshd, ssh configuration and cipher: `make bench`.
//!
//! Both pull the same files, in turn, each into a fresh file system, for one that was just emptied is slow and would
//! falsify everything. What comes of every pull is checked. Settings, all by environment variables:
//!
//! - `BENCH_QUICK=1`: a hundredth of the data, to see whether it works;
//! - `BENCH_LONG=1`: also `others` and `growth`;
//! - `BENCH_ONLY`: one of `small`, `large`, `changed`, `edited`, `renamed`, `second`, `far`, `thin`, `limited`, `hosts`,
//!   `million`, `others` (tar, rclone, rdiff-backup and rsnapshot, as far as they are installed) and `growth`;
//! - `BENCH_ROUNDS`: how often everything is done, 6 unless set; medians are shown;
//! - `BENCH_FS=ext4`: targets on ext4 in image files below `BENCH_DIR` (the temporary directory), instead of tmpfs; rows
//!   of their own.

mod chart;
mod data;
mod growth;
mod line;
mod others;
mod place;
mod sshd;
mod table;
mod tools;
mod watch;

use std::path::Path;

use anyhow::{Result, ensure};

use place::{Place, Places};
use table::Table;
use tools::{How, Ran, Tools};

/// What a bench works with.
struct Bench {
    places: Places,
    tools: Tools,
    table: Table,
    /// A table of other tools, when they were measured.
    others: String,
    rounds: usize,
    /// A hundredth of everything.
    quick: bool,
}

// How many hosts are pulled together.
const HOSTS: u64 = 8;

type Workload = fn(&mut Bench) -> Result<()>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == line::FLAG) {
        return line::run(&arguments[1..]);
    }
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
    let mut bench = Bench {
        places,
        tools,
        table: Table::default(),
        others: String::new(),
        rounds: rounds.unwrap_or(if quick { 1 } else { 6 }),
        quick,
    };
    let of = bench.tools.versions()?;
    println!("{of}, on {}", bench.places.description());
    bench.run()?;
    println!("\n{}", bench.table);
    if quick { Ok(()) } else { bench.keep(&of) }
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

impl Bench {
    // In the README, where the last result is.
    fn keep(&self, of: &str) -> Result<()> {
        let readme = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
        self.table.keep(readme, of)?;
        table::keep_between(readme, "others", &self.others)
    }

    fn run(&mut self) -> Result<()> {
        let only = std::env::var("BENCH_ONLY").unwrap_or_default();
        let workloads: [(&str, Workload, bool); 13] = [
            ("small", Bench::small_files, true),
            ("large", Bench::large_files, true),
            ("changed", Bench::changed_file, true),
            ("edited", Bench::edited_files, true),
            ("renamed", Bench::renamed_directory, true),
            ("second", Bench::second_client, true),
            ("far", Bench::far_away, true),
            ("thin", Bench::thin_line, true),
            ("limited", Bench::limited, true),
            ("hosts", Bench::hosts, true),
            ("million", Bench::million_files, true),
            ("others", Bench::other_tools, is_set("BENCH_LONG")),
            ("growth", Bench::growth, is_set("BENCH_LONG")),
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
        let bytes = data::small_files(client.path(), count, 0)?;
        let what = format!("{} files, {} MB", grouped(count), bytes / 1_000_000);
        for round in 0..self.rounds {
            let targets = self.targets()?;
            let near = How::default();
            self.compare((&format!("first pull of {what}"), 0.7), round, &client, &targets, &near)?;
            let summary = self.compare(
                (&format!("{} files, nothing changed", grouped(count)), 0.6),
                round,
                &client,
                &targets,
                &near,
            )?;
            ensure!(summary.count("copied") + summary.count("new") + summary.count("changed") == 0, "it saw changes");
            let changed = data::change_some(client.path(), count, round as u64)?;
            let summary = self.compare(
                (&format!("{} files, 1 % changed", grouped(count)), 0.5),
                round,
                &client,
                &targets,
                &near,
            )?;
            ensure!(summary.count("copied") == changed, "it copied {}, not {changed} files", summary.count("copied"));
        }
        Ok(())
    }

    fn large_files(&mut self) -> Result<()> {
        let size = self.scaled(1 << 30);
        let client = self.places.for_client()?;
        data::large_files(client.path(), 2, size)?;
        let what = format!("first pull of 2 files of {} MiB", size >> 20);
        for round in 0..self.rounds {
            let targets = self.targets()?;
            let by_archive = self.compare((&what, 1.0), round, &client, &targets, &How::default())?;
            drop(targets);
            let target = self.places.fresh()?;
            self.places.settle(&client)?;
            let by_cat = self.tools.cat(client.path(), target.path())?;
            let row = format!("{what}; instead of rsync, ssh cat");
            eprintln!("round {}: {row}: {:.2} s", round + 1, by_cat.seconds);
            self.table.rsync(&row, 1.1, &by_cat);
            self.table.archive(&row, &by_archive);
        }
        Ok(())
    }

    // Of one large file little changes: a byte comes in front, then a hundred places are overwritten.
    fn changed_file(&mut self) -> Result<()> {
        let size = self.scaled(1 << 30);
        let client = self.places.for_client()?;
        data::large_files(client.path(), 1, size)?;
        let targets = self.targets()?;
        self.both(&client, &targets, &How::default())?;
        for round in 0..self.rounds {
            for (what, change) in [
                ("a byte put in front of it", data::put_in_front as fn(&Path, u64) -> std::io::Result<()>),
                ("1 % of it overwritten in 100 places", data::overwrite_some),
            ] {
                change(&client.path().join("large-0"), round as u64)?;
                let row = format!("a file of {} MiB, {what}", size >> 20);
                let ran = self.compare((&row, 1.0), round, &client, &targets, &How::default())?;
                self.limit_wire(&ran, size / 50)?;
            }
        }
        Ok(())
    }

    // A little of each of many files changes: near, far away, and by a slow line.
    fn edited_files(&mut self) -> Result<()> {
        let (count, size) = (self.scaled(1000), 300_000);
        let client = self.places.for_client()?;
        data::even_files(client.path(), count, size)?;
        let targets = self.targets()?;
        self.both(&client, &targets, &How::default())?;
        let thin = How { host: sshd::THIN, rsync_compressed: true, compress: "always", ..How::default() };
        let lines = [
            ("", How::default()),
            (", 50 ms away", How { host: sshd::FAR, ..How::default() }),
            (", by 10 Mbit/s; both -z", thin),
        ];
        for round in 0..self.rounds {
            for (number, (line, how)) in lines.iter().enumerate() {
                data::edit_each(client.path(), count, (round * lines.len() + number) as u64)?;
                let row =
                    format!("{} files of {} KB, 100 bytes of each overwritten{line}", grouped(count), size / 1000);
                self.compare((&row, 1.0), round, &client, &targets, how)?;
            }
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
            self.both(&client, &targets, &How::default())?;
            let (from, to) = (names[round % 2], names[(round + 1) % 2]);
            std::fs::rename(client.path().join(from), client.path().join(to))?;
            let summary = self.compare((&what, 0.1), round, &client, &targets, &How::default())?;
            ensure!(summary.count("copied") == 0 && summary.count("bytes_copied") == 0, "it copied what it had");
            ensure!(summary.count("linked") == count, "it linked {} files", summary.count("linked"));
            self.limit_wire(&summary, size / 50)?;
        }
        Ok(())
    }

    fn second_client(&mut self) -> Result<()> {
        let (count, size) = (self.scaled(2000), 1 << 20);
        let client = self.places.for_client()?;
        data::even_files(client.path(), count, size)?;
        let what = format!("{} files, {} MiB, that another client has too", grouped(count), (count * size) >> 20);
        for round in 0..self.rounds {
            let targets = self.targets()?;
            self.both(&client, &targets, &How::default())?;
            let second = How { copy: "second", ..How::default() };
            let summary = self.compare((&what, 1.0), round, &client, &targets, &second)?;
            ensure!(summary.count("linked") == count, "it linked {} files", summary.count("linked"));
            self.limit_wire(&summary, count * size / 100)?;
        }
        Ok(())
    }

    fn far_away(&mut self) -> Result<()> {
        let (small, large) = (self.places.for_client()?, self.places.for_client()?);
        let count = self.scaled(10_000);
        data::small_files(small.path(), count, 0)?;
        data::large_files(large.path(), 1, self.scaled(100_000_000))?;
        let far = How { host: sshd::FAR, ..How::default() };
        for round in 0..self.rounds {
            let row = format!("{} small files, 50 ms away", grouped(count));
            self.compare((&row, 0.5), round, &small, &self.targets()?, &far)?;
            self.compare(("a file of 100 MB, 50 ms away", 1.0), round, &large, &self.targets()?, &far)?;
        }
        Ok(())
    }

    fn thin_line(&mut self) -> Result<()> {
        let client = self.places.for_client()?;
        let bytes = data::text_files(client.path(), self.scaled(2000).max(100))?;
        let row = format!("{} MB of text, by 10 Mbit/s; rsync -z", bytes / 1_000_000);
        let thin = How { host: sshd::THIN, rsync_compressed: true, ..How::default() };
        for round in 0..self.rounds {
            self.compare((&row, 0.5), round, &client, &self.targets()?, &thin)?;
            let both = How { compress: "always", ..thin };
            self.compare((&format!("{row}, archive -z"), 0.5), round, &client, &self.targets()?, &both)?;
        }
        Ok(())
    }

    // A limit is to be held from both sides: the aim is a ratio of one to what the limit says.
    fn limited(&mut self) -> Result<()> {
        let (size, limit) = (self.scaled(200_000_000), self.scaled(20_000_000));
        let client = self.places.for_client()?;
        data::large_files(client.path(), 1, size)?;
        let limited = How { bytes_per_second: Some(limit), ..How::default() };
        let row = format!("a file of {} MB at {} MB/s: 10 s", size / 1_000_000, limit / 1_000_000);
        for round in 0..self.rounds.min(3) {
            self.compare((&row, 1.0), round, &client, &self.targets()?, &limited)?;
        }
        Ok(())
    }

    // Eight at once must not take longer than one after the other.
    fn hosts(&mut self) -> Result<()> {
        let count = self.scaled(12_500);
        let client = self.places.for_client()?;
        for host in 0..HOSTS {
            data::small_files(&client.path().join(host.to_string()), count, host)?;
        }
        let what = format!("8 hosts of {} files each", grouped(count));
        for round in 0..self.rounds {
            let in_turn = self.hosts_by_both((&format!("{what}, one after the other"), 1), round, &client)?;
            let row = format!("{what}, at once");
            let at_once = self.hosts_by_both((&row, HOSTS), round, &client)?;
            let row = format!("{row}; instead of rsync, archive one after the other");
            self.table.rsync(&row, 1.0, &in_turn);
            self.table.archive(&row, &at_once);
        }
        Ok(())
    }

    fn hosts_by_both(&mut self, (row, jobs): (&str, u64), round: usize, client: &Place) -> Result<Ran> {
        let targets = self.targets()?;
        let pull = |by_archive: bool| {
            self.places.settle(client)?;
            if by_archive {
                self.tools.archive_hosts(client.path(), targets.archive.path(), HOSTS, jobs)
            } else {
                self.tools.rsync_hosts(client.path(), targets.rsync.path(), HOSTS, jobs)
            }
        };
        let (by_rsync, by_archive) = in_turn(round, || pull(false), || pull(true))?;
        eprintln!("round {}: {row}: rsync {:.2} s, archive {:.2} s", round + 1, by_rsync.seconds, by_archive.seconds);
        for host in 0..HOSTS {
            let (files, source) = (client.path().join(host.to_string()), format!("host{host}"));
            self.tools.check(&files, targets.archive.path(), &source, round == 0)?;
        }
        self.table.rsync(row, 1.0, &by_rsync);
        self.table.archive(row, &by_archive);
        Ok(by_archive)
    }

    // One tool after the other, for three such trees at a time are too much for many a machine's memory.
    fn million_files(&mut self) -> Result<()> {
        let count = self.scaled(1 << 20);
        let (client, near, onto) = (self.places.for_client()?, How::default(), self.places.suffix());
        data::even_files(client.path(), count, 1024)?;
        let first = format!("first pull of {} files of 1 KiB{onto}", grouped(count));
        let again = format!("{} files, nothing changed{onto}", grouped(count));
        let rows = [(&first, 0.6), (&again, 0.35)];
        {
            let target = self.places.fresh()?;
            for (row, aim) in rows {
                let ran = self.tools.rsync(client.path(), target.path(), &near)?;
                self.table.rsync(row, aim, &ran);
            }
        }
        let target = self.places.fresh()?;
        for (row, _) in rows {
            let ran = self.tools.archive(client.path(), target.path(), &near)?;
            self.tools.check(client.path(), target.path(), near.copy, false)?;
            self.table.archive(row, &ran);
            if row == &again {
                self.limit_wire(&ran, 1_000_000)?;
            }
        }
        Ok(())
    }

    // A hundredth of the data takes more than a hundredth of the bytes.
    fn limit_wire(&self, ran: &Ran, most: u64) -> Result<()> {
        ensure!(self.quick || ran.wire <= most, "{} bytes went over the wire, {most} are the limit", ran.wire);
        Ok(())
    }

    fn targets(&self) -> Result<Targets> {
        Ok(Targets { rsync: self.places.fresh()?, archive: self.places.fresh()? })
    }

    // Lets both pull what is measured later.
    fn both(&self, client: &Place, targets: &Targets, how: &How) -> Result<()> {
        self.tools.rsync(client.path(), targets.rsync.path(), how)?;
        self.tools.archive(client.path(), targets.archive.path(), how).map(drop)
    }

    /// Lets both pull, in an order that changes from round to round; returns what `archive` says of its pull.
    fn compare(
        &mut self,
        (row, aim): (&str, f64),
        round: usize,
        client: &Place,
        targets: &Targets,
        how: &How,
    ) -> Result<Ran> {
        let row = &format!("{row}{}", self.places.suffix());
        let pull_by_rsync = || {
            self.places.settle(client)?;
            self.tools.rsync(client.path(), targets.rsync.path(), how)
        };
        let pull_by_archive = || {
            self.places.settle(client)?;
            self.tools.archive(client.path(), targets.archive.path(), how)
        };
        let (by_rsync, by_archive) = in_turn(round, pull_by_rsync, pull_by_archive)?;
        let times = format!("rsync {:.2} s, archive {:.2} s", by_rsync.seconds, by_archive.seconds);
        eprintln!("round {}: {row}: {times}", round + 1);
        // Comparing contents takes longer than all pulls; once will do.
        self.tools.check(client.path(), targets.archive.path(), how.copy, round == 0)?;
        self.table.rsync(row, aim, &by_rsync);
        self.table.archive(row, &by_archive);
        Ok(by_archive)
    }
}

/// Does both, in an order that changes from round to round.
fn in_turn<T>(round: usize, one: impl Fn() -> Result<T>, other: impl Fn() -> Result<T>) -> Result<(T, T)> {
    if round.is_multiple_of(2) {
        let first = one()?;
        return Ok((first, other()?));
    }
    let first = other()?;
    Ok((one()?, first))
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
