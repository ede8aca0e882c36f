//! The values of flags, in the syntax that Go's `flag` and `strconv` packages accept.
//!
//! [`canonical`] checks a text and brings it into one normal form, so that `1m` and `60s` compare as
//! equal and everything behind it can rely on the text being well formed. The messages are Go's and
//! etcd's, since scripts and people search for them.

use super::table::Kind;
use crate::base::urls;
use crate::cli::logging;

const SYNTAX: &str = "parse error";
const RANGE: &str = "value out of range";

/// The normal form of a value of this kind, or what Go says is wrong with it.
pub fn canonical(kind: Kind, text: &str) -> Result<String, String> {
    match kind {
        Kind::Bool => Ok(boolean(text).ok_or(SYNTAX)?.to_string()),
        Kind::Int => Ok(signed(text)?.to_string()),
        Kind::Uint => Ok(unsigned(text)?.to_string()),
        Kind::Uint32 => uint32(text),
        Kind::Duration => Ok(format_duration(duration(text).ok_or(SYNTAX)?)),
        Kind::Text => Ok(text.to_owned()),
        Kind::Urls => url_list(text),
        Kind::UrlsOrAny if text == "*" => Ok(text.to_owned()),
        Kind::UrlsOrAny => url_list(text),
        Kind::Texts => Ok(unique(text.split(','))),
        Kind::Choice(valid) if valid.contains(&text) => Ok(text.to_owned()),
        Kind::Choice(_) => Err("invalid value".to_owned()),
        Kind::Choices(valid) => choices(valid, text),
        Kind::Gates => {
            super::gates::parse(text)?;
            Ok(text.to_owned())
        }
        Kind::Level => match logging::Level::parse(text) {
            Some(_) => Ok(text.to_owned()),
            None => Err(format!("unrecognized level: {text:?}")),
        },
        Kind::Ignored => Ok(String::new()),
    }
}

/// Go's `strconv.ParseBool`.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `strconv.ParseUint` with base 0: `0x`, `0o`, `0b` and a leading 0 choose the base, underscores
/// may stand between digits.
pub fn unsigned(text: &str) -> Result<u64, &'static str> {
    let (base, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &text[2..]),
        [b'0', b'o' | b'O', ..] => (8, &text[2..]),
        [b'0', b'b' | b'B', ..] => (2, &text[2..]),
        [b'0', _, ..] => (8, &text[1..]),
        _ => (10, text),
    };
    // An underscore may follow a base's prefix, but nothing else that is not a digit.
    let digits = match digits.strip_prefix('_') {
        Some(rest) if base != 10 => rest,
        Some(_) => return Err(SYNTAX),
        None => digits,
    };
    let mut value = Some(0_u64);
    for group in digits.split('_') {
        if group.is_empty() {
            return Err(SYNTAX);
        }
        for digit in group.chars() {
            let digit = digit.to_digit(base).ok_or(SYNTAX)?;
            value = value
                .and_then(|value| value.checked_mul(u64::from(base)))
                .and_then(|value| value.checked_add(u64::from(digit)));
        }
    }
    value.ok_or(RANGE)
}

/// Go's `strconv.ParseInt` with base 0.
pub fn signed(text: &str) -> Result<i64, &'static str> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(unsigned(digits)?);
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map_err(|_| RANGE)
}

fn uint32(text: &str) -> Result<String, String> {
    let wrong = |what| format!("strconv.ParseUint: parsing {text:?}: {what}");
    match unsigned(text) {
        Ok(value) if u32::try_from(value).is_ok() => Ok(value.to_string()),
        Ok(_) | Err(RANGE) => Err(wrong(RANGE)),
        Err(_) => Err(wrong("invalid syntax")),
    }
}

/// Go's `time.ParseDuration`, in nanoseconds: `1h15m30.918s`, `-1.5h`, `0`.
pub fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        total += in_unit(number, unit_nanos(unit)?)?;
        // Go's bound on each part and on the sum.
        if total > i128::from(i64::MAX) + i128::from(negative) {
            return None;
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn unit_nanos(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// A decimal number of units, in nanoseconds; digits too small to matter are cut off.
fn in_unit(number: &str, nanos: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = match whole {
        "" => 0,
        digits => i128::from(digits.parse::<u64>().ok()?),
    };
    // 18 digits are a millionth of a nanosecond of the longest unit, an hour.
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let parts = match fraction {
        "" => 0,
        digits => i128::from(digits.parse::<u64>().ok()?) * nanos / 10_i128.pow(digits.len() as u32),
    };
    Some(whole * nanos + parts)
}

/// Go's `Duration.String`: `1h0m0s`, `1.5s`, `100ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64| {
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{:0digits$}", value / unit, value % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        0 => "0s".to_owned(),
        1..=999 => format!("{sign}{nanos}ns"),
        1_000..=999_999 => format!("{sign}{}\u{b5}s", fraction(nanos, 1_000)),
        1_000_000..=999_999_999 => format!("{sign}{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

fn url_list(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let urls = urls::parse_list(text)?;
    Ok(unique(urls.iter().map(|url| url.text.as_str())))
}

fn unique<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let items: std::collections::BTreeSet<&str> = items.collect();
    items.into_iter().collect::<Vec<_>>().join(",")
}

fn choices(valid: &[&str], text: &str) -> Result<String, String> {
    match text.split(',').find(|choice| !valid.contains(choice)) {
        Some(choice) => Err(format!("invalid value {choice:?}")),
        None => Ok(unique(text.split(','))),
    }
}

#[cfg(test)]
mod tests;
