//! Points in time as in the interface: milliseconds since the Unix epoch, with the formats that issuers and consumers use.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

/// A larger number is milliseconds, not seconds: as seconds it would be in the year 5138, as milliseconds in March 1973.
const LARGEST_UNIX_SECONDS: f64 = 1e11;

/// 9999-12-31T23:59:59Z.
const LAST_RFC3339_SECOND: u64 = 253_402_300_799;

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From seconds since the Unix epoch.
    #[must_use]
    pub const fn from_unix_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_unix_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down, so that a token never seems to last longer than it does.
    #[must_use]
    pub const fn as_unix_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// This many milliseconds later, at most at the end of time.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Reads RFC 3339, e.g. "2026-11-23T02:00:00Z" or "2026-11-23T03:00:00+01:00"; nothing for other texts and for times before 1970.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let (local, offset_minutes) = split_offset(text.trim())?;
        let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
        let millis = i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
        u64::try_from(millis.checked_sub(offset_minutes * 60_000)?)
            .ok()
            .map(Self)
    }

    /// Parses the values of members such as `expires_at` and `expires_on`: RFC 3339, an HTTP date, or seconds or milliseconds
    /// since the Unix epoch, as a number or as text.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => Self::from_epoch(number.as_f64()?),
            Value::String(text) => match serde_json::from_str(text) {
                Ok(number) => Self::from_epoch(number),
                Err(_) => Self::parse_rfc3339(text).or_else(|| Self::parse_http_date(text)),
            },
            _ => None,
        }
    }

    /// Parses any of the three formats of RFC 9110 §5.6.7.
    pub(crate) fn parse_http_date(text: &str) -> Option<Self> {
        let time = httpdate::parse_http_date(text.trim()).ok()?;
        let since_epoch = time.duration_since(UNIX_EPOCH).ok()?;
        u64::try_from(since_epoch.as_millis()).ok().map(Self)
    }

    fn from_epoch(number: f64) -> Option<Self> {
        if number < 0.0 {
            return None;
        }
        let millis = if number > LARGEST_UNIX_SECONDS {
            number
        } else {
            number * 1000.0
        };
        // The cast saturates; below 2^53 ms (the year 287396) it is exact to the millisecond.
        Some(Self(millis as u64))
    }
}

/// The text before the offset, and the offset in minutes.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return Some((local, 0));
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
    let (hours, minutes) = offset
        .get(1..)?
        .split_once(':')
        .filter(|(hours, _)| hours.len() == 2)?;
    let minutes =
        i64::from(hours.parse::<u8>().ok()?) * 60 + i64::from(minutes.parse::<u8>().ok()?);
    match offset.get(..1)? {
        "+" => Some((local, minutes)),
        "-" => Some((local, -minutes)),
        _ => None,
    }
}

/// Parses a duration of the configuration ("30s", "5m", "1h30m", "250ms"), in milliseconds; nothing for other texts.
#[must_use]
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    u64::try_from(humantime::parse_duration(text).ok()?.as_millis()).ok()
}

/// RFC 3339 in UTC, in whole seconds: "2026-11-23T02:00:00Z". Years have four digits there, so later times are shown as the last one.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.as_unix_seconds().min(LAST_RFC3339_SECOND);
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_point_in_time_is_read_in_every_spelling() {
        let expected = Some(Timestamp::from_unix_seconds(1_700_000_000));
        for spelling in [
            json!(1_700_000_000),
            json!(1_700_000_000.0),
            json!("1700000000"),
            json!(1_700_000_000_000_u64),
            json!("1700000000000"),
            json!("2023-11-14T22:13:20Z"),
            json!("2023-11-14T23:13:20+01:00"),
            json!("2023-11-14T16:43:20.000-05:30"),
        ] {
            assert_eq!(Timestamp::from_json(&spelling), expected, "{spelling}");
        }
    }

    #[test]
    fn what_is_no_point_in_time_is_none() {
        for value in [
            json!(null),
            json!(true),
            json!(""),
            json!("soon"),
            json!(-1),
            json!("NaN"),
            json!([1]),
            json!("1969-01-01T00:00:00Z"),
            json!("+01:00"),
            json!("é+01:00"),
            json!("2023-11-14T22:13:20"),
            json!("2023-11-14T22:13:20+1:000"),
        ] {
            assert_eq!(Timestamp::from_json(&value), None, "{value}");
        }
    }

    #[test]
    fn a_timestamp_is_shown_as_rfc_3339_in_whole_seconds() {
        assert_eq!(
            Timestamp::from_unix_millis(1_700_000_000_999).to_string(),
            "2023-11-14T22:13:20Z"
        );
        assert_eq!(
            Timestamp::from_unix_millis(u64::MAX).to_string().get(..4),
            Some("9999")
        );
    }
}
