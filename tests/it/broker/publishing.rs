//! Publishing, and the fates of what is published.

use std::time::Duration;

use lapin::options::ExchangeDeleteOptions;
use tokio::time::Instant;
use xtwebhooks::{
    broker::{CONFIRM_TIMEOUT, ConnectionState, Destination, Fate, Outgoing, Queue},
    telemetry::labels::{self, QueueKind},
};

use super::{job, jobs, name, next, outgoing, take};
use crate::support::{
    eventually,
    proxy::Proxy,
    rabbit::{Rabbit, on_rabbit},
    soon,
};

/// How much later than promised a slow machine may be.
const TOLERANCE: Duration = Duration::from_millis(500);

/// A queue that does not exist: a message to it comes back.
fn stray(name: &str) -> Outgoing {
    outgoing(Destination::Queue(Queue::Deliveries(63)), name)
}

/// `connection.blocked` with the reason `low on memory`, as RabbitMQ says it.
const BLOCKED: &[u8] = b"\x01\0\0\0\0\0\x12\0\x0a\0\x3c\x0dlow on memory\xce";
const UNBLOCKED: &[u8] = b"\x01\0\0\0\0\0\x04\0\x0a\0\x3d\xce";

#[tokio::test]
async fn what_is_confirmed_arrives_as_it_was_published() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let mut message = job("m1");
        message.timestamp = Some(1_700_000_000);
        message.headers.set_str("text", "é").set_i64("number", -7);
        assert_eq!(broker.publisher().publish(vec![message]).await, [Fate::Confirmed]);
        let received = next(&mut broker.consumer(&Queue::Deliveries(0), 10)).await;
        assert_eq!(&received.body[..], b"m1");
        assert_eq!(received.message_id.as_deref(), Some("m1"));
        assert_eq!(received.kind.as_deref(), Some("test"));
        assert_eq!(received.timestamp, Some(1_700_000_000));
        assert_eq!(received.routing_key, "b00");
        assert_eq!(received.headers.get_str("text"), Some("é"));
        assert_eq!(received.headers.get_i64("number"), Some(-7));
        assert!(!received.redelivered);
    })
    .await;
}

#[tokio::test]
async fn messages_arrive_in_the_order_in_which_they_were_published() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let fates = broker.publisher().publish(jobs(1500)).await;
        assert_eq!(fates, vec![Fate::Confirmed; 1500]);
        let taken = take(&mut broker.consumer(&Queue::Deliveries(0), 2000), 1500).await;
        let expected: Vec<_> = (0..1500).map(|n| format!("j{n}")).collect();
        assert_eq!(taken.iter().map(name).collect::<Vec<_>>(), expected);
    })
    .await;
}

#[tokio::test]
async fn each_message_is_told_its_own_fate_among_many_that_come_back() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let publisher = broker.publisher();
        let mut calls = tokio::task::JoinSet::new();
        for call in 0..40 {
            let publisher = publisher.clone();
            calls.spawn(async move {
                // Another pattern for each call, from all good to nearly all stray.
                let is_stray = |n: usize| (n * 7 + call) % 40 < call;
                let messages = (0..50).map(|n| {
                    let name = format!("c{call}-{n}");
                    if is_stray(n) { stray(&name) } else { job(&name) }
                });
                let expected: Vec<_> =
                    (0..50).map(|n| if is_stray(n) { Fate::Returned } else { Fate::Confirmed }).collect();
                assert_eq!(publisher.publish(messages.collect()).await, expected, "call {call}");
                expected.iter().filter(|fate| **fate == Fate::Returned).count() as u64
            });
        }
        let returned: u64 = soon("all fates", calls.join_all()).await.into_iter().sum();
        let counted = |fate| broker.metrics().published.get((QueueKind::Deliveries, fate));
        let counted = (counted(labels::Fate::Returned), counted(labels::Fate::Confirmed));
        assert_eq!(counted, (returned, 40 * 50 - returned));
    })
    .await;
}

#[tokio::test]
async fn a_full_events_queue_refuses() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.with(|config| config.events_queue_bytes_max = 1000).open().await;
        let publisher = broker.publisher();
        let event =
            || outgoing(Destination::Events { event_type: "ticket.created".into() }, &"e".repeat(200));
        assert_eq!(publisher.publish(vec![event()]).await, [Fate::Confirmed]);
        eventually("an event is refused", async || publisher.publish(vec![event()]).await == [Fate::Refused])
            .await;
        let received = next(&mut broker.consumer(&Queue::Events, 1)).await;
        assert_eq!(received.routing_key, "ticket.created");
    })
    .await;
}

#[tokio::test]
async fn a_full_retry_queue_refuses() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.with(|config| config.retry_jobs_max = 3).open().await;
        let publisher = broker.publisher();
        let tier = xtwebhooks::model::RetryTier::S64;
        let retry = || outgoing(Destination::Retry { tier, bucket: 0 }, "r");
        eventually("a retry is refused", async || publisher.publish(vec![retry()]).await == [Fate::Refused])
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_silent_connection_answers_unknown_in_time_and_recovers() {
    on_rabbit(|rabbit| async move {
        let proxy = Proxy::to(&Rabbit::server()).await;
        let broker = rabbit.by(proxy.address()).open().await;
        let publisher = broker.publisher();
        assert_eq!(publisher.publish(vec![job("before")]).await, [Fate::Confirmed]);
        proxy.hold();
        let began = Instant::now();
        assert_eq!(publisher.publish(jobs(3)).await, [Fate::Unknown; 3]);
        assert!(began.elapsed() < CONFIRM_TIMEOUT + TOLERANCE, "{:?}", began.elapsed());
        proxy.resume();
        eventually("publishing works again", async || {
            publisher.publish(vec![job("after")]).await == [Fate::Confirmed]
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn without_a_broker_the_answer_is_unknown_in_time() {
    on_rabbit(|rabbit| async move {
        let proxy = Proxy::to(&Rabbit::server()).await;
        let broker = rabbit.by(proxy.address()).open().await;
        let publisher = broker.publisher();
        drop(proxy);
        let began = Instant::now();
        let calls = (0..4).map(|_| publisher.publish(jobs(100)));
        let answers = futures_util::future::join_all(calls).await;
        assert!(answers.iter().flatten().all(|fate| *fate == Fate::Unknown), "{answers:?}");
        assert!(began.elapsed() < CONFIRM_TIMEOUT + TOLERANCE, "{:?}", began.elapsed());
        assert!(matches!(broker.state(), ConnectionState::Connecting { .. }), "{:?}", broker.state());
    })
    .await;
}

#[tokio::test]
async fn a_short_interruption_is_waited_out() {
    on_rabbit(|rabbit| async move {
        let proxy = Proxy::to(&Rabbit::server()).await;
        let broker = rabbit.by(proxy.address()).open().await;
        let publisher = broker.publisher();
        proxy.cut();
        // What was handed to the lost connection is unknown; what came after waits for the next one.
        eventually("a message waited for its connection", async || {
            publisher.publish(vec![job("m")]).await == [Fate::Confirmed]
        })
        .await;
        eventually("both connections are back", async || {
            matches!(broker.state(), ConnectionState::Connected)
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_blocked_broker_is_shown_gets_nothing_and_recovers() {
    on_rabbit(|rabbit| async move {
        let proxy = Proxy::to(&Rabbit::server()).await;
        let broker = rabbit.by(proxy.address()).open().await;
        let publisher = broker.publisher();
        assert_eq!(publisher.publish(vec![job("before")]).await, [Fate::Confirmed]);
        proxy.inject(BLOCKED);
        eventually("both connections are blocked", async || broker.metrics().blocked.get() == 2).await;
        let state = broker.state();
        assert!(
            matches!(&state, ConnectionState::Blocked { reason } if reason == "low on memory"),
            "{state:?}"
        );
        let began = Instant::now();
        assert_eq!(publisher.publish(vec![job("blocked")]).await, [Fate::Unknown]);
        assert!(began.elapsed() < CONFIRM_TIMEOUT + TOLERANCE, "{:?}", began.elapsed());
        proxy.inject(UNBLOCKED);
        eventually("the block is over", async || matches!(broker.state(), ConnectionState::Connected)).await;
        assert_eq!(broker.metrics().blocked.get(), 0);
        assert_eq!(publisher.publish(vec![job("after")]).await, [Fate::Confirmed]);
        // What was answered while blocked was not sent after the fact.
        let taken = take(&mut broker.consumer(&Queue::Deliveries(0), 10), 2).await;
        assert_eq!(taken.iter().map(name).collect::<Vec<_>>(), ["before", "after"]);
    })
    .await;
}

#[tokio::test]
async fn an_exchange_deleted_by_hand_is_declared_again() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let publisher = broker.publisher();
        let exchange = broker.topology().deliveries_exchange();
        let channel = rabbit.channel().await;
        let deleted = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await;
        deleted.expect("an exchange to delete");
        assert_eq!(publisher.publish(vec![job("lost")]).await, [Fate::Unknown]);
        eventually("the exchange is back", async || {
            publisher.publish(vec![job("found")]).await == [Fate::Confirmed]
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_queue_deleted_by_hand_is_declared_again_when_its_messages_come_back() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let publisher = broker.publisher();
        rabbit.delete(Queue::Deliveries(0)).await;
        assert_eq!(publisher.publish(vec![job("lost")]).await, [Fate::Returned]);
        eventually("the queue is back", async || {
            publisher.publish(vec![job("found")]).await == [Fate::Confirmed]
        })
        .await;
    })
    .await;
}
