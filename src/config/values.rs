//! The values that keys have: shares, sizes, numbers and times, as they are written and read.

use std::time::Duration;

use jiff::SpanFieldwise;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::path::Escaped;
use crate::source::MinFree;
use crate::time::{parse_calendar_span, parse_duration};

/// A stretch of the calendar, as `--keep-within` takes it, and as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendar(pub SpanFieldwise, String);

impl<'de> Deserialize<'de> for Calendar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Calendar, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_calendar_span(&text).map(|span| Calendar(span, text)).map_err(de::Error::custom)
    }
}

impl Serialize for Calendar {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.1)
    }
}

/// A share in percent: `50`, or `"50%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u8);

impl std::str::FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Percent, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
        let percent = number.filter(|number| *number <= 100).map(Percent);
        percent.ok_or_else(|| format!("`{}` is no share: write it as in `50%`", Escaped(text.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Percent, D::Error> {
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
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}%", self.0))
    }
}

/// How many of something work at once: from 1 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "i64", into = "u8")]
pub struct AtOnce(pub u8);

impl TryFrom<i64> for AtOnce {
    type Error = String;

    fn try_from(number: i64) -> std::result::Result<AtOnce, String> {
        let count = u8::try_from(number).ok().filter(|count| (1..=16).contains(count)).map(AtOnce);
        count.ok_or_else(|| format!("`{number}` is not from 1 to 16"))
    }
}

impl std::str::FromStr for AtOnce {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<AtOnce, String> {
        let number = text.parse::<i64>().map_err(|_| format!("`{}` is no number", Escaped(text.as_bytes())))?;
        number.try_into()
    }
}

impl From<AtOnce> for u8 {
    fn from(count: AtOnce) -> u8 {
        count.0
    }
}

/// Room on a file system: `"5%"`, or `"10GiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room(pub MinFree);

impl std::str::FromStr for Room {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Room, String> {
        if text.ends_with('%') {
            return text.parse().map(|Percent(percent)| Room(MinFree::Percent(percent)));
        }
        let size = text.parse::<bytesize::ByteSize>().map(|size| Room(MinFree::Bytes(size.as_u64())));
        size.map_err(|_| format!("`{}` is no room: write it as in `5%` or `10GiB`", Escaped(text.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for Room {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Room, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Room {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&match self.0 {
            MinFree::Percent(percent) => format!("{percent}%"),
            MinFree::Bytes(bytes) => bytesize::ByteSize(bytes).to_string(),
        })
    }
}

/// A duration, with the text that it was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span(pub(super) Duration, pub(super) String);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(|duration| Span(duration, text)).map_err(de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.1)
    }
}
