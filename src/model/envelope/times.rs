//! Times as publishers write them: seconds since 1970, whole or not, or RFC 3339.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::{
    Rejected,
    fields::{kind, present, string},
    rejected,
};

/// The time of the guide's envelope, else that of AMQP.
pub(super) fn time(
    given: Option<&RawValue>,
    property: Option<u64>,
) -> Result<Option<DateTime<Utc>>, Rejected> {
    match present(given) {
        Some(json) => read_time(json).map(Some),
        None => property.map(of_property).transpose(),
    }
}

/// AMQP's property `timestamp`.
pub(super) fn of_property(seconds: u64) -> Result<DateTime<Utc>, Rejected> {
    i64::try_from(seconds).ok().and_then(at_second).ok_or_else(out_of_range)
}

/// An RFC 3339 time; otherwise `field` is at fault.
pub(super) fn rfc3339(field: &'static str, text: &str) -> Result<DateTime<Utc>, Rejected> {
    DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).map_err(|_| {
        rejected(field, "is not an RFC 3339 time with a time zone, such as 2026-01-31T12:00:00Z")
    })
}

fn read_time(json: &str) -> Result<DateTime<Utc>, Rejected> {
    if json.starts_with('"') {
        return rfc3339("timestamp", &string("timestamp", json)?);
    }
    if let Ok(seconds) = json.parse::<i64>() {
        return at_second(seconds).ok_or_else(out_of_range);
    }
    match kind(json) {
        "a number" => json.parse().ok().and_then(at_fraction).ok_or_else(out_of_range),
        other => {
            Err(rejected("timestamp", format!("must be seconds since 1970 or an RFC 3339 time, not {other}")))
        }
    }
}

fn out_of_range() -> Rejected {
    rejected("timestamp", "is out of range for a time in seconds since 1970")
}

fn at_second(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

fn at_fraction(seconds: f64) -> Option<DateTime<Utc>> {
    let whole = seconds.floor();
    // Beyond this a float no longer holds whole seconds, and no calendar reaches that far.
    if whole.abs() > 9e15 {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "both are bounded just above"
    )]
    let (whole, nanos) = (whole as i64, ((seconds - whole) * 1e9) as u32);
    DateTime::from_timestamp(whole, nanos.min(999_999_999))
}
