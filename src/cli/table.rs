//! Tables for people: columns that stand below each other, with colours where they are wanted.

use super::{Context, print_line};
use crate::error::Result;

/// A cell, and how it looks.
pub(super) struct Cell {
    text: String,
    right: bool,
    color: Option<&'static str>,
}

/// SGR codes, as by convention: see console_codes(4).
pub(super) mod color {
    pub const GOOD: &str = "32";
    pub const CAREFUL: &str = "33";
    pub const BAD: &str = "31";
    pub const DIRECTORY: &str = "1;34";
    pub const SYMLINK: &str = "36";
    pub const EXECUTABLE: &str = "32";
}

impl Cell {
    /// Text, at the left of its column.
    pub(super) fn left(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), right: false, color: None }
    }

    /// A number, at the right of its column.
    pub(super) fn right(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), right: true, color: None }
    }

    /// In this colour.
    pub(super) fn colored(self, color: Option<&'static str>) -> Cell {
        Cell { color, ..self }
    }
}

/// The colour of a run's outcome.
pub(super) fn outcome_color(outcome: &str) -> &'static str {
    match outcome {
        "ok" | "rebuild" => color::GOOD,
        "partial" => color::CAREFUL,
        _ => color::BAD,
    }
}

/// Prints rows that all have the same number of cells.
pub(super) fn print(context: &Context, rows: &[Vec<Cell>]) -> Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].text.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| shown(context, cell, *width)).collect();
        print_line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Text in a colour, if colours are wanted.
pub(super) fn paint(context: &Context, text: &str, color: Option<&str>) -> String {
    match color.filter(|_| context.colors_output()) {
        Some(color) => format!("\x1b[{color}m{text}\x1b[0m"),
        None => text.to_owned(),
    }
}

fn shown(context: &Context, cell: &Cell, width: usize) -> String {
    let blank = " ".repeat(width - cell.text.chars().count());
    let text = paint(context, &cell.text, cell.color);
    if cell.right { blank + &text } else { text + &blank }
}
