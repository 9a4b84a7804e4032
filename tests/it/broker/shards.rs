//! Changing the number of shards.

use xtwebhooks::broker::{Destination, Fate, Queue};

use super::{name, next, outgoing};
use crate::support::rabbit::{Rabbit, on_rabbit};

fn sharded(rabbit: &Rabbit, shards: u8) -> Rabbit {
    rabbit.with(|config| config.delivery_shards = shards)
}

async fn publish_to_each_bucket(rabbit: &Rabbit, shards: u8) {
    let broker = sharded(rabbit, shards).open().await;
    let messages = (0..64).map(|bucket| outgoing(Destination::Deliveries { bucket }, &format!("b{bucket}")));
    assert_eq!(broker.publisher().publish(messages.collect()).await, [Fate::Confirmed; 64]);
}

/// How many messages each deliveries queue holds after one was published to every bucket.
async fn check(rabbit: &Rabbit, shards: u8, expected: &[(u8, u32)]) {
    publish_to_each_bucket(rabbit, shards).await;
    for (shard, ready) in expected {
        assert_eq!(rabbit.ready(Queue::Deliveries(*shard)).await, *ready, "shard {shard} of {shards}");
    }
}

#[tokio::test]
async fn a_job_goes_to_one_queue_whatever_the_number_of_shards_was_before() {
    on_rabbit(|rabbit| async move {
        check(&rabbit, 1, &[(0, 64)]).await;
        check(&rabbit, 4, &[(0, 64 + 16), (1, 16), (2, 16), (3, 16)]).await;
        check(&rabbit, 3, &[(0, 80 + 22), (1, 16 + 21), (2, 16 + 21), (3, 16)]).await;
        check(&rabbit, 1, &[(0, 102 + 64), (1, 37), (2, 37), (3, 16)]).await;
    })
    .await;
}

#[tokio::test]
async fn what_a_larger_number_left_behind_is_still_consumed() {
    on_rabbit(|rabbit| async move {
        publish_to_each_bucket(&rabbit, 2).await;
        let broker = rabbit.open().await;
        let of = |shard| [Queue::Deliveries(shard), Queue::Prompt(shard)];
        assert_eq!(broker.deliveries_queues(), [of(0), of(1)].concat());
        let message = next(&mut broker.consumer(&Queue::Deliveries(1), 1)).await;
        assert_eq!(name(&message), "b1");
        // As a release made them that knew no prompt queues.
        rabbit.delete(Queue::Prompt(1)).await;
        let broker = rabbit.open().await;
        assert_eq!(broker.deliveries_queues(), [&of(0)[..], &[Queue::Deliveries(1)]].concat());
        // Some of many were deleted.
        publish_to_each_bucket(&rabbit, 8).await;
        for shard in 1..7 {
            rabbit.delete(Queue::Deliveries(shard)).await;
        }
        let broker = rabbit.open().await;
        assert_eq!(broker.deliveries_queues(), [of(0), of(7)].concat());
    })
    .await;
}

#[tokio::test]
async fn a_bucket_that_is_bound_nowhere_leads_to_the_first_shard() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let topology = broker.topology();
        let channel = rabbit.channel().await;
        let unbound = channel.queue_unbind(
            topology.name(Queue::Deliveries(0)).into(),
            topology.deliveries_exchange().into(),
            "b05".into(),
            lapin::types::FieldTable::default(),
        );
        unbound.await.expect("a binding to take away");
        let stray = outgoing(Destination::Deliveries { bucket: 5 }, "stray");
        assert_eq!(broker.publisher().publish(vec![stray]).await, [Fate::Confirmed]);
        let message = next(&mut broker.consumer(&Queue::Deliveries(0), 1)).await;
        assert_eq!((name(&message).as_str(), message.routing_key.as_str()), ("stray", "b05"));
    })
    .await;
}
