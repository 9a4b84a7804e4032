//! What a process says of itself while its servers are away, wrong or starved; and that it recovers by itself.

use std::time::Duration;

use lapin::{
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    app::{App, Service, eventually_within},
    load,
    private::Private,
    receiver::Receiver,
};

/// How long a server's going or coming may take to be seen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the readiness check of this name fails with these words. The process is alive all the while.
async fn not_ready(service: &Service, name: &str, words: &str) {
    eventually_within(PATIENCE, &format!("{name} is not ready: {words}"), async || {
        assert_eq!(service.get("/health/live").await.expect("it answers").0, 200);
        let (status, text) = service.get("/health/ready").await.expect("it answers");
        let told: Value = serde_json::from_str(&text).expect("JSON");
        let mut checks = told["checks"].as_array().expect("checks").iter();
        let failing = |check: &Value| {
            check["name"] == name && check["why"].as_str().is_some_and(|why| why.contains(words))
        };
        (status == 503 && checks.any(failing)).then_some(())
    })
    .await;
}

async fn ready(service: &Service) {
    eventually_within(PATIENCE, "it is ready", async || {
        (service.get("/health/ready").await.expect("it answers").0 == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn servers_that_are_away_make_a_process_not_ready_and_never_dead() {
    let _alone = load::alone().await;
    let private = Private::up().await;
    let app = private.app().await;

    private.stop("postgres").await;
    let service = app.start(&[]).await;
    not_ready(&service, "database", "does not answer").await;
    private.start("postgres").await;
    ready(&service).await;

    // A role of its own has nothing to write most of the time, and notices all the same.
    let mut roles = Vec::new();
    for role in ["ingest", "deliver", "schedule", "dead-letter", "prune"] {
        roles.push(app.run(&["--role", role]).await);
    }
    private.stop("postgres").await;
    for process in roles.iter().chain([&service]) {
        not_ready(process, "database", "does not answer").await;
    }
    private.start("postgres").await;
    for process in roles.iter().chain([&service]) {
        ready(process).await;
    }
    drop(roles);

    private.stop("rabbitmq").await;
    not_ready(&service, "broker", "no connection to RabbitMQ").await;
    assert_eq!(service.metric(r#"xtwebhooks_broker_connected{connection="consume"}"#).await, 0.0);
    let late = app.start(&[]).await;
    not_ready(&late, "broker", "no connection to RabbitMQ").await;
    private.start("rabbitmq").await;
    ready(&service).await;
    ready(&late).await;
    assert_eq!(service.metric(r#"xtwebhooks_broker_connected{connection="consume"}"#).await, 1.0);
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(late.stop().await, Some(0));
}

#[tokio::test]
async fn while_rabbitmq_takes_nothing_events_are_still_taken_in_and_nothing_is_lost() {
    const EVENTS: u64 = 100;
    let _alone = load::alone().await;
    let private = Private::up().await;
    let (app, receiver) = (private.app().await, Receiver::start().await);
    app.set("FRESH_MAX", "1s")
        .set("TIMEOUT_MAX", "2s")
        .set("LEASE_MARGIN", "2s")
        .set("RESCUE_GRACE", "6s")
        .set("WATERMARK_EVERY", "1s");
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    // Schedule publishes a watermark every second, so it meets the alarm at once.
    let service = app.run(&["--role", "deliver,dead-letter,schedule"]).await;
    load::publish(&app, company, EVENTS).await;
    private.rabbitmqctl(&["-q", "set_vm_memory_high_watermark", "absolute", "1"]).await;
    not_ready(&service, "broker", "RabbitMQ accepts no messages").await;
    assert!(service.metric("xtwebhooks_broker_blocked").await > 0.0);

    // Taking in needs no publishing: what is owed stands in the ledger, and the queue of events drains.
    let ingest = app.start(&["--role", "ingest"]).await;
    eventually_within(PATIENCE, "every event is taken in", async || {
        (app.count("select count(*) from events").await == EVENTS as i64).then_some(())
    })
    .await;
    eventually_within(PATIENCE, "every event is acknowledged", async || {
        (app.depth("events").await == 0).then_some(())
    })
    .await;
    not_ready(&service, "broker", "RabbitMQ accepts no messages").await;

    private.rabbitmqctl(&["-q", "set_vm_memory_high_watermark", "0.6"]).await;
    ready(&service).await;
    ready(&ingest).await;
    assert_eq!(service.metric("xtwebhooks_broker_blocked").await, 0.0);
    app.wait_until_delivered(EVENTS as usize, PATIENCE).await;
    assert_eq!(ingest.stop().await, Some(0));
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), EVENTS as usize, "each delivery is requested once");
}

#[tokio::test]
async fn a_queue_of_other_settings_is_named_with_its_argument_and_both_values() {
    let app = App::new().await;
    let channel = app.channel().await;
    let topology = app.cli(&["topology"]).await;
    for queue in topology["queues"].as_array().expect("queues") {
        let mut arguments = FieldTable::default();
        for (name, value) in queue["arguments"].as_object().expect("arguments") {
            let other = name == "x-max-length-bytes";
            let value = match value.as_i64() {
                Some(_) if other => AMQPValue::LongLongInt(7_000_000),
                Some(number) => AMQPValue::LongLongInt(number),
                None => AMQPValue::LongString(value.as_str().expect("a text").into()),
            };
            arguments.insert(name.as_str().into(), value);
        }
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let name = queue["name"].as_str().expect("a name");
        channel.queue_declare(name.into(), options, arguments).await.expect("it can be made");
    }
    let (code, _, error) = app.try_cli(&["run"]).await;
    assert_eq!(code, 1, "{error}");
    let queue = format!("queue `{}.events`", app.prefix);
    for words in [queue.as_str(), "x-max-length-bytes = 7000000", "1073741824 is needed", "AMQP_PREFIX"] {
        assert!(error.contains(words), "{words} is not in: {error}");
    }
}

#[tokio::test]
async fn settings_that_would_lose_something_are_a_start_up_error() {
    let check = async |settings: &[(&str, &str)], words: &[&str]| {
        let app = App::new().await;
        for (name, value) in settings {
            app.set(name, value);
        }
        let (code, _, error) = app.try_cli(&["run"]).await;
        assert_eq!(code, 2, "{settings:?}: {error}");
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in: {error}");
    };
    check(&[("RETENTION", "5d")], &["RETENTION 5days", "PARK_MAX", "at least 7d is needed"]).await;
    check(&[("RETENTION", "30d"), ("PARK_MAX", "29d")], &["RETENTION 30days", "at least 33d is needed"])
        .await;
    check(&[("RESCUE_GRACE", "100s")], &["RESCUE_GRACE is 1m 40s", "FRESH_MAX", "TIMEOUT_MAX", "1m 40s"])
        .await;
    check(&[("RESCUE_GRACE", "120s"), ("TIMEOUT_MAX", "90s")], &["RESCUE_GRACE is 2m", "2m 10s"]).await;
}

#[tokio::test]
async fn a_database_that_lacks_a_migration_is_a_start_up_error() {
    let app = App::new().await;
    sqlx::query("delete from _sqlx_migrations where version = 5").execute(&app.pool).await.expect("deleted");
    let (code, _, error) = app.try_cli(&["run"]).await;
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("lacks 1 of") && error.contains("xtwebhooks migrate"), "{error}");
}
