use super::*;
use crate::model::{
    OutcomeClass,
    fixtures::{at, event_type, outcome},
};

#[test]
fn every_outcome_is_explained_with_its_facts_and_whose_move_is_next() {
    let check = |outcome: Outcome, next: Move, sentence: &str| {
        assert_eq!(of_outcome(&outcome), Why { sentence: sentence.to_owned(), next });
    };
    check(Outcome::Accepted { status: 204 }, Move::None, "the receiver accepted it with 204");
    check(
        outcome(OutcomeClass::Gone),
        Move::Admin,
        "the receiver answered 410, gone permanently, which pauses the webhook",
    );
    check(
        outcome(OutcomeClass::Blocked),
        Move::Admin,
        "not sent: 127.0.0.1 is in 127.0.0.0/8 (loopback), a network that deliveries may not reach",
    );
    check(outcome(OutcomeClass::Fault), Move::Admin, "not sent: the header `te` cannot be given");
    check(
        outcome(OutcomeClass::Redirected),
        Move::Admin,
        "the receiver answered 301 with a redirect to https://example.com/new; redirects are not followed: \
         set the webhook's URL to the final URL",
    );
    check(
        Outcome::Redirected { status: 304, location: None },
        Move::Admin,
        "the receiver answered 304, a redirect without a location; redirects are not followed",
    );
    check(
        outcome(OutcomeClass::Refused),
        Move::Receiver,
        "the receiver refused it with 404, not found: nothing exists at this URL",
    );
    check(Outcome::Refused { status: 418 }, Move::Receiver, "the receiver refused it with 418");
    check(outcome(OutcomeClass::Throttled), Move::None, "the receiver answered 429, too many requests");
    check(
        Outcome::Throttled { retry_after: Some(Duration::from_mins(2)) },
        Move::None,
        "the receiver answered 429, too many requests, and asked to wait 2 min",
    );
    check(outcome(OutcomeClass::ServerError), Move::Receiver, "the receiver answered 500, a server error");
    check(
        Outcome::ServerError { status: 503, retry_after: Some(Duration::from_secs(34)) },
        Move::Receiver,
        "the receiver answered 503, a server error, and asked to wait 34 s",
    );
    let timed_out = |waiting| Outcome::TimedOut { after: Duration::from_millis(250), waiting };
    check(timed_out(AwaitedPhase::Connection), Move::Receiver, "no connection was established within 250 ms");
    check(
        timed_out(AwaitedPhase::Answer),
        Move::Receiver,
        "the receiver accepted the connection but did not answer within 250 ms",
    );
    check(
        timed_out(AwaitedPhase::Rest),
        Move::Receiver,
        "the receiver began to answer but did not finish within 250 ms",
    );
    check(outcome(OutcomeClass::Unreachable), Move::Receiver, "203.0.113.9:443 refused the connection");
    let unreachable =
        |how, detail: &str| Outcome::Unreachable { how, address: None, detail: detail.to_owned() };
    check(
        unreachable(Unreachable::Dns, "no such host"),
        Move::Admin,
        "the host name does not resolve: no such host",
    );
    check(
        unreachable(Unreachable::Connect, "there is no route to 203.0.113.9:443"),
        Move::Receiver,
        "there is no route to 203.0.113.9:443",
    );
    check(unreachable(Unreachable::Connect, ""), Move::Receiver, "could not connect to the receiver");
    check(
        unreachable(Unreachable::Tls, "certificate expired"),
        Move::Receiver,
        "the TLS handshake with the receiver failed: certificate expired",
    );
    check(
        unreachable(Unreachable::Reset, "reset the connection before it answered"),
        Move::Receiver,
        "the receiver reset the connection before it answered",
    );
    check(
        unreachable(Unreachable::Reset, ""),
        Move::Receiver,
        "the receiver closed the connection without an answer",
    );
    check(
        outcome(OutcomeClass::Cut),
        Move::Receiver,
        "the answer 200 ended before it was complete: unexpected end of file",
    );
}

#[test]
fn every_state_is_explained() {
    let check = |status, reason, due_at: Option<i64>, queued, next: Move, sentence: &str| {
        let why = of_status(status, reason, due_at.map(at), queued, at(1_000));
        assert_eq!(why, Why { sentence: sentence.to_owned(), next });
    };
    let (pending, cancelled, dead) =
        (DeliveryStatus::Pending, DeliveryStatus::Cancelled, DeliveryStatus::Dead);
    check(pending, None, Some(1_034), true, Move::None, "waiting for its next attempt, due in 34 s");
    check(pending, None, Some(1_000 + 18_000), false, Move::None, "waiting for its next attempt, due in 5 h");
    check(
        pending,
        None,
        Some(1_000),
        true,
        Move::None,
        "its attempt is due, and its job is on the way to a worker",
    );
    check(
        pending,
        None,
        Some(0),
        false,
        Move::None,
        "its attempt is due and waiting in the ledger for its turn",
    );
    check(pending, None, None, true, Move::None, "its attempt is due, and its job is on the way to a worker");
    check(
        pending,
        Some("the lane is full"),
        Some(0),
        false,
        Move::None,
        "its attempt is due and waiting in the ledger for its turn: the lane is full",
    );
    check(
        DeliveryStatus::Held,
        Some("the receiver answered 410 Gone"),
        None,
        false,
        Move::Admin,
        "held because the webhook is paused: the receiver answered 410 Gone; resume the webhook to send or discard it",
    );
    check(
        DeliveryStatus::Held,
        Some("paused"),
        None,
        false,
        Move::Admin,
        "held because the webhook is paused; resume the webhook to send or discard it",
    );
    check(DeliveryStatus::Delivered, None, None, false, Move::None, "delivered");
    check(cancelled, Some("webhook deleted"), None, false, Move::None, "cancelled: webhook deleted");
    check(dead, None, None, false, Move::Operator, "given up; the ledger has no reason");
    check(dead, Some("something new"), None, false, Move::Operator, "given up: something new");
    check(
        dead,
        Some("ended the worker 3 times"),
        None,
        false,
        Move::Operator,
        "given up: it ended the worker 3 times, even when tried alone",
    );
}

#[test]
fn every_reason_of_a_dead_letter_has_words_of_its_own() {
    let expected = |reason| match reason {
        DeadReason::AttemptsExhausted | DeadReason::TooOld => Move::Receiver,
        DeadReason::Blocked | DeadReason::Fault => Move::Admin,
        DeadReason::Expired => Move::None,
        DeadReason::UnknownDelivery
        | DeadReason::EndedTheWorker
        | DeadReason::Undecodable
        | DeadReason::UnknownVersion
        | DeadReason::RefusedByLedger => Move::Operator,
    };
    let mut sentences = std::collections::BTreeSet::new();
    for reason in DeadReason::ALL {
        let why = of_status(DeliveryStatus::Dead, Some(reason.as_str()), None, false, at(0));
        assert_eq!(why.next, expected(reason), "{reason}");
        assert!(why.sentence.starts_with("given up: "), "{reason}: {why}");
        assert!(sentences.insert(why.sentence), "{reason} is explained like another");
    }
}

#[test]
fn every_non_match_is_explained() {
    let check = |non_match, next: Move, sentence: &str| {
        let why = of_non_match(non_match, &event_type("ticket.closed"));
        assert_eq!(why, Why { sentence: sentence.to_owned(), next });
    };
    check(
        NonMatch::TypeNotSubscribed,
        Move::Admin,
        "not sent: the webhook does not subscribe to the type `ticket.closed`",
    );
    check(NonMatch::Inactive, Move::Admin, "not sent: the webhook is inactive");
    check(NonMatch::Deleted, Move::None, "not sent: the webhook is deleted");
    check(
        NonMatch::NotYetThere,
        Move::None,
        "not sent: the webhook was created after the event was ingested",
    );
}

#[test]
fn lengths_of_time_are_told_in_the_unit_that_fits() {
    let check = |millis: u64, expected: &str| assert_eq!(span(Duration::from_millis(millis)), expected);
    check(0, "0 ms");
    check(999, "999 ms");
    check(1_000, "1 s");
    check(119_999, "119 s");
    check(120_000, "2 min");
    check(7_199_000, "119 min");
    check(7_200_000, "2 h");
    check(172_799_000, "47 h");
    check(172_800_000, "2 days");
}
