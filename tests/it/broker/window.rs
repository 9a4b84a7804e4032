//! The room in the deliveries queues.

use std::time::Duration;

use tokio::time::Instant;
use xtwebhooks::broker::{Queue, Room, STALLED_AFTER};

use super::{jobs, take};
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
async fn a_full_queue_that_stands_still_is_waited_for_once() {
    on_rabbit(|rabbit| async move {
        let broker = rabbit.with(|config| config.window_jobs = 5).open().await;
        let window = broker.window();
        assert_eq!(window.wait_for_room(0).await, Room::Open);
        broker.publisher().publish(jobs(8)).await;
        eventually("the queue is full", async || window.room(0).await == 0).await;
        let began = Instant::now();
        assert_eq!(soon("a verdict", window.wait_for_room(0)).await, Room::Stalled);
        assert!(began.elapsed() > STALLED_AFTER / 2, "{:?}", began.elapsed());
        // Remembered: who comes later does not wait again.
        let began = Instant::now();
        assert_eq!(window.clone().wait_for_room(0).await, Room::Stalled);
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
        assert_eq!(soon("room", window.wait_for_room(0)).await, Room::Open);
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
        assert_eq!(soon("a verdict", window.wait_for_room(0)).await, Room::Stalled);
    })
    .await;
}
