//! Mistakes in a file: where they are, and what was probably meant.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Kind};
use crate::path::Escaped;

// Keys as much alike as this, of 1, may be mistyped ones.
const MIN_LIKENESS: f64 = 0.75;

// Keys of a source that are keys of its `tuning` now.
const MOVED: [&str; 5] = ["copy", "channels", "readers", "writers", "gather"];

/// What is wrong with a file, in one line.
pub(super) fn describe(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    let position = position(path, text, error.span().unwrap_or_default());
    let (message, nearest) = match unknown_key(&message) {
        Some((key, _)) if MOVED.contains(&key) => {
            let text = format_args!("{position}: `{key}` is a key of the table `tuning` now");
            return Error::new(Kind::Usage, text)
                .hint(format_args!("write `tuning = {{ {key} = … }}`, or leave it out"));
        }
        Some((key, nearest)) => (format!("unknown key `{key}`"), nearest),
        None => (in_words(&message), None),
    };
    let error = Error::new(Kind::Usage, format_args!("{position}: {}", Escaped(message.as_bytes())));
    match nearest {
        Some(nearest) => error.hint(format_args!("did you mean `{nearest}`?")),
        None => error.hint("archive.toml(5) describes every key"),
    }
}

// The message with words for what Serde and the types of values are called in the program.
fn in_words(message: &str) -> String {
    const WORDS: [(&str, &str); 8] = [
        ("struct Settings", "a table of settings"),
        ("struct Keep", "a table such as `{ daily = 14 }`"),
        ("struct Tuning", "a table such as `{ writers = 1 }`"),
        ("parsable string", "a size such as `500KiB`"),
        ("a sequence", "a list such as `[\"/home\", \"/etc\"]`"),
        ("a boolean", "true or false"),
        ("path string", "a path"),
        ("a map", "a table"),
    ];
    let Some((what, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    let is_number = expected.len() <= 4 && expected.starts_with(['u', 'i']) && expected[1..].parse::<u8>().is_ok();
    let words = WORDS.iter().find(|(word, _)| *word == expected).map(|(_, words)| *words);
    format!("{what}, expected {}", words.unwrap_or(if is_number { "a number" } else { expected }))
}

// The key, and the known one that is most like it. Serde lists all that are known.
fn unknown_key(message: &str) -> Option<(&str, Option<&str>)> {
    let (key, known) = message.strip_prefix("unknown field `")?.rsplit_once("`, expected ")?;
    let known = known.split('`').skip(1).step_by(2);
    let likeness = |known: &str| strsim::jaro_winkler(known, key);
    let nearest = known.map(|known| (likeness(known), known)).max_by(|one, other| one.0.total_cmp(&other.0));
    Some((key, nearest.filter(|(likeness, _)| *likeness > MIN_LIKENESS).map(|(_, known)| known)))
}

/// File, line and column, as compilers print them.
pub(super) fn position(path: &Path, text: &str, span: Range<usize>) -> String {
    let before = &text[..span.start.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    format!("{}:{line}:{column}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_key_is_found_in_the_list_of_all() {
        let listed =
            |key: &str| format!("unknown field `{key}`, expected one of `host`, `paths`, `exclude`, `exclude_from`");
        for (key, nearest) in [("exlude", Some("exclude")), ("path", Some("paths")), ("zzz", None)] {
            assert_eq!(unknown_key(&listed(key)), Some((key, nearest)));
        }
        // Keys may hold anything.
        assert_eq!(unknown_key(&listed("`, expected `x")).map(|(key, _)| key), Some("`, expected `x"));
        assert_eq!(unknown_key("invalid type"), None);
    }

    #[test]
    fn types_of_the_program_are_named_in_words() {
        for (message, words) in [
            ("invalid type: string \"x\", expected u16", "invalid type: string \"x\", expected a number"),
            (
                "invalid type: integer `1`, expected struct Settings",
                "invalid type: integer `1`, expected a table of settings",
            ),
            ("invalid type: integer `1`, expected a boolean", "invalid type: integer `1`, expected true or false"),
            ("a string of its own", "a string of its own"),
        ] {
            assert_eq!(in_words(message), words);
        }
    }
}
