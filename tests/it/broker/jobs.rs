//! Jobs and watermarks, there and back.

use bytes::Bytes;
use chrono::DateTime;
use uuid::Uuid;
use xtwebhooks::{
    broker::{
        Destination, Queue,
        jobs::{JobVersion, decode},
        watermarks::{self, Watermark},
    },
    model::{CompanyId, DeliveryId, EventId, Job, Payload, RetryTier, Trigger, WebhookId},
};

use super::{next, take};
use crate::support::rabbit::on_rabbit;

fn example(payload: Option<Payload>, deliveries: u128) -> Job {
    Job {
        company: CompanyId(Uuid::from_u128(1)),
        event: EventId(Uuid::from_u128(2)),
        event_type: "ticket.created".parse().expect("an event type"),
        deliveries: (0..deliveries)
            .map(|n| (DeliveryId(Uuid::from_u128(100 + n)), WebhookId(Uuid::from_u128(200 + n))))
            .collect(),
        attempt: 1,
        queued_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("an instant"),
        trigger: Trigger::Event,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        payload,
    }
}

#[tokio::test]
async fn a_job_comes_back_as_it_went() {
    let rendered = Payload::Rendered(Bytes::from_static(b"{\"data\":\"\xc3\xa9\"}"));
    comes_back_as_it_went(JobVersion::V1, rendered).await;
}

#[tokio::test]
async fn a_job_of_version_two_comes_back_as_it_went() {
    let event = Payload::Event { data: Bytes::from_static(b"\"\xc3\xa9\""), timestamp: i64::MIN };
    comes_back_as_it_went(JobVersion::V2, event).await;
}

async fn comes_back_as_it_went(version: JobVersion, payload: Payload) {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.with(|config| config.job_version = version).open().await;
        let fresh = example(Some(payload), 16);
        let retry = Job { attempt: 2, traceparent: None, trigger: Trigger::Replay, ..example(None, 1) };
        let publisher = broker.publisher();
        let waits = Destination::Retry { tier: RetryTier::S1, bucket: retry.bucket() };
        let mut messages = publisher.encode([(&fresh, (&fresh).into()), (&retry, waits)]);
        messages.push(watermarks::encode(0, 42));
        publisher.publish(messages).await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 10);
        let [first, mark, late] = <[_; 3]>::try_from(take(&mut consumer, 3).await).expect("three");
        assert_eq!(decode(&first), Ok(fresh));
        assert_eq!(first.routing_key, "b02", "a job with its payload goes by its event");
        assert_eq!(watermarks::decode(&mark), Some(Watermark { shard: 0, number: 42 }));
        assert_eq!(watermarks::decode(&late), None);
        assert_eq!(decode(&mark).expect_err("a mark is no job").header, "type");
        assert_eq!(decode(&late), Ok(retry));
        assert_eq!(late.routing_key, format!("b{}", 100 % 64), "any other goes by its delivery");
    })
    .await;
}

#[tokio::test]
async fn an_unknown_message_among_the_jobs_is_told_apart() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        broker.publisher().publish(vec![super::job("no job")]).await;
        let message = next(&mut broker.consumer(&Queue::Deliveries(0), 1)).await;
        let error = decode(&message).expect_err("no job");
        let known = "this release knows only `xtwebhooks.job.v1` and `xtwebhooks.job.v2`";
        assert_eq!(error.to_string(), format!("`type` is `test`, but {known}"));
    })
    .await;
}
