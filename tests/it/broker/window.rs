//! The room in the deliveries queues.

use std::time::Duration;

use tokio::time::Instant;
use xtwebhooks::broker::{Destination, Fate, Queue, STALLED_AFTER, WindowRoom};

use super::{jobs, outgoing, take};
use crate::support::{
    eventually,
    proxy::Proxy,
    rabbit::{Rabbit, on_rabbit},
    soon,
};

#[tokio::test]
async fn the_room_is_what_the_ready_jobs_and_our_own_leave() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.with(|config| config.window_jobs = 10).open().await;
        let window = broker.window();
        assert_eq!(window.room(0).await, 10);
        window.took(0, 4);
        assert_eq!(window.room(0).await, 6);
        broker.publisher().publish(jobs(4)).await;
        eventually("the published are counted once", async || window.room(0).await == 6).await;
        window.took(0, 9);
        assert_eq!(window.room(0).await, 0, "never less than none");
    })
    .await;
}

#[tokio::test]
async fn prompt_queues_have_a_window_of_their_own_and_nobody_waits_for_it() {
    on_rabbit(|rabbit| async move {
        let few = rabbit.with(|config| (config.window_jobs, config.prompt_jobs) = (10, 3));
        let broker = few.open().await;
        let (ordinary, prompt) = (broker.window(), broker.prompt_window());
        assert_eq!(prompt.room_known(0), 0, "nobody has counted yet");
        eventually("it was counted meanwhile", async || prompt.room_known(0) == 3).await;
        broker.publisher().publish(jobs(8)).await;
        eventually("the ordinary queue fills", async || ordinary.room(0).await == 2).await;
        assert_eq!(prompt.room(0).await, 3);
        let queue = Queue::Prompt(0);
        let prompts = (0..5).map(|n| outgoing(Destination::Queue(queue), &format!("prompt {n}")));
        assert_eq!(broker.publisher().publish(prompts.collect()).await, [Fate::Confirmed; 5]);
        eventually("the prompt one is full", async || prompt.room_known(0) == 0).await;
        let mut consumer = broker.consumer(&queue, 5);
        for message in take(&mut consumer, 5).await {
            message.receipt.ack();
        }
        eventually("there is room again", async || prompt.room_known(0) == 3).await;
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_that_stands_still_is_waited_for_once() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.with(|config| config.window_jobs = 5).open().await;
        let window = broker.window();
        assert_eq!(window.wait_for_room(0).await, WindowRoom::Open);
        broker.publisher().publish(jobs(8)).await;
        eventually("the queue is full", async || window.room(0).await == 0).await;
        let began = Instant::now();
        assert_eq!(soon("a verdict", window.wait_for_room(0)).await, WindowRoom::Stalled);
        assert!(began.elapsed() > STALLED_AFTER / 2, "{:?}", began.elapsed());
        // Remembered: who comes later does not wait again.
        let began = Instant::now();
        assert_eq!(window.clone().wait_for_room(0).await, WindowRoom::Stalled);
        assert!(began.elapsed() < STALLED_AFTER / 2, "{:?}", began.elapsed());
        // It has moved, and is waited for again although it is still full.
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 1);
        let held = take(&mut consumer, 1).await;
        eventually("the move is noticed", async || {
            tokio::time::timeout(Duration::from_millis(100), window.wait_for_room(0)).await.is_err()
        })
        .await;
        drop((held, consumer));
        let mut consumer = broker.consumer(&Queue::Deliveries(0), 8);
        take(&mut consumer, 8).await;
        assert_eq!(soon("room", window.wait_for_room(0)).await, WindowRoom::Open);
    })
    .await;
}

#[tokio::test]
async fn without_a_broker_there_is_no_room_and_nobody_waits_long() {
    on_rabbit(|rabbit| async move {
        let proxy = Proxy::to(&Rabbit::server()).await;
        let broker = rabbit.by(proxy.address()).open().await;
        let window = broker.window();
        assert!(window.room(0).await > 0);
        drop(proxy);
        eventually("the room is gone", async || window.room(0).await == 0).await;
        assert_eq!(soon("a verdict", window.wait_for_room(0)).await, WindowRoom::Stalled);
    })
    .await;
}
