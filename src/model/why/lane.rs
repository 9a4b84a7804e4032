//! Why a lane sends nothing now, or not faster: its breaker is open, its receiver asked to wait, or it has a rate limit.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{Move, Why, span, why};
use crate::model::lane::{OpenBreaker, Standing};

/// A lane with a rate limit, and how many deliveries are ahead of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paced {
    /// Requests per second, over all workers.
    pub rate: f64,
    /// Deliveries that are ahead.
    pub ahead: u64,
}

/// Why nothing is sent in a lane; `None` if nothing blocks it. `failing_since` is the first failure since the last
/// success, `reason` is the ledger's reason for opening the breaker; the caller may know neither.
#[must_use]
pub fn of_lane(
    standing: &Standing,
    failing_since: Option<DateTime<Utc>>,
    reason: Option<&str>,
    now: DateTime<Utc>,
) -> Option<Why> {
    let rate_limited = standing.rate_limited_until.and_then(|until| ahead(until, now));
    match (standing.open, rate_limited) {
        (Some(open), rate_limited) => {
            Some(why(Move::Receiver, opened(open, failing_since, reason, rate_limited, now)))
        }
        (None, Some(wait)) => {
            let wait = span(wait);
            Some(why(
                Move::None,
                format!("the receiver asked to wait; nothing is sent to it for another {wait}"),
            ))
        }
        (None, None) => None,
    }
}

/// Why a delivery waits in a lane with a rate limit: `waiting for its turn: 10/s, 340 ahead, about 34 s`.
#[must_use]
pub fn of_rate_limit(paced: Paced) -> Why {
    let Paced { rate, ahead } = paced;
    // Exact enough for a person, and a rate limit is never zero.
    #[expect(clippy::cast_precision_loss, reason = "a guess of how long it takes")]
    let seconds = ahead as f64 / rate.max(f64::MIN_POSITIVE);
    let wait = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    why(Move::None, format!("waiting for its turn: {}, {ahead} ahead, about {}", pace(rate), span(wait)))
}

fn opened(
    open: OpenBreaker,
    failing_since: Option<DateTime<Utc>>,
    reason: Option<&str>,
    rate_limited: Option<Duration>,
    now: DateTime<Utc>,
) -> String {
    let since = failing_since.unwrap_or(open.since).to_rfc3339_opts(SecondsFormat::Secs, true);
    let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    // A probe also waits until the receiver's rate limiting ends.
    let probe = ahead(open.next_probe_at, now).max(rate_limited);
    let probe = probe.map_or_else(|| "is due".to_owned(), |wait| format!("is due in {}", span(wait)));
    format!("the receiver has been failing since {since}{because}; the next probe {probe}")
}

/// `10/s`; a rate below one per second is given per minute or per hour.
fn pace(rate: f64) -> String {
    let rounded = |rate: f64| (rate * 10.0).round() / 10.0;
    match rate {
        rate if rate >= 1.0 => format!("{}/s", rounded(rate)),
        rate if rate * 60.0 >= 1.0 => format!("{}/min", rounded(rate * 60.0)),
        rate => format!("{}/h", rounded(rate * 3_600.0)),
    }
}

fn ahead(until: DateTime<Utc>, now: DateTime<Utc>) -> Option<Duration> {
    (until - now).to_std().ok().filter(|wait| !wait.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_435_200 + seconds, 0).expect("a time")
    }

    #[test]
    fn a_lane_says_why_it_sends_nothing() {
        let check = |probe: Option<i64>,
                     limited: Option<i64>,
                     reason: Option<&str>,
                     expected: Option<(Move, &str)>| {
            let standing = Standing {
                open: probe.map(|s| OpenBreaker { since: at(-60), next_probe_at: at(s) }),
                rate_limited_until: limited.map(at),
            };
            let found = of_lane(&standing, reason.map(|_| at(-90)), reason, at(0));
            let found = found.as_ref().map(|why| (why.next, &*why.sentence));
            assert_eq!(found, expected, "{standing:?}");
        };
        let refused = "5 attempts in a row failed; the last: 203.0.113.9:443 refused the connection";
        check(None, None, None, None);
        check(None, Some(0), None, None);
        check(
            None,
            Some(34),
            None,
            Some((Move::None, "the receiver asked to wait; nothing is sent to it for another 34 s")),
        );
        check(
            Some(20),
            None,
            Some(refused),
            Some((
                Move::Receiver,
                "the receiver has been failing since 2026-11-23T11:58:30Z: 5 attempts in a row failed; the last: \
                 203.0.113.9:443 refused the connection; the next probe is due in 20 s",
            )),
        );
        let bare = |probe| {
            format!("the receiver has been failing since 2026-11-23T11:59:00Z; the next probe {probe}")
        };
        check(Some(-1), None, None, Some((Move::Receiver, &bare("is due"))));
        check(Some(20), Some(50), None, Some((Move::Receiver, &bare("is due in 50 s"))));
        check(Some(20), Some(10), None, Some((Move::Receiver, &bare("is due in 20 s"))));
    }

    #[test]
    fn a_rate_limit_says_how_long_the_wait_is() {
        let check = |rate: f64, ahead: u64, expected: &str| {
            let found = of_rate_limit(Paced { rate, ahead });
            assert_eq!((&*found.sentence, found.next), (expected, Move::None));
        };
        check(10.0, 340, "waiting for its turn: 10/s, 340 ahead, about 34 s");
        check(2.5, 0, "waiting for its turn: 2.5/s, 0 ahead, about 0 ms");
        check(0.5, 30, "waiting for its turn: 30/min, 30 ahead, about 60 s");
        check(0.01, 100, "waiting for its turn: 36/h, 100 ahead, about 2 h");
        check(1.0, 1_000_000, "waiting for its turn: 1/s, 1000000 ahead, about 11 days");
    }
}
