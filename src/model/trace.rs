//! The W3C trace context that an event is published with and a request passes on.
//!
//! <https://www.w3.org/TR/trace-context/#traceparent-header>

use super::id::{DeliveryId, EventId};

/// The trace an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace<'a> {
    /// Thirty-two hexadecimal digits, not all zero.
    pub trace_id: &'a str,
    /// Two hexadecimal digits.
    pub flags: &'a str,
}

/// Reads a `traceparent`; `None` where it is not well-formed.
#[must_use]
pub fn parse(text: &str) -> Option<Trace<'_>> {
    let mut parts = text.split('-');
    let (version, trace_id, parent_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Later versions may have more after the flags; this one may not, and ff is not a version.
    let ends = parts.next().is_none() || version != "00";
    let good = hex(version, 2) && hex(trace_id, 32) && hex(parent_id, 16) && hex(flags, 2);
    let set = |id: &str| id.bytes().any(|digit| digit != b'0');
    (good && ends && version != "ff" && set(trace_id) && set(parent_id)).then_some(Trace { trace_id, flags })
}

fn hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The `traceparent` of one attempt: in the event's trace, or in one of its own whose id is the event's.
///
/// The parent id is made of the delivery's hash and the attempt's number: another one for each attempt, the
/// same when a request is repeated.
#[must_use]
pub fn of_attempt(given: Option<&str>, event: EventId, delivery: DeliveryId, attempt: u32) -> String {
    let (_, low) = delivery.uuid().as_u64_pair();
    // The variant bits of a UUID are at the top of this half, so it is never zero.
    let parent = low ^ u64::from(attempt);
    match given.and_then(parse) {
        Some(Trace { trace_id, flags }) => format!("00-{trace_id}-{parent:016x}-{flags}"),
        None => format!("00-{}-{parent:016x}-01", event.uuid().simple()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::{delivery, event};

    #[test]
    fn a_traceparent_is_well_formed_or_none() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            assert_eq!(parse(text).map(|trace| (trace.trace_id, trace.flags)), expected, "{text:?}");
        };
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        check(&format!("00-{id}-00f067aa0ba902b7-01"), Some((id, "01")));
        check(&format!("00-{id}-00f067aa0ba902b7-00"), Some((id, "00")));
        check(&format!("cc-{id}-00f067aa0ba902b7-01-what-comes-later"), Some((id, "01")));
        check(&format!("00-{id}-00f067aa0ba902b7-01-"), None);
        check(&format!("00-{id}-00f067aa0ba902b7-01\n"), None);
        check(&format!("ff-{id}-00f067aa0ba902b7-01"), None);
        check(&format!("0-{id}-00f067aa0ba902b7-01"), None);
        check(&format!("00-{id}-0000000000000000-01"), None);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None);
        check(&format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()), None);
        check(&format!("00-{id}0-00f067aa0ba902b7-01"), None);
        check(&format!("00-{id}-00f067aa0ba902b7"), None);
        check(&format!("00-{id}-00f067aa0ba902b7-1"), None);
        check("", None);
        check("---", None);
    }

    #[test]
    fn each_attempt_is_a_parent_of_its_own_in_one_well_formed_trace() {
        let of = |attempt| of_attempt(None, event(), delivery(), attempt);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        for attempt in [0, 1, u32::MAX] {
            let text = of(attempt);
            let trace = parse(&text).unwrap();
            assert_eq!(trace.trace_id, event().uuid().simple().to_string());
        }
    }
}
