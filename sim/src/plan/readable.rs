//! Durations in stored plans: `"500ms"`, `"15s"`, exact, in the largest unit that leaves no fraction.
//!
//! `#[serde(with = "readable")]` on a [`Duration`], `#[serde(with = "readable::nanos")]` on a number of
//! nanoseconds.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Largest first.
const UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    show(*duration).serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text)
        .ok_or_else(|| D::Error::custom(format!("\"{text}\" is not a time such as \"15s\" or \"500us\"")))
}

fn show(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let (name, unit) = UNITS
        .into_iter()
        .find(|(_, unit)| nanos.is_multiple_of(*unit))
        .expect("every number is a multiple of 1");
    format!("{}{name}", nanos / unit)
}

/// A time as a stored plan or the command line gives it.
pub fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, name) = text.split_at(digits);
    let (_, unit) = UNITS.into_iter().find(|(known, _)| *known == name)?;
    let nanos = number.parse::<u128>().ok()?.checked_mul(unit)?;
    Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

/// The same where there may be none.
pub mod optional {
    use super::*;

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(show).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }
}

/// The same for numbers of nanoseconds.
pub mod nanos {
    use super::*;

    pub fn serialize<S: Serializer>(nanos: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        super::serialize(&Duration::from_nanos(*nanos), serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let duration = super::deserialize(deserializer)?;
        u64::try_from(duration.as_nanos()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_and_short() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1500ns"),
            (500_000, "500us"),
            (90_000_000_000, "90s"),
            (300_000_000_000, "5m"),
            (1_200_000_000, "1200ms"),
        ] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(show(duration), text);
            assert_eq!(parse(text), Some(duration));
        }
        for text in ["", "s", "5", "5 s", "-1s", "5d", "99999999999999999999s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
