//! Applies the topology to a server.
//!
//! Everything is declared on every connection before its first channel is handed out: what exists costs a round trip,
//! what was deleted is created again. The first time in a process, once the new bindings exist, the leftovers of
//! another number of shards are found and unbound as well.

use futures_util::future::join_all;
use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    Error, Queue, Topology,
    error::{is_not_found, on_channel, on_declare},
    topology::{Argument, Binding},
};
use crate::model::id::BUCKETS;

/// So many missing shards in a row end the search for leftovers. They were declared together, from 0 on, and each check
/// for a missing one costs a channel and a line in RabbitMQ's log.
const GAP_MAX: u8 = 8;

/// Declares exchanges, queues and bindings.
pub(super) async fn declare(connection: &Connection, topology: &Topology) -> Result<(), Error> {
    let channel = connection.create_channel().await.map_err(|error| on_channel(&error))?;
    for exchange in topology.exchanges() {
        let kind = ExchangeKind::Custom(exchange.kind.to_owned());
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(exchange.name.into(), kind, options, table(&exchange.arguments))
            .await
            .map_err(|error| on_declare(&error))?;
    }
    for queue in topology.queues() {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel
            .queue_declare(queue.name.into(), options, table(&queue.arguments))
            .await
            .map_err(|error| on_declare(&error))?;
    }
    join_all(topology.bindings().into_iter().map(|binding| bind(&channel, binding)))
        .await
        .into_iter()
        .collect::<Result<(), _>>()
        .map_err(|error| on_declare(&error))?;
    close(&channel).await;
    Ok(())
}

/// Checks that the exchange of events exists without creating it, as for its publishers.
pub(super) async fn events_exchange_is_there(
    connection: &Connection,
    topology: &Topology,
) -> Result<(), Error> {
    let channel = connection.create_channel().await.map_err(|error| on_channel(&error))?;
    let (name, kind) = (topology.events_exchange(), ExchangeKind::Topic);
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    match channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await {
        Ok(()) => {
            close(&channel).await;
            Ok(())
        }
        Err(error) if is_not_found(&error) => Err(Error::NoExchange { name: name.to_owned() }),
        Err(error) => Err(on_declare(&error)),
    }
}

/// Finds the deliveries queues that a larger `DELIVERY_SHARDS` left behind, and unbinds from every queue the buckets
/// that are no longer its own. Returns the leftovers, which are consumed while they exist.
pub(super) async fn settle_shards(connection: &Connection, topology: &Topology) -> Result<Vec<Queue>, Error> {
    let (mut leftovers, mut queues) = (Vec::new(), Vec::new());
    let mut gap = 0;
    for shard in topology.shards()..BUCKETS {
        if gap == GAP_MAX {
            break;
        }
        gap += 1;
        if exists(connection, topology, Queue::Deliveries(shard)).await? {
            gap = 0;
            leftovers.push(shard);
            queues.push(Queue::Deliveries(shard));
            // A release before 0.2 made none. What was in one left alone is known to the ledger.
            if exists(connection, topology, Queue::Prompt(shard)).await? {
                queues.push(Queue::Prompt(shard));
            }
        }
    }
    let strays = (0..topology.shards()).chain(leftovers.iter().copied()).flat_map(|shard| {
        (0..BUCKETS)
            .filter(move |bucket| topology.shard(*bucket) != shard)
            .map(move |bucket| topology.bucket_binding(bucket, shard))
    });
    let channel = connection.create_channel().await.map_err(|error| on_channel(&error))?;
    join_all(strays.map(|binding| unbind(&channel, binding)))
        .await
        .into_iter()
        .collect::<Result<(), _>>()
        .map_err(|error| on_channel(&error))?;
    close(&channel).await;
    Ok(queues)
}

/// Checks for a queue without creating it. A missing queue costs the channel, so each check has its own.
async fn exists(connection: &Connection, topology: &Topology, queue: Queue) -> Result<bool, Error> {
    let channel = connection.create_channel().await.map_err(|error| on_channel(&error))?;
    let name = topology.name(queue);
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(name.into(), options, FieldTable::default()).await {
        Ok(_) => {
            close(&channel).await;
            Ok(true)
        }
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(on_channel(&error)),
    }
}

async fn bind(channel: &Channel, binding: Binding) -> lapin::Result<()> {
    let Binding { exchange, queue, routing_key } = binding;
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue.into(), exchange.into(), routing_key.into(), options, FieldTable::default())
        .await
}

async fn unbind(channel: &Channel, binding: Binding) -> lapin::Result<()> {
    let Binding { exchange, queue, routing_key } = binding;
    channel.queue_unbind(queue.into(), exchange.into(), routing_key.into(), FieldTable::default()).await
}

/// A channel that cannot be closed is closed already.
async fn close(channel: &Channel) {
    if let Err(error) = channel.close(lapin::protocol::constants::REPLY_SUCCESS, "OK".into()).await {
        tracing::debug!(%error, "the channel was already closed");
    }
}

pub(super) fn table(arguments: &[(&'static str, Argument)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        table.insert((*name).into(), value);
    }
    table
}
