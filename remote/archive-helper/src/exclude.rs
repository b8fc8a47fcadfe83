//! What is left out of a listing: patterns as gitignore(5) has them, anchored at `/`.

use crate::protocol::AbsPath;

/// A list of patterns, of which the last that matches decides.
#[derive(Debug, Default)]
pub struct Exclude {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    glob: Vec<u8>,
    negated: bool,
    directories_only: bool,
    // Matches the whole path; else the name alone.
    anchored: bool,
}

impl Exclude {
    /// Reads patterns; blank ones and comments are none.
    pub fn new(lines: &[Vec<u8>]) -> Exclude {
        Exclude { patterns: lines.iter().filter_map(|line| Pattern::read(line)).collect() }
    }

    /// True when nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// True when an entry is left out. What is below an excluded directory is not asked for.
    pub fn leaves_out(&self, path: &AbsPath, name: &[u8], is_directory: bool) -> bool {
        let decides = |pattern: &&Pattern| pattern.matches(path.as_bytes(), name, is_directory);
        self.patterns.iter().rev().find(decides).is_some_and(|pattern| !pattern.negated)
    }
}

impl Pattern {
    fn read(line: &[u8]) -> Option<Pattern> {
        let line = trimmed(line);
        let (negated, line) = match line {
            [b'#', ..] | [] => return None,
            [b'!', rest @ ..] => (true, rest),
            line => (false, line),
        };
        let (directories_only, line) = match line {
            [rest @ .., b'/'] if !rest.ends_with(b"\\") => (true, rest),
            line => (false, line),
        };
        if line.is_empty() {
            return None;
        }
        let anchored = line.contains(&b'/');
        let slash: &[u8] = if anchored && !line.starts_with(b"/") && !line.starts_with(b"**/") { b"/" } else { b"" };
        let slash = if line.starts_with(b"**/") { b"/" } else { slash };
        Some(Pattern { glob: [slash, &translated(line)].concat(), negated, directories_only, anchored })
    }

    fn matches(&self, path: &[u8], name: &[u8], is_directory: bool) -> bool {
        let subject = if self.anchored { path } else { name };
        (is_directory || !self.directories_only) && fast_glob::glob_match(&self.glob, subject)
    }
}

// Spaces at the end don't count, unless a backslash says so.
fn trimmed(mut line: &[u8]) -> &[u8] {
    line = line.strip_suffix(b"\r").unwrap_or(line);
    while let [rest @ .., b' '] = line {
        if rest.ends_with(b"\\") {
            break;
        }
        line = rest;
    }
    line
}

// The matcher takes braces for alternatives and a leading `!` for a negation; gitignore takes both for themselves.
fn translated(pattern: &[u8]) -> Vec<u8> {
    let mut glob = Vec::with_capacity(pattern.len() + 2);
    let mut escaped = false;
    for (at, &byte) in pattern.iter().enumerate() {
        if !escaped && (matches!(byte, b'{' | b'}') || (byte == b'!' && at == 0)) {
            glob.push(b'\\');
        }
        glob.push(byte);
        escaped = byte == b'\\' && !escaped;
    }
    glob
}
