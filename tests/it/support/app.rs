//! The service under test: the real binary, with a database, a prefix and an exchange of its own.
//!
//! ```ignore
//! let app = App::new().await;                       // a database of its own, migrated
//! let service = app.run(&[]).await;                 // every role, ready
//! let webhook = app.webhook(&company, &receiver.url("/a"), json!({"events": ["*"]})).await;
//! app.publish(&company, "ticket.created", json!({"id": 1})).await;
//! receiver.wait_for(1).await;
//! ```
//! Everything is removed when the [`App`] is dropped, unless the test has failed: then its database stays to be
//! looked at.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};
use uuid::Uuid;

use super::{
    LOOK_EVERY, apart,
    janitor::{self, Left},
    soon,
    template::{template, with_database},
};
pub use super::{PATIENCE, service::Service};

/// Where PostgreSQL and RabbitMQ are, as `scripts/services` says.
pub fn database_url() -> String {
    std::env::var("DATABASE_URL")
        .expect("DATABASE_URL is set: run the tests by `make test`, or under `scripts/services run --`")
}

/// The broker for the tests.
pub fn amqp_url() -> String {
    std::env::var("AMQP_URL")
        .expect("AMQP_URL is set: run the tests by `make test`, or under `scripts/services run --`")
}

/// Waits until `check` gives something, and fails with `what` after [`PATIENCE`].
pub async fn eventually<T>(what: &str, check: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, check).await
}

/// The same with a deadline of its own.
pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = tokio::time::Instant::now() + patience;
    loop {
        // A look that gets no answer counts against the same deadline.
        match tokio::time::timeout_at(end, check()).await {
            Ok(Some(found)) => return found,
            Ok(None) if tokio::time::Instant::now() < end => tokio::time::sleep(LOOK_EVERY).await,
            _ => panic!("not within {patience:?}: {what}"),
        }
    }
}

/// One test's world: a database, a prefix of queues, an exchange.
pub struct App {
    pub pool: PgPool,
    pub database_url: String,
    pub amqp_url: String,
    pub prefix: String,
    pub exchange: String,
    database: Option<String>,
    settings: Mutex<HashMap<String, String>>,
    publisher: tokio::sync::OnceCell<lapin::Channel>,
    /// An API of this world's own and a key that may do everything there, for the commands that ask one.
    remote: tokio::sync::OnceCell<(Service, String)>,
}

/// The commands that ask the API, and so need one to be there.
const OVER_THE_API: &[&str] = &[
    "audit",
    "companies",
    "dead-letters",
    "deliveries",
    "event-types",
    "events",
    "keys",
    "lanes",
    "replay",
    "webhooks",
];

impl App {
    /// A fresh world on the servers of the test run.
    pub async fn new() -> Self {
        Self::copy_of(template().await).await
    }

    /// The same with a copy of another database: `template0` is empty.
    pub async fn copy_of(template: &str) -> Self {
        let name = format!("xt_test_{}", Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(&database_url()).await.expect("the database answers");
        admin
            .execute(AssertSqlSafe(format!("create database {name} template {template}")))
            .await
            .expect("a database can be made");
        let _ = admin.close().await;
        let mut app = Self::at(with_database(&database_url(), &name), amqp_url()).await;
        app.database = Some(name);
        app
    }

    /// A world in a database that is there already, migrated by us if it is not; nothing is removed afterwards.
    pub async fn at(database_url: String, amqp_url: String) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(3)
            .connect(&database_url)
            .await
            .expect("the database answers");
        let prefix = format!("t{}", &Uuid::new_v4().simple().to_string()[..12]);
        Self {
            pool,
            database_url,
            amqp_url,
            exchange: format!("{prefix}.exchange"),
            prefix,
            database: None,
            settings: Mutex::new(HashMap::from([("ALLOWED_NETWORKS".to_owned(), "127.0.0.0/8".to_owned())])),
            publisher: tokio::sync::OnceCell::new(),
            remote: tokio::sync::OnceCell::new(),
        }
    }

    /// A setting for every process started from now on.
    pub fn set(&self, name: &str, value: impl ToString) -> &Self {
        self.settings.lock().expect("not poisoned").insert(name.to_owned(), value.to_string());
        self
    }

    /// The binary with this world's settings, and nothing else of ours in its environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtwebhooks"));
        command
            .args(args)
            .env_clear()
            .envs(
                std::env::vars().filter(|(name, _)| {
                    ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE"].contains(&name.as_str())
                }),
            )
            .env("DATABASE_URL", &self.database_url)
            .env("AMQP_URL", &self.amqp_url)
            .env("AMQP_PREFIX", &self.prefix)
            .env("EVENTS_EXCHANGE", &self.exchange)
            .env("PROBES_ADDRESS", "127.0.0.1:0")
            .env("API_ADDRESS", "127.0.0.1:0")
            .env("LOG_FORMAT", "json")
            .envs(&*self.settings.lock().expect("not poisoned"))
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end; gives what it printed as JSON. It must succeed.
    pub async fn cli(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.try_cli(args).await;
        assert_eq!(code, 0, "{args:?}: {err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    }

    /// Runs a command to its end; gives exit code, standard output and standard error.
    pub async fn try_cli(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = self.command(args);
        if args.first().is_some_and(|name| OVER_THE_API.contains(name)) {
            let (url, key) = self.remote().await;
            command.env("XTWEBHOOKS_URL", url).env("XTWEBHOOKS_API_KEY", key);
        }
        let output = soon("the command's end", command.arg("--json").stdin(Stdio::null()).output()).await;
        let output = output.expect("it starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// Where this world's API answers, and a key of all companies; it is started with the first command that asks.
    async fn remote(&self) -> (String, String) {
        let started = self.remote.get_or_init(|| async {
            let service = self.start(&["--role", "api"]).await;
            (service, self.key(None, &["admin"]).await)
        });
        let (service, key) = started.await;
        (service.api().await, key.clone())
    }

    /// Starts the service and waits until it is ready.
    pub async fn run(&self, args: &[&str]) -> Service {
        let service = self.start(args).await;
        service.ready().await;
        service
    }

    /// Starts the service without waiting for more than its port.
    pub async fn start(&self, args: &[&str]) -> Service {
        let mut child = self
            .command(&[&["run"], args].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the service starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (found, mut probes) = tokio::sync::watch::channel(None);
        let kept = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let entry: Value = serde_json::from_str(&line).unwrap_or_else(|_| json!({"message": line}));
                if entry["message"] == "health and metrics" {
                    found.send_replace(entry["address"].as_str().map(ToOwned::to_owned));
                }
                kept.lock().expect("not poisoned").push(entry);
            }
        });
        let address = tokio::time::timeout(PATIENCE, probes.wait_for(Option::is_some)).await;
        let address = match address {
            Ok(Ok(address)) => address.clone().unwrap_or_default(),
            _ => panic!("the service did not start: {:#?}", log.lock().expect("not poisoned")),
        };
        Service { child, address, log }
    }

    /// Registers a webhook of a company; `more` are further columns of the guide or the product.
    pub async fn webhook(&self, company: Uuid, url: &str, more: Value) -> Uuid {
        let id = Uuid::new_v4();
        let mut row = json!({
            "id": id, "company_id": company, "name": id, "url": url, "events": WHAT_XTSYSTEMS_PUBLISHES, "secret": SECRET,
            "headers": {}, "retry_count": 3, "timeout_seconds": 30, "active": true, "auto_recover": false, "metadata": {},
            "guide_signature_is_previous": false, "created_at": "now", "updated_at": "now", "version": 1,
        });
        for (column, value) in more.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            row[column] = value.clone();
        }
        sqlx::query(
            "insert into webhooks select * from json_populate_record(null::webhooks, $1::text::json)",
        )
        .bind(row.to_string())
        .execute(&self.pool)
        .await
        .expect("the webhook can be written");
        id
    }

    /// Publishes an event as XTSystems would, and waits for the broker's confirm; gives its message id.
    pub async fn publish(&self, company: Uuid, event_type: &str, data: Value) -> String {
        let id = Uuid::new_v4().to_string();
        let body = json!({
            "event_type": event_type, "company_id": company, "event_id": id, "data": data,
            "timestamp": chrono::Utc::now().timestamp(),
        });
        assert!(self.publish_raw(event_type, body.to_string().as_bytes(), Default::default()).await);
        id
    }

    /// Publishes any bytes to the exchange; whether the broker took them and had a queue for them.
    pub async fn publish_raw(
        &self,
        routing_key: &str,
        body: &[u8],
        properties: lapin::BasicProperties,
    ) -> bool {
        self.publish_on(self.channel().await, routing_key, body, properties).await
    }

    /// The same on a channel of the caller's: what is published at once needs one for each publisher.
    pub async fn publish_on(
        &self,
        channel: &lapin::Channel,
        routing_key: &str,
        body: &[u8],
        properties: lapin::BasicProperties,
    ) -> bool {
        let options = lapin::options::BasicPublishOptions { mandatory: true, ..Default::default() };
        let properties = properties.with_delivery_mode(2);
        let sent = channel.basic_publish(
            self.exchange.as_str().into(),
            routing_key.into(),
            options,
            body,
            properties,
        );
        let confirm = soon("the broker's confirm", async { sent.await.expect("published").await }).await;
        let confirm = confirm.expect("answered");
        matches!(confirm, lapin::Confirmation::Ack(None))
    }

    /// The test's own channel in confirm mode.
    pub async fn channel(&self) -> &lapin::Channel {
        self.publisher.get_or_init(|| self.another_channel()).await
    }

    /// One more channel in confirm mode, on a connection of its own.
    pub async fn another_channel(&self) -> lapin::Channel {
        soon("a channel", async {
            let connection = lapin::Connection::connect(&self.amqp_url, Default::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(Default::default()).await?;
            Ok::<_, lapin::Error>(channel)
        })
        .await
        .expect("the broker answers")
    }

    /// How many messages are ready in one of our queues, named without the prefix.
    pub async fn depth(&self, queue: &str) -> u32 {
        let name = format!("{}.{queue}", self.prefix);
        let counted = soon("the broker's count", async {
            let connection = lapin::Connection::connect(&self.amqp_url, Default::default()).await?;
            let channel = connection.create_channel().await?;
            let options = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
            let count = channel.queue_declare(name.as_str().into(), options, Default::default()).await?;
            let _ = connection.close(200, "done".into()).await;
            Ok::<_, lapin::Error>(count.message_count())
        });
        counted.await.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// How many jobs are ready, in the ordinary queue and in the prompt one.
    pub async fn jobs(&self) -> u32 {
        self.depth("deliveries.0").await + self.depth("prompt.0").await
    }

    /// One number from the ledger.
    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Waits until so many events for one webhook are delivered. The deadline is for each step: how long a whole backlog
    /// takes depends on the machine, how long all of it may lie still does not.
    pub async fn wait_until_delivered(&self, events: usize, patience: Duration) {
        let (mut most, mut end) = (0, Instant::now() + patience);
        while most < events {
            let done = self.count("select count(*) from webhook_deliveries where status = 'delivered'").await;
            let done = usize::try_from(done).expect("a count");
            if done > most {
                (most, end) = (done, Instant::now() + patience);
            }
            assert!(
                Instant::now() <= end,
                "{most} of {events} delivered, none more within {patience:?}: {:#?}",
                self.open_rows().await
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        assert_eq!(most, events, "no more is delivered than was published");
    }

    /// Some deliveries that are not delivered, as the ledger has them, for the message of a failure.
    async fn open_rows(&self) -> Vec<String> {
        sqlx::query_scalar(
            "select (now(), to_jsonb(d))::text from webhook_deliveries d where status <> 'delivered' limit 5",
        )
        .fetch_all(&self.pool)
        .await
        .expect("the ledger answers")
    }

    /// Waits until a count of the ledger is what is expected.
    pub async fn wait_for_count(&self, sql: &'static str, expected: i64) {
        let mut last = -1;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            last = soon(sql, self.count(sql)).await;
            if last == expected {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        panic!("{sql}: {last}, not {expected} within {PATIENCE:?}");
    }

    /// Every queue and exchange that a world may have, the queues that dead-letter before those that they dead-letter to.
    fn left(&self) -> Left {
        let named =
            |names: Vec<String>| names.into_iter().map(|name| format!("{}.{name}", self.prefix)).collect();
        let retry: Vec<_> = (0..7).map(|n| format!("retry.{}s", 1 << n)).collect();
        let mut queues = retry.clone();
        queues.extend((0..8).flat_map(|n| [format!("deliveries.{n}"), format!("prompt.{n}")]));
        queues.extend(["events", "suspects.events", "suspects.jobs", "dead-letters"].map(ToOwned::to_owned));
        let mut exchanges = retry;
        exchanges.extend(["deliveries", "deliveries.unbound"].map(ToOwned::to_owned));
        let mut exchanges: Vec<String> = named(exchanges);
        exchanges.push(self.exchange.clone());
        Left { amqp_url: self.amqp_url.clone(), queues: named(queues), exchanges }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // Its API, lest it declares what is about to go.
        drop(self.remote.take());
        janitor::remove(self.left());
        let Some(name) = self.database.take().filter(|_| !std::thread::panicking()) else { return };
        apart(async move {
            if let Ok(mut admin) = PgConnection::connect(&database_url()).await {
                let sql = format!("drop database if exists {name} with (force)");
                let _ = admin.execute(AssertSqlSafe(sql)).await;
            }
        });
    }
}

/// What webhooks want for which a test does not care: not what the service itself has to say.
const WHAT_XTSYSTEMS_PUBLISHES: [&str; 7] =
    ["ticket.*", "asset.*", "user.*", "company.*", "machine.*", "alert.*", "a.*"];

/// The secret of webhooks for which a test does not care.
pub const SECRET: &str = "a-secret-of-the-tests-0123456789";
