//! Attempts for the breaker's tests; those of the ledger in `tests/it` read this file as well.

use uuid::Uuid;

use super::*;

pub(super) fn heard(class: OutcomeClass, event: u128) -> Heard {
    Heard {
        company: CompanyId(Uuid::nil()),
        event: EventId(Uuid::from_u128(event)),
        operational: false,
        class,
        probe: false,
        rate_limited_for: None,
        share: None,
    }
}

pub(super) fn change(heard: &[Heard]) -> LaneChange {
    let mut change = LaneChange::default();
    for heard in heard {
        change.add(heard, heard.class.as_str());
    }
    change
}

/// Attempts by a letter each: s success, f server error, t timed out, u unreachable, r refused, x throttled.
pub(super) fn attempts(letters: &str) -> Vec<Heard> {
    let of = |(n, letter)| {
        let class = match letter {
            's' => OutcomeClass::Accepted,
            'f' => OutcomeClass::ServerError,
            't' => OutcomeClass::TimedOut,
            'u' => OutcomeClass::Unreachable,
            'x' => OutcomeClass::Throttled,
            _ => OutcomeClass::Refused,
        };
        heard(class, n as u128)
    };
    letters.chars().enumerate().map(of).collect()
}
