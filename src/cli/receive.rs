//! `xtwebhooks receive`: a receiver to try things with. Verifies signature and timestamp, prints what arrives, and
//! answers as it is told to.

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

/// The longest body taken in.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How this receiver behaves.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Where to listen; port 0 takes a free one and names it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// The webhook's secret; without it, signatures are not checked
    #[arg(long, env = "WEBHOOK_SECRET", value_name = "TEXT", hide_env_values = true)]
    secret: Option<String>,
    /// What to answer, in turn; the last one stays
    #[arg(long, value_name = "STATUSES", default_value = "200", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(200..=599))]
    answer: Vec<u16>,
    /// How long to wait before each answer
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    delay: Duration,
    /// How far from now a request's timestamp may be
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    tolerance: Duration,
    /// End after so many requests
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
    /// Null where there is no secret to check with.
    verified: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    status: u16,
    body: String,
}

pub(super) async fn execute(args: Args, output: Output) -> Result<(), CommandFailure> {
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("{} cannot be listened on", args.listen))?;
    let address = listener.local_addr().context("the address taken cannot be read")?;
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
    Ok(axum::serve(listener, routes).with_graceful_shutdown(end).await.context("the listener broke")?)
}

async fn ended(enough: CancellationToken) {
    tokio::select! {
        () = enough.cancelled() => {}
        // Without a handler the signal ends the process by itself, which is as well.
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
    let turn = receiver.arrived.fetch_add(1, Ordering::Relaxed);
    let turn = usize::try_from(turn).unwrap_or(usize::MAX).min(receiver.answers.len() - 1);
    let status = receiver.answers[turn];
    let verified =
        receiver.secret.as_ref().map(|secret| verify(secret, &headers, &body, now, receiver.tolerance));
    let arrival = arrival(now, &uri, &headers, verified, status, &body);
    if receiver.output.show(&arrival, line).is_err() {
        // Nobody can read any more what arrives.
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

/// Verifies both forms, as a careful receiver does: what is there must be right, and the guide's must be there.
fn verify(
    secret: &Secret,
    headers: &HeaderMap,
    body: &[u8],
    now: DateTime<Utc>,
    tolerance: Duration,
) -> Result<(), String> {
    let must = |name: &str| header(headers, name).ok_or_else(|| format!("there is no {name} header"));
    let timestamp = must("X-XTSystems-Timestamp")?;
    is_recent(timestamp, now, tolerance)?;
    if !signature::verify_guide(secret, timestamp, body, must("X-XTSystems-Signature")?) {
        return Err("X-XTSystems-Signature is not that of this secret".to_owned());
    }
    if headers.contains_key("webhook-signature") {
        let (id, timestamp) = (must("webhook-id")?, must("webhook-timestamp")?);
        is_recent(timestamp, now, tolerance)?;
        if !signature::verify_standard(secret, id, timestamp, body, must("webhook-signature")?) {
            return Err("webhook-signature is not that of this secret".to_owned());
        }
    }
    Ok(())
}

fn is_recent(timestamp: &str, now: DateTime<Utc>, tolerance: Duration) -> Result<(), String> {
    let seconds: i64 = timestamp.parse().map_err(|_| "the timestamp is no number of seconds".to_owned())?;
    let off = now.timestamp().abs_diff(seconds);
    if off <= tolerance.as_secs() { Ok(()) } else { Err(format!("the timestamp is {off} s off")) }
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
    fn a_request_is_verified_or_it_is_said_why_not() {
        let (ours, theirs) = (Secret::new("whsec_c2VjcmV0c2VjcmV0c2VjcmV0"), Secret::new("another"));
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let check = |headers: &HeaderMap, body: &[u8], expected: Result<(), &str>| {
            let found = verify(&ours, headers, body, now, Duration::from_mins(5));
            assert_eq!(found, expected.map_err(str::to_owned));
        };
        let at = now.timestamp();
        check(&signed(&ours, at), BODY, Ok(()));
        check(&signed(&ours, at - 300), BODY, Ok(()));
        check(&signed(&ours, at - 301), BODY, Err("the timestamp is 301 s off"));
        check(&signed(&ours, at + 400), BODY, Err("the timestamp is 400 s off"));
        check(&signed(&theirs, at), BODY, Err("X-XTSystems-Signature is not that of this secret"));
        check(&signed(&ours, at), b"{}", Err("X-XTSystems-Signature is not that of this secret"));
        check(&HeaderMap::new(), BODY, Err("there is no X-XTSystems-Timestamp header"));
        let mut mixed = signed(&ours, at);
        mixed.insert("webhook-signature", signed(&theirs, at)["webhook-signature"].clone());
        check(&mixed, BODY, Err("webhook-signature is not that of this secret"));
        let mut guide_only = signed(&ours, at);
        guide_only.remove("webhook-signature");
        check(&guide_only, BODY, Ok(()));
    }
}
