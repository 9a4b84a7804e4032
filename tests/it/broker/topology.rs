//! Declaring, and what is said when it cannot be done.

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::FieldTable,
};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use xtwebhooks::{
    broker::{Broker, ConnectionState, Error, Queue, Topology},
    model::RetryTier,
    shutdown::Shutdown,
};

use crate::support::{
    eventually,
    proxy::Proxy,
    rabbit::{Rabbit, on_rabbit},
    soon,
};

async fn refusal(rabbit: &Rabbit) -> Error {
    let broker = Broker::open(rabbit.config.clone(), Shutdown::default());
    soon("a refusal", broker.ready()).await.expect_err("a broker that cannot be used")
}

#[tokio::test]
async fn declaring_twice_changes_nothing() {
    on_rabbit(|rabbit| async move {
        let (first, second) = tokio::join!(rabbit.open(), rabbit.open());
        rabbit.open().await;
        assert!(matches!(first.state(), ConnectionState::Connected), "{:?}", first.state());
        assert_eq!(second.deliveries_queues(), [Queue::Deliveries(0), Queue::Prompt(0)]);
        for queue in first.topology().queues() {
            assert_eq!(rabbit.ready(queue.queue).await, 0, "{}", queue.name);
        }
    })
    .await;
}

#[tokio::test]
async fn a_queue_with_another_argument_ends_the_start_with_its_name_and_both_values() {
    on_rabbit(|rabbit| async move {
        rabbit.with(|config| config.retry_jobs_max = 10).open().await;
        let error = refusal(&rabbit.with(|config| config.retry_jobs_max = 20)).await;
        let Error::Mismatch { kind, name, argument, needed, current } = &error else { panic!("{error}") };
        let queue = Topology::new(&rabbit.config).name(Queue::Retry(RetryTier::S1));
        assert_eq!(
            (*kind, name, argument.as_str(), needed.as_str(), current.as_str()),
            ("queue", &queue, "x-max-length", "20", "10")
        );
        assert!(error.to_string().contains("delete it"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_queue_of_another_kind_or_without_an_argument_is_a_mismatch_too() {
    on_rabbit(|rabbit| async move {
        let name = Topology::new(&rabbit.config).name(Queue::DeadLetters);
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let channel = rabbit.channel().await;
        let declared = channel.queue_declare(name.as_str().into(), options, FieldTable::default());
        declared.await.expect("a classic queue");
        let error = refusal(&rabbit).await;
        let Error::Mismatch { name: found, current, .. } = &error else { panic!("{error}") };
        assert_eq!(*found, name);
        assert!(["classic", "none"].contains(&current.as_str()), "{error}");
    })
    .await;
}

#[tokio::test]
async fn an_events_exchange_of_another_type_is_a_mismatch() {
    on_rabbit(|rabbit| async move {
        let exchange = rabbit.config.events_exchange.as_str();
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let channel = rabbit.channel().await;
        let declared =
            channel.exchange_declare(exchange.into(), ExchangeKind::Fanout, options, FieldTable::default());
        declared.await.expect("a fanout exchange");
        let error = refusal(&rabbit).await;
        let Error::Mismatch { kind, name, argument, needed, current } = &error else { panic!("{error}") };
        assert_eq!(
            (*kind, name.as_str(), argument.as_str(), needed.as_str(), current.as_str()),
            ("exchange", exchange, "type", "topic", "fanout")
        );
    })
    .await;
}

#[tokio::test]
async fn what_cannot_mend_itself_is_said_at_once() {
    on_rabbit(|rabbit| async move {
        let server = Rabbit::server();
        let check = async |url: String, expected: fn(&Error) -> bool| {
            let error =
                refusal(&rabbit.with(|config| config.amqp_url = SecretString::from(url.clone()))).await;
            assert!(expected(&error), "{url}: {error:?}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        };
        check(format!("amqp://guest:hunter2@{server}/%2f"), |e| matches!(e, Error::Credentials(_))).await;
        check(format!("amqp://guest:guest@{server}/no-such-host"), |e| matches!(e, Error::Refused(_))).await;
        check(format!("http://guest:hunter2@{server}/"), |e| matches!(e, Error::Url(_))).await;
        check("hunter2".into(), |e| matches!(e, Error::Url(_))).await;
    })
    .await;
}

/// Introduces itself as a RabbitMQ of another version, and says nothing more.
async fn introduce(version: &str) -> std::net::SocketAddr {
    let text = |text: &str| {
        let length = u32::try_from(text.len()).expect("a short text").to_be_bytes();
        [&length, text.as_bytes()].concat()
    };
    let property = |name: &str, value: &str| {
        let length = u8::try_from(name.len()).expect("a short name");
        [&[length], name.as_bytes(), b"S", &text(value)].concat()
    };
    let properties = [property("product", "RabbitMQ"), property("version", version)].concat();
    let length = u32::try_from(properties.len()).expect("a short table").to_be_bytes();
    let start = [&[0, 10, 0, 10, 0, 9], &length[..], &properties, &text("PLAIN"), &text("en_US")].concat();
    let length = u32::try_from(start.len()).expect("a short frame").to_be_bytes();
    let frame = [&[1, 0, 0], &length[..], &start, &[0xce]].concat();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut header = [0; 8];
            client.read_exact(&mut header).await.expect("a protocol header");
            client.write_all(&frame).await.expect("somebody who listens");
        }
    });
    address
}

#[tokio::test]
async fn a_server_before_3_10_is_refused_with_its_version() {
    on_rabbit(|rabbit| async move {
        let error = refusal(&rabbit.by(introduce("3.9.29").await)).await;
        assert!(matches!(&error, Error::TooOld { found } if found == "3.9.29"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for() {
    on_rabbit(|rabbit| async move {
        let proxy = Proxy::to("127.0.0.1:1").await;
        let broker = Broker::open(rabbit.by(proxy.address()).config, Shutdown::default());
        eventually("the reason is told", async || {
            matches!(broker.state(), ConnectionState::Connecting { error: Some(_), .. })
        })
        .await;
        let ready = tokio::time::timeout(std::time::Duration::from_millis(500), broker.ready()).await;
        assert!(ready.is_err(), "neither ready nor given up: {ready:?}");
        assert!(broker.metrics().reconnects.get() > 0);
    })
    .await;
}
