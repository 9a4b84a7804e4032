//! The test delivery: a real delivery through the pipeline, whose result the caller waits for.
//!
//! ```text
//! event + delivery, one statement ─▶ job, confirmed ─▶ a worker claims and sends ─▶ the delivery's row has the result
//! ```
//!
//! It is sent also if the webhook is paused or inactive and whatever the state of the lane, has one attempt, leaves no dead
//! letter, and does not change the lane. A test that has not started when the wait is over is cancelled, so that nothing is
//! sent when the caller no longer waits; its job has no payload, so it must claim, and finds nothing to do.

use std::time::Duration;

use axum::extract::State;
use chrono::SecondsFormat;
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{Tested, not_found};
use crate::{
    api::{Api, access::Tenant, extract::Id, problem::Problem},
    broker::{Destination, Fate},
    model::{CompanyId, DeliveryId, DeliveryStatus, Event, EventId, Job, Trigger, WebhookId, id::bucket},
    store::{
        dispose, lane_report,
        test_delivery::{self, TestProgress},
        webhooks as table,
    },
};

/// How much longer than its timeout a test is awaited.
const TURN: Duration = Duration::from_secs(5);
/// How long a worker may take to claim the job before the number of workers is checked.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);
/// The interval between looks at the delivery: the first, and the longest.
const LOOK_MIN: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_millis(500);
/// The type of the event that is sent, as the guide has it.
const EVENT_TYPE: &str = "webhook.test";
/// What the guide says of a test that was sent.
const SENT: &str = "Test webhook sent";

/// Send a test delivery
///
/// Sends a real request through the delivery pipeline: one attempt, no retry, no dead letter, no effect on the lane,
/// also if the webhook is paused or inactive. Responds when the attempt has ended, at the latest 5 s after the
/// webhook's timeout. `success` is false if the receiver did not accept the test or it could not be sent; `why` gives
/// the reason.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{webhook_id}/test",
    tag = "Webhooks",
    operation_id = "testWebhook",
    params(("webhook_id" = Uuid, Path, description = "The webhook")),
    responses((status = OK, description = "The result of the test", body = Tested)),
    security(("bearer" = ["webhooks:write"])),
)]
pub(super) async fn test(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<WebhookId>,
) -> Result<axum::Json<Tested>, Problem> {
    let webhook = table::get(&api.parts.reads, tenant.company, id).await?.ok_or_else(not_found)?;
    let end = Instant::now() + webhook.settings.timeout().min(api.parts.receivers.timeout_max) + TURN;
    let test = Test::write(&api, tenant.company, id).await?;
    let fate = test.publish(&api).await?;
    Ok(axum::Json(test.watch(&api, fate, end).await?))
}

/// A running test.
struct Test {
    company: CompanyId,
    webhook: WebhookId,
    delivery: DeliveryId,
    job: Job,
}

impl Test {
    /// Writes the event and its delivery.
    async fn write(api: &Api, company: CompanyId, webhook: WebhookId) -> Result<Self, Problem> {
        let now = api.parts.clock.now();
        let message_id = format!("test {}", Uuid::new_v4());
        let data = json!({
            "message": "This is a test webhook",
            "timestamp": now.to_rfc3339_opts(SecondsFormat::Micros, true),
            "webhook_id": webhook,
        });
        let event = Event {
            id: EventId::derive(now, company, &message_id),
            company,
            event_type: EVENT_TYPE.parse().expect("a type of ours is one"),
            message_id,
            timestamp: now.timestamp(),
            data: data.to_string(),
            // This event is never published again, so there is no other body to distinguish.
            body_hash: 0,
            traceparent: None,
        };
        let delivery = DeliveryId::derive(event.id, webhook);
        let queued_at = test_delivery::write(&api.parts.changes, &event, delivery, webhook).await?;
        let job = Job {
            company,
            event: event.id,
            event_type: event.event_type,
            deliveries: vec![(delivery, webhook)],
            attempt: 1,
            queued_at,
            trigger: Trigger::Test,
            traceparent: None,
            payload: None,
        };
        Ok(Self { company, webhook, delivery, job })
    }

    /// Publishes the job. If the broker does not accept it, schedule makes it.
    async fn publish(&self, api: &Api) -> Result<Fate, Problem> {
        let job = api.jobs.encode([(&self.job, Destination::from(&self.job))]);
        let fates = api.jobs.publish(job).await;
        let fate = fates.first().copied().unwrap_or(Fate::Unknown);
        if fate != Fate::Confirmed {
            dispose::unqueue(&api.parts.changes, &[(self.delivery, 1)]).await?;
        }
        Ok(fate)
    }

    /// Waits for the result.
    async fn watch(&self, api: &Api, fate: Fate, end: Instant) -> Result<Tested, Problem> {
        let began = Instant::now();
        let (mut wait, mut is_looked_for) = (LOOK_MIN, false);
        loop {
            sleep_until((Instant::now() + wait).min(end)).await;
            wait = (wait * 2).min(LOOK_MAX);
            let standing = self.standing(api).await?;
            if has_ended(&standing) {
                return Ok(self.ended(standing));
            }
            let now = Instant::now();
            if !standing.is_claimed && !is_looked_for && now >= began + TAKEN_WITHIN {
                is_looked_for = true;
                let depth = api.parts.broker.depth(bucket(self.delivery.0)).await;
                if depth.is_ok_and(|depth| depth.consumers == 0) {
                    let reason =
                        "no worker is running that could send it; the operator must start the role deliver";
                    return self.take_back(api, reason.to_owned()).await;
                }
            }
            if now >= end && fate != Fate::Confirmed {
                let reason = format!("RabbitMQ did not accept the job of the test: {fate}");
                return self.take_back(api, reason).await;
            }
            if now >= end {
                let ahead = self.ahead(api).await?;
                return self.take_back(api, format!("waiting, {ahead} ahead")).await;
            }
        }
    }

    async fn standing(&self, api: &Api) -> Result<TestProgress, Problem> {
        let standing = test_delivery::standing(&api.parts.reads, self.company, self.delivery).await?;
        // Only an erased company loses a row within seconds.
        standing.ok_or_else(not_found)
    }

    /// How many deliveries are ahead of it: in the queue of its job, or in the lane of its webhook.
    async fn ahead(&self, api: &Api) -> Result<i64, Problem> {
        let depth = api.parts.broker.depth(bucket(self.delivery.0)).await;
        let in_queue = depth.map_or(0, |depth| i64::from(depth.ready));
        let query = lane_report::LaneReportQuery {
            company: Some(self.company),
            webhook: Some(self.webhook),
            ..lane_report::LaneReportQuery::default()
        };
        let lane = lane_report::list(&api.parts.reads, &query, 1).await?.pop();
        let in_lane = lane.map_or(0, |lane| lane.queued + lane.waiting);
        // The test itself is one of them.
        Ok((in_queue.max(in_lane) - 1).max(0))
    }

    /// Cancels the test for this reason, unless it has started.
    async fn take_back(&self, api: &Api, reason: String) -> Result<Tested, Problem> {
        let is_back = test_delivery::cancel(&api.parts.changes, self.company, self.delivery).await?;
        let standing = self.standing(api).await?;
        if !is_back && has_ended(&standing) {
            return Ok(self.ended(standing));
        }
        let (message, why) = if is_back {
            (reason.clone(), reason)
        } else {
            ("the test started late and is still in progress".to_owned(), "it has not ended yet".to_owned())
        };
        Ok(Tested {
            success: false,
            message,
            delivery_id: self.delivery.uuid(),
            response_status: None,
            latency_ms: None,
            why: Some(why),
        })
    }

    fn ended(&self, standing: TestProgress) -> Tested {
        let success = standing.status == DeliveryStatus::Delivered;
        // A test that ended without an attempt has its reason in the row, for example a deleted webhook.
        let was_sent = standing.attempts > 0;
        let reason = standing.reason.unwrap_or_else(|| standing.status.to_string());
        let message = if was_sent { SENT.to_owned() } else { format!("the test was not sent: {reason}") };
        Tested {
            success,
            message,
            delivery_id: self.delivery.uuid(),
            response_status: standing.response_status,
            latency_ms: standing.total_us.map(|us| f64::from(us) / 1_000.0),
            why: (!success).then(|| standing.why.unwrap_or(reason)),
        }
    }
}

fn has_ended(standing: &TestProgress) -> bool {
    ![DeliveryStatus::Pending, DeliveryStatus::Held].contains(&standing.status)
}
