//! Servers of a test's own, to be stopped, restarted and starved without harm to anybody else's.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
};

use super::app::App;

/// A PostgreSQL and a RabbitMQ. They end with the input of the process that holds them: when this is dropped, and when
/// the test's process ends, however it does.
pub struct Private {
    keeper: Mutex<Keeper>,
    database_url: String,
    amqp_url: String,
    rabbitmqctl: Vec<String>,
}

/// `scripts/services private`, which answers each line with a line.
struct Keeper {
    process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Private {
    /// Starts both.
    pub async fn up() -> Self {
        let mut process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services"))
            .arg("private")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("scripts/services starts");
        let orders = process.stdin.take().expect("a pipe");
        let answers = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let mut keeper = Keeper { process, orders, answers };
        let told = keeper.answer().await;
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        Self {
            keeper: Mutex::new(keeper),
            database_url: text(&told["DATABASE_URL"]),
            amqp_url: text(&told["AMQP_URL"]),
            rabbitmqctl: told["rabbitmqctl"].as_array().expect("a list").iter().map(text).collect(),
        }
    }

    /// A world on these servers, migrated.
    pub async fn app(&self) -> App {
        let app = App::at(self.database_url.clone(), self.amqp_url.clone()).await;
        let (code, _, error) = app.try_cli(&["migrate"]).await;
        assert_eq!(code, 0, "{error}");
        app
    }

    /// Stops `postgres` or `rabbitmq` as a crash would.
    pub async fn stop(&self, server: &str) {
        self.change("stop", server).await;
    }

    /// Starts it again, on the same port and data.
    pub async fn start(&self, server: &str) {
        self.change("start", server).await;
    }

    /// Both at once.
    pub async fn restart(&self, server: &str) {
        self.change("restart", server).await;
    }

    async fn change(&self, verb: &str, server: &str) {
        let mut keeper = self.keeper.lock().await;
        let order = format!("{verb} {server}\n");
        keeper.orders.write_all(order.as_bytes()).await.expect("scripts/services listens");
        keeper.answer().await;
    }

    /// Evaluates an expression within RabbitMQ, over its management of the command line.
    pub async fn rabbitmqctl(&self, args: &[&str]) -> String {
        let output = Command::new(&self.rabbitmqctl[0])
            .args(&self.rabbitmqctl[1..])
            .args(args)
            .output()
            .await
            .expect("rabbitmqctl starts");
        succeeded(args, output)
    }
}

impl Keeper {
    async fn answer(&mut self) -> Value {
        let line = self.answers.next_line().await.expect("a line");
        let told: Value = serde_json::from_str(&line.unwrap_or_default()).unwrap_or_default();
        assert!(told["refused"].is_null(), "scripts/services: {told}");
        if told.is_null() {
            let mut said = String::new();
            let errors = self.process.stderr.as_mut().expect("a pipe");
            errors.read_to_string(&mut said).await.expect("text");
            panic!("scripts/services has ended: {said}");
        }
        told
    }
}

fn succeeded(args: &[&str], output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
