//! Inspects a server without changing anything.
//!
//! A passive declaration says whether a queue exists and how many messages it holds, but not whether its arguments are
//! ours. Declaring it with arguments says that too, and changes nothing if the queue exists; so this is done only after
//! the passive declaration has found the queue. AMQP cannot list bindings.

use std::time::Duration;

use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    protocol::constants::REPLY_SUCCESS,
    types::FieldTable,
};
use tokio::time::timeout;

use super::{
    Config, Error, Queue, Topology,
    connection::{CONNECT_TIMEOUT, uri},
    declare::table,
    error::{is_not_found, on_channel, on_connect, on_declare},
    topology::{ExchangeSpec, QueueSpec},
    version,
};

/// What was found.
#[derive(Debug)]
pub struct Inspection {
    /// The server's version, if it is a RabbitMQ.
    pub version: Option<String>,
    /// Names of missing exchanges.
    pub missing_exchanges: Vec<String>,
    /// Names of missing queues.
    pub missing_queues: Vec<String>,
    /// What exists with other arguments than ours.
    pub mismatches: Vec<Error>,
    /// The existing queues.
    pub queues: Vec<Depth>,
}

/// What a queue holds.
#[derive(Clone, Debug)]
pub struct Depth {
    pub queue: Queue,
    pub name: String,
    /// Messages that wait, without those handed out.
    pub ready: u32,
    /// How many consumers it has.
    pub consumers: u32,
}

/// Inspects the server that these settings name.
///
/// # Errors
/// When it cannot be reached, refuses the login, or is too old.
pub async fn inspect(config: &Config) -> Result<Inspection, Error> {
    let looked = timeout(CONNECT_TIMEOUT, look(config)).await;
    looked.unwrap_or_else(|_| Err(Error::silent("login and inspection", CONNECT_TIMEOUT)))
}

async fn look(config: &Config) -> Result<Inspection, Error> {
    let (uri, topology) = (uri(config)?, Topology::new(config));
    let version = version::check(&uri).await?;
    let name = format!("{} inspect", config.amqp_prefix);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connection = Connection::connect_uri(uri, properties).await.map_err(|error| on_connect(&error))?;
    let mut found = Inspection {
        version,
        missing_exchanges: Vec::new(),
        missing_queues: Vec::new(),
        mismatches: Vec::new(),
        queues: Vec::new(),
    };
    for exchange in topology.exchanges() {
        match of_exchange(&connection, &exchange).await {
            Ok(true) => {}
            Ok(false) => found.missing_exchanges.push(exchange.name),
            Err(mismatch @ Error::Mismatch { .. }) => found.mismatches.push(mismatch),
            Err(error) => return Err(error),
        }
    }
    for queue in topology.queues() {
        let Some(depth) = depth(&connection, &queue).await? else {
            found.missing_queues.push(queue.name);
            continue;
        };
        found.queues.push(depth);
        match arguments(&connection, &queue).await {
            Err(mismatch @ Error::Mismatch { .. }) => found.mismatches.push(mismatch),
            other => other?,
        }
    }
    if let Err(error) = connection.close(REPLY_SUCCESS, "OK".into()).await {
        tracing::debug!(%error, "the connection was already closed");
    }
    Ok(found)
}

/// Whether an exchange exists as we declare it.
async fn of_exchange(connection: &Connection, exchange: &ExchangeSpec) -> Result<bool, Error> {
    let kind = || ExchangeKind::Custom(exchange.kind.to_owned());
    // Each check has its own channel, because a refusal closes it.
    let channel = connection.create_channel().await.map_err(|error| on_channel(&error))?;
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let name = exchange.name.as_str();
    match channel.exchange_declare(name.into(), kind(), passive, FieldTable::default()).await {
        Ok(()) => {}
        Err(error) if is_not_found(&error) => return Ok(false),
        Err(error) => return Err(on_declare(&error)),
    }
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(name.into(), kind(), options, table(&exchange.arguments)).await;
    declared.map(|()| true).map_err(|error| on_declare(&error))
}

/// How long the server may take for one answer.
pub(super) const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// What a queue holds; `None` if it does not exist.
async fn depth(connection: &Connection, queue: &QueueSpec) -> Result<Option<Depth>, Error> {
    let channel = connection.create_channel().await.map_err(|error| on_channel(&error))?;
    match passive(&channel, queue.queue, queue.name.clone()).await {
        Ok(depth) => Ok(Some(depth)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(on_declare(&error)),
    }
}

/// What a queue that must exist holds.
pub(super) async fn depth_of(channel: &Channel, queue: Queue, name: String) -> Result<Depth, Error> {
    passive(channel, queue, name).await.map_err(|error| on_channel(&error))
}

async fn passive(channel: &Channel, queue: Queue, name: String) -> lapin::Result<Depth> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = channel.queue_declare(name.as_str().into(), passive, FieldTable::default()).await?;
    Ok(Depth { queue, name, ready: found.message_count(), consumers: found.consumer_count() })
}

/// Checks whether an existing queue has our arguments.
async fn arguments(connection: &Connection, queue: &QueueSpec) -> Result<(), Error> {
    let channel = connection.create_channel().await.map_err(|error| on_channel(&error))?;
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.name.as_str().into(), options, table(&queue.arguments)).await;
    declared.map(drop).map_err(|error| on_declare(&error))
}
