//! The measured times, as a table in Markdown, which the README keeps.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::tools::Ran;

/// One of the two tables that the README has of the same workloads, between comments of this name.
struct Shown {
    name: &'static str,
    head: &'static str,
    row: fn(&Row) -> String,
}

const SHOWN: [Shown; 2] = [
    Shown {
        name: "bench",
        head: "\
| workload | rsync | archive | ratio | aim | rsync on the wire | archive on the wire | archive memory |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
",
        row: Row::times,
    },
    Shown {
        name: "client",
        head: "\
| workload | rsync: user time | memory | archive: user time | memory |
| --- | ---: | ---: | ---: | ---: |
",
        row: Row::on_client,
    },
];

/// What was measured, a row for each workload.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Default)]
struct Row {
    workload: String,
    aim: f64,
    rsync: Pulls,
    archive: Pulls,
}

/// What pulls by one program took.
#[derive(Default)]
struct Pulls {
    seconds: Vec<f64>,
    wire: u64,
    peak_kib: u64,
    client_seconds: Vec<f64>,
    client_peak_kib: Vec<f64>,
}

impl Pulls {
    fn add(&mut self, ran: &Ran) {
        self.seconds.push(ran.seconds);
        self.wire = self.wire.max(ran.wire);
        self.peak_kib = self.peak_kib.max(ran.watched.peak_kib);
        self.client_seconds.push(ran.watched.client_seconds);
        self.client_peak_kib.push(ran.watched.client_peak_kib as f64);
    }
}

impl Table {
    /// Adds a pull by rsync.
    pub fn rsync(&mut self, workload: &str, aim: f64, ran: &Ran) {
        let row = self.row(workload);
        row.aim = aim;
        row.rsync.add(ran);
    }

    /// Adds a pull by archive.
    pub fn archive(&mut self, workload: &str, ran: &Ran) {
        self.row(workload).archive.add(ran);
    }

    /// Puts the tables into a README, the first below a line that says of what it is. Rows that were not measured now
    /// stay, if they are of the same machine and programs.
    pub fn keep(&self, readme: &Path, of: &str) -> Result<()> {
        let is_same = std::fs::read_to_string(readme).context("README.md")?.contains(of);
        for shown in &SHOWN {
            let old = between(readme, shown.name)?;
            // Whatever the head above them says.
            let below = old.lines().skip_while(|line| !line.starts_with("| ---")).skip(1);
            let old: Vec<&str> = below.filter(|line| is_same && line.starts_with("| ")).collect();
            let measured = |line: &str| self.rows.iter().find(|row| row.workload == workload_of(line));
            let is_kept = |row: &&Row| old.iter().any(|line| row.workload == workload_of(line));
            let kept = old.iter().map(|line| measured(line).map_or_else(|| (*line).to_owned(), shown.row));
            let rows: Vec<String> = kept.chain(self.rows.iter().filter(|row| !is_kept(row)).map(shown.row)).collect();
            let of = if shown.name == "bench" { format!("\n{of}:\n") } else { String::new() };
            keep_between(readme, shown.name, &format!("{of}\n{}{}\n", shown.head, rows.join("\n")))?;
        }
        Ok(())
    }

    fn row(&mut self, workload: &str) -> &mut Row {
        let at = self.rows.iter().position(|row| row.workload == workload).unwrap_or_else(|| {
            self.rows.push(Row { workload: workload.to_owned(), ..Row::default() });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for shown in &SHOWN {
            writeln!(f, "{}", shown.head.trim_end())?;
            self.rows.iter().try_for_each(|row| writeln!(f, "{}", (shown.row)(row)))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Row {
    fn times(&self) -> String {
        let Row { workload, aim, rsync, archive } = self;
        let (by_rsync, by_archive) = (median(&rsync.seconds), median(&archive.seconds));
        let megabytes = [rsync, archive].map(|pulls| pulls.wire as f64 / 1e6);
        format!(
            "| {workload} | {by_rsync:.2} s | {by_archive:.2} s | {:.2} | {aim:.2} | {:.1} MB | {:.1} MB | {} MiB |",
            by_archive / by_rsync,
            megabytes[0],
            megabytes[1],
            archive.peak_kib / 1024,
        )
    }

    fn on_client(&self) -> String {
        let took = [&self.rsync, &self.archive].map(|pulls| {
            let (seconds, mebibytes) = (median(&pulls.client_seconds), median(&pulls.client_peak_kib) / 1024.0);
            format!("{seconds:.2} s | {mebibytes:.0} MiB")
        });
        format!("| {} | {} |", self.workload, took.join(" | "))
    }
}

/// Puts `text` between the README's comments of a name; nothing does not replace anything.
pub fn keep_between(readme: &Path, name: &str, new: &str) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let text = std::fs::read_to_string(readme).context("README.md")?;
    let (before, _, after) = parts(&text, name)?;
    std::fs::write(readme, format!("{before}{new}\n{after}")).context("README.md")
}

fn between(readme: &Path, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(readme).context("README.md")?;
    parts(&text, name).map(|(_, between, _)| between.to_owned())
}

// What is before, between and behind the comments of a name, which stay with what is around them.
fn parts<'a>(text: &'a str, name: &str) -> Result<(&'a str, &'a str, &'a str)> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->\n"));
    let from = text.find(&begin).with_context(|| format!("README.md has no `{}`", begin.trim()))? + begin.len();
    let to = text.find(&end).with_context(|| format!("README.md has no `{}`", end.trim()))?;
    Ok((&text[..from], &text[from..to], &text[to..]))
}

fn workload_of(line: &str) -> &str {
    line.trim_start_matches("| ").split(" | ").next().unwrap_or_default()
}

/// The one in the middle, or between the two there.
pub fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.get(sorted.len() / 2)) {
        (count, Some(middle)) if count % 2 == 0 => (sorted[count / 2 - 1] + middle) / 2.0,
        (_, middle) => middle.copied().unwrap_or(f64::NAN),
    }
}
