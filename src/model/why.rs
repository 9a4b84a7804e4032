//! Explains outcomes, states and non-matches: a sentence with the facts, and who has to act next.
//!
//! API, command line, page and log use these sentences, so that they all say the same.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    delivery::DeliveryStatus,
    event::EventType,
    next_step::DeadReason,
    outcome::{AwaitedPhase, Outcome, Unreachable},
    subscription::NonMatch,
};

mod lane;

pub use lane::{Paced, of_lane, of_rate_limit};

/// Who has to act next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// The operator of the receiving server.
    Receiver,
    /// The company's admin, who owns the webhook's settings.
    Admin,
    /// Nothing has to be done: it continues by itself, or it has ended.
    None,
    /// The operator of this service.
    Operator,
}

impl Move {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Receiver => "receiver",
            Self::Admin => "admin",
            Self::None => "none",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// The sentence with its facts; no capital and no full stop, because it is used in lines and tables.
    pub sentence: String,
    /// Who has to act next.
    pub next: Move,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

fn why(next: Move, sentence: impl Into<String>) -> Why {
    Why { sentence: sentence.into(), next }
}

/// Why an attempt ended with this outcome.
#[must_use]
pub fn of_outcome(outcome: &Outcome) -> Why {
    use Move::{Admin, Receiver};
    match outcome {
        Outcome::Accepted { status } => why(Move::None, format!("the receiver accepted it with {status}")),
        Outcome::Gone => why(Admin, "the receiver answered 410, gone permanently, which pauses the webhook"),
        Outcome::Blocked { target, network } => {
            why(Admin, format!("not sent: {target} is in {network}, a network that deliveries may not reach"))
        }
        Outcome::Fault { reason } => why(Admin, format!("not sent: {reason}")),
        Outcome::Redirected { status, location } => why(Admin, redirected(*status, location.as_deref())),
        Outcome::Refused { status } => why(Receiver, refused(*status)),
        Outcome::Throttled { retry_after } => {
            why(Move::None, answered(429, "too many requests", *retry_after))
        }
        Outcome::ServerError { status, retry_after } => {
            why(Receiver, answered(*status, "a server error", *retry_after))
        }
        Outcome::TimedOut { after, waiting } => why(Receiver, timed_out(*after, *waiting)),
        Outcome::Unreachable { how, address, detail } => {
            let target = address.map_or_else(|| "the receiver".to_owned(), |address| address.to_string());
            unreachable(*how, &target, detail)
        }
        Outcome::Cut { status, detail } => {
            why(Receiver, format!("the answer {status} ended before it was complete{}", behind(detail)))
        }
    }
}

fn redirected(status: u16, location: Option<&str>) -> String {
    match location {
        Some(place) => format!(
            "the receiver answered {status} with a redirect to {place}; redirects are not followed: \
             set the webhook's URL to the final URL"
        ),
        None => format!(
            "the receiver answered {status}, a redirect without a location; redirects are not followed"
        ),
    }
}

fn refused(status: u16) -> String {
    let meaning = match status {
        400 => ", bad request",
        401 => ", unauthorized: it may verify the signature with another secret, or require a header",
        403 => ", forbidden: it may verify the signature with another secret, or require a header",
        404 => ", not found: nothing exists at this URL",
        405 => ", POST is not allowed at this URL",
        413 => ", the body is too large for the receiver",
        415 => ", the receiver does not accept this content type",
        _ => "",
    };
    format!("the receiver refused it with {status}{meaning}")
}

fn answered(status: u16, meaning: &str, retry_after: Option<Duration>) -> String {
    let requested = retry_after.map(|wait| format!(", and asked to wait {}", span(wait)));
    format!("the receiver answered {status}, {meaning}{}", requested.unwrap_or_default())
}

fn timed_out(after: Duration, waiting: AwaitedPhase) -> String {
    let what = match waiting {
        AwaitedPhase::Connection => "no connection was established",
        AwaitedPhase::Answer => "the receiver accepted the connection but did not answer",
        AwaitedPhase::Rest => "the receiver began to answer but did not finish",
    };
    format!("{what} within {}", span(after))
}

fn unreachable(how: Unreachable, target: &str, detail: &str) -> Why {
    match how {
        Unreachable::Dns => why(Move::Admin, format!("the host name does not resolve{}", behind(detail))),
        // The detail has a sentence for each address tried, and names the addresses itself.
        Unreachable::Connect if !detail.is_empty() => why(Move::Receiver, detail),
        Unreachable::Connect => why(Move::Receiver, format!("could not connect to {target}")),
        Unreachable::Tls => {
            why(Move::Receiver, format!("the TLS handshake with {target} failed{}", behind(detail)))
        }
        Unreachable::Reset if !detail.is_empty() => why(Move::Receiver, format!("{target} {detail}")),
        Unreachable::Reset => {
            why(Move::Receiver, format!("{target} closed the connection without an answer"))
        }
    }
}

fn behind(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

/// Why a delivery is in its state. `reason` is the ledger's; `queued` says whether it has a job.
#[must_use]
pub fn of_status(
    status: DeliveryStatus,
    reason: Option<&str>,
    due_at: Option<DateTime<Utc>>,
    queued: bool,
    now: DateTime<Utc>,
) -> Why {
    use Move::Admin;
    // The ledger's reason `paused` adds nothing to the sentence.
    let reason = reason.filter(|reason| status != DeliveryStatus::Held || *reason != "paused");
    let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    match status {
        DeliveryStatus::Pending => why(Move::None, pending(&because, due_at, queued, now)),
        DeliveryStatus::Held => why(
            Admin,
            format!("held because the webhook is paused{because}; resume the webhook to send or discard it"),
        ),
        DeliveryStatus::Delivered => why(Move::None, "delivered"),
        DeliveryStatus::Cancelled => why(Move::None, format!("cancelled{because}")),
        DeliveryStatus::Dead => dead(reason),
    }
}

fn pending(because: &str, due_at: Option<DateTime<Utc>>, queued: bool, now: DateTime<Utc>) -> String {
    let ahead = due_at.and_then(|due| (due - now).to_std().ok()).filter(|wait| !wait.is_zero());
    match (ahead, queued) {
        (Some(wait), _) => format!("waiting for its next attempt, due in {}{because}", span(wait)),
        (None, true) => format!("its attempt is due, and its job is on the way to a worker{because}"),
        (None, false) => format!("its attempt is due and waiting in the ledger for its turn{because}"),
    }
}

fn dead(reason: Option<&str>) -> Why {
    use Move::{Admin, Operator, Receiver};
    let Some(reason) = reason else {
        return why(Operator, "given up; the ledger has no reason");
    };
    let (next, sentence) = match DeadReason::of(reason) {
        Some(DeadReason::AttemptsExhausted) => {
            (Receiver, "all allowed attempts failed; replay it when the receiver works again")
        }
        Some(DeadReason::Blocked) => {
            (Admin, "deliveries to its address are not allowed; change the webhook's URL and replay it")
        }
        Some(DeadReason::Fault) => {
            (Admin, "its request cannot be built; change the webhook's settings and replay it")
        }
        Some(DeadReason::Expired) => (Move::None, "it exceeded the retention period before it could be sent"),
        Some(DeadReason::TooOld) => (
            Receiver,
            "its next retry would start later than the webhook allows (max_attempt_age_seconds); replay it when the receiver works again",
        ),
        Some(DeadReason::UnknownDelivery) => (
            Operator,
            "the ledger does not know the attempted delivery; the database may have been restored to an earlier state",
        ),
        Some(DeadReason::EndedTheWorker) => {
            return why(Operator, format!("given up: it {reason}, even when tried alone"));
        }
        Some(DeadReason::Undecodable) => (Operator, "the message cannot be decoded as an event"),
        Some(DeadReason::UnknownVersion) => {
            (Operator, "this release does not know the version of the job; finish the upgrade and replay it")
        }
        Some(DeadReason::RefusedByLedger) => {
            (Operator, "PostgreSQL refused to store it, even when written alone")
        }
        None => (Operator, reason),
    };
    why(next, format!("given up: {sentence}"))
}

/// Why a webhook got no delivery of an event.
#[must_use]
pub fn of_non_match(non_match: NonMatch, event_type: &EventType) -> Why {
    match non_match {
        NonMatch::Inactive => why(Move::Admin, "not sent: the webhook is inactive"),
        NonMatch::Deleted => why(Move::None, "not sent: the webhook is deleted"),
        NonMatch::TypeNotSubscribed => {
            why(Move::Admin, format!("not sent: the webhook does not subscribe to the type `{event_type}`"))
        }
        NonMatch::NotYetThere => {
            why(Move::None, "not sent: the webhook was created after the event was ingested")
        }
    }
}

/// A duration for human readers: `250 ms`, `34 s`, `12 min`, `5 h`, `3 days`.
fn span(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
