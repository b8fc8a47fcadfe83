//! The verbs of `archive index`: check it against the trees, rebuild it from them, or update what was changed by hand.

pub mod check;
mod rebuild;

pub use check::check;
pub use rebuild::{rebuild, update};
