//! Publishes events as XTSystems would: persistent, mandatory, with confirms.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, options::BasicPublishOptions,
};
use uuid::Uuid;

use crate::{receiver::now_us, world::World};

/// How fast.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As fast as the broker confirms, so many under way at once.
    Burst { unconfirmed: usize },
    /// So many a second, each at its time whatever became of those before.
    Steady { per_second: u32 },
}

pub async fn connect(world: &World) -> Result<Connection> {
    Ok(Connection::connect(&world.amqp_url, ConnectionProperties::default()).await?)
}

/// Publishes `events` events and waits for their confirms.
pub async fn publish(
    connection: &Connection,
    world: &World,
    company: Uuid,
    events: usize,
    data_bytes: usize,
    pace: Pace,
) -> Result<()> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(Default::default()).await?;
    let (tasks, every) = match pace {
        Pace::Burst { unconfirmed } => (unconfirmed, None),
        Pace::Steady { per_second } => (64, Some(Duration::from_secs(1) / per_second)),
    };
    let (next, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let exchange: Arc<str> = world.exchange.as_str().into();
    let mut publishers = tokio::task::JoinSet::<Result<()>>::new();
    for _ in 0..tasks {
        let (channel, next, exchange) = (channel.clone(), Arc::clone(&next), Arc::clone(&exchange));
        publishers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= events {
                    return Ok(());
                }
                if let Some(every) = every {
                    tokio::time::sleep_until((began + every * n as u32).into()).await;
                }
                one(&channel, &exchange, company, n, data_bytes).await?;
            }
        });
    }
    while let Some(ended) = publishers.join_next().await {
        ended??;
    }
    Ok(())
}

async fn one(channel: &Channel, exchange: &str, company: Uuid, n: usize, data_bytes: usize) -> Result<()> {
    let id = Uuid::now_v7();
    let sent_at_us = now_us();
    let mut data = format!(
        "{{\"bench_id\":{n},\"sent_at_us\":{sent_at_us},\"object\":\"ticket\",\"title\":\"The printer on floor 3\",\
         \"priority\":\"high\",\"created_by\":{{\"id\":{n},\"name\":\"Jane Example\"}},\"description\":\""
    );
    while data.len() + 2 < data_bytes {
        data.push_str("It makes a noise like a coffee mill and prints nothing. ");
    }
    data.truncate(data_bytes - 2);
    data.push_str("\"}");
    let body = format!(
        "{{\"event_id\":\"{id}\",\"event_type\":\"ticket.created\",\"company_id\":\"{company}\",\
         \"timestamp\":{},\"data\":{data}}}",
        sent_at_us / 1_000_000
    );
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(id.to_string().into());
    let confirm = channel
        .basic_publish(exchange.into(), "ticket.created".into(), options, body.as_bytes(), properties)
        .await?;
    match confirm.await? {
        Confirmation::Ack(None) => Ok(()),
        other => bail!("an event was not taken: {other:?}"),
    }
}
