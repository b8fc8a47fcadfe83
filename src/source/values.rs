//! How the values of settings are written: shares, sizes, numbers and times, in the configuration and as flags.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::MinFree;
use crate::error::Error;
use crate::path::Escaped;
use crate::time::parse_duration;

// The most days that jiff reads as one number: 20,000 years. A longer duration could not be read as it is written.
const MAX_DURATION: Duration = Duration::from_secs(7_304_484 * 24 * 3600);

type Read<T> = std::result::Result<T, String>;

/// A share in percent: `50`, or `"50%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u8);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Read<Percent> {
        let number = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
        let percent = number.filter(|number| *number <= 100).map(Percent);
        percent.ok_or_else(|| format!("`{}` is no share: write it as in `50%`", Escaped(text.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Percent, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a share such as 50 or \"50%\"")]
        enum Written {
            Number(i64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}%", self.0))
    }
}

/// How many of something work at once: from 1 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "i64", into = "u8")]
pub struct AtOnce(pub u8);

impl TryFrom<i64> for AtOnce {
    type Error = String;

    fn try_from(number: i64) -> Read<AtOnce> {
        let count = u8::try_from(number).ok().filter(|count| (1..=16).contains(count)).map(AtOnce);
        count.ok_or_else(|| format!("`{number}` is not from 1 to 16"))
    }
}

impl From<AtOnce> for u8 {
    fn from(count: AtOnce) -> u8 {
        count.0
    }
}

impl FromStr for MinFree {
    type Err = String;

    fn from_str(text: &str) -> Read<MinFree> {
        if text.ends_with('%') {
            return text.parse().map(|Percent(percent)| MinFree::Percent(percent));
        }
        let size = text.parse().map(|Size(bytes)| MinFree::Bytes(bytes));
        size.map_err(|_| format!("`{}` is no room: write it as in `5%` or `10GiB`", Escaped(text.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for MinFree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MinFree, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for MinFree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            MinFree::Percent(percent) => Percent(*percent).serialize(serializer),
            MinFree::Bytes(bytes) => Size(*bytes).serialize(serializer),
        }
    }
}

/// A number of bytes, as in `500KiB` or `2MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = <ByteSize as FromStr>::Err;

    fn from_str(text: &str) -> Result<Size, Self::Err> {
        text.parse().map(|size: ByteSize| Size(size.as_u64()))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        ByteSize::deserialize(deserializer).map(|size| Size(size.as_u64()))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The text with a unit is rounded.
        let text = ByteSize(self.0).to_string();
        let is_exact = text.parse() == Ok(*self);
        serializer.serialize_str(&if is_exact { text } else { self.0.to_string() })
    }
}

/// A duration, as in `90s` or `1d12h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> crate::error::Result<Span> {
        let duration = parse_duration(text)?;
        if duration > MAX_DURATION {
            return Err(Error::usage(format_args!("`{}` is longer than 7304484 days", Escaped(text.as_bytes())))
                .hint("write a shorter one"));
        }
        Ok(Span(duration))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanoseconds) = (self.0.as_secs(), self.0.subsec_nanos());
        let is_short = seconds < 120;
        let days = [(86_400, "d"), (3600, "h"), (60, "m")];
        let mut left = seconds;
        for (length, unit) in days.into_iter().filter(|_| !is_short) {
            if left >= length {
                write!(f, "{}{unit}", left / length)?;
            }
            left %= length;
        }
        if left > 0 || is_short && nanoseconds == 0 {
            write!(f, "{left}s")?;
        }
        [(1_000_000, 1000, "ms"), (1000, 1000, "us"), (1, 1000, "ns")]
            .into_iter()
            .map(|(length, most, unit)| (nanoseconds / length % most, unit))
            .filter(|(count, _)| *count > 0)
            .try_for_each(|(count, unit)| write!(f, "{count}{unit}"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// Fields of settings that are written as one of the types above: for `#[serde(with)]`.

/// A share in percent.
pub(super) mod percent {
    use super::*;

    pub fn serialize<S: Serializer>(percent: &u8, serializer: S) -> Result<S::Ok, S::Error> {
        Percent(*percent).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
        Percent::deserialize(deserializer).map(|Percent(percent)| percent)
    }
}

/// A duration.
pub(super) mod duration {
    use super::*;

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        Span(*duration).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Span::deserialize(deserializer).map(|Span(duration)| duration)
    }
}

/// A duration that may be left out.
pub(super) mod some_duration {
    use super::*;

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(Span).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        duration::deserialize(deserializer).map(Some)
    }
}

/// A limit of time, for which 0 is none.
pub(super) mod time_limit {
    use super::*;

    pub fn serialize<S: Serializer>(limit: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        Span(limit.unwrap_or_default()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        duration::deserialize(deserializer).map(|limit| Some(limit).filter(|limit| !limit.is_zero()))
    }
}

/// A limit of bytes, for which 0 is none.
pub(super) mod size_limit {
    use super::*;

    pub fn serialize<S: Serializer>(limit: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        Size(limit.unwrap_or_default()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Size::deserialize(deserializer).map(|Size(limit)| Some(limit).filter(|limit| *limit > 0))
    }
}

/// Patterns, which files and flags may have that are no text.
pub(super) mod patterns {
    use super::*;

    pub fn serialize<S: Serializer>(patterns: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(patterns.iter().map(|pattern| String::from_utf8_lossy(pattern)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let patterns = Vec::<String>::deserialize(deserializer)?;
        Ok(patterns.into_iter().map(String::into_bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_duration_is_written_as_it_can_be_read() {
        let longest: Span = "175307616h".parse().unwrap();
        assert_eq!((longest.0, longest.to_string().parse::<Span>().unwrap()), (MAX_DURATION, longest));
        assert!("7304484d1s".parse::<Span>().is_err());
    }

    #[test]
    fn size_is_written_exactly() {
        for (bytes, written) in
            [(0, "0 B"), (2 << 20, "2.0 MiB"), (1_234_567, "1234567"), (u64::MAX - 1, "18446744073709551614")]
        {
            let json = serde_json::to_string(&Size(bytes)).unwrap();
            assert_eq!(json, format!("\"{written}\""));
            assert_eq!(serde_json::from_str::<Size>(&json).unwrap(), Size(bytes));
        }
    }

    #[test]
    fn span_is_written_as_it_can_be_read() {
        for (text, written) in [
            ("0s", "0s"),
            ("60s", "60s"),
            ("90s", "90s"),
            ("10m", "10m"),
            ("36h", "1d12h"),
            ("7d", "7d"),
            ("2w", "14d"),
            ("1d1s", "1d1s"),
            ("3600000ms", "1h"),
            ("1500ms", "1s500ms"),
            ("20ms", "20ms"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), written);
            assert_eq!(written.parse::<Span>().unwrap(), span);
        }
    }
}
