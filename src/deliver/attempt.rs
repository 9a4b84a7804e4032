//! One attempt, step by step: await the slot, render, post, free the permit, decide, log, hand over to the recorder.

use std::sync::Arc;

use http::HeaderMap;
use url::Url;

use super::{
    DeliverWorker, Permit,
    session::Started,
    task::{JobHandle, ProbeLease, Task},
};
use crate::{
    model::{
        Attempt, DeadReason, Exchange, NextStep, Outcome, Payload, Phases,
        request::{self, Draft, Request},
        why,
    },
    telemetry::labels::{ParkedFor, SlotFate},
};

/// An attempt that has ended, what follows from it, and the job it was made for.
pub(super) struct Finished {
    pub attempt: Attempt,
    pub next: NextStep,
    pub handle: Arc<JobHandle>,
    /// Whether it was the one probe of an open lane.
    pub probe: bool,
    /// The state of the webhook that it was made in.
    pub version: u64,
    /// Held until the attempt is recorded, if it began without a claim.
    pub started: Option<Started>,
}

/// Makes the attempt of a task. `permit` is freed as soon as the request has ended, so that recording costs the lane
/// nothing.
///
/// In a lane with a pace the request begins at its slot. If the slot has passed and no other is near, the delivery is
/// parked, which also ends its claim if it `holds_claim`.
pub(super) async fn attempt(
    task: Task,
    payload: Payload,
    traceparent: Option<String>,
    permit: Permit,
    holds_claim: bool,
) {
    let worker = Arc::clone(&permit.worker);
    let started_at = match task.slot {
        None => worker.clock.now(),
        Some(slot) => {
            let Some(now) = worker.at_slot(&task, slot).await else {
                let wait = worker.until_next_slot(&task);
                worker.park(&task, wait, ParkedFor::Pace, holds_claim);
                return;
            };
            worker.metrics.deliver_slots.inc(SlotFate::Used);
            now
        }
    };
    let end = task.known.webhook.settings.retries_end(task.delivery.time());
    // The last attempt decided that there was time for this one, but it may have waited for its lane since.
    let is_too_old = task.handle.job.attempt > 1 && end.is_some_and(|end| started_at > end);
    let rendered = if is_too_old {
        Err(too_old(&task, started_at))
    } else {
        render(&task, &payload, traceparent.as_deref(), started_at)
    };
    // Dropped before the request: the body has a copy of it.
    drop(payload);
    let (request_head, exchange) = match rendered {
        Ok((url, Request { headers, body })) => {
            let head = as_sent(&headers);
            worker.metrics.deliver_in_flight.inc();
            let exchange = worker.client.post(url, headers, body, worker.timeout(&task)).await;
            worker.metrics.deliver_in_flight.dec();
            (head, exchange)
        }
        Err(reason) => (String::new(), fault(reason)),
    };
    drop(permit);
    let job = &task.handle.job;
    let webhook = &task.known.webhook;
    let next = if is_too_old {
        NextStep::DeadLetter { reason: DeadReason::TooOld }
    } else {
        let (policy, random) = (webhook.settings.retry(), fastrand::f64());
        let next = policy.next(job.attempt, &exchange.outcome, job.trigger, random, worker.retry_after_max);
        next.ending(worker.clock.now(), end)
    };
    let attempt = Attempt {
        delivery: task.delivery,
        number: job.attempt,
        webhook: webhook.id,
        company: webhook.company,
        event: job.event,
        event_type: job.event_type.clone(),
        trigger: job.trigger,
        started_at,
        url: webhook.settings.url.clone(),
        request_head,
        exchange,
    };
    let version = task.known.version();
    let probe = task.probe.map(ProbeLease::spend).is_some();
    log(&worker, &attempt, &next);
    // The recorder lives as long as the worker.
    let _ = worker.finished.send(Finished {
        attempt,
        next,
        handle: task.handle,
        probe,
        version,
        started: task.started,
    });
}

/// The URL and the signed request, or why there can be none.
fn render<'t>(
    task: &'t Task,
    payload: &Payload,
    traceparent: Option<&str>,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<(&'t Url, Request), String> {
    let job = &task.handle.job;
    let url =
        task.known.url.as_ref().map_err(|wrong| format!("the webhook's URL cannot be used: {wrong}"))?;
    let request = request::render(&Draft {
        webhook: &task.known.webhook,
        event: job.event,
        delivery: task.delivery,
        event_type: &job.event_type,
        attempt: job.attempt,
        trigger: job.trigger,
        traceparent,
        now,
        payload,
    })?;
    Ok((url, request))
}

/// Why a retry that would start too late is not sent.
fn too_old(task: &Task, now: chrono::DateTime<chrono::Utc>) -> String {
    let (age, allowed) =
        (now - task.delivery.time(), task.known.webhook.settings.max_attempt_age_seconds.unwrap_or_default());
    format!(
        "a retry may start up to {allowed} s after the delivery was created; this one would start after {} s",
        age.num_seconds()
    )
}

/// Headers as text, a line each.
fn as_sent(headers: &HeaderMap) -> String {
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 3).sum();
    let mut head = String::with_capacity(bytes);
    for (name, value) in headers {
        head.push_str(name.as_str());
        head.push_str(": ");
        // What we send is visible ASCII; the check of a webhook's own headers ensures that.
        head.push_str(value.to_str().unwrap_or_default());
        head.push('\n');
    }
    head
}

fn fault(reason: String) -> Exchange {
    Exchange {
        outcome: Outcome::Fault { reason },
        phases: Phases::default(),
        address: None,
        response: None,
        repeated: false,
        rate_limited_for: None,
    }
}

/// Logs the whole attempt in one line, and counts it.
fn log(worker: &DeliverWorker, attempt: &Attempt, next: &NextStep) {
    let Exchange { outcome, phases, address, response, repeated, .. } = &attempt.exchange;
    let class = outcome.class();
    worker.metrics.deliver_attempts.inc((class, attempt.trigger));
    worker.metrics.deliver_attempt_seconds.observe(class, phases.total);
    tracing::info!(
        company = %attempt.company,
        webhook = %attempt.webhook,
        event = %attempt.event,
        event_type = %attempt.event_type,
        delivery = %attempt.delivery,
        attempt = attempt.number,
        trigger = %attempt.trigger,
        outcome = %class,
        why = %why::of_outcome(outcome),
        next = next.as_str(),
        status = response.as_ref().map(|response| response.status),
        address = address.map(tracing::field::display),
        total_ms = phases.total.as_secs_f64() * 1000.0,
        repeated,
        "attempt"
    );
}
