//! Exclude patterns: those of gitignore(5), a leading slash anchoring at `/`.

use crate::protocol::AbsPath;
use glob::Glob;

mod glob;
#[cfg(test)]
mod tests;

/// Patterns in their order; the last one that matches decides.
#[derive(Debug, Default)]
pub struct Excludes {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    // A leading `!`.
    includes: bool,
    // A trailing `/`.
    only_dirs: bool,
    parts: Vec<Part>,
}

#[derive(Debug, PartialEq)]
enum Part {
    // `**`: any number of directories; at the end, at least one name.
    Any,
    One(Glob),
}

impl Excludes {
    /// Reads patterns, one an item. What gitignore(5) passes over (blank lines, comments, patterns that can
    /// match nothing) is passed over here too.
    pub fn new<T: AsRef<[u8]>>(patterns: &[T]) -> Excludes {
        Excludes { patterns: patterns.iter().filter_map(|pattern| Pattern::new(pattern.as_ref())).collect() }
    }

    /// The patterns as they apply to the entries of one directory.
    pub fn within(&self, directory: &AbsPath) -> Filter<'_> {
        Filter { patterns: self.patterns.iter().filter(|pattern| pattern.reaches(directory)).collect() }
    }
}

/// The patterns that may match an entry of a certain directory.
pub struct Filter<'a> {
    patterns: Vec<&'a Pattern>,
}

impl Filter<'_> {
    /// True if the entry of this name is to be left out.
    pub fn excludes(&self, name: &[u8], is_dir: bool) -> bool {
        let decides = |pattern: &&&Pattern| (is_dir || !pattern.only_dirs) && pattern.ends_with(name);
        self.patterns.iter().rev().find(decides).is_some_and(|pattern| !pattern.includes)
    }
}

impl Pattern {
    fn new(line: &[u8]) -> Option<Pattern> {
        let line = trim(line.strip_suffix(b"\r").unwrap_or(line));
        if line.starts_with(b"#") {
            return None;
        }
        let (includes, line) = strip(line, |line| line.strip_prefix(b"!"));
        let (only_dirs, line) = strip(line, |line| line.strip_suffix(b"/"));
        let is_anchored = line.contains(&b'/');
        let line = line.strip_prefix(b"/").unwrap_or(line);
        let mut parts = Vec::new();
        if !is_anchored {
            parts.push(Part::Any);
        }
        for glob in glob::split(line)? {
            parts.push(if glob.is_double_star() && is_anchored { Part::Any } else { Part::One(glob) });
        }
        Some(Pattern { includes, only_dirs, parts })
    }

    // True if entries of `directory` can match, if only their names do.
    fn reaches(&self, directory: &AbsPath) -> bool {
        let last = self.parts.len() - 1;
        // Which parts may be the next to match.
        let mut next = vec![false; self.parts.len()];
        next[0] = true;
        self.skip_any(&mut next);
        for name in directory.below_root().split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let mut after = vec![false; self.parts.len()];
            for (index, part) in self.parts.iter().enumerate().filter(|(index, _)| next[*index]) {
                match part {
                    Part::Any => after[index] = true,
                    Part::One(glob) if index < last => after[index + 1] |= glob.matches(name),
                    Part::One(_) => {}
                }
            }
            next = after;
            self.skip_any(&mut next);
        }
        next[last]
    }

    // `**` may stand for nothing, but not at the end.
    fn skip_any(&self, next: &mut [bool]) {
        for index in 1..next.len() {
            next[index] |= next[index - 1] && self.parts[index - 1] == Part::Any;
        }
    }

    fn ends_with(&self, name: &[u8]) -> bool {
        match self.parts.last() {
            Some(Part::One(glob)) => glob.matches(name),
            Some(Part::Any) => true,
            None => false,
        }
    }
}

// Whether `take` took something off, and what is left.
fn strip(line: &[u8], take: impl Fn(&[u8]) -> Option<&[u8]>) -> (bool, &[u8]) {
    match take(line) {
        Some(rest) => (true, rest),
        None => (false, line),
    }
}

// Without trailing spaces, unless a backslash quotes them.
fn trim(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut bytes = line.iter().enumerate();
    while let Some((index, &byte)) = bytes.next() {
        match byte {
            b' ' => {}
            b'\\' => end = bytes.next().map_or(index, |(index, _)| index) + 1,
            _ => end = index + 1,
        }
    }
    &line[..end]
}
