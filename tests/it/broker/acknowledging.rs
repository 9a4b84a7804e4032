//! Acknowledging in batches, and pausing.

use xtwebhooks::broker::{Queue, Receipt};

use super::{job, jobs, name, next, take};
use crate::support::{rabbit::on_rabbit, soon};

#[tokio::test]
async fn an_open_message_does_not_hold_back_those_behind_it() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        broker.publisher().publish(jobs(60)).await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 5);
        let open = next(&mut consumer).await;
        for n in 1..60 {
            let message = next(&mut consumer).await;
            assert_eq!(name(&message), format!("j{n}"));
            message.receipt.ack();
        }
        open.receipt.ack();
        drop(consumer);
        broker.close().await;
        // Whatever had not been acknowledged would come before it.
        let again = rabbit.open().await;
        again.publisher().publish(vec![job("last")]).await;
        assert_eq!(name(&next(&mut again.consumer(&Queue::Deliveries(0), 1)).await), "last");
    })
    .await;
}

#[tokio::test]
async fn whatever_the_order_of_settling_each_message_is_settled_once() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        broker.publisher().publish(jobs(900)).await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 1000);
        let mut held: Vec<_> = take(&mut consumer, 900).await.into_iter().map(Some).collect();
        let mut settle = |n: usize, how: fn(Receipt)| how(held[n].take().expect("settled once").receipt);
        // Of nine: one rejected, one left open, and the others from the back to the front.
        for n in (0..900).rev() {
            match n % 9 {
                3 => settle(n, Receipt::reject),
                7 => {}
                _ => settle(n, Receipt::ack),
            }
            if n % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let rejected = take(&mut broker.consumer(&Queue::DeadLetters, 200), 100).await;
        let expected: Vec<_> = (0..900).filter(|n| n % 9 == 3).map(|n| format!("j{n}")).rev().collect();
        assert_eq!(rejected.iter().map(name).collect::<Vec<_>>(), expected);
        // A message that is handed out now was published when all before it had been settled.
        broker.publisher().publish(vec![job("last")]).await;
        next(&mut consumer).await.receipt.ack();
        drop(consumer);
        held.clear();
        broker.close().await;
        let again = rabbit.open().await;
        let mut consumer = again.consumer(&Queue::Deliveries(0), 200);
        let left = take(&mut consumer, 100).await;
        let expected: Vec<_> = (0..900).filter(|n| n % 9 == 7).map(|n| format!("j{n}")).collect();
        assert_eq!(left.iter().map(name).collect::<Vec<_>>(), expected);
        assert_eq!(rabbit.ready(Queue::Deliveries(0)).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_pause_stops_what_comes_and_keeps_what_is_held() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        let publisher = broker.publisher();
        publisher.publish(jobs(3)).await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 2);
        let held = next(&mut consumer).await;
        consumer.pause().await;
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(300), consumer.next()).await;
        assert!(nothing.is_err(), "handed out while paused");
        // It frees a place, which nobody takes while paused.
        held.receipt.ack();
        crate::support::eventually("the third message is left in the queue", async || {
            rabbit.ready(Queue::Deliveries(0)).await == 1
        })
        .await;
        consumer.resume();
        for expected in ["j1", "j2"] {
            let message = next(&mut consumer).await;
            assert_eq!((name(&message).as_str(), message.redelivered), (expected, false));
            message.receipt.ack();
        }
        consumer.pause().await;
        consumer.resume();
        publisher.publish(vec![job("later")]).await;
        assert_eq!(name(&next(&mut consumer).await), "later");
    })
    .await;
}

#[tokio::test]
async fn pausing_before_the_first_message_consumes_nothing() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        broker.publisher().publish(jobs(2)).await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 10);
        consumer.pause().await;
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(200), consumer.next()).await;
        assert!(nothing.is_err(), "handed out while paused");
        assert_eq!(rabbit.ready(Queue::Deliveries(0)).await, 2);
        consumer.resume();
        soon("both", take(&mut consumer, 2)).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_held_over_a_pause_is_not_handed_out_twice() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.open().await;
        broker.publisher().publish(jobs(6)).await;
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 2);
        let mut held = take(&mut consumer, 2).await;
        for _ in 0..2 {
            consumer.pause().await;
            consumer.resume();
            held.extend(take(&mut consumer, 2).await);
        }
        assert_eq!(held.iter().map(name).collect::<Vec<_>>(), ["j0", "j1", "j2", "j3", "j4", "j5"]);
        for message in held {
            message.receipt.ack();
        }
        broker.publisher().publish(vec![job("last")]).await;
        assert_eq!(name(&next(&mut consumer).await), "last");
    })
    .await;
}
