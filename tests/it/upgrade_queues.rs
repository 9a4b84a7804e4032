//! What waits in the queues of v0.3.0 is worked off by the service of today.
//!
//! A queue that gets another name stays in [`WAITING`] under its old one: a broker has it for as long as something is in it.

use std::collections::BTreeSet;

use chrono::{SecondsFormat, Utc};
use lapin::{
    BasicProperties, Channel,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    app::{App, PATIENCE},
    past::{self, execute},
    receiver::Receiver,
    soon,
};

/// `xtwebhooks topology --json` of v0.3.0.
const TOPOLOGY: &str = include_str!("../fixtures/topology-v0.3.0.json");
/// A job that goes to its receiver with the body that it brings, and one that asks the ledger.
const FRESH: &str = include_str!("../fixtures/job-v1-fresh.json");
const CLAIMING: &str = include_str!("../fixtures/job-v1-claiming.json");

/// What waits in a queue of v0.3.0.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// As XTSystems published it.
    Event,
    Fresh,
    Claiming,
    /// The watermark of v0.3.0, with the number of its queue.
    TideMark(i64),
    /// What ingest gave up, with its reason.
    Rejected,
}

/// Each queue of v0.3.0 without its prefix, with what may wait in it.
const WAITING: &[(&str, &[Waits])] = &[
    ("events", &[Waits::Event, Waits::Event]),
    ("suspects.events", &[Waits::Event]),
    ("suspects.jobs", &[Waits::Claiming]),
    ("deliveries.0", &[Waits::Fresh, Waits::Claiming, Waits::TideMark(0)]),
    ("prompt.0", &[Waits::Fresh, Waits::TideMark(64)]),
    ("retry.1s", &[Waits::Claiming]),
    ("retry.2s", &[Waits::Claiming]),
    ("retry.4s", &[Waits::Claiming]),
    ("retry.8s", &[Waits::Claiming]),
    ("retry.16s", &[Waits::Claiming]),
    ("retry.32s", &[Waits::Claiming]),
    ("retry.64s", &[Waits::Claiming]),
    ("dead-letters", &[Waits::Rejected]),
];

/// How long what is in a retry queue waits: each would be waited for otherwise.
const RETRY_MS: &str = "500";

/// The broker as v0.3.0 left it.
struct Old<'a> {
    app: &'a App,
    channel: &'a Channel,
    topology: Value,
}

impl<'a> Old<'a> {
    async fn declare(app: &'a App) -> Self {
        let named = TOPOLOGY
            .replace("\"xtsystems.events\"", &format!("\"{}\"", app.exchange))
            .replace("\"xtwebhooks.", &format!("\"{}.", app.prefix));
        let old = Self {
            app,
            channel: app.channel().await,
            topology: serde_json::from_str(&named).expect("the topology is JSON"),
        };
        soon("the queues of v0.3.0", old.declare_all()).await.expect("they can be declared");
        old
    }

    async fn declare_all(&self) -> lapin::Result<()> {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        for exchange in all(&self.topology["exchanges"]) {
            let (name, kind) = (text(&exchange["name"]), text(&exchange["type"]));
            let kind = match kind {
                "topic" => lapin::ExchangeKind::Topic,
                "direct" => lapin::ExchangeKind::Direct,
                "fanout" => lapin::ExchangeKind::Fanout,
                other => panic!("{other}"),
            };
            let arguments = table(&exchange["arguments"]);
            self.channel.exchange_declare(name.into(), kind, durable, arguments).await?;
        }
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        for queue in all(&self.topology["queues"]) {
            let arguments = table(&queue["arguments"]);
            self.channel.queue_declare(text(&queue["name"]).into(), durable, arguments).await?;
        }
        for binding in all(&self.topology["bindings"]) {
            let (queue, exchange) = (text(&binding["queue"]), text(&binding["exchange"]));
            let key = text(&binding["routing_key"]);
            let options = QueueBindOptions::default();
            self.channel
                .queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default())
                .await?;
        }
        Ok(())
    }

    /// The names of all queues, without the prefix.
    fn queues(&self) -> BTreeSet<&str> {
        let prefix = format!("{}.", self.app.prefix);
        all(&self.topology["queues"]).filter_map(|queue| text(&queue["name"]).strip_prefix(&prefix)).collect()
    }

    /// Puts a message into a queue. What waits in a retry queue came by its exchange: the key leads it on when it is over.
    async fn publish(&self, queue: &str, message: Message) {
        let name = format!("{}.{queue}", self.app.prefix);
        let mut properties = message.properties.with_delivery_mode(2).with_headers(message.headers);
        let (mut exchange, mut key) = ("", name.as_str());
        if queue.starts_with("retry.") {
            (exchange, key) = (&name, &message.bucket);
            properties = properties.with_expiration(RETRY_MS.into());
        }
        let options = Default::default();
        let confirm = soon("the broker's confirm", async {
            let sent =
                self.channel.basic_publish(exchange.into(), key.into(), options, &message.body, properties);
            sent.await.expect("published").await.expect("answered")
        });
        assert!(matches!(confirm.await, lapin::Confirmation::Ack(None)), "{queue}");
    }
}

/// A message, and the routing key of a job's bucket.
#[derive(Default)]
struct Message {
    properties: BasicProperties,
    headers: FieldTable,
    body: Vec<u8>,
    bucket: String,
}

fn all(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().expect("a list").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// Headers or arguments: texts and numbers.
fn table(fields: &Value) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields.as_object().expect("an object") {
        let value = match value.as_i64() {
            Some(number) => AMQPValue::LongLongInt(number),
            None => AMQPValue::LongString(text(value).into()),
        };
        table.insert(name.as_str().into(), value);
    }
    table
}

/// A job as the kept fixture has it, for a delivery that the ledger says has its job.
async fn job(app: &App, fixture: &str, company: Uuid, webhook: Uuid) -> Message {
    let now = Utc::now();
    let delivery = past::owe(app, company, webhook, now, "pending").await.0;
    execute(app, &format!("update webhook_deliveries set queued_at = now() where id = '{delivery}'")).await;
    let event: Uuid = sqlx::query_scalar("select event_id from webhook_deliveries where id = $1")
        .bind(delivery)
        .fetch_one(&app.pool)
        .await
        .expect("it was written");
    let mut fixture: Value = serde_json::from_str(fixture).expect("JSON");
    let headers = &mut fixture["headers"];
    headers["company"] = json!(company);
    headers["event"] = json!(event);
    headers["deliveries"] = json!(format!("{delivery}/{webhook}"));
    headers["attempt"] = json!(1);
    headers["trigger"] = json!("event");
    headers["queued_at"] = json!(now.to_rfc3339_opts(SecondsFormat::Micros, true));
    Message {
        properties: BasicProperties::default()
            .with_type(text(&fixture["type"]).into())
            .with_message_id(format!("{delivery}.1").into()),
        headers: table(&fixture["headers"]),
        body: text(&fixture["body"]).as_bytes().to_vec(),
        bucket: text(&fixture["routing_key"]).to_owned(),
    }
}

/// What waits, and the path at which it must arrive, if it goes to a receiver at all.
async fn message(app: &App, receiver: &Receiver, waits: Waits, path: &str) -> (Message, bool) {
    let company = Uuid::new_v4();
    let webhook = async || app.webhook(company, &receiver.url(path), json!({})).await;
    match waits {
        Waits::Event => {
            webhook().await;
            let body = json!({"event_type": "ticket.created", "company_id": company, "event_id": Uuid::new_v4(),
                              "timestamp": Utc::now().timestamp(), "data": {}});
            // What a message in quarantine of v0.3.0 carries as well.
            let headers = table(
                &json!({"xt-routing-key": "ticket.created", "xt-exchange": app.exchange, "xt-alone": 1}),
            );
            (Message { headers, body: body.to_string().into_bytes(), ..Default::default() }, true)
        }
        Waits::Fresh => (job(app, FRESH, company, webhook().await).await, true),
        Waits::Claiming => (job(app, CLAIMING, company, webhook().await).await, true),
        Waits::TideMark(shard) => {
            let properties = BasicProperties::default().with_type("xtwebhooks.tide-mark.v1".into());
            let headers = table(&json!({"shard": shard, "number": NUMBER}));
            (Message { properties, headers, ..Default::default() }, false)
        }
        Waits::Rejected => {
            let headers =
                table(&json!({"xt-reason": "`body` is not JSON", "xt-routing-key": "ticket.created"}));
            let properties = BasicProperties::default().with_message_id(Uuid::new_v4().to_string().into());
            (Message { properties, headers, body: b"no JSON".to_vec(), ..Default::default() }, false)
        }
    }
}

/// The number of the watermarks here.
const NUMBER: i64 = 1_700_000_000_000_000;

#[tokio::test]
async fn what_waits_in_the_queues_of_v0_3_0_is_worked_off() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    // No further marks of its own, and nothing is rescued: only its job can bring a delivery to its receiver.
    app.set("WATERMARK_EVERY", "1h").set("RESCUE_GRACE", "1h");
    let old = Old::declare(&app).await;
    assert_eq!(
        old.queues(),
        WAITING.iter().map(|(queue, _)| *queue).collect(),
        "each queue has something in it"
    );
    let mut expected = BTreeSet::new();
    for (queue, waiting) in WAITING {
        for (n, waits) in waiting.iter().enumerate() {
            let path = format!("/{queue}/{n}");
            let (message, arrives) = message(&app, &receiver, *waits, &path).await;
            old.publish(queue, message).await;
            expected.extend(arrives.then_some(path));
        }
    }

    let service = app.run(&[]).await;
    let requests = receiver.wait_within(expected.len(), PATIENCE).await;
    let arrived: BTreeSet<String> = requests.iter().map(|request| request.path().to_owned()).collect();
    assert_eq!(arrived, expected);
    app.wait_for_count("select count(*) from webhook_deliveries where status <> 'delivered'", 0).await;
    app.wait_for_count("select count(*) from tide_marks where number = 1700000000000000", 2).await;
    app.wait_for_count(
        "select count(*) from dead_letters where kind = 'message' and reason like '%is not JSON'",
        1,
    )
    .await;
    // The watermark that schedule began with.
    app.wait_for_count("select count(distinct shard) from tide_marks where number > 1700000000000000", 2)
        .await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), expected.len(), "each arrives once");
    for (queue, _) in WAITING {
        assert_eq!(app.depth(queue).await, 0, "{queue}");
    }
}
