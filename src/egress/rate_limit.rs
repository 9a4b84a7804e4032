//! For how long a receiver wants no more requests, as its answers say; the caller bounds it.
//!
//! | status | what is read | source |
//! |---|---|---|
//! | 429 | the body's `retry_after` (JSON, seconds with a fraction), else `Retry-After` | [Discord], RFC 9110 section 10.2.3 |
//! | 503 | `Retry-After` | RFC 9110 section 10.2.3 |
//! | any, 2xx too | where `X-RateLimit-Remaining` is 0: `X-RateLimit-Reset-After` (seconds with a fraction), else `X-RateLimit-Reset` (seconds since 1970, against the answer's own `Date`) | [Discord] |
//!
//! The longer of two counts. The body of a success is not read. What is zero, negative, past or not a number has no
//! effect.
//!
//! Discord's API before version 8 counts `Retry-After` and `retry_after` in milliseconds, but `X-RateLimit-Reset-After`
//! in seconds; the URLs that Discord hands out for webhooks name no version (discord/discord-api-docs#4722, #2360). So
//! where both are there and one is about a thousand times the other, it is the other that counts.
//!
//! [Discord]: https://docs.discord.com/developers/topics/rate-limits

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, StatusCode,
    header::{DATE, HeaderName, RETRY_AFTER},
};

const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET_AFTER: HeaderName = HeaderName::from_static("x-ratelimit-reset-after");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The longest wait that is understood; the caller has its own bound.
const WAIT_SECONDS_MAX: f64 = u32::MAX as f64;
/// A wait this many times the limit's own reset can only be in milliseconds.
const MILLISECONDS_FROM: u32 = 100;
/// How much longer than the limit's own reset a wait in milliseconds may be, because of rounding.
const ROUNDING: Duration = Duration::from_millis(100);

/// What an answer asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestedWait {
    /// From a 429 or 503 to the request itself: when it may be sent again.
    pub retry_after: Option<Duration>,
    /// How long the whole webhook is rate-limited; never zero.
    pub rate_limited_for: Option<Duration>,
}

/// Reads what an answer asks for; `body` is what is kept of it. `now` is for dates in an answer without one.
pub(super) fn requested_wait(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: impl Fn() -> SystemTime,
) -> RequestedWait {
    let reset = reset(headers, &now);
    let retry_after = match status {
        StatusCode::TOO_MANY_REQUESTS => {
            let wait = in_body(body).or_else(|| retry_after(headers, &now));
            match (wait, reset) {
                (Some(wait), Some(reset)) if is_in_milliseconds(wait, reset) => Some(reset),
                (wait, reset) => wait.max(reset),
            }
        }
        StatusCode::SERVICE_UNAVAILABLE => retry_after(headers, &now),
        _ => None,
    };
    RequestedWait { retry_after, rate_limited_for: retry_after.max(reset).filter(|wait| !wait.is_zero()) }
}

fn is_in_milliseconds(wait: Duration, reset: Duration) -> bool {
    wait >= reset.saturating_mul(MILLISECONDS_FROM) && wait / 1_000 <= reset + ROUNDING
}

/// `Retry-After`: seconds, or a date, which is taken relative to the answer's own `Date` so that the receiver's clock
/// need not be right. A past date is zero; anything else is `None`.
fn retry_after(headers: &HeaderMap, now: impl Fn() -> SystemTime) -> Option<Duration> {
    let value = text(headers, &RETRY_AFTER)?;
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number has mean "very long", which the caller bounds anyway.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    Some(until.duration_since(date(headers, now)).unwrap_or(Duration::ZERO))
}

/// From here on `X-RateLimit-Reset` is in milliseconds: as such the year 1973, as seconds the year 5138.
const EPOCH_MILLISECONDS_FROM: f64 = 1e11;

/// When the limit that this request used up resets.
fn reset(headers: &HeaderMap, now: impl Fn() -> SystemTime) -> Option<Duration> {
    if number(headers, &REMAINING)? > 0.0 {
        return None;
    }
    if let Some(after) = number(headers, &RESET_AFTER) {
        return wait(after);
    }
    let at = number(headers, &RESET)?;
    // Some send it in milliseconds; as seconds it would be thousands of years ahead.
    let seconds = if at >= EPOCH_MILLISECONDS_FROM { at / 1_000.0 } else { at };
    let until = SystemTime::UNIX_EPOCH.checked_add(wait(seconds)?)?;
    until.duration_since(date(headers, now)).ok().filter(|wait| !wait.is_zero())
}

/// `retry_after` of a body like Discord's; `None` for a body that is cut off or not JSON.
fn in_body(body: &[u8]) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct Limited {
        retry_after: f64,
    }
    wait(serde_json::from_slice::<Limited>(body).ok()?.retry_after)
}

/// The answer's own time.
fn date(headers: &HeaderMap, now: impl Fn() -> SystemTime) -> SystemTime {
    text(headers, &DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or_else(now)
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<f64> {
    text(headers, name)?.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A wait of so many seconds, if it is one.
fn wait(seconds: f64) -> Option<Duration> {
    (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(WAIT_SECONDS_MAX)))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    fn now() -> SystemTime {
        httpdate::parse_http_date("Mon, 23 Nov 2026 12:00:00 GMT").unwrap()
    }

    fn of(code: u16, pairs: &[(&'static str, &'static str)], body: &str) -> RequestedWait {
        requested_wait(StatusCode::from_u16(code).unwrap(), &headers(pairs), body.as_bytes(), now)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_counts_on_429_and_503_only() {
        let check = |code: u16, pairs: &[(&'static str, &'static str)], expected: Option<u64>| {
            let expected = expected.map(Duration::from_secs);
            let rate_limited_for = expected.filter(|wait| !wait.is_zero());
            assert_eq!(
                of(code, pairs, ""),
                RequestedWait { retry_after: expected, rate_limited_for },
                "{code} {pairs:?}"
            );
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
        check(200, &[("retry-after", "120")], None);
    }

    #[test]
    fn a_limit_that_is_used_up_holds_back_whatever_the_answer() {
        let check = |code: u16, pairs: &[(&'static str, &'static str)], expected_ms: Option<u64>| {
            let found = of(code, pairs, "").rate_limited_for;
            assert_eq!(found, expected_ms.map(Duration::from_millis), "{code} {pairs:?}");
        };
        let used_up = ("x-ratelimit-remaining", "0");
        let after = ("x-ratelimit-reset-after", "1.234");
        let at = ("x-ratelimit-reset", "1795435203.5");
        check(204, &[used_up, after], Some(1_234));
        check(200, &[used_up, after, at], Some(1_234));
        check(404, &[used_up, after], Some(1_234));
        check(500, &[used_up, after], Some(1_234));
        check(204, &[("x-ratelimit-remaining", "1"), after], None);
        check(204, &[after], None);
        check(204, &[used_up], None);
        // 12:00:03.5, as the receiver's clock, two seconds ahead, sees it.
        check(204, &[used_up, at], Some(3_500));
        check(204, &[used_up, at, ("date", "Mon, 23 Nov 2026 12:00:02 GMT")], Some(1_500));
        check(204, &[used_up, at, ("date", "Mon, 23 Nov 2026 12:00:04 GMT")], None);
        // In milliseconds.
        check(204, &[used_up, ("x-ratelimit-reset", "1795435203500")], Some(3_500));
        for nothing in ["0", "-1", "0.0", "nan", "inf", "soon", "", "1e999"] {
            check(204, &[used_up, ("x-ratelimit-reset-after", nothing)], None);
        }
        check(204, &[used_up, ("x-ratelimit-reset-after", "1e300")], Some(u64::from(u32::MAX) * 1_000));
        check(204, &[used_up, ("x-ratelimit-reset", "1e300")], Some(2_499_532_095_000));
    }

    #[test]
    fn a_429_says_in_its_body_when_to_come_again() {
        let check = |pairs: &[(&'static str, &'static str)], body: &str, expected_ms: Option<u64>| {
            let found = of(429, pairs, body);
            let expected = expected_ms.map(Duration::from_millis);
            assert_eq!(
                found,
                RequestedWait { retry_after: expected, rate_limited_for: expected },
                "{pairs:?} {body}"
            );
        };
        let body = r#"{"message": "You are being rate limited.", "retry_after": 64.57, "global": false}"#;
        let (used_up, left) = (("x-ratelimit-remaining", "0"), ("x-ratelimit-remaining", "9"));
        check(&[("retry-after", "65")], body, Some(64_570));
        check(&[("retry-after", "65"), used_up, ("x-ratelimit-reset-after", "64.57")], body, Some(64_570));
        // A limit that is shared with others is not the one of the headers.
        check(
            &[("retry-after", "1337"), left, ("x-ratelimit-reset-after", "64.57")],
            r#"{"retry_after": 1336.57}"#,
            Some(1_336_570),
        );
        check(&[used_up, ("x-ratelimit-reset-after", "70.5")], body, Some(70_500));
        check(&[("retry-after", "5")], r#"{"retry_after": 0, "global": true}"#, Some(5_000));
        check(&[("retry-after", "5")], r#"{"retry_after": "9"}"#, Some(5_000));
        check(&[("retry-after", "5")], r#"{"retry_after": 9"#, Some(5_000));
        check(&[], r#"{"retry_after": -1.5}"#, None);
        check(&[], r#"{"retry_after": 0.25}"#, Some(250));
        check(&[], "slow down", None);
        assert_eq!(of(200, &[], body), RequestedWait::default(), "the body of a success is not looked into");
        assert_eq!(of(503, &[], body), RequestedWait::default());
    }

    #[test]
    fn milliseconds_of_discords_old_api_are_no_seconds() {
        let check = |wait: &'static str, reset: &'static str, expected_ms: u64| {
            let limits = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset-after", reset)];
            let expected = Some(Duration::from_millis(expected_ms));
            let body = format!(r#"{{"retry_after": {wait}}}"#);
            assert_eq!(of(429, &limits, &body).retry_after, expected, "{wait} in the body, {reset}");
            let with_header = [&limits[..], &[("retry-after", wait)]].concat();
            assert_eq!(of(429, &with_header, "").retry_after, expected, "{wait} in the header, {reset}");
        };
        check("6457", "7", 7_000);
        check("6457", "6.457", 6_457);
        check("250", "1", 1_000);
        check("30", "1", 30_000);
        check("65", "64.57", 65_000);
        check("1337", "64.57", 1_337_000);
    }
}
