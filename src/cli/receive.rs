//! `xtwebhooks receive`: a receiver for tests. It verifies signature and timestamp, prints what arrives, and answers
//! with the given statuses.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, Uri},
    response::IntoResponse,
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{args::duration, failure::CommandFailure, output::Output};
use crate::{
    clock::SystemClock,
    model::{Secret, signature},
};

/// The longest body that is accepted.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How this receiver behaves.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Address to listen on; port 0 selects a free port, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// The webhook's secret; without it, signatures are not checked
    #[arg(long, env = "WEBHOOK_SECRET", value_name = "TEXT", hide_env_values = true)]
    secret: Option<String>,
    /// Statuses to answer with, in this order; the last one is repeated
    #[arg(long, value_name = "STATUSES", default_value = "200", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(200..=599))]
    answer: Vec<u16>,
    /// Delay before each answer
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    delay: Duration,
    /// How far a request's timestamp may be from the current time
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    tolerance: Duration,
    /// Exit after this many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

struct Receiver {
    secret: Option<Secret>,
    answers: Vec<u16>,
    delay: Duration,
    tolerance: Duration,
    count: Option<u64>,
    arrived: AtomicU64,
    answered: AtomicU64,
    enough: CancellationToken,
    output: Output,
}

/// One request, as it is printed.
#[derive(Serialize)]
struct ReceivedRequest {
    time: DateTime<Utc>,
    path: String,
    webhook_id: Option<String>,
    delivery: Option<String>,
    attempt: Option<u32>,
    trigger: Option<String>,
    event: Option<String>,
    /// Null if there is no secret to check with.
    verified: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    status: u16,
    body: String,
}

pub(super) async fn execute(args: Args, output: Output) -> Result<(), CommandFailure> {
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr().context("cannot read the address of the listener")?;
    eprintln!("listening on http://{address}");
    let receiver = Arc::new(Receiver {
        secret: args.secret.map(Secret::new),
        answers: args.answer,
        delay: args.delay,
        tolerance: args.tolerance,
        count: args.count,
        arrived: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        enough: CancellationToken::new(),
        output,
    });
    let end = ended(receiver.enough.clone());
    let routes =
        Router::new().fallback(receive).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(receiver);
    Ok(axum::serve(listener, routes).with_graceful_shutdown(end).await.context("the listener failed")?)
}

async fn ended(enough: CancellationToken) {
    tokio::select! {
        () = enough.cancelled() => {}
        // Without a handler the signal ends the process by itself, which is fine too.
        Ok(()) = tokio::signal::ctrl_c() => {}
    }
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let now = SystemClock::local();
    let index = receiver.arrived.fetch_add(1, Ordering::Relaxed);
    let index = usize::try_from(index).unwrap_or(usize::MAX).min(receiver.answers.len() - 1);
    let status = receiver.answers[index];
    let verified =
        receiver.secret.as_ref().map(|secret| verify(secret, &headers, &body, now, receiver.tolerance));
    let arrival = arrival(now, &uri, &headers, verified, status, &body);
    if receiver.output.show(&arrival, line).is_err() {
        // Standard output is closed, so nothing more can be printed.
        receiver.enough.cancel();
    }
    tokio::time::sleep(receiver.delay).await;
    if Some(receiver.answered.fetch_add(1, Ordering::Relaxed) + 1) == receiver.count {
        receiver.enough.cancel();
    }
    StatusCode::from_u16(status).unwrap_or(StatusCode::OK)
}

fn arrival(
    time: DateTime<Utc>,
    uri: &Uri,
    headers: &HeaderMap,
    verified: Option<Result<(), String>>,
    status: u16,
    body: &[u8],
) -> ReceivedRequest {
    let text = |name: &str| header(headers, name).map(str::to_owned);
    ReceivedRequest {
        time,
        path: uri.path().to_owned(),
        webhook_id: text("webhook-id"),
        delivery: text("x-xtsystems-delivery"),
        attempt: header(headers, "x-xtsystems-attempt").and_then(|n| n.parse().ok()),
        trigger: text("x-xtsystems-trigger"),
        event: text("x-xtsystems-event"),
        verified: verified.as_ref().map(Result::is_ok),
        why: verified.and_then(Result::err),
        status,
        body: String::from_utf8_lossy(body).into_owned(),
    }
}

fn line(arrival: &ReceivedRequest) -> String {
    let or_dash = |text: &Option<String>| text.as_deref().unwrap_or("-").to_owned();
    let verified = match (arrival.verified, &arrival.why) {
        (Some(true), _) => "verified".to_owned(),
        (Some(false), why) => format!("NOT VERIFIED ({})", or_dash(why)),
        (None, _) => "not checked".to_owned(),
    };
    format!(
        "{}  {}  {}  attempt {} ({})  {verified}  answered {}\n    webhook-id {}  delivery {}\n    {}",
        arrival.time.to_rfc3339_opts(SecondsFormat::Millis, true),
        arrival.path,
        or_dash(&arrival.event),
        arrival.attempt.map_or_else(|| "-".to_owned(), |n| n.to_string()),
        or_dash(&arrival.trigger),
        arrival.status,
        or_dash(&arrival.webhook_id),
        or_dash(&arrival.delivery),
        arrival.body,
    )
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Verifies both forms, as a careful receiver does: the guide's signature must be present, and each present signature
/// must be valid.
fn verify(
    secret: &Secret,
    headers: &HeaderMap,
    body: &[u8],
    now: DateTime<Utc>,
    tolerance: Duration,
) -> Result<(), String> {
    let must = |name: &str| header(headers, name).ok_or_else(|| format!("the header {name} is missing"));
    let timestamp = must("X-XTSystems-Timestamp")?;
    is_recent(timestamp, now, tolerance)?;
    if !signature::verify_guide(secret, timestamp, body, must("X-XTSystems-Signature")?) {
        return Err("X-XTSystems-Signature does not match the secret and the body".to_owned());
    }
    if headers.contains_key("webhook-signature") {
        let (id, timestamp) = (must("webhook-id")?, must("webhook-timestamp")?);
        is_recent(timestamp, now, tolerance)?;
        if !signature::verify_standard(secret, id, timestamp, body, must("webhook-signature")?) {
            return Err("webhook-signature does not match the secret and the body".to_owned());
        }
    }
    Ok(())
}

fn is_recent(timestamp: &str, now: DateTime<Utc>, tolerance: Duration) -> Result<(), String> {
    let seconds: i64 =
        timestamp.parse().map_err(|_| "the timestamp is not a number of seconds".to_owned())?;
    let off = now.timestamp().abs_diff(seconds);
    if off <= tolerance.as_secs() {
        Ok(())
    } else {
        Err(format!("the timestamp is {off} s from the current time"))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::EventId;

    const BODY: &[u8] = b"{\"event_type\":\"ticket.created\"}";

    fn signed(secret: &Secret, at: i64) -> HeaderMap {
        let id = EventId(Uuid::from_u128(7));
        let pairs = [
            ("x-xtsystems-timestamp", at.to_string()),
            ("x-xtsystems-signature", secret.guide(at, BODY)),
            ("webhook-id", id.to_string()),
            ("webhook-timestamp", at.to_string()),
            ("webhook-signature", secret.standard(id, at, BODY)),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_request_is_verified_or_the_reason_is_given() {
        let (ours, theirs) = (Secret::new("whsec_c2VjcmV0c2VjcmV0c2VjcmV0"), Secret::new("another"));
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let check = |headers: &HeaderMap, body: &[u8], expected: Result<(), &str>| {
            let found = verify(&ours, headers, body, now, Duration::from_mins(5));
            assert_eq!(found, expected.map_err(str::to_owned));
        };
        let at = now.timestamp();
        check(&signed(&ours, at), BODY, Ok(()));
        check(&signed(&ours, at - 300), BODY, Ok(()));
        check(&signed(&ours, at - 301), BODY, Err("the timestamp is 301 s from the current time"));
        check(&signed(&ours, at + 400), BODY, Err("the timestamp is 400 s from the current time"));
        check(
            &signed(&theirs, at),
            BODY,
            Err("X-XTSystems-Signature does not match the secret and the body"),
        );
        check(&signed(&ours, at), b"{}", Err("X-XTSystems-Signature does not match the secret and the body"));
        check(&HeaderMap::new(), BODY, Err("the header X-XTSystems-Timestamp is missing"));
        let mut mixed = signed(&ours, at);
        mixed.insert("webhook-signature", signed(&theirs, at)["webhook-signature"].clone());
        check(&mixed, BODY, Err("webhook-signature does not match the secret and the body"));
        let mut guide_only = signed(&ours, at);
        guide_only.remove("webhook-signature");
        check(&guide_only, BODY, Ok(()));
    }
}
