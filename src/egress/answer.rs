//! What an answer means and how much of it is kept.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, StatusCode,
    header::{DATE, HeaderName, LOCATION, RETRY_AFTER},
};

use crate::model::{Outcome, Response};

/// How much of the body of a failure is kept.
pub(super) const FAILURE_BODY_BYTES_MAX: usize = 16 * 1024;

/// How much of the body of a success is kept: there are many and nobody reads them.
pub(super) const SUCCESS_BODY_BYTES_MAX: usize = 1024;

/// How much of the place a redirect points to is kept: no URL that is meant to work is longer.
const LOCATION_BYTES_MAX: usize = 2048;

/// An answer of which the head has arrived.
pub(super) fn begun(status: StatusCode, headers: &HeaderMap) -> Response {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    Response { status: status.as_u16(), headers, body: Vec::new(), truncated: false }
}

/// How much of the body that follows such a status is kept.
pub(super) fn body_bytes_max(status: StatusCode) -> usize {
    if status.is_success() { SUCCESS_BODY_BYTES_MAX } else { FAILURE_BODY_BYTES_MAX }
}

/// Takes in a part of a body; false once more has come than is kept.
pub(super) fn keep(response: &mut Response, part: &[u8], max: usize) -> bool {
    let room = max - response.body.len().min(max);
    response.body.extend_from_slice(&part[..part.len().min(room)]);
    response.truncated |= part.len() > room;
    !response.truncated
}

/// What a whole answer means. `now` is for a `Retry-After` that is a date in an answer without one.
pub(super) fn outcome(status: StatusCode, headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Outcome {
    let code = status.as_u16();
    match code {
        200..=299 => Outcome::Accepted { status: code },
        410 => Outcome::Gone,
        429 => Outcome::Throttled { retry_after: retry_after(headers, now) },
        300..=399 => Outcome::Redirected { status: code, location: location(headers) },
        400..=499 => Outcome::Refused { status: code },
        503 => Outcome::ServerError { status: code, retry_after: retry_after(headers, now) },
        // A switch of protocols that nobody asked for, and codes from 600 that no standard knows, are the
        // server's fault as well.
        _ => Outcome::ServerError { status: code, retry_after: None },
    }
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date, which is taken relative to the answer's own
/// `Date` so that the receiver's clock need not be right. A past date is zero; what is neither is nothing.
fn retry_after(headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let value = text(headers, RETRY_AFTER)?.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number has mean "very long", which whoever asks bounds anyway.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let date = text(headers, DATE).and_then(|date| httpdate::parse_http_date(date.trim()).ok());
    Some(until.duration_since(date.unwrap_or_else(now)).unwrap_or(Duration::ZERO))
}

fn location(headers: &HeaderMap) -> Option<String> {
    // What can be read as text is ASCII, so that it can be cut anywhere.
    text(headers, LOCATION).map(|place| place.chars().take(LOCATION_BYTES_MAX).collect())
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OutcomeClass;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    fn now() -> SystemTime {
        httpdate::parse_http_date("Mon, 23 Nov 2026 12:00:00 GMT").unwrap()
    }

    #[test]
    fn every_status_has_its_outcome() {
        let check = |code: u16, expected: OutcomeClass| {
            let status = StatusCode::from_u16(code).unwrap();
            assert_eq!(outcome(status, &HeaderMap::new(), now).class(), expected, "{code}");
        };
        check(101, OutcomeClass::ServerError);
        check(200, OutcomeClass::Accepted);
        check(201, OutcomeClass::Accepted);
        check(204, OutcomeClass::Accepted);
        check(299, OutcomeClass::Accepted);
        check(300, OutcomeClass::Redirected);
        check(304, OutcomeClass::Redirected);
        check(307, OutcomeClass::Redirected);
        check(400, OutcomeClass::Refused);
        check(404, OutcomeClass::Refused);
        check(410, OutcomeClass::Gone);
        check(429, OutcomeClass::Throttled);
        check(499, OutcomeClass::Refused);
        check(500, OutcomeClass::ServerError);
        check(503, OutcomeClass::ServerError);
        check(599, OutcomeClass::ServerError);
        check(999, OutcomeClass::ServerError);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_counts_on_429_and_503_only() {
        let check = |code: u16, pairs: &[(&'static str, &'static str)], expected: Option<u64>| {
            let status = StatusCode::from_u16(code).unwrap();
            let found = outcome(status, &headers(pairs), now).retry_after();
            assert_eq!(found, expected.map(Duration::from_secs), "{code} {pairs:?}");
        };
        let later = ("retry-after", "Mon, 23 Nov 2026 12:02:00 GMT");
        check(429, &[("retry-after", "120")], Some(120));
        check(429, &[("retry-after", " 7 ")], Some(7));
        check(429, &[("retry-after", "0")], Some(0));
        check(429, &[], None);
        check(503, &[later], Some(120));
        // The receiver's clock is a minute ahead; the wait is what it means by its own.
        check(503, &[later, ("date", "Mon, 23 Nov 2026 12:01:00 GMT")], Some(60));
        check(503, &[later, ("date", "yesterday")], Some(120));
        check(503, &[("retry-after", "Mon, 23 Nov 2026 11:00:00 GMT")], Some(0));
        check(503, &[("retry-after", "Monday, 23-Nov-26 12:00:30 GMT")], Some(30));
        check(503, &[("retry-after", "99999999999999999999999")], Some(u64::from(u32::MAX)));
        check(503, &[("retry-after", "-5")], None);
        check(503, &[("retry-after", "1.5")], None);
        check(503, &[("retry-after", "")], None);
        check(503, &[("retry-after", "soon")], None);
        check(500, &[("retry-after", "120")], None);
        check(404, &[("retry-after", "120")], None);
    }

    #[test]
    fn a_body_is_kept_up_to_its_bound() {
        let check = |parts: &[&str], kept: &str, truncated: bool| {
            let mut response = begun(StatusCode::OK, &HeaderMap::new());
            for part in parts {
                keep(&mut response, part.as_bytes(), 4);
            }
            assert_eq!((response.body.as_slice(), response.truncated), (kept.as_bytes(), truncated));
        };
        check(&[], "", false);
        check(&["ab", "cd"], "abcd", false);
        check(&["ab", "cde"], "abcd", true);
        check(&["abcdef"], "abcd", true);
        check(&["abcd", "", "e"], "abcd", true);
    }

    #[test]
    fn a_redirect_keeps_where_it_points_but_no_novel() {
        let check = |place: &str, kept: usize| {
            let headers = HeaderMap::from_iter([(LOCATION, place.parse().unwrap())]);
            let found = outcome(StatusCode::FOUND, &headers, now);
            assert_eq!(found, Outcome::Redirected { status: 302, location: Some(place[..kept].to_owned()) });
        };
        check("/elsewhere", 10);
        check(&"x".repeat(3000), LOCATION_BYTES_MAX);
    }
}
