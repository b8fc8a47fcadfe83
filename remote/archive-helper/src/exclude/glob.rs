//! A shell pattern for one name, as gitignore(5) has it.

/// A pattern without slashes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Byte(u8),
    // `?`
    One,
    // `*`
    Star,
    // `[a-z]`
    Class(Box<[bool; 256]>),
}

/// Splits a pattern at its slashes; `None` if it can match nothing.
pub fn split(pattern: &[u8]) -> Option<Vec<Glob>> {
    let mut globs = vec![Glob::default()];
    let mut rest = pattern;
    while let Some((&byte, after)) = rest.split_first() {
        let (token, after) = match byte {
            b'?' => (Token::One, after),
            b'*' => (Token::Star, after),
            b'[' => class(after)?,
            b'\\' => escaped(after)?,
            _ => (Token::Byte(byte), after),
        };
        match token {
            Token::Byte(b'/') => globs.push(Glob::default()),
            token => globs.last_mut()?.tokens.push(token),
        }
        rest = after;
    }
    globs.iter().all(|glob| !glob.tokens.is_empty()).then_some(globs)
}

fn escaped(rest: &[u8]) -> Option<(Token, &[u8])> {
    let (&byte, rest) = rest.split_first()?;
    Some((Token::Byte(byte), rest))
}

// Reads a class from behind its `[`; `None` if it does not end, or names a class that is not known.
fn class(rest: &[u8]) -> Option<(Token, &[u8])> {
    let (negated, mut rest) = match rest {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, rest),
    };
    let mut class = Class { members: Box::new([false; 256]), previous: None };
    // What comes first is a member, even a `]`.
    loop {
        rest = class.read(rest)?;
        if let [b']', after @ ..] = rest {
            class.members.iter_mut().for_each(|member| *member ^= negated);
            return Some((Token::Class(class.members), after));
        }
    }
}

struct Class {
    members: Box<[bool; 256]>,
    // What a `-` would be a range from.
    previous: Option<u8>,
}

impl Class {
    // Reads a member, a range or a named class; returns what follows it.
    fn read<'a>(&mut self, rest: &'a [u8]) -> Option<&'a [u8]> {
        match (rest, self.previous.take()) {
            ([b'-', end, ..], Some(start)) if *end != b']' => self.read_range(start, &rest[1..]),
            ([b'[', b':', name @ ..], _) if named(name).is_some() => self.read_named(name),
            _ => self.read_member(rest),
        }
    }

    fn read_range<'a>(&mut self, start: u8, rest: &'a [u8]) -> Option<&'a [u8]> {
        let (end, rest) = member(rest)?;
        (start..=end).for_each(|byte| self.members[usize::from(byte)] = true);
        Some(rest)
    }

    fn read_named<'a>(&mut self, rest: &'a [u8]) -> Option<&'a [u8]> {
        let (name, rest) = named(rest)?;
        let is_member = by_name(name)?;
        (0..=255).for_each(|byte| self.members[usize::from(byte)] |= is_member(&byte));
        Some(rest)
    }

    fn read_member<'a>(&mut self, rest: &'a [u8]) -> Option<&'a [u8]> {
        let (byte, rest) = member(rest)?;
        self.members[usize::from(byte)] = true;
        self.previous = Some(byte);
        Some(rest)
    }
}

fn member(rest: &[u8]) -> Option<(u8, &[u8])> {
    let rest = rest.strip_prefix(b"\\").unwrap_or(rest);
    rest.split_first().map(|(&byte, rest)| (byte, rest))
}

// The name in `[:name:]`, and what follows it.
fn named(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = rest.iter().position(|&byte| byte == b']')?;
    Some((rest[..end].strip_suffix(b":")?, &rest[end + 1..]))
}

fn by_name(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

impl Glob {
    /// True for `**`.
    pub fn is_double_star(&self) -> bool {
        self.tokens == [Token::Star, Token::Star]
    }

    /// True if all of `name` matches. Takes at most the product of both lengths.
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut token, mut byte) = (0, 0);
        // After the last star, and where what follows it is tried: an earlier star need never take more.
        let mut retry = None;
        loop {
            match (self.tokens.get(token), name.get(byte)) {
                (None, None) => return true,
                (Some(Token::Star), _) => {
                    token += 1;
                    retry = Some((token, byte));
                }
                (Some(expected), Some(&found)) if expected.matches(found) => {
                    token += 1;
                    byte += 1;
                }
                _ => match retry {
                    Some((after_star, from)) if from < name.len() => {
                        (token, byte) = (after_star, from + 1);
                        retry = Some((token, byte));
                    }
                    _ => return false,
                },
            }
        }
    }
}

impl Token {
    fn matches(&self, byte: u8) -> bool {
        match self {
            Token::Byte(expected) => *expected == byte,
            Token::One | Token::Star => true,
            Token::Class(set) => set[usize::from(byte)],
        }
    }
}
