//! The measured times, as a table in Markdown, which the README keeps.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::tools::Ran;

// Between these the README has the table.
const BEGIN: &str = "<!-- bench -->\n";
const END: &str = "<!-- /bench -->\n";

const HEAD: &str = "\
| workload | rsync | archive | ratio | aim | rsync received | archive received | archive memory |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
";

/// What was measured, a row for each workload.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Default)]
struct Row {
    workload: String,
    aim: f64,
    rsync: Vec<f64>,
    archive: Vec<f64>,
    received: [u64; 2],
    peak_kib: u64,
}

impl Table {
    /// Adds a pull by rsync.
    pub fn rsync(&mut self, workload: &str, aim: f64, ran: &Ran) {
        let row = self.row(workload);
        row.aim = aim;
        row.rsync.push(ran.seconds);
        row.received[0] = row.received[0].max(ran.received);
    }

    /// Adds a pull by archive.
    pub fn archive(&mut self, workload: &str, ran: &Ran) {
        let row = self.row(workload);
        row.archive.push(ran.seconds);
        row.received[1] = row.received[1].max(ran.received);
        row.peak_kib = row.peak_kib.max(ran.peak_kib);
    }

    /// Puts the table into a README below a line that says of what it is. Rows that were not measured now stay, if they
    /// are of the same machine and programs.
    pub fn keep(&self, readme: &Path, of: &str) -> Result<()> {
        let text = std::fs::read_to_string(readme).context("README.md")?;
        let (before, rest) = text.split_once(BEGIN).context("README.md has no place for the table")?;
        let (old, after) = rest.split_once(END).context("README.md has no end of the table")?;
        let of = format!("{of}:");
        let old: Vec<&str> =
            if old.contains(&of) { old.lines().filter(|line| is_row(line)).collect() } else { Vec::new() };
        let measured = |line: &str| self.rows.iter().find(|row| row.workload.trim() == workload_of(line));
        let is_kept = |row: &&Row| old.iter().any(|line| row.workload.trim() == workload_of(line));
        let mut rows: Vec<String> =
            old.iter().map(|line| measured(line).map_or_else(|| (*line).to_owned(), Row::to_string)).collect();
        rows.extend(self.rows.iter().filter(|row| !is_kept(row)).map(Row::to_string));
        let table = format!("{HEAD}{}\n", rows.join("\n"));
        std::fs::write(readme, format!("{before}{BEGIN}\n{of}\n\n{table}\n{END}{after}")).context("README.md")
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
        f.write_str(HEAD)?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rsync, archive) = (median(&self.rsync), median(&self.archive));
        let megabytes = self.received.map(|bytes| bytes as f64 / 1e6);
        write!(f, "| {} | {rsync:.2} s | {archive:.2} s | {:.2} ", self.workload.trim(), archive / rsync)?;
        write!(f, "| {:.2} | {:.1} MB | {:.1} MB ", self.aim, megabytes[0], megabytes[1])?;
        write!(f, "| {} MiB |", self.peak_kib / 1024)
    }
}

/// Puts `text` between the README's comments of a name; nothing does not replace anything.
pub fn keep_between(readme: &Path, name: &str, new: &str) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let text = std::fs::read_to_string(readme).context("README.md")?;
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->\n"));
    let (before, rest) = text.split_once(&begin).with_context(|| format!("README.md has no `{}`", begin.trim()))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("README.md has no `{}`", end.trim()))?;
    std::fs::write(readme, format!("{before}{begin}{new}\n{end}{after}")).context("README.md")
}

fn is_row(line: &str) -> bool {
    line.starts_with("| ") && !HEAD.contains(line)
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
