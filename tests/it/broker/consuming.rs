//! Consuming through whatever happens.

use lapin::{options::QueueBindOptions, types::FieldTable};
use xtwebhooks::{
    broker::{Death, Destination, Queue},
    model::RetryTier,
    shutdown::Shutdown,
};

use super::{job, jobs, name, next, outgoing, take};
use crate::support::{
    proxy::Proxy,
    rabbit::{Rabbit, on_rabbit},
    soon,
};

#[tokio::test]
async fn a_consumer_survives_a_lost_connection_and_sees_what_it_held_again() {
    on_rabbit(|rabbit| async move {
        let proxy = Proxy::to(&Rabbit::server()).await;
        let broker = rabbit.by(proxy.address()).open().await;
        let publisher = rabbit.open().await.publisher();
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 2);
        publisher.publish(vec![job("settled"), job("held"), job("third")]).await;
        let [settled, held] = [next(&mut consumer).await, next(&mut consumer).await];
        assert_eq!([settled.redelivered, held.redelivered], [false, false]);
        settled.receipt.ack();
        // There was no room for the third before the broker had heard of the first.
        assert_eq!(name(&next(&mut consumer).await), "third");
        proxy.cut();
        let again = [next(&mut consumer).await, next(&mut consumer).await];
        assert_eq!(again.iter().map(name).collect::<Vec<_>>(), ["held", "third"]);
        assert!(again.iter().all(|message| message.redelivered));
        // The receipt of the former connection bears the tag of another message now: it must not be heard.
        held.receipt.ack();
        let [held, third] = again;
        third.receipt.ack();
        publisher.publish(vec![job("later")]).await;
        let later = next(&mut consumer).await;
        assert_eq!((name(&later).as_str(), later.redelivered), ("later", false));
        drop((later, held));
        proxy.cut();
        let still_there = take(&mut consumer, 2).await;
        assert_eq!(still_there.iter().map(name).collect::<Vec<_>>(), ["held", "later"]);
    })
    .await;
}

#[tokio::test]
async fn a_consumer_survives_a_silent_connection() {
    on_rabbit(|rabbit| async move {
        let proxy = Proxy::to(&Rabbit::server()).await;
        let broker = rabbit.by(proxy.address()).open().await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 2);
        let publisher = rabbit.open().await.publisher();
        publisher.publish(vec![job("first")]).await;
        next(&mut consumer).await.receipt.ack();
        proxy.hold();
        publisher.publish(vec![job("second")]).await;
        proxy.resume();
        assert_eq!(name(&next(&mut consumer).await), "second");
    })
    .await;
}

#[tokio::test]
async fn a_consumer_survives_the_deletion_of_its_queue() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 10);
        let publisher = broker.publisher();
        publisher.publish(vec![job("before")]).await;
        let before = next(&mut consumer).await;
        rabbit.delete(Queue::Deliveries(0)).await;
        let publishing = tokio::spawn(async move {
            let confirmed = [xtwebhooks::broker::Fate::Confirmed];
            crate::support::eventually("there is a queue again", async || {
                publisher.publish(vec![job("after")]).await == confirmed
            })
            .await;
        });
        let after = next(&mut consumer).await;
        assert_eq!(name(&after), "after");
        before.receipt.ack();
        after.receipt.ack();
        soon("the publisher", publishing).await.expect("a publisher that succeeded");
    })
    .await;
}

#[tokio::test]
async fn a_consumer_that_the_broker_forgot_without_a_word_is_renewed() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 10);
        let publisher = broker.publisher();
        publisher.publish(vec![job("before")]).await;
        next(&mut consumer).await.receipt.ack();
        // Deleted and made again at once: RabbitMQ 3.10 does not tell the consumer then.
        let (topology, channel) = (broker.topology(), rabbit.channel().await);
        let queues = topology.queues();
        let queue = queues.iter().find(|spec| spec.queue == Queue::Deliveries(0)).expect("a declared queue");
        rabbit.delete(queue.queue).await;
        rabbit.declare(&channel, queue).await;
        for binding in topology.bindings().into_iter().filter(|binding| binding.queue == queue.name) {
            let (exchange, key) = (binding.exchange.into(), binding.routing_key.into());
            let options = QueueBindOptions::default();
            let bound =
                channel.queue_bind(binding.queue.into(), exchange, key, options, FieldTable::default());
            bound.await.expect("a binding");
        }
        publisher.publish(vec![job("after")]).await;
        assert_eq!(name(&next(&mut consumer).await), "after");
    })
    .await;
}

#[tokio::test]
async fn a_consumer_may_stop_waiting_at_any_time_without_losing_a_message() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 500);
        let publishing = tokio::spawn({
            let publisher = broker.publisher();
            async move { publisher.publish(jobs(300)).await }
        });
        let mut taken = Vec::new();
        let hurried = async {
            while taken.len() < 300 {
                tokio::select! {
                    biased;
                    message = consumer.next() => taken.push(name(&message.expect("no stop was asked for"))),
                    () = tokio::task::yield_now() => {}
                }
            }
        };
        soon("all messages", hurried).await;
        publishing.await.expect("a publisher that succeeded");
        assert_eq!(taken, (0..300).map(|n| format!("j{n}")).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_stop_ends_the_consumer_and_what_is_settled_afterwards_counts() {
    on_rabbit(|rabbit| async move {
        let shutdown = Shutdown::default();
        let broker = rabbit.open_with(shutdown.clone()).await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 100);
        broker.publisher().publish(jobs(50)).await;
        let held = take(&mut consumer, 20).await;
        shutdown.request();
        assert!(soon("the end", consumer.next()).await.is_none());
        assert!(soon("the end again", consumer.next()).await.is_none());
        drop(consumer);
        for message in held {
            message.receipt.ack();
        }
        soon("the tasks", shutdown.on_signals(crate::support::PATIENCE)).await.expect("signal handlers");
        soon("the connections", broker.close()).await;
        let again = rabbit.open().await;
        let mut consumer = again.consumer(&Queue::Deliveries(0), 100);
        let rest = take(&mut consumer, 30).await;
        assert_eq!(name(&rest[0]), "j20", "the first twenty were acknowledged");
        assert_eq!(rabbit.ready(Queue::Deliveries(0)).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_retry_comes_back_after_its_wait_by_the_same_routing_key() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 10);
        let began = tokio::time::Instant::now();
        let retry = outgoing(Destination::Retry { tier: RetryTier::S1, bucket: 17 }, "retry");
        broker.publisher().publish(vec![retry]).await;
        let received = next(&mut consumer).await;
        let waited = began.elapsed();
        assert!(waited >= std::time::Duration::from_secs(1), "{waited:?}");
        assert_eq!((received.routing_key.as_str(), received.redelivered), ("b17", false));
        let deaths = received.headers.x_death();
        let queue = broker.topology().name(Queue::Retry(RetryTier::S1));
        let expected = Death {
            exchange: queue.clone(),
            queue,
            reason: "expired".into(),
            count: 1,
            routing_keys: vec!["b17".into()],
        };
        assert_eq!(deaths, [expected]);
    })
    .await;
}

#[tokio::test]
async fn what_is_rejected_is_dead_lettered_with_where_it_came_from() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let event = outgoing(Destination::Events { event_type: "ticket.created".into() }, "event");
        broker.publisher().publish(vec![event]).await;
        next(&mut broker.consumer(&Queue::Events, 10)).await.receipt.reject();
        let dead = next(&mut broker.consumer(&Queue::DeadLetters, 10)).await;
        assert_eq!((name(&dead).as_str(), dead.message_id.as_deref()), ("event", Some("event")));
        let expected = Death {
            queue: broker.topology().name(Queue::Events),
            reason: "rejected".into(),
            count: 1,
            exchange: rabbit.config.events_exchange.clone(),
            routing_keys: vec!["ticket.created".into()],
        };
        assert_eq!(dead.headers.x_death(), [expected]);
    })
    .await;
}

#[tokio::test]
async fn what_ends_its_consumers_too_often_is_dead_lettered_by_the_limit() {
    on_rabbit(|rabbit| async move {
        let proxy = Proxy::to(&Rabbit::server()).await;
        let limited = rabbit.with(|config| config.delivery_limit = 2);
        let broker = limited.by(proxy.address()).open().await;
        let direct = limited.open().await;
        direct.publisher().publish(vec![job("killer")]).await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 10);
        for redelivered in [false, true, true] {
            let killer = next(&mut consumer).await;
            assert_eq!((name(&killer).as_str(), killer.redelivered), ("killer", redelivered));
            proxy.cut();
        }
        let dead = next(&mut direct.consumer(&Queue::DeadLetters, 10)).await;
        let deaths = dead.headers.x_death();
        assert_eq!((deaths.len(), deaths[0].reason.as_str(), deaths[0].count), (1, "delivery_limit", 1));
        assert_eq!(deaths[0].queue, broker.topology().name(Queue::Deliveries(0)));
        assert_eq!(deaths[0].routing_keys, ["b00"]);
    })
    .await;
}
