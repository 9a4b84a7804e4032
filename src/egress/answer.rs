//! What an answer means, and how much of it is kept.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header::LOCATION};

use crate::model::{Outcome, Response};

/// How much of the body of a failure is kept.
pub(super) const FAILURE_BODY_BYTES_MAX: usize = 16 * 1024;

/// How much of the body of a success is kept: there are many, and they are seldom read.
pub(super) const SUCCESS_BODY_BYTES_MAX: usize = 1024;

/// How much of a redirect's target is kept: no working URL is longer.
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

/// Adds a part of a body; false once more has arrived than is kept.
pub(super) fn keep(response: &mut Response, part: &[u8], max: usize) -> bool {
    let room = max - response.body.len().min(max);
    response.body.extend_from_slice(&part[..part.len().min(room)]);
    response.truncated |= part.len() > room;
    !response.truncated
}

/// What a whole answer means; `retry_after` is what a 429 or a 503 asks for.
pub(super) fn outcome(status: StatusCode, headers: &HeaderMap, retry_after: Option<Duration>) -> Outcome {
    let code = status.as_u16();
    match code {
        200..=299 => Outcome::Accepted { status: code },
        410 => Outcome::Gone,
        429 => Outcome::Throttled { retry_after },
        300..=399 => Outcome::Redirected { status: code, location: location(headers) },
        400..=499 => Outcome::Refused { status: code },
        503 => Outcome::ServerError { status: code, retry_after },
        // An unrequested switch of protocols, and codes from 600 on that no standard knows, are the server's fault as
        // well.
        _ => Outcome::ServerError { status: code, retry_after: None },
    }
}

fn location(headers: &HeaderMap) -> Option<String> {
    // What can be read as text is ASCII, so that it can be cut anywhere.
    let place = headers.get(LOCATION)?.to_str().ok()?;
    Some(place.chars().take(LOCATION_BYTES_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OutcomeClass;

    #[test]
    fn every_status_has_its_outcome() {
        let check = |code: u16, expected: OutcomeClass| {
            let status = StatusCode::from_u16(code).unwrap();
            assert_eq!(outcome(status, &HeaderMap::new(), None).class(), expected, "{code}");
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
            let found = outcome(StatusCode::FOUND, &headers, None);
            assert_eq!(found, Outcome::Redirected { status: 302, location: Some(place[..kept].to_owned()) });
        };
        check("/elsewhere", 10);
        check(&"x".repeat(3000), LOCATION_BYTES_MAX);
    }
}
