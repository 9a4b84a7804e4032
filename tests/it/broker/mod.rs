//! The broker boundary against the real RabbitMQ.

mod acknowledging;
mod consuming;
mod jobs;
mod publishing;
mod shards;
mod topology;
mod window;

use bytes::Bytes;
use xtwebhooks::broker::{Consumer, Destination, Headers, Message, Outgoing};

use crate::support::soon;

/// A message with a body that tells it apart.
fn outgoing(to: Destination, name: &str) -> Outgoing {
    Outgoing {
        to,
        message_id: name.to_owned(),
        kind: "test",
        timestamp: None,
        headers: Headers::default(),
        body: Bytes::from(name.to_owned()),
    }
}

/// To the deliveries queue of bucket 0.
fn job(name: &str) -> Outgoing {
    outgoing(Destination::Deliveries { bucket: 0 }, name)
}

/// Several of them: `j0`, `j1` …
fn jobs(count: usize) -> Vec<Outgoing> {
    (0..count).map(|n| job(&format!("j{n}"))).collect()
}

async fn next(consumer: &mut Consumer) -> Message {
    soon("a message", consumer.next()).await.expect("a message, for nobody asked for a stop")
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<Message> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        taken.push(next(consumer).await);
    }
    taken
}

fn name(message: &Message) -> String {
    String::from_utf8(message.body.to_vec()).expect("a test's body is text")
}
