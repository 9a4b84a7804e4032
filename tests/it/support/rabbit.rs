//! A corner of the real RabbitMQ for one test: its own prefix and events exchange, gone when it ends.

use std::{
    env,
    sync::atomic::{AtomicU32, Ordering},
};

use clap::Parser;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use secrecy::SecretString;
use xtwebhooks::{
    broker::{
        Broker, Config, Queue, Topology,
        topology::{Argument, QueueSpec},
    },
    shutdown::Shutdown,
};

use super::janitor::{self, Left};

/// The most shards that a test uses; its queues are deleted up to this.
const SHARDS_MAX: u8 = 8;

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    broker: Config,
}

/// Names that no other test has.
#[derive(Clone)]
pub struct Rabbit {
    pub config: Config,
}

/// The server that tests use.
pub fn amqp_url() -> String {
    env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into())
}

/// Runs a test in its own corner, and has the corner swept whatever becomes of the test.
pub async fn on_rabbit<F>(test: impl FnOnce(Rabbit) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let rabbit = Rabbit::new();
    let ended = tokio::spawn(test(rabbit.clone())).await;
    janitor::remove(rabbit.left());
    if let Err(panicked) = ended {
        std::panic::resume_unwind(panicked.into_panic());
    }
}

impl Rabbit {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let events = format!("{name}.published");
        let arguments =
            ["test", "--amqp-url", &amqp_url(), "--amqp-prefix", &name, "--events-exchange", &events];
        Self { config: Settings::parse_from(arguments).broker }
    }

    /// The same corner by way of another address.
    pub fn by(&self, address: std::net::SocketAddr) -> Self {
        let mut url = url::Url::parse(&amqp_url()).expect("a URL");
        url.set_host(Some(&address.ip().to_string())).expect("a URL with a host");
        url.set_port(Some(address.port())).expect("a URL with a port");
        self.with(|config| config.amqp_url = SecretString::from(url.to_string()))
    }

    /// The same corner with other settings.
    pub fn with(&self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = self.config.clone();
        change(&mut config);
        Self { config }
    }

    /// The server's host and port.
    pub fn server() -> String {
        let url = url::Url::parse(&amqp_url()).expect("a URL");
        format!("{}:{}", url.host_str().expect("a host"), url.port().unwrap_or(5672))
    }

    /// A broker that is ready.
    pub async fn open(&self) -> Broker {
        self.open_with(Shutdown::default()).await
    }

    /// A broker that is ready, and stops when it is told to.
    pub async fn open_with(&self, shutdown: Shutdown) -> Broker {
        let broker = Broker::open(self.config.clone(), shutdown);
        super::soon("the broker", broker.ready()).await.expect("a broker that can be used");
        broker
    }

    /// A channel past all that is tested.
    pub async fn channel(&self) -> Channel {
        let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await;
        connection.expect("RabbitMQ").create_channel().await.expect("a channel")
    }

    /// How many messages are ready in a queue.
    pub async fn ready(&self, queue: Queue) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let name = Topology::new(&self.config).name(queue);
        let declared = self.channel().await.queue_declare(name.into(), options, FieldTable::default()).await;
        declared.expect("a queue").message_count()
    }

    /// Deletes a queue as an operator's slip would.
    pub async fn delete(&self, queue: Queue) {
        let name = Topology::new(&self.config).name(queue);
        let deleted = self.channel().await.queue_delete(name.into(), QueueDeleteOptions::default()).await;
        deleted.expect("a queue that can be deleted");
    }

    /// Makes a queue past all that is tested.
    pub async fn declare(&self, channel: &Channel, queue: &QueueSpec) {
        let mut arguments = FieldTable::default();
        for (name, value) in &queue.arguments {
            let value = match value {
                Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
                Argument::Number(number) => AMQPValue::LongLongInt(*number),
            };
            arguments.insert((*name).into(), value);
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.name.as_str().into(), options, arguments).await;
        declared.expect("a queue that can be declared");
    }

    /// Every queue and exchange that there may be, the queues that dead-letter before those that they dead-letter to.
    fn left(&self) -> Left {
        let topology = Topology::new(&self.config);
        let shards = (0..SHARDS_MAX).flat_map(|shard| [Queue::Deliveries(shard), Queue::Prompt(shard)]);
        let shards = shards.map(|queue| topology.name(queue));
        let queues = topology.queues().into_iter().map(|queue| queue.name).chain(shards).rev().collect();
        let exchanges = topology.exchanges().into_iter().map(|exchange| exchange.name).collect();
        Left { amqp_url: amqp_url(), queues, exchanges }
    }
}
