//! What a program reads: one JSON object a line, on standard output.

use std::fmt::Display;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use serde_json::{Map, Value, json};

use super::{COUNT_NAMES, Change, Level, Progress, Report, Restoration, Summary};
use crate::entry::Time;
use crate::path::{AbsPath, SourceName, is_unprintable};

/// Listens for a program. Messages are not for it: they go to standard error, as text.
pub struct Json {
    verbose: bool,
    lists_changes: Mutex<bool>,
}

impl Json {
    /// A listener that prints summaries; changes too in a dry run, or if `verbose`.
    pub fn new(verbose: bool) -> Json {
        Json { verbose, lists_changes: Mutex::new(verbose) }
    }
}

impl Report for Json {
    fn begin(&self, _: &SourceName, run: Option<i64>) {
        *self.lists_changes.lock().unwrap_or_else(PoisonError::into_inner) = self.verbose || run.is_none();
    }

    fn message(&self, _: Level, _: &dyn Display) {}

    fn change(&self, change: Change, path: &AbsPath) {
        if *self.lists_changes.lock().unwrap_or_else(PoisonError::into_inner) {
            let mut line = object("change");
            line.insert("change".to_owned(), change.word().into());
            insert_path(&mut line, "path", path.as_bytes());
            print_text(&text(line));
        }
    }

    fn restored(&self, restoration: &Restoration<'_>) {
        if *self.lists_changes.lock().unwrap_or_else(PoisonError::into_inner) {
            let mut line = object("change");
            line.insert("change".to_owned(), Change::New.word().into());
            insert_path(&mut line, "path", restoration.path.as_bytes());
            insert_path(&mut line, "to", restoration.target);
            line.insert("bytes".to_owned(), restoration.bytes.into());
            print_text(&text(line));
        }
    }

    fn progress(&self, _: &Progress) {}

    fn summary(&self, summary: &Summary) {
        print_text(&summary_line(summary));
    }
}

/// A line's beginning: its type.
pub fn object(kind: &str) -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), Value::from(kind))])
}

/// Inserts a file's mtime in nanoseconds since 1970; where it is the nearest that 64 bits can hold, `mtime_exact` has the
/// exact time in seconds.
pub fn insert_mtime(line: &mut Map<String, Value>, mtime: Time) {
    line.insert("mtime".to_owned(), mtime.clamped().into());
    if mtime.is_far() {
        line.insert("mtime_exact".to_owned(), mtime.to_string().into());
    }
}

/// Adds a path under a key; one that is not UTF-8 with escapes, and whole in Base64 under `KEY_b64`.
pub fn insert_path(line: &mut Map<String, Value>, key: &str, path: &[u8]) {
    match std::str::from_utf8(path) {
        Ok(text) => line.insert(key.to_owned(), text.into()),
        Err(_) => {
            line.insert(key.to_owned(), crate::path::Escaped(path).to_string().into());
            let encoded = base64::engine::general_purpose::STANDARD.encode(path);
            line.insert(format!("{key}_b64"), encoded.into())
        }
    };
}

/// A line as text. JSON lets the control characters from U+007F on stand as they are; terminals obey them.
pub fn text(line: Map<String, Value>) -> String {
    harmless(&Value::Object(line).to_string())
}

fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if is_unprintable(character) {
            text.push_str(&format!("\\u{:04x}", u32::from(character)))
        } else {
            text.push(character)
        }
    }
    text
}

fn print_text(line: &str) {
    // Nobody listens any more: the exit status still tells.
    let _ = writeln!(std::io::stdout(), "{line}");
}

// Written field by field, for a map would sort them.
fn summary_line(summary: &Summary) -> String {
    let remote = summary.remote.map(|remote| remote.word());
    let mut fields = vec![
        ("type", json!("summary")),
        ("source", json!(summary.source)),
        ("run", json!(summary.run)),
        ("outcome", json!(summary.outcome.word())),
        ("exit", json!(summary.exit)),
        ("remote", json!(remote)),
    ];
    fields.extend(COUNT_NAMES.iter().zip(summary.counts).map(|(name, count)| (*name, json!(count))));
    fields.push(("seconds", json!((summary.seconds * 1000.0).round() / 1000.0)));
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Outcome;

    #[test]
    fn a_summary_has_its_fields_in_order() {
        let summary = Summary {
            source: "laptop".to_owned(),
            run: None,
            outcome: Outcome::Failed,
            exit: 6,
            remote: None,
            counts: [0; COUNT_NAMES.len()],
            seconds: 0.12345,
            dry_run: false,
        };
        insta::assert_snapshot!(summary_line(&summary), @r#"{"type":"summary","source":"laptop","run":null,"outcome":"failed","exit":6,"remote":null,"listed":0,"unchanged":0,"new":0,"changed":0,"touched":0,"removed":0,"copied":0,"linked":0,"archived":0,"skipped":0,"excluded":0,"bytes_copied":0,"bytes_linked":0,"bytes_sent":0,"bytes_received":0,"warnings":0,"errors":0,"seconds":0.123}"#);
    }

    #[test]
    fn no_control_character_is_printed_as_it_is() {
        let mut line = object("change");
        insert_path(&mut line, "path", "/a\u{7f}\u{9b}\u{1b}".as_bytes());
        assert_eq!(text(line), r#"{"path":"/a\u007f\u009b\u001b","type":"change"}"#);
    }

    #[test]
    fn a_path_that_is_no_text_comes_twice() {
        let mut line = object("change");
        insert_path(&mut line, "path", b"/caf\xe9");
        assert_eq!(Value::Object(line).to_string(), r#"{"path":"/caf\\xe9","path_b64":"L2NhZuk=","type":"change"}"#);
    }
}
