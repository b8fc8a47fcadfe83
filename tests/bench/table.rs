//! The measured times, as a table in Markdown.

use std::fmt;

use crate::tools::Ran;

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
        writeln!(
            f,
            "| workload | rsync | archive | ratio | aim | rsync received | archive received | archive memory |"
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
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

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.get(sorted.len() / 2)) {
        (count, Some(middle)) if count % 2 == 0 => (sorted[count / 2 - 1] + middle) / 2.0,
        (_, middle) => middle.copied().unwrap_or(f64::NAN),
    }
}
